"""Reads pickles that PyTorch wrote, without running anything that they name.

A pickle is a program that may call any function it can name. Here a name leads to one of three
things: what PyTorch needs to describe a tensor, a placeholder that does nothing, or an error.
Tensors become records of where their numbers are, so that none is read before it is wanted.

Before a pickle is run it is read through, opcode by opcode, since a small one may ask for any
amount of memory or, by tuples within tuples, for more of the C stack than there is.
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
"""What stands beside the weights in published checkpoints: arguments, schedules, optimisers."""


_MOST_BYTES = 1 << 26
"""The longest pickle. Numbers lie outside it, so that published checkpoints need a hundredth."""
_MOST_NESTED = 256
_ADDS_TO = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))
"""Opcodes that change the first of what they take, and leave it where it was."""


Stream = io.BytesIO | mmap
"""What pickles are read from: asked for more than it has, it gives what it has."""


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

    A tuple, since a pickle can change the attributes of other objects after they were checked.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Stands for what was not loaded: accepts whatever a pickle does to it, and forgets it."""

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
    """Reads the pickle that begins at the place of ``stream``, and leaves the place behind it.

    Returns:
        The object, and the storages that it names, by key.

    Raises:
        UnpicklingError: If it is damaged, asks for more memory than it has bytes or for too much
            depth, or names what a checkpoint has no business naming.
    """
    begin = stream.tell()
    end = _scan(stream)
    stream.seek(begin)
    unpickler = _CheckpointUnpickler(io.BytesIO(stream.read(end - begin)))
    return unpickler.load(), unpickler.storages


def _scan(stream: Stream) -> int:
    """Follows a pickle's stack without building anything on it, and returns where it ends."""
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
    """What an opcode does to a stack of nestings."""
    before, after = opcode.stack_before, opcode.stack_after
    if pickletools.markobject in after:
        stack.append(None)
        return
    taken: list[int | None] = []
    if pickletools.markobject in before:
        while (item := stack.pop()) is not None:
            taken.append(item)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    nested = max((1 + (item or 0) for item in taken), default=0)
    if opcode.name in _ADDS_TO:
        nested = max(taken[-1] or 0, *(1 + (item or 0) for item in taken[:-1]), 0)
    if nested > _MOST_NESTED:
        raise pickle.UnpicklingError(f"it nests objects more than {_MOST_NESTED} deep")
    stack.extend(nested for _ in after)


class _CheckpointUnpickler(pickle.Unpickler):
    """Unpickler of one pickle of a checkpoint, which was scanned before.

    Attributes:
        storages: Those named so far, by key.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle leads to.

        Raises:
            UnpicklingError: If a checkpoint has no business naming it.
        """
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            # Bound methods: unlike functions, a pickle cannot set attributes on them.
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return self._tensor
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return self._parameter
        builtin = module in ("builtins", "__builtin__") and name in _INERT_BUILTINS
        if builtin or module.partition(".")[0] in _INERT_MODULES:
            # A new class each time: what a pickle may do to it ends with the pickle.
            return type("Placeholder", (Inert,), {"name": f"{module}.{name}"})
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which weights do not need; nothing of it was run. If you "
            "trust the file, save its weights alone where that class is installed: "
            "torch.save(model.state_dict(), path)"
        )

    def persistent_load(self, identity: Any) -> Storage:
        """A storage, from ('storage', type, key, device, length) and, in old files, a view."""
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
