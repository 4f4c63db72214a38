"""Tests between the rows of a table: which of two is shown to be higher in a column.

Paired where both entries have outcomes of the same prompts, prompt by prompt; else from the two
intervals.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tseval.compare import Matched, match_means
from tseval.row_means import Means, means_of
from tseval.stats_compare import independent
from tseval.types import Estimate

from .cells import Numbers
from .flips import flips_pvalue
from .records import Board, Cell, Column

# Share of the smaller one's prompts that both must have for a paired test: a few that happen to be
# shared say little of the rates that are shown.
_SHARED = 0.8


class Tested(NamedTuple):
    """What a column says of two rows.

    Attributes:
        pvalue: Two-sided, of no difference.
        higher: 1 where the first has the higher value, -1 where the second has, 0 where neither.
    """

    pvalue: float
    higher: int


class Bench:
    """Holds the rows of a table's entries, decoded once, and tests pairs of them."""

    def __init__(self, board: Board, numbers: list[Numbers]) -> None:
        self.board = board
        self.numbers = numbers
        self._rows: dict[tuple[int, str], Means | None] = {}

    def test(self, first: int, second: int, key: str) -> Tested:
        """Test two rows, by their places, in a column in which both have a value."""
        column = self.board.column(key)
        parts = column.mean_of or (key,)
        pairs = [self._matched(first, second, part) for part in parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(parts):
            one, other = (self.numbers[place].cells[key] for place in (first, second))
            return _apart(one, other)
        if not column.mean_of:
            pair = known[0].paired()
            return Tested(pair.pvalue, _sign(pair.difference))
        return mean_test(cluster_sums(known))

    def _matched(self, first: int, second: int, key: str) -> Matched | None:
        """Match the prompts of two rows; None where they have too few in common."""
        before, after = self._means(second, key), self._means(first, key)
        matched = match_means(before, after)
        if matched is None or before is None or after is None:
            return None
        smaller = min(len(before.samples), len(after.samples))
        return matched if smaller and len(matched.samples) >= _SHARED * smaller else None

    def _means(self, place: int, key: str) -> Means | None:
        if (place, key) not in self._rows:
            numbers = self.numbers[place]
            self._rows[place, key] = means_of(numbers.entry.outcomes, numbers.scores[key])
        return self._rows[place, key]


def cluster_sums(columns: list[Matched]) -> NDArray[np.float64]:
    """Give what each cluster adds to the difference of the means, over all columns: [clusters].

    A prompt that stands in several columns, of the same benchmark or of another, is one cluster:
    what a model does with it is not seen twice.
    """
    labels = np.concatenate([np.asarray(each.clusters) for each in columns])
    changes = [
        (np.asarray(each.after) - np.asarray(each.before)) / len(each.after) for each in columns
    ]
    _, place = np.unique(labels, return_inverse=True)
    sums: NDArray[Any] = np.bincount(place, weights=np.concatenate(changes))
    return sums


def mean_test(sums: NDArray[np.float64]) -> Tested:
    """Test a mean of columns by flipping the signs of clusters.

    Under no difference in any column each cluster is as likely to favour the one row as the other,
    so the p-value is the share of all sign flips whose total is as far from 0 as the one found: at
    most alpha of equal rows are told apart at alpha, also where one column is much smaller than the
    others. For one column of yes and no it is McNemar's exact test.

    Args:
        sums: float [clusters]; what each adds to the difference of the means.
    """
    total = float(sums.sum())
    found = flips_pvalue(sums)
    return Tested(found, _sign(total) if found < 1 else 0)


def _apart(one: Cell, other: Cell) -> Tested:
    """Test two values from their intervals alone, as if they were independent."""
    before, after = _estimate(other), _estimate(one)
    if before is None or after is None:
        return Tested(1.0, 0)
    found = independent(before, after)
    if found.value == 0:
        return Tested(1.0, 0)
    from scipy.special import ndtr, ndtri

    # The limit on the side of zero is as many standard errors away as its level says.
    reach = found.value - found.low if found.value > 0 else found.high - found.value
    if reach <= 0:
        return Tested(1.0, 0)
    quantile = float(ndtri(1 - (1 - found.level) / 2))
    return Tested(2 * float(ndtr(-abs(found.value) * quantile / reach)), _sign(found.value))


def _estimate(cell: Cell) -> Estimate | None:
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return Estimate(value=cell.value, low=cell.low, high=cell.high)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def better(column: Column, tested: Tested) -> int:
    """Say which of two is better: 1 the first, -1 the second, 0 neither."""
    return tested.higher if column.higher_is_better else -tested.higher
