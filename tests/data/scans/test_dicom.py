"""All ultrasound files that come with pydicom and pydicom-data, against pydicom read by hand."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pip install 'ufm-jax[medical]'")
data_store = pytest.importorskip("data_store", reason="pip install pydicom-data")

from ufm_jax.data.cache.decode import to_bytes  # noqa: E402
from ufm_jax.data.image_file import CorruptImage  # noqa: E402
from ufm_jax.data.scans.dicom import read_frames, read_header  # noqa: E402

# File -> (frames, height, width, photometric interpretation, trusted tissue regions, mm a pixel).
OB = (600, 800, "PALETTE COLOR", 1, 0.26228787661969977)
LOGIQ = (480, 640)
FILES = {
    "ExplVR_BigEnd": (1, 60, 80, "RGB", 0, None),
    "examples_jpeg2k": (1, *LOGIQ, "YBR_RCT", 0, None),
    "examples_palette": (1, 350, 800, "PALETTE COLOR", 0, None),
    "examples_rgb_color": (1, 240, 320, "RGB", 0, None),
    "examples_ybr_color": (30, 240, 320, "YBR_FULL_422", 0, None),
    "JPGLosslessP14SV1_1s_1f_8b": (1, 768, 1024, "MONOCHROME2", 1, 0.25476696592378156),
    "OBXXXX1A": (1, *OB),
    "OBXXXX1A_2frame": (2, *OB),
    "OBXXXX1A_expb": (1, *OB),
    "OBXXXX1A_expb_2frame": (2, *OB),
    "OBXXXX1A_rle": (1, *OB),
    "OBXXXX1A_rle_2frame": (2, *OB),
    "US1_J2KI": (1, *LOGIQ, "YBR_ICT", 0, None),
    "US1_J2KR": (1, *LOGIQ, "YBR_RCT", 0, None),
    "US1_UNCI": (1, *LOGIQ, "RGB", 0, None),
    "US1_UNCR": (1, *LOGIQ, "RGB", 0, None),
    "color-pl": (1, 120, 256, "RGB", 0, None),
    "color-px": (1, 120, 256, "RGB", 0, None),
    "color3d_jpeg_baseline": (120, 480, 640, "YBR_FULL_422", 1, 0.5104970559477806),
    "gdcm-US-ALOKA-16": (1, 480, 640, "PALETTE COLOR", 2, 0.3826530650258064),
    "gdcm-US-ALOKA-16_big": (1, 480, 640, "PALETTE COLOR", 2, 0.3826530650258064),
}
TURNED = ("OBXXXX1A_expb", "OBXXXX1A_expb_2frame", "gdcm-US-ALOKA-16_big")
FOLDERS = [Path(module.__file__).parent / "data" for module in (pydicom, data_store)]


def path_of(name):
    return next(file for folder in FOLDERS for file in folder.rglob(f"{name}.dcm"))


@pytest.mark.parametrize("name", FILES)
def test_headers_say_what_stands_in_them(name):
    header = read_header(path_of(name))
    known = (header.frames, header.height, header.width, header.photometric)
    frames, height, width, photometric, regions, mm = FILES[name]
    assert known == (frames, height, width, photometric)
    assert len(header.regions.tissue) == regions
    assert header.regions.mm == pytest.approx(mm)
    by_hand = pydicom.dcmread(path_of(name), stop_before_pixels=True)
    assert header.patient == str(by_hand.get("PatientID", ""))
    assert header.patient not in repr(header) or not header.patient
    if mm is not None:  # The unit is centimetres.
        item = next(i for i in by_hand.SequenceOfUltrasoundRegions if i.RegionSpatialFormat == 1)
        assert item.PhysicalUnitsXDirection == 3
        assert mm == pytest.approx(10 * item.PhysicalDeltaX)


@pytest.mark.parametrize("name", FILES)
def test_frames_are_pydicoms_to_the_last_bit(name):
    data = pydicom.dcmread(path_of(name))
    numbers = sorted({0, (FILES[name][0] - 1) // 2})
    for number, frame in zip(numbers, read_frames(path_of(name), numbers), strict=True):
        known = pydicom.pixels.pixel_array(data, index=number)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            if name in TURNED:
                continue
            known = pydicom.pixels.apply_color_lut(known, data)[..., :3]
        elif known.ndim == 2:
            known = pydicom.pixels.apply_voi_lut(
                pydicom.pixels.apply_modality_lut(known, data), data
            )
        np.testing.assert_array_equal(frame.samples, known.reshape(frame.samples.shape))


@pytest.mark.parametrize(
    ("name", "turned"),
    [("OBXXXX1A", "OBXXXX1A_expb"), ("gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big")],
)
def test_big_endian_palettes_are_those_of_little_endian(name, turned):
    """Where pydicom (3.0.2) takes their bytes the wrong way round, and shows black."""
    (one,), (other,) = (read_frames(path_of(each), [0]) for each in (name, turned))
    np.testing.assert_array_equal(one.samples, other.samples)
    assert one.samples.max() > 2**15


def written(tmp_path, **changes):
    """A grey file of two columns of ramps, changed."""
    data = pydicom.dcmread(path_of("US1_UNCR"))
    pixels = changes.pop("pixels", np.arange(256, dtype=np.uint8).reshape(16, 16))
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.dtype.itemsize
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    del data.PlanarConfiguration
    data.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(tmp_path / "file.dcm")
    return tmp_path / "file.dcm"


def test_monochrome1_is_white_where_it_is_0(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (frame,) = read_frames(written(tmp_path, PhotometricInterpretation="MONOCHROME1"), [0])
    np.testing.assert_array_equal(frame.samples[..., 0], ramp)
    np.testing.assert_array_equal(to_bytes(frame)[..., 0], 255 - ramp)


@pytest.mark.parametrize("kind", ["u2", "i2"])
def test_deep_files_are_scaled_by_their_bits_and_windows_by_pydicom(tmp_path, kind):
    info = np.iinfo(kind)
    levels = np.linspace(info.min, info.max, 256).astype(kind).reshape(16, 16)
    (frame,) = read_frames(written(tmp_path, pixels=levels), [0])
    np.testing.assert_array_equal(to_bytes(frame).ravel(), np.arange(256))
    file = written(tmp_path, pixels=levels, WindowCenter=1000, WindowWidth=400)
    (frame,) = read_frames(file, [0])
    data = pydicom.dcmread(file)
    shown = pydicom.pixels.apply_voi_lut(data.pixel_array, data)
    np.testing.assert_array_equal(frame.samples[..., 0], shown)
    window = to_bytes(frame)[levels.astype(int).reshape(16, 16, 1) < 700]
    assert window.max() <= 1
    assert to_bytes(frame).max() == 255


def test_a_compression_that_nobody_decodes_is_named(tmp_path):
    data = pydicom.dcmread(path_of("US1_J2KR"))
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    data.save_as(tmp_path / "file.dcm")
    with pytest.raises(CorruptImage, match=r"as MPEG2 .* no installed package decodes"):
        list(read_frames(tmp_path / "file.dcm", [0]))


def test_what_is_no_dicom_is_a_fault(tmp_path):
    (tmp_path / "text.dcm").write_text("no DICOM at all, and long enough to have a preamble" * 9)
    with pytest.raises(CorruptImage, match="DICOM"):
        read_header(tmp_path / "text.dcm")


@pytest.mark.parametrize("name", ["color-px", "OBXXXX1A_rle", "ExplVR_BigEnd", "examples_jpeg2k"])
def test_mutated_files_are_a_fault_or_a_picture_of_the_declared_size(tmp_path, name):
    """500 mutations each, of headers mostly: none raises anything else."""
    rng = np.random.default_rng(0)
    content, file = path_of(name).read_bytes(), tmp_path / "file.dcm"
    for number in range(500):
        mutated = np.frombuffer(content, np.uint8).copy()
        if number % 10 == 0:
            mutated = mutated[: rng.integers(1, len(mutated))]
        reach = len(mutated) if number % 5 == 0 else min(len(mutated), 4000)
        mutated[rng.integers(0, reach, 6)] = rng.integers(0, 256, 6)
        file.write_bytes(mutated.tobytes())
        with suppress(CorruptImage):
            header = read_header(file)
            if header.frames * header.height * header.width < 2**21:
                for frame in read_frames(file, [0]):
                    assert to_bytes(frame).shape[:2] == (header.height, header.width)
