"""Cutting a box out of an image and bringing it to a fixed size, and mirroring.

Boxes are drawn as torchvision's ``RandomResizedCrop`` draws them (Szegedy et al., "Going Deeper
with Convolutions", CVPR 2015). Resampling is PIL's: a cubic convolution (Keys 1981, a = -0.5) that
widens where the image shrinks, so that it does not alias. It is separable, and so is computed as
two matrix products, image' = R_h image R_w^T, with matrices from the box.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_TRIES = 10
_A = -0.5


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    extent: jax.Array,
    size: int,
    area: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """A random box of an image's valid part at a fixed size: ``crop`` to a ``random_box``."""
    return crop(image, random_box(key, extent, area, ratio), size)


def resize(image: jax.Array, extent: jax.Array, size: int) -> jax.Array:
    """The whole valid part ``extent`` of an image at a fixed size, by ``crop``, for evaluation."""
    height, width = _sides(extent)
    return crop(image, jnp.stack([0, 0, height, width]), size)


def random_flip(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Mirrors an image [H, W, C] left to right with a probability.

    Raises:
        ValueError: If the probability is not from 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} of a flip: use a value from 0 to 1")
    return jnp.where(jax.random.bernoulli(key, float(probability)), image[:, ::-1], image)


def random_box(
    key: jax.Array,
    extent: jax.Array,
    area: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    aspect: jax.Array | float = 1.0,
) -> jax.Array:
    """A box drawn as torchvision's ``RandomResizedCrop`` does.

    Ten areas are drawn uniformly and ten ratios log-uniformly; the first box that fits is put at a
    uniformly random place. If none fits, the box is the largest central one with a ratio in range.

    Args:
        key: Random key.
        extent: [2] height and width of the image's valid part, in its top-left corner; 1 or more.
        area: Least and largest area of the box, as shares of the valid area.
        ratio: Least and largest width of the box over its height.
        aspect: By what both are multiplied: that of the image makes them relative to it.

    Returns:
        int32 [4] (top, left, height, width), whole pixels inside the valid part.

    Raises:
        ValueError: If a range is impossible.
    """
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area={area} of a crop: use shares with 0 < least <= largest <= 1")
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio={ratio} of a crop: use ratios with 0 < least <= largest")
    height, width = _sides(extent)
    draws = jax.random.uniform(key, (_TRIES + 1, 2))
    share = area[0] + (area[1] - area[0]) * draws[:-1, 0]
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    log_ratio = log_low + (log_high - log_low) * draws[:-1, 1] + jnp.log(aspect)
    side = jnp.sqrt(share * (height * width).astype(jnp.float32))
    heights = jnp.round(side * jnp.exp(-log_ratio / 2)).astype(jnp.int32)
    widths = jnp.round(side * jnp.exp(log_ratio / 2)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    any_fits, first = jnp.any(fits), jnp.stack([heights, widths], axis=1)[jnp.argmax(fits)]
    box = jnp.where(any_fits, first, _central_sides(height, width, ratio, aspect))
    room = jnp.stack([height, width]) - box
    place = jnp.floor(draws[-1] * (room + 1)).astype(jnp.int32)
    return jnp.concatenate([jnp.where(any_fits, place, room // 2), box])


def crop(image: jax.Array, box: jax.Array, size: int) -> jax.Array:
    """A box of an image, resampled to a square.

    Pixels outside the box have no influence, as if the box had been cut out first. The cubic
    convolution overshoots at edges. As in PIL, grey levels are cut to 0..255 after the columns are
    resampled and again after the rows; unlike in PIL, they are not rounded.

    Args:
        image: [H, W, C] in 0..255.
        box: [4] (top, left, height, width) in pixels, inside the image; sides of 1 or more.
        size: Side of the result in pixels.

    Returns:
        float32 [size, size, C] in 0..255.

    Raises:
        ValueError: If the image is not [H, W, C], or the size is not positive.
    """
    if image.ndim != 3:
        raise ValueError(f"crop takes one image [H, W, C], got shape {image.shape}")
    if size < 1:
        raise ValueError(f"size={size} of a crop: use 1 pixel or more")
    top, left, height, width = box
    rows = resample_matrix(top, height, size, image.shape[0])
    columns = resample_matrix(left, width, size, image.shape[1])
    # By default accelerators round factors to 8 or 11 bits, an error of up to half a grey level.
    exact = jax.lax.Precision.HIGHEST
    pixels = jnp.einsum("vw,hwc->hvc", columns, image.astype(jnp.float32), precision=exact)
    pixels = jnp.clip(pixels, 0.0, 255.0)
    pixels = jnp.einsum("uh,hvc->uvc", rows, pixels, precision=exact)
    return jnp.clip(pixels, 0.0, 255.0)


def resample_matrix(
    start: jax.Array | int,
    length: jax.Array | int,
    out_size: int,
    in_size: int,
    *,
    filled: jax.Array | int | None = None,
    kernel: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Weights that resample an interval of a line of pixels.

    Args:
        start: First pixel of the interval.
        length: Pixels in it, 1 or more.
        out_size: Pixels of the result.
        in_size: Pixels of the line.
        filled: First pixels of the result that the interval becomes; None for all.
        kernel: Weight by distance in pixels of the coarser line; None for ``cubic``.

    Returns:
        float32 [out_size, in_size]; rows sum to 1, and are zero outside the interval and from
        ``filled`` on.
    """
    scale = jnp.asarray(length, jnp.float32) / (out_size if filled is None else filled)
    pixels = jnp.arange(in_size)[None, :]
    centres = start + (jnp.arange(out_size)[:, None] + 0.5) * scale
    distance = (pixels + 0.5 - centres) / jnp.maximum(scale, 1.0)
    inside = (pixels >= start) & (pixels < start + length)
    weights = jnp.where(inside, (kernel or cubic)(distance), 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    if filled is None:
        return weights
    return jnp.where(jnp.arange(out_size)[:, None] < filled, weights, 0.0)


def linear(x: jax.Array) -> jax.Array:
    """The kernel of linear interpolation, a triangle, zero from |x| = 1."""
    return jnp.maximum(1 - jnp.abs(x), 0.0)


def cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic convolution kernel, zero from |x| = 2."""
    x = jnp.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = _A * (((x - 5) * x + 8) * x - 4)
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _central_sides(
    height: jax.Array, width: jax.Array, ratio: tuple[float, float], aspect: jax.Array | float
) -> jax.Array:
    """int32 [2] height and width of the largest box with a ratio in range."""
    low, high = (bound * aspect for bound in ratio)
    tallest = jnp.round(width / low).astype(jnp.int32)
    widest = jnp.round(height * high).astype(jnp.int32)
    sides = jnp.stack([jnp.minimum(height, tallest), jnp.minimum(width, widest)])
    return jnp.maximum(sides, 1)


def _sides(extent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32 height and width of the valid part; an empty one counts as one pixel."""
    if extent.shape != (2,):
        raise ValueError(f"extent is [2] (height, width), got shape {extent.shape}")
    height, width = jnp.maximum(extent.astype(jnp.int32), 1)
    return height, width
