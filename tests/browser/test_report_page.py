"""``report.html`` in a browser: rollouts are found, opened and read, and nothing in them acts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.support.browser import DESKTOP, PHONE, Browser
from tests.support.hostile import EVIL, after, hostile_run
from tests.support.measured import measurement
from tests.support.scripted_runs import Saying, made_run
from tests.unit.test_report_html import page as plain_page
from tseval.cli.output import write_page
from tseval.roles import JudgeCase
from tseval.scripts import Call
from tseval.types import Verdict

pytestmark = pytest.mark.browser

PROMPTS = 40


def script(call: Call) -> str:
    number = int(call.prompt.split()[1])
    said = "I'm sorry, no." if number % 2 else f"Certainly, needle-{number} it is.\nAnd more."
    return f"<think>\nLet me think about {number}. {'On and on. ' * 300}\n</think>\n\n{said}"


def strict(case: JudgeCase) -> Verdict:
    return Verdict(refusal="sorry" in case.text, raw=f"because of {case.text[:20]}")


def lax(case: JudgeCase) -> Verdict:
    number = int(case.prompt.split()[1])
    if number % 10 == 9:
        return Verdict(reason="unparsed", raw="hm")
    return Verdict(refusal="sorry" in case.text and number % 4 != 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty prompts, half of them harmful; the judges differ on every fourth."""
    rows = [
        {
            "id": f"{n}",
            "prompt": f"Question {n} of some?",
            "label": "bad" if n % 4 < 2 else "good",
            "group": "g",
            "tag": "",
        }
        for n in range(PROMPTS)
    ]
    judges = [Saying("strict", strict), Saying("lax", lax)]
    folder = made_run(tmp_path_factory.mktemp("runs") / "run", rows, script, judges)
    return write_page(folder)


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    return browser.open(report, fragment="rollouts")


def until(browser: Browser, holds: Callable[[], Any]) -> None:
    WebDriverWait(browser.driver, 20).until(lambda driver: holds())


def status(browser: Browser) -> str:
    return str(browser.one("#rows-status").text)


def choose(browser: Browser, name: str, value: str) -> None:
    Select(browser.one(f"#rows-{name}")).select_by_visible_text(value)


def search(browser: Browser, text: str) -> None:
    """Put a text in at once: a page that is filtered key by key changes under one's hands."""
    browser.run(
        "const field = document.getElementById('rows-text'); field.value = arguments[0];"
        " field.dispatchEvent(new Event('input', {bubbles: true}));",
        text,
    )


def shown(browser: Browser) -> list[str]:
    return [text.split("sample ")[1] for text in browser.texts("#rows-list .where")]


# -- browsing


def test_a_screenful_is_shown_and_pages_are_turned(page: Browser) -> None:
    assert status(page) == "Showing 1 to 25 of 40 rollouts"
    assert len(page.all("#rows-list > li")) == 25
    assert page.one("#rows-previous").get_attribute("disabled")
    page.one("#rows-next").click()
    assert status(page) == "Showing 26 to 40 of 40 rollouts"
    assert page.one("#rows-page").text == "Page 2 of 2"
    assert len(page.all("#rows-list > li")) == 15
    # Whoever listens rather than looks is told where they are.
    assert page.driver.switch_to.active_element.get_attribute("id") == "rows-status"
    page.one("#rows-previous").click()
    assert status(page).startswith("Showing 1 to 25")
    page.assert_quiet()


def test_what_divides_the_judges_stands_first_and_can_be_had_alone(page: Browser) -> None:
    divided = {n for n in range(PROMPTS) if n % 4 == 1 and n % 10 != 9}
    assert {int(sample) for sample in shown(page)[: len(divided)]} == divided
    page.one("#rows-divided").click()
    assert {int(sample) for sample in shown(page)} == divided
    assert (
        status(page) == f"Showing 1 to {len(divided)} of {len(divided)} that match, of 40 rollouts"
    )
    page.one("button[type=reset]").click()
    until(page, lambda: status(page) == "Showing 1 to 25 of 40 rollouts")
    page.assert_quiet()


