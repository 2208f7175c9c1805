"""Names for content: which bytes lie in the files, and which code reads them.

A cache key must change when a file's content changes, even if its size and modification time do
not, and must not change because a folder was copied. So files are named by a hash of their bytes.
Because reading a million files at every start would be slow, a file's hash is remembered under its
path, inode, size, modification and change time (no program can set the change time), as git does.
"""

import hashlib
import inspect
import os
import time
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np

from ufm_jax.data.records import ImageSource
from ufm_jax.errors import DataError
from ufm_jax.files import private_folder, replacing

_BYTES = 16
# A file that changed less than this ago may change again within one tick of the clock.
_SETTLED_NS = 2_000_000_000


def digest(*parts: bytes) -> bytes:
    """16 bytes that name a sequence of byte strings, their boundaries included."""
    whole = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def write_sealed(file: Path, content: bytes) -> None:
    """Writes a file: a line with a seal over its name and content, then the content."""
    with replacing(file) as partial:
        partial.write_bytes(_seal(file, content) + b"\n" + content)


def read_sealed(file: Path) -> bytes | None:
    """The content of a file that ``write_sealed`` wrote; None if it is absent or has changed."""
    try:
        seal, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if seal == _seal(file, content) else None


def _seal(file: Path, content: bytes) -> bytes:
    return digest(os.fsencode(file.name), content).hex().encode()


def code_stamp(*modules: ModuleType) -> bytes:
    """16 bytes that change when the source of a module, or of a package's files, changes."""
    sources = []
    for module in modules:
        if hasattr(module, "__path__"):
            files = sorted(f for folder in module.__path__ for f in Path(folder).rglob("*.py"))
            sources += [file.read_bytes() for file in files]
        else:
            sources.append(inspect.getsource(module).encode())
    return digest(*sources)


def open_cache_dir(cache_dir: Path) -> None:
    """Makes the cache's folder, readable by its owner alone: it will hold patients' images.

    Raises:
        DataError: If it cannot be made.
    """
    try:
        private_folder(cache_dir)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cache_dir={str(cache_dir)!r} cannot be made: {reason}; name another folder"
        ) from error


def memo_of(images: Sequence[ImageSource], cache_dir: Path) -> Path:
    """The file that remembers the hashes of what lies in these images' folders."""
    folders = sorted({str(image.parent) for image in images if isinstance(image, Path)})
    # A folder's name need not be UTF-8: see ``os.fsdecode``.
    names = (folder.encode(errors="surrogateescape") for folder in folders)
    return cache_dir / f"hashes-{digest(*names).hex()}.sealed"


def content_digests(
    images: Sequence[ImageSource], cache_dir: Path, num_workers: int
) -> tuple[list[bytes], dict[int, str]]:
    """Names the content of every image.

    Args:
        images: Files or handles.
        cache_dir: Made if absent. It keeps the hashes of unchanged files in a file that is replaced
            whole, and harmless to delete.
        num_workers: Threads that read files.

    Returns:
        16 bytes for each image, b'' where a file cannot be read; and the reasons, by position.

    Raises:
        DataError: If ``cache_dir`` cannot be made.
    """
    open_cache_dir(cache_dir)
    memo = memo_of(images, cache_dir)
    known = _read_memo(memo)
    settled: dict[bytes, bytes] = {}
    failures: dict[int, str] = {}

    def name(numbered: tuple[int, ImageSource]) -> bytes:
        index, image = numbered
        if not isinstance(image, Path):
            return digest(b"handle", image.fingerprint())
        try:
            signature, changed_ns = _signature(image)
            content = known.get(signature) or _hash_file(image)
        except OSError as error:
            failures[index] = f"cannot be read: {error.strerror or error}"
            return b""
        if started_ns - changed_ns > _SETTLED_NS:
            settled[signature] = content
        return content

    started_ns = time.time_ns()
    with ThreadPoolExecutor(num_workers) as pool:
        names = list(pool.map(name, enumerate(images)))
    if settled.keys() - known.keys():
        entries = (known | settled).items()
        write_sealed(memo, b"".join(signature + content for signature, content in entries))
    return names, failures


def distinct(digests: Sequence[bytes], unreadable: Container[int]) -> tuple[list[int], np.ndarray]:
    """Numbers images by their content, in order of first appearance.

    Args:
        digests: [N], name of each image's content.
        unreadable: Positions that get no number.

    Returns:
        The position of the first image of each content; and int64 [N], each image's number, -1
        where it has none.
    """
    first: dict[bytes, int] = {}
    for index, content in enumerate(digests):
        if index not in unreadable:
            first.setdefault(content, index)
    number = {content: row for row, content in enumerate(first)}
    return list(first.values()), np.array([number.get(name, -1) for name in digests], np.int64)


def _signature(path: Path) -> tuple[bytes, int]:
    """Name of a file's state without reading it, and when it last changed (ns)."""
    stat = path.stat()
    state = (os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest(repr(state).encode()), max(stat.st_mtime_ns, stat.st_ctime_ns)


def _hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_BYTES)).digest()


def _read_memo(memo: Path) -> dict[bytes, bytes]:
    """The remembered hashes; none if the file is absent or damaged."""
    flat, width = read_sealed(memo) or b"", 2 * _BYTES
    starts = range(0, len(flat), width)
    return {flat[at : at + _BYTES]: flat[at + _BYTES : at + width] for at in starts}
