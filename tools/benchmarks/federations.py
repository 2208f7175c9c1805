"""Ragged federations of small models: the work of the engine's comparison.

Needs jax and numpy only: the sides that are written in JAX share these very functions, whatever
else their environments hold.

All models read 784 numbers, a picture of 28 x 28, and tell 62 classes apart (the shape of FEMNIST;
Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018). Parameters are dictionaries of
arrays; matrices are [in, out].
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tools.benchmarks.peers.exchange import Arrays, Task

SIDE = 28
FEATURES, CLASSES = SIDE * SIDE, 62
MEAN_EXAMPLES = 100
"""Mean of the log-normal sizes before they are rounded to whole batches."""

SPREAD = 1.0
"""Standard deviation of the logarithm of the sizes."""

HIDDEN = 256
CHANNELS = (16, 32)
WIDTH, HEADS, BLOCKS, WIDENED = 64, 4, 2, 128
EPSILON = 1e-5

Shapes = dict[str, tuple[int, ...]]
Params = dict[str, jax.Array]
Forward = Callable[[Params, jax.Array], jax.Array]
Convolve = Callable[[jax.Array, jax.Array], jax.Array]


class Model(NamedTuple):
    """A model.

    Attributes:
        shapes: Of its parameters.
        forward: ``(params, x [B, 784]) -> logits [B, 62]``, as is best under vmap over parameters.
        forward_alone: The same function, as is best for one client at a time.
    """

    shapes: Shapes
    forward: Forward
    forward_alone: Forward


def make_task(
    model: str,
    clients: int,
    batch_size: int,
    *,
    seed: int = 0,
    mean_examples: float = MEAN_EXAMPLES,
) -> Task:
    """A federation of ``clients`` ragged clients with synthetic examples that can be learnt.

    Args:
        model: A name among ``MODELS``.
        clients: K.
        batch_size: B.
        seed: Of sizes, examples and parameters.
        mean_examples: Mean size of a client before rounding.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    sizes = ragged_sizes(clients, batch_size, rng, mean_examples)
    rows = int(sizes.sum())
    x = rng.standard_normal((rows, FEATURES), np.float32)
    teacher = rng.standard_normal((FEATURES, CLASSES), np.float32)
    y = (x @ teacher).argmax(axis=1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    params = init_params(MODELS[model].shapes, rng)
    return Task(model, batch_size, 0.05, params, x, y, offsets)


def ragged_sizes(
    clients: int, batch_size: int, rng: np.random.Generator, mean_examples: float
) -> npt.NDArray[np.int64]:
    """[K] log-normal numbers of examples, rounded to whole batches, one at least.

    Whole, since a side that compiles a step would compile it again for each size of a last batch.
    """
    sizes = rng.lognormal(math.log(mean_examples) - SPREAD**2 / 2, SPREAD, clients)
    return batch_size * np.maximum(1, np.round(sizes / batch_size)).astype(np.int64)


def init_params(shapes: Shapes, rng: np.random.Generator) -> Arrays:
    """Scales of one, other vectors of zero, and matrices normal with variance 1 / inputs."""

    def one(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("scale")), np.float32)
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))

    return {name: one(name, shape) for name, shape in shapes.items()}


