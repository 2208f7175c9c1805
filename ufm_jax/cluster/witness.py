"""The last words of a process that ends without being asked.

JAX aborts a process from C++ when another process of the run is gone, and the system kills one that
takes too much memory. No Python code of that process runs then. So a small second process holds
the other end of a pipe, and speaks once the pipe breaks. It runs this file as a bare script, which
therefore imports nothing of the package.
"""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

CHECKPOINTS, UNFINISHED = "checkpoints", "unfinished_round"
"""Folders of a run: its state after whole rounds, and inside the round that comes after them."""
STEPS = 10**9
"""More steps than a round has: number n of an unfinished round is step ``n % STEPS``."""


class LastWords:
    """Words that are printed to standard error if this process ends before they are withdrawn."""

    def __init__(self, workdir: Path) -> None:
        """Starts the second process.

        Args:
            workdir: The run's folder; the words end with the place where a new start goes on.
        """
        self._witness = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(workdir.absolute())],
            stdin=subprocess.PIPE,
            text=True,
            # Signals to the process group are not for the witness.
            start_new_session=True,
        )

    def prepare(self, words: str) -> None:
        """Replaces what would be said; if ``words`` is empty, nothing will be said."""
        assert self._witness.stdin is not None
        # If somebody killed the witness the run still goes on.
        with contextlib.suppress(BrokenPipeError):
            self._witness.stdin.write(" ".join(words.split()) + "\n")
            self._witness.stdin.flush()

    def say(self, words: str) -> None:
        """Has ``words`` said now, and returns afterwards."""
        self.prepare(words)
        with contextlib.suppress(BrokenPipeError):
            self._witness.communicate()

    def withdraw(self) -> None:
        """Ends the second process in silence."""
        self.say("")


def resume_point(workdir: Path) -> str:
    """What the same command does next, seen from the complete checkpoints in ``workdir``."""
    # A checkpoint gets its bare number as a name when it is complete.
    done, inside = (
        max((int(p.name) for p in (workdir / name).glob("*") if p.name.isdecimal()), default=0)
        for name in (CHECKPOINTS, UNFINISHED)
    )
    if inside > done * STEPS:
        done, step = divmod(inside, STEPS)
        return f"it goes on after round {done}, at step {step} of the next"
    return f"it goes on after round {done}" if done else "it begins anew"


def _witness(workdir: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    words = ""
    for line in sys.stdin:
        words = line.strip()
    if words:
        hint = f"start the same command again on all hosts: {resume_point(workdir)}"
        print(f"error: {words}; {hint}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _witness(Path(sys.argv[1]))
