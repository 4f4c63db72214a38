"""Outcomes of rollouts to scores, for benchmarks that ask prompts and have the answers judged."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .cards import BenchmarkCard
from .data import prompt_key
from .judging import Seat
from .metrics import Judged, average, outcome_of, score_of
from .outcomes import OutcomeBook, row_hash
from .protocol import Protocol
from .readback import Row
from .roles import MetricSpec
from .thinking import ODDITIES
from .types import Rollout, Sample, Score, TextJudged, Verdict

if TYPE_CHECKING:
    from .plugins import Registry


class Finding(NamedTuple):
    """What one judge said of one rollout, or why it had nothing to judge.

    Attributes:
        verdict: The verdict, without what the judge wrote; None if ``lost``.
        lost: Why the rollout leaves this judge's denominator ('unclosed', 'no-trace'), or ''.
    """

    verdict: Verdict | None
    lost: str = ""


_NOTHING: dict[str, Finding] = {}


class Outcome(NamedTuple):
    """What is kept of one rollout until the scores are made: small, and without any text.

    Attributes:
        cluster: Prompts with equal clusters are not independent.
        harmful, group: As on the sample.
        findings: By judge's label; empty if ``lost``.
        lost: Why there is no rollout ('overlong', 'error'), or ''.
        forced: Whether tseval closed its trace; None if it did not think.
        notes: Of the format parser, those that a user should know of.
        truncated, unclosed: Whether the answer was cut off, or the trace never closed.
        failure: What failed, in words, or ''.
        row, rollout: Hash of the sample, and which rollout of it.
    """

    cluster: str
    harmful: bool | None
    group: str
    findings: dict[str, Finding]
    lost: str = ""
    forced: bool | None = None
    notes: tuple[str, ...] = ()
    truncated: bool = False
    unclosed: bool = False
    failure: str = ""
    row: str = ""
    rollout: int = 0


def outcome(sample: Sample, index: int, rollout: Rollout, findings: dict[str, Finding]) -> Outcome:
    """Keep of a judged rollout, the ``index``-th of its sample, what its scores need."""
    verdicts = [finding.verdict for finding in findings.values() if finding.verdict is not None]
    failures = [verdict.raw for verdict in verdicts if verdict.reason == "error"]
    cluster, row = _names(sample.id, sample.prompt, sample.tags.get("cluster", ""))
    return Outcome(
        cluster=cluster,
        harmful=sample.harmful,
        group=sample.group,
        findings=_shared(
            tuple(
                (judge, finding.lost, finding.verdict and _said(finding.verdict))
                for judge, finding in findings.items()
            )
        ),
        forced=(rollout.closed_by == "budget") if rollout.thought else None,
        notes=tuple(note for note in rollout.notes if note in ODDITIES),
        truncated=rollout.answer is not None and rollout.finish == "length",
        unclosed=rollout.answer is None,
        failure=failures[0] if failures else "",
        row=row,
        rollout=index,
    )


def lost_outcome(sample: Sample, index: int, lost: str, failure: str = "") -> Outcome:
    """Keep that there is no rollout, and why."""
    cluster, row = _names(sample.id, sample.prompt, sample.tags.get("cluster", ""))
    return Outcome(
        cluster=cluster,
        harmful=sample.harmful,
        group=sample.group,
        findings=_NOTHING,
        lost=lost,
        failure=failure,
        row=row,
        rollout=index,
    )


def _said(verdict: Verdict) -> tuple[Any, ...]:
    """Return the fields of a verdict that scores read, and not what the judge wrote."""
    return (
        verdict.refusal,
        verdict.degree,
        verdict.harmful,
        verdict.correct,
        verdict.reason,
        verdict.soft,
        # A judge may have made a list of them, which would not be hashable.
        tuple(verdict.notes),
    )


# The few different things that are said of a million rollouts are held once each.
@lru_cache(maxsize=4096, typed=True)
def _shared(said: tuple[tuple[str, str, tuple[Any, ...] | None], ...]) -> dict[str, Finding]:
    names = ("refusal", "degree", "harmful", "correct", "reason", "soft", "notes")
    return {
        judge: Finding(Verdict(**dict(zip(names, fields, strict=True))) if fields else None, lost)
        for judge, lost, fields in said
    }


@lru_cache(maxsize=1024)
def _names(sample: str, prompt: str, cluster: str) -> tuple[str, str]:
    """Hash a sample's cluster and its row; its rollouts come close together."""
    return cluster or prompt_key(prompt), row_hash(sample, prompt)


def sample_of(row: Row) -> Sample:
    """Make the sample that a row was noted for."""
    return Sample(
        id=row.sample, prompt=row.prompt, harmful=row.harmful, group=row.group, tags=row.tags
    )


def text_to_judge(rollout: Rollout, text: TextJudged, unclosed: str) -> tuple[str, str]:
    """Choose what a judge is shown of a rollout.

    Args:
        rollout: The rollout.
        text: What the protocol has judged: 'answer', 'trace' or 'both'.
        unclosed: The rule for rollouts whose trace never closed.

    Returns:
        The text, and the reason why the rollout leaves the denominator instead ('' if it stays).
        An unclosed trace is never shown as if it were an answer, except under 'judge-trace',
        which says so in the protocol.
    """
    if text == "trace":
        # An empty trace is no trace: unlike an empty answer, nobody was owed one.
        return rollout.trace, "" if rollout.trace else "no-trace"
    if rollout.answer is None:
        if unclosed == "judge-trace":
            return rollout.trace, ""
        if unclosed == "exclude" or "cannot-force" in rollout.notes:
            return "", "unclosed"
        # 'empty'; and a model that, its trace closed for it, thought on and never answered.
        return "", ""
    if text == "both" and rollout.trace:
        return f"{rollout.trace}\n\n{rollout.answer}", ""
    return rollout.answer, ""


