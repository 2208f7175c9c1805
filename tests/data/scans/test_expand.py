"""Folders and tables of DICOM and clips become clients, and nothing that names a patient stays."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="pip install 'ufm-jax[medical]'")
data_store = pytest.importorskip("data_store", reason="pip install pydicom-data")

SOURCE = Path(data_store.__file__).parent / "data"
SECRETS = {
    "PatientID": "MRN4711X",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19601231",
    "StudyDate": "20200229",
    "AccessionNumber": "ACC998877",
    "InstitutionName": "Mercy Hospital",
    "InstitutionAddress": "12 Elm Street",
    "ReferringPhysicianName": "House^Gregory",
    "OperatorsName": "Sono^Grapher",
    "StationName": "ROOM5US",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.3",
    "StudyDescription": "Follow-up of Jane",
}


def write(file, number, patient="MRN4711X", source="US1_UNCR", **changes):
    """A file of a patient, whose picture differs by its number."""
    data = pydicom.dcmread(SOURCE / f"{source}.dcm")
    for name, value in (SECRETS | {"PatientID": patient} | changes).items():
        setattr(data, name, value)
    pixels = data.pixel_array.copy()
    scan = pixels[150:330]
    pixels[150:330] = np.where(scan > 8, np.minimum(scan, 200) + number, scan)
    data.PixelData = pixels.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file)


pytestmark = pytest.mark.usefixtures("homes")


@pytest.fixture
def sites(tmp_path):
    """Two hospitals: files with and without a suffix, two of one patient, and a clip in colour."""
    root = tmp_path / "sites"
    write(root / "a" / "1.dcm", 1)
    write(root / "a" / "2", 2)
    write(root / "a" / "1.2.840.3", 3, patient="other")
    write(root / "b" / "deep" / "4.DCM", 4)
    (root / "b" / "clip.dcm").write_bytes((SOURCE / "color3d_jpeg_baseline.dcm").read_bytes())
    return root


def load(root, **changes):
    return load_federated(DataSettings(**{"source": "folders", "root": str(root)} | changes))


def test_each_frame_is_an_image_of_its_client_and_a_patient_is_a_group(sites):
    data = load(sites, working_size=64, frames="evenly:4")
    assert data.names == ("a", "b")
    assert data.sizes.tolist() == [3, 5]
    numbers = [16, 46, 76, 106]
    assert data.images == (
        *("a/1.2.840.3", "a/1.dcm", "a/2"),
        *(f"b/clip.dcm frame {number}" for number in numbers),
        "b/deep/4.DCM",
    )
    a, b = np.split(data.groups, [3])
    assert a[1] == a[2] != a[0]
    assert len(set(b[:4])) == 1
    # The number of a patient at another hospital is another patient's.
    assert b[4] not in a
    assert "4 of 120 frames" not in str(data.issues.summary())  # They were asked for.


def test_neighbours_that_hardly_differ_do_not_fill_a_client(sites):
    data = load(sites, working_size=64)
    assert 3 < data.sizes[1] < 40
    assert "frames are taken; each other hardly differs" in str(data.issues.entries)


def test_nothing_of_the_header_is_written_or_logged(sites, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    data = load(sites, working_size=64)
    written = [file for file in tmp_path.rglob("*") if file.is_file() and sites not in file.parents]
    assert any(file.suffix == ".png" for file in written)
    texts = [file.read_bytes() for file in written] + [str(file).encode() for file in written]
    texts.append((caplog.text + str(data.issues.to_json()) + str(data.images)).encode())
    for secret in SECRETS.values():
        for part in secret.split("^"):
            assert not any(part.encode() in text for text in texts), part
    # The key stays with the site: it is not where the images are.
    assert [file.name for file in (tmp_path / "config").rglob("*") if file.is_file()]


def test_files_are_decoded_once(sites, monkeypatch):
    load(sites, working_size=64)

    def refuse(*_):
        raise AssertionError("a scan was read again")

    monkeypatch.setattr("ufm_jax.data.scans.dicom.read_frames", refuse)
    monkeypatch.setattr("ufm_jax.data.scans.contents.dicom.read_frames", refuse)
    again = load(sites, working_size=64)
    assert again.num_rows > 5


def test_a_broken_scan_is_a_fault_that_names_it(sites):
    (sites / "a" / "3.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"broken" * 50)
    with pytest.raises(DataError, match=r"3\.dcm \(client a\): .*DICOM"):
        load(sites)
    assert load(sites, on_bad="skip", working_size=64).issues.counts()["corrupt"] == 1


def table(sites, rows):
    """Settings of a task whose images, labels and splits are listed in a table."""
    with (sites / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "split"), *rows])
    return LabelSettings(
        source="index",
        root=str(sites),
        index=("index.csv",),
        working_size=64,
        frames="evenly:3",
        split=SplitSettings(policy="column", required=("train", "test")),
    )


def test_frames_have_the_label_the_split_and_the_scale_of_their_file(sites):
    rows = [("a/1.dcm", "cyst", "train"), ("a/2", "none", "train")]
    rows += [("a/1.2.840.3", "cyst", "test"), ("b/clip.dcm", "none", "test")]
    data = load_labelled(table(sites, rows))
    clip = [data.names.index(f"b/clip.dcm frame {number}") for number in (21, 61, 101)]
    assert [data.task.classes[label] for label in data.labels[clip]] == ["none"] * 3
    assert data.splits[clip].tolist() == ["test"] * 3
    np.testing.assert_allclose(data.spacing[clip], 0.5105, atol=1e-4)
    other = data.names.index("a/1.dcm")
    assert data.task.classes[data.labels[other]] == "cyst"
    assert np.isnan(data.spacing[other])


def test_a_patient_on_both_sides_of_a_split_is_refused(sites):
    with pytest.raises(DataError, match=r"is in two splits: a/1\.dcm in 'train' and a/2 in 'test'"):
        load_labelled(table(sites, [("a/1.dcm", "cyst", "train"), ("a/2", "none", "test")]))
