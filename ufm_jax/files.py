"""Naming, digesting, writing and locking files: whole or not at all, for their owner alone."""

import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ufm_jax.errors import ConfigError, RunError

_log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Suffix of a file that is being written, or that a killed process left behind."""

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user gave, with ``~`` and environment variables expanded.

    Raises:
        ConfigError: If no path can have that name, or a variable or a home folder is not known.
    """
    expanded = os.path.expandvars(os.fspath(text))
    if "\0" in expanded:
        raise ConfigError(f"{text!r}: a path cannot hold the character NUL")
    unset = _VARIABLE.search(expanded)
    if unset and not os.path.lexists(expanded):
        raise ConfigError(f"{text}: the environment variable {unset[0]} is not set")
    try:
        return Path(expanded).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{text}: no home folder is known for ~; set HOME, or give a full path"
        ) from None


def digest_of(file: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Raises:
        RunError: If it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{file} is missing or cannot be read ({error})") from error


def cache_folder(given: str = "") -> Path:
    """The folder for what can be made again, as ``given`` or, where that is empty, the user's own.

    That is ``ufm_jax`` below XDG_CACHE_HOME or ``~/.cache``. Where a container's user has no home
    folder, or may not write there, it is a folder of that user below the temporary directory.

    Raises:
        RunError: If the folder below the temporary directory belongs to somebody else.
    """
    return user_path(given) if given else _folder_of_user("XDG_CACHE_HOME", "~/.cache")


def config_folder() -> Path:
    """The user's folder for what must stay: ``ufm_jax`` below XDG_CONFIG_HOME or ``~/.config``.

    Where there is none, and errors: as for ``cache_folder``.
    """
    return _folder_of_user("XDG_CONFIG_HOME", "~/.config")


def _folder_of_user(variable: str, usual: str) -> Path:
    try:
        folder = user_path(os.environ.get(variable) or usual) / "ufm_jax"
        if os.access(private_folder(folder), os.W_OK | os.X_OK):
            return folder
        reason = f"{folder} cannot be written"
    except (OSError, ConfigError) as error:
        reason = str(error)
    user = os.getuid()
    folder = private_folder(Path(tempfile.gettempdir()) / f"ufm_jax_{user}")
    if folder.lstat().st_uid != user:
        raise RunError(f"{folder} belongs to another user: set {variable} to a folder of yours")
    _log.warning("%s is used, since %s", folder, reason)
    return folder


def private_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, for the owner alone: it will hold patients' data.

    One that is there stays as it is. Returns the folder.
    """
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_file(file: Path) -> Path:
    """Makes an empty file that its owner alone may read, and returns its path."""
    file.touch(mode=0o600, exist_ok=False)
    return file


def flush(file: Path) -> None:
    """Waits until a file is on the disk."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to; what is there at the end replaces ``file`` in one step.

    The new file is on the disk before it takes the name, and only its owner may read it. If writing
    fails, the old file stays and nothing else is left.
    """
    # A number of its own, not the process's: another host's may be the same.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with naming(file):
            yield private_file(partial)
            flush(partial)
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Has the system's errors name ``place`` where they name no file, as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(place)
        raise


def write_text(file: Path, text: str) -> None:
    """Replaces a file by ``text`` in UTF-8; names that are not UTF-8 keep their bytes."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(file: Path, value: Any) -> None:
    """Replaces a file by ``value`` as indented JSON."""
    write_text(file, json.dumps(value, indent=2) + "\n")


def read_json(file: Path, remedy: str, kind: type = object) -> Any:
    """Reads a JSON file of a run.

    Args:
        file: The file.
        remedy: What to do where it is damaged, the end of the error's message.
        kind: The type that its content must have, such as dict.

    Raises:
        RunError: If it cannot be read or is not JSON of that kind; names the file and the remedy.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__}, not a {kind.__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged or cannot be read ({error}): {remedy}") from error
    return value


@contextmanager
def exclusive(file: Path, wait: bool = True) -> Iterator[int | None]:
    """Holds a lock that the system releases even where its holder is killed.

    Args:
        file: Made where absent. Its holder may remove it.
        wait: Whether to wait for another holder.

    Yields:
        A descriptor of the locked file; None where the file system or the platform has no locks.

    Raises:
        BlockingIOError: If another process holds the lock, and ``wait`` is false.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = _lock(descriptor, wait)
            # Between opening and locking, the last holder may have removed the file.
            if not held or _is_at(descriptor, file):
                yield descriptor if held else None
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Locks an open file; whether it could be done at all."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
