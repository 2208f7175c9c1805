"""Makes the environment in which a peer runs, once, and finds the Python for it."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ufm_jax.files import cache_folder

ACCELERATORS = {"cpu": "cpu", "gpu": "cuda"}
"""How pip's packages and PyTorch call JAX's backends."""

TORCH = {
    # A build for CPU alone is taken where pip is configured to find one, and never for CUDA.
    "cpu": "torch==2.13.0",
    "cuda": "torch==2.13.0,!=2.13.0+cpu",
}
"""PyTorch as pip takes it, by accelerator."""

_MINORS = range(9, 30)
_FOLDERS = (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin")


class EnvironmentMissingError(RuntimeError):
    """An environment that cannot be made here, with the reason in one line."""


def make_environment(
    name: str, requirements: Sequence[str], python: Path = Path(sys.executable)
) -> Path:
    """The Python of a virtual environment that holds ``requirements`` and nothing of ours.

    It is kept in the user's cache folder and made again when the requirements change.

    Args:
        name: What the environment is for.
        requirements: As pip takes them.
        python: The interpreter.

    Raises:
        EnvironmentMissingError: If pip could not install them, with its last error.
    """
    version = _output(python, "import sys; print(sys.version)")
    digest = hashlib.sha256("\n".join([version, *requirements]).encode()).hexdigest()[:12]
    folder = cache_folder() / "environments" / f"{name}-{digest}"
    inside, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return inside
    print(f"making an environment for {name} in {folder}: {' '.join(requirements)}", flush=True)
    _run([str(python), "-m", "venv", "--clear", str(folder)])
    _run([str(inside), "-m", "pip", "install", "--quiet", *requirements])
    ready.touch()
    return inside


def find_python(least: tuple[int, int]) -> Path:
    """An interpreter of at least this version: this one, or else the machine's newest.

    Looked for on the PATH and where pyenv and uv keep theirs; of one version, a build without the
    global lock comes first.

    Raises:
        EnvironmentMissingError: If there is none.
    """
    if sys.version_info[:2] >= least:
        return Path(sys.executable)
    for candidate in _interpreters(least):
        if _output(candidate, "import ensurepip, sys; print(sys.version)"):
            return candidate
    needed = ".".join(map(str, least))
    raise EnvironmentMissingError(
        f"it needs Python {needed}, and none was found on the PATH or of pyenv or uv: "
        f"`uv python install {needed}t` brings one"
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or done.stderr.splitlines() or ["it gave no reason"])[-1]
        raise EnvironmentMissingError(f"{' '.join(command)} failed: {reason}")


def _interpreters(least: tuple[int, int]) -> Iterator[Path]:
    for minor in reversed([minor for minor in _MINORS if (3, minor) >= least]):
        for name in (f"python3.{minor}t", f"python3.{minor}"):
            found = shutil.which(name)
            if found:
                yield Path(found)
            for folder in _FOLDERS:
                yield from Path.home().glob(f"{folder}/{name}")


def _output(python: Path, code: str) -> str:
    """What a program prints; nothing where it cannot run."""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
