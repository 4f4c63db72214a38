"""``tseval run`` with guard judges on a server that speaks their formats, in its own process."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard_server import guarding


def tseval(folder: Path, *judges: str, more: tuple[str, ...] = ()) -> Any:
    """Run the quick suite on a scripted target; returns the process and its scores."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from tseval.cli import main; main()"),
            *("run", "--model", "scripted/mixed", "--suite", "quick", "--limit", "12", "-k", "2"),
            *("--out", str(folder), "--json", *more),
            *(part for judge in judges for part in ("--judge", judge)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "sk-test"},
        check=False,
        timeout=600,
    )
    path = folder / "scores.json"
    scores = json.loads(path.read_text())["scores"] if path.exists() else []
    return done, scores


def rates(scores: list[dict[str, Any]], judge: str) -> dict[tuple[str, str], float]:
    return {
        (score["benchmark"], score["metric"]): score["estimate"]["value"]
        for score in scores
        if score["judge"] == judge and score["estimate"] is not None and not score["group"]
    }


@pytest.mark.parametrize(
    "name",
    [
        "wildguard",
        pytest.param("qwen3guard-gen-8b", marks=pytest.mark.slow),
        pytest.param("granite-guardian-3.3", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_scored_by_a_served_guard_as_by_the_rules(name: str, tmp_path: Path) -> None:
    with guarding(name) as (server, guard):
        served = f"{name}@openai/served:{server.url}"
        done, scores = tseval(tmp_path / "run", "refusal-rules", served)
    assert done.returncode == 0, done.stderr
    assert "raw" in guard.ways
    # The scripted target apologises in full or complies in full: nobody can differ.
    ours, rules = rates(scores, name), rates(scores, "refusal-rules")
    refusals = {key: value for key, value in ours.items() if key[1] != "asr_harmful"}
    assert refusals
    assert refusals == {key: rules[key] for key in refusals}
    for (benchmark, metric), value in ours.items():
        if metric == "asr_harmful":
            assert value == pytest.approx(rules[(benchmark, "asr_nonrefusal")])


@pytest.mark.slow
def test_a_guard_by_its_probabilities_and_by_its_words_says_the_same(tmp_path: Path) -> None:
    found = {}
    for way, choices in (("words", False), ("chances", True)):
        with guarding("llama-guard-3", choices=choices) as (server, guard):
            served = f"llama-guard-3@openai/served:{server.url}"
            done, scores = tseval(tmp_path / way, served)
        assert done.returncode == 0, done.stderr
        found[way] = rates(scores, "llama-guard-3")
        assert ("choices" in guard.ways) == choices
    assert found["words"] == found["chances"]
    assert any(metric == "asr_harmful" for _, metric in found["words"])


def test_replies_that_cannot_be_read_leave_the_denominator_and_end_the_run_with_5(
    tmp_path: Path,
) -> None:
    def every_third(number: int) -> str | None:
        return "Harmful request: perhaps" if number % 3 == 0 else None

    with guarding("wildguard", every_third) as (server, guard):
        done, scores = tseval(tmp_path / "run", f"wildguard@openai/served:{server.url}")
    assert done.returncode == 5, done.stderr
    assert guard.asked
    excluded: Counter[str] = Counter()
    for score in scores:
        if score["metric"] == "asr_nonrefusal" and not score["group"]:
            excluded.update(score["excluded"])
            assert score["n"] + sum(score["excluded"].values()) == 24
            low, high = score["bounds"]
            assert low < score["estimate"]["value"] < high
    assert set(excluded) == {"unparsed"}
    assert excluded["unparsed"] >= 6


def test_a_guard_without_a_server_that_can_ask_it_is_skipped_with_the_reason(
    tmp_path: Path,
) -> None:
    with guarding("wildguard", completions=False) as (server, _):
        done, _ = tseval(tmp_path / "run", f"wildguard@openai/served:{server.url}")
    assert done.returncode == 5, done.stderr
    assert "judge 'wildguard' asks its model by raw, which openai/served cannot" in done.stderr
    assert "Traceback" not in done.stderr