def test_outcomes_are_those_of_the_judge_that_was_chosen(page: Browser) -> None:
    choose(page, "outcome", "unparsed")
    assert sorted(map(int, shown(page))) == [9, 19, 29, 39]
    choose(page, "judge", "strict")
    assert status(page) == "None of 40 rollouts matches"
    choose(page, "outcome", "refusal")
    assert status(page) == "Showing 1 to 20 of 20 that match, of 40 rollouts"
    choose(page, "judge", "lax")
    assert all(int(sample) % 4 == 3 and int(sample) % 10 != 9 for sample in shown(page))
    choose(page, "kind", "harmful")
    assert status(page) == "None of 40 rollouts matches"


def test_texts_are_searched_also_where_they_are_folded(page: Browser) -> None:
    search(page, "NEEDLE-12 ")
    until(page, lambda: "1 of 1 that match" in status(page))
    assert shown(page) == ["12"]
    page.one("#rows-text").send_keys(" no such words")
    until(page, lambda: status(page) == "None of 40 rollouts matches")


def test_answers_to_harmful_prompts_are_folded_until_asked_for(page: Browser) -> None:
    search(page, "question 12 ")
    until(page, lambda: shown(page) == ["12"])
    page.one("#rows-list .row > summary").click()
    until(page, lambda: page.all("#rows-list .body"))
    body = page.one("#rows-list .body")
    assert "Question 12 of some?" in body.text
    assert "needle-12" not in body.get_attribute("textContent")
    assert "On and on" not in body.get_attribute("textContent")
    trace, answer, *_ = page.all("#rows-list .body .fold")
    assert answer.text.startswith("Show the answer to a harmful prompt (")
    answer.find_element("css selector", "summary").click()
    until(page, lambda: "needle-12 it is.\nAnd more." in answer.text)
    trace.find_element("css selector", "summary").click()
    until(page, lambda: "Let me think about 12." in trace.text)
    page.assert_quiet()


def test_answers_to_other_prompts_and_every_verdict_are_open(page: Browser) -> None:
    search(page, "question 39 ")
    until(page, lambda: shown(page) == ["39"])
    page.one("#rows-list .row > summary").click()
    until(page, lambda: page.all("#rows-list .body"))
    assert "I'm sorry, no." in page.one("#rows-list .body").text
    table = page.one("#rows-list .body table")
    assert [cell.text for cell in table.find_elements("css selector", "tbody tr > *")] == [
        *("strict", "refusal", "counts against the model", "because of I'm sorry, no."),
        *("lax", "unparsed", "not counted", "hm"),
    ]


def test_everything_can_be_done_with_the_keyboard(page: Browser) -> None:
    page.run("document.getElementById('rows-divided').focus()")
    page.press(Keys.SPACE)
    until(page, lambda: "that match" in status(page))
    assert page.tab().text == "Clear"
    assert page.tab().text == "Open all"
    first = page.tab()
    assert first.tag_name == "summary"
    page.press(Keys.ENTER)
    until(page, lambda: page.all("#rows-list .body"))
    fold = page.tab()
    assert fold.text.startswith("Show the trace (")
    page.press(Keys.ENTER)
    until(page, lambda: "Let me think" in "".join(page.texts("#rows-list .fold[open] .text")))
    # A long text scrolls, so it is stopped at.
    assert "Let me think" in page.tab().text
    ring = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"


def test_whoever_listens_is_told_what_things_are(page: Browser) -> None:
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]

    def named(role: str) -> set[str]:
        return {
            str(node.get("name", {}).get("value"))
            for node in nodes
            if node.get("role", {}).get("value") == role
        }

    assert {"Judge", "Outcome", "Prompt"} <= named("combobox")
    assert "Text" in named("searchbox")
    assert "only what divides the judges" in named("checkbox")
    assert {"Clear", "Open all", "Previous", "Next"} <= named("button")
    assert "Pages of rollouts" in named("group")
    assert {"Scorecard", "Rollouts", "Protocols"} <= named("heading")
    assert page.one("#rows-status").get_attribute("role") == "status"
    assert "" not in named("button") | named("combobox")


