"""Parts of a configuration that do not go together, refused before anything is trained.

Many of these run without an error and train something other than what their names say.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ufm_jax.config.federation import FederationConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.paths import split_by_path

if TYPE_CHECKING:
    from ufm_jax.config.finetuning import FinetuneConfig
    from ufm_jax.config.training import (
        OptimizerConfig,
        PlacementConfig,
        ScheduleConfig,
        TrainingConfig,
    )

_LOCAL_OBJECTIVES = ("fedavg", "fedprox", "fedsam")
_MOMENTS_DECAY = ("adam", "adamw", "yogi", "fedadam", "fedyogi")
_SQUARES_ADD_UP = ("adagrad", "fedadagrad")
_BY_COORDINATE = ("mean", "median", "trimmed_mean")
_COLLUDING = ("little_is_enough", "inner_product")


def check_training(config: "TrainingConfig") -> None:
    """Checks what pretraining and fine-tuning have in common.

    Raises:
        ConfigError: Naming the key, and what to set.
    """
    federation = config.federation
    _refuse(
        _warmup(config.schedule, federation.rounds),
        _side(config.schedule, federation),
        _patience(config.schedule, federation),
        _microbatch(federation, config.placement),
        _training(federation),
    )
    check_method(
        federation, config.client_optimizer, config.server_optimizer, federation.personal_paths
    )


def check_finetuning(config: "FinetuneConfig") -> None:
    """Checks what fine-tuning alone can ask for.

    Raises:
        ConfigError: Naming the key, and what to set.
    """
    _refuse(_finetuning(config), _private_finetuning(config))


def check_method(
    config: FederationConfig,
    client: "OptimizerConfig",
    server: "OptimizerConfig",
    personal: Sequence[str],
) -> None:
    """Checks a federated method.

    Args:
        config: The method.
        client: The local optimiser.
        server: The server's.
        personal: Paths of the parameters that stay with each client, as regular expressions.

    Raises:
        ConfigError: Naming the key, and what to set.
    """
    _refuse(
        _personal(config, personal),
        _optimizers(config, client, server),
        _corrections(config),
        _lengths(config),
        _privacy(config),
        _secure_sum(config),
        _without_rounds(config),
        _sizes(config),
    )


def check_clients(config: FederationConfig, num_clients: int) -> None:
    """Checks what only the data can tell.

    Raises:
        ConfigError: If a cohort is larger than the population, or a hostile client is not in it.
    """
    if config.cohort_size > num_clients:
        raise ConfigError(
            f"config.federation.cohort_size={config.cohort_size}: the data has {num_clients} "
            "clients; lower it, or use 0 for all"
        )
    unknown = [k for k in config.attack.clients if not 0 <= k < num_clients]
    if unknown:
        raise ConfigError(
            f"config.federation.attack.clients={config.attack.clients}: there is no client "
            f"{unknown[0]}; the data has {num_clients}, counted from 0"
        )


def check_personal(personal: Sequence[str], params: Params) -> None:
    """Checks that every pattern matches a parameter.

    Raises:
        ConfigError: Naming the first that matches none, and the paths there are.
    """
    try:
        split_by_path(params, personal)
    except ValueError as error:
        raise ConfigError(f"config.federation.personal: {error}") from None


def _refuse(*checks: Iterator[str]) -> None:
    """Raises the first problem, if there is one."""
    for problems in checks:
        for problem in problems:
            raise ConfigError(f"config.{problem}")


def _warmup(schedule: "ScheduleConfig", rounds: int) -> Iterator[str]:
    if schedule.warmup_rounds > rounds:
        yield (
            f"schedule.warmup_rounds={schedule.warmup_rounds}: there are {rounds} rounds; lower it"
        )


def _side(schedule: "ScheduleConfig", config: FederationConfig) -> Iterator[str]:
    given, remedy = "schedule.side='server'", "set schedule.side='clients'"
    if schedule.side != "server":
        return
    if config.asynchronous.concurrency:
        yield f"{given}: a server without rounds has no count of them; {remedy}"
    if config.algorithm.name == "mimelite":
        yield f"{given}: mimelite has no optimiser on its server; {remedy}"


def _training(config: FederationConfig) -> Iterator[str]:
    if config.personal and config.training != "federated":
        yield (
            f"federation.personal={config.personal}: it is for training='federated', not "
            f"{config.training!r}; leave it empty"
        )


def _patience(schedule: "ScheduleConfig", config: FederationConfig) -> Iterator[str]:
    if schedule.patience and config.privacy.level == "client":
        yield (
            f"schedule.patience={schedule.patience}: when training ends would tell of clients' "
            "images, which federation.privacy.level='client' does not account for; set 0"
        )


def _microbatch(config: FederationConfig, placement: "PlacementConfig") -> Iterator[str]:
    """Microbatches divide what a device holds of a batch; Poisson's are made to fit."""
    part, size = config.batch_size // placement.data_parallel, config.privacy.microbatch
    if config.batch_sampling != "poisson" and size and part % size:
        yield (
            f"federation.privacy.microbatch={size} does not divide the {part} examples that a "
            "device holds of a batch: use a divisor, or 0 for all at once"
        )