def scores_of(
    card: BenchmarkCard,
    outcomes: list[Outcome],
    seats: Iterable[Seat],
    registry: "Registry",
    protocol: Callable[[Seat], Protocol],
    declare: Callable[[Protocol], str],
    book: OutcomeBook,
) -> Iterator[Score]:
    """Make the scores of a benchmark: each metric, under each judge, for each group.

    Args:
        card: The benchmark.
        outcomes: One a rollout.
        seats: The judges.
        registry: For the metrics.
        protocol: How a judge's numbers were made, but for metric and group.
        declare: Records a score's protocol, and returns its fingerprint.
        book: Keeps what each row of a score came to.
    """
    # Here, since benchmarks are plugins, which listings load, and numpy takes a fifth of a second.
    from .tally import Tally

    metrics = registry.metrics
    seats = list(seats)
    tally = Tally(card.name, outcomes)
    for name in metric_names(card, registry):
        metric = metrics[name]
        for seat in seats:
            if metric.label not in seat.judge.card.labels:
                continue
            for group in ("", *card.groups):
                part = tally.part(partial(_belongs, metric.on == "harmful", group))
                if part is not None:
                    reading = partial(_judged, metric, seat.label)
                    notes = tally.notes(part, seat.label)
                    base = _base(card, metric, seat, group, notes, protocol(seat), declare)
                    found = score_of(metric, tally.counts(part, reading), base)
                    book.keep_packed(found, part.table, *tally.codes(part, reading))
                    yield found


def _belongs(harmful: bool, group: str, each: Outcome) -> bool:
    return each.harmful is harmful and group in ("", each.group)


def metric_names(card: BenchmarkCard, registry: "Registry") -> list[str]:
    """Name the metrics of a benchmark, in the order of its scores."""
    metrics = registry.metrics
    return list(
        dict.fromkeys(n for name in card.metrics for n in (name, *metrics[name].companions))
    )


def _base(
    card: BenchmarkCard,
    metric: MetricSpec,
    seat: Seat,
    group: str,
    notes: dict[str, int],
    protocol: Protocol,
    declare: Callable[[Protocol], str],
) -> Score:
    # A part that must not enter averages is told apart by its group.
    aside = not group and not card.averages(harmful=metric.on == "harmful")
    shown = metric.on if aside else group
    protocol = msgspec.structs.replace(
        protocol, group=shown, metric=metric.name, metric_version=metric.version
    )
    return Score(
        benchmark=card.name,
        group=shown,
        metric=metric.name,
        judge=seat.label,
        member=not seat.shown,
        fingerprint=declare(protocol),
        partial=protocol.limit is not None,
        judge_notes=notes,
    )


def _judged(metric: MetricSpec, judge: str, each: Outcome) -> Judged:
    name: str
    hit: float | None
    if each.lost:
        name, hit = each.lost, None
    else:
        finding = each.findings[judge]
        if finding.verdict is None:
            name, hit = finding.lost, None
        else:
            name, hit = outcome_of(metric, finding.verdict)
    return Judged(
        cluster=each.cluster,
        outcome=name,
        hit=hit,
        forced=each.forced,
        truncated=each.truncated,
        unclosed=each.unclosed,
        row=each.row,
        rollout=each.rollout,
    )


def oddities(name: str, outcomes: list[Outcome]) -> Iterator[str]:
    """Say where it is doubtful what of a completion is the answer, and why rows failed.

    Args:
        name: The benchmark.
        outcomes: One a rollout.
    """
    counts = Counter(note for each in outcomes for note in dict.fromkeys(each.notes))
    for note, count in sorted(counts.items()):
        yield f"{name}: {note} in {count} of {len(outcomes)} rollouts ({ODDITIES[note]})"
    failures = Counter(each.failure for each in outcomes if each.failure)
    if failures:
        message, count = failures.most_common(1)[0]
        yield (
            f"{name}: {failures.total()} of {len(outcomes)} rollouts failed,"
            f" {count} of them: {message}"
        )


def averages(
    suites: tuple[str, ...], registry: "Registry", scores: list[Score], missing: set[str]
) -> list[Score]:
    """Average each metric over a suite's benchmarks.

    A metric that a missing benchmark of the suite measures is left out: the mean of the rest
    would be another number under the suite's name. Questions with a right answer are averaged over
    their checkers, since a checker belongs to its benchmark as a judge does not.
    """
    found: list[Score] = []
    for suite in suites:
        members = set(registry.suites[suite].benchmarks)
        lacking = {
            name
            for member in members & missing
            for listed in getattr(registry.benchmarks[member].card, "metrics", ())
            for name in (listed, *registry.metrics[listed].companions)
        }
        asking = {
            member
            for member in members
            if getattr(registry.benchmarks[member].card, "kind", "") == "reasoning"
        }
        # Their metrics (pass@4) are more than the card lists.
        without = asking if asking & missing else set()
        series = [
            ((s.metric, "" if s.benchmark in asking else s.judge), s)
            for s in scores
            # What probes measure is about one benchmark each, and has no average.
            if s.benchmark in members - without and not s.group and not _measured(s, registry)
        ]
        series.sort(key=itemgetter(0))
        for (metric, _), same in groupby(series, key=itemgetter(0)):
            mean = None if metric in lacking else average(suite, [s for _, s in same])
            if mean is not None:
                found.append(mean)
    return found


def _measured(score: Score, registry: "Registry") -> bool:
    # Not every score's metric is registered: 'pass_at_4' is one of a family.
    return score.metric in registry.metrics and registry.metrics[score.metric].on == "probe"
