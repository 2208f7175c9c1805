"""What the sound meets: maps on the beam grid, and how anatomy is painted onto them."""

from dataclasses import dataclass, replace

import numpy as np

from ufm_jax.phantoms.probe import Grid

ANECHOIC = -45.0


@dataclass(frozen=True)
class Tissue:
    """Acoustic maps on a beam grid, each float32 [R, B].

    Attributes:
        echo: Mean backscatter, dB relative to healthy liver.
        mirror: Amplitude of coherent reflection at interfaces; 1 = as strong as liver's
            backscatter.
        attenuation: Round-trip loss beyond what the time-gain compensation expects, dB/cm; negative
            in fluid.
        lesion: 1 inside a lesion.
    """

    echo: np.ndarray
    mirror: np.ndarray
    attenuation: np.ndarray
    lesion: np.ndarray


def uniform(grid: Grid, echo: float) -> Tissue:
    """Homogeneous tissue."""
    zeros = np.zeros_like(grid.x)
    return Tissue(np.full_like(grid.x, echo), zeros, zeros, zeros)


def paint(
    tissue: Tissue,
    alpha: np.ndarray,
    echo: np.ndarray | float,
    attenuation: np.ndarray | float = 0.0,
    keep_mirror: bool = False,
) -> Tissue:
    """Replaces the tissue where ``alpha`` is 1, lesions included, and blends where it is below 1.

    ``echo`` is in dB, ``attenuation`` in dB/cm. ``keep_mirror`` leaves the old interfaces visible.
    """
    return replace(
        tissue,
        echo=tissue.echo + alpha * (echo - tissue.echo),
        attenuation=tissue.attenuation + alpha * (attenuation - tissue.attenuation),
        mirror=tissue.mirror if keep_mirror else tissue.mirror * (1 - alpha),
        lesion=tissue.lesion * (1 - alpha),
    )


def brighten(tissue: Tissue, decibels: np.ndarray) -> Tissue:
    """Adds to the backscatter, dB."""
    return replace(tissue, echo=tissue.echo + decibels)


def reflect(tissue: Tissue, amplitude: np.ndarray) -> Tissue:
    """Adds interfaces of some amplitude."""
    return replace(tissue, mirror=tissue.mirror + amplitude)


def absorb(tissue: Tissue, decibels_per_cm: np.ndarray) -> Tissue:
    """Adds to the attenuation, dB/cm."""
    return replace(tissue, attenuation=tissue.attenuation + decibels_per_cm)
