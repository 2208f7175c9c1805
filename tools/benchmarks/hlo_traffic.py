"""Bytes that one kernel moves, and the operations of its products, from the text of a program.

A kernel reads its operands from main memory and writes its result. Where a fusion takes only a
slice or some rows of an operand, it reads only these; where it changes a part of an array in place,
it writes only this part.
"""

import re
from collections.abc import Iterator, Sequence
from math import prod

from tools.benchmarks.hlo import Computation, Instruction, Module

_IN_PLACE = frozenset({"dynamic-update-slice", "scatter"})
_TAKES_SOME = frozenset({"slice", "dynamic-slice", "gather"})
_TAKES_ALL = frozenset({"dot", "convolution", "sort", "custom-call", "scatter"})
_FRACTIONS = frozenset({"concatenate", "pad", "reduce", "reduce-window"})


def traffic(module: Module, scope: Computation, instruction: Instruction) -> tuple[float, float]:
    """Bytes that a kernel reads from main memory, and writes to it."""
    if instruction.opcode == "fusion":
        body = module.computations[instruction.called["calls"]]
        return _body_traffic(module, body, [scope.instructions[o] for o in instruction.operands])
    operands = [scope.instructions[o] for o in dict.fromkeys(instruction.operands)]
    if instruction.opcode == "custom-call":
        # A row of bytes in a library's result is what it scribbles on.
        kept = (a for a in instruction.arrays if not (a.dtype in ("u8", "s8") and len(a.dims) == 1))
        return sum(o.bytes for o in operands), sum(a.bytes for a in kept)
    if instruction.opcode.endswith("-start"):  # The operands may be listed in the result too.
        size = sum(o.bytes for o in operands)
        return size, max(size, instruction.bytes - size)
    return _body_traffic(module, _alone(instruction, operands), operands)


def _body_traffic(
    module: Module, body: Computation, operands: Sequence[Instruction]
) -> tuple[float, float]:
    wanted = dict.fromkeys(body.instructions, 0.0)
    written = 0.0
    for result in _results(body):
        part = _updated_part(body, result)
        written += part.bytes if part else result.bytes
        wanted[result.name] = part.elements if part else result.elements
    in_place = {r.name for r in _results(body) if _updated_part(body, r)}
    _spread(module, body, wanted, in_place)
    read = 0.0
    for parameter, operand in zip(body.parameters, operands, strict=True):
        if operand.elements:
            read += operand.bytes * min(1.0, wanted[parameter.name] / operand.elements)
    return read, written


def _results(body: Computation) -> list[Instruction]:
    """What a fusion writes."""
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return [_behind(body, root)]
    return [_behind(body, body.instructions[name]) for name in root.operands]


def _behind(body: Computation, instruction: Instruction) -> Instruction:
    """The instruction behind changes of shape alone."""
    while instruction.opcode == "bitcast":
        instruction = body.instructions[instruction.operands[0]]
    return instruction


def _updated_part(body: Computation, result: Instruction) -> Instruction | None:
    """The part that a result changes of an operand, in place; None where it is all new."""
    if result.opcode not in _IN_PLACE:
        return None
    base = _behind(body, body.instructions[result.operands[0]])
    changed = result.operands[1 if result.opcode == "dynamic-update-slice" else -1]
    return body.instructions[changed] if base.opcode == "parameter" else None


def _spread(
    module: Module, body: Computation, wanted: dict[str, float], in_place: set[str]
) -> None:
    """Adds to each instruction how many of its numbers those behind it need, last to first."""
    for instruction in reversed(list(body)):
        need = min(wanted[instruction.name], instruction.elements)
        wanted[instruction.name] = need
        if need:
            operands = [body.instructions[name] for name in instruction.operands]
            if instruction.name in in_place:
                shares = [0.0, *(float(o.elements) for o in operands[1:])]
            else:
                shares = _needs(module, instruction, operands, need)
            for operand, share in zip(operands, shares, strict=True):
                wanted[operand.name] += share


