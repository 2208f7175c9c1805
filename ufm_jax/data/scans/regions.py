"""Where a DICOM ultrasound picture shows tissue, and how large a pixel is there.

From the Sequence of Ultrasound Regions, (0018,6011), of DICOM PS3.3 C.8.5.5. Its corners are pixels
counted from 0, both inside the region; its deltas are lengths a pixel in the unit that it states.
Scanners err: a region that leaves the picture by more than a pixel belongs to a picture of another
size, so that neither its place nor its scale can be trusted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

_TWO_DIMENSIONAL = 1
_TISSUE_OR_FLOW = (1, 2)
_MM_A_UNIT = {3: 10.0}
"""Physical units that are lengths: 3 is centimetres. Others are time, velocity, per cent, ..."""
_SLACK = 1
_SQUARE_WITHIN = 0.01


@dataclass(frozen=True)
class Region:
    """A part of a picture.

    Attributes:
        top, left, bottom, right: Pixels; the last two are just outside.
        tissue: Whether it is a two-dimensional picture of tissue or flow: no spectrum, M-mode,
            curve or drawing.
        mm: Millimetres a pixel, (down, across); None where the header does not say.
    """

    top: int
    left: int
    bottom: int
    right: int
    tissue: bool
    mm: tuple[float, float] | None


@dataclass(frozen=True)
class Regions:
    """What a header says of a picture's parts.

    Attributes:
        tissue: The parts that show tissue; empty where the header names none that can be trusted.
        others: The number of parts that show something else, such as a spectrum.
        faults: Why others were not believed.
    """

    tissue: tuple[Region, ...] = ()
    others: int = 0
    faults: tuple[str, ...] = ()

    @property
    def mm(self) -> float | None:
        """Millimetres a pixel, if all parts agree on one number; else None."""
        scales = [region.mm for region in self.tissue]
        numbers = [side for mm in scales if mm for side in mm]
        if not numbers or None in scales or max(numbers) > min(numbers) * (1 + _SQUARE_WITHIN):
            return None
        return float(np.mean(numbers))


def read_regions(items: Iterable[Any], height: int, width: int) -> Regions:
    """The regions of a header.

    Args:
        items: Data sets of the sequence.
        height: Rows of the picture.
        width: Columns of the picture.
    """
    tissue, faults, others = [], [], 0
    for number, item in enumerate(items, 1):
        try:
            region = _region(item, height, width)
        except (_Outside, AttributeError) as error:  # Which name what is missing, and no value.
            faults.append(f"ultrasound region {number}: {error}")
            continue
        except (TypeError, ValueError, OverflowError):
            # Without the error's text, which may quote the header.
            faults.append(f"ultrasound region {number}: its place or scale is not a number")
            continue
        if region.tissue:
            tissue.append(region)
        others += not region.tissue
    return Regions(tuple(tissue), others, tuple(faults))


class _Outside(Exception):
    """A region that leaves its picture."""


def _region(item: Any, height: int, width: int) -> Region:
    left, top = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
    right, bottom = int(item.RegionLocationMaxX1) + 1, int(item.RegionLocationMaxY1) + 1
    if not (0 <= top < bottom <= height + _SLACK and 0 <= left < right <= width + _SLACK):
        raise _Outside(
            f"rows {top} to {bottom - 1} and columns {left} to {right - 1} of a picture of "
            f"{height} x {width}"
        )
    tissue = (
        int(item.RegionSpatialFormat) == _TWO_DIMENSIONAL
        and int(item.RegionDataType) in _TISSUE_OR_FLOW
    )
    return Region(top, left, min(bottom, height), min(right, width), tissue, _mm(item))


def _mm(item: Any) -> tuple[float, float] | None:
    units = (item.get("PhysicalUnitsYDirection"), item.get("PhysicalUnitsXDirection"))
    deltas = (item.get("PhysicalDeltaY"), item.get("PhysicalDeltaX"))
    if any(unit not in _MM_A_UNIT for unit in units) or None in deltas:
        return None
    down, across = (abs(float(d)) * _MM_A_UNIT[u] for d, u in zip(deltas, units, strict=True))
    finite = math.isfinite(down) and math.isfinite(across)
    return (down, across) if finite and min(down, across) > 0 else None
