"""A tracker that is away, slow or gone amid a write neither stops a run nor gets a round twice."""

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.records import record
from ufm_jax.runs.trackers import background
from ufm_jax.runs.trackers.background import Background
from ufm_jax.runs.tracking import scalars


class Store:
    """A tracker whose requests fail as planned, some of them after they have arrived."""

    def __init__(self, plan=(), held=()):
        self.plan, self.rounds, self.losses = list(plan), list(held), []
        self.opened, self.finished, self.asked = 0, None, threading.Semaphore(0)

    def request(self, arrives=lambda: None):
        self.asked.release()
        outcome = self.plan.pop(0) if self.plan else "works"
        if outcome != "lost":
            arrives()
        if outcome != "works":
            raise OSError("no route to http://anna:secret@host/api")

    def open(self):
        self.request()
        self.opened += 1
        self.next_round = max(self.rounds, default=-1) + 1
        return self

    def write(self, round_number, values):
        self.request(lambda: self.rounds.append(round_number))
        self.losses.append(values["round/loss"])
        self.next_round = round_number + 1

    def close(self, finished):
        self.request()
        self.finished = finished


def run(store, rounds, finished=True):
    new = not store.rounds
    tracker = Background("store", store.open, scalars)
    for number in rounds:
        tracker.write(record(number))
        if new:  # What fails now is tried again with the next round.
            assert store.asked.acquire(timeout=60)
    tracker.close(finished)


@pytest.mark.parametrize("finished", [True, False])
def test_it_gets_every_round_and_how_the_run_ended(finished):
    store = Store()
    run(store, range(3), finished)
    assert store.rounds == [0, 1, 2]
    assert store.losses == [1.0, 1 / 2, 1 / 3]
    assert store.finished is finished
    assert store.opened == 1


def test_rounds_that_it_holds_are_not_sent_again():
    store = Store(held=[0, 1])
    run(store, range(4))
    assert store.rounds == [0, 1, 2, 3]


@given(plan=st.lists(st.sampled_from(["works", "lost", "answer lost"]), max_size=12))
def test_whatever_fails_each_round_is_there_once_and_in_order(plan):
    store = Store(plan)
    run(store, range(6))
    assert store.rounds == list(range(len(store.rounds)))
    run(store, range(6))  # The same command again.
    while store.plan:
        run(store, range(6))
    run(store, range(6))
    assert store.rounds == list(range(6))


def test_a_tracker_that_is_away_is_told_once(caplog):
    store = Store(["lost"] * 100)
    with caplog.at_level(logging.WARNING):
        run(store, range(5))
    (said,) = caplog.records
    assert "store is away (OSError: no route to http://host/api)" in said.getMessage()
    assert "metrics.jsonl has every round" in said.getMessage()


def test_a_tracker_that_hangs_holds_up_no_round(monkeypatch, caplog):
    monkeypatch.setattr(background, "PATIENCE", 0.01)
    released = threading.Event()
    tracker = Background("store", released.wait, scalars)
    for number in range(5):
        tracker.write(record(number))
    tracker.close(True)
    assert not released.is_set()
    assert "has not answered" in caplog.text
    released.set()
    tracker._thread.join()
