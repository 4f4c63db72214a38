"""A board's site in a browser: sorted, filtered, drawn, and never asking for anything elsewhere."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.support.board_pages import BOARD, reported, rows, standing
from tests.support.browser import PHONE, Browser
from tests.unit.test_board_files import hostile
from tseval.report.board import write_board

pytestmark = pytest.mark.browser

MAIN = "#table-1 tbody tr:not([hidden]) .name"
NARROW = (360, 740)
# Contrast of each text with what lies behind it, by the formula of WCAG 2.2, section 1.4.3.
CONTRAST = """
function parts(text) {
  // Mixed colours come as fractions: color(srgb 0.1 0.2 0.3 / 0.5).
  var scale = text.indexOf("color(") === 0 ? 255 : 1;
  var found = text.replace("srgb", "").match(/[\\d.]+/g).map(Number);
  return [found[0] * scale, found[1] * scale, found[2] * scale, found.length > 3 ? found[3] : 1];
}
function light(rgb) {
  var c = rgb.slice(0, 3).map(function (v) {
    v /= 255; return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
  });
  return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
}
function behind(element) {
  for (var e = element; e; e = e.parentElement) {
    var rgb = parts(getComputedStyle(e).backgroundColor);
    if (rgb[3] === 1) return rgb;
  }
  return [255, 255, 255, 1];
}
var bad = [];
document.querySelectorAll("main *, header *, footer *").forEach(function (e) {
  var own = Array.prototype.some.call(e.childNodes, function (n) {
    return n.nodeType === 3 && n.textContent.trim();
  });
  if (!own || !e.offsetParent || e.closest(".sr, .plot, option, [aria-hidden]")) return;
  var a = light(parts(getComputedStyle(e).color)), b = light(behind(e));
  var ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) bad.push(e.tagName + " " + e.className + " " + ratio.toFixed(2) + " " +
                            e.textContent.trim().slice(0, 30));
});
return bad;
"""
# What a screen reader would stumble over.
UNNAMED = """
var bad = [];
document.querySelectorAll("button, a[href], input, select, summary, [role=region], table, figure")
  .forEach(function (e) {
    var said = e.getAttribute("aria-label") || (e.labels && e.labels.length && "label") ||
      (e.caption && e.caption.textContent) || e.textContent;
    if (!said.trim()) bad.push(e.outerHTML.slice(0, 80));
  });
document.querySelectorAll("[aria-labelledby]").forEach(function (e) {
  if (!document.getElementById(e.getAttribute("aria-labelledby"))) bad.push(e.id);
});
var all = document.querySelectorAll("[id]");
var ids = Array.prototype.map.call(all, function (e) { return e.id; });
ids.forEach(function (id, place) { if (ids.indexOf(id) !== place) bad.push("twice: " + id); });
var level = 0;
document.querySelectorAll("h1, h2, h3, h4").forEach(function (e) {
  var own = Number(e.tagName[1]);
  if (own > level + 1) bad.push("skips a level: " + e.textContent);
  level = own;
});
if (document.querySelectorAll("h1").length !== 1) bad.push("h1");
if (!document.documentElement.lang || !document.querySelector("main")) bad.push("lang, main");
return bad;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    # Texts that are longer than a phone is wide, with and without a place to break.
    first = replace(BOARD.columns[0], title="The mean of all that was asked of it, " * 3)
    board = replace(BOARD, name="second", title="Second" * 20, columns=(first, *BOARD.columns[1:]))
    long = replace(reported("org/" + "a-model" * 20), source="Somebody said so. " * 40)
    second = standing(board=board, reported=(long,), notes=("word" * 60,))
    write_board([standing(), second], out)
    return out


def board(browser: Browser, site: Path, **more: object) -> Browser:
    browser.open(site / "toy" / "index.html", **more)  # type: ignore[arg-type]
    return browser


def heading(browser: Browser, title: str) -> object:
    buttons = browser.all("#table-1 thead button")
    return next(each for each in buttons if each.text.startswith(title))


def click(browser: Browser, title: str) -> str | None:
    """Click a heading; returns how its column says that it is sorted."""
    button = heading(browser, title)
    button.click()  # type: ignore[attr-defined]
    return browser.run("return arguments[0].closest('th').getAttribute('aria-sort')", button)  # type: ignore[no-any-return]


