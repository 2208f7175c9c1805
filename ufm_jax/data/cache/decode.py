"""An image file becomes a row: decoded once to uint8, scaled to the working size, measured.

Grey stays one channel: a colour file whose channels agree is grey. A row is an S x S canvas with
the picture in its top-left corner, the longer side exactly S, aspect kept, the rest black. Small
pictures are enlarged too, so that a 60 x 60 image fills the same canvas as an 800 x 540 one.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ufm_jax.data.image_file import CorruptImage, FileImage, read_image_file
from ufm_jax.data.records import Picture

GeometryDetector = Callable[[np.ndarray], np.ndarray]
"""Grey uint8 [h, w] -> float32 [7], see the row contract in ``ufm_jax.data.federated``."""

# JPEG's chroma quantisation tints grey pixels by a few levels; colour Doppler and coloured marks
# lie far above. One pixel in a thousand may exceed that, because of ringing around overlaid text.
_GREY_SPREAD = 12
_GREY_EXCEPTIONS = 1e-3
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Row:
    """One decoded image at the working size.

    Attributes:
        image: uint8 [S, S, C], C = 1 if the picture is grey, else 3.
        extent: (height, width) of the picture on the canvas.
        geometry: float32 [7], zeros where unknown.
        digest: 16 bytes of the picture's native pixels; equal pixels, equal digest.
        native: (height, width) before scaling.
        frames: Frames in the file, of which the first is used.
        peak: Largest value of a file whose header says 16 bits, read by its header alone; else 0.
        label: Class name, if the picture brings one.
    """

    image: np.ndarray
    extent: tuple[int, int]
    geometry: np.ndarray
    digest: bytes
    native: tuple[int, int]
    frames: int = 1
    peak: int = 0
    label: str | None = None


class DecodedFile(NamedTuple):
    """A decoded file: upright pixels, uint8 [H, W, 1 or 3]; frames and peak as in ``Row``."""

    pixels: np.ndarray
    frames: int
    peak: int


def decode_bytes(data: bytes, value_range: tuple[float, ...] = ()) -> DecodedFile:
    """Decodes an encoded image.

    EXIF orientation is applied and alpha dropped. 8-bit values stay as they are, deeper ones are
    scaled from black and white to 0 and 255.

    Args:
        data: Content of an image file of ``image_file.FORMATS``.
        value_range: Black and white in files of more than 8 bits; () = what the header says. JPEG
            2000 and PPM of other depths than 8 and 16 always go by their headers.

    Raises:
        CorruptImage: If the bytes do not decode, the range is unknown, or a value lies beyond it.
    """
    stored = read_image_file(data)
    deep = stored.samples.dtype != np.uint8
    if not stored.exact:
        value_range = ()
    pixels = to_bytes(stored, value_range)
    peak = int(stored.samples.max()) if deep and not value_range and is_full_16(stored) else 0
    return DecodedFile(drop_equal_channels(pixels), stored.frames, peak)


def is_full_16(stored: FileImage) -> bool:
    """Whether a header says 16 bits, but not how many of them are in use."""
    return stored.exact and stored.range == (0, 2**16 - 1)


def to_bytes(stored: FileImage, value_range: tuple[float, ...] = ()) -> np.ndarray:
    """Samples as uint8 [H, W, C]; deeper ones than 8 bits are scaled and rounded to nearest.

    Arguments and errors are those of ``decode_bytes``.
    """
    samples = stored.samples
    if samples.dtype == np.uint8 and not stored.white_is_zero:
        return samples
    if not np.isfinite(samples).all():
        raise CorruptImage("holds values that are not finite")
    given = value_range or stored.range
    if given is None:
        raise CorruptImage(
            f"holds {samples.dtype} values, and its header does not say which are black and which "
            "white: set data.value_range, such as (0, 1)"
        )
    low, high = given
    least, most = samples.min().item(), samples.max().item()
    if least < low or most > high:
        source = "data.value_range" if value_range else "the range of its header"
        raise CorruptImage(f"holds values from {least} to {most}, beyond {source} ({low}, {high})")
    if stored.white_is_zero:
        low, high = high, low
    out = np.empty(samples.shape, np.uint8)
    for row, values in zip(out, samples, strict=True):  # By rows, because doubles need much memory.
        row[:] = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    return out


def drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """Turns uint8 [H, W, 3] into [H, W, 1] if it is grey up to JPEG's chroma noise."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    if (spread > _GREY_SPREAD).mean() > _GREY_EXCEPTIONS:
        return pixels
    return to_grey(pixels)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) of uint8 [H, W, 3] as uint8 [H, W, 1]; one channel stays as it is."""
    if pixels.shape[-1] == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def fitted_extent(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is ``size``, the shorter at least 1."""
    longer = max(height, width)
    return max(1, round(height * size / longer)), max(1, round(width * size / longer))


