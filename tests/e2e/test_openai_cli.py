"""``tseval run`` against a server, in a process of its own: scores, keys, death and resume."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.openai_server import Ask, Fault, OpenAIServer, sensible, serving

KEY = "sk-live-0123456789abcdef"
ROWS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def tseval(server: OpenAIServer, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the quick suite on six rows a benchmark."""
    return subprocess.run(
        [
            *(sys.executable, "-c", "from tseval.cli import main; main()"),
            *("run", "--model", "openai/toy", "--base-url", server.url, "--suite", "quick"),
            *("--limit", "6", "--out", str(folder), "--json", *more),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        check=False,
    )


def everything_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def is_row(ask: Ask) -> bool:
    """Whether a question is none of those that a start asks."""
    return "messages" in ask.body and sensible(ask).startswith("You said")


def test_a_run_against_a_server_is_scored_and_marked_unverified(folder: Path) -> None:
    together = threading.Barrier(4)

    def answer(ask: Ask) -> str:
        if is_row(ask):
            # Nobody is answered before four are waiting: the run must keep four under way.
            together.wait(300)
            return "I'm sorry, but I can't help with that."
        return sensible(ask)

    with serving(answer=answer, key=KEY) as server:
        done = tseval(server, folder, "-M", "concurrency=4")
        assert done.returncode == 0, done.stderr
        assert server.most_at_once == 4
    assert json.loads(done.stdout)["subject"]["verified"] is False
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["subject"]["identity"]["server"] == server.url
    rates = {
        score["metric"]: score["estimate"]["value"]
        for score in json.loads((folder / "scores.json").read_text())["scores"]
    }
    assert rates["asr_nonrefusal"] == 0.0
    assert rates["orr"] == 1.0


def test_the_judge_never_sees_a_trace_that_the_server_sent_inline(folder: Path) -> None:
    # The trace refuses, the answer complies: a judge that saw the trace would say refusal.
    with serving(trace="I'm sorry, I can't help with that.", key=KEY) as server:
        assert tseval(server, folder).returncode == 0
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    assert {s["metric"]: s["estimate"]["value"] for s in scores}["asr_nonrefusal"] == 1.0


def test_the_key_reaches_neither_a_file_nor_the_screen_though_the_server_echoes_it(
    folder: Path,
) -> None:
    # The start takes fewer than twenty requests; every later one fails with the key in its error.
    with serving(key=KEY, faults=lambda n: Fault("echo", 400) if n >= 20 else None) as server:
        done = tseval(server, folder, "-M", "max_retries=0")
        assert any(header == f"Bearer {KEY}" for header in server.authorizations)
    written = everything_written(folder)
    assert b"bad header: ***" in written
    for place in (written, done.stdout.encode(), done.stderr.encode()):
        assert KEY.encode() not in place


def test_a_run_whose_server_died_goes_on_where_it_stopped(folder: Path) -> None:
    with serving(key=KEY) as server:
        rows: list[str] = []

        def answer(ask: Ask) -> str:
            if is_row(ask):
                rows.append(ask.user)
                if len(rows) == 4:
                    server.behaviour.faults = lambda number: Fault("dropped")
            return sensible(ask)

        server.behaviour.answer = answer
        died = tseval(server, folder, "-M", "max_retries=0", "-M", "concurrency=1")
        assert died.returncode == 1
        assert "the last 8 requests failed in a row" in died.stderr
        assert "Traceback" not in died.stderr
        answered = list(rows)
        server.behaviour.faults = lambda number: None
        again = tseval(server, folder, "-M", "max_retries=0", "-M", "concurrency=1")
        assert again.returncode == 0, again.stderr
    assert len(answered) == 4
    # Every row was asked for once, and none twice.
    assert len(rows) == len(set(rows)) == ROWS


def test_a_server_that_is_not_there_is_one_short_message(folder: Path) -> None:
    with serving() as server:
        pass
    done = tseval(server, folder)
    assert done.returncode == 1
    assert f"no connection to {server.url}" in done.stderr
    assert "see whether the server runs" in done.stderr
    assert "Traceback" not in done.stderr
