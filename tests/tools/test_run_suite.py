"""Suites: what is run and in which order, what is not run again, and figures in the tables.

Runs are made with a main of a few lines, which writes the figures and predictions it is told.
"""

import csv
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tools.run_suite import main
from tools.suites.jobs import Main, Workplace, execute
from tools.suites.output import markdown
from tools.suites.plan import (
    Contrast,
    Figure,
    Run,
    Suite,
    SuiteError,
    fill_in,
    grid,
    load_suite,
    name_of,
    select,
    with_settings,
)
from tools.suites.plot import write_plot
from tools.suites.table import make_tables, over_seeds
from ufm_jax.evaluation.paired_tests import Comparison
from ufm_jax.evaluation.results import Estimate

ROOT = Path(__file__).resolve().parents[2]

FAKE_MAIN = """
import json, sys
from pathlib import Path

flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
workdir = Path(flags["workdir"])
with (workdir.parent / "order.txt").open("a") as file:
    file.write(workdir.name + "\\n")
if "config.fail" in flags:
    print("loss 1.0\\rloss 2.0\\nall went wrong")
    sys.exit(3)
if "config.start" in flags:
    assert (Path(flags["config.start"]) / "weights").exists(), flags["config.start"]
(workdir / "weights").touch()
if "config.score" in flags:
    value = float(flags["config.score"])
    figure = {"value": value, "low": value - 0.25, "high": value + 0.25, "n": 8, "note": ""}
    test = {"positive": "b", "overall": {"balanced_accuracy": figure}}
    lines = ["image,client,group,label,called,prob_a,prob_b"]
    wrong = round(8 * (1 - value))
    for i in range(8):
        called = "ab"[(i + (i < wrong)) % 2]
        p = 0.75 if called == "b" else 0.25
        lines.append(f"{i}.png,c,{i},{'ab'[i % 2]},{called},{1 - p},{p}")
    (workdir / "predictions_test.csv").write_text("\\n".join(lines) + "\\n")
    (workdir / "evaluation.json").write_text(json.dumps({"splits": {"test": test}}))
"""

ACCURACY = Figure("Accuracy", "splits.test.overall.balanced_accuracy")


@pytest.fixture
def run_suite(tmp_path, monkeypatch, capsys):
    """Runs a suite of fake runs in ``tmp_path``: code, what was printed, and who was started."""
    (tmp_path / "fake.py").write_text(FAKE_MAIN)
    (tmp_path / "config.py").touch()
    monkeypatch.chdir(tmp_path)
    mains = {
        "finetune": Main((str(tmp_path / "fake.py"),), "evaluation.json"),
        "pretrain": Main((str(tmp_path / "fake.py"),), ""),
    }

    def call(suite, *flags):
        monkeypatch.setattr("tools.run_suite.load_suite", lambda text: suite)
        order = tmp_path / "out" / "order.txt"
        order.unlink(missing_ok=True)
        message = ""
        try:
            code = main(["--suite=x.py", f"--out={order.parent}", *flags], mains)
        except SuiteError as error:
            code, message = 2, str(error)
        started = order.read_text().split() if order.exists() else []
        printed = capsys.readouterr()
        return code, printed.out + printed.err + message, started

    return call


def run(name, score=None, labels=None, main="finetune", after=(), **overrides):
    if score is not None:
        overrides["score"] = score
    return Run(name, "config.py", overrides, labels or {}, main, after)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_runs_come_after_those_they_need_and_finished_ones_are_not_run_again(run_suite):
    suite = Suite(
        [
            run("tuned", 0.5, {"model": "a"}, start="{run:encoder}"),
            run("other", 0.75, {"model": "b"}, after=("tuned",)),
            run("encoder", main="pretrain"),
        ],
        [ACCURACY],
    )
    assert run_suite(suite)[::2] == (0, ["encoder", "tuned", "other"])
    code, printed, started = run_suite(suite)
    assert (code, started) == (0, [])
    assert "3 runs, 3 finished before" in printed
    assert "| a | 0.500 (0.250 to 0.750) |" in printed