def wait_for_plots(browser: Browser, number: int) -> None:
    def ready(_: object) -> bool:
        return len(browser.all(".plot .main-svg .scatterlayer .trace")) >= number

    WebDriverWait(browser.driver, 20).until(ready)


def test_rows_stand_by_rank_until_a_heading_is_clicked(browser: Browser, site: Path) -> None:
    board(browser, site)
    assert browser.texts(MAIN) == ["Heron 8B", "Plover 8B", "Finch 4B", "Wren demo"]
    assert browser.one("#table-1 th.rank").get_attribute("aria-sort") == "ascending"


def test_the_first_click_puts_the_best_first_and_the_second_turns_it(
    browser: Browser, site: Path
) -> None:
    board(browser, site)
    assert click(browser, "XSTest ORR") == "ascending"
    assert browser.texts(MAIN) == ["Wren demo", "Plover 8B", "Heron 8B", "Finch 4B"]
    assert browser.one("#said").text == "sorted by XSTest ORR, ascending"
    assert click(browser, "XSTest ORR") == "descending"
    assert browser.texts(MAIN) == ["Finch 4B", "Heron 8B", "Plover 8B", "Wren demo"]
    # Higher is better there.
    assert click(browser, "GSM8K") == "descending"
    assert browser.texts(MAIN)[:2] == ["Heron 8B", "Plover 8B"]
    assert len(browser.all("#table-1 [aria-sort]")) == 1
    browser.assert_quiet(site)


def test_rows_without_a_value_come_last_in_both_orders(browser: Browser, site: Path) -> None:
    board(browser, site)
    for _ in range(2):
        click(browser, "GSM8K")
        assert browser.texts(MAIN)[-1] == "Finch 4B"
        click(browser, "Rank")
        assert browser.texts(MAIN)[-1] == "Wren demo"


def test_every_column_sorts_from_the_keyboard(browser: Browser, site: Path) -> None:
    board(browser, site)
    titles = [each.text for each in browser.all("#table-1 thead button")]
    assert len(titles) == 7
    for button in browser.all("#table-1 thead button"):
        browser.run("arguments[0].focus()", button)
        browser.press(Keys.ENTER)
        place = "return arguments[0].closest('th').hasAttribute('aria-sort')"
        assert browser.run(place, button) is True


def test_the_first_tab_offers_to_skip_to_the_content(browser: Browser, site: Path) -> None:
    board(browser, site)
    link = browser.tab()
    assert link.text == "Skip to the content"
    assert link.is_displayed()


def test_text_kind_and_protocol_filter_the_rows_of_every_table(
    browser: Browser, site: Path
) -> None:
    board(browser, site)
    said = browser.one("#said")
    assert said.text == "6 of 6 rows"
    assert said.get_attribute("aria-live") == "polite"
    shown = "[data-panel]:not([hidden]) .wide:not([hidden]) tbody tr:not([hidden]) .name"
    browser.one("#find").send_keys("heron")
    # Not Finch, which only names Heron among the rows that beat it.
    assert browser.texts(shown) == ["Heron 8B", "Heron 8B short", "Heron 8B (paper)"]
    assert said.text == "3 of 6 rows"
    browser.one("#find").send_keys(" paper")
    assert browser.texts(shown) == ["Heron 8B (paper)"]
    assert "No row of this table fits the filter." in browser.one("#table-1").text
    browser.one("#find").clear()
    browser.one("#find").send_keys(" ")
    Select(browser.one("#kind")).select_by_value("demonstration")
    assert browser.texts(shown) == ["Wren demo"]
    Select(browser.one("#kind")).select_by_value("")
    Select(browser.one("#protocol")).select_by_visible_text("thinking.budget 96")
    assert browser.texts(shown) == ["Heron 8B short"]
    assert said.text == "1 of 6 rows"
    browser.assert_quiet(site)


def test_trade_offs_are_drawn_with_whiskers_and_said_in_words(browser: Browser, site: Path) -> None:
    board(browser, site)
    wait_for_plots(browser, 6)
    assert browser.texts("figure figcaption") == ["ASR against XSTest ORR", "ASR against GSM8K"]
    assert len(browser.all("#pareto-1 .errorbar")) >= 4
    assert "Heron 8B" in browser.run("return document.getElementById('pareto-1').textContent")
    assert "On the front" in browser.texts(".said")[0]
    browser.all("figure details summary")[0].click()
    assert len(browser.all("figure:first-child tbody tr")) == 4
    browser.assert_quiet(site)


