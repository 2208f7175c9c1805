"""Which frames of a clip are taken.

Neighbours in a clip are nearly the same picture: all of them would fill a client with one patient.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from ufm_jax.errors import DataError

_EVERY = re.compile(r"every:([1-9]\d*)")
_EVENLY = re.compile(r"evenly:([1-9]\d*)")
DIFFERENT = "different"
_ALL = "all"
_SIDE = 32
_LEAST_DIFFERENCE = 4.0
"""Mean absolute difference of grey levels, of pictures shrunk to 32 x 32, from which two differ."""


def plausible_ms(duration: float | None) -> float | None:
    """Milliseconds between frames, if between a thousandth of a second and ten; else None."""
    return duration if duration is not None and 1 <= duration <= 10_000 else None


def check_frames(choice: str) -> None:
    """Checks a choice of frames.

    Raises:
        DataError: If it is none.
    """
    if choice not in (_ALL, DIFFERENT) and not (
        _EVERY.fullmatch(choice) or _EVENLY.fullmatch(choice)
    ):
        raise DataError(
            f"frames={choice!r}: use 'all', 'different', 'every:N' for each N-th or 'evenly:N' for "
            "N at equal distances"
        )


def chosen_frames(choice: str, count: int) -> list[int]:
    """Numbers of the frames, from 0, that a choice may take of ``count``.

    Of 'different' that is all: which differ shows only in the pictures; see ``different``.
    """
    if match := _EVERY.fullmatch(choice):
        return list(range(0, count, int(match[1])))
    if match := _EVENLY.fullmatch(choice):
        wanted = min(int(match[1]), count)
        # The middle of each of equal stretches, so that one frame is the middle of the clip.
        return [int((i + 0.5) * count / wanted) for i in range(wanted)]
    return list(range(count))


def different(
    frames: Iterable[tuple[int, np.ndarray]],
) -> Iterator[tuple[int, np.ndarray]]:
    """The first frame, and each that differs from the one last taken.

    Args:
        frames: Numbers and pictures, uint8 [H, W, C].
    """
    last: np.ndarray | None = None
    for number, picture in frames:
        small = _small(picture)
        if last is None or np.abs(small - last).mean() >= _LEAST_DIFFERENCE:
            last = small
            yield number, picture


def _small(picture: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(picture.mean(axis=-1).astype(np.uint8))
    return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
