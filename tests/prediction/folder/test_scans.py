"""DICOM and clips in a folder that is predicted: a row a frame, masks in the file's own place."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prediction.folder.test_run import LESION, SINGLE, config, objective, table, trained
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.data.scans.deidentify import Cut
from ufm_jax.errors import ConfigError
from ufm_jax.prediction.folder import run
from ufm_jax.prediction.folder.run import Request, predict_folder

pydicom = pytest.importorskip("pydicom", reason="pip install 'ufm-jax[medical]'")
av = pytest.importorskip("av", reason="pip install 'ufm-jax[medical]'")
highdicom = pytest.importorskip("highdicom", reason="pip install 'ufm-jax[medical]'")
data_store = pytest.importorskip("data_store", reason="pip install pydicom-data")

SOURCE = Path(data_store.__file__).parent / "data"
OF_PYDICOM = Path(pydicom.__file__).parent / "data/test_files/examples_palette.dcm"
MM = 0.5105
"""Of color3d_jpeg_baseline, by its header."""
NUMBERS = (20, 60, 100)


pytestmark = pytest.mark.usefixtures("homes")


@pytest.fixture(autouse=True)
def _compile_once(monkeypatch):
    monkeypatch.setattr(run, "make_objective", lambda config, task: objective(task))


@pytest.fixture
def images(tmp_path) -> Path:
    """A file of one frame without millimetres, a clip of 120 with them, and a picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "one").write_bytes((SOURCE / "US1_UNCR.dcm").read_bytes())
    (folder / "clip.dcm").write_bytes((SOURCE / "color3d_jpeg_baseline.dcm").read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder


def settings(task, **evaluation) -> FinetuneConfig:
    plain = config(task, **evaluation)
    return replace(plain, data=replace(plain.data, frames="evenly:3"))


def predict(images, out, task=LESION, evaluation=None, **options):
    request = Request(images, out, **options)
    return predict_folder(settings(task, **(evaluation or {})), trained(task), request)


def clips(out) -> list[dict[str, str]]:
    with (out / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


CLIP_ROWS = [f"clip.dcm frame {number + 1}" for number in NUMBERS]


def test_a_frame_is_a_row_and_its_mask_lies_where_the_frame_did(tmp_path, images):
    summary = predict(images, tmp_path / "out")
    assert (summary.predicted, summary.failed) == (5, 0)
    rows = table(tmp_path / "out")
    assert list(rows) == [*CLIP_ROWS, "one", "picture.png"]
    shown = 0
    for name, size in {
        "one": (480, 640),
        CLIP_ROWS[1]: (480, 640),
        "picture.png": (50, 70),
    }.items():
        mask = np.asarray(Image.open(tmp_path / "out" / rows[name]["mask"]))
        drawn = np.asarray(
            Image.open(tmp_path / "out" / rows[name]["mask"].replace("mask", "overlay"))
        )
        assert mask.shape == size
        assert int(rows[name]["pixels_lesion"]) == (mask > 0).sum()
        if name != "picture.png":
            assert drawn.shape[:2] < size, "what is not kept is not drawn"
            found = np.argwhere(mask)
            corner = 480 - drawn.shape[0], 640 - drawn.shape[1]
            assert (np.ptp(found, axis=0) < drawn.shape[:2]).all()
            assert (found.min(axis=0) > 0).all()
            assert min(corner) > 0
            shown += 1
    assert shown == 2


def test_areas_are_in_millimetres_where_the_header_or_the_command_says_them(tmp_path, images):
    circumference = {"measurement": "head_circumference", "measured_class": "lesion"}
    predict(images, tmp_path / "mm", evaluation=circumference)
    predict(images, tmp_path / "both", evaluation=circumference, spacing=0.1)
    known, both = table(tmp_path / "mm"), table(tmp_path / "both")
    for name, row in known.items():
        pixels = int(row["pixels_lesion"])
        assert pixels > 0
        if name in CLIP_ROWS:
            assert float(row["mm2_lesion"]) == pytest.approx(pixels * MM**2, rel=1e-3)
            assert both[name]["mm2_lesion"] == row["mm2_lesion"], "the header's own is taken first"
        else:
            assert row["mm2_lesion"] == row["head_circumference_mm"] == ""
            assert float(both[name]["mm2_lesion"]) == pytest.approx(pixels * 0.01, rel=1e-5)


def test_a_clip_is_summed_up(tmp_path, images):
    predict(images, tmp_path / "out")
    rows = table(tmp_path / "out")
    (clip,) = clips(tmp_path / "out")
    assert (clip["clip"], clip["frames"], clip["predicted"]) == ("clip.dcm", "120", "3")
    areas = sorted(int(rows[name]["pixels_lesion"]) for name in CLIP_ROWS)
    assert float(clip["median_pixels_lesion"]) == pytest.approx(areas[1], rel=1e-5)
    assert float(clip["most_pixels_lesion"]) == pytest.approx(areas[2], rel=1e-5)
    predict(images, tmp_path / "diagnosis", SINGLE)
    rows = table(tmp_path / "diagnosis")
    (clip,) = clips(tmp_path / "diagnosis")
    mean = np.mean([float(rows[name]["prob_malignant"]) for name in CLIP_ROWS])
    assert float(clip["prob_malignant"]) == pytest.approx(mean, rel=1e-5)
    assert clip["called"] == ("malignant" if mean > 0.5 else "benign")


def test_overlays_of_a_clip_last_as_long_as_the_clip(tmp_path, images):
    predict(images, tmp_path / "out", clips=True)
    with av.open(str(tmp_path / "out" / "clips" / "clip.dcm.mp4")) as container:
        stream = container.streams.video[0]
        assert len(list(container.decode(stream))) == 3
        header = pydicom.dcmread(images / "clip.dcm", stop_before_pixels=True)
        seconds = 120 * float(header.FrameTime) / 1000
        assert 3 / float(stream.average_rate) == pytest.approx(seconds, rel=1e-3)
    assert not (tmp_path / "out" / "clips" / "one.mp4").exists()


def test_masks_go_back_as_dicom_segmentations_of_their_frames(tmp_path, images, caplog):
    nameless = pydicom.dcmread(images / "one")
    del nameless.StudyInstanceUID
    nameless.save_as(images / "nameless.dcm")
    caplog.set_level(logging.WARNING)
    predict(images, tmp_path / "out", dicom=True)
    rows = table(tmp_path / "out")
    series = set()
    for name, file, number in [("one", "one", None), (CLIP_ROWS[2], "clip.dcm", NUMBERS[2] + 1)]:
        found = highdicom.seg.segread(tmp_path / "out" / rows[name]["dicom"])
        mask = np.asarray(Image.open(tmp_path / "out" / rows[name]["mask"]))
        np.testing.assert_array_equal(found.pixel_array.reshape(mask.shape), mask > 0)
        source = pydicom.dcmread(images / file, stop_before_pixels=True)
        assert found.PatientID == source.PatientID
        assert found.StudyInstanceUID == source.StudyInstanceUID
        (frame,) = found.PerFrameFunctionalGroupsSequence
        named = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert named.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert named.ReferencedSOPClassUID == source.SOPClassUID
        assert named.get("ReferencedFrameNumber") == number
        assert found.SegmentSequence[0].SegmentLabel == "lesion"
        series.add(found.SeriesInstanceUID)
    assert len(series) == 2
    assert rows["picture.png"]["dicom"] == rows["nameless.dcm"]["dicom"] == ""
    assert rows["nameless.dcm"]["mask"]
    assert "nameless.dcm: no DICOM segmentation: it has no StudyInstanceUID" in caplog.text


def test_a_header_that_cannot_be_repeated_costs_one_segmentation_and_is_not_quoted(
    tmp_path, images, caplog, capfd
):
    caplog.set_level(logging.WARNING)
    odd = pydicom.dcmread(images / "one")
    odd.PatientBirthDate = "19610203"
    odd.save_as(images / "odd.dcm")
    content = (images / "odd.dcm").read_bytes()
    (images / "odd.dcm").write_bytes(content.replace(b"19610203", b"SECRETBI"))
    summary = predict(images, tmp_path / "out", dicom=True)
    assert summary.failed == 0
    rows = table(tmp_path / "out")
    assert rows["odd.dcm"]["mask"]
    assert not rows["odd.dcm"]["dicom"]
    assert rows["one"]["dicom"]
    assert "odd.dcm: no DICOM segmentation: it has a header that cannot be repeated" in caplog.text
    said = "".join(capfd.readouterr())
    assert "SECRET" not in caplog.text + said


def test_a_scan_that_cannot_be_read_or_told_is_listed(tmp_path, images):
    (images / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"broken" * 50)
    (images / "clip.mp4").write_bytes(b"no clip")
    (images / "unknown.dcm").write_bytes(OF_PYDICOM.read_bytes())
    summary = predict(images, tmp_path / "out")
    assert (summary.predicted, summary.failed) == (5, 3)
    errors = {name: row["error"] for name, row in table(tmp_path / "out").items() if row["error"]}
    assert "DICOM" in errors["broken.dcm"]
    assert "does not decode as a clip" in errors["clip.mp4"]
    assert "where the scan is cannot be told" in errors["unknown.dcm"]


def test_options_that_mean_nothing_are_refused(tmp_path, images):
    for option in ("clips", "dicom"):
        with pytest.raises(ConfigError, match=f"--{option}: .*segmentations"):
            predict(images, tmp_path / "out", SINGLE, **{option: True})
    with pytest.raises(ConfigError, match="--nooverlays"):
        predict(images, tmp_path / "out", clips=True, overlays=False)


def test_a_cut_undoes_itself():
    picture = np.arange(60).reshape(6, 10)
    cut = Cut(6, 10, 1, 2, 5, 9)
    part = cut.of(picture)
    whole = cut.placed(part)
    np.testing.assert_array_equal(cut.of(whole), part)
    assert whole.sum() == part.sum()
