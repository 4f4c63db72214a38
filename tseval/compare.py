"""Two or more runs compared, number by number, on the rows that both were asked.

Numbers are compared only where they were measured under one protocol. The exceptions that a user
allows are named beside every number that they touch.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum
from typing import NamedTuple

from msgspec import Struct

from .before_after import independent
from .errors import ConfigError, NotComparable
from .outcomes import Outcomes, RowOutcome, SeriesKey, key_of
from .protocol import differing
from .runfolder import RunFolder, Scorecard
from .stats_compare import holm
from .stats_paired import Paired, paired
from .types import Estimate, Score, Unit


class Compared(Struct, frozen=True, kw_only=True):
    """One number of two runs.

    Attributes:
        benchmark, group, metric, judge, title, unit, higher_is_better: As on the score.
        before, after: The two scores.
        difference: After less before, with its interval; None where there is none.
        undefined: Why not, or ''.
        paired: What the pairs say; None where the rows could not be paired.
        alone: Prompts that one of the runs alone has a usable row of.
        pvalue: Two-sided, of no difference; None for independent intervals.
        adjusted: Holm's, over all numbers of the comparison that have one and are counted in it.
        counted: Whether it is one of that family: averages, members of panels and second readings
            of the same rows are not.
        allowed: Fields of the protocol that differ, and were allowed to.
    """

    benchmark: str
    metric: str
    judge: str
    group: str
    title: str
    unit: Unit
    higher_is_better: bool | None
    before: Score
    after: Score
    difference: Estimate | None = None
    undefined: str = ""
    paired: Paired | None = None
    alone: int = 0
    pvalue: float | None = None
    adjusted: float | None = None
    counted: bool = True
    allowed: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """'better' or 'worse' where Holm's p-value is below 0.05, 'no difference shown' else."""
        if self.adjusted is None or self.difference is None:
            return ""
        if self.adjusted >= 0.05 or self.difference.value == 0:
            return "no difference shown"
        if self.higher_is_better is None:
            return "higher" if self.difference.value > 0 else "lower"
        return "better" if (self.difference.value > 0) is self.higher_is_better else "worse"


