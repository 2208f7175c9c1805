"""The networks of the comparisons, in JAX.

Needs jax and numpy only: the sides that are written in JAX share these very functions, whatever
else their environments hold. Parameters are dictionaries of arrays; matrices are [in, out], and a
convolution's inputs are ordered by row, column and channel of its window.

Convolutions are trained as matrix products where each lane has weights of its own (XLA makes a
batch of convolutions with different weights a grouped one, which is slow), and on CPUs, where their
gradients are slower than those of products, and twenty times so inside a loop. For a forward pass
alone they stay convolutions.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tools.benchmarks.peers.exchange import Arrays

SIDE = 28
FEATURES, CLASSES = SIDE * SIDE, 62
HIDDEN = 256
CHANNELS = (16, 32)
WIDTH, HEADS, BLOCKS, WIDENED = 64, 4, 2, 128
EPSILON = 1e-5

Shapes = dict[str, tuple[int, ...]]
Params = dict[str, jax.Array]
Forward = Callable[[Params, jax.Array, jax.Array | None], jax.Array]


class Model(NamedTuple):
    """A model.

    Attributes:
        shapes: Of its parameters.
        network: ``(params, x [B, ...], key, products) -> logits``. Dropout acts where a key is
            given; ``products`` writes convolutions as matrix products.
    """

    shapes: Shapes
    network: Callable[[Params, jax.Array, jax.Array | None, bool], jax.Array]

    def forward(self, params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """The network as is best for training under vmap over parameters."""
        return self.network(params, x, key, True)

    def forward_alone(self, params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """The network as is best for training one client at a time."""
        return self.network(params, x, key, jax.default_backend() == "cpu")

    def evaluate(self, params: Params, batches: dict[str, jax.Array]) -> jax.Array:
        """Mean cross-entropy without dropout of batches ``{"x": [N, B, ...], "y": [N, B]}``."""

        def forward(params: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
            return self.network(params, x, key, False)

        return jax.lax.map(lambda batch: losses(forward, params, batch).mean(), batches).mean()


def init_params(shapes: Shapes, rng: np.random.Generator) -> Arrays:
    """Scales of one, other vectors of zero, and matrices normal with variance 1 / inputs."""

    def one(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("scale")), np.float32)
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[0]))

    return {name: one(name, shape) for name, shape in shapes.items()}


def losses(
    forward: Forward, params: Params, batch: dict[str, jax.Array], key: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of each example of a batch ``{"x": [B, ...], "y": [B]}``."""
    log_p = jax.nn.log_softmax(forward(params, batch["x"], key))
    return -(jax.nn.one_hot(batch["y"], log_p.shape[-1]) * log_p).sum(axis=-1)


