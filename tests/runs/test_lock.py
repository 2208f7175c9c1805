"""One command at a time in a folder."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ufm_jax.errors import ConfigError, RunError
from ufm_jax.runs.lock import held

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_command_is_told_who_holds_the_folder(tmp_path):
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    with held(tmp_path / "run", "workdir"):
        with pytest.raises(RunError, match=rf"--workdir=.*run: {owner} writes there"):
            held(tmp_path / "run", "workdir").__enter__()
        (tmp_path / "run" / "report.html").touch()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.html"]


def test_what_a_killed_owner_left_holds_nobody_up_and_is_cleared(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from ufm_jax.runs.lock import held\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "with held(folder, 'out'):\n"
            "  (folder / 'x.json.0.partial').touch(); print('held', flush=True); time.sleep(60)",
            str(tmp_path / "run"),
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=f"process {holder.pid} on"):
        held(tmp_path / "run", "out").__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / "run" / "lock").exists()
    with held(tmp_path / "run", "out"):
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["lock"]


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with held(tmp_path / "run", "workdir"):
        pass
    assert caplog.text.count("has no locks") == 1


def test_a_folder_in_which_nothing_was_written_is_not_left_behind(tmp_path):
    def mistaken(folder):
        with held(folder, "out"):
            raise ConfigError("a mistake")

    (tmp_path / "there").mkdir()
    for folder in ("new", "there"):
        with pytest.raises(ConfigError):
            mistaken(tmp_path / folder)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_tracebacks_are_kept_in_the_folder_and_the_error_says_where(tmp_path):
    def fail():
        with held(tmp_path, "workdir"):
            logging.getLogger("library").error("first", exc_info=KeyError("inner"))
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full") as error:
        fail()
    log = (tmp_path / "errors.log").read_text()
    assert log.index("KeyError: 'inner'") < log.index("Traceback") < log.index("OSError")
    assert error.value.__notes__ == [f"the traceback is in {tmp_path / 'errors.log'}"]
    assert error.value.filename == str(tmp_path)
