"""Properties of decoding: depth, orientation, colour, scaling and what counts as the same image."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.data.cache.cache import decode
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.records import Picture


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(height: int = 12, width: int = 16) -> np.ndarray:
    return np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)


GREY_FILES = {
    "L": Image.fromarray(ramp()),
    "RGB": Image.fromarray(ramp()).convert("RGB"),
    "RGBA": Image.fromarray(ramp()).convert("RGBA"),
    "LA": Image.fromarray(ramp()).convert("LA"),
    "P": Image.fromarray(ramp()).convert("P"),
}


@pytest.mark.parametrize("mode", GREY_FILES)
def test_grey_stays_one_channel_and_exact_in_every_mode(mode):
    decoded = decode.decode_bytes(encode(GREY_FILES[mode]))
    assert decoded.frames == 1
    np.testing.assert_array_equal(decoded.pixels[..., 0], ramp())


def test_alpha_is_dropped_and_does_not_darken():
    image = Image.fromarray(ramp()).convert("RGBA")
    image.putalpha(7)
    np.testing.assert_array_equal(decode.decode_bytes(encode(image))[0][..., 0], ramp())


def test_palette_with_transparency_decodes_without_a_warning():
    image = Image.fromarray(ramp()).convert("P")
    data = encode(image, transparency=bytes([0] * 256))
    np.testing.assert_array_equal(decode.decode_bytes(data)[0][..., 0], ramp())


def test_chroma_noise_of_jpeg_is_grey_and_a_coloured_region_is_not():
    rng = np.random.default_rng(0)
    noisy = np.stack([ramp(64, 64)] * 3, -1).astype(int) + rng.integers(-2, 3, (64, 64, 3))
    noisy = noisy.clip(0, 255).astype(np.uint8)
    data = encode(Image.fromarray(noisy), "JPEG", quality=85)
    assert decode.decode_bytes(data)[0].shape == (64, 64, 1)
    noisy[10:20, 10:20] = (200, 30, 30)
    assert decode.decode_bytes(encode(Image.fromarray(noisy)))[0].shape == (64, 64, 3)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: to be shown rotated by 90 degrees clockwise
    upright = decode.decode_bytes(encode(Image.fromarray(ramp()), exif=exif))[0]
    np.testing.assert_array_equal(upright[..., 0], np.rot90(ramp(), -1))


@pytest.mark.parametrize(
    "data",
    [b"", b"this is text", encode(GREY_FILES["L"])[:60], encode(GREY_FILES["L"], "JPEG")[:-60]],
    ids=["empty", "text", "truncated_png", "truncated_jpeg"],
)
def test_broken_bytes_are_corrupt_and_never_another_exception(data):
    with pytest.raises(CorruptImage, match="does not decode") as found:
        decode.decode_bytes(data)
    assert " at 0x" not in str(found.value)  # The same file gives the same message twice.


@given(st.binary(max_size=40), st.integers(0, 200))
def test_any_damage_decodes_or_is_corrupt(garbage, where):
    data = bytearray(encode(GREY_FILES["RGB"]))
    data[where : where + len(garbage)] = garbage
    try:
        pixels = decode.decode_bytes(bytes(data)).pixels
    except CorruptImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


def test_first_frame_of_several_is_used_and_the_number_told():
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    decoded = decode.decode_bytes(data)
    assert decoded.frames == 2
    assert (decoded.pixels == 10).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 512))
def test_longer_side_fills_the_canvas_and_aspect_is_kept(height, width, size):
    extent = decode.fitted_extent(height, width, size)
    assert max(extent) == size
    assert min(extent) >= 1
    exact = min(height, width) * size / max(height, width)
    assert abs(min(extent) - max(1, exact)) <= 0.5


@pytest.mark.parametrize("shape", [(5, 9), (60, 60), (40, 20), (1, 90)])
def test_row_lies_top_left_and_the_rest_is_black(shape):
    row = decode.make_row(Picture(np.full(shape, 77, np.uint8)), 24, None, None)
    height, width = row.extent
    assert row.image.shape == (24, 24, 1)
    assert (row.image[:height, :width] == 77).all()
    assert not row.image[height:].any()
    assert not row.image[:, width:].any()


def test_downscaling_is_antialiased():
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    row = decode.make_row(Picture(checkerboard), 16, None, None)
    assert abs(row.image.astype(int) - 128).max() <= 8


@pytest.mark.parametrize("channels", [1, 3])
def test_forced_channels_hold_for_grey_and_colour(channels):
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 200
    for pixels in (ramp(8, 8), colour):
        row = decode.make_row(Picture(pixels), 8, channels, None)
        assert row.image.shape == (8, 8, channels)
    assert (decode.make_row(Picture(colour), 8, 1, None).image == 60).all()  # 0.299 * 200


def test_digest_names_native_pixels_whatever_the_format():
    image = Image.fromarray(ramp())
    rows = [decode.make_row(encode(image, kind), 8, None, None) for kind in ("PNG", "BMP", "TIFF")]
    rows.append(decode.make_row(encode(image.convert("RGB")), 8, None, None))
    other = decode.make_row(encode(Image.fromarray(255 - ramp())), 8, None, None)
    assert len({row.digest for row in rows}) == 1
    assert other.digest != rows[0].digest


def test_detector_sees_the_scaled_picture_without_the_canvas():
    seen = []

    def detector(image):
        seen.append(image)
        return np.array([1, 0, 0, *image.shape, 0, 0], np.float32)

    row = decode.make_row(Picture(ramp(10, 20)), 40, 3, detector)
    assert seen[0].shape == (20, 40)
    np.testing.assert_array_equal(row.geometry, [1, 0, 0, 20, 40, 0, 0])


def test_given_geometry_moves_with_the_pixels():
    """Halving a 20 x 40 picture: the last pixel's far edge 39.5 becomes 19.5, lengths halve."""
    linear = np.array([1, -0.5, -0.5, 19.5, 39.5, 0, 0], np.float32)
    moved = decode.scale_geometry(linear, (20, 40), (10, 20))
    np.testing.assert_allclose(moved, [1, -0.5, -0.5, 9.5, 19.5, 0, 0])
    sector = np.array([2, -10.5, 19.5, 8, 30, -0.5, 0.5], np.float32)
    moved = decode.scale_geometry(sector, (20, 40), (10, 20))
    np.testing.assert_allclose(moved, [2, -5.5, 9.5, 4, 15, -0.5, 0.5])
