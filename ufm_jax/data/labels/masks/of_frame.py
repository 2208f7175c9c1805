"""The mask of a scan's frame: cut as the frame was, and the slice of its number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.masks.decode import MaskFault, source_values
from ufm_jax.data.records import ImageSource, Picture, Record, name_of_source
from ufm_jax.data.scans.deidentify import Cut
from ufm_jax.data.scans.kinds import is_nifti
from ufm_jax.data.scans.nifti import read_slice
from ufm_jax.data.scans.store import FrameFile


def with_cut_masks(records: Sequence[Record]) -> tuple[Record, ...]:
    """Gives each frame of a scan its part of the scan's mask; other records stay."""
    return tuple(
        replace(r, mask=FrameMask(r.mask, r.image.frames, r.image.number, r.image.cut))
        if isinstance(r.image, FrameFile) and r.mask is not None
        else r
        for r in records
    )


@dataclass(frozen=True)
class FrameMask:
    """Handle of a frame's mask.

    Attributes:
        source: A picture, which is the mask of a scan of one frame; or NIfTI with a slice a frame.
        frames: Frames of the scan.
        number: The frame, from 0.
        cut: Its box in the scan's pictures.
    """

    source: ImageSource
    frames: int
    number: int
    cut: Cut

    @property
    def name(self) -> str:
        """For messages."""
        return name_of_source(self.source)

    def fingerprint(self) -> bytes:
        """Changes with the mask's values and with the box."""
        try:
            return digest(b"frame", repr(self.cut).encode(), self.load().pixels.tobytes())
        except CorruptImage:
            return digest(b"unreadable", self.name.encode(errors="surrogateescape"))

    def load(self) -> Picture:
        """The values in the box.

        Raises:
            MaskFault: If the mask cannot be read, has no slice for the frame, or is of another size
                than the scan.
        """
        values = self._values()
        if values.shape != (self.cut.height, self.cut.width):
            height, width = values.shape
            raise MaskFault(
                "mask_size",
                f"is {width} x {height} pixels, its scan {self.cut.width} x {self.cut.height}",
            )
        return Picture(self.cut.of(values))

    def _values(self) -> np.ndarray:
        """Values of the whole mask, int32 [H, W]."""
        if not (isinstance(self.source, Path) and is_nifti(self.source)):
            if self.frames > 1:
                raise MaskFault(
                    "mask_size",
                    f"is one mask, its scan has {self.frames} frames: NIfTI has a slice for each",
                )
            return source_values(self.source)
        try:
            values = read_slice(self.source, self.number, self.frames)
        except CorruptImage as error:
            raise MaskFault("corrupt", str(error)) from error
        if not np.array_equal(values, np.rint(values)):
            raise MaskFault("corrupt", "holds fractions, and a mask holds classes")
        return values.astype(np.int32)