def _personal(config: FederationConfig, personal: Sequence[str]) -> Iterator[str]:
    name = config.algorithm.name
    if ".*" in personal:
        given = {
            # FedProx pulls towards the server's parameters, of which a client here has none.
            "algorithm.name": name not in _LOCAL_OBJECTIVES or name == "fedprox",
            "aggregation.rule": config.aggregation.rule != "mean",
            "compression.kind": config.compression.kind != "none",
            "attack.kind": config.attack.kind != "none",
            "privacy.level": config.privacy.level == "client",
        }
        for key in (key for key, set_ in given.items() if set_):
            yield (
                f"federation.{key}: where every parameter stays with its client (training='local') "
                "nothing is sent; leave it at its default"
            )
    elif personal and name not in _LOCAL_OBJECTIVES:
        yield (
            f"federation.personal={tuple(personal)}: {name} shares all parameters; use "
            "fedavg, fedprox or fedsam, or leave it empty"
        )


def _optimizers(
    config: FederationConfig, client: "OptimizerConfig", server: "OptimizerConfig"
) -> Iterator[str]:
    name = config.algorithm.name
    if name in ("fednova", "mimelite") and config.client_state != "reset":
        yield (
            f"federation.client_state={config.client_state!r}: {name} keeps nothing with "
            "its clients; set 'reset'"
        )
    if name == "fednova" and not _plain(client):
        yield (
            "federation.algorithm.name='fednova' normalises steps of SGD: set "
            "client_optimizer.name='sgd', and its weight_decay and clip_norm to 0"
        )
    as_default = server.learning_rate == 1 and server.eps < 1e-6
    if (server.name in _MOMENTS_DECAY and not server.betas[1]) or (
        server.name in _SQUARES_ADD_UP and as_default
    ):
        yield (
            f"server_optimizer.name={server.name!r} with betas={server.betas}, eps={server.eps}, "
            f"learning_rate={server.learning_rate} takes a step of the same length for every "
            "parameter: set betas=(0.9, 0.99), eps=1e-3 and a learning_rate"
        )
    # FedDyn's server makes its own step, and MimeLite's none: a rate or momentum would be ignored.
    adds = _plain(server) and server.learning_rate == 1 and not server.betas[0]
    if name in ("feddyn", "mimelite") and (not adds or server.scale_by_batch):
        yield (
            f"server_optimizer: {name} has a server step of its own; set name='sgd', "
            "learning_rate=1.0, betas=(0.0, 0.0), scale_by_batch=False, weight_decay=0.0 and "
            "clip_norm=0.0"
        )


def _plain(optimizer: "OptimizerConfig") -> bool:
    return optimizer.name == "sgd" and not optimizer.clip_norm and not optimizer.weight_decay


