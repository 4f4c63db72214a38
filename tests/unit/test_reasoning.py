"""Reasoning benchmarks through the whole pipeline: right, wrong, lost, and how it is told."""

import asyncio
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations
from math import fsum
from pathlib import Path
from statistics import mean
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from tests.support.labelled_runs import Display
from tests.support.sessions import finish
from tseval.cards import (
    AnswerSpec,
    BenchmarkCard,
    Columns,
    Source,
    Suite,
    load_card,
    read_catalogue,
)
from tseval.checkers import identify_checker
from tseval.errors import ConfigError, RequestFailed
from tseval.hookspecs import hookimpl
from tseval.journal import Journal
from tseval.plugins import load_registry
from tseval.readback import Stored, stored_rows
from tseval.reasoning import ReasoningBenchmark
from tseval.report.table import lines
from tseval.requests import Completion, CompletionRequest, ModelSpec
from tseval.runner import Outcome, run
from tseval.scripts import Call, Script
from tseval.spec import RunSpec
from tseval.testing import CHAT_VIEW, TAGS_VIEW, ScriptedBackend
from tseval.types import Sampling, Score, Thinking

CHECKER = "quiz_checker"
# 'final: X' is an answer; what an answer says may make the check fail as foreign code does.
CHECKER_CODE = """
import os, pathlib, sys, time
VERSION = "1"
NAME = "quiz"
LIBRARIES = ("msgspec",)

def check(reference, answer):
    with open(os.environ["QUIZ_LOG"], "a") as log:
        log.write(f"{reference} {answer!r}\\n")
    if not pathlib.Path(os.environ["QUIZ_LOG"] + ".mended").exists():
        if "CRASH" in answer: os.kill(os.getpid(), 9)
        if "HANG" in answer: time.sleep(3600)
        if "RAISE" in answer: raise ValueError("no")
        if "NOTHING" in answer: return None
        if "NUMBER" in answer: return {"correct": True, "extracted": 5}
        if "UNFOUND" in answer: return {"correct": True, "extracted": None}
    print("noise")
    _, mark, found = answer.rpartition("final: ")
    if not mark: return {"correct": False, "extracted": None}
    return {"correct": found == reference, "extracted": found}

def classes(extracted, reference):
    mended = pathlib.Path(os.environ["QUIZ_LOG"] + ".mended").exists()
    if "unclassed" in extracted and not mended: raise ValueError("no classes")
    if "misnumbered" in extracted and not mended: return [0]
    known = {}
    return [-1 if e is None else known.setdefault(e, len(known)) for e in extracted]
"""
CARD = BenchmarkCard(
    name="quiz",
    title="Quiz",
    kind="reasoning",
    summary="s",
    metrics=("pass_at_1",),
    source=Source(hub="nobody/nothing"),
    local=(Columns(prompt="q", answer="a"),),
    answer=AnswerSpec(checker=CHECKER, template="{question} Reason."),
    expected_rows=1,
    licence="none",
    paper="none",
    note="none",
)
PROMPTS = 24


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checker, its log, and questions 0 .. 23 whose answers are 100 .. 123."""
    (tmp_path / f"{CHECKER}.py").write_text(CHECKER_CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("QUIZ_LOG", str(tmp_path / "log"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, CHECKER, raising=False)
    write_rows(tmp_path, [(f"Question {n}?", str(100 + n)) for n in range(PROMPTS)])
    return tmp_path / "log"


def write_rows(folder: Path, rows: list[tuple[str, str]]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    text = "".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in rows)
    (folder / "data" / "quiz.jsonl").write_text(text)


class Quiz:
    """Registers benchmarks, and the suite 'both' of them."""

    def __init__(self, *cards: BenchmarkCard) -> None:
        self.cards = cards

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        for card in self.cards:
            register(ReasoningBenchmark(card))

    @hookimpl
    def register_suites(self, register: Any) -> None:
        names = tuple(card.name for card in self.cards)
        register(Suite(name="both", title="Both", summary="s", benchmarks=names))


def measure(
    folder: Path,
    target: Script | ScriptedBackend,
    *,
    cards: tuple[BenchmarkCard, ...] = (CARD,),
    names: tuple[str, ...] = ("quiz",),
    out: str = "run",
    seconds: float = 300,
    **more: Any,
) -> Outcome:
    backend = target if isinstance(target, ScriptedBackend) else ScriptedBackend(target)
    more.setdefault("data_dirs", (str(folder / "data"),))
    spec = RunSpec(model=ModelSpec(backend="scripted"), benchmarks=names, **more)
    registry = load_registry(extra=[Quiz(*cards)] if cards else [])
    return finish(run(spec, registry, Display(), out=folder / out, backend=backend), seconds)


def score_of(outcome: Outcome, metric: str = "pass_at_1") -> Score:
    (found,) = [s for s in outcome.scorecard.scores if s.metric == metric and not s.group]
    return found


def value(score: Score) -> float:
    assert score.estimate is not None, score.undefined
    return score.estimate.value


def stored(outcome: Outcome) -> list[Stored]:
    journal = Journal.open(outcome.folder.journal, write=False)
    try:
        return list(stored_rows(journal))
    finally:
        journal.close()


def number(call: Call) -> int:
    found = re.search(r"Question (\d+)\?", call.prompt)
    assert found is not None
    return int(found[1])


def right(call: Call) -> str:
    return f"I think it is so. final: {100 + number(call)}"


def wrong(call: Call) -> str:
    return f"I think it is so. final: {101 + number(call)}"


def varied(call: Call) -> str:
    """Right in about half of the rollouts, else one of three wrong answers or none."""
    share = call.share("what")
    if share < 0.45:
        return right(call)
    if share < 0.6:
        return "I do not know."
    return f"final: {int(share * 3)}"


# -- right and wrong


def test_right_answers_score_one_and_wrong_ones_nothing(tmp_path: Path) -> None:
    for script, expected, name in ((right, 1.0, "correct"), (wrong, 0.0, "wrong")):
        outcome = measure(tmp_path, script, out=name)
        score = score_of(outcome)
        assert value(score) == expected
        assert score.n == score.n_prompts == PROMPTS
        assert score.outcomes == {name: PROMPTS}
        assert score.excluded == {}
        assert score.bounds == (expected, expected)
        assert score.higher_is_better
        assert score.judge == "quiz"
        assert outcome.exit_code == 0
        assert all(each.verdicts["quiz"].correct is bool(expected) for each in stored(outcome))


def test_an_answer_that_states_none_is_wrong_and_told_apart(tmp_path: Path) -> None:
    score = score_of(measure(tmp_path, lambda call: "Who knows?" if number(call) % 2 else ""))
    assert value(score) == 0
    assert score.outcomes == {"no-answer": PROMPTS}


def test_the_answer_is_checked_and_never_the_trace(tmp_path: Path, log: Path) -> None:
    def script(call: Call) -> str:
        return f"<think>\n{right(call)}\n</think>\n\n{wrong(call)}"

    score = score_of(measure(tmp_path, ScriptedBackend(script, view=TAGS_VIEW)))
    assert score.outcomes == {"wrong": PROMPTS}
    other = score_of(
        measure(
            tmp_path,
            ScriptedBackend(
                lambda call: f"<think>\n{wrong(call)}\n</think>\n\n{right(call)}", view=TAGS_VIEW
            ),
            out="other",
            text="both",
        )
    )
    assert value(other) == 1
    assert "think>" not in log.read_text()


def test_the_title_of_the_table_says_at(tmp_path: Path) -> None:
    outcome = measure(tmp_path, right, rollouts=2, limit=3)
    titles = [line.metric for line in lines(outcome.scorecard)]
    assert titles == ["pass@1 ↑", "pass@2 ↑", "maj@2 ↑"]
    assert {line.benchmark for line in lines(outcome.scorecard)} == {"quiz *"}


# -- cut off, and never closed


def test_an_answer_that_was_cut_off_is_wrong_whatever_it_says(tmp_path: Path, log: Path) -> None:
    def script(call: Call) -> str:
        return right(call) + (" and so on" * 50 if number(call) < 6 else "")

    outcome = measure(
        tmp_path, script, sampling=Sampling(answer_tokens=60), answer_tokens_fixed=True
    )
    score = score_of(outcome)
    assert score.outcomes == {"correct": PROMPTS - 6, "truncated": 6}
    assert value(score) == (PROMPTS - 6) / PROMPTS
    assert score.truncated_share == 6 / PROMPTS
    assert score.unclosed_share == 0
    assert score.excluded == {}
    # Nothing that was cut off is shown to the checker.
    assert "and so on" not in log.read_text()
    assert len(log.read_text().splitlines()) == PROMPTS - 6


def endless(call: Call) -> str:
    """Thinks without end about the first six questions; answers when its trace is closed."""
    if "</think>" in call.prefix or number(call) >= 6:
        return ("" if "</think>" in call.prefix else "<think>\nSo.\n</think>\n\n") + right(call)
    return "<think>\n" + "Or is it? " * 200


@pytest.mark.parametrize("rule", ["exclude", "empty", "judge-trace"])
def test_a_trace_that_never_closed_is_wrong_under_every_rule(tmp_path: Path, rule: Any) -> None:
    backend = ScriptedBackend(endless, view=TAGS_VIEW)
    thinking = Thinking(budget=300, unclosed=rule)
    score = score_of(measure(tmp_path, backend, thinking=thinking))
    assert score.outcomes == {"correct": PROMPTS - 6, "unclosed": 6}
    assert score.excluded == {}
    assert score.n == PROMPTS
    assert value(score) == (PROMPTS - 6) / PROMPTS
    assert score.unclosed_share == 6 / PROMPTS
    assert score.truncated_share == 0


def test_an_answer_after_a_forced_close_counts_as_any_other(tmp_path: Path) -> None:
    backend = ScriptedBackend(endless, view=TAGS_VIEW)
    score = score_of(measure(tmp_path, backend, thinking=Thinking(budget=300)))
    assert score.outcomes == {"correct": PROMPTS}
    assert score.forced_close_share == 6 / PROMPTS
    assert score.unclosed_share == score.truncated_share == 0


def test_an_answer_that_thinks_on_after_a_forced_close_is_unclosed(tmp_path: Path) -> None:
    def script(call: Call) -> str:
        return "<think>\n" + right(call) + " Or is it? " * 200

    backend = ScriptedBackend(script, view=TAGS_VIEW)
    score = score_of(measure(tmp_path, backend, thinking=Thinking(budget=300)))
    assert value(score) == 0
    assert set(score.outcomes) <= {"unclosed", "truncated", "no-answer"}
    assert score.n == PROMPTS


@pytest.mark.parametrize("rule", ["force", "exclude", "empty", "judge-trace"])
def test_forced_thinking_counts_every_rollout(tmp_path: Path, rule: Any) -> None:
    def script(call: Call) -> str:
        # No think tags of its own: the prefix is what tseval opened, and perhaps closed.
        if call.prefix and "</think>" not in call.prefix and number(call) < 6:
            return "Or is it? " * 200
        if call.prefix and "</think>" not in call.prefix:
            return f"So it is.\n</think>\n\n{right(call)}"
        return right(call)

    backend = ScriptedBackend(script, view=CHAT_VIEW)
    thinking = Thinking(mode="forced", budget=300, unclosed=rule)
    score = score_of(measure(tmp_path, backend, thinking=thinking))
    assert score.n == PROMPTS
    assert score.excluded == {}
    assert score.outcomes.get("correct", 0) >= PROMPTS - 6
    if rule == "force":
        assert score.outcomes == {"correct": PROMPTS}
        assert score.forced_close_share == 6 / PROMPTS
    else:
        assert score.outcomes == {"correct": PROMPTS - 6, "unclosed": 6}
        assert score.unclosed_share == 6 / PROMPTS


# -- lost to the machine


@pytest.mark.parametrize("how", ["CRASH", "HANG", "RAISE", "NOTHING", "NUMBER", "UNFOUND"])
def test_only_a_failing_check_leaves_the_denominator_and_is_tried_again(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "HANG":
        monkeypatch.setattr("tseval.session.CHECK_SECONDS", 3.0)

    def script(call: Call) -> str:
        if number(call) in (3, 5):
            return f"{how} {number(call)} final: {103 if number(call) == 3 else 0}"
        return right(call) if number(call) % 2 else wrong(call)

    first = measure(tmp_path, script)
    score = score_of(first)
    assert score.excluded == {"error": 2}
    assert score.outcomes == {"correct": 10, "wrong": 12}
    assert score.n == 22
    assert value(score) == 10 / 22
    assert score.bounds == (10 / 24, 12 / 24)
    assert first.exit_code == 5
    assert first.folder.manifest.status == "incomplete"

    log.with_name("log.mended").touch()
    checked = log.read_text().count("\n")
    again = measure(tmp_path, script)
    assert again.folder.path == first.folder.path
    score = score_of(again)
    assert score.excluded == {}
    assert score.outcomes == {"correct": 11, "wrong": 13}
    # Only what failed was checked again.
    assert log.read_text().count("\n") == checked + 2
    assert again.folder.manifest.status == "complete"


def failing(*numbers: int, first: set[tuple[int, int]] | None = None) -> Callable[..., None]:
    """Fail the requests of some questions; with ``first``, once only each rollout."""
    seen: set[tuple[int, int]] = set()

    def fail(request: CompletionRequest) -> None:
        found = re.search(r"Question (\d+)\?", request.messages[-1].content)
        assert found is not None
        here = (int(found[1]), request.seed)
        if here[0] in numbers and here not in seen:
            seen.add(here)
            raise RequestFailed("the engine is ill", kind="engine")

    return fail


def test_a_failed_request_leaves_the_denominator_and_is_made_again(tmp_path: Path) -> None:
    score = score_of(first := measure(tmp_path, ScriptedBackend(right, fail=failing(1, 2, 3, 4))))
    assert score.excluded == {"error": 4}
    assert score.n == PROMPTS - 4
    assert score.bounds == ((PROMPTS - 4) / PROMPTS, 1.0)
    again = measure(tmp_path, ScriptedBackend(right))
    assert again.folder.path == first.folder.path
    assert score_of(again).excluded == {}
    assert score_of(again).n == PROMPTS


def test_a_broken_checker_loses_its_benchmark_alone(tmp_path: Path) -> None:
    bad = msgspec.structs.replace(CARD, name="bad", answer=AnswerSpec(checker="no_such_checker"))
    outcome = measure(tmp_path, right, cards=(CARD, bad), names=("quiz",))
    assert outcome.exit_code == 0
    (tmp_path / "data" / "bad.jsonl").write_text('{"q": "Question 1?", "a": "101"}\n')
    outcome = measure(tmp_path, right, cards=(CARD, bad), names=("quiz", "bad"), out="two")
    assert list(outcome.scorecard.failed) == ["bad"]
    assert "no_such_checker is no checker of answers" in outcome.scorecard.failed["bad"]
    assert value(score_of(outcome)) == 1
    assert outcome.exit_code == 1


# -- several rollouts


def by_prompt(outcome: Outcome, checker: str = "quiz") -> dict[str, list[tuple[str | None, bool]]]:
    """What each prompt's rollouts answered, and whether it was right; lost ones are left out."""
    found: dict[str, list[tuple[str | None, bool]]] = defaultdict(list)
    for each in stored(outcome):
        if each.row.failed:
            continue
        verdict = each.verdicts[checker]
        if verdict.reason == "error":
            continue
        answer = verdict.raw if verdict.details.get("extracted") == "yes" else None
        assert verdict.correct is not None
        found[each.row.sample].append((answer, verdict.correct))
    return found


