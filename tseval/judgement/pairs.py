"""Rollouts of two runs paired by prompt, for differences that know that both were asked it."""

from collections.abc import Mapping, Sequence

from tseval.metrics import outcome_of
from tseval.roles import MetricSpec
from tseval.runfolder import RunFolder, Scorecard
from tseval.stats_compare import tango_interval
from tseval.types import Estimate, Score

from .agreement import journal_gap
from .rows import Kept, read_rows


def read_pairable(folder: RunFolder, card: Scorecard) -> list[Kept]:
    """Read a run's rollouts; none where its journal is gone, or lacks some that its scores count.

    Those of a panel's members stand for all, since every judge sees every rollout.
    """
    rows = read_rows(folder) if folder.journal.is_dir() else []
    return [] if journal_gap(rows, card) else rows


def paired_difference(
    rows: Sequence[Sequence[Kept]], there: Score, here: Score, metrics: Mapping[str, object]
) -> Estimate | None:
    """Pair the rollouts of two scores by prompt; None where several are about one."""
    metric = metrics.get(here.metric)
    if not isinstance(metric, MetricSpec):
        return None
    on = {"harmful": True, "benign": False}.get(metric.on)
    sides: list[dict[str, float | None]] = []
    for kept, score in zip(rows, (there, here), strict=True):
        hits: dict[str, float | None] = {}
        for row in kept:
            if row.benchmark != score.benchmark or row.harmful is not on:
                continue
            if score.group not in ("", row.group, metric.on):
                continue
            if row.cluster in hits:
                return None
            verdict = row.verdicts.get(score.judge)
            hits[row.cluster] = None if verdict is None else outcome_of(metric, verdict)[1]
        sides.append(hits)
    return paired_rates(*sides)


def paired_rates(
    there: Mapping[str, float | None], here: Mapping[str, float | None]
) -> Estimate | None:
    """Estimate how a rate differs from outcomes by prompt: here less there.

    Prompts without an outcome on one side are left out. None where no prompt is left, or where an
    outcome is between a hit and none, as under soft votes.
    """
    pairs = [(there[c], here[c]) for c in sorted(there.keys() & here)]
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    if not known or any(value not in (0, 1) for pair in known for value in pair):
        return None
    only_after = sum(a > b for b, a in known)
    only_before = sum(b > a for b, a in known)
    found = tango_interval(only_after, only_before, len(known))
    return Estimate(
        value=found.value,
        low=found.low,
        high=found.high,
        level=found.level,
        method=f"paired (tango, {len(known)} prompts)",
    )
