"""The examinations a phantom can show: what is imaged, with which probe, with which lesions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ufm_jax.phantoms.probe import Grid, Probe
from ufm_jax.phantoms.scenes.breast import breast
from ufm_jax.phantoms.scenes.fetal import fetal_head
from ufm_jax.phantoms.scenes.heart import heart
from ufm_jax.phantoms.scenes.liver import liver
from ufm_jax.phantoms.scenes.lung import lung
from ufm_jax.phantoms.scenes.muscle import muscles
from ufm_jax.phantoms.scenes.thyroid import thyroid
from ufm_jax.phantoms.tissue import Tissue

Scene = Callable[[Grid, np.random.Generator, int], Tissue]


@dataclass(frozen=True)
class Exam:
    """An examination that phantoms can show.

    Attributes:
        scene: Paints the anatomy for a label.
        probe: The usual probe at the usual depth.
        labels: Classes the scene can show.
        title: What the operator types on the screen.
    """

    scene: Scene
    probe: Probe
    labels: tuple[int, ...]
    title: str


def _linear(frequency: float, depth: float, aperture: float) -> Probe:
    return Probe("linear", frequency, depth, aperture)


def _convex(frequency: float, depth: float, radius: float, half_angle: float) -> Probe:
    return Probe("convex", frequency, depth, 2 * radius * half_angle, radius, half_angle)


EXAMS: Mapping[str, Exam] = MappingProxyType(
    {
        "breast": Exam(breast, _linear(10.0, 34.0, 42.0), (0, 1, 2), "BREAST"),
        "fetal": Exam(fetal_head, _convex(4.0, 115.0, 50.0, 0.62), (0, 1), "OB 2/3 TRIM"),
        "liver": Exam(liver, _convex(3.5, 140.0, 55.0, 0.58), (0, 1, 2), "ABDOMEN"),
        "lung": Exam(lung, _convex(4.5, 85.0, 45.0, 0.5), (0, 1, 2), "LUNG"),
        "thyroid": Exam(thyroid, _linear(11.0, 36.0, 44.0), (0, 1, 2), "THYROID"),
        "heart": Exam(heart, Probe("phased", 2.8, 150.0, 20.0, 6.0, 0.68), (0, 1), "ADULT ECHO"),
        "muscle": Exam(muscles, _linear(10.0, 38.0, 45.0), (0, 1, 2), "MSK"),
    }
)