def resize(pixels: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
    """Resamples uint8 [H, W, C] to uint8 [*extent, C], bicubic with antialiasing."""
    if pixels.shape[:2] == extent:
        return pixels
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    image = Image.fromarray(flat).resize((extent[1], extent[0]), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(*extent, -1)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """16 bytes that name the content of uint8 [H, W, C]."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def make_row(
    content: bytes | Picture,
    size: int,
    channels: int | None,
    detector: GeometryDetector | None,
    value_range: tuple[float, ...] = (),
) -> Row:
    """Turns one loaded image into a row; a geometry that it brings is scaled with the pixels.

    Args:
        content: An encoded file, or finished pixels.
        size: S, the working size.
        channels: 1 or 3 to force it, None to keep the picture's own.
        detector: Finds the scan geometry where the content does not bring it; None leaves it
            unknown.
        value_range: See ``decode_bytes``.

    Raises:
        CorruptImage: If the content does not decode.
    """
    if isinstance(content, Picture):
        file = DecodedFile(drop_equal_channels(np.atleast_3d(content.pixels)), 1, 0)
        known, label = content.geometry, content.label
    else:
        file = decode_bytes(content, value_range)
        known, label = None, None
    native = (file.pixels.shape[0], file.pixels.shape[1])
    extent = fitted_extent(*native, size)
    scaled = resize(to_grey(file.pixels) if channels == 1 else file.pixels, extent)
    if known is not None:
        geometry = scale_geometry(known, native, extent)
    elif detector is not None:
        geometry = detector(to_grey(scaled)[..., 0])
    else:
        geometry = np.zeros(7, np.float32)
    canvas = np.zeros((size, size, channels or scaled.shape[-1]), np.uint8)
    canvas[: extent[0], : extent[1]] = scaled
    digest = pixel_digest(file.pixels)
    return Row(canvas, extent, geometry, digest, native, file.frames, file.peak, label)


def scale_geometry(
    geometry: np.ndarray, native: tuple[int, int], extent: tuple[int, int]
) -> np.ndarray:
    """Moves a scan geometry, float32 [7], from a picture of size ``native`` to one of ``extent``.

    Pixel centres lie at integers, so a coordinate x becomes (x + 1/2) s - 1/2; lengths scale by
    the mean of both axes' factors, which differ by rounding only.
    """
    down, right = extent[0] / native[0], extent[1] / native[1]
    scaled = np.array(geometry, np.float32)
    scaled[1] = (scaled[1] + 0.5) * down - 0.5
    scaled[2] = (scaled[2] + 0.5) * right - 0.5
    if scaled[0] == 1:
        scaled[3] = (scaled[3] + 0.5) * down - 0.5
        scaled[4] = (scaled[4] + 0.5) * right - 0.5
    elif scaled[0] == 2:
        scaled[3:5] *= (down + right) / 2
    else:
        scaled[1:] = 0
    return scaled
