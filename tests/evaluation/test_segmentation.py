"""Masks: equal to medpy and to brute force over all pixel pairs, edge cases included."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.evaluation.intervals import Bootstrap
from ufm_jax.evaluation.segmentation import MaskScores, pooled_dice, score_masks, summarise
from ufm_jax.evaluation.surfaces import boundary, directed_distances
from ufm_jax.runs.stored import as_json


def disc(shape, centre, radius):
    row, column = np.indices(shape)
    return (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2


def mask_pairs():
    """Name -> (prediction, reference): shapes, noise, and the edge cases that go wrong."""
    noise = np.random.Generator(np.random.Philox(7)).random((2, 40, 56))
    shape = (48, 64)
    pixel, other = np.zeros((2, *shape), bool)
    pixel[10, 12] = True
    other[30, 50] = True
    islands = disc(shape, (12, 14), 6) | disc(shape, (36, 50), 4)
    return {
        "shifted discs": (disc(shape, (24, 30), 12), disc(shape, (21, 35), 12)),
        "one in the other": (disc(shape, (24, 30), 6), disc(shape, (24, 30), 15)),
        "touching the border": (disc(shape, (0, 0), 20), disc(shape, (47, 5), 30)),
        "islands": (islands, disc(shape, (12, 14), 7)),
        "full and disc": (np.ones(shape, bool), disc(shape, (24, 30), 12)),
        "full and full": (np.ones(shape, bool), np.ones(shape, bool)),
        "one pixel each": (pixel, other),
        "one pixel and disc": (pixel, disc(shape, (24, 30), 12)),
        "half noise": (noise[0] < 0.5, noise[1] < 0.5),
        "sparse noise": (noise[0] < 0.02, noise[1] < 0.03),
        "dense noise": (noise[0] < 0.97, noise[1] < 0.98),
    }


# dc, jc, hd95, assd, and hd95 and assd with voxelspacing=(0.5, 0.2), of medpy 0.5.2.
MEDPY = {
    "shifted discs": (
        0.689342403628,
        0.525951557093,
        5.83095189485,
        3.54881377843,
        1.7,
        0.979374386237,
    ),
    "one in the other": (
        0.274939172749,
        0.159379407616,
        9.21954445729,
        8.7612082368,
        4.09018811456,
        2.71723617148,
    ),
    "touching the border": (
        0.029484029484,
        0.0149625935162,
        35.3807039163,
        16.1981316516,
        14.5474907647,
        7.07941420665,
    ),
    "islands": (
        0.726688102894,
        0.570707070707,
        39.1509214519,
        9.11463395298,
        12.1668017584,
        2.7421713924,
    ),
    "full and disc": (
        0.251067463706,
        0.1435546875,
        26.8341143241,
        18.9291318739,
        7.98860967995,
        5.85808995527,
    ),
    "full and full": (1, 1, 0, 0, 0, 0),
    "one pixel each": (0, 0, 42.9418211072, 42.9418211072, 12.5602547745, 12.5602547745),
    "one pixel and disc": (0, 0, 34.0411332861, 24.0613397281, 13.1124914602, 8.20853930468),
    "half noise": (0.502436863093, 0.33550295858, 1, 0.536203325625, 0.4, 0.132411842634),
    "sparse noise": (
        0.0204081632653,
        0.0103092783505,
        8.0622577483,
        4.1685276293,
        2.44284397484,
        1.34525041128,
    ),
    "dense noise": (
        0.975520475864,
        0.952210808397,
        5.38516480713,
        1.37591047738,
        1.6,
        0.421901618076,
    ),
}


@pytest.mark.parametrize("name", MEDPY)
def test_scores_are_those_of_medpy(name):
    prediction, reference = mask_pairs()[name]
    found = score_masks(prediction, reference, 1, (0.5, 0.2))
    dice, iou, hd95_px, assd_px, hd95_mm, assd_mm = MEDPY[name]
    values = np.concatenate((found.dice, found.iou, found.assd_px, found.assd_mm))
    np.testing.assert_allclose(values, (dice, iou, assd_px, assd_mm), rtol=1e-9)
    # medpy takes HD95 of the distances of both directions together.
    for spacing, expected in ((1.0, hd95_px), ((0.5, 0.2), hd95_mm)):
        distances = np.concatenate(directed_distances(prediction, reference, spacing))
        assert np.percentile(distances, 95) == pytest.approx(expected, rel=1e-9)


def brute_force(first, second, scale):
    """Directed distances over all pairs of boundary pixels, found by looking at neighbours."""

    def edge(mask):
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner) * scale

    one, two = edge(first), edge(second)
    gaps = np.sqrt(((one[:, None] - two) ** 2).sum(-1))
    return gaps.min(1), gaps.min(0)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.02, 0.5, 0.9]),
    scale=st.sampled_from([(1.0, 1.0), (0.3, 0.7)]),
)
def test_metrics_reloaded_distances_are_brute_force(seed, density, scale):
    rng = np.random.Generator(np.random.Philox(seed))
    height, width = rng.integers(2, 14, 2)
    first, second = rng.random((2, height, width)) < density
    first[rng.integers(height), rng.integers(width)] = True
    second[0, 0] = True
    to_second, to_first = brute_force(first, second, scale)
    found = score_masks(first, second, 1, scale)
    expected = max(np.percentile(to_second, 95), np.percentile(to_first, 95))
    assert found.hd95_mm[0] == pytest.approx(expected)
    assert found.assd_mm[0] == pytest.approx(np.concatenate([to_second, to_first]).mean())
    one, two = directed_distances(first, second, scale)
    np.testing.assert_allclose(sorted(one), sorted(to_second))
    np.testing.assert_allclose(sorted(two), sorted(to_first))


def test_a_full_mask_has_its_border_as_boundary():
    edge = boundary(np.ones((5, 7), bool))
    assert edge.sum() == 2 * (5 + 7) - 4
    assert not edge[1:-1, 1:-1].any()


def test_distances_are_of_boundaries_not_of_regions():
    # Discs of radius 6 and 15 with one centre: regions overlap, boundaries are 9 apart.
    prediction, reference = mask_pairs()["one in the other"]
    assert score_masks(prediction, reference, 1).assd_px[0] == pytest.approx(9, abs=0.4)


def test_equal_spacing_scales_pixels():
    prediction, reference = mask_pairs()["islands"]
    found = score_masks(prediction, reference, 1, 0.25)
    assert found.hd95_mm[0] == found.hd95_px[0] / 4
    assert found.assd_mm[0] == found.assd_px[0] / 4


def test_empty_masks():
    empty, some = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    some[3:9, 4:8] = True
    both = score_masks(empty, empty, 1, 0.5)
    assert (both.dice[0], both.iou[0], both.hd95_px[0], both.assd_mm[0]) == (1, 1, 0, 0)
    for pair in ((empty, some), (some, empty)):
        one = score_masks(*pair, 1, 0.5)
        assert (one.dice[0], one.iou[0], one.hd95_px[0]) == (0, 0, 50)
        assert (one.assd_px[0], one.hd95_mm[0]) == (50, 25)
    unknown = score_masks(some, some, 1, np.nan)
    assert unknown.hd95_px[0] == 0
    assert np.isnan(unknown.hd95_mm[0])


def test_ignored_pixels_change_nothing():
    prediction, reference = (mask.astype(np.uint8) for mask in mask_pairs()["shifted discs"])
    alone = score_masks(prediction, reference, 1)
    wide = np.pad(prediction, ((0, 0), (0, 20)), constant_values=1)
    ignored = np.pad(reference, ((0, 0), (0, 20)), constant_values=255)
    padded = score_masks(wide, ignored, 1)
    for name in ("dice", "iou", "hd95_px", "assd_px", "predicted", "reference"):
        assert getattr(padded, name) == getattr(alone, name)


def test_classes_are_scored_one_by_one():
    prediction, reference = np.zeros((2, 20, 20), np.uint8)
    prediction[2:6, 2:6], reference[2:6, 2:6] = 1, 1
    prediction[10:14, 10:14], reference[10:14, 10:14] = 2, 3
    found = score_masks(prediction, reference, 3)
    np.testing.assert_array_equal(found.dice, [1, 0, 0])
    np.testing.assert_array_equal(found.predicted, [16, 16, 0])
    np.testing.assert_array_equal(found.reference, [16, 0, 16])


def four_images():
    """Class 1 in: both, the reference only, the prediction only, neither; spacing of the first."""
    some = np.zeros((30, 40), np.uint8)
    some[3:9, 4:8] = 1
    near, empty = np.roll(some, 1, axis=1), np.zeros_like(some)
    pairs = ((near, some, 0.5), (empty, some, None), (some, empty, None), (empty, empty, None))
    return MaskScores.stack([score_masks(p, r, 1, spacing) for p, r, spacing in pairs])


def test_summary_counts_empty_masks_and_says_what_each_mean_rests_on():
    scores = four_images()
    result = summarise(
        scores, ("lesion",), groups=np.arange(4), bootstrap=Bootstrap(replicates=100)
    )
    assert result.counts["lesion"] == {
        "both": 1,
        "reference_only": 1,
        "prediction_only": 1,
        "neither": 1,
    }
    lesion = result.per_class["lesion"]
    first = scores.dice[0, 0]
    assert lesion["dice"].value == pytest.approx((first + 0 + 0 + 1) / 4)
    assert (lesion["dice_shown"].value, lesion["dice_shown"].n) == (first / 2, 2)
    assert lesion["hd95_px"].value == pytest.approx((scores.hd95_px[0, 0] + 50 + 50 + 0) / 4)
    assert (lesion["hd95_px_both"].value, lesion["hd95_px_both"].n) == (scores.hd95_px[0, 0], 1)
    assert (lesion["hd95_mm"].value, lesion["hd95_mm"].n) == (scores.hd95_mm[0, 0], 1)
    assert result.overall["dice"].value == lesion["dice"].value
    assert "undefined on" in lesion["dice_shown"].note
    loaded = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert "Metrics Reloaded" in loaded["definition"]


def test_unknown_spacing_everywhere_is_null_with_a_reason():
    prediction, reference = mask_pairs()["islands"]
    scores = MaskScores.stack([score_masks(prediction, reference, 1)] * 3)
    figure = summarise(scores, ("lesion",), groups=np.arange(3)).overall["hd95_mm"]
    assert np.isnan(figure.value)
    assert (figure.n, bool(figure.note)) == (0, True)


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (np.zeros((4, 5)), np.zeros((5, 4)), None, "file's size"),
        (np.full((4, 4), 2), np.zeros((4, 4)), None, "prediction has class numbers \\[2"),
        (np.zeros((4, 4)), np.full((4, 4), 7), None, "reference has class numbers \\[7"),
        (np.zeros((4, 4)), np.zeros((4, 4)), -1.0, "spacing"),
        (np.zeros((4, 4)), np.zeros((4, 4)), (1.0, 1.0, 1.0), "spacing"),
    ],
)
def test_bad_masks_are_errors(prediction, reference, spacing, message):
    with pytest.raises(ValueError, match=message):
        score_masks(prediction, reference, 1, spacing)


def test_pooled_dice_is_that_of_the_masks_side_by_side():
    """Images in which both masks are empty neither help nor harm, unlike in the mean."""
    rng = np.random.default_rng(3)
    masks = rng.integers(0, 3, (4, 2, 6, 7))
    masks[2:] = 0
    scores = MaskScores.stack([score_masks(p, t, 2) for p, t in masks])
    whole = score_masks(np.hstack(masks[:, 0]), np.hstack(masks[:, 1]), 2)
    assert pooled_dice(scores) == pytest.approx(whole.dice.mean())
    nothing = MaskScores.stack([score_masks(0 * p, 0 * t, 2) for p, t in masks])
    assert np.isnan(pooled_dice(nothing))
