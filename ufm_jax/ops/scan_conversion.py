"""Converts scans to the other probe geometry: a fan to a rectangle, a rectangle to a fan.

UltraFedFM (npj Digital Medicine 8:714, 2025) shows each image in both geometries. Both directions
are one polar resampling about an explicit apex,

    row = apex_row + r cos(theta),    column = apex_column + r sin(theta),

in which depth grows with r, downward, and theta grows to the right, so that they undo each other.
Every pixel of the result is a bilinear sample at the point it comes from. Pixel centres lie at
integers, and pixels outside the scan are 0.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ufm_jax.ops.sampling import bilinear

LINEAR, SECTOR = 1, 2
"""Kinds of a geometry; scans of any other kind are not converted."""

_MARGIN = 0.5
"""Points up to this far outside a scan, in pixels, belong to its border pixels."""
_DEEPEST = 50.0
"""Largest r_min over depth of a fan, whose arcs then look flat."""

Number = jax.Array | float


class Sector(NamedTuple):
    """A fan.

    Attributes:
        apex_row, apex_column: The point where the beams meet, pixels; it may lie above the image.
        r_min: Distance of the probe's face from the apex, pixels.
        r_max: Distance of the deepest echoes from the apex, pixels.
        theta_min, theta_max: Leftmost and rightmost beam, radians from straight down, positive to
            the right.
    """

    apex_row: Number
    apex_column: Number
    r_min: Number
    r_max: Number
    theta_min: Number
    theta_max: Number


class Rectangle(NamedTuple):
    """A linear scan, by the centres of its outermost pixels."""

    top: Number
    left: Number
    bottom: Number
    right: Number


@dataclass(frozen=True)
class Fan:
    """The upright fan that a rectangle becomes.

    Attributes:
        opening: Angle between the outermost beams, radians. 60 degrees is common for convex probes.
        face: r_min as a share of the depth r_max - r_min. None takes the share that keeps the
            aspect at half depth, or ``least_face`` if that is larger.
        least_face: See ``face``; a convex probe of 40 mm that looks 200 mm deep has 0.2.

    Raises:
        ValueError: If a number is impossible.
    """

    opening: float = math.radians(60)
    face: float | None = None
    least_face: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.opening < math.pi:
            raise ValueError(f"opening={self.opening} of a fan: use radians between 0 and pi")
        for name in ("face", "least_face"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _DEEPEST:
                raise ValueError(f"{name}={value} of a fan: use a number from 0 to {_DEEPEST}")


CONVEX = Fan()
"""A common abdominal probe."""


class _Source(NamedTuple):
    """The points [H, W] a result's pixels come from, and whether those pixels show the scan."""

    rows: jax.Array
    columns: jax.Array
    inside: jax.Array


