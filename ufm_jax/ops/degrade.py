"""Blur and noise as a poor scanner makes them, in the image that the encoder sees.

These are the three degradations of UltraFedFM (npj Digital Medicine 8:714, 2025). Blurs are sums of
shifted copies of the image, tap by tap, which fuse into one loop on every backend. A convolution
with one channel costs several times as much.
"""

import jax
import jax.numpy as jnp
import numpy as np

MOTION_TAPS = 24
MOTION_DEGREES = 45.0
GAUSSIAN_RADIUS = 1.1
SALT_AND_PEPPER_DENSITY = 0.1

_GAUSSIAN_PASSES = 3
_INTERPOLATION_STEPS = 32
_INTERPOLATION_UNIT = _INTERPOLATION_STEPS**2


def degrade(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """An image degraded, with a probability, in one to three ways.

    The seven non-empty subsets of motion blur, Gaussian blur, and salt and pepper are equally
    likely. They are applied in this order.

    Args:
        key: Random key.
        image: [H, W, C] in 0..255.
        probability: Probability of degrading at all.

    Returns:
        float32 [H, W, C] in 0..255, up to rounding.

    Raises:
        ValueError: If the image is not [H, W, C] with sides above half of ``MOTION_TAPS``, or the
            probability is not from 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} of degrading: use a value from 0 to 1")
    subset_key, noise_key = jax.random.split(key)
    whether, which = jax.random.uniform(subset_key, (2,))
    subset = jnp.where(whether < probability, 1 + jnp.floor(7 * which).astype(jnp.int32), 0)
    image = image.astype(jnp.float32)
    image = jnp.where((subset & 1) > 0, motion_blur(image), image)
    image = jnp.where((subset & 2) > 0, gaussian_blur(image), image)
    return jnp.where((subset & 4) > 0, salt_and_pepper(noise_key, image), image)


def motion_blur(image: jax.Array) -> jax.Array:
    """An image smeared along a line, with grey levels stretched to 0..255.

    As published, grey levels are whole: the image is rounded, smeared and rounded again, and then
    stretched over all channels together. An image without contrast turns black. Edges are continued
    by reflection about the outermost pixels.

    Args:
        image: [H, W, C] in 0..255, sides larger than half of ``MOTION_TAPS``.

    Returns:
        float32 [H, W, C] in 0..255; the levels before the stretch are the same on every backend.

    Raises:
        ValueError: If the image is not [H, W, C], or too small.
    """
    kernel = motion_kernel(MOTION_TAPS, MOTION_DEGREES)
    unit = MOTION_TAPS * _INTERPOLATION_UNIT
    # Sums of whole numbers below 2 ** 24 are exact in float32 in any order.
    smeared = _correlate(jnp.round(image.astype(jnp.float32)), kernel, "reflect")
    levels = jax.lax.div(smeared.astype(jnp.int32) + (unit // 2 - 1), unit).astype(jnp.float32)
    low, high = levels.min(), levels.max()
    return (levels - low) * 255.0 / jnp.maximum(high - low, 1.0)


def gaussian_blur(image: jax.Array) -> jax.Array:
    """PIL's ``GaussianBlur`` of radius 1.1, which is three box blurs, without its rounding.

    Args:
        image: [H, W, C] in 0..255.

    Returns:
        float32 [H, W, C] in 0..255, up to rounding.

    Raises:
        ValueError: If the image is not [H, W, C], or too small.
    """
    kernel = gaussian_kernel(GAUSSIAN_RADIUS)
    # Three symmetric passes that repeat the edge equal one pass that mirrors it.
    blurred = _correlate(image.astype(jnp.float32), kernel[:, None], "symmetric")
    return _correlate(blurred, kernel[None, :], "symmetric")


def salt_and_pepper(key: jax.Array, image: jax.Array) -> jax.Array:
    """An image with random white and black pixels, half of ``SALT_AND_PEPPER_DENSITY`` each.

    Args:
        key: Random key.
        image: [H, W, C] in 0..255.

    Returns:
        float32 [H, W, C]; all channels of a pixel change together.

    Raises:
        ValueError: If the image is not [H, W, C].
    """
    _check_image(image, 0)
    height, width, _ = image.shape
    # 16 random bits for each pixel suffice, and cost half as much as a float.
    words = jax.random.bits(key, (-(-height * width // 2),), jnp.uint32)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: height * width]
    draws = draws.reshape(height, width, 1)
    half = round(SALT_AND_PEPPER_DENSITY / 2 * 2**16)
    image = jnp.where(draws < half, 255.0, image.astype(jnp.float32))
    return jnp.where(draws >= 2**16 - half, 0.0, image)


def motion_kernel(taps: int, degrees: float) -> np.ndarray:
    """The published motion kernel: a diagonal of ones, rotated.

    The diagonal already lies at 45 degrees, so that a turn by 45 makes the smear horizontal. As
    OpenCV does, it rotates about (taps / 2, taps / 2) with bilinear interpolation at 1/32 of a
    pixel. Parts that leave the square are lost, so that the sum stays below that of a mean.

    Args:
        taps: Side of the kernel.
        degrees: Angle of the turn, anticlockwise.

    Returns:
        int64 [taps, taps] in units of 1 / (1024 * taps), to be correlated with the image, centre at
        ``taps // 2``.
    """
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    middle = taps / 2
    rows, columns = np.mgrid[:taps, :taps]

    def source(x: float, y: float) -> np.ndarray:
        """Coordinates before the turn in 1/32 of a pixel, in OpenCV's fixed-point arithmetic."""
        shift = middle - (x + y) * middle
        fine = np.rint(1024 * x * columns) + np.rint(1024 * (y * rows + shift))
        return (fine.astype(int) + 16) // 32

    column, row = source(cos, -sin), source(sin, cos)
    diagonal = np.pad(np.eye(taps, dtype=int), taps)
    kernel = np.zeros((taps, taps), int)
    for down, right in np.ndindex(2, 2):
        weight = _share(row, down) * _share(column, right)
        upper, left = row // _INTERPOLATION_STEPS, column // _INTERPOLATION_STEPS
        kernel += weight * diagonal[upper + down + taps, left + right + taps]
    return kernel


def gaussian_kernel(radius: float) -> np.ndarray:
    """The taps of PIL's Gaussian blur: a box of fractional width, convolved three times.

    Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering",
    2011: whole pixels within ``l`` of the centre count 1, the next ones a share that gives three
    passes the variance ``radius ** 2``.

    Args:
        radius: Standard deviation in pixels.

    Returns:
        float64 [odd], symmetric, of sum 1.
    """
    variance = radius**2 / _GAUSSIAN_PASSES
    whole = int((np.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    share /= 6 * (variance - (whole + 1) ** 2)
    box = np.array([share, *[1.0] * (2 * whole + 1), share])
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box)


def _share(position: np.ndarray, upper: int) -> np.ndarray:
    """Bilinear weight, in 1/32, of the lower or upper neighbour of positions in 1/32 of a pixel."""
    fraction = position % _INTERPOLATION_STEPS
    return fraction if upper else _INTERPOLATION_STEPS - fraction


def _correlate(image: jax.Array, kernel: np.ndarray, edge: str) -> jax.Array:
    """Correlates each channel with a constant kernel whose centre is at half its sides.

    Args:
        image: float32 [H, W, C].
        kernel: [kh, kw].
        edge: Continuation beyond the edge, as a mode of ``numpy.pad``.
    """
    before = [side // 2 for side in kernel.shape]
    after = [side - 1 - side // 2 for side in kernel.shape]
    _check_image(image, max(before))
    height, width, channels = image.shape
    padding = ((before[0], after[0]), (before[1], after[1]), (0, 0))
    # Columns and channels as one axis: a tap is then one run of memory in every row.
    padded = jnp.pad(image, padding, mode=edge).reshape(height + sum(padding[0]), -1)
    total = jnp.zeros((height, width * channels), jnp.float32)
    for row, column in np.argwhere(kernel):
        start = column * channels
        tap = padded[row : row + height, start : start + width * channels]
        total = total + np.float32(kernel[row, column]) * tap
    return total.reshape(image.shape)


def _check_image(image: jax.Array, reach: int) -> None:
    if image.ndim != 3 or min(image.shape[:2]) <= reach:
        raise ValueError(
            f"give one image [H, W, C] with sides above {reach} pixels, not {image.shape}"
        )
