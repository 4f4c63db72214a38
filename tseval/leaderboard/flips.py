"""The test that flips signs, for values of several sizes: exact where they can be counted."""

import numpy as np
from numpy.typing import NDArray

# Two lists of sums are counted against each other up to this many of them together.
_MOST_SUMS = 250_000
# Below this the chance of a sum does not show; all that is left out is added to the p-value.
_RARE = 1e-18
_DRAWS = 100_000
_ZERO = 1e-12
_LEAST = 1e-300
_DECIMALS = 12


def flips_pvalue(values: NDArray[np.float64], *, seed: int = 0) -> float:
    """Return the two-sided p-value that values favour neither sign.

    Values of one size add up to a binomial, and sums of those are counted; where there are too
    many of them, 100,000 seeded draws take their place, the one found included.

    Args:
        values: float [n].
        seed: Of the draws.

    Returns:
        A p-value in (0, 1]; 1 where all values are 0.

    Source: Fisher (1935), The Design of Experiments, section 21.
    """
    total = abs(float(values.sum()))
    moved = np.abs(values[np.abs(values) > _ZERO])
    if not moved.size or total <= _ZERO:
        return 1.0
    found, counts = np.unique(np.round(moved, _DECIMALS), return_counts=True)
    sizes = found.astype(np.float64)
    # Sizes are rounded to be counted: what is as far from 0 as the one found still is.
    reach = total - len(moved) * 10.0**-_DECIMALS
    halves = _halves([_binomial(s, int(n)) for s, n in zip(sizes, counts, strict=True)])
    if halves is None:
        return _drawn(sizes, counts, reach, seed)
    (one, chances), (other, weights) = halves
    order = np.argsort(other)
    other, below = other[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    above = np.concatenate([np.cumsum(weights[order][::-1])[::-1], [0.0]])
    beyond = above[np.searchsorted(other, reach - one, side="left")]
    beyond = beyond + below[np.searchsorted(other, -reach - one, side="right")]
    left_out = max(0.0, 1 - float(chances.sum()) * float(weights.sum()))
    return float(min(1.0, max(float(chances @ beyond) + left_out, _LEAST)))


Sums = tuple[NDArray[np.float64], NDArray[np.float64]]


def _binomial(size: float, count: int) -> Sums:
    """Give the sums of so many values of one size with random signs, and their chances."""
    from scipy.special import gammaln

    k = np.arange(count + 1)
    logs = gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1) - count * np.log(2)
    chances = np.exp(logs)
    kept = chances > _RARE
    return (2.0 * k - count)[kept] * size, chances[kept] / chances.sum()


def _halves(parts: list[Sums]) -> tuple[Sums, Sums] | None:
    """Add up lists of sums until two are left; None where these are too long."""
    found: list[Sums] = [*parts, (np.zeros(1), np.ones(1))]
    while len(found) > 2:
        found.sort(key=lambda each: len(each[0]))
        (one, chances), (other, weights), *rest = found
        if len(one) * len(other) > _MOST_SUMS:
            return None
        sums = np.round((one[:, None] + other[None, :]).ravel(), _DECIMALS)
        merged, place = np.unique(sums, return_inverse=True)
        products = (chances[:, None] * weights[None, :]).ravel()
        both = np.bincount(place, weights=products).astype(np.float64)
        kept = both > _RARE
        found = [*rest, (merged[kept], both[kept])]
    return found[0], found[1]


def _drawn(sizes: NDArray[np.float64], counts: NDArray[np.int64], reach: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    sums = np.zeros(_DRAWS)
    for size, count in zip(sizes, counts, strict=True):
        sums += (2.0 * rng.binomial(int(count), 0.5, size=_DRAWS) - count) * size
    return (int((np.abs(sums) >= reach).sum()) + 1) / (_DRAWS + 1)
