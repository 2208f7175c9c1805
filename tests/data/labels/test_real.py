"""Real sets: counts as published with them, and geometry that agrees with what was measured."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.labels.label_settings import label_settings
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import SplitSettings
from ufm_jax.data.settings import DataSettings


@pytest.fixture
def load(shared: Path, tmp_path: Path):
    """Loads a set at a small working size."""

    def load(name: str, split: SplitSettings, **changes):
        data = DataSettings(
            source="index",
            root=str(shared / "data" / name),
            working_size=32,
            detect_geometry=False,
            cache_dir=str(tmp_path),
        )
        return load_labelled(label_settings(data, split, **changes))

    return load


def images(data) -> dict[str, int]:
    return {split: part["images"] for split, part in data.summary().items()}


def classes(data) -> dict[str, int]:
    return dict(zip(data.task.classes, (data.targets == 1).sum(0).tolist(), strict=True))


def assert_groups_are_whole(data):
    for group in np.unique(data.groups):
        assert len(set(data.splits[data.groups == group])) == 1


def test_busi_diagnosis_and_segmentation_are_of_the_same_images(load):
    fold = SplitSettings("fold", test_fold=3)
    diagnosis = load("busi_breast", fold)
    assert classes(diagnosis) == {"benign": 361, "malignant": 198, "normal": 106}
    assert images(diagnosis) == {"train": 399, "val": 133, "test": 133}
    assert_groups_are_whole(diagnosis)
    masks = load("busi_breast", fold, kind="segment")
    assert masks.num_rows == 665
    assert int((masks.targets[:, 0] == 0).sum()) == 106
    assert masks.names == diagnosis.names
    assert masks.splits.tolist() == diagnosis.splits.tolist()
    area = masks.class_pixels[:, 1] / masks.class_pixels.sum(1)
    stated = [float(a["mask_area"] or 0) for a in masks.attributes]
    np.testing.assert_allclose(area, stated, atol=1e-4)
    assert not masks.issues.counts()


def test_external_centres_are_the_test_of_biliary_atresia(load):
    data = load("gb_biliary_atresia", SplitSettings(), classes=("nonBA", "BA"))
    assert classes(data) == {"nonBA": 3378, "BA": 1161}
    found = images(data)
    assert found["test"] == 841
    np.testing.assert_allclose(found["val"] / 3698, 0.15, atol=0.01)
    assert {a["split"] for a in map(data.attributes.__getitem__, data.rows("test"))} == {"test"}
    assert_groups_are_whole(data)


def test_folds_of_lung_frames_keep_groups_whole(load):
    for fold in (0, 4):
        data = load("pocus_lung", SplitSettings("fold", test_fold=fold))
        assert classes(data) == {
            "bacterial_pneumonia": 234,
            "covid": 139,
            "regular": 359,
            "viral_pneumonia": 30,
        }
        tested = {data.attributes[row]["fold5"] for row in data.rows("test")}
        chosen = {data.attributes[row]["fold5"] for row in data.rows("val")}
        assert (tested, chosen) == ({str(fold)}, {str((fold + 1) % 5)})
        assert_groups_are_whole(data)
        kept = data.subset_labels(0.1, 0)
        assert (data.targets[kept] == 1).any(0).all()


def test_perimeter_of_the_head_mask_in_mm_is_the_measured_circumference(load):
    data = load("hc18_fetal_head", SplitSettings("fold"), kind="segment", unlabelled="skip")
    assert data.num_rows == 998
    assert data.issues.counts() == {"no_mask": 335}
    for row in range(0, 998, 50):
        y, x = np.nonzero(data.mask_at_native(row) == 1)
        # Semi-axes of an ellipse of these second moments; its perimeter after Ramanujan.
        a, b = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([y, x]))))
        pixels = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))
        measured = float(data.attributes[row]["HC_mm"])
        np.testing.assert_allclose(pixels * data.spacing[row], measured, rtol=0.025)


def test_abdominal_masks_hold_the_five_organs_that_occur(load):
    organs = (
        "liver",
        "kidney",
        "pancreas",
        "gallbladder",
        "vessels",
        "adrenals",
        "spleen",
        "bones",
    )
    fold = SplitSettings("fold")
    data = load("rus_abdomen", fold, kind="segment", unlabelled="skip", mask_classes=organs)
    assert data.num_rows == 60
    counted = {name: count for name, count in classes(data).items() if count}
    assert counted == {"liver": 42, "kidney": 15, "gallbladder": 12, "vessels": 16, "spleen": 6}
    # The notes leave out three livers of a single stray pixel.
    named = {
        organ: sum(organ in a["organs"].split("+") for a in data.attributes) for organ in counted
    }
    seen = dict(zip(organs, (data.class_pixels[:, 1:] > 1).sum(0).tolist(), strict=True))
    assert named == {organ: seen[organ] for organ in counted}
    found = data.store.read(np.arange(60))["mask"]
    assert set(np.unique(found)) <= {0, 1, 2, 4, 5, 7, 255}
    automatic = load("rus_abdomen", fold, kind="segment", unlabelled="skip", mask_classes=("auto",))
    assert automatic.task.classes == ("1", "2", "4", "5", "7")
    assert list(classes(automatic).values()) == list(counted.values())
