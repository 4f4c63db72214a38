"""In a worker: the columns that a task names, and rows that lack them or write them otherwise."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tseval.errors import DataError
from tseval.tables import read_file

# Settings of a task that name columns, as a template or by the bare name.
_NAMING = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")


def in_its_words(config: Mapping[str, Any], file: Path, folder: Path) -> Path:
    """Give a file whose columns are called what a task calls them, as far as case goes.

    Mirrors of one dataset write 'Problem' or 'problem'. A copy is made only where the task names
    a column that the file has in one other spelling.

    Args:
        config: The task's settings.
        file: Local rows.
        folder: Where a copy may be put.

    Returns:
        The file, or the copy.
    """
    if file.suffix not in (".json", ".jsonl"):
        return file
    first = next(iter(read_file(file)), None)
    have = list(first.fields) if first is not None else []
    calls: dict[str, str] = {}
    for column in sorted({*_named(config)} - {*have}):
        alike = [each for each in have if each.lower() == column.lower()]
        if len(alike) == 1:
            calls[alike[0]] = column
    if not calls:
        return file
    copy = folder / f"{len(list(folder.iterdir()))}.{file.stem}.jsonl"
    with copy.open("w", encoding="utf-8") as rows:
        for row in read_file(file):
            renamed = {calls.get(name, name): value for name, value in row.fields.items()}
            rows.write(json.dumps(renamed) + "\n")
    return copy


def require_target(target: Any, doc: Mapping[str, Any], number: int) -> None:
    """Refuse a document without its right answer, which lm-eval would take for the text 'None'.

    Args:
        target: The task's ``doc_to_target``; looked at where it is a single column.
        doc: The document.
        number: Its number in the split.

    Raises:
        DataError: Its column is empty.
    """
    found = re.fullmatch(
        r"\s*(?:\{\{\s*(\w+)\s*\}\}|(\w+))\s*", target if isinstance(target, str) else ""
    )
    column = (found[1] or found[2]) if found else ""
    if column in doc and doc[column] is None:
        raise DataError(
            f"row {number + 1} has no '{column}', which is its right answer",
            hint="correct the row, or remove it",
        )


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    import jinja2
    import jinja2.meta

    for setting in _NAMING:
        text = config.get(setting)
        if not isinstance(text, str):
            continue
        if text.isidentifier():
            yield text
        try:
            yield from jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(text))
        except jinja2.TemplateError:
            continue
