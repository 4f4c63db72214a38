"""Entries to tables of rows, ranked: each protocol apart, and no rank that chance explains."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tseval.stats_compare import holm

from .cells import Numbers, misfits, numbers_of
from .pairs import Bench, better
from .records import Board, Cell, Entry, Row, Standing, Table

# Of a protocol, what says which number it is of and not how it was measured.
_OWN = ("benchmark", "benchmark_version", "content_hash", "metric", "metric_version", "group")
_NAMED_FIELDS = 3
_SHOWN_ONLY = "a demonstration, beside measured rows"


def standing(board: Board, entries: Sequence[Entry], reported: Sequence[Row] = ()) -> Standing:
    """Rank a board's entries.

    Rank = 1 + the number of rows significantly better. A row is better than another if it is shown
    to be better on one of the columns that the board ranks by, and worse on none; shown is what
    stands after Holm's adjustment over all pairs of the table's ranked rows and all of these
    columns. Tests are paired by prompt where both entries have outcomes. So the chance that any
    of several equal rows is ranked below another is at most ``board.alpha``. Demonstrations
    settle nothing for measured rows: neither their table, nor their ranks, nor the adjustment;
    where a measured row of a table can be ranked, its demonstrations are not.

    Args:
        board: The board.
        entries: In any order; what they say is trusted (see ``check``).
        reported: Rows of published figures (see ``reported``).
    """
    every = [numbers_of(board, entry) for entry in _ordered(entries)]
    notes = [
        f"{each.entry.label} has no number of this board and is left out"
        for each in every
        if not each.scores
    ]
    shown = [each for each in every if each.scores]
    names = _Names(reported)
    fitting = [each for each in shown if not misfits(board, each)]
    main, *further = _grouped(fitting, apart=False) or [[]]
    others = _grouped([each for each in shown if each not in main], apart=True)
    if further:
        notes.append(
            f"{sum(map(len, further))} entries fit the board's protocol but differ from the others"
            " in what it leaves open (such as the prompts): they stand in tables of their own"
        )
    tables = [_table(board, main, names, is_main=True)]
    tables += [_table(board, group, names, is_main=False) for group in others]
    return Standing(
        board=board,
        tables=(tables[0], *_titled(board, tables[0], tables[1:])),
        reported=tuple(reported),
        notes=tuple(notes),
    )


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.label.casefold(), entry.date, entry.digest))


def _grouped(numbers: list[Numbers], *, apart: bool) -> list[list[Numbers]]:
    """Group entries by protocol; demonstrations join the measured ones, or stand after them."""
    measured = [each for each in numbers if not each.entry.demonstration]
    groups = _alike(measured, apart=apart)
    left = [each for each in numbers if each.entry.demonstration]
    for group in groups:
        known = {key: value for each in group for key, value in each.fingerprints.items()}
        while joining := [each for each in left if _agree(known, each.fingerprints)]:
            known |= joining[0].fingerprints
            group.append(joining[0])
            left = [each for each in left if each is not joining[0]]
    return [*groups, *_alike(left, apart=apart)]


def _alike(numbers: list[Numbers], *, apart: bool) -> list[list[Numbers]]:
    """Group entries so that every column of a group has one protocol; larger groups first.

    Args:
        numbers: The entries.
        apart: Whether entries that share no column stay apart, as nothing says that they were
            measured alike.
    """
    left, groups = list(numbers), []
    while left:
        prints = [each.fingerprints for each in left]
        counts = [sum(_agree(one, other) for other in prints) for one in prints]
        order = sorted(range(len(left)), key=lambda n: (-counts[n], -len(prints[n]), n))
        known, group = dict(prints[order[0]]), {order[0]}
        # Whoever joins brings columns that let others join: until nobody does.
        while joining := [n for n in order if n not in group and _agree(known, prints[n])]:
            known |= prints[joining[0]]
            group.add(joining[0])
        for place in () if apart else order:
            if place not in group and not known.keys() & prints[place].keys():
                known |= prints[place]
                group.add(place)
        groups.append([left[place] for place in sorted(group)])
        left = [each for place, each in enumerate(left) if place not in group]
    return groups


def _agree(one: dict[str, str], other: dict[str, str]) -> bool:
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[key] == other[key] for key in shared)


# -- tables


def _table(board: Board, numbers: list[Numbers], names: "_Names", *, is_main: bool) -> Table:
    ranked_by = _ranked_by(board, numbers, is_main=is_main)
    rows = [_row(each, names) for each in numbers]
    if ranked_by:
        rows = _ranked(board, numbers, rows, ranked_by)
    headline = (ranked_by or board.rank_by)[0]
    return Table(
        title=board.title if is_main else "",
        is_main=is_main,
        protocol=_shared(numbers),
        fingerprints=_first({k: c.fingerprint for k, c in row.cells.items()} for row in rows),
        protocols=_first(
            {
                key: each.entry.protocols.get(score.fingerprint, {})
                for key, score in each.scores.items()
            }
            for each in numbers
        ),
        rows=tuple(sorted(rows, key=lambda row: _place(board, row, row.cells[headline]))),
        ranked=any(row.rank is not None for row in rows),
        ranked_by=ranked_by if any(row.rank is not None for row in rows) else (),
    )


def _first(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Put together what rows have by column; they agree where several have it."""
    known: dict[str, Any] = {}
    for each in found:
        known = {**{key: value for key, value in each.items() if value}, **known}
    return known


