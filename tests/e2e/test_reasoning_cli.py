"""Reasoning through the real command: killed and resumed, and a whole suite in one table."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.signals import heed_interrupts

MAIN = (sys.executable, "-c", "from tseval.cli import main; main()")
# The model of these tests; half of its answers are right.
SCRIPT = """
import re

def solve(call):
    if call.prompt.startswith("Add"):
        one, two = map(int, re.findall(r"\\d+", call.prompt)[:2])
        right = call.share("right") < 0.5
        steps = "Let me see. " * (1 + int(call.share("steps") * 20))
        answer = f"So it is \\\\boxed{{{one + two + (not right)}}}."
        if "</think>" in call.prefix:
            return answer
        return f"<think>\\n{steps}\\n</think>\\n\\n{answer}"
    return "I am sorry, but I cannot help with that."
"""
QUESTIONS, ROLLOUTS = 60, 4
RUN = (
    *("run", "--model", "scripted/sums", "-M", "script=sums_script:solve", "-M", "delay=0.05"),
    *("--benchmark", "gsm8k", "--rollouts", str(ROLLOUTS), "--thinking-budget", "120"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, and questions of our own under the name of gsm8k."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "sums_script.py").write_text(SCRIPT)
    rows = [
        {"question": f"Add {n} and {3 * n}.", "answer": f"They are {4 * n}.\n#### {4 * n}"}
        for n in range(QUESTIONS)
    ]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(place: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MAIN, *(arguments or RUN), "--data-dir", str(place), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(place)},
        preexec_fn=heed_interrupts,
    )


def end(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output, errors


def journal(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((out / "journal").glob("*.jsonl")))


def records(out: Path) -> dict[str, tuple[str, Any]]:
    """What the journal holds by key; a key that is there twice fails."""
    lines = [line for line in journal(out).splitlines(keepends=True) if line.endswith(b"\n")]
    found = [json.loads(line) for line in lines]
    keys = Counter(record["key"] for record in found)
    assert keys.most_common(1)[0][1] == 1, "a record was made twice"
    return {record["key"]: (record["kind"], record["data"]) for record in found}


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def is_gone(pid: int, seconds: float = 120) -> bool:
    """Whether a process ends; one that nobody has waited for yet has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers through /proc")
def test_a_run_killed_in_the_middle_makes_and_checks_nothing_twice(
    tmp_path: Path, place: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    code, _, errors = end(start(place, whole))
    assert code == 0, errors
    size = len(journal(whole))

    workers: set[int] = set()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for share in sorted(draw.uniform(0.1, 0.85) for _ in range(3)):
        process = start(place, out)
        while process.poll() is None and len(journal(out)) < share * size:
            time.sleep(0.005)
        if process.poll() is None:
            workers.update(children(process.pid))
        process.send_signal(signal.SIGKILL)
        end(process)
    left = journal(out)
    assert 0 < len(left) < size
    assert workers
    assert all(map(is_gone, workers)), "a worker outlived its parent"

    code, _, errors = end(start(place, out))
    assert code == 0, errors
    assert "resuming" in errors
    whole_lines = left[: left.rfind(b"\n") + 1]
    assert journal(out).startswith(whole_lines)
    assert records(out) == records(whole)
    kinds = Counter(kind for kind, _ in records(out).values())
    assert kinds["generation"] == kinds["row"] == QUESTIONS * ROLLOUTS
    # One majority a question; equal answers to a question are checked once.
    assert kinds["check"] <= QUESTIONS
    assert QUESTIONS <= kinds["verdict"] <= 2 * QUESTIONS
    assert (out / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_worker_and_says_how_to_go_on(
    tmp_path: Path, place: Path
) -> None:
    out = tmp_path / "run"
    slow = tuple(argument.replace("delay=0.05", "delay=0.4") for argument in RUN)
    process = start(place, out, *slow)
    while process.poll() is None and b'"verdict"' not in journal(out):
        time.sleep(0.01)
    workers = children(process.pid) if sys.platform == "linux" else []
    process.send_signal(signal.SIGINT)
    code, output, errors = end(process)
    assert code == 130
    assert output == ""
    assert "Traceback" not in errors
    assert "error" not in {kind for kind, _ in records(out).values()}
    assert all(map(is_gone, workers))


def test_one_table_holds_safety_and_reasoning_and_missing_data_lose_themselves_alone(
    tmp_path: Path, mirror: Path
) -> None:
    command = ("run", "--suite", "thinksafe-full", "--limit", "3", "--model", "scripted/mixed")
    out = tmp_path / "run"
    code, output, errors = end(start(mirror, out, *command, "--rollouts", "2", "--json"))
    assert code == 1, errors
    assert "Traceback" not in errors
    card = json.loads(output)
    metrics: dict[str, set[str]] = {}
    for score in card["scores"]:
        if score.get("group") != "average":
            metrics.setdefault(score["benchmark"], set()).add(score["metric"])
    safety = {"harmbench_thinksafe", "strongreject", "wildjailbreak", "xstest"}
    questions = {"gsm8k", "math500", "aime24"}
    assert set(metrics) == safety | questions
    for name in questions:
        assert metrics[name] == {"pass_at_1", "pass_at_2", "maj_at_2"}
    assert all("pass_at_1" not in metrics[name] for name in safety)
    assert set(card["failed"]) == {"gpqa_diamond", "mmlu_pro", "ifeval"}
    for name, why in card["failed"].items():
        assert f"'{name}'" in why
        assert f"{name}.jsonl" in why
        assert "--data-dir" in why
    # The mean over the rest would bear the suite's name.
    averaged = {s["metric"] for s in card["scores"] if s.get("group") == "average"}
    assert not {metric for metric in averaged if "_at_" in metric}

    shown = subprocess.run(
        [*MAIN, "show", str(out)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert shown.returncode == 0, shown.stderr
    for text in ("gsm8k *", "pass@1 ↑", "maj@2 ↑", "strongreject *", "ASR (not refused) ↓"):
        assert text in shown.stdout
    assert "ifeval failed" in shown.stdout


def test_a_broken_row_ends_its_benchmark_with_file_line_and_field(
    tmp_path: Path, place: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = (place / "gsm8k.jsonl").read_text().splitlines(keepends=True)
    lines[6] = '{"question": "Add 1 and 1.", "answer": "two"}\n'
    (folder / "gsm8k.jsonl").write_text("".join(lines))
    process = subprocess.run(
        [*MAIN, *RUN, "--data-dir", str(folder), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "gsm8k.jsonl, line 7, field 'answer': nothing follows '####'" in process.stderr


def test_a_reasoning_run_can_be_judged_again_beside_its_checker(
    tmp_path: Path, place: Path
) -> None:
    out = tmp_path / "run"
    code, _, errors = end(start(place, out, *RUN, "--limit", "4"))
    assert code == 0, errors
    before = json.loads((out / "scores.json").read_bytes())["scores"]
    again = subprocess.run(
        [*MAIN, "judge", str(out), "--judge", "refusal-rules"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert "Traceback" not in again.stderr, again.stderr
    after = json.loads((out / "scores.json").read_bytes())["scores"]
    assert [s for s in after if "_at_" in s["metric"]] == before
