"""What a compiled program must move and multiply, kernel by kernel, and the time that this takes.

A kernel is what the device is asked to run at once: a fusion, a library's product or attention, a
copy, a sort, a collective. No machine runs one in less time than moving its bytes takes, nor in
less than its products take: the sum of the larger of the two over all kernels is a lower bound.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from tools.benchmarks.hlo import Computation, Instruction, Module
from tools.benchmarks.hlo_traffic import products, traffic

_NO_KERNEL = frozenset(
    {
        "parameter",
        "while",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "add-dependency",
        "opt-barrier",
        "partition-id",
        "replica-id",
        "domain",
    }
)
_NO_CALL = frozenset(
    {
        "AllocateBuffer",
        "Sharding",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
        "annotate_device_placement",
    }
)
_COLLECTIVES = frozenset(
    {
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "all-to-all",
        "ragged-all-to-all",
        "collective-permute",
        "collective-broadcast",
    }
)


class Kernel(NamedTuple):
    """One kernel of a turn of a loop.

    Attributes:
        instruction: The line that launches it.
        places: Where in Python it was asked for, innermost first.
        times: Launches in a turn: more than one in a loop inside, less in a branch.
        read: Bytes of one launch from main memory.
        written: Bytes of one launch to main memory.
        flops: Multiplications and additions of the products of one launch.
        product_type: The type in which it multiplies; '' where it does not.
        unknown: Whether it is a call whose operations the text does not tell.
    """

    instruction: Instruction
    places: tuple[str, ...]
    times: float
    read: float
    written: float
    flops: float
    product_type: str
    unknown: bool

    @property
    def bytes(self) -> float:
        """Bytes of all launches in a turn."""
        return self.times * (self.read + self.written)


class Ceiling(NamedTuple):
    """What a device reaches at most.

    Attributes:
        bandwidth: Bytes a second from and to main memory.
        peaks: Operations a second by type of the products; ``f32`` stands for those not named.
    """

    bandwidth: float
    peaks: Mapping[str, float]

    def seconds(self, kernel: Kernel) -> float:
        """The least time of all launches of a kernel in a turn."""
        peak = self.peaks.get(kernel.product_type, self.peaks["f32"])
        moving = (kernel.read + kernel.written) / self.bandwidth
        return kernel.times * max(moving, kernel.flops / peak)

    def flop_seconds(self, kernel: Kernel) -> float:
        """The least time of its products alone."""
        peak = self.peaks.get(kernel.product_type, self.peaks["f32"])
        return kernel.times * kernel.flops / peak


class Cost(NamedTuple):
    """Sums over kernels; ``seconds`` is the bound, ``flop_seconds`` that of the products alone."""

    kernels: float
    bytes: float
    flops: float
    seconds: float
    flop_seconds: float


def total(kernels: Iterable[Kernel], ceiling: Ceiling) -> Cost:
    """The cost of some kernels."""
    listed = list(kernels)
    return Cost(
        sum(k.times for k in listed),
        sum(k.bytes for k in listed),
        sum(k.times * k.flops for k in listed),
        sum(map(ceiling.seconds, listed)),
        sum(map(ceiling.flop_seconds, listed)),
    )


def total_by(
    kernels: Iterable[Kernel], part_of: Callable[[Kernel], str], ceiling: Ceiling
) -> dict[str, Cost]:
    """The cost of each part, the one with most bytes first."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(part_of(kernel), []).append(kernel)
    costs = {part: total(group, ceiling) for part, group in groups.items()}
    return dict(sorted(costs.items(), key=lambda item: -item[1].bytes))


def kernels_of(
    module: Module,
    computation: str,
    times: float = 1.0,
    without: str = "",
) -> Iterator[Kernel]:
    """The kernels that one run of a computation launches, those of loops and calls inside it too.

    Args:
        module: The program.
        computation: Its name.
        times: Runs of the computation.
        without: A loop that is left out.

    Yields:
        Kernels. A conditional counts as its dearest branch, and a loop whose number of turns
        depends on data as one turn.
    """
    scope = module.computations[computation]
    for instruction in scope:
        opcode = instruction.opcode
        if opcode == "while" and instruction.name != without:
            turns = times * (instruction.known_trips or 1)
            yield from kernels_of(module, instruction.called["condition"], turns)
            yield from kernels_of(module, instruction.called["body"], turns, without)
        elif opcode == "conditional":
            branches = [
                list(kernels_of(module, branch, times, without)) for branch in instruction.branches
            ]
            yield from max(branches, key=lambda branch: sum(kernel.bytes for kernel in branch))
        elif opcode in ("call", "async-start"):
            called = instruction.called
            inner = called.get("calls") or called["to_apply"]
            yield from kernels_of(module, inner, times, without)
        elif _launches(instruction):
            yield _kernel(module, scope, instruction, times)


def _launches(instruction: Instruction) -> bool:
    opcode = instruction.opcode
    if opcode.endswith(("-done", "-update")) and opcode != "dynamic-update-slice":
        return False  # Its -start was counted.
    return opcode not in _NO_KERNEL and instruction.target not in _NO_CALL


def _kernel(module: Module, scope: Computation, instruction: Instruction, times: float) -> Kernel:
    read, written = traffic(module, scope, instruction)
    found = list(products(module, scope, instruction))
    return Kernel(
        instruction,
        module.places_of(instruction),
        times,
        read,
        written,
        sum(flops for flops, _ in found),
        found[0][1] if found else "",
        instruction.opcode == "custom-call" and not found,
    )


class Place(NamedTuple):
    """An instruction that the program runs, and the loops around it, outermost first."""

    instruction: Instruction
    loops: tuple[str, ...]


def walk(
    module: Module, computation: str | None = None, loops: tuple[str, ...] = ()
) -> Iterator[Place]:
    """Every instruction of a computation (default: the program), of loops and branches inside."""
    for instruction in module.computations[computation or module.entry]:
        yield Place(instruction, loops)
        if instruction.opcode in ("while", "call", "async-start", "conditional"):
            inside = (*loops, instruction.name) if instruction.opcode == "while" else loops
            for called in (*instruction.called.values(), *instruction.branches):
                yield from walk(module, called, inside)


def step_loop(module: Module) -> Place:
    """The loop over local steps: the innermost one with products that is not part of a model.

    Where several loops hold products beside each other, the one with most. A model's own loops,
    over its layers say, are differentiated, and their names tell.

    Raises:
        ValueError: If no loop holds a product.
    """

    def flops(place: Place) -> float:
        body = place.instruction.called["body"]
        return sum(k.times * k.flops for k in kernels_of(module, body))

    steps = [
        place
        for place in walk(module)
        if place.instruction.opcode == "while"
        and not re.search(r"\b(jvp|transpose)\(", place.instruction.op_name)
        and flops(place)
    ]
    outer = {name for place in steps for name in place.loops}
    inner = [place for place in steps if place.instruction.name not in outer]
    if not inner:
        raise ValueError("the program has no loop that holds a product: is it a compiled round?")
    return max(inner, key=flops)


def host_reads(places: Iterable[Place]) -> list[Place]:
    """What a GPU hands to the host: conditions of loops, at each turn, and of branches.

    The host knows beforehand how often a loop with a known number of turns runs.
    """
    return [
        place
        for place in places
        if place.instruction.opcode == "conditional"
        or (place.instruction.opcode == "while" and place.instruction.known_trips is None)
    ]


def collectives(places: Iterable[Place]) -> list[Place]:
    """Messages between devices."""
    return [p for p in places if p.instruction.opcode.removesuffix("-start") in _COLLECTIVES]
