"""Federated pretraining against its controls: all images in one place, each alone, none at all.

    python -m tools.run_suite --suite=configs/suites/pretraining_modes.py --out=runs/pretraining \
        --data=FOLDER

'federated' is configs/pretrain_sites.py:held_out made small; 'centralised' is one client that holds
all images; in 'local' each of the sixteen trains alone; 'random' takes a single step of no length.
All but 'random' see each image as often; all are judged on the same that are held out, the
models of 'local' each on its own client's. Each encoder is then probed and fine-tuned for three
diagnoses, on patients that no pretraining saw; that of 'local' is the first client's of the set.
FOLDER is as in configs/finetune_public.py.

84 runs (3 seeds) of a small encoder at 64 pixels; expect 3 hours on 2 cores. --only=held-out takes
the pretraining alone, an hour.
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
_MODES: dict[Label, dict[str, Any]] = {
    "federated": {},
    "centralised": {"federation.training": "centralised"},
    "local": {"federation.training": "local"},
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
    others = [mode for mode in modes if mode != "federated"]
    return Suite(
        runs=[*map(_pretraining, judged), *map(_trial, tried)],
        figures=(
            Figure("Held-out loss", "last_round.held_out_loss", better="lower"),
            Figure("AUROC", "splits.test.overall.auroc"),
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
        ),
        contrasts=[Contrast("encoder", "federated", other) for other in others],
        section="task",
    )


def _pretraining(point: dict[str, Label]) -> Run:
    overrides: dict[str, Any] = {
        **_SMALL,
        "seed": point["seed"],
        "model.decoder_width": 96,
        "model.decoder_depth": 2,
        "model.decoder_heads": 3,
        "federation.rounds": 40,
        "client_optimizer.learning_rate": 2e-3,
    }
    overrides |= _MODES[point["encoder"]]
    return Run(_name(point), "configs/pretrain_sites.py:held_out", overrides, point, "pretrain")


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
    return f"held-out-{point['encoder']}-{point['seed']}"
