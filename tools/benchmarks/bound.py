"""Images a second of federated pretraining beside what the compiled program allows, and idle time.

The bound is read from the program that runs, as ``compile`` reads it for machines that are not
there; it is known for the accelerators of ``targets``.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import jax

from tools.benchmarks.compile_report import STEP, zones_of
from tools.benchmarks.compiling import cache_in
from tools.benchmarks.hlo import read_module
from tools.benchmarks.images import Images, add_image_options, opened_images
from tools.benchmarks.measure import Row, interleaved, rates, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.targets import TARGETS, Target
from tools.benchmarks.trace import ROUNDS, device_rows, trace_rounds
from tools.benchmarks.trace_events import read_trace
from tools.benchmarks.workload import Workload, add_model_options, run_config
from ufm_jax.config.command import count_argument
from ufm_jax.models.attention import AttentionKernel

_NOTES = (
    "bound: images/s if each kernel of a local step took no longer than its bytes and products "
    "must, over all devices with every lane at work; '-' where the device is not known.",
    "of bound: images/s over the bound times the share of the lanes' steps in use.",
    "idle: share of a traced round in which no operation runs, of the device where it is largest.",
    "compile s: tracing and compiling once.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument("--lanes", type=count_argument, nargs="+", default=[1])
    kernels = get_args(AttentionKernel)
    parser.add_argument("--attention", nargs="+", default=["auto"], choices=kernels)


def measure(options: argparse.Namespace) -> Figures:
    """One row for every kind of attention and number of lanes."""
    with opened_images(options) as images:
        rows = list(_rows(options, images))
    return Figures(rows, partial(_draw, rows), (images.note, *_NOTES))


def _rows(options: argparse.Namespace, images: Images) -> Iterator[Row]:
    for attention, lanes in product(options.attention, options.lanes):
        config = run_config(options, options.size, lanes)
        model = replace(config.model, attention_kernel=attention)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-bound-")))
            stack.enter_context(cache_in(str(folder / "cache")))
            workload = Workload(replace(config, model=model), images.data)
            stack.enter_context(closing(workload))
            print(f"measuring attention {attention}, {lanes} lanes", flush=True)
            yield {"attention": attention, "lanes": lanes} | _row(workload, folder, options.repeats)


def _row(workload: Workload, folder: Path, repeats: int) -> Row:
    begin = time.perf_counter()
    compiled = workload.lower().compile()
    seconds_to_compile = time.perf_counter() - begin
    seconds = interleaved({"": timed(workload.run)}, repeats)[""]
    trace = read_trace(trace_rounds(workload, 1, folder / "trace"), ROUNDS)
    row = rates(workload.images, seconds) | {"bound": "-", "of bound": "-"}
    if (target := here()) is not None:
        step = zones_of(read_module(compiled.as_text() or "")).costs(target.ceiling)[STEP]
        placement, batch = workload.federation.placement, workload.config.federation.batch_size
        bound = batch * placement.lanes * placement.num_devices / step.seconds
        share = row["images/s"] / (bound * workload.useful_fraction)
        row |= {"bound": round(bound), "of bound": round(share, 3)}
    return row | {
        "useful": round(workload.useful_fraction, 3),
        "idle": max(device["idle"] for device in device_rows(trace)),
        "compile s": round(seconds_to_compile, 1),
    }


def here() -> Target | None:
    """The target whose name the first device of this machine has; None for other devices."""
    kind = jax.devices()[0].device_kind
    named = (t for t in TARGETS.values() if t.description)
    return next((t for t in named if str(t.description["name"]) in kind), None)


def _draw(rows: list[Row], axes: Any) -> None:
    for attention in dict.fromkeys(row["attention"] for row in rows):
        mine = [row for row in rows if row["attention"] == attention]
        lanes = [row["lanes"] for row in mine]
        axes.plot(lanes, [row["images/s"] for row in mine], "o-", label=f"{attention}, measured")
        if mine[0]["bound"] != "-":
            axes.plot(lanes, [row["bound"] for row in mine], "k--", label=f"{attention}, bound")
    axes.set(xlabel="lanes a device", ylabel="images a second", ylim=(0, None))
    axes.legend()
