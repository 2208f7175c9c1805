"""Errors that are the user's to mend: a command shows them as one line, without a traceback.

Each message names the file, key or client, what is wrong with it, and what to do.
"""


class UserError(ValueError):
    """Base of the errors that a command turns into one line."""


class ConfigError(UserError):
    """A configuration that cannot run; its one line names key, value and remedy."""


class DataError(UserError):
    """Data that cannot be used as configured; the message names files, client and remedy."""


class RunError(UserError):
    """A run's folder or a file in it that cannot be used; the message names it and the way out."""
