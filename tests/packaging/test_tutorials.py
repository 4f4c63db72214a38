"""The tutorials are true: each file they show is written, each command they give is run."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import tseval
from tests.support.panel_judges import measure
from tseval.errors import BackendError
from tseval.models.demo import demo_folder
from tseval.plugins import load_registry

# Nothing is looked up on an index: what a package of the tutorials needs is there already.
PIP = """#!/bin/sh
command=$1; shift
exec {outer} -m pip --python {inner} $command -qq --no-build-isolation --no-deps --no-index "$@"
"""
OUTPUT = ("text",)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, or '', and what stands in it."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$',
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    return [Block(*each) for each in found]


def script(page: Path) -> str:
    """Everything that a reader of the page does, as one script of bash."""
    lines = ["set -euo pipefail"]
    for block in blocks(page):
        if block.title:
            folder, delimiter = Path(block.title).parent, "END_OF_FILE"
            lines += [f"mkdir -p {folder}", f"cat > {block.title} << '{delimiter}'"]
            lines += [block.text.rstrip("\n"), delimiter]
        elif block.language == "bash":
            lines.append(block.text.rstrip("\n"))
    return "\n".join(lines) + "\n"


def follow(page: Path, python: Path, folder: Path) -> str:
    """Do what the page says in an environment; return all that was printed."""
    pip = python.parent / "pip"
    pip.write_text(PIP.format(outer=sys.executable, inner=python), encoding="utf-8")
    pip.chmod(0o755)
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    file = folder / "page.sh"
    file.write_text(script(page), encoding="utf-8")
    done = subprocess.run(
        ["bash", str(file)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture
def tutorial(
    root: Path, wheel: Path, new_environment: Callable, tmp_path: Path
) -> Callable[[str], str]:
    """Follows a page in an environment of its own, with the demo model."""
    try:
        demo_folder(lambda *_: None)
    except BackendError as error:
        pytest.skip(f"no demo model: {error}")

    def run(name: str) -> str:
        environment = new_environment()
        environment.install(wheel)
        return follow(root / "docs" / "tutorial" / name, environment.python, tmp_path)

    return run


@pytest.mark.slow
@pytest.mark.model
def test_the_tutorial_on_benchmarks_works_as_it_is_written(tutorial: Callable, root: Path) -> None:
    printed = tutorial("your-own-benchmark.md")
    assert re.search(r"content_hash: [0-9a-f]{64}\n", printed)
    assert re.search(r"kitchen\s.*ORR.*\b8\b", printed)
    assert re.search(r"kitchen_again\s.*ORR.*\b8\b", printed)
    page = blocks(root / "docs" / "tutorial" / "your-own-benchmark.md")
    (shown,) = [block.text for block in page if block.language == "text"]
    headings = shown.splitlines()[0].strip("| ").split(" | ")
    assert len(headings) > 5
    assert [heading for heading in headings if heading not in printed] == []


@pytest.mark.slow
@pytest.mark.model
def test_the_tutorial_on_judges_works_as_it_is_written(tutorial: Callable) -> None:
    printed = tutorial("your-own-judge.md")
    assert re.search(r"^ ?sent-away\s+refusal\s+answer\s+1\s", printed, flags=re.MULTILINE)
    assert "\nfine\n" in printed
    # Two of the three that people label yes, and one of the three that they do not.
    assert re.search(r"sensitivity.*66\.7%", printed)
    assert re.search(r"specificity.*66\.7%", printed)
    assert "exit code 5" in printed


def test_every_block_of_a_tutorial_is_a_file_a_command_or_output(root: Path) -> None:
    pages = [root / "docs" / "tutorial" / f"your-own-{name}.md" for name in ("benchmark", "judge")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = blocks(page)
        assert len(found) == text.count("\n```") / 2, page.name
        loose = [b for b in found if not b.title and b.language not in ("bash", *OUTPUT)]
        assert loose == [], page.name


def test_the_judge_of_the_tutorial_takes_fifteen_lines(root: Path) -> None:
    shown = next(b for b in blocks(root / "docs/tutorial/your-own-judge.md") if b.title)
    code = [line for line in shown.text.splitlines()[1:] if line.strip()]
    assert shown.title == "tseval_sent_away.py"
    assert len(code) <= 15


def test_rows_of_the_tutorials_benchmark_are_named_as_everything_else_names_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that flips, frames and reports find the texts that belong to an outcome."""
    for block in blocks(root / "docs" / "tutorial" / "your-own-benchmark.md"):
        if block.title.startswith("tseval_kitchen/"):
            file = tmp_path / block.title
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_registry(extra=[importlib.import_module("tseval_kitchen")])
    found = measure(tmp_path / "run", registry, "refusal-rules", benchmarks=("kitchen_again",))
    run = tseval.load_run(tmp_path / "run")
    noted = {tseval.row_hash(each.row.sample, each.row.prompt) for each in run.rollouts()}
    (score,) = found.scorecard.scores
    assert len(noted) == 8
    assert {each.row for each in run.outcomes(score)} == noted


def test_python_and_cards_of_the_tutorials_are_sound(root: Path) -> None:
    from tseval.cards import load_card

    seen = set()
    for page in sorted((root / "docs" / "tutorial").glob("your-own-*.md")):
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, block.title, "exec")
            if block.language == "yaml":
                load_card(block.text, block.title)
            seen.add(block.language)
    assert {"python", "yaml"} <= seen
