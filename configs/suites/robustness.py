"""Robust aggregation under attack: 3 of 16 synthetic institutions are hostile.

    python -m tools.run_suite --suite=configs/suites/robustness.py --out=runs/robustness

Every rule under every attack; the figure is the training loss of the last round, over all clients,
whose images are honest. Without an attack the row says what a rule costs where nobody is hostile.

48 runs of a small masked autoencoder; expect an hour on 2 cores. --only=mean takes a part.
"""

from typing import Any

from tools.suites.plan import Figure, Label, Run, Suite, grid, name_of

_HOSTILE = (1, 6, 12)
_ATTACKS: dict[Label, dict[str, Any]] = {
    "none": {},
    "sign flip": {"kind": "sign_flip", "scale": 4.0},
    "noise": {"kind": "noise", "scale": 20.0},
    "stale replay": {"kind": "stale_replay"},
    # Of 16 clients with 3 hostile, the paper's bound on z is the normal quantile of 7 / 13, 0.1:
    # nobody would notice. 1.5 is what its experiments use.
    "little is enough": {"kind": "little_is_enough", "scale": 1.5},
    "inner product": {"kind": "inner_product", "scale": 4.0},
}
_RULES: dict[Label, dict[str, Any]] = {
    "mean": {"rule": "mean"},
    "median": {"rule": "median", "hostile": 3},
    "trimmed mean": {"rule": "trimmed_mean", "hostile": 3},
    "multi-Krum": {"rule": "multi_krum", "hostile": 3},
    "Bulyan": {"rule": "bulyan", "hostile": 3},
    "geometric median": {"rule": "geometric_median"},
    "norm clipping": {"rule": "norm_clipping", "norm": 2.0},
    "centred clipping": {"rule": "centred_clipping", "norm": 2.0},
}


def get_suite(argument: str) -> Suite:
    if argument:
        raise ValueError("this suite takes no argument")
    points = grid(attack=tuple(_ATTACKS), rule=tuple(_RULES))
    return Suite(
        runs=[_run(point) for point in points],
        figures=(Figure("Loss of the last round", "last_round.loss", better="lower"),),
        section="attack",
    )


def _run(point: dict[str, Label]) -> Run:
    attack, rule = _ATTACKS[point["attack"]], _RULES[point["rule"]]
    overrides = {
        "federation.rounds": 20,
        "schedule.warmup_rounds": 2,
        "federation.client_state": "persist",  # Averaged moments are refused beside rules.
        "federation.batch_size": 8,
        "federation.local_epochs": 1,
        "federation.client_weights": "uniform",  # As robust rules count clients.
        "data.mean_size": 40,
    }
    overrides |= {f"federation.attack.{key}": value for key, value in attack.items()}
    if attack:
        overrides["federation.attack.clients"] = _HOSTILE
    overrides |= {f"federation.aggregation.{key}": value for key, value in rule.items()}
    return Run(name_of(point), "configs/quickstart.py", overrides, point, main="pretrain")
