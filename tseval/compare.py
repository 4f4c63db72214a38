"""Two or more runs compared, number by number, on the rows that both were asked.

Numbers are compared only where they were measured under one protocol. The exceptions that a user
allows are named beside every number that they touch.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from .errors import ConfigError, NotComparable
from .outcomes import Outcomes, RowOutcome, SeriesKey, key_of
from .protocol import differing
from .row_means import Means, means_of
from .runfolder import RunFolder, Scorecard
from .stats_compare import holm, independent
from .stats_paired import Paired, paired
from .types import Estimate, Score, Unit

# Below which Holm's p-value is read as a difference.
_LEVEL = 0.05


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
        reading: 'better' or 'worse' where Holm's p-value is below 0.05, 'no difference shown' where
            it is not; '' where there is none.
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
    reading: str = ""


class Comparison(Struct, frozen=True, kw_only=True):
    """A run against a baseline.

    Attributes:
        before, after: Names of what was measured.
        rows: One a number that both have, in the order of the candidate's table.
        only_before, only_after: Numbers that one of them alone has.
        family: P-values that Holm's adjustment is over, in all comparisons made together.
        notes: What a reader has to know of the runs.
    """

    before: str
    after: str
    rows: tuple[Compared, ...]
    only_before: tuple[SeriesKey, ...] = ()
    only_after: tuple[SeriesKey, ...] = ()
    family: int = 0
    notes: tuple[str, ...] = ()


class Side(NamedTuple):
    """A run as comparisons read it; ``status`` is that of its manifest."""

    label: str
    scorecard: Scorecard
    outcomes: Outcomes
    status: str = "complete"


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
    scorecard, spec = folder.scorecard(), folder.manifest.spec
    under = [spec.intervention] if spec.intervention else []
    if scorecard.system_prompt_hash:
        under.append(f"system prompt {scorecard.system_prompt_hash[:6]}")
    named = " under ".join(filter(None, (scorecard.subject.name, " and ".join(under))))
    return Side(label or named, scorecard, folder.outcomes(), folder.manifest.status)


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
            notes=each.notes,
        )
        for each in found
    ]


def _adjusted(row: Compared, adjusted: "Iterable[float]") -> Compared:
    from msgspec.structs import replace

    if not row.counted or row.pvalue is None:
        return row
    found = next(iter(adjusted))
    return replace(row, adjusted=found, reading=_reading(row, found))


def _reading(row: Compared, adjusted: float) -> str:
    if row.difference is None or adjusted >= _LEVEL or row.difference.value == 0:
        return "no difference shown"
    if row.higher_is_better is None:
        return "higher" if row.difference.value > 0 else "lower"
    return "better" if (row.difference.value > 0) is row.higher_is_better else "worse"


def _compared(before: Side, after: Side, allow: tuple[str, ...]) -> Comparison:
    there = {key_of(score): score for score in before.scorecard.scores}
    here = {key_of(score): score for score in after.scorecard.scores}
    shared = [key for key in here if key in there]
    if not shared:
        raise ConfigError(
            f"{before.label} and {after.label} have no number in common",
            hint="compare runs of the same benchmarks under the same judges",
        )
    _require_same_scale(before, after, [(there[key], here[key]) for key in shared])
    protocols = _require_alike(before, after, shared, there, here, allow)
    rows = tuple(
        _row(before, after, there[key], here[key], protocols[key], shared) for key in shared
    )
    notes = [
        f"{side.label} is not complete (status: {side.status})"
        for side in (before, after)
        if side.status != "complete"
    ]
    partial = dict.fromkeys(row.benchmark for row in rows if row.after.partial)
    if partial:
        notes.append(f"cut by --limit: {', '.join(partial)}")
    return Comparison(
        before=before.label,
        after=after.label,
        rows=rows,
        only_before=tuple(key for key in there if key not in here),
        only_after=tuple(key for key in here if key not in there),
        notes=tuple(notes),
    )


def _require_same_scale(before: Side, after: Side, pairs: Iterable[tuple[Score, Score]]) -> None:
    """Raise NotComparable where two runs do not agree on a number's unit, or on its better end.

    That is no part of a protocol, and nothing that could be allowed: a rise would be called better
    by the one run and worse by the other.
    """
    for left, right in pairs:
        for field in ("unit", "higher_is_better"):
            if getattr(left, field) != getattr(right, field):
                raise NotComparable(
                    f"{before.label} and {after.label} do not agree on {field} of"
                    f" {left.benchmark} {left.metric}: {getattr(left, field)} and"
                    f" {getattr(right, field)}",
                    hint="score both with the same version of the metric",
                )


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
    differences: dict[SeriesKey, list[str]] = {}
    # Averages last: theirs is a fingerprint of fingerprints, which differ in what the members' do.
    for key in sorted(shared, key=lambda each: each[1] == "average"):
        left, right = there[key], here[key]
        names = differing(
            before.scorecard.protocols.get(left.fingerprint, {}),
            after.scorecard.protocols.get(right.fingerprint, {}),
        )
        if not names and left.fingerprint != right.fingerprint:
            members = (found for of, found in differences.items() if of[2] == key[2])
            names = sorted({name for found in members for name in found}) or ["fingerprint"]
        differences[key] = names
        permitted[key] = tuple(name for name in names if _is_allowed(name, allow))
        for name in names:
            if name not in permitted[key] and key[0] not in fields[name]:
                fields[name].append(key[0])
    if fields:
        shown = "; ".join(f"{name} ({', '.join(of)})" for name, of in sorted(fields.items()))
        raise NotComparable(
            f"{before.label} and {after.label} were measured differently: {shown}",
            hint=f"--allow {','.join(sorted({*fields, *allow}))} compares them all the same, and"
            " says so",
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
    matched = match_scores((before.outcomes, left), (after.outcomes, right))
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
        # Signs of unequal means are no coin's: their p-value would be too small.
        pvalue=pairs.pvalue if pairs is not None and "rollouts" not in allowed else None,
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
        (_reads_again(score.metric, metric) and group == score.group)
        or (metric == score.metric and group != score.group)
        for _, group, metric, _ in first
    )


def _reads_again(metric: str, first: str) -> bool:
    """Whether a metric is another reading of the rows of the first."""
    again = metric.startswith(("pass_at_", "maj_at_")) and first == "pass_at_1"
    return again or metric.startswith(f"{first}_")


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
        fill: What excluded rows are taken for, before and after, and rows that the other run alone
            has; None leaves them out.
    """
    left, right = fill or (None, None)
    return match_means(_means(before, left), _means(after, right), fill=fill)


