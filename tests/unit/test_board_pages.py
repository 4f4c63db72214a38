"""A board's pages: what they show, what they may load, and what is drawn of a board."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.board_pages import BOARD, cell, cells, entry, probed, row, rows, standing
from tests.support.hostile import EVIL
from tests.unit.test_board_files import hostile
from tests.unit.test_report_html import Elements
from tseval.leaderboard.records import Row, Standing
from tseval.report.board import write_board
from tseval.report.board_plots import Drawn, front, pareto_plots, probe_plots
from tseval.report.board_site import listed
from tseval.report.board_view import bar, flat, linked, panels

# What the templates are made of; a tag that is not among them came from elsewhere.
TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "a", "header", "div", "nav"),
    *("ol", "li", "span", "button", "main", "footer", "p", "code", "h1", "h2", "h3", "form"),
    *("label", "input", "select", "option", "output", "section", "table", "caption", "thead"),
    *("tr", "th", "tbody", "td", "details", "summary", "ul", "figure", "figcaption", "dl", "dt"),
    *("dd",),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    write_board([standing()], out)
    return out


def page(site: Path, name: str = "toy/index.html") -> Elements:
    return Elements((site / name).read_text(encoding="utf-8"))


def attributes(found: Elements, tag: str) -> list[dict[str, str | None]]:
    return [attrs for name, attrs in found.tags if name == tag]


# -- pages


def test_a_page_shows_each_row_with_values_intervals_denominators_and_exclusions(
    site: Path,
) -> None:
    text = " ".join(page(site).text.split())
    for said in (
        *("Heron 8B", "Plover 8B", "Finch 4B", "Wren demo", "Heron 8B short"),
        *("32.0%", "[28.0, 36.0]", "n 200", "n 400", "demonstration"),
        "3 excluded (unparsed 3): 31.0% to 34.0% with them",
        "Significantly better than this row: Heron 8B, Plover 8B.",
        "not ranked: cut by --limit",
        "Measured under another protocol",
        "never ranked with what was measured",
        "One guard for all of it.",
    ):
        assert said in text, said


def test_headings_name_direction_and_link_their_protocol(site: Path) -> None:
    found = page(site)
    there = {attrs.get("id") for _, attrs in found.tags}
    links = [attrs["href"] or "" for attrs in attributes(found, "a")]
    inside = [link for link in links if link.startswith("#")]
    assert len([link for link in inside if "protocol" in link]) == 6
    assert {link[1:] for link in inside} <= there
    assert "lower is better" in found.text
    assert "thinking.budget" in found.text


def test_every_link_of_a_page_leads_to_a_file_of_the_folder(site: Path) -> None:
    for path in site.rglob("*.html"):
        found = Elements(path.read_text(encoding="utf-8"))
        for attrs in attributes(found, "a"):
            link = (attrs["href"] or "").partition("#")[0]
            if link.startswith("https://arxiv.org/abs/"):
                continue
            assert not link or (path.parent / link).is_file(), (path, link)


def test_tables_have_captions_and_every_heading_its_scope(site: Path) -> None:
    for name in ("toy/index.html", "toy/models/heron-8b.html"):
        found = page(site, name)
        assert all(attrs.get("scope") in ("col", "row") for attrs in attributes(found, "th"))
        assert len(attributes(found, "caption")) == len(attributes(found, "table")) > 0


def test_the_policy_forbids_all_that_is_not_beside_the_page(site: Path) -> None:
    for path in site.rglob("*.html"):
        found = Elements(path.read_text(encoding="utf-8"))
        policy = found.policy()
        assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
        assert "http" not in policy
        assert "unsafe-eval" not in policy
        for tag, attrs in found.tags:
            assert not any(name.startswith("on") for name in attrs), (tag, attrs)
            assert tag != "link"
            assert not attrs.get("src") or (path.parent / (attrs["src"] or "")).is_file()


def test_a_models_page_shows_all_scores_protocols_judges_versions_and_hashes(site: Path) -> None:
    text = " ".join(page(site, "toy/models/heron-8b.html").text.split())
    for said in (
        *("rank 1", "org/Heron 8B", "abc1234def", "vllm 0.9", "bfloat16", "f6e2ab8", "0.1.0"),
        *("ab" * 32, "0f" * 32, "2026-11-22", "thinksafe"),
        *("first_token · harmful · start", "25.0%", "[20.0, 30.0]", "397 (200 prompts)"),
        "unparsed 3: 24.0% to 27.0% with them",
        "identity.commit beef; version 1",
        "no row is significantly better; significantly worse rows: Finch 4B",
    ):
        assert said in text, said


def test_the_index_lists_boards_with_those_that_share_the_first_rank(site: Path) -> None:
    text = " ".join(page(site, "index.html").text.split())
    assert "4 measured" in text
    assert "1 demonstration 1 reported" in text
    assert "First: Heron 8B, Plover 8B" in text


def test_nothing_of_a_hostile_board_becomes_a_tag_or_an_attribute(tmp_path: Path) -> None:
    pages = [path for path in write_board([hostile()], tmp_path) if path.suffix == ".html"]
    assert len(pages) == 3
    for path in pages:
        raw = path.read_text(encoding="utf-8")
        found = Elements(raw)
        assert {tag for tag, _ in found.tags} <= TAGS
        assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
        assert len(found.scripts) == (2 if path.parent == tmp_path else raw.count("</script>"))
        for sign in ("\x1b", "\x07", "\u202e", "\u2028", "\0"):
            assert sign not in raw
        for attrs in attributes(found, "a"):
            assert (attrs["href"] or "").startswith(("#", "..", "models/", "board.", "https://arxi"))\
                or path.parent == tmp_path  # fmt: skip


def test_headings_name_the_judge_of_the_rows_not_the_one_that_the_board_asks_for() -> None:
    found = {**cells(0.1, 0.2), "orr": cell(0.2, judge="rules")}
    table = replace(standing().tables[0], rows=(replace(rows()[0], cells=found),))
    heads = panels(standing(tables=(table,)), {})[0].heads
    assert (
        next(head.below for head in heads if head.title == "XSTest ORR") == "xstest · orr · rules"
    )


# -- plots


def drawn(found: Standing) -> list[Drawn]:
    return pareto_plots(found)


def test_asr_is_drawn_against_orr_and_against_the_ability_that_most_rows_have() -> None:
    assert [each.title for each in drawn(standing())] == ["ASR against XSTest ORR",
                                                          "ASR against GSM8K"]  # fmt: skip
    first, second = drawn(standing())
    assert len(first.rows) == 4
    assert len(second.rows) == 3


def test_the_front_is_marked_and_said() -> None:
    first, _ = drawn(standing())
    # ORR and ASR, both better low: (10, 5), (4, 8), (12, 32) and (2, 41).
    marked = {line[0]: line[3] for line in first.rows}
    assert marked == {
        "Heron 8B": "yes",
        "Plover 8B": "yes",
        "Finch 4B": "no",
        "Wren demo": "not compared",
    }
    assert "on both and better on one: Plover 8B, Heron 8B." in first.said
    line, on, off, aside = first.figure["data"]
    assert line["x"] == [0.04, 0.10]
    assert on["text"] == ["Plover 8B", "Heron 8B"]
    assert on["marker"]["symbol"] == ["circle", "circle"]
    assert off["text"] == ["Finch 4B"]
    assert (aside["name"], aside["text"]) == ("not compared", ["Wren demo"])
    assert aside["marker"]["symbol"] == ["diamond-open"]


def test_a_row_without_a_rank_pushes_no_other_off_the_front() -> None:
    lossy = row("Lossy", 0.0, 0.0, why_unranked="95.0% of the rows are excluded")
    ranked = rows()[:3]
    table = replace(standing().tables[0], rows=(*ranked, lossy))
    (first, *_) = drawn(standing(tables=(table,)))
    marked = {line[0]: line[3] for line in first.rows}
    assert (marked["Plover 8B"], marked["Heron 8B"]) == ("yes", "yes")
    assert marked["Lossy"] == "not compared"
    assert first.figure["data"][-1]["marker"]["symbol"] == ["circle-open"]
    assert "beside the front: Lossy." in first.said


def test_a_rank_by_other_columns_puts_no_lossy_number_on_a_front() -> None:
    lossy = row("Lossy", 0.0, 0.0)
    bad = {**lossy.cells, "sr": cell(0.0, excluded={"unparsed": 190})}
    lossy = replace(lossy, cells=bad, rank=1)
    table = replace(standing().tables[0], rows=(*rows()[:3], lossy))
    (first, *_) = drawn(standing(tables=(table,)))
    marked = {line[0]: line[3] for line in first.rows}
    assert (marked["Plover 8B"], marked["Heron 8B"]) == ("yes", "yes")
    assert marked["Lossy"] == "not compared"


def test_in_a_table_without_ranks_what_cannot_be_ranked_is_beside_the_front() -> None:
    lossy = row("Lossy", 0.0, 0.0)
    lossy = replace(lossy, cells={**lossy.cells, "sr": cell(0.0, excluded={"unparsed": 190})})
    some = (row("One", 0.1, 0.2), row("Two", 0.2, 0.1), lossy, rows()[3])
    table = replace(standing().tables[1], rows=tuple(replace(each, rank=None) for each in some))
    (first, *_) = drawn(standing(tables=(standing().tables[0], table)))[2:]
    assert {line[0]: line[3] for line in first.rows} == {
        "One": "yes",
        "Two": "yes",
        "Lossy": "not compared",
        "Wren demo": "not compared",
    }
    assert first.title.startswith("ASR against XSTest ORR. thinking.budget 96")


def test_demonstrations_alone_have_plots_that_say_what_they_are() -> None:
    demo = entry("demo", demonstration=True)
    some = tuple(
        replace(row(name, asr, orr), entry=demo, rank=None)
        for name, asr, orr in (("a", 0.1, 0.2), ("b", 0.2, 0.1))
    )
    bare = replace(standing().tables[0], rows=(), ranked=False)
    table = replace(standing().tables[1], rows=some)
    (only,) = drawn(standing(tables=(bare, table)))
    assert only.title == "ASR against XSTest ORR. thinking.budget 96 (demonstrations)"
    assert only.said.endswith("All rows are demonstrations.")
    assert {line[3] for line in only.rows} == {"yes"}
    # Ranked among themselves: hollow marks are for rows without a rank.
    assert only.figure["data"][1]["marker"]["symbol"] == ["diamond", "diamond"]
    one = replace(table, rows=some[:1])
    assert drawn(standing(tables=(bare, one))) == []


def test_no_demonstration_is_first_on_a_board_with_measured_rows() -> None:
    demo = replace(rows()[3], rank=1, why_unranked="")
    table, other = standing().tables
    alone = replace(table, rows=(demo,))
    assert listed(standing(tables=(alone, other)), "x").leaders == []
    assert listed(standing(tables=(alone,)), "x").leaders == ["Wren demo (demonstration)"]
    assert listed(standing(), "x").leaders == ["Heron 8B", "Plover 8B"]


def test_whiskers_are_the_intervals() -> None:
    first, _ = drawn(standing())
    off = first.figure["data"][2]
    assert off["error_x"]["array"] == [pytest.approx(0.04)]
    assert off["error_y"]["arrayminus"] == [pytest.approx(0.04)]


def test_other_protocols_reported_rows_and_missing_cells_are_in_no_plot() -> None:
    labels = {line[0] for each in drawn(standing()) for line in each.rows}
    assert labels == {"Heron 8B", "Plover 8B", "Finch 4B", "Wren demo"}
    assert "Finch 4B" not in {line[0] for line in drawn(standing())[1].rows}
    bare = replace(standing().tables[0], rows=())
    assert drawn(standing(tables=(bare,))) == []


def test_columns_without_a_better_end_have_no_front() -> None:
    board = replace(BOARD, axes=("depth", "asr"))
    deep = {**cells(0.1, 0.2), "depth": cell(0.4, unit="number")}
    table = replace(
        standing().tables[0], rows=tuple(replace(each, cells=deep) for each in rows()[:2])
    )
    (only,) = drawn(standing(board=board, tables=(table,)))
    assert only.headings == ["model", "Valley depth", "ASR"]
    assert "front" not in only.said


def test_texts_in_plots_are_escaped_for_plotly() -> None:
    bad: tuple[Row, ...] = (row(EVIL, 0.1, 0.2, 0.3),)
    table = replace(standing().tables[0], rows=bad)
    for each in drawn(standing(tables=(table,))):
        for trace in each.figure["data"]:
            for text in [*trace.get("text", []), *trace.get("hovertext", [])]:
                assert "<" not in text.replace("<br>", "")
                assert "\x1b" not in text


shares = st.floats(min_value=0, max_value=1)


@given(
    st.lists(st.tuples(shares, shares), min_size=1, max_size=30),
    st.tuples(st.booleans(), st.booleans()),
)
def test_the_front_is_what_no_other_point_beats(
    points: list[tuple[float, float]], better: tuple[bool, bool]
) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        ahead = [x >= y if up else x <= y for x, y, up in zip(a, b, better, strict=True)]
        return all(ahead) and a != b

    found = front(points, better)
    assert found
    for place, point in enumerate(points):
        assert (place in found) is not any(beats(other, point) for other in points)


def test_probes_are_drawn_by_place_with_a_series_for_each_kind_of_prompt() -> None:
    (only,) = probe_plots(entry("x"))
    assert only.title == "first_token: refusal AUROC"
    assert only.rows[0] == ["harmful", "start", "0.800", "[0.700, 0.900]", "40"]
    traces: list[dict[str, Any]] = only.figure["data"]
    assert [trace["name"] for trace in traces] == ["harmful", "benign"]
    assert only.figure["layout"]["xaxis"]["ticktext"] == ["start", "end"]
    # Benign was measured at the start only: the end stays empty, and is not moved there.
    assert traces[1]["y"] == [0.6, None]
    assert all(trace["mode"] == "markers" for trace in traces)


def test_a_number_that_stands_alone_is_not_drawn_nor_is_one_that_is_undefined() -> None:
    alone = entry("x", scores=(probed("auroc", "harmful · start", 0.8),))
    assert probe_plots(alone) == []
    gone = probed("auroc", "harmful · end", 0.8, estimate=None, undefined="too few")
    assert probe_plots(entry("x", scores=(*alone.scores, gone))) == []


# -- small parts


def test_a_bar_is_drawn_only_for_an_interval_between_nothing_and_one() -> None:
    assert bar(0.5, 0.25, 0.75) == ("25.00%", "50.00%", "50.00%")
    assert bar(0.5, -0.1, 0.75) is None
    assert bar(1.5, 1.0, 2.0) is None
    assert bar(0.5, None, None) is None
    assert bar(0.0, 1e-17, 0.1) == ("0.00%", "10.00%", "0.00%")


def test_arxiv_numbers_become_links_and_nothing_else_does() -> None:
    assert linked("A et al., arXiv 2601.23143, table 2") == [
        ("A et al., ", ""),
        ("arXiv 2601.23143", "https://arxiv.org/abs/2601.23143"),
        (", table 2", ""),
    ]
    assert linked("javascript:alert(1) https://x.example") == [
        ("javascript:alert(1) https://x.example", "")
    ]
    assert linked("") == []


def test_fields_of_a_protocol_are_listed_with_dots_and_without_empty_ones() -> None:
    found = flat({"b": {"y": 0.5, "x": ["a", 1]}, "a": False, "c": "", "d": {}, "e": 0})
    assert found == [("a", "False"), ("b.x", "[a, 1]"), ("b.y", "0.5"), ("e", "0")]


def test_scripts_of_a_page_are_those_that_its_policy_names(site: Path) -> None:
    from base64 import b64encode
    from hashlib import sha256

    raw = (site / "toy" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script>(.*?)</script>", raw, re.DOTALL)
    named = re.findall(r"'sha256-([^']+)'", Elements(raw).policy())
    assert [b64encode(sha256(text.encode()).digest()).decode() for text in inline] == named
