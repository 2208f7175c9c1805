"""Folders: masks beside or below images are never images of a class, and pair with their own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.labels.label_settings import label_settings
from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError

NUM = 8


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16), np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, row: int, size: tuple[int, int] = (12, 16)) -> None:
    pixels = np.zeros(size, np.uint8)
    pixels[row : row + 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """The published layout: a second lesion's mask ends in _mask_1, and one image has no mask."""
    root = tmp_path / "busi"
    for label, name in enumerate(("benign", "malignant")):
        for index in range(NUM):
            picture(root / name / f"{name} ({index}).png", 100 * label + index)
            mask(root / name / f"{name} ({index})_mask.png", index % 3)
        mask(root / name / f"{name} (2)_mask_1.png", 8)
    return root


def data_settings(root: Path, **changes) -> DataSettings:
    settings = {"source": "folders", "working_size": 16, "detect_geometry": False}
    return DataSettings(**settings, root=str(root), cache_dir=str(root.parent / "cache"), **changes)


def load(root: Path, kind: str = "single", data: dict | None = None, **changes):
    split = SplitSettings("fractions", required=("train",))
    images = data_settings(root, **(data or {}))
    return load_labelled(label_settings(images, split, kind=kind, **changes))


def test_a_mask_beside_its_image_is_no_image_of_the_class(busi):
    data = load(busi)
    assert data.num_rows == 2 * NUM
    assert not [name for name in data.names if "mask" in name]
    assert data.issues.excluded == {
        "name like '*_mask.*'": 2 * NUM,
        "name like '*_mask_*.*'": 2,
    }
    assert load_federated(data_settings(busi)).num_rows == 2 * NUM


def test_masks_beside_their_images_are_what_a_segmentation_learns(busi):
    data = load(busi, "segment")
    assert data.num_rows == 2 * NUM
    one, two = (data.names.index(f"benign/benign ({index}).png") for index in (1, 2))
    assert np.flatnonzero(data.mask_at_native(one).any(1)).tolist() == [1, 2]
    assert np.flatnonzero(data.mask_at_native(two).any(1)).tolist() == [2, 3, 8, 9]
    assert data.class_pixels[two].tolist() == [8 * 16, 4 * 16]
    assert data.attributes[one]["label"] == "benign"


def test_what_does_not_pair_is_listed_or_stops(busi):
    (busi / "benign/benign (3).png").unlink()
    (busi / "benign/benign (4)_mask.png").unlink()
    with pytest.raises(DataError, match=r"benign \(4\)\.png .*has no mask"):
        load(busi, "segment")
    data = load(busi, "segment", unlabelled="skip")
    assert data.num_rows == 2 * NUM - 2
    assert data.issues.counts() == {"no_mask": 1, "lone_mask": 1, "no_group": 1}


def test_folders_that_do_not_pair_are_listed_with_those_named_like_masks(tmp_path):
    picture(tmp_path / "root/image/0.png", 0)
    mask(tmp_path / "root/labels/0.png", 1)
    with pytest.raises(DataError, match=r"\['image', 'labels'\], of which none are among mask_f"):
        load(tmp_path / "root", "segment")


def test_folders_of_images_and_masks_are_found_in_any_case(tmp_path):
    for index in range(3):
        picture(tmp_path / f"root/Images/{index}.png", index)
        mask(tmp_path / f"root/MASK/{index}.png", index)
    assert load(tmp_path / "root", "segment").num_rows == 3


@pytest.mark.parametrize("kind", ["size", "text", "outside"])
def test_a_second_mask_that_cannot_be_used_is_named(busi, kind):
    second = busi / "benign/benign (2)_mask_1.png"
    second.unlink()
    if kind == "size":
        mask(second, 1, (9, 9))
    elif kind == "text":
        second.write_text("text")
    else:
        mask(busi.parent / "elsewhere.png", 1)
        second.symlink_to(busi.parent / "elsewhere.png")
    with pytest.raises(DataError, match=r"benign \(2\)_mask_1\.png"):
        load(busi, "segment")


@pytest.mark.parametrize("name", ["mask", "MASKS", "Labels", "Ground_Truth", "annotations"])
@pytest.mark.parametrize("depth", ["client", "below"])
def test_folders_of_masks_are_left_out_in_any_case_and_counted(tmp_path, name, depth):
    root = tmp_path / "root"
    for client in ("a", "b"):
        picture(root / client / "pics/0.png", ord(client))
        mask(
            root / name / f"{client}.png" if depth == "client" else root / client / name / "0.png",
            1,
        )
    data = load_federated(data_settings(root))
    assert data.names == ("a", "b")
    assert data.num_rows == 2
    assert data.issues.excluded == {f"folder {name!r}": 2}


@pytest.mark.parametrize("name", ["png_masks", "Mask-2", "seg/GT", "lesion label"])
def test_other_folders_named_like_masks_are_learnt_from_but_listed(tmp_path, name):
    picture(tmp_path / "root/a/pics/0.png", 0)
    mask(tmp_path / "root/a" / name / "0.png", 1)
    found = load_federated(data_settings(tmp_path / "root")).issues.by_kind()["mask_folder"]
    assert [path for _, path, _ in found] == [str(tmp_path / "root/a" / name)]


@pytest.mark.parametrize("name", ["unmasked", "labelling_room", "gtx", "mass"])
def test_words_that_only_contain_those_of_masks_are_plain_folders(tmp_path, name):
    picture(tmp_path / "root" / name / "0.png", 0)
    assert not load_federated(data_settings(tmp_path / "root")).issues.counts()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"exclude_folders": ("mask", "poor")},
            "exclude_folders: 'poor' .*there is 'benign'",
        ),
        ({"exclude_folders": ("benign,mask",)}, "exclude_folders: 'benign,mask' matches"),
        ({"exclude_files": ("*_x.*",)}, r"exclude_files: '\*_x\.\*' .*there is 'benign \(0\)"),
    ],
)
def test_an_exclusion_that_matches_nothing_is_refused(busi, data, message):
    with pytest.raises(DataError, match=message):
        load_federated(data_settings(busi, **data))


def test_exclusions_of_ones_own(busi):
    for folders in (("BENIGN",), ("mask", "benign")):
        data = load_federated(data_settings(busi, exclude_folders=folders))
        assert data.names == ("malignant",)
    with pytest.raises(DataError, match=r"no usable image is left: 17 images left out: folder 'be"):
        load_federated(data_settings(busi, exclude_folders=("malignant", "Benign")))
    data = load_federated(data_settings(busi, exclude_files=("*_mask*", "*(7)*")))
    assert data.num_rows == 2 * (NUM - 1)
    assert load_federated(data_settings(busi, exclude_files=())).num_rows == 4 * NUM + 2
