"""The parameters that fine-tuning starts from: random, of a run of ours, or of PyTorch."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ufm_jax.config.finetuning import FinetuneConfig, StartConfig
from ufm_jax.errors import ConfigError
from ufm_jax.fed.algorithm import Params
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import encoder_alone, params_from_torch
from ufm_jax.interop.shipped import weights_path
from ufm_jax.interop.start import Start, start_from
from ufm_jax.interop.torch_names import flatten
from ufm_jax.interop.weights_file import SUFFIXES, read_weights
from ufm_jax.models.sizes import SIZES
from ufm_jax.models.vit import stack_layers, unstack_layers
from ufm_jax.runs.exported import read_ours

_log = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Parameters with an encoder, blocks unrolled, and their patches down and across."""

    params: Params
    grid: tuple[int, int] | None
    lines: tuple[str, ...]


def start_params(config: FinetuneConfig, like: Params) -> Start:
    """The parameters that training starts from.

    Weights give the encoder alone; the head is always new, and the log says so.

    Args:
        config: ``start`` names the weights, and ``model`` the network that they must fit.
        like: The network's parameters, as initialised.

    Raises:
        ConfigError: If the weights cannot be read or do not fit; names file, arrays and remedy.
    """
    like = jax.device_get(like)
    if not config.start.weights:
        _log.info("starting from random parameters")
        return Start(like, tuple(sorted(flatten(like))), (), ())
    path = weights_path(config.start.weights)
    try:
        source = _read(path, config.start)
        start = start_from(
            source.params,
            unstack_layers(like),
            config.model.grid,
            source.grid,
            config.start.antialias,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"config.start.weights={config.start.weights!r}: {error}{_hint(path, config)}"
        ) from None
    _report(path, source, start)
    params = stack_layers(start.params) if config.model.scan_layers else start.params
    new = tuple(sorted(set(flatten(like)) - set(flatten({"encoder": like["encoder"]}))))
    return start._replace(params=params, new=new)


def _read(path: Path, config: StartConfig) -> _Source:
    if path.is_dir():
        if config.part:
            raise ValueError(f"part={config.part!r} is for files of PyTorch, and this is a folder")
        weights = read_ours(path)
        return _Source(weights.params, weights.grid, ())
    if not path.exists():
        raise ValueError("no file or folder has this name")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"give a run's folder, or a file that ends in {', '.join(SUFFIXES)}")
    found = read_weights(path, config.part or None)
    state, dropped = encoder_alone(found.state)
    architecture = describe(state)
    lines = [str(architecture)]
    if dropped:
        lines.append(f"not taken: {', '.join(dropped)}")
    return _Source(params_from_torch(state, architecture), architecture.grid, tuple(lines))


def _report(path: Path, source: _Source, start: Start) -> None:
    for line in (*source.lines, *start.notes):
        _log.info("%s: %s", path, line)
    if start.left_out:
        parts = sorted({_part(name) for name in start.left_out})
        _log.info("%s: not needed here: %s", path, ", ".join(parts))
    _log.info("starting from the encoder in %s; new: %s", path, ", ".join(start.new))


def _part(name: str) -> str:
    """The part of a model that a parameter belongs to; parts of the encoder one by one."""
    first, *rest = name.split("/")
    return "/".join((first, *rest[:1])) if first == "encoder" else first


def _hint(path: Path, config: FinetuneConfig) -> str:
    """The size of the weights' encoder, if they can be read, and the size that is asked for."""
    try:
        encoder = _read(path, config.start).params["encoder"]
        kernel = np.asarray(encoder["patch_embed"]["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    width, depth = kernel.shape[1], len(encoder["blocks"])
    names = [n for n, s in SIZES.items() if (s.width, s.depth) == (width, depth)]
    size = f"size {names[0]!r}" if names else f"width {width} and {depth} blocks"
    asked = SIZES[config.model.size]
    return (
        f"; the weights are of {size}, config.model.size={config.model.size!r} asks for width "
        f"{asked.width} and {asked.depth} blocks"
    )