def test_failure_is_shown_with_its_log_while_other_runs_go_on(run_suite, tmp_path):
    bad = run("bad", 0.5, {"model": "a"}, fail=True)
    rest = [
        run("later", 0.5, {"model": "b"}, start="{run:bad}"),
        run("last", 0.5, {"model": "c"}, after=("later",)),
        run("good", 0.5, {"model": "d"}),
    ]
    code, printed, started = run_suite(Suite([bad, *rest], [ACCURACY]))
    assert (code, started) == (1, ["bad", "good"])
    assert "exit code 3" in printed
    assert "    loss 2.0\n    all went wrong" in printed
    assert "later: bad failed" in printed
    assert "last: later failed" in printed
    assert "| a | 0/1 | - |" in printed
    # Mended, it goes on with what is missing.
    mended = run("bad", 0.5, {"model": "a"})
    assert run_suite(Suite([mended, *rest], [ACCURACY]))[::2] == (0, ["bad", "later", "last"])


def test_run_without_a_result_is_a_failure(run_suite):
    code, printed, _ = run_suite(Suite([run("mute")], []))
    assert code == 1
    assert "ended without writing evaluation.json" in printed


def test_finished_run_of_a_changed_suite_is_refused(run_suite, tmp_path):
    assert run_suite(Suite([run("one", 0.5, {"model": "a"})], [ACCURACY]))[0] == 0
    changed = Suite([run("one", 0.75, {"model": "a"})], [ACCURACY])
    for flags in ([], ["--table"]):
        code, printed, started = run_suite(changed, *flags)
        assert (code, started) == (2, [])
        assert "config.score: 0.5 there, 0.75 here" in printed


def test_two_jobs_run_at_once(run_suite, tmp_path):
    """Each waits for the other's folder, so that one after the other would not end."""
    (tmp_path / "fake.py").write_text(
        "import sys, time, pathlib\n"
        "workdir = pathlib.Path(sys.argv[2].partition('=')[2])\n"
        "other = workdir.parent / {'a': 'b', 'b': 'a'}[workdir.name] / 'log.txt'\n"
        "end = time.time() + 20\n"
        "while not other.exists() and time.time() < end: time.sleep(0.01)\n"
        "sys.exit(not other.exists())\n"
    )
    began = time.monotonic()
    runs = [run("a", main="pretrain"), run("b", main="pretrain")]
    assert run_suite(Suite(runs, []), "--jobs=2")[0] == 0
    assert time.monotonic() - began < 15


def test_stopping_early_ends_what_runs_and_leaves_it_to_be_run_again(tmp_path):
    (tmp_path / "fake.py").write_text("import time; time.sleep(60)")
    (tmp_path / "config.py").touch()
    one = Run("one", str(tmp_path / "config.py"))
    place = Workplace(tmp_path, {"finetune": Main((str(tmp_path / "fake.py"),), "")})
    began = time.monotonic()
    with closing(execute([one], place)) as events:
        assert next(events).kind == "started"
    assert time.monotonic() - began < 20
    assert not place.is_finished(one)
    assert place.record(one)["finished"] is False


def test_list_and_table_run_nothing(run_suite, tmp_path):
    suite = Suite([run("one", 0.5, {"model": "a"}), run("two", after=("one",))], [ACCURACY])
    code, printed, started = run_suite(suite, "--list")
    assert (code, started) == (0, [])
    assert "to do    two (after one)" in printed
    code, printed, started = run_suite(suite, "--table")
    assert (code, started) == (0, [])
    assert "no run of the table is finished" in printed


def test_mistakes_are_said_in_one_line_before_anything_runs(run_suite, tmp_path):
    good = run("good", 0.5)
    for bad, flags, said in (
        (run("bad", main="distil"), [], "main='distil'; choose one of finetune, pretrain"),
        (Run("bad", "nowhere.py"), [], "its configuration nowhere.py does not exist"),
        (run("bad", root="{data}"), [], "give --data=FOLDER"),
        (run("bad"), ["--only=worse"], "fits no run"),
    ):
        code, printed, started = run_suite(Suite([good, bad], []), *flags)
        assert (code, started) == (2, [])
        assert said in printed


