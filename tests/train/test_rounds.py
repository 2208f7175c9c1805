"""The loop over chunks and rounds: each round is recorded once, and in its own time."""

from types import SimpleNamespace

import numpy as np
import pytest

from ufm_jax.config.training import CheckpointConfig
from ufm_jax.fed.engine import RoundMetrics
from ufm_jax.fed.federation import Traffic
from ufm_jax.runs.resume import Point
from ufm_jax.train import recorder as recorder_module
from ufm_jax.train.recorder import Recorder, Sinks
from ufm_jax.train.rounds import Saving, run_rounds

CHUNKS, ROUNDS = 3, 4


class Clock:
    """A second passes with each chunk that has run when its metrics are read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Run:
    """A federation and its feed: rounds of three chunks of one step."""

    def __init__(self, clock):
        self.federation, self.clock, self.log = self, clock, []

    def take(self, done, step):
        plan = SimpleNamespace(
            round_index=done,
            asked=[0],
            late=[],
            virtual_seconds=0.0,
            schedule=SimpleNamespace(makespan=CHUNKS, useful_fraction=1.0),
        )
        return Chunk(plan, step)

    def run_chunk(self, state, plan, step):
        self.log.append(("chunk", plan.round_index, step))
        self.clock.now += 1
        return state, RoundMetrics(*[np.float32(1)] * len(RoundMetrics._fields))

    def following(self, chunk):
        last = chunk.step == CHUNKS - 1
        return (chunk.plan.round_index + last, 0 if last else chunk.step + 1)

    def prepare(self, done, step):
        pass

    def close(self):
        pass

    def results(self, plan, metrics):
        return [
            SimpleNamespace(
                client=0,
                loss=1.0,
                examples=30,
                steps=3,
                update_norm=0.0,
                finite=True,
                lane=0,
                first_step=0,
            )
        ]

    def client_weight(self, clients):
        return [1.0]


class Chunk(SimpleNamespace):
    def __init__(self, plan, step):
        super().__init__(plan=plan, step=step)

    def __iter__(self):
        return iter((self.plan, self.step))


class Checkpoints:
    def __init__(self, log):
        self.log = log

    def save(self, point, cost):
        self.log.append(("save", point.done, point.step))


class Stop:
    """A signal that comes while a chunk runs."""

    def __init__(self, at=None):
        self.at, self.stopped_by, self.asked = at, 0, 0

    def ask(self, late):
        self.asked += 1
        self.stopped_by = 15 if self.asked == self.at else 0
        return late or bool(self.stopped_by)


@pytest.fixture
def run(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(recorder_module.time, "perf_counter", clock)

    def go(stop=None, done=0, step=0):
        made = Run(clock)
        sinks = Sinks((lambda record: made.log.append(("record", record)),), lambda *_: None)
        recorder = Recorder(made, ("a",), lambda r: r, Traffic(1, 1), sinks)
        config = CheckpointConfig(every_rounds=10, every_seconds=0)
        saving = Saving(Checkpoints(made.log), config, ROUNDS)
        return made.log, run_rounds(
            made, recorder, saving, stop or Stop(), Point(done, step, None, {})
        )

    return go


def records(log):
    return [entry[1] for entry in log if entry[0] == "record"]


def test_a_round_is_recorded_while_the_next_ones_first_chunk_runs(run):
    log, _ = run()
    for record in records(log)[:-1]:
        at = log.index(("record", record))
        assert log[at - 1] == ("chunk", record.round + 1, 0)
    assert [record.round for record in records(log)] == list(range(ROUNDS))


def test_a_rounds_seconds_are_those_of_its_own_chunks(run):
    log, _ = run()
    # The host reads a round's metrics once the next chunk is dispatched, and the last at once.
    assert [record.seconds for record in records(log)] == [4, 3, 3, 2]
    assert sum(record.seconds for record in records(log)) == CHUNKS * ROUNDS


@pytest.mark.parametrize("at", range(1, CHUNKS * ROUNDS + 1))
def test_whatever_chunk_a_signal_comes_in_the_rounds_that_are_done_are_recorded(run, at):
    log, point = run(Stop(at))
    assert (point.done, point.step) == divmod(at, CHUNKS)
    assert [record.round for record in records(log)] == list(range(point.done))
    assert log[-1] == ("save", point.done, point.step)


def test_the_speed_of_a_round_that_is_taken_up_inside_is_that_of_what_was_left(run):
    log, _ = run(done=2, step=2)
    first, second = records(log)
    assert (first.round, first.images, first.seconds) == (2, 30, 2)
    assert first.images_per_second == pytest.approx(30 / 3 / 2)
    assert second.images_per_second == pytest.approx(30 / second.seconds)
