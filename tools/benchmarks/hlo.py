"""Reads the text of a compiled program: optimised HLO, as ``jax.stages.Compiled.as_text`` gives it.

A module holds computations, and a computation holds instructions in the order in which they run.
Bodies of loops, branches and fusions are computations of their own, which instructions name. The
text also says which line of Python each instruction comes from. Nothing here needs jax.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ON_CHIP = "S(1)"
"""The memory space of what a TPU keeps beside its cores: reading it costs no main memory."""

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z\d\-]*)\(")
_TABLE_ROW = re.compile(r"(\d+) (.*)$")
_CALLED = re.compile(
    r"(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)')


class Array(NamedTuple):
    """Type and shape of one array; ``on_chip`` where it is not in the device's main memory."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.dims)

    @property
    def bytes(self) -> float:
        """Its size in main memory."""
        return 0 if self.on_chip else self.elements * bits(self.dtype) / 8


def bits(dtype: str) -> int:
    """Bits of one number of an HLO type: 16 for ``bf16``, 8 for ``f8e4m3fn``."""
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: Unique in its computation.
        opcode: What it does: ``fusion``, ``dot``, ``while``, ...
        arrays: The result; several for a tuple.
        operands: Names of instructions of the same computation.
        argument: What stands between the parentheses: a parameter's number, a constant's value.
        attributes: The rest of the line.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str
    attributes: str

    @property
    def elements(self) -> int:
        """Numbers in the result."""
        return sum(array.elements for array in self.arrays)

    @property
    def bytes(self) -> float:
        """Size of the result in main memory."""
        return sum(array.bytes for array in self.arrays)

    @cached_property
    def called(self) -> dict[str, str]:
        """The computations that it runs, by role: ``calls``, ``body``, ``condition``, ..."""
        return dict(_CALLED.findall(self.attributes))

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """The computations of which a conditional runs one."""
        listed = _BRANCHES.search(self.attributes)
        if listed:
            return tuple(name.strip().lstrip("%") for name in listed[1].split(","))
        roles = ("true_computation", "false_computation")
        return tuple(self.called[role] for role in roles if role in self.called)

    @property
    def known_trips(self) -> int | None:
        """Turns of a loop; None where they depend on data."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else None

    @property
    def target(self) -> str:
        """What a custom call calls."""
        return self.text("custom_call_target")

    @property
    def op_name(self) -> str:
        """Where it comes from, as jax names it: ``jit(f)/while/body/jvp(Model)/block_0/add``."""
        return self.text("op_name")

    def text(self, key: str) -> str:
        """The attribute ``key="..."``; '' where there is none."""
        found = re.search(rf'\b{key}="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def numbers(self, key: str) -> tuple[int, ...]:
        """The attribute ``key={1,2}``; also as ``"key":["1","2"]``, as library calls spell it."""
        found = re.search(rf'\b{key}"?[=:]\s*[{{\[]([^}}\]]*)[}}\]]', self.attributes)
        return tuple(int(n) for n in re.findall(r"\d+", found[1])) if found else ()


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run; the last named ROOT is the result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    @cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """In the order of the operands of whoever calls it."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.argument)))

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        entry: The computation that runs first.
        computations: By name.
        places: For each stack frame ``file:function``, innermost first.
    """

    entry: str
    computations: Mapping[str, Computation]
    places: Mapping[int, tuple[str, ...]]

    def places_of(self, instruction: Instruction) -> tuple[str, ...]:
        """Where in Python an instruction was asked for, innermost first; () where nobody says."""
        found = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
        return self.places.get(int(found[1]), ()) if found else ()


def read_module(text: str) -> Module:
    """Reads a module.

    Raises:
        ValueError: If the text has no entry computation.
    """
    lines = text.splitlines()
    computations: dict[str, Computation] = {}
    entry = ""
    inside: list[Instruction] | None = None
    root = name = ""
    for line in lines:
        if inside is None:
            if begins := _COMPUTATION.match(line):
                inside, name, root = [], begins[2], ""
                entry = name if begins[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, {i.name: i for i in inside}, root)
            inside = None
        elif found := _INSTRUCTION.match(line):
            inside.append(_instruction(found[2], found[3]))
            root = found[2] if found[1] else root
    if entry not in computations:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")
    return Module(entry, computations, _places(lines))


def _instruction(name: str, rest: str) -> Instruction:
    rest = re.sub(r"/\*index=\d+\*/", "", rest)
    opcode = _OPCODE.search(f" {rest}")
    if opcode is None:
        raise ValueError(f"instruction {name}: no operation in {rest[:80]!r}")
    end = _closing(rest, opcode.end() - 2)
    inside = rest[opcode.end() - 1 : end]
    arrays = tuple(
        Array(dtype, tuple(map(int, re.findall(r"\d+", dims))), _ON_CHIP in layout)
        for dtype, dims, layout in _ARRAY.findall(rest[: opcode.start()])
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode[1], arrays, operands, inside, rest[end + 1 :])


def _closing(text: str, begin: int) -> int:
    """The place of the parenthesis that closes the one at ``begin``."""
    depth = 0
    for found in re.finditer(r"[()]", text[begin:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return begin + found.start()
    raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def _places(lines: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """For each stack frame its chain of ``file:function``, innermost first."""
    files, functions, locations, frames = (
        _table(lines, title)
        for title in ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
    )
    own: dict[int, str] = {}
    for number, row in locations.items():
        file, function = (int(n) for n in re.findall(r"_name_id=(\d+)", row))
        own[number] = f"{files[file]}:{functions[function]}".replace('"', "")
    links = {number: [int(n) for n in re.findall(r"=(\d+)", row)] for number, row in frames.items()}
    # Some versions count parents from 1 on and frames from 0 on: then a first frame is its own.
    shift = 1 if links.get(1, [])[1:] == [1] else 0
    chains: dict[int, tuple[str, ...]] = {0: ()}
    for number, (location, *parent) in sorted(links.items()):
        chains[number] = (own[location], *chains[parent[0] - shift if parent else 0])
    return chains


def _table(lines: Sequence[str], title: str) -> dict[int, str]:
    """The numbered rows below a title."""
    rows: dict[int, str] = {}
    if title in lines:
        for line in lines[lines.index(title) + 1 :]:
            found = _TABLE_ROW.match(line)
            if not found:
                break
            rows[int(found[1])] = found[2]
    return rows
