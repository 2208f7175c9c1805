"""Runs a grid of runs, each in a process of its own, and makes a table and a plot of them.

    python -m tools.run_suite --suite=configs/suites/training_modes.py --out=runs/modes --data=DATA
    python -m tools.run_suite --suite=configs/suites/downstream.py:runs/public --out=runs/all --list

Short runs on a CPU gain from two at a time, each with one device: --jobs=2
--set=placement.cpu_devices=1.

Called again, it goes on: finished runs are not run again, others go on where they stopped. A run
that fails is shown with the end of its log; the others go on, and the exit code is 1. Written to
--out: a folder a run, table.md, table.csv, differences.csv and table.svg.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from rich.console import Console

from tools.suites.jobs import MAINS, Event, Main, Workplace, execute
from tools.suites.output import write_tables
from tools.suites.paired import compare_folders
from tools.suites.plan import Run, Suite, load_suite, select, with_settings
from tools.suites.plot import write_plot
from tools.suites.results import read_results
from tools.suites.table import make_tables
from ufm_jax.config.command import count_argument, path_argument
from ufm_jax.door import enter

_WIDTH_IN_FILES = 200


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--suite", required=True, help="FILE.py or FILE.py:ARGUMENT")
    made.add_argument("--out", type=path_argument, required=True, help="folder of the suite")
    made.add_argument("--data", type=path_argument, help="folder of the data")
    made.add_argument("--only", default="", help="regular expression: runs whose names it fits")
    made.add_argument("--jobs", type=count_argument, default=1, help="runs at a time")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run"
    )
    made.add_argument("--list", action="store_true", help="show the runs, and run nothing")
    made.add_argument("--table", action="store_true", help="make the table of what is finished")
    return made


def main(arguments: Sequence[str] | None = None, mains: Mapping[str, Main] = MAINS) -> int:
    """Runs what is not finished, then writes and prints the table.

    Args:
        arguments: The command line.
        mains: Programs that runs may name.

    Returns:
        0; 1 where a run failed.

    Raises:
        SuiteError: For a mistake in the suite or the command line.
    """
    options = parser().parse_args(arguments)
    # A file or a pipe has no width of its own, and 80 columns would fold the lines.
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    console = Console(width=width, highlight=False, markup=False, soft_wrap=True)
    place = Workplace(options.out, mains, str(options.data or ""))
    suite = with_settings(load_suite(options.suite), options.set)
    runs = select(suite.runs, options.only)
    if options.list:
        _show_runs(runs, place, console)
        return 0
    good = options.table or _run_all(runs, place, options.jobs, console)
    _show_table(suite, place, console)
    return 0 if good else 1


def _run_all(runs: Sequence[Run], place: Workplace, jobs: int, console: Console) -> bool:
    """Runs what is not finished; whether nothing failed."""
    todo = [run for run in runs if not place.is_finished(run)]
    for run in todo:
        place.command(run)  # What is wrong with the last run is said before the first one starts.
    console.print(f"{len(runs)} runs, {len(runs) - len(todo)} finished before")
    began, ended, good = time.monotonic(), 0, True
    under_way: list[str] = []
    # Closed in any case: that is what ends the processes under way.
    with console.status("") as status, closing(execute(todo, place, jobs)) as events:
        for event in events:
            if event.kind == "started":
                under_way.append(event.run.name)
            else:
                ended += 1
                under_way = [name for name in under_way if name != event.run.name]
                good &= event.kind == "finished"
                total = _duration(time.monotonic() - began)
                console.print(f"[{ended:3}/{len(todo)}] {_told(event)} (in all {total})")
            status.update(f"running {', '.join(under_way)}")
    return good


def _told(event: Event) -> str:
    name, took = event.run.name, _duration(event.seconds)
    if event.kind == "blocked":
        return f"NOT RUN  {name}: {event.detail} failed"
    if event.kind == "failed":
        return f"FAILED   {name} after {took}: {event.detail}\n         "
    return f"finished {name} {took}"


def _show_table(suite: Suite, place: Workplace, console: Console) -> None:
    """Writes the tables and the plot of what is finished, and prints the former."""
    results = {
        run.name: read_results(place.folder(run), float(place.record(run).get("seconds", "nan")))
        for run in suite.runs
        if run.labels and place.is_finished(run)
    }
    if not results:
        console.print("no run of the table is finished: no table")
        return
    tables = make_tables(
        suite,
        results,
        lambda first, second: compare_folders(place.folder(first), place.folder(second)),
    )
    console.print()
    console.print(write_tables(place.out, tables))
    drawn = write_plot(place.out, tables)
    console.print(f"written to {place.out}" + (f", plot: {drawn}" if drawn else ""))


def _show_runs(runs: Sequence[Run], place: Workplace, console: Console) -> None:
    """One line a run: whether it is finished, its name and what it needs."""
    for run in runs:
        state = "finished" if place.is_finished(run) else "to do"
        needs = f" (after {', '.join(run.needs)})" if run.needs else ""
        console.print(f"{state:9}{run.name}{needs}")


def _duration(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    sys.exit(enter(main))
