"""Digests of what a run leaves behind, as ``sha256sum -c`` reads them, checked before it is used.

The digests of a folder stand in a file beside it, since nothing of ours goes into orbax's folders.
"""

from pathlib import Path

from ufm_jax.errors import RunError
from ufm_jax.files import digest_of, write_text


def write_sums(sums: Path, folder: Path) -> None:
    """Writes the digests of all files below ``folder`` into ``sums``, a file above it.

    Digests of other folders stay in ``sums`` as long as these folders exist.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest_of(file)}  {_name(sums, file)}" for file in files]
    inside = f"{_name(sums, folder)}/"
    kept = [
        f"{digest}  {name}"
        for name, digest in _read(sums).items()
        if not name.startswith(inside) and (sums.parent / name).exists()
    ]
    write_text(sums, "".join(f"{line}\n" for line in kept + lines))


def check_sums(sums: Path, folder: Path) -> bool:
    """Whether ``sums`` has digests of ``folder``; if it has, all of them are right.

    Raises:
        RunError: If a file is missing or differs, or ``sums`` is damaged; names it.
    """
    inside = f"{_name(sums, folder)}/"
    expected = {name: digest for name, digest in _read(sums).items() if name.startswith(inside)}
    for name, digest in expected.items():
        if digest_of(sums.parent / name) != digest:
            raise RunError(f"{sums.parent / name} is damaged: it differs from what {sums} says")
    return bool(expected)


def _name(sums: Path, path: Path) -> str:
    return path.relative_to(sums.parent).as_posix()


def _read(sums: Path) -> dict[str, str]:
    """Digests by path below the folder of ``sums``; empty if this file does not exist."""
    if not sums.exists():
        return {}
    try:
        lines = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
        return {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        raise RunError(
            f"{sums} is damaged ({error}): without it, files are read unchecked"
        ) from error
