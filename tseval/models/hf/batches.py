"""Which rows run together: arithmetic on lengths, no tensors.

A step of decoding reads the weights once, and for each row as many tokens of keys and values as
the longest row has, since shorter rows are padded to it. Merging two batches saves a pass over
the weights in each step and costs the padding. Both are known from the model, so rows are
partitioned by length such that the sum of what the batches cost is least, within a budget of
tokens that memory sets. A fixed number of rows knows neither: with 20 to 2,000 tokens in one
batch most of what is read is padding.

Legend: *length* = tokens of prompt and completion so far; *width* = longest length of a batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

# Tokens that a row is expected to grow by; a batch filled to the brim would be broken up at once.
_GROWTH = 64
# Rows that are looked at: the time grows with their square (40 ms for this many).
_LOOK_AHEAD = 256


class BatchLimits(Struct, frozen=True, kw_only=True):
    """What a batch may hold, and what it costs.

    Attributes:
        tokens: Most tokens, padding included (memory).
        rows: Most rows.
        step_tokens: What a step of decoding costs whatever the number of rows, as tokens of keys
            and values that could be read in that time.
        pass_tokens: Most tokens, padding included, in one pass over prompts.
        pass_cost: What such a pass costs whatever its size, as tokens that could be read.
    """

    tokens: int
    rows: int
    step_tokens: int
    pass_tokens: int
    pass_cost: int

    def halved(self) -> "BatchLimits":
        """Limits for another try after memory ran out."""
        return msgspec.structs.replace(
            self,
            tokens=max(self.tokens // 2, 1),
            rows=max(self.rows // 2, 1),
            pass_tokens=max(self.pass_tokens // 2, 1),
        )

    def fits(self, width: int, rows: int) -> bool:
        """Whether a batch may have so many rows of that width; one row always may."""
        return rows == 1 or (rows <= self.rows and (width + _GROWTH) * rows <= self.tokens)


class _Best(NamedTuple):
    """Cheapest partition of a part of the rows, and where its outermost batch ends."""

    cost: int
    border: int


def admit(active: Sequence[int], waiting: Sequence[int], limits: BatchLimits) -> list[int]:
    """Choose waiting rows to join a batch.

    All rows, sorted by length, are partitioned into the batches that cost least in sum per step,
    of which the running one is one. Without a running one, the batch of the longest rows starts:
    memory runs out early or never.

    Args:
        active: Lengths of the rows that run.
        waiting: Lengths of the rows that wait, oldest first; only the oldest 256 are considered.
        limits: Limits of a batch.

    Returns:
        Indices into ``waiting``, longest row first.
    """
    order = sorted(range(len(waiting[:_LOOK_AHEAD])), key=lambda n: (-waiting[n], n))
    lengths = [waiting[n] for n in order]
    if not order:
        return []
    shorter = _partitions(lengths, limits.step_tokens, limits.fits)
    if not active:
        return order[: shorter[0].border]
    rising = [-length for length in reversed(lengths)]
    longer = _partitions(rising, limits.step_tokens, limits.fits)[::-1]
    width = max(active)
    middle = sum(length > width for length in lengths)
    best, span = shorter[middle].cost + longer[middle].cost + width * len(active), (middle, middle)
    for first in range(middle, -1, -1):
        wide = max(width, lengths[first]) if first < middle else width
        for last in range(middle, len(lengths) + 1):
            rows = len(active) + last - first
            if last > first and not limits.fits(wide, rows):
                break
            cost = wide * rows + longer[first].cost + shorter[last].cost
            if cost < best:
                best, span = cost, (first, last)
    return order[span[0] : span[1]]


def _partitions(
    lengths: Sequence[int], fixed: int, fits: Callable[[int, int], bool]
) -> list[_Best]:
    """Give the cheapest partition of each tail ``lengths[n:]``, and the end of its first batch.

    Args:
        lengths: In falling order; their absolute values count, so that rising ones can be given
            as negatives, whose batches are as wide as their last row.
        fixed: What a batch costs beside its width times its rows.
        fits: Whether a batch may have a width and a number of rows.
    """
    size = len(lengths)
    best = [_Best(0, size)] * (size + 1)
    for first in range(size - 1, -1, -1):
        found = None
        for last in range(first + 1, size + 1):
            width = lengths[first] if lengths[first] > 0 else -lengths[last - 1]
            if not fits(width, last - first):
                break
            cost = fixed + width * (last - first) + best[last].cost
            if found is None or cost < found.cost:
                found = _Best(cost, last)
        assert found is not None
        best[first] = found
    return best


def surplus(active: Sequence[int], limits: BatchLimits) -> int:
    """Count the rows, from the end of the batch, that must make room because others grew.

    At least one row stays. A batch over the budget is cut to 7/8 of it, not to the brim: else the
    next few steps would break it up again.
    """
    if len(active) * max(active, default=0) <= limits.tokens:
        return 0
    for staying in range(len(active) - 1, 1, -1):
        if 8 * staying * max(active[:staying]) <= 7 * limits.tokens:
            return len(active) - staying
    return max(len(active) - 1, 0)


def passes(lengths: Sequence[int], limits: BatchLimits) -> list[list[int]]:
    """Partition rows into passes over prompts, as cheaply as can be.

    Such a pass is bound by arithmetic: a padded token costs as much as a real one.

    Args:
        lengths: Tokens of each row.
        limits: A row that is longer than ``pass_tokens`` has a pass of its own.

    Returns:
        Indices, each once; longest rows first.
    """

    def fits(width: int, rows: int) -> bool:
        return rows == 1 or (rows <= limits.rows and width * rows <= limits.pass_tokens)

    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    best = _partitions([lengths[n] for n in order], limits.pass_cost, fits)
    found: list[list[int]] = []
    start = 0
    while start < len(order):
        found.append(order[start : best[start].border])
        start = best[start].border
    return found
