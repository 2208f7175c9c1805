"""Institutions: each has its own probes, settings, patients and screen furniture."""

from dataclasses import dataclass

import numpy as np

from ufm_jax.phantoms.layout import Margins
from ufm_jax.phantoms.marks import BLANK
from ufm_jax.phantoms.probe import Probe
from ufm_jax.phantoms.scenes import EXAMS
from ufm_jax.randomness import generator

_DEPTH_SETTINGS = (0.88, 1.0, 1.14)


@dataclass(frozen=True)
class ExamStyle:
    """How a site does one examination.

    Attributes:
        name: Key of ``EXAMS``.
        weight: The examination's share of the site's images.
        probes: The probe at each depth setting in use.
        margins: How pictures are cut.
    """

    name: str
    weight: float
    probes: tuple[Probe, ...]
    margins: Margins


@dataclass(frozen=True)
class SiteStyle:
    """Everything that makes one institution's images look alike.

    Attributes:
        exams: What the site examines.
        class_weights: Share of each label, before a scene's own limits.
        gain: Gain, dB.
        dynamic_range: dB between black and white.
        headroom: Amplitude shown as white, dB above healthy liver.
        gamma, contrast: The display curve, see ``grey_map``.
        tgc: Error of the time-gain sliders, dB, from the face to the bottom.
        noise: Electronic noise at the face and at the bottom, dB relative to healthy liver.
        pulse: Pulse length, wavelengths.
        sharpness: Lateral resolution, 1 = usual.
        side_lobe: Share of the response in side lobes.
        looks: Images compounded into one.
        smoothing: Speckle reduction, share of a smoothed picture.
        marks: Burnt-in marks of every image.
        callipers: Share of images with callipers.
        station: Text on the screen.
    """

    exams: tuple[ExamStyle, ...]
    class_weights: tuple[float, ...]
    gain: float
    dynamic_range: float
    headroom: float
    gamma: float
    contrast: float
    tgc: tuple[float, ...]
    noise: tuple[float, float]
    pulse: float
    sharpness: float
    side_lobe: float
    looks: int
    smoothing: float
    marks: tuple[str, ...]
    callipers: float
    station: str


def site_style(seed: int, site: int) -> SiteStyle:
    """Draws the appearance of a site.

    It depends only on the federation's seed and the site's number, from 0. Main examinations are
    dealt from a deck that is shuffled again when it is used up: sites 0 to 6 specialise in seven
    different ones, and so do 7 to 13.

    Raises:
        ValueError: If ``site`` is negative.
    """
    if site < 0:
        raise ValueError(f"site is {site}: sites are numbered from 0")
    rng = generator(seed, f"phantom site {site}")
    weights = rng.dirichlet((8.0, 6.0, 5.0))
    return SiteStyle(
        exams=_exams(seed, site, rng),
        class_weights=tuple(weights.tolist()),
        gain=rng.normal(-4.0, 3.5),
        dynamic_range=rng.uniform(54, 76),
        headroom=rng.uniform(17, 22),
        gamma=rng.uniform(1.0, 1.7),
        contrast=rng.uniform(0.0, 0.6),
        tgc=tuple((np.array((1, 0, -4, -10)) + rng.normal(0, (1.5, 2, 2, 4))).tolist()),
        noise=(rng.uniform(-60, -48), rng.uniform(-46, -30)),
        pulse=rng.uniform(0.8, 1.4),
        sharpness=rng.uniform(0.75, 1.5),
        side_lobe=rng.uniform(0.005, 0.04),
        looks=int(rng.integers(1, 3)),
        smoothing=rng.uniform(0.45, 0.95),
        marks=_marks(rng),
        callipers=rng.choice((0.0, 0.15, 0.4)),
        station=f"{rng.choice(('US', 'XR', 'LQ', 'EP'))}-{rng.integers(1, 99)}",
    )


def _exams(seed: int, site: int, rng: np.random.Generator) -> tuple[ExamStyle, ...]:
    """The site's main examination, and up to two others."""
    deck = generator(seed, f"phantom main exams {site // len(EXAMS)}").permutation(list(EXAMS))
    main = str(deck[site % len(EXAMS)])
    others = rng.permutation([name for name in EXAMS if name != main])
    names = (main, *map(str, others[: rng.integers(0, 3)]))
    shares = (1.0, *(rng.uniform(0.1, 0.35) for _ in names[1:]))
    total = sum(shares)
    return tuple(
        ExamStyle(name, share / total, _probes(name, rng), _margins(name, rng))
        for name, share in zip(names, shares, strict=True)
    )


def _probes(name: str, rng: np.random.Generator) -> tuple[Probe, ...]:
    usual = EXAMS[name].probe
    depth = usual.depth * rng.uniform(0.88, 1.15)
    frequency = usual.frequency * rng.uniform(0.75, 1.3)
    aperture = usual.aperture * rng.uniform(0.92, 1.15)
    radius = usual.radius * rng.uniform(0.8, 1.2)
    half_angle = usual.half_angle * rng.uniform(0.92, 1.15)
    return tuple(
        Probe(usual.kind, frequency, depth * setting, aperture, radius, half_angle)
        for setting in _DEPTH_SETTINGS
    )


def _margins(name: str, rng: np.random.Generator) -> Margins:
    """How pictures are cut: linear ones to the scan or nearly so; fans into it, to it, or wide."""
    if not EXAMS[name].probe.is_sector:
        side = rng.choice((0.0, 0.0, 0.05, 0.12))
        return Margins(side, rng.choice((0.0, 0.0, 0.06)), rng.choice((0.0, 0.0, 0.04)))
    sides = rng.choice((-0.3, -0.18, -0.08, 0.02, 0.2))
    return Margins(sides, rng.choice((0.0, 0.02, 0.06)), rng.choice((-0.12, 0.0, 0.03, 0.08)))


def _marks(rng: np.random.Generator) -> tuple[str, ...]:
    chances = {"text": 0.5, "side": 0.2, "grey_bar": 0.4, "logo": 0.3, "ticks": 0.4}
    chances |= {"focus": 0.25, BLANK: 0.12}
    return tuple(name for name, chance in chances.items() if rng.random() < chance)


def site_sizes(seed: int, num_sites: int, mean_size: float, sigma: float) -> np.ndarray:
    """Draws how many images each site holds: log-normal, scaled to the mean.

    Args:
        seed: The federation's seed.
        num_sites: K.
        mean_size: Mean over the sites drawn, before rounding up to at least one image.
        sigma: Standard deviation of the logarithm; 0 = all equal.

    Returns:
        int64 [K], each at least 1.

    Raises:
        ValueError: If ``num_sites`` or the mean is below 1, or ``sigma`` is negative.
    """
    if num_sites < 1 or mean_size < 1 or sigma < 0:
        raise ValueError(
            f"num_sites = {num_sites}, mean_size = {mean_size}, sigma = {sigma}: there must be at "
            "least one site with one image on average, and sigma must not be negative"
        )
    sizes = np.exp(sigma * generator(seed, "phantom site sizes").standard_normal(num_sites))
    return np.maximum(np.rint(sizes * (mean_size / sizes.mean())), 1).astype(np.int64)