def test_a_models_page_draws_what_probes_found_and_sorts_its_scorecard(
    browser: Browser, site: Path
) -> None:
    board(browser, site)
    browser.all(f"{MAIN} a")[0].click()
    assert browser.one("h1").text == "Heron 8B"
    wait_for_plots(browser, 2)
    browser.all(".card thead button")[2].click()
    values = browser.texts(".card tbody td .value")
    assert values == ["25.0%", "0.600", "0.800", "0.900"]
    browser.assert_quiet(site)


def test_the_link_of_a_protocol_opens_its_fields(browser: Browser, site: Path) -> None:
    board(browser, site)
    links = browser.all("#table-1 thead a.below")
    browser.run("arguments[0].click()", links[1])
    target = browser.one("#table-1-protocol-2")
    WebDriverWait(browser.driver, 5).until(lambda _: target.get_attribute("open"))
    assert "thinking.budget" in target.text


def test_the_theme_follows_the_system_and_the_button_and_is_kept(
    browser: Browser, site: Path
) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    bright = board(browser, site).run(paper)
    dark = board(browser, site, dark=True).run(paper)
    assert bright != dark
    button = browser.one("#theme")
    button.click()
    assert (button.text, browser.run(paper)) == ("Theme: light", bright)
    button.click()
    button.click()
    assert (button.text, browser.run(paper)) == ("Theme: auto", dark)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "name",
    ["index.html", "toy/index.html", "second/index.html", "toy/models/wren-demo.html"],
)
def test_pages_are_readable_named_and_no_wider_than_any_window(
    browser: Browser, site: Path, name: str, dark: bool
) -> None:
    for size in ((1280, 900), PHONE, NARROW):
        browser.open(site / name, size=size, dark=dark)
        # Not the window's own width: on a phone it grows with what does not fit.
        assert browser.run("return document.documentElement.scrollWidth") <= size[0]
        assert browser.run(CONTRAST) == [], size
        assert browser.run(UNNAMED) == [], size
        browser.shot(f"board-{name.replace('/', '-')}-{size[0]}-{dark}", whole=True)
        browser.assert_quiet(site)


def test_on_a_phone_rows_are_cards_that_still_are_a_table(browser: Browser, site: Path) -> None:
    board(browser, site, size=NARROW)
    assert browser.one("#table-1 table").get_attribute("role") == "table"
    assert click(browser, "Rank") == "descending"
    assert click(browser, "GSM8K") == "descending"
    first = browser.all("#table-1 tbody tr")[0]
    assert first.size["width"] <= 360
    assert "HarmBench" in first.text


def test_without_scripts_the_tables_are_there(browser: Browser, site: Path) -> None:
    board(browser, site, scripts=False)
    assert browser.texts(MAIN)[0] == "Heron 8B"
    assert not browser.one("#filters").is_displayed()
    assert "On the front" in browser.texts(".said")[0]


def test_a_hostile_board_is_text_and_no_more(browser: Browser, tmp_path: Path) -> None:
    for page in write_board([hostile()], tmp_path):
        if page.suffix == ".html":
            browser.open(page)
            assert browser.run("return window.acted === undefined")
            assert browser.run("return document.querySelectorAll('img, iframe').length") == 0
            assert browser.run("return document.documentElement.scrollWidth") <= 1280
            browser.assert_quiet(tmp_path)


def test_a_long_board_sorts_and_filters_at_once(browser: Browser, tmp_path: Path) -> None:
    many = tuple(
        replace(rows()[n % 4], label=f"Model {n:03}", slug=f"m{n}", rank=n + 1) for n in range(300)
    )
    main = replace(standing().tables[0], rows=many)
    published = tuple(replace(reported(f"Paper {n}"), slug=f"p{n}") for n in range(60))
    write_board([standing(tables=(main,), reported=published)], tmp_path)
    board(browser, tmp_path)
    took = browser.run(
        "var from = performance.now();"
        "document.querySelectorAll('#table-1 thead button')[2].click();"
        "var find = document.getElementById('find'); find.value = 'model 299';"
        "find.dispatchEvent(new Event('input', {bubbles: true})); return performance.now() - from"
    )
    assert browser.one("#said").text == "1 of 360 rows"
    assert took < 5000