def _corrections(config: FederationConfig) -> Iterator[str]:
    """SCAFFOLD and FedDyn: the server's vector must stay the mean of what the clients keep."""
    name, compression = config.algorithm.name, config.compression
    if name not in ("scaffold", "feddyn"):
        return
    why = (
        f"{name} needs the server to receive the mean of what its clients keep, "
        "or its corrections do not cancel"
    )
    if config.aggregation.rule != "mean":
        yield f"federation.aggregation.rule={config.aggregation.rule!r}: {why}; use 'mean'"
    if config.privacy.level == "client":
        yield f"federation.privacy.level='client' clips updates: {why}; use fedavg"
    biased = compression.kind in ("top_k", "low_rank")
    if biased and not compression.error_feedback:
        yield (
            f"federation.compression.kind={compression.kind!r} leaves things out: {why}; set "
            "compression.error_feedback=True"
        )


def _lengths(config: FederationConfig) -> Iterator[str]:
    """Updates that hold more than a displacement have no length that could be compared."""
    beside = {
        "fednova": "sends a number of steps beside a direction",
        "mimelite": "sends a gradient beside the update",
    }
    name = config.algorithm.name
    if name in beside:
        more = f"federation.algorithm.name={name!r} {beside[name]}"
    elif config.client_state == "average":
        more = "federation.client_state='average' sends an optimiser's moments beside the update"
    else:
        return
    rule = config.aggregation.rule
    measures = {
        f"aggregation.rule={rule!r}": rule not in _BY_COORDINATE,
        "privacy.level='client'": config.privacy.level == "client",
        f"attack.kind={config.attack.kind!r}": config.attack.kind != "none",
        f"compression.kind={config.compression.kind!r}": config.compression.kind != "none",
    }
    for key in (key for key, used in measures.items() if used):
        yield f"{more}, and federation.{key} would treat both as one vector: use one or the other"


def _privacy(config: FederationConfig) -> Iterator[str]:
    algorithm, privacy = config.algorithm, config.privacy
    twice = algorithm.name in ("fedsam", "mimelite", "ditto") or (
        algorithm.name == "scaffold" and algorithm.option == "I"
    )
    if privacy.level == "example" and twice:
        yield (
            f"federation.algorithm.name={algorithm.name!r} asks for two gradients a step, and "
            "privacy.level='example' pays for one: use an algorithm with one, such as fedavg"
        )
    if privacy.level != "client":
        return
    if config.client_weights != "uniform":
        yield (
            "federation.privacy.level='client' needs the same weight for every client: set "
            "federation.client_weights='uniform'"
        )
    rule, attack = config.aggregation.rule, config.attack.kind
    if rule not in ("mean", "secure_sum") or attack in _COLLUDING:
        yield (
            "federation.privacy.level='client' bounds what a client does to the mean, not to "
            f"aggregation.rule={rule!r} under attack.kind={attack!r}: use the mean without "
            "colluding clients"
        )


def _secure_sum(config: FederationConfig) -> Iterator[str]:
    if config.aggregation.rule != "secure_sum":
        return
    if config.attack.kind in _COLLUDING:
        yield (
            f"federation.attack.kind={config.attack.kind!r}: who colludes would have to see what "
            "secure aggregation hides; use another attack, or aggregation.rule='mean'"
        )
    if config.participation.sampling == "poisson" and config.client_weights != "uniform":
        yield (
            "federation.aggregation.rule='secure_sum' with Poisson cohorts needs a bound on the "
            "sum of the shares: set federation.client_weights='uniform'"
        )
    if config.privacy.quantile:
        yield (
            f"federation.privacy.quantile={config.privacy.quantile} with aggregation.rule="
            "'secure_sum': its own clipping cuts the counts too, so that the norm would grow "
            "without end; set 0"
        )
    if config.compression.kind != "none":
        yield (
            f"federation.compression.kind={config.compression.kind!r}: masked updates are dense "
            "whatever they hide, so compression saves nothing; set 'none'"
        )


