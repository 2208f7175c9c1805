"""What a site keeps between rounds, such as SCAFFOLD's control variate: on its own disk alone.

Each state is named by the round that made it. The server says from which one a site goes on: that
of the last round in which it took the site's update. So a round whose answer was lost, or that a
killed server asks for again, starts where it did the first time.
"""

from pathlib import Path

import numpy as np

from ufm_jax.deployment.messages import from_arrays, to_arrays
from ufm_jax.errors import RunError
from ufm_jax.fed.algorithm import Tree
from ufm_jax.files import private_folder, replacing

FRESH = -1
"""In place of a round: the site's first state."""


def save_kept(folder: Path, round_index: int, kept: Tree, since: int) -> None:
    """Keeps the state that a round made, and that of round ``since``, from which it began."""
    private_folder(folder)
    file = _file(folder, round_index)
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **to_arrays(kept))
    for other in folder.glob("kept_*.npz"):
        if other not in (file, _file(folder, since)):
            other.unlink()


def load_kept(folder: Path, since: int, fresh: Tree) -> Tree:
    """The state after the site's part in round ``since``.

    Args:
        folder: Where the site keeps its states.
        since: The round; ``FRESH`` for none.
        fresh: The first state.

    Raises:
        RunError: If it is gone or damaged.
    """
    if since == FRESH:
        return fresh
    file = _file(folder, since)
    try:
        with np.load(file, allow_pickle=False) as stored:
            return from_arrays(fresh, dict(stored), str(file))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read ({error}): restore it, or begin the study anew at all sites"
        ) from error


def _file(folder: Path, round_index: int) -> Path:
    return folder / f"kept_{round_index}.npz"
