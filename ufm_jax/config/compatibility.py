"""Parts of a federated method that do not go together, refused before anything is trained.

Each of these runs without an error and trains something other than what its name says.
"""

from collections.abc import Iterator, Sequence

from ufm_jax.config.pretraining import FederationConfig, OptimizerConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.paths import split_by_path

_LOCAL_OBJECTIVES = ("fedavg", "fedprox", "fedsam")
_MOMENTS_DECAY = ("adam", "adamw", "yogi", "fedadam", "fedyogi")
_SQUARES_ADD_UP = ("adagrad", "fedadagrad")
_BY_COORDINATE = ("mean", "median", "trimmed_mean")


def check_method(
    config: FederationConfig,
    client: OptimizerConfig,
    server: OptimizerConfig,
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
    for checks in (
        _personal(config, personal),
        _optimizers(config, client, server),
        _corrections(config),
        _lengths(config),
        _privacy(config),
        _others(config),
    ):
        for problem in checks:
            raise ConfigError(f"config.{problem}")


def check_personal(personal: Sequence[str], params: Params) -> None:
    """Checks that every pattern matches a parameter.

    Raises:
        ConfigError: Naming the first that matches none, and the paths there are.
    """
    try:
        split_by_path(params, personal)
    except ValueError as error:
        raise ConfigError(f"config.federation.personal: {error}") from None


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
    config: FederationConfig, client: OptimizerConfig, server: OptimizerConfig
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
    # Of a rate of 1 without momentum alone: FedDyn's server has its own step, MimeLite's has none.
    adds = _plain(server) and server.learning_rate == 1 and not server.betas[0]
    if name in ("feddyn", "mimelite") and (not adds or server.scale_by_batch):
        yield (
            f"server_optimizer: {name} has a server step of its own; set name='sgd', "
            "learning_rate=1.0, betas=(0.0, 0.0), scale_by_batch=False, weight_decay=0.0 and "
            "clip_norm=0.0"
        )


def _plain(optimizer: OptimizerConfig) -> bool:
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
    if privacy.quantile and config.aggregation.rule == "secure_sum":
        yield (
            f"federation.privacy.quantile={privacy.quantile} with aggregation.rule='secure_sum': "
            "its own clipping cuts the counts too, so that the norm would grow without end; set 0"
        )


def _others(config: FederationConfig) -> Iterator[str]:
    if config.aggregation.rule == "secure_sum" and config.compression.kind != "none":
        yield (
            f"federation.compression.kind={config.compression.kind!r}: masked updates are dense "
            "whatever they hide, so compression saves nothing; set 'none'"
        )
    if config.participation.sampling == "by_size" and config.client_weights != "uniform":
        yield (
            "federation.participation.sampling='by_size' with client_weights='examples' counts "
            "sizes twice: set client_weights='uniform'"
        )
