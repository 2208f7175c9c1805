"""Records of rounds, for tests of what takes them."""

import dataclasses

from ufm_jax.runs.history import ClientRecord, RoundRecord

CLIENT = ClientRecord(
    client="turin", loss=0.5, examples=64, steps=2, update_norm=0.1, finite=True, lane=1, begin=3,
    end=5,
)  # fmt: skip


def record(round_: int, **changes) -> RoundRecord:
    base = RoundRecord(
        round=round_, loss=1.0 / (round_ + 1), lr_factor=0.5, seconds=2.0, images=64,
        images_per_second=32.0, useful_fraction=0.75, update_norm=0.2, cohort=1, rejected=[],
        clients=[CLIENT], virtual_seconds=90.0,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)
