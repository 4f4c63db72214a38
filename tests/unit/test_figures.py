"""Figures for papers: every plot as PNG and SVG, the same bytes each time."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.measured import curve, measurement
from tests.support.sessions import registry
from tests.unit.test_before_after import folder
from tests.unit.test_report_html import ATTACK
from tseval.errors import CapabilityMissing, ConfigError
from tseval.report.figures import FigureExporter, _draw_on, draw
from tseval.report.plots import Plot, Series, plots_of

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def plot(**more: Any) -> Plot:
    return plots_of(measurement(curves=(curve(**more),)))[0]


def test_each_plot_becomes_two_files_named_after_it(tmp_path: Path) -> None:
    found = measurement(curves=(curve(), curve(group="benign"), curve(name="depth")))
    run = folder(tmp_path / "run", found)
    files = FigureExporter().export(run.path, tmp_path / "out" / "deep")
    assert [file.name for file in files] == [
        "first_token-auroc-refusal-rules.png",
        "first_token-auroc-refusal-rules.svg",
        "first_token-depth-refusal-rules.png",
        "first_token-depth-refusal-rules.svg",
    ]
    assert files[0].read_bytes().startswith(SIGNATURE)
    assert "<svg" in files[1].read_text(encoding="utf-8")


def test_equal_plots_give_equal_bytes_without_a_date_or_a_place(tmp_path: Path) -> None:
    once, again = tmp_path / "a", tmp_path / "b"
    for out in (once, again):
        out.mkdir()
        draw(plot(), out)
    for file in once.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
        assert b"Matplotlib v" not in file.read_bytes()
        assert b"<dc:date>" not in file.read_bytes()


def test_another_point_gives_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = draw(plot(), tmp_path / "a")
    second = draw(plot(y=(0.9, 0.7, None, 0.6, 0.81)), tmp_path / "b")
    assert first[1].read_bytes() != second[1].read_bytes()


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    named = dict.fromkeys(("name", "group", "title", "x_title", "y_title", "variant"), ATTACK)
    other = curve(name=ATTACK, group="_hidden $\\frac{1}{0}$ $")
    (made,) = plots_of(measurement(curves=(curve(**named), other)))
    files = draw(made, tmp_path)
    assert all(file.parent == tmp_path for file in files)
    text = files[1].read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text


def test_a_slope_is_drawn_with_the_names_of_its_ends(tmp_path: Path) -> None:
    series = (Series("a", (0.0, 1.0), (0.1, 0.2), (0.0, 0.1), (0.2, 0.3)),)
    slope = Plot("slope", "t", "", "y", series, ("before", "after"))
    plain = Plot("plain", "t", "", "y", series)
    assert draw(slope, tmp_path)[1].read_bytes() != draw(plain, tmp_path)[1].read_bytes()


LONG = "Chance that an answer behind a prefix is the answer behind the whole of a long trace"


def axes_of(made: Plot) -> Any:
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    _draw_on(axes, made)
    return axes


def test_a_long_title_is_broken_into_lines_and_not_cut() -> None:
    shown = axes_of(plot(title=LONG)).get_title(loc="left")
    assert shown.split("\n") == [LONG[:58], LONG[59:]]
    endless = axes_of(plot(title="word " * 200)).get_title(loc="left").split("\n")
    assert len(endless) <= 4
    assert max(map(len, endless)) <= 58


def test_many_bands_are_bars_beside_one_another_and_two_are_filled() -> None:
    names = ("all", "harmful", "benign", "other")
    for count in (2, 4):
        curves = tuple(curve(group=name) for name in names[:count])
        axes = axes_of(plots_of(measurement(curves=curves))[0])
        bars = [each for each in axes.collections if isinstance(each, LineCollection)]
        places = {round(line.get_xdata()[0], 6) for line in axes.get_lines()}
        assert (len(bars), len(places)) == ((0, 1) if count == 2 else (4, 4))
        # All bars of one point stand nearer to it than to the next.
        assert max(places) - min(places) < 25 / 2
        # Bars may stand where a legend would: it is below the axes.
        (legend,) = axes.figure.legends if count == 4 else (axes.get_legend(),)
        assert [text.get_text() for text in legend.get_texts()] == [*names[:count]]


def test_many_bands_over_many_points_are_outlines() -> None:
    x = tuple(float(n) for n in range(100))
    y = (0.5,) * 100
    wide = {"x": x, "y": y, "low": (0.4,) * 100, "high": (0.6,) * 100, "counts": (9,) * 100}
    curves = tuple(curve(group=n, null_low=(), null_high=(), **wide) for n in "abc")
    axes = axes_of(plots_of(measurement(curves=curves))[0])
    assert len(axes.collections) == 0
    assert len(axes.get_lines()) == 9
    handles = axes.figure.legends[0].get_lines()
    assert [handle.get_linestyle() for handle in handles] == ["-"] * 3


def test_a_run_without_curves_has_no_figures_and_says_so(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", measurement(curves=()))
    with pytest.raises(ConfigError, match="holds no curve that could be drawn"):
        FigureExporter().export(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CapabilityMissing, match="not installed") as caught:
        draw(plot(), tmp_path)
    assert "tseval[figures]" in caught.value.hint


def test_without_matplotlib_no_empty_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path / "run", measurement(curves=(curve(),)))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CapabilityMissing, match="not installed"):
        FigureExporter().export(run.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_exporter_is_registered() -> None:
    assert registry().exporters["figures"].name == "figures"
