"""Estimators of the theory behind self-generated safety data: counts and log-ratios to numbers.

A prompt x is asked of a model that samples from the law p. S is the event that the guard finds
the answer safe, A(x) = P_p(S) its acceptance, and p_safe = p(. | S) the model's own answers as far
as they are safe. Of all safe laws, p_safe is the closest to p: KL(p_safe || p) = -log A(x). Any
other safe law q pays an excess: KL(q || p) + log A(x) = KL(q || p_safe) >= 0. Here q is the law of
what was drawn in some other way (under a notice, by a teacher) and accepted; A_s(x) is the share
of such draws that was.

Everything is in nats a prompt, averages are over prompts, and each number says whether it estimates
a quantity or only bounds it: A(x) = 0 can't be told from a small A(x) by counting.

Letters: P prompts, m draws of a prompt, a of them accepted, r = log q'(y) - log p(y) of an accepted
draw y, where q' is the law that it was drawn from.

Source: arXiv 2601.23143 claims the optimum and the excess; it measures neither.
"""

from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from tseval.errors import StatisticsError
from tseval.stats import clopper_pearson, clustered_proportion

from .theory_means import Floats, Quantity, enough, mean_of, student

# Fewer draws a prompt say too little of its own acceptance.
LEAST_DRAWS = 16
# H(m) - H(a) falls well short of -log A where A is so small that few draws are accepted. Prompts
# with fewer than these may be this share of all: at A = 0.02 and 16 draws each of them falls short
# by 1.6 nats on the average, and the mean by 0.08.
FEW_ACCEPTED, FEW_SHARE = 4, 0.05

Counts = NDArray[np.int64]


def surprise(accepted: int, draws: int, level: float = 0.95) -> float:
    """Estimate -log A(x) of one prompt, never above it in expectation.

    With a > 0 that is :func:`cut_series`. With a = 0 it is -log of the exact upper limit of A,
    which is less than H(m) for every m: the mean over all a stays below -log A.

    Args:
        accepted: a.
        draws: m, at least 1.
        level: Of the two-sided limits that the upper one is taken from.

    Raises:
        StatisticsError: If there are no draws or the counts are impossible.

    Source: Clopper and Pearson (1934) for a = 0.
    """
    limits = clopper_pearson(accepted, draws, level)
    return cut_series(accepted, draws) if accepted else -log(limits.high)


def cut_series(accepted: int, draws: int) -> float:
    """Estimate -log A(x) of one prompt by H(m) - H(a), H the harmonic numbers.

    Its mean is the sum over k = 1 .. m of (1 - A)^k / k, the series of -log A cut off behind m, so
    it falls short by at most (1 - A)^(m + 1) / ((m + 1) A). The logarithm of a / m would be
    infinite at a = 0, and too large on the average elsewhere.

    Args:
        accepted: a.
        draws: m.

    Source: (1 - A)^k = E[C(m - a, k) / C(m, k)], summed over k.
    """
    return sum(1 / k for k in range(accepted + 1, draws + 1))


