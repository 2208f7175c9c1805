"""The model card of an export: what the model is, saw and reaches, and what it is not for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.exports.onnx_program import OPSET
from ufm_jax.config.finetuning import FinetuneConfig
from ufm_jax.evaluation.results import Estimate
from ufm_jax.files import read_json
from ufm_jax.interop.shipped import SHA256
from ufm_jax.prediction.program import PROGRAMS
from ufm_jax.report.evaluation_page import HEADLINES, interval_of, main_split, title_of, value_of
from ufm_jax.runs.folder import CONFIG_FILE, EVALUATION_FILE
from ufm_jax.runs.stored import typed
from ufm_jax.runs.trained_model import TrainedModel

_REMEDY = "evaluate or fine-tune the run again"
_NO_USE = (
    "Research. It is no medical device and diagnoses nothing by itself; whether it helps on other "
    "images, other scanners and other patients, a test on them must say."
)
_CALLS = {
    "stablehlo": """\
As a program, by jax and flatbuffers, for uint8 [pictures, height, width, 3] of any size:

    import jax.export
    exported = jax.export.deserialize(bytearray(open("program.stablehlo", "rb").read()))
    exported.call(pictures)
""",
    "onnx": f"""\
As ONNX (opset {OPSET}), with ONNX Runtime alone, for the same pictures:

    onnxruntime.InferenceSession("model.onnx").run(None, {{"pictures": pictures}})
""",
}


class Sayings(NamedTuple):
    """What only the one who exports can say.

    Attributes:
        license: Of the model, as the Hugging Face hub writes it.
        data: Where the images come from and under which licences; '' = not said.
        use: What the model is meant for; '' = research alone.
    """

    license: str
    data: str
    use: str


def model_card(
    run: Path, config: FinetuneConfig, model: TrainedModel, forms: Sequence[str], sayings: Sayings
) -> str:
    """The card in Markdown, with the header that the hub reads. It names no client.

    Raises:
        RunError: If a file of the run is damaged.
    """
    segments = model.task.kind == "segment"
    tag = "image-segmentation" if segments else "image-classification"
    head = (
        f"---\nlicense: {json.dumps(sayings.license)}\nlibrary_name: timm\npipeline_tag: {tag}\n"
        "tags: [ultrasound, federated-learning, ufm-jax]\n---\n"
    )
    sections = {
        "How to use it": _use(segments, forms),
        "What it was trained on": _data(run, sayings.data),
        "How": _training(run, config, model),
        "Privacy": _privacy(run),
        "Figures": _figures(run, bool(config.federation.personal_paths)),
        "What it is for, and not for": sayings.use or _NO_USE,
    }
    parts = [head, f"# {config.name}", _summary(config, model)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _summary(config: FinetuneConfig, model: TrainedModel) -> str:
    network = config.model
    does = "outlines" if model.task.kind == "segment" else "tells apart"
    classes = ", ".join(map(_code, model.task.classes))
    return (
        f"A ViT-{network.size.capitalize()}/{network.patch_size} for ultrasound that {does} "
        f"{classes}. It sees pictures of {network.image_size} x {network.image_size} pixels with "
        f"{'one channel' if network.channels == 1 else 'three channels'}, made with ufm_jax."
    )


def _use(segments: bool, forms: Sequence[str]) -> str:
    known = "the encoder" if segments else "the model, without preparing pictures"
    lines = [
        "On a folder of images, DICOM files or clips, with all that ufm_jax does for them:\n\n"
        "    python -m ufm_jax.predict --model=. --images=FOLDER --out=OUT\n",
        *(_CALLS[form] for form in forms if form in PROGRAMS),
        f"In timm ({known}; pixels in 0..1, then by the mean and deviation of config.json):\n\n"
        '    timm.create_model("local-dir:.", pretrained=True)\n',
    ]
    result = (
        "The result of a program is a mask, uint8 [pictures, height, width]: 0 for background, "
        "then the classes in their order."
        if segments
        else "The result of a program is float32 [pictures, classes], probabilities."
    )
    return "\n".join([*lines, result if set(forms) & PROGRAMS.keys() else ""])


def _data(run: Path, said: str) -> str:
    clients = read_json(run / "data.json", _REMEDY, dict)["clients"]
    ranked = sorted(clients, key=lambda client: -client["images"])
    rows = [
        (str(number), f"{client['images']:,}", f"{client['groups']:,}")
        for number, client in enumerate(ranked, start=1)
    ]
    total = sum(client["images"] for client in clients)
    licences = (
        said or "Where the images come from, and their licences, were not said at the export."
    )
    note = f"{total:,} labelled images for training, by client, the largest first."
    return "\n\n".join([licences, note, _table(("client", "images", "groups"), rows)])


def _training(run: Path, config: FinetuneConfig, model: TrainedModel) -> str:
    stored = read_json(run / CONFIG_FILE, _REMEDY, dict)
    start = config.start.weights
    if start and start not in SHA256:
        start = f"weights of digest {stored.get('config.start.weights (content)', 'unknown')}"
    facts = {
        "training": config.federation.training,
        "method": config.method.replace("_", " "),
        "started from": start or "random weights",
        "labels used": f"{100 * config.label_fraction:g} %",
        "seed": str(config.seed),
    }
    if model.round:
        facts["rounds"] = f"{model.round} of {config.federation.rounds}"
    if config.federation.personal_paths:
        facts["one client's own"] = ", ".join(map(_code, config.federation.personal_paths))
    if config.federation.training == "federated":
        facts["algorithm"] = config.federation.algorithm.name
    return _table(("", ""), list(facts.items()))


def _privacy(run: Path) -> str:
    path = run / "privacy.json"
    if not path.exists():
        return "Nothing was added to protect single images or clients; no epsilon is claimed."
    statement = str(read_json(path, _REMEDY, dict).get("statement", ""))
    return f"{statement[:1].upper()}{statement[1:]}." if statement else ""


def _figures(run: Path, personal: bool) -> str:
    evaluation = read_json(run / EVALUATION_FILE, _REMEDY, dict)
    split = main_split(evaluation["splits"])
    result = evaluation["splits"][split]
    figures = {name: result["overall"][name] for name in HEADLINES if name in result["overall"]}
    measured = evaluation["measurement"].get(split, {}).get("result")
    if measured:
        unit = measured["unit"]
        figures |= {f"mean error, {unit}": measured["metrics"]["mae"]}
    rows = [
        (title_of(name), value_of(found), interval_of(found))
        for name, found in ((n, _estimate(f)) for n, f in figures.items())
    ]
    images = f"{result['num_rows']:,} images of {result['num_groups']:,} groups"
    intervals = f"; {result['interval']}" if result.get("interval") else ""
    note = f"Of the split `{split}`, {images} that it was not trained on{intervals}."
    if personal:
        note += " Each client's images were predicted by its own model, of which this is one."
    return f"{note}\n\n{_table(('figure', 'value', 'interval'), rows)}"


def _code(text: str) -> str:
    """A name in one line, as it is."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _estimate(stored: Mapping[str, Any]) -> Estimate:
    """A figure as JSON has it, where null stands for nan."""
    known = {key: float("nan") if value is None else value for key, value in stored.items()}
    return typed(Estimate, known)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
