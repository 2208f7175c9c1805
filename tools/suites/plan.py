"""What a suite is: runs, the figures shown of them, and the contrasts drawn between them.

A suite file is Python with one function, ``get_suite(argument: str) -> Suite``.
"""

import itertools
import re
import runpy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from ufm_jax.errors import UserError

Label = str | int | float
"""What tells a run from the others: the value in a column of the table."""

RESERVED = frozenset(
    {"runs", "planned", "figure", "value", "low", "high", "n", "note"}
    | {"pairs", "label", "first", "second", "difference", "p", "test", "remark"}
)
"""Columns of the tables that no label may be called."""

_NAME = re.compile(r"[A-Za-z0-9][\w.=+-]*")
_REFERENCE = re.compile(r"\{run:([^{}]*)\}")
_PLACE = re.compile(r"\{(data|run:[^{}]*)\}")


class SuiteError(UserError):
    """A suite that cannot be run or shown; its one line says what and the remedy."""


@dataclass(frozen=True)
class Run:
    """One run of a main.

    In ``config`` and in the values of ``overrides``, '{data}' stands for the folder of the data and
    '{run:NAME}' for the folder of another run, which then comes first.

    Attributes:
        name: Unique; the run's folder below that of the suite.
        config: The configuration file, as the main takes it: 'configs/finetune_public.py:TASK'.
        overrides: Key of the configuration, such as 'federation.rounds' -> value.
        labels: Column of the table -> value; none = the run is in no table.
        main: Which of the mains; see ``jobs.MAINS``.
        after: Further runs that must be finished first.
    """

    name: str
    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    main: str = "finetune"
    after: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must be finished first, each once."""
        texts = (self.config, *map(str, self.overrides.values()))
        named = (name for text in texts for name in _REFERENCE.findall(text))
        return tuple(dict.fromkeys((*self.after, *named)))


@dataclass(frozen=True)
class Figure:
    """A column of figures.

    Attributes:
        title: Heads the column.
        path: Where it stands in what is known of a run (see ``results.read_results``), keys joined
            by dots: 'splits.test.overall.auroc', 'last_round.loss'.
        better: Which way is better, for the arrow beside the title; '' for neither.
        drawn: Whether it has a panel in the plot.
        paired: Its names in ``downstream.comparison.compare_runs``, of which the first that there
            is serves for differences of single runs; none = the last key of ``path``.
    """

    title: str
    path: str
    better: Literal["higher", "lower", ""] = "higher"
    drawn: bool = True
    paired: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The title and which way is better."""
        return self.title + {"higher": " ↑", "lower": " ↓", "": ""}[self.better]

    @property
    def pair_names(self) -> tuple[str, ...]:
        """Its names among paired comparisons."""
        return self.paired or (self.path.rpartition(".")[2],)


@dataclass(frozen=True)
class Contrast:
    """``first`` minus ``second`` along a label, between runs that are alike in all other labels."""

    label: str
    first: Label
    second: Label

    def __str__(self) -> str:
        return f"{self.label}: {self.first} - {self.second}"


@dataclass(frozen=True)
class Suite:
    """Runs, and how they are shown.

    Attributes:
        runs: In the order in which they are run, as far as ``Run.needs`` allows.
        figures: Columns.
        contrasts: Paired differences that are shown in a second table.
        over: The label that only repeats a run with other random numbers; its values share a row.
        section: The label whose values have a table each; '' for one table.
    """

    runs: Sequence[Run]
    figures: Sequence[Figure]
    contrasts: Sequence[Contrast] = ()
    over: str = "seed"
    section: str = ""

    def __post_init__(self) -> None:
        _check_runs(self.runs)
        shown = [run for run in self.runs if run.labels]
        keys = list(shown[0].labels) if shown else []
        for run in shown:
            if list(run.labels) != keys:
                raise SuiteError(
                    f"run {run.name!r} has labels {list(run.labels)}, the first one {keys}: give "
                    "all runs of the table the same, in the same order"
                )
        if taken := RESERVED.intersection(keys):
            raise SuiteError(
                f"the tables have a column {min(taken)!r} of their own: rename the label"
            )
        places = Counter(tuple(run.labels.values()) for run in shown)
        if twice := [place for place, count in places.items() if count > 1]:
            raise SuiteError(f"two runs have the labels {twice[0]}: add a label that tells them")
        if self.section and self.section not in keys:
            raise SuiteError(f"section {self.section!r} is not a label; the labels are {keys}")
        titles = Counter(figure.title for figure in self.figures)
        if twice_titled := [title for title, count in titles.items() if count > 1]:
            raise SuiteError(f"two figures have the title {twice_titled[0]!r}: change one")
        for contrast in self.contrasts:
            values = {run.labels.get(contrast.label) for run in shown}
            if contrast.label in (self.over, self.section):
                raise SuiteError(
                    f"contrast {contrast}: {contrast.label!r} is the label of seeds or sections"
                )
            if not {contrast.first, contrast.second} <= values:
                raise SuiteError(
                    f"contrast {contrast}: no run has such a label; values of "
                    f"{contrast.label!r} are {sorted(map(str, values))}"
                )


