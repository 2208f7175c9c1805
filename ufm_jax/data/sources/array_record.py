"""Images packed into ArrayRecord files: one file instead of a hundred thousand.

A folder holds ``images-00000.array_record`` and so on, whose records are the images' encoded bytes
as they were, and ``index.jsonl``, a line an image: name, client, label, group, split, where its
bytes are, and their digest. A run's start reads only the index, and those files that were changed
after it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.data.cells import text_of
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.records import Record, load_source
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.files import private_folder, user_path, write_text

INDEX = "index.jsonl"

_FACTS = ("client", "label", "group", "split")


@dataclass(frozen=True)
class PackedImage:
    """Handle of an image in an ArrayRecord file.

    Attributes:
        shard: The file.
        position: Number of the record in the file.
        original: Name of the image before it was packed.
        hexdigest: Digest of its bytes when it was packed.
        untouched: Whether the file last changed before the index was written, which packing does
            last: its bytes are then taken to be those that were packed.
    """

    shard: Path
    position: int
    original: str
    hexdigest: str
    untouched: bool

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.shard}[{self.position}] ({self.original})"

    def fingerprint(self) -> bytes:
        """The digest of the bytes, or another one where they cannot be read.

        Decoded images are kept under this name, and so are failures: if a damaged image had the
        digest of the sound one, it would stay a failure after it was mended.
        """
        packed = bytes.fromhex(self.hexdigest)
        if self.untouched:
            return packed
        try:
            self.load()
        except CorruptImage as error:
            return digest(b"damaged", packed, str(error).encode())
        return packed

    def load(self) -> bytes:
        """Reads the bytes.

        Raises:
            CorruptImage: If the file cannot be read there, or the bytes are not those that were
                packed.
            DataError: If grain is not installed, or the file cannot be opened.
        """
        source = _open(self.shard)
        try:
            image: bytes = source[self.position]
        except Exception as error:  # the reader raises errors of several kinds
            raise CorruptImage(f"cannot be read: {error}") from error
        if digest(image).hex() != self.hexdigest:
            raise CorruptImage("does not hold the bytes that were packed: pack it again")
        return image


def pack(records: Iterable[Record], folder: Path, root: Path, per_shard: int = 4096) -> int:
    """Packs images with what is known of them.

    Args:
        records: Images as files, or handles of encoded bytes.
        folder: Made where absent; must not hold an index yet.
        root: Folder that the images' names are noted relative to, so that the same images give the
            same bytes wherever they lie.
        per_shard: Images a file.

    Returns:
        Number of images packed.

    Raises:
        DataError: If the folder holds an index, an image is simulated or cannot be read, or
            array_record is not installed.
    """
    with needed_packages():
        from array_record.python.array_record_module import ArrayRecordWriter
    if (folder / INDEX).exists():
        raise DataError(f"{folder} holds packed images already: choose an empty folder")
    private_folder(folder)
    lines: list[str] = []
    writer = None
    for number, record in enumerate(records):
        if number % per_shard == 0:
            if writer is not None:
                writer.close()
            shard = f"images-{number // per_shard:05d}.array_record"
            # Groups of one record, so that any image is one read.
            writer = ArrayRecordWriter(str(folder / shard), "group_size:1")
        image = _encoded(record)
        writer.write(image)  # type: ignore[union-attr]
        entry = {
            "image": _relative_name(record, root),
            **{fact: getattr(record, fact) for fact in _FACTS},
            "shard": shard,
            "position": number % per_shard,
            "digest": digest(image).hex(),
        }
        lines.append(json.dumps(entry) + "\n")
    if writer is not None:
        writer.close()
    # Last, so that a folder with an index is a whole one.
    write_text(folder / INDEX, "".join(lines))
    return len(lines)


def read_records(settings: DataSettings) -> Iterator[Record]:
    """Lists the packed images in ``settings.root``.

    Raises:
        DataError: If the index is missing, a line is malformed, a file is missing or cannot be
            opened, or grain is not installed.
    """
    _open.cache_clear()  # the files may have been replaced since they were last listed
    root = user_path(settings.root)
    index = root / INDEX
    if not index.exists():
        raise DataError(f"{index} does not exist: pack images with tools/prepare_data.py")
    shards: dict[Path, tuple[int, bool]] = {}
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            shard, position = root / Path(entry["shard"]).name, int(entry["position"])
            hexdigest = bytes.fromhex(entry["digest"]).hex()
            facts = {name: text_of(entry[name] or "") for name in _FACTS}
            original = entry["image"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index}: line {number} is malformed ({error}): pack again") from error
        if shard not in shards:
            shards[shard] = _inspect(shard, index)
        count, untouched = shards[shard]
        if not 0 <= position < count:
            raise DataError(
                f"{index}: line {number} names image {position} of {shard}, which holds {count}: "
                "copy the whole folder, or pack again"
            )
        yield Record(
            client=facts["client"],
            image=PackedImage(shard, position, original, hexdigest, untouched),
            label=facts["label"] or None,
            group=facts["group"] or None,
            split=facts["split"],
            place=f"{index}, line {number}",
        )


def _inspect(shard: Path, index: Path) -> tuple[int, bool]:
    """Number of images in a file, and whether it last changed before the index was written."""
    if not shard.exists():
        raise DataError(f"{shard} is missing, though {index} names it: copy the whole folder")
    # Strictly before: clocks tick in milliseconds, and no program can set the change time.
    untouched = shard.stat().st_ctime_ns < index.stat().st_ctime_ns
    return len(_open(shard)), untouched


def _relative_name(record: Record, root: Path) -> str:
    if isinstance(record.image, Path):
        return Path(os.path.relpath(record.image, root)).as_posix()
    return record.name


def _encoded(record: Record) -> bytes:
    try:
        image = load_source(record.image)
    except (OSError, CorruptImage) as error:
        raise DataError(f"{record.name} cannot be read: {error}") from error
    if not isinstance(image, bytes):
        raise DataError(f"{record.name} is simulated: only encoded images can be packed")
    return image


@lru_cache(maxsize=256)
def _open(shard: Path) -> Any:
    with needed_packages():
        from grain.sources import ArrayRecordDataSource
    try:
        return ArrayRecordDataSource(str(shard))
    except Exception as error:  # the reader raises errors of several kinds
        raise DataError(
            f"{shard} cannot be opened ({error}): copy the whole folder, or pack again"
        ) from error
