"""Records: what is known of an image before it is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ufm_jax.data.issues import Issue


@dataclass(frozen=True)
class Picture:
    """Pixels that need no decoding, as a simulator makes them.

    Attributes:
        pixels: uint8 [H, W] or [H, W, 1 or 3]; a mask's are its values, whole numbers of any type.
        geometry: float32 [7] in the coordinates of ``pixels``, or None to have it detected.
        label: Class name, if it is known only once the picture is there.
    """

    pixels: np.ndarray
    geometry: np.ndarray | None = None
    label: str | None = None


@runtime_checkable
class ImageHandle(Protocol):
    """An image that is not a file of its own: an entry of a container, or a simulated one."""

    @property
    def name(self) -> str:
        """Unique within the source; messages show it in place of a path."""
        ...

    def fingerprint(self) -> bytes:
        """Bytes that change whenever what ``load`` returns changes."""
        ...

    def load(self) -> bytes | Picture:
        """The encoded file, or finished pixels; several threads call it at once.

        Raises:
            CorruptImage: If the entry is broken; the image is then treated like a broken file.
        """
        ...


ImageSource = Path | ImageHandle
"""Where an image or a mask comes from: a file, or a handle."""


def name_of_source(source: ImageSource) -> str:
    """The file's path or the handle's name, for messages."""
    return str(source) if isinstance(source, Path) else source.name


def load_source(source: ImageSource) -> bytes | Picture:
    """Reads the file, or loads the handle."""
    return source.read_bytes() if isinstance(source, Path) else source.load()


@dataclass(frozen=True, slots=True)
class Record:
    """One image of one client, before decoding.

    Attributes:
        client: Name of the institution (or of the set) that the source gives it to.
        image: Where its bytes or pixels come from.
        label: Class name; None if it has none.
        mask: Segmentation mask of the image's size; None if it has none.
        group: Group (patient) whose images stay together; None where the image stands alone.
        split: 'train', 'test', ...; '' if the source makes no difference.
        attributes: What else the source says about it.
        place: File and row of the table that lists it, for messages; '' if no table does.
    """

    client: str
    image: ImageSource
    label: str | None = None
    mask: ImageSource | None = None
    group: str | None = None
    split: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    place: str = ""

    @property
    def name(self) -> str:
        """The image's path or its handle's name, for messages."""
        return name_of_source(self.image)


def unique_name(record: Record, root: Path | None) -> str:
    """The image's path below the root, or its handle's name: the same wherever the root lies."""
    if root is None or not isinstance(record.image, Path):
        return record.name
    try:
        return record.image.relative_to(root).as_posix()
    except ValueError:
        return record.name


@dataclass(frozen=True)
class Listing:
    """What a source lists.

    Attributes:
        clients: Names in order, including those of clients without an image.
        records: One for each image; ``record.client`` is one of ``clients``, or '' if unknown.
        root: Folder that no path may leave; None if the images are not files.
        issues: What the source passed over, and why.
        excluded: Images left out on purpose, counted by reason.
    """

    clients: tuple[str, ...]
    records: tuple[Record, ...]
    root: Path | None = None
    issues: tuple[Issue, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
