"""Regions of a header: what is tissue, its millimetres, and what is not believed."""

from types import SimpleNamespace

import pytest

from ufm_jax.data.scans.regions import Regions, read_regions

HEIGHT, WIDTH = 480, 640
CENTIMETRES, SECONDS = 3, 4


class Item(SimpleNamespace):
    """An item of the sequence, as pydicom gives it."""

    def get(self, name):
        return getattr(self, name, None)


def item(box=(100, 50, 499, 449), form=1, kind=1, delta=(0.02, 0.02), units=(3, 3)):
    left, top, right, bottom = box
    return Item(
        RegionLocationMinX0=left,
        RegionLocationMinY0=top,
        RegionLocationMaxX1=right,
        RegionLocationMaxY1=bottom,
        RegionSpatialFormat=form,
        RegionDataType=kind,
        PhysicalDeltaX=delta[0],
        PhysicalDeltaY=delta[1],
        PhysicalUnitsXDirection=units[0],
        PhysicalUnitsYDirection=units[1],
    )


def read(*items):
    return read_regions(items, HEIGHT, WIDTH)


def test_centimetres_a_pixel_become_millimetres_and_corners_are_inside():
    (region,) = read(item()).tissue
    assert (region.top, region.left, region.bottom, region.right) == (50, 100, 450, 500)
    assert region.mm == pytest.approx((0.2, 0.2))
    assert read(item(delta=(-0.02, 0.02))).mm == pytest.approx(0.2)


def test_spectra_m_mode_and_curves_are_no_tissue():
    others = [
        item(form=form, kind=kind) for form, kind in ((2, 1), (3, 3), (4, 10), (5, 1), (1, 9))
    ]
    assert read(*others) == Regions(others=5)
    assert len(read(item(), item(kind=2), *others).tissue) == 2


@pytest.mark.parametrize(
    "box", [(0, 0, 641, 100), (0, 0, 100, 481), (-1, 0, 9, 9), (9, 9, 8, 20), (0, 500, 20, 510)]
)
def test_a_region_that_leaves_the_picture_is_neither_used_nor_measured_by(box):
    found = read(item(box))
    assert (found.tissue, found.mm) == ((), None)
    assert "of a picture of 480 x 640" in found.faults[0]


def test_a_last_column_counted_from_one_is_forgiven():
    (region,) = read(item((0, 0, WIDTH, HEIGHT))).tissue
    assert (region.bottom, region.right) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "items",
    [
        [item(units=(SECONDS, CENTIMETRES))],
        [item(units=(None, None))],
        [item(delta=(0.0, 0.02))],
        [item(delta=(float("nan"), 0.02))],
        [item(delta=(0.02, 0.03))],  # Not square: no one number tells it.
        [item(), item(delta=(0.03, 0.03))],  # Two parts of two scales.
        [item(), item(units=(None, None))],
    ],
)
def test_millimetres_that_are_not_one_number_are_unknown(items):
    found = read(*items)
    assert found.tissue
    assert found.mm is None


def test_what_an_item_lacks_is_said():
    broken = item()
    del broken.RegionLocationMaxX1
    assert "RegionLocationMaxX1" in read(broken).faults[0]
