"""The door of commands: how each kind of ending is told. Real processes, which import no jax."""

import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ufm_jax.door import explain

ROOT = Path(__file__).resolve().parents[1]
TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "params" in OCDBT database at local file "/disk/run/1/": '
    "Failed to write 8 bytes: No space left on device [os_error_code='28']"
)


def command(body, **options):
    """Starts a command whose work is ``body``."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    program = f"""
import errno, logging, os, signal, sys, threading, time
from ufm_jax.errors import *
from ufm_jax.door import enter
def work():
{lines}
    return 0
sys.exit(enter(work))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=ROOT, **options
    )


def ended(body, **options):
    """The exit code of a command, and what it wrote to standard error."""
    process = command(body, **options)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("pass", 0, ""),
        ("raise ConfigError('config.x=1: use 2')", 2, "error: config.x=1: use 2\n"),
        ("raise DataError('bad:\\n  a.png\\n  b.png')", 2, "error: bad: a.png; b.png\n"),
        ("raise RunError('run/\\x1b[2J\\a: no')", 2, "error: run/\\x1b[2J\\x07: no\n"),
        (
            "open('/nowhere/x')",
            74,
            "error: /nowhere/x: No such file or directory; check the path\n",
        ),
        ("raise MemoryError('2.7 GiB')", 74, "error: out of memory (2.7 GiB): free memory, "),
        (f"raise ValueError({TENSORSTORE!r})", 74, "error: /disk/run/1/: No space left on device"),
        (
            "raise RuntimeError(\"Unable to initialize backend 'cuda': no driver\")",
            74,
            "error: Unable to initialize backend 'cuda': no driver: check the driver",
        ),
        ("raise KeyboardInterrupt", 130, "error: stopped by SIGINT\n"),
    ],
)
def test_each_kind_of_ending_has_its_code_and_one_line(body, code, told):
    found, errors = ended(body)
    assert found == code, errors
    assert errors.startswith(told)
    assert errors.count("\n") == bool(told)


def test_a_fault_of_the_program_shows_its_traceback_without_control_characters():
    code, errors = ended("{}['\\x1b[2J']")
    assert code == 1
    assert errors.startswith("Traceback")
    assert "KeyError" in errors
    assert "\x1b" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_one_line(number):
    process = command("print('here', flush=True)\ntime.sleep(60)", stdout=subprocess.PIPE)
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == f"error: stopped by {number.name}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_an_object_is_finalised_is_not_lost(number):
    code, errors = ended(
        "class Finalised:\n"
        "    def __del__(self):\n"
        f"        signal.raise_signal({number})\n"
        "Finalised()\n"
        "os.read(os.pipe()[0], 1)"
    )
    assert code == 128 + number
    assert errors == f"error: stopped by {number.name}\n"


def test_what_libraries_write_is_the_owners_alone(tmp_path):
    body = f"open({str(tmp_path / 'file')!r}, 'w').close()\nos.makedirs({str(tmp_path / 'a/b')!r})"
    assert ended(body, umask=0)[0] == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o600, "a": 0o700, "b": 0o700}


def test_logged_names_cannot_write_to_the_terminal_or_forge_lines():
    name = "'a\\x1b[2J\\nerror: forged\\a.png'"
    code, errors = ended(f"logging.getLogger('ufm_jax.x').warning('%s: bad', {name})")
    assert code == 0
    assert errors.count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", errors)
    assert "\nerror:" not in errors


def test_hundreds_of_errors_in_the_background_are_one_line_and_none_after_the_end():
    body = """
def fail(): raise RuntimeError('Event loop is closed')
class Leaves:
    def __del__(self): fail()
def background(n):
    threads = [threading.Thread(target=fail) for _ in range(n)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for _ in range(n): Leaves()
background(100)
global late
late = Leaves()
raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/disk')
""".strip()
    code, errors = ended(body)
    assert code == 74
    noise, last = errors.splitlines()
    assert noise.endswith("in the background: RuntimeError: Event loop is closed")
    assert last.startswith("error: /disk: No space left on device; free space there")


def chained(error, cause):
    error.__cause__ = cause
    return error


def test_a_failure_is_found_behind_a_librarys_error():
    full = OSError(errno.ENOSPC, "full", "/disk/file")
    found = explain(chained(RuntimeError("save failed"), chained(ValueError("commit"), full)))
    assert found.startswith("/disk/file: No space left on device")


def test_where_the_traceback_is_kept_is_said():
    error = OSError(errno.EROFS, "read-only", "/disk/file")
    error.add_note("the traceback is in /log")
    assert explain(error).endswith("; the traceback is in /log")


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("shapes"), RuntimeError("no")])
def test_a_fault_is_not_taken_for_a_failure_of_the_system(error):
    assert explain(error) is None


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_failure_of_files_names_path_reason_and_remedy(code):
    told = explain(OSError(code, "", "/p"))
    assert re.fullmatch(r"/p: [^;]+; .+", told), told
