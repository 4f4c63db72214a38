"""What is drawn of a measurement, before anybody draws it: plots made of series."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from tseval.measurements import Curve, Measurement

# Okabe and Ito (2008): told apart by most readers, on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FD1", "#999933")
# A file's name may have 255 bytes, its ending included.
_NAME_CHARACTERS = 150
# Between the parts of a group's name.
_BETWEEN = " · "


class Series(NamedTuple):
    """One line of a plot; all sequences have the length of ``x`` or are empty.

    Attributes:
        label: What the legend calls it.
        x, y: Points; None where undefined.
        low, high: Band around it.
        null_low, null_high: Where it would lie if there were nothing.
        counts: Denominators.
        colour: Hex.
        dotted: Whether it is somebody else's definition of the same thing.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    null_low: Sequence[float | None] = ()
    null_high: Sequence[float | None] = ()
    counts: Sequence[int] = ()
    colour: str = COLOURS[0]
    dotted: bool = False


class Plot(NamedTuple):
    """Series in one pair of axes.

    Attributes:
        name: Unique within its report; letters, digits, dashes.
        title, x_title, y_title: Headings.
        series: Lines.
        ticks: Names of the places 0, 1, ... of the horizontal axis; empty for numbers.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()


def plots_of(found: Measurement) -> list[Plot]:
    """Put the curves of a measurement into plots: those of one name share one.

    Curves of one group keep one colour over all plots of the measurement. A curve without any
    point is not drawn: the measurement's numbers say why they are undefined. A group that names
    a quantity, alone or behind a ' · ', is shown by that quantity's title.
    """
    titles = {measure.name: measure.title for measure in found.measures}
    groups = list(dict.fromkeys(curve.group for curve in found.curves))
    together: dict[str, list[Curve]] = {}
    for curve in found.curves:
        if any(y is not None for y in curve.y):
            together.setdefault(curve.name, []).append(curve)
    return [
        Plot(
            name=file_name(found.probe, name, found.judge),
            title=curves[0].title or name,
            x_title=curves[0].x_title,
            y_title=curves[0].y_title,
            series=tuple(_series(curve, groups.index(curve.group), titles) for curve in curves),
        )
        for name, curves in together.items()
    ]


def _series(curve: Curve, place: int, titles: dict[str, str]) -> Series:
    parts = curve.group.split(_BETWEEN)
    group = _BETWEEN.join(titles.get(part) or part for part in parts)
    label = group or curve.title or curve.name
    return Series(
        label=f"{label} ({curve.variant})" if curve.variant else label,
        x=curve.x,
        y=curve.y,
        low=curve.low,
        high=curve.high,
        null_low=curve.null_low,
        null_high=curve.null_high,
        counts=curve.counts,
        colour=COLOURS[place % len(COLOURS)],
        dotted=bool(curve.variant),
    )


def segments(
    x: Sequence[float], low: Sequence[float | None], high: Sequence[float | None]
) -> list[tuple[list[float], list[float], list[float]]]:
    """Cut a band at its undefined points; a filled gap would claim what nobody measured."""
    found: list[tuple[list[float], list[float], list[float]]] = []
    closed = True
    for at, below, above in zip(x, low, high, strict=True):
        if below is None or above is None:
            closed = True
            continue
        if closed:
            found.append(([], [], []))
            closed = False
        for values, value in zip(found[-1], (at, below, above), strict=True):
            values.append(value)
    return found


def file_name(*parts: str) -> str:
    """Join names into one that every file system and every page can hold."""
    joined = "-".join(filter(None, parts))
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in joined)
    if len(safe) <= _NAME_CHARACTERS:
        return safe
    # Cut, two names must stay two.
    digest = sha256(joined.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[:_NAME_CHARACTERS]}-{digest}"
