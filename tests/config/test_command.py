"""Flags of commands, and what is said of wrong ones. Real processes, which import no jax."""

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from ufm_jax.config.command import count_argument, count_or_zero
from ufm_jax.config.schema import NumberParser

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from ml_collections import config_flags
from ufm_jax.config.command import define_path, start
from ufm_jax.door import say
CONFIG = config_flags.DEFINE_config_file("config", None, "", lock_config=False)
OUT = define_path("out", "", required=True)
def main():
    say(str(OUT.value))
    return 3
start(main)
"""
CONFIG = """
from ml_collections import ConfigDict
def get_config(text=""):
    if text: raise ValueError(f"task {text!r}: choose 'a'")
    return ConfigDict({"rounds": 1, "data": {"root": ""}})
"""


def command(*flags, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_path_is_expanded_and_the_exit_code_is_mains():
    assert command("--out=~/$DAY/x", HOME="/home/me", DAY="monday") == (
        3,
        "/home/me/monday/x\n",
        "",
    )


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--out="], "it is empty: name a path"),
        (["--out=  "], "it is empty: name a path"),
        (["--out=x", "--nothing"], "Unknown command line flag 'nothing'"),
        (["--out=x", "more"], "unexpected arguments ['more']: options begin with --"),
        (["--out=x", "--config=/no/file.py"], "/no/file.py: no such file"),
        (["--out=x", "--config={}", "--config.rouns=2"], "has no key 'config.rouns'"),
        (["--out=x", "--config={}", "--config.data.rot=2"], "has no key 'config.data.rot'"),
        (["--out=x", "--config={}", "--config.rounds.x=2"], "has no key 'rounds.x'"),
        (
            ["--out=x", "--config={}", "--config.rounds=two"],
            "--config.rounds=two: expected a whole number, not 'two'",
        ),
        (["--out=x", "--config={}:b"], "task 'b': choose 'a'"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(config, flags, told):
    code, _, errors = command(*(flag.format(config) for flag in flags))
    assert code == 2
    assert errors.startswith("error: ")
    assert told in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(("text", "value"), [("0.1", 0.1), ("1e-3", 0.001), ("7", 7), ("-2", -2)])
def test_a_key_that_a_file_sets_to_a_whole_number_may_take_a_share(text, value):
    """Whether it does the schema says, not the number that happens to stand in the file."""
    found = NumberParser().parse(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("key", ["federation.local_epochs=0.1", "federation.rounds=2"])
def test_numbers_of_the_command_line_reach_the_schema(config, key):
    shipped = ROOT / "configs" / "quickstart.py"
    assert command("--out=x", f"--config={shipped}", f"--config.{key}")[0] == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def get_config():\n  return undefined", "config.py, line 2: NameError: name 'undefined'"),
        ("import not_there", "config.py, line 1: ModuleNotFoundError"),
        ("def get_config(:", "invalid syntax (config.py, line 1)"),
        ("x = 3", "has no attribute 'get_config'"),
        ("x = 1 / 0", "config.py, line 1: ZeroDivisionError"),
    ],
)
def test_a_configuration_file_that_fails_is_told_by_its_line(config, content, told):
    config.write_text(content)
    code, _, errors = command("--out=x", f"--config={config}")
    assert code == 2
    assert told in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", ""])
def test_a_count_is_a_whole_number_from_1_on_or_from_0(text):
    with pytest.raises(ArgumentTypeError, match="give a whole number, 1 or more"):
        count_argument(text)
    assert count_argument("12") == 12
    assert count_or_zero("0") == 0
