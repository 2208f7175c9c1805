"""How many mutated inputs a test tries: few in the ordinary suite, all with `pytest -m slow`."""

from collections.abc import Callable

import pytest


@pytest.fixture(params=["few", pytest.param("all", marks=pytest.mark.slow)])
def how_many(request) -> Callable[[int, int], int]:
    """`how_many(few, all)` is the number of inputs of this run."""
    return lambda few, every: few if request.param == "few" else every
