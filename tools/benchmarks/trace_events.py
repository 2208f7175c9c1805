"""Reads what devices did from a trace in the format that Perfetto and Chrome read.

jax.profiler writes one gzipped JSON file a process (*.trace.json.gz). Its events lie in lanes
(process, thread). On GPUs and TPUs every device is a process: operations lie in lanes named after
streams, or in ``XLA Ops`` where there are no streams; other lanes repeat them. On CPUs they lie in
the lanes of the threads that run them, and name their device.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MOST_EVENTS = 1_000_000
"""The profiler leaves out events of the JSON file beyond these, without a word."""

_STREAM, _OPERATIONS = "Stream", "XLA Ops"

Event = dict[str, Any]
Lane = tuple[Any, Any]


class Operation(NamedTuple):
    """One execution of an operation.

    Attributes:
        device: Where.
        name: Of the operation.
        begin, end: Microseconds.
    """

    device: str
    name: str
    begin: float
    end: float


class Trace(NamedTuple):
    """What a trace says of the devices between two moments.

    Attributes:
        file: Where it is.
        begin, end: Microseconds.
        operations: Innermost ones alone.
    """

    file: Path
    begin: float
    end: float
    operations: list[Operation]


def read_trace(file: Path, annotation: str) -> Trace:
    """Reads the operations inside the host's annotation of that name.

    Raises:
        ValueError: If the trace has been cut off, or lacks the annotation or operations.
    """
    with gzip.open(file, "rt", encoding="utf-8") as text:
        events: list[Event] = json.load(text)["traceEvents"]
    if len(events) >= MOST_EVENTS:
        raise ValueError(
            f"{file} holds {len(events)} events, and the profiler drops those beyond "
            f"{MOST_EVENTS}: trace less, with --images, --rounds or a smaller model"
        )
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == annotation]
    if len(spans) != 1:
        raise ValueError(f"{file} has {len(spans)} events {annotation!r}, where one was made")
    ((begin, end),) = spans
    inside = [op for op in operations(events) if op.end > begin and op.begin < end]
    if not inside:
        raise ValueError(f"{file} shows no operation of a device during {annotation!r}")
    return Trace(file, begin, end, inside)


def operations(events: Sequence[Event]) -> Iterator[Operation]:
    """The innermost operations of all devices: loops hold others, and are left out."""
    devices = _device_lanes(events)
    lanes: dict[Lane, list[Operation]] = {}
    for event in events:
        if event.get("ph") != "X":
            continue
        lane = event["pid"], event["tid"]
        device = devices.get(lane) or _simulated_device(event)
        if device is not None:
            begin = event["ts"]
            operation = Operation(device, event["name"], begin, begin + event["dur"])
            lanes.setdefault(lane, []).append(operation)
    for members in lanes.values():
        yield from innermost(members)


def innermost(lane: Sequence[Operation]) -> Iterator[Operation]:
    """The operations of one lane, nested like calls, that hold no other."""
    ordered = sorted(lane, key=lambda operation: (operation.begin, -operation.end))
    for operation, after in zip(ordered, [*ordered[1:], None], strict=True):
        # Times are rounded: one that ends after it is its successor, even if it begins before.
        if after is None or after.begin >= operation.end or after.end > operation.end:
            yield operation


def idle_share(intervals: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Share of the time from ``begin`` to ``end`` that no interval covers.

    Args:
        intervals: (begin, end) each, in any order; they may overlap and reach beyond the span.
        begin: Of the span.
        end: Of the span.

    Raises:
        ValueError: If the span has no length.
    """
    if not end > begin:
        raise ValueError(f"the span from {begin} to {end} has no length")
    busy, reached = 0.0, begin
    for first, last in sorted(intervals):
        first, last = max(first, reached), min(last, end)
        if last > first:
            busy += last - first
            reached = last
    return 1 - busy / (end - begin)


def _device_lanes(events: Sequence[Event]) -> dict[Lane, str]:
    """The device of each lane that shows a device's operations once."""
    processes: dict[Any, str] = {}
    threads: dict[Lane, str] = {}
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    streamed = {pid for (pid, _), name in threads.items() if name.startswith(_STREAM)}
    return {
        lane: processes[lane[0]]
        for lane, name in threads.items()
        if processes.get(lane[0], "").startswith("/device:")
        and name.startswith(_STREAM if lane[0] in streamed else _OPERATIONS)
    }


def _simulated_device(event: Event) -> str | None:
    """The device of a CPU on which an event is an operation; None for all other events."""
    arguments = event.get("args", {})
    if "hlo_op" in arguments and "device_ordinal" in arguments:
        return f"CPU device {arguments['device_ordinal']}"
    return None
