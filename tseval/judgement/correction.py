"""Correct a run's rates for what its judges get wrong, by a calibration record or by labels.

What is corrected is the label: among the rollouts that a judge gave a verdict on, how many people
would find refused, or harmful. Empty and degenerate answers need no judge's opinion, so they stay
what they are; rollouts without a verdict stay out of the rate, and are counted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tseval.errors import StatisticsError
from tseval.protocol import differing
from tseval.roles import MetricSpec
from tseval.runfolder import RunFolder, Scorecard
from tseval.stats_judge import Counts, prediction_powered, rogan_gladen
from tseval.types import Estimate, Score

from .calibration import CalibrationRecord
from .labelling import HumanLabel, load_labels, read_design
from .rows import KNOWN, Judgement, counts_of, hit_by_label, judgements_of, read_rows

Method = Literal["rogan-gladen", "prediction-powered"]
# Share of chosen rollouts that must have a label before a gate may use the rate.
LEAST_ANSWERED = 0.9
# A model's name in parts: words, and numbers with their dots.
_PARTS = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)*")
# Behind the name of a family: a number that is no size ('8b', '8x7b', '270m'), so a generation.
_GENERATION = re.compile(r"[-_ ]*v?\d(?![\d.x]*[bmkt](?![^\W_]))")
# In the rest of a name: what a model was made of that answers like another family.
_OTHER_ORIGINS = frozenset({"distill", "distilled", "qwen", "llama", "mistral", "gemma", "phi"})
_TEXTS = {"answer": "the answer", "trace": "the trace", "both": "trace and answer"}


class CorrectedScore(Struct, frozen=True, kw_only=True):
    """A corrected rate, or why there is none.

    Attributes:
        benchmark, group, metric, judge, fingerprint, higher_is_better: As on the score.
        method: How it was corrected.
        estimate: The corrected rate; None if it was refused.
        refused: Why there is none, or ''.
        measured: The rate as the judge sees it, with its interval.
        n: Rollouts that it is about.
        known: Rollouts among them whose outcome is not corrected, by outcome.
        excluded: Rollouts without a verdict, by reason; not part of the rate.
        labels: Human labels that it rests on.
        weight: How far the judge was relied on beside the labels, in [0, 1]; None where the
            method has no such weight.
        youden: Sensitivity + specificity - 1, where the method uses it.
        warnings: What a reader has to know.
        feeds_gate: Whether a gate or a board may use it.
    """

    benchmark: str
    metric: str
    judge: str
    method: Method
    group: str = ""
    fingerprint: str = ""
    higher_is_better: bool = False
    estimate: Estimate | None = None
    refused: str = ""
    measured: Estimate | None = None
    n: int = 0
    known: dict[str, int] = {}
    excluded: dict[str, int] = {}
    labels: int = 0
    weight: float | None = None
    youden: Estimate | None = None
    warnings: tuple[str, ...] = ()
    feeds_gate: bool = False


class Corrections(Struct, frozen=True, kw_only=True):
    """Corrected rates of a run.

    Attributes:
        scores: In the scorecard's order; of each score, first by the record, then by labels.
        warnings: Remarks about all of them.
        record: The calibration record, or None.
    """

    scores: list[CorrectedScore]
    warnings: list[str]
    record: CalibrationRecord | None = None


class _Refused(Exception):
    """Why a score can't be corrected."""


def corrected(
    folder: RunFolder, metrics: Mapping[str, MetricSpec], record: CalibrationRecord | None = None
) -> Corrections:
    """Correct the scores of a run: by a record, and by the labels that the run's folder holds.

    Args:
        folder: The run; its scores and its journal are read.
        metrics: Registered metrics by name.
        record: How a judge fared elsewhere; None for labels alone.

    Returns:
        Of each score (averages and members of panels aside) what each method makes of it. What a
        method can't correct has the reason; scores that nobody labelled have no entry for labels.

    Raises:
        TsevalError: The run or its labels cannot be read.
    """
    scorecard = folder.scorecard()
    labels = load_labels(folder)
    shares = {design: _answered(folder, design, labels) for design in {x.design for x in labels}}
    rows = read_rows(folder)
    found: list[CorrectedScore] = []
    for score in scorecard.scores:
        if score.group == "average" or score.metric not in metrics or not score.judge:
            continue
        metric = metrics[score.metric]
        if not isinstance(metric, MetricSpec):
            continue  # a probe's number is no rate over verdicts
        protocol = scorecard.protocols.get(score.fingerprint, {})
        mine = [label for label in labels if label.kind == metric.label]
        by_rollout = {label.rollout: label for label in mine}
        judgements = list(judgements_of(rows, score, metric, by_rollout))
        if record is not None and not (score.member and _other_judge(record, protocol)):
            found.append(by_record(score, metric, protocol, judgements, record, scorecard))
        if mine and not score.member:
            found.append(by_labels(score, protocol, judgements, mine, shares[mine[0].design]))
    return Corrections(scores=found, warnings=list(_remarks(scorecard)), record=record)


