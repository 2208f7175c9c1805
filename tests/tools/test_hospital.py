"""A hospital's files become images and a table that name nobody, and a person can check them."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.scans.test_expand import SECRETS, SOURCE, pydicom, write
from tools import prepare_data
from tools.hospital.export import COLUMNS
from tools.hospital.simulated import write_scans
from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.phantoms.generate import phantom

PATH = "Doe^Jane/2020-02-29 MRN4711X"
SCAN = "color3d_jpeg_baseline.dcm"


pytestmark = pytest.mark.usefixtures("homes")


@pytest.fixture
def files(tmp_path):
    """Two patients, one of them twice; a clip; a screenshot; what is no picture; a broken file."""
    root = tmp_path / "files"
    write(root / PATH / "1.dcm", 1)
    write(root / PATH / "IM2", 2, BodyPartExamined="BREAST")
    write(root / PATH / "copy.dcm", 2)
    write(root / "other" / "1.dcm", 3, patient="4712", BodyPartExamined="DOE JANE")
    (root / "clip.dcm").write_bytes((SOURCE / SCAN).read_bytes())
    (root / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"broken" * 50)
    (root / "letter of Jane Doe.txt").write_text("MRN4711X")
    shown = pydicom.dcmread(SOURCE / "US1_UNCR.dcm").pixel_array
    Image.fromarray(shown).save(root / "screen.png")
    return root


def run(files, out, *options) -> int:
    return prepare_data.main(["hospital", "--in", str(files), "--out", str(out), *options])


def table(out) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written_trains_and_says_what_may_be_known(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(files, out, "--frames=evenly:3") == 0
    rows = table(out)
    assert tuple(rows[0]) == COLUMNS
    by_file = {Path(row["image"]).name[:6]: row for row in rows}
    # Sorted by path: the file itself below the folder first.
    assert [row["frame"] for row in rows if row["px_mm"]] == ["21", "61", "101"]
    assert {row["px_mm"][:5] for row in rows if row["px_mm"]} == {"0.510"}
    groups = [row["group"] for row in rows]
    assert len(rows) == 3 + 1 + 2 + 1
    assert len(set(groups)) == 4, "clip, screenshot, and two patients"
    assert [row["organ"] for row in rows if row["organ"]] == ["breast"]
    assert {row["client"] for row in rows} == {"hospital"}
    assert len({row["origin"] for row in rows}) == len(by_file)
    for row in rows:
        assert np.asarray(Image.open(out / row["image"])).max() > 0
    said = capsys.readouterr().out
    assert "left out: 1 frames with the pixels of another image" in said
    assert "left out: 1 files that do not decode" in said
    assert "left out: 1 files and links that are not images" in said
    data = load_federated(
        DataSettings(
            source="index", root=str(out), index=("index.csv",), client_columns=("client",)
        )
    )
    assert data.names == ("hospital",)
    assert data.num_rows == len(rows)


def test_pictures_are_blackened_like_scans(files, tmp_path):
    """A screenshot of a DICOM file shows what is kept of the file."""
    out = tmp_path / "out"
    for path in files.rglob("*"):
        if path.is_file() and path.name != "screen.png":
            path.unlink()
    (files / "same.dcm").write_bytes((SOURCE / "US1_UNCR.dcm").read_bytes())
    run(files, out)
    assert len(table(out)) == 1, "both have the same pixels once what surrounds the scan is black"


def test_nothing_of_headers_or_paths_is_written(files, tmp_path):
    out = tmp_path / "out"
    run(files, out)
    written = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert {"report.html", "index.csv"} < set(written)
    everything = b"".join(name.encode() + path.read_bytes() for name, path in written.items())
    parts = [part for secret in SECRETS.values() for part in secret.split("^")]
    for secret in [*parts, "DOE JANE", "IM2", "letter of", SCAN.removesuffix(".dcm"), str(files)]:
        assert secret.encode() not in everything, secret
    (origins,) = (tmp_path / "config" / "ufm_jax").glob("origins_*.csv")
    with origins.open(newline="") as file:
        of_origin = {row["origin"]: row["file"] for row in csv.DictReader(file)}
    assert {of_origin[row["origin"]] for row in table(out)} >= {f"{PATH}/1.dcm", "clip.dcm"}
    assert origins.stat().st_mode & 0o777 == 0o600


def test_the_page_shows_each_file_and_where_something_was_blackened(files, tmp_path):
    out = tmp_path / "out"
    run(files, out)
    page = (out / "report.html").read_text()
    shown = re.findall(r'src="(overviews/\d{6}\.png)"', page)
    assert len(shown) == len(set(shown)) == 6
    for name in shown:
        picture = np.asarray(Image.open(out / name)).astype(int)
        assert max(picture.shape) <= 320
        amber = (picture[..., 0] > picture[..., 2] + 60).mean()
        assert 0.01 < amber < 0.9
    assert "files that do not decode" in page


def test_folders_as_clients_and_labels_by_name_or_path(files, tmp_path):
    (files / "clip.dcm").unlink()
    labels = tmp_path / "labels.csv"
    labels.write_text(f"image,label\n{PATH}/1.dcm,cyst\nIM2,mass\nnone.dcm,cyst\n")
    run(files, tmp_path / "out", "--client_folders", f"--labels={labels}")
    rows = table(tmp_path / "out")
    assert [(row["client"], row["label"]) for row in rows] == [
        ("Doe^Jane", "cyst"),
        ("Doe^Jane", "mass"),
        ("other", ""),
    ]
    labels.write_text("image,label\n1.dcm,cyst\n")
    with pytest.raises(DataError, match=r"labels\.csv.*several files are called 1\.dcm"):
        run(files, tmp_path / "again", f"--labels={labels}")
    assert not (tmp_path / "again").exists()


def test_folders_that_would_lose_something_are_refused(files, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match=r"--out=.* exists"):
        run(files, tmp_path / "there")
    with pytest.raises(DataError, match="lies within --in"):
        run(files, files / "out")
    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="without slashes"):
        run(files, tmp_path / "out", "--client=a/b")
    with pytest.raises(DataError, match="no image, DICOM, clip or NIfTI"):
        run(tmp_path / "there", tmp_path / "out")


def test_simulated_files_are_those_of_hospitals(tmp_path):
    out = tmp_path / "scans"
    counts = write_scans(out, sites=2, images=8, size=96)
    assert counts == {"institutions": 8, "labelled": 8, "new": 2}
    settings = {"working_size": 64, "cache_dir": str(tmp_path / "cache"), "on_bad": "skip"}
    trained = load_federated(
        DataSettings(source="folders", root=str(out / "institutions"), **settings)
    )
    assert trained.names == ("site0", "site1")
    split = SplitSettings(policy="fractions", required=("train",))
    labelled = LabelSettings(
        source="index", root=str(out / "labelled"), index=("index.csv",), split=split, **settings
    )
    diagnosed = load_labelled(labelled)
    assert diagnosed.num_rows == 8
    assert len(diagnosed.group_names) == 4, "patients of two files each"
    outlines = LabelSettings(
        source="folders", kind="segment", root=str(out / "outlines"), split=split, **settings
    )
    outlined = load_labelled(outlines)
    truth = phantom(0, 1, 5, 96)
    row = outlined.names.index("image/1_005.dcm")
    assert outlined.spacing[row] == pytest.approx(truth.mm, rel=1e-5)
    assert outlined.native_size[row].tolist() <= list(truth.extent), "the name is not kept"
    assert outlined.class_pixels[row, 1] == truth.mask.sum()
    with pytest.raises(DataError, match="exists: remove it"):
        write_scans(out)
