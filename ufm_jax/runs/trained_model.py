"""Trained models on disk: parameters, the task, and what evaluation must know of the training.

model/       the parameters alone, importable anywhere
personal/    leaves that each client keeps, stacked; only where there are any
task.json    kind, classes, chosen round, clients, thresholds, digests of all that belongs to the
             model; written last, hence its absence tells that nothing was trained to the end here
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from ufm_jax.config.finetuning import FinetuneConfig, finetune_config
from ufm_jax.config.schema import flatten as flatten_settings
from ufm_jax.config.schema import set_keys
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.paths import join_by_path
from ufm_jax.files import digest_of, write_json
from ufm_jax.interop.torch_names import flatten
from ufm_jax.runs.checkpoint import export_params, load_params, sums_beside
from ufm_jax.runs.folder import (
    CONFIG_FILE,
    EVALUATION_FILE,
    TASK_FILE,
    has_checkpoint,
    stored_config,
)
from ufm_jax.runs.seen_images import SEEN_FILE
from ufm_jax.runs.stored import read_as

MODEL_FOLDER, PERSONAL_FOLDER = "model", "personal"
_REMEDY = "restore it from a copy, or fine-tune again, with the same command, in a new folder"
_BEFORE: dict[str, Any] = {
    "config.data.exclude_files": (),
    "config.data.value_range": (),
    "config.data.frames": "different",
    "config.data.whole_frames": False,
    "config.client_optimizer.nesterov": False,
    "config.server_optimizer.nesterov": False,
    "config.client_optimizer.moment_dtype": "float32",
    "config.server_optimizer.moment_dtype": "float32",
    "config.placement.chunk_steps": 0,
    "config.schedule.side": "clients",
    "config.schedule.patience": 0,
    "config.start.head": "new",
    "config.tracking": ("tensorboard",),
    "config.tracking_project": "ufm_jax",
    "config.tracking_store": "",
}
"""Keys that runs stored before them lack, with the values by which those runs were trained."""
_GONE = ("config.placement.loop",)
"""Keys of older runs on which no result depended."""


@dataclass(frozen=True)
class TrainedModel:
    """A model whose head was trained.

    Attributes:
        params: The server's parameters.
        task: What was learnt.
        personal: Path -> [K, ...], leaves that each client keeps; empty if all is shared.
        clients: The K clients.
        round: Rounds after which the model was chosen.
        thresholds: Class -> probability from which it is called, chosen on the validation split.
    """

    params: Params
    task: Task
    personal: Mapping[str, np.ndarray] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    round: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def params_of(self, client: str) -> Params:
        """The parameters that predict a client's images.

        Raises:
            ConfigError: If clients have parameters of their own, and ``client`` is not one of them.
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

    def for_client(self, client: str) -> "TrainedModel":
        """The one model that predicts all images as this client would; '' where all is shared.

        Raises:
            ConfigError: If clients have parameters of their own and ``client`` is not one of them,
                or a client is named though all is shared.
        """
        if client and not self.personal:
            raise ConfigError(f"--client={client}: the run has one model for all; leave it out")
        if self.personal and client not in self.clients:
            raise ConfigError(
                f"--client={client}: each client of the run has parameters of its own, and these "
                f"are other images: name one of {', '.join(self.clients)}"
            )
        return replace(self, params=self.params_of(client), personal={}, clients=())


@dataclass(frozen=True)
class _Facts:
    """The content of task.json; see ``Task`` and ``TrainedModel``.

    Attributes:
        digests: File -> digest, of the files that belong to the model; empty in older files.
        digest: The digest of all other fields.
    """

    kind: Literal["single", "multi", "segment"]
    classes: tuple[str, ...]
    round: int
    clients: tuple[str, ...]
    personal: tuple[str, ...]
    thresholds: dict[str, float]
    digests: dict[str, str] = field(default_factory=dict)
    digest: str = ""


def save_model(workdir: Path, model: TrainedModel) -> None:
    """Writes a model, whole or not at all, beside the run's configuration and images seen."""
    (workdir / TASK_FILE).unlink(missing_ok=True)
    export_params(workdir / MODEL_FOLDER, model.params)
    if model.personal:
        # Numbered, since a parameter's path cannot name a file.
        leaves = (model.personal[path] for path in sorted(model.personal))
        numbered = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
        export_params(workdir / PERSONAL_FOLDER, numbered)
    facts = _Facts(
        kind=model.task.kind,
        classes=tuple(model.task.classes),
        round=model.round,
        clients=tuple(model.clients),
        personal=tuple(sorted(model.personal)),
        thresholds={name: float(value) for name, value in model.thresholds.items()},
        digests={name: digest_of(workdir / name) for name in _belonging(bool(model.personal))},
    )
    write_json(workdir / TASK_FILE, asdict(replace(facts, digest=_digest(facts))))


