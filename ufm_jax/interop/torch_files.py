"""The two containers of ``torch.save``: a zip (since PyTorch 1.6) and a row of pickles (before).

Both hold one pickle that describes everything, and the numbers of each storage by key.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from ufm_jax.interop.pickles import CheckpointUnpickler, Storage, TensorRecord

ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_MAGIC = b"\x80\x02\x8a\x0a" + _LEGACY_NUMBER.to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001

_DTYPES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_BFLOAT16 = "torch.BFloat16Storage"

Order = Literal["<", ">"]
"""Little and big endian."""


class TorchFile(NamedTuple):
    """An open checkpoint.

    Attributes:
        tree: What was saved, with ``TensorRecord`` for tensors and ``Inert`` for other objects.
        tensor: Reads the numbers of one.
    """

    tree: Any
    tensor: Callable[[TensorRecord], np.ndarray]


@contextmanager
def open_zip(path: Path) -> Iterator[TorchFile]:
    """Opens a checkpoint of PyTorch 1.6 or newer.

    Raises:
        ValueError: If it is none, is damaged, or names what must not be run.
    """
    with _faults_named(path), zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip, but none of torch.save: it has no data.pkl")
        root = names[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in archive.namelist():
            raise ValueError("a TorchScript program: save its state_dict() instead")
        order: Order = ">" if _entry(archive, f"{root}byteorder", b"little") == b"big" else "<"
        # As a whole, so that its checksum is compared before anything acts on it.
        tree = CheckpointUnpickler(io.BytesIO(archive.read(names[0]))).load()

        def tensor(record: TensorRecord) -> np.ndarray:
            numbers = archive.read(f"{root}data/{record.storage.key}")
            return _as_array(record, numbers, order)

        yield TorchFile(tree, tensor)


@contextmanager
def open_legacy(path: Path) -> Iterator[TorchFile]:
    """Opens a checkpoint of PyTorch before 1.6; errors as ``open_zip``."""
    with _faults_named(path), path.open("rb") as stream:
        number, protocol, machine = (CheckpointUnpickler(stream).load() for _ in range(3))
        if number != _LEGACY_NUMBER or protocol != _LEGACY_PROTOCOL:
            raise ValueError(f"of unknown protocol {protocol}: save it with a newer PyTorch")
        order: Order = "<" if machine["little_endian"] else ">"
        unpickler = CheckpointUnpickler(stream)
        tree = unpickler.load()
        places = _legacy_places(stream, unpickler.storages, order)

        def tensor(record: TensorRecord) -> np.ndarray:
            stream.seek(places[record.storage.key])
            numbers = stream.read(record.storage.length * _dtype(record.storage).itemsize)
            return _as_array(record, numbers, order)

        yield TorchFile(tree, tensor)


def _legacy_places(stream: BinaryIO, storages: dict[str, Storage], order: Order) -> dict[str, int]:
    """Where in the file each storage's numbers begin."""
    places: dict[str, int] = {}
    for key in CheckpointUnpickler(stream).load():
        (count,) = struct.unpack(f"{order}q", stream.read(8))
        if key not in storages or count != storages[key].length:
            raise ValueError(f"damaged: storage {key!r} is not as described")
        places[key] = stream.tell()
        stream.seek(count * _dtype(storages[key]).itemsize, 1)
    return places


def _dtype(storage: Storage) -> np.dtype:
    if storage.kind not in _DTYPES:
        raise ValueError(
            f"numbers of type {storage.kind}, which numpy lacks: save them as float32 "
            "(tensor.float())"
        )
    return np.dtype(_DTYPES[storage.kind])


def _as_array(record: TensorRecord, numbers: bytes, order: Order) -> np.ndarray:
    """The tensor in C order, in the machine's byte order; bfloat16 as float32, which holds it."""
    dtype = _dtype(record.storage).newbyteorder(order)
    if len(numbers) != record.storage.length * dtype.itemsize:
        raise ValueError(f"damaged: storage {record.storage.key!r} is cut short")
    size = math.prod(record.shape)
    extent = sum((n - 1) * s for n, s in zip(record.shape, record.stride, strict=True))
    last = record.offset + extent
    if size and (last >= record.storage.length or size > record.storage.length):
        raise ValueError(f"damaged: a tensor {record.shape} reaches beyond its storage")
    base = np.frombuffer(numbers, dtype)[record.offset :]
    strides = [s * dtype.itemsize for s in record.stride]
    view = np.lib.stride_tricks.as_strided(base, record.shape, strides, writeable=False)
    native = view.astype(dtype.newbyteorder("="), order="C")
    if record.storage.kind == _BFLOAT16:
        return (native.astype(np.uint32) << 16).view(np.float32)
    return native


def _entry(archive: zipfile.ZipFile, name: str, default: bytes) -> bytes:
    return archive.read(name) if name in archive.namelist() else default


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """Names the file in whatever goes wrong: a damaged pickle may raise nearly anything."""
    try:
        yield
    except (pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:
        raise ValueError(
            f"{path}: damaged or cut short ({type(error).__name__}: {error}); get it again"
        ) from error
