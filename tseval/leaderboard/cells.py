"""The numbers of an entry on a board, and whether they were measured as the board wants it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from math import fsum
from typing import Any, NamedTuple

from tseval.outcomes import key_of
from tseval.types import Estimate, Score

from .board import flat
from .records import Board, Cell, Column, Entry

_HASH = re.compile(r"[0-9a-f]{40,64}")
_SHOWN_DIGITS = 12


class Numbers(NamedTuple):
    """An entry as a board shows it.

    Attributes:
        entry: The entry.
        cells: By column key; every column has one.
        scores: Behind the cells that are no means, by column key.
        protocols: Of those, with dots in their names.
    """

    entry: Entry
    cells: dict[str, Cell]
    scores: dict[str, Score]
    protocols: dict[str, dict[str, Any]]

    @property
    def fingerprints(self) -> dict[str, str]:
        """By column key, of the columns that it was measured in; without means."""
        return {key: score.fingerprint for key, score in self.scores.items()}


def numbers_of(board: Board, entry: Entry) -> Numbers:
    """Put an entry's scores into the columns of a board."""
    scores: dict[str, Score] = {}
    cells: dict[str, Cell] = {}
    paired = {series.key for series in entry.outcomes.series}
    for column in board.columns:
        if column.mean_of:
            continue
        found = score_of(column, entry)
        if isinstance(found, Score):
            scores[column.key] = found
            cells[column.key] = _cell(column, found, has_rows=key_of(found) in paired)
        else:
            cells[column.key] = _blank(column, found)
    cells |= means_of(board, cells)
    return Numbers(
        entry=entry,
        cells={column.key: cells[column.key] for column in board.columns},
        scores=scores,
        protocols={
            key: flat(entry.protocols.get(score.fingerprint, {})) for key, score in scores.items()
        },
    )


def score_of(column: Column, entry: Entry) -> Score | str:
    """Find the score that a column shows of an entry; else say why there is none.

    That of the board's judge, or else of the only judge there is.
    """
    wanted = column.benchmark, column.group, column.metric
    every = [
        score
        for score in entry.scores
        if (score.benchmark, score.group, score.metric) == wanted and not score.member
    ]
    own = [score for score in every if score.judge == column.judge]
    chosen = own if column.judge and own else every
    if not chosen:
        return "not measured"
    if len(chosen) > 1:
        return f"judged by several: {', '.join(score.judge for score in chosen)}"
    return chosen[0]


