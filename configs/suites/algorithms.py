"""Federated algorithms on label-skewed diagnosis: lung ultrasound, 16 clients, three seeds.

    python -m tools.run_suite --suite=configs/suites/algorithms.py --out=runs/algorithms \
        --data=FOLDER

Clients hold classes in proportions drawn from a Dirichlet distribution (alpha 0.1), so that most
hold one or two. All methods start from one encoder, pretrained without labels on the same images,
and descend with the same local SGD ('MimeLite' with momentum, without which it is FedAvg): what
differs is the method. The model after the last round is tested, since a round chosen by a dozen
patients would say more of the choice than of the method. FOLDER is as in
configs/finetune_public.py. An image is tested by the model of its client, which matters for 'Ditto'
and 'FedBN' alone: there, that a client's own model knows which classes its client has counts too.

40 runs of a small encoder at 64 pixels; expect an hour on 2 cores. --only=FedAvg takes a part.
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
_METHODS: dict[Label, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvgM": {"server_optimizer.betas": (0.9, 0.0), "server_optimizer.learning_rate": 0.3},
    "FedAdam": {"server_optimizer.name": "fedadam", "server_optimizer.learning_rate": 0.003},
    "FedYogi": {"server_optimizer.name": "fedyogi", "server_optimizer.learning_rate": 0.003},
    "FedAdagrad": {"server_optimizer.name": "fedadagrad", "server_optimizer.learning_rate": 0.01},
    "FedProx": {"federation.algorithm.name": "fedprox", "federation.algorithm.mu": 0.1},
    "FedSAM": {"federation.algorithm.name": "fedsam", "federation.algorithm.rho": 0.05},
    "SCAFFOLD": {"federation.algorithm.name": "scaffold"},
    "FedNova": {"federation.algorithm.name": "fednova"},
    "FedDyn": {"federation.algorithm.name": "feddyn", "federation.algorithm.alpha": 0.1},
    "MimeLite": {
        "federation.algorithm.name": "mimelite",
        "client_optimizer.betas": (0.9, 0.0),
        "client_optimizer.learning_rate": 0.002,
    },
    "FedBN": {"federation.personal": (".*norm.*",)},
    "Ditto": {"federation.algorithm.name": "ditto", "federation.algorithm.strength": 0.1},
}
_ADAPTIVE = {"server_optimizer.betas": (0.9, 0.99), "server_optimizer.eps": 1e-3}


def get_suite(argument: str) -> Suite:
    if argument:
        raise ValueError("this suite takes no argument")
    points = grid(method=tuple(_METHODS), seed=(0, 1, 2))
    others = [name for name in _METHODS if name != "FedAvg"]
    return Suite(
        runs=[_pretraining(), *(_run(point) for point in points)],
        figures=(
            Figure("Balanced accuracy", "splits.test.overall.balanced_accuracy"),
            Figure("AUROC", "splits.test.overall.auroc"),
            Figure("Training loss", "last_round.loss", better="lower"),
        ),
        contrasts=[Contrast("method", name, "FedAvg") for name in others],
    )


def _pretraining() -> Run:
    overrides = {
        **_SMALL,
        "data.exclude": ("pocus_lung:fold5=0",),
        "model.decoder_width": 96,
        "model.decoder_depth": 2,
        "model.decoder_heads": 3,
        "federation.rounds": 20,
        "federation.batch_size": 16,
        "schedule.warmup_rounds": 2,
        "client_optimizer.learning_rate": 2e-3,
        "client_optimizer.scale_by_batch": False,
    }
    return Run("pretraining", "configs/pretrain_sites.py:public,epochs", overrides, main="pretrain")


def _run(point: dict[str, Label]) -> Run:
    method = _METHODS[point["method"]]
    overrides: dict[str, Any] = {
        **_SMALL,
        "data.partition": "dirichlet",
        "data.alpha": 0.1,
        "data.num_clients": 16,
        "start.weights": "{run:pretraining}",
        "seed": point["seed"],
        "layer_decay": 1.0,
        "client_optimizer.name": "sgd",
        "client_optimizer.learning_rate": 0.02,
        "client_optimizer.weight_decay": 0.0,
        "client_optimizer.clip_norm": 0.0,
        "client_optimizer.betas": (0.0, 0.0),
        "federation.training": "federated",
        "federation.client_state": "reset",
        "federation.rounds": 40,
        "evaluation.select": "last",
    }
    if "server_optimizer.name" in method:
        overrides |= _ADAPTIVE
    overrides |= method
    return Run(name_of(point), "configs/finetune_public.py:pocus_diagnosis", overrides, point)
