"""Fine-tuning: from a checked configuration to a trained model, chosen on the validation split.

The engine is that of pretraining. A centralised run is a federation of one client, so that a round
is an epoch; a local run is one in which every parameter stays with its client.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.cluster.hosts import stop_signal
from ufm_jax.config.compatibility import check_personal
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.fed.paths import join_by_path, split_by_path
from ufm_jax.finetuning.best_round import Selection, check_validation, score
from ufm_jax.finetuning.layer_decay import finetune_optimizer, freeze_encoder
from ufm_jax.finetuning.start_weights import start_params
from ufm_jax.objectives.task import Objective, make_objective
from ufm_jax.prediction.predictor import Predictor
from ufm_jax.prediction.split import ParamsOf, predict_split
from ufm_jax.runs.folder import claim
from ufm_jax.runs.noise_key import noise_words
from ufm_jax.runs.resume import RunCheckpoints
from ufm_jax.runs.trained_model import TrainedModel, check_trained, head_moved
from ufm_jax.train.algorithm import Optimizers
from ufm_jax.train.federation import build_federation
from ufm_jax.train.feed import Feed
from ufm_jax.train.optimizers import make_optimizer, warmup_cosine
from ufm_jax.train.progress import decoding
from ufm_jax.train.recorder import Recorder
from ufm_jax.train.rounds import Saving, begin_spending, record_sinks, resume, run_rounds

_log = logging.getLogger(__name__)

TOGETHER = "all"
"""The name of the one client of a centralised run."""

Leaves = Mapping[str, np.ndarray]
"""Leaves of parameters by path."""

_PREDICTED_WITHOUT_OWN = (
    "its images are predicted with the mean of the others' own parameters, or the server's where "
    "it has them"
)


class Trained(NamedTuple):
    """How training ended.

    Attributes:
        model: The chosen model; None where a signal ended the run early.
        stopped_by: That signal; 0 where the run went to the end.
        rounds_done: Rounds that the last checkpoint holds.
        promise: What may be said of its privacy; '' where it makes none.
    """

    model: TrainedModel | None
    stopped_by: int
    rounds_done: int
    promise: str = ""


def load_task(config: FinetuneConfig) -> LabelledData:
    """Reads images, labels, masks and splits, and says what was left out or is doubtful.

    Raises:
        DataError: If they cannot be used as configured.
    """
    with decoding(shown=True) as bar:
        data = load_labelled(config.data, bar)
    for line in data.issues.summary():
        _log.warning("%s", line)
    return data


def training_rows(config: FinetuneConfig, data: LabelledData) -> np.ndarray:
    """Rows of the training split, or those of them whose labels are used, int64 [n]."""
    if config.label_fraction < 1:
        return data.subset_labels(config.label_fraction, config.seed)
    return data.rows("train")


def train(config: FinetuneConfig, data: LabelledData, workdir: Path) -> Trained:
    """Trains, from the newest checkpoint in ``workdir`` where there is one, and chooses a round.

    Args:
        config: A checked configuration, of a method that trains in rounds.
        data: All splits; of the test split nothing is read.
        workdir: Gets the configuration, metrics and checkpoints.
    """
    check_validation(data, config.evaluation)
    part = data.take(training_rows(config, data))
    # Frequencies are counted without noise, which no epsilon would account for.
    private = config.federation.privacy.level != "none"
    weights = None if private else part.class_weights()
    objective = make_objective(config, data.task, weights)
    initial = objective.init(fold(jax.random.key(config.seed), "init"))
    beginning = start_params(config, initial)
    check_personal(config.federation.personal, initial)
    # Copies: the first round takes the state's memory.
    began = {path: np.array(leaf) for path, leaf in _own(config, beginning.params).items()}
    clients = _clients(config, part)
    if began:
        _check_absent(config, absent_clients(data, clients.names))
    with as_config_errors():
        federation = federate(config, objective, clients)
    claim(workdir, config, clients, federation.placement)
    rounds = config.federation.rounds
    with as_config_errors():
        state = federation.init(beginning.params)
    traffic = federation.traffic(beginning.params)

    with (
        RunCheckpoints(workdir, config.checkpoint.keep) as checkpoints,
        stop_signal(federation.placement.mesh) as stop,
    ):
        point = resume(checkpoints, state, rounds)
        noise = noise_words(config.federation.privacy, workdir, begun=point.begun)
        federation = replace(federation, noise=noise)
        spending, rounds = begin_spending(config.federation, federation, point.done, point.ledger)
        run = (federation, clients.names, workdir)
        moved = partial(head_moved, initial, new=beginning.new)
        selection = _selection(config, data, objective, began, moved, *run, point.done, rounds)
        with record_sinks(workdir, point.done, rounds) as sinks:
            recorder = Recorder(federation, clients.names, lr_factor(config), traffic, sinks)
            feed = Feed(config.placement, clients, federation, objective.fields)
            saving = Saving(checkpoints, config.checkpoint, rounds)
            point = run_rounds(feed, recorder, saving, stop, point, selection, spending)
        done, state = point.done, point.state
        if stop.stopped_by:
            return Trained(None, stop.stopped_by, done)
        promise = spending.write(workdir, clients.names) if spending else ""
        chosen = selection.best.rounds if selection and selection.best else done
        if chosen != done:
            checkpoints.wait()
            state = checkpoints.restore(chosen, state)
    model = trained_model(config, federation, state, data, clients.names, began, chosen)
    for client in model.clients or (TOGETHER,):
        check_trained(initial, model.params_of(client), beginning.new)
    return Trained(model, 0, done, promise)


def federate(config: FinetuneConfig, objective: Objective, clients: FederatedData) -> Federation:
    """The federation that ``config`` describes over the training images."""
    batch_size, placement = config.federation.batch_size, config.placement
    devices = placement.devices or jax.device_count()
    # More devices than clients would stand idle.
    busy = min(devices, clients.num_clients * placement.data_parallel)
    local = finetune_optimizer(config.client_optimizer, batch_size, config.layer_decay)
    server = make_optimizer(config.server_optimizer, batch_size)
    if config.method == "frozen":
        # The server's too: its decay and the noise of client-level privacy would move the encoder.
        local, server = freeze_encoder(local), freeze_encoder(server)
    return build_federation(
        config.federation,
        replace(placement, devices=busy),
        clients,
        objective.loss_fn,
        Optimizers(
            local,
            server,
            config.client_optimizer,
            config.server_optimizer,
            lr_factor(config),
        ),
        personal=personal_patterns(config),
        seed=config.seed,
    )


def lr_factor(config: FinetuneConfig) -> Callable[[jax.Array], jax.Array]:
    """The learning-rate factor as a function of the progress in rounds."""
    schedule = config.schedule
    return warmup_cosine(config.federation.rounds, schedule.warmup_rounds, schedule.min_factor)


def personal_patterns(config: FinetuneConfig) -> tuple[str, ...]:
    """Paths of the parameters that stay with each client: all of them in a local run."""
    return (".*",) if config.federation.training == "local" else config.federation.personal


def own_patterns(config: FinetuneConfig) -> tuple[str, ...]:
    """Paths of the parameters of which each client ends with its own: Ditto's are all of them."""
    ditto = config.federation.algorithm.name == "ditto"
    return (".*",) if ditto else personal_patterns(config)