def match_scores(
    before: tuple[Outcomes, Score],
    after: tuple[Outcomes, Score],
    *,
    fill: tuple[float, float] | None = None,
) -> Matched | None:
    """Match the rows of two scores, each with the outcomes of its run; else as :func:`match`."""
    left, right = fill or (None, None)
    return match_means(means_of(*before, left), means_of(*after, right), fill=fill)


def match_means(
    left: Means | None, right: Means | None, *, fill: tuple[float, float] | None = None
) -> Matched | None:
    """Match the samples of two runs, in the order of the second; else as :func:`match`."""
    if left is None or right is None:
        return None
    if fill:
        left, right = left.filled(right, fill[0]), right.filled(left, fill[1])
    there, here = left.shared(right)
    return Matched(
        samples=right.samples[here].tolist(),
        before=left.values[there].tolist(),
        after=right.values[here].tolist(),
        clusters=right.clusters[here].tolist(),
        rollouts=np.minimum(left.rollouts[there], right.rollouts[here]).tolist(),
        alone=len(left.samples) + len(right.samples) - 2 * len(here),
    )


def _means(rows: list[RowOutcome] | None, fill: float | None) -> Means | None:
    if rows is None:
        return None
    values: defaultdict[str, list[float]] = defaultdict(list)
    clusters: dict[str, str] = {}
    for row in rows:
        value = fill if row.value is None else row.value
        if value is not None:
            values[row.row].append(value)
            clusters[row.row] = row.cluster
    return Means(
        samples=np.array(list(values), dtype=np.str_),
        values=np.array([fsum(each) / len(each) for each in values.values()]),
        rollouts=np.array([len(each) for each in values.values()], dtype=np.int64),
        clusters=np.array([clusters[sample] for sample in values], dtype=np.str_),
    )