def lot(rollouts: list[tuple[str | None, bool]]) -> float:
    votes = Counter(answer for answer, _ in rollouts if answer is not None)
    most = [answer for answer, count in votes.items() if count == max(votes.values())]
    rights = dict(rollouts)
    return mean(float(rights[answer]) for answer in most) if most else 0.0


def some(rollouts: list[tuple[str | None, bool]], k: int) -> float:
    hits = [hit for _, hit in rollouts]
    return mean(float(any(chosen)) for chosen in combinations(hits, k))


def test_pass_and_majority_are_what_the_journal_gives_by_hand(tmp_path: Path) -> None:
    outcome = measure(tmp_path, varied, rollouts=5)
    prompts = by_prompt(outcome)
    assert len(prompts) == PROMPTS
    metrics = [s.metric for s in outcome.scorecard.scores]
    assert metrics == ["pass_at_1", "pass_at_2", "pass_at_4", "pass_at_5", "maj_at_5"]
    for k in (1, 2, 4, 5):
        score = score_of(outcome, f"pass_at_{k}")
        expected = mean(some(rollouts, k) for rollouts in prompts.values())
        assert value(score) == pytest.approx(expected, abs=1e-12)
        assert score.n_prompts == PROMPTS
        assert score.n == (PROMPTS * 5 if k == 1 else PROMPTS)
    expected = mean(map(lot, prompts.values()))
    assert value(score_of(outcome, "maj_at_5")) == pytest.approx(expected, abs=1e-12)
    # Ties and rollouts without an answer were among them.
    assert any(0 < lot(rollouts) < 1 for rollouts in prompts.values())
    assert any(answer is None for rollouts in prompts.values() for answer, _ in rollouts)


