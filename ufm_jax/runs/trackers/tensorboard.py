"""TensorBoard: event files in the run's folder, which nobody else sees."""

from collections.abc import Mapping
from pathlib import Path

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files; see ``Tracker``."""

    def __init__(self, workdir: Path, next_round: int) -> None:
        """Opens a new file, which hides what older files say of rounds from ``next_round`` on."""
        from tensorboardX import SummaryWriter  # slow to import, and only a running loop needs it

        folder = str(workdir / TENSORBOARD_FOLDER)
        self._events = SummaryWriter(logdir=folder, purge_step=next_round)
        self.next_round = next_round

    def write(self, round_number: int, scalars: Mapping[str, float]) -> None:
        """Writes a round and flushes."""
        for tag, value in scalars.items():
            self._events.add_scalar(tag, value, round_number)
        self._events.flush()
        self.next_round = round_number + 1

    def close(self, finished: bool) -> None:
        """Closes the file."""
        self._events.close()
