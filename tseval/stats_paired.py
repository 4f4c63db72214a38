"""Differences of two runs over the same prompts, with any number of rollouts a prompt.

Letters: N prompts in m clusters; a_i and b_i the mean outcome of prompt i in the two runs, in
[0, 1]; D the mean of a_i - b_i; p10 and p01 the chance that one rollout of each run is discordant
one way, or the other, on one prompt.
"""

from math import floor, gcd, lcm, sqrt

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from .errors import StatisticsError
from .stats import two_sided_tail
from .stats_compare import mcnemar_exact, tango_limits
from .types import Estimate

# Sums of sign flips are counted exactly up to this many different ones.
_MOST_SUMS = 200_000
_DRAWS = 20_000
# Clusters from which the sum of the flips is as good as normal.
_MANY = 2_000
_MOST_PAIRS = 10_000_000
_LEAST = 1e-300


class Paired(Struct, frozen=True, kw_only=True):
    """What two runs' outcomes on the same prompts say of their difference, a - b.

    Attributes:
        prompts, clusters: How many.
        rate_a, rate_b: Mean outcomes over the prompts.
        only_a, only_b: p10 and p01.
        pairs: Effective number of independent pairs of rollouts.
        freedom: Degrees of freedom of the spread between clusters; None where the pairs are
            independent and none had to be estimated.
        pvalue: Two-sided, of no difference: McNemar's exact one for independent pairs of yes and
            no; else that of flipping signs cluster by cluster.
    """

    prompts: int
    clusters: int
    rate_a: float
    rate_b: float
    only_a: float
    only_b: float
    pairs: float
    freedom: int | None
    pvalue: float

    @property
    def difference(self) -> float:
        """D."""
        return self.rate_a - self.rate_b

    def interval(self, level: float = 0.95) -> Estimate:
        """Return D with Tango's score interval, on the effective number of pairs.

        Never of zero width. For a one-sided limit at alpha take ``level`` 1 - 2 alpha.

        Source: Tango (1998), Statistics in Medicine 17:891.
        Differs: With clusters, on an effective number of pairs and with Student's quantile.
        """
        low, high = tango_limits(
            self.only_a * self.pairs,
            self.only_b * self.pairs,
            self.pairs,
            _quantile(level, self.freedom),
        )
        method = "tango" if self.freedom is None else "tango on effective pairs"
        return Estimate(value=self.difference, low=low, high=high, level=level, method=method)

    def turned(self) -> "Paired":
        """Return the same pairs for b - a."""
        import msgspec

        return msgspec.structs.replace(
            self, rate_a=self.rate_b, rate_b=self.rate_a, only_a=self.only_b, only_b=self.only_a
        )

    def worse(self) -> float:
        """Return the one-sided p-value of a <= b, from the same score as :meth:`interval`.

        It is below alpha exactly where the lower limit at level 1 - 2 alpha is above 0.
        """
        discordant = (self.only_a + self.only_b) * self.pairs
        if discordant == 0:
            return 1.0
        score = (self.only_a - self.only_b) * self.pairs / sqrt(discordant)
        from scipy.special import ndtr, stdtr

        return float(ndtr(-score) if self.freedom is None else stdtr(self.freedom, -score))

    def pairs_to_tell(self, margin: float, alpha: float, worse: float | None = None) -> int | None:
        """Return how many prompts would tell, were the shares of discordant pairs to stay.

        That is where the upper one-sided limit of D falls below the margin, or the lower one rises
        above 0.

        Args:
            margin: In (0, 1].
            alpha: One-sided level of the upper limit.
            worse: That of the lower one, which may be stricter; None: alpha.

        Returns:
            Prompts, or None if more than ten million.
        """
        if self.tells(margin, alpha, 1.0, worse):
            return self.prompts
        most = _MOST_PAIRS / self.prompts
        if not self.tells(margin, alpha, most, worse):
            return None
        low, high = 1.0, most
        while high - low > 0.5 / self.prompts:
            middle = (low + high) / 2
            told = self.tells(margin, alpha, middle, worse)
            low, high = (low, middle) if told else (middle, high)
        return floor(high * self.prompts) + 1

    def tells(
        self, margin: float, alpha: float, times: float = 1.0, worse: float | None = None
    ) -> bool:
        """Say whether so many times the prompts would show D below a margin, or above 0."""
        _, high = self._limits(alpha, times)
        low, _ = self._limits(alpha if worse is None else worse, times)
        return high < margin or low > 0

    def _limits(self, alpha: float, times: float) -> tuple[float, float]:
        """One-sided limits of D at a level, with so many times the prompts."""
        pairs = self.pairs * times
        freedom = None if self.freedom is None else int(self.freedom * times)
        return tango_limits(
            self.only_a * pairs, self.only_b * pairs, pairs, _quantile(1 - 2 * alpha, freedom)
        )


