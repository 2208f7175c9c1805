"""Errors that are the user's to mend: a command shows them as one line, without a traceback.

Each message names the file, key or client, what is wrong with it, and what to do.
"""

_LONGEST = 4000
"""Characters of a message; a cell of a table that it shows may hold any number."""


class UserError(ValueError):
    """Base of the errors that a command turns into one line."""


class ConfigError(UserError):
    """A configuration that cannot run; its one line names key, value and remedy."""


class DataError(UserError):
    """Data that cannot be used as configured; the message names files, client and remedy."""


class RunError(UserError):
    """A run's folder or a file in it that cannot be used; the message names it and the way out."""


def one_line(text: str) -> str:
    """``text`` in one line of bounded length, as a terminal and a log may show it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = printable("; ".join(lines).replace(":; ", ": "))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def printable(text: str) -> str:
    r"""``text`` with control characters written as ``\x1b``: names of files may hold any."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
