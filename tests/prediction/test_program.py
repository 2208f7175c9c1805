"""A model as a program says of pictures of any size what the model says of their files."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.prediction.folder.test_run import LESION, ORGANS, SINGLE, config, objective, trained
from ufm_jax.data.cache.decode import make_row
from ufm_jax.data.records import Picture
from ufm_jax.objectives.task import make_objective
from ufm_jax.ops.canvas import fitted_extent, to_canvas
from ufm_jax.ops.pixels import rgb_to_grey
from ufm_jax.prediction import program
from ufm_jax.prediction.native_masks import native_mask

pytest.importorskip("flatbuffers", reason="pip install 'ufm-jax[export]'")
SIZES = [(40, 60), (61, 43), (50, 50), (97, 20), (1, 30), (300, 401)]


@pytest.fixture(autouse=True)
def _compile_once(monkeypatch):
    monkeypatch.setattr(
        program,
        "make_objective",
        lambda c, task: objective(task) if c.data.channels == 1 else make_objective(c, task),
    )


def picture(seed, height, width, channels) -> np.ndarray:
    """Blobs, uint8 [H, W, C]."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 6, channels)).astype(np.float32)
    blobs = jax.image.resize(grid, (height, width, channels), "cubic")
    return np.clip(np.rint(blobs), 0, 255).astype(np.uint8)


def expected(task, pixels) -> np.ndarray:
    """What the model says of one picture, put on its canvas alone."""
    grey = jnp.round(rgb_to_grey(pixels[None].astype(np.float32)))
    image, extent = to_canvas(grey, config(task).data.working_size)
    batch = {"image": image, "extent": extent}
    return np.asarray(objective(task).predict(trained(task).params, batch))[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_canvas_is_the_one_that_decoding_makes(size):
    pixels = picture(0, *size, 3)
    row = make_row(Picture(pixels), 64, 3, None)
    canvas, extent = to_canvas(pixels[None], 64)
    assert tuple(extent[0].tolist()) == row.extent
    apart = np.abs(np.asarray(canvas[0], np.int32) - row.image)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.03


@pytest.mark.parametrize("size", [24, 160])
def test_extents_are_rounded_as_in_decoding(size):
    for side in range(2, 60):
        row = make_row(Picture(np.zeros((side, 60), np.uint8)), size, 1, None)
        assert tuple(map(int, fitted_extent(side, 60, size))) == row.extent


def test_probabilities_are_the_models_for_any_size_and_number():
    content = program.make_program(config(SINGLE), trained(SINGLE))
    assert str(Path(program.__file__).parents[1]).encode() not in content
    made = jax.export.deserialize(content)
    assert made.platforms == program.PLATFORMS
    said = []
    for seed, size in enumerate(SIZES[:2]):
        pixels = np.stack([picture(seed + n, *size, 3) for n in range(1 + seed)])
        found = np.asarray(made.call(pixels))
        for one, pair in zip(found, pixels, strict=True):
            np.testing.assert_allclose(one, expected(SINGLE, pair), atol=1e-5)
        said += found[:, 0].tolist()
    assert len(set(said)) == 3, "pictures are told apart"


@pytest.mark.parametrize(("task", "size"), [(LESION, (97, 20)), (ORGANS, (40, 61))])
def test_masks_have_the_size_of_their_pictures(task, size):
    made = jax.export.deserialize(program.make_program(config(task), trained(task)))
    pictures = np.stack([picture(seed, *size, 3) for seed in range(4)])
    found = np.asarray(made.call(pictures))
    assert found.shape == (4, *size)
    for mask, pixels in zip(found, pictures, strict=True):
        assert (mask != native_mask(expected(task, pixels), size)).mean() < 0.002
    assert len(np.unique(found)) > 1


def test_colour_is_not_lost_where_the_data_keep_it():
    grey = config(SINGLE)
    colour = replace(
        grey, data=replace(grey.data, channels=3), model=replace(grey.model, channels=3)
    )
    shapes = jax.eval_shape(make_objective(colour, SINGLE).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda like: rng.normal(0, 0.5, like.shape), shapes)
    content = program.make_program(colour, replace(trained(SINGLE), params=params))
    pictures = np.zeros((2, 24, 24, 3), np.uint8)
    pictures[0, ..., 0], pictures[1, ..., 2] = 38, 100  # Red and blue of the same grey.
    red, blue = jax.export.deserialize(content).call(pictures)
    assert np.abs(red - blue).max() > 1e-3