def test_places_are_filled_in_and_other_braces_left():
    out = Path("out")
    assert fill_in("{data}/x", out, "d") == "d/x"
    assert fill_in("('{run:a}', '[0-9]{3}')", out, "") == "('out/a', '[0-9]{3}')"


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run("a", start="{run:x}")], "needs the run 'x', which the suite lacks"),
        ([run("a", after=("b",)), run("b", after=("a",))], "in a circle"),
        ([run("a"), run("a")], "two runs are named 'a'"),
        ([run("a/b")], "in its name"),
        ([run("a", labels={"m": 1}), run("b", labels={"m": 1})], "two runs have the labels"),
        ([run("a", labels={"figure": 1})], "a column 'figure' of their own"),
        ([run("a", labels={"m": 1}), run("b", labels={"k": 1})], "give all runs of the table"),
    ],
)
def test_impossible_suites_are_refused(runs, said):
    with pytest.raises(SuiteError, match=said):
        Suite(runs, [])


@pytest.mark.parametrize("contrast", [Contrast("m", 1, 3), Contrast("k", 1, 2)])
def test_contrast_of_what_no_run_has_is_refused(contrast):
    runs = [run("a", labels={"m": 1}), run("b", labels={"m": 2})]
    with pytest.raises(SuiteError, match="no run has such a label"):
        Suite(runs, [], [contrast])


def test_only_takes_what_fits_and_what_it_needs():
    runs = [run("encoder"), run("tuned", start="{run:encoder}"), run("more")]
    assert [one.name for one in select(runs, "^tun")] == ["encoder", "tuned"]
    assert select(runs, "") == runs


def seeds_suite(scores):
    """Scores [model][seed]."""
    runs = [
        run(name_of(labels), scores[labels["model"]][labels["seed"]], labels)
        for labels in grid(model=tuple(scores), seed=range(3))
    ]
    return Suite(runs, [ACCURACY], [Contrast("model", *scores)])


def test_rows_over_seeds_have_the_mean_and_students_interval(run_suite, tmp_path):
    scores = {"a": [1.0, 0.75, 0.875], "b": [0.5, 0.5, 0.75]}
    assert run_suite(seeds_suite(scores))[0] == 0
    rows = read_csv(tmp_path / "out" / "table.csv")
    assert [row["model"] for row in rows] == ["a", "b"]
    for row, values in zip(rows, scores.values(), strict=True):
        expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert float(row["value"]) == pytest.approx(np.mean(values))
        assert (float(row["low"]), float(row["high"])) == pytest.approx(expected)
        assert (row["runs"], row["planned"], row["n"]) == ("3", "3", "3")
    [gap] = read_csv(tmp_path / "out" / "differences.csv")
    paired = stats.ttest_rel(scores["a"], scores["b"])
    assert float(gap["p"]) == pytest.approx(paired.pvalue)
    interval = paired.confidence_interval()
    assert (float(gap["low"]), float(gap["high"])) == pytest.approx(tuple(interval))


def test_undefined_values_are_left_out_and_said():
    estimate = over_seeds([1.0, np.nan, 2.0])
    assert (estimate.value, estimate.n) == (1.5, 2)
    assert estimate.note == "undefined in 1 of 3 runs, left out"
    alone = over_seeds([1.0])
    assert alone.value == 1
    assert np.isnan(alone.low)


def one_seed(first, second):
    runs = [run("x", first, {"model": "x"}), run("y", second, {"model": "y"})]
    return Suite(runs, [ACCURACY], [Contrast("model", "x", "y")])


