"""Plots for papers: PNG and SVG files, drawn by matplotlib, the same bytes every time."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tseval.errors import CapabilityMissing, ConfigError
from tseval.hookspecs import Register, hookimpl
from tseval.report.plots import Plot, Series, plots_of, segments
from tseval.report.text import neutral
from tseval.runfolder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches: one column of most journals, two of none.
_WIDTH, _HEIGHT, _DPI = 5.2, 3.6, 200
_LONGEST = 60
# A title is broken into lines of so many characters; a longer one than three of them is cut.
_LINE, _LINES = 58, 3
# More filled bands than this hide one another; bars at no more points can be told apart.
_MOST_BANDS, _MOST_BARS = 2, 30
# Identifiers inside an SVG hang on the salt, the date would be today's; '$' is no formula here.
_SETTINGS: Any = {
    "svg.hashsalt": "tseval",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
}


class FigureExporter:
    """Writes each plot of a run's measurements as PNG and as SVG."""

    name = "figures"
    holds_texts = False
    summary = "each plot of the probes as PNG and SVG, for papers (extra: figures)"

    def export(self, run: Path, out: Path) -> list[Path]:
        """Draw the plots into a folder; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The run has no curve.
            CapabilityMissing: matplotlib is not installed.
        """
        plots = [plot for found in RunFolder.load(run).measurements() for plot in plots_of(found)]
        if not plots:
            raise ConfigError(
                f"{run} holds no curve that could be drawn",
                hint="tseval run --suite deliberation makes some",
            )
        # Before there is a folder that would stay empty.
        _require_matplotlib()
        out.mkdir(parents=True, exist_ok=True)
        return [file for plot in plots for file in draw(plot, out)]


@hookimpl
def register_exporters(register: Register) -> None:
    """Register the exporter 'figures'."""
    register(FigureExporter())


def draw(plot: Plot, out: Path) -> list[Path]:
    """Draw one plot; equal plots give equal bytes under one version of matplotlib.

    Args:
        plot: What to draw.
        out: An existing folder.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        CapabilityMissing: matplotlib is not installed.
    """
    _require_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    files = [out / f"{plot.name}.png", out / f"{plot.name}.svg"]
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # A name in another script is drawn as boxes; that is no reason to speak of fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        # A canvas of its own: pyplot would look for a display, and keep the figure.
        FigureCanvasAgg(figure)
        _draw_on(figure.add_subplot(), plot)
        figure.savefig(files[0], dpi=_DPI, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def _require_matplotlib() -> None:
    """Raise CapabilityMissing unless figures can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise CapabilityMissing(
            "figures are drawn by matplotlib, which is not installed",
            hint="pip install 'tseval[figures]'; report.html has the same plots without it",
        ) from error


def _draw_on(axes: "Axes", plot: Plot) -> None:
    for series in plot.series:
        _areas(axes, series, series.null_low, series.null_high, color="0.5", alpha=0.22)
    banded = [series for series in plot.series if series.low and series.high]
    crowded = len(banded) > _MOST_BANDS
    bars = bool(plot.ticks) or (crowded and max(len(each.x) for each in banded) <= _MOST_BARS)
    step = _step(banded) if bars and not plot.ticks else 0.0
    lines: list[Any] = []
    for place, series in enumerate(plot.series):
        # Beside one another, or bars of one cut would hide one another too.
        x = [at + step * (place - (len(plot.series) - 1) / 2) for at in series.x]
        if bars:
            _bars(axes, x, series)
        elif crowded:
            _outlines(axes, series)
        else:
            _areas(axes, series, series.low, series.high, color=series.colour, alpha=0.18)
        lines += axes.plot(
            x,
            _undrawn(series.y),
            color=series.colour,
            linestyle=":" if series.dotted else "-",
            marker="o",
            markersize=2.5 if len(series.x) > 30 else 4,
            markerfacecolor="none" if series.dotted else series.colour,
            linewidth=1.4,
            label=_text(series.label),
        )
    axes.set_title(_title(plot.title), fontsize=10, loc="left")
    axes.set_xlabel(_text(plot.x_title))
    axes.set_ylabel(_text(plot.y_title))
    if plot.ticks:
        axes.set_xticks(range(len(plot.ticks)), [_text(tick) for tick in plot.ticks])
        axes.margins(x=0.15)
    if len(plot.series) > 1:
        # Not by ``axes.legend()``, which leaves out labels that begin with an underscore.
        labels = [_text(series.label) for series in plot.series]
        _legend(axes, lines, labels, below=crowded)


def _legend(axes: "Axes", lines: list[Any], labels: list[str], *, below: bool) -> None:
    """Name the lines: inside the axes, or below them where intervals leave no room inside."""
    if not below:
        axes.legend(lines, labels, frameon=False, fontsize=8)
        return
    columns = 2 if max(map(len, labels)) <= _LINE // 2 else 1
    axes.figure.legend(
        lines, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=columns
    )


def _step(banded: Sequence[Series]) -> float:
    """How far apart series stand: all together within a quarter of the way to the next point."""
    places = sorted({x for series in banded for x in series.x})
    nearest = min((b - a for a, b in pairwise(places)), default=0.0)
    return nearest / 4 / len(banded)


def _bars(axes: "Axes", x: Sequence[float], series: Series) -> None:
    if series.low and series.high:
        low, high = _undrawn(series.low), _undrawn(series.high)
        axes.vlines(x, low, high, color=series.colour, linewidth=1)


def _outlines(axes: "Axes", series: Series) -> None:
    for limit in (series.low, series.high):
        axes.plot(series.x, _undrawn(limit), color=series.colour, linewidth=0.6, linestyle="--")


def _undrawn(values: Sequence[float | None]) -> list[float]:
    """Points that are undefined leave a gap."""
    return [float("nan") if value is None else value for value in values]


def _title(text: str) -> str:
    """Break a title into lines that the axes have room for."""
    lines = wrap(neutral(text, _LINE * _LINES), _LINE)
    return "\n".join(lines)


def _text(text: str) -> str:
    """Make a text safe to draw; a longer one would leave no room for the axes."""
    return neutral(text, _LONGEST)


def _areas(axes: "Axes", series: Series, low: Any, high: Any, **style: Any) -> None:
    if low and high:
        for x, below, above in segments(series.x, low, high):
            axes.fill_between(x, below, above, linewidth=0, **style)
