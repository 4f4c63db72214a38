"""Pages in a real headless Chromium: what they show, say on the console, and ask the network for.

``tests/browser/conftest.py`` starts one for the whole session and hands it out as ``browser``.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MISSING = "no headless Chromium"
# A phone, and a laptop.
PHONE, DESKTOP = (390, 844), (1280, 900)
# None of them is a request: a page may make its own pictures and files to save.
_LOCAL = ("data", "blob", "about", "chrome-error")


class BrowserMissing(Exception):
    """There is no Chromium, or no driver for it."""


def start() -> Any:
    """Start Chromium with its driver, unable to reach any host.

    Raises:
        BrowserMissing: One of the two is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        lacking = "chromedriver" if chromium else "chromium"
        raise BrowserMissing(f"{MISSING}: {lacking} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        *("--disable-extensions", "--disable-background-networking", "--no-first-run"),
        # A request that the page's policy let through would fail, and so be seen.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--force-device-scale-factor=1",
        "--lang=en",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Browser:
    """One page at a time, and what it did.

    Attributes:
        driver: Selenium's own.
        shots: Folder of screenshots.
    """

    def __init__(self, driver: Any, shots: Path) -> None:
        self.driver = driver
        self.shots = shots
        self._complaints: list[str] = []
        self._requests: list[str] = []

    def open(
        self,
        page: Path,
        *,
        size: tuple[int, int] = DESKTOP,
        dark: bool = False,
        fragment: str = "",
        scripts: bool = True,
    ) -> "Browser":
        """Open a page from its file, forgetting what earlier ones did.

        Args:
            page: The file.
            size: Of the window, in pixels; narrower than 600 is a phone.
            dark: Ask for dark colours.
            fragment: Behind '#'.
            scripts: Whether scripts run.
        """
        width, height = size
        command = self.driver.execute_cdp_cmd
        self.driver.get("about:blank")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        command("Emulation.setEmulatedMedia", {"features": [scheme]})
        command("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self._read_logs()
        self._complaints, self._requests = [], []
        self.driver.get(page.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and give what it returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """Every element that a CSS selector finds."""
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The only element that a CSS selector finds."""
        (found,) = self.all(selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """What a reader sees of each element that a CSS selector finds, all at one moment."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), e => e.innerText)"
        return [str(text) for text in self.run(script, selector)]

    def tab(self, times: int = 1) -> Any:
        """Press the tab key; returns the element that then has the focus."""
        from selenium.webdriver.common.keys import Keys

        for _ in range(times):
            self.press(Keys.TAB)
        return self.driver.switch_to.active_element

    def press(self, *keys: str) -> None:
        """Type keys into whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def overflow(self) -> int:
        """How many pixels the page is wider than its window: more than none scrolls sideways."""
        return int(self.run("return document.documentElement.scrollWidth - window.innerWidth"))

    def complaints(self) -> list[str]:
        """What the console was told as an error or a warning since the page was opened."""
        self._read_logs()
        return self._complaints

    def requests(self, *own: Path) -> list[str]:
        """Requests since the page was opened that are for no file of the page's own.

        Args:
            own: Files or folders that it may read; the page itself always may.
        """
        self._read_logs()
        page = _file(self.driver.current_url)
        allowed = [page, *(path.resolve() for path in own)]
        return [
            url
            for url in self._requests
            if urlsplit(url).scheme not in _LOCAL
            and not (url.startswith("file:") and _within(_file(url), allowed))
        ]

    def assert_quiet(self, *own: Path) -> None:
        """Hold a page to: no error on the console, no request that leaves it.

        Args:
            own: Files or folders that it may read besides itself.
        """
        assert self.complaints() == []
        assert self.requests(*own) == []

    def shot(self, name: str, *, whole: bool = False) -> Path:
        """Take a screenshot; returns its file.

        Args:
            name: Of the file, without its ending.
            whole: The whole page, however long, rather than the window.
        """
        import base64

        wanted = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            metrics = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            height = min(metrics["height"], 8000)
            wanted["clip"] = {"x": 0, "y": 0, "width": metrics["width"], "height": height}
            wanted["clip"]["scale"] = 1
        made = self.driver.execute_cdp_cmd("Page.captureScreenshot", wanted)
        self.shots.mkdir(parents=True, exist_ok=True)
        path = self.shots / f"{name}.png"
        path.write_bytes(base64.b64decode(made["data"]))
        return path

    def _read_logs(self) -> None:
        for entry in self.driver.get_log("browser"):
            if entry["level"] in ("SEVERE", "WARNING"):
                self._complaints.append(f"{entry['level']}: {entry['message']}")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])


def shots_folder(default: Path) -> Path:
    """Where screenshots go: the folder that TSEVAL_TEST_SHOTS names, or a default."""
    named = os.environ.get("TSEVAL_TEST_SHOTS")
    return Path(named) if named else default


def _file(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _within(path: Path, allowed: list[Path]) -> bool:
    return any(path == each or each in path.parents for each in allowed)
