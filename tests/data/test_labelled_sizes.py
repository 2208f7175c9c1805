"""Native sizes are those of the decoded, upright pictures, whatever the format and orientation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ufm_jax.data.cache import DecodeSettings
from ufm_jax.data.decode import decode_bytes
from ufm_jax.data.label_sizes import native_sizes
from ufm_jax.data.records import Record
from ufm_jax.data.screening import Decoded, decode_records


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
    return decode_records(records, DecodeSettings(16), folder / "cache", 2, None)


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
    np.testing.assert_array_equal(native_sizes(decoded), shapes)
