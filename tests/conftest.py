"""What all tests share: the data mirror, a clean environment, and reproducible properties."""

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
MIRROR_MISSING = "no data mirror"

# A developer's own settings must not reach the tests: every tseval flag has a TSEVAL_ variable.
for name in [name for name in os.environ if name.startswith("TSEVAL_")]:
    if not name.startswith("TSEVAL_TEST_"):
        del os.environ[name]
# Nothing may be fetched from the hub, and what a command prints must not depend on the terminal.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_COLOR": "1",
    "COLUMNS": "120",
}

# A loaded machine draws slowly: that says nothing about a property.
TIMELESS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("local", **TIMELESS)
hypothesis.settings.register_profile("ci", derandomize=True, **TIMELESS)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The local mirror of the benchmark data; tests that need it are skipped where it is absent.

    Raises:
        pytest.UsageError: TSEVAL_TEST_DATA names a folder that does not exist.
    """
    named = os.environ.get("TSEVAL_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if named:
            raise pytest.UsageError(f"TSEVAL_TEST_DATA names no folder: {named}")
        pytest.skip(f"{MIRROR_MISSING} at {folder}; set TSEVAL_TEST_DATA")
    return folder.resolve()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests went without the mirror, also where skips are not listed."""
    skipped = sum(
        MIRROR_MISSING in str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    if skipped:
        terminalreporter.write_line(f"{skipped} tests skipped: {MIRROR_MISSING}")
