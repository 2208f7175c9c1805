"""Commands on a trained model: --run or --model, and --config.KEY for the keys of that run."""

from collections.abc import Callable, Sequence
from functools import partial

from ml_collections import config_flags

from ufm_jax.config.command import define_path, problem_with, start
from ufm_jax.errors import ConfigError
from ufm_jax.files import user_path


def start_on_run(main: Callable[[], int], *, exported: bool = False) -> None:
    """Runs a command on a finished run, and ends the process with its exit code.

    Args:
        main: As in ``config.command.start``. The run's folder is in the flag ``run``, its
            configuration, with the changes of the command line, in the flag ``config``.
        exported: Whether ``--model``, a folder of tools.export, may stand in for ``--run``.
    """
    start(main, partial(_define_config_of_run, exported))


def _define_config_of_run(exported: bool, argv: Sequence[str]) -> None:
    """Defines --run, --model, and --config.KEY for the keys of that run's configuration.

    The flags depend on the run, so that ``argv``, the command line, is searched for it first.

    Raises:
        ConfigError: If the folder does not hold such a run, or a value is wrong.
    """
    define_path("run", "The folder of a finished fine-tuning run.", required=not exported)
    run, model = _value_of("run", argv), None
    if exported:
        define_path("model", "In place of --run: a folder that tools.export made.")
        model = _value_of("model", argv)
        helps = any(argument.startswith(("--help", "-h", "-?")) for argument in argv)
        if (run is None) == (model is None) and not helps:
            raise ConfigError(
                "give one of --run=FOLDER, of a run, and --model=FOLDER, of an export"
            )
    folder = run or model
    if folder is None:
        return
    # Within the door, which also explains what fails while it is imported.
    from ufm_jax.runs.portable import load_portable_config
    from ufm_jax.runs.trained_model import load_config

    load = load_config if run else load_portable_config
    try:
        config_flags.DEFINE_config_dict("config", load(user_path(folder)), lock_config=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Values are read while the flags are defined.
        raise ConfigError(problem_with(error, argv)) from error


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for i, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            return value if equals else (argv[i + 1] if i + 1 < len(argv) else None)
    return None
