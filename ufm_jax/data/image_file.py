"""The one reader of image files: what a file stores, and what its header says of it.

Nothing is guessed from pixels. Sizes are bounded before anything is decoded, only the formats below
are tried, and data that end early are a fault. Pillow reads files of up to 8 bits a sample. libpng
reads PNG, and libtiff deeper TIFF (both through imagecodecs), because Pillow keeps only the high
byte of several channels of 16 bits, and fills up what a short PNG lacks. PNG's sBIT is ignored: by
the standard, samples fill the whole depth whatever it says.
"""

import io
import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; others (EPS, PDF, WMF, ...) run foreign code."""

_NETPBM = (".pgm", ".pnm", ".ppm")
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp", *_NETPBM)
)

Range = tuple[float, float]

_MAX_SIDE = 2**16 - 1
_MAX_PIXELS = 2**26
_FULL_8, _FULL_16 = 2**8 - 1, 2**16 - 1
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Where a PNG may say that it is turned; asking Pillow costs a second decoding.
_PNG_ORIENTATION = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
_TAGS = {
    "bits": (258, 1),
    "photometric": (262, None),
    "orientation": (274, 1),
    "samples": (277, 1),
    "max_value": (281, None),
    "tile_width": (322, 0),
    "tile_length": (323, 0),
    "extra": (338, ()),
    "formats": (339, 1),
    "low": (340, None),
    "high": (341, None),
}
"""Numbers of TIFF's tags, and what holds where they are absent."""
_MINISWHITE, _MINISBLACK, _RGB = 0, 1, 2
_UNSIGNED = {1, 4}
_ASSOCIATED_ALPHA = 1

