"""Evaluation of masks: Dice, IoU and boundary distances of each image and class, and their means.

If both masks are empty, Dice = IoU = 1 and the distances are 0. If one is empty, Dice = IoU = 0 and
the distances are the image's diagonal, the worst possible value, as Metrics Reloaded advises. Both
cases are counted. Pixels whose reference is 255 are ignored: they are background in both masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ufm_jax.evaluation.intervals import (
    Bootstrap,
    describe,
    estimates,
    group_numbers,
    measure_classes,
    measure_mean,
)
from ufm_jax.evaluation.results import SegmentationResult
from ufm_jax.evaluation.surfaces import DEFINITION, check_spacing, hd95_and_assd

IGNORED = 255
"""Class number of pixels that do not count."""


@dataclass(frozen=True)
class MaskScores:
    """Scores of one image [C], or of R images [R, C]; C foreground classes.

    Attributes:
        dice: 2 |P and T| / (|P| + |T|).
        iou: |P and T| / |P or T|.
        hd95_px: 95th percentile Hausdorff distance, pixels.
        assd_px: Average symmetric surface distance, pixels.
        hd95_mm: In mm; nan where the spacing is unknown.
        assd_mm: In mm; nan where the spacing is unknown.
        predicted: int64, pixels of the class in the prediction.
        reference: int64, in the reference.
    """

    dice: np.ndarray
    iou: np.ndarray
    hd95_px: np.ndarray
    assd_px: np.ndarray
    hd95_mm: np.ndarray
    assd_mm: np.ndarray
    predicted: np.ndarray
    reference: np.ndarray

    @classmethod
    def stack(cls, scores: Sequence["MaskScores"]) -> "MaskScores":
        """Scores of R images, [R, C], from those of each, [C]."""
        return cls(*(np.stack([getattr(s, f.name) for s in scores]) for f in fields(cls)))


FIGURES = ("dice", "iou", "hd95_px", "assd_px", "hd95_mm", "assd_mm")
"""Names of the scores that are averaged over images."""


def score_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    num_classes: int,
    spacing: float | Sequence[float] | None = None,
) -> MaskScores:
    """Scores of one image.

    Args:
        prediction: Class numbers [H, W], 0 = background, 1..C.
        reference: Class numbers [H, W]; 255 = ignored.
        num_classes: C.
        spacing: mm per pixel, one number or (of rows, of columns); None or nan = unknown.

    Raises:
        ValueError: If shapes differ, or a number is not that of a class.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape or prediction.ndim != 2:
        raise ValueError(
            f"a prediction of shape {prediction.shape} for a reference of shape {reference.shape}: "
            "both must be [H, W]; bring the prediction to the file's size first"
        )
    counts = reference != IGNORED
    for name, mask in (("prediction", prediction), ("reference", reference)):
        odd = sorted(set(np.unique(mask[counts]).tolist()) - set(range(num_classes + 1)))
        if odd:
            raise ValueError(f"the {name} has class numbers {odd[:5]}; known are 0..{num_classes}")
    unknown = spacing is None or bool(np.isnan(np.asarray(spacing, np.float64)).any())
    scale = None if unknown else check_spacing(spacing)  # type: ignore[arg-type]
    rows = [
        _score_class((prediction == c) & counts, reference == c, scale)
        for c in range(1, num_classes + 1)
    ]
    columns = np.array(rows, np.float64).T
    return MaskScores(*columns[:6], *columns[6:].astype(np.int64))


def pooled_dice(scores: MaskScores) -> float:
    """Dice of the pixels of all images together, the mean over the classes that occur.

    Models are chosen by it, as in nnU-Net (Isensee et al. 2021), since the mean over images rewards
    a model that finds nothing if many images show nothing. It is nan if no mask shows any class.
    """
    pixels = scores.predicted + scores.reference
    total = pixels.sum(0)
    # Twice the overlap of an image is Dice times its pixels; it is 0 if both masks are empty.
    overlap = (np.where(pixels > 0, scores.dice, 0) * pixels).sum(0)
    return float(np.mean((overlap / np.maximum(total, 1))[total > 0])) if total.any() else np.nan


