"""Whole runs on small real files: training, choosing, saving, evaluating, going on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ufm_jax.config.federation import AlgorithmConfig
from ufm_jax.config.finetuning import (
    EvaluationConfig,
    FinetuneConfig,
    FinetuneFederationConfig,
    NetworkConfig,
    StartConfig,
    TrainingViewConfig,
)
from ufm_jax.config.training import (
    CheckpointConfig,
    OptimizerConfig,
    PlacementConfig,
    ScheduleConfig,
)
from ufm_jax.data.labels.settings import LabelSettings, SplitSettings
from ufm_jax.errors import ConfigError
from ufm_jax.evaluation.evaluation_json import CompareWith
from ufm_jax.evaluation.predictions_csv import read_table
from ufm_jax.finetuning import training as finetuning
from ufm_jax.finetuning.run import Request, evaluate, finetune
from ufm_jax.ops.joint import Moves
from ufm_jax.runs.checkpoint import load_params
from ufm_jax.runs.history import read_history
from ufm_jax.runs.seen_images import rows_to_evaluate, seen_images
from ufm_jax.runs.trained_model import check_trained, load_model
from ufm_jax.train.judge import Judge


def write_images(folder: Path, seed: int = 0) -> Path:
    """48 pictures of two classes, a dark blob (cyst) or a bright one (mass), and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    for number in range(48):
        label = ("cyst", "mass")[number % 2]
        centre = rng.integers(9, 23, 2)
        blob = np.hypot(rows - centre[0], columns - centre[1]) < 7
        pixels = np.where(blob, 10 if label == "cyst" else 210, 90) + rng.normal(0, 10, blob.shape)
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        for kind, picture in ((label, pixels), ("image", pixels), ("mask", 255 * blob)):
            path = folder / ("outlines" if kind in ("image", "mask") else "classes") / kind
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path / f"p{number // 2}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def settings(images: Path, cache: Path, kind: str = "single", **changes) -> FinetuneConfig:
    folder = "outlines" if kind == "segment" else "classes"
    data = LabelSettings(
        source="folders",
        root=str(images / folder),
        working_size=32,
        cache_dir=str(cache),
        split=SplitSettings(policy="fractions", val_fraction=0.2, test_fraction=0.3),
        kind=kind,
        group_pattern=r"p(\d+)_",
    )
    return FinetuneConfig(
        **{
            "data": data,
            "layer_decay": 1.0,
            "model": NetworkConfig(
                size="xs", image_size=32, patch_size=8, channels=1, decoder_width=16, drop_path=0.0
            ),
            "augment": TrainingViewConfig(moves=Moves(area=(0.9, 1.0)), erase=0.0),
            "federation": FinetuneFederationConfig(rounds=10, batch_size=4),
            "client_optimizer": OptimizerConfig(learning_rate=2e-3, scale_by_batch=False),
            "schedule": ScheduleConfig(warmup_rounds=1),
            "evaluation": EvaluationConfig(replicates=50, batch_size=16),
            "placement": PlacementConfig(devices=1),
            "checkpoint": CheckpointConfig(every_rounds=2),
            **changes,
        }
    )


def overall_of(workdir: Path, split: str = "test") -> dict:
    return json.loads((workdir / "evaluation.json").read_text())["splits"][split]["overall"]


@pytest.fixture(scope="module")
def diagnosed(images, tmp_path_factory) -> tuple[FinetuneConfig, Path]:
    """A finished run of diagnosis."""
    workdir = tmp_path_factory.mktemp("run")
    config = settings(images, tmp_path_factory.mktemp("cache"))
    ended = finetune(config, workdir)
    assert ended.stopped_by == 0
    return config, workdir


def test_a_class_is_learnt_from_folders(diagnosed):
    _, workdir = diagnosed
    assert overall_of(workdir)["auroc"]["value"] > 0.9
    model = load_model(workdir)
    assert model.task.classes == ("cyst", "mass")
    best = max(read_history(workdir), key=lambda record: record.validation_score)
    assert model.round == best.round + 1, "the first of the best rounds on the validation split"
    assert set(model.thresholds) == {"mass"}


def test_a_head_that_starts_as_the_probe_begins_where_the_probe_ends(images, tmp_path):
    cache = tmp_path / "cache"
    finetune(settings(images, cache, method="linear_probe"), tmp_path / "probe")
    unmoved = OptimizerConfig(learning_rate=1e-12, weight_decay=0.0)
    started = settings(
        images,
        cache,
        start=StartConfig(head="probe"),
        federation=FinetuneFederationConfig(rounds=1, batch_size=4),
        client_optimizer=unmoved,
    )
    finetune(started, tmp_path / "run")
    tables = [read_table(tmp_path / name / "predictions_test.csv") for name in ("probe", "run")]
    np.testing.assert_allclose(
        tables[1].probabilities, tables[0].probabilities, atol=1e-5, rtol=1e-4
    )
    assert tables[0].probabilities.std(0).max() > 0.1


