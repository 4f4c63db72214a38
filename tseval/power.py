"""What size of a difference a benchmark can show: counts in, numbers out.

Two runs are compared by a one-sided test; what is asked is the smallest true difference of two
rates that the test finds with a given power. Rates are taken where they vary most, on both sides
of one half, so that no benchmark promises more than it holds.

Letters: n prompts of each run; d the difference of the rates; psi the share of discordant pairs,
those in which only one of the two runs succeeds; rho the correlation of the two runs' outcomes on
one prompt.
"""

from collections.abc import Callable
from functools import lru_cache
from math import sqrt

import numpy as np

from .errors import StatisticsError

POWER = 0.8
ALPHA = 0.05
# Outcomes of two checkpoints of one model on the same prompts; none at all is the worst case.
TYPICAL_CORRELATION = 0.5
_STEPS = 30


def paired_difference(
    n: int, correlation: float = 0.0, *, power: float = POWER, alpha: float = ALPHA
) -> float | None:
    """Return the smallest difference that two runs over the same prompts can show.

    The test is McNemar's, exact and one-sided; its power is exact as well, over the number of
    discordant pairs and how they fall. Rates are (1 - d) / 2 and (1 + d) / 2, hence
    psi = (1 + d^2 - rho (1 - d^2)) / 2, and at least d.

    Args:
        n: Pairs: prompts that both runs answer.
        correlation: rho in [0, 1]; 0 is the worst case, as if the prompts were not the same.
        power: Chance that the test finds the difference, in (0, 1).
        alpha: Level of the one-sided test, in (0, 0.5).

    Returns:
        A fraction in (0, 1], or None if not even a difference of 1 is found.

    Raises:
        StatisticsError: If an argument is out of range.

    Source: McNemar (1947); unconditional power as in Suissa and Shuster (1991), Biometrics 47:361.
    """
    _check(n, power, alpha)
    if not 0 <= correlation <= 1:
        raise StatisticsError(f"a correlation from 0 to 1 is expected, got {correlation}")
    return _smallest(lambda d: paired_power(n, d, correlation, alpha=alpha), power)


def paired_power(n: int, difference: float, correlation: float, *, alpha: float = ALPHA) -> float:
    """Return the chance that McNemar's exact one-sided test finds a difference.

    Args:
        n: Pairs.
        difference: d in (0, 1].
        correlation: rho in [0, 1].
        alpha: Level of the test.
    """
    from scipy.special import bdtrc, gammaln, xlog1py, xlogy

    square = difference * difference
    discordant = min(1.0, max(difference, (1 + square - correlation * (1 - square)) / 2))
    winning = min(1.0, (1 + difference / discordant) / 2)
    pairs = np.arange(n + 1)
    chances = np.exp(
        gammaln(n + 1)
        - gammaln(pairs + 1)
        - gammaln(n - pairs + 1)
        + xlogy(pairs, discordant)
        + xlog1py(n - pairs, -discordant)
    )
    needed = _needed(n, alpha)
    possible = needed <= pairs
    found = bdtrc(needed[possible] - 1, pairs[possible], winning)
    return float((chances[possible] * found).sum())


def unpaired_difference(n: int, *, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """Return the smallest difference that two runs over different prompts can show.

    Args:
        n: Prompts of each run.
        power: Chance that the test finds the difference, in (0, 1).
        alpha: Level of the one-sided test, in (0, 0.5).

    Returns:
        A fraction in (0, 1], or None if not even a difference of 1 is found.

    Raises:
        StatisticsError: If an argument is out of range.

    Source: The score test of two proportions, pooled variance under the null (Fleiss, Levin and
        Paik, 2003, section 4.2).
    """
    _check(n, power, alpha)
    from scipy.special import ndtr, ndtri

    z = float(ndtri(1 - alpha))

    def power_at(d: float) -> float:
        # Rates (1 - d) / 2 and (1 + d) / 2: their mean is 1/2, and each has variance (1 - d^2)/4.
        variance = (1 - d * d) / 2
        gap = d * sqrt(n) - z * sqrt(0.5)
        if variance == 0:
            return float(gap > 0)
        return float(ndtr(gap / sqrt(variance)))

    return _smallest(power_at, power)


def _smallest(power_at: Callable[[float], float], wanted: float) -> float | None:
    """Bisect for the difference at which the power is reached; it grows with the difference."""
    if power_at(1.0) < wanted:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if power_at(middle) >= wanted else (middle, high)
    return high


@lru_cache(maxsize=8)
def _needed(n: int, alpha: float) -> "np.ndarray":
    """Give the least pairs won with which the test finds something, by discordant pairs 0 .. n.

    More than there are, where the test cannot find anything: 0.5^4 is not below 0.05.
    """
    from scipy.special import bdtrc

    needed = np.empty(n + 1, dtype=np.int64)
    least = 1
    for pairs in range(n + 1):
        # What was needed of fewer pairs is needed of more: the search goes on where it was.
        while least <= pairs and bdtrc(least - 1, pairs, 0.5) > alpha:
            least += 1
        needed[pairs] = least
    return needed


def _check(n: int, power: float, alpha: float) -> None:
    if n < 1:
        raise StatisticsError(f"a comparison needs at least one prompt, got n = {n}")
    if not (0 < power < 1 and 0 < alpha < 0.5):
        raise StatisticsError(f"power {power} or level {alpha} is no chance that a test can have")
