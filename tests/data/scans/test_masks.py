"""Masks of scans are cut as their frames are, and a volume's slices keep their own."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="pip install 'ufm-jax[medical]'")
nibabel = pytest.importorskip("nibabel", reason="pip install 'ufm-jax[medical]'")
data_store = pytest.importorskip("data_store", reason="pip install pydicom-data")

SOURCE = Path(data_store.__file__).parent / "data"
SLICES = 3


pytestmark = pytest.mark.usefixtures("homes")


@pytest.fixture
def root(tmp_path):
    """A DICOM file whose mask is a picture of its size, and a volume whose mask is a volume."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "scan.dcm").write_bytes((SOURCE / "US1_UNCR.dcm").read_bytes())
    mask = np.zeros((480, 640), np.uint8)
    mask[200:260, 300:400] = 255
    Image.fromarray(mask).save(root / "mask.png")
    rng = np.random.default_rng(0)
    volume = np.zeros((90, 70, SLICES), np.uint8)
    volume[10:80, 12:60] = rng.integers(60, 255, (70, 48, SLICES))
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / "volume.nii.gz")
    labels = np.zeros((90, 70, SLICES), np.uint8)
    for number in range(SLICES):
        labels[20 : 30 + 10 * number, 30:50, number] = 1
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), root / "labels.nii.gz")
    return root


def load(root, rows, **changes):
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mask", "split"), *rows])
    split = SplitSettings(policy="column", required=("train",))
    settings = {"source": "index", "kind": "segment", "index": ("index.csv",), "frames": "all"}
    return load_labelled(
        LabelSettings(root=str(root), working_size=64, split=split, **settings | changes)
    )


ROWS = [("scan.dcm", "mask.png", "train"), ("volume.nii.gz", "labels.nii.gz", "train")]


def test_a_mask_is_cut_as_its_picture_is(root):
    data = load(root, ROWS)
    row = data.names.index("scan.dcm")
    height, width = data.native_size[row]
    assert height < 480
    assert width < 640
    cut = data.images[row].cut
    expected = np.asarray(Image.open(root / "mask.png"))[cut.top : cut.bottom, cut.left : cut.right]
    np.testing.assert_array_equal(data.mask_at_native(row), expected > 0)
    assert data.class_pixels[row].tolist() == [height * width - 6000, 6000]


def test_each_slice_has_its_own_mask(root):
    data = load(root, ROWS)
    rows = [data.names.index(f"volume.nii.gz frame {number + 1}") for number in range(SLICES)]
    cut = data.images[rows[0]].cut
    assert cut[:2] == (70, 90)
    labels = np.asarray(nibabel.load(root / "labels.nii.gz").dataobj)
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(data.mask_at_native(row), cut.of(labels[:, :, number].T))


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        ("volume.nii.gz", "mask.png", "its scan has 3 frames: NIfTI has a slice for each"),
        ("scan.dcm", "labels.nii.gz", "has 3 slices, where 1 are needed"),
        ("scan.dcm", "small.png", "is 20 x 10 pixels, its scan 640 x 480"),
    ],
)
def test_a_mask_that_is_not_its_scans_is_a_fault(root, image, mask, reason):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(root / "small.png")
    rows = [(image, mask, "train"), ROWS[0] if image != "scan.dcm" else ROWS[1]]
    with pytest.raises(DataError, match=reason):
        load(root, rows)
    assert set(load(root, rows, on_bad="skip").issues.counts()) & {"mask_size", "corrupt"}
