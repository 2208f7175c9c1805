"""What is known of a finished run, and figures out of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tools.suites.plan import Figure, SuiteError
from ufm_jax.evaluation.results import Estimate
from ufm_jax.runs.folder import EVALUATION_FILE
from ufm_jax.runs.history import read_history

Results = Mapping[str, Any]
"""What is known of a run: nested mappings whose leaves are numbers or estimates."""


def read_results(folder: Path, seconds: float) -> dict[str, Any]:
    """Everything that figures are taken from.

    Args:
        folder: The run's.
        seconds: How long it took.

    Returns:
        What evaluation.json holds, where there is one; 'last_round', the scalars of the last round
        of training, where there was any; and 'seconds'.

    Raises:
        SuiteError: evaluation.json is no JSON.
    """
    path, found = folder / EVALUATION_FILE, dict[str, Any]()
    if path.is_file():
        try:
            found |= json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SuiteError(f"{path} is no JSON ({error}); remove it to run again") from error
    history = read_history(folder)
    if history:
        found["last_round"] = vars(history[-1])
    return found | {"seconds": seconds}


def figure_of(results: Results, figure: Figure) -> Estimate | None:
    """A figure of a run, with its own interval if it has one.

    Args:
        results: See ``read_results``.
        figure: Its ``path`` leads to a number, or to an estimate: value, low, high, n and note.

    Returns:
        None where the run has no such figure; where it has, but undefined, an estimate of nan.

    Raises:
        SuiteError: The path leads to something else.
    """
    found: Any = results
    for key in figure.path.split("."):
        above = found
        if not isinstance(above, Mapping) or key not in above:
            return None
        found = above[key]
        if found is None:
            note = above.get("note") or "undefined"
            return Estimate(np.nan, np.nan, np.nan, 0, note)
    if isinstance(found, Mapping) and "value" in found:
        low, high = _number(found.get("low")), _number(found.get("high"))
        value, note = _number(found["value"]), found.get("note", "")
        return Estimate(value, low, high, found.get("n", 0), note)
    if isinstance(found, int | float) and not isinstance(found, bool):
        return Estimate(float(found), np.nan, np.nan, 0)
    raise SuiteError(
        f"figure {figure.title!r}: {figure.path} is neither a number nor a figure with a value"
    )


def _number(value: float | None) -> float:
    """A number of JSON, where nan is null."""
    return np.nan if value is None else float(value)