def test_evaluating_again_gives_the_same_figures(diagnosed, tmp_path):
    config, workdir = diagnosed
    evaluate(config, Request(workdir, tmp_path / "again", ("test",), CompareWith(run=workdir)))
    ours, again = (
        read_table(folder / "predictions_test.csv") for folder in (workdir, tmp_path / "again")
    )
    np.testing.assert_array_equal(ours.probabilities, again.probabilities)
    np.testing.assert_array_equal(ours.called, again.called)
    comparison = json.loads((tmp_path / "again/evaluation.json").read_text())["comparison"]
    assert comparison["figures"]["auroc"]["difference"]["value"] == 0
    with pytest.raises(ConfigError, match="is the folder of a run"):
        evaluate(config, Request(workdir, workdir, ("test",), CompareWith()))


def elsewhere(config: FinetuneConfig, **changes) -> FinetuneConfig:
    """The configuration with other keys of the images' section."""
    return replace(config, data=replace(config.data, **changes))


@pytest.mark.parametrize("where", ["own", "redrawn", "copied"])
def test_no_image_that_the_model_has_seen_tests_it(diagnosed, tmp_path, where):
    """Whatever the fingerprint of the data says, and under whatever name they lie."""
    config, workdir = diagnosed
    tested = set(read_table(workdir / "predictions_test.csv").names)
    request = Request(workdir, tmp_path / "out", ("all",), CompareWith())
    if where == "redrawn":
        split = replace(config.data.split, seed=1)
        config = replace(config, data=replace(config.data, split=split))
        request = request._replace(splits=("test",))
    if where == "copied":
        copied = shutil.copytree(config.data.root, tmp_path / "copied")
        config = elsewhere(config, root=str(copied))
    split = request.splits[0]
    with pytest.raises(ConfigError, match=rf"{split}: \d+ of \d+ images were trained on or chosen"):
        evaluate(elsewhere(config, duplicates="error"), request)
    evaluate(config, request)
    found = set(read_table(request.out / f"predictions_{split}.csv").names)
    note = json.loads((request.out / "evaluation.json").read_text())["note"]
    if where == "redrawn":
        assert 0 < len(found) < len(tested)
        assert found < tested
    else:
        assert found == tested
        assert f"all: {48 - len(tested)} of 48 images were trained on or chosen by" in note
    assert "these are left out" in note


def test_what_is_no_test_may_be_asked_for_by_name_alone(diagnosed, tmp_path):
    config, workdir = diagnosed
    evaluate(config, Request(workdir, tmp_path / "out", ("train", "val"), CompareWith()))
    note = json.loads((tmp_path / "out/evaluation.json").read_text())["note"]
    for split in ("train", "val"):
        count = len(read_table(tmp_path / f"out/predictions_{split}.csv").names)
        assert f"{split}: {count} of {count} images were trained on or chosen by, so that" in note
    for key, value in (("working_size", 24), ("channels", 3)):
        other = elsewhere(config, **{key: value})
        with pytest.raises(ConfigError, match=rf"{key}={value}: the run read its images with"):
            evaluate(other, Request(workdir, tmp_path / "other", ("all",), CompareWith()))
    with pytest.raises(ConfigError, match="name 'all' alone"):
        evaluate(config, Request(workdir, tmp_path / "out", ("test", "all"), CompareWith()))


def test_a_copy_of_a_training_image_under_another_patient_tests_nothing(diagnosed):
    """Pixels that training and test share leave the test, before anything is trained."""
    config, _ = diagnosed
    data = finetuning.load_task(config)
    seen = seen_images(data, data.rows("train"))
    rows = {"test": np.append(data.rows("test"), data.rows("train")[:2])}
    kept, note = rows_to_evaluate(seen, data, rows, "keep")
    np.testing.assert_array_equal(kept["test"], data.rows("test"))
    assert f"2 of {len(rows['test'])} images were trained on" in note
    coloured = elsewhere(config, channels=3)
    in_three, _ = rows_to_evaluate(seen, finetuning.load_task(coloured), rows, "keep")
    np.testing.assert_array_equal(in_three["test"], kept["test"])
    for policy, asked in (("error", rows["test"]), ("keep", data.rows("train"))):
        with pytest.raises(ConfigError, match="name other images"):
            rows_to_evaluate(seen, data, {"test": asked}, policy)


