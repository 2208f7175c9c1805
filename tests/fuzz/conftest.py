"""How much the fuzz tests try: a hundredth in the ordinary suite, all of it with FUZZ_SCALE=1."""

import os


def count(full: int) -> int:
    """The number of inputs of a test that tries ``full`` where FUZZ_SCALE, a share, is 1."""
    return max(1, round(full * float(os.environ.get("FUZZ_SCALE", "0.01"))))
