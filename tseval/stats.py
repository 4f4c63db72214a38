"""Rates and their intervals: arrays in, numbers out.

Nothing here knows what a judge or a benchmark is. Rates are fractions in [0, 1], levels are
two-sided, and what is undefined raises StatisticsError: a rate of nothing is not zero. No function
draws random numbers. Differences, tests and agreement are in ``stats_compare``.

What scipy or statsmodels have is called, not written again. The exception is Wilson's interval,
which is needed on an effective, fractional sample size and with a t quantile. scipy is imported
where it is used, and of it only ``scipy.special`` (0.3 s; scipy.stats takes 1 s).

Letters: n trials, s successes, z a quantile; a prompt i has k_i rollouts, s_i of them successes.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb, sqrt
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import StatisticsError
from .types import Estimate


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Estimate a proportion with the exact interval, from the binomial tails.

    Covers at least ``level`` at every rate, usually more. Each tail gets (1 - level) / 2, also at
    0/n and n/n where one limit is trivial.

    Args:
        successes: s, in 0 .. n.
        n: Trials, at least 1.
        level: Confidence level in (0, 1).

    Raises:
        StatisticsError: If there are no trials or the counts are impossible.

    Source: Clopper and Pearson (1934), by quantiles of the beta distribution.
    """
    successes, n = checked_counts(successes, n)
    tail = two_sided_tail(level)
    from scipy.special import betaincinv

    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(value=successes / n, low=low, high=high, level=level, method="exact")


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Estimate a proportion with Wilson's score interval, exact at 0/n and n/n.

    For one rollout a prompt. At the edges the limits are those of ``clopper_pearson``, with a tail
    of (1 - level) / 2: 0/60 gives [0, 0.0596]. A one-sided tail there (0.0487) would be narrower,
    but that the outcome would be 0/n was not known in advance, and it costs coverage: at n = 120
    the minimum over rates in [0.01, 0.5] falls from 0.926 to 0.912.

    Coverage at 95%, averaged over rates in [0.01, 0.5], is 0.952 at n = 60 and 0.950 at n = 400;
    the minimum is 0.916 and 0.929. For rates far below 1/n it falls to 0.84 at worst (just below
    the lower limit of one success, 0.18/n): a known trait of Wilson's interval.

    Args:
        successes: s, in 0 .. n.
        n: Trials, at least 1.
        level: Confidence level in (0, 1).

    Raises:
        StatisticsError: If there are no trials or the counts are impossible.

    Source: Wilson (1927); Brown, Cai and DasGupta (2001) compare it with the alternatives.
    Differs: Exact limits at 0/n and n/n.
    """
    successes, n = checked_counts(successes, n)
    if successes in (0, n):
        return clopper_pearson(successes, n, level)
    rate = successes / n
    low, high = _score_limits(rate, n, normal_quantile(level))
    return Estimate(value=rate, low=low, high=high, level=level, method="wilson")


def clustered_proportion(
    successes: ArrayLike, rollouts: ArrayLike, level: float = 0.95
) -> Estimate:
    """Estimate a rate from several rollouts a prompt, which are not independent of each other.

    The rate is the ratio sum(s_i) / sum(k_i), so that a prompt which lost rollouts to exclusions
    weighs by what is left of it. Its variance is the linearised one between prompts,
    n / (n - 1) * sum((s_i - rate * k_i)^2) / sum(k_i)^2 with n prompts, and the interval is
    Wilson's on the effective sample size n_eff = rate (1 - rate) / variance, with the t quantile
    of n - 1 degrees of freedom. Further:

    - n_eff never exceeds the number of rollouts. Prompts that happen to agree exactly (each of
      them 2 of 4) would otherwise claim certainty; so rollouts may be found less informative than
      independent ones, never more.
    - If all rollouts fail, or all succeed, there is no variance to estimate; the limits are then
      exact on the number of prompts, the safe side for any correlation. A percentile bootstrap
      over prompts says [0, 0] there.
    - A few successes don't claim more than none would: the upper limit is never below that of all
      failures, nor the lower one above that of all successes. Without this, 1 success among 60 x 4
      rollouts would have a lower upper limit (0.024) than 0 successes (0.060), since one success
      can't show the correlation; coverage at small rates would fall to 0.90 with 4 rollouts a
      prompt and to 0.85 with 16, where it now stays above 0.92.
    - A single prompt with mixed outcomes says nothing about the spread between prompts: [0, 1].
    - With one rollout for every prompt this is ``wilson``.

    Coverage at 95%, averaged over rates in [0.01, 0.5], is 0.950 to 0.956 for 60 to 400 prompts
    with 2 to 16 rollouts of correlation 0.3 to 0.7. It is 0.962 for 60 prompts whose rollouts are
    independent, because of the cap.

    Args:
        successes: int [prompts], s_i in 0 .. k_i.
        rollouts: int [prompts], k_i; prompts with none left are ignored.
        level: Confidence level in (0, 1).

    Raises:
        StatisticsError: If no rollouts are left or the counts are impossible.

    Source: n_eff for survey proportions: Korn and Graubard (1998); Dean and Pagano (2015).
    Differs: Exact edges, cap and monotone limits as described.
    """
    s, k = _cluster_counts(successes, rollouts)
    prompts, total, hits = len(k), int(k.sum()), int(s.sum())
    if total == prompts:
        return wilson(hits, total, level)
    rate = hits / total
    none = clopper_pearson(0, prompts, level).high
    if hits in (0, total):
        low, high = (0.0, none) if hits == 0 else (1 - none, 1.0)
        method = "exact on prompts"
    elif prompts == 1:
        low, high, method = (0.0, 1.0, "one prompt says nothing")
    else:
        from scipy.special import stdtrit

        t = float(stdtrit(prompts - 1, 1 - two_sided_tail(level)))
        low, high = _score_limits(rate, _effective_n(s, k), t)
        low, high, method = (min(low, 1 - none), max(high, none), "wilson on effective n")
    return Estimate(value=rate, low=low, high=high, level=level, method=method)


def clustered_mean(totals: ArrayLike, rollouts: ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate the mean of values in [0, 1], such as soft votes, from several rollouts a prompt.

    As :func:`clustered_proportion`: a value in [0, 1] varies no more than a yes or no with the
    same mean, so Wilson's interval on the capped effective size is never too short for lack of
    spread in a small sample, and a mean of exactly 0 or 1 has the exact limits on the prompts.

    Args:
        totals: float [prompts], sum of a prompt's values, in 0 .. k_i.
        rollouts: int [prompts], k_i; prompts with none left are ignored.
        level: Confidence level in (0, 1).

    Raises:
        StatisticsError: If no rollouts are left or a total is impossible.
    """
    s, k = np.asarray(totals, dtype=np.float64), np.asarray(rollouts, dtype=np.int64)
    if s.shape != k.shape or s.ndim != 1 or not bool(((s >= 0) & (s <= k)).all()):
        raise StatisticsError("a prompt's values sum to something between 0 and their number")
    s, k = s[k > 0], k[k > 0]
    if not k.size:
        raise StatisticsError("a mean needs at least one rollout, got none")
    prompts, total = len(k), float(k.sum())
    rate = float(s.sum()) / total
    none = clopper_pearson(0, prompts, level).high
    if rate in (0.0, 1.0):
        low, high = (0.0, none) if rate == 0.0 else (1 - none, 1.0)
        return Estimate(value=rate, low=low, high=high, level=level, method="exact on prompts")
    if prompts == 1:
        low, high, method = 0.0, 1.0, "one prompt says nothing"
    else:
        from scipy.special import stdtrit

        t = float(stdtrit(prompts - 1, 1 - two_sided_tail(level)))
        spread = float(((s - rate * k) ** 2).sum())
        size = total
        if spread > 0:
            size = min(total, rate * (1 - rate) * total**2 * (prompts - 1) / (prompts * spread))
        low, high = _score_limits(rate, size, t)
        low, high, method = min(low, 1 - none), max(high, none), "wilson on effective n"
    return Estimate(value=rate, low=low, high=high, level=level, method=method)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k draws without replacement is right.

    Args:
        n: Rollouts of a prompt.
        correct: Those that are right.
        k: Number of draws, at most n.

    Raises:
        StatisticsError: If k > n: what was not drawn cannot be estimated without bias.

    Source: Chen et al. (2021), arXiv 2107.03374, equation 1.
    """
    n, correct, k = index(n), index(correct), index(k)
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise StatisticsError(
            f"pass@k needs 1 <= k <= n and 0 <= correct <= n, got k = {k}, n = {n}, {correct} right"
        )
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(classes: Sequence[int], correct: Sequence[bool]) -> float:
    """Chance that the most frequent answer of a prompt is right, ties broken by lot.

    Args:
        classes: int [rollouts], answers with one number are the same answer; -1 is no answer,
            which has no vote.
        correct: bool [rollouts].

    Returns:
        A value in [0, 1]; 0 where no rollout has an answer.
    """
    votes = Counter(each for each in classes if each >= 0)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [each for each, count in votes.items() if count == most]
    right = {each for each, hit in zip(classes, correct, strict=True) if hit}
    return sum(each in right for each in tied) / len(tied)


def bounds(successes: float, n: int, excluded: int) -> tuple[float, float]:
    """Return the rate if all excluded rows had failed, and if all had succeeded.

    Args:
        successes: Successes among the counted rows, or the sum of their values in [0, 1].
        n: Counted rows; may be 0 if there are excluded ones.
        excluded: Rows that left the denominator.

    Raises:
        StatisticsError: If there are no rows at all or the counts are impossible.
    """
    n, excluded = index(n), index(excluded)
    successes = float(successes) if isinstance(successes, float) else index(successes)
    if excluded < 0 or not 0 <= successes <= n:
        raise StatisticsError(
            f"bounds need 0 <= successes <= n and excluded >= 0, "
            f"got {successes} of {n} and {excluded} excluded"
        )
    rows = n + excluded
    if rows == 0:
        raise StatisticsError("bounds need at least one row, counted or excluded, got none")
    return successes / rows, (successes + excluded) / rows


def mover_mean(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Estimate a weighted mean of independent rates from their own intervals.

    For the macro average of a suite. Each side recovers a variance from the distance between
    value and limit: low = mean - sqrt(sum(w_i^2 (value_i - low_i)^2)), and so on for the upper
    limit. It is asymmetric where its parts are, and never of zero width when they are not.

    Args:
        estimates: Rates with intervals of one level, at least one.
        weights: Positive weights, scaled here to sum to 1; equal if None.

    Raises:
        StatisticsError: If nothing is given, the levels differ, there is not one weight for
            each estimate, or a weight is not positive.

    Source: Zou and Donner (2008), method of variance estimates recovery.
    """
    levels = sorted({estimate.level for estimate in estimates})
    if len(levels) != 1:
        raise StatisticsError(f"a mean needs estimates of one confidence level, got {levels}")
    w = np.ones(len(estimates)) if weights is None else np.asarray(weights, dtype=float)
    if w.shape != (len(estimates),) or not (np.isfinite(w).all() and (w > 0).all()):
        raise StatisticsError(
            f"a mean needs one positive weight for each of {len(estimates)} estimates, "
            f"got {weights}"
        )
    w = w / w.sum()
    value = np.array([estimate.value for estimate in estimates])
    below = value - [estimate.low for estimate in estimates]
    above = np.array([estimate.high for estimate in estimates]) - value
    mean = float(w @ value)
    return Estimate(
        value=mean,
        low=max(0.0, mean - float(np.linalg.norm(w * below))),
        high=min(1.0, mean + float(np.linalg.norm(w * above))),
        level=levels[0],
        method="mover",
    )