def test_a_threshold_of_one_half_is_asked_for_after_training_too(diagnosed, tmp_path):
    config, workdir = diagnosed
    request = Request(workdir, tmp_path, ("test",), CompareWith())
    half = replace(config.evaluation, threshold="half")
    evaluate(replace(config, evaluation=half), request)
    found = read_table(tmp_path / "predictions_test.csv")
    np.testing.assert_array_equal(found.called[:, 1], found.probabilities[:, 1] >= 0.5)
    other = replace(config.evaluation, positive="cyst")
    with pytest.raises(ConfigError, match="chose a threshold for mass"):
        evaluate(replace(config, evaluation=other), request)


def test_classes_of_other_images_are_those_of_the_model(diagnosed, tmp_path):
    """A folder whose second class is missing would number its classes otherwise."""
    config, workdir = diagnosed
    shutil.copytree(Path(config.data.root) / "mass", tmp_path / "other/mass")
    for path in (tmp_path / "other/mass").iterdir():  # Other images: these ones are mirrored.
        Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path)
    other = elsewhere(config, root=str(tmp_path / "other"))
    evaluate(other, Request(workdir, tmp_path / "out", ("all",), CompareWith()))
    found = read_table(tmp_path / "out/predictions_all.csv")
    assert (found.labels == 1).all()
    assert found.called[:, 1].mean() > 0.7
    overall = overall_of(tmp_path / "out", "all")
    assert overall["auroc"]["value"] is None
    assert overall["sensitivity"]["value"] > 0.7


