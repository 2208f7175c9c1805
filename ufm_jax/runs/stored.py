"""A run's JSON files: values turned into JSON, and read back as the types that were written."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ufm_jax.errors import RunError
from ufm_jax.files import read_json

T = TypeVar("T")


def read_as(kind: type[T], file: Path, remedy: str) -> T:
    """Reads a JSON file of a run as a value of a type.

    Args:
        kind: See ``typed``.
        file: The file.
        remedy: What to do if it is damaged.

    Raises:
        RunError: If it cannot be read or holds something else; names file, place and remedy.
    """
    value = read_json(file, remedy)
    try:
        return typed(kind, value)
    except ValueError as error:
        raise RunError(f"{file} is damaged or of another kind ({error}): {remedy}") from error


def as_json(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite become None.

    Args:
        value: A dataclass, mapping, list, tuple, array, number, text or None, nested at will.

    Raises:
        TypeError: If the value, or one inside it, has another type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"a result holds a {type(value).__name__}, which JSON does not know")


def typed(kind: Any, value: Any, place: str = "") -> Any:
    """A JSON value as a type.

    Args:
        kind: A dataclass, named tuple, list, tuple, frozenset or dict of types, literals, ``Any``,
            or a type of JSON; whole numbers are read as floats too, and null as the float nan.
        value: As ``json.loads`` gives it.
        place: The path of the value in the file, for messages.

    Raises:
        ValueError: If it has another type, or fields are missing or unknown.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (origin is typing.Literal and value in inner):
        return value
    if origin in (list, tuple, frozenset) and isinstance(value, list):
        return origin(typed(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: typed(inner[1], item, f"{place}.{key}") for key, item in value.items()}
    if (fields := _fields(kind)) and isinstance(value, dict):
        return _record(kind, fields, value, place)
    if kind is float and (value is None or type(value) is int):
        return math.nan if value is None else float(value)
    if origin is None and type(value) is kind:
        return value
    name = getattr(kind, "__name__", str(kind))
    raise ValueError(f"{place or 'the whole'} is {value!r:.60}, not of type {name}")


def _fields(kind: Any) -> dict[str, bool]:
    """Fields of a dataclass or named tuple, and whether they must be given; else empty."""
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {
            field.name: field.default is missing and field.default_factory is missing
            for field in dataclasses.fields(kind)
        }
    return {name: name not in kind._field_defaults for name in getattr(kind, "_fields", ())}


def _record(kind: Any, fields: Mapping[str, bool], value: dict[str, Any], place: str) -> Any:
    lacking = sorted(name for name, needed in fields.items() if needed and name not in value)
    unknown = sorted(value.keys() - fields.keys())
    if lacking or unknown:
        raise ValueError(f"{place or 'the whole'} lacks {lacking} and has unknown {unknown}")
    hints = typing.get_type_hints(kind)
    return kind(**{key: typed(hints[key], item, f"{place}.{key}") for key, item in value.items()})
