"""Images a second of federated pretraining, where the time goes, and the published pipeline."""

import argparse
import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np

from tools.benchmarks import breakdown, published
from tools.benchmarks.ceiling import Ceiling, model_shapes, utilisation
from tools.benchmarks.compiling import compile_twice, peak_bytes
from tools.benchmarks.images import Images, add_image_options, opened_images
from tools.benchmarks.measure import Row, interleaved, rates, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.workload import (
    DataHome,
    Size,
    Workload,
    add_model_options,
    image_flops,
    run_config,
)
from ufm_jax.config.command import count_argument
from ufm_jax.config.pretraining import PretrainConfig

_NOTES = (
    "A round is what ufm_jax.pretrain does for one, from images in their home to the new global "
    "model, augmentation included; images/s: median over rounds, slowest and fastest.",
    "utilisation: analytic operations of the model (matrix products, forward and backward) a "
    "second, over the most that a chain of matrix products in the same type reached on all devices "
    "at once (ceiling): the fastest of squares and of the model's own shapes, timed beforehand and "
    "in turn with the rounds. useful: share of the lanes' steps in use.",
    "compile s: tracing and compiling a round with an empty persistent cache; cached s: with the "
    "round in it and nothing in memory.",
    "compiled MB: arguments, temporaries and outputs of the compiled round on each device, images "
    "and clients' states included. peak MB: most that the allocator of a device held since the "
    "process began, so that a row may show an earlier one's; '-' where the backend does not tell.",
    "host s: of a round, in which the host plans the next, fetches and sends what the images' home "
    "asks for, dispatches, and reads the metrics of the round before; host share: of the round's "
    "time. The devices train meanwhile, but on a CPU on the same cores.",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_model_options(parser, several_sizes=True)
    add_image_options(parser)
    parser.add_argument("--lanes", type=count_argument, nargs="+", default=[1])
    homes = get_args(DataHome)
    parser.add_argument("--data_home", nargs="+", choices=homes, default=["device"])
    parser.add_argument(
        "--breakdown",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="shares of parts, for each size with the first of --lanes",
    )
    published.add_options(parser)


def measure(options: argparse.Namespace) -> Figures:
    """One row for each size, number of lanes and home; then the shares, and the comparison.

    Raises:
        DataError: If the images cannot be used.
        RuntimeError: If the published pipeline cannot run, or computes something else.
        ValueError: If the options do not go together.
    """
    if options.published:
        # The peer needs a part of the accelerator's memory too. Read when the backend starts.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
        published.check_options(options)
    more: dict[str, list[Row]] = {}
    notes: tuple[str, ...] = _NOTES
    with opened_images(options) as images:
        rows = list(_sweep(options, images))
        if options.breakdown:
            more["shares"] = [
                row
                for size in options.size
                for row in breakdown.breakdown_rows(options, images.data, size, options.lanes[0])
            ]
            notes += breakdown.NOTES
        if options.published:
            more["published"], about = published.compare(
                options, images, [_fastest(options, rows, size) for size in options.size]
            )
            notes += about
    return Figures(rows, partial(_draw, rows), (images.note, *notes), more)


def _sweep(options: argparse.Namespace, images: Images) -> Iterator[Row]:
    for size, lanes, home in product(options.size, options.lanes, options.data_home):
        print(f"measuring {size}, {lanes} lanes, images in {home}", flush=True)
        with closing(Workload(run_config(options, size, lanes, home), images.data)) as workload:
            yield {"size": size, "lanes": lanes, "home": home} | _row(workload, options)


def _fastest(options: argparse.Namespace, rows: list[Row], size: Size) -> PretrainConfig:
    """The run of a size with the highest utilisation, which a machine's drift changes little."""
    mine = [row for row in rows if row["size"] == size]
    best = max(mine, key=lambda row: row["utilisation"])
    return run_config(options, size, best["lanes"], best["home"])


def _row(workload: Workload, options: argparse.Namespace) -> Row:
    compiled = compile_twice(workload)
    shapes = model_shapes(workload.config.model, options.batch_size)
    ceiling = Ceiling(workload.federation.placement, options.dtype, shapes)
    sides = {"round": timed(workload.run), "ceiling": ceiling.run}
    seconds = interleaved(sides, options.repeats)
    flops = workload.images * image_flops(workload.config.model)
    speed = flops / float(np.median(seconds["round"]))
    host = np.array(workload.host_seconds[-options.repeats :])
    peak = peak_bytes()
    return rates(workload.images, seconds["round"]) | {
        "GFLOP/s": round(speed / 1e9, 1),
        "ceiling": round(ceiling.best / 1e9, 1),
        "utilisation": round(utilisation(speed, ceiling), 3),
        "useful": round(workload.useful_fraction, 3),
        "compile s": round(compiled.cold_seconds, 1),
        "cached s": round(compiled.cached_seconds, 1),
        "compiled MB": round(compiled.device_bytes / 1e6),
        "peak MB": "-" if peak is None else round(peak / 1e6),
        "host s": round(float(np.median(host)), 4),
        "host share": round(float(np.median(host / np.array(seconds["round"]))), 4),
    }


def _draw(rows: list[Row], axes: Any) -> None:
    for size, home in dict.fromkeys((row["size"], row["home"]) for row in rows):
        mine = [row for row in rows if (row["size"], row["home"]) == (size, home)]
        axes.plot(
            [row["lanes"] for row in mine],
            [row["images/s"] for row in mine],
            "o-",
            label=f"{size}, images in {home}",
        )
    axes.set(xscale="log", yscale="log", xlabel="lanes a device", ylabel="images a second")
    axes.legend()
