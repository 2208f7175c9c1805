"""A folder of images of any format and size, read for prediction in bounded memory."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ufm_jax.data.cache.cache import Progress
from ufm_jax.data.cache.decode import DecodedFile, decode_bytes, make_row
from ufm_jax.data.decoding import check_depth
from ufm_jax.data.image_file import SUFFIXES, CorruptImage
from ufm_jax.data.records import ImageSource, Picture, load_source
from ufm_jax.data.scans.expand import issues_of, open_scans
from ufm_jax.data.scans.extract import Scan
from ufm_jax.data.scans.kinds import is_scan
from ufm_jax.data.scans.store import FrameFile, frame_files
from ufm_jax.data.screening import fault_of_file
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.folders import Exclusions
from ufm_jax.errors import DataError
from ufm_jax.threads import map_in_order

_Item = TypeVar("_Item")

_FIRST = 32
"""Files that are looked at before any is predicted."""


_log = logging.getLogger(__name__)


class ScanFrame(NamedTuple):
    """A frame, and the scan that it is of: ``file`` is its path below the folder."""

    file: str
    scan: Scan
    frame: FrameFile


class ListedFile(NamedTuple):
    """A file of a folder, or a frame of one.

    Attributes:
        name: Path below the folder, with forward slashes; of a clip's frame its number behind it.
        error: Why it cannot be read; '' if it can be.
        part: The frame, where the file is a scan that can be read.
    """

    name: str
    error: str = ""
    part: ScanFrame | None = None

    @property
    def file(self) -> str:
        """The path of its file below the folder."""
        return self.part.file if self.part else self.name

    def source(self, root: Path) -> ImageSource:
        """Where its pixels are."""
        return self.part.frame if self.part else root / self.name


@dataclass(frozen=True)
class FolderImage:
    """An image as the network takes it.

    Attributes:
        listed: The file.
        image: uint8 [S, S, C], the picture in the top-left corner.
        extent: (height, width) of the picture there.
        native: (height, width) of the file, turned upright as its EXIF says, or of the frame.
        frames: Frames in the file, of which the first is used; of a frame 1.
    """

    listed: ListedFile
    image: np.ndarray
    extent: tuple[int, int]
    native: tuple[int, int]
    frames: int


def list_files(root: Path, settings: DataSettings) -> tuple[ListedFile, ...]:
    """All files below a folder, sorted within each folder.

    Hidden files and folders are passed over. An error stands beside each file that is not read:
    links to folders, files without the suffix of an image, files that training would not take
    (links that leave the folder, empty files, masks by their names), and what cannot be listed.

    Args:
        root: The folder.
        settings: Patterns of the names of folders and files that are left out.

    Raises:
        DataError: If ``root`` is not a folder, or has no file.
    """
    if not root.is_dir():
        what = "is a file: name its folder" if root.exists() else "no such folder"
        raise DataError(f"--images={root}: {what}")
    found: list[ListedFile] = []
    fault = fault_of_file(root)
    exclude = Exclusions(settings.exclude_folders, settings.exclude_files)

    def add(path: Path, error: str) -> None:
        found.append(ListedFile(path.relative_to(root).as_posix(), error))

    def unreadable(error: OSError) -> None:
        add(Path(error.filename), f"cannot be listed: {_why(error)}")

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (here / name).is_symlink():
                add(here / name, "is a link to a folder, which is not followed")
        left_out = exclude.folder(here.relative_to(root).parts)
        for name in sorted(name for name in files if not name.startswith(".")):
            error = "does not have the suffix of an image"
            if Path(name).suffix.lower() in SUFFIXES or is_scan(here / name):
                _, error = fault(here / name) or ("", "")
                if like := left_out or exclude.pattern(name):
                    error = f"is left out by its name, like {like!r}"
            add(here / name, error)
    if not found:
        raise DataError(f"--images={root}: there is no file in it")
    return tuple(found)


def with_frames(
    root: Path,
    files: Sequence[ListedFile],
    settings: DataSettings,
    progress: Progress | None = None,
) -> tuple[ListedFile, ...]:
    """Replaces each scan by its kept frames, in order, or by itself with the fault; others stay.

    Args:
        root: The folder.
        files: Files of it.
        settings: Which frames, and the cache.
        progress: Called with (done, total) scans.

    Raises:
        DataError: If a package that reads a scan is not installed.
    """
    opened = open_scans([root / f.name for f in files if not f.error], settings, progress)
    expanded: list[ListedFile] = []
    for listed in files:
        found = opened.get(root / listed.name)
        if listed.error or found is None:
            expanded.append(listed)
            continue
        issues = issues_of(found, "", listed.name)
        if (scan := found.scan) is None or not scan.kept:
            expanded.append(ListedFile(listed.name, issues.pop().reason))
        else:
            expanded += [
                ListedFile(frame.name, part=ScanFrame(listed.name, scan, frame))
                for frame in frame_files(scan, found.folder, listed.name)
            ]
        for issue in issues:
            _log.warning("%s: %s", listed.name, issue.reason)
    return tuple(expanded)


def read_pixels(source: ImageSource, settings: DataSettings) -> DecodedFile:
    """An image's pixels at its own size.

    Raises:
        CorruptImage: If it cannot be opened or decoded; the message is the reason.
    """
    try:
        content = load_source(source)
    except OSError as error:
        raise CorruptImage(f"cannot be opened: {_why(error)}") from error
    if isinstance(content, Picture):
        pixels = content.pixels
        return DecodedFile(pixels if pixels.ndim == 3 else pixels[..., None], frames=1, peak=0)
    return decode_bytes(content, settings.value_range)


def check_first(root: Path, files: Sequence[ListedFile], settings: DataSettings) -> None:
    """Refuses a folder of dark 16-bit files, judged by its first files; training judges by all.

    Raises:
        DataError: See ``decoding.check_depth``.
    """
    first = files[:_FIRST]
    peaks = np.zeros(len(first), np.int64)
    for index, listed in enumerate(first):
        with suppress(CorruptImage):  # The table will name it.
            peaks[index] = read_pixels(listed.source(root), settings).peak
    check_depth(peaks, [listed.name for listed in first])


def read_image(root: Path, listed: ListedFile, settings: DataSettings) -> FolderImage | ListedFile:
    """Reads a file as the training data was read.

    If the data's channels are 'auto' the image has three; a network of one channel makes it grey.
    A file that cannot be read is returned with the reason.
    """
    if listed.error:
        return listed
    try:
        pixels, frames, _ = read_pixels(listed.source(root), settings)
    except CorruptImage as error:
        return listed._replace(error=str(error))
    channels = 3 if settings.channels == "auto" else settings.channels
    row = make_row(Picture(pixels), settings.working_size, channels, detector=None)
    height, width = pixels.shape[:2]
    return FolderImage(listed, row.image, row.extent, (height, width), frames)


def read_batches(
    root: Path,
    files: Sequence[ListedFile],
    settings: DataSettings,
    batch_size: int,
    num_workers: int,
) -> Iterator[list[FolderImage | ListedFile]]:
    """Reads files in order, in threads, one batch ahead of the one in use.

    Args:
        root: The folder.
        files: Files of it.
        settings: Working size, channels and range of values.
        batch_size: Images in a batch. Files that cannot be read are passed on in addition, so that
            they do not change which images are predicted together.
        num_workers: The number of decoding threads.
    """
    read = map_in_order(lambda listed: read_image(root, listed, settings), files, num_workers)
    return _one_ahead(_batches(read, batch_size))


def stack(images: Sequence[FolderImage]) -> dict[str, np.ndarray]:
    """'image' uint8 [n, S, S, C] and 'extent' int32 [n, 2], as a predictor takes them."""
    return {
        "image": np.stack([image.image for image in images]),
        "extent": np.array([image.extent for image in images], np.int32),
    }


def _batches(
    items: Iterable[FolderImage | ListedFile], batch_size: int
) -> Iterator[list[FolderImage | ListedFile]]:
    batch: list[FolderImage | ListedFile] = []
    images = 0
    for item in items:
        batch.append(item)
        images += isinstance(item, FolderImage)
        if images == batch_size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items, each made in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _why(error: OSError) -> str:
    return error.strerror or str(error)
