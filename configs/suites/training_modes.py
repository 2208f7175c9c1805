"""Federated fine-tuning against training in one place and each alone: diagnosis of breast images.

    python -m tools.run_suite --suite=configs/suites/training_modes.py:RUN --out=runs/modes \
        --data=FOLDER

'federated' shares all parameters, 'personal head' all but the head; 'local' shares nothing;
'centralised' is one client that holds everything. An image is tested by the model of its client.
RUN, a run of pretraining such as runs/held_out from configs/pretrain_sites.py:held_out, gives the
encoder's first weights; without it they are random. FOLDER is as in configs/finetune_public.py.
16 rounds each, the best of every fourth taken.

Four clients: 'even' have the same mixture of classes, 'skewed' unequal ones (Dirichlet, alpha 0.5).
Skewed, the client alone tells much about the label of its test images too, which only models of a
client's own can use: there 'local' and 'personal head' are ahead even where they learn nothing of
images.

24 runs (3 seeds); expect an hour on 2 cores. --only=even takes half of them.
"""

from typing import Any

from tools.suites.plan import Contrast, Figure, Label, Run, Suite, grid, name_of

_CLIENTS: dict[Label, dict[str, Any]] = {
    "even": {"data.partition": "iid"},
    "skewed": {"data.partition": "dirichlet", "data.alpha": 0.5},
}
_TRAINING: dict[Label, dict[str, Any]] = {
    "centralised": {"federation.training": "centralised"},
    "federated": {"federation.training": "federated"},
    "personal head": {"federation.training": "federated", "federation.personal": ("head/.*",)},
    "local": {"federation.training": "local"},
}


def get_suite(argument: str) -> Suite:
    points = grid(clients=tuple(_CLIENTS), training=tuple(_TRAINING), seed=(0, 1, 2))
    return Suite(
        runs=[_run(point, argument) for point in points],
        figures=(
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
            Figure("AUROC", "splits.test.overall.auroc"),
            Figure("Brier", "splits.test.overall.brier", better="lower"),
        ),
        contrasts=(
            Contrast("training", "federated", "local"),
            Contrast("training", "federated", "centralised"),
            Contrast("training", "personal head", "federated"),
        ),
        section="clients",
    )


def _run(point: dict[str, Label], pretrained: str) -> Run:
    overrides = {
        "data.root": "{data}",
        "data.num_clients": 4,
        "start.weights": pretrained,
        "seed": point["seed"],
        "federation.rounds": 16,
        "evaluation.every_rounds": 4,
    }
    overrides |= _CLIENTS[point["clients"]] | _TRAINING[point["training"]]
    return Run(name_of(point), "configs/finetune_public.py:busi_diagnosis", overrides, point)
