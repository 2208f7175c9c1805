"""Images packed into ArrayRecord files: one file instead of a hundred thousand.

A folder holds ``images-00000.array_record`` and so on, whose records are the images' encoded bytes
as they were, and ``index.jsonl``, a line an image: name, client, label, group, split, where its
bytes are, and their digest. The index alone is read at the start of a run.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ufm_jax.data.decode import CorruptImage
from ufm_jax.data.fingerprint import digest
from ufm_jax.data.issues import DataError
from ufm_jax.data.records import Record
from ufm_jax.data.settings import DataSettings

INDEX = "index.jsonl"


@dataclass(frozen=True)
class PackedImage:
    """Handle of an image in an ArrayRecord file.

    Attributes:
      shard: the file.
      position: number of the record in it.
      original: name of the image before it was packed.
      hexdigest: digest of its bytes when it was packed.
    """

    shard: Path
    position: int
    original: str
    hexdigest: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.shard}[{self.position}] ({self.original})"

    def fingerprint(self) -> bytes:
        """The digest that `load` holds the bytes against."""
        return bytes.fromhex(self.hexdigest)

    def load(self) -> bytes:
        """Reads the bytes.

        Raises:
          CorruptImage: the file cannot be read there, or the bytes are not those that were packed.
        """
        try:
            image: bytes = _open(self.shard)[self.position]
        except Exception as error:  # the reader raises errors of several kinds
            raise CorruptImage(f"cannot be read: {error}") from error
        if digest(image).hex() != self.hexdigest:
            raise CorruptImage("does not hold the bytes that were packed: pack it again")
        return image


def pack(records: Iterable[Record], folder: Path, per_shard: int = 4096) -> int:
    """Packs images with what is known of them.

    Args:
      records: images as files, or handles of encoded bytes.
      folder: made where absent; must not hold an index yet.
      per_shard: images a file.

    Returns:
      Number of images packed.

    Raises:
      DataError: the folder holds an index, or an image is no file of encoded bytes.
    """
    writer_module = _require("array_record.python.array_record_module", "array_record")
    if (folder / INDEX).exists():
        raise DataError(f"{folder} holds packed images already: choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    writer = None
    for number, record in enumerate(records):
        if number % per_shard == 0:
            if writer is not None:
                writer.close()
            shard = f"images-{number // per_shard:05d}.array_record"
            # Groups of one record, so that any image is one read.
            writer = writer_module.ArrayRecordWriter(str(folder / shard), "group_size:1")
        image = _encoded(record)
        writer.write(image)  # type: ignore[union-attr]
        entry = {
            "image": record.name,
            "client": record.client,
            "label": record.label,
            "group": record.group,
            "split": record.split,
            "shard": shard,
            "position": number % per_shard,
            "digest": digest(image).hex(),
        }
        lines.append(json.dumps(entry) + "\n")
    if writer is not None:
        writer.close()
    # Last, so that a folder with an index is a whole one.
    temporary = folder / (INDEX + ".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(folder / INDEX)
    return len(lines)


def read_records(settings: DataSettings) -> Iterator[Record]:
    """Lists the packed images in `settings.root`.

    Raises:
      DataError: no index, a malformed line, or a file that is missing.
    """
    root = Path(settings.root).expanduser()
    index = root / INDEX
    if not index.exists():
        raise DataError(f"{index} does not exist: pack images with tools/prepare_data.py")
    present: set[str] = set()
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            shard = root / Path(entry["shard"]).name
            image = PackedImage(shard, int(entry["position"]), entry["image"], entry["digest"])
            record = Record(
                entry["client"],
                image,
                label=entry["label"],
                group=entry["group"],
                split=entry["split"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index}: line {number} is malformed ({error}): pack again") from error
        if shard.name not in present and not shard.exists():
            raise DataError(f"{shard} is missing, though {index} names it: copy the whole folder")
        present.add(shard.name)
        yield record


def _encoded(record: Record) -> bytes:
    image = record.image.read_bytes() if isinstance(record.image, Path) else record.image.load()
    if not isinstance(image, bytes):
        raise DataError(f"{record.name} is simulated: only encoded images can be packed")
    return image


@lru_cache(maxsize=256)
def _open(shard: Path) -> Any:
    return _require("grain", "grain").sources.ArrayRecordDataSource(str(shard))


def _require(module: str, package: str) -> Any:
    """Imports an optional package, or says how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"this source needs {package}: pip install {package}") from error
