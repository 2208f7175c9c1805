"""Cost of a round against cohort size, population, devices and processes.

The model is small (an MLP, 64-128-10) so that what is measured is the engine. Clients have
log-normal numbers of examples, 20 on average; examples are drawn when a round needs them, so that
a population costs what the engine keeps of it and nothing else.
"""

import argparse
import tracemalloc
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from tools.benchmarks.measure import Row, interleaved, spread, timed
from tools.benchmarks.output import Figures
from tools.benchmarks.processes import run_processes
from tools.benchmarks.small import SmallRound, relative_distance, small_federation, small_round
from ufm_jax.config.command import count_argument
from ufm_jax.fed.placement import make_placement

SIMULATED_DEVICES = 8
PROCESS_DEVICES = 4
OVERS = ("cohort", "population", "devices", "processes")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--over", nargs="+", choices=OVERS, default=list(OVERS))
    parser.add_argument(
        "--cohorts", type=count_argument, nargs="+", default=[16, 100, 1000, 10_000]
    )
    parser.add_argument(
        "--populations", type=count_argument, nargs="+", default=[1000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--cohort_size", type=count_argument, default=100, help="where it is kept")
    parser.add_argument("--lanes", type=count_argument, default=4)
    parser.add_argument("--devices", type=count_argument, default=2, help="where they are kept")
    parser.set_defaults(cpu_devices=SIMULATED_DEVICES, repeats=3)


def measure(options: argparse.Namespace) -> Figures:
    """One row for every size of everything asked for."""
    rows: list[Row] = []
    for over in options.over:
        rows.extend(_MEASURES[over](options))
    notes = (
        "us a step: seconds over local steps of all clients; a flat column is a linear cost.",
        "device MB: arguments and temporaries of the compiled round, on each device, without the "
        "examples. host MB: what the federation keeps and a plan needs.",
        "against the first: relative distance of the parameters after the same rounds from those "
        "of the first row of the same kind. Simulated devices share this machine's cores.",
    )
    return Figures(rows, partial(_draw, rows), notes)


def _over_cohorts(options: argparse.Namespace) -> Iterator[Row]:
    population = max(options.cohorts)
    for size in options.cohorts:
        yield _row("cohort", size, options, population, size)


def _over_populations(options: argparse.Namespace) -> Iterator[Row]:
    for population in options.populations:
        yield _row("population", population, options, population, options.cohort_size)


def _over_devices(options: argparse.Namespace) -> Iterator[Row]:
    first = None
    for count in (1, 2, 4, 8):
        if count > jax.device_count():
            continue
        one = _prepare(options, options.cohort_size, options.cohort_size, count)
        row = _timed_row("devices", count, one, options.repeats)
        params = one.params()
        first = params if first is None else first
        yield row | {"against the first": f"{relative_distance(params, first):.1e}"}


def _over_processes(options: argparse.Namespace) -> Iterator[Row]:
    first = None
    for count in (1, 2):
        done = run_processes(
            count, PROCESS_DEVICES, options.cohort_size, options.lanes, options.repeats
        )
        first = done.params if first is None else first
        yield _blank("processes", count) | {
            "steps": done.steps,
            **spread(done.seconds),
            "us a step": round(float(np.median(done.seconds)) / done.steps * 1e6, 1),
            "useful": round(done.useful, 3),
            "compilations": done.compilations,
            "against the first": f"{relative_distance(done.params, first):.1e}",
        }


_MEASURES = {
    "cohort": _over_cohorts,
    "population": _over_populations,
    "devices": _over_devices,
    "processes": _over_processes,
}


def _row(over: str, value: int, options: argparse.Namespace, population: int, cohort: int) -> Row:
    devices = min(options.devices, jax.device_count())
    tracemalloc.start()
    small_federation(population, cohort, make_placement(devices, options.lanes)).plan(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = _prepare(options, population, cohort, devices)
    return _timed_row(over, value, one, options.repeats) | {"host MB": round(peak / 1e6, 1)}


def _prepare(options: argparse.Namespace, population: int, cohort: int, devices: int) -> SmallRound:
    return small_round(population, cohort, make_placement(devices, options.lanes))


def _timed_row(over: str, value: int, one: SmallRound, repeats: int) -> Row:
    seconds = interleaved({"": timed(one.run)}, repeats)[""]
    schedule = one.plan.schedule
    steps = int(schedule.num_steps.sum())
    return _blank(over, value) | {
        "steps": steps,
        **spread(seconds),
        "us a step": round(float(np.median(seconds)) / steps * 1e6, 1),
        "useful": round(schedule.useful_fraction, 3),
        "device MB": round(one.device_bytes() / 1e6, 1),
        "compilations": one.federation.compilations,
    }


def _blank(over: str, value: int) -> Row:
    columns = ("steps", "seconds", "from", "to", "us a step", "useful")
    checks = ("device MB", "host MB", "compilations", "against the first")
    return {"over": over, "size": value} | dict.fromkeys((*columns, *checks), "")


def _draw(rows: list[Row], axes: Any) -> None:
    for over in dict.fromkeys(row["over"] for row in rows):
        mine = [row for row in rows if row["over"] == over]
        axes.plot(
            [row["size"] for row in mine], [row["us a step"] for row in mine], "o-", label=over
        )
    axes.set(xscale="log", yscale="log", xlabel="size", ylabel="microseconds a local step")
    axes.legend()
