"""Runs the runs of a suite, each in a process of its own, and remembers which are finished."""

import subprocess
import sys
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from tools.suites.plan import Run, SuiteError, fill_in
from ufm_jax.files import private_folder, read_json, write_json
from ufm_jax.runs.folder import EVALUATION_FILE

RECORD_FILE = "suite.json"
LOG_FILE = "log.txt"
_LAST_LINES = 12
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Main:
    """A program that runs are made with.

    Attributes:
        command: Arguments of Python that start it; it takes --config, --workdir and --config.KEY.
        result: The file that it writes last into its folder: a run that has it is finished. With ''
            a run is finished when it has ended with exit code 0.
    """

    command: tuple[str, ...]
    result: str


MAINS: Mapping[str, Main] = MappingProxyType(
    {
        "finetune": Main(("-m", "ufm_jax.finetune"), EVALUATION_FILE),
        "pretrain": Main(("-m", "ufm_jax.pretrain"), ""),
    }
)


class Event(NamedTuple):
    """Something that happened to a run.

    Attributes:
        run: The run.
        kind: 'blocked' is a run that was not started since one that it needs failed.
        seconds: How long it ran.
        detail: Why it failed, several lines; for 'blocked' the run that failed.
    """

    run: Run
    kind: Literal["started", "finished", "failed", "blocked"]
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Workplace:
    """Where runs are made.

    Attributes:
        out: The suite's folder; a run's is below it, by name.
        mains: Programs by name.
        data: The folder of the data; '' = not given.
    """

    out: Path
    mains: Mapping[str, Main]
    data: str = ""

    def folder(self, run: Run) -> Path:
        """The run's folder."""
        return self.out / run.name

    def main(self, run: Run) -> Main:
        """The program that the run is made with.

        Raises:
            SuiteError: There is none of that name.
        """
        if run.main not in self.mains:
            known = ", ".join(self.mains)
            raise SuiteError(f"run {run.name!r}: main={run.main!r}; choose one of {known}")
        return self.mains[run.main]

    def command(self, run: Run) -> list[str]:
        """What the run is started with.

        Raises:
            SuiteError: The run's main is unknown, its file is absent, or the data is not given.
        """
        main, config = self.main(run), fill_in(run.config, self.out, self.data)
        if not Path(config.partition(":")[0]).is_file():
            raise SuiteError(f"run {run.name!r}: its configuration {config} does not exist")
        flags = {"config": config, "workdir": self.folder(run)} | {
            f"config.{key}": fill_in(str(value), self.out, self.data)
            for key, value in run.overrides.items()
        }
        settings = (f"--{key}={value}" for key, value in flags.items())
        return [sys.executable, *main.command, *settings]

    def is_finished(self, run: Run) -> bool:
        """Whether the run is finished, as it stands in the suite now.

        Raises:
            SuiteError: It is, but with another configuration than that of the suite.
        """
        folder, record = self.folder(run), self.record(run)
        result = self.main(run).result
        finished = (folder / result).is_file() if result else bool(record.get("finished"))
        if finished and record and record["definition"] != definition(run):
            changed = _changes(record["definition"], definition(run))
            raise SuiteError(
                f"{folder} is finished, but the suite has changed since ({changed}): remove that "
                "folder to run it again, or choose another --out"
            )
        return finished

    def record(self, run: Run) -> dict[str, Any]:
        """What is remembered of a run: 'definition', 'finished' and 'seconds'; else empty."""
        path = self.folder(run) / RECORD_FILE
        if not path.is_file():
            return {}
        remedy = f"remove the folder {path.parent} to run it again"
        record: dict[str, Any] = read_json(path, remedy, dict)
        return record

    def remember(self, run: Run, seconds: float, finished: bool) -> None:
        """Notes that a run has been started, or is finished."""
        record = {"definition": definition(run), "finished": finished, "seconds": seconds}
        write_json(self.folder(run) / RECORD_FILE, record)


def definition(run: Run) -> dict[str, str]:
    """What decides a run's figures; folders are left as they are named, so that they may move."""
    overrides = {f"config.{key}": str(value) for key, value in run.overrides.items()}
    return {"main": run.main, "config": run.config} | overrides


def execute(runs: Sequence[Run], place: Workplace, jobs: int = 1) -> Generator[Event, None, None]:
    """Runs what is not finished, ``jobs`` at a time, in order as far as ``Run.needs`` allows.

    Runs whose needs fail are not started; all others are. Where the caller stops early, processes
    that are under way are asked to end, and waited for.

    Args:
        runs: Those to be run, and all that they need and that is not finished.
        place: Where.
        jobs: Processes at a time.

    Yields:
        What happens, as it happens.
    """
    waiting, running = list(runs), list[_Process]()
    failed: set[str] = set()
    try:
        while waiting or running:
            for run, culprit in _blocked(waiting, failed):
                waiting.remove(run)
                failed.add(run.name)
                yield Event(run, "blocked", detail=culprit)
            for run in _ready(waiting, failed, running)[: jobs - len(running)]:
                waiting.remove(run)
                running.append(_Process(run, place))
                yield Event(run, "started")
            for process in [each for each in running if each.has_ended()]:
                running.remove(process)
                event = process.outcome()
                if event.kind == "failed":
                    failed.add(event.run.name)
                yield event
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for process in running:
            process.stop()


class _Process:
    """A run under way."""

    def __init__(self, run: Run, place: Workplace) -> None:
        """Starts it."""
        self.run, self._place, self._began = run, place, time.monotonic()
        folder, command = place.folder(run), place.command(run)
        private_folder(folder)
        self._before = float(place.record(run).get("seconds", 0))
        place.remember(run, self._before, finished=False)
        self._log = folder / LOG_FILE
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ {subprocess.list2cmdline(command)}\n")
            log.flush()
            # In a session of its own, so that Ctrl-C reaches it once, through `stop`.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Asks it to end, which lets it save, and waits."""
        self._process.terminate()
        self._process.wait()
        self._place.remember(self.run, self._before + self._seconds(), finished=False)

    def outcome(self) -> Event:
        """How it ended."""
        place, seconds = self._place, self._seconds()
        code, result = self._process.returncode, place.main(self.run).result
        complete = code == 0 and (not result or (place.folder(self.run) / result).is_file())
        place.remember(self.run, self._before + seconds, complete)
        if complete:
            return Event(self.run, "finished", seconds)
        why = f"exit code {code}" if code else f"it ended without writing {result}"
        return Event(self.run, "failed", seconds, f"{why}; {self._log} ends with\n{self._tail()}")

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 2)

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        # A progress bar draws over itself: what counts is what it showed last.
        lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n") if line.strip()]
        return "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])


def _blocked(waiting: Sequence[Run], failed: Collection[str]) -> list[tuple[Run, str]]:
    """Runs that need one which failed, and that one."""
    return [
        (run, next(need for need in run.needs if need in failed))
        for run in waiting
        if any(need in failed for need in run.needs)
    ]


def _ready(
    waiting: Sequence[Run], failed: Collection[str], running: Sequence[_Process]
) -> list[Run]:
    """Runs all of whose needs are finished."""
    ahead = {run.name for run in (*waiting, *(process.run for process in running))}.union(failed)
    return [run for run in waiting if ahead.isdisjoint(run.needs)]


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    return "; ".join(
        f"{key}: {before.get(key)} there, {now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
