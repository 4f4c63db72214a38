"""The web page: whole in one file, no request to anywhere, and nothing in it that acts."""

import io
import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.measured import curve, grid, measurement, number
from tests.unit.test_report import HOSTILE, acts, card, probed, score
from tseval.measurements import MeasureSpec
from tseval.report.html import Part, report_html
from tseval.report.interactive import figure
from tseval.report.judges import Page, markdown_page, rich_page
from tseval.report.measured import measurement_page
from tseval.report.plots import Plot, Series, plots_of, segments
from tseval.requests import Subject


class Elements(HTMLParser):
    """The tags of a page with their attributes, its text, and its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text = ""
        self._in = ""
        self._kind = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in, self._kind = tag, dict(attrs).get("type") or ""
        if tag == "script":
            self.scripts.append((self._kind, ""))

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif self._in != "style":
            self.text += data

    def figures(self) -> Any:
        (found,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(found)

    def policy(self) -> str:
        named = "Content-Security-Policy"
        (found,) = [a for tag, a in self.tags if tag == "meta" and a.get("http-equiv") == named]
        return found["content"] or ""


ROOT_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "h1", "p", "span", "b", "nav"),
    *("a", "main", "section", "h2", "h3", "div", "table", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "ul", "li", "script"),
}


def page(*measurements: Any, **more: Any) -> str:
    scores = more.pop("scores", (score(), probed()))
    return report_html(card(*scores, **more), measurements, ["a remark"])


def without_library(text: str) -> str:
    """The page without plotly's own text."""
    longest = max(re.findall(r"<script>(.*?)</script>", text, re.DOTALL), key=len, default="")
    return text.replace(longest, "") if len(longest) > 1_000_000 else text


# -- what it shows


def test_the_page_has_every_cell_of_the_scorecard_and_of_the_measurements() -> None:
    text = Elements(page(measurement())).text
    for cell in (
        *("org/model", "ASR (not refused) ↓", "[12.3, 50.0]", "0123456789ab", "AUROC ·"),
        *("0.873", "[0.700, 0.950]", "undefined: 4 refusals", "unclosed 3", "a remark"),
        # a number's null with its interval, its p-value and test, and a variant
        *("0.500 [0.380, 0.620]", "< 0.001", "permuted labels", "Settled ↓ (paper)", "80.0%"),
        *("refusals 20 compliances 40", "read with care", "left out: degenerate 2"),
        *("made with: layers [-1], penalty 0.03, scale smoke", "labels by refusal-rules"),
        *("From without to with thinking", "0.012"),
    ):
        assert cell in text, cell


def test_protocols_are_spelled_out_by_fingerprint() -> None:
    fields = {
        "benchmark": "harmbench",
        "metric": "orr",
        "thinking": {"mode": "forced", "budget": 96},
        "limit": None,
    }
    text = Elements(page(protocols={"0123456789ab": fields})).text
    assert "harmbench · orr" in text
    assert "thinking.budget=96; thinking.mode=forced" in text
    assert "limit" not in text


def test_curves_are_plots_with_bands_nulls_variants_and_denominators() -> None:
    (plot,) = Elements(page(measurement())).figures()
    lines = [trace for trace in plot["data"] if trace["mode"] == "lines+markers"]
    areas = [trace for trace in plot["data"] if trace["mode"] == "lines"]
    assert [line["name"] for line in lines] == ["harmful", "benign", "harmful (paper)"]
    assert [line["line"]["dash"] for line in lines] == ["solid", "solid", "dot"]
    assert lines[0]["line"]["color"] == lines[2]["line"]["color"] != lines[1]["line"]["color"]
    assert lines[0]["y"] == [0.9, 0.7, None, 0.6, 0.8]
    assert lines[0]["hovertext"][0] == (
        "harmful<br>0: 0.9<br>95%: 0.8 to 0.95<br>null 95%: 0.4 to 0.6<br>n = 60"
    )
    assert lines[0]["hovertext"][2] == "harmful<br>50: undefined<br>null 95%: 0.4 to 0.6<br>n = 9"
    # Two curves have a band in two pieces, around the point that is undefined, and a null.
    grey = [area for area in areas if area["fillcolor"].startswith("rgba(128,128,128")]
    assert (len(areas), len(grey)) == (6, 2)
    assert plot["data"].index(grey[-1]) < plot["data"].index(lines[0])
    assert plot["layout"]["xaxis"]["title"]["text"] == "position in the trace (%)"


def test_a_band_is_cut_where_it_is_undefined() -> None:
    x, low, high = (0, 1, 2, 3), (0.1, None, 0.3, 0.4), (0.2, 0.3, None, 0.5)
    assert segments(x, low, high) == [([0], [0.1], [0.2]), ([3], [0.4], [0.5])]


