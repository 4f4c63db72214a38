"""Rollouts of a run as one judge sees them under one metric, read back for corrections."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from tseval.data import cluster_of
from tseval.journal import Journal
from tseval.metrics import outcome_of
from tseval.readback import Row, noted_rows, verdicts_of
from tseval.roles import MetricSpec
from tseval.runfolder import RunFolder
from tseval.scoring import sample_of
from tseval.stats_judge import Counts
from tseval.types import Score, Verdict

from .labelling import HumanLabel, rollout_key

# Outcomes that are the model's doing and need no judge's opinion.
KNOWN = ("empty", "degenerate")


class Judgement(NamedTuple):
    """One rollout as one judge sees it, under one metric.

    Attributes:
        cluster: Its prompt.
        outcome: As in ``tseval.metrics``.
        hit: Whether it counts, None if it left the denominator; a fraction under soft votes.
        human: Whether people say that it counts; None where nobody was asked.
        probability: With which it was chosen to be labelled.
    """

    cluster: str
    outcome: str
    hit: float | None
    human: bool | None = None
    probability: float = 1.0


class Kept(NamedTuple):
    """What is kept of a rollout: small, and without any text."""

    benchmark: str
    group: str
    harmful: bool | None
    cluster: str
    key: str
    failed: str
    verdicts: dict[str, Verdict]


def read_rows(folder: RunFolder) -> list[Kept]:
    """Read a run's rollouts from its journal.

    Raises:
        JournalError: It cannot be read.
    """
    journal = Journal.open(folder.journal, write=False)
    try:
        return [_keep(journal, row) for row in noted_rows(journal)]
    finally:
        journal.close()


def _keep(journal: Journal, row: Row) -> Kept:
    return Kept(
        benchmark=row.benchmark,
        group=row.group,
        harmful=row.harmful,
        cluster=cluster_of(sample_of(row)),
        key=rollout_key(row.generation),
        failed=row.failed,
        verdicts=_shared(
            tuple(
                (judge, *(getattr(verdict, name) for name in _LABELS))
                for judge, verdict in verdicts_of(journal, row).items()
            )
        ),
    )


# Of a verdict, all but what the judge wrote.
_LABELS = ("refusal", "degree", "harmful", "correct", "reason", "soft")


# The few different things that are said of a million rollouts are held once each.
@lru_cache(maxsize=4096, typed=True)
def _shared(said: tuple[tuple[Any, ...], ...]) -> dict[str, Verdict]:
    return {judge: Verdict(**dict(zip(_LABELS, fields, strict=True))) for judge, *fields in said}


def judgements_of(
    rows: Iterable[Kept], score: Score, metric: MetricSpec, labels: dict[str, HumanLabel]
) -> Iterator[Judgement]:
    """Yield the rollouts of a score as its judge sees them.

    Args:
        rows: Rollouts of the run.
        score: The score.
        metric: What it counts.
        labels: Human labels by rollout.
    """
    by_label = hit_by_label(metric)
    for row in rows:
        if row.benchmark != score.benchmark or row.harmful is not (metric.on == "harmful"):
            continue
        # A part that is shown aside bears the class of its prompts as its group.
        if score.group not in ("", row.group, metric.on):
            continue
        verdict = row.verdicts.get(score.judge)
        if verdict is None:
            yield Judgement(row.cluster, row.failed or "not judged", None)
            continue
        outcome, hit = outcome_of(metric, verdict)
        label = labels.get(row.key)
        yield Judgement(
            cluster=row.cluster,
            outcome=outcome,
            hit=hit,
            human=None if label is None else by_label[label.positive],
            probability=1.0 if label is None else label.probability,
        )


def hit_by_label(metric: MetricSpec) -> dict[bool, bool]:
    """Say whether an answer counts, by what its label says."""
    return {
        label: metric.hit(Verdict(refusal=label, harmful=label, degree="full" if label else "none"))
        for label in (True, False)
    }


def counts_of(judgements: Iterable[Judgement]) -> tuple[Counts, Counts]:
    """Count hits among judged rollouts and among known ones, prompt by prompt."""
    judged: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for each in judgements:
        if each.hit is None:
            continue
        cell = judged[each.cluster]
        place = 2 if each.outcome in KNOWN else 0
        cell[place] += int(each.hit)
        cell[place + 1] += 1
    s, k, known_s, known_k = (
        list(e) for e in zip(*(judged[c] for c in sorted(judged)), strict=True)
    )
    return Counts(s, k), Counts(known_s, known_k)
