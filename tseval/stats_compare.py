"""Differences between two sets of rows, tests, multiplicity and agreement: counts in, numbers out.

Differences of rates are fractions in [-1, 1], always a - b. scipy and statsmodels do what they
have; they are imported where they are used (statsmodels takes 1.7 s).

Letters: n pairs; ``only_a`` and ``only_b`` count the discordant ones, in which only a or only b
succeeded; z a quantile.
"""

from math import sqrt
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import StatisticsError
from .stats import checked_counts, normal_quantile, two_sided_tail
from .types import Estimate


def newcombe_difference(
    successes_a: int, n_a: int, successes_b: int, n_b: int, level: float = 0.95
) -> Estimate:
    """Estimate the difference a - b of two independent proportions.

    Newcombe's hybrid score interval: never of zero width, also where both rates are 0 or 1. For
    two runs over the same prompts use ``tango_interval``, which knows the pairs.

    Args:
        successes_a: Successes of the first group, in 0 .. n_a.
        n_a: Rows of the first group, at least 1.
        successes_b: Successes of the second group, in 0 .. n_b.
        n_b: Rows of the second group, at least 1.
        level: Confidence level in (0, 1).

    Raises:
        StatisticsError: If a group has no rows or the counts are impossible.

    Source: Newcombe (1998), Statistics in Medicine 17:873, method 10.
    """
    successes_a, n_a = checked_counts(successes_a, n_a)
    successes_b, n_b = checked_counts(successes_b, n_b)
    alpha = 2 * two_sided_tail(level)
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        successes_a, n_a, successes_b, n_b, compare="diff", method="newcomb", alpha=alpha
    )
    return Estimate(
        value=successes_a / n_a - successes_b / n_b,
        low=max(-1.0, float(low)),  # statsmodels' last bit can be beyond
        high=min(1.0, float(high)),
        level=level,
        method="newcombe",
    )


def tango_interval(only_a: int, only_b: int, n: int, level: float = 0.95) -> Estimate:
    """Estimate the difference a - b of two rates over the same rows, with the score interval.

    Never of zero width. Without a discordant pair the limits are -+ z^2 / (n + z^2): at level 0.95
    (z = 1.96) the upper one is 0.088 at n = 40, 0.037 at 100, 0.015 at 250. For a one-sided test
    at alpha, such as non-inferiority, take one limit at level 1 - 2 alpha: these same figures for
    alpha = 0.025; 0.063, 0.026 and 0.011 for alpha = 0.05.

    Args:
        only_a: Pairs in which only a succeeded.
        only_b: Pairs in which only b succeeded.
        n: All pairs, at least 1, concordant ones included.
        level: Confidence level in (0, 1), two-sided.

    Raises:
        StatisticsError: If there are no pairs or the counts are impossible.

    Source: Tango (1998), Statistics in Medicine 17:891.
    """
    only_a, only_b = _checked_discordant(only_a, only_b)
    _, n = checked_counts(only_a + only_b, n)
    low, high = tango_limits(only_a, only_b, n, normal_quantile(level))
    return Estimate(
        value=(only_a - only_b) / n,
        low=low,
        high=high,
        level=level,
        method="tango",
    )


def tango_limits(only_a: float, only_b: float, n: float, z: float) -> tuple[float, float]:
    """Return the limits of :func:`tango_interval` for a quantile; counts need not be whole."""
    return -_tango_upper(only_b, only_a, n, z), _tango_upper(only_a, only_b, n, z)


