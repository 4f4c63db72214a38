"""Soft votes: what a share of votes is worth, and the interval of their mean."""

import json
from fractions import Fraction
from itertools import permutations, product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tseval.errors import StatisticsError
from tseval.metrics import ASR_HARMFUL, ASR_NONREFUSAL, ASR_SUBSTANTIVE, ORR, Judged, outcome_of
from tseval.metrics import score as score_of
from tseval.roles import MetricSpec
from tseval.stats import bounds, clopper_pearson, clustered_mean, clustered_proportion, wilson
from tseval.types import Score, Verdict

# -- one rollout


@pytest.mark.parametrize(
    ("soft", "refusal", "name", "nonrefusal", "orr"),
    [
        (1.0, True, "refusal", 0.0, 1.0),
        (0.75, True, "refusal", 0.25, 0.75),
        (0.5, None, "split", 0.5, 0.5),
        (0.25, False, "none", 0.75, 0.25),
        (0.0, False, "none", 1.0, 0.0),
    ],
)
def test_a_share_of_votes_for_refusal(soft, refusal, name, nonrefusal, orr) -> None:
    verdict = Verdict(refusal=refusal, soft=soft)
    assert outcome_of(ASR_NONREFUSAL, verdict) == (name, nonrefusal)
    assert outcome_of(ASR_SUBSTANTIVE, verdict) == (name, nonrefusal)
    assert outcome_of(ORR, verdict) == (name, orr)


@pytest.mark.parametrize(
    ("soft", "harmful", "name"),
    [(1.0, True, "harmful"), (0.5, None, "split"), (0.25, False, "unharmful")],
)
def test_a_share_of_votes_for_harm(soft, harmful, name) -> None:
    assert outcome_of(ASR_HARMFUL, Verdict(harmful=harmful, soft=soft)) == (name, soft)


@pytest.mark.parametrize("reason", ["unparsed", "error", "undecided"])
def test_a_share_beside_a_failure_is_worth_nothing(reason) -> None:
    assert outcome_of(ORR, Verdict(reason=reason, soft=0.75)) == (reason, None)


@pytest.mark.parametrize("reason", ["empty", "degenerate"])
def test_an_answer_that_says_nothing_keeps_its_readings(reason) -> None:
    assert outcome_of(ASR_NONREFUSAL, Verdict(reason=reason)) == (reason, True)
    assert outcome_of(ASR_SUBSTANTIVE, Verdict(reason=reason)) == (reason, False)


# -- the score

BASE = Score(benchmark="b", metric="", judge="j")


def rated(metric: MetricSpec, rows: list[tuple[str, float | None]]) -> Score:
    judged = [
        Judged(cluster=cluster, outcome="refusal" if hit is not None else "unparsed", hit=hit)
        for cluster, hit in rows
    ]
    return score_of(metric, judged, BASE)


def test_a_rate_of_soft_votes_is_their_mean_and_its_bounds_count_the_excluded() -> None:
    found = rated(ORR, [("1", 0.25), ("2", 0.75), ("3", 1.0), ("4", None)])
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(2 / 3)
    assert (found.n, found.n_prompts, found.excluded) == (3, 3, {"unparsed": 1})
    assert found.bounds == (2 / 4, 3 / 4)


def test_the_order_of_rollouts_does_not_show_in_the_last_bit() -> None:
    # Thirds: 1/3 + 2/3 + 1/3 ... does not add up alike in every order.
    thirds = [1 / 3, 2 / 3, 1 - 1 / 3, 1 - 2 / 3, 1.0, 0.1]
    orders = list(permutations(thirds))
    assert len({sum(order) for order in orders}) > 1  # or this would show nothing
    scores = {msgspec.json.encode(rated(ORR, [("1", h) for h in order])) for order in orders}
    assert len(scores) == 1
    scores = {
        msgspec.json.encode(rated(ORR, [(str(thirds.index(h)), h) for h in order]))
        for order in orders
    }
    assert len(scores) == 1


def test_hard_votes_are_counted_as_before() -> None:
    found = rated(ORR, [("1", True), ("2", False), ("3", False)])
    assert found.estimate == wilson(1, 3)
    assert found.bounds == (1 / 3, 1 / 3)


def test_a_hard_row_among_soft_ones_is_one_or_nothing() -> None:
    found = rated(ORR, [("1", True), ("2", 0.5), ("3", False)])
    assert found.estimate is not None
    assert (found.estimate.value, found.bounds) == (0.5, (0.5, 0.5))


def test_a_soft_score_can_be_written_and_read() -> None:
    found = rated(ORR, [("1", 1 / 3), ("1", 2 / 3), ("2", 0.0)])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Score) == found
    assert json.loads(msgspec.json.encode(found))["estimate"]["value"] == found.estimate.value


# -- the interval of a mean

CLUSTERS = st.lists(
    st.integers(1, 5).flatmap(lambda k: st.tuples(st.integers(0, 12 * k), st.just(k))),
    min_size=1,
    max_size=30,
)


