"""The tutorial on reading a run: its blocks are run on the run that it makes."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tseval.cli.app import app
from tseval.plugins import load_registry


def blocks(root: Path, language: str) -> list[str]:
    page = (root / "docs" / "tutorial" / "read-a-run.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs_and_prints_what_was_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = blocks(root, "bash")
    done = CliRunner().invoke(app, command.split()[1:])
    assert done.exit_code == 0, done.output
    capsys.readouterr()
    names: dict[str, Any] = {}
    code = blocks(root, "python")
    assert len(code) == 9
    for number, block in enumerate(code):
        exec(compile(block, f"block {number}", "exec"), names)
    printed = capsys.readouterr().out
    orr = names["orr"]
    assert printed.startswith("complete scripted/mixed\n")
    assert f"quick_benign orr: {orr.estimate.value:.3f} [{orr.estimate.low:.3f}" in printed
    assert f"{orr.fingerprint} refusal-rules 0.6" in printed
    assert names["refused"] == round(orr.estimate.value * 48)
    assert "0 findings, 0 arrays" in printed


def test_the_how_to_names_every_format_with_what_it_needs(root: Path) -> None:
    page = (root / "docs" / "how-to" / "export-a-run.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", page, flags=re.MULTILINE))
    exporters = load_registry().exporters
    assert set(rows) == set(exporters)
    for name, row in rows.items():
        texts = row.split("|")[1].strip()
        assert (texts == "none") is not getattr(exporters[name], "holds_texts", name != "figures")
