"""Makes the environment in which a peer runs, once."""

import hashlib
import subprocess
import sys
import venv
from collections.abc import Sequence
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


def make_environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment that holds ``requirements`` and nothing of ours.

    It is kept in the user's cache folder and made again when the requirements change.

    Args:
        name: What the environment is for.
        requirements: As pip takes them.

    Raises:
        RuntimeError: If pip could not install them, with its last lines.
    """
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = cache_folder() / "environments" / f"{name}-{digest}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    print(f"making an environment for {name} in {folder}: {' '.join(requirements)}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"{name}: pip could not install {list(requirements)}:\n{lines}")
    ready.touch()
    return python
