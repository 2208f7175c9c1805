"""Which files are read frame by frame, and by what."""

from pathlib import Path, PurePath

from ufm_jax.data.image_file import SUFFIXES

_DICOM = frozenset((".dcm", ".dicom", ".ima"))
_CLIPS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"))
_NIFTI = (".nii", ".nii.gz")
_KNOWN = (*_NIFTI, *_DICOM, *_CLIPS, *SUFFIXES)
_PREAMBLE, _MAGIC = 128, b"DICM"


def stem_of(path: PurePath) -> PurePath:
    """A path without its suffix, if that is one of images or scans: 1.2.840 has none."""
    suffix = next((known for known in _KNOWN if path.name.lower().endswith(known)), "")
    return path.with_name(path.name[: -len(suffix)]) if path.name[: -len(suffix)] else path


def is_scan(path: Path) -> bool:
    """Whether a file is DICOM, a clip or NIfTI."""
    return is_clip(path) or is_nifti(path) or is_dicom(path)


def is_clip(path: Path) -> bool:
    """Whether a file is named as clips are."""
    return path.suffix.lower() in _CLIPS


def is_nifti(path: Path) -> bool:
    """Whether a file is named as NIfTI files are."""
    return path.name.lower().endswith(_NIFTI)


def is_picture(path: Path) -> bool:
    """Whether a file is named as image files are."""
    return path.suffix.lower() in SUFFIXES


def is_dicom(path: Path) -> bool:
    """Whether a file is named as DICOM files are, or begins as they do, and is no picture by name.

    Scanners give files no suffix, or what looks like one: 1.2.840.113619.
    """
    suffix = path.suffix.lower()
    if suffix in _DICOM or suffix in SUFFIXES:
        return suffix in _DICOM
    try:
        if not path.is_file():  # A pipe would be waited for.
            return False
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False
