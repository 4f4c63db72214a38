"""A board as Markdown for a README, as CSV for a spreadsheet, and as JSON for programs."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tseval.judgement.sheets import for_csv
from tseval.leaderboard.records import Cell, Column, Row, Standing, Table
from tseval.report import board_cells as cells
from tseval.report.board_view import plain
from tseval.report.text import for_markdown, neutral

BOARD_SCHEMA = 1
# Of a row in the CSV file, before the columns of the board, and of each of those.
_FIELDS = ("table", "kind", "rank", "label", "model", "revision", "date", "tseval", "source")
_PARTS = ("", "_low", "_high", "_n", "_excluded", "_partial", "_protocol")


def board_markdown(standing: Standing) -> str:
    """Write a board as Markdown: ready for a README, nothing in it acts."""
    board = standing.board
    parts = [f"## {for_markdown(board.title)}"]
    if board.description:
        parts.append(for_markdown(board.description))
    for table in standing.tables:
        parts += _markdown_table(standing, table)
    if standing.reported:
        parts.append("### Reported")
        parts.append(f"{cells.REPORTED}.")
        columns = cells.columns_of(standing, standing.reported)
        headings = ["model", *map(cells.heading, columns), "source"]
        parts.append(_grid(headings, (_reported(row, columns) for row in standing.reported)))
    parts.append(_bullets(standing.notes))
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_table(standing: Standing, table: Table) -> Iterator[str]:
    yield f"### {for_markdown(table.title)}"
    columns = cells.columns_of(standing, table.rows)
    if table.rows:
        headings = ["rank", "model", *map(cells.heading, columns), "kind"]
        yield _grid(headings, (_measured(row, columns) for row in table.rows))
    else:
        yield "No entry yet."
    shared = "; ".join(f"{name} {plain(value)}" for name, value in sorted(table.protocol.items()))
    prints = ", ".join(
        f"{standing.board.column(key).title} {value}" for key, value in table.fingerprints.items()
    )
    notes = [*cells.table_notes(standing, table)]
    notes += [f"Protocol: {shared}"] if shared else []
    notes += [f"Fingerprints: {prints}"] if prints else []
    yield _bullets(notes)


def _measured(row: Row, columns: Sequence[Column]) -> list[str]:
    found = [_markdown_cell(cells.cell_of(row, column)) for column in columns]
    return [cells.rank_text(row), row.label, *found, cells.kind_of(row)]


def _reported(row: Row, columns: Sequence[Column]) -> list[str]:
    found = [_markdown_cell(cells.cell_of(row, column)) for column in columns]
    return [row.label, *found, "; ".join(filter(None, (row.source, *cells.row_notes(row))))]


def _markdown_cell(cell: Cell) -> str:
    said = " ".join(filter(None, (cells.value_text(cell), cells.interval_text(cell))))
    beside = "; ".join(cells.remarks(cell))
    return f"{said} ({beside})" if beside else said


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from tabulate import tabulate

    escaped = [[for_markdown(text) for text in row] for row in rows]
    heads = [for_markdown(text) for text in headings]
    return str(tabulate(escaped, headers=heads, tablefmt="github", disable_numparse=True))


def _bullets(notes: Iterable[str]) -> str:
    return "\n".join(f"- {for_markdown(note)}" for note in notes)


def board_csv(standing: Standing) -> str:
    """Write a board as CSV: values are plain numbers, and no spreadsheet finds a formula.

    One line a row of any table, reported ones included; a column of the board is seven here: its
    value, limits, denominator, excluded rollouts, whether it is partial, and its protocol.
    """
    to = io.StringIO()
    writer = csv.writer(to, lineterminator="\n")
    keys = [column.key for column in standing.board.columns]
    names = [f"{key}{part}" for key in keys for part in _PARTS]
    writer.writerow([_csv_text(name) for name in (*_FIELDS, *names)])
    for table in standing.tables:
        for row in table.rows:
            writer.writerow(_csv_row(standing, row, table.title))
    for row in standing.reported:
        writer.writerow(_csv_row(standing, row, "reported"))
    return to.getvalue()


def _csv_row(standing: Standing, row: Row, title: str) -> list[str]:
    entry = row.entry
    who = (entry.model, entry.revision, entry.date, entry.tseval_version) if entry else ("",) * 4
    rank = "" if row.rank is None else str(row.rank)
    found = [title, cells.kind_of(row), rank, row.label, *who, row.source]
    line = [_csv_text(text) for text in found]
    for column in standing.board.columns:
        line += _csv_cell(cells.cell_of(row, column))
    return line


def _csv_cell(cell: Cell) -> list[str]:
    there = cell.value is not None
    numbers = ["" if each is None else repr(each) for each in (cell.value, cell.low, cell.high)]
    lost = str(sum(cell.excluded.values())) if there or cell.excluded else ""
    partial = ("yes" if cell.partial else "no") if there else ""
    return [*numbers, str(cell.n) if cell.n else "", lost, partial, _csv_text(cell.fingerprint)]


def _csv_text(text: str) -> str:
    return for_csv(neutral(text))


def board_json(standing: Standing) -> str:
    """Write a board as JSON: everything that the tables show, without the rows' outcomes.

    ASCII throughout, so that printing the file does nothing to a terminal.
    """
    import msgspec

    whole = {
        "schema": BOARD_SCHEMA,
        "board": msgspec.to_builtins(standing.board),
        "tables": [
            {
                "title": table.title,
                "main": table.is_main,
                "ranked": table.ranked,
                "ranked_by": list(table.ranked_by),
                "protocol": table.protocol,
                "fingerprints": table.fingerprints,
                "rows": [_json_row(row) for row in table.rows],
            }
            for table in standing.tables
        ],
        "reported": [_json_row(row) for row in standing.reported],
        "notes": list(standing.notes),
    }
    return json.dumps(whole, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _json_row(row: Row) -> dict[str, Any]:
    import msgspec

    entry = row.entry
    found: dict[str, Any] = {
        "label": row.label,
        "slug": row.slug,
        "kind": cells.kind_of(row),
        "rank": row.rank,
        "why_unranked": row.why_unranked,
        "better_than": list(row.better_than),
        "beaten_by": list(row.beaten_by),
        "source": row.source,
        "notes": cells.row_notes(row),
        "cells": {key: msgspec.to_builtins(cell) for key, cell in row.cells.items()},
    }
    if entry is not None:
        named = ("model", "revision", "adapter", "intervention", "preset", "tseval_version")
        found["entry"] = {
            name: getattr(entry, name) for name in (*named, "commit", "date", "digest")
        }
    return found
