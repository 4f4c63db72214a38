"""Intervals by drawing prompts again: one bootstrap for everything that is computed from it.

Traces and continuations of one prompt are not independent; prompts are. All quantities of a probe
come from the same draws, so that a difference or a ratio of two of them has its own interval.

Letters: P prompts (clusters of near-duplicates count as one), Q quantities, D draws.
"""

from collections.abc import Sequence
from hashlib import sha256
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tseval.errors import StatisticsError
from tseval.stats import clopper_pearson, normal_quantile, two_sided_tail
from tseval.types import Estimate, Sample

from .groups import near_duplicates

Floats = NDArray[np.float64]
# Weights of so many draws are held at once.
_AT_ONCE = 100
# Means of equal values differ in their last digits.
_SAME = 1e-9


def seeded_generator(seed: int, *label: object) -> np.random.Generator:
    """Return a generator of its own for each purpose, the same in every process.

    Args:
        seed: Run seed.
        label: What the numbers are for.
    """
    text = "\0".join(map(str, (seed, *label)))
    return np.random.default_rng(int.from_bytes(sha256(text.encode()).digest()[:16], "big"))


def prompt_clusters(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Group prompts that are not independent: near-duplicates, and variants of one prompt.

    Args:
        samples: P of them.

    Returns:
        int [P], numbers of the groups.
    """
    variants = [sample.tags.get("cluster", "") for sample in samples]
    return near_duplicates([sample.prompt for sample in samples], keys=variants)


class Resampled(NamedTuple):
    """Quantities, and what they are when other prompts are drawn.

    Attributes:
        values: float [Q]; NaN where the denominator is 0.
        draws: float [D, Q], likewise.
        prompts: int [Q], clusters that each quantity rests on.
    """

    values: Floats
    draws: Floats
    prompts: NDArray[np.int64]

    def difference(self, one: int, other: int) -> "Resampled":
        """Give one quantity minus another."""
        return self.derived(
            self.values[one] - self.values[other],
            self.draws[:, one] - self.draws[:, other],
            int(min(self.prompts[one], self.prompts[other])),
        )

    def derived(self, values: ArrayLike, draws: ArrayLike, prompts: int) -> "Resampled":
        """Put quantities that were computed from these in their place.

        Args:
            values: float [R], computed from ``values``.
            draws: float [D, R], computed from ``draws`` in the same way.
            prompts: Clusters that they rest on.
        """
        new = np.atleast_1d(np.asarray(values, dtype=float))
        drawn = np.asarray(draws, dtype=float).reshape(len(self.draws), len(new))
        return Resampled(new, drawn, np.full(len(new), prompts, dtype=np.int64))


def resample_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: ArrayLike,
    *,
    draws: int,
    rng: np.random.Generator,
) -> Resampled:
    """Compute ratios of sums over members, and again over prompts drawn with replacement.

    Args:
        numerators: float [members, Q].
        denominators: float [members, Q]; 0 where a member has no part in a quantity.
        clusters: [members], the prompt that each comes from.
        draws: D.
        rng: Draws the prompts.

    Raises:
        StatisticsError: There are no members, or the shapes do not fit.
    """
    top, bottom = (np.asarray(each, dtype=float) for each in (numerators, denominators))
    if top.shape != bottom.shape or top.ndim != 2 or not len(top):
        raise StatisticsError(
            f"ratios need members with quantities, got shapes {top.shape} and {bottom.shape}"
        )
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    prompts = int(place.max()) + 1
    sums = np.zeros((2, prompts, top.shape[1]))
    np.add.at(sums[0], place, top)
    np.add.at(sums[1], place, bottom)
    found = np.empty((draws, top.shape[1]))
    for first in range(0, draws, _AT_ONCE):
        size = min(_AT_ONCE, draws - first)
        weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=size).astype(float)
        found[first : first + size] = _ratio(weights @ sums[0], weights @ sums[1])
    return Resampled(
        _ratio(sums[0].sum(axis=0), sums[1].sum(axis=0)), found, (sums[1] > 0).sum(axis=0)
    )


def resample_means(
    values: ArrayLike, clusters: ArrayLike, *, draws: int, rng: np.random.Generator
) -> Resampled:
    """Average over members, and again over prompts drawn with replacement.

    Args:
        values: float [members, Q]; NaN where a member has no part in a quantity.
        clusters: As for :func:`resample_ratios`.
        draws: D.
        rng: Draws the prompts.

    Raises:
        StatisticsError: There are no members.
    """
    found = np.asarray(values, dtype=float)
    there = ~np.isnan(found)
    return resample_ratios(
        np.where(there, found, 0.0), there.astype(float), clusters, draws=draws, rng=rng
    )


def bootstrap_estimate(
    found: Resampled,
    quantity: int = 0,
    *,
    span: tuple[float, float] | None = (0.0, 1.0),
    level: float = 0.95,
) -> Estimate | None:
    """Give a quantity with its percentile interval.

    Where prompts hardly differ a percentile interval claims certainty: 12 prompts that are all
    alike give one of zero width. So for a mean of values from a known span:

    - the limits are never inside the exact ones that as many prompts have which are all at one
      end of it; where no draw differs from another, they are as far apart anywhere between;
    - they are at least as wide as normal ones with two prompts more, which differ by a quarter of
      the span (Agresti and Min add more to paired differences, and cover too much here). Where few
      of 20 prompts differ at all, percentile intervals of a difference cover 0.78 where 0.95 is
      meant; with this at least 0.94, for 20 and 40 prompts.

    Args:
        found: The bootstrap.
        quantity: Which.
        span: Least and greatest value that one member can have; None where there is no such span
            or where limits are no means (a ratio, a place on an axis).
        level: Confidence level in (0, 1).

    Returns:
        None where the quantity is undefined, or is in a tenth of the draws.
    """
    value, drawn = float(found.values[quantity]), found.draws[:, quantity]
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(drawn) < 0.9 * len(found.draws) or not len(drawn):
        return None
    tail = two_sided_tail(level)
    low, high = (float(limit) for limit in np.quantile(drawn, (tail, 1 - tail)))
    if span is not None:
        none = clopper_pearson(0, int(found.prompts[quantity]), level).high
        reach = none * (span[1] - span[0])
        low, high = min(low, span[1] - reach), max(high, span[0] + reach)
        prompts = int(found.prompts[quantity])
        added = (span[1] - span[0]) ** 2 / 16
        half = normal_quantile(level) * sqrt(prompts**2 * drawn.var() + added) / (prompts + 2)
        half = none if high - low < _SAME else half
        low, high = max(span[0], min(low, value - half)), min(span[1], max(high, value + half))
    return Estimate(
        value=value,
        low=min(low, value),
        high=max(high, value),
        level=level,
        method="bootstrap over prompts",
    )


def _ratio(top: Floats, bottom: Floats) -> Floats:
    found: Floats = np.full(np.shape(top), np.nan)
    np.divide(top, bottom, out=found, where=bottom > 0)
    return found
