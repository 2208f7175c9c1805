"""The judge: when it looks, what it remembers, when it has seen enough."""

import math

import pytest

from tests.train.test_rounds import Run, Stop
from ufm_jax.config.training import CheckpointConfig
from ufm_jax.fed.federation import Traffic
from ufm_jax.runs.history import MetricWriter, RoundRecord
from ufm_jax.runs.resume import Point
from ufm_jax.train import judge as judge_module
from ufm_jax.train import recorder as recorder_module
from ufm_jax.train.judge import Judge, Judging
from ufm_jax.train.recorder import Recorder, Sinks
from ufm_jax.train.rounds import Saving, run_rounds


class Clock:
    """A second passes with each chunk; looks take ten."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(judge_module.time, "perf_counter", made)
    return made


def judging(values, every=1, sign=1, patience=0, saves_best=True, clock=None):
    """A judge's way to find these values, one a look."""
    scores = iter(values)

    def look(state, done):
        if clock is not None:
            clock.now += 10
        return {"validation_score": next(scores)}

    return Judging(look, "validation_score", sign, every, patience, saves_best)


def judged(tmp_path, values, rounds=4, due=(), **how):
    made = Judge(judging(values, **how), tmp_path)
    made.begin(0, rounds)
    return made, [made(done, None, done in due) for done in range(1, rounds + 1)]


def test_the_first_of_the_best_defined_looks_is_kept(tmp_path):
    made, verdicts = judged(tmp_path, [math.nan, 0.4, 0.7, 0.7])
    assert [verdict.keep for verdict in verdicts] == [False, True, True, False]
    # An equal look that comes later must not replace the checkpoint of the first.
    assert [verdict.cost for verdict in verdicts] == [math.inf, -0.4, -0.7, math.inf]
    assert made.best == (3, 0.7)


def test_where_lower_is_better_the_lowest_is_the_best(tmp_path):
    made, verdicts = judged(tmp_path, [3.0, 1.0, 2.0], rounds=3, sign=-1, saves_best=False)
    assert made.best == (2, -1.0)
    assert [verdict.cost for verdict in verdicts] == [3.0, 1.0, 2.0]
    assert not any(verdict.keep for verdict in verdicts)


def test_it_looks_every_few_rounds_after_the_last_and_where_a_checkpoint_is_due(tmp_path):
    _, verdicts = judged(tmp_path, range(9), rounds=8, due=(2,), every=3, saves_best=False)
    assert [n for n, verdict in enumerate(verdicts, 1) if verdict] == [2, 3, 6, 8]
    # Where the best is saved at once, a checkpoint needs no look of its own.
    _, verdicts = judged(tmp_path, range(9), rounds=8, due=(2,), every=3)
    assert [n for n, verdict in enumerate(verdicts, 1) if verdict] == [3, 6, 8]


def write_history(folder, scores):
    with MetricWriter(folder, 0) as writer:
        for r, score in enumerate(scores):
            facts = (r, 0.5, 1.0, 1.0, 8, 8.0, 1.0, 0.1, 1, [], [])
            writer.write(RoundRecord(*facts, validation_score=score))


def test_it_goes_on_with_the_looks_of_the_rounds_that_are_done(tmp_path):
    write_history(tmp_path, [0.1, math.nan, 0.5, 0.9])
    made = Judge(judging([]), tmp_path)
    made.begin(3, 9)
    assert made.looks == [(1, 0.1), (3, 0.5)]  # round 3, whose checkpoint is lost, comes again


class Checkpoints:
    def __init__(self):
        self.saved = []

    def save(self, point, cost):
        self.saved.append((point.done, cost))


def run(clock, made, rounds=8, every_rounds=100):
    """Rounds of three chunks under a judge: their records, and what was saved."""
    records, checkpoints, federation = [], Checkpoints(), Run(clock)
    sinks = Sinks((records.append,), lambda *_: None)
    recorder = Recorder(federation, ("a",), lambda r: r, Traffic(1, 1), sinks)
    saving = Saving(checkpoints, CheckpointConfig(every_rounds, every_seconds=0), rounds)
    if made is not None:
        made.begin(0, rounds)
    run_rounds(federation, recorder, saving, Stop(), Point(0, 0, None, {}), made)
    return records, checkpoints.saved


def test_training_ends_when_patience_does_and_its_last_round_is_recorded_and_saved(tmp_path, clock):
    made = Judge(judging([0.1, 0.3, 0.2, 0.25, 0.1, 0.9], patience=3), tmp_path)
    records, saved = run(clock, made)
    assert [record.validation_score for record in records] == [0.1, 0.3, 0.2, 0.25, 0.1]
    assert saved == [(1, -0.1), (2, -0.3), (5, math.inf)]


def test_only_a_look_ends_the_training_however_patient_it_is(tmp_path, clock):
    made = Judge(judging([0.3, 0.4, 0.1], every=4, patience=2), tmp_path)
    records, _ = run(clock, made, rounds=20)
    # The looks are after 4, 8 and 12 rounds; nothing is known of the rounds between.
    assert len(records) == 12


def test_a_run_that_patience_ended_does_not_go_on(tmp_path):
    write_history(tmp_path, [0.3, 0.2, 0.1])
    made = Judge(judging([], patience=2), tmp_path)
    made.begin(3, 9)
    assert made.enough


def test_the_time_of_a_look_is_not_that_of_its_round(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(recorder_module.time, "perf_counter", clock)
    records, _ = run(clock, Judge(judging(range(9), clock=clock), tmp_path), rounds=3)
    assert [record.judging_seconds for record in records] == [10, 10, 10]
    assert [record.seconds for record in records] == [3, 3, 3]


def test_the_checkpoints_cost_is_the_loss_where_nothing_judges(clock):
    assert run(clock, None, rounds=4, every_rounds=2)[1] == [(2, 1.0), (4, 1.0)]
