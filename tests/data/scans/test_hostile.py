"""Files that would show a name, quote a header, stop a run or pass unseen: none does."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.data.scans.test_expand import SOURCE, load, write
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.scans import clip, dicom, nifti
from ufm_jax.data.scans.deidentify import kept_part
from ufm_jax.data.scans.dicom import NoPictures
from ufm_jax.data.scans.extract import Reading
from ufm_jax.data.scans.kinds import is_dicom, stem_of
from ufm_jax.data.scans.pseudonyms import Pseudonyms
from ufm_jax.data.scans.regions import Region, Regions, read_regions
from ufm_jax.data.scans.store import open_scan

pydicom = pytest.importorskip("pydicom", reason="pip install 'ufm-jax[medical]'")


pytestmark = pytest.mark.usefixtures("homes")


def page(level, scan=False) -> np.ndarray:
    """A screen of one grey level with a name on it, and perhaps a scan."""
    image = Image.new("L", (400, 300), level)
    ImageDraw.Draw(image).text((20, 10), "DOE JANE 1961", fill=255 - level)
    pixels = np.array(image)
    if scan:
        pixels[60:280, 60:340] = np.random.default_rng(0).integers(0, 255, (220, 280))
    return pixels


@pytest.mark.parametrize("level", [70, 100, 128, 200, 255])
@pytest.mark.parametrize("scan", [False, True])
def test_a_light_screen_with_a_name_is_not_kept_whole(level, scan):
    kept = kept_part(page(level, scan), Regions())
    assert kept is None or not kept.mask[:40].any()


def test_speckle_alone_may_be_a_whole_screen():
    assert (
        kept_part(np.random.default_rng(0).integers(0, 255, (200, 300), np.uint8), Regions())
        is None
    )


def test_a_region_that_is_the_whole_screen_says_nothing():
    whole = Regions((Region(0, 0, 300, 400, True, None),))
    assert kept_part(page(0), whole) is None
    part = Regions((Region(60, 60, 280, 340, True, None),))
    assert not kept_part(page(0, scan=True), part).mask[:40].any()


def test_of_a_spectrum_alone_nothing_is_kept():
    assert kept_part(page(0, scan=True), Regions(others=1)) is None


def test_pictures_are_taken_whole_where_that_is_asked_for(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80), np.uint8)).save(file)
    found, _ = open_scan(file, b"x", Reading("all"), tmp_path / "cache")
    assert not found.kept
    assert "data.whole_frames=True" in found.left_out
    found, folder = open_scan(file, b"x", Reading("all", whole=True), tmp_path / "cache")
    assert np.asarray(Image.open(folder / found.kept[0].file)).shape == (90, 80)


def test_what_a_region_holds_is_not_quoted():
    class Item(dict):
        RegionLocationMinX0 = "SECRET"

    regions = read_regions([Item()], 10, 10)
    assert regions.faults
    assert "SECRET" not in str(regions.faults)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("LOGIQ 700", "LOGIQ 700"),
        ("EPIQ 7C", "EPIQ 7C"),
        ("Jane's unit", ""),
        ("SONO Doe 5", ""),
        ("Unit 1961-02-03", ""),
        ("Unit 19610203", ""),
    ],
)
def test_a_device_named_after_somebody_has_no_name(tmp_path, model, kept):
    write(tmp_path / "x.dcm", 1, ManufacturerModelName=model, PatientName="Doe^Jane")
    assert dicom.read_header(tmp_path / "x.dcm").model == kept


def test_a_report_is_no_picture_and_stops_nothing(tmp_path):
    write(tmp_path / "sites" / "a" / "1.dcm", 1)
    data = pydicom.dcmread(tmp_path / "sites" / "a" / "1.dcm")
    for name in ("Rows", "Columns", "PixelData"):
        delattr(data, name)
    data.save_as(tmp_path / "sites" / "a" / "report.dcm")
    with pytest.raises(NoPictures, match="without pictures"):
        dicom.read_header(tmp_path / "sites" / "a" / "report.dcm")
    issues = load(tmp_path / "sites", working_size=64).issues
    assert issues.counts() == {"not_image": 1}


def test_a_dark_file_of_16_bits_is_listed_and_a_range_lights_it(tmp_path):
    data = pydicom.dcmread(SOURCE / "US1_UNCR.dcm")
    grey = data.pixel_array[..., 0].astype(np.uint16) * 15
    data.PixelData, data.SamplesPerPixel = grey.tobytes(), 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    del data.PlanarConfiguration
    box = pydicom.Dataset()
    box.RegionSpatialFormat = box.RegionDataType = 1
    box.RegionLocationMinX0, box.RegionLocationMinY0 = 100, 100
    box.RegionLocationMaxX1, box.RegionLocationMaxY1 = 500, 400
    data.SequenceOfUltrasoundRegions = [box]
    (tmp_path / "sites" / "a").mkdir(parents=True)
    data.save_as(tmp_path / "sites" / "a" / "x.dcm")
    dark = load(tmp_path / "sites", working_size=64)
    assert "set data.value_range" in str(dark.issues.entries)
    light = load(tmp_path / "sites", working_size=64, value_range=(0, 255 * 15))
    assert not light.issues.counts()
    brightest = [data.store.read([0])["image"].max() for data in (dark, light)]
    assert brightest[0] < 20 < 200 < brightest[1]


def test_nifti_of_no_grey_values_is_a_fault(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="pip install 'ufm-jax[medical]'")
    for name, values in {
        "complex.nii": np.ones((8, 8), np.complex64),
        "nan.nii": np.full((8, 8), np.nan, np.float32),
    }.items():
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    with pytest.raises(CorruptImage, match="complex numbers"):
        nifti.read_shape(tmp_path / "complex.nii")
    with pytest.raises(CorruptImage, match="not finite"):
        list(nifti.read_frames(tmp_path / "nan.nii", [0]))


def test_a_clip_that_ends_early_gives_what_it_has_and_says_so(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="pip install 'ufm-jax[medical]'")
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[10:50, 15:65] = np.random.default_rng(0).integers(60, 255, (40, 50, 1))
    clip.write_frames(tmp_path / "x.mp4", [frame] * 5, 10)
    monkeypatch.setattr(clip, "read_timing", lambda path: (8, 100.0))
    found, _ = open_scan(tmp_path / "x.mp4", b"x", Reading("all"), tmp_path / "cache")
    assert len(found.kept) == 5
    assert found.doubts == ("ends early: 5 of 8 frames could be read",)


def test_a_clip_without_a_frame_is_a_fault(tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="pip install 'ufm-jax[medical]'")
    clip.write_frames(tmp_path / "x.mp4", [np.zeros((16, 16, 3), np.uint8)], 10)

    class Empty:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        class streams:
            video = (None,)

        def decode(self, stream):
            return iter(())

    monkeypatch.setattr(av, "open", lambda path: Empty())
    with pytest.raises(CorruptImage, match="ends before frame 1"):
        list(clip.read_frames(tmp_path / "x.mp4", [0]))


def test_a_pipe_is_no_scan(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_dicom(tmp_path / "pipe")


def test_names_that_are_not_utf_8_have_pseudonyms():
    names = Pseudonyms(bytes(32))
    assert names.of(os.fsdecode(b"bad\xff")) != names.of(os.fsdecode(b"bad\xfe"))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/x.nii.gz", "a/x"), ("x.DCM", "x"), ("1.2.840.3", "1.2.840.3"), (".png", ".png")],
)
def test_stems_are_names_without_a_known_suffix(name, stem):
    assert stem_of(Path(name)).as_posix() == stem


def test_a_full_disk_is_not_taken_for_a_broken_file(tmp_path, monkeypatch):
    write(tmp_path / "sites" / "a" / "1.dcm", 1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ufm_jax.data.scans.store.write_sealed", full)
    with pytest.raises(OSError, match="No space left"):
        load(tmp_path / "sites", working_size=64, on_bad="skip")
