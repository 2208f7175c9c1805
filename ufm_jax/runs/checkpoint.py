"""Checkpoints: asynchronous, atomic, the last few and the best kept. The only orbax import.

A checkpoint at round r holds all that rounds 0 .. r - 1 changed. Everything else of a run (cohorts,
batches, random keys, schedules) is a function of the seed and the round, so that this is enough to
go on bit for bit.
"""

import contextlib
import logging
import math
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ufm_jax.cluster import hosts
from ufm_jax.cluster.witness import CHECKPOINTS
from ufm_jax.errors import RunError, UserError
from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState
from ufm_jax.runs.sha256 import check_sums, write_sums

_REMEDY = "restore it from a copy, or begin in a new --workdir"

_log = logging.getLogger(__name__)


class Checkpoints:
    """Numbered checkpoints in a folder of a run."""

    def __init__(self, workdir: Path, keep: int = 2, folder: str = CHECKPOINTS) -> None:
        """Opens or makes the folder.

        Damaged checkpoints that are newer than a whole one are removed, with a warning: the rounds
        since the whole one are trained again, to the same bits.

        Args:
            workdir: The run's folder.
            keep: How many of the last checkpoints are kept, besides the one of lowest loss.
            folder: The name of the checkpoints' folder.

        Raises:
            RunError: If all checkpoints are damaged, or the folder cannot be opened.
        """
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=_comparable_loss, reverse=True, n=1),
            ]
        )
        self._folder = workdir.absolute() / folder
        self._sums = workdir.absolute() / f"{folder}.sha256"
        self._whole: int | None = None
        with hosts.together(f"opening {self._folder}"):
            if hosts.is_first():
                self._whole = self._without_damaged()
        # With a function of its own orbax keeps the losses, and knows them after a restart.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=_comparable_loss, best_mode="min"
        )
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except Exception as error:  # Orbax raises whatever it stumbles over.
            raise RunError(
                f"{self._folder} cannot be opened ({_line(error)}): {_REMEDY}"
            ) from error
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
        """Starts to save; the next round may run meanwhile.

        Args:
            rounds_done: Rounds that are done.
            state: The state after them.
            loss: The loss that tells the best checkpoint.
            ledger: What clients have spent of their privacy, as JSON has it.
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
        """The rounds done at the newest whole checkpoint, and its state; else 0 and ``like``.

        Raises:
            RunError: If there are checkpoints and none is whole.
        """
        damaged: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with hosts.together(f"reading checkpoint {step}"):
                    state = self._restore(step, like)
            except UserError as error:
                damaged.append(str(error))
                continue
            # Only now: if all reads fail, the fault may lie elsewhere than in the checkpoints.
            for other in (n for n in self._manager.all_steps() if n > step):
                self._manager.delete(other)
            if damaged:
                _log.warning("%s; going on from checkpoint %d instead", "; ".join(damaged), step)
            return step, state
        self._refuse(damaged)
        return 0, like

    def restore(self, rounds_done: int, like: FederationState) -> FederationState:
        """Reads a checkpoint.

        Args:
            rounds_done: The number of the checkpoint.
            like: A state of the same shapes, on the devices where the result shall live.

        Raises:
            RunError: If it is damaged.
        """
        try:
            return self._restore(rounds_done, like)
        except RunError as error:
            raise RunError(f"{error}: {_REMEDY}") from error

    def _restore(self, rounds_done: int, like: FederationState) -> FederationState:
        folder = self._folder / str(rounds_done)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        arguments = ocp.args.StandardRestore(target)
        known = rounds_done == self._whole or (hosts.is_first() and check_sums(self._sums, folder))
        try:
            return self._manager.restore(rounds_done, args=arguments)
        except Exception as error:  # Orbax raises whatever it stumbles over.
            if known:
                raise  # It is whole, so that the fault is not the file's.
            raise RunError(f"{folder} is damaged ({_line(error)})") from error

    def _without_damaged(self) -> int | None:
        """Removes damaged checkpoints and half-written ones; returns the newest whole one."""
        # One command at a time writes here, so that these are of a run that was killed.
        for partial in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        damaged: dict[Path, str] = {}
        steps = {int(path.name): path for path in self._folder.glob("*") if path.name.isdecimal()}
        for step, folder in sorted(steps.items(), reverse=True):
            try:
                whole = check_sums(self._sums, folder)
            except RunError as error:
                damaged[folder] = str(error)
                continue
            for other, why in damaged.items():
                _log.warning("%s; going on from checkpoint %d instead", why, step)
                shutil.rmtree(other)
                write_sums(self._sums, other)  # Forgets it.
            return step if whole else None
        self._refuse(list(damaged.values()))
        return None

    def _refuse(self, damaged: list[str]) -> None:
        if damaged:
            raise RunError(f"no checkpoint in {self._folder} is whole ({damaged[0]}): {_REMEDY}")

    def ledger(self, rounds_done: int) -> dict[str, Any]:
        """The privacy ledger of a checkpoint; empty if the run keeps no ledger."""
        stored = self._manager.metadata(rounds_done).custom_metadata or {}
        return stored.get("ledger", {})

    def wait(self) -> None:
        """Waits until all that was started is on disk, with its digests."""
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
        """Writes the digests of a checkpoint, unless it is gone."""
        # Another thread may be removing it at this moment, as one too many.
        with contextlib.suppress(RunError, FileNotFoundError):
            if hosts.is_first():
                write_sums(self._sums, self._folder / str(rounds_done))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and jax.process_count() > 1:
            return  # Another process may be gone, and waiting would wait for it too.
        self.wait()
        self._sealing.shutdown()
        self._manager.close()


def _comparable_loss(metrics: dict[str, float]) -> float:
    """The loss, or infinity if it is not finite, so that it ranks last."""
    return metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf


def export_params(folder: Path, params: Params) -> None:
    """Writes parameters alone: no optimiser state, no client's state, no path.

    Every process of a run calls this. The digests are written beside the folder.

    Args:
        folder: The folder to write; an older one is replaced.
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
    """The path of the digests of exported parameters."""
    return folder.with_name(f"{folder.name}.sha256")


def load_params(folder: Path) -> Any:
    """Reads what ``export_params`` wrote, onto one device, whatever machine wrote it.

    Raises:
        RunError: If it is damaged.
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
    """An error of orbax as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