def by_record(
    score: Score,
    metric: MetricSpec,
    protocol: Mapping[str, Any],
    judgements: list[Judgement],
    record: CalibrationRecord,
    scorecard: Scorecard,
) -> CorrectedScore:
    """Correct one score by the judge's sensitivity and specificity elsewhere.

    Args:
        score: The score.
        metric: What it counts.
        protocol: Its protocol, as plain values.
        judgements: Its rollouts.
        record: How the judge fared.
        scorecard: For the subject's name.

    Returns:
        The corrected score, or the reason why it was refused.
    """
    base = _base(score, judgements, "rogan-gladen", labels=record.n)
    try:
        _refuse_unfit(score, metric, protocol, judgements, record)
        positive_hits = hit_by_label(metric)[True]
        hits, known = counts_of(judgements)
        tp, fn, fp, tn = (list(each) for each in zip(*record.by_prompt(), strict=True))
        positives = [a + b for a, b in zip(tp, fn, strict=True)]
        negatives = [a + b for a, b in zip(fp, tn, strict=True)]
        sensitivity, specificity = Counts(tp, positives), Counts(tn, negatives)
        if not positive_hits:
            # What counts is the absence of the label: the two change places.
            sensitivity, specificity = specificity, sensitivity
        result = rogan_gladen(hits, sensitivity, specificity, known=known)
    except (_Refused, StatisticsError) as error:
        why = error.message if isinstance(error, StatisticsError) else str(error)
        return msgspec.structs.replace(base, refused=why)
    strange = tuple(_population(score, metric, record, scorecard.subject.name))
    doubts = tuple(_record_doubts(record))
    return msgspec.structs.replace(
        base,
        estimate=result.rate,
        youden=result.youden,
        warnings=(*strange, *doubts),
        feeds_gate=not strange and not doubts,
    )


def by_labels(
    score: Score,
    protocol: Mapping[str, Any],
    judgements: list[Judgement],
    labels: list[HumanLabel],
    answered: float,
) -> CorrectedScore:
    """Correct one score by labels on some of its own rollouts.

    Args:
        score: The score.
        protocol: Its protocol, as plain values.
        judgements: Its rollouts, with their labels.
        labels: All labels of the metric's kind in the run.
        answered: Share of the rollouts chosen to be labelled that have a label.

    Returns:
        The corrected score, or the reason why it was refused.
    """
    own = [j for j in judgements if j.human is not None and j.hit is not None]
    own = [j for j in own if j.outcome not in KNOWN]
    base = _base(score, judgements, "prediction-powered", labels=len(own))
    seen = {label.text for label in labels}
    try:
        if protocol.get("text") not in seen:
            raise _Refused(
                f"people labelled {' or '.join(_TEXTS[text] for text in sorted(seen))}, this judge"
                f" saw {_TEXTS.get(str(protocol.get('text')), 'another text')}"
            )
        _refuse_other_rows(score, judgements)
        counted = [j for j in judgements if j.hit is not None]
        clusters = {name: i for i, name in enumerate(sorted({j.cluster for j in counted}))}
        result = prediction_powered(
            [float(j.hit or 0.0) for j in counted],
            [float("nan") if j.human is None else float(j.human) for j in counted],
            [j.probability for j in counted],
            [clusters[j.cluster] for j in counted],
            known=[j.outcome in KNOWN for j in counted],
        )
    except (_Refused, StatisticsError) as error:
        why = error.message if isinstance(error, StatisticsError) else str(error)
        return msgspec.structs.replace(base, refused=why)
    missing = (
        f"{100 * (1 - answered):.0f}% of the rollouts chosen to be labelled have no label: the"
        " rate takes them to be like the others",
    )
    return msgspec.structs.replace(
        base,
        estimate=result.rate,
        weight=result.weight,
        warnings=missing if answered < 1 else (),
        feeds_gate=answered >= LEAST_ANSWERED,
    )


def _answered(folder: RunFolder, design_id: str, labels: list[HumanLabel]) -> float:
    """Share of the rollouts of a design that have a label."""
    design = read_design(folder, design_id)
    if design is None:
        return 0.0
    return sum(label.design == design_id for label in labels) / len(design.chosen)


# -- what may be corrected


