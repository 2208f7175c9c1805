"""Every key of both configurations: a value is refused in one line, or what it decides is built."""

import copy
import dataclasses
import functools
import math
import operator
import typing
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm_jax.config.finetuning import FinetuneConfig, finetune_config, resolve_finetune
from ufm_jax.config.pretraining import PretrainConfig, pretrain_config, resolve
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.labels.task import Task
from ufm_jax.data.partition import assign
from ufm_jax.data.sources.synthetic import read_synthetic
from ufm_jax.errors import UserError
from ufm_jax.finetuning import training
from ufm_jax.objectives.reconstruction import init_params, make_loss
from ufm_jax.objectives.task import make_objective
from ufm_jax.phantoms.site import site_sizes
from ufm_jax.ranges import Range, kinds_of
from ufm_jax.train import pretraining
from ufm_jax.train.optimizers import lr_factor

ROOTS = {PretrainConfig: "pretraining", FinetuneConfig: "fine-tuning"}
SCALARS = (0, -1, 1, 0.5, 10**12, 2**63, 10**30, math.nan, math.inf, -math.inf, 1e308)
OTHERS = ("", "x", "(", "nan", "a\0b", None, True, (), [], {}, object)
VALUES = (*SCALARS, *OTHERS, *((v,) for v in (*SCALARS, *OTHERS)), *((v, v) for v in SCALARS))
FEW = (0, -1, 2**63, math.nan, math.inf, "", "(", None, (), (-1,), (math.nan, math.nan))
TRACED = ("model", "augment", "loss")
"""Sections that decide what is compiled."""
FEDERATED = ("federation", "client_optimizer", "server_optimizer", "schedule", "placement", "seed")
ON = {
    "federation.algorithm.mu": {"federation.algorithm.name": "fedprox"},
    "federation.algorithm.rho": {"federation.algorithm.name": "fedsam"},
    "federation.algorithm.alpha": {"federation.algorithm.name": "feddyn"},
    "federation.algorithm.strength": {"federation.algorithm.name": "ditto"},
    "federation.aggregation.hostile": {"federation.aggregation.rule": "trimmed_mean"},
    "federation.aggregation.norm": {"federation.aggregation.rule": "norm_clipping"},
    "federation.aggregation.iterations": {"federation.aggregation.rule": "centred_clipping"},
    "federation.aggregation.masked": {"federation.aggregation.rule": "secure_sum"},
    "federation.compression.fraction": {"federation.compression.kind": "top_k"},
    "federation.compression.bits": {"federation.compression.kind": "quantise"},
    "federation.compression.rank": {"federation.compression.kind": "low_rank"},
    "federation.attack": {
        "federation.attack.kind": "little_is_enough",
        "federation.attack.clients": (0,),
    },
    "federation.privacy": {
        "federation.privacy.level": "client",
        "federation.privacy.quantile": 0.5,
        "federation.client_weights": "uniform",
    },
    "federation.participation": {"federation.participation.step_seconds": 1.0},
    "federation.asynchronous": {
        "federation.asynchronous.concurrency": 2,
        "federation.participation.step_seconds": 1.0,
        "federation.client_state": "reset",
        "federation.client_weights": "uniform",
    },
}
"""What turns on the method that a key, or every key of a section, belongs to."""
SIZE = 40
NAMES = ("a", "b", "c")
IMAGES = FederatedData(
    NAMES,
    np.array([0, 3, 7, 12]),
    ArrayStore(
        np.zeros((12, SIZE, SIZE, 1), np.uint8),
        np.full((12, 2), SIZE, np.int32),
        np.zeros((12, 7), np.float32),
        np.zeros(12, np.int32),
    ),
)


def leaves(cls, path=()):
    """(path, annotation) of every key of a dataclass and of those within it."""
    for name, kind in kinds_of(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, (*path, name))
        else:
            yield (*path, name), kind


KEYS = [(cls, path) for cls in ROOTS for path, _ in leaves(cls)]


