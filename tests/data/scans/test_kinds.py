"""Files are told by their names, and DICOM files without one by how they begin."""

import pytest

from ufm_jax.data.scans.kinds import is_clip, is_dicom, is_nifti, is_scan

DICOM = b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.DCM", b"", is_dicom),
        ("a.ima", b"", is_dicom),
        ("a", DICOM, is_dicom),
        ("1.2.840.113619", DICOM, is_dicom),
        ("a.txt", b"DICM", None),
        ("a", b"", None),
        ("a.png", DICOM, None),
        ("a.Mp4", b"", is_clip),
        ("a.avi", b"", is_clip),
        ("a.nii", b"", is_nifti),
        ("a.NII.gz", b"", is_nifti),
        ("a.gz", b"", None),
    ],
)
def test_a_file_has_one_kind_or_none(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    kinds = [is_it for is_it in (is_dicom, is_clip, is_nifti) if is_it(tmp_path / name)]
    assert kinds == [kind] * (kind is not None)
    assert is_scan(tmp_path / name) == bool(kinds)


def test_a_file_that_is_gone_is_no_scan(tmp_path):
    assert not is_scan(tmp_path / "gone")
