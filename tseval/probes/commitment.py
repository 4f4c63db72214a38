"""How far a prefix of a trace settles the answer: statistics over continuations.

N continuations are drawn behind each prefix, and each either refuses or complies. Arrays in,
numbers out.

Letters: q the chance that a continuation of a prefix refuses; k of n labelled continuations do;
B a cut in percent of the trace; T traces.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Part of the way from chance to the ceiling at which a trace counts as committed.
COMMITTED = 0.95


def prefix_variance(refusals: ArrayLike, labelled: ArrayLike) -> Floats:
    """Estimate 4q(1 - q) of each prefix without bias.

    4 (k/n) (1 - k/n) n / (n - 1): 1 where both outcomes are equally likely, 0 where one is
    certain, on average; a single value may exceed 1 (2 with k = 1 of n = 2).

    Args:
        refusals: k, int of any shape.
        labelled: n, int of the same shape.

    Returns:
        float of that shape; NaN with fewer than two labels.

    Source: arXiv 2606.25013, within-prefix variance.
    Differs: Its plug-in (:func:`plug_in_variance`) lacks n / (n - 1), and so depends on n.
    """
    n = np.asarray(labelled, dtype=float)
    return plug_in_variance(refusals, labelled) * _ratio(n, n - 1)


def greatest_variance(n: int) -> float:
    """Give the greatest value of :func:`prefix_variance` of one prefix with ``n`` labels."""
    return 4 * (n // 2) * (n - n // 2) / (n * (n - 1)) if n > 1 else 1.0


def plug_in_variance(refusals: ArrayLike, labelled: ArrayLike) -> Floats:
    """Give 4 (k/n) (1 - k/n) as arXiv 2606.25013 has it: too low by the factor (n - 1) / n.

    Args:
        refusals: k, int of any shape.
        labelled: n, int of the same shape.

    Returns:
        float of that shape; NaN without labels.
    """
    share = _ratio(refusals, labelled)
    return np.asarray(4 * share * (1 - share), dtype=float)


def prefix_agreement(
    refusals: ArrayLike, labelled: ArrayLike, others: ArrayLike, others_labelled: ArrayLike
) -> Floats:
    """Estimate the chance that two continuations behind two points end alike.

    q q' + (1 - q)(1 - q'), without bias for every n, since the two series of draws are
    independent.

    Args:
        refusals: k at the one point, int [T].
        labelled: n there.
        others: k at the other point.
        others_labelled: n there.

    Returns:
        float [T] in [0, 1]; NaN where either point has no labels.
    """
    one, two = _ratio(refusals, labelled), _ratio(others, others_labelled)
    return np.asarray(one * two + (1 - one) * (1 - two), dtype=float)


def chance_agreement(share: ArrayLike, end: ArrayLike) -> Floats:
    """Give the agreement that prefixes reach which tell nothing of their trace's outcome.

    Where most traces end alike, most answers agree whatever stood before them: with 1% refusals two
    answers of different traces agree 98 times in 100. The greater of two values: the agreement of
    answers at the cut with those at 100% if these do not hang on one another, and that of answers
    at 100% of different traces. The first covers a prefix behind which all answers are the more
    frequent one.

    Args:
        share: Of refusals at the cut, over all traces.
        end: Of refusals at 100%, over the same traces.

    Returns:
        float in [0, 1].
    """
    one, two = np.asarray(share, dtype=float), np.asarray(end, dtype=float)
    both = one * two + (1 - one) * (1 - two), two**2 + (1 - two) ** 2
    return np.asarray(np.maximum(*both), dtype=float)


def commitment_cut(
    cuts: Sequence[int],
    settled: ArrayLike,
    floor: ArrayLike,
    ceiling: ArrayLike,
    share: float = COMMITTED,
) -> Floats:
    """Find the cut behind which the answer is settled, and stays so.

    The first cut from which on ``settled`` has gone at least ``share`` of the way from the floor to
    the ceiling at every cut, so that one lucky cut does not count, and agreement by chance does
    not either. Where between it and the cut before it that happens cannot be known.

    Args:
        cuts: In percent, ascending, all below 100.
        settled: float [..., cuts].
        floor: float [..., cuts], of :func:`chance_agreement` there.
        ceiling: float [...], the value at 100%.
        share: Of the way.

    Returns:
        float [...], parts of the trace in [0, 1]; NaN where a value is missing. A cut whose floor
        is at the ceiling or above it has not settled anything.
    """
    top = np.asarray(ceiling, dtype=float)[..., None]
    y, low = np.asarray(settled, dtype=float), np.asarray(floor, dtype=float)
    x = np.asarray([*cuts, 100], dtype=float) / 100
    short = (low >= top) | (y < low + share * (top - low))
    # The cut behind the last one that falls short.
    place = np.where(short, np.arange(1, len(x)), 0).max(axis=-1, initial=0)
    missing = np.isnan(top[..., 0]) | np.isnan(y + low).any(axis=-1)
    return np.where(missing, np.nan, x[place])


def settled_share(settled: ArrayLike, floor: ArrayLike, ceiling: ArrayLike) -> Floats:
    """Say how much of the way from the value at 0% to the ceiling is gone: 0 at 0%, 1 at 100%.

    Args:
        settled: At a cut.
        floor: At 0%: what the prompt alone settles.
        ceiling: At 100%.

    Returns:
        float; NaN where the ceiling is not above the floor.
    """
    low, high = np.asarray(floor, dtype=float), np.asarray(ceiling, dtype=float)
    return _ratio(np.asarray(settled, dtype=float) - low, high - low)


def _ratio(top: ArrayLike, bottom: ArrayLike) -> Floats:
    one, two = np.broadcast_arrays(np.asarray(top, dtype=float), np.asarray(bottom, dtype=float))
    found: Floats = np.full(one.shape, np.nan)
    np.divide(one, two, out=found, where=two > 0)
    return found
