"""A file is read by what its header says, within bounds, whole, and only in the formats named."""

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from ufm_jax.data import image_file
from ufm_jax.data.cache.decode import decode_bytes
from ufm_jax.data.image_file import CorruptImage, read_image_file

REPOSITORY = Path(__file__).resolve().parents[2]
RAMP = np.linspace(0, 65535, 96).astype(np.uint16).reshape(8, 12)
ALPHA = np.full_like(RAMP, 9)


def png16(samples: np.ndarray) -> bytes:
    return imagecodecs.png_encode(samples)


def tiff(samples: np.ndarray, *tags: tuple, **options) -> bytes:
    """A TIFF; further tags as (code, type, count, value)."""
    file = io.BytesIO()
    tifffile.imwrite(file, samples, extratags=[(*tag, True) for tag in tags], **options)
    return file.getvalue()


def packed_tiff(values: np.ndarray, bits: int) -> bytes:
    """A TIFF whose samples of `bits` bits lie next to each other."""
    height, width = values.shape
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, colour: int = 0, palette: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b""]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def stacked(count: int) -> np.ndarray:
    return np.stack([RAMP] * count, -1)


SIXTEEN = {
    "png grey": png16(RAMP),
    "png rgb": png16(stacked(3)),
    "png grey and alpha": png16(np.stack([RAMP, ALPHA], -1)),
    "png rgba": png16(np.concatenate([stacked(3), ALPHA[..., None]], -1)),
    "tiff": tiff(RAMP, photometric="minisblack"),
    "tiff rgb": tiff(stacked(3), photometric="rgb"),
    "tiff planes": tiff(
        np.stack([RAMP] * 3), photometric="rgb", planarconfig="separate", compression="lzw"
    ),
    "tiff grey and alpha": tiff(
        np.stack([RAMP, ALPHA], -1), photometric="minisblack", extrasamples=["unassalpha"]
    ),
    "tiff 0 is white": tiff(65535 - RAMP, photometric="miniswhite"),
    "tiff 0 is white, packed": tiff(65535 - RAMP, photometric="miniswhite", compression="zlib"),
    "tiff of the other byte order": tiff(RAMP, photometric="minisblack", byteorder=">"),
    "tiff that states a range": tiff(
        RAMP // 16, (340, 3, 1, 0), (341, 3, 1, 4095), photometric="minisblack"
    ),
    "tiff of floats that states a range": tiff(
        RAMP.astype(np.float32) / 65535, (340, 11, 1, 0.0), (341, 11, 1, 1.0)
    ),
    "tiff of signed numbers that states a range": tiff(
        (RAMP.astype(np.int32) - 32768).astype(np.int16), (340, 8, 1, -32768), (341, 8, 1, 32767)
    ),
    "tiff of 12 bits": packed_tiff(RAMP // 16, 12),
    "tiff of 10 bits": packed_tiff(RAMP // 64, 10),
    "pgm": b"P5 12 8 65535\n" + RAMP.astype(">u2").tobytes(),
    "pgm of 12 bits": b"P5 12 8 4095\n" + (RAMP // 16).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_a_picture_is_the_same_however_its_header_stores_it(name):
    decoded = decode_bytes(SIXTEEN[name])
    assert decoded.pixels.shape == (8, 12, 1)
    expected = np.rint(RAMP / 257.0)
    assert abs(decoded.pixels[..., 0] - expected).max() <= (1 if "10 bits" in name else 0.5)


@pytest.mark.parametrize("name", ["png grey", "png rgb", "tiff", "tiff 0 is white", "pgm"])
def test_the_scale_does_not_depend_on_the_brightest_pixel(name):
    """A darker copy of one pixel changes this pixel alone."""
    whole = read_image_file(SIXTEEN[name])
    assert whole.range == (0, 65535)
    dim = {"png grey": png16(RAMP // 4), "png rgb": png16(stacked(3) // 4)}
    dim |= {"tiff": tiff(RAMP // 4, photometric="minisblack")}
    dim |= {"tiff 0 is white": tiff(65535 - RAMP // 4, photometric="miniswhite")}
    dim |= {"pgm": b"P5 12 8 65535\n" + (RAMP // 4).astype(">u2").tobytes()}
    np.testing.assert_array_equal(
        decode_bytes(dim[name]).pixels[..., 0], np.rint((RAMP // 4) * (255 / 65535))
    )


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("write", [png16, lambda v: png16(np.stack([v] * 3, -1)), tiff])
def test_a_setting_says_the_depth_of_all_files(bits, write):
    values = RAMP >> (16 - bits)
    full = 2**bits - 1
    np.testing.assert_array_equal(
        decode_bytes(write(values), (0, full)).pixels[..., 0], np.rint(values * (255 / full))
    )
    with pytest.raises(CorruptImage, match=rf"beyond data.value_range \(0, {full}\)"):
        decode_bytes(write(values + np.uint16(1)), (0, full))


def test_a_setting_does_not_scale_a_second_time_what_its_format_scaled():
    content = SIXTEEN["pgm of 12 bits"]
    expected = decode_bytes(content).pixels
    np.testing.assert_array_equal(decode_bytes(content, (0, 4095)).pixels, expected)


UNSTATED = {
    "signed": tiff(RAMP.astype(np.int16)),
    "signed bytes": tiff((RAMP % 100).astype(np.int8)),
    "32 bits": tiff(RAMP.astype(np.uint32)),
    "float": tiff((RAMP / 65535).astype(np.float32)),
    "half": tiff((RAMP / 65535).astype(np.float16)),
    "double, packed": tiff(RAMP / 65535, compression="zlib", predictor=True),
    "a statistic": tiff(RAMP // 16, (281, 3, 1, 4095), photometric="minisblack"),
}


@pytest.mark.parametrize("name", UNSTATED)
def test_a_range_that_the_header_does_not_state_must_be_set(name):
    with pytest.raises(CorruptImage, match=r"does not say .* set data.value_range"):
        decode_bytes(UNSTATED[name])
    assert decode_bytes(UNSTATED[name], (-(2.0**15), 2.0**16)).pixels.dtype == np.uint8


def test_values_that_are_not_finite_are_a_fault():
    with pytest.raises(CorruptImage, match="not finite"):
        decode_bytes(tiff(np.array([[0, np.nan]], np.float32)), (0, 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(stacked(3), photometric="minisblack", planarconfig="contig"), "3 samples a pixel"),
        (tiff(np.stack([RAMP] * 4, -1), photometric="separated"), "PhotometricInterpretation 5"),
        (
            tiff(np.stack([RAMP, ALPHA], -1), photometric="minisblack", extrasamples=[1]),
            "multiplied by alpha",
        ),
        (tiff(RAMP.astype(np.complex64)), "type complex64"),
    ],
)
def test_deep_pixels_of_no_plain_meaning_are_refused(content, reason):
    with pytest.raises(CorruptImage, match=reason):
        decode_bytes(content, (0, 65535))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_files_are_turned_like_others(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow, deep = io.BytesIO(), io.BytesIO()
    Image.fromarray((RAMP // 257).astype(np.uint8)).save(shallow, "PNG", exif=exif)
    Image.fromarray(RAMP // 257 * 257).save(deep, "PNG", exif=exif)
    expected = decode_bytes(shallow.getvalue()).pixels
    assert expected.shape[:2] == ((8, 12) if orientation < 5 else (12, 8))
    np.testing.assert_array_equal(decode_bytes(deep.getvalue()).pixels, expected)
    turned = tiff(RAMP // 257 * 257, (274, 3, 1, orientation), photometric="minisblack")
    np.testing.assert_array_equal(decode_bytes(turned).pixels, expected)


ROWS = b"".join(b"\0" + bytes(range(row, row + 60)) for row in range(40))


@pytest.mark.parametrize(
    ("colour", "palette", "width"), [(0, b"", 60), (3, bytes(range(240)) * 3, 60), (2, b"", 20)]
)
@pytest.mark.parametrize("rows", [0, 1, 20, 39])
def test_a_png_whose_data_end_early_is_corrupt(colour, palette, width, rows):
    whole = png(width, 40, ROWS, colour, palette)
    assert read_image_file(whole).samples.shape[:2] == (40, width)
    with pytest.raises(CorruptImage, match="does not decode"):
        read_image_file(png(width, 40, ROWS[: rows * 61], colour, palette))


def written(kind: str, mode: str = "RGB", **options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        written("JPEG"),
        written("JPEG", progressive=True),
        written("TIFF"),
        written("TIFF", compression="tiff_lzw"),
        written("TIFF", compression="jpeg"),
        written("BMP"),
        written("BMP", "P"),
        written("GIF", "P"),
        written("WEBP"),
        written("JPEG2000"),
        written("PPM"),
        SIXTEEN["tiff"],
        SIXTEEN["tiff planes"],
        tiff(RAMP, photometric="minisblack", tile=(16, 16)),
    ],
)
def test_a_file_that_ends_early_is_corrupt(content):
    read_image_file(content)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(CorruptImage):
            read_image_file(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "TGA", "ICO", "SGI", "DDS"])
def test_formats_that_are_not_named_are_not_opened(kind):
    with pytest.raises(CorruptImage, match="not an image, or of a format that cannot be read"):
        read_image_file(written(kind))


def test_nothing_but_the_one_reader_opens_images():
    found = {
        str(path.relative_to(REPOSITORY))
        for folder in ("ufm_jax", "tools")
        for path in (REPOSITORY / folder).rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8")
    }
    assert found == {"ufm_jax/data/image_file.py"}


def bomb(width: int, height: int) -> dict[str, bytes]:
    """Small files that declare many pixels."""
    sides = struct.pack("<II", width, height)
    bmp = b"BM" + bytes(8) + struct.pack("<II", 54, 40) + sides + struct.pack("<HH", 1, 8)
    header = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 2}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in header.items())
    return {
        "png": png(width, height, b""),
        "bmp": bmp + bytes(24 + 8),
        "ppm": f"P5 {width} {height} 255\n".encode(),
        "tiff": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 9) + entries + bytes(4),
    }


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tiff"])
@pytest.mark.parametrize(
    ("width", "height"), [(1, 100_000_000), (100_000, 1), (8_200, 8_200), (0, 9)]
)
def test_sides_and_pixels_are_bounded_before_decoding(kind, width, height):
    tracemalloc.start()
    try:
        with pytest.raises(CorruptImage):
            read_image_file(bomb(width, height)[kind])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [8, 16])
def test_tiles_are_bounded_like_images(depth):
    samples = np.zeros((16, 16), np.uint8 if depth == 8 else np.uint16)
    content = bytearray(tiff(samples, photometric="minisblack", tile=(16, 16)))
    entry = content.index(struct.pack("<HHI", 322, 4, 1))
    content[entry : entry + 24] = struct.pack("<HHIIHHII", 322, 4, 1, 2**16, 323, 4, 1, 2**16)
    with pytest.raises(CorruptImage, match="declares 65536 x 65536 pixels"):
        read_image_file(bytes(content))


def test_a_refusal_for_size_says_the_bounds():
    with pytest.raises(CorruptImage, match="declares 100000 x 1 pixels: sides from 1 to 65535"):
        read_image_file(bomb(100_000, 1)["png"])
    tall = np.zeros((65_535, 1), np.uint8)
    assert read_image_file(png16(tall)).samples.shape == (65_535, 1, 1)


def directories(count: int) -> bytes:
    """A TIFF of 1 x 1 pixels in each of `count` directories."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    size, first = len(entries) + 6, 10
    following = [first + index * size for index in range(1, count)] + [0]
    parts = (struct.pack("<H", len(tags)) + entries + struct.pack("<I", at) for at in following)
    return b"II*\0" + struct.pack("<I", first) + b"\x55\0" + b"".join(parts)


def test_directories_of_a_tiff_are_counted_in_linear_time():
    content = directories(20_000)
    begin = time.perf_counter()
    stored = read_image_file(content)
    assert time.perf_counter() - begin < 1.5  # A quadratic count takes 4 s and more.
    assert (stored.frames, stored.samples.item()) == (20_000, 0x55)


def test_directories_that_run_in_a_circle_come_to_an_end():
    content = directories(3)
    assert read_image_file(content[:-4] + struct.pack("<I", 10)).frames <= 3


def test_the_reader_keeps_to_its_list_of_formats(monkeypatch):
    seen = []
    real = Image.open
    monkeypatch.setattr(
        image_file.Image, "open", lambda *a, **k: seen.append(k["formats"]) or real(*a, **k)
    )
    for kind in ("PNG", "JPEG", "TIFF"):
        read_image_file(written(kind))
    assert seen == [image_file.FORMATS] * 3
