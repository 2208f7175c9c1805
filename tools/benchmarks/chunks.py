"""A round in one chunk and in several: the same bits, and what it costs in memory and time.

Images live in host memory, and each chunk's are sent to the devices while the chunk before trains.
Memory is measured in a process for each number of chunks, time in turn in one process. Run as a
module, this file is one of those processes.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from tools.benchmarks.images import Images, add_image_options, opened_images
from tools.benchmarks.measure import Row, interleaved, rates, ratio, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import Workload, add_model_options, run_config
from ufm_jax.cluster.process import configure_jax
from ufm_jax.config.command import count_argument
from ufm_jax.config.training import PlacementConfig

_NOTES = (
    "After two rounds the parameters are the same to the bit in all rows; else this is an error.",
    "process MB: the most memory that a process of this number of chunks alone held in its second "
    "round: images in their home, those that are gathered, and those on the devices of a CPU, "
    "which are in the same memory.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--chunks", type=count_argument, nargs="+", default=[1, 3, 10], help="in a round"
    )
    parser.add_argument("--lanes", type=count_argument, default=1)
    add_model_options(parser)
    add_image_options(parser)
    parser.set_defaults(images=20_000, size="xs", image_size=32, patch_size=8, working_size=224)


def measure(options: argparse.Namespace) -> Figures:
    """One row for every number of chunks.

    Raises:
        RuntimeError: If a process fails, or the number of chunks changes a bit.
    """
    alone = {count: _run_alone(options, count) for count in options.chunks}
    first = alone[options.chunks[0]].digest
    for count, one in alone.items():
        if one.digest != first:
            raise RuntimeError(
                f"{count} chunks give other bits than {options.chunks[0]}: their time would mean "
                "nothing"
            )
    with opened_images(options) as images, ExitStack() as stack:
        sides = {
            count: stack.enter_context(closing(_workload(options, images, count)))
            for count in options.chunks
        }
        runs = {str(count): timed(side.run) for count, side in sides.items()}
        seconds = interleaved(runs, options.repeats)
        total = next(iter(sides.values())).images
    return Figures(list(_rows(seconds, total, alone)), None, (images.note, *_NOTES))


class Alone(NamedTuple):
    """What a process of its own found.

    Attributes:
        chunks: Chunks of a round.
        digest: Of the parameters after two rounds.
        peak_bytes: Most memory of the process in the second round.
    """

    chunks: int
    digest: str
    peak_bytes: int


def _rows(
    seconds: Mapping[str, list[float]], images: int, alone: Mapping[int, Alone]
) -> Iterator[Row]:
    first, *_ = seconds.values()
    for count, one in alone.items():
        mine = seconds[str(count)]
        yield {
            "chunks": one.chunks,
            **rates(images, mine),
            "times the first": ratio(mine, first),
            "process MB": round(one.peak_bytes / 1e6),
        }


def _workload(options: argparse.Namespace, images: Images, count: int) -> Workload:
    """Rounds of about ``count`` chunks."""
    config = run_config(options, options.size, options.lanes, "host")
    whole = Workload(config, images.data)
    steps = -(-whole.federation.plan(0).schedule.makespan // count)
    whole.close()
    placement = replace(config.placement, chunk_steps=steps)
    return Workload(replace(config, placement=placement), images.data)


def _run_alone(options: argparse.Namespace, count: int) -> Alone:
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "command")}
    settings["data"] = str(options.data) if options.data else None
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(settings | {"chunks": [count]})],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"{count} chunks: a process ended with {done.returncode}:\n{lines}")
    return Alone(*json.loads(done.stdout.splitlines()[-1]))


def main(settings: dict[str, Any]) -> None:
    """One process: two rounds; prints what ``Alone`` holds as JSON."""
    options = argparse.Namespace(**settings)
    options.data = Path(options.data) if options.data else None
    configure_jax(PlacementConfig(cpu_devices=options.cpu_devices))
    with (
        opened_images(options) as images,
        closing(_workload(options, images, *options.chunks)) as side,
    ):
        side.run()
        # From here on Linux counts anew what the process holds at most.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        side.run()
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        leaves = jax.tree.leaves(jax.device_get(side.state.server.params))
        digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
        count = len(side.federation.chunks(side.federation.plan(0)))
        print(json.dumps([count, digest, peak * 1024]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
