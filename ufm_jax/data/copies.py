"""Images that several records hold: records of several clients, of one client, or of two splits."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ufm_jax.data.decoding import Decoded
from ufm_jax.data.issues import Issue, enforce

_DUPLICATE_REMEDY = "Set duplicates='skip' to keep the first of each, or 'keep' to only list them"


def copies_of(decoded: Decoded, order: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yields each record whose pixels an earlier one in ``order`` has, and the first that has."""
    first: dict[bytes, int] = {}
    pixels = decoded.cached.digests[decoded.rows]
    for index in order:
        original = first.setdefault(pixels[index].tobytes(), index)
        if original != index:
            yield index, original


def repeated_images(
    decoded: Decoded, names: Sequence[str], owner: np.ndarray, policy: str
) -> tuple[set[int], list[Issue]]:
    """Finds images whose pixels an earlier record has too.

    Args:
        decoded: R usable records.
        names: Client names.
        owner: int64 [R], the client of each record.
        policy: For images that several clients hold: 'error', 'skip' or 'keep'.

    Returns:
        Under 'skip', the positions of copies that another client than the first holds, to be left
        out; and an issue for each copy. Copies within a client (still frames of a clip) are only
        listed.

    Raises:
        DataError: Under 'error', if two clients hold the same image.
    """
    repeated: dict[int, Issue] = {}
    for index, original in copies_of(decoded, range(len(decoded.records))):
        holder = names[owner[original]]
        kind = "duplicate_across" if owner[original] != owner[index] else "duplicate_within"
        reason = f"same pixels as {decoded.records[original].name} (client {holder})"
        repeated[index] = Issue(kind, names[owner[index]], decoded.records[index].name, reason)
    across_clients = {i: f for i, f in repeated.items() if f.kind == "duplicate_across"}
    enforce(across_clients.values(), policy, _DUPLICATE_REMEDY)
    return set(across_clients) if policy == "skip" else set(), list(repeated.values())