def grid(**axes: Sequence[Label]) -> list[dict[str, Label]]:
    """The product of axes, as labels of runs: the last axis turns fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def name_of(labels: Mapping[str, Label]) -> str:
    """A run's name from its labels; the key is named where the value alone says nothing."""
    parts = (value if isinstance(value, str) else f"{key}={value}" for key, value in labels.items())
    return "-".join(re.sub(r"[^\w.=+]+", "_", part) for part in parts)


def load_suite(text: str) -> Suite:
    """Reads a suite file.

    Args:
        text: 'FILE.py', or 'FILE.py:ARGUMENT' whose argument ``get_suite`` is called with.

    Raises:
        SuiteError: If the file does not exist or defines no suite, or the suite is wrong.
    """
    name, _, argument = text.partition(":")
    if not Path(name).is_file():
        raise SuiteError(f"--suite={name}: no such file; configs/suites/ holds some")
    get_suite = runpy.run_path(name).get("get_suite")
    if get_suite is None:
        raise SuiteError(f"{name} defines no get_suite(argument)")
    try:
        suite = get_suite(argument)
    except ValueError as error:
        raise SuiteError(f"{name}: {error}") from error
    if not isinstance(suite, Suite):
        raise SuiteError(f"{name}: get_suite returned a {type(suite).__name__}, not a Suite")
    return suite


def fill_in(text: str, out: Path, data: str) -> str:
    """``text`` with the folders in the places of '{data}' and '{run:NAME}'.

    Raises:
        SuiteError: The data is needed, and ``data`` is ''.
    """

    def folder(match: re.Match[str]) -> str:
        if match[1] != "data":
            return str(out / match[1].removeprefix("run:"))
        if not data:
            raise SuiteError(f"{text!r} needs the folder of the data: give --data=FOLDER")
        return data

    return _PLACE.sub(folder, text)


def with_settings(suite: Suite, settings: Sequence[str]) -> Suite:
    """The suite with settings 'KEY=VALUE' in every run, before what the runs set themselves.

    Raises:
        SuiteError: One of them is not of that form.
    """
    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise SuiteError(f"--set={setting}: give KEY=VALUE, such as placement.cpu_devices=1")
        given[key.removeprefix("config.")] = value
    runs = [replace(run, overrides={**given, **run.overrides}) for run in suite.runs]
    return replace(suite, runs=runs)


def select(runs: Sequence[Run], pattern: str) -> list[Run]:
    """The runs in whose names ``pattern`` is found, and those that they need, in order.

    Raises:
        SuiteError: If the pattern is not a regular expression, or fits no run.
    """
    try:
        fits = {run.name for run in runs if re.search(pattern, run.name)}
    except re.error as error:
        raise SuiteError(f"--only={pattern}: {error}") from error
    if not fits:
        raise SuiteError(f"--only={pattern} fits no run; --list shows their names")
    needs = {run.name: run.needs for run in runs}
    ahead = list(fits)
    while ahead:
        new = set(needs[ahead.pop()]) - fits
        fits |= new
        ahead += new
    return [run for run in runs if run.name in fits]


def _check_runs(runs: Sequence[Run]) -> None:
    """Refuses names that are no folders, equal names, unknown references and circles."""
    names = Counter(run.name for run in runs)
    for run in runs:
        if not _NAME.fullmatch(run.name):
            raise SuiteError(f"run {run.name!r}: use letters, digits and . _ = + - in its name")
        if names[run.name] > 1:
            raise SuiteError(f"two runs are named {run.name!r}: change one")
        for need in run.needs:
            if need not in names:
                raise SuiteError(f"run {run.name!r} needs the run {need!r}, which the suite lacks")
    try:
        TopologicalSorter({run.name: run.needs for run in runs}).prepare()
    except CycleError as error:
        raise SuiteError(
            f"runs need each other in a circle: {' -> '.join(error.args[1])}"
        ) from None
