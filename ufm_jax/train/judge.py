"""Looks at the model while it trains: how good it is on images that it does not train on."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ufm_jax.cluster import hosts
from ufm_jax.fed.engine import FederationState
from ufm_jax.runs.history import read_history


class Look(NamedTuple):
    """A look at the model: the rounds done by then, and its score (higher is better)."""

    rounds: int
    score: float


class Verdict(NamedTuple):
    """What a look found.

    Attributes:
        figures: Fields of the round's record.
        cost: What tells the best checkpoint, the one of least cost.
        keep: Whether the model is to be saved, whatever else is due.
    """

    figures: Mapping[str, Any]
    cost: float
    keep: bool


@dataclass(frozen=True)
class Judging:
    """How a model is judged.

    Attributes:
        look: ``(state, done) -> fields of the round's record``, among them ``figure``; done are the
            rounds that are done.
        figure: The field that decides; nan where it is undefined, or nothing is trained yet.
        sign: 1 if higher values of it are better, -1 if lower ones are.
        every: Rounds between looks; the last round has one, and those that ``also`` names.
        patience: Training ends when so many rounds brought nothing better; 0 for never.
        saves_best: Whether the best model so far is saved at once. Else each checkpoint has a look.
        also: Whether there is a look after so many rounds, whatever ``every`` says.
    """

    look: Callable[[FederationState, int], Mapping[str, Any]]
    figure: str
    sign: int
    every: int
    patience: int = 0
    saves_best: bool = True
    also: Callable[[int], bool] = lambda done: False


class Judge:
    """Judges the model every few rounds, and remembers the best."""

    def __init__(self, judging: Judging, workdir: Path) -> None:
        """Begins without a look; ``workdir`` holds the run's history."""
        self._judging, self._workdir = judging, workdir
        self._rounds, self._looked = 0, 0
        self.looks: list[Look] = []

    def begin(self, done: int, rounds: int) -> None:
        """Takes up a run of ``rounds`` rounds, ``done`` of which are done, with their looks."""
        self._rounds = rounds
        with hosts.together("reading the history"):
            self.looks = self._of_history(done)
        self._looked = self.looks[-1].rounds if self.looks else 0

    def _of_history(self, done: int) -> list[Look]:
        records = read_history(self._workdir, done)
        found = ((r.round + 1, getattr(r, self._judging.figure)) for r in records)
        return [Look(n, self._judging.sign * value) for n, value in found if math.isfinite(value)]

    @property
    def best(self) -> Look | None:
        """The first of the highest looks; None if no score was defined."""
        return max(self.looks, key=lambda look: look.score, default=None)

    @property
    def enough(self) -> bool:
        """Whether training may end, as too many rounds brought nothing better."""
        patience, best = self._judging.patience, self.best
        return bool(patience and best and self._looked - best.rounds >= patience)

    def __call__(self, done: int, state: FederationState, due: bool) -> Verdict | None:
        """Looks at the model after ``done`` rounds, if it is time to.

        Args:
            done: Rounds that are done.
            state: The state after them.
            due: Whether a checkpoint is due, which shall know its score.
        """
        judging = self._judging
        due = (due and not judging.saves_best) or done == self._rounds or judging.also(done)
        if done % judging.every and not due:
            return None
        self._looked = done
        jax.block_until_ready(state)
        begin = time.perf_counter()
        figures = judging.look(state, done)
        score = judging.sign * figures[judging.figure]
        seconds = time.perf_counter() - begin
        best = math.isfinite(score) and (self.best is None or score > self.best.score)
        if math.isfinite(score):
            self.looks.append(Look(done, score))
        # Of equal looks the first is the best, and its checkpoint must stay.
        comparable = best or (math.isfinite(score) and not judging.saves_best)
        cost = -score if comparable else math.inf
        return Verdict(
            {**figures, "judging_seconds": seconds}, cost, keep=best and judging.saves_best
        )