def two_sided_tail(level: float) -> float:
    """Return the probability in each tail, (1 - level) / 2.

    Raises:
        StatisticsError: If the level does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise StatisticsError(f"a confidence level lies between 0 and 1, got {level}")
    return (1 - level) / 2


def normal_quantile(level: float) -> float:
    """Return z of a two-sided level: 1.96 for 0.95."""
    from scipy.special import ndtri

    return float(ndtri(1 - two_sided_tail(level)))


def checked_counts(successes: int, n: int) -> tuple[int, int]:
    """Return the counts as Python integers, so that no numpy number gets into a record.

    Raises:
        StatisticsError: If they are not a rate of something.
    """
    successes, n = index(successes), index(n)
    if n < 1:
        raise StatisticsError(f"a rate needs at least one row, got n = {n}")
    if not 0 <= successes <= n:
        raise StatisticsError(f"a rate needs 0 <= successes <= n, got {successes} of {n}")
    return successes, n


def _score_limits(rate: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's limits; n need not be whole."""
    shrink = 1 + z**2 / n
    centre = (rate + z**2 / (2 * n)) / shrink
    half = z / shrink * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective_n(s: NDArray[np.int64], k: NDArray[np.int64]) -> float:
    """Effective sample size of clusters, in Python's whole numbers up to the last division.

    That makes it independent of the order of the prompts, and leaves no rounding noise to divide
    by where the variance between prompts is zero.
    """
    prompts, total, hits = len(k), int(k.sum()), int(s.sum())
    # total^2 * sum((s_i - rate * k_i)^2), multiplied out
    spread = total**2 * int(s @ s) - 2 * total * hits * int(s @ k) + hits**2 * int(k @ k)
    if spread == 0:
        return float(total)
    uncapped = hits * (total - hits) * total**2 * (prompts - 1) / (prompts * spread)
    return min(float(total), uncapped)


def _cluster_counts(
    successes: ArrayLike, rollouts: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of the prompts that have rollouts left."""
    s, k = np.asarray(successes), np.asarray(rollouts)
    if s.ndim != 1 or s.shape != k.shape:
        raise StatisticsError(
            f"successes and rollouts are lists of one length, got shapes {s.shape} and {k.shape}"
        )
    if k.size and not (s.dtype.kind in "biu" and k.dtype.kind in "biu"):
        raise StatisticsError(
            f"successes and rollouts are whole counts, got {s.dtype} and {k.dtype}"
        )
    impossible = (s < 0) | (s > k)
    if impossible.any():
        i = int(np.argmax(impossible))
        raise StatisticsError(
            f"a prompt needs 0 <= successes <= rollouts, got {s[i]} of {k[i]} at index {i}"
        )
    kept = k > 0
    if not kept.any():
        raise StatisticsError("a rate needs at least one rollout, got none")
    return s[kept].astype(np.int64), k[kept].astype(np.int64)
