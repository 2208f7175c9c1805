"""Mutated images and masks: each is a row or a mask, or a fault that says why; never anything else.

Counts are printed; `FUZZ_SCALE=1 pytest -s tests/fuzz` shows those of the full number.
"""

import io
import resource
import struct
import time
import zlib
from collections import Counter

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.fuzz.conftest import count
from ufm_jax.data.cache.decode import make_row
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.labels.masks.classes import parse_mask_classes
from ufm_jax.data.labels.masks.decode import MaskFault
from ufm_jax.data.labels.masks.rows import read_mask

HEIGHT, WIDTH = 24, 20
CLASSES = (parse_mask_classes(()), parse_mask_classes(("1:a", "2:b", "255:ignore")))
SECONDS, BYTES = 10, 2**30


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(samples: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def whole_files() -> list[bytes]:
    """Images and masks of every format and depth that is read."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    mask = Image.fromarray((noise[..., 0] > 128).astype(np.uint8))
    codes = Image.fromarray(rng.integers(0, 3, (HEIGHT, WIDTH), np.uint8))
    colour, deep = Image.fromarray(noise[..., :3]), noise.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [saved(colour.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    files += [saved(image, kind) for image in (mask, codes) for kind in ("PNG", "BMP", "TIFF")]
    files += [
        imagecodecs.png_encode(np.ascontiguousarray(np.squeeze(deep[..., :n])))
        for n in (1, 2, 3, 4)
    ]
    files += [saved(colour, "PNG", exif=exif), saved(codes.convert("P"), "PNG", transparency=1)]
    files += [saved(colour, "JPEG"), saved(colour.convert("CMYK"), "JPEG"), saved(mask, "GIF")]
    files += [saved(colour, "JPEG", progressive=True, exif=exif), saved(colour, "BMP")]
    files += [saved(colour, "GIF", save_all=True, append_images=[colour.rotate(90)])]
    files += [saved(colour, "WEBP"), saved(colour, "WEBP", lossless=True), saved(colour, "PPM")]
    files += [saved(colour, "JPEG2000"), b"P5 20 24 4095\n" + bytes(2 * HEIGHT * WIDTH)]
    ways = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    files += [saved(colour, "TIFF", compression=way) for way in ways]
    ways = ({}, {"compression": "lzw"}, {"compression": "zlib", "predictor": True})
    files += [tiff(deep[..., :3], photometric="rgb", **way) for way in ways]
    files += [tiff(deep[..., 0], photometric="miniswhite", rowsperstrip=5)]
    files += [tiff(deep[..., :3], photometric="rgb", tile=(16, 16))]
    files += [tiff(deep[..., 0].astype(kind)) for kind in (np.float32, np.int16, np.uint32)]
    return files


def mended_png(content: bytes) -> bytes:
    """The same chunks with sums that hold, so that what is in them is read."""
    out, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        out += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return out


def mutated(rng: np.random.Generator, files: list[bytes]) -> bytes:
    """A file with one or two changes, as crashes, disks and attackers make them."""
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 3)):
        # Half of the changes hit the header, where they do most.
        end = len(content) if rng.random() < 0.5 else min(len(content), 160)
        place = int(rng.integers(max(1, end)))
        match rng.integers(7):
            case 0:
                content[place : place + 1] = bytes([1 << rng.integers(8)])
            case 1:
                content[place : place + 4] = rng.bytes(4)
            case 2:
                number = int(rng.choice([0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1]))
                content[place : place + 4] = number.to_bytes(4, str(rng.choice(["little", "big"])))
            case 3:
                del content[place:]
            case 4:
                del content[place : place + int(rng.integers(1, 40))]
            case 5:
                content[place:place] = rng.bytes(int(rng.integers(1, 40)))
            case 6:
                other = files[rng.integers(len(files))]
                content[place:] = other[int(rng.integers(len(other))) :]
    changed = bytes(content)
    return mended_png(changed) if changed[:4] == b"\x89PNG" and rng.random() < 0.8 else changed


class Held:
    """A mask that lies in memory."""

    name = "held"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def fingerprint(self) -> bytes:
        return self.content

    def load(self) -> bytes:
        return self.content


def outcome_of_row(content: bytes, value_range: tuple[float, ...]) -> str:
    try:
        row = make_row(content, 16, 3, None, value_range)
    except CorruptImage:
        return "image refused"
    assert row.image.shape == (16, 16, 3)
    assert row.image.dtype == np.uint8
    assert min(row.native) >= 1
    return "image read"


def outcome_of_mask(content: bytes, number: int) -> str:
    classes = CLASSES[number]
    try:
        mask = read_mask(Held(content), classes, (HEIGHT, WIDTH))
    except MaskFault:
        return "mask refused"
    assert mask.numbers.shape == (HEIGHT, WIDTH)
    assert set(np.unique(mask.numbers)) <= {0, *range(1, 1 + len(classes.names)), 255}
    return "mask read"


def test_a_mutated_file_is_read_or_refused_in_bounded_time_and_memory(capsys):
    rng, files, counts = np.random.default_rng(0), whole_files(), Counter()
    for content in files:
        assert outcome_of_row(content, (-(2.0**31), 2.0**32)) == "image read"
    before, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for index in range(count(10_000)):
        content = mutated(rng, files)
        begin = time.perf_counter()
        counts[outcome_of_row(content, ((), (0, 65535))[index % 2])] += 1
        counts[outcome_of_mask(content, index // 2 % 2)] += 1
        slowest = max(slowest, time.perf_counter() - begin)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    with capsys.disabled():
        print(f"\n{dict(counts)}, slowest {slowest:.2f} s, memory grew by {grown / 2**20:.0f} MB")
    assert slowest < SECONDS
    assert grown < BYTES
    assert len(counts) == 4