def test_equal_runs_differ_by_nothing(run_suite, tmp_path):
    assert run_suite(one_seed(0.75, 0.75))[0] == 0
    [gap] = read_csv(tmp_path / "out" / "differences.csv")
    assert [float(gap[key]) for key in ("value", "low", "high", "p")] == [0, 0, 0, 1]


def test_single_runs_are_compared_by_image(run_suite, tmp_path):
    """Right on 8 of 8 and on 4 of 8: the difference is 1/2, and is shown to be above 0."""
    code, printed, _ = run_suite(one_seed(1.0, 0.5))
    assert code == 0
    assert "**+0.500 (" in printed
    [gap] = read_csv(tmp_path / "out" / "differences.csv")
    assert gap["test"].startswith("paired bootstrap")
    assert 0 < float(gap["low"]) < 0.5 < float(gap["high"])


def test_runs_on_other_images_are_no_pair(run_suite, tmp_path):
    suite = one_seed(1.0, 0.5)
    run_suite(suite)
    table = tmp_path / "out" / "y" / "predictions_test.csv"
    table.write_text(table.read_text().replace("7.png", "9.png"))
    code, printed, _ = run_suite(suite, "--table")
    assert code == 0
    assert "**" not in printed
    assert "7.png and 0 more images are among those of this run alone" in printed


def test_figures_of_training_and_null_figures():
    """A number without an interval, one that is null, and one that only one run has."""
    figures = [
        Figure("Loss", "last_round.loss", better="lower"),
        Figure("Error", "measurement.test.result.mae"),
        Figure("Dice", "dice"),
    ]
    suite = Suite([run(name, labels={"run": name}) for name in "abc"], figures)
    results = {
        "a": {"last_round": {"loss": 0.5}, "dice": {"value": 1, "low": None, "high": None}},
        "b": {"measurement": {"test": {"result": None, "note": "nothing to measure"}}},
    }
    a, b, c = make_tables(suite, results, {}.get).rows
    assert a.cells["Loss"].value == 0.5
    assert np.isnan(a.cells["Dice"].low)
    assert b.cells["Error"].note == "nothing to measure"
    assert set(b.cells) == {"Error"}
    assert (c.cells, c.finished, c.planned) == ({}, 0, 1)


def test_paired_difference_of_fewer_images_is_said():
    """Figures 3 and 1; of the 4 images that both runs could measure, the difference is 1."""
    suite = Suite(
        [run("x", labels={"run": "x"}), run("y", labels={"run": "y"})],
        [Figure("Error", "error")],
        [Contrast("run", "x", "y")],
    )
    gap = Estimate(1.0, 0.5, 1.5, 4)
    compared = {"error": Comparison(gap, gap, gap, 0.01, "paired bootstrap")}
    results = {"x": {"error": 3.0}, "y": {"error": 1.0}}
    [row] = make_tables(suite, results, lambda first, second: compared).gaps
    assert row.cells["Error"].difference.note.startswith("over the 4 images alone")
    [row] = make_tables(suite, {**results, "y": {"error": 2.0}}, lambda *_: compared).gaps
    assert row.cells["Error"].difference.note == ""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.25, 0.75), "0.500 (0.250 to 0.750)"),
        ((1.0, 0.9, 1.0), "1.000 (0.900 to 1.000)"),
        ((95.0, 89.754, 154.32), "95.0 (89.8 to 154.3)"),
        ((12.345, np.nan, np.nan), "12.35"),
        ((171.0, np.nan, np.nan), "171"),
    ],
)
def test_figures_are_printed_with_four_digits(numbers, text):
    suite = Suite([run("x", labels={"run": "x"})], [Figure("Error", "error")])
    known = [None if np.isnan(number) else number for number in numbers]
    estimate = dict(zip(("value", "low", "high"), known, strict=True))
    tables = make_tables(suite, {"x": {"error": estimate}}, {}.get)
    assert f"| x | {text} |" in markdown(tables)


