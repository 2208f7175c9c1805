"""From ConfigDicts to typed values: frozen dataclasses are the schema, checked once at the door."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ufm_jax.errors import ConfigError

T = TypeVar("T")


@contextmanager
def as_config_errors() -> Iterator[None]:
    """Turns what a layer below says of a wrong value into a ``ConfigError``."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"config: {error}") from None


def to_config_dict(settings: Any) -> ConfigDict:
    """A ConfigDict with the fields of a dataclass, nested dataclasses as nested ConfigDicts.

    It is not type-safe, so that mistakes reach ``from_config_dict``, which can say more.
    """
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values[field.name] = to_config_dict(value) if dataclasses.is_dataclass(value) else value
    return ConfigDict(values, type_safe=False)


def from_config_dict(cls: type[T], config: Mapping[str, Any], prefix: str = "config") -> T:
    """Builds the dataclass ``cls`` from a ConfigDict.

    Args:
        cls: A dataclass whose fields are bool, int, float, str, tuples of them, Literals or
            dataclasses.
        config: Keys and values; every key must be a field.
        prefix: Path of ``config``, for messages.

    Raises:
        ConfigError: For an unknown or missing key, a wrong type, or a value that ``cls`` refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {prefix}.{near[0]}?" if near else f"known: {', '.join(fields)}"
            raise ConfigError(f"{prefix}.{key}={config[key]!r}: unknown key; {hint}")
    values: dict[str, Any] = {}
    for key, kind in fields.items():
        path = f"{prefix}.{key}"
        if key not in config:
            raise ConfigError(f"{path}: missing; start from the defaults of {cls.__name__}")
        if dataclasses.is_dataclass(kind):
            if not isinstance(config[key], Mapping | ConfigDict):
                raise ConfigError(f"{path}={config[key]!r}: it is a section; set {path}.<key>")
            section: type = kind  # type: ignore[assignment]
            values[key] = from_config_dict(section, config[key], path)
        else:
            values[key] = _checked(path, config[key], kind)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}: {error}") from None


def _checked(path: str, value: Any, kind: Any) -> Any:
    """The value in the field's type; integers serve as floats, lists as tuples."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            # A flag of a key whose default is a string arrives as a string.
            by_name = {str(choice): choice for choice in choices}
            if isinstance(value, str) and value in by_name:
                return by_name[value]
            raise ConfigError(f"{path}={value!r}: choose one of {', '.join(map(repr, choices))}")
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in typing.get_args(kind):
            if choice is type(None):
                if value is None:
                    return None
                continue
            try:
                return _checked(path, value, choice)
            except ConfigError:
                continue
        raise ConfigError(f"{path}={value!r}: expected {kind}")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise ConfigError(f"{path}={value!r}: expected a tuple, such as ({value!r},)")
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f"{path}={value!r}: expected {len(kinds)} entries")
        return tuple(_checked(path, item, k) for item, k in zip(value, kinds, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{path}={value!r}: expected {kind.__name__}")
    return value


def check_range(key: str, value: float, low: float, high: float, meaning: str) -> None:
    """Refuses a value of ``config.<key>`` outside ``low .. high``; ``meaning`` says what it is."""
    if not low <= value <= high:
        span = f"from {low} to {high}" if high < math.inf else f"{low} or more"
        raise ConfigError(f"config.{key}={value!r}: it {meaning}; use {span}")


def flatten(settings: Any, prefix: str = "config") -> dict[str, Any]:
    """Every leaf of a settings dataclass under its full key."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{prefix}.{field.name}"
        leaves |= flatten(value, path) if dataclasses.is_dataclass(value) else {path: value}
    return leaves
