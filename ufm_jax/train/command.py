"""What the commands have in common: flags, errors of one line, exit codes."""

import sys
from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ufm_jax.errors import ConfigError, DataError


def start(main: Callable[[], int]) -> None:
    """Runs a command.

    Args:
        main: Does the work once flags are parsed; returns the exit code. A ``ConfigError`` or a
            ``DataError`` ends it with one line, and 2.
    """

    def guarded(argv: list[str]) -> int:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}: options begin with --")
        try:
            return main()
        except (ConfigError, DataError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    logging.set_verbosity(logging.WARNING)
    getLogger("ufm_jax").setLevel("INFO")
    app.run(guarded, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Parses flags; a mistyped one is an error of one line, as every wrong value is."""
    try:
        rest = flags.FLAGS(argv)
        _check_config_file()
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        lines = str(error).splitlines()
        # What a configuration file raises arrives with its traceback: its last line says it.
        text = lines[-1] if any("Traceback" in line for line in lines) else " ".join(lines)
        if isinstance(error, KeyError):  # Of which the text is the key alone.
            text = f"the configuration has no key {text}; config.json of a run lists all keys"
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    return rest


def _check_config_file() -> None:
    """Refuses a configuration file that is not there; absl itself would go on without."""
    if "config" not in flags.FLAGS:
        return
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    # Where the configuration is a run's, there is no file.
    if isinstance(name, str) and not Path(name.split(":")[0]).is_file():
        raise flags.Error(f"--config={name}: no such file; configs/ holds some to start from")


def define_config_of_run(load: Callable[[Path], ConfigDict], argv: Sequence[str]) -> None:
    """Defines --run, and --config.KEY for the keys of that run's configuration.

    The flags cannot be defined before the run is known, so that ``argv`` is looked through first.

    Args:
        load: ``folder -> configuration``.
        argv: The command line.
    """
    flags.DEFINE_string("run", None, "The folder of a finished fine-tuning run.", required=True)
    folder = _value_of("run", argv)
    if folder is None:
        return
    try:
        config_flags.DEFINE_config_dict("config", load(Path(folder)), lock_config=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Values are read while the flags are defined; a ConfigError is a ValueError.
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            return value if equals else (argv[i + 1] if i + 1 < len(argv) else None)
    return None
