"""Measures how fast federations train on this machine.

    python -m tools.benchmark packing
    python -m tools.benchmark pretrain --size ti --image_size=224 --batch_size=16 --lanes 1 2 4
    python -m tools.benchmark trace --size=ti --out=FOLDER
    python -m tools.benchmark compile --target h200 v5e:2x2 --lanes 1 2
    python -m tools.benchmark methods --only examples clients secure
    python -m tools.benchmark SUBCOMMAND --help

Every comparison runs its sides in turn in one run on one machine, with the same model, batches and
arithmetic. Prints a table; ``--out=FOLDER`` also gets JSON with machine, versions and settings,
and a plot. Times are medians over repeats after a warm-up, with their spread; quote ratios, since
machines differ.
"""

import argparse
import sys

from tools.benchmarks import (
    bound,
    chunks,
    compile_round,
    engine,
    methods,
    packing,
    pretrain,
    scale,
    standard,
    trace,
)
from tools.benchmarks.output import show, write
from ufm_jax.cluster.process import configure_jax
from ufm_jax.config.command import count_argument, count_or_zero, path_argument
from ufm_jax.config.training import PlacementConfig
from ufm_jax.door import enter

COMMANDS = {
    "bound": bound,
    "chunks": chunks,
    "compile": compile_round,
    "engine": engine,
    "methods": methods,
    "packing": packing,
    "pretrain": pretrain,
    "scale": scale,
    "standard": standard,
    "trace": trace,
}


def main() -> int:
    """Parses arguments, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=(module.__doc__ or "").split("\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_argument("--repeats", type=count_argument, default=5, help="of each timing")
        command.add_argument("--cpu_devices", type=count_or_zero, default=0, help="0: one a core")
        command.add_argument(
            "--out", type=path_argument, default=None, help="a folder for JSON and plot"
        )
        module.add_options(command)
    options = parser.parse_args()
    configure_jax(PlacementConfig(cpu_devices=options.cpu_devices))
    figures = COMMANDS[options.command].measure(options)
    show(options.command, figures)
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        write(options.out, options.command, figures, settings)
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
