"""Random numbers of the host: from an explicit seed and a named purpose, nothing else."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose; the same numbers on any machine and in any order."""
    # A purpose may name a folder, whose name need not be UTF-8: see `os.fsdecode`.
    text = f"{seed}/{purpose}".encode(errors="surrogateescape")
    key = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