def _place(board: Board, row: Row, cell: Cell) -> tuple[int, bool, str, float, str]:
    """Order rows: by rank, then as the board orders ties, then by name; unranked ones last."""
    rank = row.rank if row.rank is not None else 1 << 30
    sign = -1 if cell.higher_is_better else 1
    value = sign * cell.value if cell.value is not None else 0.0
    blank, day = cell.value is None, ""
    if board.ties != "headline":
        blank, value = False, 0.0
    if board.ties == "date" and row.entry is not None:
        day = row.entry.date
    return rank, blank, day, value, row.label.casefold()


def _row(numbers: Numbers, names: "_Names") -> Row:
    entry = numbers.entry
    label, slug = names.give(entry.label, entry.digest)
    return Row(entry=entry, label=label, slug=slug, cells=numbers.cells, note=entry.note)


def _shared(numbers: list[Numbers]) -> dict[str, Any]:
    """Give the fields, with dots, that all numbers of all rows share."""
    every = [protocol for each in numbers for protocol in each.protocols.values()]
    if not every:
        return {}
    return {
        name: value
        for name, value in every[0].items()
        if name.split(".")[0] not in (*_OWN, "schema")
        and all(name in other and other[name] == value for other in every)
    }


def _titled(board: Board, main: Table, others: list[Table]) -> list[Table]:
    """Name the tables of other protocols by what is not the board's in them."""
    found: list[Table] = []
    for table in others:
        entry = next(row.entry for row in table.rows if row.entry is not None)
        faults = misfits(board, numbers_of(board, entry))
        shown = "; ".join(faults[:_NAMED_FIELDS]) or "other prompts or versions"
        more = len(faults) - _NAMED_FIELDS
        title = f"Other protocol: {shown}" + (f"; and {more} more" if more > 0 else "")
        found.append(msgspec.structs.replace(table, title=title))
    titles = Counter(table.title for table in found)
    return [
        msgspec.structs.replace(table, title=f"{table.title} ({place})")
        if titles[table.title] > 1
        else table
        for place, table in enumerate(found, start=1)
    ]


