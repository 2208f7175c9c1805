"""What a run saves to go on from: its state after a round, and inside a long one.

Between rounds nothing of a client's training is left, so none of it is saved. A round that is cut
into chunks may also stop at a chunk's end: then lanes and sums are saved too, in a folder of their
own, which is removed when a later round has been saved.
"""

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from ufm_jax.cluster import hosts
from ufm_jax.cluster.witness import STEPS, UNFINISHED
from ufm_jax.errors import UserError
from ufm_jax.fed.engine import FederationState
from ufm_jax.runs.checkpoint import Checkpoints

_log = logging.getLogger(__name__)


class Point(NamedTuple):
    """Where a run stands.

    Attributes:
        done: Rounds that are done.
        step: The first step of the next round that is not done yet.
        state: The state there.
        ledger: What clients have spent of their privacy; empty if the run keeps no ledger.
    """

    done: int
    step: int
    state: FederationState
    ledger: Mapping[str, Any]

    @property
    def begun(self) -> bool:
        """Whether anything has been trained."""
        return self.done > 0 or self.step > 0


class RunCheckpoints:
    """The checkpoints of a run; use it as a context manager."""

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        """Prepares the checkpoints, which are opened on entry; arguments as in ``Checkpoints``."""
        self._workdir, self._keep = workdir, keep
        self._open = ExitStack()
        self._inside: Checkpoints | None = None
        self._between = False

    def __enter__(self) -> Self:
        self._rounds = self._open.enter_context(Checkpoints(self._workdir, self._keep))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._open.__exit__(kind, *error)
        if kind is None and self._between:
            self._forget_unfinished()

    def newest(self, like: FederationState) -> Point:
        """The newest point from which the run can go on, or its beginning, ``like``.

        Raises:
            RunError: If there are checkpoints and none is whole.
        """
        done, state = self._rounds.newest(_between_rounds(like))
        if hosts.from_first(int((self._workdir / UNFINISHED).exists())):
            try:
                unfinished = self._open_unfinished()
                number, inside = unfinished.newest(like)
            except UserError as error:
                _log.warning("%s; going on after %d whole rounds instead", error, done)
                self._forget_unfinished()
            else:
                if number >= done * STEPS and number:
                    return Point(*divmod(number, STEPS), inside, unfinished.ledger(number))
        ledger = self._rounds.ledger(done) if done else {}
        return Point(done, 0, state._replace(training=like.training), ledger)

    def save(self, point: Point, loss: float) -> None:
        """Starts saving; the next chunk may run meanwhile.

        Args:
            point: Where the run stands.
            loss: The loss that tells the best round.
        """
        self._between = not point.step
        if self._between:
            self._rounds.save(point.done, _between_rounds(point.state), loss, point.ledger)
            return
        number = point.done * STEPS + point.step
        # The newest is the best, so that no other is kept.
        self._open_unfinished().save(number, point.state, -float(number), point.ledger)

    def restore(self, done: int, like: FederationState) -> FederationState:
        """Reads the state after ``done`` rounds; see ``Checkpoints.restore``."""
        state = self._rounds.restore(done, _between_rounds(like))
        return state._replace(training=like.training)

    def wait(self) -> None:
        """Returns when everything started is on disk."""
        self._rounds.wait()

    def _forget_unfinished(self) -> None:
        self._inside = None
        with hosts.together(f"removing {self._workdir / UNFINISHED}"):
            if hosts.is_first():
                shutil.rmtree(self._workdir / UNFINISHED, ignore_errors=True)
                (self._workdir / f"{UNFINISHED}.sha256").unlink(missing_ok=True)

    def _open_unfinished(self) -> Checkpoints:
        if self._inside is None:
            self._inside = self._open.enter_context(Checkpoints(self._workdir, 1, UNFINISHED))
        return self._inside


def _between_rounds(state: FederationState) -> FederationState:
    """A state without the lanes and sums, which are empty between rounds."""
    return state._replace(training=())  # type: ignore[arg-type]