@functools.cache
def small(cls):
    """A configuration whose models are traced soon, as nested dicts."""
    config = pretrain_config() if cls is PretrainConfig else finetune_config()
    config.model.update({"size": "xs", "image_size": 32, "patch_size": 16})
    config.placement.devices = 1
    if cls is PretrainConfig:
        config.data.update({"working_size": SIZE, "num_sites": 3})
        config.model.update({"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4})
    else:
        config.data.working_size = SIZE
        config.augment.mixing.update({"mixup": 0.4, "cutmix": 1.0})
        config.federation.training = "federated"
    return config.to_dict()


def resolved(cls, path, value):
    """The typed configuration with one key changed, and the method on that it belongs to."""
    config, key = copy.deepcopy(small(cls)), ".".join(path)
    on = [changes for part, changes in ON.items() if key.startswith(part)]
    for name, new in [*(change for changes in on for change in changes.items()), (key, value)]:
        *sections, last = name.split(".")
        functools.reduce(operator.getitem, sections, config)[last] = new
    return resolve(config) if cls is PretrainConfig else resolve_finetune(config)


def build(config, path):
    """Builds what a key decides, of arrays on the host alone: nothing is compiled."""
    section = path[0]
    if section == "data":
        settings = config.data
        assign(["s"] * 99, [None] * 99, np.zeros(99, int), settings)
        if settings.source == "synthetic":
            site_sizes(settings.seed, settings.num_sites, settings.mean_size, settings.sigma)
            read_synthetic(settings.seed, settings.num_sites, 1, 0.0, settings.working_size)
    elif section in FEDERATED:
        federation = federated(config)
        federation.plan(0)
        jax.random.key(config.seed)
        float(lr_factor(config.schedule, config.federation.rounds)(jnp.float32(0)))


def federated(config):
    """The federation of a configuration, over a few images."""
    if isinstance(config, PretrainConfig):
        lanes = pretraining.with_lanes(config, config.placement.lanes or 1)
        return pretraining.federate(lanes, IMAGES)
    loss = SimpleNamespace(loss_fn=None)
    return training.federate(config, loss, IMAGES)


@functools.cache
def trace(model, augment, loss, kind):
    """Traces loss and gradient of a batch, without compiling them."""
    key = jax.random.key(0)
    batch = IMAGES.store.read(np.arange(2))
    if loss is None:
        params = jax.eval_shape(lambda: init_params(model, key))
        loss_fn = make_loss(model, augment)
    else:
        config = dataclasses.replace(
            resolve_finetune(small(FinetuneConfig)), model=model, augment=augment, loss=loss
        )
        objective = make_objective(config, Task(kind, NAMES))
        params, loss_fn = jax.eval_shape(lambda: objective.init(key)), objective.loss_fn
        batch |= {"mask": batch["image"][..., 0]}
    gradient = jax.value_and_grad(lambda *args: loss_fn(*args).mean())
    jax.eval_shape(gradient, params, batch, jax.random.split(key, 2))


def refused(cls, path, value):
    """The line with which a value is refused; the configuration where it is not."""
    try:
        config = resolved(cls, path, value)
        build(config, path)
    except UserError as found:
        message = str(found)
    else:
        return config
    assert "\n" not in message, message
    assert path[-1] in message, f"{message} does not name {path}"
    return None


@pytest.mark.parametrize("cls", ROOTS, ids=ROOTS.values())
def test_every_number_has_a_range(cls):
    def numbers(kind, ranged=False):
        origin, inside = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            yield from numbers(inside[0], ranged or any(isinstance(x, Range) for x in inside))
        elif origin is tuple:
            for entry in inside:
                yield from numbers(entry)
        elif kind in (int, float):
            yield ranged

    without = [path for path, kind in leaves(cls) if not all(numbers(kind))]
    assert not without, f"give each a Range: {without}"


@pytest.mark.parametrize(
    "values", [FEW, pytest.param(VALUES, marks=pytest.mark.slow)], ids=["few", "all"]
)
@pytest.mark.parametrize(("cls", "path"), KEYS, ids=lambda x: ROOTS.get(x) or ".".join(x))
def test_any_value_of_any_key_is_refused_in_one_line_or_builds(cls, path, values):
    for value in values:
        refused(cls, path, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "path"),
    [key for key in KEYS if key[1][0] in TRACED],
    ids=lambda x: ROOTS.get(x) or ".".join(x),
)
def test_any_value_of_what_is_compiled_is_refused_or_traces(cls, path):
    kinds = [None] if cls is PretrainConfig else ["single", "segment"]
    for config in filter(None, (refused(cls, path, value) for value in VALUES)):
        for kind in kinds:
            mixing = config.augment
            if kind == "segment":
                cut = dataclasses.replace(mixing.mixing, mixup=0.0)
                mixing = dataclasses.replace(mixing, mixing=cut)
            trace(config.model, mixing, getattr(config, "loss", None), kind)
