"""The two containers of ``torch.save``: a zip (since PyTorch 1.6) and a row of pickles (before).

Both hold a pickle that describes all objects, and the numbers of each storage by key.
"""

import io
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ufm_jax.errors import DataError
from ufm_jax.interop.pickles import Storage, TensorRecord, load

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
_ORDERS: dict[bytes, Order] = {b"little": "<", b"big": ">"}


class TorchFile(NamedTuple):
    """An open checkpoint.

    Attributes:
        tree: What was saved, with ``TensorRecord`` for tensors and ``Inert`` for other objects.
        tensor: Reads the numbers of a ``TensorRecord``.
    """

    tree: Any
    tensor: Callable[[TensorRecord], np.ndarray]


@contextmanager
def open_zip(path: Path) -> Iterator[TorchFile]:
    """Opens a checkpoint of PyTorch 1.6 or newer.

    Raises:
        DataError: If it is not a checkpoint, is damaged, or names code that must not be run.
    """
    with faults_named(path), zipfile.ZipFile(path) as archive:
        _check_entries(archive, path.stat().st_size)
        names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip, but none of torch.save: it has no data.pkl")
        root = names[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in archive.namelist():
            raise ValueError("a TorchScript program: save its state_dict() instead")
        order = _order(archive, f"{root}byteorder")
        # Read as a whole, so that its checksum is compared before the pickle is run.
        tree, _ = load(io.BytesIO(archive.read(names[0])))

        @lru_cache(maxsize=1)
        def numbers(key: str) -> bytes:
            return archive.read(f"{root}data/{key}")

        def tensor(record: TensorRecord) -> np.ndarray:
            return _as_array(record, numbers(record.storage.key), order)

        yield TorchFile(tree, tensor)


@contextmanager
def open_legacy(path: Path) -> Iterator[TorchFile]:
    """Opens a checkpoint of PyTorch before 1.6, with the errors of ``open_zip``."""
    with (
        faults_named(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
    ):
        number, protocol, machine = (load(stream)[0] for _ in range(3))
        if number != _LEGACY_NUMBER or protocol != _LEGACY_PROTOCOL:
            raise ValueError(f"of unknown protocol {protocol}: save it with a newer PyTorch")
        little = machine.get("little_endian") if isinstance(machine, dict) else None
        if not isinstance(little, bool):
            raise ValueError("damaged: it does not say its byte order")
        order: Order = "<" if little else ">"
        tree, storages = load(stream)
        places = _legacy_places(stream, storages, order)

        def tensor(record: TensorRecord) -> np.ndarray:
            stream.seek(places[record.storage.key])
            numbers = stream.read(record.storage.length * _dtype(record.storage).itemsize)
            return _as_array(record, numbers, order)

        yield TorchFile(tree, tensor)


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses compressed and oversized entries, by which a small file could take much memory."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"its entry {entry.filename} is compressed, which torch.save never does: unpack it "
                "and pack it with zip -0, or save it again"
            )
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("damaged: its entries claim more bytes than it has")


def _order(archive: zipfile.ZipFile, name: str) -> Order:
    """The byte order that a file names; before PyTorch 2.1 it is little, and not named."""
    written = archive.read(name) if name in archive.namelist() else b"little"
    if written not in _ORDERS:
        raise ValueError(f"damaged: its byte order is {written[:12]!r}, neither little nor big")
    return _ORDERS[written]


def _legacy_places(stream: mmap.mmap, storages: dict[str, Storage], order: Order) -> dict[str, int]:
    """The place in the file where each storage's numbers begin."""
    places: dict[str, int] = {}
    for key in load(stream)[0]:
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
    """The tensor in C order and the machine's byte order; bfloat16 becomes float32."""
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


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turns errors into ones that name the file; a damaged pickle may raise nearly any error.

    Raises:
        DataError: In place of any error but an OSError.
    """
    try:
        yield
    except OSError:
        raise
    except (pickle.UnpicklingError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:
        raise DataError(
            f"{path}: damaged or cut short ({type(error).__name__}: {error}); get it again"
        ) from error