def test_what_was_cut_off_has_no_vote(tmp_path: Path) -> None:
    def script(call: Call) -> str:
        if call.share("cut") < 0.6:
            return "final: 7" + " and so on" * 50
        return right(call)

    outcome = measure(
        tmp_path,
        script,
        rollouts=4,
        sampling=Sampling(answer_tokens=60),
        answer_tokens_fixed=True,
    )
    prompts = by_prompt(outcome)
    some_right = mean(float(any(hit for _, hit in found)) for found in prompts.values())
    assert some_right > 0
    assert value(score_of(outcome, "maj_at_4")) == pytest.approx(some_right)


def test_prompts_that_lost_rollouts_are_left_out_where_too_few_are_left(tmp_path: Path) -> None:
    def fail(request: CompletionRequest) -> None:
        text = request.messages[-1].content
        digest = (request.seed * 2654435761) % 2**32 / 2**32
        if "Question 0?" in text or ("Question 1" in text and digest < 0.4):
            raise RequestFailed("the engine is ill", kind="engine")

    outcome = measure(tmp_path, ScriptedBackend(varied, fail=fail), rollouts=4)
    prompts = by_prompt(outcome)
    left = {name: len(found) for name, found in prompts.items()}
    assert set(left.values()) >= {4}
    assert {1, 2, 3} & set(left.values())
    single = score_of(outcome)
    assert single.excluded == {"error": 4 * PROMPTS - sum(left.values())}
    assert single.bounds is not None
    hits = sum(hit for found in prompts.values() for _, hit in found)
    assert value(single) == pytest.approx(hits / sum(left.values()))
    assert single.bounds[0] == pytest.approx(hits / (4 * PROMPTS))

    for k in (2, 4):
        score = score_of(outcome, f"pass_at_{k}")
        kept = [found for found in prompts.values() if len(found) >= k]
        assert score.n == len(kept)
        assert score.excluded == {"prompts": PROMPTS - len(kept)}
        assert value(score) == pytest.approx(mean(some(found, k) for found in kept))
        low, high = [], []
        padded = [*prompts.values(), *([] for _ in range(PROMPTS - len(prompts)))]
        for found in padded:
            lost: list[tuple[str | None, bool]] = [(None, False)] * (4 - len(found))
            low.append(some([*found, *lost], k))
            high.append(some([*found, *((None, True) for _ in lost)], k))
        assert score.bounds == pytest.approx((mean(low), mean(high)))
    score = score_of(outcome, "maj_at_4")
    kept = [found for found in prompts.values() if len(found) == 4]
    assert score.n == len(kept)
    assert value(score) == pytest.approx(mean(map(lot, kept)))
    total = fsum(map(lot, kept))
    missing = PROMPTS - len(kept)
    assert score.bounds == pytest.approx((total / PROMPTS, (total + missing) / PROMPTS))


