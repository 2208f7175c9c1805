"""What server and sites send each other: named arrays, and facts that JSON can hold."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ufm_jax.errors import RunError
from ufm_jax.fed.algorithm import Tree

_log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Letter:
    """A message.

    Attributes:
        kind: What is asked; 'error' for what ends the study's run, 'lost' for a site that is left
            out of a round.
        facts: Numbers, texts and lists, as JSON has them.
        arrays: Arrays by name.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays, and of the facts as JSON."""
        arrays = sum(array.nbytes for array in self.arrays.values())
        return arrays + len(json.dumps(dict(self.facts)))


Exchange = Callable[[Mapping[str, Letter]], dict[str, Letter]]
"""Sends each site its letter and returns the answers; sites that do not answer are absent."""


class Counted:
    """An exchange that counts the bytes of letters, before any compression or encryption.

    Attributes:
        down: Sent to sites so far.
        up: Sent by sites so far.
    """

    def __init__(self, exchange: Exchange) -> None:
        """Counts what passes through ``exchange``."""
        self._exchange, self.down, self.up = exchange, 0, 0

    def __call__(self, letters: Mapping[str, Letter]) -> dict[str, Letter]:
        """Exchanges letters.

        Raises:
            RunError: If a site answers with an error; names the site and its reason.
        """
        answers = self._exchange(letters)
        self.down += sum(letter.num_bytes for letter in letters.values())
        self.up += sum(answer.num_bytes for answer in answers.values())
        for site, answer in answers.items():
            if answer.kind == "error":
                raise RunError(f"site {site}: {answer.facts['error']}")
            if answer.kind == "lost":
                _log.warning("site %s: %s", site, answer.facts["error"])
        return {site: answer for site, answer in answers.items() if answer.kind != "lost"}


def gather(letters: Mapping[str, Letter], exchange: Exchange, least: int = 0) -> dict[str, Letter]:
    """The sites' answers, once there are ``least``, or all where it is 0.

    Until then those that are missing are asked again.
    """
    least = min(least, len(letters)) or len(letters)
    answers: dict[str, Letter] = {}
    while True:
        answers |= exchange({site: x for site, x in letters.items() if site not in answers})
        if len(answers) >= least:
            return {site: answers[site] for site in letters if site in answers}
        missing = ", ".join(site for site in letters if site not in answers)
        _log.warning("no answer from %s yet: asked again", missing)


def to_arrays(tree: Tree) -> Arrays:
    """The leaves of a tree on the host, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(like: Tree, arrays: Mapping[str, npt.NDArray[Any]], whose: str) -> Tree:
    """The tree whose leaves ``to_arrays`` gave.

    Args:
        like: A tree of the same structure: arrays or shapes.
        arrays: The leaves.
        whose: Who sent them, for messages.

    Raises:
        RunError: If an array is missing, or is of another shape or type.
    """

    def take(path: tuple[Any, ...], leaf: Any) -> npt.NDArray[Any]:
        name = jax.tree_util.keystr(path)
        array = arrays.get(name)
        found = None if array is None else (array.shape, array.dtype)
        if array is None or found != (leaf.shape, leaf.dtype):
            raise RunError(
                f"{whose}: array {name!r} is {found}, and {leaf.shape, leaf.dtype} is needed; "
                "install one version of ufm_jax everywhere"
            )
        return array

    return jax.tree_util.tree_map_with_path(take, like)
