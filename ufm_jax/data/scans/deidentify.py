"""Blackens what is not the scan, where names, dates and numbers are burned into pictures.

What is kept: of each tissue region that a header names, the fan or rectangle that ``geometry``
finds in it, or all of it; where no region is named, what ``geometry`` finds. Where that is nothing,
or all of the picture, nothing is kept: a screen has a frame around the scan, and a picture in which
it cannot be told may show a name anywhere. Nor is anything of a file whose regions are all of other
things than tissue. Inside the scan nothing is blackened. BurnedInAnnotation is not asked: nearly
all files lack it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ufm_jax.data.geometry.detect import find_scan_area
from ufm_jax.data.scans.regions import Regions

_OVERVIEW, _SQUARES, _SEEN = 320, 24, 24
"""Longest side of an overview; squares along it; grey level from which a pixel shows something."""
_AMBER = (232, 140, 20)
_LEAST_SHARE = 0.25
"""Of its region's box, that a fan covers."""

_WHOLE = 0.95
"""Of a picture, from which on a scan or region has nothing around it."""

Reason = Literal["regions", "scan area", "asked for whole"]


class Cut(NamedTuple):
    """A box in a picture of ``height`` rows and ``width`` columns."""

    height: int
    width: int
    top: int
    left: int
    bottom: int
    right: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The box [h, w, ...] of a picture [H, W, ...]."""
        return picture[self.top : self.bottom, self.left : self.right]

    def placed(self, part: np.ndarray) -> np.ndarray:
        """A picture [H, W, ...] that holds ``part`` [h, w, ...] in the box and is 0 elsewhere."""
        whole = np.zeros((self.height, self.width, *part.shape[2:]), part.dtype)
        whole[self.top : self.bottom, self.left : self.right] = part
        return whole


@dataclass(frozen=True)
class Kept:
    """The part of a picture that is kept.

    Attributes:
        mask: bool [H, W].
        reason: What told where the scan is.
    """

    mask: np.ndarray
    reason: Reason

    @property
    def cut(self) -> Cut:
        """The smallest box around what is kept."""
        height, width = self.mask.shape
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)).tolist() for axis in (1, 0))
        return Cut(height, width, rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def kept_part(brightest: np.ndarray, regions: Regions) -> Kept | None:
    """Where a file shows the scan; None if that cannot be told.

    Args:
        brightest: uint8 [H, W], the brightest grey level of each pixel in some of its frames: in a
            single frame a fan may be too dark to be seen.
        regions: Of its header.
    """
    if regions.others and not regions.tissue:
        return None
    if not regions.tissue:
        mask = _scan_area(brightest)
        return None if mask is None or mask.mean() >= _WHOLE else Kept(mask, "scan area")
    kept = np.zeros(brightest.shape, bool)
    for region in regions.tissue:
        box = slice(region.top, region.bottom), slice(region.left, region.right)
        # A region is the box around a fan, in whose corners there is text. What is much smaller is
        # a fan's bright part.
        found = _scan_area(brightest[box])
        kept[box] |= found if found is not None and found.mean() >= _LEAST_SHARE else True
    return None if kept.mean() >= _WHOLE else Kept(kept, "regions")


def whole_picture(brightest: np.ndarray) -> Kept:
    """All of a file that shows nothing but the scan, as a user says."""
    return Kept(np.ones(brightest.shape, bool), "asked for whole")


def overview(brightest: np.ndarray, kept: Kept | None) -> np.ndarray:
    """A small picture for a person to see what is kept and where something was blackened.

    Args:
        brightest: As for ``kept_part``.
        kept: What is kept of it; None for nothing.

    Returns:
        uint8 [h, w, 3]: what is kept as it is; amber in squares too coarse to read a line of text
        in, where something brighter than black was blackened.
    """
    height, width = brightest.shape
    mask = np.zeros(brightest.shape, bool) if kept is None else kept.mask
    side = max(1, round(max(height, width) / _SQUARES))
    rows, columns = (range(0, length, side) for length in (height, width))
    lost = np.where(mask, 0, brightest) >= _SEEN
    any_lost = np.logical_or.reduceat(np.logical_or.reduceat(lost, rows, axis=0), columns, axis=1)
    squares = any_lost.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    grey = np.where(mask, brightest, 0)[..., None].repeat(3, axis=-1)
    grey[squares & ~mask] = _AMBER
    picture = Image.fromarray(grey)
    picture.thumbnail((_OVERVIEW, _OVERVIEW))
    return np.asarray(picture)


def _scan_area(brightest: np.ndarray) -> np.ndarray | None:
    """The pixels of the fan or rectangle that a picture shows, bool [h, w]; None if unknown."""
    area = find_scan_area(brightest)
    if area is None:
        return None
    rows, columns = np.mgrid[: brightest.shape[0], : brightest.shape[1]].astype(np.float32)
    mask = area.beyond(rows, columns) <= 0
    return mask if mask.any() else None


def blackened(picture: np.ndarray, kept: Kept) -> np.ndarray:
    """The box around what is kept, black outside of it: uint8 [h, w, C]."""
    cut = kept.cut
    return np.where(cut.of(kept.mask)[..., None], cut.of(picture), np.uint8(0))
