"""Native sizes are those of the upright pictures; a spacing holds for them, or is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ufm_jax.data.cache.decode import decode_bytes
from ufm_jax.data.decoding import Decoded, decode_records
from ufm_jax.data.labels.sources import notes_of
from ufm_jax.data.labels.spacing import spacing_mm
from ufm_jax.data.records import Record
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError


def turned_images(folder: Path, suffix: str, **options) -> Decoded:
    """An image of 20 x 30 pixels, stored in each of the orientations 1 to 8."""
    records = []
    for orientation in range(1, 9):
        pixels = np.random.default_rng(orientation).integers(0, 256, (20, 30, 3), np.uint8)
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[ExifTags.Base.Orientation] = orientation
        file = folder / f"{orientation}.{suffix}"
        image.save(file, exif=exif, **options)
        records.append(Record("site", file))
    settings = DataSettings("folders", str(folder), working_size=16, detect_geometry=False)
    return decode_records(records, settings, folder / "cache")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {}),
        ("png", {}),
        ("webp", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
def test_native_size_is_the_decoded_shape_in_every_orientation(tmp_path, suffix, options):
    decoded = turned_images(tmp_path, suffix, **options)
    files = [record.image.read_bytes() for record in decoded.records]
    shapes = [decode_bytes(content)[0].shape[:2] for content in files]
    assert shapes == [(20, 30)] * 4 + [(30, 20)] * 4
    np.testing.assert_array_equal(decoded.native, shapes)


def spacing(**cells: str) -> float:
    """Of a file of 256 x 192 pixels, and of an original whose size the cells may give."""
    record = Record("site", Path("a.png"), attributes=cells, place="index.csv, row 7")
    return spacing_mm(record, (192, 256), "px_mm", ("width", "height"))


@pytest.mark.parametrize("width", ["1024", "1,024", "1024.0", " 1024 "])
@pytest.mark.parametrize("px_mm", ["0.1", "0,1", "0,10"])
def test_a_spacing_grows_by_what_the_copy_shrank_however_it_is_written(px_mm, width):
    assert spacing(px_mm=px_mm, width=width, height="768") == pytest.approx(0.4)
    assert spacing(px_mm=px_mm) == pytest.approx(0.1)
    assert spacing(px_mm=px_mm, width="NA", height="") == pytest.approx(0.1)
    assert np.isnan(spacing(px_mm="nan", width=width, height="768"))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"px_mm": "0.25 mm"}, "row 7: px_mm '0.25 mm' is not a number"),
        ({"px_mm": "1,024"}, "px_mm '1,024' may mean 1.024 or 1024"),
        ({"px_mm": "0"}, "px_mm '0' is not above 0"),
        ({"px_mm": "-0.1"}, "is not above 0"),
        ({"px_mm": "inf"}, "is not a number"),
        ({"px_mm": "1e300"}, "row 7: a pixel of 1e.300 mm by px_mm '1e300'"),
        ({"px_mm": "1e-300"}, "row 7: a pixel of 1e-300 mm by px_mm '1e-300'"),
        ({"px_mm": "0.1", "width": "9e200", "height": "9e200"}, "a pixel of inf mm by px_mm '0.1'"),
        ({"px_mm": "0.1", "width": "1.024", "height": "768"}, "width '1.024' is not a whole"),
        ({"px_mm": "0.1", "width": "0", "height": "768"}, "width '0' is not a number of pixels"),
        ({"px_mm": "0.1", "width": "wide", "height": "768"}, "width 'wide' is not a number"),
        ({"px_mm": "0.1", "width": "1024", "height": ""}, "one of the columns .* is empty"),
        ({"px_mm": "0.1", "height": "768"}, "one of the columns .* is empty"),
        ({"px_mm": "", "width": "1024"}, "one of the columns .* is empty"),
    ],
)
def test_a_spacing_that_is_unreadable_or_half_given_is_refused_by_row(cells, message):
    with pytest.raises(DataError, match=message):
        spacing(**cells)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("HC_mm=44.3 px_mm=0.07", {"HC_mm": "44.3", "px_mm": "0.07"}),
        ("licence=CC BY 4.0; probe=convex", {"licence": "CC BY 4.0", "probe": "convex"}),
        ("px_mm = 0.07 ; a =b", {"px_mm": "0.07", "a": "b"}),
        ("px_mm=0.07\nby hand", {"px_mm": "0.07\nby hand"}),
        ("see px_mm=0.07 a= b=c=d", {"px_mm": "0.07", "a": "", "b": "c=d"}),
        ("of px-mm=0.07, and no pair", {}),
        ("x" * 100_000, {}),
        ("a=1" + " " * 100_000 + "x", {"a": "1" + " " * 100_000 + "x"}),
    ],
)
def test_notes_are_pairs_whose_values_end_where_the_next_key_begins(text, pairs):
    assert notes_of(text) == pairs