class _Names:
    """Gives rows labels and slugs that no other row of the board has."""

    def __init__(self, reported: Iterable[Row]) -> None:
        self._labels: set[str] = set()
        self._slugs = {row.slug for row in reported}

    def give(self, label: str, digest: str) -> tuple[str, str]:
        shown = label if label not in self._labels else f"{label} ({digest[:6]})"
        while shown in self._labels:
            shown += "'"
        self._labels.add(shown)
        return shown, self._slug(slug_of(label), digest)

    def _slug(self, slug: str, digest: str) -> str:
        found, number = slug, 1
        while found in self._slugs:
            number += 1
            found = f"{slug}-{digest[:6]}" if number == 2 else f"{slug}-{number}"
        self._slugs.add(found)
        return found


def slug_of(label: str) -> str:
    """Turn a label into lower-case letters, digits and dashes, fit for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", label.casefold())[:60].strip("-") or "entry"


# -- ranks


def _ranked_by(board: Board, numbers: list[Numbers], *, is_main: bool) -> tuple[str, ...]:
    choices = [board.rank_by] if is_main else [board.rank_by, board.rank_else]
    measured = [each for each in numbers if not each.entry.demonstration]
    for some in (measured, numbers):
        for keys in filter(None, choices):
            if any(not why_not(board, each.cells, keys) for each in some):
                return keys
    return board.rank_by if numbers else ()


def why_not(board: Board, cells: Mapping[str, Cell], keys: Sequence[str]) -> str:
    """Say why a row of these cells cannot be ranked by some columns; '' if it can."""
    for key in keys:
        column, cell = board.column(key), cells[key]
        if cell.value is None:
            return f"{column.title}: {cell.undefined}"
        for part in column.mean_of or (key,):
            found = cells[part]
            lost = sum(found.excluded.values())
            title = board.column(part).title
            if found.n < board.min_n:
                return f"{title}: n is {found.n}, the board asks for {board.min_n}"
            if lost > board.max_excluded * (found.n + lost):
                share, most = 100 * lost / (found.n + lost), 100 * board.max_excluded
                return f"{title}: {share:.1f}% of the rows are excluded, at most {most:g}% may be"
    return ""


def _ranked(
    board: Board, numbers: list[Numbers], rows: list[Row], keys: tuple[str, ...]
) -> list[Row]:
    why = [why_not(board, each.cells, keys) for each in numbers]
    if any(
        not reason and not one.entry.demonstration for one, reason in zip(numbers, why, strict=True)
    ):
        why = [
            reason or (_SHOWN_ONLY if each.entry.demonstration else "")
            for each, reason in zip(numbers, why, strict=True)
        ]
    able = [place for place, reason in enumerate(why) if not reason]
    beats = _beats(board, numbers, able, keys)
    found = []
    for place, row in enumerate(rows):
        if why[place]:
            found.append(msgspec.structs.replace(row, why_unranked=why[place]))
            continue
        beaten_by = tuple(rows[other].label for other in able if (other, place) in beats)
        found.append(
            msgspec.structs.replace(
                row,
                rank=1 + len(beaten_by),
                better_than=tuple(rows[o].label for o in able if (place, o) in beats),
                beaten_by=beaten_by,
            )
        )
    return found


def _beats(
    board: Board, numbers: list[Numbers], able: list[int], keys: tuple[str, ...]
) -> set[tuple[int, int]]:
    """Find the ordered pairs of which the first is better on a column and worse on none."""
    bench = Bench(board, numbers)
    pairs = [(one, other) for n, one in enumerate(able) for other in able[n + 1 :]]
    tests = [(pair, key, bench.test(*pair, key)) for pair in pairs for key in keys]
    adjusted = holm([tested.pvalue for _, _, tested in tests])
    signs: dict[tuple[int, int], set[int]] = {pair: set() for pair in pairs}
    for (pair, key, tested), p in zip(tests, adjusted, strict=True):
        if p <= board.alpha:
            signs[pair].add(better(board.column(key), tested))
    found = {pair for pair, said in signs.items() if 1 in said and -1 not in said}
    return found | {
        (other, one) for (one, other), said in signs.items() if -1 in said and 1 not in said
    }