def losses(forward: Forward, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """Cross-entropy of each example of a batch ``{"x": [B, 784], "y": [B]}``."""
    log_p = jax.nn.log_softmax(forward(params, batch["x"]))
    return -(jax.nn.one_hot(batch["y"], CLASSES) * log_p).sum(axis=-1)


def _dense(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _logreg(params: Params, x: jax.Array) -> jax.Array:
    return _dense(params, "out", x)


def _mlp(params: Params, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(_dense(params, "hidden1", x))
    x = jax.nn.relu(_dense(params, "hidden2", x))
    return _dense(params, "out", x)


def _cnn(convolve: Convolve, params: Params, x: jax.Array) -> jax.Array:
    """Two 3 x 3 convolutions, each followed by ReLU and 2 x 2 mean pooling, and a dense layer."""
    x = x.reshape(-1, SIDE, SIDE, 1)
    for name in ("conv1", "conv2"):
        convolved = convolve(x, params[f"{name}.weight"]) + params[f"{name}.bias"]
        x = _mean_pool(jax.nn.relu(convolved))
    return _dense(params, "out", x.reshape(len(x), -1))


def _convolve(x: jax.Array, weight: jax.Array) -> jax.Array:
    """A 3 x 3 convolution [B, H, W, C] with [9 C, out], zero beyond the border."""
    kernel = weight.reshape(3, 3, x.shape[-1], -1)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolve_by_matrix(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The same as one matrix product over the 3 x 3 neighbourhoods of pixels.

    Lanes have weights of their own, and XLA makes a batch of convolutions with different weights a
    grouped one, which is slow.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ weight


def _mean_pool(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _transformer(params: Params, x: jax.Array) -> jax.Array:
    """A pre-norm encoder over the 28 rows of a picture as tokens, and the mean of its tokens."""
    tokens = _dense(params, "embed", x.reshape(-1, SIDE, SIDE)) + params["position"]
    for i in range(BLOCKS):
        tokens += _attention(params, f"block{i}", _norm(params, f"block{i}.norm1", tokens))
        hidden = _dense(params, f"block{i}.up", _norm(params, f"block{i}.norm2", tokens))
        tokens += _dense(params, f"block{i}.down", jax.nn.relu(hidden))
    return _dense(params, "out", _norm(params, "norm", tokens).mean(axis=1))


def _norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return scaled * params[f"{name}.scale"] + params[f"{name}.bias"]


def _attention(params: Params, block: str, x: jax.Array) -> jax.Array:
    batch, count, width = x.shape
    heads = _dense(params, f"{block}.qkv", x).reshape(batch, count, 3, HEADS, width // HEADS)
    q, k, v = jnp.moveaxis(heads, 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width // HEADS)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return _dense(params, f"{block}.proj", mixed.reshape(x.shape))


def _dense_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str) -> Shapes:
    return {f"{name}.scale": (WIDTH,), f"{name}.bias": (WIDTH,)}


def _block_shapes(name: str) -> Shapes:
    return {
        **_norm_shapes(f"{name}.norm1"),
        **_dense_shapes(f"{name}.qkv", WIDTH, 3 * WIDTH),
        **_dense_shapes(f"{name}.proj", WIDTH, WIDTH),
        **_norm_shapes(f"{name}.norm2"),
        **_dense_shapes(f"{name}.up", WIDTH, WIDENED),
        **_dense_shapes(f"{name}.down", WIDENED, WIDTH),
    }


MODELS = {
    "logreg": Model(_dense_shapes("out", FEATURES, CLASSES), _logreg, _logreg),
    "mlp": Model(
        _dense_shapes("hidden1", FEATURES, HIDDEN)
        | _dense_shapes("hidden2", HIDDEN, HIDDEN)
        | _dense_shapes("out", HIDDEN, CLASSES),
        _mlp,
        _mlp,
    ),
    "cnn": Model(
        _dense_shapes("conv1", 9, CHANNELS[0])
        | _dense_shapes("conv2", 9 * CHANNELS[0], CHANNELS[1])
        | _dense_shapes("out", (SIDE // 4) ** 2 * CHANNELS[1], CLASSES),
        partial(_cnn, _convolve_by_matrix),
        partial(_cnn, _convolve),
    ),
    "transformer": Model(
        _dense_shapes("embed", SIDE, WIDTH)
        | {"position": (SIDE, WIDTH)}
        | _block_shapes("block0")
        | _block_shapes("block1")
        | _norm_shapes("norm")
        | _dense_shapes("out", WIDTH, CLASSES),
        _transformer,
        _transformer,
    ),
}