def summarise(
    scores: MaskScores,
    classes: Sequence[str],
    *,
    groups: np.ndarray,
    bootstrap: Bootstrap | None = None,
) -> SegmentationResult:
    """Means over images with intervals, of each class and over the classes.

    ``FIGURES`` are means over all images. 'dice_shown' is over the images whose reference shows the
    class, so that the others cannot raise it. 'hd95_px_both', 'assd_px_both', 'hd95_mm_both' and
    'assd_mm_both' are over the images in which both masks show it, so that none is a penalty.

    Args:
        scores: [R, C].
        classes: C names.
        groups: [R], the group (patient) of each row.
        bootstrap: How to make intervals; None = none.

    Raises:
        ValueError: If scores and names do not fit.
    """
    classes = tuple(classes)
    if scores.dice.ndim != 2 or scores.dice.shape[1] != len(classes):
        raise ValueError(f"scores of shape {scores.dice.shape}: [R, {len(classes)}] is needed")
    numbers, count = group_numbers(groups, len(scores.dice))
    tables = [_columns(scores, c) for c in range(len(classes))]
    rests_on = {}
    for name in tables[0]:
        known = np.stack([~np.isnan(table[name]) for table in tables])
        rests_on[name] = int(known.any(axis=0).sum())
        rests_on |= {f"{c}/{name}": int(row.sum()) for c, row in enumerate(known)}
    having = {
        name: [c for c, table in enumerate(tables) if not np.isnan(table[name]).all()]
        for name in tables[0]
    }
    measure = measure_classes([measure_mean(table) for table in tables], having)
    found = estimates(measure, numbers, bootstrap, rests_on)
    return SegmentationResult(
        classes=classes,
        num_rows=len(scores.dice),
        num_groups=count,
        overall={name: found[name] for name in tables[0]},
        per_class={
            name: {figure: found[f"{c}/{figure}"] for figure in tables[0]}
            for c, name in enumerate(classes)
        },
        counts={name: _presence(scores, c) for c, name in enumerate(classes)},
        definition=DEFINITION,
        interval=describe(bootstrap, count),
    )


def _score_class(
    prediction: np.ndarray, reference: np.ndarray, scale: np.ndarray | None
) -> tuple[float, ...]:
    """The fields of ``MaskScores``, in order, of one class."""
    sizes = int(prediction.sum()), int(reference.sum())
    shared = int((prediction & reference).sum())
    if not any(sizes):
        return (1, 1, 0, 0, *((np.nan,) * 2 if scale is None else (0, 0)), *sizes)
    overlap = 2 * shared / sum(sizes), shared / (sum(sizes) - shared)
    if not all(sizes):
        diagonal = np.asarray(prediction.shape, np.float64)
        px = float(np.hypot(*diagonal))
        mm = np.nan if scale is None else float(np.hypot(*(diagonal * scale)))
        return (*overlap, px, px, mm, mm, *sizes)
    in_px = hd95_and_assd(prediction, reference)
    if scale is None:
        in_mm = (np.nan, np.nan)
    elif scale[0] == scale[1]:
        in_mm = (scale[0] * in_px[0], scale[0] * in_px[1])
    else:
        in_mm = hd95_and_assd(prediction, reference, scale.tolist())
    return (*overlap, *in_px, *in_mm, *sizes)


def _columns(scores: MaskScores, c: int) -> dict[str, np.ndarray]:
    """Values [R] whose means are the figures of a class; nan = the image does not count."""
    columns = {name: getattr(scores, name)[:, c] for name in FIGURES}
    shown = scores.reference[:, c] > 0
    both = shown & (scores.predicted[:, c] > 0)
    columns["dice_shown"] = np.where(shown, columns["dice"], np.nan)
    for name in FIGURES[2:]:
        columns[f"{name}_both"] = np.where(both, columns[name], np.nan)
    return columns


def _presence(scores: MaskScores, c: int) -> dict[str, int]:
    """Images by which of the masks shows a class."""
    predicted, reference = scores.predicted[:, c] > 0, scores.reference[:, c] > 0
    return {
        "both": int((predicted & reference).sum()),
        "reference_only": int((reference & ~predicted).sum()),
        "prediction_only": int((predicted & ~reference).sum()),
        "neither": int((~predicted & ~reference).sum()),
    }
