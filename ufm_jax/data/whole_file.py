"""Files that are there whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to; what is there at the end replaces ``file`` in one step."""
    # A number of its own, not the process's: another host's may be the same.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")
    yield partial
    partial.replace(file)
