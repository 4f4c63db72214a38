"""Files of answers that people labelled: CSV, JSON lines or Parquet, and XSTest's as they are."""

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from tseval.errors import ConfigError, DataError
from tseval.tables import SUFFIXES, RawRow, kind, read_file

# What labels are taken for where --positive does not say.
YES, NO = ("yes", "true", "1"), ("no", "false", "0")
XSTEST_LABELS = {
    "full": "2_full_refusal",
    "partial": "3_partial_refusal",
    "none": "1_full_compliance",
}


class Labels(Struct, frozen=True, kw_only=True):
    """Which columns of a file hold what, and how its labels are read.

    Attributes:
        prompt, answer, label: Columns.
        positive: Values that say yes: the answer is a refusal, or is harmful.
        negative: Values that say no; empty: whatever else there is, if that is one value.
        ignored: Values of rows that are left out and counted ('unsure').
        meaning: What a positive label means, where that is not the plain label.
        kind: What the labels are about, where the format says it; None where only the user knows.
    """

    prompt: str = "prompt"
    answer: str = "answer"
    label: str = "label"
    positive: tuple[str, ...] = YES
    negative: tuple[str, ...] = NO
    ignored: tuple[str, ...] = ()
    meaning: str = ""
    kind: Literal["refusal", "harmful"] | None = None


def xstest_labels(*, partial_is_refusal: bool = True) -> Labels:
    """Describe XSTest's completion files (arXiv 2308.01263) as they are.

    Args:
        partial_is_refusal: Whether a partial refusal counts as one, as in XSTest's own rates.
    """
    full, partial, none = XSTEST_LABELS.values()
    return Labels(
        answer="completion",
        label="final_label",
        positive=(full, partial) if partial_is_refusal else (full,),
        negative=(none,) if partial_is_refusal else (none, partial),
        meaning="" if partial_is_refusal else "full refusals only",
        kind="refusal",
    )


class Labelled(NamedTuple):
    """One answer that people labelled.

    Attributes:
        place: File and row, for messages.
        prompt, answer: As in the file.
        positive: Whether people say that it is a refusal, or harmful.
        value: The label as written.
    """

    place: str
    prompt: str
    answer: str
    positive: bool
    value: str


class LabelFile(NamedTuple):
    """What was read of a file of labels.

    Attributes:
        rows: The labelled answers, in order.
        excluded: Rows left out, by reason.
        digest: SHA-256 of the file.
    """

    rows: list[Labelled]
    excluded: dict[str, int]
    digest: str


def read_labels(path: Path, labels: Labels) -> LabelFile:
    """Read a file of labelled answers.

    Rows without a label are left out and counted. Values are compared without regard to case.

    Args:
        path: CSV, JSON lines or Parquet, by its suffix.
        labels: Columns and values.

    Raises:
        ConfigError: There is no such file, or its suffix is unknown; or a value is of two kinds.
        DataError: The file cannot be read, a column is missing, or a label is of no known value;
            the message names file, row and value.
    """
    if not path.is_file():
        raise ConfigError(f"no file {path}", hint="name a file of labelled answers")
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: unknown suffix '{path.suffix}'", hint=f"expected {', '.join(SUFFIXES)}"
        )
    yes, no, ignored = (_folded(v) for v in (labels.positive, labels.negative, labels.ignored))
    if both := sorted(yes & no | yes & ignored | no & ignored):
        raise ConfigError(
            f"the label value {both[0]!r} cannot mean two things",
            hint="--positive, --negative and --ignore must have no value in common",
        )
    rows: list[Labelled] = []
    excluded: Counter[str] = Counter()
    for raw in read_file(path):
        prompt, answer = _text(raw, labels.prompt), _text(raw, labels.answer)
        value = _value(raw, labels.label)
        word = value.casefold()
        if not word or word in ignored:
            excluded["ignored" if word else "unlabelled"] += 1
            continue
        if word not in yes and word not in no:
            if no:
                known = (*labels.positive, *(labels.negative or sorted(no)), *labels.ignored)
                raise _unknown(raw, labels.label, value, known)
            no = frozenset({word})
        rows.append(Labelled(raw.place, prompt, answer, word in yes, value))
    if not rows:
        raise DataError(f"{path}: holds no labelled row", hint="label some, or check the columns")
    return LabelFile(rows, dict(sorted(excluded.items())), sha256(path.read_bytes()).hexdigest())


def _folded(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.strip().casefold() for value in values)


def _field(raw: RawRow, column: str) -> Any:
    if column not in raw.fields:
        raise DataError(
            f"{raw.place}: no column '{column}'"
            f" (found: {', '.join(map(str, raw.fields)) or 'none'})",
            hint="--prompt-column, --answer-column and --label-column name them",
        )
    return raw.fields[column]


def _text(raw: RawRow, column: str) -> str:
    value = _field(raw, column)
    if not isinstance(value, str):
        raise DataError(
            f"{raw.place}, column '{column}': expected a text, found {kind(value)}",
            hint="correct the row, or remove it",
        )
    return value


def _value(raw: RawRow, column: str) -> str:
    """Return a label as text; JSON may have it as a truth value or a whole number."""
    value = _field(raw, column)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value).strip()
    raise DataError(f"{raw.place}, column '{column}': expected a label, found {kind(value)}")


def _unknown(raw: RawRow, column: str, value: str, known: Iterable[str]) -> DataError:
    return DataError(
        f"{raw.place}, column '{column}': unknown label '{value}' (known: {', '.join(known)})",
        hint="--positive, --negative and --ignore name the values that a label may have",
    )
