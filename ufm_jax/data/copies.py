"""Images that several records hold: of clients, and of one client."""

from collections.abc import Sequence

import numpy as np

from ufm_jax.data.decoding import Decoded
from ufm_jax.data.issues import Issue, enforce

_DUPLICATE_REMEDY = "Set duplicates='skip' to keep the first of each, or 'keep' to only list them"


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
        Positions to leave out: under 'skip', every copy held by another client than the first; and
        an issue for each copy. Copies within a client (still frames of a clip) are only listed.

    Raises:
        DataError: Under 'error', if two clients hold the same image.
    """
    first: dict[bytes, int] = {}
    repeated: dict[int, Issue] = {}
    pixels = decoded.cached.digests[decoded.rows]
    for index in range(len(decoded.records)):
        original = first.setdefault(pixels[index].tobytes(), index)
        if original == index:
            continue
        across = owner[original] != owner[index]
        kind = "duplicate_across" if across else "duplicate_within"
        holder = names[owner[original]]
        reason = f"same pixels as {decoded.records[original].name} (client {holder})"
        name = decoded.records[index].name
        repeated[index] = Issue(kind, names[owner[index]], name, reason)
    across_clients = {i: f for i, f in repeated.items() if f.kind == "duplicate_across"}
    enforce(across_clients.values(), policy, _DUPLICATE_REMEDY)
    return set(across_clients) if policy == "skip" else set(), list(repeated.values())
