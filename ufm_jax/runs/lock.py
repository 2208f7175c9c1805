"""A folder that one command at a time may write, and that keeps the command's errors."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ufm_jax.cluster import hosts
from ufm_jax.door import Once
from ufm_jax.errors import RunError, UserError
from ufm_jax.files import PARTIAL, exclusive, naming, private_folder

_log = logging.getLogger(__name__)

LOCK_FILE, ERROR_FILE = "lock", "errors.log"


@contextmanager
def held(folder: Path, flag: str) -> Iterator[None]:
    """Makes a folder, and keeps other commands out of it while it is written.

    Tracebacks of errors meanwhile are kept in its ``errors.log``, which exists only after an error.

    Args:
        folder: The folder, which need not exist.
        flag: The command's flag that names the folder.

    Raises:
        RunError: If another command, which the message names, writes there.
    """
    with ExitStack() as stack:
        with hosts.together(f"opening {folder}"):
            if hosts.is_first():
                if not folder.exists():
                    stack.callback(_remove_empty, folder)
                stack.enter_context(_locked(private_folder(folder), flag))
        stack.enter_context(_errors_kept(folder))
        yield


def _remove_empty(folder: Path) -> None:
    """Removes a folder in which nothing was written."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _locked(folder: Path, flag: str) -> Iterator[None]:
    lock = folder / LOCK_FILE
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(exclusive(lock, wait=False))
        except BlockingIOError:
            owner = ""
            with suppress(FileNotFoundError):  # It may have ended meanwhile.
                owner = lock.read_text(encoding="utf-8", errors="replace")
            raise RunError(
                f"--{flag}={folder}: {owner or 'another process'} writes there at "
                "this moment: wait for its end, stop it, or name another folder"
            ) from None
        stack.callback(lock.unlink, missing_ok=True)
        if descriptor is None:
            _log.warning("%s has no locks: see that no other command writes there", folder)
        else:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            for left in folder.glob(f"*{PARTIAL}"):
                left.unlink()
        yield


@contextmanager
def _errors_kept(folder: Path) -> Iterator[None]:
    """Keeps tracebacks of errors, logged or raised, in a file of a folder."""
    file = folder / ERROR_FILE
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setLevel(logging.ERROR)
    handler.addFilter(Once())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        with naming(folder):
            yield
    except UserError:
        raise
    except Exception as error:
        facts = {"msg": "the command failed", "exc_info": (type(error), error, error.__traceback__)}
        handler.handle(logging.makeLogRecord(facts))
        if file.exists() and file.stat().st_size:
            error.add_note(f"the traceback is in {file}")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):  # A full disk.
            handler.close()
