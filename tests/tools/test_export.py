"""An export says what its run says, in every form, and nothing of who took part."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

from tests.prediction.folder.test_run import (
    LESION,
    SINGLE,
    config,
    images,  # noqa: F401
    objective,
    table,
    trained,
)
from tests.prediction.test_program import picture
from tests.report.test_evaluation_page import diagnosis, segmentation
from tools import export
from ufm_jax.config.finetuning import resolve_finetune
from ufm_jax.config.schema import flatten
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.evaluation.evaluation_json import Evaluation, write_results
from ufm_jax.files import write_json
from ufm_jax.interop.torch_names import flatten as arrays_of
from ufm_jax.models.sizes import SIZES
from ufm_jax.models.vit import Encoder
from ufm_jax.objectives.task import make_objective
from ufm_jax.objectives.views import patches_of
from ufm_jax.prediction import program
from ufm_jax.prediction.folder import run as folder_run
from ufm_jax.prediction.folder.run import Request, predict_folder
from ufm_jax.prediction.program import load_program
from ufm_jax.runs.folder import CONFIG_FILE
from ufm_jax.runs.portable import (
    CONFIG,
    WEIGHTS,
    check_built_in,
    load_portable,
    load_portable_config,
    save_portable,
)
from ufm_jax.runs.seen_images import SeenImages, write_seen_images
from ufm_jax.runs.trained_model import load_model, save_model

CLIENTS = {"St Mary": 31, "Charite": 1520}
FINDINGS = Task("multi", ('we"ird | cyst\n---', "<b>fluid"))
TASKS = {"diagnosis": SINGLE, "findings": FINDINGS, "outlines": LESION}


@pytest.fixture(autouse=True)
def _compile_once(monkeypatch):
    for module in (program, folder_run):
        monkeypatch.setattr(module, "make_objective", lambda _, task: objective(task))


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory):
    """A finished run of clients with names, of which nothing was trained."""
    task = TASKS[request.param]
    folder = tmp_path_factory.mktemp("Mary") / "run"
    folder.mkdir()
    settings = config(task, least_component=3)
    settings = replace(settings, data=replace(settings.data, root="/mnt/Mary"))
    write_json(folder / CONFIG_FILE, flatten(settings) | {"data.clients": list(CLIENTS)})
    clients = [{"client": name, "images": n, "groups": n - 1} for name, n in CLIENTS.items()]
    write_json(folder / "data.json", {"clients": clients})
    write_json(folder / "privacy.json", {"statement": "each client is protected with epsilon 3"})
    write_seen_images(folder, SeenImages("", frozenset()))
    save_model(folder, trained(task, thresholds={} if task is LESION else {"malignant": 0.4}))
    result = segmentation() if task is LESION else diagnosis(60, task.classes)
    write_results(folder, Evaluation("x", task, {"test": result}), {})
    return folder


@pytest.fixture(scope="module")
def exported(run):
    out = run.parent / "export"
    given = [
        f"--run={run}",
        f"--out={out}",
        "--license=CC BY: 4",
        "--data=Ours, CC0.",
        "--forms=weights",
    ]
    assert export.main([*given, "--forms=weights"]) == 0
    return out


def test_an_export_predicts_what_its_run_predicts(run, exported, images, tmp_path):  # noqa: F811
    model = load_model(run)
    configured = config(model.task, least_component=3)
    predict_folder(configured, model, Request(images, tmp_path / "run"))
    read = resolve_finetune(load_portable_config(exported))
    predict_folder(read, load_portable(exported), Request(images, tmp_path / "export"))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > (5 if model.task == LESION else 0)
    for file in files:
        twin = tmp_path / "export" / file.relative_to(tmp_path / "run")
        assert twin.read_bytes() == file.read_bytes(), file.name


def test_a_program_predicts_what_its_run_predicts(run, images, tmp_path):  # noqa: F811
    pytest.importorskip("flatbuffers", reason="pip install 'ufm-jax[export]'")
    for name in ("a.jpg", "sub/b.bmp", "sub/c d.webp"):  # JAX compiles for each size.
        (images / name).unlink()
    out, model = tmp_path / "export", load_model(run)
    export.main([f"--run={run}", f"--out={out}"])
    configured = config(model.task, least_component=3)
    predict_folder(configured, model, Request(images, tmp_path / "run"))
    made = load_program(out, "stablehlo")
    predict_folder(configured, model, Request(images, tmp_path / "program"), made)
    rows, expected = table(tmp_path / "program"), table(tmp_path / "run")
    assert rows.keys() == expected.keys() == {"a.png", "sub/deep.tif"}
    for name, row in rows.items():
        for column, value in row.items():
            if column.startswith("prob_"):
                assert float(value) == pytest.approx(float(expected[name][column]), abs=0.01)
            elif column.startswith("pixels_"):
                assert float(value) == pytest.approx(float(expected[name][column]), rel=0.02)


def test_an_export_names_nobody(exported):
    for file in exported.iterdir():
        content = file.read_bytes()
        assert not any(name.encode() in content for name in ("Mary", "Charite")), file


def test_the_card_says_what_the_run_says(run, exported):
    card = (exported / "README.md").read_text()
    head, title = card.split("\n---\n", 1)
    assert yaml.safe_load(head)["license"] == "CC BY: 4"
    assert [line for line in title.splitlines() if line.startswith(("-", "# "))] == ["# finetune"]
    for text in ("Ours, CC0.", "| 1 | 1,520 | 1,519 |", "| 2 | 31 | 30 |", "1,551 labelled images"):
        assert text in card
    assert "Each client is protected with epsilon 3." in card
    result = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    shown = "dice" if load_model(run).task == LESION else "auroc"
    assert f"| {result['overall'][shown]['value']:.3f} | " in card
    assert result["interval"] in card


def test_parameters_are_those_of_the_run_to_the_bit(run, exported):
    ours, theirs = (arrays_of(model.params) for model in (load_model(run), load_portable(exported)))
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(theirs[path], array)


def test_learned_positions_that_never_moved_stay(tmp_path):
    learned = replace(config(SINGLE), model=replace(config(SINGLE).model, learned_position=True))
    params = make_objective(learned, SINGLE).init(jax.random.key(0))
    save_portable(tmp_path, learned, replace(trained(SINGLE), params=params))
    assert arrays_of(load_portable(tmp_path).params).keys() == arrays_of(params).keys()


def test_what_is_built_into_a_program_cannot_be_changed(exported):
    read = resolve_finetune(load_portable_config(exported))
    check_built_in(exported, replace(read, data=replace(read.data, num_workers=3)))
    mirrored = replace(read, evaluation=replace(read.evaluation, mirror=True))
    with pytest.raises(ConfigError, match="mirror: built into the program"):
        check_built_in(exported, mirrored)


def test_a_changed_file_is_refused(exported, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in exported.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((copy / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (copy / WEIGHTS).write_bytes(weights)
    with pytest.raises(RunError, match=f"{WEIGHTS} is damaged"):
        load_portable(copy)


def test_folders_of_others_are_refused(run, exported, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no config\.json"):
        load_portable(tmp_path)
    with pytest.raises(ConfigError, match=r"its config\.json is not of tools"):
        load_portable(run)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        export.main([f"--run={run}", f"--out={exported}"])
    with pytest.raises(ConfigError, match="'pickle'"):
        export.main([f"--run={run}", f"--out={tmp_path / 'x'}", "--forms=pickle"])
    content = json.loads((exported / CONFIG).read_text())
    content["ufm_jax"]["settings"]["config.model.newer"] = 1
    write_json(tmp_path / CONFIG, content)
    with pytest.raises(RunError, match="the unknown key"):
        load_portable_config(tmp_path)


def test_onnx_predicts_what_the_model_predicts(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="see docs/weights.md")
    pytest.importorskip("jax2onnx", reason="see docs/weights.md")
    out, model = tmp_path / "export", load_model(run)
    export.main([f"--run={run}", f"--out={out}", "--forms=weights,stablehlo,onnx"])
    session = runtime.InferenceSession(out / "model.onnx")
    for size in ((40, 60), (97, 20)):
        pictures = np.stack([np.repeat(picture(seed, *size, 1), 3, axis=2) for seed in (0, 1)])
        (found,) = session.run(None, {"pictures": pictures})
        expected = load_program(out, "stablehlo")(pictures)
        assert found.shape == expected.shape == ((2, *size) if model.task == LESION else (2, 2))
        if model.task == LESION:
            assert (found != expected).mean() < 0.01
        else:
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_timm_opens_the_folder(run, exported):
    timm = pytest.importorskip("timm", reason="see docs/weights.md")
    torch = pytest.importorskip("torch")
    network = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    configured, model = resolve_finetune(load_portable_config(exported)), load_portable(exported)
    side = configured.model.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (2, side, side, 1), np.uint8)
    mean, std = (np.float32(network.pretrained_cfg[name]) for name in ("mean", "std"))
    prepared = ((pictures / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        found = network(torch.tensor(prepared))
    if model.task == LESION:
        encoder = Encoder(SIZES["xs"], configured.model.grid, final_norm=False)
        patches = patches_of(pictures, configured.model)
        expected = encoder.apply({"params": model.params["encoder"]}, patches)
    else:
        found = found.sigmoid() if model.task == FINDINGS else found.softmax(-1)
        batch = {"image": pictures, "extent": np.full((2, 2), side, np.int32)}
        expected = objective(model.task).predict(model.params, batch)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
