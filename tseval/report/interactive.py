"""Plots for a web page, as the plain values that plotly.js takes."""

from collections.abc import Sequence
from html import escape
from typing import Any

from tseval.report.plots import Plot, Series, segments
from tseval.report.text import neutral

# Colours of text and grid are the page's, which knows whether it is dark.
_LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 16, "t": 16, "b": 56},
    "hovermode": "closest",
    "legend": {"orientation": "h"},
}
_BAND, _NULL = 0.18, 0.22


def figure(plot: Plot) -> dict[str, Any]:
    """Make the data and the layout of a plot.

    Texts come out escaped: plotly.js reads a few tags and entities in every text that it draws.
    """
    data: list[dict[str, Any]] = []
    for number, series in enumerate(plot.series):
        # A null is drawn below everything, a line above everything.
        band = [] if plot.ticks else _band(series, number)
        data = [*_null(series, number), *data, *band, _line(series, number, plot.ticks)]
    axis: dict[str, Any] = {"title": {"text": _text(plot.x_title)}, "automargin": True}
    if plot.ticks:
        axis |= {"tickvals": list(range(len(plot.ticks))), "range": [-0.25, len(plot.ticks) - 0.75]}
        axis["ticktext"] = [_text(tick) for tick in plot.ticks]
    other = {"title": {"text": _text(plot.y_title)}, "automargin": True}
    layout = {**_LAYOUT, "xaxis": axis, "yaxis": other, "showlegend": len(plot.series) > 1}
    return {"name": plot.name, "data": data, "layout": layout}


def _line(series: Series, number: int, ticks: tuple[str, ...]) -> dict[str, Any]:
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _text(series.label),
        "legendgroup": str(number),
        "x": list(series.x),
        "y": list(series.y),
        "line": {"color": series.colour, "dash": "dot" if series.dotted else "solid", "width": 2},
        "marker": {"size": 6, "symbol": "circle-open" if series.dotted else "circle"},
        "connectgaps": False,
        # Not a hover template: that would read '%{...}' in a name as a field.
        "hoverinfo": "text",
        "hovertext": [_hover(series, place, ticks) for place in range(len(series.x))],
    }
    if ticks and series.low and series.high:
        # Bands between two ends that nothing lies between would only cover each other.
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _gaps(series.high, series.y),
            "arrayminus": _gaps(series.y, series.low),
            "thickness": 1.5,
        }
    return line


def _gaps(above: Sequence[float | None], below: Sequence[float | None]) -> list[float | None]:
    pairs = zip(above, below, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def _hover(series: Series, place: int, ticks: tuple[str, ...]) -> str:
    y = series.y[place]
    at = _text(ticks[place]) if ticks else f"{series.x[place]:g}"
    parts = [_text(series.label), f"{at}: {'undefined' if y is None else f'{y:.4g}'}"]
    for name, low, high in (
        ("95%", series.low, series.high),
        ("null 95%", series.null_low, series.null_high),
    ):
        if low and high and low[place] is not None and high[place] is not None:
            parts.append(f"{name}: {low[place]:.4g} to {high[place]:.4g}")
    if series.counts:
        parts.append(f"n = {series.counts[place]}")
    return "<br>".join(parts)


def _band(series: Series, number: int) -> list[dict[str, Any]]:
    return _areas(series, series.low, series.high, number, _rgba(series.colour, _BAND))


def _null(series: Series, number: int) -> list[dict[str, Any]]:
    return _areas(series, series.null_low, series.null_high, number, f"rgba(128,128,128,{_NULL})")


def _areas(series: Series, low: Any, high: Any, number: int, colour: str) -> list[dict[str, Any]]:
    if not low or not high:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*x, *reversed(x)],
            "y": [*below, *reversed(above)],
            "fill": "toself",
            "fillcolor": colour,
            "line": {"width": 0},
            "legendgroup": str(number),
            "showlegend": False,
            "hoverinfo": "skip",
        }
        for x, below, above in segments(series.x, low, high)
    ]


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _text(text: str) -> str:
    return escape(neutral(text), quote=False)
