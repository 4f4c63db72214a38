"""Outcomes of a score as columns: the mean of each sample's rollouts, a million of them at once.

What :meth:`tseval.outcomes.Outcomes.of` gives row by row, for whoever computes with all of them.
"""

from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .outcomes import MISSING, Outcomes, Rows, Series, hashes_of
from .types import Score


class Means(NamedTuple):
    """Samples with a usable rollout; all columns have one entry a sample.

    Attributes:
        samples: str, hashes.
        values: float64, mean over the usable rollouts, in [0, 1].
        rollouts: int64, usable rollouts.
        clusters: str, what samples share that are not independent.
    """

    samples: NDArray[np.str_]
    values: NDArray[np.float64]
    rollouts: NDArray[np.int64]
    clusters: NDArray[np.str_]

    def shared(self, other: "Means") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of the samples that another has as well, here and there, in its order.

        Raises:
            ConfigError: A sample is there twice, so that nobody can say which is whose.
        """
        _, here, there = np.intersect1d(
            self.samples, other.samples, assume_unique=True, return_indices=True
        )
        # A sample that is there twice is taken for one of the other side, at a place outside it.
        if np.any(here >= len(self.samples)) or np.any(there < 0):
            raise ConfigError("the rows of a run hold a sample twice")
        order = np.argsort(there)
        return here[order], there[order]

    def filled(self, other: "Means", value: float) -> "Means":
        """Append the samples that another alone has, and take this value for theirs."""
        new = np.ones(len(other.samples), dtype=bool)
        new[self.shared(other)[1]] = False
        return Means(
            samples=np.concatenate([self.samples, other.samples[new]]),
            values=np.concatenate([self.values, np.full(int(new.sum()), value)]),
            rollouts=np.concatenate([self.rollouts, other.rollouts[new]]),
            clusters=np.concatenate([self.clusters, other.clusters[new]]),
        )


def means_of(outcomes: Outcomes, score: Score, fill: float | None = None) -> Means | None:
    """Average the rollouts of each sample under a score; None where it is no mean over rows.

    Args:
        outcomes: Of the run.
        score: One of its scores.
        fill: What rows that left the denominator are taken for; None leaves them out.

    Raises:
        ConfigError: The rows are not those that the score was made of.
    """
    series = outcomes.series_of(score)
    return None if series is None else sample_means(outcomes.rows[series.rows], series, fill)


def sample_means(rows: Rows, series: Series, fill: float | None = None) -> Means:
    """Average the rollouts of each sample of a series; arguments as for :func:`means_of`."""
    known = {ord(code): value for code, (_, value) in series.legend.items()}
    codes = np.frombuffer(series.codes.encode("utf-32-le"), dtype="<u4")
    worth = np.full(max([*known, ord(MISSING)]) + 1, np.nan)
    for code, value in known.items():
        worth[code] = fill if value is None and fill is not None else value
    values = worth[codes]
    usable = ~np.isnan(values)
    sample = np.repeat(np.arange(len(rows.rollouts)), rows.rollouts)[usable]
    values = values[usable]
    counts = np.bincount(sample, minlength=len(rows.rollouts))
    totals = np.bincount(sample, weights=values, minlength=len(rows.rollouts)).astype(np.float64)
    _round_exactly(totals, counts, sample, values)
    left = counts > 0
    return Means(
        samples=hashes_of(rows.hashes)[left],
        values=totals[left] / counts[left],
        rollouts=counts[left],
        clusters=hashes_of(rows.clusters)[left],
    )


def _round_exactly(
    totals: NDArray[np.float64],
    counts: NDArray[np.int64],
    sample: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """Round sums of fractions once, as ``fsum`` does; sums of 0 and 1 are exact already."""
    broken = np.unique(sample[(values != 0) & (values != 1)])
    for each in broken[counts[broken] > 1]:
        # The rows of a sample stand together.
        first = np.searchsorted(sample, each)
        totals[each] = fsum(values[first : first + counts[each]])
