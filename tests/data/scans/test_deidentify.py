"""What is burned into a picture beside the scan is gone, and the scan stays as it is."""

import numpy as np

from ufm_jax.data.scans.deidentify import blackened, kept_part
from ufm_jax.data.scans.regions import Region, Regions

HEIGHT, WIDTH = 240, 320


def _fan():
    """Where a sector shows echoes: apex above the picture, 60 degrees to either side."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    r = np.hypot(rows + 10, columns - 160)
    return (r > 40) & (r < 220) & (np.abs(np.arctan2(columns - 160, rows + 10)) < 0.6)


def _picture(inside, text=(slice(4, 16), slice(8, 90))):
    rng = np.random.default_rng(0)
    picture = np.where(inside, rng.integers(40, 220, inside.shape), 0).astype(np.uint8)
    picture[text] = np.where(rng.random(picture[text].shape) < 0.5, 255, 0)
    return picture


def test_outside_a_fan_all_is_black_and_inside_nothing_changes():
    fan = _fan()
    picture = _picture(fan)
    kept = kept_part(picture, Regions())
    assert kept.reason == "scan area"
    assert not kept.mask[4:16, 8:90].any()
    assert (kept.mask == fan).mean() > 0.97
    cut = blackened(picture[..., None], kept)[..., 0]
    np.testing.assert_array_equal(cut[kept.cut.of(kept.mask)], picture[kept.mask])
    assert cut[~kept.cut.of(kept.mask)].max() == 0


def test_of_a_region_the_fan_inside_it_is_kept():
    fan = _fan()
    region = Region(0, 0, HEIGHT, WIDTH, True, None)
    kept = kept_part(_picture(fan), Regions((region,)))
    assert kept.reason == "regions"
    assert not kept.mask[4:16, 8:90].any()


def test_a_region_without_a_fan_of_its_size_is_kept_whole():
    """A band that is bright in a dark scan is not the scan."""
    band = np.zeros((HEIGHT, WIDTH), bool)
    band[60:100, 60:260] = True
    region = Region(20, 30, 200, 300, True, None)
    kept = kept_part(_picture(band), Regions((region,)))
    assert kept.cut == (*kept.mask.shape, 20, 30, 200, 300)
    assert kept.mask.sum() == 180 * 270


def test_where_nothing_tells_the_scan_nothing_is_kept():
    assert kept_part(np.zeros((HEIGHT, WIDTH), np.uint8), Regions()) is None
