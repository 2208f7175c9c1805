"""Fine-tuning: from a checked configuration to a trained model, chosen on the validation split.

The engine is that of pretraining. A centralised run is a federation of one client, so that a round
is an epoch; a local run is one in which every parameter stays with its client.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.bars import progress_bar
from ufm_jax.config.compatibility import check_personal
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.config.schema import as_config_errors
from ufm_jax.data.federated import TOGETHER, FederatedData
from ufm_jax.data.labels.data import LabelledData
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.keys import fold
from ufm_jax.finetuning.best_round import check_validation, score
from ufm_jax.finetuning.optimizers import finetune_optimizer, freeze_encoder
from ufm_jax.finetuning.personal import OwnParameters, absent_clients, check_absent
from ufm_jax.finetuning.probes.linear_knn import linear_probe
from ufm_jax.finetuning.start_weights import start_params
from ufm_jax.models.classifier import Classifier
from ufm_jax.objectives.task import Objective, make_objective
from ufm_jax.prediction.predictor import Predictor
from ufm_jax.prediction.split import predict_split
from ufm_jax.runs.trained_model import TrainedModel, check_trained, head_moved
from ufm_jax.train import run
from ufm_jax.train.federation import build_federation
from ufm_jax.train.judge import Judging
from ufm_jax.train.optimizers import make_optimizer

_log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """How training ended.

    Attributes:
        model: The chosen model; None if a signal ended the run early.
        stopped_by: That signal; 0 if the run went to the end.
        rounds_done: Rounds that the last checkpoint holds.
        promise: The privacy that the run promises, in words; '' without a promise.
    """

    model: TrainedModel | None
    stopped_by: int
    rounds_done: int
    promise: str = ""


def load_task(config: FinetuneConfig) -> LabelledData:
    """Reads images, labels, masks and splits, and warns of what was left out or is doubtful.

    Raises:
        DataError: If they cannot be used as configured.
    """
    with progress_bar("decoding", shown=True) as bar:
        data = load_labelled(config.data, bar)
    for line in data.issues.summary():
        _log.warning("%s", line)
    return data


def training_rows(config: FinetuneConfig, data: LabelledData) -> np.ndarray:
    """The rows of the training split whose labels are used, int64 [n]."""
    if config.label_fraction < 1:
        return data.subset_labels(config.label_fraction, config.seed)
    return data.rows("train")


def train(config: FinetuneConfig, data: LabelledData, workdir: Path) -> Trained:
    """Trains, from the newest checkpoint in ``workdir`` if there is one, and chooses a round.

    Args:
        config: A checked configuration, of a method that trains in rounds.
        data: All splits; the test split is not read.
        workdir: The folder that gets the configuration, metrics and checkpoints.
    """
    check_validation(data, config.evaluation)
    rows = training_rows(config, data)
    part = data.take(rows)
    # Frequencies are counted without noise, which no epsilon would account for.
    private = config.federation.privacy.level != "none"
    weights = None if private else part.class_weights()
    objective = make_objective(config, data.task, weights)
    initial = objective.init(fold(jax.random.key(config.seed), "init"))
    beginning = start_params(config, initial)
    if config.start.head == "probe":
        network = objective.network
        assert isinstance(network, Classifier)
        probed = linear_probe(network, beginning.params, data, rows, config)
        assert probed.params is not None
        _log.info("the head starts as the linear probe with %s", probed.chosen)
        beginning = beginning._replace(params=probed.params)
    check_personal(config.federation.personal, initial)
    clients = part.federated()
    if config.federation.training == "centralised":
        clients = clients.together()
    absent = absent_clients(data, clients.names)
    with as_config_errors():
        federation = federate(config, objective, clients)
    own = OwnParameters.begin(config, federation, clients.names, beginning.params)
    if own.began:
        check_absent(config, absent)
    moved = partial(head_moved, initial, new=beginning.new)
    judging = _judging(config, data, objective, own, moved)
    ended = run.train(
        *(config, workdir, federation, clients, beginning.params, objective.fields, judging)
    )
    if ended.stopped_by:
        return Trained(None, ended.stopped_by, ended.rounds_done)
    state = run.best_state(ended, workdir, config.checkpoint.keep)
    model = TrainedModel(
        params=jax.device_get(state.server.params),
        task=data.task,
        personal=own.stacked(state, (*clients.names, *absent)),
        clients=(*clients.names, *absent) if own.began else (),
        round=ended.best,
    )
    for client in model.clients or (TOGETHER,):
        check_trained(initial, model.params_of(client), beginning.new)
    return Trained(model, 0, ended.rounds_done, ended.promise)


def federate(config: FinetuneConfig, objective: Objective, clients: FederatedData) -> Federation:
    """The federation that ``config`` describes over the training images."""
    batch_size, placement = config.federation.batch_size, config.placement
    devices = placement.devices or jax.device_count()
    # More devices than clients would stand idle.
    busy = min(devices, clients.num_clients * placement.data_parallel)
    local = finetune_optimizer(config.client_optimizer, batch_size, config.layer_decay)
    server = make_optimizer(config.server_optimizer, batch_size)
    if config.method == "frozen":
        # The server's too, since its decay and client-level noise would move the encoder.
        local, server = freeze_encoder(local), freeze_encoder(server)
    on_busy = replace(config, placement=replace(placement, devices=busy))
    return build_federation(on_busy, clients, objective.loss_fn, local, server)


def _judging(
    config: FinetuneConfig,
    data: LabelledData,
    objective: Objective,
    own: OwnParameters,
    moved: Callable[[Params], bool],
) -> Judging | None:
    """Judges by the validation split; None if the last round is taken."""
    settings, rows = config.evaluation, data.rows("val")
    if settings.select == "last":
        return None
    predictor = Predictor(objective.predict, settings.batch_size)

    def look(state: FederationState, done: int) -> dict[str, float]:
        del done
        trained = own.trained(state)
        params_of = own.params_of(state, trained)
        found = math.nan  # The rate was 0, or every update was refused.
        if any(moved(params_of(client)) for client in (trained or (TOGETHER,))):
            predicted = predict_split(predictor, params_of, data, rows, settings)
            found = score(predicted, data.task, settings)
        return {"validation_score": found}

    return Judging(look, "validation_score", 1, settings.every_rounds, config.schedule.patience)
