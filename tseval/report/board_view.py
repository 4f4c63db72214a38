"""A board as its web pages show it: tables, cells and facts as plain values for the templates."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tseval.leaderboard.records import Board, Cell, Column, Row, Standing, Table
from tseval.report import board_cells as cells
from tseval.report import values

_ARXIV = re.compile(r"\barXiv:? ?(\d{4}\.\d{4,5})\b", re.IGNORECASE)
_SHORT = 10


class Head(NamedTuple):
    """The heading of a column.

    Attributes:
        title, arrow, direction: What it is, and which end is better, as a sign and in words.
        below: Benchmark, metric and judge.
        anchor: Of its protocol on the page, or ''.
        fingerprint: Of that protocol.
        first: How the first click sorts: the best first.
        is_rank: Whether rows are ranked by it.
    """

    title: str
    arrow: str
    direction: str
    below: str
    anchor: str
    fingerprint: str
    first: str
    is_rank: bool


class Bar(NamedTuple):
    """An interval between 0 and 1, drawn: percent from the left."""

    left: str
    width: str
    at: str


class Spot(NamedTuple):
    """One cell as text.

    Attributes:
        value, interval, n: As they are read.
        lost: Rollouts that left the denominator, or ''.
        missing: Why there is no value, or ''.
        measured: Whether there should be one.
        partial: Whether the benchmark was cut.
        note: What else there is to know.
        key: What it sorts by; '' for nothing, which comes last.
        bar: Its interval, where that lies between 0 and 1.
    """

    value: str
    interval: str = ""
    n: str = ""
    lost: str = ""
    missing: str = ""
    measured: bool = False
    partial: bool = False
    note: str = ""
    key: str = ""
    bar: Bar | None = None


class Line(NamedTuple):
    """One row.

    Attributes:
        label: What it is called.
        page: Of its model, without folder and suffix; '' for reported ones.
        kind: What it is.
        about: Revision, adapter, intervention, in few words.
        rank, key: Its rank as text, and what it sorts by.
        why: Why it has no rank.
        beaten_by, better_than: Rows that it is significantly worse and better than.
        spots: Its cells.
        source: Where it was published, as pieces of text and links.
        notes: What else there is to know.
    """

    label: str
    page: str
    kind: str
    about: Sequence[str]
    rank: str
    key: str
    why: str
    beaten_by: Sequence[str]
    better_than: Sequence[str]
    spots: Sequence[Spot]
    source: Sequence[tuple[str, str]]
    notes: Sequence[str]


class Panel(NamedTuple):
    """One table of the page.

    Attributes:
        anchor: Where links to it lead.
        title: What it shows.
        heads, lines: Its columns and rows.
        notes: What belongs below it.
        ranked, reported: What kind of table it is.
        protocol: The fields that its numbers share.
        columns: Title, anchor, fingerprint and fields of each column's protocol.
    """

    anchor: str
    title: str
    heads: Sequence[Head]
    lines: Sequence[Line]
    notes: Sequence[str]
    ranked: bool
    reported: bool
    protocol: Sequence[tuple[str, str]] = ()
    columns: Sequence[tuple[str, str, str, Sequence[tuple[str, str]]]] = ()


def panels(standing: Standing, pages: dict[str, str]) -> list[Panel]:
    """Lay the tables of a board out; the reported ones come last.

    Args:
        standing: The board.
        pages: Names of the models' pages, by slug.
    """
    found = [
        _panel(standing, table, number, pages) for number, table in enumerate(standing.tables, 1)
    ]
    if standing.reported:
        found.append(_reported(standing))
    return found


def _panel(standing: Standing, table: Table, number: int, pages: dict[str, str]) -> Panel:
    columns = cells.columns_of(standing, table.rows)
    anchor = f"table-{number}"
    return Panel(
        anchor=anchor,
        title=table.title,
        heads=[head(column, standing.board, table, anchor) for column in columns],
        lines=[line(row, columns, pages.get(row.slug, "")) for row in table.rows],
        notes=list(cells.table_notes(standing, table, whys=False)),
        ranked=table.ranked,
        reported=False,
        protocol=flat(table.protocol),
        columns=[
            (
                column.title,
                _anchor(anchor, standing.board, column),
                table.fingerprints[column.key],
                flat(table.protocols.get(column.key, {})),
            )
            for column in standing.board.columns
            if column.key in table.fingerprints
        ],
    )


def _reported(standing: Standing) -> Panel:
    columns = cells.columns_of(standing, standing.reported)
    return Panel(
        anchor="reported",
        title="Reported by others",
        heads=[head(column, standing.board, None, "") for column in columns],
        lines=[line(row, columns, "") for row in standing.reported],
        notes=[cells.REPORTED],
        ranked=False,
        reported=True,
    )


def head(column: Column, board: Board, table: Table | None, anchor: str) -> Head:
    """Lay out a column's heading; without a table it has no protocol."""
    # Not the board's own judge: rows of other protocols may have another.
    judges = cells.judges(table, column) if table else ()
    below = [column.benchmark, column.group, column.metric, *judges]
    if column.mean_of:
        below = [f"mean of {len(column.mean_of)}"]
    print_ = table.fingerprints.get(column.key, "") if table else ""
    return Head(
        title=column.title,
        arrow=values.arrow(column.higher_is_better),
        direction=cells.direction(column),
        below=" · ".join(filter(None, below)),
        anchor=_anchor(anchor, board, column) if print_ else "",
        fingerprint=print_,
        first="descending" if column.higher_is_better else "ascending",
        is_rank=table is not None and column.key in table.ranked_by,
    )


