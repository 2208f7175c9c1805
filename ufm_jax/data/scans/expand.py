"""From records of scans to a record a frame."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.fingerprint import content_digests
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.issues import Issue
from ufm_jax.data.records import Record, unique_name
from ufm_jax.data.scans.contents import patient_of
from ufm_jax.data.scans.dicom import NoPictures
from ufm_jax.data.scans.extract import Reading, Scan
from ufm_jax.data.scans.kinds import is_picture, is_scan
from ufm_jax.data.scans.pseudonyms import Pseudonyms, site_key
from ufm_jax.data.scans.store import frame_files, open_scan
from ufm_jax.data.settings import DataSettings
from ufm_jax.files import cache_folder, config_folder
from ufm_jax.threads import map_in_order

SPACING = "px_mm"
"""The attribute that holds a pixel's millimetres, unless the source has one of that name."""


class Opened(NamedTuple):
    """What became of a scan: its kept frames and their folder, or the fault why there are none.

    ``patient`` is the patient's pseudonym, '' if the file names none; ``kind`` the fault's kind of
    issue.
    """

    scan: Scan | None
    folder: Path
    patient: str = ""
    fault: str = ""
    kind: str = "corrupt"


def open_scans(
    files: Sequence[Path],
    settings: DataSettings,
    progress: Progress | None = None,
    *,
    pictures: bool = False,
) -> dict[Path, Opened]:
    """Reads those of some files that are scans, each once.

    Args:
        files: Files of any kind.
        settings: Which frames, the cache, and the number of threads.
        progress: Called with (done, total) scans.
        pictures: Whether image files are taken for scans too, and blackened as these are.

    Raises:
        DataError: If a package that reads a scan is not installed.
    """
    scans = [file for file in files if is_scan(file) or (pictures and is_picture(file))]
    if not scans:
        return {}
    cache_dir = cache_folder(settings.cache_dir)
    names = Pseudonyms(site_key(config_folder()))
    digests, unreadable = content_digests(scans, cache_dir, settings.workers)
    reading = Reading(settings.frames, settings.whole_frames, settings.value_range)
    work = functools.partial(_opened, reading=reading, cache_dir=cache_dir, names=names)
    contents = {path: (digests[i], unreadable.get(i, "")) for i, path in enumerate(scans)}
    opened: dict[Path, Opened] = {}
    results = map_in_order(work, contents.items(), settings.workers)
    for done, (path, result) in enumerate(zip(contents, results, strict=True), 1):
        opened[path] = result
        if progress is not None:
            progress(done, len(contents))
    return opened


def with_frames(
    records: Sequence[Record],
    root: Path | None,
    settings: DataSettings,
    progress: Progress | None = None,
) -> tuple[tuple[Record, ...], list[Issue]]:
    """Replaces each record of a scan by those of its kept frames, in order; others stay.

    A frame is called as its file with the frame's number behind it. Those of a file are one group:
    that of the source, else the patient's pseudonym, else the file. Its attributes gain ``px_mm``
    where the header says it.

    Args:
        records: Records without a known fault.
        root: Folder without which files are named, so that moving it changes nothing.
        settings: As for ``open_scans``.
        progress: Likewise.

    Returns:
        The records; and an issue for each scan that cannot be read, of which frames are left out,
        or of whose header something was not believed.

    Raises:
        DataError: If a package that reads a scan is not installed.
    """
    files = [record.image for record in records if isinstance(record.image, Path)]
    opened = open_scans(files, settings, progress)
    expanded: list[Record] = []
    issues: list[Issue] = []
    for record in records:
        found = opened.get(record.image) if isinstance(record.image, Path) else None
        if found is None:
            expanded.append(record)
            continue
        expanded += _frames_of(record, unique_name(record, root), found)
        issues += issues_of(found, record.client, record.name)
    return tuple(expanded), issues


def _opened(
    item: tuple[Path, tuple[bytes, str]], reading: Reading, cache_dir: Path, names: Pseudonyms
) -> Opened:
    path, (content, fault) = item
    if fault:
        return Opened(None, cache_dir, fault=fault)
    try:
        scan, folder = open_scan(path, content, reading, cache_dir)
        patient = patient_of(path)
    except NoPictures as error:
        return Opened(None, cache_dir, fault=str(error), kind="not_image")
    except CorruptImage as error:
        return Opened(None, cache_dir, fault=str(error))
    return Opened(scan, folder, names.of(patient) if patient else "")


def _frames_of(record: Record, name: str, found: Opened) -> list[Record]:
    if found.scan is None:
        return []
    scan, group = found.scan, record.group
    if group is None:
        # Hospitals number patients alike: a number is a patient's within its client alone.
        group = f"{record.client} {found.patient}" if found.patient else name
    attributes = dict(record.attributes)
    if scan.mm is not None:
        attributes.setdefault(SPACING, repr(scan.mm))
    return [
        replace(record, image=frame, group=group, attributes=attributes)
        for frame in frame_files(scan, found.folder, name)
    ]


def issues_of(found: Opened, client: str, name: str) -> list[Issue]:
    """What is wrong with a scan, or was left out of it: see ``with_frames``."""

    def issue(kind: str, reason: str) -> Issue:
        return Issue(kind, client, name, reason)

    scan = found.scan
    if scan is None:
        return [issue(found.kind, found.fault)]
    issues = [issue("scan_header", doubt) for doubt in scan.doubts]
    if not scan.kept:
        issues.append(issue("no_scan", scan.left_out))
    elif scan.left_out:
        chosen = f"{len(scan.kept)} of {scan.frames} frames are taken"
        issues.append(issue("frames", f"{chosen}; each other {scan.left_out}"))
    return issues
