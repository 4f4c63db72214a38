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
from tseval.report.figures import FigureExporter, draw
from tseval.report.plots import Plot, Series, plots_of

pytest.importorskip("matplotlib")

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
