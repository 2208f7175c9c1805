"""Three diagnoses over all five folds: what a run of pretraining is worth, with less chance in it.

    python -m tools.run_suite --suite=configs/suites/folds.py:RUN --out=runs/folds --data=FOLDER

Every image is tested once, in the fold that holds its group, by a model trained on all other folds:
nothing is chosen on a fold of its own. Probes choose their strength by cross-validation in the
training folds, fine-tuning ends after a number of epochs set before. The mean over folds is the
figure that floors of other methods are given as. Where RUN left out the test images of one fold
only (see data.exclude), its encoder has seen those of the others, never their labels; a run that
left out none has seen all. RUN and FOLDER are as in configs/suites/downstream.py.

60 runs; the 30 probes (--only=probe) take 10 minutes on 2 cores, fine-tuning over 2 hours.
"""

from typing import Any

from tools.suites.plan import Contrast, Figure, Label, Run, Suite, grid, name_of

_EPOCHS = {"busi_diagnosis": 20, "pocus_diagnosis": 20, "gb_diagnosis": 5}


def get_suite(argument: str) -> Suite:
    if not argument:
        raise ValueError("name a run of pretraining: --suite=configs/suites/folds.py:RUN")
    points = grid(
        task=tuple(_EPOCHS),
        method=("probe", "finetune"),
        encoder=("pretrained", "random"),
        fold=(0, 1, 2, 3, 4),
    )
    return Suite(
        runs=[_run(point, argument) for point in points],
        figures=(
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
            Figure("AUROC", "splits.test.overall.auroc"),
        ),
        contrasts=(Contrast("encoder", "pretrained", "random"),),
        over="fold",
        section="task",
    )


def _run(point: dict[str, Label], pretrained: str) -> Run:
    overrides: dict[str, Any] = {
        "data.root": "{data}",
        "data.split.policy": "fold",
        "data.split.test_fold": point["fold"],
        "data.split.val_fraction": 0.0,
        "data.split.required": ("train", "test"),
        "seed": point["fold"],
    }
    if point["encoder"] == "pretrained":
        overrides["start.weights"] = pretrained
    else:
        overrides["layer_decay"] = 1.0  # Nothing in the lower blocks is to be protected.
    if point["method"] == "probe":
        overrides["method"] = "linear_probe"
    else:
        overrides["evaluation.select"] = "last"
        overrides["federation.rounds"] = _EPOCHS[str(point["task"])]
    return Run(name_of(point), f"configs/finetune_public.py:{point['task']}", overrides, point)
