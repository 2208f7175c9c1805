"""The epsilon that a run has spent at a delta (host).

Two upper bounds: Renyi differential privacy (Mironov, CSF 2017; Mironov, Talwar and Zhang, 2019;
Wang, Balle and Kasiviswanathan, AISTATS 2019) and the privacy loss distribution, numerically
composed (Koskela et al., AISTATS 2020; Doroshenko et al., PETS 2022), which is tighter. Both come
from Google's dp-accounting.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

from ufm_jax.fed.privacy.mechanism import Mechanism


class Spent(NamedTuple):
    """A number of releases by one mechanism."""

    mechanism: Mechanism
    releases: int


class Epsilon(NamedTuple):
    """Upper bounds of epsilon at one delta.

    Attributes:
        rdp: The bound by Renyi differential privacy, which does not cover bounded Poisson draws:
            None there.
        pld: The bound by the privacy loss distribution, which does not cover ``fixed`` sampling:
            None there.
    """

    rdp: float | None
    pld: float | None

    @property
    def best(self) -> float:
        """The smaller bound; both hold."""
        return min(bound for bound in self if bound is not None)


def epsilon(spent: Sequence[Spent], delta: float) -> Epsilon:
    """Epsilon of all these releases together, which may be chosen adaptively.

    Raises:
        ValueError: If delta is not between 0 and 1, or fixed and Poisson draws are mixed, which are
            promises about different neighbours.
        ImportError: If dp-accounting is not installed.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: give a probability between 0 and 1, far below 1 / units")
    some = tuple(part for part in spent if part.releases)
    if {"fixed", "poisson"} <= {part.mechanism.sampling for part in some}:
        raise ValueError(
            "draws of fixed size and Poisson draws have different neighbours, so that epsilons do "
            "not add up: report them one by one"
        )
    return _epsilon(some, delta)


@lru_cache(maxsize=4096)
def _epsilon(spent: tuple[Spent, ...], delta: float) -> Epsilon:
    replaced = any(part.mechanism.sampling == "fixed" for part in spent)
    bounded = any(part.mechanism.sampling == "poisson" and part.mechanism.most for part in spent)
    rdp = _rdp(spent, delta, replaced)
    pld = None if replaced else _pld(spent, delta, _interval(rdp, bounded))
    return Epsilon(None if bounded else rdp, pld)


def _rdp(spent: tuple[Spent, ...], delta: float, replaced: bool) -> float:
    """The bound by Renyi differential privacy, which ignores that draws are bounded."""
    if any(part.mechanism.noise_multiplier == 0 for part in spent):
        return math.inf
    dp = _dp_accounting()
    relation = dp.NeighboringRelation
    accountant = dp.rdp.RdpAccountant(
        neighboring_relation=relation.REPLACE_ONE if replaced else relation.ADD_OR_REMOVE_ONE
    )
    with _orders_left_out_in_silence():
        for mechanism, releases in spent:
            accountant.compose(_event(dp, mechanism, replaced), releases)
        return float(accountant.get_epsilon(delta)) if spent else 0.0


def _pld(spent: tuple[Spent, ...], delta: float, interval: float) -> float:
    if any(part.mechanism.noise_multiplier == 0 for part in spent):
        return math.inf
    dp = _dp_accounting()
    accountant = dp.pld.PLDAccountant(value_discretization_interval=interval)
    for mechanism, releases in spent:
        accountant.compose(_event(dp, mechanism, False, bounded=True), releases)
    return float(accountant.get_epsilon(delta)) if spent else 0.0


def _interval(rdp: float, bounded: bool) -> float:
    """Step of the privacy loss grid, from an approximate epsilon.

    The result is an upper bound with any step. A large epsilon is useless, and needs no fine grid.
    With bounded draws a point of the grid takes ten times as long, so that the step is larger. It
    makes epsilon 0.4 % larger in the tests' cases.
    """
    if not math.isfinite(rdp):
        return 1e-3
    return max(1e-4, 1e-5 * rdp, min(1e-3, 5e-4 * rdp) if bounded else 0.0)


def _event(dp: ModuleType, mechanism: Mechanism, replaced: bool, *, bounded: bool = False) -> Any:
    """The mechanism in the words of dp-accounting."""
    # Replacing a unit moves the sum by twice what leaving it out does.
    z = mechanism.noise_multiplier / (2 if replaced else 1)
    if mechanism.sampling == "everyone":
        return dp.GaussianDpEvent(z)
    if mechanism.sampling == "fixed":
        drawn = mechanism.population, mechanism.most
        return dp.SampledWithoutReplacementDpEvent(*drawn, dp.GaussianDpEvent(z))
    if bounded and mechanism.most:
        return dp.dp_event.TruncatedSubsampledGaussianDpEvent(
            mechanism.population, mechanism.rate, mechanism.most, z
        )
    return dp.PoissonSampledDpEvent(mechanism.rate, dp.GaussianDpEvent(z))


def noise_for(target: float, delta: float, mechanism: Mechanism, releases: int) -> float:
    """The least noise multiplier with which so many releases stay within epsilon = ``target``.

    Args:
        target: Epsilon, above 0.
        delta: The delta of ``target``.
        mechanism: How units are drawn; its noise multiplier is not used.
        releases: Releases of the whole run, 1 or more.

    Returns:
        z, at most 0.1 % above the least. Its epsilon is within the target.

    Raises:
        ValueError: If ``target`` or ``releases`` is not above 0.
    """
    if not 0 < target < math.inf or releases < 1:
        raise ValueError(f"epsilon={target} over {releases} releases: give numbers above 0")

    def spent(z: float) -> tuple[Spent, ...]:
        return (Spent(replace(mechanism, noise_multiplier=z), releases),)

    replaced = mechanism.sampling == "fixed"
    near = _least(lambda z: _rdp(spent(z), delta, replaced) <= target, 1.0, 2.0, 0.05)
    # The search for the better bound starts near its end, since each of its steps is slow.
    return _least(lambda z: epsilon(spent(z), delta).best <= target, near, 1.1, 0.001)


def _least(good: Callable[[float], bool], start: float, factor: float, close: float) -> float:
    """A number that is ``good``, while one smaller by the share ``close`` is not.

    The search begins at ``start`` and goes in steps of ``factor``.
    """
    high = start
    while not good(high):
        high *= factor
    low = high / factor
    while good(low):
        high, low = low, low / factor
    while high / low > 1 + close:
        middle = math.sqrt(high * low)
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def check_installed() -> None:
    """Checks that dp-accounting, which computes epsilons, is installed.

    Raises:
        ValueError: If it is not.
    """
    try:
        _dp_accounting()
    except ImportError as error:
        raise ValueError(str(error)) from None


def _dp_accounting() -> ModuleType:
    try:
        import dp_accounting
        from dp_accounting import dp_event, pld, rdp  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "an epsilon needs dp-accounting: pip install 'ufm-jax[privacy]'"
        ) from error
    return dp_accounting


@contextmanager
def _orders_left_out_in_silence() -> Iterator[None]:
    """Drops the warnings about Renyi orders whose series does not converge.

    The bound is the least over the other orders, and holds without these.
    """

    def kept(record: logging.LogRecord) -> bool:
        return "Excluding this order" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
