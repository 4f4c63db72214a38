"""Entries of reasoning runs against the run's journal."""

import shutil
from pathlib import Path

from tests.unit.test_reasoning import PROMPTS, log, measure, number, right, varied, wrong
from tseval.leaderboard.check import Problem
from tseval.leaderboard.entry import submit
from tseval.leaderboard.origin import check_run
from tseval.scripts import Call
from tseval.types import Sampling

# Writes the checker and its questions, for each test.
__all__ = ["log"]


def said(problems: list[Problem], severity: str) -> list[str]:
    return [each.message for each in problems if each.severity == severity]


def test_an_honest_run_passes_with_all_that_can_become_of_an_answer(tmp_path: Path) -> None:
    def script(call: Call) -> str:
        if number(call) < 3:
            return right(call) + " and so on" * 50
        return varied(call)

    outcome = measure(
        tmp_path, script, rollouts=2, sampling=Sampling(answer_tokens=60), answer_tokens_fixed=True
    )
    entry = submit(outcome.folder.path)
    single = next(score for score in entry.scores if score.metric == "pass_at_1")
    assert set(single.outcomes) == {"correct", "wrong", "no-answer", "truncated"}
    found = check_run(entry, outcome.folder.path, "x")
    assert said(found, "error") == []
    # What is no mean over verdicts is named.
    (remark,) = said(found, "remark")
    assert "quiz pass_at_2 quiz, quiz maj_at_2 quiz" in remark
    assert "not against verdicts in its journal" in remark


def test_reasoning_scores_that_were_edited_are_found_by_the_verdicts(tmp_path: Path) -> None:
    honest, other = measure(tmp_path, wrong), measure(tmp_path, right, out="other")
    # Scores and outcomes of a run that was right, beside the journal of one that was not.
    copy = tmp_path / "copy"
    shutil.copytree(other.folder.path, copy)
    shutil.rmtree(copy / "journal")
    shutil.copytree(honest.folder.path / "journal", copy / "journal")
    assert said(check_run(submit(copy), copy, "x"), "error") == [
        f"quiz pass_at_1 quiz: {PROMPTS} of its rows are not what the verdicts in the run's journal"
        " say"
    ]
