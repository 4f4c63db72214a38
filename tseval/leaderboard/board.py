"""Read ``board.toml``, and find the boards that there are."""

import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from tseval.errors import ConfigError
from tseval.files import BROKEN, read_toml
from tseval.plugins import Registry
from tseval.protocol import Protocol

from .records import Board, Column

_KEY = re.compile(r"[a-z0-9_]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HINT = "see docs/how-to/publish-a-board.md for a board that works"


def read_board(place: Path) -> Board:
    """Read a board.

    Args:
        place: Its folder, or the ``board.toml`` in it.

    Raises:
        ConfigError: The file is missing or broken, or a value makes no sense; names it.
    """
    file = place if place.name == "board.toml" else place / "board.toml"
    fields = read_toml(file, "board", _HINT)
    for name in ("name", "columns"):
        if name in fields:
            raise ConfigError(
                f"{file} holds the unknown key {name!r}",
                hint="a board has the name of its folder, and a [[column]] for each column",
            )
    unknown = sorted({*fields} - {*Board.__struct_fields__, "column"})
    if unknown:
        raise ConfigError(f"{file} holds the unknown key {unknown[0]!r}", hint=_HINT)
    columns = fields.pop("column", [])
    try:
        board = msgspec.convert(
            {**fields, "columns": columns, "name": file.resolve().parent.name}, type=Board
        )
    except BROKEN as error:
        where = str(error).replace("$.columns[", "$.column[")
        raise ConfigError(f"{file} is no board: {where}", hint=_HINT) from error
    board = msgspec.structs.replace(
        board,
        require=flat(board.require),
        columns=tuple(
            msgspec.structs.replace(column, require=flat(column.require))
            for column in board.columns
        ),
    )
    for fault in _faults(board):
        raise ConfigError(f"{file}: {fault}", hint=_HINT)
    return board


def flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Give nested fields with dots in their names: ``{"thinking": {"budget": 9}}``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        dotted = f"{before}{name}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{dotted}.")
        else:
            found[dotted] = value
    return found


def find_board(name: str, registry: Registry) -> Path:
    """Find a board's folder by a path or by the name that it is registered under.

    Raises:
        ConfigError: There is no such folder or name; near misses are suggested.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # nobody of that name
        raise ConfigError(f"no board in {name}: {error}", hint="name a folder") from None
    if path.name == "board.toml":
        path = path.parent
    if (path / "board.toml").is_file():
        return path
    if "/" in name or path.is_dir():
        raise ConfigError(
            f"no board in {path} (it has no board.toml)",
            hint="name a folder with a board.toml, or a board of `tseval ls leaderboards`",
        )
    return Path(registry.leaderboards[name])


def entry_files(folder: Path) -> list[Path]:
    """List the files of a board's entries, in the order of their names."""
    return sorted((folder / "entries").glob("*.json"))


def _faults(board: Board) -> Iterator[str]:
    """Say what makes no sense; the first one is shown."""
    if not _NAME.fullmatch(board.name):
        yield f"its folder's name {board.name!r} holds more than letters, digits and '._-'"
    if not board.title.strip():
        yield "it has no title"
    if not board.columns:
        yield "it has no [[column]]"
    keys = [column.key for column in board.columns]
    for column in board.columns:
        if not _KEY.fullmatch(column.key):
            yield f"the key {column.key!r} holds more than lower-case letters, digits and '_'"
        if keys.count(column.key) > 1:
            yield f"two columns have the key {column.key!r}"
    for column in board.columns:
        yield from _column_faults(board, column, keys)
    yield from _ranking_faults(board, keys)
    yield from _field_faults(board.require, "[require]")
    if not 1e-6 <= board.alpha < 0.5:
        yield f"alpha is {board.alpha}, expected a number from 1e-6 to 0.5"
    if not 0 <= board.max_excluded <= 1:
        yield f"max_excluded is {board.max_excluded}; it is a share, 0.02 is two percent"
    if board.min_n < 1:
        yield f"min_n is {board.min_n}, expected 1 or more"


def _column_faults(board: Board, column: Column, keys: list[str]) -> Iterator[str]:
    where = f"column {column.key!r}"
    if not column.title.strip():
        yield f"{where} has no title"
    if bool(column.mean_of) == bool(column.benchmark or column.metric):
        yield f"{where} needs a benchmark and a metric, or mean_of"
    yield from _field_faults(column.require, f"the require of {where}")
    if column.mean_of:
        if len(set(column.mean_of)) < max(2, len(column.mean_of)):
            yield f"{where} is the mean of fewer than two columns, or of one twice"
        if column.judge or column.group or column.require or column.rows:
            yield f"{where} is a mean: its judge, group, rows and require are those of its columns"
        for part in column.mean_of:
            if part not in keys:
                yield f"{where} is the mean of {part!r}, which is no column"
                return
            other = board.column(part)
            if other.mean_of:
                yield f"{where} is the mean of {part!r}, which is a mean itself"
            if (other.better, other.unit) != (column.better, column.unit):
                yield f"{where} is the mean of {part!r}, whose better end or unit is another"
        if column.unit != "share":
            yield f"{where} is a mean of other numbers than shares"
        return
    if column.rows < 0:
        yield f"{where} has {column.rows} rows"
    if not column.benchmark or not column.metric:
        yield f"{where} needs both a benchmark and a metric"
    if column.group == "average":
        yield f"{where} is a suite's average; name its benchmarks, and take mean_of them"
    same = [each.key for each in board.columns if _number(each) == _number(column)]
    if len(same) > 1:
        yield f"the columns {same[0]!r} and {same[1]!r} show the same number"


def _number(column: Column) -> tuple[str, ...]:
    if column.mean_of:
        return ("mean", *sorted(column.mean_of))
    return column.benchmark, column.group, column.metric, column.judge


def _ranking_faults(board: Board, keys: list[str]) -> Iterator[str]:
    if not board.rank_by:
        yield "rank_by names no column"
    for name in ("rank_by", "rank_else", "axes"):
        chosen: tuple[str, ...] = getattr(board, name)
        for key in chosen:
            if key not in keys:
                yield f"{name} names {key!r}, which is no column"
            elif chosen.count(key) > 1 and len(keys) > 1:
                yield f"{name} names {key!r} twice"
            elif name != "axes" and board.column(key).better == "neither":
                yield f"{name} names {key!r}, neither end of which is better"


def _field_faults(require: dict[str, Any], where: str) -> Iterator[str]:
    known = {*Protocol.__struct_fields__, "schema"}
    for name, value in require.items():
        if name.split(".")[0] not in known:
            yield f"{where} names {name!r}, which no protocol has"
        if isinstance(value, float) and not isfinite(value):
            yield f"{where} wants {name} to be {value}, which nothing is"