def random_convert(
    key: jax.Array,
    image: jax.Array,
    extent: jax.Array,
    geometry: jax.Array,
    probability: float,
    fan: Fan = CONVEX,
) -> tuple[jax.Array, jax.Array]:
    """An image in the other probe geometry with a probability, by ``convert``.

    Raises:
        ValueError: If the probability is not from 0 to 1, or a shape is wrong.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} of converting: use a value from 0 to 1")
    chosen = jax.random.bernoulli(key, float(probability))
    return convert(image, extent, geometry * chosen, fan)


def convert(
    image: jax.Array, extent: jax.Array, geometry: jax.Array, fan: Fan = CONVEX
) -> tuple[jax.Array, jax.Array]:
    """An image in the other probe geometry.

    A sector becomes the rectangle of its beams, with sides in proportion to its depth and to its
    arc at half depth. A rectangle becomes a fan in the inverse proportion. Both are as large as the
    canvas allows, in its top-left corner. Parts of a scan outside the picture are black.

    Args:
        image: [S, S, C], the picture in the top-left corner.
        extent: [2] height and width of the picture.
        geometry: [7] (kind, a, b, c, d, e, f): kind 1 is followed by a ``Rectangle``, kind 2 by a
            ``Sector``, in pixels; an image of another kind does not change.
        fan: The fan that a rectangle becomes.

    Returns:
        The image, float32 [S, S, C], and its extent, int32 [2].

    Raises:
        ValueError: If a shape is not as above.
    """
    if image.ndim != 3 or 0 in image.shape or image.shape[0] != image.shape[1]:
        raise ValueError(f"convert takes one square canvas [S, S, C], got shape {image.shape}")
    if extent.shape != (2,) or geometry.shape != (7,):
        raise ValueError(
            f"convert takes extent [2] and geometry [7], got {extent.shape} and {geometry.shape}"
        )

    def one(
        image: jax.Array, extent: jax.Array, geometry: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        known = (geometry[0] == LINEAR) | (geometry[0] == SECTOR)
        return jax.lax.cond(known, partial(_convert, fan=fan), _leave, image, extent, geometry)

    # One by one, images of a batch that do not change cost nothing. A GPU takes all images at once,
    # since each turn of such a loop would cost it more.
    one_by_one = jax.custom_batching.sequential_vmap(one)
    arguments = image, extent.astype(jnp.int32), geometry.astype(jnp.float32)
    return jax.lax.platform_dependent(*arguments, cuda=one, rocm=one, default=one_by_one)


def _leave(image: jax.Array, extent: jax.Array, geometry: jax.Array) -> tuple[jax.Array, jax.Array]:
    del geometry
    return image.astype(jnp.float32), extent


def _convert(
    image: jax.Array, extent: jax.Array, geometry: jax.Array, fan: Fan
) -> tuple[jax.Array, jax.Array]:
    size, (kind, *numbers) = image.shape[0], geometry
    sector, rectangle = Sector(*numbers), Rectangle(*numbers[:4])
    flat, flat_extent = unwarped_rectangle(sector, size)
    bent, bent_extent = fitted_sector(rectangle, fan, size)
    is_sector = kind == SECTOR
    source = jax.lax.cond(
        is_sector,
        lambda: _polar_source(sector, flat, size, size),
        lambda: _beam_source(rectangle, bent, size, size),
    )
    return _sample(image, extent, source), jnp.where(is_sector, flat_extent, bent_extent)


def unwarped_rectangle(sector: Sector, size: int) -> tuple[Rectangle, jax.Array]:
    """The rectangle that a fan becomes on a canvas [size, size], and its int32 extent [2]."""
    depth = jnp.maximum(sector.r_max - sector.r_min, 1.0)
    arc = (sector.theta_max - sector.theta_min) * (sector.r_min + sector.r_max) / 2
    arc = jnp.maximum(arc, 1.0)
    scale = (size - 1) / jnp.maximum(depth, arc)
    last = jnp.round(jnp.stack([depth, arc]) * scale).astype(jnp.int32)
    last = jnp.clip(last, 1, size - 1)
    return Rectangle(0.0, 0.0, last[0].astype(jnp.float32), last[1].astype(jnp.float32)), last + 1


def fitted_sector(rectangle: Rectangle, fan: Fan, size: int) -> tuple[Sector, jax.Array]:
    """The fan that a rectangle becomes on a canvas [size, size], and its int32 extent [2]."""
    half = fan.opening / 2
    height = jnp.maximum(rectangle.bottom - rectangle.top, 1.0)
    aspect = (rectangle.right - rectangle.left) / height
    kept = jnp.clip(aspect / fan.opening - 0.5, fan.least_face, _DEEPEST)
    face = kept if fan.face is None else jnp.asarray(fan.face, jnp.float32)
    across, down = 2 * (face + 1) * math.sin(half), face + 1 - face * math.cos(half)
    depth = (size - 1) / jnp.maximum(across, down)
    apex = -face * depth * math.cos(half), across * depth / 2
    extent = jnp.round(jnp.stack([down, across]) * depth).astype(jnp.int32) + 1
    sector = Sector(*apex, face * depth, (face + 1) * depth, -half, half)
    return sector, jnp.clip(extent, 1, size)


def _polar_source(sector: Sector, target: Rectangle, height: int, width: int) -> _Source:
    """The points of a fan that the pixels of a rectangle come from."""
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    down = (rows - target.top) / jnp.maximum(target.bottom - target.top, 1.0)
    across = (columns - target.left) / jnp.maximum(target.right - target.left, 1.0)
    r = sector.r_min + down * (sector.r_max - sector.r_min)
    theta = sector.theta_min + across * (sector.theta_max - sector.theta_min)
    inside = (rows >= target.top) & (rows <= target.bottom)
    inside &= (columns >= target.left) & (columns <= target.right)
    return _Source(
        sector.apex_row + r * jnp.cos(theta), sector.apex_column + r * jnp.sin(theta), inside
    )


def _beam_source(rectangle: Rectangle, target: Sector, height: int, width: int) -> _Source:
    """The points of a rectangle that the pixels of a fan come from."""
    down = jnp.arange(height)[:, None] - target.apex_row
    right = jnp.arange(width)[None, :] - target.apex_column
    r, theta = jnp.hypot(down, right), jnp.arctan2(right, down)
    beyond_arcs = jnp.maximum(target.r_min - r, r - target.r_max)
    beyond_sides = r * jnp.maximum(target.theta_min - theta, theta - target.theta_max)
    deep = (r - target.r_min) / (target.r_max - target.r_min)
    across = (theta - target.theta_min) / (target.theta_max - target.theta_min)
    return _Source(
        rectangle.top + jnp.clip(deep, 0, 1) * (rectangle.bottom - rectangle.top),
        rectangle.left + jnp.clip(across, 0, 1) * (rectangle.right - rectangle.left),
        (beyond_arcs <= _MARGIN) & (beyond_sides <= _MARGIN),
    )


def _sample(image: jax.Array, extent: jax.Array, source: _Source) -> jax.Array:
    """Bilinear samples float32 [H, W, C] of the valid part of an image; 0 outside."""
    inside, places = source.inside, []
    for place, valid in zip(source[:2], extent, strict=True):
        inside &= (place >= -_MARGIN) & (place <= valid - 1 + _MARGIN)
        places.append(jnp.clip(place, 0, jnp.maximum(valid - 1, 0)))
    return jnp.where(inside[..., None], bilinear(image, *places), 0.0)
