"""One simulated image: anatomy, echoes, display, scan conversion, marks."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ufm_jax.phantoms import MIN_SIZE, acoustics
from ufm_jax.phantoms.layout import Layout, picture_layout, scan_convert
from ufm_jax.phantoms.marks import burn_in
from ufm_jax.phantoms.noise import noise
from ufm_jax.phantoms.probe import Grid, beam_grid
from ufm_jax.phantoms.scenes import EXAMS, Exam
from ufm_jax.phantoms.site import ExamStyle, SiteStyle, site_style
from ufm_jax.phantoms.tissue import Tissue, absorb, brighten
from ufm_jax.randomness import generator


@dataclass(frozen=True)
class Phantom:
    """A simulated image with its truth.

    Attributes:
        image: uint8 [S, S], the picture in the top-left corner, the rest black.
        mask: uint8 [S, S], 0 background, 1 lesion.
        label: Index into ``LABEL_NAMES``.
        geometry: float32 [7], the scan area as ``ufm_jax.data.federated`` defines it.
        extent: (height, width) of the picture.
        mm: Millimetres a pixel.
    """

    image: np.ndarray
    mask: np.ndarray
    label: int
    geometry: np.ndarray
    extent: tuple[int, int]
    mm: float

    def picture_of(self, canvas: np.ndarray) -> np.ndarray:
        """The part of ``image`` or ``mask`` that is the picture."""
        height, width = self.extent
        return canvas[:height, :width]


def phantom(seed: int, site: int, index: int, size: int) -> Phantom:
    """Simulates image ``index`` of site ``site``, both numbered from 0: a pure function.

    ``size`` is S, in pixels. The anatomy does not depend on it; only its display does.

    Raises:
        ValueError: If a number is negative, or the size below ``MIN_SIZE``.
    """
    if index < 0:
        raise ValueError(f"index is {index}: a site's images are numbered from 0")
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}: a phantom needs at least {MIN_SIZE} pixels")
    rng = generator(seed, f"phantom site {site} image {index}")
    return simulate(site_style(seed, site), rng, size)


def simulate(style: SiteStyle, rng: np.random.Generator, size: int) -> Phantom:
    """Simulates one image of ``size`` pixels in a site's style; ``rng`` gives all randomness."""
    exam_style = style.exams[rng.choice(len(style.exams), p=[exam.weight for exam in style.exams])]
    exam = EXAMS[exam_style.name]
    label = _draw_label(style, exam, rng)
    probe = exam_style.probes[rng.integers(len(exam_style.probes))]
    grid = _deformed(beam_grid(probe), rng)
    tissue = _mottled(exam.scene(grid, rng, label), grid, rng)
    level = display(tissue, grid, style, rng)
    layout = picture_layout(probe, exam_style.margins, size)
    picture = np.rint(255 * scan_convert(level, layout)).astype(np.uint8)
    lesion = (scan_convert(tissue.lesion, layout) > 0.5).astype(np.uint8)
    picture = _mark(picture, lesion, style, exam_style, layout, rng)
    return Phantom(
        image=_on_canvas(picture, size),
        mask=_on_canvas(lesion, size),
        label=label,
        geometry=layout.geometry.copy(),
        extent=layout.extent,
        mm=1 / layout.scale,
    )


def _draw_label(style: SiteStyle, exam: Exam, rng: np.random.Generator) -> int:
    weights = np.array([style.class_weights[label] for label in exam.labels])
    return int(exam.labels[rng.choice(len(weights), p=weights / weights.sum())])


def display(tissue: Tissue, grid: Grid, style: SiteStyle, rng: np.random.Generator) -> np.ndarray:
    """From acoustic maps to grey levels on the beam grid: float32 [R, B] in 0..1.

    ``rng`` gives speckle, electronic noise and the operator's gain.
    """
    spread = acoustics.point_spread(grid.probe, grid, style.pulse, style.sharpness, style.side_lobe)
    left = acoustics.transmission(tissue.attenuation, grid.step) * _contact(grid, rng)
    amplitude = left * 10 ** (tissue.echo / 20)
    envelope = acoustics.envelope(amplitude, left * tissue.mirror, spread, rng, style.looks)
    share = grid.r / grid.probe.depth
    floor = 10 ** ((style.noise[0] + (style.noise[1] - style.noise[0]) * share) / 20)
    electronic = floor * np.abs(rng.standard_normal(envelope.shape, dtype=np.float32))
    knots = np.linspace(0, 1, len(style.tgc))
    gain = style.gain + rng.normal(0, 1.5) + np.interp(share, knots, style.tgc)
    level = acoustics.log_compress(
        np.hypot(envelope, electronic), style.dynamic_range, style.headroom, gain
    ).astype(np.float32)
    smooth = ndimage.gaussian_filter(level, (1.0, 0.8), mode="nearest")
    level = level + style.smoothing * (smooth - level)
    return acoustics.grey_map(level, style.gamma, style.contrast)


def _deformed(grid: Grid, rng: np.random.Generator) -> Grid:
    """Bends the plane that anatomy is drawn in, at two scales: organs are not ellipses."""
    depth = grid.probe.depth
    x, z = grid.x, grid.z
    for scale, size in ((0.3, 0.018), (0.09, 0.005)):
        u, v = grid.s / (scale * depth), grid.r / (scale * depth)
        x = x + size * depth * noise(rng, u, v)
        z = z + size * depth * noise(rng, u, v)
    return replace(grid, x=x, z=z)


def _mottled(tissue: Tissue, grid: Grid, rng: np.random.Generator) -> Tissue:
    """Varies the echo by patches, and the loss by columns: tissue is not even."""
    depth = grid.probe.depth
    patches = 2.2 * noise(rng, grid.s / (0.22 * depth), grid.r / (0.14 * depth))
    mottle = 1.3 * noise(rng, grid.s / (0.05 * depth), grid.r / (0.035 * depth))
    columns = noise(rng, grid.s / (0.12 * depth), grid.r / depth) * (30.0 / depth)
    return absorb(brighten(tissue, patches + mottle), columns)


def _contact(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Unequal contact of the probe with the skin; in a tenth of images one side has lost it."""
    loss = 1.5 * np.abs(noise(rng, grid.s / (0.5 * float(grid.s[0, -1]))))
    if rng.random() < 0.1:
        across = rng.choice((-1.0, 1.0)) * grid.s / float(grid.s[0, -1])
        loss = loss + 30.0 * np.clip((across - rng.uniform(0.5, 0.8)) / 0.5, 0.0, 1.0)
    return 10 ** (-loss / 20)


def _mark(
    picture: np.ndarray,
    lesion: np.ndarray,
    style: SiteStyle,
    exam_style: ExamStyle,
    layout: Layout,
    rng: np.random.Generator,
) -> np.ndarray:
    names = style.marks
    if rng.random() < style.callipers:
        names = (*names, "callipers")
    if not names:
        return picture
    lines = (
        EXAMS[exam_style.name].title,
        f"{style.station} {exam_style.probes[0].frequency:.1f}MHZ",
        f"MI {rng.uniform(0.5, 1.4):.1f}",
    )
    return burn_in(picture, names, layout, lines, lesion, rng)


def _on_canvas(picture: np.ndarray, size: int) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas
