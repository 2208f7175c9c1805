"""What the commands have in common: their flags, and errors in those."""

import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from ufm_jax.config.schema import current_key
from ufm_jax.door import enter
from ufm_jax.errors import ConfigError
from ufm_jax.files import user_path

_PLAIN = {
    "invalid literal for int() with base 10:": "expected a whole number, not",
    "could not convert string to float:": "expected a number, not",
}
"""Python's words about values, and those for users."""


def start(
    main: Callable[[], int], define_more: Callable[[Sequence[str]], None] | None = None
) -> None:
    """Runs a command, and ends the process with its exit code.

    Args:
        main: Does the work once flags are parsed; returns the exit code.
        define_more: Defines flags that depend on the command line, which it is given.
    """

    def work() -> int:
        if define_more is not None:
            define_more(sys.argv)
        # It parses, calls, and ends in SystemExit.
        app.run(lambda _: main(), flags_parser=parse)
        raise AssertionError("app.run returned")

    sys.exit(enter(work))


def parse(argv: list[str]) -> list[str]:
    """Parses flags.

    Raises:
        ConfigError: For a mistyped flag, a wrong value, or a configuration file that fails.
    """
    try:
        rest: list[str] = flags.FLAGS(argv)
    except Exception as error:
        raise ConfigError(problem_with(error, argv)) from error
    _check_config_file()
    if rest[1:]:
        raise ConfigError(f"unexpected arguments {rest[1:]}: options begin with --")
    return rest


def problem_with(error: Exception, argv: Sequence[str]) -> str:
    """What is wrong with the flags of a command line, or with the configuration file they name."""
    trace = traceback.extract_tb(error.__traceback__)
    within = [frame for frame in trace if frame.name in ("get_config", "<module>")]
    if within:
        place = f"{within[-1].filename}, line {within[-1].lineno}"
        return f"{place}: {type(error).__name__}: {error}"
    # Some of absl's errors about keys hold another.
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(inner, KeyError):
        key, _, hint = str(inner.args[0]).replace("\\n", "\n").partition("\n")
        name = key.rpartition(": ")[2].strip("'\"\\")
        return _unknown_key(name, hint.strip("'"), argv)
    lines = str(error).splitlines()
    # What a value makes a configuration file raise arrives with its traceback as text.
    text = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
    for words, plain in _PLAIN.items():
        text = text.replace(words, plain)
    return text


def _unknown_key(name: str, hint: str, argv: Sequence[str]) -> str:
    """The message about a flag one of whose parts, ``name``, is not in the configuration."""
    flags_given = (argument.lstrip("-").partition("=")[0] for argument in argv)
    whole = next((flag for flag in flags_given if name in flag.split(".")[1:]), name)
    now = current_key(whole)
    if now != whole:
        hint = f"it is {now} now"
    return (
        f"the configuration has no key {whole!r}; {hint or 'config.json of a run lists all keys'}"
    )


def _check_config_file() -> None:
    """Refuses a configuration file that is not there; absl itself would go on without."""
    if "config" not in flags.FLAGS or not flags.FLAGS["config"].present:
        return
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    # Where the configuration is a run's, there is no file.
    if isinstance(name, str) and not Path(name.split(":")[0]).is_file():
        raise ConfigError(f"--config={name}: no such file; configs/ holds some to start from")


def path_argument(text: str) -> Path:
    """The path that a user gave; as ``type`` of an argument of argparse.

    Raises:
        ArgumentTypeError: If it is empty, which would mean the current folder, or unknown.
    """
    if not text.strip():
        raise ArgumentTypeError("it is empty: name a path")
    try:
        return user_path(text)
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from error


def count_argument(text: str, least: int = 1) -> int:
    """The whole number that a user gave; as ``type`` of an argument of argparse.

    Raises:
        ArgumentTypeError: If it is not a whole number, or below ``least``.
    """
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"{text!r}: give a whole number, {least} or more")
    return int(text)


def count_or_zero(text: str) -> int:
    """As ``count_argument``, where 0 has a meaning of its own."""
    return count_argument(text, 0)


class _PathParser(flags.ArgumentParser):
    syntactic_help = "a path"

    def parse(self, argument: str) -> Path:
        try:
            return path_argument(argument)
        except ArgumentTypeError as error:
            raise ValueError(str(error)) from error


def define_path(
    name: str, text: str, default: str | None = None, *, required: bool = False
) -> flags.FlagHolder:
    """Defines a flag whose value is a path, with ``~`` and variables expanded."""
    return flags.DEFINE(_PathParser(), name, default, text, required=required)
