"""Tests between the rows of a table: which of two is shown to be higher in a column.

Paired where both entries have outcomes, prompt by prompt; else from the two intervals.

Letters: of column j of a mean, d_j is the paired difference, n_j its prompts, N_j its effective
pairs, and p10_j, p01_j the shares of discordant pairs (see ``stats_paired``).
"""

from math import sqrt
from typing import NamedTuple

from tseval.compare import match_means
from tseval.row_means import Means, means_of
from tseval.stats_compare import independent
from tseval.stats_paired import Paired
from tseval.types import Estimate

from .cells import Numbers
from .records import Board, Cell, Column


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
        pairs = [self._paired(first, second, part) for part in parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(parts):
            one, other = (self.numbers[place].cells[key] for place in (first, second))
            return _apart(one, other)
        if not column.mean_of:
            return Tested(known[0].pvalue, _sign(known[0].difference))
        return mean_test(known)

    def _paired(self, first: int, second: int, key: str) -> Paired | None:
        matched = match_means(self._means(second, key), self._means(first, key))
        return matched.paired() if matched is not None and matched.samples else None

    def _means(self, place: int, key: str) -> Means | None:
        if (place, key) not in self._rows:
            numbers = self.numbers[place]
            self._rows[place, key] = means_of(numbers.entry.outcomes, numbers.scores[key])
        return self._rows[place, key]


def mean_test(parts: list[Paired]) -> Tested:
    """Test a mean of columns by the score statistic of its paired differences.

    Z = (|sum d_j| - c) / sqrt(sum (p10_j + p01_j) / N_j): as McNemar's statistic for one column,
    with its continuity correction c, the smallest step that a prompt makes, min 1 / n_j. The
    variance is that under no difference in any column, which is the larger one where columns
    differ in opposite ways. Student's quantile on the fewest degrees of freedom where clusters'
    spread had to be estimated.

    Source: Edwards (1948), Psychometrika 13:185, for the correction.
    """
    total = sum(part.difference for part in parts)
    variance = sum((part.only_a + part.only_b) / part.pairs for part in parts)
    if variance <= 0 or total == 0:
        return Tested(1.0, 0)
    step = min(1 / part.prompts for part in parts)
    score = max(0.0, abs(total) - step) / sqrt(variance)
    freedoms = [part.freedom for part in parts if part.freedom is not None]
    from scipy.special import ndtr, stdtr

    tail = float(stdtr(min(freedoms), -score) if freedoms else ndtr(-score))
    return Tested(min(1.0, 2 * tail), _sign(total))


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
