"""Tables and plot of compiled rounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tools.benchmarks import compile_report as report
from tools.benchmarks.compile_work import SPREAD
from tools.benchmarks.measure import Row
from tools.benchmarks.output import Figures
from tools.benchmarks.peers.process import Message
from tools.benchmarks.targets import REACHED_BANDWIDTH, REACHED_FLOPS, Target, target_of

_TOP = 12
"""Kernels that are listed."""

_NOTES = (
    "The program is the one that the device would run; products are not tuned, since that takes "
    "the device. memory GB: images (twice where the next round's arrive meanwhile), clients' "
    "states, server, lanes and sums, plan and working memory of one device; of device: their share "
    "of its memory.",
    "kernels, GB, TFLOP, bound ms: of one local step of all lanes of a device, in which no client "
    "starts or ends. The bound adds, over the kernels, the larger of bytes / bandwidth and "
    f"FLOPs / peak, at {REACHED_BANDWIDTH:.2f} of the bandwidth and {REACHED_FLOPS:.2f} of the "
    "products that the data sheet promises; real kernels reach 60 to 85 % of it.",
    "images/s: the bound over all devices with every lane at work; of FLOPs: the share of the step "
    "that its products alone would take. round images/s: the same over a round of the clients "
    f"(log-normal sizes, sigma {SPREAD:g}), their starts and ends and idle lanes included; mean: a "
    "step with its share of these.",
    "TPUs: memory, collectives and compile time alone; their programs move data on the chip in "
    "ways that the text does not tell.",
)


@dataclass(frozen=True)
class Outcome:
    """One program, or why there is none.

    Attributes:
        target, devices, lanes: What was asked for.
        reason: Why it does not compile; '' where it does.
        answer: The compiler's, where it does.
        zones: What the program runs; None where its text cannot be had.
        unread: Why it cannot.
    """

    target: str
    devices: int
    lanes: int
    reason: str = ""
    answer: Message | None = None
    zones: report.Zones | None = None
    unread: str = ""

    @property
    def asked(self) -> Row:
        """The first columns of its rows."""
        return {"target": self.target, "devices": self.devices, "lanes": self.lanes}

    @property
    def kernels_known(self) -> bool:
        """Whether the text tells all that moves: a TPU's does not."""
        return self.zones is not None and self.device.platform == "cuda"

    @property
    def device(self) -> Target:
        """What it was compiled for."""
        return target_of(self.target)


def figures(outcomes: list[Outcome]) -> Figures:
    """One row a program, and what lies behind it."""
    more = {title: rows for title, rows in _tables(outcomes).items() if rows}
    rows = [_row(outcome) for outcome in outcomes]
    return Figures(rows, partial(_draw, outcomes), tuple(_notes(outcomes)), more)


def _row(outcome: Outcome) -> Row:
    """What the target must hold and can reach."""
    answer = outcome.answer
    row = (
        outcome.asked
        | dict.fromkeys(_COLUMNS, "-")
        | {"compiles": "no" if answer is None else "yes"}
    )
    if answer is None:
        return row
    needed = sum(answer["memory"].values())
    row |= {
        "memory GB": round(needed / 1e9, 2),
        "of device": round(needed / outcome.device.memory, 3),
        "compile s": round(answer["trace s"] + answer["compile s"], 1),
    }
    return row | (_speed(outcome) if outcome.kernels_known else {})


def _speed(outcome: Outcome) -> Row:
    answer, zones, ceiling = outcome.answer, outcome.zones, outcome.device.ceiling
    assert answer is not None
    assert zones is not None
    step = zones.costs(ceiling)[report.STEP]
    mean = zones.mean_step(answer["steps"], answer["handovers"], ceiling)
    images = answer["batch"] * outcome.lanes * answer["groups"]
    return {
        "kernels": round(step.kernels),
        "GB": round(step.bytes / 1e9, 3),
        "TFLOP": round(step.flops / 1e12, 3),
        "bound ms": round(1e3 * step.seconds, 3),
        "images/s": round(images / step.seconds),
        "of FLOPs": round(step.flop_seconds / step.seconds, 3),
        "mean kernels": round(mean.kernels, 1),
        "mean GB": round(mean.bytes / 1e9, 3),
        "round images/s": round(answer["images"] / (answer["steps"] * mean.seconds)),
    }


_COLUMNS = (
    "compiles",
    "memory GB",
    "of device",
    "kernels",
    "GB",
    "TFLOP",
    "bound ms",
    "images/s",
    "of FLOPs",
    "mean kernels",
    "mean GB",
    "round images/s",
    "compile s",
)


def _tables(outcomes: list[Outcome]) -> dict[str, list[Row]]:
    """The further tables by title; empty ones are left out by the caller."""
    tables: dict[str, list[Row]] = {"memory of a device, GB": list(_memory_rows(outcomes))}
    for outcome in outcomes:
        zones, ceiling = outcome.zones, outcome.device.ceiling
        name = f"{outcome.target}, devices {outcome.devices}, lanes {outcome.lanes}"
        if zones is not None and outcome.kernels_known:
            tables[f"how often, {name}"] = list(report.zone_rows(zones, ceiling))
            tables[f"parts of a step, {name}"] = list(report.part_rows(zones.step, ceiling))
            tables[f"largest kernels, {name}"] = list(report.kernel_rows(zones.step, ceiling, _TOP))
        elif zones is not None:
            tables[f"collectives, {name}"] = list(report.message_rows(zones))
    tables["does not compile"] = [o.asked | {"reason": o.reason} for o in outcomes if o.reason]
    tables["text that cannot be read"] = [o.asked | {"why": o.unread} for o in outcomes if o.unread]
    return tables


def _memory_rows(outcomes: list[Outcome]) -> Iterator[Row]:
    for outcome in outcomes:
        if outcome.answer is not None:
            parts = outcome.answer["memory"]
            whole = {**parts, "together": sum(parts.values()), "there is": outcome.device.memory}
            yield outcome.asked | {name: round(size / 1e9, 3) for name, size in whole.items()}


def _notes(outcomes: list[Outcome]) -> Iterator[str]:
    yield from _NOTES
    for outcome in outcomes:
        calls = report.unknown_calls(outcome.zones.step) if outcome.zones else []
        if calls and outcome.kernels_known:
            yield (
                f"{outcome.target}, {outcome.lanes} lanes: the text does not tell the operations "
                f"of {', '.join(calls)}, and the bound counts their bytes alone."
            )


def _draw(outcomes: list[Outcome], axes: Any) -> None:
    """Memory of a device by part, and what there is."""
    shown = [outcome for outcome in outcomes if outcome.answer is not None]
    names = [f"{o.target}\n{o.devices} dev, {o.lanes} lanes" for o in shown]
    bottom = [0.0] * len(shown)
    for part in shown[0].answer["memory"] if shown and shown[0].answer else ():
        sizes = [o.answer["memory"][part] / 1e9 for o in shown if o.answer]
        axes.bar(names, sizes, bottom=bottom, label=part)
        bottom = [a + b for a, b in zip(bottom, sizes, strict=True)]
    axes.plot(names, [o.device.memory / 1e9 for o in shown], "k_", markersize=30, label="there is")
    axes.set(ylabel="GB of a device")
    axes.legend()
