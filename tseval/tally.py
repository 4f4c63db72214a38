"""Rollouts of a benchmark as columns, counted under each metric, judge and group at once.

What :func:`tseval.metrics.score` and :meth:`tseval.outcomes.OutcomeBook.keep` do row by row, for
benchmarks of a million rollouts: few different things are ever said of one, so each of these is
looked at once, and all the rest is counting.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import TsevalError
from .metrics import Counts, Judged
from .outcomes import MISSING, Pair, Rows, joined_rows, legend_of

if TYPE_CHECKING:
    from .scoring import Outcome

# Says of a rollout how a metric and a judge take it.
Reading = Callable[["Outcome"], Judged]


class Part(NamedTuple):
    """Some of a benchmark's rollouts, such as those of one group.

    Attributes:
        chosen: int64 [rows of the part], places among all rollouts.
        clusters: int64 [rows of the part], place of each one's cluster in the order of clusters.
        n_clusters: How many clusters.
        table: The samples as ``outcomes.json`` has them.
        slots: int64 [rows of the part], place of each one's character in a series of codes.
    """

    chosen: NDArray[np.int64]
    clusters: NDArray[np.int64]
    n_clusters: int
    table: Rows
    slots: NDArray[np.int64]


class Tally:
    """Counts the rollouts of one benchmark.

    Args:
        name: The benchmark.
        outcomes: One a rollout.
    """

    def __init__(self, name: str, outcomes: Sequence["Outcome"]) -> None:
        self._name = name
        self._outcomes = outcomes
        kinds: dict[tuple[object, ...], int] = {}
        # Findings are shared objects (see tseval.scoring): equal ones are mostly the same.
        self._kinds = np.fromiter(
            (
                kinds.setdefault(
                    (
                        id(each.findings),
                        each.lost,
                        each.harmful,
                        each.group,
                        each.forced,
                        each.truncated,
                        each.unclosed,
                    ),
                    len(kinds),
                )
                for each in outcomes
            ),
            dtype=np.int64,
            count=len(outcomes),
        )
        _, firsts = np.unique(self._kinds, return_index=True)
        self._samples = [outcomes[first] for first in firsts]
        self._parts: dict[tuple[int, ...], Part] = {}

    def part(self, belongs: Callable[["Outcome"], bool]) -> Part | None:
        """Choose rollouts by their class and group; None where there are none."""
        kinds = tuple(kind for kind, each in enumerate(self._samples) if belongs(each))
        if not kinds:
            return None
        if kinds not in self._parts:
            self._parts[kinds] = self._part(np.flatnonzero(np.isin(self._kinds, kinds)))
        return self._parts[kinds]

    def notes(self, part: Part, judge: str) -> dict[str, int]:
        """Count the rollouts on which a judge remarked something, by remark."""
        found: Counter[str] = Counter()
        for kind, count in self._present(part):
            finding = self._samples[kind].findings.get(judge)
            if finding is not None and finding.verdict is not None:
                found.update(dict.fromkeys(finding.verdict.notes, count))
        return dict(sorted(found.items()))

    def counts(self, part: Part, reading: Reading) -> Counts:
        """Count a part as ``tseval.metrics.counted`` does."""
        read = {kind: reading(self._samples[kind]) for kind, _ in self._present(part)}
        outcomes: Counter[str] = Counter()
        excluded: Counter[str] = Counter()
        thought = forced = truncated = unclosed = 0
        for kind, count in self._present(part):
            each = read[kind]
            truncated += each.truncated * count
            unclosed += each.unclosed * count
            if each.forced is not None:
                thought += count
                forced += each.forced * count
            (excluded if each.hit is None else outcomes)[each.outcome] += count
        hits = {kind: each.hit for kind, each in read.items() if each.hit is not None}
        kinds = self._kinds[part.chosen]
        usable = np.isin(kinds, list(hits))
        clusters, worth = part.clusters[usable], np.zeros(len(self._samples))
        for kind, hit in hits.items():
            worth[kind] = hit
        sizes = np.bincount(clusters, minlength=part.n_clusters)
        values = worth[kinds[usable]]
        whole = all(isinstance(hit, int) for hit in hits.values())
        if whole:
            sums = np.bincount(clusters, weights=values, minlength=part.n_clusters)
            totals: list[float] = sums.astype(np.int64)[sizes > 0].tolist()
        else:
            totals = _exact_sums(clusters, values)
        return Counts(
            outcomes=outcomes,
            excluded=excluded,
            totals=totals,
            sizes=sizes[sizes > 0].tolist(),
            successes=sum(totals) if whole else fsum(values.tolist()),
            whole=whole,
            thought=thought,
            forced=forced,
            truncated=truncated,
            unclosed=unclosed,
        )

    def codes(self, part: Part, reading: Reading) -> tuple[dict[str, Pair], str]:
        """Write a part's outcomes as ``outcomes.json`` has them: the legend, and the characters."""
        pairs: dict[int, Pair] = {}
        for kind, _ in self._present(part):
            each = reading(self._samples[kind])
            pairs[kind] = each.outcome, None if each.hit is None else float(each.hit)
        legend = legend_of(set(pairs.values()))
        known = {pair: ord(code) for code, pair in legend.items()}
        characters = np.zeros(len(self._samples), dtype="<u4")
        for kind, pair in pairs.items():
            characters[kind] = known[pair]
        codes = np.full(sum(part.table.rollouts), ord(MISSING), dtype="<u4")
        codes[part.slots] = characters[self._kinds[part.chosen]]
        return legend, codes.tobytes().decode("utf-32-le")

    def _present(self, part: Part) -> list[tuple[int, int]]:
        """The kinds of a part's rollouts, with how many are of each."""
        counts = np.bincount(self._kinds[part.chosen], minlength=len(self._samples))
        return [(kind, int(counts[kind])) for kind in np.flatnonzero(counts).tolist()]

    def _part(self, chosen: NDArray[np.int64]) -> Part:
        every = self._outcomes
        places = chosen.tolist()
        names = sorted({every[place].cluster for place in places})
        order = {name: number for number, name in enumerate(names)}
        clusters = np.fromiter((order[every[place].cluster] for place in places), dtype=np.int64)
        rows = sorted({every[place].row for place in places})
        number = {row: n for n, row in enumerate(rows)}
        row_of = np.fromiter((number[every[place].row] for place in places), dtype=np.int64)
        rollout = np.fromiter((every[place].rollout for place in places), dtype=np.int64)
        sizes = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(sizes, row_of, rollout + 1)
        slots = np.concatenate([[0], np.cumsum(sizes)[:-1]])[row_of] + rollout
        again = np.flatnonzero(np.bincount(slots) > 1)
        if len(again):
            twice = every[places[int(np.flatnonzero(slots == again[0])[0])]]
            raise TsevalError(
                f"{self._name}: two rows are {twice.row}, rollout {twice.rollout}",
                hint="a bug of the benchmark: its sample ids are not unique",
            )
        of_row = dict(zip(row_of.tolist(), clusters.tolist(), strict=True))
        table = joined_rows(rows, [names[of_row[n]] for n in range(len(rows))], sizes.tolist())
        return Part(chosen, clusters, len(names), table, slots)


def _exact_sums(clusters: NDArray[np.int64], values: NDArray[np.float64]) -> list[float]:
    """Sum fractions cluster by cluster, each rounded once."""
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    return [fsum(each.tolist()) for each in np.split(values[order], starts[1:]) if len(each)]
