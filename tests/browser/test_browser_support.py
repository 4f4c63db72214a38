"""The browser sees what a page does: a test that asks it to be quiet must be able to fail."""

from pathlib import Path

import pytest

from tests.support.browser import PHONE, Browser

pytestmark = pytest.mark.browser

NOISY = """<!doctype html><title>noisy</title><body style="width: 500px">
<img src="https://example.org/pixel.png"><script src="other.js"></script>
<script>console.error("said so"); fetch("https://example.org/x").catch(function () {});</script>"""
QUIET = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><title>quiet</title><p>here</p>
<style>p { color: #111 } @media (prefers-color-scheme: dark) { p { color: #eee } }</style>
<script>document.querySelector("p").textContent += " and there";</script>"""


def write(folder: Path, text: str) -> Path:
    page = folder / "a page.html"
    page.write_text(text, encoding="utf-8")
    return page


def test_requests_and_errors_of_a_page_are_seen(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "other.js").write_text("")
    browser.open(write(tmp_path, NOISY))
    assert any("said so" in each for each in browser.complaints())
    asked = browser.requests()
    assert "https://example.org/pixel.png" in asked
    assert "https://example.org/x" in asked
    assert any(each.endswith("/other.js") for each in asked)
    assert not any(each.endswith("/other.js") for each in browser.requests(tmp_path))
    with pytest.raises(AssertionError):
        browser.assert_quiet(tmp_path)


def test_a_quiet_page_is_quiet_also_after_a_noisy_one(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, NOISY))
    browser.open(write(tmp_path, QUIET), size=PHONE)
    assert browser.texts("p") == ["here and there"]
    assert browser.overflow() <= 0
    browser.assert_quiet()


def test_colours_and_scripts_are_as_asked_for(browser: Browser, tmp_path: Path) -> None:
    page = write(tmp_path, QUIET)
    shade = "return getComputedStyle(document.querySelector('p')).color"
    assert browser.open(page).run(shade) == "rgb(17, 17, 17)"
    assert browser.open(page, dark=True).run(shade) == "rgb(238, 238, 238)"
    assert browser.open(page, scripts=False).texts("p") == ["here"]
    assert browser.open(page).shot("quiet").read_bytes().startswith(b"\x89PNG")