class Comparison(Struct, frozen=True, kw_only=True):
    """A run against a baseline.

    Attributes:
        before, after: Names of what was measured.
        rows: One a number that both have, in the order of the candidate's table.
        only_before, only_after: Numbers that one of them alone has.
        family: P-values that Holm's adjustment is over, in all comparisons made together.
    """

    before: str
    after: str
    rows: tuple[Compared, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    family: int = 0


class Side(NamedTuple):
    """A run as comparisons read it."""

    label: str
    scorecard: Scorecard
    outcomes: Outcomes


class Matched(NamedTuple):
    """Rows of two runs, sample by sample, both sides usable.

    Attributes:
        samples: Hashes.
        before, after: Mean value of each sample's usable rollouts.
        clusters: Of each sample.
        rollouts: Usable rollouts of the side that has fewer.
        alone: Samples that have a usable rollout on one side only.
    """

    samples: list[str]
    before: list[float]
    after: list[float]
    clusters: list[str]
    rollouts: list[int]
    alone: int

    def paired(self) -> Paired:
        """Compare, after less before."""
        return paired(self.after, self.before, self.clusters, self.rollouts)


def side_of(folder: RunFolder, label: str = "") -> Side:
    """Read what comparisons need of a run; raises ConfigError where it has no scores."""
    scorecard = folder.scorecard()
    return Side(label or scorecard.subject.name, scorecard, folder.outcomes())


def compare(
    baseline: Side, candidates: Sequence[Side], *, allow: Iterable[str] = ()
) -> list[Comparison]:
    """Compare runs with a baseline, with one Holm adjustment over all of it.

    Args:
        baseline: What the others are compared with.
        candidates: The others.
        allow: Fields of the protocol that may differ; 'sampling' allows all below it.

    Raises:
        ConfigError: Two runs have no number in common.
        NotComparable: A number was measured under different protocols; names the fields.
    """
    allowed = tuple(allow)
    found = [_compared(baseline, each, allowed) for each in candidates]
    tested = [r for each in found for r in each.rows if r.counted and r.pvalue is not None]
    adjusted = iter(holm([r.pvalue for r in tested if r.pvalue is not None]).tolist())
    return [
        Comparison(
            before=each.before,
            after=each.after,
            rows=tuple(_adjusted(row, adjusted) for row in each.rows),
            only_before=each.only_before,
            only_after=each.only_after,
            family=len(tested),
        )
        for each in found
    ]


def _adjusted(row: Compared, adjusted: "Iterable[float]") -> Compared:
    from msgspec.structs import replace

    if not row.counted or row.pvalue is None:
        return row
    return replace(row, adjusted=next(iter(adjusted)))


def _compared(before: Side, after: Side, allow: tuple[str, ...]) -> Comparison:
    there = {key_of(score): score for score in before.scorecard.scores}
    here = {key_of(score): score for score in after.scorecard.scores}
    shared = [key for key in here if key in there]
    if not shared:
        raise ConfigError(
            f"{before.label} and {after.label} have no number in common",
            hint="compare runs of the same benchmarks under the same judges",
        )
    protocols = _require_alike(before, after, shared, there, here, allow)
    rows = tuple(
        _row(before, after, there[key], here[key], protocols[key], there.keys()) for key in shared
    )
    return Comparison(
        before=before.label,
        after=after.label,
        rows=rows,
        only_before=tuple(_said(key) for key in there if key not in here),
        only_after=tuple(_said(key) for key in here if key not in there),
    )


def _said(key: SeriesKey) -> str:
    benchmark, group, metric, judge = key
    return " ".join(filter(None, (benchmark, group, metric, judge)))


def _require_alike(
    before: Side,
    after: Side,
    shared: Sequence[SeriesKey],
    there: dict[SeriesKey, Score],
    here: dict[SeriesKey, Score],
    allow: tuple[str, ...],
) -> dict[SeriesKey, tuple[str, ...]]:
    """Name the allowed differences of each number; raise NotComparable for others."""
    fields: dict[str, list[str]] = defaultdict(list)
    permitted: dict[SeriesKey, tuple[str, ...]] = {}
    for key in shared:
        left, right = there[key], here[key]
        names = differing(
            before.scorecard.protocols.get(left.fingerprint, {}),
            after.scorecard.protocols.get(right.fingerprint, {}),
        )
        if not names and left.fingerprint != right.fingerprint:
            names = ["fingerprint"]
        permitted[key] = tuple(name for name in names if _is_allowed(name, allow))
        for name in names:
            if name not in permitted[key] and key[0] not in fields[name]:
                fields[name].append(key[0])
    if fields:
        shown = "; ".join(f"{name} ({', '.join(of)})" for name, of in sorted(fields.items()))
        raise NotComparable(
            f"{before.label} and {after.label} were measured differently: {shown}",
            hint=f"--allow {','.join(sorted(fields))} compares them all the same, and says so",
        )
    return permitted


def _is_allowed(name: str, allow: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allow)


def _row(
    before: Side,
    after: Side,
    left: Score,
    right: Score,
    allowed: tuple[str, ...],
    keys: Iterable[SeriesKey],
) -> Compared:
    matched = match(before.outcomes.of(left), after.outcomes.of(right))
    pairs = matched.paired() if matched is not None and matched.samples else None
    difference, undefined = None, ""
    if pairs is not None:
        difference = pairs.interval()
    elif left.estimate is not None and right.estimate is not None:
        difference = independent(left.estimate, right.estimate)
    else:
        why = {"before": left.undefined, "after": right.undefined}
        undefined = "; ".join(f"{name}: {reason}" for name, reason in why.items() if reason)
    return Compared(
        benchmark=right.benchmark,
        metric=right.metric,
        judge=right.judge,
        group=right.group,
        title=right.title,
        unit=right.unit,
        higher_is_better=right.higher_is_better,
        before=left,
        after=right,
        difference=difference,
        undefined=undefined or ("" if difference else "no row is usable in both runs"),
        paired=pairs,
        alone=matched.alone if matched is not None else 0,
        pvalue=pairs.pvalue if pairs is not None else None,
        counted=not right.member and right.group != "average" and not _is_second(right, keys),
        allowed=allowed,
    )


def _is_second(score: Score, keys: Iterable[SeriesKey]) -> bool:
    """Whether a score is another reading of rows, or a part of rows, that are counted already."""
    first = (
        key
        for key in keys
        if key[0] == score.benchmark
        and key[3] == score.judge
        and key[1] in ("", score.group)
        and key != key_of(score)
    )
    return any(
        (score.metric.startswith(f"{metric}_") and group == score.group)
        or (metric == score.metric and group != score.group)
        for _, group, metric, _ in first
    )


def match(
    before: list[RowOutcome] | None,
    after: list[RowOutcome] | None,
    *,
    fill: tuple[float, float] | None = None,
) -> Matched | None:
    """Match the rows of two runs by sample; None where one of them has no rows.

    Rollouts of a sample are averaged: the second rollout of one run has nothing in common with
    the second of another.

    Args:
        before: Rows of the baseline's score.
        after: Rows of the candidate's.
        fill: What excluded rows are taken for, before and after; None leaves them out.
    """
    if before is None or after is None:
        return None
    left = _means(before, fill[0] if fill else None)
    right = _means(after, fill[1] if fill else None)
    both = [sample for sample in right if sample in left]
    return Matched(
        samples=both,
        before=[left[sample][0] for sample in both],
        after=[right[sample][0] for sample in both],
        clusters=[right[sample][2] for sample in both],
        rollouts=[min(left[sample][1], right[sample][1]) for sample in both],
        alone=len(left.keys() ^ right.keys()),
    )


def _means(rows: list[RowOutcome], fill: float | None) -> dict[str, tuple[float, int, str]]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    clusters: dict[str, str] = {}
    for row in rows:
        value = fill if row.value is None else row.value
        if value is not None:
            values[row.row].append(value)
            clusters[row.row] = row.cluster
    return {
        sample: (fsum(each) / len(each), len(each), clusters[sample])
        for sample, each in values.items()
    }
