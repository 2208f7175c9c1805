"""The door of every command: what goes wrong is told in one line, and what is written is private.

docs/commands.md says what each exit code means.
"""

import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from absl import flags
from absl import logging as absl_logging

from ufm_jax.errors import UserError, one_line, printable

_log = logging.getLogger(__name__)

FAULT, USERS, SYSTEMS, LOST = 1, 2, 74, 75
"""Exit codes."""

_AGAIN = "then start the same command again"
_NAME_ANOTHER = "make it writable for this user, or name another place"
_IN_THE_WAY = "something else has that name: move it away, or name another place"
_REMEDIES = {
    errno.ENOSPC: f"free space there, {_AGAIN}",
    errno.EDQUOT: f"free some of your quota there, {_AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {_AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {_AGAIN}",
    errno.ENOMEM: f"free memory, {_AGAIN}",
    errno.EACCES: _NAME_ANOTHER,
    errno.EPERM: _NAME_ANOTHER,
    errno.EROFS: _NAME_ANOTHER,
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path",
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
}
_LIBRARIES = {
    "RESOURCE_EXHAUSTED": (
        "lower config.placement.lanes or config.federation.batch_size, or set "
        "config.model.remat=True"
    ),
    "Unable to initialize backend": "check the driver and JAX_PLATFORMS, or install jax's extra",
    "Unknown backend": "check JAX_PLATFORMS",
}
"""Words by which a library's errors are known, and what to do."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_MOMENT = 0.05
"""Seconds until a signal that Python has dropped is sent again."""


class Stopped(KeyboardInterrupt):
    """A signal that ends a command at once."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def enter(work: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; for a process that does nothing else."""
    os.umask(0o077)  # Covers what libraries write.
    _show_in_lines()
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup has it.
            signal.signal(number, stop_at_once)
    try:
        return work()
    except UserError as error:
        return _told(str(error), USERS)
    except KeyboardInterrupt as error:
        # What still runs may be in the midst of anything: another signal ends it without a word.
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)
        return _told(*stopped_by(error))
    except Exception as error:
        failure = explain(error)
        if failure is not None:
            return _told(failure, SYSTEMS)
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(printable(line), file=sys.stderr)
        return FAULT


def stopped_by(error: KeyboardInterrupt) -> tuple[str, int]:
    """The signal that ended a command, in words, and the exit code."""
    number = getattr(error, "number", signal.SIGINT)
    return f"stopped by {signal.Signals(number).name}", 128 + number


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Handles a signal by ending the command."""
    raise Stopped(number)


def say(text: str) -> None:
    """Prints a line about names that users and files chose."""
    print(one_line(text), flush=True)


def explain(error: BaseException) -> str | None:
    """What the system or a library could not do, where, and the remedy; None for other errors."""
    for cause in _causes(error):
        text = str(cause)
        # Tensorstore, which writes checkpoints, has the system's code in its message.
        stored = re.search(r"os_error_code='(\d+)'", text)
        if stored:
            place = re.search(r'"(/[^"]+)"', text)
            code, name = int(stored[1]), place[1] if place else None
        elif isinstance(cause, OSError) and cause.errno is not None:
            code, name = cause.errno, cause.filename
        elif isinstance(cause, OSError):
            return _with_notes(text, error)
        elif isinstance(cause, MemoryError):
            return _with_notes(f"out of memory ({text}): free memory, {_AGAIN}", error)
        elif remedy := next((r for words, r in _LIBRARIES.items() if words in text), None):
            return _with_notes(f"{text.splitlines()[0]}: {remedy}", error)
        else:
            continue
        remedy = _REMEDIES.get(code, f"mend it, {_AGAIN}")
        where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes | os.PathLike) else ""
        return _with_notes(f"{where}{os.strerror(code)}; {remedy}", error)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _with_notes(text: str, error: BaseException) -> str:
    """A failure, and where its traceback is."""
    return "; ".join((text, *getattr(error, "__notes__", ())))


def _told(text: str, code: int) -> int:
    logging.disable()  # What threads that are left behind say adds nothing.
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
    return code


def _show_in_lines() -> None:
    """Has every message of this process shown in one line; tracebacks go to a run's log alone."""
    logging.raiseExceptions = False  # A full disk is told once.
    flags.FLAGS.mark_as_parsed()  # Or absl adds a line of its own to the first message.
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("ufm_jax").setLevel("INFO")
    absl_logging.get_absl_handler().setFormatter(_Lines())
    absl_logging.get_absl_handler().addFilter(Once())
    threading.excepthook = lambda args: _in_background(args.exc_value)
    sys.unraisablehook = lambda args: _in_background(args.exc_value)


class _Lines(absl_logging.PythonFormatter):
    """Shows a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = vars(record) | {
            "msg": one_line(record.getMessage()),
            "args": (),
            "exc_info": None,
            "exc_text": None,
            "stack_info": None,
        }
        text: str = super().format(logging.makeLogRecord(facts))
        return text


def _in_background(error: BaseException | None) -> None:
    """Logs an error that ended a thread or a callback of a library, and that nobody catches.

    Python drops what is raised where an object is finalised: a signal that came just then is sent
    again.
    """
    if isinstance(error, Stopped):
        main = threading.main_thread().ident
        again = threading.Timer(_MOMENT, signal.pthread_kill, (main, error.number))
        again.daemon = True
        again.start()
        return
    _log.error("in the background: %s: %s", type(error).__name__, error, exc_info=error)


class Once(logging.Filter):
    """Lets errors that one line of code logs in the background pass once: there may be hundreds."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record."""
        place = (record.pathname, record.lineno)
        again = record.exc_info is not None and place in self._seen
        self._seen.add(place)
        return not again
