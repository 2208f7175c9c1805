"""What the commands have in common: their flags, and errors in those."""

import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from ufm_jax.door import enter
from ufm_jax.errors import ConfigError
from ufm_jax.files import user_path


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
        raise ConfigError(_told(error)) from error
    _check_config_file()
    if rest[1:]:
        raise ConfigError(f"unexpected arguments {rest[1:]}: options begin with --")
    return rest


def _told(error: Exception) -> str:
    """What is wrong with flags, or with the configuration file that they name."""
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
        remedy = hint.strip("'") or "config.json of a run lists all keys"
        return f"the configuration has no key {name!r}; {remedy}"
    lines = str(error).splitlines()
    # What a value makes a configuration file raise arrives with its traceback as text.
    return lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)


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