@pytest.mark.parametrize("word", ["unclassed", "misnumbered"])
def test_a_majority_that_could_not_be_found_is_the_machines_failure(
    tmp_path: Path, log: Path, word: str
) -> None:
    def script(call: Call) -> str:
        return f"final: {word}" if number(call) == 2 else right(call)

    first = measure(tmp_path, script, rollouts=2)
    score = score_of(first, "maj_at_2")
    assert score.excluded == {"error": 1}
    assert score.n == PROMPTS - 1
    assert score.bounds == pytest.approx(((PROMPTS - 1) / PROMPTS, 1.0))
    assert first.folder.manifest.status == "incomplete"
    assert any("no majority of a prompt" in text for text in first.folder.manifest.warnings)
    if word == "misnumbered":
        return  # it returned, so it would return the same again
    log.with_name("log.mended").touch()
    again = measure(tmp_path, script, rollouts=2)
    assert again.folder.path == first.folder.path
    assert score_of(again, "maj_at_2").excluded == {}
    assert again.folder.manifest.status == "complete"


def test_four_identical_rollouts_make_no_interval_narrower(tmp_path: Path) -> None:
    def script(call: Call) -> str:
        return right(call) if number(call) < 15 else wrong(call)

    single = score_of(measure(tmp_path, script, out="one")).estimate
    outcome = measure(tmp_path, script, rollouts=4, out="four")
    assert single is not None
    for metric in ("pass_at_1", "pass_at_4", "maj_at_4"):
        estimate = score_of(outcome, metric).estimate
        assert estimate is not None
        assert estimate.value == pytest.approx(single.value)
        assert estimate.high - estimate.low >= single.high - single.low - 1e-12


