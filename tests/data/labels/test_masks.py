"""Masks: values become classes, exactly and never by interpolation."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.data.cache.decode import fitted_extent, resize
from ufm_jax.data.labels.masks.classes import MaskClasses, parse_mask_classes
from ufm_jax.data.labels.masks.decode import MaskFault, class_mask, decode_values, scale_mask
from ufm_jax.data.labels.masks.rows import decode_masks, read_mask, values_in_masks
from ufm_jax.errors import DataError

BINARY = MaskClasses()


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def disc(height: int = 48, width: int = 64) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    return (row - 20) ** 2 + (column - 30) ** 2 < 200


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(disc().astype(np.uint8)),
        Image.fromarray(disc().astype(np.uint8) * 255),
        Image.fromarray(disc()),
        Image.fromarray(disc().astype(np.uint16) * 65535),
        Image.fromarray(disc().astype(np.uint8)[..., None].repeat(3, -1) * 255),
        Image.fromarray(disc().astype(np.uint8) * 255).convert("LA"),
        Image.fromarray(disc().astype(np.uint8) * 255).convert("P"),
    ],
    ids=["0/1", "0/255", "1 bit", "16 bit", "rgb", "alpha", "palette"],
)
def test_binary_masks_of_any_kind_are_read_exactly(image):
    mask, grey = class_mask(decode_values(encoded(image)), BINARY)
    np.testing.assert_array_equal(mask, disc())
    assert not grey


def test_greys_of_jpeg_are_thresholded_and_said():
    image = Image.fromarray(disc().astype(np.uint8) * 255)
    mask, grey = class_mask(decode_values(encoded(image, "JPEG", quality=90)), BINARY)
    assert grey
    np.testing.assert_array_equal(mask, disc())


@pytest.mark.parametrize("values", [(0, 2), (0, 1, 2), (0, 127), (0, 300)])
def test_binary_mask_of_other_values_is_refused_with_its_values(values):
    with pytest.raises(MaskFault, match=f"unknown_class: holds .*{values[-1]}.*mask_classes"):
        class_mask(np.array([values]), BINARY)


@pytest.mark.parametrize(
    "values", [(0, 1, 255), (1, 255), (0, 2, 255), (0, 1, 2, 3, 255), (0, 17, 255)]
)
def test_codes_beside_255_are_refused_until_they_are_named(values):
    codes = np.array([values], np.uint8)
    palette = Image.fromarray(codes).convert("P")
    palette.putpalette(VOC)
    for image in (Image.fromarray(codes), palette, Image.fromarray(codes.astype(np.uint16))):
        found = decode_values(encoded(image))
        with pytest.raises(MaskFault, match=r"mask_classes=\('1:object', '255:ignore'\)"):
            class_mask(found, BINARY)
    named = parse_mask_classes((*(f"{v}:c{v}" for v in values if 0 < v < 255), "255:ignore"))
    assert class_mask(decode_values(encoded(palette)), named).numbers[0, -1] == 255


def test_antialiased_edges_are_no_codes():
    smooth = Image.fromarray(disc().astype(np.uint8) * 255).resize((37, 29), Image.Resampling.BOX)
    assert class_mask(decode_values(encoded(smooth)), BINARY).grey
    assert class_mask(np.array([[0, 128, 255]]), BINARY).grey


def test_one_mask_with_void_stops_a_set_that_does_not_name_it(tmp_path: Path):
    """Leaving it out would not tell whether 255 is the object of the others."""
    for name, values in (("a", (0, 255)), ("b", (0, 1)), ("ring", (1, 255))):
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"{name}.png")
    sources, natives = [tmp_path / f"{name}.png" for name in ("a", "b", "ring")], [(1, 2)] * 3
    for _ in range(2):  # read, then from the cache
        with pytest.raises(DataError, match=r"ring.png holds the values 1, 255: 255 may be void"):
            decode_masks(sources, natives, BINARY, 8, tmp_path / "cache", 1)
    assert not decode_masks(sources[:2], natives[:2], BINARY, 8, tmp_path / "cache", 1).faults


FULL = np.where(disc(), np.uint16(65535), np.uint16(0))
SIXTEEN = {
    "grey 1": imagecodecs.png_encode(FULL // 65535),
    "grey 255": imagecodecs.png_encode(FULL // 257),
    "grey 65535": imagecodecs.png_encode(FULL),
    "rgb 1": imagecodecs.png_encode(np.stack([FULL // 65535] * 3, -1)),
    "rgb 255": imagecodecs.png_encode(np.stack([FULL // 257] * 3, -1)),
    "rgb 65535": imagecodecs.png_encode(np.stack([FULL] * 3, -1)),
    "grey and opaque": imagecodecs.png_encode(np.stack([FULL, np.full_like(FULL, 65535)], -1)),
    "tiff rgb 1": tiff(np.stack([FULL // 65535] * 3, -1), photometric="rgb"),
    "tiff 0 is white": tiff(65535 - FULL, photometric="miniswhite"),
    "tiff 0 is white, 8 bits": tiff((255 - FULL // 257).astype(np.uint8), photometric="miniswhite"),
    "tiff of 32 bits": tiff(FULL.astype(np.uint32) // 257),
    "tiff of signed numbers": tiff((FULL // 257).astype(np.int16)),
}


@pytest.mark.parametrize("name", SIXTEEN)
def test_deep_masks_keep_their_values_and_polarity(name):
    mask, grey = class_mask(decode_values(SIXTEEN[name]), BINARY)
    np.testing.assert_array_equal(mask, disc())
    assert not grey


def test_colours_written_with_16_bits_are_those_of_8():
    colours = np.array([[[0, 0, 0], [255, 0, 0], [9, 9, 9]]], np.uint16)
    red = parse_mask_classes(("#ff0000:vessel", "#090909:wall"))
    values = decode_values(imagecodecs.png_encode(colours * 257))
    assert class_mask(values, red).numbers.tolist() == [[0, 1, 2]]
    with pytest.raises(MaskFault, match="colours of more than 8 bits"):
        decode_values(imagecodecs.png_encode(colours))


def test_what_a_format_scales_is_no_mask():
    deep = b"P6 2 1 65535\n" + np.array([0, 0, 0, 1, 1, 1], ">u2").tobytes()
    with pytest.raises(MaskFault, match="scaled to another depth"):
        decode_values(deep)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(
    ("alpha", "fine"),
    [
        (np.full((48, 64), 255), True),
        (np.full((48, 64), 0), True),
        (np.where(disc(), 255, 0), True),
        (np.where(disc(), 0, 255), False),
        (np.where(disc(), 255, 128), False),
        (np.arange(48 * 64).reshape(48, 64) % 256, False),
    ],
    ids=["opaque", "clear", "as the values", "against them", "half", "any"],
)
def test_alpha_never_decides(mode, alpha, fine):
    image = Image.fromarray(disc().astype(np.uint8) * 255).convert(mode)
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    if fine:
        np.testing.assert_array_equal(
            class_mask(decode_values(encoded(image)), BINARY).numbers, disc()
        )
    else:
        with pytest.raises(MaskFault, match="has alpha from"):
            decode_values(encoded(image))


def test_a_mask_drawn_in_alpha_alone_is_refused():
    image = Image.fromarray(np.zeros((48, 64), np.uint8)).convert("LA")
    image.putalpha(Image.fromarray(disc().astype(np.uint8) * 255))
    palette = Image.fromarray(disc().astype(np.uint8)).convert("P")
    palette.putpalette([255] * 6)
    for content in (encoded(image), encoded(palette, transparency=bytes([0, 255]))):
        with pytest.raises(MaskFault, match="has alpha from 0 to 255"):
            decode_values(content)


def test_label_map_palette_and_colours_become_the_named_classes():
    names = ("1:liver", "3:kidney", "4:kidney", "255:ignore")
    classes = parse_mask_classes(names)
    assert classes.names == ("liver", "kidney")
    indices = np.array([[0, 1, 3], [4, 255, 0]], np.uint8)
    expected = [[0, 1, 2], [2, 255, 0]]
    np.testing.assert_array_equal(class_mask(indices, classes).numbers, expected)
    palette = Image.fromarray(indices).convert("P")
    palette.putpalette([channel for i in range(256) for channel in (i, 255 - i, 7)])
    values = decode_values(encoded(palette))
    np.testing.assert_array_equal(class_mask(values, classes).numbers, expected)
    colours = np.array([[[0, 0, 0], [255, 0, 0], [9, 9, 9]]], np.uint8)
    by_colour = parse_mask_classes(("#ff0000:vessel", "#090909:wall"))
    found = class_mask(decode_values(encoded(Image.fromarray(colours))), by_colour)
    np.testing.assert_array_equal(found.numbers, [[0, 1, 2]])
    with pytest.raises(MaskFault, match=r"holds the value #ff0000, not among"):
        class_mask(decode_values(encoded(Image.fromarray(colours))), parse_mask_classes(("9:w",)))


def test_grey_palette_counts_by_its_levels():
    image = Image.fromarray(1 - disc().astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(class_mask(decode_values(encoded(image)), BINARY).numbers, disc())


def indexed(indices: list[int], colours: list[int]) -> Image.Image:
    image = Image.frombytes("P", (len(indices), 1), bytes(indices))
    image.putpalette(colours)
    return image


BLACK, WHITE, RED = [0, 0, 0], [255, 255, 255], [255, 0, 0]
RAMP = [level for level in range(256) for _ in range(3)]
# As in PASCAL VOC's map: black, dark colours, and a light one for 255.
VOC = [*BLACK, 128, 0, 0, 0, 128, 0, 128, 128, 0, *RAMP[12:765], 224, 224, 192]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize(
    ("indices", "colours", "expected"),
    [
        ([0, 0], WHITE + RED, [0, 0]),
        ([0, 1], WHITE + RED, [0, 1]),
        ([2, 2], BLACK + RED + WHITE, [2, 2]),
        ([0, 2], BLACK + RED + WHITE, [0, 2]),
        ([0, 0], WHITE + RED + RAMP[6:], [0, 0]),
        ([0, 0], WHITE + RED + [0] * 762, [0, 0]),
        ([0, 3], VOC, [0, 3]),
        ([0, 0], VOC, [0, 0]),
        ([1, 255], VOC, [1, 255]),
        ([0, 1], WHITE + BLACK, [255, 0]),
        ([0, 1], WHITE + BLACK + RAMP[6:], [255, 0]),
        ([0, 1], WHITE + BLACK + [0] * 762, [255, 0]),
        ([1, 2], BLACK + [128] * 3 + WHITE, [128, 255]),
        ([0, 1, 7, 255], RAMP, [0, 1, 7, 255]),
    ],
)
def test_palettes_count_by_all_their_colours_whichever_are_in_use(indices, colours, expected, kind):
    values = decode_values(encoded(indexed(indices, colours), kind))
    np.testing.assert_array_equal(values, [expected])


def test_index_beyond_a_grey_palette_is_a_fault():
    with pytest.raises(MaskFault, match="holds the index 3 of a palette of 3 colours"):
        decode_values(encoded(indexed([0, 3], BLACK + [128] * 3 + WHITE)))


def test_plain_names_stand_for_the_numbers_from_one():
    assert parse_mask_classes(("a", "b")).numbers == ((0, 0), (1, 1), (2, 2))


@pytest.mark.parametrize(
    "entries", [("1:a", "b"), ("1:a", "1:b"), ("x:a",), (":a",), ("1:",), ("0:background",)]
)
def test_malformed_mask_classes_are_refused(entries):
    with pytest.raises(DataError, match="mask_classes"):
        parse_mask_classes(entries)


def test_text_and_animations_are_no_masks():
    with pytest.raises(MaskFault, match="corrupt: does not decode"):
        decode_values(b"not a picture")
    frames = [Image.fromarray(disc()), Image.fromarray(~disc())]
    with pytest.raises(MaskFault, match="2 frames"):
        decode_values(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    with pytest.raises(MaskFault, match="fractions"):
        decode_values(encoded(Image.fromarray(np.ones((2, 2), np.float32) / 2), "TIFF"))


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 64), st.integers(0, 2**32 - 1))
def test_scaling_takes_the_nearest_pixel_and_invents_no_class(height, width, size, seed):
    numbers = np.random.default_rng(seed).choice([0, 1, 5, 9], (height, width)).astype(np.uint8)
    extent = fitted_extent(height, width, size)
    canvas = scale_mask(numbers, extent, size)
    picture = canvas[: extent[0], : extent[1]]
    outside = np.ones((size, size), bool)
    outside[: extent[0], : extent[1]] = False
    assert (canvas[outside] == 255).all()
    # The centre of pixel i of n lies at (i + 1/2) / n of the side.
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * full / n, full - 1e-3)
        for n, full in zip(extent, (height, width), strict=True)
    )
    for i, y in enumerate(rows):
        for j in (0, extent[1] // 2, extent[1] - 1):
            # A centre on the border of two pixels may go to either, to rounding.
            near = {
                int(numbers[min(int(y + e), height - 1), min(int(columns[j] + f), width - 1)])
                for e in (-1e-6, 1e-6)
                for f in (-1e-6, 1e-6)
            }
            assert int(picture[i, j]) in near


def test_mask_lies_where_its_image_lies():
    """The centre of mass of a disc, scaled as image and as mask, agrees to a tenth of a pixel."""
    row, column = np.mgrid[:384, :512]
    full = ((row - 160.3) ** 2 + (column - 240.7) ** 2 < 110**2).astype(np.uint8)
    extent = fitted_extent(*full.shape, 96)
    image = resize(full[..., None] * 255, extent)[..., 0] / 255.0
    mask = scale_mask(full, extent, 96)[: extent[0], : extent[1]]
    for axis in (0, 1):
        places = np.arange(extent[axis])
        centres = [(m.sum(1 - axis) * places).sum() / m.sum() for m in (image, mask)]
        assert abs(centres[0] - centres[1]) < 0.1


def test_masks_are_read_once_and_faults_are_kept_by_kind(tmp_path: Path, monkeypatch):
    Image.fromarray(disc().astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(disc(20, 20).astype(np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    sources = [tmp_path / name for name in ("a.png", "small.png", "text.png", "gone.png", "a.png")]
    natives = [(48, 64)] * 5

    def masks(names=BINARY):
        return decode_masks(sources, natives, names, 32, tmp_path / "cache", 2)

    found = masks()
    assert {i: kind for i, (kind, _) in found.faults.items()} == {
        1: "mask_size",
        2: "corrupt",
        3: "missing",
    }
    assert found.faults[1][1] == "is 20 x 20 pixels, its image 64 x 48"
    assert found.rows[0] == found.rows[4]
    np.testing.assert_array_equal(found.counts[0], [disc().size - disc().sum(), disc().sum()])
    monkeypatch.setattr("ufm_jax.data.labels.masks.rows._row", lambda *_: pytest.fail("read again"))
    assert masks().cached.folder == found.cached.folder
    with pytest.raises(pytest.fail.Exception, match="read again"):
        masks(parse_mask_classes(("lesion",)))


def test_automatic_classes_are_the_values_that_occur(tmp_path: Path):
    for index, values in enumerate([(0, 4), (0, 1, 7)]):
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"{index}.png")
    sources = [tmp_path / "0.png", tmp_path / "1.png"]
    for _ in range(2):
        classes = values_in_masks(sources, tmp_path / "cache", 2)
        assert classes.names == ("1", "4", "7")
    np.testing.assert_array_equal(read_mask(sources[1], classes, (1, 3)).numbers, [[0, 1, 3]])
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="255 values"):
        values_in_masks(sources, tmp_path / "cache", 2)
