"""Example pictures of an evaluation: outlines of masks, and maps of what speaks for a class."""

import itertools
from collections.abc import Sequence

import numpy as np

from ufm_jax.prediction.overlay import rim
from ufm_jax.report.evaluation_types import EvaluationPicture
from ufm_jax.report.images import picture
from ufm_jax.report.markup import Markup, element, join
from ufm_jax.report.sections import section

_LONGEST = 320
_TRUE, _PREDICTED = (0, 158, 215), (255, 176, 0)
"""Blue and amber: apart for every kind of colour vision (after Okabe and Ito)."""
_STRONGEST = 0.75
_LEGEND = (
    "Blue: the reference’s outline. Amber: the model’s. Where several classes are shown, each is "
    "outlined."
)
_HEAT_LEGEND = (
    "In maps, red speaks for the class and blue against it: how much its probability falls when a "
    "place is hidden."
)


def examples(pictures: Sequence[EvaluationPicture]) -> Markup:
    """All examples, in their groups."""
    if not pictures:
        return Markup("")
    groups = itertools.groupby(pictures, key=lambda picture: picture.title)
    parts = [join(element("h3", title), _montage(list(group))) for title, group in groups]
    legend = [
        element("p", text, class_="note")
        for text, shown in (
            (_LEGEND, any(p.mask is not None for p in pictures)),
            (_HEAT_LEGEND, any(p.heat is not None for p in pictures)),
        )
        if shown
    ]
    return section("Examples", *legend, *parts)


def _montage(pictures: Sequence[EvaluationPicture]) -> Markup:
    cells = [
        element(
            "figure",
            *[picture(image, alt, _LONGEST) for image, alt in _panels(example)],
            element("figcaption", example.caption),
        )
        for example in pictures
    ]
    return element("div", *cells, class_="examples")


def _panels(picture: EvaluationPicture) -> list[tuple[np.ndarray, str]]:
    if picture.mask is not None and picture.reference is not None:
        drawn = outlined(picture.pixels, picture.mask, picture.reference)
        return [(drawn, f"outlines on {picture.caption}")]
    panels = [(picture.pixels, picture.caption)]
    if picture.heat is not None:
        panels.append((heated(picture.pixels, picture.heat), f"map of {picture.caption}"))
    return panels


def outlined(pixels: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A picture with the outlines of both masks, the prediction's on top: uint8 [h, w, 3].

    Args:
        pixels: uint8 [h, w] or [h, w, 3].
        mask: [h, w], predicted class numbers.
        reference: [h, w], true ones; 255 is not drawn.
    """
    drawn = _colour(pixels)
    width = max(1, round(max(mask.shape) / 300))
    for numbers, colour in ((reference, _TRUE), (mask, _PREDICTED)):
        for number in np.unique(numbers[(numbers > 0) & (numbers < 255)]):
            drawn[rim(numbers == number, width)] = colour
    return drawn


def heated(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture with red where ``heat`` is above 0 and blue where below: uint8 [h, w, 3]."""
    most = np.abs(heat).max() or 1.0
    share = (_STRONGEST * np.abs(heat) / most)[..., None]
    colour = np.where(heat[..., None] > 0, (215, 48, 39), (69, 117, 180))
    return np.rint((1 - share) * _colour(pixels) + share * colour).astype(np.uint8)


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels.copy()