# -- the same whatever the order


class Shuffled(ScriptedBackend):
    """Finishes in an order that has nothing to do with the order of the requests."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await asyncio.sleep((request.seed % 7) * 0.004)
        return await super().complete(request)


def test_scores_do_not_depend_on_how_many_are_under_way_or_which_ends_first(
    tmp_path: Path,
) -> None:
    cards = []
    for name, bound in (("one", 1), ("three", 3), ("many", 64)):
        outcome = measure(tmp_path, Shuffled(varied, max_outstanding=bound), rollouts=3, out=name)
        cards.append((outcome.folder.path / "scores.json").read_bytes())
    assert cards[0] == cards[1] == cards[2]


def test_a_finished_run_checks_and_generates_nothing_again(tmp_path: Path, log: Path) -> None:
    first = measure(tmp_path, varied, rollouts=3)
    before = (first.folder.path / "scores.json").read_bytes()
    checked = Counter(log.read_text().splitlines())
    # Equal answers to one question are checked once.
    assert set(checked.values()) == {1}
    backend = ScriptedBackend(varied)
    again = measure(tmp_path, backend, rollouts=3, out="run")
    assert backend.calls == 0
    assert Counter(log.read_text().splitlines()) == checked
    assert (again.folder.path / "scores.json").read_bytes() == before


# -- fingerprints


def fingerprint(folder: Path, out: str, card: BenchmarkCard = CARD, **more: Any) -> str:
    return score_of(measure(folder, right, cards=(card,), out=out, **more)).fingerprint


def test_a_fingerprint_names_what_could_change_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint(tmp_path, "first")
    assert fingerprint(tmp_path, "again") == first

    assert CARD.answer is not None
    replace = msgspec.structs.replace
    found = {
        "template": fingerprint(
            tmp_path,
            "template",
            replace(CARD, answer=replace(CARD.answer, template="{question} Answer.")),
        ),
        "card's tokens": fingerprint(tmp_path, "card", replace(CARD, answer_tokens=2048)),
        "tokens": fingerprint(
            tmp_path, "tokens", sampling=Sampling(answer_tokens=999), answer_tokens_fixed=True
        ),
        "rollouts": fingerprint(tmp_path, "rollouts", rollouts=2),
        "thinking": fingerprint(tmp_path, "thinking", thinking=Thinking(budget=99)),
        "limit": fingerprint(tmp_path, "limit", limit=3),
        "version": fingerprint(tmp_path, "version", replace(CARD, version="2")),
    }
    monkeypatch.setattr(sys.modules[CHECKER], "VERSION", "2")
    found["checker"] = fingerprint(tmp_path, "checker")
    monkeypatch.setattr(sys.modules[CHECKER], "VERSION", "1")
    monkeypatch.setattr("tseval.checkers.version", lambda name: "99")
    found["library"] = fingerprint(tmp_path, "library")
    monkeypatch.undo()
    assert len({first, *found.values()}) == 1 + len(found), found


def test_a_fingerprint_covers_the_references_and_not_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint(tmp_path, "first")
    rows = [(f"Question {n}?", str(100 + n)) for n in range(PROMPTS)]
    write_rows(tmp_path, rows[::-1])
    assert fingerprint(tmp_path, "reversed") == first
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = {"data_dirs": (str(tmp_path / "elsewhere"),)}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert fingerprint(tmp_path, "moved", **moved) == first
    write_rows(tmp_path, [*rows[:-1], (rows[-1][0], "5")])
    assert fingerprint(tmp_path, "changed") != first


def test_a_checkers_version_makes_its_verdicts_anew(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path, right)
    monkeypatch.setattr(sys.modules[CHECKER], "VERSION", "2")
    backend = ScriptedBackend(right)
    measure(tmp_path, backend)
    assert backend.calls == 0
    assert log.read_text().count("\n") == 2 * PROMPTS


def test_a_checker_is_identified_by_version_and_libraries(tmp_path: Path) -> None:
    identity = identify_checker(CHECKER)
    assert (identity.name, identity.version) == ("quiz", "1")
    assert list(identity.identity) == ["msgspec"]
    bare = "def check(reference, answer): ...\ndef classes(extracted, reference): ...\n"
    (tmp_path / "bare_checker.py").write_text(
        f"{bare}import re\nNAME = re.compile('x')\nVERSION = 3\nLIBRARIES = ['no-such-dist']\n"
    )
    (tmp_path / "listless_checker.py").write_text(f"{bare}VERSION = '1'\nLIBRARIES = 'sympy'\n")
    (tmp_path / "half_checker.py").write_text("VERSION = '1'\ndef check(reference, answer): ...\n")
    (tmp_path / "torn_checker.py").write_text("VERSION = \n")
    identity = identify_checker("bare_checker")
    assert (identity.name, identity.version) == ("bare_checker", "3")
    assert identity.identity == {"no-such-dist": "missing"}
    broken = ("no_such_module", "json", "listless_checker", "half_checker", "torn_checker")
    for missing in broken:
        with pytest.raises(ConfigError, match="is no checker of answers"):
            identify_checker(missing)


# -- averages


def test_a_suites_average_spans_its_checkers_and_is_left_out_where_a_benchmark_is_missing(
    tmp_path: Path,
) -> None:
    (tmp_path / "other_checker.py").write_text(CHECKER_CODE.replace('"quiz"', '"other"'))
    other = msgspec.structs.replace(
        CARD, name="other", answer=AnswerSpec(checker="other_checker", template="{question}")
    )
    lost = msgspec.structs.replace(CARD, name="lost")
    (tmp_path / "data" / "other.jsonl").write_text('{"q": "Question 1?", "a": "5"}\n')
    more = {"suites": ("both",), "rollouts": 2}
    outcome = measure(tmp_path, right, cards=(CARD, other), names=("quiz", "other"), **more)
    averages = [s for s in outcome.scorecard.scores if s.group == "average"]
    assert [(s.benchmark, s.metric, s.judge) for s in averages] == [
        ("both", metric, "") for metric in ("maj_at_2", "pass_at_1", "pass_at_2")
    ]
    assert all(value(s) == 0.5 for s in averages)
    assert all(s.higher_is_better for s in averages)

    three = (CARD, other, lost)
    names = ("quiz", "other", "lost")
    outcome = measure(tmp_path, right, cards=three, names=names, out="three", **more)
    assert list(outcome.scorecard.failed) == ["lost"]
    assert not [s for s in outcome.scorecard.scores if s.group == "average"]


# -- the documentation


def test_the_card_and_the_checker_of_the_how_to_work(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "how-to" / "add-a-benchmark.md").read_text(encoding="utf-8")
    page = page[page.index("## When questions have a right answer") :]
    blocks = re.findall(r"(?:^    .*\n|^\n)+", page, flags=re.MULTILINE)
    text, code = (dedent(block).strip() for block in blocks if len(block) > 200)
    card = load_card(text, "capitals.yaml")
    folder = tmp_path / "tseval_capitals"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "checker.py").write_text(code)
    rows = [{"country": "Peru", "capital": "Lima"}, {"country": "Japan", "capital": "Tokyo"}]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def script(call: Call) -> str:
        return "Answer: Lima." if call.share() < 0.7 else "Who knows?"

    outcome = measure(tmp_path, script, cards=(card,), names=("capitals",), rollouts=4)
    assert not outcome.scorecard.failed
    score = score_of(outcome)
    assert score.judge == "capitals"
    assert set(score.outcomes) == {"correct", "wrong", "no-answer"}
    prompts = by_prompt(outcome, "capitals")
    assert value(score_of(outcome, "maj_at_4")) == mean(map(lot, prompts.values()))


# -- the catalogue


def scripted(answers: dict[str, str]) -> Script:
    def script(call: Call) -> str:
        return answers[call.prompt]

    return script


CARDS = {card.name: card for card in read_catalogue("tseval.benchmarks").cards}
IMPOSSIBLE = r"\frac{987654321}{7919}"


@pytest.mark.parametrize("name", ["aime24", "gsm8k", "math500"])
def test_an_oracle_scores_one_on_the_mirror_and_wrong_answers_nothing(
    tmp_path: Path, mirror: Path, name: str
) -> None:
    from tseval.data import load_rows

    samples = load_rows(CARDS[name], [mirror]).samples
    whole = {"data_dirs": (str(mirror),), "names": (name,), "cards": (), "seconds": 500}
    for form in ("So it is \\boxed{{{}}}.", "<think>\nHm.\n</think>\n\nThe answer is ${}$"):
        oracle = {s.prompt: form.format(s.reference) for s in samples}
        view = TAGS_VIEW if "think" in form else CHAT_VIEW
        backend = ScriptedBackend(scripted(oracle), view=view)
        score = score_of(measure(tmp_path, backend, out=f"oracle {view == CHAT_VIEW}", **whole))
        assert score.outcomes == {"correct": CARDS[name].expected_rows}
        assert value(score) == 1.0
    wrong = {s.prompt: f"So it is \\boxed{{{IMPOSSIBLE}}}." for s in samples}
    score = score_of(measure(tmp_path, scripted(wrong), out="wrong", **whole))
    assert score.outcomes == {"wrong": CARDS[name].expected_rows}
    assert value(score) == 0.0


ROWS: dict[str, list[dict[str, Any]]] = {
    "mmlu_pro": [
        {
            "question": f"What is {n} + {n}?",
            "options": [f"{2 * n + shift}" for shift in range(3, -7, -1)],
            "answer": "D",
            "category": "math",
        }
        for n in range(10, 30)
    ],
    "gpqa_diamond": [
        {
            "Question": f"Which element has number {n}?",
            "Correct Answer": f"the {n}th",
            **{f"Incorrect Answer {k}": f"the {n + k}th" for k in (1, 2, 3)},
        }
        for n in range(30, 60)
    ],
    "ifeval": [
        {
            "prompt": f"Write of {what} without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        }
        for what in ("rain", "snow", "hail")
    ],
}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_of_our_own_score_one_with_right_answers_and_nothing_with_wrong_ones(
    tmp_path: Path, name: str
) -> None:
    if name == "ifeval":
        pytest.importorskip("langdetect")
        pytest.importorskip("immutabledict")
        pytest.importorskip("nltk")
    text = "".join(json.dumps(row) + "\n" for row in ROWS[name])
    (tmp_path / "data" / f"{name}.jsonl").write_text(text)
    from tseval.data import load_rows

    samples = load_rows(CARDS[name], [tmp_path / "data"]).samples
    rights, wrongs = {}, {}
    for sample in samples:
        reference = json.loads(sample.reference)
        letter = reference["answer"]
        other = "A" if letter == "B" else "B"
        rights[sample.prompt] = f"It is so.\n\n\\boxed{{{letter}}}"
        wrongs[sample.prompt] = f"It is so.\n\n\\boxed{{{other}}}"
        if name == "ifeval":
            rights[sample.prompt], wrongs[sample.prompt] = "It falls.", "It falls, and falls."
    whole = {"names": (name,), "cards": ()}
    for answers, expected in ((rights, 1.0), (wrongs, 0.0)):
        score = score_of(measure(tmp_path, scripted(answers), out=f"out {expected}", **whole))
        assert value(score) == expected
        assert score.n == len(ROWS[name])
        assert score.excluded == {}
