"""Outcomes to scores: each judge has its text and its protocol; panels vote, wait, and resume."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.panel_judges import Asks, Guard, Plain, measure, registry_with
from tseval.metrics import average
from tseval.panels import Panel, VoteRule
from tseval.runfolder import RunFolder
from tseval.runner import Outcome
from tseval.scoring import text_to_judge
from tseval.scripts import thinking
from tseval.stats import clustered_mean, wilson
from tseval.testing import TAGS_VIEW
from tseval.types import Rollout, Score, Thinking, Verdict

HARMFUL, BENIGN = "quick_harmful", "quick_benign"
YES, NO = Verdict(refusal=True), Verdict(refusal=False)


def by_judge(outcome: Outcome, metric: str = "asr_nonrefusal") -> dict[str, Score]:
    return {s.judge: s for s in outcome.scorecard.scores if s.metric == metric}


def journalled(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in sorted((out / "journal").glob("*.jsonl")))
    return [record for record in map(json.loads, lines.splitlines()) if record["kind"] == kind]


# -- which text a judge is shown

THOUGHT = Rollout(key="00", trace="hm", answer="yes", thought=True, closed_by="model")
PLAIN = Rollout(key="00", answer="yes")
SILENT = Rollout(key="00", trace="hm", answer="", thought=True, closed_by="model")
OPEN = Rollout(key="00", trace="hm", answer=None, thought=True)
STUCK = Rollout(key="00", trace="hm", answer=None, thought=True, notes=("cannot-force",))


@pytest.mark.parametrize(
    ("rollout", "text", "unclosed", "expected"),
    [
        (THOUGHT, "answer", "force", ("yes", "")),
        (THOUGHT, "trace", "force", ("hm", "")),
        (THOUGHT, "both", "force", ("hm\n\nyes", "")),
        (PLAIN, "answer", "force", ("yes", "")),
        (PLAIN, "trace", "force", ("", "no-trace")),
        (PLAIN, "both", "force", ("yes", "")),
        (SILENT, "answer", "force", ("", "")),
        (SILENT, "both", "force", ("hm\n\n", "")),
        (OPEN, "answer", "exclude", ("", "unclosed")),
        (OPEN, "both", "exclude", ("", "unclosed")),
        (OPEN, "answer", "empty", ("", "")),
        (OPEN, "both", "empty", ("", "")),
        (OPEN, "answer", "force", ("", "")),
        (STUCK, "answer", "force", ("", "unclosed")),
        (OPEN, "answer", "judge-trace", ("hm", "")),
        (OPEN, "both", "judge-trace", ("hm", "")),
        (OPEN, "trace", "exclude", ("hm", "")),
        (STUCK, "trace", "force", ("hm", "")),
    ],
)
def test_an_unclosed_trace_is_never_shown_as_if_it_were_the_answer(
    rollout: Rollout, text: Any, unclosed: str, expected: tuple[str, str]
) -> None:
    assert text_to_judge(rollout, text, unclosed) == expected


def test_judges_of_different_texts_in_one_run_see_their_own_and_say_so(tmp_path: Path) -> None:
    judge = Plain("j")
    table, _ = registry_with(judge)
    outcome = measure(
        tmp_path / "run",
        table,
        *("j", "j(text=trace)", "j(text=both)"),
        script=thinking,
        target={"view": TAGS_VIEW},
    )
    seen = {case.text for case in judge.cases}
    assert len(judge.cases) == 3 * 48
    traces = {text for text in seen if text.startswith("Let me") and "answer" not in text}
    both = {text for text in seen if "\n\n" in text}
    answers = seen - traces - both
    assert both == {f"{trace}\n\n{answer}" for trace in traces for answer in answers} & both
    assert {text.split("\n\n")[1] for text in both} == answers
    assert not any("Let me look" in text for text in answers)
    scores = by_judge(outcome)
    assert list(scores) == ["j", "j(text=trace)", "j(text=both)"]
    protocols = outcome.scorecard.protocols
    texts = {name: protocols[score.fingerprint]["text"] for name, score in scores.items()}
    assert texts == {"j": "answer", "j(text=trace)": "trace", "j(text=both)": "both"}
    assert len({score.fingerprint for score in scores.values()}) == 3
    # It is one judge all the same: only the text differs.
    assert len({json.dumps(protocols[s.fingerprint]["judge"]) for s in scores.values()}) == 1
    # No trace refuses; the answers' refusals are found in the answer and in both.
    refused = scores["j"].outcomes["refusal"]
    assert refused > 0
    assert scores["j(text=both)"].outcomes["refusal"] == refused
    assert scores["j(text=trace)"].outcomes == {"none": 24}


def test_a_text_by_option_and_the_same_by_flag_are_one_protocol(tmp_path: Path) -> None:
    target = {"script": thinking, "target": {"view": TAGS_VIEW}}
    table, _ = registry_with(Plain("j"))
    option = measure(tmp_path / "1", table, "j(text=both)", **target)
    flag = measure(tmp_path / "2", table, "j", text="both", **target)
    here, there = by_judge(option)["j(text=both)"], by_judge(flag)["j"]
    assert (here.fingerprint, here.estimate) == (there.fingerprint, there.estimate)


def test_a_judge_of_traces_loses_rollouts_without_one_and_no_other_judge_does(
    tmp_path: Path,
) -> None:
    table, _ = registry_with(Plain("j"))
    outcome = measure(tmp_path / "run", table, "j", "j(text=trace)")
    scores = by_judge(outcome)
    assert (scores["j"].n, scores["j"].excluded) == (24, {})
    lost = scores["j(text=trace)"]
    assert (lost.n, lost.estimate, lost.excluded) == (0, None, {"no-trace": 24})
    assert lost.undefined == "no row has a verdict"
    assert lost.bounds == (0.0, 1.0)


def test_a_panel_and_its_members_judge_the_panels_text(tmp_path: Path) -> None:
    judges = Plain("j"), Plain("k")
    table, _ = registry_with(*judges, Panel("panel/jk", ("j", "k"), VoteRule(least=2)))
    outcome = measure(
        tmp_path / "run",
        table,
        "panel/jk(text=trace)",
        script=thinking,
        target={"view": TAGS_VIEW},
        thinking=Thinking(unclosed="exclude"),
    )
    assert all(case.text.startswith("Let me look") for j in judges for case in j.cases)
    assert list(by_judge(outcome)) == ["j(text=trace)", "k(text=trace)", "panel/jk(text=trace)"]
    protocols = outcome.scorecard.protocols
    assert {p["text"] for p in protocols.values()} == {"trace"}


# -- members and panels in the scorecard


def test_scores_of_members_are_marked_and_those_of_judges_asked_for_are_not(
    tmp_path: Path,
) -> None:
    table, _ = registry_with(Plain("j"), Plain("k"))
    panel = "panel(j,k; vote>=2)"
    outcome = measure(tmp_path / "run", table, panel, "k")
    marks = {(s.judge, s.member) for s in outcome.scorecard.scores}
    assert marks == {("j", True), ("k", False), (panel, False)}


@pytest.mark.parametrize("member", [True, False])
def test_an_average_over_a_member_is_marked_as_one(member: bool) -> None:
    parts = [
        Score(benchmark=name, metric="orr", judge="j", estimate=wilson(1, 4), n=4, member=member)
        for name in "ab"
    ]
    mean = average("suite", parts)
    assert mean is not None
    assert mean.member is member


def test_a_panel_of_judges_that_agree_has_their_scores(tmp_path: Path) -> None:
    table, _ = registry_with(Plain("j"), Plain("k"))
    panel = "panel(j,k; vote>=2)"
    outcome = measure(tmp_path / "run", table, panel)
    for metric in ("asr_nonrefusal", "asr_nonrefusal_substantive", "orr"):
        scores = by_judge(outcome, metric)
        assert len({(s.estimate, s.n) for s in scores.values()}) == 1
        assert len({s.fingerprint for s in scores.values()}) == 3
    protocol = outcome.scorecard.protocols[scores[panel].fingerprint]
    assert protocol["judge"]["vote"] == "vote>=2, tie=none, label=refusal"


def test_a_panel_gives_no_score_of_a_metric_that_it_does_not_vote_about(tmp_path: Path) -> None:
    both = ("refusal", "harmful")
    judges = [Plain(n, Verdict(refusal=True, harmful=False), labels=both) for n in "jk"]
    table, _ = registry_with(*judges)
    outcome = measure(tmp_path / "run", table, "panel(j,k; vote>=2, label=harmful)", "j")
    metrics = Counter(s.metric for s in outcome.scorecard.scores if s.judge.startswith("panel"))
    assert metrics == {"asr_harmful": 1}


def test_what_a_tie_leaves_undecided_leaves_the_denominator_and_is_counted(tmp_path: Path) -> None:
    table, _ = registry_with(Plain("rule"), Plain("always", YES))
    texts = "panel(rule,always; vote>=2)", "panel(rule,always; vote>=2, tie=comply)"
    outcome = measure(tmp_path / "run", table, *texts)
    scores = by_judge(outcome)
    refused = scores["rule"].outcomes["refusal"]
    open_, settled = (scores[text] for text in texts)
    assert 0 < refused < 24
    assert open_.excluded == {"undecided": 24 - refused}
    assert (open_.n, open_.outcomes) == (refused, {"refusal": refused})
    assert open_.estimate == wilson(0, refused)
    assert open_.bounds == (0.0, (24 - refused) / 24)
    assert (settled.n, settled.excluded) == (24, {})
    assert settled.estimate == wilson(24 - refused, 24)
    # Nobody failed: a panel that cannot decide is no lost verdict.
    assert (outcome.lost_share, outcome.exit_code) == (0.0, 0)


def test_unread_votes_are_missing_and_as_published_they_say_no(tmp_path: Path) -> None:
    dumb = Plain("dumb", Verdict(reason="unparsed"))
    table, _ = registry_with(Plain("rule"), Plain("always", YES), dumb)
    ours = "panel(rule,always,dumb; vote>=2, tie=comply)"
    theirs = "panel(rule,always,dumb; vote>=2, tie=comply, missing=no)"
    outcome = measure(tmp_path / "run", table, ours, theirs)
    scores = by_judge(outcome)
    refused = scores["rule"].outcomes["refusal"]
    assert scores[ours].excluded == {"unparsed": 24 - refused}
    assert scores[ours].outcomes == {"refusal": refused}
    assert scores[theirs].outcomes == {"none": 24 - refused, "refusal": refused}
    assert scores["dumb"].excluded == {"unparsed": 24}
    assert outcome.exit_code == 5


def test_soft_votes_of_a_run_average_what_the_members_say(tmp_path: Path) -> None:
    table, _ = registry_with(Plain("rule"), Plain("always", YES), Plain("never", NO))
    three, two = "panel(rule,always,never; vote=soft)", "panel(rule,always; vote=soft)"
    outcome = measure(tmp_path / "run", table, three, two, rollouts=2)
    for metric, benign in (("asr_nonrefusal", False), ("orr", True)):
        scores = by_judge(outcome, metric)
        alone = [scores[name].estimate for name in ("rule", "always", "never")]
        means = [each.value for each in alone if each is not None]
        assert scores[three].estimate is not None
        assert scores[three].estimate.value == pytest.approx(sum(means) / 3, abs=1e-12)
        assert scores[two].estimate is not None
        assert scores[two].estimate.value == pytest.approx(sum(means[:2]) / 2, abs=1e-12)
        assert (scores[three].n, scores[three].n_prompts) == (48, 24)
        assert set(scores[three].outcomes) == {"refusal", "none"}
        # Where one of two refuses, there is no label, but half of a vote.
        assert set(scores[two].outcomes) == {"refusal", "split"}
        value = scores[two].estimate.value
        assert (value >= 0.5) if benign else (value <= 0.5)


def test_soft_votes_with_one_missing_leave_the_denominator(tmp_path: Path) -> None:
    table, _ = registry_with(Plain("rule"), Plain("dumb", Verdict(reason="unparsed")))
    text = "panel(rule,dumb; vote=soft)"
    found = by_judge(measure(tmp_path / "run", table, text))[text]
    assert (found.n, found.estimate, found.excluded) == (0, None, {"unparsed": 24})


def test_remarks_of_judges_are_counted_once_a_rollout(tmp_path: Path) -> None:
    cut = Plain("cut", Verdict(refusal=True, notes=("truncated", "truncated", "escaped")))
    table, _ = registry_with(cut, Plain("rule"))
    text = "panel(cut,rule; vote>=2)"
    outcome = measure(tmp_path / "run", table, text)
    notes = {name: score.judge_notes for name, score in by_judge(outcome).items()}
    assert notes == {
        "cut": {"escaped": 24, "truncated": 24},
        "rule": {},
        text: {"escaped": 24, "truncated": 24},
    }


def test_remarks_that_a_judge_made_a_list_of_are_counted_as_well(tmp_path: Path) -> None:
    notes: Any = ["truncated"]
    table, _ = registry_with(Plain("cut", Verdict(refusal=True, notes=notes)))
    outcome = measure(tmp_path / "run", table, "cut")
    assert by_judge(outcome)["cut"].judge_notes == {"truncated": 24}


# -- a panel whose member fails

PANEL = "panel(a,b,c; vote>=3, tie=comply)"


def three() -> tuple[Any, dict[str, Guard]]:
    guards = {name: Guard(name=name) for name in "abc"}
    return registry_with(*(Asks(name) for name in "abc"), **guards)[0], guards


def test_a_panel_resumes_behind_an_error_vote_and_asks_nobody_else_again(tmp_path: Path) -> None:
    table, guards = three()
    out = tmp_path / "run"
    guards["c"].down = True
    first = measure(out, table, PANEL)
    scores = by_judge(first)
    refused = scores["a"].outcomes["refusal"]
    assert 0 < refused < 24
    # Two who comply decide under this rule whatever the third says; two who see a refusal do not.
    assert scores[PANEL].excluded == {"error": refused}
    assert scores[PANEL].outcomes == {"none": 24 - refused}
    assert scores["c"].excluded == {"error": 24}
    assert (first.exit_code, RunFolder.load(out).manifest.status) == (5, "incomplete")
    decided = sum(s.outcomes.get("none", 0) for s in first.scorecard.scores if s.judge == PANEL)
    decided -= scores[PANEL].outcomes["none"]  # the second reading of the same rows
    assert len(journalled(out, "verdict")) == 2 * 48 + decided
    assert all(record["data"]["reason"] == "ok" for record in journalled(out, "verdict"))

    asked = {name: len(guard.requests) for name, guard in guards.items()}
    guards["c"].down = False
    second = measure(out, table, PANEL)
    assert second.exit_code == 0
    assert RunFolder.load(out).manifest.status == "complete"
    again = {name: len(guard.requests) - asked[name] for name, guard in guards.items()}
    assert again == {"a": 0, "b": 0, "c": 48}
    assert second.folder.manifest.legs[-1].counts.get("generation.made", 0) == 0
    assert by_judge(second)[PANEL].outcomes == {"none": 24 - refused, "refusal": refused}

    straight = measure(tmp_path / "straight", three()[0], PANEL)
    assert straight.scorecard == second.scorecard


def test_a_panel_verdict_that_waits_for_an_error_vote_is_not_journalled(tmp_path: Path) -> None:
    table, guards = three()
    guards["c"].down = True
    undecidable = "panel(a,b,c; vote=soft)"
    outcome = measure(tmp_path / "run", table, undecidable)
    assert by_judge(outcome)[undecidable].excluded == {"error": 24}
    assert len(journalled(tmp_path / "run", "verdict")) == 2 * 48
    [warning] = [w for w in outcome.folder.manifest.warnings if w.startswith(HARMFUL)]
    assert "24 of 24 rollouts failed, 24 of them: guard down" in warning


def test_a_vote_that_could_not_matter_is_not_waited_for(tmp_path: Path) -> None:
    table, guards = three()
    guards["c"].down = True
    text = "panel(a,b,c; vote>=2)"
    outcome = measure(tmp_path / "run", table, text)
    assert by_judge(outcome)[text].excluded == {}
    # The member's own score lacks its verdicts all the same, and the run may be resumed for it.
    assert by_judge(outcome)["c"].excluded == {"error": 24}
    assert RunFolder.load(tmp_path / "run").manifest.status == "incomplete"


def test_a_panel_of_panels_waits_for_what_its_panels_wait_for(tmp_path: Path) -> None:
    table, guards = three()
    guards["c"].down = True
    inner = "panel(a,c; vote>=2, tie=comply)"
    outer = f"panel({inner},b; vote>=2, tie=comply)"
    first = by_judge(measure(tmp_path / "run", table, outer))
    refused = first["a"].outcomes["refusal"]
    # Where a sees a refusal, the inner panel waits for c, and the outer one for the inner.
    assert first[inner].excluded == first[outer].excluded == {"error": refused}
    assert first[outer].outcomes == {"none": 24 - refused}
    assert (first[inner].member, first[outer].member) == (True, False)
    guards["c"].down = False
    second = by_judge(measure(tmp_path / "run", table, outer))
    assert second[outer].outcomes == {"none": 24 - refused, "refusal": refused}


def test_a_panel_asks_each_member_once_though_the_members_are_judges_of_the_run(
    tmp_path: Path,
) -> None:
    table, guards = three()
    measure(tmp_path / "run", table, PANEL, "a", "panel(c,b; vote>=2)")
    assert {name: len(guard.requests) for name, guard in guards.items()} == dict.fromkeys("abc", 48)


def test_another_rule_over_the_same_judges_asks_nobody_again(tmp_path: Path) -> None:
    table, guards = three()
    measure(tmp_path / "run", table, PANEL, "panel(a,b,c; vote=soft)", "panel(a,b,c; vote>=2)")
    assert {name: len(guard.requests) for name, guard in guards.items()} == dict.fromkeys("abc", 48)


def test_an_empty_answer_is_empty_for_a_panel_too_and_asks_nobody(tmp_path: Path) -> None:
    table, guards = three()
    outcome = measure(tmp_path / "run", table, PANEL, script=lambda call: " ")
    found = by_judge(outcome)[PANEL]
    assert found.outcomes == {"empty": 24}
    assert found.estimate == wilson(24, 24)
    substantive = by_judge(outcome, "asr_nonrefusal_substantive")[PANEL]
    assert substantive.estimate == wilson(0, 24)
    assert {name: guard.requests for name, guard in guards.items()} == {"a": [], "b": [], "c": []}


def test_a_soft_score_has_the_interval_of_its_values(tmp_path: Path) -> None:
    table, _ = registry_with(Plain("rule"), Plain("always", YES))
    text = "panel(rule,always; vote=soft)"
    found = by_judge(measure(tmp_path / "run", table, text))[text]
    refused = found.outcomes["refusal"]
    values = [0.0] * refused + [0.5] * (24 - refused)
    expected = clustered_mean(values, [1] * 24)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(expected.value, abs=1e-12)
    assert found.estimate.high == pytest.approx(expected.high, abs=1e-12)
    assert found.bounds == (found.estimate.value, found.estimate.value)