def means_of(board: Board, cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Make the cells of the board's means from those of their columns."""
    return {
        column.key: _mean(board, column, {key: cells[key] for key in column.mean_of})
        for column in board.columns
        if column.mean_of
    }


def misfits(board: Board, numbers: Numbers) -> list[str]:
    """Say in what an entry's numbers were measured otherwise than the board wants it."""
    found: dict[str, list[str]] = {}
    for key, score in numbers.scores.items():
        for fault in _misfits(board, board.column(key), score, numbers.protocols[key]):
            found.setdefault(fault, []).append(key)
    every = len(numbers.scores)
    return [
        fault if len(keys) == every else f"{fault} ({', '.join(keys)})"
        for fault, keys in found.items()
    ]


def _misfits(board: Board, column: Column, score: Score, protocol: dict[str, Any]) -> Iterator[str]:
    # A label is what a run calls a judge; the protocol says which one it was.
    named, known = column.judge.partition("(")[0], protocol.get("judge.name")
    if column.judge and score.judge != column.judge:
        yield f"judge is {score.judge or 'none'}, not {column.judge}"
    elif column.judge and known != named:
        yield f"judge is {known} (called {score.judge}), not {column.judge}"
    wanted = {**board.require, **column.require}
    if score.partial and "limit" not in wanted:
        yield f"limit is {protocol.get('limit')}, not all rows"
    for name, value in wanted.items():
        if not _same(_below(protocol, name), value):
            yield f"{name} is {_said(_below(protocol, name))}, not {_said(value)}"


def _below(protocol: dict[str, Any], name: str) -> Any:
    if name in protocol:
        return protocol[name]
    inside = {key: value for key, value in protocol.items() if key.startswith(f"{name}.")}
    return inside or None


def _same(found: Any, wanted: Any) -> bool:
    # True is 1 to Python, but not to whoever wrote the file.
    return bool(found == wanted) and isinstance(found, bool) is isinstance(wanted, bool)


def _said(value: Any) -> str:
    said = "not there" if value is None else str(value)
    # Of a hash, the beginning tells it from others.
    return said[:_SHOWN_DIGITS] if _HASH.fullmatch(said) else said


def _blank(column: Column, why: str) -> Cell:
    return Cell(unit=column.unit, higher_is_better=column.higher_is_better, undefined=why)


def _cell(column: Column, score: Score, *, has_rows: bool) -> Cell:
    estimate = score.estimate
    return Cell(
        value=estimate.value if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        n=score.n,
        excluded=score.excluded,
        bounds=score.bounds,
        unit=column.unit,
        higher_is_better=column.higher_is_better,
        undefined="" if estimate else score.undefined or "undefined",
        fingerprint=score.fingerprint,
        judge=score.judge,
        partial=score.partial,
        has_rows=has_rows,
    )


def _mean(board: Board, column: Column, parts: dict[str, Cell]) -> Cell:
    missing = [key for key, cell in parts.items() if cell.value is None]
    if missing:
        return _blank(column, f"needs {', '.join(missing)}")
    low, high = _limits(board, parts)
    excluded: Counter[str] = Counter()
    for cell in parts.values():
        excluded.update(cell.excluded)
    bounds = [cell.bounds for cell in parts.values() if cell.bounds is not None]
    judges = dict.fromkeys(cell.judge for cell in parts.values())
    return Cell(
        value=fsum(cell.value or 0.0 for cell in parts.values()) / len(parts),
        low=low,
        high=high,
        n=sum(cell.n for cell in parts.values()),
        excluded=dict(sorted(excluded.items())),
        bounds=(
            (fsum(pair[0] for pair in bounds) / len(parts), fsum(b[1] for b in bounds) / len(parts))
            if len(bounds) == len(parts)
            else None
        ),
        unit=column.unit,
        higher_is_better=column.higher_is_better,
        fingerprint=_joint(parts),
        judge=", ".join(filter(None, judges)),
        partial=any(cell.partial for cell in parts.values()),
        has_rows=all(cell.has_rows for cell in parts.values()),
        note="; ".join(dict.fromkeys(cell.note for cell in parts.values() if cell.note)),
    )


def _limits(board: Board, parts: dict[str, Cell]) -> tuple[float | None, float | None]:
    """Give the limits of a mean of rates; None where a reported one has none.

    Benchmarks are taken for independent of each other. Columns of one benchmark have the same rows
    and are taken for wholly dependent: their own mean is as wide as they are.
    """
    from tseval.stats import mover_mean

    estimates: dict[str, list[Estimate]] = {}
    for key, cell in parts.items():
        if cell.value is None or cell.low is None or cell.high is None:
            return None, None
        # What can be negative, such as a change, is not bounded as means of rates are.
        if cell.low < 0 or cell.high > 1:
            return None, None
        found = Estimate(value=cell.value, low=cell.low, high=cell.high)
        estimates.setdefault(board.column(key).benchmark, []).append(found)
    together = [
        Estimate(
            value=fsum(each.value for each in same) / len(same),
            low=fsum(each.low for each in same) / len(same),
            high=fsum(each.high for each in same) / len(same),
        )
        for same in estimates.values()
    ]
    made = mover_mean(together, [len(same) for same in estimates.values()])
    return made.low, made.high


def _joint(parts: dict[str, Cell]) -> str:
    named = "\n".join(f"{key}\t{cell.fingerprint}" for key, cell in sorted(parts.items()))
    return sha256(named.encode()).hexdigest()[:12]
