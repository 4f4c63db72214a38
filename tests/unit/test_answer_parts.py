"""What a checker counts in parts, through the whole pipeline: shares, what is lost, bounds."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.labelled_runs import Display
from tests.support.sessions import finish
from tseval.cards import AnswerSpec, BenchmarkCard, Columns, Source
from tseval.checkers import parts_of
from tseval.errors import ConfigError, RequestFailed
from tseval.hookspecs import hookimpl
from tseval.journal import Journal
from tseval.plugins import load_registry
from tseval.readback import stored_rows
from tseval.reasoning import ReasoningBenchmark
from tseval.requests import CompletionRequest, ModelSpec
from tseval.runner import Outcome, run
from tseval.scripts import Call
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Sampling, Score, Verdict

# A reference is the number of tasks that an answer has to do; an answer says how many it did.
CHECKER = """
VERSION = "1"

def parts(reference):
    return {"done": int(reference), "tried": 1}

def check(reference, answer):
    if "BROKEN" in answer:
        return {"correct": False, "extracted": "x", "parts": {"done": [5, 2], "tried": [1, 1]}}
    if "OTHER" in answer:
        return {"correct": False, "extracted": "x", "parts": {"done": [0, 99], "tried": [1, 1]}}
    done = int(answer.split()[0])
    return {
        "correct": done == int(reference),
        "extracted": answer,
        "parts": {"done": [done, int(reference)], "tried": [int(done > 0), 1]},
        "details": {"said": answer},
    }

def classes(extracted, reference):
    return [-1 if one is None else number for number, one in enumerate(extracted)]
"""
CARD = BenchmarkCard(
    name="tasks",
    title="Tasks",
    kind="reasoning",
    summary="s",
    metrics=("pass_at_1",),
    source=Source(hub="nobody/nothing"),
    local=(Columns(prompt="q", answer="a"),),
    answer=AnswerSpec(checker="parts_checker", template="{question}"),
    expected_rows=1,
    licence="none",
    paper="none",
    note="none",
)


class Tasks:
    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(ReasoningBenchmark(CARD))


@pytest.fixture(autouse=True)
def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts_checker.py").write_text(CHECKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "parts_checker", raising=False)


def measure(folder: Path, answers: dict[str, str], **more: Any) -> Outcome:
    """Run it; prompt 'Do N.' has N tasks, and its answer is looked up."""
    rows = [{"q": f"Do {number}.", "a": number} for number in answers]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def script(call: Call) -> str:
        return answers[call.prompt.split()[1].rstrip(".")]

    def fail(request: CompletionRequest) -> None:
        if answers[request.messages[-1].content.split()[1].rstrip(".")] == "FAIL":
            raise RequestFailed("ill")

    spec = RunSpec(
        model=ModelSpec(backend="scripted"),
        benchmarks=("tasks",),
        data_dirs=(str(folder),),
        sampling=Sampling(answer_tokens=20),
        answer_tokens_fixed=True,
        **more,
    )
    registry = load_registry(extra=[Tasks()])
    backend = ScriptedBackend(script, fail=fail)
    return finish(run(spec, registry, Display(), out=folder / "run", backend=backend), 120)


def by_metric(outcome: Outcome) -> dict[str, Score]:
    return {score.metric: score for score in outcome.scorecard.scores}


def test_parts_are_counted_of_all_parts_and_not_averaged_over_prompts(tmp_path: Path) -> None:
    scores = by_metric(measure(tmp_path, {"1": "1", "2": "1 of 2", "5": "0 of 5"}))
    assert list(scores) == ["pass_at_1", "done", "tried"]
    done, tried, whole = scores["done"], scores["tried"], scores["pass_at_1"]
    assert done.estimate is not None
    assert done.estimate.value == 2 / 8
    assert (done.n, done.n_prompts, done.outcomes) == (8, 3, {"correct": 2, "wrong": 6})
    assert tried.estimate is not None
    assert tried.estimate.value == 2 / 3
    assert tried.n == 3
    assert whole.estimate is not None
    assert whole.estimate.value == 1 / 3
    # Parts of one prompt are not independent: the interval is as wide as three prompts make it.
    assert done.estimate.low < 0.1
    assert done.estimate.high > 0.5
    assert len({score.fingerprint for score in scores.values()}) == 3


def test_what_was_cut_off_has_no_part_right_and_what_failed_leaves_the_denominator(
    tmp_path: Path,
) -> None:
    cut = "3 of 3" + " and so on" * 20
    scores = by_metric(measure(tmp_path, {"1": "1", "2": "1 of 2", "3": cut, "4": "FAIL"}))
    assert scores["pass_at_1"].outcomes == {"correct": 1, "truncated": 1, "wrong": 1}
    assert scores["pass_at_1"].excluded == {"error": 1}
    done = scores["done"]
    assert done.estimate is not None
    assert done.estimate.value == 2 / 6
    assert (done.n, done.n_prompts) == (6, 3)
    # Four parts were lost: the share if all of them were wrong, and if all were right.
    assert done.excluded == {"error": 4}
    assert done.bounds == (2 / 10, 6 / 10)
    assert scores["tried"].bounds == (2 / 4, 3 / 4)
    assert done.truncated_share == scores["pass_at_1"].truncated_share


def test_rollouts_of_a_prompt_add_up(tmp_path: Path) -> None:
    scores = by_metric(measure(tmp_path, {"2": "1 of 2", "3": "3 of 3"}, rollouts=2))
    done = scores["done"]
    assert done.estimate is not None
    assert done.estimate.value == 8 / 10
    assert (done.n, done.n_prompts) == (10, 2)
    assert {"pass_at_1", "pass_at_2", "maj_at_2"} < set(scores)


def test_parts_and_details_are_in_the_journal(tmp_path: Path) -> None:
    outcome = measure(tmp_path, {"2": "1 of 2"})
    journal = Journal.open(outcome.folder.journal, write=False)
    try:
        (row,) = stored_rows(journal)
    finally:
        journal.close()
    (verdict,) = row.verdicts.values()
    assert isinstance(verdict, Verdict)
    assert verdict.details == {
        "said": "1 of 2",
        "done": "1/2",
        "tried": "1/1",
        "extracted": "yes",
    }


@pytest.mark.parametrize("answer", ["BROKEN", "OTHER"])
def test_a_count_that_cannot_be_is_an_error_and_no_number(tmp_path: Path, answer: str) -> None:
    scores = by_metric(measure(tmp_path, {"1": "1", "2": answer}))
    assert scores["done"].excluded == {"error": 2}
    assert scores["pass_at_1"].excluded == {"error": 1}
    assert scores["done"].n == 1


def test_a_checker_counts_the_same_for_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_checker.py").write_text("def parts(r):\n    return {r: 1}\n")
    with pytest.raises(ConfigError, match="odd_checker:parts does not count the same"):
        parts_of("odd_checker", ["a", "b"])
    (tmp_path / "none_checker.py").write_text("def parts(r):\n    return {'a': 0}\n")
    with pytest.raises(ConfigError, match="none_checker:parts"):
        parts_of("none_checker", ["a"])
