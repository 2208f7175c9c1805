"""Random numbers of the host: from an explicit seed and a named purpose, nothing else."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose; the same numbers on any machine and in any order."""
    key = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
