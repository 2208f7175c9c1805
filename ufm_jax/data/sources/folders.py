"""A folder a client: every image below it, at any depth, is the client's."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ufm_jax.data.issues import Issue
from ufm_jax.data.records import Listing, Record
from ufm_jax.errors import DataError

SUFFIXES = frozenset(
    (
        ".bmp",
        ".gif",
        ".jpeg",
        ".jpg",
        ".jp2",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)


def read_folders(root: Path, exclude: Sequence[str]) -> Listing:
    """Reads one client from each folder in `root`.

    Args:
      root: folder of the clients' folders.
      exclude: names of folders, at any depth, that hold no images to learn from (masks).

    Returns:
      Clients named by their folders, sorted; images sorted by path. Hidden files and folders are
      passed over; other files that are no images, and linked folders, are listed as issues.

    Raises:
      DataError: `root` has no folder.
    """
    if not root.is_dir():
        raise DataError(f"root {root} is not a folder")
    clients = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not clients:
        raise DataError(f"no folder of a client in {root}: put each client's images in a folder")
    records: list[Record] = []
    issues = [
        Issue("no_client", "", str(file), "lies beside the clients' folders, not in one")
        for file in sorted(root.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    excluded: dict[str, int] = {}
    for client in clients:
        for path, reason in _walk(client, frozenset(exclude)):
            if reason.startswith("folder "):
                excluded[reason] = excluded.get(reason, 0) + 1
            elif reason:
                issues.append(Issue("not_image", client.name, str(path), reason))
            else:
                records.append(Record(client.name, path))
    names = tuple(client.name for client in clients)
    return Listing(names, tuple(records), root, tuple(issues), excluded)


def _walk(client: Path, exclude: frozenset[str]) -> Iterator[tuple[Path, str]]:
    """Every file below a client's folder, and why it is no image to learn from ('' if it is)."""
    for folder, subfolders, files in os.walk(client):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (here / name).is_symlink():
                yield here / name, "links to a folder; links to folders are not followed"
        left_out = exclude.intersection(here.relative_to(client).parts)
        for name in sorted(files):
            is_image = Path(name).suffix.lower() in SUFFIXES
            if is_image and left_out:
                yield here / name, f"folder {min(left_out)!r}"
            elif not name.startswith("."):
                yield here / name, "" if is_image else "does not have the suffix of an image"
