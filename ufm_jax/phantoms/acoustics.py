"""Image formation on the beam grid: scatterers, point-spread function, envelope, log compression.

Fully developed speckle (Wagner, Smith, Sandrik and Lopez, IEEE Trans. Sonics Ultrason. 30:156,
1983): many scatterers in a resolution cell make the echo a circular complex Gaussian, and its
envelope follows the Rayleigh law, mean/std = sqrt(pi / (4 - pi)) = 1.913.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

from ufm_jax.phantoms.probe import Grid, Probe

# Rows and beams simulated beyond each edge, so that the periodic filters meet no opposite edge.
_GUARD_ROWS, _GUARD_BEAMS = 8, 12
_MIN_SIGMA, _MAX_SIGMA = 0.7, 4.0
_SIDE_LOBE_WIDTH = 5.0


@dataclass(frozen=True)
class PointSpread:
    """The echo of a point: separable, Gaussian, wider across as it leaves the focus.

    Attributes:
        axial: Standard deviation along the beam, samples.
        lateral: float32 [R, 1], standard deviation across beams, beams.
        side_lobe: Share of the response in a pedestal five times as wide.
    """

    axial: float
    lateral: np.ndarray
    side_lobe: float = 0.0


def point_spread(
    probe: Probe, grid: Grid, pulse: float, sharpness: float, side_lobe: float
) -> PointSpread:
    """The point-spread function of a probe focused at 40 % of its depth.

    Across, a focused aperture A resolves about wavelength * r / A at range r, and a cone of echoes
    away from the focus is wider still. Both are limited to what the grid can hold. ``pulse`` is the
    pulse length in wavelengths, ``side_lobe`` the share of the response in side lobes;
    ``sharpness`` divides the lateral width.
    """
    f_number = np.maximum(grid.r / min(probe.aperture, 25.0), 1.2)
    defocus = 0.012 * np.abs(grid.r - 0.4 * probe.depth)
    width = np.hypot(0.9 * probe.wavelength * f_number, defocus) / sharpness
    lateral = np.clip(width / grid.pitch, _MIN_SIGMA, _MAX_SIGMA).astype(np.float32)
    axial = float(np.clip(pulse * probe.wavelength / grid.step, _MIN_SIGMA, _MAX_SIGMA / 2))
    return PointSpread(axial, lateral, side_lobe)


def envelope(
    amplitude: np.ndarray,
    mirror: np.ndarray,
    spread: PointSpread,
    rng: np.random.Generator,
    looks: int = 1,
) -> np.ndarray:
    """The envelope of the echoes of random scatterers and of coherent interfaces.

    Scatterers are white circular complex Gaussian noise times ``amplitude``; the sum with the
    interfaces is filtered by the point-spread function. Where ``amplitude`` is 1 all around and
    ``mirror`` 0, the envelope is Rayleigh distributed with mean square 1. A wide interface of
    amplitude m alone gives m.

    Args:
        amplitude: [R, B], root mean square amplitude of the scatterers.
        mirror: [R, B], amplitude of the interfaces.
        spread: The point-spread function.
        rng: Source of the scatterers.
        looks: Independent scatterer fields whose envelopes are averaged (spatial compounding); it
            multiplies mean/std of the speckle by sqrt(looks).

    Returns:
        float32 [R, B].
    """
    guard = ((_GUARD_ROWS, _GUARD_ROWS), (_GUARD_BEAMS, _GUARD_BEAMS))
    amplitude, mirror = np.pad(amplitude, guard, "edge"), np.pad(mirror, guard, "edge")
    rows, beams = amplitude.shape
    along = _gaussian_transfer(rows, spread.axial)[:, None]
    sigma = np.pad(spread.lateral[:, 0], _GUARD_ROWS, "edge")[:, None]
    across = (1 - spread.side_lobe) * _gaussian_transfer(beams, sigma)
    across += spread.side_lobe * _gaussian_transfer(beams, _SIDE_LOBE_WIDTH * sigma)
    # Twice the mean power: a circular Gaussian has it in each of its two parts.
    power = 2 * np.mean(along**2) * np.mean(across**2, axis=1, keepdims=True)
    steady = _filter(mirror.astype(np.complex64), along, across).real
    total = np.zeros((rows, beams), np.float32)
    for _ in range(looks):
        parts = rng.standard_normal((rows, beams, 2), dtype=np.float32)
        scatter = parts.view(np.complex64)[..., 0] * amplitude
        total += np.abs(_filter(scatter, along, across / np.sqrt(power)) + steady)
    return total[_GUARD_ROWS:-_GUARD_ROWS, _GUARD_BEAMS:-_GUARD_BEAMS] / looks


def _gaussian_transfer(length: int, sigma: np.ndarray | float) -> np.ndarray:
    omega = (2 * np.pi * np.fft.fftfreq(length)).astype(np.float32)
    return np.exp(-0.5 * np.square(omega * sigma))


def _filter(field: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    field = scipy.fft.ifft(scipy.fft.fft(field, axis=0) * along, axis=0)
    return scipy.fft.ifft(scipy.fft.fft(field, axis=1) * across, axis=1)


def transmission(attenuation: np.ndarray, step: float, blur: float = 2.5) -> np.ndarray:
    """What is left of the sound on its way to each sample and back.

    Args:
        attenuation: [R, B], round-trip loss, dB/cm.
        step: Distance of two samples, mm.
        blur: Standard deviation across beams, beams: the aperture sees around a small obstacle.

    Returns:
        Amplitude factor, float32 [R, B]: dark behind absorbers, above 1 behind fluid.
    """
    # A sample's own loss acts behind it: the front of a bone is bright, its back dark.
    loss = np.cumsum(attenuation, axis=0, dtype=np.float32) - attenuation
    loss = ndimage.gaussian_filter1d(loss * (step / 10), blur, axis=1, mode="nearest")
    return np.asarray(10 ** (-np.clip(loss, -18.0, 90.0) / 20), np.float32)


def log_compress(
    amplitude: np.ndarray, dynamic_range: float, headroom: float, gain: np.ndarray | float = 0.0
) -> np.ndarray:
    """Maps amplitude to grey: linear in decibels, clipped to the display's dynamic range.

    Args:
        amplitude: Envelope, 1 = healthy liver.
        dynamic_range: Decibels between black and white.
        headroom: Amplitude shown as white, dB.
        gain: Added, dB; broadcast.

    Returns:
        Level in 0..1: 1 + (20 log10(amplitude) + gain - headroom) / dynamic_range, clipped.
    """
    decibels = 20 * np.log10(np.maximum(amplitude, 1e-6)) + gain
    return np.clip(1 + (decibels - headroom) / dynamic_range, 0.0, 1.0)


def grey_map(level: np.ndarray, gamma: float, contrast: float) -> np.ndarray:
    """The display curve: a power, blended with a smooth step.

    Args:
        level: In 0..1.
        gamma: Exponent; above 1 darkens.
        contrast: In 0..1, share of 3 t^2 - 2 t^3.

    Returns:
        In 0..1, increasing in ``level``.
    """
    curve = level**gamma
    return curve + contrast * (curve * curve * (3 - 2 * curve) - curve)
