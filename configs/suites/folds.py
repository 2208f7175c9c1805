"""Three diagnoses over all five folds: what a run of pretraining is worth, with less chance in it.

    python -m tools.run_suite --suite=configs/suites/folds.py:RUN --out=runs/folds --data=FOLDER

Every image is tested once, in the fold that holds its group; the mean over folds is the figure that
floors of other methods are given as. Where RUN left out the test images of one fold only (see
data.exclude), its encoder has seen those of the others, never their labels; a run that left out
none has seen all. RUN and FOLDER are as in configs/suites/downstream.py.

60 runs; the 30 probes (--only=probe) take 15 minutes on 2 cores, fine-tuning 2 hours.
"""

from typing import Any

from tools.suites.plan import Contrast, Figure, Label, Run, Suite, grid, name_of


def get_suite(argument: str) -> Suite:
    if not argument:
        raise ValueError("name a run of pretraining: --suite=configs/suites/folds.py:RUN")
    points = grid(
        task=("busi_diagnosis", "pocus_diagnosis", "gb_diagnosis"),
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
        "data.data.root": "{data}",
        "data.split.policy": "fold",
        "data.split.test_fold": point["fold"],
        "seed": point["fold"],
    }
    if point["encoder"] == "pretrained":
        overrides["start.weights"] = pretrained
    else:
        overrides["layer_decay"] = 1.0  # Nothing in the lower blocks is to be protected.
    if point["method"] == "probe":
        overrides["method"] = "linear_probe"
    return Run(name_of(point), f"configs/finetune_public.py:{point['task']}", overrides, point)
