"""The contract of an aggregator: from the updates of a cohort to one.

Clients end one after another, on several devices. Each device gathers what its clients send, and at
the end of the round the devices bring together what they gathered:

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
        weight: float32 [D * P] their shares p_k; zero at a place without a client.
        key: Random key of the round; the same on every device.
    """

    client: jax.Array
    weight: jax.Array
    key: jax.Array


class Aggregator(NamedTuple):
    """How the updates of a cohort become one. All but ``alone`` runs inside the compiled round.

    Attributes:
        init: ``update -> state``: what is kept from round to round, or ``()``. Here and in
            ``empty``, ``update`` is given as shapes.
        empty: ``(update, P) -> gathered``: what a device has gathered before its first client ends.
        add: ``(gathered, update, turn, cohort) -> gathered``.
        add_many: ``add`` for updates and turns with a leading axis L; those of weight zero are left
            out, whatever they hold.
        result: ``(state, gathered, cohort) -> (state, update, share)``, the same on every device.
            ``share`` is the sum of the p_k in ``update``; if it is 0, the server does not change.
        alone: ``(state, updates, cohort) -> (state, update, share)``: the result of updates
            [S, ...] in one place, without a mesh, for ``reference``.
    """

    init: Callable[[Tree], Tree]
    empty: Callable[[Tree, int], Tree]
    add: Callable[[Tree, Tree, Turn, Cohort], Tree]
    add_many: Callable[[Tree, Tree, Turn, Cohort], Tree]
    result: Callable[[Tree, Tree, Cohort], tuple[Tree, Tree, jax.Array]]
    alone: Callable[[Tree, Tree, Cohort], tuple[Tree, Tree, jax.Array]]