# This module reports a file's faults; its libraries would report them a second time.
for _name in ("tifffile", "imagecodecs"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class CorruptImage(ValueError):
    """Bytes that do not decode to a usable image; the message is the reason."""


@dataclass(frozen=True)
class FileImage:
    """An image as its file stores it, turned upright as EXIF says.

    Attributes:
        samples: [H, W, 1] grey or [H, W, 3] colours; uint8, or deeper integers or floats as stored.
        frames: Frames in the file, of which this is the first.
        range: Samples that are black and white by the header; None where it does not say.
        white_is_zero: Whether the smaller end of the range is white.
        alpha: [H, W], opacity or whatever else the file adds to a pixel; None if it adds nothing.
        codes: [H, W], indices of a palette, or the bits of a file of 1 bit; None for other files.
        palette: uint8 [n, 3], the colours behind ``codes``.
        exact: Whether samples are the file's own, not scaled to another depth by their format.
    """

    samples: np.ndarray
    frames: int = 1
    range: Range | None = (0, _FULL_8)
    white_is_zero: bool = False
    alpha: np.ndarray | None = None
    codes: np.ndarray | None = None
    palette: np.ndarray | None = None
    exact: bool = True


def read_image_file(content: bytes) -> FileImage:
    """Decodes the first frame of an image file.

    Raises:
        CorruptImage: If the bytes are not an image of ``FORMATS``, are broken or end early, or
            declare more pixels than are read.
    """
    try:
        if content[:4] in _TIFF_MAGIC:
            return _read_tiff(content)
        with _opened(content) as image:
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
            if image.format == "PNG":
                return _read_png(image, content, frames)
            return _read_pillow(image, frames)
    except (MemoryError, CorruptImage):
        raise
    except UnidentifiedImageError as error:  # Its text would end in an address in memory.
        raise CorruptImage(
            "does not decode: not an image, or of a format that cannot be read"
        ) from error
    except Exception as error:  # The libraries raise anything at all on broken bytes.
        raise CorruptImage(f"does not decode: {error}") from error


def _opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Refuses a picture that is too large to be decoded.

    Raises:
        CorruptImage: If a side or their product is out of bounds.
    """
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and width * height <= _MAX_PIXELS):
        raise CorruptImage(
            f"declares {width} x {height} pixels: sides from 1 to {_MAX_SIDE} and up to "
            f"{_MAX_PIXELS} pixels are read"
        )


def _read_pillow(image: Image.Image, frames: int) -> FileImage:
    """Reads an open image of up to 8 bits a sample, or one that its format scales to 16."""
    scales = image.format == "JPEG2000" or (image.format == "PPM" and _codec(image) != "raw")
    exact = not scales or image.mode in ("1", "L")
    image = ImageOps.exif_transpose(image)
    image.load()
    if image.mode == "F":
        return FileImage(np.asarray(image)[..., None], frames, None)
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.uint16)[..., None]
        return FileImage(samples, frames, (0, _FULL_16), exact=exact)
    codes = np.asarray(image).astype(np.uint8) if image.mode in ("1", "P") else None
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3) if image.mode == "P" else None
    alpha = None
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.getbands()[-1] in ("A", "a"):
        alpha = np.asarray(image.getchannel(len(image.getbands()) - 1))
    if image.mode in ("1", "L", "LA", "La"):
        samples = np.asarray(image.convert("L"))[..., None]
    else:
        samples = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return FileImage(samples, frames, alpha=alpha, codes=codes, palette=palette, exact=exact)


def _codec(image: Image.Image) -> str:
    tiles: list[Any] = getattr(image, "tile", [])
    return str(tiles[0].codec_name) if tiles else ""


def _read_png(image: Image.Image, content: bytes, frames: int) -> FileImage:
    import imagecodecs

    pixels = np.atleast_3d(imagecodecs.png_decode(content))
    if image.mode in ("1", "P"):
        return _read_pillow(image, frames)
    turned = any(key in content for key in _PNG_ORIENTATION)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
    samples, alpha = _parted(_upright(pixels, orientation), 3 if pixels.shape[-1] > 2 else 1)
    return FileImage(samples, frames, (0, np.iinfo(pixels.dtype).max), alpha=alpha)


def _read_tiff(content: bytes) -> FileImage:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page, frames = file.pages.first, len(file.pages)
        check_size(page.imagewidth, page.imagelength)
        header = {name: page.tags.valueof(*tag) for name, tag in _TAGS.items()}
        separate = int(page.planarconfig) == 2
    if header["tile_width"]:
        check_size(header["tile_width"], header["tile_length"])
    bits, formats = max(_numbers(header["bits"])), set(_numbers(header["formats"]))
    if bits <= 8 and formats <= _UNSIGNED:
        with _opened(content) as image:
            return _read_pillow(image, frames)
    return _read_deep_tiff(content, header, frames, separate)


def _read_deep_tiff(
    content: bytes, header: dict[str, Any], frames: int, separate: bool
) -> FileImage:
    """Reads a TIFF of more than 8 bits a sample, or of signed numbers or floats."""
    import imagecodecs

    photometric, extra = header["photometric"], _numbers(header["extra"])
    colours = {_MINISWHITE: 1, _MINISBLACK: 1, _RGB: 3}.get(photometric)
    if colours is None or header["samples"] not in (colours, colours + 1):
        raise CorruptImage(
            f"holds {header['samples']} samples a pixel of more than 8 bits with "
            f"PhotometricInterpretation {photometric}: save it as grey or RGB"
        )
    if header["samples"] > colours and extra[:1] == (_ASSOCIATED_ALPHA,):
        raise CorruptImage("holds colours multiplied by alpha: save it without alpha")
    pixels = imagecodecs.tiff_decode(content)
    if separate and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = np.atleast_3d(pixels)
    if pixels.ndim != 3 or pixels.shape[-1] != header["samples"] or pixels.dtype.kind not in "iuf":
        raise CorruptImage(f"holds pixels of shape {pixels.shape} and type {pixels.dtype}")
    samples, alpha = _parted(_upright(pixels, header["orientation"]), colours)
    return FileImage(samples, frames, _tiff_range(header), photometric == _MINISWHITE, alpha)


def _tiff_range(header: dict[str, Any]) -> Range | None:
    """The least and largest sample by a TIFF's header; None if it does not say.

    MaxSampleValue is a statistic by the standard, and a depth for some scanners: unless it is the
    full scale, it says nothing.
    """
    if header["low"] is not None and header["high"] is not None:
        low, high = min(_numbers(header["low"])), max(_numbers(header["high"]))
        return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None
    bits = max(_numbers(header["bits"]))
    full = 2**bits - 1
    stated = header["max_value"] is None or max(_numbers(header["max_value"])) == full
    unsigned = set(_numbers(header["formats"])) <= _UNSIGNED
    return (0, full) if bits <= 16 and unsigned and stated else None


def _parted(pixels: np.ndarray, colours: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours [H, W, colours], and what stands behind them, [H, W]."""
    alpha = pixels[..., colours] if pixels.shape[-1] > colours else None
    return np.ascontiguousarray(pixels[..., :colours]), alpha


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, C] from an orientation of EXIF, 1 to 8, to the upright one."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _numbers(value: Any) -> tuple[Any, ...]:
    """A tag's value, one number or several, as a tuple."""
    return value if isinstance(value, tuple) else (value,)
