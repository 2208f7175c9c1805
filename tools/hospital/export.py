"""From a folder of a hospital's files to PNG and an index.csv that name nobody.

    OUT/images/CLIENT/*.png     000012_003: file 12 in the order of their paths, frame 3; what lies
                                outside the scan is black
    OUT/index.csv               a row an image: see ``COLUMNS``
    OUT/report.html             what was kept, blackened and left out, for a person to look at
    OUT/overviews/000012.png    the pictures of that page

Paths of the input may hold names and dates, so that none is written there: ``origin`` is a keyed
hash, and which file it is of stands in a table beside the site's key, which stays with the site.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cells import name_of, text_of
from ufm_jax.data.csv_files import read_csv, writing_csv
from ufm_jax.data.records import Listing
from ufm_jax.data.scans.expand import SPACING, Opened, issues_of, open_scans
from ufm_jax.data.scans.extract import OVERVIEW, Scan
from ufm_jax.data.scans.pseudonyms import Pseudonyms, site_key
from ufm_jax.data.scans.store import frame_files
from ufm_jax.data.screening import fault_of_file
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.folders import Exclusions, read_folder, read_folders
from ufm_jax.errors import DataError
from ufm_jax.files import config_folder, private_folder

COLUMNS = (
    *("image", "client", "group", "label", "organ", SPACING),
    *("model", "transducer", "frame_ms", "frame", "origin"),
)
INDEX, OVERVIEWS = "index.csv", "overviews"


class Request(NamedTuple):
    """What is exported.

    Attributes:
        source: The folder that is read.
        out: A new folder.
        client: The client whose all files are; None where each folder in ``source`` is a client.
        labels: A table with the columns image (a path below ``source``, or a file's name) and
            label; None for no labels.
        settings: Which frames, the cache, and the number of threads.
    """

    source: Path
    out: Path
    client: str | None
    labels: Path | None
    settings: DataSettings


@dataclass(frozen=True)
class File:
    """What became of a file.

    Attributes:
        number: Its number, from 1.
        client: Whose it is.
        origin: The keyed hash of its path.
        scan: What is known of it; None if it could not be read.
        images: Images written.
        copies: Frames left out, since the client has these pixels already.
        fault: The kind of fault for which nothing was written; '' if something was.
    """

    number: int
    client: str
    origin: str
    scan: Scan | None = None
    images: int = 0
    copies: int = 0
    fault: str = ""


class Export(NamedTuple):
    """What was made.

    Attributes:
        files: The images and scans that were found.
        groups: Patients, or files of no known patient, of which there are images.
        others: Other files that were found, by kind of issue.
        unmatched: Rows of the labels that are of no file.
        origins: The table that says which origin is of which file.
    """

    files: Sequence[File]
    groups: int
    others: Mapping[str, int]
    unmatched: int
    origins: Path


def export(request: Request, progress: Progress | None = None) -> Export:
    """Exports a folder.

    Args:
        request: What and where.
        progress: Called with (done, total) files while they are read.

    Raises:
        DataError: If the folders, labels or installed packages do not serve; before anything is
            written.
    """
    source, out = request.source, request.out
    listing = _listing(request)
    paths = [Path(record.name) for record in listing.records]
    below = [path.relative_to(source).as_posix() for path in paths]
    labels, unmatched = _labels(request.labels, below)
    names = Pseudonyms(site_key(config_folder()))
    fault_of = fault_of_file(source)
    faults = {path: fault[0] for path in paths if (fault := fault_of(path))}
    sound = [path for path in paths if path not in faults]
    opened = open_scans(sound, request.settings, progress, pictures=True)
    origins = config_folder() / f"origins_{names.of(str(out.resolve()))}.csv"
    files: list[File] = []
    private_folder(out)
    with (
        writing_csv(out / INDEX, COLUMNS) as add,
        writing_csv(origins, ("origin", "number", "file", "images", "fault")) as add_origin,
    ):
        images = _Images(out, add)
        records = zip(listing.records, paths, below, strict=True)
        for number, (record, path, name) in enumerate(records, 1):
            file = File(number, record.client, names.of(name), fault=faults.get(path, ""))
            if not file.fault:
                file = images.write(file, opened[path], labels.get(name, ""))
            files.append(file)
            add_origin((file.origin, number, name, file.images, file.fault))
    others = Counter(issue.kind for issue in listing.issues)
    return Export(files, len(images.groups), others, unmatched, origins)


def _listing(request: Request) -> Listing:
    """The files of the input, and whose they are."""
    source, out, client = request.source, request.out, request.client
    if not source.is_dir():
        raise DataError(f"--in={source}: no such folder")
    if out.exists():
        raise DataError(f"--out={out} exists: name a new folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"--out={out} lies within --in={source}: name another folder")
    if client is not None and (Path(client).name != client or client == ".."):
        raise DataError(f"--client={client}: use a name without slashes")
    everything = Exclusions()
    listing = (
        read_folders(source, everything)
        if client is None
        else read_folder(source, client, everything)
    )
    if not listing.records:
        raise DataError(f"--in={source}: there is no image, DICOM, clip or NIfTI in it")
    return listing


def _labels(table: Path | None, below: Sequence[str]) -> tuple[dict[str, str], int]:
    """The label of each file, by its path below the input; and the number of rows of no file."""
    if table is None:
        return {}, 0
    of_path = {name_of(path): [path] for path in below}
    of_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in below:
        of_name[name_of(path.rpartition("/")[2])].append(path)
    labels: dict[str, str] = {}
    unmatched = 0
    for row in read_csv(table, ("image", "label"))[1]:
        named, label = text_of(row.cells["image"]), text_of(row.cells["label"])
        found = of_path.get(name_of(named)) or of_name[name_of(named)]
        if len(found) > 1:
            raise DataError(f"{row.place}: several files are called {named}: name their paths")
        unmatched += not found
        for path in found:
            if labels.setdefault(path, label) != label:
                raise DataError(f"{row.place}: {named} has the label {labels[path]!r} above")
    return labels, unmatched


class _Images:
    """Writes files' frames as PNG and rows, each picture of a client once."""

    def __init__(self, out: Path, add: Callable[[Sequence[object]], None]) -> None:
        self._out, self._add = out, add
        self._labels: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.groups: set[str] = set()

    def write(self, file: File, found: Opened, label: str) -> File:
        """Writes what is kept of a file, and says what became of it."""
        scan = found.scan
        if scan is not None:
            _copy(found.folder / OVERVIEW, self._out / OVERVIEWS / f"{file.number:06}.png")
        if scan is None or not scan.kept:
            return replace(file, scan=scan, fault=issues_of(found, "", "")[-1].kind)
        group = f"{file.client} {found.patient or file.origin}"
        images = 0
        for frame in frame_files(scan, found.folder, ""):
            picture = file.client, frame.content
            # An equal picture with another label stays, for whoever reads the table to decide.
            if label in self._labels[picture] or (self._labels[picture] and not label):
                continue
            self._labels[picture].add(label)
            self.groups.add(group)
            images += 1
            image = f"images/{file.client}/{file.number:06}_{frame.number + 1:03}.png"
            _copy(frame.file, self._out / image)
            facts = scan.model, scan.transducer, scan.frame_ms or "", frame.number + 1, file.origin
            self._add((image, file.client, group, label, scan.organ, scan.mm or "", *facts))
        return replace(file, scan=scan, images=images, copies=len(scan.kept) - images)


def _copy(file: Path, to: Path) -> None:
    private_folder(to.parent)
    shutil.copyfile(file, to)
    to.chmod(0o600)
