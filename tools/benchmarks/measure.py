"""Times sides against each other, in turn, so that a drifting machine hurts all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Side = Callable[[], float]
"""Does one unit of work, waits for its result, and returns the seconds that it took."""

Row = dict[str, Any]
"""One line of a table: column to value."""


def timed(work: Callable[[], object]) -> Side:
    """A side from a function of this process that returns when its work is done."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def interleaved(sides: Mapping[str, Side], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each side: ``warmup`` runs that are not counted, then ``repeats`` in turn."""
    for run in sides.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            seconds[name].append(run())
    return seconds


def spread(seconds: list[float]) -> Row:
    """Median, least and most of a side's times."""
    return {
        "seconds": round(float(np.median(seconds)), 5),
        "from": round(min(seconds), 5),
        "to": round(max(seconds), 5),
    }


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median over repeats of a side's time over another's, taken next to it."""
    return round(float(np.median(np.divide(seconds, base))), 3)


def rates(count: int, seconds: list[float]) -> Row:
    """``count`` images over a side's times: median, least and most a second."""
    return {
        "images/s": round(count / float(np.median(seconds)), 1),
        "from": round(count / max(seconds), 1),
        "to": round(count / min(seconds), 1),
    }


def share_saved(without: list[float], whole: list[float]) -> list[float]:
    """Of each repeat, the share of the whole's time that is gone from the side next to it."""
    return [1 - a / b for a, b in zip(without, whole, strict=True)]
