"""`tseval run` on vLLM, as a user types it: run, resume, adapters by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm


def tseval(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    # The installed command: engines are spawned, and import the main module again.
    command = [Path(sys.executable).with_name("tseval"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


def test_a_run_on_vllm_ends_with_a_scorecard_and_resumes(tmp_path: Path, folder: Path) -> None:
    wanted = ("run", "--model", "vllm/demo", "--suite", "quick", "--limit", "2", "--json")
    first = tseval(*wanted, folder=tmp_path)
    assert first.returncode in (0, 5), first.stderr
    assert json.loads(first.stdout), "the record and nothing else on standard output"
    assert "Exception ignored" not in first.stderr
    assert "Traceback" not in first.stderr
    (run,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["subject"]["name"] == "demo"
    assert manifest["legs"][0]["execution"]["engine"].startswith("vllm ")
    assert manifest["legs"][0]["counts"]
    scores = json.loads((run / "scores.json").read_text())["scores"]
    assert {score["metric"] for score in scores} >= {"asr_nonrefusal", "orr"}
    assert all(score["n"] for score in scores if not score["undefined"])
