"""Data sets built by TFDS in ArrayRecord files, read without TensorFlow.

``root`` holds built sets as TFDS lays them out, ``SET/VERSION/dataset_info.json``. A set needs a
feature ``image``; ``label``, ``group`` (or ``patient``) are used where it has them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ufm_jax.data.cache.fingerprint import digest
from ufm_jax.data.cells import name_of, text_of
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.optional import needed_packages
from ufm_jax.data.records import Record
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.files import user_path


@dataclass(frozen=True)
class TfdsImage:
    """Handle of an image of a built set.

    Attributes:
        folder: The built set, ``.../SET/VERSION``.
        split: The image's split.
        position: Number of the example in the split.
        hexdigest: Digest of the encoded image.
    """

    folder: Path
    split: str
    position: int
    hexdigest: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.folder}:{self.split}[{self.position}]"

    def fingerprint(self) -> bytes:
        """The digest of the bytes."""
        return bytes.fromhex(self.hexdigest)

    def load(self) -> bytes:
        """Reads the encoded image.

        Raises:
            CorruptImage: If the example cannot be read.
        """
        try:
            image: bytes = _source(self.folder, self.split)[self.position]["image"]
        except Exception as error:  # TFDS and its readers raise errors of several kinds
            raise CorruptImage(f"cannot be read: {error}") from error
        return image


def read_records(settings: DataSettings) -> Iterator[Record]:
    """Lists the images of all sets built in ``settings.root``.

    The values of the features ``client_columns``, joined by '/', name the client; without such
    features, each set is a client.

    Raises:
        DataError: If no set is there, one is there in several versions, lacks a feature or cannot
            be read, or a package is not installed.
    """
    _source.cache_clear()  # the sets may have been built again since they were last listed
    _builder.cache_clear()
    root = user_path(settings.root)
    folders = sorted({file.parent for file in root.glob("**/dataset_info.json")})
    if not folders:
        raise DataError(
            f"no set built by TFDS in {root}: build one with tools/prepare_data.py tfds"
        )
    for older, newer in pairwise(folders):
        if older.parent == newer.parent:
            raise DataError(
                f"{older} and {newer} are versions of one set and would count its images twice: "
                "remove one, or point `root` at the other"
            )
    for folder in folders:
        builder = _builder(folder)
        features = builder.info.features
        absent = [c for c in ("image", *settings.client_columns) if c not in features]
        if absent:
            raise DataError(f"{folder} lacks the features {absent}; it has {list(features)}")
        for split in sorted(builder.info.splits):
            yield from _of_split(builder, folder, split, settings)


def _of_split(builder: Any, folder: Path, split: str, settings: DataSettings) -> Iterator[Record]:
    features = builder.info.features
    for position, example in enumerate(_examples(folder, split)):
        values = [_text(features, c, example[c]) for c in settings.client_columns]
        group = _text(features, "group", example.get("group", example.get("patient", "")))
        label = _text(features, "label", example.get("label", ""))
        yield Record(
            client=("/".join(values) if all(values) else "") if values else builder.name,
            image=TfdsImage(folder, split, position, digest(example["image"]).hex()),
            label=label or None,
            group=f"{builder.name}/{group}" if group else None,
            split=split,
        )


def _examples(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """All examples of a split, images still encoded."""
    absent = [file for file in _builder(folder).info.splits[split].filepaths if not file.exists()]
    if absent:
        raise DataError(f"{absent[0]} is missing: copy the whole folder, or build it again")
    with _faults_named(folder, split):
        source = _source(folder, split)
    for position in range(len(source)):
        with _faults_named(folder, split):
            example = source[position]
        yield example


@contextmanager
def _faults_named(folder: Path, split: str) -> Iterator[None]:
    try:
        with needed_packages():
            yield
    except DataError:
        raise
    except Exception as error:  # TFDS and its readers raise errors of several kinds
        raise DataError(
            f"{folder}: split {split!r} cannot be read ({error}): build it again"
        ) from error


def _text(features: Any, name: str, value: Any) -> str:
    """A feature's value as a cell's text: a class number's name; '' for -1, which is unknown."""
    if isinstance(value, bytes):
        return text_of(value.decode())
    names = getattr(features[name], "names", None) if name in features else None
    if names and not isinstance(value, str):
        return name_of(str(names[int(value)])) if int(value) >= 0 else ""
    return text_of(str(value))


@lru_cache(maxsize=32)
def _source(folder: Path, split: str) -> Any:
    from tensorflow_datasets import decode

    features = _builder(folder).info.features
    skipped = {name: decode.SkipDecoding() for name in ("image", "mask") if name in features}
    return _builder(folder).as_data_source(split, decoders=skipped)


@lru_cache(maxsize=32)
def _builder(folder: Path) -> Any:
    with needed_packages():
        import tensorflow_datasets as tfds
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises errors of several kinds
        raise DataError(f"{folder} is not a set built by TFDS ({error}): build it again") from error