def test_a_killed_run_goes_on_bit_for_bit(diagnosed, tmp_path, monkeypatch):
    config, workdir = diagnosed

    class Killed(BaseException):
        pass

    whole = Judge.__call__

    def dies(self, done, *others):
        if done == 4:
            raise Killed
        return whole(self, done, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", dies)
        with pytest.raises(Killed):
            finetune(config, tmp_path)
    with pytest.raises(ConfigError, match="has not finished"):
        load_model(tmp_path)
    finetune(config, tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_params(tmp_path / "model"),
        load_params(workdir / "model"),
    )
    for name in ("predictions_test.csv", "evaluation.json"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


def test_test_images_have_no_part_in_training(diagnosed, images, tmp_path):
    """Other pixels in the test split's files, and the model is the same to the bit."""
    config, workdir = diagnosed
    shutil.copytree(images, tmp_path / "images")
    root = tmp_path / "images/classes"
    for name in read_table(workdir / "predictions_test.csv").names:
        Image.fromarray(np.full((32, 32), 7, np.uint8)).save(root / name)
    finetune(elsewhere(config, root=str(root)), tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        load_params(tmp_path / "run/model"),
        load_params(workdir / "model"),
    )


def test_outlines_are_learnt_with_a_frozen_encoder(images, tmp_path):
    config = settings(
        images,
        tmp_path / "cache",
        "segment",
        method="frozen",
        federation=FinetuneFederationConfig(rounds=20, batch_size=4),
        client_optimizer=OptimizerConfig(learning_rate=1e-2, scale_by_batch=False),
    )
    # The server's decay is no business of the encoder either.
    decaying = replace(config.server_optimizer, weight_decay=1e-3)
    config = replace(config, server_optimizer=decaying)
    config = replace(config, model=replace(config.model, decoder="light"))
    before = finetuning.make_objective(config, finetuning.load_task(config).task).init(
        finetuning.fold(jax.random.key(config.seed), "init")
    )
    finetune(config, tmp_path / "run")
    after = load_params(tmp_path / "run/model")
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    assert overall_of(tmp_path / "run")["dice"]["value"] > 0.6


@pytest.mark.parametrize(
    "training",
    [
        pytest.param("local", marks=pytest.mark.slow),
        pytest.param("ditto", marks=pytest.mark.slow),
        "personal",
    ],
)
def test_what_is_personal_stays_with_its_client(images, tmp_path, training):
    personal = ("head/.*",) if training == "personal" else ()
    federation = FinetuneFederationConfig(
        rounds=2,
        batch_size=8,
        training="local" if training == "local" else "federated",
        personal=personal,
        algorithm=AlgorithmConfig("ditto" if training == "ditto" else "fedavg"),
    )
    config = settings(
        images, tmp_path / "cache", federation=federation, placement=PlacementConfig(lanes=2)
    )
    config = elsewhere(config, partition="iid", num_clients=2)
    finetune(config, tmp_path / "run")
    model = load_model(tmp_path / "run")
    first, second = (model.params_of(client) for client in model.clients)
    differs = lambda a, b: bool((np.asarray(a) != np.asarray(b)).any())  # noqa: E731
    heads = jax.tree.map(differs, first["head"], second["head"])
    assert all(jax.tree.leaves(heads))
    encoders = jax.tree.leaves(jax.tree.map(differs, first["encoder"], second["encoder"]))
    assert any(encoders) == (training != "personal")
    with pytest.raises(ConfigError, match="name one of them"):
        model.params_of("nobody")
    others = elsewhere(config, root=str(write_images(tmp_path / "others", seed=1) / "classes"))
    request = Request(tmp_path / "run", tmp_path / "out", ("all",), CompareWith())
    with pytest.raises(ConfigError, match=r"--client=: .* name one of client_0, client_1"):
        evaluate(others, request)
    evaluate(others, request._replace(client="client_1"))


def test_clients_that_train_nothing_get_the_mean_of_the_others_own_parameters(images, tmp_path):
    """Of one client all images are tested on, and one of the other three is never asked."""
    lines = ["image,label,site,split"]
    for number, path in enumerate(sorted((images / "classes").rglob("*.png"))):
        site = ("east", "west", "south", "north", "south", "west", "north", "east")[number % 8]
        split = "test" if site == "west" else ("train", "val")[number % 8 == 7]
        lines.append(f"{path.relative_to(images)},{path.parent.name},{site},{split}")
    (images / "index.csv").write_text("\n".join(lines) + "\n")
    personal = FinetuneFederationConfig(
        rounds=1, batch_size=8, training="federated", personal=("head/.*",), cohort_size=2
    )
    schedule = ScheduleConfig(warmup_rounds=0)  # A rate that begins at zero trains no one step.
    config = settings(images, tmp_path / "cache", federation=personal, schedule=schedule)
    source = {"source": "index", "root": str(images), "index": ("index.csv",)}
    config = elsewhere(config, **source, client_columns=("site",))
    config = replace(config, data=replace(config.data, split=SplitSettings()))
    local = replace(personal, training="local", personal=())
    with pytest.raises(ConfigError, match=r"west: has images .* none to train on"):
        finetune(replace(config, federation=local), tmp_path / "run")
    assert not (tmp_path / "run").exists()

    finetune(config, tmp_path / "run")
    model = load_model(tmp_path / "run")
    heads = {client: model.params_of(client)["head"]["kernel"] for client in model.clients}
    asked = [client for client in heads if (heads[client] != heads["west"]).any()]
    assert len(heads) == 4
    assert len(asked) == 2
    mean = np.mean([heads[client] for client in asked], axis=0)
    np.testing.assert_allclose(heads["west"], mean, rtol=1e-6)
    assert read_table(tmp_path / "run/predictions_test.csv").clients == ("west",) * 12


@pytest.mark.parametrize("method", ["linear_probe", "knn_probe"])
def test_probes_are_runs_too(images, tmp_path, method):
    config = settings(images, tmp_path / "cache", method=method)
    finetune(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"another configuration \(config\.seed: 0 there, 1 here"):
        finetune(replace(config, seed=1), tmp_path / "run")
    assert overall_of(tmp_path / "run")["auroc"]["value"] > 0.8
    if method == "knn_probe":
        with pytest.raises(ConfigError, match="a run without a model"):
            load_model(tmp_path / "run")
    else:
        evaluate(config, Request(tmp_path / "run", tmp_path / "again", ("test",), CompareWith()))
        pair = [read_table(tmp_path / n / "predictions_test.csv") for n in ("run", "again")]
        np.testing.assert_array_equal(pair[0].probabilities, pair[1].probabilities)


def test_a_head_that_never_moved_is_refused():
    before = {"encoder": {"w": np.ones(2)}, "head": {"w": np.ones(2), "b": np.zeros(1)}}
    after = {"encoder": {"w": np.zeros(2)}, "head": {"w": np.ones(2), "b": np.zeros(1)}}
    new = ("encoder/w", "head/b", "head/w")
    with pytest.raises(ConfigError, match=r"changed none of head/b, head/w: .* is not saved"):
        check_trained(before, after, new)
    after["head"]["b"] = np.ones(1)
    check_trained(before, after, new)


def test_weights_without_a_trained_head_are_refused(tmp_path):
    for folder, remedy in (("nowhere", "no such folder"), ("weights", "have no trained head")):
        if folder == "weights":
            (tmp_path / folder / "model").mkdir(parents=True)
        with pytest.raises(ConfigError, match=remedy):
            load_model(tmp_path / folder)
    (tmp_path / "config.json").write_text('{"config.model.mask_ratio": 0.75}')
    with pytest.raises(ConfigError, match="a run of pretraining, whose model has no head"):
        load_model(tmp_path)
