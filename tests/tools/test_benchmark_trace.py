"""The device-idle share of a trace, from hand-made intervals to one that the profiler wrote."""

import gzip
import json
import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.benchmarks import trace, trace_events
from tools.benchmarks.trace_events import Operation, idle_share, innermost, operations, read_trace

MOMENTS = st.integers(-5, 25)
INTERVALS = st.lists(st.tuples(MOMENTS, MOMENTS).map(sorted).map(tuple), max_size=8)


@pytest.mark.parametrize(
    ("intervals", "share"),
    [
        ([], 1.0),
        ([(0, 10)], 0.0),
        ([(2, 4), (6, 7)], 0.7),
        ([(2, 6), (4, 8), (5, 6)], 0.4),
        ([(-5, 1), (9, 20)], 0.8),
        ([(-5, -1), (11, 12)], 1.0),
        ([(6, 7), (2, 4)], 0.7),
    ],
)
def test_the_idle_share_is_what_no_interval_covers(intervals, share):
    assert idle_share(intervals, 0, 10) == pytest.approx(share)


@given(INTERVALS, MOMENTS, MOMENTS)
def test_the_idle_share_counts_moments_that_no_interval_has(intervals, begin, end):
    if end <= begin:
        begin, end = end, begin + 1
    idle = sum(not any(a <= t < b for a, b in intervals) for t in range(begin, end))
    assert idle_share(intervals, begin, end) == pytest.approx(idle / (end - begin))


def test_a_span_without_length_is_refused():
    with pytest.raises(ValueError, match="no length"):
        idle_share([(0, 1)], 3, 3)


def test_a_loop_is_left_out_for_what_runs_inside_it():
    lane = [
        Operation("0", "copy", 0, 1),
        Operation("0", "while", 1, 9),
        Operation("0", "dot", 2, 4),
        Operation("0", "while", 4, 8),
        Operation("0", "add", 5, 6),
        Operation("0", "end", 9, 10),
    ]
    assert [op.name for op in innermost(lane)] == ["copy", "dot", "add", "end"]


def test_an_operation_that_rounding_lets_overlap_its_successor_stays():
    lane = [Operation("0", "dot", 0, 1.0000001), Operation("0", "add", 1.0, 2.0)]
    assert [op.name for op in innermost(lane)] == ["dot", "add"]


def _named(pid, process, lanes):
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}}
    for tid, name in lanes.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _event(pid, tid, name, ts, dur):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": ts, "dur": dur}


GPU = [
    *_named(1, "/device:GPU:0", {1: "Stream #7(Compute)", 2: "XLA Modules", 3: "XLA Ops"}),
    *_named(2, "/device:GPU:1", {1: "Stream #8(Compute)"}),
    *_named(9, "/host:CPU", {1: "python", 2: "Stream of thoughts"}),
    _event(1, 1, "gemm", 20, 30),
    _event(1, 2, "jit_round", 0, 100),
    _event(1, 3, "gemm", 20, 30),
    _event(2, 1, "memcpy", 10, 5),
    _event(9, 1, trace.ROUNDS, 0, 100),
    _event(9, 2, "thinking", 0, 100),
]
TPU = [
    *_named(1, "/device:TPU:0", {2: "XLA Modules", 3: "XLA Ops"}),
    _event(1, 2, "jit_round", 0, 100),
    _event(1, 3, "fusion", 5, 5),
]


def test_a_gpus_operations_are_those_of_its_streams():
    assert sorted(operations(GPU)) == [
        Operation("/device:GPU:0", "gemm", 20, 50),
        Operation("/device:GPU:1", "memcpy", 10, 15),
    ]


def test_a_tpus_operations_are_those_of_its_one_lane_of_them():
    assert list(operations(TPU)) == [Operation("/device:TPU:0", "fusion", 5, 10)]


def _write(path, events):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"traceEvents": events}, file)
    return path


def test_devices_and_operations_of_a_trace_make_the_tables(tmp_path):
    read = read_trace(_write(tmp_path / "t.json.gz", GPU), trace.ROUNDS)
    devices = {row["device"]: (row["idle"], row["between"]) for row in trace.device_rows(read)}
    assert devices == {"/device:GPU:0": (0.7, 0.0), "/device:GPU:1": (0.95, 0.0)}
    first = next(iter(trace.operation_rows(read.operations)))
    assert (first["operation"], first["times"], first["share"]) == ("gemm", 1, 0.8571)


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        (GPU[:-2], "has 0 events 'traced rounds'"),
        ([e for e in GPU if e["pid"] == 9], "no operation of a device"),
    ],
)
def test_a_trace_that_cannot_tell_is_refused(tmp_path, events, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_trace(_write(tmp_path / "t.json.gz", events), trace.ROUNDS)


def test_a_trace_that_the_profiler_cut_off_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_events, "MOST_EVENTS", len(GPU))
    with pytest.raises(ValueError, match="trace less, with --images"):
        read_trace(_write(tmp_path / "t.json.gz", GPU), trace.ROUNDS)


class _Work:
    """Half of its time on the device: a loop of products, and as long a pause of the host."""

    def __init__(self):
        self.state = jnp.ones((400, 400))
        self._multiply = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x / 400, x))

    def run(self):
        self.dispatch()

    def dispatch(self):
        begin = time.perf_counter()
        self.state = jax.block_until_ready(self._multiply(self.state))
        time.sleep(time.perf_counter() - begin)


def test_the_profilers_own_trace_shows_the_host_pausing(tmp_path):
    work = _Work()
    for _ in range(2):
        file = trace.trace_rounds(work, 2, tmp_path)
    (row,) = trace.device_rows(read_trace(file, trace.ROUNDS))
    assert row["device"] == "CPU device 0"
    # Half at least; the device waits for its turn on a busy machine too.
    assert 0.35 < row["idle"] < 0.95
    assert row["operations"] >= 2 * 20
