"""The progress display is readable on terminals and in log files."""

import dataclasses
import io
import math
from collections import deque

import pytest
from rich.console import Console

from ufm_jax.runs.history import RoundRecord
from ufm_jax.train.progress import Progress, clock, seconds_left

RECORD = RoundRecord(
    round=0, loss=0.5, lr_factor=1.0, seconds=2.0, images=300, images_per_second=150.0,
    useful_fraction=0.9, update_norm=0.1, cohort=4, rejected=[], clients=[],
)  # fmt: skip


def show(rounds, *, terminal=False, start=0, total=10, plain_seconds=0.0, **changes) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=terminal, width=100, color_system=None, _environ={}
    )
    with Progress(total, start, plain_seconds=plain_seconds, console=console) as progress:
        for round_ in rounds:
            progress.update(dataclasses.replace(RECORD, round=round_, **changes))
    return stream.getvalue()


def test_a_plain_line_says_rounds_loss_speed_and_time_left():
    assert show([3]) == "4/10 rounds, loss 0.5000, 150 images/s, 0:12 left\n"


def test_plain_output_has_no_control_codes():
    text = show(range(10), rejected=["turin [red]\x1b[31m\r"])
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "turin [red]" in text


def test_plain_output_is_rare_but_has_the_first_and_the_last_round():
    lines = show(range(10), plain_seconds=1e9).splitlines()
    assert [line.split()[0] for line in lines] == ["1/10", "10/10"]


def test_a_rejected_client_is_always_named():
    for terminal in (False, True):
        text = show([1], plain_seconds=1e9, rejected=["turin"], terminal=terminal)
        assert "round 1: the update of turin was rejected" in text


def test_a_terminal_gets_one_live_line_that_ends_at_the_last_round():
    text = show(range(10), terminal=True)
    assert "10/10 rounds" in text
    assert "loss 0.5000, 150 images/s, 0:00 left" in text
    assert "\x1b[2K" in text


def test_a_resumed_run_starts_where_it_was():
    assert "4/10 rounds" in show([], terminal=True, start=4)


def test_numbers_that_are_not_finite_are_shown_and_do_not_break_it():
    text = show([0], loss=math.nan, images_per_second=math.nan, seconds=math.nan)
    assert text == "1/10 rounds, loss nan, ? images/s, ? left\n"


def test_one_slow_round_does_not_spoil_the_time_left():
    assert seconds_left(deque([400.0, 2.0, 2.0, 2.0]), 5) == 10.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "1 day 1:01:01"),
     (180000, "2 days 2:00:00"), (math.nan, "?"), (math.inf, "?")],
)  # fmt: skip
def test_durations_are_written_as_clocks(seconds, text):
    assert clock(seconds) == text


def test_a_start_after_the_end_is_refused():
    with pytest.raises(ValueError, match="start_round is 11"):
        Progress(10, 11)
