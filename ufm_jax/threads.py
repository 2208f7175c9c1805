"""Work in threads whose results come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_in_order(
    function: Callable[[_In], _Out], items: Iterable[_In], num_workers: int
) -> Iterator[_Out]:
    """Maps in threads, hands over in order, and holds a bounded number of results."""
    with ThreadPoolExecutor(num_workers) as pool:
        window: deque[Future[_Out]] = deque()
        for item in items:
            window.append(pool.submit(function, item))
            if len(window) > 4 * num_workers:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
