"""Changes of a B-mode picture that come from the scanner's knobs and its physics.

They replace colour operations made for photographs. A B-mode picture shows the logarithm of the
echo's envelope: 255 grey levels span a dynamic range of about ``DYNAMIC_RANGE_DB``, so that a
factor on the echo adds a number of grey levels (Szabo, "Diagnostic Ultrasound Imaging: Inside Out",
2nd ed. 2014, and for each knob Zagzebski, "Essentials of Ultrasound Physics", 1996):

- overall gain: a factor on all echoes;
- time gain compensation (TGC): sliders, each with a factor on the echoes of one depth;
- dynamic range: how many decibels the grey levels span, down from white;
- grey map: a curve from level to level, here a power;
- speckle: interference of many scatterers, a factor on the echo that is nearly independent from one
  resolution cell to the next. Fully developed, it is Rayleigh distributed (Burckhardt, "Speckle in
  ultrasound B-mode scans", 1978; Wagner et al. 1983): 5.6 dB of standard deviation;
- lateral resolution: the beam is wider than the pulse is long, so blur is mostly sideways.

Depth is taken to run down the picture and width across, which holds for linear probes and near the
middle of a sector. Black pixels, outside of the scan, stay black.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from ufm_jax.ranges import Checked, Range, Share

DYNAMIC_RANGE_DB = 60.0
"""Decibels that the grey levels span; scanners offer some 40 to 80."""

_LEVELS_PER_DB = 255.0 / DYNAMIC_RANGE_DB
_ECHO_LEVEL = 16.0
"""From this level on changes apply in full; below it in proportion, since black has no echo."""
_SLIDERS = 8
_BLUR_REACH = 4
_SPECKLE_TAPS = ((0.5, 1.0, 0.5), (0.25, 0.75, 1.0, 0.75, 0.25))
"""Shape of a resolution cell down and across, in pixels."""

Decibels = Annotated[float, Range(0, 1000)]


@dataclass(frozen=True)
class UltrasoundStrengths(Checked):
    """Largest changes; each is drawn uniformly from 0, or from the negative, to this value.

    Attributes:
        gain: Overall gain, dB either way.
        tgc: Gain of each slider of depth, dB either way.
        dynamic_range: Share by which the dynamic range is widened or narrowed, below 1.
        gamma: Logarithm of the grey map's exponent, either way.
        speckle: Standard deviation of added speckle, dB.
        blur: Standard deviation of the sideways blur, pixels, up to 2.
        probability: Probability of each of the six changes.

    Raises:
        ValueError: If a number is impossible.
    """

    gain: Decibels = 6.0
    tgc: Decibels = 4.0
    dynamic_range: Annotated[float, Range(0, 0.9)] = 0.25
    gamma: Annotated[float, Range(0, 10)] = 0.3
    speckle: Decibels = 1.5
    blur: Annotated[float, Range(0, _BLUR_REACH / 2)] = 1.0
    probability: Share = 0.5


def ultrasound_augment(
    key: jax.Array, image: jax.Array, strengths: UltrasoundStrengths
) -> jax.Array:
    """A picture as another examiner, scanner or preset might have made it.

    Changes follow the signal's path: blur, speckle, TGC, gain, dynamic range, grey map.

    Args:
        key: Random key.
        image: [H, W, C] in 0..255.
        strengths: Largest changes.

    Returns:
        float32 [H, W, C] in 0..255.

    Raises:
        ValueError: If the image is not [H, W, C].
    """
    if image.ndim != 3:
        raise ValueError(f"ultrasound_augment takes one image [H, W, C], got shape {image.shape}")
    draw_key, slider_key, noise_key = jax.random.split(key, 3)
    whether, draws = jax.random.uniform(draw_key, (2, 6))
    chosen = (whether < strengths.probability).astype(jnp.float32)
    amount, signed = draws * chosen, (2 * draws - 1) * chosen
    sliders = jax.random.uniform(slider_key, (_SLIDERS,), minval=-1.0) * chosen[2]
    image = image.astype(jnp.float32)
    if strengths.blur:
        image = lateral_blur(image, strengths.blur * amount[0])
    if strengths.speckle:
        image = add_speckle(noise_key, image, strengths.speckle * amount[1])
    if strengths.tgc:
        image = depth_gain(image, strengths.tgc * sliders)
    if strengths.gain:
        image = gain(image, strengths.gain * signed[3])
    if strengths.dynamic_range:
        image = change_dynamic_range(image, 1.0 + strengths.dynamic_range * signed[4])
    if strengths.gamma:
        image = grey_map(image, jnp.exp(strengths.gamma * signed[5]))
    return image


def gain(image: jax.Array, decibels: jax.Array | float) -> jax.Array:
    """The picture [H, W, C] at an overall gain higher by ``decibels``."""
    return _add(image, decibels * _LEVELS_PER_DB)


def depth_gain(image: jax.Array, sliders: jax.Array) -> jax.Array:
    """The picture [H, W, C] with TGC sliders [S] raised by decibels, interpolated over depth."""
    height, knobs = image.shape[0], sliders.shape[0]
    depths = jnp.linspace(0.0, knobs - 1.0, height)
    decibels = jnp.interp(depths, jnp.arange(float(knobs)), sliders)
    return _add(image, decibels[:, None, None] * _LEVELS_PER_DB)


def change_dynamic_range(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """The picture [H, W, C] with ``factor`` times the decibels between black and white.

    White stays white; with more decibels weak echoes are brighter, with fewer they vanish.
    """
    return _add(image, (255.0 - image) * (1.0 - 1.0 / factor))


def grey_map(image: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """The picture [H, W, C] with levels x in 0..1 as x ** exponent."""
    return 255.0 * jnp.clip(image / 255.0, 0.0, 1.0) ** exponent


def add_speckle(key: jax.Array, image: jax.Array, decibels: jax.Array | float) -> jax.Array:
    """The picture [H, W, C] with speckle of standard deviation ``decibels`` added.

    Independent noise, smoothed over a resolution cell of about 2 x 3 pixels; all channels alike.
    """
    noise = jax.random.normal(key, image.shape[:2])
    for axis, taps in enumerate(_SPECKLE_TAPS):
        weights = np.asarray(taps) / np.linalg.norm(taps)
        noise = _smooth(noise, jnp.asarray(weights, jnp.float32), axis, "wrap")
    return _add(image, noise[..., None] * decibels * _LEVELS_PER_DB)


def lateral_blur(image: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """The picture [H, W, C] blurred by a Gaussian: ``sigma`` pixels across, a third of it down."""
    offsets = jnp.arange(-_BLUR_REACH, _BLUR_REACH + 1, dtype=jnp.float32)
    for axis, width in ((1, sigma), (0, sigma / 3)):
        # A width of 0 is the limit of narrow kernels, which do not change the picture.
        weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(width, 1e-3)))
        image = _smooth(image, weights / weights.sum(), axis, "edge")
    return image


def _add(image: jax.Array, levels: jax.Array | float) -> jax.Array:
    """Adds grey levels within 0..255, to weak echoes in proportion to their level."""
    share = jnp.clip(image.max(axis=-1, keepdims=True) / _ECHO_LEVEL, 0.0, 1.0)
    return jnp.clip(image + levels * share, 0.0, 255.0)


def _smooth(array: jax.Array, weights: jax.Array, axis: int, edge: str) -> jax.Array:
    """Correlates an array with weights [odd] along an axis, continued beyond its ends."""
    reach = weights.shape[0] // 2
    padding = [(reach, reach) if i == axis else (0, 0) for i in range(array.ndim)]
    padded = jnp.pad(array, padding, mode=edge)
    size = array.shape[axis]
    shifted = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * reach + 1)]
    return sum(
        (weight * part for weight, part in zip(weights, shifted, strict=True)),
        jnp.zeros_like(array),
    )