def _without_rounds(config: FederationConfig) -> Iterator[str]:
    if not config.asynchronous.concurrency:
        return
    needs = {
        "algorithm.name": config.algorithm.name in _LOCAL_OBJECTIVES,
        "aggregation.rule": config.aggregation.rule == "mean",
        "compression.kind": config.compression.kind == "none",
        "attack.kind": config.attack.kind == "none",
        "privacy.level": config.privacy.level == "none",
        "personal": not config.personal,
        "client_state": config.client_state == "reset",
        "client_weights": config.client_weights == "uniform",
        "cohort_size": not config.cohort_size,
        "participation.sampling": config.participation.sampling == "uniform",
        "participation.trace": not config.participation.trace,
        "participation.step_seconds": config.participation.step_seconds > 0,
    }
    for key in (key for key, good in needs.items() if not good):
        yield (
            f"federation.asynchronous.concurrency={config.asynchronous.concurrency}: training "
            f"without rounds needs another federation.{key}; it takes fedavg, fedprox or fedsam "
            "with client_state='reset', the mean, client_weights='uniform', all clients, a clock "
            "(participation.step_seconds above 0), and nothing else"
        )


def _sizes(config: FederationConfig) -> Iterator[str]:
    if config.participation.sampling == "by_size" and config.client_weights != "uniform":
        yield (
            "federation.participation.sampling='by_size' with client_weights='examples' counts "
            "sizes twice: set client_weights='uniform'"
        )


def _finetuning(config: "FinetuneConfig") -> Iterator[str]:
    segments, probes = config.data.kind == "segment", config.method.endswith("_probe")
    training, select = config.federation.training, config.evaluation.select
    if segments and probes:
        yield (
            f"method={config.method!r} is for diagnosis; to probe an encoder for segmentation use "
            "method='frozen' with config.model.decoder='linear'"
        )
    if probes and training != "centralised":
        yield (
            f"method={config.method!r} trains nothing in rounds: set "
            "config.federation.training='centralised'"
        )
    if config.start.head == "probe" and (
        segments or config.method != "finetune" or training != "centralised"
    ):
        yield (
            "start.head='probe' is for method='finetune' of a diagnosis with federation."
            "training='centralised', since the regression takes all features at once; set 'new'"
        )
    if segments and config.augment.mixing.mixup:
        yield (
            f"augment.mixing.mixup={config.augment.mixing.mixup}: masks cannot be blended; set 0, "
            "or use cutmix"
        )
    if config.evaluation.measurement and not segments:
        yield (
            f"evaluation.measurement={config.evaluation.measurement!r} is taken on masks: set "
            "config.data.kind='segment'"
        )
    if config.schedule.patience and (select == "last" or probes):
        yield (
            f"schedule.patience={config.schedule.patience}: nothing judges the rounds; set 0, or "
            "choose a round by evaluation.select='auto'"
        )
    if config.placement.lanes < 1:
        yield "placement.lanes=0: measuring is for pretraining; set 1 or more"
    if select in (("auroc", "balanced_accuracy") if segments else ("dice", "pooled_dice")):
        yield (
            f"evaluation.select={select!r} does not fit config.data.kind={config.data.kind!r}; "
            "use 'auto'"
        )


def _private_finetuning(config: "FinetuneConfig") -> Iterator[str]:
    level, mixing = config.federation.privacy.level, config.augment.mixing
    if level != "none" and config.start.head == "probe":
        yield (
            f"start.head='probe' adds no noise, whatever privacy.level={level!r} says: set 'new'"
        )
    if level != "none" and config.method.endswith("_probe"):
        yield (
            f"method={config.method!r} adds no noise, whatever privacy.level={level!r} says: set "
            "method='frozen' for a private linear head"
        )
    if level == "example" and (mixing.mixup or mixing.cutmix):
        yield (
            "federation.privacy.level='example' bounds what each image does alone, so images "
            "cannot be mixed: set config.augment.mixing.mixup and cutmix to 0"
        )
    if level != "none" and config.loss.class_weights:
        yield (
            f"loss.class_weights={config.loss.class_weights}: class frequencies are counted "
            f"without noise, which privacy.level={level!r} does not allow; set 0"
        )