def _needs(
    module: Module, instruction: Instruction, operands: Sequence[Instruction], need: float
) -> list[float]:
    """How many numbers of each operand an instruction needs for ``need`` numbers of its result."""
    opcode, sizes = instruction.opcode, [float(o.elements) for o in operands]
    if opcode == "fusion":
        inner = module.computations[instruction.called["calls"]]
        wanted = dict.fromkeys(inner.instructions, 0.0)
        for result in _results(inner):
            wanted[result.name] = result.elements * need / instruction.elements
        _spread(module, inner, wanted, set())
        return [wanted[p.name] for p in inner.parameters]
    if opcode in _TAKES_ALL or opcode == "tuple":
        return sizes
    if opcode in _TAKES_SOME:
        return [need, *sizes[1:]]
    if opcode == "dynamic-update-slice":
        return [max(0.0, need - sizes[1]), *sizes[1:]]
    if opcode in _FRACTIONS:
        return [size * need / instruction.elements for size in sizes]
    return [min(size, need) for size in sizes]  # One number of each operand for one of the result.


def _alone(instruction: Instruction, operands: Sequence[Instruction]) -> Computation:
    """A computation that holds one instruction."""
    parameters = {
        o.name: Instruction(o.name, "parameter", o.arrays, (), str(place), "")
        for place, o in enumerate(operands)
    }
    return Computation("", parameters | {instruction.name: instruction}, instruction.name)


def products(
    module: Module, scope: Computation, instruction: Instruction
) -> Iterator[tuple[float, str]]:
    """Operations and type of each product in a kernel."""
    if instruction.opcode == "fusion":
        body = module.computations[instruction.called["calls"]]
        for inner in body:
            yield from products(module, body, inner)
        return
    operands = [scope.instructions[name] for name in instruction.operands]
    count: float | None = None
    if instruction.opcode == "dot":
        count = _dot(instruction, operands, instruction.numbers("lhs_contracting_dims"))
    elif instruction.opcode == "convolution":
        count = _convolution(instruction, instruction, operands[1])
    elif instruction.opcode == "custom-call":
        count = _library(instruction, operands)
    if count is not None:
        yield count, operands[0].arrays[0].dtype


def _dot(result: Instruction, operands: Sequence[Instruction], contracted: Sequence[int]) -> float:
    lengths = operands[0].arrays[0].dims
    return 2 * result.arrays[0].elements * prod(lengths[axis] for axis in contracted)


def _convolution(labelled: Instruction, result: Instruction, window: Instruction) -> float:
    """Operations of the convolution that gives ``result`` from some input and ``window``."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", labelled.attributes)
    assert labels is not None, f"{labelled.name} does not say which axis is which"
    array = window.arrays[0]
    return 2 * result.arrays[0].elements * array.elements / array.dims[labels[1].index("o")]


def _library(call: Instruction, operands: Sequence[Instruction]) -> float | None:
    """Operations of a call of a library; None where the text does not tell."""
    match call.target:
        case "__cudnn$convForward" | "__cudnn$convBiasActivationForward":
            return _convolution(call, call, operands[1])
        case "__cudnn$convBackwardInput":
            return _convolution(call, operands[0], operands[1])
        case "__cudnn$convBackwardFilter":
            return _convolution(call, operands[1], call)
    if call.target.startswith("__cublas$"):
        return _dot(call, operands, call.numbers("lhs_contracting_dimensions"))
    if call.target.startswith("__cudnn$fmha"):
        return _attention(call, operands[0])
    told = re.search(r'"flops":\s*"?(\d+)', call.attributes)  # As Pallas kernels may say.
    return float(told[1]) if told else None


def _attention(call: Instruction, query: Instruction) -> float:
    """Fused attention of cuDNN: two products of [N, M, D] forward, five backward.

    Backward computes the logits again, and the gradients of values, probabilities, queries and
    keys.
    """
    shape = re.search(r'"intermediate_tensor_shape".*?"dimensions":\s*\[([^]]*)\]', call.attributes)
    assert shape is not None, f"{call.name} does not tell the shape of its logits"
    batch, heads, queries, keys = (int(n) for n in re.findall(r"\d+", shape[1]))
    channels = query.arrays[0].elements // (batch * heads * queries)
    products = 5 if "Backward" in call.target else 2
    return products * 2 * batch * heads * queries * keys * channels
