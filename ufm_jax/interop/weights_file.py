"""Files of parameters: safetensors and PyTorch's, read without PyTorch and without running code.

Only the parameters of a checkpoint are read. Other entries (optimiser, arguments, epoch) are named
in the result, but never loaded, and hence never written to another file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save as to_safetensors

from ufm_jax.errors import DataError
from ufm_jax.files import replacing
from ufm_jax.interop import torch_files
from ufm_jax.interop.pickles import Inert, TensorRecord

PARTS = ("model", "state_dict", "model_state_dict", "module")
"""Entries in which checkpoints keep their parameters, in the order of search."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile give to every name."""

_SAFETENSORS_DTYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "u2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_MOST_HEADER = 1 << 24
"""Most bytes of the header of a safetensors file; a thousand tensors need a hundredth."""
_MOST_SHARED = 2
"""Most numbers of all tensors for each byte of the file, since tensors may share numbers."""
SUFFIXES = (".safetensors", ".pth", ".pt")
"""Suffixes of the files that are read; only the first is written."""


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file.

    Attributes:
        state: Arrays by their names in the file without ``prefix``; bfloat16 becomes float32.
        layout: The file's format, in words.
        size: Bytes of the file.
        part: The entry that holds the parameters, such as 'model'; None if they stand alone.
        prefix: The prefix of every name, which was removed.
        left_out: Names of all other entries of the file.
    """

    state: dict[str, np.ndarray]
    layout: str
    size: int
    part: str | None
    prefix: str
    left_out: tuple[str, ...]


def read_weights(path: Path, part: str | None = None) -> WeightsFile:
    """The parameters of a file, whose format follows from its content and not from its name.

    Args:
        path: A .safetensors file, or a file of ``torch.save`` with a state dict, alone or as an
            entry of a dictionary.
        part: The entry to read; None for the first of ``PARTS`` that exists.

    Raises:
        ValueError: If the file has another format, is damaged, lacks parameters, has some that are
            not finite, or names code that PyTorch would run.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as stream:
        start = stream.read(len(torch_files.LEGACY_MAGIC))
    if start.startswith(torch_files.ZIP_MAGIC):
        weights = _read_torch(path, "PyTorch (zip)", part)
    elif start == torch_files.LEGACY_MAGIC:
        weights = _read_torch(path, "PyTorch (before 1.6)", part)
    elif start[8:9] == b"{":
        weights = _read_safetensors(path, part)
    else:
        raise ValueError(
            f"{path}: neither safetensors nor a file of torch.save: it starts with {start[:12]!r}"
        )
    check_finite(path, weights.state)
    return weights


def check_finite(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Refuses weights that are not finite, from which no training could start.

    Args:
        path: The file, for the message.
        state: Arrays by name.

    Raises:
        DataError: If a number is nan, infinite, or too large for float32; names the array.
    """
    for name, array in state.items():
        bad = np.count_nonzero(~(np.abs(array) <= np.finfo(np.float32).max))
        if bad:
            raise DataError(
                f"{path}: {bad} of the {array.size} numbers of {name} are nan, infinite or beyond "
                "float32: its training diverged, or it is damaged; take an earlier checkpoint"
            )


def write_weights(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes parameters, and nothing else, in the safetensors format.

    Args:
        path: The file; an existing one is replaced.
        state: Floating arrays by name.

    Raises:
        ValueError: If the path does not end in .safetensors, or an array is not floating.
    """
    check_writable(path)
    for name, array in state.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name}: type {array.dtype}; parameters are floating numbers")
    contiguous = {name: np.asarray(array, order="C") for name, array in state.items()}
    with replacing(path) as partial:
        partial.write_bytes(to_safetensors(contiguous, metadata={"format": "pt"}))


def check_writable(path: Path) -> None:
    """Checks the suffix of a file that ``write_weights`` is to write.

    Raises:
        ValueError: If it is not .safetensors.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: weights are written as .safetensors alone: end the name in .safetensors"
        )


def _read_safetensors(path: Path, part: str | None) -> WeightsFile:
    if part is not None:
        raise ValueError(f"{path}: part={part!r}, but a safetensors file has no parts")
    with torch_files.faults_named(path):
        content = path.read_bytes()
        header = int.from_bytes(content[:8], "little")
        if header > min(_MOST_HEADER, len(content) - 8):
            raise ValueError(f"damaged: its header claims {header} bytes")
        try:
            entries = safetensors.deserialize(content)
        except safetensors.SafetensorError as error:
            raise ValueError(f"damaged, or not a safetensors file: {error}") from error
        state = {name: _from_safetensors(name, entry) for name, entry in entries}
    state, prefix = _unwrapped(state)
    return WeightsFile(state, "safetensors", len(content), None, prefix, ())


def _from_safetensors(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind = entry["dtype"]
    if kind not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name} is of type {kind}: save it as float32")
    dtype = np.dtype(_SAFETENSORS_DTYPES[kind]).newbyteorder("<")
    array = np.frombuffer(entry["data"], dtype).astype(dtype.newbyteorder("="))
    array = array.reshape(entry["shape"])
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array


def _read_torch(path: Path, layout: str, part: str | None) -> WeightsFile:
    opened = torch_files.open_zip if "zip" in layout else torch_files.open_legacy
    with opened(path) as checkpoint:
        entry, weights, beside = _pick(checkpoint.tree, part)
        records = {str(k): v for k, v in weights.items() if isinstance(v, TensorRecord)}
        beside += [str(k) for k, v in weights.items() if not isinstance(v, TensorRecord)]
        odd = [f"{k} ({v.name})" for k, v in weights.items() if isinstance(v, Inert)]
        if entry is not None and odd:
            raise ValueError(f"these of its parameters are not plain tensors: {', '.join(odd)}")
        if not records:
            raise ValueError(f"no parameters in it; it holds {sorted(beside) or 'nothing'}")
        numbers = sum(math.prod(record.shape) for record in records.values())
        if numbers > _MOST_SHARED * path.stat().st_size:
            raise ValueError(f"its tensors share their numbers too often: they hold {numbers}")
        state = {name: checkpoint.tensor(record) for name, record in records.items()}
    state, prefix = _unwrapped(state)
    return WeightsFile(state, layout, path.stat().st_size, entry, prefix, tuple(sorted(beside)))


def _pick(tree: Any, part: str | None) -> tuple[str | None, Mapping[Any, Any], list[str]]:
    """The name of the entry with the parameters, its content, and the names beside it."""
    if not isinstance(tree, Mapping):
        what = tree.name if isinstance(tree, Inert) else type(tree).__name__
        raise ValueError(f"it holds a {what} instead of a dictionary of parameters")
    if part is not None and not isinstance(tree.get(part), Mapping):
        raise ValueError(f"no part {part!r} in it; it holds {sorted(map(str, tree))}")
    for name in PARTS if part is None else (part,):
        inner = tree.get(name)
        # One published file lists itself as its model: its parameters then stand alone.
        if isinstance(inner, Mapping) and inner is not tree:
            return name, inner, [str(key) for key in tree if key != name]
    return None, tree, []


def _unwrapped(state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    prefix = ""
    while state and (found := [w for w in _WRAPPERS if all(n.startswith(w) for n in state)]):
        state = {name.removeprefix(found[0]): array for name, array in state.items()}
        prefix += found[0]
    return state, prefix