def paired(a: ArrayLike, b: ArrayLike, clusters: ArrayLike, rollouts: ArrayLike) -> Paired:
    """Compare the outcomes of two runs, prompt by prompt.

    With one rollout of yes or no a prompt and no clusters the pairs are independent, and everything
    is as for the discordant counts. Else the variance of D is the linearised one between
    clusters, m / (m - 1) * sum((D_c - n_c D)^2) / N^2 with D_c the sum of a_i - b_i over a
    cluster's n_c prompts, and the effective number of pairs is (p10 + p01 - D^2) / variance, at
    least that of clusters (N^2 / sum(n_c^2)) and at most that of rollouts: what happens to agree
    is no certainty.

    Args:
        a: float [prompts], mean outcomes of the one run, in [0, 1].
        b: float [prompts], those of the other.
        clusters: [prompts], labels; prompts with equal ones are not independent.
        rollouts: int [prompts], rollouts behind the smaller of the two means.

    Raises:
        StatisticsError: There are no prompts, or a mean is out of range.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    k = np.asarray(rollouts, dtype=np.int64)
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    if x.ndim != 1 or not x.shape == y.shape == k.shape == place.shape:
        raise StatisticsError("outcomes, clusters and rollouts are lists of one length")
    if not x.size:
        raise StatisticsError("a paired difference needs at least one prompt, got none")
    if not bool(((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all()):
        raise StatisticsError("mean outcomes lie between 0 and 1")
    n, m = len(x), int(place.max()) + 1
    only_a, only_b = float((x * (1 - y)).sum()) / n, float((y * (1 - x)).sum()) / n
    plain = m == n and bool(np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all())
    return Paired(
        prompts=n,
        clusters=m,
        rate_a=float(x.sum()) / n,
        rate_b=float(y.sum()) / n,
        only_a=only_a,
        only_b=only_b,
        pairs=float(n) if plain else _effective_pairs(x - y, place, k, only_a + only_b),
        freedom=None if plain else max(1, m - 1),
        pvalue=(
            mcnemar_exact(round(only_a * n), round(only_b * n))
            if plain
            else flip_signs(np.bincount(place, weights=x - y))
        ),
    )


def _effective_pairs(
    d: NDArray[np.float64], place: NDArray[np.int64], k: NDArray[np.int64], discordant: float
) -> float:
    n, sizes = len(d), np.bincount(place)
    m = len(sizes)
    least = n**2 / float((sizes**2).sum())
    mean = float(d.sum()) / n
    spread = float(((np.bincount(place, weights=d) - sizes * mean) ** 2).sum())
    if m < 2 or spread <= 0:
        return least
    variance = m / (m - 1) * spread / n**2
    return float(min(max((discordant - mean**2) / variance, least), max(least, int(k.sum()))))


def flip_signs(sums: ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p-value that clusters favour neither side.

    Under no difference each cluster's sum is as likely to be negative as positive; the p-value is
    the share of all sign flips whose total is as far from 0 as the one found. It is counted
    exactly where the sums are fractions of a small common denominator (a few rollouts a
    prompt), else over 20,000 seeded flips, the found one included; from 2,000 clusters that
    differ on, it is the normal tail.

    Args:
        sums: float [clusters].
        seed: Of the flips that are drawn where they cannot be counted.

    Returns:
        A p-value in (0, 1].

    Source: Fisher (1935), The Design of Experiments, section 21.
    """
    values = np.asarray(sums, dtype=np.float64)
    sizes, total = np.abs(values[np.abs(values) > 1e-12]), float(values.sum())
    if not sizes.size:
        return 1.0
    if len(sizes) >= _MANY:
        from scipy.special import ndtr

        tail = float(ndtr(-abs(total) / sqrt(float((sizes**2).sum()))))
        return min(1.0, max(2 * tail, _LEAST))
    whole = _whole(sizes)
    if whole is not None:
        counts = np.ones(1)
        for size in whole:
            wider = np.zeros(len(counts) + 2 * size)
            wider[: len(counts)] += counts / 2
            wider[2 * size :] += counts / 2
            counts = wider
        reach = sum(whole)
        distance = round(abs(total) / float(sizes.sum()) * reach)
        places = np.abs(np.arange(-reach, reach + 1))
        return min(1.0, max(float(counts[places >= distance].sum()), _LEAST))
    rng, beyond = np.random.default_rng(seed), 0
    for _ in range(_DRAWS // 100):
        flips = rng.choice((-1.0, 1.0), size=(100, len(sizes)))
        beyond += int((np.abs(flips @ sizes) >= abs(total) - 1e-9).sum())
    return (beyond + 1) / (_DRAWS + 1)


def _whole(sizes: NDArray[np.float64]) -> list[int] | None:
    """Scale sums to whole numbers; None where there is no small denominator."""
    from fractions import Fraction

    parts = [Fraction(float(size)).limit_denominator(1000) for size in sizes]
    near = all(abs(float(p) - s) < 1e-9 for p, s in zip(parts, sizes, strict=True))
    scale = lcm(*(part.denominator for part in parts))
    numbers = [int(part * scale) for part in parts]
    divisor = gcd(*numbers)
    numbers = [number // max(divisor, 1) for number in numbers]
    return numbers if near and sum(numbers) * 2 < _MOST_SUMS else None


def _quantile(level: float, freedom: int | None) -> float:
    from scipy.special import ndtri, stdtrit

    upper = 1 - two_sided_tail(level)
    return float(ndtri(upper) if freedom is None else stdtrit(freedom, upper))
