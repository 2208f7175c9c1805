"""The contract of an aggregator: from the updates of a cohort to one.

Clients end one after another, on several devices. Each device gathers what its clients send, and at
the end of the round the devices bring together what they gathered::

    gathered = empty(update, P)
    for each client that ends:  gathered = add(gathered, update, turn, cohort)
    state, update, share = result(state, gathered, cohort)

A client whose update is not finite is never added.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from ufm_jax.fed.algorithm import Tree, Turn


class Cohort(NamedTuple):
    """The clients of a round as every device knows them: D * P places, device after device.

    Attributes:
        client: int32 [D * P] their numbers.
        weight: float32 [D * P] their shares p_k; zero where there is no client.
        key: For what is random in this round; the same on every device.
    """

    client: jax.Array
    weight: jax.Array
    key: jax.Array


class Aggregator(NamedTuple):
    """How the updates of a cohort become one. All but ``alone`` runs inside the compiled round.

    Attributes:
        init: ``update -> state``: what stays from round to round; ``()`` for nothing. ``update``
            is given as shapes, here and in ``empty``.
        empty: ``(update, P) -> gathered``: what a device has gathered before its first client ends.
        add: ``(gathered, update, turn, cohort) -> gathered``.
        add_many: The same for updates and turns with a leading axis L; those of weight zero are
            left out, whatever they hold.
        result: ``(state, gathered, cohort) -> (state, update, share)``, the same on every device.
            ``share`` is the sum of the p_k that ``update`` is a mean of; where it is 0 there is
            nothing to go on with, and the server stays as it is.
        alone: ``(state, updates, cohort) -> (state, update, share)``: the same from updates
            [S, ...] that lie in one place, without a mesh: for the tests' oracle.
    """

    init: Callable[[Tree], Tree]
    empty: Callable[[Tree, int], Tree]
    add: Callable[[Tree, Tree, Turn, Cohort], Tree]
    add_many: Callable[[Tree, Tree, Turn, Cohort], Tree]
    result: Callable[[Tree, Tree, Cohort], tuple[Tree, Tree, jax.Array]]
    alone: Callable[[Tree, Tree, Cohort], tuple[Tree, Tree, jax.Array]]
