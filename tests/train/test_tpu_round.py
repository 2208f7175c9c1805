"""The round compiles for TPUs, and its local steps fetch no single pixels."""

import math
import re

import jax
import numpy as np
import optax
import pytest
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from tools.benchmarks.compile_work import AbstractPlacement
from ufm_jax.config.model import ModelConfig
from ufm_jax.config.pretraining import AugmentConfig
from ufm_jax.fed.algorithms.fedavg import fedavg
from ufm_jax.fed.batches import Batching
from ufm_jax.fed.federation import Federation
from ufm_jax.fed.placement import CLIENTS, DATA
from ufm_jax.objectives.reconstruction import init_params, make_loss

MODEL = ModelConfig(
    size="xs",
    image_size=32,
    patch_size=8,
    channels=1,
    dtype="bfloat16",
    decoder_width=48,
    decoder_depth=1,
    decoder_heads=3,
)
SIDE, BATCH = 40, 4


def _shape(dims, dtype, sharding):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


@pytest.fixture(scope="module")
def compiler():
    """The compiler for TPUs; a cache of programs cannot give back what is for absent devices."""
    pytest.importorskip("libtpu", reason="needs the compiler for TPUs: pip install libtpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        cached = jax.config.jax_enable_compilation_cache
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()


def _compiled_round(devices, lanes):
    mesh = jax.make_mesh(
        (len(devices), 1),
        (CLIENTS, DATA),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=devices,
    )
    federation = Federation(
        make_loss(MODEL, AugmentConfig()),
        fedavg(optax.adamw(1e-3)),
        offsets=np.arange(2 * lanes * len(devices) + 1) * BATCH,
        batching=Batching(BATCH),
        placement=AbstractPlacement(mesh, lanes),
    )
    fields = {"image": ((SIDE, SIDE, 1), np.uint8), "extent": ((2,), np.int32)}
    fields["geometry"] = (7,), np.float32
    rows = int(federation.offsets[-1])
    home = federation.placement.replicated
    examples = {k: _shape((rows, *dims), dtype, home) for k, (dims, dtype) in fields.items()}
    params = jax.eval_shape(lambda key: init_params(MODEL, key), jax.random.key(0))
    lowered = federation.lower(federation.state_shapes(params), examples, federation.plan(0))
    return lowered.compile()


def _gathers(text):
    """Of each gather in a compiled program the numbers of its result, and those of one slice."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* gather\(.*slice_sizes=\{([\d,]*)\}", text)
    return [[math.prod(map(int, re.findall(r"\d+", dims))) for dims in pair] for pair in found]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("topology", "lanes"), [("v5e:2x2", 1), ("v5p:2x2x1", 2)])
def test_a_round_compiles_for_tpus_and_gathers_no_single_pixels(topology, lanes):
    slice_ = topologies.get_topology_desc(topology, platform="tpu")
    compiled = _compiled_round(slice_.devices, lanes)
    assert compiled.memory_analysis().temp_size_in_bytes > 0
    gathers = _gathers(compiled.as_text())
    assert SIDE**2 in [size for _, size in gathers]  # The images of a batch.
    assert all(result < SIDE**2 for result, size in gathers if size == 1)
