"""A progress bar for counted work; rounds of training have their own (``train.progress``)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress_bar(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on terminals, which goes when the work ends.

    Args:
        what: The work, in a word.
        shown: Whether there is one.

    Yields:
        A function of (done, in all).
    """
    console = Console(stderr=True)
    visible = shown and console.is_terminal
    with Progress(console=console, transient=True, disable=not visible) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
