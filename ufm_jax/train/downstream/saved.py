"""Trained models on disk: parameters, the task, and what evaluation must know of the training.

model/       the parameters alone, importable anywhere
personal/    leaves that each client keeps, stacked; only where there are any
task.json    kind, classes, chosen round, clients, thresholds; written last, hence its absence
             tells that nothing was trained to the end here
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ufm_jax.data.labelled import Task
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.paths import join_by_path
from ufm_jax.files import write_json
from ufm_jax.interop.torch_names import flatten
from ufm_jax.train.checkpoint import export_params, load_params
from ufm_jax.train.downstream.config import finetune_config
from ufm_jax.train.rundir import (
    CONFIG_FILE,
    EVALUATION_FILE,
    TASK_FILE,
    has_checkpoint,
)

MODEL_FOLDER, PERSONAL_FOLDER = "model", "personal"


@dataclass(frozen=True)
class TrainedModel:
    """A model whose head was trained.

    Attributes:
        params: The server's.
        task: What was learnt.
        personal: Path -> [K, ...], leaves that each client keeps; empty where all is shared.
        clients: The K clients.
        round: Rounds after which it was chosen.
        thresholds: Class -> probability from which it is called, chosen on the validation split.
    """

    params: Params
    task: Task
    personal: Mapping[str, np.ndarray] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    round: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def params_of(self, client: str | None) -> Params:
        """The parameters that predict a client's images.

        Raises:
            ConfigError: If clients have their own, and there is none of this name.
        """
        if not self.personal:
            return self.params
        if client not in self.clients:
            raise ConfigError(
                f"client {client!r}: the model has parameters for {', '.join(self.clients)} alone; "
                "name one of them, or train with federation.personal=()"
            )
        number = self.clients.index(client)
        return join_by_path(
            self.params, {path: leaf[number] for path, leaf in self.personal.items()}
        )


def save_model(workdir: Path, model: TrainedModel) -> None:
    """Writes a model; a reader sees the whole of it or none."""
    (workdir / TASK_FILE).unlink(missing_ok=True)
    export_params(workdir / MODEL_FOLDER, model.params)
    if model.personal:
        # Numbered, since a path of a parameter is none of a file.
        export_params(workdir / PERSONAL_FOLDER, _numbered(model.personal))
    write_json(
        workdir / TASK_FILE,
        {
            "kind": model.task.kind,
            "classes": list(model.task.classes),
            "round": model.round,
            "clients": list(model.clients),
            "personal": sorted(model.personal),
            "thresholds": dict(model.thresholds),
        },
    )


def load_model(workdir: Path) -> TrainedModel:
    """Reads a model.

    Raises:
        ConfigError: If the folder holds none with a trained head; says what it holds.
    """
    _require_trained(workdir)
    facts = json.loads((workdir / TASK_FILE).read_text(encoding="utf-8"))
    paths = facts["personal"]
    stored = load_params(workdir / PERSONAL_FOLDER) if paths else {}
    return TrainedModel(
        params=load_params(workdir / MODEL_FOLDER),
        task=Task(facts["kind"], tuple(facts["classes"])),
        personal={path: np.asarray(stored[f"leaf_{i}"]) for i, path in enumerate(paths)},
        clients=tuple(facts["clients"]),
        round=facts["round"],
        thresholds=facts["thresholds"],
    )


def load_config(workdir: Path) -> ConfigDict:
    """The configuration of a fine-tuning run, as ``resolve_finetune`` takes it.

    Raises:
        ConfigError: If the folder is none of a fine-tuning run.
    """
    _require_trained(workdir)
    facts = json.loads((workdir / CONFIG_FILE).read_text(encoding="utf-8"))
    config = finetune_config()
    for key, value in facts.items():
        *sections, name = key.split(".")
        if sections[:1] != ["config"]:
            continue
        place = config
        for section in sections[1:]:
            place = place[section]
        place[name] = tuple(value) if isinstance(value, list) else value
    return config


def head_moved(like: Params, params: Params, new: tuple[str, ...]) -> bool:
    """Whether training changed anything outside the encoder that no weights were given for.

    Args:
        like: The parameters before training.
        params: Those after it.
        new: Paths that no weights were given for.
    """
    before, after = (
        flatten({part: tree[part] for part in tree if part != "encoder"}) for tree in (like, params)
    )
    head = before.keys() & set(new)
    return not head or any(not np.array_equal(before[path], after[path]) for path in head)


def check_trained(like: Params, params: Params, new: tuple[str, ...]) -> None:
    """Refuses a model whose head never moved.

    Args:
        like: The parameters before training.
        params: Those after it.
        new: Paths that no weights were given for.

    Raises:
        ConfigError: If all of them outside the encoder are as they began.
    """
    if not head_moved(like, params, new):
        head = [path for path in new if not path.startswith("encoder/")]
        raise ConfigError(
            f"training changed none of {', '.join(head)}: check config.client_optimizer."
            "learning_rate and the losses in metrics.jsonl; an untrained head is not saved"
        )


def _numbered(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {f"leaf_{i}": leaves[path] for i, path in enumerate(sorted(leaves))}


def _require_trained(workdir: Path) -> None:
    if (workdir / TASK_FILE).is_file():
        return
    if not workdir.is_dir():
        raise ConfigError(f"--run={workdir}: there is no such folder")
    if (workdir / EVALUATION_FILE).is_file():
        holds = "a run without a model, such as of nearest neighbours; its own evaluation is there"
    elif (workdir / "validation.json").is_file() or (
        (workdir / CONFIG_FILE).is_file() and "config.method" in _facts(workdir)
    ):
        holds = "a fine-tuning run that has not finished; the same command goes on with it"
    elif (workdir / CONFIG_FILE).is_file() or has_checkpoint(workdir):
        holds = (
            "a run of pretraining, whose model has no head; fine-tune it first, with "
            f"python -m ufm_jax.finetune --config.start.weights={workdir}"
        )
    else:
        holds = (
            "no run of fine-tuning; weights alone have no trained head: fine-tune them first, with "
            f"python -m ufm_jax.finetune --config.start.weights={workdir}"
        )
    raise ConfigError(f"--run={workdir} is {holds}")


def _facts(workdir: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((workdir / CONFIG_FILE).read_text(encoding="utf-8"))
    return facts