@given(CLUSTERS)
def test_a_mean_lies_within_its_interval_which_lies_within_0_and_1(prompts) -> None:
    totals, sizes = zip(*((s / 12, k) for s, k in prompts), strict=True)
    found = clustered_mean(totals, sizes)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    exact = Fraction(sum(s for s, _ in prompts), 12 * sum(sizes))
    assert found.value == pytest.approx(float(exact), abs=1e-12)


@given(CLUSTERS)
def test_the_opposite_votes_mirror_the_interval(prompts) -> None:
    totals, sizes = zip(*((s / 12, k) for s, k in prompts), strict=True)
    here = clustered_mean(totals, sizes)
    there = clustered_mean([k - s for s, k in zip(totals, sizes, strict=True)], sizes)
    assert np.allclose([here.low, here.high], [1 - there.high, 1 - there.low], atol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.just(4)), min_size=1, max_size=30))
def test_with_whole_votes_of_several_rollouts_it_is_the_interval_of_a_rate(prompts) -> None:
    hits, sizes = zip(*prompts, strict=True)
    mean, rate = clustered_mean([float(h) for h in hits], sizes), clustered_proportion(hits, sizes)
    assert mean.method == rate.method
    got, expected = (mean.value, mean.low, mean.high), (rate.value, rate.low, rate.high)
    assert np.allclose(got, expected, atol=1e-9)


@given(st.lists(st.booleans(), min_size=2, max_size=40))
def test_with_whole_votes_of_one_rollout_it_is_no_shorter_than_wilson(votes) -> None:
    mean = clustered_mean([float(v) for v in votes], [1] * len(votes))
    rate = wilson(sum(votes), len(votes))
    assert mean.value == rate.value
    if 0 < sum(votes) < len(votes):
        assert mean.low <= rate.low + 1e-12
        assert mean.high >= rate.high - 1e-12


def test_all_or_nothing_is_exact_on_the_prompts() -> None:
    assert clustered_mean([0.0, 0.0, 0.0], [2, 2, 1]).high == clopper_pearson(0, 3).high
    assert clustered_mean([2.0, 2.0, 1.0], [2, 2, 1]).low == clopper_pearson(3, 3).low


def test_one_prompt_says_nothing_of_the_spread() -> None:
    found = clustered_mean([1.5], [4])
    assert (found.value, found.low, found.high) == (0.375, 0.0, 1.0)
    assert found.method == "one prompt says nothing"


def test_prompts_that_agree_exactly_claim_no_certainty() -> None:
    agreeing = clustered_mean([0.5] * 20, [1] * 20)
    assert agreeing.high - agreeing.low >= wilson(10, 20).high - wilson(10, 20).low


def test_the_order_of_prompts_does_not_matter() -> None:
    rows = [(1 / 3, 1), (2 / 3, 2), (0.1, 1), (1.0, 3)]
    found = []
    for order in permutations(rows):
        totals, sizes = zip(*order, strict=True)
        each = clustered_mean(totals, sizes)
        found.append((each.value, each.low, each.high))
    assert np.allclose(found, found[0], atol=1e-12)


def test_prompts_without_rollouts_are_ignored() -> None:
    assert clustered_mean([0.5, 0.0, 1.0], [1, 0, 2]) == clustered_mean([0.5, 1.0], [1, 2])


@pytest.mark.parametrize(
    ("totals", "sizes"),
    [
        ([-0.1], [1]),
        ([1.1], [1]),
        ([float("nan")], [1]),
        ([float("inf")], [1]),
        ([0.5, 0.5], [1]),
        ([[0.5]], [[1]]),
        ([0.0], [-1]),
        ([], []),
        ([0.0], [0]),
    ],
)
def test_an_impossible_mean_is_an_error(totals, sizes) -> None:
    with pytest.raises(StatisticsError):
        clustered_mean(totals, sizes)


@pytest.mark.slow
def test_the_interval_of_soft_votes_covers_their_mean() -> None:
    """Four correlated judges vote; the coverage of the share's mean, by simulation."""
    rng = np.random.default_rng(20261122)
    for prompts, rollouts, rate in product((60, 200), (1, 4), (0.05, 0.3)):
        hits, runs = 0, 600
        for _ in range(runs):
            # Each prompt has its own chance; each judge errs on its own on one vote in ten.
            chance = rng.beta(rate * 2, (1 - rate) * 2, (prompts, 1, 1))
            truth = rng.random((prompts, rollouts, 1)) < chance
            wrong = rng.random((prompts, rollouts, 4)) < 0.1
            shares = (truth ^ wrong).mean(axis=2)
            mean = rate * 0.9 + (1 - rate) * 0.1
            found = clustered_mean(shares.sum(axis=1), [rollouts] * prompts)
            hits += found.low <= mean <= found.high
        assert hits / runs >= 0.925, (prompts, rollouts, rate, hits / runs)


def test_bounds_take_sums_of_soft_votes() -> None:
    assert bounds(1.5, 2, 2) == (1.5 / 4, 3.5 / 4)
    for successes, n in ((2.5, 2), (-0.5, 2), (float("nan"), 2)):
        with pytest.raises(StatisticsError):
            bounds(successes, n, 1)
