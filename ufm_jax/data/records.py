"""Records: what is known of an image before it is decoded."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
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


def file_faults(records: Sequence[Record], root: Path) -> dict[int, Issue]:
    """The fault of each image file that is missing, empty or outside the root, by position.

    No file is read, and images that are not files are passed over. A file may leave the root
    neither by '..' nor by a symbolic link.
    """
    fault = fault_of_file(root)
    faults = {}
    for index, record in enumerate(records):
        if isinstance(record.image, Path) and (found := fault(record.image)):
            faults[index] = Issue(found[0], record.client, record.name, found[1])
    return faults


def fault_of_file(root: Path) -> Callable[[Path], tuple[str, str] | None]:
    """A function that returns a file's kind of fault and the reason, or None if it is sound.

    A file that leaves ``root`` has a fault.
    """
    real_root = os.path.realpath(root)
    real_folder = functools.lru_cache(maxsize=None)(os.path.realpath)

    def fault(path: Path) -> tuple[str, str] | None:
        try:
            plain = path.name != ".." and not path.is_symlink()
            real = os.path.join(real_folder(path.parent), path.name)
            real = real if plain else os.path.realpath(path)
            if os.path.commonpath([real_root, real]) != real_root:
                return "outside", f"lies outside the root {root}, at {real}"
            stat = os.stat(real)
        except (OSError, ValueError) as error:
            return "missing", f"cannot be opened: {getattr(error, 'strerror', None) or error}"
        if not S_ISREG(stat.st_mode):
            return "missing", "is not a file"
        return None if stat.st_size else ("empty", "has 0 bytes")

    return fault
