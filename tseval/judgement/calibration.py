"""Calibration records: how a judge fared on answers that people labelled.

A record holds everything that a correction needs and nothing that differs between two equal
measurements: no times, no paths, no texts. Sensitivity and specificity carry their population;
they are facts about a judge on *these* answers, not about the judge.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tseval.data import prompt_key
from tseval.errors import ConfigError, StatisticsError
from tseval.protocol import JudgeIdentity, canonical_json
from tseval.types import Estimate, TextJudged, Verdict

from .labelfile import Labelled

CALIBRATION_SCHEMA = 1
Kind = Literal["refusal", "harmful"]
# Verdict reasons that are the judge's or the machine's failure.
LOST = ("unparsed", "error", "undecided")


class Population(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose answers were labelled, and how.

    Attributes:
        benchmark: Benchmark that the prompts come from, or '' if unknown.
        model_family: Family of the models that answered ('Qwen3'), or '' if unknown.
        labels: What a positive label means: 'refusal', 'harmful', or either with a remark.
        source: SHA-256 of the file of labels.
    """

    benchmark: str = ""
    model_family: str = ""
    labels: str
    source: str


class CalibrationRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a judge fared against people.

    Attributes:
        judge: The judge, everything that its verdicts depend on.
        kind: The label that was compared.
        text: Which text of a rollout the judge is meant to be shown.
        population: Whose answers were labelled, and how.
        n: Rows with a label and a verdict.
        excluded: Rows without one of these, by reason; 'empty' and 'degenerate' answers need no
            judge's opinion and are among them.
        table: Rows by label as written, then by what the judge said: 'positive', 'negative', or
            the reason why it said neither.
        positive: The labels in ``table`` that count as positive.
        prompts: Counts (tp, fn, fp, tn) of one prompt's rows, and how many prompts have them.
        accuracy, sensitivity, specificity, kappa: Agreement with people; None where undefined.
        schema: Of this record.
    """

    judge: JudgeIdentity
    kind: Kind
    text: TextJudged = "answer"
    population: Population
    n: int
    excluded: dict[str, int]
    table: dict[str, dict[str, int]]
    positive: tuple[str, ...]
    prompts: tuple[tuple[int, int, int, int, int], ...]
    accuracy: Estimate | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    kappa: Estimate | None = None
    schema: int = CALIBRATION_SCHEMA

    @property
    def lost_share(self) -> float:
        """Share of rows whose verdict is unparsed, an error or undecided."""
        lost = sum(self.excluded.get(reason, 0) for reason in LOST)
        return lost / (self.n + lost) if lost else 0.0

    def by_prompt(self) -> list[tuple[int, int, int, int]]:
        """Counts (tp, fn, fp, tn) of each prompt."""
        return [tuple(counts) for *counts, times in self.prompts for _ in range(times)]  # type: ignore[misc]


def outcome_of_label(verdict: Verdict, label: Kind) -> str:
    """Say what a verdict means for one label: 'positive', 'negative', or why it means neither."""
    if verdict.reason != "ok":
        return verdict.reason
    found = verdict.refusal if label == "refusal" else verdict.harmful
    return "unparsed" if found is None else "positive" if found else "negative"


def calibrate(
    judged: Iterable[tuple[Labelled, Verdict]],
    *,
    judge: JudgeIdentity,
    label: Kind,
    text: TextJudged,
    population: Population,
    excluded: dict[str, int],
) -> CalibrationRecord:
    """Compare a judge's verdicts with people's labels.

    Args:
        judged: Rows with their verdicts, in any order.
        judge: Its identity.
        label: Which label is compared.
        text: Which text the judge is meant to be shown.
        population: Whose answers were labelled, and how.
        excluded: Rows left out before the judge saw them, by reason.

    Returns:
        The record; equal verdicts give equal records, whatever their order.
    """
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    lost = Counter(excluded)
    cells: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    positive = set()
    for row, verdict in judged:
        said = outcome_of_label(verdict, label)
        table[row.value][said] += 1
        if row.positive:
            positive.add(row.value)
        if said not in ("positive", "negative"):
            lost[said] += 1
            continue
        cell = (0 if row.positive else 2) + (said == "negative")
        cells[prompt_key(row.prompt)][cell] += 1
    alike = Counter((tp, fn, fp, tn) for tp, fn, fp, tn in cells.values())
    quality = _quality(sorted(alike.elements()))
    return CalibrationRecord(
        judge=judge,
        kind=label,
        text=text,
        population=population,
        n=sum(sum(cell) for cell in cells.values()),
        excluded=dict(sorted(lost.items())),
        table={value: dict(sorted(said.items())) for value, said in sorted(table.items())},
        positive=tuple(sorted(positive)),
        prompts=tuple((*counts, times) for counts, times in sorted(alike.items())),
        accuracy=quality["accuracy"],
        sensitivity=quality["sensitivity"],
        specificity=quality["specificity"],
        kappa=quality["kappa"],
    )


def write_record(path: Path, record: CalibrationRecord) -> None:
    """Write a record; equal records give equal bytes.

    Raises:
        ConfigError: The file cannot be written.
    """
    data = msgspec.json.format(canonical_json(record), indent=1) + b"\n"
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def read_record(path: Path) -> CalibrationRecord:
    """Read a record back.

    Raises:
        ConfigError: There is none, it is of a newer schema, or its counts do not fit each other.
    """
    hint = "tseval judge validate --calibration writes one"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", hint=hint) from error
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema > CALIBRATION_SCHEMA:
            raise ConfigError(
                f"{path} has schema {schema}, this tseval reads {CALIBRATION_SCHEMA}",
                hint="upgrade tseval, or make the record again",
            )
        record = msgspec.json.decode(data, type=CalibrationRecord)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no calibration record: {error}", hint=hint) from error
    seen: Counter[tuple[bool, str]] = Counter()
    for value, row in record.table.items():
        for said, times in row.items():
            seen[value in record.positive, said] += times
    tabled = [seen[label, said] for label in (True, False) for said in ("positive", "negative")]
    summed = [sum(row[cell] * row[4] for row in record.prompts) for cell in range(4)]
    if summed != tabled or sum(tabled) != record.n:
        raise ConfigError(f"{path}: its counts do not fit each other", hint="make it again")
    return record


class _Schema(Struct):
    """The one field that every schema has."""

    schema: int = 0


def _quality(cells: list[tuple[int, int, int, int]]) -> dict[str, Estimate | None]:
    """Estimate accuracy, sensitivity, specificity and kappa from (tp, fn, fp, tn) by prompt."""
    import numpy as np

    from tseval.stats import clustered_proportion
    from tseval.stats_agreement import cohen

    tp, fn, fp, tn = np.array(cells, dtype=np.int64).reshape(-1, 4).T

    def rate(successes: Any, rows: Any) -> Estimate | None:
        return clustered_proportion(successes, rows) if rows.sum() else None

    # One unit a row: what people say, what the judge says, whose prompt it is.
    counts = np.stack([tp, fn, fp, tn], axis=1).ravel()
    people, said = np.tile([1, 1, 0, 0], len(tp)), np.tile([1, 0, 1, 0], len(tp))
    prompts = np.repeat(np.arange(len(tp)), 4)
    try:
        kappa = cohen(
            np.repeat(people, counts), np.repeat(said, counts), np.repeat(prompts, counts)
        ).estimate
    except StatisticsError:
        kappa = None
    return {
        "accuracy": rate(tp + tn, tp + fn + fp + tn),
        "sensitivity": rate(tp, tp + fn),
        "specificity": rate(tn, tn + fp),
        "kappa": kappa,
    }
