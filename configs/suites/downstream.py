"""What pretraining is worth: five tasks from random and from pretrained weights.

    python -m tools.run_suite --suite=configs/suites/downstream.py:RUN --out=runs/downstream \
        --data=FOLDER

RUN is a run of pretraining, such as runs/held_out from configs/pretrain_sites.py:held_out; FOLDER
is as in configs/finetune_public.py. Both are compared fine-tuned and with the encoder as it is
(probe: a logistic regression, or for masks a linear decoder), with all labels and with a tenth of
them. Figures are of the test split, differences paired by image.

40 runs; expect 2 to 3 hours on 2 cores. --only=busi_diagnosis takes a part.
"""

from typing import Any

from tools.suites.plan import Contrast, Figure, Label, Run, Suite, grid, name_of

_HC = "measurement.test.result"
_MASKS = ("busi_segmentation", "hc18_circumference")
_TASKS = ("busi_diagnosis", "pocus_diagnosis", "gb_diagnosis", *_MASKS)


def get_suite(argument: str) -> Suite:
    if not argument:
        raise ValueError("name a run of pretraining: --suite=configs/suites/downstream.py:RUN")
    points = grid(
        task=_TASKS,
        method=("finetune", "probe"),
        labels=(1.0, 0.1),
        encoder=("pretrained", "random"),
    )
    return Suite(
        runs=[_run(point, argument) for point in points],
        figures=(
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
            Figure("AUROC", "splits.test.overall.auroc", paired=("auroc_delong", "auroc")),
            Figure("Dice", "splits.test.overall.dice"),
            Figure("HD95, pixels", "splits.test.overall.hd95_px", better="lower"),
            Figure("HD95, mm", "splits.test.overall.hd95_mm", better="lower", drawn=False),
            Figure("HC error, mm", f"{_HC}.metrics.mae", better="lower", paired=("mae_mm",)),
            Figure("HC not measured", f"{_HC}.missed", better="lower", drawn=False),
        ),
        contrasts=(Contrast("encoder", "pretrained", "random"),),
        section="task",
    )


def _run(point: dict[str, Label], pretrained: str) -> Run:
    task = str(point["task"])
    overrides: dict[str, Any] = {
        "data.root": "{data}",
        "label_fraction": point["labels"],
        "start.weights": pretrained if point["encoder"] == "pretrained" else "",
    }
    if point["labels"] == 0.1:
        overrides["federation.local_epochs"] = 3  # Else so few images would give too few steps.
    if point["encoder"] == "random":
        overrides["layer_decay"] = 1.0  # Nothing in the lower blocks is to be protected.
    if point["method"] == "probe" and task in _MASKS:
        overrides |= {"method": "frozen", "model.decoder": "linear"}
    elif point["method"] == "probe":
        overrides["method"] = "linear_probe"
    return Run(name_of(point), f"configs/finetune_public.py:{task}", overrides, point)
