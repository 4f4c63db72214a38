"""What holds for every panel, every vote, and every text that names a judge."""

import contextlib
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tests.support.sessions import registry
from tseval.errors import ConfigError
from tseval.judging import JudgeSpec, parse_judge, seat_judges
from tseval.metrics import ASR_HARMFUL, ASR_NONREFUSAL, ORR, outcome_of
from tseval.panels import Panel, VoteRule, count, is_panel, parse_rule, split_panel
from tseval.types import Verdict

refusals = st.booleans().map(lambda side: Verdict(refusal=side))
failures = st.sampled_from([Verdict(reason=each) for each in ("unparsed", "error", "undecided")])
verdicts = refusals | failures


@st.composite
def panels(draw):
    """A rule and as many verdicts as it has members."""
    members = draw(st.integers(2, 6))
    least = draw(st.integers(members // 2 + 1, members) | st.just(0))
    rule = VoteRule(
        least=least,
        tie=draw(st.sampled_from(["yes", "no", "none"])),
        missing=draw(st.sampled_from(["none", "no"])),
    )
    return rule, draw(st.lists(verdicts, min_size=members, max_size=members))


def said(verdict: Verdict) -> tuple[bool | None, float | None, str]:
    return verdict.refusal, verdict.soft, verdict.reason


@given(panels().flatmap(lambda p: st.tuples(st.just(p), st.permutations(p[1]))))
def test_the_order_of_members_never_matters(case) -> None:
    (rule, votes), others = case
    assert said(count(rule, votes)) == said(count(rule, others))


@given(panels())
def test_whatever_the_missing_votes_turn_out_to_be_a_verdict_stays(case) -> None:
    rule, votes = case
    verdict = count(rule, votes)
    if verdict.reason not in ("ok", "undecided"):
        return
    sides = [Verdict(refusal=True), Verdict(refusal=False)]
    # An unparsed vote under missing=no is a vote; every other failure might have been either.
    open_ones = [
        [vote]
        if vote.reason == "ok" or (vote.reason == "unparsed" and rule.missing == "no")
        else sides
        for vote in votes
    ]
    for assigned in product(*open_ones):
        assert said(count(rule, list(assigned))) == said(verdict)


@given(panels())
def test_without_a_verdict_there_are_missing_votes_that_would_decide_otherwise(case) -> None:
    rule, votes = case
    verdict = count(rule, votes)
    if verdict.reason not in ("unparsed", "error"):
        return
    assert (verdict.refusal, verdict.soft) == (None, None)
    sides = [Verdict(refusal=True), Verdict(refusal=False)]
    found = {
        said(count(rule, list(assigned)))
        for assigned in product(*([v] if v.reason == "ok" else sides for v in votes))
    }
    assert len(found) > 1


@given(panels())
def test_changing_sides_changes_the_verdict_of_a_symmetric_rule(case) -> None:
    rule, votes = case
    swap = {"yes": "no", "no": "yes", "none": "none"}
    rule = VoteRule(least=rule.least, tie=rule.tie)
    mirrored = [Verdict(refusal=not v.refusal) if v.reason == "ok" else v for v in votes]
    there = VoteRule(least=rule.least, tie=swap[rule.tie])
    here, other = count(rule, votes), count(there, mirrored)
    assert here.reason == other.reason
    assert (here.refusal is None) == (other.refusal is None)
    if here.refusal is not None:
        assert here.refusal is not other.refusal
    if here.soft is not None and other.soft is not None:
        assert abs(here.soft + other.soft - 1) < 1e-15


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n)))
def test_a_soft_vote_is_worth_the_mean_of_what_its_members_are_worth(sides) -> None:
    refusing = count(VoteRule(), [Verdict(refusal=side) for side in sides])
    harming = count(VoteRule(label="harmful"), [Verdict(harmful=side) for side in sides])
    cases = ((ASR_NONREFUSAL, refusing), (ORR, refusing), (ASR_HARMFUL, harming))
    for metric, verdict in cases:
        alone = [
            outcome_of(
                metric,
                Verdict(refusal=side) if metric.label == "refusal" else Verdict(harmful=side),
            )[1]
            for side in sides
        ]
        hit = outcome_of(metric, verdict)[1]
        assert hit is not None
        assert abs(hit - sum(filter(None, alone)) / len(sides)) < 1e-12


# -- texts

word = st.text("abc-_.0", min_size=1, max_size=6)
plain = st.text("ab;=.:/@ 0", max_size=8).map(str.strip)
nested = st.text("a,;=1", max_size=5).map(lambda inner: f"({inner})")
values = plain | nested | st.tuples(plain, nested, plain).map("".join).map(str.strip)
names = word.filter(lambda name: name != "panel")
places = st.sampled_from(
    ["", "hf", "hf/org/name@rev:adapter", "openai/a:8b:http://h:1/v1", "vllm:https://h/v1"]
)
keys = word.filter(lambda key: key != "text")


@st.composite
def specs(draw):
    """The text of a judge, with what it says."""
    name, options = draw(names), draw(st.dictionaries(keys, values, max_size=3))
    where, sees = draw(places), draw(st.sampled_from([None, "answer", "trace", "both"]))
    inner = [f"{key}={value}" for key, value in options.items()]
    inner += [f"text={sees}"] if sees else []
    text = name + (f"({','.join(inner)})" if inner else "") + (f"@{where}" if where else "")
    return JudgeSpec(text=text, name=name, options=options, sees=sees, where=where)


@given(specs())
def test_a_judge_is_read_as_it_was_written(spec) -> None:
    assert parse_judge(spec.text) == spec
    again = parse_judge(spec.label)
    assert (again.name, again.options, again.sees, again.where) == (
        spec.name,
        spec.options,
        spec.sees,
        "",
    )
    assert again.label == spec.label


@given(st.lists(specs(), min_size=2, max_size=4), st.sampled_from(["", "vote>=3, tie=comply"]))
def test_members_come_out_of_a_panel_as_they_went_in(members, rule) -> None:
    texts = tuple(member.text for member in members)
    text = f"panel({', '.join(texts)}; {rule})" if rule else f"panel({','.join(texts)})"
    assert is_panel(text)
    assert split_panel(text) == (texts, rule)


rubble = st.text("ab(),;@=> panel/vote3²:", max_size=30)


@given(rubble | rubble.map(lambda inner: f"panel({inner})"))
def test_no_text_makes_anything_but_a_sentence_out_of_seating_a_judge(text) -> None:
    with contextlib.suppress(ConfigError):
        for seat in seat_judges((text,), registry()).values():
            if isinstance(seat.judge, Panel):
                assert len(set(seat.members)) == len(seat.members) >= 2


@given(rubble, st.integers(2, 6))
def test_no_text_makes_anything_but_a_sentence_out_of_a_rule(text, members) -> None:
    try:
        rule = parse_rule(text, members, ["refusal", "harmful"])
    except ConfigError:
        return
    assert parse_rule(rule.describe(), members, ["refusal", "harmful"]) == rule