def test_curves_of_one_name_share_a_plot_and_each_plot_has_a_place_of_its_own() -> None:
    curves = (curve(), curve(group="benign"), curve(name="a/b"), curve(name="a:b", group="x"))
    found = measurement(curves=curves)
    assert [len(plot.series) for plot in plots_of(found)] == [2, 1, 1]
    elements = Elements(page(found, measurement(judge="wildguard", curves=curves)))
    places = [a["id"] for tag, a in elements.tags if a.get("class") == "plot"]
    assert len(places) == len(set(places)) == 6
    assert places == [each["name"] for each in elements.figures()]


def test_a_quantity_in_a_groups_name_is_shown_by_its_title() -> None:
    named = MeasureSpec(name="prefix_orr", title="ORR at a cut")
    curves = tuple(curve(group=group) for group in ("benign · prefix_orr", "prefix_orr", "other"))
    (made,) = plots_of(measurement(curves=curves, measures=(named,)))
    labels = [series.label for series in made.series]
    assert labels == ["benign · ORR at a cut", "ORR at a cut", "other"]


def test_a_curve_without_any_point_is_not_drawn() -> None:
    nothing = curve(group="benign", y=(None,) * 5)
    assert [len(plot.series) for plot in plots_of(measurement(curves=(curve(), nothing)))] == [1]
    assert plots_of(measurement(curves=(nothing,))) == []
    assert Elements(page(measurement(curves=(nothing,)))).scripts == []


def test_plotly_is_embedded_once_and_only_where_there_is_a_curve() -> None:
    assert len(page(measurement(), measurement(judge="b"))) < 6_000_000
    plain = page(measurement(curves=()))
    assert len(plain) < 50_000
    assert Elements(plain).scripts == []
    assert "script-src 'none'" in Elements(plain).policy()


def test_the_same_run_gives_the_same_page() -> None:
    assert page(measurement()) == page(measurement())


# -- no request to anywhere


def test_the_page_asks_for_nothing() -> None:
    text = page(measurement())
    elements = Elements(text)
    assert "default-src 'none'" in elements.policy()
    for tag, attributes in elements.tags:
        assert tag in ROOT_TAGS, tag
        assert not {"src", "srcset", "data", "action", "background", "poster"} & set(attributes)
        href = attributes.get("href")
        assert href is None or href.startswith("#")
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert style
    assert not re.search(r"@import|url\(|https?:", style)
    assert not re.search(r"https?:", without_library(text))


def test_the_policy_allows_exactly_the_scripts_of_the_page() -> None:
    elements = Elements(page(measurement()))
    run = [text for kind, text in elements.scripts if not kind]
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in run]
    allowed = re.search(r"script-src ([^;]*);", elements.policy())
    assert allowed is not None
    assert allowed[1].split() == [f"'sha256-{each}'" for each in hashes]
    assert len(run) == 2
    assert "unsafe-inline" not in allowed[1]
    assert "unsafe-eval" not in elements.policy()
    assert "connect-src" not in elements.policy()  # default-src forbids it
    assert 'format: "svg"' in run[1]


def test_nothing_in_a_plot_offers_to_send_it_away() -> None:
    (_, own) = (text for kind, text in Elements(page(measurement())).scripts if not kind)
    assert "showSendToCloud: false" in own
    assert 'plotlyServerURL: ""' in own
    assert '"sendChartToCloud"' in own[own.index("modeBarButtonsToRemove") :]
    assert "displaylogo: false" in own


def test_the_page_is_for_phones_and_for_both_schemes() -> None:
    text = page(measurement())
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert ".wide { overflow-x: auto; }" in text
    assert "@media (max-width: 40rem)" in text


# -- hostile text

ATTACK = HOSTILE + "</script><script>alert(1)</script><!--\" onload='x' ${7*7} {{7*7}} %{x} \u2028"


def hostile_measurement() -> Any:
    spec = MeasureSpec(name=ATTACK, title=ATTACK)
    return measurement(
        probe="p",
        title=ATTACK,
        judge=ATTACK,
        settings={ATTACK: ATTACK, "list": [ATTACK]},
        numbers=(
            number(
                metric=ATTACK,
                group=ATTACK,
                test=ATTACK,
                note=ATTACK,
                variant=ATTACK,
                counts={ATTACK: 1},
                excluded={ATTACK: 1},
            ),
            number(estimate=None, undefined=ATTACK),
        ),
        curves=(
            curve(
                name=ATTACK,
                group=ATTACK,
                title=ATTACK,
                x_title=ATTACK,
                y_title=ATTACK,
                variant=ATTACK,
            ),
        ),
        grids=(grid(name=ATTACK, title=ATTACK, columns=(ATTACK,), rows=((ATTACK,),)),),
        excluded={ATTACK: 1},
        notes=(ATTACK,),
        measures=(spec,),
    )