def trained_model(
    config: FinetuneConfig,
    federation: Federation,
    state: FederationState,
    data: LabelledData,
    names: tuple[str, ...],
    began: Leaves,
    rounds: int,
) -> TrainedModel:
    """The model in a state of the federation, on the host, without a threshold yet."""
    personal: Leaves = {}
    everybody = (*names, *absent_clients(data, names))
    if began:
        trained = _trained(config, federation, state, names, began)
        for client in (name for name in names if name not in trained):
            _log.warning(
                "%s: its own parameters are as they began (was it asked in a round, and not "
                "refused?); %s",
                client,
                _PREDICTED_WITHOUT_OWN,
            )
        params_of = _params_of(config, federation, state, trained)
        own = [_own(config, params_of(client)) for client in everybody]
        personal = {path: np.stack([leaves[path] for leaves in own]) for path in began}
    return TrainedModel(
        params=jax.device_get(state.server.params),
        task=data.task,
        personal=personal,
        clients=everybody if began else (),
        round=rounds,
        thresholds={},
    )


def _clients(config: FinetuneConfig, part: LabelledData) -> FederatedData:
    """The training images as the engine takes them; of a centralised run as one client's."""
    clients = part.federated()
    if config.federation.training != "centralised":
        return clients
    return FederatedData(
        names=(TOGETHER,),
        offsets=np.array([0, clients.num_rows]),
        store=clients.store,
        issues=clients.issues,
        labels=clients.labels,
        label_names=clients.label_names,
        groups=clients.groups,
        fingerprint=clients.fingerprint,
    )


