"""Figures that others published, as rows that are shown beside measured ones and never ranked."""

from pathlib import Path

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError
from tseval.files import read_json

from .cells import means_of
from .rank import slug_of
from .records import Board, Cell, Row

_COMPUTED = "computed here from the reported columns"


class Figure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of ``reported.json``.

    Attributes:
        label: What tables call it.
        source: Which of the file's sources it is from.
        values: By column key, in the column's unit: shares are fractions in [0, 1].
        note: What a reader has to know of it.
    """

    label: str
    source: str
    values: dict[str, float]
    note: str = ""


class Reported(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``reported.json`` of a board.

    Attributes:
        sources: Where figures were published and how they were measured, by a short name.
        rows: In table order.
    """

    sources: dict[str, str]
    rows: tuple[Figure, ...]


def reported_rows(board: Board, folder: Path) -> tuple[Row, ...]:
    """Read a board's reported figures; none where it has no ``reported.json``.

    Raises:
        ConfigError: The file is broken, or names a source or column that is not there.
    """
    file = folder / "reported.json"
    try:
        found = read_json(file, Reported)
    except FileNotFoundError:
        return ()
    slugs: set[str] = set()
    rows = []
    for figure in found.rows:
        plain = slug = f"reported-{slug_of(figure.label)}"
        number = 1
        while slug in slugs:
            number += 1
            slug = f"{plain}-{number}"
        slugs.add(slug)
        rows.append(_row(board, figure, found.sources, slug, file))
    return tuple(rows)


def _row(board: Board, figure: Figure, sources: dict[str, str], slug: str, file: Path) -> Row:
    where = f"{file}, {figure.label!r}"
    if figure.source not in sources:
        raise ConfigError(f"{where}: the source {figure.source!r} is not among its sources")
    known = {column.key: column for column in board.columns}
    cells = {}
    for key, value in figure.values.items():
        if key not in known:
            raise ConfigError(f"{where}: {key!r} is no column of the board {board.name!r}")
        if known[key].unit == "share" and not -1 <= value <= 1:
            raise ConfigError(f"{where}: {key} is {value}; shares are fractions, 0.5 is 50%")
        cells[key] = Cell(
            value=value, unit=known[key].unit, higher_is_better=known[key].higher_is_better
        )
    blank = {
        key: Cell(
            unit=column.unit, higher_is_better=column.higher_is_better, undefined="not reported"
        )
        for key, column in known.items()
    }
    means = {
        key: msgspec.structs.replace(cell, note=_COMPUTED, fingerprint="")
        for key, cell in means_of(board, {**blank, **cells}).items()
        if cell.value is not None
    }
    return Row(
        label=figure.label,
        slug=slug,
        cells={**blank, **means, **cells},
        why_unranked="reported by others, not measured here",
        source=sources[figure.source],
        note=figure.note,
    )
