"""Checkpoints: asynchronous, atomic, the last few and the best kept. The only orbax import.

A checkpoint at round r holds all that rounds 0 .. r - 1 changed. Everything else of a run (cohorts,
batches, random keys, schedules) is a function of the seed and the round, so that this is enough to
go on bit for bit.
"""

import contextlib
import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ufm_jax.errors import RunError, UserError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.train import cluster
from ufm_jax.train.sums import check_sums, write_sums

_REMEDY = "restore it from a copy, or begin in a new --workdir"

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, in ``workdir/checkpoints``."""

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        """Opens or makes the folder.

        Args:
            workdir: The run's folder.
            keep: Last checkpoints kept, besides the one of the lowest loss.

        Raises:
            RunError: If the folder cannot be opened; names what is damaged and the way out.
        """
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=_comparable_loss, reverse=True, n=1),
            ]
        )
        self._folder = workdir.absolute() / "checkpoints"
        self._sums = workdir.absolute() / "checkpoints.sha256"
        options = ocp.CheckpointManagerOptions(preservation_policy=policy)
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except OSError:
            raise
        except Exception as error:  # Orbax raises whatever it stumbles over.
            raise RunError(self._why_closed(error)) from error
        self._written: int | None = None
        self._sealing = ThreadPoolExecutor(1)
        self._sealed = self._sealing.submit(lambda: None)

    def save(
        self,
        rounds_done: int,
        state: FederationState,
        loss: float,
        ledger: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts saving; the next round may run meanwhile.

        Args:
            rounds_done: Rounds that are done.
            state: The state after them.
            loss: By which the best checkpoint is known.
            ledger: What clients have spent of their privacy, as JSON takes it.
        """
        self._seal_last()
        self._manager.save(
            rounds_done,
            args=ocp.args.StandardSave(state),
            metrics={"loss": loss},
            custom_metadata={"ledger": dict(ledger or {})},
        )
        self._written = rounds_done

    def newest(self, like: FederationState) -> tuple[int, FederationState]:
        """The rounds done at the newest whole checkpoint, and its state; 0 and ``like`` if none is.

        Damaged ones that are newer are removed, with a warning: the rounds since then are trained
        again.

        Raises:
            RunError: If there are checkpoints and none is whole.
        """
        damaged: list[tuple[int, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with cluster.together(f"reading checkpoint {step}"):
                    state = self._restore(step, like)
            except UserError as error:
                damaged.append((step, str(error)))
                continue
            # Not before another is read: what fails for all may be no fault of theirs.
            for other, why in damaged:
                _log.warning("%s; going on from checkpoint %d instead", why, step)
                self._manager.delete(other)
                self._seal(other)
            return step, state
        if damaged:
            raise RunError(f"no checkpoint in {self._folder} is whole ({damaged[0][1]}): {_REMEDY}")
        return 0, like

    def restore(self, rounds_done: int, like: FederationState) -> FederationState:
        """Reads a checkpoint.

        Args:
            rounds_done: Which one.
            like: A state of the same shapes, on the devices where the result shall live.

        Raises:
            RunError: If it is damaged; names the file and the way out.
        """
        try:
            return self._restore(rounds_done, like)
        except RunError as error:
            raise RunError(f"{error}: {_REMEDY}") from error

    def _restore(self, rounds_done: int, like: FederationState) -> FederationState:
        folder = self._folder / str(rounds_done)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        arguments = ocp.args.StandardRestore(target)
        if cluster.is_first() and check_sums(self._sums, folder):
            return self._manager.restore(rounds_done, args=arguments)
        try:
            return self._manager.restore(rounds_done, args=arguments)
        except Exception as error:  # Orbax raises whatever it stumbles over.
            raise RunError(f"{folder} is damaged ({_line(error)})") from error

    def ledger(self, rounds_done: int) -> dict[str, Any]:
        """The privacy ledger of a checkpoint; empty where the run keeps none."""
        stored = self._manager.metadata(rounds_done).custom_metadata or {}
        return stored.get("ledger", {})

    def _why_closed(self, error: Exception) -> str:
        """Why orbax cannot open the folder, and the way out."""
        try:
            for folder in self._folder.iterdir():
                check_sums(self._sums, folder)
        except (OSError, RunError) as damage:
            return f"{damage}: remove that checkpoint, and the run goes on from the one before"
        return f"{self._folder} cannot be opened ({_line(error)}): {_REMEDY}"

    def wait(self) -> None:
        """Returns when everything started is on disk, with its digests."""
        self._seal_last()
        self._sealed.result()

    def _seal_last(self) -> None:
        """Waits for the last checkpoint, and has its digests taken while training goes on."""
        self._manager.wait_until_finished()
        self._sealed.result()
        if self._written is not None:
            self._sealed = self._sealing.submit(self._seal, self._written)
        self._written = None

    def _seal(self, rounds_done: int) -> None:
        """Writes the digests of a checkpoint; none where it is gone."""
        # It may be going right now, as one too many.
        with contextlib.suppress(RunError, FileNotFoundError):
            if cluster.is_first():
                write_sums(self._sums, self._folder / str(rounds_done))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and jax.process_count() > 1:
            return  # Another process may be gone, and waiting would wait for it too.
        self.wait()
        self._sealing.shutdown()
        self._manager.close()


def _comparable_loss(metrics: dict[str, float]) -> float:
    """The loss, or infinity where it is nan, which no comparison would rank last."""
    return metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf


def export_params(folder: Path, params: Params) -> None:
    """Writes parameters alone: no optimiser state, no client's state, no path.

    Every process of a run calls this. Their digests come to lie beside the folder.

    Args:
        folder: Is replaced where it exists.
        params: The global parameters.
    """
    folder, sums = folder.absolute(), sums_beside(folder.absolute())
    if jax.process_index() == 0:
        sums.unlink(missing_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, params, force=True)
    if jax.process_index() == 0:
        write_sums(sums, folder)


def sums_beside(folder: Path) -> Path:
    """The file of digests of exported parameters."""
    return folder.with_name(f"{folder.name}.sha256")


def load_params(folder: Path) -> Any:
    """Reads what ``export_params`` wrote, onto one device, whatever machine wrote it.

    Raises:
        RunError: If it is damaged; names the file and the way out.
    """
    folder, remedy = folder.absolute(), "restore it from a copy, or export or train it again"
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        if not check_sums(sums_beside(folder), folder):
            _log.warning("%s is read unchecked: it has no digests beside it", folder)
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder).item_metadata.tree
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored
            )
            return checkpointer.restore(folder, like)
    except RunError as error:
        raise RunError(f"{error}: {remedy}") from error
    except Exception as error:  # Orbax raises whatever it stumbles over.
        raise RunError(f"{folder} is damaged ({_line(error)}): {remedy}") from error


def _line(error: Exception) -> str:
    """An error of orbax in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
