"""Questions with a right answer: how a row becomes a prompt, and what its reference is."""

import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

from .cards import AnswerSpec, Columns
from .errors import DataError
from .tables import RawRow, kind

_LETTERS = string.ascii_uppercase
_CORRECT = "correct the row, or remove it"


def question_of(
    answer: AnswerSpec, columns: Columns, row: RawRow, question: str
) -> tuple[str, str]:
    """Make the prompt and the reference of a row.

    Args:
        answer: How the benchmark asks.
        columns: Which columns of the row mean what.
        row: The row.
        question: Its question, normalised.

    Returns:
        The prompt, and the reference that the checker is given: the right answer; of a choice
        'LETTER' and the choices' texts as one JSON object; with ``details``, these as well.

    Raises:
        DataError: The row lacks the answer, or its answer is none of its choices.
    """
    found: dict[str, Any] = {}
    options = _options(columns, row)
    if options:
        right = _right(columns, row, options)
        order = _order(question, options) if answer.shuffle else list(range(len(options)))
        shown = [options[place] for place in order]
        found = {"answer": _LETTERS[order.index(right)], "choices": shown}
        listed = "\n".join(
            f"({letter}) {text}" for letter, text in zip(_LETTERS, shown, strict=False)
        )
        prompt = _fill(answer.template, question=question, choices=listed)
    else:
        prompt = _fill(answer.template, question=question)
    for column in columns.details:
        found[column] = _given(row, column)
    if columns.details and not options:
        found["answer"] = _given(row, columns.answer)
    if found:
        reference = json.dumps(found, sort_keys=True, ensure_ascii=False)
    else:
        reference = _reference(answer, columns, row)
    try:
        (prompt + reference).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{row.place}: answer or choices hold half of a surrogate pair, which is no character",
            hint="write the file again in UTF-8",
        ) from None
    return prompt, reference


def _given(row: RawRow, column: str) -> Any:
    value = row.fields.get(column)
    if value is None or value in ("", [], {}):
        raise DataError(
            f"{row.place}, field '{column}': expected a value, found {kind(value)}", hint=_CORRECT
        )
    return value


def _reference(answer: AnswerSpec, columns: Columns, row: RawRow) -> str:
    value = row.fields.get(columns.answer)
    where = f"{row.place}, field '{columns.answer}'"
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected the right answer, found {kind(value)}", hint=_CORRECT)
    text = unicodedata.normalize("NFC", value).strip()
    if answer.reference_after:
        _, mark, text = text.rpartition(answer.reference_after)
        if not mark or not text.strip():
            raise DataError(f"{where}: nothing follows '{answer.reference_after}'", hint=_CORRECT)
    return text.strip()


def _options(columns: Columns, row: RawRow) -> list[str]:
    """Read the choices; a single column holds a list of them."""
    if not columns.choices:
        return []
    if len(columns.choices) == 1:
        values = row.fields.get(columns.choices[0])
        if isinstance(values, Sequence) and not isinstance(values, str):
            values = list(values)
            # What datasets fill a list of ten up with; elsewhere it is a choice like others.
            while values and values[-1] == "N/A":
                values.pop()
    else:
        values = [row.fields.get(column) for column in columns.choices]
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        values = []
    if not 2 <= len(values) <= len(_LETTERS):
        raise DataError(
            f"{row.place}, field '{columns.choices[0]}': expected 2 to {len(_LETTERS)} texts",
            hint=_CORRECT,
        )
    return [unicodedata.normalize("NFC", value).strip() for value in values]


def _right(columns: Columns, row: RawRow, options: list[str]) -> int:
    """Find the right choice: named by its column, its number, its letter or its text.

    The letter comes before the text: 'B' among the blood types A, AB, B and O is AB.
    """
    if columns.answer in columns.choices:
        return columns.choices.index(columns.answer)
    value = row.fields.get(columns.answer)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    text = unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else ""
    if len(text) == 1 and text in _LETTERS[: len(options)]:
        return _LETTERS.index(text)
    if text in options:
        return options.index(text)
    raise DataError(
        f"{row.place}, field '{columns.answer}': {value!r} is none of the {len(options)} choices",
        hint=_CORRECT,
    )


def _order(question: str, options: list[str]) -> list[int]:
    """Order choices by hash: the same for every model, run and machine."""

    def rank(place: int) -> tuple[str, int]:
        text = f"{question}\0{options[place]}"
        return hashlib.sha256(text.encode()).hexdigest(), place

    return sorted(range(len(options)), key=rank)


def _fill(template: str, **parts: str) -> str:
    """Put parts into a template in one pass; not str.format, since questions hold braces."""
    marks = "|".join(parts)
    return re.sub(rf"\{{({marks})\}}", lambda found: parts[found[1]], template).strip()