def _anchor(table: str, board: Board, column: Column) -> str:
    # By its place: a key is text that somebody wrote.
    return f"{table}-protocol-{board.columns.index(column) + 1}"


def line(row: Row, columns: Sequence[Column], page: str) -> Line:
    """Lay out a row."""
    return Line(
        label=row.label,
        page=page,
        kind=cells.kind_of(row),
        about=list(_about(row)),
        rank=cells.rank_text(row),
        key="" if row.rank is None else str(row.rank),
        why=row.why_unranked,
        beaten_by=row.beaten_by,
        better_than=row.better_than,
        spots=[spot(cells.cell_of(row, column)) for column in columns],
        source=linked(row.source),
        notes=cells.row_notes(row),
    )


def _about(row: Row) -> Iterator[str]:
    entry = row.entry
    if entry is None:
        return
    if entry.model != row.label:
        yield entry.model
    if entry.revision:
        yield f"@{entry.revision[:_SHORT]}"
    if entry.adapter:
        yield f"adapter {entry.adapter}"
    if entry.intervention:
        yield f"under {entry.intervention}"
    if entry.system_prompt_hash:
        yield f"system prompt {entry.system_prompt_hash[:6]}"
    if not entry.verified:
        yield "unverified server"


def spot(cell: Cell) -> Spot:
    """Lay out a cell."""
    return Spot(
        value=cells.value_text(cell),
        interval=cells.interval_text(cell),
        n=str(cell.n) if cell.n else "",
        lost=cells.lost_text(cell),
        missing=cell.undefined if cell.value is None else "",
        measured=cells.is_measured(cell),
        partial=cell.partial,
        note=cell.note,
        key="" if cell.value is None else repr(cell.value),
        bar=bar(cell.value, cell.low, cell.high),
    )


def bar(value: float | None, low: float | None, high: float | None) -> Bar | None:
    """Place an interval on a line from 0 to 1; None where it is not on it."""
    if value is None or low is None or high is None:
        return None
    # A limit at the value itself may have come out a rounding error beyond it.
    low, value, high = (round(each, 6) for each in (low, value, high))
    if not 0 <= low <= value <= high <= 1:
        return None
    return Bar(f"{100 * low:.2f}%", f"{100 * (high - low):.2f}%", f"{100 * value:.2f}%")


def linked(source: str) -> list[tuple[str, str]]:
    """Cut a source into pieces of text and their links, '' for most; arXiv numbers have one."""
    found = []
    at = 0
    for match in _ARXIV.finditer(source):
        if match.start() > at:
            found.append((source[at : match.start()], ""))
        found.append((match.group(), f"https://arxiv.org/abs/{match.group(1)}"))
        at = match.end()
    return [*found, (source[at:], "")] if source[at:] else found


def flat(fields: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    """List nested fields by dotted names, sorted; those that say nothing are left out."""
    found: list[tuple[str, str]] = []
    for name, value in sorted(fields.items()):
        if isinstance(value, dict):
            found += flat(value, f"{path}{name}.")
        elif value not in (None, "", [], ()):
            found.append((f"{path}{name}", plain(value)))
    return found


def plain(value: Any) -> str:
    """Write a setting as people do."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
