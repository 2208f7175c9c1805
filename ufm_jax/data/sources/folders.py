"""A folder a client: every image below it, at any depth, is the client's."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cached_property
from itertools import chain
from pathlib import Path

from ufm_jax.data.cells import matched, same_folder
from ufm_jax.data.image_file import SUFFIXES
from ufm_jax.data.issues import Issue
from ufm_jax.data.records import Listing, Record
from ufm_jax.data.scans.kinds import is_scan
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError
from ufm_jax.files import user_path

_MASKS = re.compile(
    r"(?<![^\W\d_])(masks?|labels?|labelme|annotations?|seg|segmentations?|ground_?truth|gt)(?![^\W\d_])"
)
"""A word in the name of a folder that plainly holds masks or labels."""


@dataclass(frozen=True)
class Exclusions:
    """Names of folders, and patterns of names of files, that do not hold images to learn from."""

    folders: Sequence[str] = ()
    files: Sequence[str] = ()

    def folder(self, parts: Sequence[str]) -> str:
        """The first of some nested folders that is left out; '' if all are taken."""
        return next((p for p in parts if any(same_folder(p, name) for name in self.folders)), "")

    def pattern(self, name: str) -> str:
        """The first pattern that a file's name matches; '' if none does."""
        if not self._any_pattern.match(name.casefold()):
            return ""
        return next(pattern for pattern in self.files if _is_like(name, pattern))

    @cached_property
    def _any_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(translate(p.casefold()) for p in self.files) or r"(?!)")


def exclusions(settings: DataSettings) -> Exclusions:
    """What a source leaves out.

    Raises:
        DataError: If an entry that is not a default matches no folder or file below
            ``settings.root``.
    """
    folders, files = settings.exclude_folders, settings.exclude_files
    usual = DataSettings.exclude_folders, DataSettings.exclude_files
    if (folders, files) == usual:
        return Exclusions(*usual)
    walked = list(os.walk(user_path(settings.root)))
    below, there = (chain(*(step[place] for step in walked)) for place in (1, 2))
    matched("exclude_files", files, there, usual[1], _is_like)
    return Exclusions(matched("exclude_folders", folders, below, usual[0], same_folder), files)


def read_folders(root: Path, exclude: Exclusions) -> Listing:
    """Reads one client from each folder in ``root``, leaving out what ``exclude`` names.

    Clients are named by their folders. Clients and images are sorted by path. Hidden files and
    folders are passed over; other files that are not images, and linked folders, are listed as
    issues.

    Raises:
        DataError: If ``root`` has no folder.
    """
    if not root.is_dir():
        raise DataError(f"root {root} is not a folder")
    clients = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not clients:
        raise DataError(f"no folder of a client in {root}: put each client's images in a folder")
    beside = [
        Issue("no_client", "", str(file), "lies beside the clients' folders, not in one")
        for file in sorted(root.iterdir())
        if file.suffix.lower() in SUFFIXES or (file.is_file() and is_scan(file))
    ]
    parts = [read_folder(folder, folder.name, exclude) for folder in clients]
    return Listing(
        tuple(folder.name for folder in clients if not exclude.folder((folder.name,))),
        tuple(record for part in parts for record in part.records),
        root,
        (*beside, *(issue for part in parts for issue in part.issues)),
        dict(sum((Counter(part.excluded) for part in parts), Counter())),
    )


def read_folder(folder: Path, client: str, exclude: Exclusions) -> Listing:
    """Reads one client from everything below a folder; see ``read_folders``."""
    records: list[Record] = []
    issues: list[Issue] = []
    excluded: Counter[str] = Counter()
    for path, left_out, fault in _walk(folder, exclude):
        if left_out:
            excluded[left_out] += 1
        elif fault:
            issues.append(Issue("not_image", client, str(path), fault))
        else:
            records.append(Record(client, path))
    return Listing((client,), tuple(records), folder, tuple(issues), dict(excluded))


def named_like_masks(listing: Listing) -> list[Issue]:
    """An issue for each folder of images whose name says that it holds masks or labels."""
    folders: dict[Path, str] = {}
    for record in listing.records:
        if isinstance(record.image, Path):
            folders.setdefault(record.image.parent, record.client)
    return [
        Issue("mask_folder", client, str(folder), "if so, leave it out with exclude_folders")
        for folder, client in folders.items()
        if _MASKS.search(folder.relative_to(listing.root or "/").as_posix().casefold())
    ]


def _walk(client: Path, exclude: Exclusions) -> Iterator[tuple[Path, str, str]]:
    """Every file below a client's folder, what it is left out by, and why it is not an image."""
    for folder, subfolders, files in os.walk(client):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (here / name).is_symlink():
                yield here / name, "", "links to a folder; links to folders are not followed"
        left_out = exclude.folder(here.relative_to(client.parent).parts)
        for name in sorted(name for name in files if not name.startswith(".")):
            if Path(name).suffix.lower() not in SUFFIXES and not is_scan(here / name):
                yield here / name, "", "does not have the suffix of an image"
            elif left_out:
                yield here / name, f"folder {left_out!r}", ""
            else:
                pattern = exclude.pattern(name)
                yield here / name, f"name like {pattern!r}" if pattern else "", ""


def _is_like(name: str, pattern: str) -> bool:
    return fnmatchcase(name.casefold(), pattern.casefold())
