"""Writes parameters as ``torch.save`` would, so that ``torch.load(weights_only=True)`` reads them.

The pickle is put together from its opcodes (Lib/pickletools.py describes them): Python's own
pickler would import torch to check the names.
"""

import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage"}
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every entry, since equal parameters should make equal files."""

_PROTOCOL, _STOP = b"\x80\x02", b"."
_MARK, _TUPLE, _EMPTY_TUPLE, _CALL = b"(", b"t", b")", b"R"
_EMPTY_DICT, _SET_ITEMS = b"}", b"u"
_STORAGE_REFERENCE, _FALSE = b"Q", b"\x89"


def write_torch(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict.

    Args:
        path: The file, replaced where it exists.
        state: Arrays by name, of floating types.

    Raises:
        ValueError: If an array's type is another.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", _EPOCH), content)

        add("data.pkl", _pickle(state))
        add("byteorder", b"little")
        for key, array in enumerate(state.values()):
            little = array.astype(array.dtype.newbyteorder("<"))
            add(f"data/{key}", little.tobytes())
        add("version", b"3\n")


def _pickle(state: Mapping[str, np.ndarray]) -> bytes:
    """{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())}."""
    items = [
        _text(name) + _tensor(name, str(key), array)
        for key, (name, array) in enumerate(state.items())
    ]
    return _PROTOCOL + _EMPTY_DICT + _MARK + b"".join(items) + _SET_ITEMS + _STOP


def _tensor(name: str, key: str, array: np.ndarray) -> bytes:
    if array.dtype.name not in _STORAGES:
        raise ValueError(f"{name}: type {array.dtype}; parameters are of {', '.join(_STORAGES)}")
    kind = _global("torch", _STORAGES[array.dtype.name])
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _integer(array.size))
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    arguments = _tuple(
        storage + _STORAGE_REFERENCE,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, strides)),
        _FALSE,
        _global("collections", "OrderedDict") + _EMPTY_TUPLE + _CALL,
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + _CALL


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return _MARK + b"".join(items) + _TUPLE


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    """Opcode BININT; four bytes count the numbers of any array up to 8 GB in float32."""
    return b"J" + struct.pack("<i", value)
