"""Runs the small federation in one or several processes joined by jax.distributed.

``run_processes`` starts them all on this machine; run as a module, this file is one of them.
"""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tools.benchmarks.measure import interleaved, timed
from tools.benchmarks.small import small_round
from ufm_jax.fed.placement import make_placement

TIMEOUT = 600
"""Seconds after which processes that have not ended are given up."""


class Done(NamedTuple):
    """What a set of processes did.

    Attributes:
        params: Parameters after the rounds, as one vector.
        seconds: Of each round.
        steps: Local steps of a round, of all clients.
        useful: Useful-slot fraction.
        compilations: Of the round.
    """

    params: np.ndarray
    seconds: list[float]
    steps: int
    useful: float
    compilations: int


def run_processes(processes: int, devices: int, cohort: int, lanes: int, repeats: int) -> Done:
    """Runs the federation on ``devices`` simulated devices, spread over ``processes``.

    Raises:
        RuntimeError: If a process fails, with its last lines.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        numbers = (processes, port, devices // processes, cohort, lanes, repeats)
        command = [sys.executable, "-m", __name__]
        running = [
            subprocess.Popen(
                [*command, str(i), *map(str, numbers), f"{folder}/{i}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(processes)
        ]
        for process in running:
            output, _ = process.communicate(timeout=TIMEOUT)
            if process.returncode:
                lines = "\n".join(output.splitlines()[-5:])
                raise RuntimeError(f"a process ended with status {process.returncode}:\n{lines}")
        facts = json.loads(Path(f"{folder}/0.json").read_text(encoding="utf-8"))
        return Done(np.load(f"{folder}/0.npy"), **facts)


def main(arguments: list[str]) -> None:
    """One process: runs its share of the rounds, and writes what it measured."""
    *numbers, file = arguments
    index, processes, port, devices, cohort, lanes, repeats = map(int, numbers)
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    one = small_round(cohort, cohort, make_placement(None, lanes))
    seconds = interleaved({"": timed(one.run)}, repeats)[""]
    schedule = one.plan.schedule
    facts = {
        "seconds": seconds,
        "steps": int(schedule.num_steps.sum()),
        "useful": schedule.useful_fraction,
        "compilations": one.federation.compilations,
    }
    np.save(f"{file}.npy", one.params())
    Path(f"{file}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
