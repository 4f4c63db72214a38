"""The gate: pass, fail and cannot tell, each where its limits say so."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.support.sides import Hits, side
from tseval.compare import Side, compare
from tseval.errors import ConfigError
from tseval.gate import Verdict, decide
from tseval.outcomes import Outcomes
from tseval.policy import Policy, Rule, read_policy
from tseval.stats_compare import tango_interval

ASR, ORR, PASS1 = "asr_nonrefusal", "orr", "pass_at_1"


def gate(
    before: dict[tuple[str, str], Hits],
    after: dict[tuple[str, str], Hits],
    *rules: Rule,
    bare: bool = False,
    **policy: object,
) -> Verdict:
    one, other = side("a", before), side("b", after)
    if bare:
        other = other._replace(outcomes=Outcomes())
    found = compare(one, [other])[0]
    return decide(Policy(metrics=rules, **policy), one, other, found)


def few(n: int, hits: int) -> list[float | None]:
    return [1.0] * hits + [0.0] * (n - hits)


def test_a_metric_passes_below_its_margin_and_not_above_it() -> None:
    upper = tango_interval(2, 0, 100, level=0.9).high
    for margin, outcome in ((upper + 1e-6, "pass"), (upper - 1e-6, "cannot tell")):
        found = gate(
            {("o", ORR): few(100, 0)}, {("o", ORR): few(100, 2)}, Rule(metric=ORR, margin=margin)
        )
        assert found.outcome == outcome
        (one,) = found.decisions
        assert one.high == pytest.approx(upper)


@pytest.mark.parametrize(("n", "limit"), [(40, 0.063), (100, 0.026), (250, 0.011)])
def test_equal_runs_pass_only_where_the_prompts_suffice(n: int, limit: float) -> None:
    same = {("o", ORR): few(n, 3)}
    (told,) = gate(same, same, Rule(metric=ORR, margin=limit + 0.001)).decisions
    assert told.outcome == "pass"
    assert told.high == pytest.approx(limit, abs=0.001)
    (short,) = gate(same, same, Rule(metric=ORR, margin=limit - 0.001)).decisions
    assert short.outcome == "cannot tell"
    assert short.needed is not None
    assert n < short.needed < 1.3 * n


def test_worse_is_what_the_metric_says_is_worse() -> None:
    rule = Rule(metric=PASS1, margin=0.05)
    lower = gate({("q", PASS1): few(60, 30)}, {("q", PASS1): few(60, 10)}, rule)
    assert lower.outcome == "fail"
    higher = gate({("q", PASS1): few(60, 10)}, {("q", PASS1): few(60, 30)}, rule)
    assert higher.outcome == "pass"
    assert higher.decisions[0].worsening == pytest.approx(-20 / 60)


def test_a_worsening_within_the_margin_passes_even_where_it_is_shown() -> None:
    found = gate(
        {("o", ORR): few(1000, 10)}, {("o", ORR): few(1000, 30)}, Rule(metric=ORR, margin=0.05)
    )
    assert found.decisions[0].low is not None
    assert found.decisions[0].low > 0
    assert found.outcome == "pass"


def test_a_fail_has_to_stand_after_holm_over_the_metrics() -> None:
    # Six of a hundred: one-sided p is 0.007; among ten metrics it is not below 0.05.
    before = {(f"o{n}", ORR): few(100, 0) for n in range(10)}
    after = {**before, ("o0", ORR): few(100, 6)}
    alone = gate(before, after, Rule(benchmark="o0", metric=ORR, margin=0.01))
    assert alone.outcome == "fail"
    every = gate(before, after, Rule(metric=ORR, margin=0.01))
    first = every.decisions[0]
    assert first.outcome == "cannot tell"
    assert "adjustment" in first.reason
    assert first.adjusted == pytest.approx(10 * first.pvalue)


def test_many_excluded_rows_pass_on_their_worst_case_only() -> None:
    before, rule = {("o", ORR): few(200, 0)}, Rule(metric=ORR, margin=0.05)
    three: list[float | None] = [None] * 3 + [0.0] * 197
    assert gate(before, {("o", ORR): three}, rule).outcome == "pass"
    ten: list[float | None] = [None] * 10 + [0.0] * 190
    found = gate(before, {("o", ORR): ten}, rule)
    assert found.outcome == "cannot tell"
    (one,) = found.decisions
    assert one.worst_high == pytest.approx(tango_interval(10, 0, 200, level=0.9).high)
    assert "excluded" in one.reason
    wide = gate(before, {("o", ORR): ten}, Rule(metric=ORR, margin=0.12))
    assert wide.outcome == "pass"
    # Excluded before as well: the share did not rise, but is too high.
    both = gate({("o", ORR): ten}, {("o", ORR): ten}, rule)
    assert both.outcome == "cannot tell"
    lenient = gate(before, {("o", ORR): ten}, Rule(metric=ORR, margin=0.05, excluded=0.1))
    assert lenient.decisions[0].worst_high is not None, "the share rose by more than two points"
    still = gate({("o", ORR): ten}, {("o", ORR): ten}, Rule(metric=ORR, margin=0.05, excluded=0.1))
    assert still.outcome == "pass"


@pytest.mark.parametrize("lost", [10, 100, 180, 199])
def test_no_policy_lets_a_judge_pass_that_lost_its_rows(lost: int) -> None:
    # However few rows are left, and so however wide their interval is.
    before = {("o", ORR): [0.0] * 200}
    after = {("o", ORR): [None] * lost + [0.0] * (200 - lost)}
    found = gate(before, after, Rule(metric=ORR, margin=0.03), cannot_tell="pass")
    assert (found.outcome, found.passed, found.decisions[0].cause) == ("cannot tell", False, "data")


def test_excluded_rows_without_their_outcomes_cannot_be_told() -> None:
    ten: list[float | None] = [None] * 10 + [0.0] * 190
    found = gate(
        {("o", ORR): few(200, 0)}, {("o", ORR): ten}, Rule(metric=ORR, margin=0.5), bare=True
    )
    assert found.outcome == "cannot tell"


def test_rows_that_the_candidate_lost_whole_count_in_the_worst_case() -> None:
    # As lm-eval's are where documents are gone: excluded by the score, and in no row.
    before = {("o", ORR): few(400, 0)}
    lost: list[float | None] = [None] * 200 + [0.0] * 200
    found = gate(before, {("o", ORR): lost}, Rule(metric=ORR, margin=0.05))
    (one,) = found.decisions
    assert one.outcome == "cannot tell"
    assert one.worst_high is not None
    assert one.worst_high > 0.5


def test_a_benchmark_that_one_run_lacks_cannot_be_told_and_no_policy_lets_it_pass() -> None:
    both = {("o", ORR): few(100, 0), ("x", ORR): few(100, 0)}
    rule = Rule(metric=ORR, margin=0.05)
    for one, other, whose in ((both, {("o", ORR): few(100, 0)}, "candidate"),
                              ({("o", ORR): few(100, 0)}, both, "baseline")):  # fmt: skip
        found = gate(one, other, rule, cannot_tell="pass")
        assert [each.outcome for each in found.decisions] == ["pass", "cannot tell"]
        assert whose in found.decisions[1].reason
        assert not found.passed
    named = gate(both, {("o", ORR): few(100, 0)}, Rule(benchmark="x", metric=ORR, margin=0.05))
    assert named.outcome == "cannot tell"


def parted(*names: tuple[str, str, str]) -> Side:
    """A run with a number each of (benchmark, group, judge), all of the same rows."""
    made = side("run", {("o", ORR): few(100, 0)})
    (score,) = made.scorecard.scores
    scores = [replace(score, benchmark=b, group=g, judge=j) for b, g, j in names]
    return made._replace(scorecard=replace(made.scorecard, scores=scores))


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        # A part of a benchmark that has no whole.
        ([("p", "h", "j"), ("p", "b", "j")], [("p", "h", "j")], Rule(metric=ORR, margin=0.9)),
        ([("a", "", "j"), ("p", "b", "j")], [("a", "", "j")], Rule(metric=ORR, margin=0.9)),
        # The judge that the rule names is gone, and another one is there.
        (
            [("a", "", "j"), ("p", "", "j"), ("p", "", "k")],
            [("a", "", "j"), ("p", "", "k")],
            Rule(metric=ORR, judge="j", margin=0.9),
        ),
    ],
)
def test_what_the_candidate_lost_is_never_passed_over(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]], rule: Rule
) -> None:
    one, other = parted(*before), parted(*after)
    policy = Policy(metrics=(rule,), cannot_tell="pass")
    found = decide(policy, one, other, compare(one, [other])[0])
    assert (found.outcome, found.passed) == ("cannot tell", False)
    assert [each.cause for each in found.decisions if each.outcome != "pass"] == ["data"]


def test_parts_and_judges_that_are_not_asked_for_are_not_missed() -> None:
    one = parted(("p", "", "j"), ("p", "h", "j"), ("p", "", "k"))
    other = parted(("p", "", "j"))
    rule = Rule(metric=ORR, judge="j", margin=0.9)
    assert decide(Policy(metrics=(rule,)), one, other, compare(one, [other])[0]).passed


def test_prompts_that_the_candidate_was_never_asked_count_in_the_worst_case() -> None:
    # An interrupted run: nothing is excluded, most was not asked.
    before, after = {("o", ORR): few(400, 0)}, {("o", ORR): few(200, 0)}
    (one,) = gate(before, after, Rule(metric=ORR, margin=0.3), cannot_tell="pass").decisions
    assert (one.outcome, one.cause) == ("cannot tell", "data")
    assert "one run alone has 50.0% of the prompts" in one.reason
    assert one.worst_high is not None
    assert one.worst_high > 0.5


def test_how_many_prompts_would_tell_stands_after_the_adjustment_too() -> None:
    before = {(f"o{n}", ORR): few(100, 0) for n in range(5)}
    rule = Rule(metric=ORR, margin=0.03)
    four = {name: few(100, 4) for name in before}
    blocked = gate(before, four, rule).decisions[0]
    assert (blocked.outcome, blocked.cause) == ("cannot tell", "adjustment")
    assert blocked.needed is not None
    assert blocked.needed > 100
    many = -(-blocked.needed // 100) * 100
    told = gate(
        {name: few(many, 0) for name in before},
        {name: few(many, many * 4 // 100) for name in before},
        rule,
    )
    assert {each.outcome for each in told.decisions} == {"fail"}


def test_values_are_those_of_the_rows_that_both_have() -> None:
    before: list[float | None] = [1.0] * 20 + [0.0] * 60 + [None] * 20
    after = few(100, 22)
    (one,) = gate({("o", ORR): before}, {("o", ORR): after}, Rule(metric=ORR, margin=0.5)).decisions
    assert (one.before, one.after) == pytest.approx((20 / 80, 22 / 80))
    assert one.worsening == pytest.approx(2 / 80)


@pytest.mark.parametrize(("rule", "passed"), [("pass", True), ("fail", False)])
def test_the_policy_says_what_an_open_outcome_is(rule: str, passed: bool) -> None:
    same = {("o", ORR): few(20, 0)}
    found = gate(same, same, Rule(metric=ORR, margin=0.01), cannot_tell=rule)
    assert found.outcome == "cannot tell"
    assert found.passed is passed


def test_one_failing_metric_fails_the_gate_whatever_the_others_say() -> None:
    before = {("o", ORR): few(100, 0), ("h", ASR): few(100, 0)}
    after = {("o", ORR): few(100, 0), ("h", ASR): few(100, 40)}
    found = gate(
        before, after, Rule(metric=ORR, margin=0.05), Rule(metric=ASR, margin=0.05),
        cannot_tell="pass",
    )  # fmt: skip
    assert [each.outcome for each in found.decisions] == ["pass", "fail"]
    assert found.outcome == "fail"
    assert not found.passed


def test_a_number_without_a_value_cannot_be_told() -> None:
    found = gate({("o", ORR): few(20, 0)}, {("o", ORR): [None] * 20}, Rule(metric=ORR, margin=0.1))
    (one,) = found.decisions
    assert one.outcome == "cannot tell"
    assert one.reason == "after: no row has a verdict"


@pytest.mark.parametrize("margin", [0.05, 0.99])
def test_a_share_of_which_no_interval_is_known_neither_passes_nor_fails(margin: float) -> None:
    # Nine tenths apart: limits scaled from [0, 1] to alpha would call it worse at 0.03.
    one, other = side("a", {("o", ORR): few(100, 5)}), side("b", {("o", ORR): few(100, 95)})
    (score,) = other.scorecard.scores
    assert score.estimate is not None
    wide = replace(score, estimate=replace(score.estimate, low=0.0, high=1.0))
    other = other._replace(outcomes=Outcomes(), scorecard=replace(other.scorecard, scores=(wide,)))
    policy = Policy(metrics=(Rule(metric=ORR, margin=margin),), cannot_tell="pass")
    found = decide(policy, one, other, compare(one, [other])[0])
    (told,) = found.decisions
    assert (told.outcome, told.cause, found.passed) == ("cannot tell", "data", False)
    assert told.reason == "no interval is known of the candidate"


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        ([Rule(metric="orrr", margin=0.1)], "do not both have"),
        ([Rule(metric=ORR, margin=3)], "three points"),
        ([Rule(metric=ORR, margin=0.1, worse="down")], "better end"),
        ([Rule(benchmark="elsewhere", metric=ORR, margin=0.1)], "do not both have"),
        ([Rule(metric=ORR, margin=0.1), Rule(benchmark="o", metric=ORR, margin=0.2)], "twice"),
    ],
)
def test_a_policy_that_fits_no_run_is_refused(rules: list[Rule], match: str) -> None:
    same = {("o", ORR): few(20, 0)}
    with pytest.raises(ConfigError, match=match):
        gate(same, same, *rules)


def test_a_policy_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(
        'alpha = 0.025\ncannot_tell = "pass"\n[[metric]]\nmetric = "orr"\nmargin = 0.05\n'
    )
    policy = read_policy(file)
    assert (policy.alpha, policy.cannot_tell) == (0.025, "pass")
    assert policy.metrics == (Rule(metric="orr", margin=0.05),)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("metric = []", "cannot fail"),
        ('[[metric]]\nmetric = "orr"\nmargin = 0', "no worse at all"),
        ('[[metric]]\nmetric = "orr"', "margin"),
        ('alpha = 1.0\n[[metric]]\nmetric = "orr"\nmargin = 0.1', "alpha is 1.0"),
        ('[[metric]]\nmetric = "orr"\nmargins = 0.1\nmargin = 0.1', "margins"),
        ("[[metric", "is no policy"),
        ('excluded = 2\n[[metric]]\nmetric = "orr"\nmargin = 0.1', "excluded is a share"),
        ('excluded_rise = -1\n[[metric]]\nmetric = "orr"\nmargin = 0.1', "excluded_rise is"),
        ('[[metric]]\nmetric = "orr"\nmargin = 0.1\nexcluded = 3', "excluded is a share"),
        ('[[metric]]\nmetric = "orr"\nmargin = inf', "no worse at all"),
    ],
)
def test_a_broken_policy_is_refused(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_policy(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_policy(tmp_path / "none.toml")


@pytest.mark.slow
def test_a_candidate_at_the_margin_passes_at_most_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(3)
    passed = worse = 0
    runs, n = 400, 150
    for _ in range(runs):
        base = rng.random(n) < 0.2
        # Truly worse by the margin: 0.1 of the prompts change for the worse.
        after = base | (rng.random(n) < 0.125)
        hits = {("o", ORR): base.astype(float).tolist()}, {("o", ORR): after.astype(float).tolist()}
        found = gate(*hits, Rule(metric=ORR, margin=0.1))
        passed += found.outcome == "pass"
        worse += found.outcome == "fail"
    assert passed / runs < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert worse / runs > 0.9