def _refuse_unfit(
    score: Score,
    metric: MetricSpec,
    protocol: Mapping[str, Any],
    judgements: list[Judgement],
    record: CalibrationRecord,
) -> None:
    """Raise _Refused where a record says nothing about a score."""
    if metric.label != record.kind:
        raise _Refused(
            f"labels about {record.kind} can't correct {metric.name}, which reads {metric.label}"
        )
    if not record.n:
        raise _Refused("the record has no row with a verdict")
    fields = _other_judge(record, protocol)
    if fields:
        raise _Refused(f"the record is of another judge (differs in {', '.join(fields)})")
    if protocol.get("text") != record.text:
        raise _Refused(
            f"the record is about judging {_TEXTS[record.text]}, this rate about"
            f" {_TEXTS.get(str(protocol.get('text')), 'another text')}"
        )
    if len(set(hit_by_label(metric).values())) < 2:
        raise _Refused(f"{metric.name} does not depend on the label alone")
    if any(j.hit not in (None, 0, 1) for j in judgements):
        raise _Refused("soft votes have no sensitivity: correct a panel that decides")
    _refuse_other_rows(score, judgements)


def _other_judge(record: CalibrationRecord, protocol: Mapping[str, Any]) -> list[str]:
    """Fields in which the record's judge is not the one of a protocol."""
    return differing(msgspec.to_builtins(record.judge), protocol.get("judge") or {})


def _refuse_other_rows(score: Score, judgements: Iterable[Judgement]) -> None:
    """Raise _Refused unless the journal's rows give the very rate that the scorecard has."""
    hits = [j.hit for j in judgements if j.hit is not None]
    if score.estimate is None:
        raise _Refused(score.undefined or "there is no rate")
    if len(hits) != score.n or abs(sum(hits) / len(hits) - score.estimate.value) > 1e-9:
        raise _Refused(
            f"the journal has {len(hits)} rollouts where the score has {score.n}, or other"
            " verdicts: run the same command again"
        )


def _population(
    score: Score, metric: MetricSpec, record: CalibrationRecord, subject: str
) -> Iterator[str]:
    """Say in what the answers that people labelled are not those of a score."""
    there = record.population
    if there.benchmark != score.benchmark:
        yield (
            f"calibrated on answers to {there.benchmark or 'an unknown benchmark'},"
            f" not {score.benchmark}"
        )
    if not _of_family(subject, there.model_family):
        yield (
            f"calibrated on answers of {there.model_family or 'an unknown model family'},"
            f" which {subject} is not known to be of"
        )
    if there.labels != metric.label:
        yield f"calibrated on labels that mean {there.labels!r}, not {metric.label!r}"


def _record_doubts(record: CalibrationRecord) -> Iterator[str]:
    if record.lost_share > 0.01:
        yield (
            f"{100 * record.lost_share:.1f}% of the calibration rows have no verdict and are"
            " not in its sensitivity and specificity"
        )


def _of_family(subject: str, family: str) -> bool:
    """Whether a model's own name surely begins with the name of a family, whole parts of it.

    Folders and organisations say nothing, 'Llama-3' is not 'Llama-3.2', 'Qwen' may be any of its
    generations, and a distilled model bears the names of two families: all these are in doubt, and
    what is in doubt is not of the family.
    """
    parts = _PARTS.findall(family.casefold())
    name = re.split(r"[/\\]", subject.casefold().rstrip("/\\"))[-1]
    begin = parts and re.match("".join(_pattern(parts)) + r"(?![^\W_]|\.\d)", name)
    if not begin:
        return False
    rest = name[begin.end() :]
    if parts[-1].isalpha() and _GENERATION.match(rest):
        return False
    return _OTHER_ORIGINS.isdisjoint(set(_PARTS.findall(rest)) - set(parts))


def _pattern(parts: list[str]) -> Iterator[str]:
    """Allow for separators between parts, and ask for one between numbers."""
    for before, part in zip(["", *parts], parts, strict=False):
        yield "[-_ ]*" if before else ""
        if before[-1:].isdigit() and part[0].isdigit():
            yield "(?<=[-_ ])"
        yield re.escape(part)


def _remarks(scorecard: Scorecard) -> Iterator[str]:
    if any(score.group == "average" for score in scorecard.scores):
        yield "averages are not corrected: the errors of their parts are not independent"


def _base(
    score: Score, judgements: Iterable[Judgement], method: Method, *, labels: int
) -> CorrectedScore:
    known = Counter(j.outcome for j in judgements if j.outcome in KNOWN)
    return CorrectedScore(
        benchmark=score.benchmark,
        group=score.group,
        metric=score.metric,
        judge=score.judge,
        fingerprint=score.fingerprint,
        higher_is_better=bool(score.higher_is_better),
        method=method,
        measured=score.estimate,
        n=score.n,
        known=dict(sorted(known.items())),
        excluded=score.excluded,
        labels=labels,
    )