def test_an_undefined_figure_is_said_and_one_that_is_undefined_everywhere_left_out():
    runs = [run(name, labels={"run": name}) for name in "xy"]
    suite = Suite(runs, [Figure("Dice", "dice"), Figure("Error", "error")])
    text = markdown(make_tables(suite, {n: {"dice": 0.5, "error": None} for n in "xy"}, {}.get))
    assert "Error" not in text
    results = {"x": {"dice": 0.5, "error": None}, "y": {"dice": 0.5, "error": 2.0}}
    text = markdown(make_tables(suite, results, {}.get))
    assert "| x | 0.500 | undefined |" in text
    assert "- undefined: x, Error" in text


def test_a_note_of_many_figures_counts_them():
    runs = [run(f"r{i}", labels={"run": f"r{i}"}) for i in range(6)]
    noted = {"value": 0.5, "low": 0.4, "high": 0.6, "note": "few groups"}
    suite = Suite(runs, [Figure("Dice", "dice")])
    text = markdown(make_tables(suite, {one.name: {"dice": noted} for one in runs}, {}.get))
    assert "- few groups: 6 figures" in text


def test_plot_has_a_panel_for_each_section_and_figure(tmp_path):
    points = grid(task=("one", "two"), start=("new", "old"))
    runs = [run(name_of(point), labels=point) for point in points]
    figures = [Figure("Dice", "dice"), Figure("Error", "error", better="lower")]
    suite = Suite(runs, figures, [Contrast("start", "new", "old")], section="task")
    results = {one.name: {"dice": 0.5} for one in runs} | {"two-old": {"dice": 1.0, "error": 2.0}}
    tables = make_tables(suite, results, lambda first, second: {})
    write_plot(tmp_path, tables)
    first = (tmp_path / "table.svg").read_bytes()
    write_plot(tmp_path, tables)
    assert (tmp_path / "table.svg").read_bytes() == first
    assert first.count(b'id="axes_') == 3
    empty = make_tables(suite, {}, lambda first, second: {})
    assert write_plot(tmp_path, empty) is None


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "suites").glob("*.py")))
def test_suites_that_are_shipped_load_and_their_keys_exist(path, monkeypatch):
    """Every override is a key of the configuration, and the result resolves and fits together."""
    from ufm_jax.config.finetuning import resolve_finetune
    from ufm_jax.config.pretraining import resolve

    monkeypatch.chdir(ROOT)
    text = path.read_text()
    assert f"configs/suites/{path.name}" in text
    argument = ":runs/encoder" if f"{path.name}:RUN" in text else ""
    suite = load_suite(f"{path.relative_to(ROOT)}{argument}")
    for one in suite.runs:
        file, _, argument = one.config.partition(":")
        config = load_config_file(file)(*[argument] if argument else [])
        for key, value in one.overrides.items():
            *sections, last = key.split(".")
            part = config
            for section in sections:
                part = part[section]
            assert last in part, key
            part[last] = "data" if value == "{data}" else value
        (resolve if one.main == "pretrain" else resolve_finetune)(config)


def load_config_file(file):
    import runpy

    return runpy.run_path(file)["get_config"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no such file"),
        ("x = 1", "defines no get_suite"),
        ("def get_suite(argument): return 1", "returned a int"),
        ("def get_suite(argument): raise ValueError('name a task')", "name a task"),
    ],
)
def test_files_that_are_no_suite_are_refused(tmp_path, text, said):
    path = tmp_path / "suite.py"
    if text:
        path.write_text(text)
    with pytest.raises(SuiteError, match=said):
        load_suite(f"{path}:x")


def test_a_setting_holds_for_every_run_that_does_not_set_it_itself():
    suite = Suite([run("one"), run("two", start="x")], [Figure("Dice", "dice")])
    first, second = with_settings(suite, ["start=y", "config.rounds=2"]).runs
    assert first.overrides == {"start": "y", "rounds": "2"}
    assert second.overrides == {"start": "x", "rounds": "2"}
    with pytest.raises(SuiteError, match="give KEY=VALUE"):
        with_settings(suite, ["rounds"])