def mean_surprise(accepted: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate the mean of -log A(x) = KL(p_safe || p) over prompts.

    Prompts with none accepted enter as the bound that :func:`surprise` gives; with one of them the
    whole is a bound, without upper limit. Without any, the upper limit is at least that of -log of
    the pooled acceptance, which is never more than the mean (Jensen): prompts that happen to be
    accepted whole would otherwise claim certainty.

    Args:
        accepted: int [P], a.
        draws: int [P], m >= 1.
        level: Confidence level.

    Raises:
        StatisticsError: If there are fewer than ten prompts or the counts are impossible.
    """
    a, m = _counts(accepted, draws)
    values = [surprise(int(x), int(n), level) for x, n in zip(a, m, strict=True)]
    if (a == 0).any():
        return mean_of(values, level, "at least")
    found = mean_of(values, level)
    pooled = pooled_surprise(a, m, level).high
    high = None if pooled is None or found.high is None else max(found.high, pooled)
    return replace(found, high=high)


def pooled_surprise(accepted: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate -log E[A(x)]: the KL of the joint law of prompt and answer.

    Conditioning that joint law on S also weighs prompts anew, towards those that are answered
    safely anyway; so it is never more than the mean of -log A(x).

    Args:
        accepted: int [P], a.
        draws: int [P], m >= 1; each prompt weighs by its draws.
        level: Confidence level.

    Raises:
        StatisticsError: As :func:`mean_surprise`.
    """
    a, m = _counts(accepted, draws)
    rate = clustered_proportion(a, m, level)
    method = f"-log of {rate.method}"
    # 0.0 first: of equal ones the first is taken, and -log(1) is -0.0.
    low = max(0.0, -log(rate.high))
    none = rate.value == 0
    return Quantity(
        value=low if none else max(0.0, -log(rate.value)),
        low=low,
        high=None if rate.low <= 0 else -log(rate.low),
        says="at least" if none else "is",
        prompts=len(a),
        level=level,
        method=method,
    )


class Law(Struct, frozen=True, kw_only=True):
    """What was drawn in another way than from p, prompt by prompt.

    Attributes:
        accepted: a of each prompt.
        draws: m of each prompt, at least 1.
        ratios: r of each prompt's accepted draws; of all of them, or of a sample that does not
            depend on r.
    """

    accepted: Sequence[int]
    draws: Sequence[int]
    ratios: Sequence[Sequence[float]]


def kl_to_base(law: Law, accepted: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate the mean over prompts of KL(q || p) = E_q[r] - log A_s(x).

    A prompt of which no draw was accepted shows nothing of q; its KL is at least -log A(x),
    whatever q is, so it enters as that, and the whole is a bound; as it is where A_s(x) is small.

    Args:
        law: Of q.
        accepted: int [P], a of draws from p.
        draws: int [P], m of draws from p.
        level: Confidence level.

    Raises:
        StatisticsError: As :func:`mean_surprise`, or a prompt has accepted draws but no ratio.
    """
    own, plain = _surprises(law.accepted, law.draws, level), _surprises(accepted, draws, level)
    ratios = _ratios(law)
    values = [
        float(r.mean()) + cost if len(r) else floor
        for r, cost, floor in zip(ratios, own, plain, strict=True)
    ]
    sure = all(map(len, ratios)) and not scarce(law.accepted)
    return mean_of(values, level, "is" if sure else "at least")


def excess(law: Law, accepted: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate the mean over prompts of KL(q || p) + log A(x) = KL(q || p_safe).

    Of the prompts that have an accepted draw of q alone: there is no q on the others. Where none
    of the draws from p was accepted, A(x) is only known to be below a limit; where few of either
    law were, -log A(x) or -log A_s(x) is estimated too small. Each makes the whole a bound from
    above, with A_s(x) of every prompt at its lower Clopper-Pearson limit. The estimate of a mean
    that can't be negative may be; a bound is not.

    Args:
        law: Of q.
        accepted: int [P], a of draws from p.
        draws: int [P], m of draws from p.
        level: Confidence level.

    Raises:
        StatisticsError: As :func:`kl_to_base`, or all of the interval is below 0.
    """
    plain = _surprises(accepted, draws, level)
    a, _ = _counts(accepted, draws)
    counts = list(zip(law.accepted, law.draws, strict=True))
    ratios = _ratios(law)
    there = [place for place, r in enumerate(ratios) if len(r)]
    plainly = [int(a[place]) for place in there]
    bounded = scarce(law.accepted) or scarce(plainly) or 0 in plainly

    def own(place: int) -> float:
        s, m = counts[place]
        return -log(clopper_pearson(s, m, level).low) if bounded else cut_series(s, m)

    values = [float(ratios[n].mean()) + own(n) - plain[n] for n in there]
    return _positive(mean_of(values, level, "at most" if bounded else "is"))


def scarce(accepted: Sequence[int]) -> bool:
    """Whether too many of the prompts with an accepted draw have too few of them.

    Then H(m) - H(a) over these prompts is no estimate of -log A_s(x): it falls short where A_s is
    not far above 1/m, and more so given that a > 0.

    Args:
        accepted: a of each prompt.
    """
    there = [a for a in accepted if a]
    return sum(a < FEW_ACCEPTED for a in there) > FEW_SHARE * len(there)


def least_excess(law: Law, level: float = 0.95) -> Quantity:
    """Bound the mean over prompts of the excess from below, by draws of q alone.

    Where q' is positive wherever p is, A(x) / A_s(x) = E_q[exp(-r)], and so the excess is
    E_q[r] + log E_q[exp(-r)]. With means of a sample in their place its expectation is never
    above the excess (Jensen), never negative, and 0 for a single draw. A prompt without an
    accepted draw enters as 0.

    Raises:
        StatisticsError: As :func:`kl_to_base`.
    """
    values = [_gap(r) if len(r) else 0.0 for r in _ratios(law)]
    return _positive(mean_of(values, level, "at least"))


def mean_ratio(law: Law, level: float = 0.95) -> Quantity:
    """Estimate the mean of E_q[r] over the prompts that have an accepted draw.

    Raises:
        StatisticsError: As :func:`kl_to_base`.
    """
    return mean_of([float(r.mean()) for r in _ratios(law) if len(r)], level)


def cross_entropy(logprobs: ArrayLike, prompts: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate the mean over prompts of -E log p(y) of given answers.

    An upper bound of the KL to p of whatever law they were drawn from, which is all that a file
    of answers tells: the KL is less by the entropy of that law.

    Args:
        logprobs: float [answers], log p(y) of the whole answer.
        prompts: [answers], which prompt each answers.
        level: Confidence level.

    Raises:
        StatisticsError: If there are fewer than ten prompts, or a log-probability is no number.
    """
    values, place = _by_prompt(logprobs, prompts)
    sums, n = np.bincount(place, -values), np.bincount(place)
    return mean_of(sums / n, level)


def perplexity(
    logprobs: ArrayLike, tokens: ArrayLike, prompts: ArrayLike, level: float = 0.95
) -> Quantity:
    """Estimate the perplexity a token, exp(-sum of log p / sum of tokens), of given answers.

    The interval is on the logarithm, by linearising the ratio between prompts.

    Args:
        logprobs: float [answers], log p(y).
        tokens: int [answers], lengths.
        prompts: [answers], which prompt each answers.
        level: Confidence level.

    Raises:
        StatisticsError: If there are fewer than ten prompts, or an answer of no tokens.
    """
    values, place = _by_prompt(logprobs, prompts)
    lengths = np.asarray(tokens, dtype=np.float64)
    if lengths.shape != values.shape or not (lengths > 0).all():
        raise StatisticsError("a perplexity needs a positive number of tokens for each answer")
    costs, sizes = np.bincount(place, -values), np.bincount(place, lengths)
    n = enough(len(costs))
    rate = float(costs.sum() / sizes.sum())
    spread = float(((costs - rate * sizes) ** 2).sum()) * n / (n - 1)
    half = student(n - 1, level) * sqrt(spread) / float(sizes.sum())
    method = "t on the logarithm, linearised between prompts"
    low, high = exp(rate - half), exp(rate + half)
    return Quantity(value=exp(rate), low=low, high=high, prompts=n, level=level, method=method)


# -- parts


def _positive(found: Quantity) -> Quantity:
    """Keep a quantity that can't be negative from being so, as far as its estimate allows.

    Raises:
        StatisticsError: All of the interval is below 0, so that it holds no possible value.
    """
    value, low, high = found.value, found.low, found.high
    if high is not None and high < 0:
        raise StatisticsError(
            f"undefined: {value:.3f} with an upper limit of {high:.3f}, and it can't be below 0"
        )
    if found.says == "at most":
        return replace(found, value=max(0.0, value))
    # An estimate stays inside of its interval, be it below 0.
    return replace(found, low=None if low is None else max(low, min(value, 0.0)))


def _gap(r: Floats) -> float:
    """E[r] + log E[exp(-r)] over a sample; not negative but for rounding."""
    least = float(r.min())
    return max(float(r.mean()) - least + log(float(np.exp(least - r).mean())), 0.0)


def _surprises(accepted: ArrayLike, draws: ArrayLike, level: float) -> list[float]:
    a, m = _counts(accepted, draws)
    return [surprise(int(x), int(n), level) for x, n in zip(a, m, strict=True)]


def _ratios(law: Law) -> list[Floats]:
    found = [np.asarray(r, dtype=np.float64) for r in law.ratios]
    if len(found) != len(law.accepted):
        raise StatisticsError(
            f"a law needs ratios for each of {len(law.accepted)} prompts, got {len(found)}"
        )
    for place, (r, a) in enumerate(zip(found, law.accepted, strict=True)):
        if bool(len(r)) != bool(a):
            raise StatisticsError(f"prompt {place} has {a} accepted draws and {len(r)} ratios")
        if not np.isfinite(r).all():
            raise StatisticsError(f"prompt {place} has a log-ratio that is not finite")
    return found


def _counts(accepted: ArrayLike, draws: ArrayLike) -> tuple[Counts, Counts]:
    a, m = np.asarray(accepted, dtype=np.int64), np.asarray(draws, dtype=np.int64)
    if a.shape != m.shape or a.ndim != 1:
        raise StatisticsError(
            f"accepted and draws are lists of one length, got shapes {a.shape} and {m.shape}"
        )
    enough(len(a))
    if not ((m >= 1) & (a >= 0) & (a <= m)).all():
        raise StatisticsError("a prompt needs at least one draw and 0 <= accepted <= draws")
    return a, m


def _by_prompt(logprobs: ArrayLike, prompts: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    values = np.asarray(logprobs, dtype=np.float64)
    _, place = np.unique(np.asarray(prompts), return_inverse=True)
    if values.shape != place.shape or values.ndim != 1:
        raise StatisticsError("each answer needs a log-probability and a prompt")
    if not np.isfinite(values).all():
        raise StatisticsError("a log-probability is not finite")
    return values, place
