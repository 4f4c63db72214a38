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
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from tseval.errors import StatisticsError
from tseval.stats import clopper_pearson, clustered_proportion, two_sided_tail

# Fewer prompts make no number, as with probes.
LEAST_PROMPTS = 10
# Fewer draws a prompt say too little of its own acceptance.
LEAST_DRAWS = 16

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Quantity(Struct, frozen=True, kw_only=True):
    """A number with its interval, of which a side may be open.

    Attributes:
        value: The number.
        low, high: Limits; None where the data set none.
        says: 'is' for an estimate; 'at least' or 'at most' where ``value`` estimates a bound of
            the quantity, so that only ``low`` or ``high`` limits the quantity itself.
        prompts: Prompts that it rests on.
        level: Confidence level of both limits together; each tail has half of the rest.
        method: How the interval was made, in words.
    """

    value: float
    low: float | None
    high: float | None
    says: Literal["is", "at least", "at most"] = "is"
    prompts: int
    level: float = 0.95
    method: str = ""


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
        return _mean(values, level, "at least")
    found = _mean(values, level)
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
    low = max(-log(rate.high), 0.0)
    none = rate.value == 0
    return Quantity(
        value=low if none else max(-log(rate.value), 0.0),
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
    whatever q is, so it enters as that, and the whole is a bound.

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
    return _mean(values, level, "is" if all(map(len, ratios)) else "at least")


def excess(law: Law, accepted: ArrayLike, draws: ArrayLike, level: float = 0.95) -> Quantity:
    """Estimate the mean over prompts of KL(q || p) + log A(x) = KL(q || p_safe).

    Of the prompts that have an accepted draw of q alone: there is no q on the others. Where none
    of the draws from p was accepted, A(x) is replaced by its upper limit, and the whole is a bound
    from above. The estimate of a mean that can't be negative may be; its limits are not.

    Args:
        law: Of q.
        accepted: int [P], a of draws from p.
        draws: int [P], m of draws from p.
        level: Confidence level.

    Raises:
        StatisticsError: As :func:`kl_to_base`.
    """
    own, plain = _surprises(law.accepted, law.draws, level), _surprises(accepted, draws, level)
    ratios = _ratios(law)
    there = [place for place, r in enumerate(ratios) if len(r)]
    values = [float(ratios[n].mean()) + own[n] - plain[n] for n in there]
    a, _ = _counts(accepted, draws)
    bounded = any(a[place] == 0 for place in there)
    return _positive(_mean(values, level, "at most" if bounded else "is"))


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
    return _positive(_mean(values, level, "at least"))


def mean_ratio(law: Law, level: float = 0.95) -> Quantity:
    """Estimate the mean of E_q[r] over the prompts that have an accepted draw.

    Raises:
        StatisticsError: As :func:`kl_to_base`.
    """
    return _mean([float(r.mean()) for r in _ratios(law) if len(r)], level)


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
    return _mean(sums / n, level)


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
    n = _enough(len(costs))
    rate = float(costs.sum() / sizes.sum())
    spread = float(((costs - rate * sizes) ** 2).sum()) * n / (n - 1)
    half = _t(n - 1, level) * sqrt(spread) / float(sizes.sum())
    method = "t on the logarithm, linearised between prompts"
    low, high = exp(rate - half), exp(rate + half)
    return Quantity(value=exp(rate), low=low, high=high, prompts=n, level=level, method=method)


# -- parts


def _mean(
    values: Sequence[float] | Floats,
    level: float,
    says: Literal["is", "at least", "at most"] = "is",
) -> Quantity:
    """Estimate a mean over prompts; the side that a bound leaves open has no limit.

    The interval is Student's with its skewness taken out: of -log A(x) a few prompts often make
    most. For A from beta distributions, 15 to 150 prompts and 16 or 64 draws, where no bound
    enters, each limit holds in 0.94 to 0.99 of the cases (0.975 is meant); where A is so near
    to 1 for most prompts that nearly all of the mean is in a few, in 0.86 for 15 prompts and in
    0.95 from 40. Without the correction the upper limit falls to 0.72 and 0.82 there.

    Source: Hall (1992), "On the removal of skewness by transformation": the cubic one.
    Differs: The t quantile in place of the normal one.
    """
    v = np.asarray(values, dtype=np.float64)
    n = _enough(len(v))
    if not np.isfinite(v).all():
        raise StatisticsError("a mean of nats needs finite values")
    value, spread = float(v.mean()), float(v.std(ddof=1))
    low = high = value
    if spread > 1e-12:
        centred = v - value
        skew = float((centred**3).mean() / (centred**2).mean() ** 1.5)
        t, scale = _t(n - 1, level), spread / sqrt(n)
        low = min(value - scale * _unskewed(t, skew, n), value)
        high = max(value - scale * _unskewed(-t, skew, n), value)
    return Quantity(
        value=value,
        low=None if says == "at most" else low,
        high=None if says == "at least" else high,
        says=says,
        prompts=n,
        level=level,
        method="t over prompts, skewness removed",
    )


def _unskewed(t: float, skew: float, n: int) -> float:
    """Quantile of the studentised mean that belongs to the one of a symmetric law."""
    if abs(skew) < 1e-6:
        return t
    inner = 1 + skew * (t / sqrt(n) - skew / (6 * n))
    return 3 * sqrt(n) / skew * (float(np.cbrt(inner)) - 1)


def _positive(found: Quantity) -> Quantity:
    """Keep the limits of a quantity that can't be negative from being so."""
    low, high = (None if limit is None else max(limit, 0.0) for limit in (found.low, found.high))
    return replace(found, low=low, high=high)


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
    _enough(len(a))
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


def _enough(prompts: int) -> int:
    if prompts < LEAST_PROMPTS:
        raise StatisticsError(f"undefined: {prompts} prompts, at least {LEAST_PROMPTS} are needed")
    return prompts


def _t(freedom: int, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - two_sided_tail(level)))
