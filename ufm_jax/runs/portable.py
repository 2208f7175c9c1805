"""A trained model as a folder that others can open, in the layout of the Hugging Face hub and timm.

config.json                what ``timm.create_model('local-dir:FOLDER', pretrained=True)`` reads,
                           and under ``ufm_jax`` what prediction must know
model.safetensors          parameters under timm's names; of a segmentation the encoder's alone
segmentation.safetensors   the decoder and the head of a segmentation, under our names

Nothing else of the run is in it: no name of a client or file, no path, no count.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig, finetune_config
from ufm_jax.config.schema import flatten as flatten_settings
from ufm_jax.config.schema import set_keys
from ufm_jax.data.labels.task import Task
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.files import digest_of, read_json, write_json
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_from_torch, params_to_torch
from ufm_jax.interop.torch_names import flatten, put
from ufm_jax.interop.weights_file import read_weights, write_weights
from ufm_jax.models.sizes import SIZES
from ufm_jax.models.vit import unstack_layers
from ufm_jax.ops.normalise import statistics
from ufm_jax.runs.stored import as_json, typed
from ufm_jax.runs.trained_model import TrainedModel

CONFIG, WEIGHTS, SEGMENTATION = "config.json", "model.safetensors", "segmentation.safetensors"
_REMEDY = "export the run again"
_SECTIONS = ("config.model.", "config.evaluation.")
_OF_DATA = ("working_size", "channels", "value_range", "frames", "whole_frames", "kind")
_BUILT_IN = (
    *("config.model.", "config.evaluation.mirror"),
    *("config.data.working_size", "config.data.channels"),
)
_TIMM_SIZES = {"xs": "tiny", "ti": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}


@dataclass(frozen=True)
class _Facts:
    """What ``config.json`` holds under ``ufm_jax``.

    Attributes:
        kind, classes: The task.
        thresholds: See ``TrainedModel``.
        settings: Keys of the configuration on which a prediction depends.
        sha256: Digest of each file of parameters.
    """

    kind: Literal["single", "multi", "segment"]
    classes: tuple[str, ...]
    thresholds: dict[str, float]
    settings: dict[str, Any]
    sha256: dict[str, str]


def save_portable(folder: Path, config: FinetuneConfig, model: TrainedModel) -> None:
    """Writes a model whose parameters all images share into a folder that is there."""
    params = jax.tree.map(np.asarray, unstack_layers(model.params))
    rest: dict[str, np.ndarray] = {}
    if model.task.kind == "segment":
        rest = flatten({part: tree for part, tree in params.items() if part != "encoder"})
        params = {"encoder": params["encoder"]}
    write_weights(folder / WEIGHTS, params_to_torch(params, config.model.grid))
    if rest:
        write_weights(folder / SEGMENTATION, rest)
    facts = _Facts(
        kind=model.task.kind,
        classes=tuple(model.task.classes),
        thresholds={name: float(value) for name, value in model.thresholds.items()},
        settings=_settings(config),
        sha256={name: digest_of(folder / name) for name in _files(model.task.kind)},
    )
    timm = _timm_config(config.model, model.task)
    write_json(folder / CONFIG, as_json(timm | {"ufm_jax": asdict(facts)}))


def load_portable(folder: Path) -> TrainedModel:
    """Reads a model.

    Raises:
        ConfigError: If the folder does not hold one.
        RunError: If a file of it is damaged, or is not the one that the model was saved with.
    """
    facts = _facts(folder)
    for name, digest in facts.sha256.items():
        if not (folder / name).exists() or digest_of(folder / name) != digest:
            raise RunError(
                f"{folder / name} is damaged, missing or of another model: it differs from what "
                f"{CONFIG} says; {_REMEDY}"
            )
    state = read_weights(folder / WEIGHTS).state
    # Learned positions that never moved look like fixed ones.
    learned = bool(facts.settings["config.model.learned_position"])
    params = params_from_torch(state, replace(describe(state), learned_position=learned))
    if facts.kind == "segment":
        for path, array in read_weights(folder / SEGMENTATION).state.items():
            put(params, path.split("/"), array)
    return TrainedModel(params, Task(facts.kind, facts.classes), thresholds=facts.thresholds)


def load_portable_config(folder: Path) -> ConfigDict:
    """The configuration by which a model predicts, as ``resolve_finetune`` takes it.

    Raises:
        ConfigError: If the folder does not hold a model.
        RunError: If its configuration is damaged, or has keys that are not known.
    """
    config = finetune_config()
    # Where images lie is told by the command that predicts them.
    config.data.source, config.data.root = "folders", "."
    try:
        set_keys(config, _facts(folder).settings)
    except KeyError as error:
        raise RunError(
            f"{folder / CONFIG} has the unknown key {error}: it was made by another version of "
            f"ufm_jax; {_REMEDY}"
        ) from None
    if config.data.kind == "multi":
        config.data.separator = ";"  # Some is needed, though no labels are read.
    return config


def check_built_in(folder: Path, config: FinetuneConfig) -> None:
    """Refuses changes of what the programs of an export have built in.

    Raises:
        ConfigError: Naming the keys.
    """
    stored, asked = _facts(folder).settings, _settings(config)
    changed = [key for key in asked if key.startswith(_BUILT_IN) and asked[key] != stored.get(key)]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}: built into the program; leave --form out, or export again"
        )


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    of_data = {f"config.data.{name}" for name in _OF_DATA}
    settings = flatten_settings(config)
    kept = {k: v for k, v in settings.items() if k.startswith(_SECTIONS) or k in of_data}
    # Stored parameters are unrolled, and a file of them is for any device.
    return kept | {"config.model.scan_layers": False, "config.model.attention_kernel": "auto"}


def _files(kind: str) -> tuple[str, ...]:
    return (WEIGHTS, SEGMENTATION) if kind == "segment" else (WEIGHTS,)


def _facts(folder: Path) -> _Facts:
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"--model={folder}: there is no {CONFIG}; name a folder of tools.export")
    facts = read_json(path, _REMEDY, dict).get("ufm_jax")
    if facts is None:
        raise ConfigError(
            f"--model={folder}: its {CONFIG} is not of tools.export; a run's own folder is --run"
        )
    try:
        return typed(_Facts, facts)
    except ValueError as error:
        raise RunError(f"{path} is damaged or of another kind ({error}): {_REMEDY}") from error


def _timm_config(model: NetworkConfig, task: Task) -> dict[str, Any]:
    """The network and its pictures in timm's words; the encoder's of a segmentation."""
    size = SIZES[model.size]
    segments = task.kind == "segment"
    pool = "" if segments else {"mean": "avg", "class": "token"}[model.pool]
    name = f"vit_{_TIMM_SIZES[model.size]}_patch{size.patch if size.patch == 14 else 16}_224"
    mean, std = statistics(model.channels).tolist()
    classes = 0 if segments else task.num_classes
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": size.width,
        "model_args": {
            "global_pool": pool,
            "img_size": model.image_size,
            "patch_size": model.patch_size,
            "in_chans": model.channels,
            "embed_dim": size.width,
            "depth": size.depth,
            "num_heads": size.heads,
            # A segmentation's decoder reads blocks, and the encoder has no last norm.
            **({"final_norm": False} if segments else {}),
        },
        "pretrained_cfg": {
            "input_size": [model.channels, model.image_size, model.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": mean,
            "std": std,
            "num_classes": classes,
            "label_names": [] if segments else list(task.classes),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
