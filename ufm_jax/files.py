"""Writing and naming files: whole or not at all, for their owner alone, where the user said."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ufm_jax.errors import RunError


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user gave, with ``~`` and environment variables expanded."""
    return Path(os.path.expandvars(text)).expanduser()


def private_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, for the owner alone: it will hold patients' data."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to; what is there at the end replaces ``file`` in one step.

    The new file is on the disk before it takes the name, and only its owner may read it. If writing
    fails, the old file stays and nothing else is left.
    """
    # A number of its own, not the process's: another host's may be the same.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.touch(mode=0o600, exist_ok=False)
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Replaces a file by ``text`` in UTF-8; names that are not UTF-8 keep their bytes."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(file: Path, value: Any) -> None:
    """Replaces a file by ``value`` as indented JSON."""
    write_text(file, json.dumps(value, indent=2) + "\n")


def read_json(file: Path, remedy: str) -> Any:
    """Reads a JSON file of a run.

    Args:
        file: The file.
        remedy: What to do where it is damaged, the end of the error's message.

    Raises:
        RunError: If it cannot be read or is not JSON; names the file and the remedy.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged or cannot be read ({error}): {remedy}") from error
