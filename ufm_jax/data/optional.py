"""Packages that not everybody needs: imported where used, and named if they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from ufm_jax.errors import DataError


@contextmanager
def needed_packages() -> Iterator[None]:
    """Turns a failed import of another package into an error that says how to install it.

    Raises:
        DataError: If a package that is imported in the context is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise DataError(f"{package} is not installed: pip install {package}") from error
