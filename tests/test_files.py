"""Paths that users give, files that are written whole, locks that the dead do not hold."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ufm_jax import files
from ufm_jax.errors import ConfigError, RunError
from ufm_jax.files import (
    cache_folder,
    exclusive,
    naming,
    private_folder,
    read_json,
    replacing,
    user_path,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[1]


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs/x", "/home/me/runs/x"),
        ("$SCRATCH/x", "/scratch/7/x"),
        ("${SCRATCH}x", "/scratch/7x"),
        ("$HOME", "/home/me"),
        ("a ~ b/$", "a ~ b/$"),
        ("rel/x", "rel/x"),
    ],
)
def test_home_and_variables_are_expanded(monkeypatch, given, expected):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/7")
    assert user_path(given) == Path(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("$NOWHERE_TO_BE/x", r"\$NOWHERE_TO_BE is not set"),
        ("${NOWHERE_TO_BE}", "is not set"),
        ("~nobody_of_this_name/x", "no home folder is known"),
        ("a\0b", "NUL"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        user_path(given)


def test_a_name_with_a_dollar_that_is_there_is_taken_as_it_is(tmp_path):
    (tmp_path / "A$B_C").mkdir()
    assert user_path(tmp_path / "A$B_C") == tmp_path / "A$B_C"


@pytest.fixture
def loose_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_written_is_the_owners_alone_whatever_the_umask(tmp_path, loose_umask):
    folder = private_folder(tmp_path / "runs" / "mine" / "run")
    write_text(folder / "a.txt", "a")
    write_json(folder / "b.json", {"b": 1})
    with exclusive(folder / "lock"):
        assert {mode(path) for path in folder.iterdir()} == {0o600}
    for made in (folder, *folder.parents[:2]):
        assert mode(made) == 0o700


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "report.html"
    write_text(file, "before")

    def fail():
        with replacing(file) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_that_names_no_file_gets_one_and_another_keeps_its_own(tmp_path):
    file = tmp_path / "table.csv"
    with pytest.raises(OSError, match=r"table\.csv"), replacing(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="other"), naming(file):
        raise OSError(errno.ENOSPC, "No space left on device", "other")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", dict),
        (b'{"a": ', dict),
        (b"\xff\xfe", dict),
        (b"[1]", dict),
        (b"{}", list),
        (b"[" * 100_000, object),
        (None, dict),
    ],
)
def test_a_damaged_json_file_is_one_line_with_the_remedy(tmp_path, content, kind):
    file = tmp_path / "config.json"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json is damaged.*: put it back"):
        read_json(file, "put it back", kind)


class TestExclusive:
    """The lock."""

    def test_it_is_held_once_and_free_again_after(self, tmp_path):
        file = tmp_path / "lock"
        with exclusive(file) as mine:
            assert mine is not None
            with pytest.raises(BlockingIOError), exclusive(file, wait=False):
                pytest.fail("it is held twice")
        with exclusive(file, wait=False) as again:
            assert again is not None

    def test_a_killed_holder_does_not_hold_it(self, tmp_path):
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys, time, pathlib; from ufm_jax.files import exclusive\n"
                "with exclusive(pathlib.Path(sys.argv[1])):\n"
                "  print('held', flush=True); time.sleep(60)",
                str(tmp_path / "lock"),
            ],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), exclusive(tmp_path / "lock", wait=False):
            pytest.fail("it is held twice")
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        with exclusive(tmp_path / "lock", wait=False) as mine:
            assert mine is not None

    def test_a_file_that_its_holder_removed_is_not_taken_for_the_lock(self, tmp_path, monkeypatch):
        """The second opens the file before the first removes it, and locks it afterwards."""
        file, lock = tmp_path / "lock", files._lock

        def remove_first(descriptor, wait):
            monkeypatch.setattr(files, "_lock", lock)
            file.unlink()
            return lock(descriptor, wait)

        monkeypatch.setattr(files, "_lock", remove_first)
        with exclusive(file):
            assert file.exists()
            with pytest.raises(BlockingIOError), exclusive(file, wait=False):
                pytest.fail("two hold it")

    def test_without_locks_it_says_that_it_is_not_held(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with exclusive(tmp_path / "lock", wait=False) as mine:
            assert mine is None


class TestCacheFolder:
    """Where what can be made again is kept."""

    @pytest.fixture(autouse=True)
    def homeless(self, monkeypatch, tmp_path):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()

    def test_it_is_in_the_home_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache/ufm_jax"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg/ufm_jax"

    def test_without_a_home_folder_it_is_private_below_the_temporary_one(
        self, monkeypatch, tmp_path, caplog
    ):
        (tmp_path / "file").touch()
        for home in ("file", "file/below"):  # Nothing can be made there, not even by root.
            monkeypatch.setenv("HOME", str(tmp_path / home))
            folder = cache_folder()
            assert folder == tmp_path / f"tmp/ufm_jax_{os.getuid()}"
            assert mode(folder) == 0o700
        assert "is used, since" in caplog.text

    def test_a_folder_of_somebody_else_is_refused(self, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        (tmp_path / f"tmp/ufm_jax_{user + 1}").mkdir()
        with pytest.raises(RunError, match="belongs to another user"):
            cache_folder()
