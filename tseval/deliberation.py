"""The deliberation scorecard: what the probes of a run say of one model, on one page.

Nothing is measured here. Each row is a number that a probe or a benchmark handed in, beside the
null, control or ceiling that it has to be read against, with a sentence chosen by rules.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from . import readings
from .deliberation_rows import WANTED, Wanted
from .measurements import Measurement, Number
from .runfolder import Scorecard
from .types import Estimate, Score, Unit


class Finding(Struct, frozen=True, kw_only=True):
    """One row of the page.

    Attributes:
        key: Stable name of the row.
        title: What it is, with the group that it is about.
        source: Benchmark, metric and group that it was taken from.
        estimate: Value and interval; None if undefined.
        undefined: Why there is none, or ''.
        unit: How the value is printed.
        higher_is_better: Direction; None where neither end is better.
        n, n_prompts: Its denominator, and the prompts behind it.
        beside: What it has to be read against; None if nothing is.
        beside_title: What that is: 'permuted labels', 'ceiling' ...
        is_gain: Whether that is a difference to something, and no value of its own.
        p_value: As on the number.
        reading: A sentence, or ''.
        vote: 1 where it says that the outcome stands early, -1 where that thinking changes it.
        axis: Findings of one axis can be drawn in one plot.
    """

    key: str
    title: str
    source: tuple[str, str, str]
    estimate: Estimate | None = None
    undefined: str = ""
    unit: Unit = "number"
    higher_is_better: bool | None = None
    n: int = 0
    n_prompts: int = 0
    beside: Estimate | None = None
    beside_title: str = ""
    is_gain: bool = False
    p_value: float | None = None
    reading: str = ""
    vote: int = 0
    axis: str = ""


class DeliberationCard(Struct, frozen=True, kw_only=True):
    """The page of one model under one judge.

    Attributes:
        subject: Name of the model.
        judge: Whose labels the numbers rest on.
        scale: Of the probes.
        findings: Rows, in the order of the page.
        reading: What they say together.
        missing: Probes of the page that were not run.
        notes: What a reader has to know, each behind its probe's name.
    """

    subject: str
    judge: str
    scale: str
    findings: tuple[Finding, ...]
    reading: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# Rows that benchmarks of prompts answer better than a probe does: key and metric.
_RATES = {"asr": "asr_nonrefusal", "orr": "orr"}


def deliberation(
    scorecard: Scorecard, measurements: Sequence[Measurement]
) -> list[DeliberationCard]:
    """Sum up what the probes of a run found.

    Args:
        scorecard: The run's; rates of its benchmarks stand before those of probes.
        measurements: What its probes found.

    Returns:
        A card for each judge whose labels probes were computed with, in their order; empty for a
        run without any probe of the page.
    """
    known = {wanted.probe for wanted in WANTED}
    mine = [found for found in measurements if found.probe in known]
    return [
        _card(scorecard, [found for found in mine if found.judge == judge], judge)
        for judge in dict.fromkeys(found.judge for found in mine)
    ]


def _card(scorecard: Scorecard, mine: list[Measurement], judge: str) -> DeliberationCard:
    by_probe = {found.probe: found for found in mine}
    findings = [row for wanted in WANTED for row in _rows(wanted, by_probe, scorecard, judge)]
    missing = dict.fromkeys(wanted.probe for wanted in WANTED if wanted.probe not in by_probe)
    scales = dict.fromkeys(str(found.settings.get("scale", "")) for found in mine)
    return DeliberationCard(
        subject=scorecard.subject.name,
        judge=judge,
        scale=", ".join(filter(None, scales)),
        findings=tuple(findings),
        reading=readings.summary(list(_votes(findings))),
        missing=tuple(missing),
        notes=tuple(f"{found.probe}: {note}" for found in mine for note in found.notes),
    )


def _votes(findings: Sequence[Finding]) -> Iterator[int]:
    """Give each probe one vote: its rows are about much the same rollouts."""
    kinds: dict[str, set[int]] = {}
    for row in findings:
        if row.vote:
            kinds.setdefault(row.source[0], set()).add(row.vote)
    # That nothing changed in one row takes nothing from a change that another one shows.
    yield from (min(votes) for votes in kinds.values())


def _rows(
    wanted: Wanted, by_probe: dict[str, Measurement], scorecard: Scorecard, judge: str
) -> Iterator[Finding]:
    rates = list(_rates(wanted, scorecard, judge))
    found = by_probe.get(wanted.probe)
    if rates or found is None:
        yield from rates
        return
    numbers = [n for n in found.numbers if n.metric == wanted.metric and not n.variant]
    for number in numbers:
        if re.fullmatch(wanted.groups, number.group):
            yield _row(wanted, number, found)


def _row(wanted: Wanted, number: Number, found: Measurement) -> Finding:
    measure = next((m for m in found.measures if m.name == number.metric), None)
    beside, title = number.null, wanted.beside_title or number.test or "chance"
    if wanted.beside[0]:
        beside, title = _control(wanted, number, found)
    text, vote = "", 0
    if number.estimate is not None:
        text, vote = wanted.rule(number, number.estimate, beside, title)
        if wanted.qualify is not None:
            other = _other(wanted.rests_on, number, found)
            text = wanted.qualify(text, other.estimate if other is not None else None)
        text = " ".join(filter(None, (text, number.power)))
    return Finding(
        key=wanted.key,
        title=", ".join(filter(None, (wanted.title, _shown(wanted, number.group)))),
        source=(found.probe, number.metric, number.group),
        estimate=number.estimate,
        undefined=number.undefined,
        unit=measure.unit if measure else "number",
        higher_is_better=measure.higher_is_better if measure else None,
        n=number.n,
        n_prompts=number.n_prompts,
        beside=beside,
        beside_title=title if beside is not None else "",
        is_gain=wanted.is_gain,
        p_value=number.p_value,
        reading=text,
        vote=vote,
        axis=wanted.axis,
    )


def _shown(wanted: Wanted, group: str) -> str:
    return wanted.shown.format(group=group, last=group.rpartition(" · ")[2])


def _control(wanted: Wanted, number: Number, found: Measurement) -> tuple[Estimate | None, str]:
    """Find the number that a row is read against."""
    each = _other(wanted.beside, number, found)
    if each is None:
        return None, ""
    return each.estimate, wanted.beside_title.format(name=each.note.rpartition(": ")[2])


def _other(named: tuple[str, str], number: Number, found: Measurement) -> Number | None:
    """Find another number of a measurement by its metric and the pattern of its group."""
    metric, pattern = named
    wished = re.compile(pattern.format(group=re.escape(number.group)))
    matching = (
        each
        for each in found.numbers
        if each.metric == metric and not each.variant and wished.fullmatch(each.group)
    )
    return next(matching, None)


def _rates(wanted: Wanted, scorecard: Scorecard, judge: str) -> Iterator[Finding]:
    """Take the rates of benchmarks of prompts: an average, or else each benchmark's own."""
    metric = _RATES.get(wanted.key)
    scores = [
        score
        for score in scorecard.scores
        if score.metric == metric
        and score.judge == judge
        and score.group in ("", "average")
        and not scorecard.is_probed(score)
    ]
    for score in [s for s in scores if s.group == "average"] or scores:
        yield _rate(wanted, score)


def _rate(wanted: Wanted, score: Score) -> Finding:
    number = Number(metric=score.metric, estimate=score.estimate, n=score.n)
    found = score.estimate
    name = f"{score.benchmark}, {score.group}" if score.group else score.benchmark
    return Finding(
        key=wanted.key,
        title=f"{wanted.title}, {name}",
        source=(score.benchmark, score.metric, score.group),
        estimate=found,
        undefined=score.undefined,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        n=score.n,
        n_prompts=score.n_prompts,
        reading=wanted.rule(number, found, None, "")[0] if found is not None else "",
        axis=wanted.axis,
    )
