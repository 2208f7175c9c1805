"""A model applied to a folder: figures do not depend on batches, formats or broken neighbours."""

import csv
import functools
import os
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from ufm_jax.config.finetuning import EvaluationConfig, FinetuneConfig, NetworkConfig
from ufm_jax.data.cache.decode import decode_bytes
from ufm_jax.data.labels.settings import LabelSettings
from ufm_jax.data.labels.task import Task
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import ConfigError, DataError
from ufm_jax.objectives.task import Objective, make_objective
from ufm_jax.prediction.folder import outputs, run
from ufm_jax.prediction.folder.files import ListedFile, read_image, read_pixels, stack
from ufm_jax.prediction.folder.run import Request, predict_folder
from ufm_jax.prediction.native_masks import native_mask
from ufm_jax.prediction.predictor import Predictor
from ufm_jax.runs.trained_model import TrainedModel

SINGLE = Task("single", ("benign", "malignant"))
LESION = Task("segment", ("lesion",))
ORGANS = Task("segment", ("liver", "kidney"))


def config(task, **evaluation) -> FinetuneConfig:
    source = DataSettings(source="folders", root=".", working_size=24, channels=1)
    model = NetworkConfig(
        size="xs", image_size=32, patch_size=8, channels=1, decoder="linear", drop_path=0.0
    )
    return FinetuneConfig(
        data=LabelSettings(**vars(source), kind=task.kind, separator=";" * (task.kind == "multi")),
        model=model,
        evaluation=EvaluationConfig(**{"batch_size": 2} | evaluation),
    )


@functools.cache
def objective(task) -> Objective:
    return make_objective(config(task), task)


@pytest.fixture(autouse=True)
def _compile_once(monkeypatch):
    """The tests share an objective a task, and with it what is compiled."""
    monkeypatch.setattr(run, "make_objective", lambda config, task: objective(task))