def hostile_page() -> str:
    fields = {"benchmark": ATTACK, "metric": ATTACK, ATTACK: {ATTACK: ATTACK}}
    names = ("benchmark", "group", "metric", "judge", "title", "undefined")
    return report_html(
        card(
            probed(**dict.fromkeys(names, ATTACK), excluded={ATTACK: 1}),
            subject=Subject(name=ATTACK, identity={}),
            preset=ATTACK,
            protocols={ATTACK: fields},
            failed={ATTACK: ATTACK},
            skipped={ATTACK: ATTACK},
        ),
        [hostile_measurement()],
        [ATTACK],
        facts={ATTACK: ATTACK},
        first=[Part("first", Page(ATTACK, [], [ATTACK]), (), ATTACK)],
    )


def test_hostile_names_make_no_element_no_attribute_and_no_script() -> None:
    text = hostile_page()
    elements = Elements(text)
    ordinary = Elements(page(measurement()))
    assert {tag for tag, _ in elements.tags} <= ROOT_TAGS
    assert len(elements.scripts) == len(ordinary.scripts) == 3
    for tag, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    # What is shown is the text as it was, but for what would act.
    assert "</script><script>alert(1)</script>" in elements.text
    outside = without_library(text)
    assert "<script>alert" not in outside
    assert "<img" not in outside
    assert not {"\x1b", "\u202e", "\x00", "\u2028", "\u200b"} & set(outside)


def test_plotly_is_handed_entities_instead_of_tags() -> None:
    (plot,) = Elements(hostile_page()).figures()
    texts = json.dumps(plot, ensure_ascii=False)
    # plotly.js reads a few tags in each text; only those that tseval wrote are there.
    assert set(re.findall(r"<[^>]*>", texts)) == {"<br>"}
    assert "&lt;script&gt;" in texts
    assert not any("hovertemplate" in trace for trace in plot["data"])
    assert re.fullmatch(r"[\w.-]+", plot["name"])


def test_a_closing_mark_inside_the_figures_does_not_end_their_script() -> None:
    raw = re.search(
        r'<script type="application/json" id="figures">(.*?)</script>', hostile_page(), re.DOTALL
    )
    assert raw is not None
    assert "<" not in raw[1]
    assert json.loads(raw[1])


def test_hostile_names_reach_a_terminal_as_plain_characters() -> None:
    from rich.console import Console

    to = io.StringIO()
    console = Console(file=to, width=4000, highlight=False, emoji=False, markup=False)
    console.print(rich_page(measurement_page(hostile_measurement())))
    assert acts(to.getvalue()) == set()


def test_hostile_names_reach_markdown_escaped() -> None:
    text = markdown_page(measurement_page(hostile_measurement()))
    assert not re.search(r"(?<!\\)[<&]", text)
    assert "\x1b" not in text


# -- texts of the same tables


def test_columns_that_are_empty_throughout_are_left_out() -> None:
    bare = number(null=None, p_value=None, test="", excluded={}, counts={})
    text = markdown_page(measurement_page(measurement(numbers=(bare,), grids=())))
    assert "| quantity " in text
    for heading in ("null", "test", "excluded", "made of", "note"):
        assert f"| {heading} " not in text


def test_a_metric_without_a_description_is_a_plain_number() -> None:
    found = measurement(numbers=(number(metric="some_thing"),), measures=(), grids=())
    text = markdown_page(measurement_page(found))
    assert "some thing ·" in text
    assert "0.873" in text


def test_a_slope_has_names_at_its_ends() -> None:
    plot = Plot(
        *("slope", "t", "", "y"),
        (Series("a", (0.0, 1.0), (0.1, 0.2), (0.0, 0.1), (0.2, 0.3)),),
        ("before: <b>", "after"),
    )
    made = figure(plot)
    axis, (line,) = made["layout"]["xaxis"], made["data"]
    assert line["hovertext"][0] == "a<br>before: &lt;b&gt;: 0.1<br>95%: 0 to 0.2"
    assert line["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert line["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1])
    assert axis["tickvals"] == [0, 1]
    assert axis["ticktext"] == ["before: &lt;b&gt;", "after"]


@pytest.mark.parametrize("name", ["report.html", "report.css", "report.js"])
def test_the_templates_ship(root: Path, name: str) -> None:
    import tomllib

    assert (root / "tseval" / "report" / "templates" / name).is_file()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    data = project["tool"]["setuptools"]["package-data"]["tseval"]
    assert f"**/*.{name.rpartition('.')[2]}" in data
