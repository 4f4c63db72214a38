"""What is drawn of a board: what two columns trade against each other, and what probes found."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from tseval.leaderboard.rank import why_not
from tseval.leaderboard.records import Board, Column, Entry, Row, Standing, Table
from tseval.report import board_cells as cells
from tseval.report import values
from tseval.report.interactive import figure
from tseval.report.plots import COLOURS, Plot, Series, file_name
from tseval.report.text import neutral, shortened
from tseval.types import Score, Unit

# More names than this would cover each other; those on the front keep theirs.
_NAMED = 14
_LONGEST = 26
# The page puts its own colours in their place: it knows whether it is dark.
_ACCENT, _SOFT, _FAINT = "@accent", "@soft", "@line"
# Between the marks of two series at one place.
_APART = 0.08


class Drawn(NamedTuple):
    """A figure of a page.

    Attributes:
        figure: Name, data and layout, as plotly.js takes them.
        title: Its heading.
        said: What it shows, in a sentence, for those who cannot see it.
        headings, rows: Its data as a table.
    """

    figure: dict[str, Any]
    title: str
    said: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


# -- trading one column against another


def pareto_plots(standing: Standing) -> list[Drawn]:
    """Draw the rows of each table: on the board's two axes, and against an ability.

    No plot has rows of two protocols, nor reported ones: they cannot be compared. A table of which
    fewer than two rows have both numbers has none.
    """
    found: list[Drawn] = []
    for table in standing.tables:
        for x, y in _pairs(standing, table.rows):
            placed = [row for row in table.rows if _is_placed(row, x, y)]
            if len(placed) > 1:
                apart = _apart(standing.board, table, placed, (x, y))
                drawn = _pareto(f"pareto-{len(found) + 1}", x, y, placed, apart)
                found.append(_told(drawn, table, placed))
    return found


def _apart(
    board: Board, table: Table, rows: Sequence[Row], axes: tuple[Column, Column]
) -> frozenset[int]:
    """Find the rows that are shown but neither on a front nor before one.

    Those without a rank, and those whose numbers of these axes the board would not rank: a rank may
    rest on other columns. In a table without ranks the demonstrations beside measured rows are.
    """
    kinds, keys = [cells.kind_of(row) for row in rows], [column.key for column in axes]
    return frozenset(
        place
        for place, row in enumerate(rows)
        if (table.ranked and row.rank is None)
        or (not table.ranked and kinds[place] == "demonstration" and "measured" in kinds)
        or why_not(board, row.cells, keys)
    )


def _told(drawn: Drawn, table: Table, rows: Sequence[Row]) -> Drawn:
    """Say of a plot which table it is of, and that it is of demonstrations."""
    title, said = drawn.title, drawn.said
    if not table.is_main:
        title = f"{title}. {table.title}"
    if all(cells.kind_of(row) == "demonstration" for row in rows):
        title, said = f"{title} (demonstrations)", f"{said} All rows are demonstrations."
    return drawn._replace(title=title, said=said)


def _pairs(standing: Standing, rows: Sequence[Row]) -> list[tuple[Column, Column]]:
    """List the axes of the board; and its second one against the ability that most rows have."""
    board = standing.board
    first, second = (board.column(key) for key in board.axes)
    pairs = [(first, second)]
    abilities = [each for each in board.columns if each.better == "higher" and each != second]
    placed = {
        each.key: sum(_is_placed(row, each, second) for row in rows)
        for each in abilities
        if each != first
    }
    best = max(placed, key=lambda key: placed[key], default="")
    return [*pairs, (board.column(best), second)] if best and placed[best] else pairs


def _is_placed(row: Row, x: Column, y: Column) -> bool:
    return all(cells.cell_of(row, column).value is not None for column in (x, y))


def front(points: Sequence[tuple[float, float]], better: tuple[bool, bool]) -> list[int]:
    """Find the points that no other one beats: none is at least as good on both and better on one.

    Args:
        points: Pairs of values.
        better: Whether higher is better, of each of the two.

    Returns:
        Places in ``points``, along the first value.
    """
    signs = tuple(1 if higher else -1 for higher in better)
    scaled = [(signs[0] * x, signs[1] * y) for x, y in points]
    kept = [
        place
        for place, (x, y) in enumerate(scaled)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in scaled)
    ]
    return sorted(kept, key=lambda place: points[place])


def _pareto(name: str, x: Column, y: Column, rows: Sequence[Row], apart: frozenset[int]) -> Drawn:
    ends = [(_number(row, x), _number(row, y)) for row in rows]
    on = _front_of(ends, (x.higher_is_better, y.higher_is_better), apart)
    others = [n for n in range(len(rows)) if n not in (on or []) and n not in apart]
    data = []
    if on is not None:
        data.append(_front_line([ends[place] for place in on]))
        data.append(_points("on the front", x, y, rows, on, len(rows), is_front=True))
    if others:
        label = "not on the front" if on is not None else "rows"
        data.append(_points(label, x, y, rows, others, len(rows), is_front=False))
    if apart:
        aside = _points("not compared", x, y, rows, sorted(apart), len(rows), is_front=False)
        aside["marker"]["symbol"] = [f"{mark}-open" for mark in aside["marker"]["symbol"]]
        data.append(aside)
    layout = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 20, "t": 16, "b": 56},
        "hovermode": "closest",
        "legend": {"orientation": "h"},
        "showlegend": on is not None or bool(apart),
        "xaxis": _axis(x, rows),
        "yaxis": _axis(y, rows),
    }
    headings = ["model", x.title, y.title, "on the front"]
    stands = {**dict.fromkeys(on or (), "yes"), **dict.fromkeys(apart, "not compared")}
    table = [
        [row.label, _said(row, x), _said(row, y), stands.get(place, "no")]
        for place, row in enumerate(rows)
    ]
    return Drawn(
        {"name": name, "data": data, "layout": layout},
        f"{y.title} against {x.title}",
        _front_said(x, y, rows, on, apart),
        headings if on is not None else headings[:3],
        table if on is not None else [line[:3] for line in table],
    )


def _front_of(
    ends: Sequence[tuple[float, float]],
    directions: tuple[bool | None, bool | None],
    apart: frozenset[int],
) -> list[int] | None:
    """Find the front of the rows that are not apart; None where an axis has no better end."""
    if None in directions:
        return None
    able = [place for place in range(len(ends)) if place not in apart]
    better = (bool(directions[0]), bool(directions[1]))
    return [able[n] for n in front([ends[place] for place in able], better)]


def _front_said(
    x: Column, y: Column, rows: Sequence[Row], on: Sequence[int] | None, apart: frozenset[int]
) -> str:
    start = f"{x.title} ({cells.direction(x)}) and {y.title} ({cells.direction(y)})"
    counted = f"{start} of {len(rows)} {'row' if len(rows) == 1 else 'rows'}, with 95% intervals."
    if apart:
        names = ", ".join(rows[place].label for place in sorted(apart))
        counted += f" Drawn hollow, not compared and beside the front: {names}."
    if not on:
        return counted
    names = ", ".join(rows[place].label for place in on)
    return (
        f"{counted} On the front, where no other row is as good on both and better on one: {names}."
        " The front is drawn through the values and knows nothing of their intervals."
    )


def _number(row: Row, column: Column) -> float:
    value = cells.cell_of(row, column).value
    assert value is not None
    return value


def _front_line(ends: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in ends],
        "y": [y for _, y in ends],
        "line": {"color": _ACCENT, "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _points(
    label: str,
    x: Column,
    y: Column,
    rows: Sequence[Row],
    places: Sequence[int],
    total: int,
    *,
    is_front: bool,
) -> dict[str, Any]:
    # A legend shows the symbol of the first one: not that of a demonstration, if there are others.
    chosen = sorted(
        (rows[place] for place in places), key=lambda row: cells.kind_of(row) != "measured"
    )
    colour = _ACCENT if is_front else _SOFT
    middle = sum(_axis(x, rows)["range"]) / 2
    named = is_front or total <= _NAMED
    side = "bottom" if is_front and not y.higher_is_better else "top"
    return {
        "type": "scatter",
        "mode": "markers+text" if named else "markers",
        "name": label,
        "x": [_number(row, x) for row in chosen],
        "y": [_number(row, y) for row in chosen],
        "error_x": _whiskers(chosen, x, colour),
        "error_y": _whiskers(chosen, y, colour),
        "marker": {
            "size": 10,
            "color": colour,
            "symbol": ["circle" if cells.kind_of(row) == "measured" else "diamond"
                       for row in chosen],
        },
        "text": [_text(neutral(shortened(row.label, _LONGEST))) for row in chosen],
        # Names lean towards the middle, where there is room; those of the front away from others.
        "textposition": [f"{side} {'left' if _number(row, x) > middle else 'right'}"
                         for row in chosen],
        "hoverinfo": "text",
        "hovertext": [_hover(row, x, y) for row in chosen],
    }  # fmt: skip


def _whiskers(rows: Sequence[Row], column: Column, colour: str) -> dict[str, Any]:
    found = [cells.cell_of(row, column) for row in rows]
    above = [0 if c.high is None or c.value is None else max(c.high - c.value, 0) for c in found]
    below = [0 if c.low is None or c.value is None else max(c.value - c.low, 0) for c in found]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.2,
        "width": 3,
        "color": colour,
    }


def _axis(column: Column, rows: Sequence[Row]) -> dict[str, Any]:
    found = [cells.cell_of(row, column) for row in rows]
    ends = [end for c in found for end in (c.value, c.low, c.high) if end is not None]
    low, high = min(ends), max(ends)
    room = max((high - low) * 0.1, 0.01)
    return {
        "title": {"text": _text(f"{column.title} ({cells.direction(column)})")},
        "automargin": True,
        "range": [low - room, high + room],
        "zeroline": False,
        **({"tickformat": ".0%"} if column.unit == "share" else {}),
    }


def _said(row: Row, column: Column) -> str:
    cell = cells.cell_of(row, column)
    return " ".join(filter(None, (cells.value_text(cell), cells.interval_text(cell))))


def _hover(row: Row, x: Column, y: Column) -> str:
    lines = [row.label, *(f"{column.title}: {_said(row, column)}" for column in (x, y))]
    if cells.kind_of(row) != "measured":
        lines.append(cells.kind_of(row))
    return "<br>".join(map(_text, lines))


def _text(text: str) -> str:
    # plotly.js reads a few tags and entities in every text that it draws.
    return escape(neutral(text), quote=False)


# -- what probes found


def probe_plots(entry: Entry) -> list[Drawn]:
    """Draw the numbers that probes found of a model, with their intervals.

    Groups of two parts ('harmful · prompt end') are a series and a place; else the metrics of a
    benchmark are the places, and its groups the series. A number that stands alone is not drawn.
    """
    together: dict[tuple[str, ...], list[Score]] = {}
    for score in entry.scores:
        is_probed = bool(entry.protocols.get(score.fingerprint, {}).get("settings"))
        if is_probed and not score.member and score.estimate is not None:
            # Numbers of different metrics have no scale in common, and share no plot.
            one = score.metric if " · " in score.group or score.unit != "share" else ""
            together.setdefault((score.benchmark, score.judge, one, score.unit), []).append(score)
    several = len({key[1] for key in together}) > 1
    drawn = [scores for scores in together.values() if len(scores) > 1]
    return [_probed(number, scores, several=several) for number, scores in enumerate(drawn, 1)]


def _probed(number: int, scores: Sequence[Score], *, several: bool) -> Drawn:
    first = scores[0]
    alone = len({score.metric for score in scores}) == 1
    named = _named(scores, alone=alone)
    ticks = tuple(dict.fromkeys(place for _, place in named))
    groups = list(dict.fromkeys(group for group, _ in named))
    found = dict(zip(named, scores, strict=True))
    series = tuple(
        _series(
            group,
            (place - (len(groups) - 1) / 2) * _APART,
            ticks,
            found,
            COLOURS[place % len(COLOURS)],
        )
        for place, group in enumerate(groups)
    )
    title = f"{first.benchmark}: {_title(first)}" if alone else first.benchmark
    title = f"{title}, {first.judge}" if several else title
    name = f"probe-{number}-{file_name(first.benchmark, first.metric)}"
    drawn = figure(Plot(name, title, "", _title(first) if alone else "share", series, ticks))
    for trace in drawn["data"]:
        # Places are no scale: a line between two of them would claim what lies between.
        trace["mode"] = "markers"
        trace["marker"] |= {"size": 9}
    if first.unit == "share":
        drawn["layout"]["yaxis"]["tickformat"] = ".0%"
    rows = [
        [group, place, *_estimated(score)]
        for (group, place), score in zip(named, scores, strict=True)
    ]
    said = f"{title}: {len(scores)} numbers with 95% intervals."
    return Drawn(drawn, title, said, ["group", "at", "value", "95% CI", "n"], rows)


def _named(scores: Sequence[Score], *, alone: bool) -> list[tuple[str, str]]:
    """Name the series and the place of each score."""
    if any(" · " in score.group for score in scores):
        parts = [score.group.partition(" · ") for score in scores]
        return [(group or "all", place or "all") for group, _, place in parts]
    if alone:
        return [(_title(score), score.group or "all") for score in scores]
    return [(score.group or "all", _title(score)) for score in scores]


def _series(
    group: str,
    shift: float,
    ticks: Sequence[str],
    found: dict[tuple[str, str], Score],
    colour: str,
) -> Series:
    own = [found.get((group, tick)) for tick in ticks]
    estimates = [score.estimate if score else None for score in own]
    return Series(
        label=group,
        x=[place + shift for place in range(len(ticks))],
        y=[each.value if each else None for each in estimates],
        low=[each.low if each else None for each in estimates],
        high=[each.high if each else None for each in estimates],
        counts=[score.n if score else 0 for score in own],
        colour=colour,
    )


def _estimated(score: Score) -> Iterable[str]:
    unit: Unit = score.unit
    value = score.estimate.value if score.estimate else None
    return values.value(value, unit), values.interval(score.estimate, unit), str(score.n)


def _title(score: Score) -> str:
    return values.heading(score, {})
