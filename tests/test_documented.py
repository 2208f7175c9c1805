"""Every command that a page or a docstring shows is understood, up to where its work begins."""

import argparse
import runpy
import shlex
import sys

import pytest
from absl import flags

from tests.documented import PLACES, ROOT, clone_in, shown_by
from ufm_jax.errors import ConfigError

COMMANDS = [
    pytest.param(command, id=f"{place.relative_to(ROOT)}-{number}")
    for place in PLACES
    for number, command in enumerate(shown_by(place))
]
STANDS_FOR = {"TASK": "busi_diagnosis", "SUBCOMMAND": "engine"}
"""Words of a command in place of which one of several is to be written."""

WORK = (
    "ufm_jax.cluster.process.configure_jax",
    "tools.audits.membership.audit_members",
    "tools.deploying.app.write_app",
    "tools.deploying.certificates.write_certificates",
)
"""Where the work of commands that have no parser of arguments begins."""


class WorkBeginsError(BaseException):
    """Raised where a command has understood what it is asked for; no command catches it."""


def begin(*_, **__):
    raise WorkBeginsError


@pytest.fixture
def until_work(tmp_path, monkeypatch):
    """Commands run in this process, in a folder like a clone, and end where their work begins."""
    clone_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("absl.app.run", lambda main, flags_parser: main(flags_parser(sys.argv)))
    for module in ("ufm_jax.door", "ufm_jax.config.command"):
        monkeypatch.setattr(f"{module}.enter", lambda work: work())
    for work in WORK:
        monkeypatch.setattr(work, begin)
    before = set(flags.FLAGS)
    yield monkeypatch
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def configuration_of_a_run(folder):
    """That of fine-tuning: the runs that commands name are not there."""
    del folder
    config = runpy.run_path(str(ROOT / "configs/finetune.py"))["get_config"]()
    config.data.root = "data"
    return config


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_is_understood(command, until_work):
    for word, meaning in STANDS_FOR.items():
        command = command.replace(word, meaning)
    _, module, *arguments = shlex.split(command, comments=True)
    for loader in ("trained_model.load_config", "portable.load_portable_config"):
        until_work.setattr(f"ufm_jax.runs.{loader}", configuration_of_a_run)
    if module == "tools.run_suite":
        arguments.append("--list")  # Its work is to make a plan of the suite.
    elif module != "tools.audit":
        parse = argparse.ArgumentParser.parse_args
        until_work.setattr(
            "argparse.ArgumentParser.parse_args", lambda *given: begin(parse(*given))
        )
    until_work.setattr(sys, "argv", [module, *arguments])
    until_work.delitem(sys.modules, module, raising=False)  # Else it would run a second time.
    with pytest.raises((WorkBeginsError, SystemExit, ConfigError)) as ended:
        runpy.run_module(module, run_name="__main__")
    if "is not installed: pip install" in str(ended.value):
        pytest.skip(str(ended.value))
    assert isinstance(ended.value, WorkBeginsError) or ended.value.args == (0,)
