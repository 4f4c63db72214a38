"""Validate a judge: have it judge answers that people labelled, in a session that can resume."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from tseval.errors import ConfigError, TsevalError
from tseval.journal import Journal
from tseval.judging import Seat, seat_judges
from tseval.loading import Models
from tseval.mapping import map_samples
from tseval.plugins import Registry
from tseval.protocol import JudgeIdentity
from tseval.requests import ModelSpec, Report
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.types import TextJudged, Verdict

from .calibration import CalibrationRecord, Kind, Population, calibrate, outcome_of_label
from .labelfile import LabelFile, Labelled

# Answers under way at once, for judges without a model: enough to keep one process busy.
_LEAST_WINDOW = 4
_PROGRESS_EVERY = 50


class Miss(Struct, frozen=True, kw_only=True):
    """An answer about which judge and people disagree.

    Attributes:
        place: File and row.
        label: What people say, as written.
        said: 'positive' or 'negative': what the judge says.
        certainty: How sure the judge was, from 0 to 1; None where it doesn't say.
        prompt, answer: What was judged.
        raw: What the judge wrote.
    """

    place: str
    label: str
    said: str
    certainty: float | None
    prompt: str
    answer: str
    raw: str


class Validation(NamedTuple):
    """What came of a validation.

    Attributes:
        record: The calibration record.
        misses: All disagreements, worst first.
        failures: Why verdicts failed, by message.
        notes: Verdicts by remark of the judge ('truncated').
    """

    record: CalibrationRecord
    misses: list[Miss]
    failures: Counter[str]
    notes: Counter[str]


class _Judged(NamedTuple):
    identity: JudgeIdentity
    verdicts: list[Verdict]


async def validate(
    judge: str,
    file: LabelFile,
    registry: Registry,
    folder: Path,
    report: Report,
    *,
    kind: Kind | None = None,
    population: Callable[[Kind], Population],
    options: dict[str, str] | None = None,
) -> Validation:
    """Judge every labelled answer, and compare.

    Args:
        judge: Specification of a judge or a panel.
        file: The labelled answers.
        registry: Everything that is registered.
        folder: Where the journal goes; with the one of an earlier call, only what is missing or
            failed is judged.
        report: Told of progress.
        kind: Which label people gave; None where the judge says only one.
        population: Makes the population of the record, given the kind.
        options: Backend options for the judge's model, as ``--judge-option`` takes them.

    Raises:
        ConfigError: The judge does not say that label, or the specification is wrong.
        BackendError: Its model cannot be started, or is gone for good.
    """
    seats = seat_judges((judge,), registry, options)
    seat = next(each for each in seats.values() if each.shown)
    label = _kind(seat, kind)
    judged = await _judge_all(seats, seat, file.rows, registry, folder, report)
    pairs = list(zip(file.rows, judged.verdicts, strict=True))
    record = calibrate(
        pairs,
        judge=judged.identity,
        label=label,
        text=_text(seat),
        population=population(label),
        excluded=file.excluded,
    )
    misses = [
        _miss(row, verdict, label)
        for row, verdict in pairs
        if outcome_of_label(verdict, label) == ("negative" if row.positive else "positive")
    ]
    misses.sort(key=lambda miss: -(miss.certainty or 0.0))
    return Validation(
        record=record,
        misses=misses,
        failures=Counter(v.raw for v in judged.verdicts if v.reason == "error"),
        notes=Counter(note for v in judged.verdicts for note in dict.fromkeys(v.notes)),
    )


async def _judge_all(
    seats: dict[str, Seat],
    seat: Seat,
    rows: list[Labelled],
    registry: Registry,
    folder: Path,
    report: Report,
) -> _Judged:
    """Judge the rows, in any order; verdicts come in theirs."""
    models = Models(registry, report)
    journal = Journal.open(folder / "journal")
    session: Session | None = None
    try:
        await models.start_judges(seats)
        session = Session(
            spec=RunSpec(model=ModelSpec(backend="none"), benchmarks=(), judges=(seat.label,)),
            journal=journal,
            registry=registry,
            models=models.started,
            judges=seats,
            scheduler=models.scheduler,
        )
        bounds = [models.scheduler.bound(name) for name in models.started]
        current = session

        async def one(index: int) -> Verdict:
            row = rows[index]
            _, verdict = await current.judge(seat.label, row.prompt, row.answer, sees=_text(seat))
            return verdict

        verdicts: dict[int, Verdict] = {}
        phrase = f"judging {len(rows)} labelled answers with {seat.label}"
        window = max(_LEAST_WINDOW, 2 * max(bounds, default=0))
        async for index, found in map_samples(
            models.scheduler, range(len(rows)), one, window=window
        ):
            if isinstance(found, TsevalError):
                found = Verdict(reason="error", raw=found.message)
            verdicts[index] = found
            if len(verdicts) % _PROGRESS_EVERY == 0:
                report(phrase, len(verdicts) / len(rows))
        identity = session.identity_of(seat.label)
        return _Judged(identity, [verdicts[index] for index in range(len(rows))])
    finally:
        if session is not None:
            await session.close()
        await models.close()
        journal.close()


def _kind(seat: Seat, kind: Kind | None) -> Kind:
    says = seat.judge.card.labels
    if kind is None and len(says) == 1:
        return says[0]
    if kind is None:
        raise ConfigError(
            f"judge {seat.label!r} says {' and '.join(says)}", hint="--kind says which is labelled"
        )
    if kind not in says:
        raise ConfigError(
            f"judge {seat.label!r} does not say {kind!r} (it says {' and '.join(says)})",
            hint=f"labels about {kind} can measure only a judge that says {kind}",
        )
    return kind


def _text(seat: Seat) -> TextJudged:
    """Say what the labelled texts stand for: answers, unless the judge is told to see more."""
    return seat.sees or "answer"


def _miss(row: Labelled, verdict: Verdict, kind: Kind) -> Miss:
    return Miss(
        place=row.place,
        label=row.value,
        said=outcome_of_label(verdict, kind),
        certainty=_certainty(verdict),
        prompt=row.prompt,
        answer=row.answer,
        raw=verdict.raw,
    )


def _certainty(verdict: Verdict) -> float | None:
    """How far the judge's probability, or the votes, are from even: 0 to 1."""
    shares = [verdict.soft] if verdict.soft is not None else []
    for name, value in verdict.details.items():
        if name.startswith("p_"):  # as guards call the probability of a label
            with suppress(ValueError):
                shares.append(float(value))
    sure = [abs(2 * share - 1) for share in shares if 0 <= share <= 1]
    return max(sure) if sure else None