def independent(before: Estimate, after: Estimate) -> Estimate:
    """Estimate the difference of two independent values from their intervals.

    Source: Zou and Donner (2008), Statistics in Medicine 27:1693 (MOVER).
    """
    value = after.value - before.value
    below = sqrt((after.value - after.low) ** 2 + (before.high - before.value) ** 2)
    above = sqrt((after.high - after.value) ** 2 + (before.value - before.low) ** 2)
    return Estimate(
        value=value,
        low=value - below,
        high=value + above,
        level=before.level,
        method="independent (mover)",
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p-value that a and b succeed equally often on the same rows.

    Args:
        only_a: Pairs in which only a succeeded.
        only_b: Pairs in which only b succeeded.

    Returns:
        p-value in (0, 1]; 1 where no pair is discordant.

    Raises:
        StatisticsError: If a count is negative.

    Source: McNemar (1947), with the binomial tail of the discordant pairs.
    """
    only_a, only_b = _checked_discordant(only_a, only_b)
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted so that the chance of any false rejection is bounded.

    Holds under any dependence of the tests.

    Args:
        pvalues: float [tests] in [0, 1], one family.

    Returns:
        float [tests], in the order given; reject where it is at most alpha.

    Raises:
        StatisticsError: If a p-value is missing or outside [0, 1].

    Source: Holm (1979).
    Differs: Not by statsmodels' multipletests, which collects garbage on every call (0.07 s on a
        small heap), too slow where there is a family a prompt.
    """
    p = _checked_pvalues(pvalues)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted so that the expected share of false rejections is bounded.

    Holds for independent and for positively dependent tests.

    Args:
        pvalues: float [tests] in [0, 1], one family.

    Returns:
        float [tests], in the order given; reject where it is at most the share wanted.

    Raises:
        StatisticsError: If a p-value is missing or outside [0, 1].

    Source: Benjamini and Hochberg (1995).
    """
    p = _checked_pvalues(pvalues)
    if p.size == 0:
        return p
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p), dtype=float)


def cohen_kappa(table: ArrayLike) -> float:
    """Return the agreement of two raters beyond chance, unweighted.

    Args:
        table: int [labels, labels], rows by the label of one rater, columns by the other's.

    Returns:
        Kappa in [-1, 1]; 1 is full agreement, 0 what chance gives.

    Raises:
        StatisticsError: If the table is empty or not square, or if both raters use one and the
            same label throughout: chance then agrees fully and kappa is 0/0.

    Source: Cohen (1960).
    """
    counts = np.asarray(table)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise StatisticsError(f"kappa needs a square table, got shape {counts.shape}")
    if (counts < 0).any() or counts.sum() == 0:
        raise StatisticsError("kappa needs a table of counts >= 0 with at least one row in it")
    if np.diagonal(counts).max() == counts.sum():
        raise StatisticsError("kappa is undefined: both raters use the same one label throughout")
    from statsmodels.stats.inter_rater import cohens_kappa

    return float(cohens_kappa(counts, return_results=False))


def _tango_upper(only_a: float, only_b: float, n: float, z: float) -> float:
    """Upper limit of a - b: where the score statistic under the constrained likelihood is -z."""
    gap = only_a - only_b
    if gap == n:
        return 1.0
    # At the next two edges the variance vanishes at the estimate: a root, but not the limit.
    if only_a + only_b == 0:
        return z**2 / (n + z**2)
    if gap == -n:
        return (z**2 - n) / (z**2 + n)

    def score(delta: float) -> float:
        b = (2 * n - gap) * delta - only_a - only_b
        root = sqrt(b * b + 8 * n * only_b * delta * (1 - delta))
        rate_b = (root - b) / (4 * n)  # the likeliest rate of "only b", given delta
        variance = max(0.0, n * (2 * rate_b + delta * (1 - delta)))
        return gap - n * delta + z * sqrt(variance)

    from scipy.optimize import brentq

    return float(brentq(score, gap / n, 1.0, xtol=1e-12))


def _checked_discordant(only_a: int, only_b: int) -> tuple[int, int]:
    only_a, only_b = index(only_a), index(only_b)
    if only_a < 0 or only_b < 0:
        raise StatisticsError(f"discordant pairs are counts >= 0, got {only_a} and {only_b}")
    return only_a, only_b


def _checked_pvalues(pvalues: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(pvalues, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise StatisticsError(f"p-values are a list of numbers from 0 to 1, got {p}")
    return p
