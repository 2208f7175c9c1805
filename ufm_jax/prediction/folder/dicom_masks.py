"""A predicted mask as a DICOM segmentation, which a picture archive shows over its image.

Such a file belongs to the patient's study, so it repeats the image's patient and study.
"""

import io
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.scans.dicom import silent_pydicom
from ufm_jax.files import private_file, private_folder

if TYPE_CHECKING:
    from pydicom import Dataset

_MAKER = "ufm_jax"
_CONCEPT = ("309825002", "SCT", "Spatial and Relational Concept")
"""The category of a region of which no more is known than its class's name."""
_LONGEST = 64
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def write_segmentation(
    source: Path, number: int, mask: np.ndarray, classes: Sequence[str], run: str, out: Path
) -> None:
    """Writes the mask of one frame.

    Scanners give ultrasound no frame of reference, without which a segmentation has one frame: each
    frame of a clip has a file, which names the clip and the frame. Those of a clip are one series.

    Args:
        source: The DICOM file.
        number: The frame, from 0.
        mask: uint8 [H, W], class numbers at the frame's size.
        classes: C names, for the numbers 1..C.
        run: What tells this prediction from others of the same file.
        out: The file that is written.

    Raises:
        CorruptImage: If the file lacks what says which image it is.
        DataError: If highdicom is not installed.
    """
    with needed_packages():
        import highdicom  # noqa: F401
    # Its warnings quote the patient's name.
    warnings.filterwarnings("ignore", module=r"highdicom\b")
    written = io.BytesIO()
    try:
        _segmentation(source, number, mask, classes, run).save_as(written)
    except CorruptImage:
        raise
    except Exception as error:
        # Without the error's text, which may quote the header.
        reason = f"has a header that cannot be repeated ({type(error).__name__})"
        raise CorruptImage(reason) from None
    private_folder(out.parent)
    private_file(out).write_bytes(written.getvalue())


def _segmentation(
    source: Path, number: int, mask: np.ndarray, classes: Sequence[str], run: str
) -> "Dataset":
    import highdicom
    from pydicom.sr.codedict import codes

    pydicom = silent_pydicom()
    image = pydicom.dcmread(source, stop_before_pixels=True, force=True)
    if lacking := [name for name in _NEEDED if not image.get(name)]:
        raise CorruptImage(f"has no {', '.join(lacking)}, which a segmentation must name")
    frames, kind = int(image.get("NumberOfFrames") or 1), image.SOPClassUID
    for name in _MAY_BE_EMPTY:
        if name not in image:
            setattr(image, name, "")
    # Of clips highdicom asks for what only enhanced ones have, so that it is shown a single image;
    # and where that lies in the patient is known only of a probe that is tracked.
    for name in ("NumberOfFrames", "FrameOfReferenceUID"):
        image.pop(name, None)
    image.SOPClassUID = pydicom.uid.UltrasoundImageStorage
    made_by = highdicom.AlgorithmIdentificationSequence(
        name=_MAKER,
        version=version(_MAKER),
        family=codes.DCM.ArtificialIntelligence,
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=place,
            segment_label=name,
            segmented_property_category=highdicom.sr.CodedConcept(*_CONCEPT),
            segmented_property_type=highdicom.sr.CodedConcept(f"class{place}", "99UFMJAX", name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
        )
        for place, name in enumerate(map(_label, classes), 1)
    ]
    of_image = [image.SOPInstanceUID, run]
    segmentation = highdicom.seg.Segmentation(
        source_images=[image],
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=pydicom.uid.generate_uid(entropy_srcs=of_image),
        series_number=1,
        sop_instance_uid=pydicom.uid.generate_uid(entropy_srcs=[*of_image, str(number)]),
        instance_number=number + 1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MAKER,
        software_versions=version(_MAKER),
        device_serial_number="0",
        omit_empty_frames=False,
    )
    _name_source(segmentation, kind, number + 1 if frames > 1 else None)
    return segmentation


def _label(name: str) -> str:
    """A class's name as DICOM takes one: ASCII, since the image's own character set stays."""
    return name.encode("ascii", "backslashreplace").decode().replace("\\", "/")[:_LONGEST]


def _name_source(segmentation: "Dataset", kind: str, frame: int | None) -> None:
    """Says of what class the image is, and of which of its frames, from 1, the mask."""
    for element in segmentation.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = kind
        if element.keyword == "SourceImageSequence" and frame is not None:
            for source in element.value:
                source.ReferencedFrameNumber = frame
