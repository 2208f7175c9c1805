"""From a compiled round's text to figures: of a step, of a handover, of the round."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tools.benchmarks.compile_parts import part_of
from tools.benchmarks.hlo import Instruction, Module
from tools.benchmarks.hlo_costs import (
    Ceiling,
    Cost,
    Kernel,
    Place,
    collectives,
    host_reads,
    kernels_of,
    step_loop,
    total,
    total_by,
    walk,
)
from tools.benchmarks.measure import Row

STEP, HANDOVER, ROUND = "a step", "a handover", "a round"
"""How often a kernel runs: in every local step, where clients end and begin, once in a round."""


class Zones(NamedTuple):
    """What a round launches, by how often.

    Attributes:
        step: Kernels of one local step of all lanes, in which no client starts or ends.
        around: Of one turn of each loop around the steps, where clients start and end too.
        rest: Of the rest of a round.
        places: Every instruction of each zone.
        host_reads: Conditions of loops and branches that a GPU hands to the host in each zone.
    """

    step: list[Kernel]
    around: list[Kernel]
    rest: list[Kernel]
    places: Mapping[str, list[Place]]
    host_reads: Mapping[str, int]

    def costs(self, ceiling: Ceiling) -> dict[str, Cost]:
        """The cost of each zone."""
        zones = {STEP: self.step, HANDOVER: self.around, ROUND: self.rest}
        return {zone: total(kernels, ceiling) for zone, kernels in zones.items()}

    def mean_step(self, steps: int, handovers: float, ceiling: Ceiling) -> Cost:
        """The cost of a step with its share of the starts and ends and of the rest of the round.

        Args:
            steps: Of a round.
            handovers: Of a device in a round; those of several lanes together count once.
            ceiling: Of the device.
        """
        costs = self.costs(ceiling)
        times = {STEP: 1.0, HANDOVER: handovers / steps, ROUND: 1 / steps}
        scaled = [[times[zone] * value for value in cost] for zone, cost in costs.items()]
        return Cost(*map(sum, zip(*scaled, strict=True)))


def zones_of(module: Module) -> Zones:
    """Sorts what a compiled round runs.

    Clients start and end in the loops around the loop over the steps.

    Raises:
        ValueError: If the program has no loop over steps.
    """
    loop = step_loop(module)
    name, called = loop.instruction.name, loop.instruction.called
    outermost = loop.loops[0] if loop.loops else name

    def zone_of(loops: tuple[str, ...]) -> str:
        return STEP if name in loops else HANDOVER if outermost in loops else ROUND

    places: dict[str, list[Place]] = {STEP: [], HANDOVER: [], ROUND: []}
    for place in walk(module):
        places[zone_of(place.loops)].append(place)
    everything = [place for zone in places.values() for place in zone]
    reads = dict.fromkeys(places, 0)
    for place in host_reads(everything):
        reads[zone_of(place.loops)] += 1
        if place.instruction.opcode == "while":  # Once a turn, and once when it ends.
            reads[zone_of((*place.loops, place.instruction.name))] += 1
    condition = list(kernels_of(module, called["condition"]))
    bodies = {p.instruction.name: p.instruction.called.get("body", "") for p in everything}
    return Zones(
        [*kernels_of(module, called["body"]), *condition],
        list(kernels_of(module, bodies[outermost], without=name)) if loop.loops else [],
        list(kernels_of(module, module.entry, without=outermost)),
        places,
        reads,
    )


def zone_rows(zones: Zones, ceiling: Ceiling) -> Iterator[Row]:
    """What happens in every step, at every handover and in every round."""
    messages = {row.pop("in"): row for row in message_rows(zones)}
    for zone, cost in zones.costs(ceiling).items():
        yield {
            "in": zone,
            **_cost_columns(cost, digits=4),
            "host reads": zones.host_reads[zone],
            **messages[zone],
        }


def _cost_columns(cost: Cost, digits: int) -> Row:
    return {
        "kernels": round(cost.kernels),
        "GB": round(cost.bytes / 1e9, 3),
        "GFLOP": round(cost.flops / 1e9, 1),
        "bound ms": round(1e3 * cost.seconds, digits),
    }


def message_rows(zones: Zones) -> Iterator[Row]:
    """Messages between devices, by how often."""
    for zone, places in zones.places.items():
        messages = [place.instruction for place in collectives(places)]
        yield {
            "in": zone,
            "collectives": len(messages),
            "MB exchanged": round(sum(map(_received, messages)) / 1e6, 1),
        }


def _received(message: Instruction) -> float:
    """Bytes of what a device has after a message."""
    arrays = message.arrays
    if message.opcode == "all-gather-start":  # It lists what it sends first.
        arrays = arrays[len(arrays) // 2 :]
    return sum(array.bytes for array in arrays)


def part_rows(kernels: list[Kernel], ceiling: Ceiling) -> Iterator[Row]:
    """The parts of the model by the bytes that they move in a step."""
    everything = total(kernels, ceiling)
    for part, cost in total_by(kernels, part_of, ceiling).items():
        yield {
            "part": part,
            **_cost_columns(cost, digits=3),
            "of the bound": round(cost.seconds / everything.seconds, 3),
        }


def kernel_rows(kernels: list[Kernel], ceiling: Ceiling, count: int) -> Iterator[Row]:
    """The kernels that move most."""
    for kernel in sorted(kernels, key=lambda k: -k.bytes)[:count]:
        yield {
            "kernel": kernel.instruction.name,
            "part": part_of(kernel),
            "from": kernel.instruction.op_name.rpartition("body/")[2],
            "read MB": round(kernel.read / 1e6, 1),
            "written MB": round(kernel.written / 1e6, 1),
            "GFLOP": round(kernel.flops / 1e9, 1),
            "bound us": round(1e6 * ceiling.seconds(kernel), 1),
        }


def unknown_calls(kernels: list[Kernel]) -> list[str]:
    """Calls whose operations the text does not tell: the bound counts their bytes alone."""
    return sorted({k.instruction.target for k in kernels if k.unknown})
