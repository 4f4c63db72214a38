"""``tseval plan`` as a command: options, exit codes, what is printed, and what a run then takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support import lm_eval_toys as toys
from tseval.cli.app import app

ROOT = Path(__file__).parents[2]
TSEVAL = (sys.executable, "-c", "from tseval.cli import main; main()")
SLOW = ("--model", "scripted/thinking", "-M", "delay=0.2", "--thinking-budget", "400")


def tseval(
    *arguments: str, cwd: Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*TSEVAL, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def planned(*arguments: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        tseval("plan", *arguments, "--json", cwd=cwd, code=code).stdout
    )
    return found


def counted(folder: Path) -> dict[str, Any]:
    leg: dict[str, Any] = json.loads((folder / "run.json").read_text())["legs"][0]
    return leg


def options(command: str) -> dict[str, tuple[Any, ...]]:
    group: Any = typer.main.get_command(app)
    return {
        parameter.name: (parameter.opts, parameter.multiple, parameter.default, parameter.envvar)
        for parameter in group.commands[command].params
    }


def test_plan_takes_every_option_of_run_and_three_of_its_own() -> None:
    run, plan = options("run"), options("plan")
    assert {name: plan[name] for name in run} == run
    assert {name: opts for name, (opts, *_) in plan.items() if name not in run} == {
        "pilot": ["--pilot"],
        "pilot_seconds": ["--pilot-seconds"],
        "earlier": ["--from"],
    }


def test_a_plan_leaves_nothing_behind_and_a_run_then_takes_what_it_said(tmp_path: Path) -> None:
    found = planned(*SLOW, "--rollouts", "2", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    tseval("run", *SLOW, "--rollouts", "2", "--out", "run", cwd=tmp_path)
    leg = counted(tmp_path / "run")
    assert 0.9 < leg["counts"]["tokens"] / found["tokens"]["value"] < 1.1
    assert found["rollouts"] == leg["counts"]["generation.made"] == 96
    calls = [(each["judge"], each["calls"]) for each in found["judges"]]
    assert calls == [("refusal-rules", 96)]
    assert leg["counts"]["verdict.made"] <= 96
    journal = sum(file.stat().st_size for file in (tmp_path / "run" / "journal").glob("*.jsonl"))
    assert 0.5 < journal / found["disk_bytes"]["value"] < 2


@pytest.mark.slow
def test_a_plan_after_a_run_needs_no_pilot(tmp_path: Path) -> None:
    tseval("run", *SLOW, cwd=tmp_path)
    found = planned(*SLOW, "--seed", "1", cwd=tmp_path)
    assert found["earlier_run"].startswith("runs/")
    assert found["pilot_seconds"] is None
    named = planned(*SLOW, "--from", found["earlier_run"], cwd=tmp_path)
    assert named["tokens"] == found["tokens"]
    looked = planned(*SLOW, "--pilot", "3", cwd=tmp_path)
    assert looked["benchmarks"][0]["looked_at"] == 3


@pytest.mark.slow
def test_the_tables_say_where_the_figures_come_from(tmp_path: Path) -> None:
    done = tseval("plan", *SLOW, "--pilot", "4", "--markdown", cwd=tmp_path)
    assert "| quick_harmful | " in done.stdout
    assert "4 of a pilot" in done.stdout
    assert "correlation 0.5" in done.stdout
    assert "the pilot took 0:" in done.stdout
    plain = tseval("plan", *SLOW, "--pilot", "0", cwd=tmp_path).stdout
    assert "the limits of trace and answer" in plain
    assert "4.8 k" not in plain


def test_missing_data_ends_with_five_and_is_named(tmp_path: Path) -> None:
    found = planned(*SLOW, "--benchmark", "hexphi", "--pilot", "0", cwd=tmp_path, code=5)
    (each,) = found["benchmarks"]
    assert each["gated"]
    assert each["page"].startswith("https://")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_task_that_runs_code_is_wrong_usage_before_a_model_is_loaded(
    tmp_path: Path, command: str
) -> None:
    chosen = ("--benchmark", "quick_benign,lm-eval/humaneval")
    done = tseval(command, *SLOW, *chosen, cwd=tmp_path, code=2)
    assert "humaneval runs code that the model wrote on this machine" in done.stderr
    assert "--confirm-run-unsafe-code" in done.stderr
    assert "loading" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_lm_eval_task_takes_what_its_plan_said(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    model = ("--model", "scripted/", "-M", "script=tests.support.lm_eval_toys:add")
    cache = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    chosen = (*model, "--benchmark", name, "--out", str(tmp_path / "run"))
    planned = tseval("plan", *chosen, "--pilot", "5", "--json", cwd=tmp_path, **cache)
    found = json.loads(planned.stdout)
    (each,) = found["benchmarks"]
    assert (each["prompts"], each["rollouts"], each["looked_at"]) == (12, 12, 5)
    assert each["source"] == "pilot"
    tseval("run", *chosen, cwd=tmp_path, **cache)
    counts = counted(tmp_path / "run")["counts"]
    assert counts["generation.made"] == 12
    assert each["tokens"]["low"] <= counts["tokens"] <= each["tokens"]["high"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--benchmark", "xtest"), "unknown benchmark 'xtest'"),
        (("--from", "nowhere"), "no run in nowhere"),
        (("--top-p", "0"), "--top-p 0 keeps no token"),
    ],
)
def test_wrong_usage_ends_with_two(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = tseval("plan", *SLOW, *arguments, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert done.stdout == ""


def test_options_come_from_variables_and_a_file_as_for_run(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rollouts: 3\nbenchmark: quick_benign\n")
    done = tseval(
        *("plan", *SLOW, "--pilot", "0", "--config", "c.yaml", "--json"),
        cwd=tmp_path,
        TSEVAL_LIMIT="5",
    )
    found = json.loads(done.stdout)
    assert [each["benchmark"] for each in found["benchmarks"]] == ["quick_benign"]
    assert (found["prompts"], found["rollouts"]) == (5, 15)


def test_a_model_that_fails_ends_the_plan_with_its_error(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    done = tseval("plan", "--model", str(folder), cwd=tmp_path, code=1)
    assert done.stderr.splitlines()[-2].startswith(("error:", "hint:", "tseval:"))
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.model
def test_a_plan_of_the_demo_is_about_right(tmp_path: Path) -> None:
    short = ("--answer-tokens", "16", "--benchmark", "quick_harmful,quick_benign")
    # On a busy machine the pilot would be cut, and a plan whose pilot was cut gives bounds alone.
    found = planned(*short, "--pilot", "6", "--pilot-seconds", "900", cwd=tmp_path)
    tseval("run", *short, "--out", "run", cwd=tmp_path)
    leg = counted(tmp_path / "run")
    assert found["tokens"]["low"] <= leg["counts"]["tokens"] <= found["tokens"]["high"]
    # Loading, and whatever else the machine does, are in both, but not to the same degree.
    assert 0.1 < leg["seconds"] / found["seconds"]["value"] < 10
