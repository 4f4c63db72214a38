"""One headless Chromium for all browser tests; skipped where there is none, but not in CI."""

import os
from collections.abc import Iterator

import pytest

from tests.support.browser import Browser, BrowserMissing, shots_folder, start


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, to be used for one page at a time.

    TSEVAL_TEST_SHOTS names a folder that keeps the screenshots.

    Without Chromium tests are skipped, but fail under CI: the pages would go untested.
    """
    try:
        driver = start()
    except BrowserMissing as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error} (Debian: chromium, chromium-driver)", pytrace=False)
        pytest.skip(str(error))
    try:
        yield Browser(driver, shots_folder(tmp_path_factory.mktemp("shots")))
    finally:
        driver.quit()
