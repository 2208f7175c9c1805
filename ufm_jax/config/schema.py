"""From ConfigDicts to typed values: frozen dataclasses are the schema, checked once at the door."""

import ast
import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from ufm_jax.errors import ConfigError
from ufm_jax.ranges import checked, kinds_of, refusal

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
        cls: A dataclass whose fields are dataclasses, or what ``ranges.checked`` takes.
        config: Keys and values; every key must be a field.
        prefix: Path of ``config``, for messages.

    Raises:
        ConfigError: For an unknown or missing key, a wrong type, or a value that ``cls`` refuses.
    """
    fields = kinds_of(cls)
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {prefix}.{near[0]}?" if near else f"known: {', '.join(fields)}"
            raise refusal(f"{prefix}.{key}", config[key], f"unknown key; {hint}")
    values: dict[str, Any] = {}
    for key, kind in fields.items():
        path = f"{prefix}.{key}"
        if key not in config:
            raise ConfigError(f"{path}: missing; start from the defaults of {cls.__name__}")
        if dataclasses.is_dataclass(kind):
            if not isinstance(config[key], Mapping | ConfigDict):
                raise refusal(path, config[key], f"it is a section; set {path}.<key>")
            section: type = kind  # type: ignore[assignment]
            values[key] = from_config_dict(section, config[key], path)
        else:
            values[key] = checked(path, config[key], kind)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}: {error}") from None


def set_keys(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets keys by their full names, as ``flatten`` gives them; lists become tuples.

    Raises:
        KeyError: If a key is not in ``config``.
    """
    for key, value in values.items():
        _, *sections, name = key.split(".")
        place = config
        for section in sections:
            place = place[section]
        if name not in place:
            raise KeyError(key)
        place[name] = tuple(value) if isinstance(value, list) else value


class ListParser(TupleParser):
    """Reads ``a,b`` and ``[a, b]`` of a command line as it reads ``('a', 'b')``.

    A comma inside quotes separates nothing. Without this parser ``a,b`` would be one text.
    """

    def parse(self, argument: Any) -> tuple:
        """The entries of a flag's text, or a default as it is.

        Raises:
            ValueError: If a part of the text is quoted, and another is not.
        """
        if not isinstance(argument, str):
            return super().parse(argument)
        with suppress(ValueError, SyntaxError):
            read = ast.literal_eval(argument)
            return tuple(read) if isinstance(read, tuple | list) else (read,)
        text = argument.strip()
        if "," in text and text[0] + text[-1] in ("()", "[]"):
            text = text[1:-1]
        if "," in text and ("'" in text or '"' in text):
            raise ValueError(f"{argument}: put each entry in quotes, or none")
        return tuple(part.strip() for part in text.split(",") if part.strip())


class NumberParser(flags.ArgumentParser):
    """Reads a share where a configuration says a whole number, as of a key that takes both.

    What a key takes is told by ``from_config_dict``.
    """

    def parse(self, argument: Any) -> int | float:
        """The number of a flag's text, or a default as it is.

        Raises:
            ValueError: If it is no number.
        """
        if not isinstance(argument, str):
            return argument
        with suppress(ValueError):
            return float(argument) if set(argument) & set(".eE") else int(argument)
        return int(argument)  # Says what was expected.

    def flag_type(self) -> str:
        """For help."""
        return "number"


# ml_collections picks the parser of a flag by the type of its default.
config_flags.register_flag_parser_for_type(tuple, ListParser())
config_flags.register_flag_parser_for_type(int, NumberParser())


def flatten(settings: Any, prefix: str = "config") -> dict[str, Any]:
    """Every leaf of a settings dataclass under its full key."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{prefix}.{field.name}"
        leaves |= flatten(value, path) if dataclasses.is_dataclass(value) else {path: value}
    return leaves


def without_text(settings: Any, prefix: str = "config") -> dict[str, Any]:
    """As ``flatten``, without the keys that take free text: it may be a path or a name."""
    leaves: dict[str, Any] = {}
    for name, kind in kinds_of(type(settings)).items():
        value, path = getattr(settings, name), f"{prefix}.{name}"
        if dataclasses.is_dataclass(value):
            leaves |= without_text(value, path)
        elif not _takes_text(kind):
            leaves[path] = value
    return leaves


def _takes_text(kind: Any) -> bool:
    return kind is str or any(map(_takes_text, typing.get_args(kind)))


def current_key(key: str) -> str:
    """The full key that a key of an older version is called now."""
    # Fine-tuning had a section of its own for the images.
    return key.replace("config.data.data.", "config.data.")
