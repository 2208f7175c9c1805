"""A folder of images is read whatever it holds: formats, orientation, and what is no image."""

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data import image_file
from ufm_jax.data.records import Record
from ufm_jax.data.screening import file_faults
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.prediction.folder.files import (
    FolderImage,
    ListedFile,
    check_first,
    list_files,
    read_batches,
    read_image,
    stack,
)

SETTINGS = DataSettings(source="folders", root=".", working_size=32, channels=1)
COLOUR = DataSettings(source="folders", root=".", working_size=32)


def ramp(height=40, width=60) -> np.ndarray:
    return np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)


def tinted() -> np.ndarray:
    return np.stack([ramp(), ramp()[::-1], ramp()[:, ::-1]], -1)


def errors_of(files):
    return {listed.name: listed.error for listed in files}


def read(folder, name, settings=SETTINGS):
    return read_image(folder, ListedFile(name), settings)


FILES = {
    "grey.png": (Image.fromarray(ramp()), {}),
    "deep.png": (Image.fromarray(ramp().astype(np.uint16) * 257), {}),
    "deep.tif": (Image.fromarray(ramp().astype(np.uint16) * 257), {}),
    "colour.PNG": (Image.fromarray(ramp()).convert("RGB"), {}),
    "alpha.png": (Image.fromarray(ramp()).convert("LA"), {}),
    "palette.png": (Image.fromarray(ramp()).convert("P"), {}),
    "a.bmp": (Image.fromarray(ramp()), {}),
    "a.gif": (Image.fromarray(ramp()), {}),
    "a.jpg": (Image.fromarray(ramp()), {"quality": 100}),
    "a.jpeg": (Image.fromarray(ramp()).convert("CMYK"), {"quality": 100}),
    "a.webp": (Image.fromarray(ramp()).convert("RGB"), {"lossless": True}),
    "a.pgm": (Image.fromarray(ramp()), {}),
    "a.jp2": (Image.fromarray(ramp()), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_picture_in_any_format_is_the_same_image(tmp_path, name):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    FILES["grey.png"][0].save(tmp_path / "plain.png")
    found, plain = read(tmp_path, name), read(tmp_path, "plain.png")
    assert found.native == (40, 60)
    assert found.extent == (21, 32)
    assert found.image.shape == (32, 32, 1)
    np.testing.assert_allclose(found.image.astype(int), plain.image, atol=4)
    assert (found.image[21:] == 0).all()


def test_channels_are_those_of_the_training_data(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "grey.png")
    Image.fromarray(tinted()).save(tmp_path / "colour.png")
    images = [read(tmp_path, name, COLOUR) for name in ("grey.png", "colour.png")]
    batch = stack(images)
    assert batch["image"].shape == (2, 32, 32, 3)
    assert batch["extent"].dtype == np.int32
    assert (batch["image"][0] == batch["image"][0, ..., :1]).all()
    assert np.ptp(batch["image"][1].astype(int), axis=-1).max() > 50
    assert read(tmp_path, "colour.png").image.shape == (32, 32, 1)


def test_a_turned_file_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees to be seen upright
    Image.fromarray(ramp()).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    Image.fromarray(np.rot90(ramp(), -1)).save(tmp_path / "upright.png")
    turned, upright = read(tmp_path, "turned.jpg"), read(tmp_path, "upright.png")
    assert turned.native == upright.native == (60, 40)
    np.testing.assert_allclose(turned.image.astype(int), upright.image, atol=3)


def test_of_several_frames_the_first_is_taken_and_they_are_counted(tmp_path):
    first, second = Image.fromarray(ramp()), Image.fromarray(ramp()[::-1])
    first.save(tmp_path / "clip.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "still.gif")
    clip, still = read(tmp_path, "clip.gif"), read(tmp_path, "still.gif")
    assert (clip.frames, still.frames) == (2, 1)
    np.testing.assert_array_equal(clip.image, still.image)


def broken(folder) -> dict[str, str]:
    """Makes files that are no images; the reason of each."""
    Image.fromarray(ramp()).save(folder / "whole.jpg")
    (folder / "text.png").write_text("not an image")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:400])
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.csv").write_text("a,b")
    (folder / "whole.jpg").unlink()
    return {
        "text.png": "does not decode: not an image, or of a format that cannot be read",
        "cut.jpg": "does not decode: image file is truncated",
        "empty.png": "has 0 bytes",
        "gone.png": "cannot be opened: No such file",
        "pipe.png": "is not a file",
        "notes.csv": "does not have the suffix of an image",
    }


def test_what_is_no_image_is_named_with_a_reason(tmp_path):
    reasons = broken(tmp_path)
    files = list_files(tmp_path, SETTINGS)
    assert [listed.name for listed in files] == sorted(reasons)
    for listed in files:
        found = read_image(tmp_path, listed, SETTINGS)
        assert isinstance(found, ListedFile)
        assert found.error.startswith(reasons[listed.name])


def test_a_picture_too_large_to_decode_is_named(tmp_path, monkeypatch):
    Image.fromarray(ramp()).save(tmp_path / "vast.png")
    monkeypatch.setattr(image_file, "_MAX_PIXELS", 1000)
    assert "declares 60 x 40 pixels" in read(tmp_path, "vast.png").error


def test_links_that_leave_the_folder_are_refused_as_in_training(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "secret.png")
    inner = tmp_path / "in"
    inner.mkdir()
    Image.fromarray(ramp()).save(inner / "own.png")
    (inner / "alias.png").symlink_to(inner / "own.png")
    (inner / "out.png").symlink_to(tmp_path / "secret.png")
    (inner / "hop.png").symlink_to(inner / "out.png")
    errors = errors_of(list_files(inner, SETTINGS))
    assert errors["own.png"] == errors["alias.png"] == ""
    for name in ("out.png", "hop.png"):
        assert errors[name] == f"lies outside the root {inner}, at {tmp_path / 'secret.png'}"
    listed = [Record("site", inner / name) for name in errors]
    faults = file_faults(listed, inner)
    assert [faults[i].reason if i in faults else "" for i in range(4)] == list(errors.values())


def test_the_range_of_values_is_that_of_the_training_data(tmp_path):
    Image.fromarray(ramp().astype(np.uint16) * 16).save(tmp_path / "twelve.png")
    Image.fromarray(ramp()).save(tmp_path / "plain.png")
    found = read(tmp_path, "twelve.png", replace(SETTINGS, value_range=(0, 255 * 16)))
    np.testing.assert_array_equal(found.image, read(tmp_path, "plain.png").image)
    assert (
        "beyond data.value_range"
        in read(tmp_path, "twelve.png", replace(SETTINGS, value_range=(0, 1023))).error
    )


def test_dark_files_of_16_bits_are_refused_before_any_is_predicted(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    check_first(tmp_path, [ListedFile("plain.png"), ListedFile("text.png")], SETTINGS)
    Image.fromarray(ramp().astype(np.uint16) * 16).save(tmp_path / "twelve.png")
    names = [ListedFile(name) for name in ("plain.png", "twelve.png", "text.png")]
    with pytest.raises(DataError, match=r"twelve\.png\. Set data\.value_range=\(0, 4095\)"):
        check_first(tmp_path, names, SETTINGS)
    check_first(tmp_path, names, replace(SETTINGS, value_range=(0, 4095)))


def test_sub_folders_are_read_and_links_to_folders_are_not(tmp_path):
    for name in ("b/two.png", "b/c/three.png", "one.png", ".hidden/x.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp()).save(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "b")
    files = errors_of(list_files(tmp_path, SETTINGS))
    assert list(files) == ["link", "one.png", "b/two.png", "b/c/three.png"]
    assert "not followed" in files.pop("link")
    assert not any(files.values())


def test_masks_by_their_names_are_left_out_as_in_training(tmp_path):
    masks = (
        "a_mask.png",
        "A_MASK_1.png",
        "a.mask.png",
        "a_seg.png",
        "Masks/b.png",
        "labelme/a.png",
    )
    for name in ("a.png", "scans/b.png", *masks):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(ramp()).save(tmp_path / name)
    errors = errors_of(list_files(tmp_path, SETTINGS))
    assert {name for name, error in errors.items() if not error} == {"a.png", "scans/b.png"}
    assert errors["a_mask.png"] == "is left out by its name, like '*_mask.*'"
    assert errors["Masks/b.png"] == "is left out by its name, like 'Masks'"
    every = replace(SETTINGS, exclude_folders=(), exclude_files=())
    assert not any(errors_of(list_files(tmp_path, every)).values())


@pytest.mark.parametrize("name", ["absent", ".", "a.png"])
def test_what_is_no_folder_with_a_file_is_refused(tmp_path, name):
    if name == "a.png":
        Image.fromarray(ramp()).save(tmp_path / name)
    with pytest.raises(DataError, match=r"no such folder|no file|is a file: name its folder"):
        list_files(tmp_path / name, SETTINGS)


def test_batches_are_full_of_images_whatever_lies_between(tmp_path):
    for letter in "bdfhoqu":  # Between the names of broken files.
        Image.fromarray(ramp()).save(tmp_path / f"{letter}.png")
    plain = [list_files(tmp_path, SETTINGS)]
    broken(tmp_path)
    plain.append(list_files(tmp_path, SETTINGS))
    composed = [
        [
            [item.listed.name for item in batch if isinstance(item, FolderImage)]
            for batch in read_batches(tmp_path, files, SETTINGS, 3, num_workers=2)
        ]
        for files in plain
    ]
    assert [len(batch) for batch in composed[0]] == [3, 3, 1]
    assert [batch for batch in composed[1] if batch] == composed[0]
    everything = [
        item.name if isinstance(item, ListedFile) else item.listed.name
        for batch in read_batches(tmp_path, plain[1], SETTINGS, 3, num_workers=2)
        for item in batch
    ]
    assert everything == [listed.name for listed in plain[1]]


def test_one_batch_is_read_ahead_and_no_more(tmp_path, monkeypatch):
    from ufm_jax.prediction.folder import files as folder

    count, lock = [0], threading.Lock()

    def counted(root, listed, settings):
        with lock:
            count[0] += 1
        return FolderImage(listed, np.zeros((1, 1, 1), np.uint8), (1, 1), (1, 1), 1)

    monkeypatch.setattr(folder, "read_image", counted)
    files = [ListedFile(str(number)) for number in range(100)]
    batches = read_batches(tmp_path, files, SETTINGS, 10, num_workers=1)
    next(batches)
    deadline = time.monotonic() + 5
    while count[0] < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 20 <= count[0] <= 20 + 5, "two batches, and the window of the one decoding thread"
    batches.close()
