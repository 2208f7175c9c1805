"""What a settings field may hold: its annotation says so, and one function checks it.

    rounds: Annotated[int, Range(1)]
    mask_ratio: Annotated[float, Range(0, 1, above=True, below=True)]

Every number is finite. What several fields may not hold together, a dataclass checks itself.
"""

import dataclasses
import numbers
import re
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from ufm_jax.errors import ConfigError


class Limit(Protocol):
    """What an annotation says of values, beside their type."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, and what to use; None if it may be."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``low`` to ``high``.

    Attributes:
        low: The least number.
        high: The largest one; the default is more than any setting means, and float32 can square
            it.
        above: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.
    """

    low: float
    high: float = 10**9
    above: bool = False
    below: bool = False

    def problem(self, value: float) -> str | None:
        """See ``Limit``."""
        large_enough = value > self.low if self.above else value >= self.low
        if large_enough and (value < self.high if self.below else value <= self.high):
            return None
        low = f"above {self.low}" if self.above else f"from {self.low}"
        return f"use a number {low} to {'below ' if self.below else ''}{self.high}"


class Rising:
    """Tuples of numbers that do not fall, such as (least, largest)."""

    def problem(self, value: tuple[float, ...]) -> str | None:
        """See ``Limit``."""
        return None if list(value) == sorted(value) else "give the least first, the largest last"


@dataclass(frozen=True)
class Pattern:
    """Regular expressions.

    Attributes:
        group: Whether parentheses must stand around what is looked for; '' looks for nothing.
    """

    group: bool = False

    def problem(self, value: str) -> str | None:
        """See ``Limit``."""
        try:
            groups = re.compile(value).groups
        except (re.error, OverflowError, RecursionError) as error:
            return f"it is not a regular expression ({error})"
        return "it has no parentheses" if self.group and value and not groups else None


_LONGEST = 120
"""Characters of a value that an error shows."""

Count = Annotated[int, Range(0)]
AtLeastOne = Annotated[int, Range(1)]
Amount = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True)]
"""A share that is not empty."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""Seeds that differ stay different in the 32 bits that JAX keeps of them."""
LogSpread = Annotated[float, Range(0, 10)]
"""Standard deviation of a logarithm."""
Factor = Annotated[float, Range(0.01, 100)]
Parts = Annotated[tuple[Part, Part], Rising()]
Factors = Annotated[tuple[Factor, Factor], Rising()]


class Checked:
    """Base of settings dataclasses: values that their fields do not allow are refused.

    A subclass with a ``__post_init__`` of its own begins it with this one.
    """

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: Naming field, value, and what to use.
        """
        for name, kind in kinds_of(type(self)).items():
            checked(name, getattr(self, name), kind)


def kinds_of(cls: type) -> Mapping[str, Any]:
    """The annotation of each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def checked(name: str, value: Any, kind: Any) -> Any:
    """A value in the type of its field: whole numbers serve as floats, lists as tuples.

    Args:
        name: The field, for messages.
        value: What was given.
        kind: The field's annotation: bool, int, float, str, a tuple of them, a Literal or a
            dataclass; ``Annotated`` with what it is limited to.

    Raises:
        ConfigError: Naming field, value, and what to use.
    """
    if typing.get_origin(kind) is not Annotated:
        return _typed(name, value, kind)
    inner, *limits = typing.get_args(kind)
    value = _typed(name, value, inner)
    for problem in filter(None, (limit.problem(value) for limit in limits)):
        raise refusal(name, value, problem)
    return value


def _typed(name: str, value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        # By name: a flag arrives as text, and True or 1.0 are not the choice 1.
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if str(value) in choices:
            return choices[str(value)]
        expected = f"choose one of {', '.join(map(repr, choices.values()))}"
    elif origin is tuple:
        if isinstance(value, tuple | list):
            return _entries(name, value, typing.get_args(kind))
        given = value.split(",") if isinstance(value, str) else [value]
        expected = f"give a tuple, such as {tuple(given)}"
    elif kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        expected = f"expected {kind.__name__}"
    elif kind is int and isinstance(value, numbers.Integral):
        return int(value)
    elif kind is float and isinstance(value, numbers.Real):
        with suppress(OverflowError):  # A whole number beyond every float.
            return float(value)
        expected = "expected float"
    elif isinstance(value, kind) and "\0" not in str(value):
        return value
    elif kind is str and isinstance(value, str):
        expected = "it holds a NUL character; leave it out"
    else:
        expected = f"expected {'text in quotes' if kind is str else kind.__name__}"
    raise refusal(name, value, expected)


def refusal(name: str, value: Any, problem: str) -> ConfigError:
    """The error of one line, however long the value is."""
    shown = repr(value)
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
    return ConfigError(" ".join(f"{name}={shown}: {problem}".splitlines()))


def _entries(name: str, values: tuple | list, kinds: tuple[Any, ...]) -> tuple:
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise refusal(name, values, f"expected {len(kinds)} entries")
    pairs = enumerate(zip(values, kinds, strict=True))
    return tuple(checked(f"{name}[{place}]", value, kind) for place, (value, kind) in pairs)
