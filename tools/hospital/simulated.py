"""Simulated files of hospitals, DICOM and clips, to try every command on.

institutions/SITE/*         DICOM, and an MP4: to pretrain on
labelled/*.dcm              and labelled/index.csv (image, label): to fine-tune a diagnosis on
outlines/image/*.dcm        and outlines/mask/*.png, equal stems: to fine-tune outlines on
new/*.dcm                   from an institution that gave no other file, one a clip: to predict

A picture has a name burned in above the scan, and a header with a patient, the region of the scan
and millimetres. Patients have two files each.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ufm_jax.data.optional import needed_packages
from ufm_jax.data.scans.clip import write_frames
from ufm_jax.errors import DataError
from ufm_jax.files import write_text
from ufm_jax.phantoms.generate import Phantom, phantom
from ufm_jax.phantoms.lesion import LABEL_NAMES
from ufm_jax.threads import map_in_order

_ABOVE, _BESIDE = 40, 30
"""Pixels of the screen around the picture."""
_FRAMES, _FRAME_MS = 24, 50
_WHITE = 225


def write_scans(
    out: Path, *, sites: int = 3, images: int = 60, size: int = 200, seed: int = 0
) -> dict[str, int]:
    """Simulates files and writes them.

    Args:
        out: A new folder.
        sites: Institutions that train.
        images: Images of each: the first half to pretrain on, the other with labels and outlines.
        size: Longer side of the scans, pixels.
        seed: The same seed gives the same pictures.

    Returns:
        Files in each folder.

    Raises:
        DataError: If the folder exists, a number is too small, or a package is not installed.
    """
    if out.exists():
        raise DataError(f"{out} exists: remove it, or name another folder")
    if sites < 1 or images < 4:
        raise DataError(f"{sites} sites of {images} images: use 1 or more sites of 4 or more")
    plans = [(site, index) for site in range(sites) for index in range(images)]
    plans += [(sites, index) for index in range(images // 4)]

    def make(plan: tuple[int, int]) -> tuple[str, str]:
        site, index = plan
        made = phantom(seed, site, index, size)
        stem, patient = f"{site}_{index:03}", f"{site}-{index // 2:03}"
        screen = _screen(made, patient)
        if site == sites:
            pixels = screen if index else _clip(screen, made)
            _write_dicom(out / f"new/{stem}.dcm", pixels, made, patient)
            return "new", ""
        if index < images // 2:
            folder = out / f"institutions/site{site}"
            if index == 0:
                frames = _clip(screen, made)[..., None].repeat(3, axis=-1)
                write_frames(_folder(folder / "clip.mp4"), frames, 1000 / _FRAME_MS)
            else:  # Scanners give their files no suffix.
                _write_dicom(folder / f"IM{index:04}", screen, made, patient)
            return "institutions", ""
        for place in ("labelled", "outlines/image"):
            _write_dicom(out / place / f"{stem}.dcm", screen, made, patient)
        mask = np.zeros_like(screen)
        _inside(mask, made)[:] = 255 * made.picture_of(made.mask)
        Image.fromarray(mask).save(_folder(out / f"outlines/mask/{stem}.png"))
        return "labelled", f"{stem}.dcm,{LABEL_NAMES[made.label]}"

    placed = list(map_in_order(make, plans, os.cpu_count() or 1))
    lines = [line for _, line in placed if line]
    write_text(out / "labelled/index.csv", "\n".join(["image,label", *lines, ""]))
    return dict(Counter(place for place, _ in placed))


def _screen(made: Phantom, patient: str) -> np.ndarray:
    """A scanner's screen, uint8 [H, W]: the picture, and whose it is above it."""
    height, width = made.extent
    screen = Image.new("L", (width + 2 * _BESIDE, height + 2 * _ABOVE))
    ImageDraw.Draw(screen).text((8, 8), f"PHANTOM^ANNA  {patient}", fill=_WHITE)
    pixels = np.array(screen)
    _inside(pixels, made)[:] = made.picture_of(made.image)
    return pixels


def _clip(screen: np.ndarray, made: Phantom) -> np.ndarray:
    """A screen in which the gain of the picture goes up and down, uint8 [T, H, W]."""
    frames = np.repeat(screen[None], _FRAMES, axis=0)
    for time, frame in enumerate(frames):
        gain = 0.7 + 0.3 * np.cos(2 * np.pi * time / _FRAMES)
        picture = _inside(frame, made)
        picture[:] = np.rint(gain * picture)
    return frames


def _inside(screen: np.ndarray, made: Phantom) -> np.ndarray:
    height, width = made.extent
    return screen[_ABOVE : _ABOVE + height, _BESIDE : _BESIDE + width]


def _write_dicom(path: Path, pixels: np.ndarray, made: Phantom, patient: str) -> None:
    """Writes a screen [H, W], or several [T, H, W], as an ultrasound file."""
    with needed_packages():
        import pydicom
        from pydicom.uid import (
            ExplicitVRLittleEndian,
            UltrasoundImageStorage,
            UltrasoundMultiFrameImageStorage,
            generate_uid,
        )
    several = pixels.ndim == 3
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = UltrasoundMultiFrameImageStorage if several else UltrasoundImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=[path.name, patient])
    data.StudyInstanceUID = generate_uid(entropy_srcs=[patient])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, "series"])
    data.PatientName, data.PatientID = "Phantom^Anna", patient
    data.PatientBirthDate, data.PatientSex = "19700101", "F"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20240229", "", "1", "A1"
    data.ReferringPhysicianName = ""
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "US", "ufm_jax", "Phantom"
    data.SeriesNumber = data.InstanceNumber = 1
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    if several:
        data.NumberOfFrames, data.FrameTime = len(pixels), _FRAME_MS
    data.SequenceOfUltrasoundRegions = [_region(made, pydicom.Dataset())]
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(_folder(path), data, enforce_file_format=True)


def _region(made: Phantom, region: Any) -> Any:
    """Where the picture is, and centimetres a pixel: DICOM PS3.3 C.8.5.5."""
    height, width = made.extent
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionFlags = 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = _BESIDE, _ABOVE
    region.RegionLocationMaxX1 = _BESIDE + width - 1
    region.RegionLocationMaxY1 = _ABOVE + height - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = made.mm / 10
    return region


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
