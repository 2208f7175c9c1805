"""Shamir's secret sharing: any t of n shares give the secret, fewer say nothing about it.

Shamir, "How to Share a Secret", Communications of the ACM 22(11), 1979. The secret is the value at
0 of a random polynomial of degree t - 1 over the integers modulo a prime; a share is its value at
another place. Plain Python integers: a few hundred shares of a few bytes.
"""

from collections.abc import Callable, Iterable, Mapping

PRIME = 2**521 - 1
"""A Mersenne prime, above any secret of 64 bytes."""
SHARE_BYTES = 66

Entropy = Callable[[int], bytes]
"""``n -> n`` random bytes that nobody can guess: ``secrets.token_bytes``."""


def split(
    secret: bytes, threshold: int, holders: Iterable[int], entropy: Entropy
) -> dict[int, int]:
    """The share of each holder.

    Args:
        secret: 64 bytes at most.
        threshold: t.
        holders: Different numbers from 1, at which the polynomial is evaluated.
        entropy: Source of the polynomial.

    Raises:
        ValueError: If the secret is too long, or the holders are too few or ill numbered.
    """
    places = list(holders)
    if len(secret) > 64:
        raise ValueError(f"a secret of {len(secret)} bytes: share 64 at most")
    if len(set(places)) != len(places) or any(not 0 < x < PRIME for x in places):
        raise ValueError(f"holders {places}: number them differently, from 1")
    if not 1 <= threshold <= len(places):
        raise ValueError(
            f"threshold={threshold} of {len(places)} holders: give from 1 to the number of holders"
        )
    # 16 more bytes than the prime has, so that the remainder is close to uniform.
    random = [int.from_bytes(entropy(SHARE_BYTES + 16)) % PRIME for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret), *random]
    return {x: _value(polynomial, x) for x in places}


def combine(shares: Mapping[int, int], threshold: int, num_bytes: int) -> bytes:
    """The secret, from t shares or more.

    A wrong share goes unnoticed here, unless the result is out of range.

    Args:
        shares: By holder.
        threshold: t.
        num_bytes: Length of the secret.

    Raises:
        ValueError: If the shares are too few, or do not belong to a secret of this length.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares: it takes {threshold} to recover the secret")
    places = list(shares)[:threshold]
    secret = 0
    for x in places:
        weight = shares[x]
        for other in places:
            if other != x:
                weight = weight * other * pow(other - x, -1, PRIME) % PRIME
        secret = (secret + weight) % PRIME
    if secret >= 256**num_bytes:
        raise ValueError(f"the shares do not belong to a secret of {num_bytes} bytes")
    return secret.to_bytes(num_bytes)


def _value(polynomial: list[int], x: int) -> int:
    """The value at ``x``, by Horner's rule, of coefficients from the constant on."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value
