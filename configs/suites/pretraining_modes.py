"""Federated pretraining against its controls: all images in one place, each alone, none at all.

    python -m tools.run_suite --suite=configs/suites/pretraining_modes.py --out=runs/pretraining \
        --data=FOLDER

Three ways to federate: 'steps', in each round a gradient of four clients, drawn by their sizes, by
which the server descends; 'short rounds', a tenth of an epoch of AdamW whose moments are averaged;
'epochs', a round an epoch, and moments that stay with each client. 'centralised' is one client that
holds all images; in 'local' each of the sixteen trains alone; 'random' takes a single step of no
length. All but 'random' see each image 20 times; all are judged on the same that are held out, the
models of 'local' each on its own client's. Each encoder is then probed and fine-tuned for three
diagnoses, on patients that no pretraining saw; that of 'local' is the first client's of the set.
FOLDER is as in configs/finetune_public.py.

126 runs (3 seeds) of a small encoder at 64 pixels. --only=held-out takes the pretraining alone, an
hour and a half on 2 cores; --only=probe the probes, 10 minutes; fine-tuning takes 2 hours.
"""

from typing import Any

from tools.suites.plan import Contrast, Figure, Label, Run, Suite, grid, name_of

_SMALL = {
    "model.size": "xs",
    "model.image_size": 64,
    "model.patch_size": 8,
    "data.root": "{data}",
    "data.working_size": 80,
}
_PASSES = 20
_IMAGES = 6036
"""Images that are trained on: those of held_out less those that judge."""

_EPOCHS_A_ROUND = {
    "federation.rounds": _PASSES,
    "schedule.warmup_rounds": _PASSES // 10,
    "client_optimizer.learning_rate": 2e-3,
}
_TENTHS_A_ROUND = {
    **_EPOCHS_A_ROUND,
    "federation.rounds": _PASSES * 10,
    "schedule.warmup_rounds": _PASSES,
    "federation.local_epochs": 0.1,
    "federation.batch_size": 8,
    "federation.client_state": "average",
    "checkpoint.every_rounds": 50,
}
_STEPS = _PASSES * _IMAGES // (4 * 8)
_A_STEP_A_ROUND = {
    "federation.rounds": _STEPS,
    "schedule.warmup_rounds": _STEPS // 10,
    "federation.batch_size": 8,
    "checkpoint.every_rounds": 500,
}
_MUON = {"client_optimizer.name": "muon"}
_MODES: dict[Label, dict[str, Any]] = {
    "steps": _A_STEP_A_ROUND,
    "short rounds": _TENTHS_A_ROUND,
    "epochs": _EPOCHS_A_ROUND,
    "centralised": _EPOCHS_A_ROUND | _MUON | {"federation.training": "centralised"},
    "local": _EPOCHS_A_ROUND | _MUON | {"federation.training": "local", "federation.batch_size": 8},
    "random": {
        "federation.rounds": 1,
        "schedule.warmup_rounds": 0,
        "client_optimizer.learning_rate": 1e-12,
    },
}
_FIRST_CLIENT = {"busi_diagnosis": 0, "gb_diagnosis": 4, "pocus_diagnosis": 11}
"""Task -> the number of the first client of its set, whose encoder 'local' takes."""

_EPOCHS = {"busi_diagnosis": 20, "gb_diagnosis": 5, "pocus_diagnosis": 20}
_JUDGED = "held-out loss"


def get_suite(argument: str) -> Suite:
    if argument:
        raise ValueError("this suite takes no argument")
    modes, seeds = tuple(_MODES), (0, 1, 2)
    tried = grid(task=tuple(_FIRST_CLIENT), method=("probe", "finetune"), encoder=modes, seed=seeds)
    judged = grid(task=(_JUDGED,), method=("pretraining",), encoder=modes, seed=seeds)
    others = [mode for mode in modes if mode != "steps"]
    return Suite(
        runs=[*map(_pretraining, judged), *map(_trial, tried)],
        figures=(
            Figure("Held-out loss", "last_round.held_out_loss", better="lower"),
            Figure("AUROC", "splits.test.overall.auroc"),
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
        ),
        contrasts=[Contrast("encoder", "steps", other) for other in others],
        section="task",
    )


def _pretraining(point: dict[str, Label]) -> Run:
    overrides: dict[str, Any] = {
        **_SMALL,
        "seed": point["seed"],
        "model.decoder_width": 96,
        "model.decoder_depth": 2,
        "model.decoder_heads": 3,
    }
    overrides |= _MODES[point["encoder"]]
    recipe = "" if point["encoder"] == "steps" else ",epochs"
    config = f"configs/pretrain_sites.py:held_out{recipe}"
    return Run(_name(point), config, overrides, point, "pretrain")


def _trial(point: dict[str, Label]) -> Run:
    task, encoder = str(point["task"]), point["encoder"]
    pretrained = _name({"encoder": encoder, "seed": point["seed"]})
    weights = f"{{run:{pretrained}}}"
    if encoder == "local":
        weights += f"/client_models/{_FIRST_CLIENT[task]}"
    overrides: dict[str, Any] = {**_SMALL, "seed": point["seed"], "start.weights": weights}
    if point["method"] == "probe":
        overrides["method"] = "linear_probe"
    else:
        overrides |= {"federation.rounds": _EPOCHS[task], "evaluation.select": "last"}
    return Run(name_of(point), f"configs/finetune_public.py:{task}", overrides, point)


def _name(point: dict[str, Label]) -> str:
    """The name of a run of pretraining."""
    return f"held-out-{point['encoder']}-{point['seed']}".replace(" ", "-")
