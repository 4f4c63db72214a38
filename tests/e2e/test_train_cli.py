"""Trainings through the real command: killed, resumed, measured, merged, used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.slow

MAIN = (sys.executable, "-c", "from tseval.cli import main; main()")
PANEL = ("--eval-suite", "quick", "--eval-prompts", "3", "--eval-steps", "2")


def tseval(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAIN, *arguments], capture_output=True, text=True, check=False)


def generations(panel: Path) -> dict[str, int]:
    """Completions that the journal of each of the panel's runs holds."""
    return {
        run.name: sum(
            file.read_bytes().count(b'{"kind":"generation"')
            for file in (run / "journal").glob("*.jsonl")
        )
        for run in panel.iterdir()
        if (run / "run.json").exists()
    }


def killed(arguments: tuple[str, ...], out: Path, file: str) -> None:
    """Start a training, and kill it outright as soon as a file is there."""
    started = subprocess.Popen(
        [*MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 900
    try:
        while not list(out.glob(file)):
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.kill(started.pid, signal.SIGKILL)
        started.communicate()


def test_a_killed_training_goes_on_and_leaves_an_adapter_that_runs(tmp_path: Path) -> None:
    base, out = save_tiny("llama", tmp_path / "base"), tmp_path / "t"
    rows = [{"prompt": f"How is thing {n} made?", "answer": f"Glue part {n}."} for n in range(24)]
    (tmp_path / "teacher.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = (
        *("train", "sft", "--model", str(base), "--teacher", str(tmp_path / "teacher.jsonl")),
        *("--max-steps", "4", "--batch", "4", "--lr", "1e-2", "--dtype", "float32"),
        *(*PANEL, "--eval-answer-tokens", "8", "--out", str(out)),
    )
    killed(train, out, "panel/selection-000002-*/scores.json")
    assert json.loads((out / "train.json").read_text())["status"] == "fitting"
    resumed = tseval(*train, "--merge", "--json")
    assert resumed.returncode == 0, resumed.stderr
    made: dict[str, Any] = json.loads(resumed.stdout)
    assert (made["status"], made["subject"]["name"]) == ("complete", "base")
    assert [entry["step"] for entry in made["fitted"]["log"]] == [1, 2, 3, 4]
    assert [look["step"] for look in made["panel"]["looks"]] == [0, 2, 4]
    assert made["panel"]["chosen"] == made["fitted"]["step"]
    assert {each["phase"] for each in made["compute"]} == {"gather", "fit", "panel"}
    assert all(change["difference"] for change in made["panel"]["final"])
    assert set(generations(out / "panel").values()) == {6}

    run = ("run", "-b", "quick_harmful", "--limit", "2", "--answer-tokens", "8")
    for model in (out / "adapter", out / "merged"):
        done = tseval(*run, "--model", str(model), "--out", str(tmp_path / model.name))
        assert done.returncode == 0, done.stderr
    shown = tseval("show", str(tmp_path / "adapter"), "--against", str(tmp_path / "merged"))
    assert shown.returncode == 0, shown.stderr
    assert "Before and after: merged → adapter" in shown.stdout


@pytest.mark.model
def test_the_demo_model_learns_one_refusal(tmp_path: Path) -> None:
    out = tmp_path / "t"
    done = tseval(
        *("train", "direct-refusal", "-T", "benign=none", "--max-harmful", "8", "--json"),
        *("--max-steps", "5", "--batch", "4", "--lr", "1e-3", "--eval-suite", "quick_benign"),
        *("--eval-prompts", "2", "--eval-answer-tokens", "8", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    first, *_, last = made["fitted"]["log"]
    assert last["loss"] < first["loss"] / 2
    assert (made["subject"]["name"], made["panel"]["sizes"]) == ("demo", {"quick_benign": [0, 2]})
    assert made["gathered"]["prompts"] == {"harmful": 8}
    assert (out / "adapter" / "adapter_model.safetensors").exists()