def trained(task, **changes) -> TrainedModel:
    """A model of random parameters, large enough to say something."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(objective(task).init, jax.random.key(1))

    def leaf(path, like):
        # Biases would drown what differs between pictures.
        spread = 0 if "bias" in path[-1].key else 0.5
        return rng.normal(0, spread, like.shape).astype(np.float32)

    model = TrainedModel(
        params=jax.tree_util.tree_map_with_path(leaf, shapes),
        task=task,
        personal={},
        clients=(),
        round=3,
        thresholds={},
    )
    return replace(model, **changes)


def direct(model, folder, names) -> np.ndarray:
    """What the network says of files, all in one batch."""
    settings = config(model.task).data
    read = [read_image(folder, ListedFile(name), settings) for name in names]
    return Predictor(objective(model.task).predict, len(names))(model.params, stack(read))


def picture(seed, height, width) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 256, (4, 5), np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)


SIZES = {
    "a.png": (40, 60),
    "a.jpg": (61, 43),
    "sub/deep.tif": (50, 50),
    "sub/b.bmp": (1, 30),
    "sub/c d.webp": (97, 20),
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        picture(seed, *size).save(folder / name)
    return folder


def add_broken(folder) -> None:
    (folder / "aa.png").write_text("not an image")
    (folder / "sub" / "bb.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("notes")


def table(out) -> dict[str, dict[str, str]]:
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def predict(task, model, images, out, *, options=None, **evaluation):
    request = Request(images, out, **(options or {}))
    return predict_folder(config(task, **evaluation), model, request)


def test_probabilities_are_the_networks_in_any_batch_and_beside_broken_files(tmp_path, images):
    model = trained(SINGLE, thresholds={"malignant": 0.4})
    summary = predict(SINGLE, model, images, tmp_path / "plain")
    assert (summary.predicted, summary.failed) == (5, 0)
    assert "malignant from a probability of 0.4" in summary.note
    rows = table(tmp_path / "plain")
    assert list(rows) == ["a.jpg", "a.png", "sub/b.bmp", "sub/c d.webp", "sub/deep.tif"]
    for row, expected in zip(rows.values(), direct(model, images, rows), strict=True):
        found = [float(row["prob_benign"]), float(row["prob_malignant"])]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert row["called"] == ("malignant" if found[1] >= 0.4 else "benign")
    assert len({row["prob_benign"] for row in rows.values()}) == 5, "images are told apart"

    add_broken(images)
    summary = predict(SINGLE, model, images, tmp_path / "broken")
    assert (summary.predicted, summary.failed) == (5, 3)
    broken = table(tmp_path / "broken")
    assert {name: row for name, row in broken.items() if not row["error"]} == rows
    errors = {name: row for name, row in broken.items() if row["error"]}
    assert list(errors) == ["aa.png", "notes.txt", "sub/bb.jpg"]
    assert not any(row["called"] or row["prob_benign"] for row in errors.values())


def test_masks_have_the_size_of_their_files(tmp_path, images):
    model = trained(LESION)
    out = tmp_path / "out"
    assert predict(LESION, model, images, out).predicted == 5
    files, shown = set(), 0
    for (name, size), output in zip(SIZES.items(), direct(model, images, SIZES), strict=True):
        row = table(out)[name]
        mask = np.asarray(Image.open(out / row["mask"]))
        assert mask.shape == size
        assert (mask != 255 * native_mask(output, size)).mean() < 0.01
        assert int(row["pixels_lesion"]) == (mask > 0).sum()
        drawn = np.asarray(Image.open(out / row["mask"].replace("masks", "overlays", 1)))
        before = np.broadcast_to(decode_bytes((images / name).read_bytes())[0], (*size, 3))
        np.testing.assert_array_equal(drawn[mask == 0], before[mask == 0])
        files.add(row["mask"])
        shown += 0 < (mask > 0).mean() < 1
    assert len(files) == 5, "a.png and a.jpg have masks of their own"
    assert shown, "some picture has both lesion and background"
    with (out / "classes.csv").open(newline="", encoding="utf-8") as file:
        assert [row[:2] for row in csv.reader(file)][1:] == [["0", "background"], ["255", "lesion"]]


def test_all_that_is_written_is_the_owners_alone(tmp_path, images):
    before = os.umask(0)
    try:
        predict(LESION, trained(LESION), images, tmp_path / "out")
    finally:
        os.umask(before)
    paths = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    modes = {path.stat().st_mode & 0o777 for path in paths if path.is_file()}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}


def test_a_file_that_changes_meanwhile_is_listed(tmp_path, images, monkeypatch):
    def replaced(path, settings):
        picture(9, 8, 8).save(path)
        return read_pixels(path, settings)

    monkeypatch.setattr(outputs, "read_pixels", replaced)
    summary = predict(LESION, trained(LESION), images, tmp_path / "out")
    assert (summary.predicted, summary.failed) == (0, 5)
    assert "changed" in table(tmp_path / "out")["a.png"]["error"]
    assert not (tmp_path / "out" / "masks").exists()


def test_class_numbers_and_lengths(tmp_path, images):
    model = trained(ORGANS)
    taken = {"measurement": "head_circumference", "measured_class": "liver"}
    predict(ORGANS, model, images, tmp_path / "px", options={"overlays": False}, **taken)
    predict(ORGANS, model, images, tmp_path / "mm", options={"spacing": 0.5}, **taken)
    assert not (tmp_path / "px" / "overlays").exists()
    pixels, lengths = table(tmp_path / "px"), table(tmp_path / "mm")
    seen = set()
    for name, row in pixels.items():
        mask = np.asarray(Image.open(tmp_path / "px" / row["mask"]))
        seen |= set(np.unique(mask).tolist())
        assert [int(row[f"pixels_{organ}"]) for organ in ORGANS.classes] == [
            (mask == number).sum() for number in (1, 2)
        ]
        length = lengths[name]["head_circumference_mm"]
        assert bool(length) == bool(row["head_circumference_px"])
        if length:
            half = float(row["head_circumference_px"]) / 2
            assert float(length) == pytest.approx(half, rel=1e-4)
    assert seen == {0, 1, 2}
    assert any(row["head_circumference_px"] for row in pixels.values())


def test_a_client_is_asked_for_where_parameters_are_personal(tmp_path, images):
    plain = trained(SINGLE)
    kernel = plain.params["head"]["kernel"]
    own = trained(
        SINGLE, personal={"head/kernel": np.stack([kernel, -kernel])}, clients=("turin", "lyon")
    )
    with pytest.raises(ConfigError, match=r"--client=: .*turin, lyon"):
        predict(SINGLE, own, images, tmp_path / "out")
    with pytest.raises(ConfigError, match="oslo"):
        predict(SINGLE, own, images, tmp_path / "out", options={"client": "oslo"})
    with pytest.raises(ConfigError, match="--client=turin"):
        predict(SINGLE, plain, images, tmp_path / "out", options={"client": "turin"})
    assert not (tmp_path / "out").exists()
    predict(SINGLE, own, images, tmp_path / "out", options={"client": "lyon"})
    predict(SINGLE, plain, images, tmp_path / "plain")
    lyon, server = table(tmp_path / "out")["a.png"], table(tmp_path / "plain")["a.png"]
    assert float(lyon["prob_benign"]) == pytest.approx(float(server["prob_malignant"]), abs=1e-6)


def test_requests_that_would_lose_or_mean_nothing_are_refused(tmp_path, images):
    model = trained(SINGLE)
    with pytest.raises(ConfigError, match="not an empty folder"):
        predict(SINGLE, model, images, images)
    with pytest.raises(ConfigError, match="lies within --images"):
        predict(SINGLE, model, images, images / "out")
    with pytest.raises(ConfigError, match="nothing is measured"):
        predict(SINGLE, model, images, tmp_path / "out", options={"spacing": 0.1})
    with pytest.raises(ConfigError, match="--spacing=nan"):
        predict(SINGLE, model, images, tmp_path / "out", options={"spacing": float("nan")})
    circumference = {"measurement": "head_circumference", "measured_class": "skull"}
    with pytest.raises(ConfigError, match="measured_class='skull'"):
        predict(LESION, trained(LESION), images, tmp_path / "out", **circumference)
    with pytest.raises(DataError, match="no such folder"):
        predict(SINGLE, model, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_no_image_at_all_is_listed(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_text("no")
    summary = predict(LESION, trained(LESION), folder, tmp_path / "out")
    assert (summary.predicted, summary.failed) == (0, 1)
    assert table(tmp_path / "out")["a.png"]["error"]