def _dense(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _logreg(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    del key, products
    return _dense(params, "out", x)


def _mlp(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    del key, products
    x = jax.nn.relu(_dense(params, "hidden1", x))
    x = jax.nn.relu(_dense(params, "hidden2", x))
    return _dense(params, "out", x)


def _cnn(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    """Two 3 x 3 convolutions, each followed by ReLU and 2 x 2 mean pooling, and a dense layer."""
    del key
    x = x.reshape(-1, SIDE, SIDE, 1)
    for name in ("conv1", "conv2"):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = _by_blocks(jax.nn.relu(_convolve(params, name, padded, 3, products))).mean(axis=(2, 4))
    return _dense(params, "out", x.reshape(len(x), -1))


def _pfl_cnn(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    """Two 3 x 3 convolutions, 2 x 2 maximum, and two dense layers, with dropout before each.

    The simple_cnn of pfl-research's benchmarks: x [B, 32, 32, 3] to 10 classes.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    x = jax.nn.relu(_convolve(params, "conv1", x, 3, products))
    x = jax.nn.relu(_convolve(params, "conv2", x, 3, products))
    x = _dropout(keys[0], _by_blocks(x).max(axis=(2, 4)), 0.25)
    x = jax.nn.relu(_dense(params, "hidden", x.reshape(len(x), -1)))
    return _dense(params, "out", _dropout(keys[1], x, 0.5))


def _blazefl_cnn(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    """Two 5 x 5 convolutions, each with ReLU and 2 x 2 maximum, and three dense layers.

    The CNN of BlazeFL's benchmarks, from a tutorial of PyTorch's: x [B, 32, 32, 3] to 10 classes.
    """
    del key
    for name in ("conv1", "conv2"):
        if products:
            x = jax.nn.relu(_pooled_convolution(params, name, x, 5))
        else:
            x = _by_blocks(jax.nn.relu(_convolve(params, name, x, 5, products))).max(axis=(2, 4))
    x = x.reshape(len(x), -1)
    for name in ("hidden1", "hidden2"):
        x = jax.nn.relu(_dense(params, name, x))
    return _dense(params, "out", x)


def _convolve(params: Params, name: str, x: jax.Array, size: int, products: bool) -> jax.Array:
    """A convolution of x [B, H, W, C] with windows of ``size`` squared, and none beyond the border.

    Args:
        params: Of the model.
        name: Of the layer.
        x: Pictures.
        size: Of the windows.
        products: As one matrix product over the windows' columns for each of their rows.
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if not products:
        kernel = weight.reshape(size, size, x.shape[-1], -1)
        numbers = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
            + bias
        )
    height, width = (length - size + 1 for length in x.shape[1:3])
    if x.shape[-1] * size**2 < 64:  # Few columns: one product over whole windows.
        windows = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
        return _product(jnp.concatenate(windows, axis=-1), weight) + bias
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(size)], axis=-1)
    parts = zip(range(size), jnp.split(weight, size), strict=True)
    return sum((_product(columns[:, i : i + height], part) for i, part in parts), bias)


def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """The product x @ weight as one of matrices, whose gradients XLA computes faster on CPUs."""
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def _pooled_convolution(params: Params, name: str, x: jax.Array, size: int) -> jax.Array:
    """A convolution of odd ``size`` and the maximum of each 2 x 2 of its results, as a product.

    Blocks of 2 x 2 pixels become one pixel of four times the channels, and the four results of a
    block four times the features: few wide products in place of many narrow ones.
    """
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    channels, features, wide = x.shape[-1], weight.shape[-1], (size + 1) // 2
    kernel = weight.reshape(size, size, channels, features)
    shifted = [
        jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)
    ]
    kernel = jnp.stack(shifted, axis=-2).reshape(wide, 2, wide, 2, channels, 4, features)
    kernel = kernel.swapaxes(1, 2).reshape(wide**2 * 4 * channels, 4 * features)
    blocks = _by_blocks(x).swapaxes(2, 3)
    blocks = blocks.reshape(*blocks.shape[:3], 4 * channels)
    height, width = (length - wide + 1 for length in blocks.shape[1:3])
    windows = [blocks[:, i : i + height, j : j + width] for i in range(wide) for j in range(wide)]
    results = _product(jnp.concatenate(windows, axis=-1), kernel)
    return results.reshape(*results.shape[:3], 4, features).max(axis=-2) + bias


def _by_blocks(x: jax.Array) -> jax.Array:
    """[B, H, W, C] as [B, H / 2, 2, W / 2, 2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _dropout(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
    """Sets a share of the numbers to zero, a multiple of 1 / 256, and scales the rest."""
    if key is None:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint8) >= round(256 * rate)
    return jnp.where(kept, x / (1 - rate), 0)


def _transformer(params: Params, x: jax.Array, key: jax.Array | None, products: bool) -> jax.Array:
    """A pre-norm encoder over the 28 rows of a picture as tokens, and the mean of its tokens."""
    del key, products
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
    "logreg": Model(_dense_shapes("out", FEATURES, CLASSES), _logreg),
    "mlp": Model(
        _dense_shapes("hidden1", FEATURES, HIDDEN)
        | _dense_shapes("hidden2", HIDDEN, HIDDEN)
        | _dense_shapes("out", HIDDEN, CLASSES),
        _mlp,
    ),
    "cnn": Model(
        _dense_shapes("conv1", 9, CHANNELS[0])
        | _dense_shapes("conv2", 9 * CHANNELS[0], CHANNELS[1])
        | _dense_shapes("out", (SIDE // 4) ** 2 * CHANNELS[1], CLASSES),
        _cnn,
    ),
    "transformer": Model(
        _dense_shapes("embed", SIDE, WIDTH)
        | {"position": (SIDE, WIDTH)}
        | _block_shapes("block0")
        | _block_shapes("block1")
        | _norm_shapes("norm")
        | _dense_shapes("out", WIDTH, CLASSES),
        _transformer,
    ),
    "pfl_cnn": Model(
        _dense_shapes("conv1", 9 * 3, 32)
        | _dense_shapes("conv2", 9 * 32, 64)
        | _dense_shapes("hidden", 14 * 14 * 64, 128)
        | _dense_shapes("out", 128, 10),
        _pfl_cnn,
    ),
    "blazefl_cnn": Model(
        _dense_shapes("conv1", 25 * 3, 6)
        | _dense_shapes("conv2", 25 * 6, 16)
        | _dense_shapes("hidden1", 5 * 5 * 16, 120)
        | _dense_shapes("hidden2", 120, 84)
        | _dense_shapes("out", 84, 10),
        _blazefl_cnn,
    ),
}
