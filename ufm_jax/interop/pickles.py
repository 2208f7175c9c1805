"""Reads pickles that PyTorch wrote, without running any code that they name.

A pickle is a program that may call any function by its name. Here a name leads to a function that
describes a tensor, to a placeholder that does nothing, or to an error. Tensors become records of
where their numbers are, so that a tensor is read only when it is needed.

Before a pickle is run it is scanned, opcode by opcode, since a small one may ask for any amount of
memory or, by tuples within tuples, overflow the C stack.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from mmap import mmap
from typing import Any, BinaryIO, NamedTuple, cast

# fmt: off
_INERT_MODULES = frozenset((
    "_codecs", "argparse", "collections", "copy_reg", "copyreg", "datetime", "numpy", "omegaconf",
    "pathlib", "torch", "types", "typing", "yacs",
))
_INERT_BUILTINS = frozenset((
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object",
    "range", "set", "slice", "str", "tuple", "unicode",
))
# fmt: on
"""Modules named beside the weights in published checkpoints: arguments, schedules, optimisers."""

_MOST_BYTES = 1 << 26
"""The longest pickle; published checkpoints, whose numbers lie outside it, need a hundredth."""
_MOST_NESTED = 256
_ADDS_TO = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))
"""Opcodes that change the first object that they take, and leave it on the stack."""

Stream = io.BytesIO | mmap
"""A source of pickles, which returns what it has if it is asked for more."""


class Storage(NamedTuple):
    """A run of numbers in a file.

    Attributes:
        key: Its name in the file.
        kind: PyTorch's name for its type, as 'torch.FloatStorage'.
        length: Numbers in it.
    """

    key: str
    kind: str
    length: int


class TensorRecord(NamedTuple):
    """A tensor by the place of its numbers; ``offset`` and ``stride`` count numbers, not bytes.

    It is a tuple, since a pickle could change the attributes of another object after the checks.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """A placeholder for an object that is not loaded; it ignores whatever a pickle does to it."""

    name = ""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """An instance, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def _ignore(self, *_: object) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


def load(stream: Stream) -> tuple[Any, dict[str, Storage]]:
    """Reads the pickle at the place of ``stream``, and moves the place behind it.

    Returns:
        The object, and the storages that it names, by key.

    Raises:
        UnpicklingError: If it is damaged, asks for more memory than it has bytes, nests objects
            too deep, or names something that a checkpoint does not need.
    """
    begin = stream.tell()
    end = _scan(stream)
    stream.seek(begin)
    unpickler = _CheckpointUnpickler(io.BytesIO(stream.read(end - begin)))
    return unpickler.load(), unpickler.storages


def _scan(stream: Stream) -> int:
    """The end of a pickle, found by following its stack without building any object."""
    begin = end = stream.tell()
    stack: list[int | None] = []  # The nesting of each item; None is a mark.
    memo: dict[int, int] = {}
    try:
        for opcode, argument, place in pickletools.genops(cast(BinaryIO, stream)):
            end = (place or 0) + 1
            if end - begin > _MOST_BYTES:
                raise pickle.UnpicklingError(f"a pickle in it is longer than {_MOST_BYTES} bytes")
            match opcode.name:
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    # The unpickler's memo is an array as long as the highest index.
                    if not 0 <= (index := int(argument or 0)) <= end - begin:
                        raise pickle.UnpicklingError("it numbers what it remembers beyond its size")
                    memo[index] = stack[-1] or 0
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1] or 0
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[int(argument or 0)])
                case _:
                    _apply(opcode, stack)
    except (IndexError, KeyError) as error:
        raise pickle.UnpicklingError(f"damaged: {error!r} in a pickle") from error
    return end


def _apply(opcode: pickletools.OpcodeInfo, stack: list[int | None]) -> None:
    """Applies an opcode to a stack of nestings."""
    before, after = opcode.stack_before, opcode.stack_after
    if pickletools.markobject in after:
        stack.append(None)
        return
    popped: list[int | None] = []
    if pickletools.markobject in before:
        while (item := stack.pop()) is not None:
            popped.append(item)
        before = before[: before.index(pickletools.markobject)]
    popped += [stack.pop() for _ in before]
    nested = max((1 + (item or 0) for item in popped), default=0)
    if opcode.name in _ADDS_TO:
        nested = max(popped[-1] or 0, *(1 + (item or 0) for item in popped[:-1]), 0)
    if nested > _MOST_NESTED:
        raise pickle.UnpicklingError(f"it nests objects more than {_MOST_NESTED} deep")
    stack.extend(nested for _ in after)


class _CheckpointUnpickler(pickle.Unpickler):
    """Unpickler of one scanned pickle of a checkpoint.

    Attributes:
        storages: The storages that were named so far, by key.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The function or the placeholder that a name in the pickle leads to.

        Raises:
            UnpicklingError: If a checkpoint does not need the name.
        """
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            # Bound methods, since a pickle could set attributes on functions.
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return self._tensor
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return self._parameter
        builtin = module in ("builtins", "__builtin__") and name in _INERT_BUILTINS
        if builtin or module.partition(".")[0] in _INERT_MODULES:
            # A new class each time, so that a pickle's changes to it end with the pickle.
            return type("Placeholder", (Inert,), {"name": f"{module}.{name}"})
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which weights do not need; nothing of it was run. If you "
            "trust the file, save its weights alone where that class is installed: "
            "torch.save(model.state_dict(), path)"
        )

    def persistent_load(self, identity: Any) -> Storage:
        """The storage of ('storage', type, key, device, length) and, in old files, a view."""
        match identity:
            case ("storage", type() as kind, str(key), str(), int(length), *view) if (
                issubclass(kind, Inert) and length >= 0 and not any(view)
            ):
                return self.storages.setdefault(key, Storage(key, kind.name, length))
        raise pickle.UnpicklingError("it refers to numbers in a way that is not known")

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, *_: object
    ) -> TensorRecord:
        numbers = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or len(shape) != len(stride):
            raise pickle.UnpicklingError("it has a tensor without storage or of unclear shape")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise pickle.UnpicklingError("it has a tensor of unclear shape")
        return TensorRecord(storage, offset, tuple(shape), tuple(stride))

    def _parameter(self, tensor: Any, *_: object) -> Any:
        return tensor
