"""Names, thresholds and drawings of what is written about a folder."""

from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.config.finetuning import EvaluationConfig
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.calls import calling_thresholds, with_calls
from ufm_jax.evaluation.predictions import DiagnosisPredictions
from ufm_jax.evaluation.thresholds import Threshold
from ufm_jax.prediction.folder.outputs import (
    DiagnosisOutput,
    mask_names,
    open_table,
)
from ufm_jax.prediction.overlay import class_colour, draw_regions

BINARY = Task("single", ("benign", "malignant"))
MULTI = Task("multi", ("fluid", "stone"))
names = st.lists(
    st.lists(st.sampled_from(["a", "A", "a.png", "b"]), max_size=2).flatmap(
        lambda up: st.sampled_from(["a.png", "a.jpg", "A.PNG", "a.jpg.png", "b.tif"]).map(
            lambda name: "/".join([*up, name])
        )
    ),
    unique=True,
    max_size=8,
)


@given(names)
def test_every_mask_has_a_name_of_its_own_on_any_file_system(images):
    # A file system on which the images could lie has no file with the name of a folder.
    folders = {str(up) for name in images for up in PurePosixPath(name).parents}
    images = [name for name in images if name not in folders]
    found = mask_names(images)
    files = [file.casefold() for file in found.values()]
    assert list(found) == images or set(found) == set(images)
    assert len(set(files)) == len(files)
    assert not set(files) & {up.casefold() for up in folders}
    for name, file in found.items():
        assert file.endswith(".png")
        assert PurePosixPath(file).parent == PurePosixPath(name).parent


def test_images_and_masks_pair_by_their_stems_unless_two_images_share_one():
    found = mask_names(["a.jpg", "b/a.PNG", "c.png", "c.jpg"])
    assert found == {
        "a.jpg": "a.png",
        "b/a.PNG": "b/a.png",
        "c.png": "c.png.png",
        "c.jpg": "c.jpg.png",
    }


def called(task, probabilities, chosen, **settings):
    of_run = {name: Threshold(value) for name, value in chosen.items()}
    settings = EvaluationConfig(**settings)
    output = DiagnosisOutput(task, calling_thresholds(task.kind, task.classes, settings, of_run))
    return output(None, np.array(probabilities, np.float32))["called"], output.note


def test_of_two_classes_the_runs_threshold_decides():
    run = {"malignant": 0.25}
    assert called(BINARY, [0.75, 0.25], run)[0] == "malignant"
    assert called(BINARY, [0.76, 0.24], run)[0] == "benign"
    assert "malignant from a probability of 0.25" in called(BINARY, [0.5, 0.5], run)[1]
    assert called(BINARY, [0.7, 0.3], run, threshold="half")[0] == "benign"
    assert called(BINARY, [0.7, 0.3], {})[0] == "benign"
    assert called(BINARY, [0.5, 0.5], {}, positive="benign")[0] == "benign"


def test_a_positive_class_without_a_threshold_is_refused():
    with pytest.raises(ConfigError, match=r"positive='benign'.*malignant"):
        called(BINARY, [0.5, 0.5], {"malignant": 0.25}, positive="benign")
    with pytest.raises(ConfigError, match="positive='cyst'"):
        called(BINARY, [0.5, 0.5], {}, positive="cyst")
    with pytest.raises(ConfigError, match="positive='cyst'"):
        called(BINARY, [0.5, 0.5], {}, positive="cyst", threshold="half")


def test_of_many_classes_the_most_probable_and_of_findings_each_is_called():
    many = Task("single", ("cyst", "mass", "none"))
    assert called(many, [0.3, 0.4, 0.3], {})[0] == "mass"
    assert called(MULTI, [0.6, 0.7], {})[0] == "fluid;stone"
    assert called(MULTI, [0.6, 0.7], {"fluid": 0.9, "stone": 0.5})[0] == "stone"
    assert called(MULTI, [0.1, 0.2], {})[0] == ""


@pytest.mark.parametrize("task", [BINARY, MULTI, Task("single", ("a", "b", "c"))])
def test_what_is_called_is_what_the_evaluation_calls(task):
    """Of ten images on a coarse grid, so that many probabilities are the threshold."""
    settings, number = EvaluationConfig(), task.num_classes
    probabilities = np.random.default_rng(3).integers(0, 5, (10, number)).astype(np.float32) / 4
    chosen = dict.fromkeys(calling_thresholds(task.kind, task.classes, settings, {}), 0.5)
    predictions = DiagnosisPredictions(
        names=tuple(map(str, range(10))),
        clients=("all",) * 10,
        groups=np.arange(10),
        probabilities=probabilities,
        labels=np.full(10, -1 if task.kind == "multi" else 0),
        targets=np.zeros((10, number)),
        classes=task.classes,
    )
    of_run = {name: Threshold(value) for name, value in chosen.items()}
    evaluated = with_calls(predictions, settings, of_run).calls()
    for row, expected in zip(probabilities, evaluated, strict=True):
        found = called(task, row, chosen)[0].split(";")
        assert [name in found for name in task.classes] == expected.tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_changes_nothing_outside_the_regions(channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (60, 80, channels), np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 10:40], mask[40:, 50:] = 1, 2
    drawn = draw_regions(pixels, mask)
    expected = np.broadcast_to(pixels, (60, 80, 3))
    np.testing.assert_array_equal(drawn[mask == 0], expected[mask == 0])
    assert tuple(drawn[10, 10]) == class_colour(1)
    assert tuple(drawn[40, 50]) == class_colour(2)
    assert tuple(drawn[59, 60]) != class_colour(2), "no outline where the region leaves the picture"
    inside = drawn[12:28, 12:38].astype(int) - expected[12:28, 12:38]
    assert 0 < np.abs(inside).mean() < 40, "tinted, not hidden"


def test_colours_of_classes_differ():
    colours = np.array([class_colour(number) for number in range(1, 13)])
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(12, dtype=int)
    assert apart.min() > 40


def test_a_table_is_there_whole_or_not_at_all_and_keeps_any_file_name(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(AttributeError), open_table(path, ("called",)) as add:
        add("a.png")
    assert not path.exists()
    with open_table(path, ("called",)) as add:
        add({"image": "caf\udce9, 1.png", "called": "cyst"})
        add({"image": "b.png", "error": "has 0 bytes"})
    assert path.read_bytes().splitlines() == [
        b"image,called,error",
        b'"caf\xe9, 1.png",cyst,',
        b"b.png,,has 0 bytes",
    ]
