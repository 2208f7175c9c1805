"""An image file becomes a row: decoded once to uint8, scaled to the working size, measured.

Grey stays one channel: a colour file whose channels agree is grey. A row is an S x S canvas with
the picture in its top-left corner, the longer side exactly S, aspect kept, the rest black. Small
pictures are enlarged too, so that a 60 x 60 image fills the same canvas as an 800 x 540 one.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ufm_jax.data.records import Picture

GeometryDetector = Callable[[np.ndarray], np.ndarray]
"""Grey uint8 [h, w] -> float32 [7], see the row contract in `ufm_jax.data.federated`."""

# JPEG's chroma quantisation tints grey pixels by a few levels; colour Doppler and coloured marks
# lie far above. One pixel in a thousand may exceed, for ringing around overlaid text.
_GREY_SPREAD = 12
_GREY_EXCEPTIONS = 1e-3
_DIGEST_BYTES = 16


class CorruptImage(ValueError):
    """Bytes that do not decode to an image; the message is the reason."""


@dataclass(frozen=True)
class Row:
    """One decoded image at the working size.

    Attributes:
      image: uint8 [S, S, C], C = 1 if the picture is grey, else 3.
      extent: (height, width) of the picture on the canvas.
      geometry: float32 [7], zeros where unknown.
      digest: 16 bytes of the picture's native pixels; equal pixels, equal digest.
      frames: frames in the file, of which the first is used.
      label: class name, if the picture brings one.
    """

    image: np.ndarray
    extent: tuple[int, int]
    geometry: np.ndarray
    digest: bytes
    frames: int = 1
    label: str | None = None


def decode_bytes(data: bytes) -> tuple[np.ndarray, int]:
    """Decodes an encoded image.

    EXIF orientation is applied and alpha dropped. 8-bit values stay as they are; 16-bit, 32-bit
    and float values are scaled as `to_uint8` says.

    Args:
      data: content of an image file in any format that Pillow reads.

    Returns:
      uint8 [H, W, 1] if grey, else uint8 [H, W, 3]; and the number of frames in the file.

    Raises:
      CorruptImage: the bytes do not decode.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = int(getattr(image, "n_frames", 1))
            image.seek(0)
            upright = ImageOps.exif_transpose(image)
            pixels = _pixels(upright)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # Its own text ends in an address in memory.
        raise CorruptImage(
            "does not decode: no image, or of a format that cannot be read"
        ) from error
    except Exception as error:  # Pillow's plugins raise anything at all on broken bytes
        raise CorruptImage(f"does not decode: {error}") from error
    return drop_equal_channels(pixels), frames


def _pixels(image: Image.Image) -> np.ndarray:
    """Pixels of an opened Pillow image of any mode, uint8 [H, W, 1 or 3], alpha dropped."""
    if image.mode.startswith(("I", "F")):
        return to_uint8(np.asarray(image))[..., None]
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Scales integers or floats of any depth to 0..255.

    Values within 0..1 (floats only) are taken as fractions of full scale; within 0..255 as they
    are; integers beyond as the smallest of 10, 12, 14 and 16 bits that holds them, because
    scanners store 10 or 12 bits in 16; anything else is stretched from its minimum to its maximum.

    Args:
      values: [...] numbers.

    Returns:
      uint8 [...], rounded to nearest.

    Raises:
      CorruptImage: a value is not finite.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise CorruptImage("holds values that are not finite")
    low, high = float(wide.min()), float(wide.max())
    integral = np.issubdtype(values.dtype, np.integer)
    if low >= 0 and high <= 1 and not integral:
        scaled = wide * 255
    elif low >= 0 and high <= 255:
        scaled = wide
    elif low >= 0 and integral and high < 2**16:
        depth = next(bits for bits in (10, 12, 14, 16) if high < 2**bits)
        scaled = wide * (255 / (2**depth - 1))
    else:
        scaled = (wide - low) * (255 / (high - low)) if high > low else np.zeros_like(wide)
    return np.rint(scaled).astype(np.uint8)


def drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """Turns a picture whose three channels agree into one channel.

    Args:
      pixels: uint8 [H, W, 1 or 3].

    Returns:
      uint8 [H, W, 1] if it is grey up to JPEG's chroma noise, else `pixels`.
    """
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    highest = np.maximum(np.maximum(red, green), blue)
    spread = highest - np.minimum(np.minimum(red, green), blue)
    if (spread > _GREY_SPREAD).mean() > _GREY_EXCEPTIONS:
        return pixels
    return to_grey(pixels)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) of uint8 [H, W, 3] as uint8 [H, W, 1]; one channel is handed back."""
    if pixels.shape[-1] == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def fitted_extent(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `size`, the shorter at least 1."""
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
    content: bytes | Picture, size: int, channels: int | None, detector: GeometryDetector | None
) -> Row:
    """Turns one loaded image into a row.

    Args:
      content: an encoded file, or finished pixels.
      size: S, the working size.
      channels: 1 or 3 to force it, None to keep the picture's own.
      detector: finds the scan geometry where the content does not bring it; None leaves it unknown.

    Returns:
      The row. A given geometry is scaled with the pixels.

    Raises:
      CorruptImage: the content does not decode.
    """
    if isinstance(content, Picture):
        native, frames = drop_equal_channels(np.atleast_3d(content.pixels)), 1
        known, label = content.geometry, content.label
    else:
        native, frames = decode_bytes(content)
        known, label = None, None
    extent = fitted_extent(native.shape[0], native.shape[1], size)
    scaled = resize(to_grey(native) if channels == 1 else native, extent)
    if known is not None:
        geometry = scale_geometry(known, native.shape[:2], extent)
    elif detector is not None:
        geometry = detector(to_grey(scaled)[..., 0])
    else:
        geometry = np.zeros(7, np.float32)
    canvas = np.zeros((size, size, channels or scaled.shape[-1]), np.uint8)
    canvas[: extent[0], : extent[1]] = scaled
    return Row(canvas, extent, geometry, pixel_digest(native), frames, label)


def scale_geometry(
    geometry: np.ndarray, native: tuple[int, int], extent: tuple[int, int]
) -> np.ndarray:
    """Moves a scan geometry from the native pixel grid to the scaled one.

    Pixel centres lie at integers, so a coordinate x becomes (x + 1/2) s - 1/2; lengths scale by
    the mean of both axes' factors, which differ by rounding only.

    Args:
      geometry: float32 [7], (kind, a, b, c, d, e, f).
      native: (height, width) it refers to.
      extent: (height, width) it shall refer to.

    Returns:
      float32 [7].
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