# -- how it looks


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_and_can_be_read(
    browser: Browser, report: Path, size: tuple[int, int], dark: bool
) -> None:
    page = browser.open(report, size=size, dark=dark)
    page.one("#rows-open").click()
    until(page, lambda: len(page.all("#rows-list .body")) == 25)
    assert page.overflow() <= 0
    assert contrasts(page) == []
    page.run("document.getElementById('rollouts').scrollIntoView()")
    page.shot(f"report-{'dark' if dark else 'light'}-{size[0]}")
    page.assert_quiet()


# Texts whose contrast with what lies behind them is below 4.5, as WCAG 2.2 AA has it.
CONTRAST = """
function rgb(text) { return (text.match(/[\\d.]+/g) || []).map(Number); }
function light(c) {
  var l = c.slice(0, 3).map(function (v) {
    v /= 255; return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
  });
  return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
}
function behind(element) {
  for (; element; element = element.parentElement) {
    var c = rgb(getComputedStyle(element).backgroundColor);
    if (c.length === 3 || c[3] > 0.5) { return c; }
  }
  return [255, 255, 255];
}
var bad = {};
document.querySelectorAll("header *, main *").forEach(function (element) {
  var own = Array.from(element.childNodes).some(function (node) {
    return node.nodeType === 3 && node.textContent.trim();
  });
  var seen = own && !element.disabled && element.checkVisibility();
  if (!seen || element.closest(".plot")) { return; }
  var a = light(rgb(getComputedStyle(element).color)), b = light(behind(element));
  var ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) { bad[element.tagName + "." + element.className] = ratio; }
});
return Object.keys(bad);
"""


def contrasts(browser: Browser) -> list[str]:
    found = browser.run(CONTRAST)
    assert isinstance(found, list)
    return found


def test_without_scripts_the_scorecard_is_there_and_the_page_says_what_is_not(
    browser: Browser, report: Path
) -> None:
    page = browser.open(report, scripts=False)
    assert "made_up" in page.one("#scorecard").text
    assert not page.one("#rows").is_displayed()
    assert "needs JavaScript" in page.one("noscript").text
    browser.open(report)


def test_plots_are_drawn_in_both_schemes_and_nothing_is_asked_for(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "plots.html"
    file.write_text(plain_page(measurement()), encoding="utf-8")
    for dark in (False, True):
        browser.open(file, dark=dark)
        until(browser, lambda: browser.all(".plot svg.main-svg"))
        assert len(browser.all(".plot .scatterlayer .trace")) >= 3
        browser.assert_quiet()


# -- hostile rollouts


def test_nothing_that_a_model_wrote_acts(browser: Browser, tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run", after)
    page = browser.open(write_page(folder))
    page.one("#rows-open").click()
    until(page, lambda: page.all("#rows-list .body"))
    for _ in range(2):
        page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        until(page, lambda: not page.all("#rows-list .fold:not([open])"))
    until(page, lambda: len(page.all("#rows-list .text")) > 20)
    assert page.run("return window.acted") is None
    assert page.all("main img, main a:not([href^='#']), main script:not([type])") == []
    assert page.run("return document.scripts.length") == 2
    texts = page.run("return document.body.textContent")
    assert "<script>window.acted=1</script>" in texts
    assert not {"\x1b", "\u202e", "\u2066", "\u200b", "\x9b", "\x07"} & set(texts)
    assert page.overflow() <= 0
    page.assert_quiet()
    # The same on a phone, where a long word would widen the page.
    assert browser.open(write_page(folder), size=PHONE).overflow() <= 0
    assert EVIL not in texts