def load_model(workdir: Path) -> TrainedModel:
    """Reads a model.

    Raises:
        ConfigError: If the folder does not hold a model with a trained head; says what it holds.
        RunError: If a file of it is damaged, or is not the one that the model was saved with.
    """
    facts = _facts(workdir)
    stored = load_params(workdir / PERSONAL_FOLDER) if facts.personal else {}
    return TrainedModel(
        params=load_params(workdir / MODEL_FOLDER),
        task=Task(facts.kind, facts.classes),
        personal={path: np.asarray(stored[f"leaf_{i}"]) for i, path in enumerate(facts.personal)},
        clients=facts.clients,
        round=facts.round,
        thresholds=facts.thresholds,
    )


def load_config(workdir: Path) -> ConfigDict:
    """The configuration of a fine-tuning run, as ``resolve_finetune`` takes it.

    Raises:
        ConfigError: If the folder is not that of a fine-tuning run.
        RunError: If a file of it is damaged, or its configuration has other keys than ours.
    """
    _facts(workdir)
    path = workdir / CONFIG_FILE
    stored = _BEFORE | {
        key: value
        for key, value in stored_config(path, _REMEDY).items()
        if key.startswith("config.") and "(" not in key and key not in _GONE
    }
    config = finetune_config()
    known = flatten_settings(FinetuneConfig()).keys()
    missing, unknown = sorted(known - stored.keys()), sorted(stored.keys() - known)
    if missing or unknown:
        raise RunError(
            f"{path} lacks the keys {missing or 'none'} and has unknown keys {unknown or 'none'}: "
            f"it does not say how the model was trained; {_REMEDY}"
        )
    set_keys(config, stored)
    return config


def _belonging(personal: bool) -> list[str]:
    """Names of the files that belong to a model beside task.json."""
    folders = [MODEL_FOLDER, PERSONAL_FOLDER] if personal else [MODEL_FOLDER]
    return [CONFIG_FILE, SEEN_FILE, *(sums_beside(Path(folder)).name for folder in folders)]


def _facts(workdir: Path) -> _Facts:
    """Reads task.json, and checks that the model's files are as they were when it was saved."""
    _require_trained(workdir)
    path = workdir / TASK_FILE
    facts = read_as(_Facts, path, _REMEDY)
    if facts.digest != (_digest(facts) if facts.digests else ""):
        raise RunError(f"{path} is damaged: its content and its digest differ; {_REMEDY}")
    for name, digest in facts.digests.items():
        file = workdir / name
        if not file.exists() or digest_of(file) != digest:
            raise RunError(
                f"{file} is damaged, missing or of another run: it differs from what {path} says; "
                f"{_REMEDY}"
            )
    return facts


def _digest(facts: _Facts) -> str:
    """SHA-256 of all but the digest itself."""
    text = json.dumps(asdict(replace(facts, digest="")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def head_moved(like: Params, params: Params, new: tuple[str, ...]) -> bool:
    """Whether training changed anything outside the encoder that no weights were given for.

    Args:
        like: The parameters before training.
        params: The parameters after it.
        new: Paths that no weights were given for.
    """
    before, after = (
        flatten({part: tree[part] for part in tree if part != "encoder"}) for tree in (like, params)
    )
    head = before.keys() & set(new)
    return not head or any(not np.array_equal(before[path], after[path]) for path in head)


def check_trained(like: Params, params: Params, new: tuple[str, ...]) -> None:
    """Refuses a model whose head never moved; arguments as in ``head_moved``.

    Raises:
        ConfigError: If training changed nothing outside the encoder.
    """
    if not head_moved(like, params, new):
        head = [path for path in new if not path.startswith("encoder/")]
        raise ConfigError(
            f"training changed none of {', '.join(head)}: check config.client_optimizer."
            "learning_rate and the losses in metrics.jsonl; an untrained head is not saved"
        )


def _require_trained(workdir: Path) -> None:
    if (workdir / TASK_FILE).is_file():
        return
    if not workdir.is_dir():
        raise ConfigError(f"--run={workdir}: there is no such folder")
    if (workdir / EVALUATION_FILE).is_file():
        holds = "a run without a model, such as of nearest neighbours; its own evaluation is there"
    elif (workdir / CONFIG_FILE).is_file() and "config.method" in read_as(
        dict[str, Any], workdir / CONFIG_FILE, _REMEDY
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
