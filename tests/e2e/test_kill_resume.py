"""Real processes that are killed, interrupted or starved of disk, and the same command again."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.signals import heed_interrupts
from tseval.journal import Journal

MAIN = (sys.executable, "-c", "from tseval.cli import main; main()")
RUN = (
    *("run", "--model", "scripted/thinking", "--benchmark", "quick_harmful,quick_benign"),
    *("--rollouts", "6", "--thinking-budget", "60", "-M", "delay=0.06"),
)
ROLLOUTS = 48 * 6
DEMO = (
    *("run", "--model", "demo", "-M", "deterministic=true", "--suite", "quick"),
    *("--limit", "4", "--answer-tokens", "12"),
)


def start(
    out: Path, *more: str, arguments: tuple[str, ...] = RUN, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MAIN, *arguments, "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=heed_interrupts,
    )


def end(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output, errors


def complete(out: Path, *more: str, **environment: Any) -> str:
    """Run to the end; what it said on stderr."""
    code, _, errors = end(start(out, *more, **environment))
    assert code == 0, errors
    return errors


def journal(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((out / "journal").glob("*.jsonl")))


def whole_lines(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def answers(out: Path) -> dict[str, Any]:
    """What the journal holds by key, without the time; a key that is there twice fails."""
    records = [json.loads(line) for line in whole_lines(journal(out))]
    keys = Counter(record["key"] for record in records)
    assert keys.most_common(1)[0][1] == 1, "a record was made twice"
    return {record["key"]: (record["kind"], record["data"]) for record in records}


def status(out: Path) -> str:
    return str(json.loads((out / "run.json").read_bytes())["status"])


def wait_for_bytes(process: subprocess.Popen[str], out: Path, count: int) -> bool:
    """Wait until the journal is so long; False if the process ended before."""
    while process.poll() is None:
        if len(journal(out)) >= count:
            return True
        time.sleep(0.002)
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    complete(out)
    return out


def kill_and_resume(out: Path, size: int, kills: int, **how: Any) -> list[bytes]:
    """Kill -9 at random moments, the first during the start; what was journalled by each.

    Args:
        out: The run's folder.
        size: Length of an undisturbed run's journal, in bytes.
        kills: How often.
        how: For ``start``.
    """
    # Timing is random in any case; pytest prints the seed of the rest where the test fails.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    targets = sorted(draw.randrange(1, int(size * 0.9)) for _ in range(kills - 1))
    left: list[bytes] = []
    for number in range(kills):
        process = start(out, **how)
        wanted = max(targets[number - 1], len(left[-1]) + 1) if number else size
        if wanted < 0.95 * size:
            # On a machine that is busy enough a leg may be over before it is looked at.
            wait_for_bytes(process, out, wanted)
            time.sleep(draw.uniform(0, 0.02))
        else:  # the first, or one behind a kill that came late: during the start
            time.sleep(draw.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        end(process)
        assert process.returncode in (-signal.SIGKILL, 0)
        left.append(journal(out))
    complete(out, **how)
    return left


def check(out: Path, whole: Path, left: list[bytes]) -> None:
    """Nothing lost, nothing made twice, nothing changed; and the same scores to the byte."""
    final = whole_lines(journal(out))
    for earlier in left:
        kept = whole_lines(earlier)
        assert final[: len(kept)] == kept
    assert len(journal(out)) == sum(map(len, final))
    assert answers(out) == answers(whole)
    assert status(out) == "complete"
    assert (out / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_a_run_killed_five_times_gives_the_scores_of_one_that_was_not(
    tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    left = kill_and_resume(out, len(journal(whole)), 5)
    check(out, whole, left)
    kinds = Counter(kind for kind, _ in answers(out).values())
    assert kinds["generation"] == kinds["row"] == ROLLOUTS
    assert any(0 < len(earlier) < len(journal(out)) for earlier in left), "no kill hit the middle"


def test_a_run_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = Journal.open(out / "journal")
    code, _, errors = end(start(out))
    assert code == 1
    assert f"error: another process is writing to {out}\n" in errors
    assert "hint: wait for it to end, or start another run with --fresh\n" in errors
    assert not (out / "run.json").exists()
    holder.close()
    complete(out, "--limit", "1")


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_prints_the_command_that_resumes_it(
    tmp_path: Path, whole: Path, sent: signal.Signals
) -> None:
    out = tmp_path / "a run"
    # Slow enough that a machine which stalls for seconds can't let the run end before the signal.
    slow = tuple(argument.replace("delay=0.06", "delay=0.3") for argument in RUN)
    process = start(out, arguments=slow)
    assert wait_for_bytes(process, out, len(journal(whole)) // 4)
    process.send_signal(sent)
    code, output, errors = end(process)
    assert code == 130
    assert output == ""
    assert "Traceback" not in errors
    *_, said, command = errors.splitlines()
    assert said == "interrupted; nothing is lost. To go on:"
    assert status(out) == "interrupted"
    left = journal(out)
    assert left.endswith(b"\n")

    name, *arguments = shlex.split(command)
    assert name == "tseval"
    again = subprocess.run([*MAIN, *arguments], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resuming {out} (interrupted)" in again.stderr
    check(out, whole, [left])


@pytest.mark.slow
def test_another_specification_for_the_same_folder_exits_2_and_names_the_field(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    complete(out, "--limit", "1")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, errors = end(start(out, "--limit", "2", "--seed", "3"))
    assert code == 2
    assert "limit: 1 there, 2 here; seed: 0 there, 3 here" in errors
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="mounting a small disk takes Linux and root",
)
def test_a_full_disk_exits_1_and_the_same_command_resumes(tmp_path: Path, whole: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        out = disk / "run"
        code, _, errors = end(start(out))
        assert code == 1
        assert "Traceback" not in errors
        assert f"error: cannot write to {out / 'journal'}: No space left on device" in errors
        assert "resume: tseval run" in errors
        left = journal(out)
        assert len(left) > 60_000
        assert left.endswith(b"\n")
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        complete(out)
        check(out, whole, [left])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_no_secret_reaches_a_file_or_the_screen(tmp_path: Path) -> None:
    planted = {
        name: f"planted-{name.lower()}-4f1d"
        for name in ("OPENAI_API_KEY", "HF_TOKEN", "ANTHROPIC_API_KEY", "MY_PASSWORD")
    }
    prompt = "Speak of Rumpelstiltskin to nobody."
    out = tmp_path / "run"
    process = start(out, "--limit", "2", "--system-prompt", prompt, **planted)
    code, output, errors = end(process)
    assert code == 0, errors
    texts = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    texts |= {"stdout": output.encode(), "stderr": errors.encode()}
    for name, text in texts.items():
        assert b"planted-" not in text, name
    # The system prompt is no secret, but what is handed around is only its hash.
    scores = json.loads(texts[str(out / "scores.json")])
    assert len(scores["system_prompt_hash"]) == 12
    assert b"Rumpelstiltskin" not in texts[str(out / "scores.json")]
    assert b"Rumpelstiltskin" in texts[str(out / "run.json")]


@pytest.mark.model
@pytest.mark.slow
def test_a_deterministic_model_killed_and_resumed_gives_the_same_scores_to_the_byte(
    tmp_path: Path,
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    complete(whole, arguments=DEMO)
    left = kill_and_resume(out, len(journal(whole)), 3, arguments=DEMO)
    check(out, whole, left)
