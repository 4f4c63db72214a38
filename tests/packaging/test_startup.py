"""Commands that only look something up load nothing heavy; bench/startup.py has the seconds."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "transformers", "datasets", "lm_eval", "peft", "trl", "gguf", "math_verify"),
    *("scipy", "sklearn", "statsmodels", "pandas", "pyarrow"),
    *("plotly", "httpx"),
)
LOADED = """
import json, sys
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running some code."""
    command = [sys.executable, "-c", LOADED.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*arguments: str) -> str:
    return f"sys.argv = {['tseval', *arguments]}; from tseval.cli import main; main()"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["plan", "--help"],
        ["train", "thinksafe", "--help"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert {"numpy", "asyncio", *HEAVY} & modules_after(command(*arguments)) == set()


@pytest.mark.parametrize("kind", ["benchmarks", "judges", "backends", "suites"])
def test_a_listing_loads_nothing_heavy(kind: str) -> None:
    assert set(HEAVY) & modules_after(command("ls", kind)) == set()


def test_the_package_itself_loads_almost_nothing() -> None:
    loaded = modules_after("import tseval")
    assert {"numpy", "asyncio", "msgspec", *HEAVY} & loaded == set()
    assert {name for name in loaded if name.startswith("tseval.")} == set()


def test_a_heavy_import_would_be_noticed() -> None:
    assert "numpy" in modules_after("import numpy")
