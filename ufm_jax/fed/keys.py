"""Random keys, folded from one seed by name.

Every key of a run is ``fold(root, purpose, round, client, step, ...)``. A key therefore depends on
its purpose, and never on the lane, device or packing.
"""

import zlib

import jax
import numpy as np


def name_to_int(name: str) -> int:
    """A stable 32-bit number for a name (CRC-32; Python's ``hash`` changes between processes)."""
    return zlib.crc32(name.encode())


def fold(key: jax.Array, *parts: "str | int | jax.Array") -> jax.Array:
    """Folds names and integers into ``key``, in order.

    Args:
        key: A typed key, from ``jax.random.key``.
        *parts: Names (folded by their CRC-32) and integers (Python or traced).
    """
    for part in parts:
        key = jax.random.fold_in(key, name_to_int(part) if isinstance(part, str) else part)
    return key


def example_keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """Keys [B] of the examples at ``places`` [B] of a batch; each depends on its place alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def host_rng(seed: int, *parts: "str | int") -> np.random.Generator:
    """A numpy generator for decisions on the host, keyed by names and integers as in ``fold``."""
    words = [name_to_int(part) if isinstance(part, str) else part for part in parts]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))