def absent_clients(data: LabelledData, names: tuple[str, ...]) -> tuple[str, ...]:
    """Clients with images to choose by or to test on, and none to train on."""
    return tuple(
        client
        for k, client in enumerate(data.clients)
        if client not in names and any(len(data.rows(split, k)) for split in ("val", "test"))
    )


def _check_absent(config: FinetuneConfig, absent: tuple[str, ...]) -> None:
    """Says whose images are predicted with parameters that are not their client's own.

    Raises:
        ConfigError: If nothing is shared, so that there are none for them.
    """
    if absent and config.federation.training == "local":
        raise ConfigError(
            f"{', '.join(absent)}: has images to be evaluated on and none to train on, and so no "
            "model of its own: leave these images out, split otherwise, or set "
            "config.federation.training='federated'"
        )
    for client in absent:
        _log.warning("%s: trains nothing; %s", client, _PREDICTED_WITHOUT_OWN)


def _own(config: FinetuneConfig, params: Params) -> dict[str, jax.Array]:
    """The leaves of which each client ends with its own, by path."""
    patterns = own_patterns(config)
    return split_by_path(params, patterns)[1] if patterns else {}


def _trained(
    config: FinetuneConfig,
    federation: Federation,
    state: FederationState,
    names: tuple[str, ...],
    began: Leaves,
) -> dict[str, int]:
    """The numbers of the clients whose own leaves have moved; of all where none have.

    Those of a client that no cohort asked, or whose every update was refused, are as they began.
    """
    numbers = {name: k for k, name in enumerate(names)}

    def moved(k: int) -> bool:
        own = _own(config, federation.client_params(state, k))
        return any(not np.array_equal(own[path], leaf) for path, leaf in began.items())

    return {name: k for name, k in numbers.items() if moved(k)} or numbers


def _without_own(
    federation: Federation,
    state: FederationState,
    patterns: tuple[str, ...],
    trained: Collection[int],
) -> Params:
    """The server's parameters; those that it does not train as the average of these clients'."""
    if not patterns:
        return state.server.params
    owned = [
        split_by_path(federation.client_params(state, k), patterns)[1] for k in sorted(trained)
    ]
    mean = {path: jnp.stack([one[path] for one in owned]).mean(0) for path in owned[0]}
    return join_by_path(state.server.params, mean)


def _selection(
    config: FinetuneConfig,
    data: LabelledData,
    objective: Objective,
    began: Leaves,
    moved: Callable[[Params], bool],
    federation: Federation,
    names: tuple[str, ...],
    workdir: Path,
    done: int,
    rounds: int,
) -> Selection | None:
    """What chooses the round; None where the last one is taken."""
    settings, rows = config.evaluation, data.rows("val")
    if settings.select == "last":
        return None
    predictor = Predictor(objective.predict, settings.batch_size)

    def look(state: FederationState) -> float:
        trained = _trained(config, federation, state, names, began) if began else {}
        params_of = _params_of(config, federation, state, trained)
        if not any(moved(params_of(client)) for client in (trained or (TOGETHER,))):
            return math.nan  # In a round of rate 0, or one whose every update was refused.
        return score(predict_split(predictor, params_of, data, rows, settings), data.task, settings)

    return Selection(workdir, done, rounds, settings.every_rounds, look)


def _params_of(
    config: FinetuneConfig,
    federation: Federation,
    state: FederationState,
    trained: Mapping[str, int],
) -> ParamsOf:
    """Parameters by client: its own where it is among ``trained``, else those for the others."""
    without_own = cache(
        lambda: _without_own(federation, state, personal_patterns(config), trained.values())
    )
    return lambda client: (
        federation.client_params(state, trained[client]) if client in trained else without_own()
    )
