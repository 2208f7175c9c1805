"""A profiler trace of one round: how long devices idle, and what takes their time.

Open the trace that is written to ``--out`` in Perfetto or in XProf.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from tools.benchmarks.images import add_image_options, opened_images
from tools.benchmarks.measure import Row
from tools.benchmarks.output import Figures
from tools.benchmarks.trace_events import Operation, Trace, idle_share, read_trace
from tools.benchmarks.workload import Workload, add_model_options, run_config
from ufm_jax.config.command import count_argument

ROUNDS = "traced rounds"
"""The name of the annotation in the trace around all that is measured."""

_MOST_OPERATIONS = 10

_NOTES = (
    "idle: share of the span in which no operation runs on the device: 1 - (union of the "
    "operations' intervals) / span, the span being all traced rounds from the first dispatch to "
    "the last result. between: the same from the device's first operation to its last.",
    "On a simulated device of a CPU an operation runs from the moment its thread enters it until "
    "the thread leaves it: waiting for other devices and for a core counts as running there. The "
    "profiler slows a CPU's rounds, and its own time between operations counts as idle.",
    "Loops and conditionals are left out for what runs inside them. time: of an operation's name, "
    "over all devices; share: of all operations' time.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument("--lanes", type=count_argument, default=1)
    parser.add_argument("--data_home", choices=("device", "host", "stream"), default="device")
    parser.add_argument(
        "--rounds", type=count_argument, default=1, help="traced together, without a pause"
    )


def measure(options: argparse.Namespace) -> Figures:
    """A row for each device, and the most expensive operations.

    Raises:
        ValueError: If the trace is not complete, or shows no operation of any device.
    """
    config = run_config(options, options.size, options.lanes, options.data_home)
    with ExitStack() as stack:
        images = stack.enter_context(opened_images(options))
        workload = stack.enter_context(closing(Workload(config, images.data)))
        folder = options.out or stack.enter_context(TemporaryDirectory(prefix="benchmark-trace-"))
        trace = read_trace(trace_rounds(workload, options.rounds, Path(folder)), ROUNDS)
    kept = f"trace: {trace.file}" if options.out else "trace: thrown away; keep it with --out"
    more = {"operations": list(operation_rows(trace.operations))}
    return Figures(list(device_rows(trace)), None, (images.note, *_NOTES, f"{kept}."), more)


def trace_rounds(workload: Workload, rounds: int, folder: Path) -> Path:
    """Runs rounds under the profiler, after one that compiles, and returns the trace's file."""
    workload.run()
    with jax.profiler.trace(str(folder)), jax.profiler.TraceAnnotation(ROUNDS):
        for _ in range(rounds):
            workload.dispatch()
        jax.block_until_ready(workload.state)
    files = folder.glob("plugins/profile/*/*.trace.json.gz")
    return max(files, key=lambda file: file.stat().st_mtime)


def device_rows(trace: Trace) -> Iterator[Row]:
    """How long each device idles."""
    for device in sorted({operation.device for operation in trace.operations}):
        mine = [operation for operation in trace.operations if operation.device == device]
        intervals = [(operation.begin, operation.end) for operation in mine]
        first, last = min(begin for begin, _ in intervals), max(end for _, end in intervals)
        yield {
            "device": device,
            "span, s": round((trace.end - trace.begin) / 1e6, 4),
            "idle": round(idle_share(intervals, trace.begin, trace.end), 4),
            "between": round(idle_share(intervals, first, last), 4),
            "operations": len(mine),
        }


def operation_rows(operations: list[Operation]) -> Iterator[Row]:
    """The operations that take the most time, of all devices together."""
    time: defaultdict[str, float] = defaultdict(float)
    for operation in operations:
        time[operation.name] += operation.end - operation.begin
    count = Counter(operation.name for operation in operations)
    total = sum(time.values())
    longest = sorted(time.items(), key=lambda item: -item[1])[:_MOST_OPERATIONS]
    for name, microseconds in longest:
        yield {
            "operation": name,
            "times": count[name],
            "time, s": round(microseconds / 1e6, 4),
            "share": round(microseconds / total, 4),
        }
