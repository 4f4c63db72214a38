"""What the cells of a board say, in the words that all of its outputs share."""

from collections.abc import Iterable, Iterator
from typing import Literal

from tseval.leaderboard.records import Cell, Column, Row, Standing, Table
from tseval.report import values
from tseval.types import Estimate

Kind = Literal["measured", "demonstration", "reported"]
# How a rank comes about, in a sentence that fits below any table.
RANKS = "Rank: 1 + the rows that are shown to be significantly better"
TIES = {
    "headline": "in the order of its first column",
    "label": "in the order of their names",
    "date": "in the order of their dates",
}
REPORTED = (
    "Figures that others published, under protocols of their own: beside the board, never ranked"
    " with what was measured"
)


def value_text(cell: Cell) -> str:
    """Write a cell's value: '12.3%', '0.871', or '-'."""
    return values.value(cell.value, cell.unit)


def interval_text(cell: Cell) -> str:
    """Write a cell's interval, or '' where it has none."""
    if cell.value is None or cell.low is None or cell.high is None:
        return ""
    return values.interval(Estimate(value=cell.value, low=cell.low, high=cell.high), cell.unit)


def lost_text(cell: Cell) -> str:
    """Say what left the denominator, and what the value would be with it; '' if nothing did."""
    lost = {reason: count for reason, count in cell.excluded.items() if count}
    if not lost:
        return ""
    said = f"{sum(lost.values())} excluded ({values.counts(lost)})"
    if cell.bounds is None:
        return said
    low, high = (values.value(end, cell.unit) for end in cell.bounds)
    return f"{said}: {low} to {high} with them"


def remarks(cell: Cell) -> list[str]:
    """Say all that belongs beside a value: denominator, what was lost, and what is cut."""
    found = [f"n {cell.n}"] if cell.n else []
    found += filter(None, (lost_text(cell), cell.undefined if is_measured(cell) else ""))
    return [*found, "partial"] if cell.partial else found


def heading(column: Column) -> str:
    """Write a column's title with the direction that is better."""
    return f"{column.title} {values.arrow(column.higher_is_better)}"


def direction(column: Column) -> str:
    """Say which end of a column is better."""
    return {
        "lower": "lower is better",
        "higher": "higher is better",
        "neither": "neither end is better",
    }[column.better]


def columns_of(standing: Standing, rows: Iterable[Row]) -> list[Column]:
    """List the columns that any of the rows has, in the board's order."""
    rows = list(rows)
    return [
        column
        for column in standing.board.columns
        if any(is_measured(cell_of(row, column)) for row in rows)
    ]


def missing_columns(standing: Standing, table: Table) -> list[Column]:
    """List the columns that no row of a table has anything of."""
    found = {column.key for column in columns_of(standing, table.rows)}
    return [column for column in standing.board.columns if column.key not in found]


def is_measured(cell: Cell) -> bool:
    """Say whether a number was measured or reported, also where it came out undefined."""
    return cell.value is not None or bool(cell.fingerprint or cell.n)


def cell_of(row: Row, column: Column) -> Cell:
    """Look a row's cell up; one without a value where it has none."""
    found = row.cells.get(column.key)
    return found or Cell(unit=column.unit, higher_is_better=column.higher_is_better)


def kind_of(row: Row) -> Kind:
    """Say what a row is: measured, a demonstration, or reported by others."""
    if row.entry is None:
        return "reported"
    return "demonstration" if row.entry.demonstration else "measured"


def rank_text(row: Row) -> str:
    """Write a rank, or '-' for a row without one."""
    return "-" if row.rank is None else str(row.rank)


def titles(standing: Standing, keys: Iterable[str]) -> str:
    """Name columns by their titles."""
    return ", ".join(standing.board.column(key).title for key in keys)


def table_notes(standing: Standing, table: Table, *, whys: bool = True) -> Iterator[str]:
    """Say what a reader of one table has to know, one sentence each.

    Args:
        standing: The board.
        table: One of its tables.
        whys: Also say why rows have no rank.
    """
    if table.ranked:
        ties = standing.board.ties
        yield (
            f"{RANKS}: on one of {titles(standing, table.ranked_by)}, and worse on none; at alpha"
            f" {standing.board.alpha:g} with Holm's adjustment over all pairs and columns; paired"
            f" by prompt where both rows can be; rows that share a rank stand {TIES[ties]}"
        )
    judged = {c.title: judges(table, c) for c in columns_of(standing, table.rows)}
    if any(judged.values()):
        said = (f"{title} {', '.join(names)}" for title, names in judged.items() if names)
        yield f"Judges: {'; '.join(said)}"
    missing = missing_columns(standing, table)
    if table.rows and missing:
        yield f"No row has {', '.join(column.title for column in missing)}"
    for row in table.rows:
        if whys and row.why_unranked:
            yield f"{row.label} is not ranked: {row.why_unranked}"
    for column in columns_of(standing, table.rows):
        if column.note:
            yield f"{column.title}: {column.note}"
    shown = {row.label: row.cells.values() for row in table.rows}
    for label, cells in shown.items():
        for note in dict.fromkeys(cell.note for cell in cells if cell.note):
            yield f"{label}: {note}"


def judges(table: Table, column: Column) -> list[str]:
    """Name the judges whose verdicts a column of a table is made of."""
    found = (cell_of(row, column) for row in table.rows)
    return list(dict.fromkeys(cell.judge for cell in found if cell.judge and is_measured(cell)))


def row_notes(row: Row) -> list[str]:
    """Say what belongs to a row: its own remark, and its author's."""
    said = (row.note, row.entry.note if row.entry else "")
    return list(dict.fromkeys(filter(None, said)))
