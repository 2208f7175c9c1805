"""Checkpoints: asynchronous, atomic, the last few and the best kept. The only orbax import.

A checkpoint at round r holds all that rounds 0 .. r - 1 changed. Everything else of a run (cohorts,
batches, random keys, schedules) is a function of the seed and the round, so that this is enough to
go on bit for bit.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ufm_jax.fed.algorithm import Params
from ufm_jax.fed.engine import FederationState


class Checkpoints:
    """The checkpoints of a run, in ``workdir/checkpoints``."""

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        """Opens or makes the folder.

        Args:
            workdir: The run's folder.
            keep: Last checkpoints kept, besides the one of the lowest loss.
        """
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=_comparable_loss, reverse=True, n=1),
            ]
        )
        self._folder = workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(preservation_policy=policy),
        )

    @property
    def last(self) -> int | None:
        """Rounds done at the newest complete checkpoint; None where there is none."""
        return self._manager.latest_step()

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
        self._manager.save(
            rounds_done,
            args=ocp.args.StandardSave(state),
            metrics={"loss": loss},
            custom_metadata={"ledger": dict(ledger or {})},
        )

    def restore(self, rounds_done: int, like: FederationState) -> FederationState:
        """Reads a checkpoint.

        Args:
            rounds_done: Which one.
            like: A state of the same shapes, on the devices where the result shall live.

        Raises:
            ValueError: If the checkpoint does not have these shapes.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(rounds_done, args=ocp.args.StandardRestore(target))

    def ledger(self, rounds_done: int) -> dict[str, Any]:
        """The privacy ledger of a checkpoint; empty where the run keeps none."""
        stored = self._manager.metadata(rounds_done).custom_metadata or {}
        return stored.get("ledger", {})

    def wait(self) -> None:
        """Returns when everything started is on disk."""
        self._manager.wait_until_finished()

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
        self._manager.wait_until_finished()
        self._manager.close()


def _comparable_loss(metrics: dict[str, float]) -> float:
    """The loss, or infinity where it is nan, which no comparison would rank last."""
    return metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf


def export_params(folder: Path, params: Params) -> None:
    """Writes parameters alone: no optimiser state, no client's state, no path.

    Every process of a run calls this.

    Args:
        folder: Is replaced where it exists.
        params: The global parameters.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), params, force=True)


def load_params(folder: Path) -> Any:
    """Reads what ``export_params`` wrote, onto one device, whatever machine wrote it."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder.absolute()).item_metadata.tree
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored
        )
        return checkpointer.restore(folder.absolute(), like)
