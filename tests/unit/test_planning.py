"""The arithmetic of a plan: totals from samples, speeds from pilots, lengths under other limits."""

from typing import Any

import numpy as np
import pytest

from tseval.errors import StatisticsError
from tseval.pace import Moment, Pace, Range, duration, pilot_pace
from tseval.planning import (
    Length,
    Limits,
    added,
    bounded,
    call_seconds,
    guessed,
    length_under,
    total_tokens,
)
from tseval.types import Rollout

OWN = Limits(trace=100, answer=50)


def rollout(**more: Any) -> Rollout:
    more = {"answer": "x", "trace_tokens": 0, "answer_tokens": 10, **more}
    return Rollout(key="k", **more)


def looked_at(*lengths: int) -> list[list[Length]]:
    return [[Length(low=each, high=each)] for each in lengths]


def test_what_was_not_cut_off_is_as_long_under_a_larger_limit() -> None:
    found = length_under(rollout(), OWN, Limits(trace=900, answer=900))
    assert found == Length(low=10, high=10, truncated=False)


def test_a_truncated_answer_counts_at_its_limit() -> None:
    cut = rollout(answer_tokens=50, finish="length")
    assert length_under(cut, OWN, OWN) == Length(low=50, high=50, truncated=True)


def test_a_truncated_answer_may_go_on_to_a_larger_limit() -> None:
    cut = rollout(answer_tokens=50, finish="length")
    assert length_under(cut, OWN, Limits(trace=100, answer=80)) == Length(low=50, high=80)


def test_a_smaller_limit_cuts_what_was_longer() -> None:
    found = length_under(rollout(answer_tokens=40), OWN, Limits(trace=100, answer=30))
    assert found == Length(low=30, high=30, truncated=True)


def test_a_trace_that_its_budget_closed_may_go_on_to_a_larger_budget() -> None:
    forced = rollout(thought=True, trace_tokens=100, closed_by="budget")
    found = length_under(forced, OWN, Limits(trace=160, answer=50))
    assert found == Length(low=110, high=170)


def test_a_trace_that_never_closed_has_no_answer_to_go_on() -> None:
    unclosed = rollout(
        answer=None, answer_tokens=None, thought=True, trace_tokens=100, finish="length"
    )
    assert length_under(unclosed, OWN, OWN) == Length(low=100, high=100)
    assert length_under(unclosed, OWN, Limits(trace=130, answer=50)) == Length(low=100, high=130)


def test_a_server_that_counts_no_tokens_says_nothing() -> None:
    assert length_under(rollout(trace_tokens=None), OWN, OWN) is None
    assert length_under(rollout(answer_tokens=None), OWN, OWN) is None


def test_a_total_is_worked_out_as_by_hand() -> None:
    # Mean 20, standard deviation 10, of 2 in 10: variance of the mean (1 - 0.3) * 100 / 3; the
    # t quantile of two degrees of freedom is 4.3027.
    found = total_tokens(looked_at(10, 20, 30), 10, 1000)
    half = 4.302653 * (0.7 * 100 / 3) ** 0.5
    assert found.value == pytest.approx(200)
    assert found.low == 60  # what was looked at: less can it not be
    assert found.high == pytest.approx(200 * np.exp(half / 20), rel=1e-5)


def test_where_every_prompt_was_looked_at_nothing_is_left_to_chance() -> None:
    found = total_tokens(looked_at(10, 20, 30), 3, 1000)
    assert (found.value, found.low, found.high) == (60, 60, 60)


def test_a_run_that_draws_anew_may_differ_from_what_was_looked_at() -> None:
    # Three of three, but drawn again: twice the variance of the mean of three.
    found = total_tokens(looked_at(100, 120, 140), 3, 1000, anew=3)
    half = 4.302653 * (2 * 400 / 3) ** 0.5
    assert found.low == pytest.approx(3 * (120 - half), rel=1e-5)
    assert found.high > 3 * (120 + half)


def test_one_prompt_says_nothing_about_the_others() -> None:
    found = total_tokens(looked_at(40), 10, 100)
    assert (found.value, found.low) == (400, 40)
    assert found.high == pytest.approx(40 + 9 * 100)


def test_where_all_have_one_length_the_others_may_still_differ() -> None:
    # By hand: with 8 of 8 alike, up to 1 - 0.025^(1/8) = 0.369 of the others may not be.
    found = total_tokens(looked_at(*[100] * 8), 80, 100)
    assert found.value == found.high == 8000
    assert found.low == pytest.approx(8000 * (1 - 0.9 * 0.36942), rel=1e-4)


def test_nothing_is_longer_than_the_limit_allows() -> None:
    assert total_tokens(looked_at(1, 100), 1000, 100).high == 100_000


def test_rollouts_of_one_prompt_count_as_one() -> None:
    alike = [[Length(low=x, high=x)] * 50 for x in (10, 20, 30)]
    single = total_tokens(looked_at(10, 20, 30), 10_000, 1000, anew=100)
    many = total_tokens(alike, 10_000, 1000, anew=100)
    assert many == single


def test_rollouts_that_were_cut_bound_the_total_and_give_no_value() -> None:
    # Lower ends 10, 20 and 30, upper ends 10, 100 and 100; of ten rollouts, with seven unseen.
    cut = [[Length(low=x, high=y, cut=x != y)] for x, y in ((10, 10), (20, 100), (30, 100))]
    found = total_tokens(cut, 10, 100)
    assert found.value is None
    assert found.low == 60  # as if 10, 20 and 30 were their lengths: what was seen
    assert found.high == 1000
    every = total_tokens(cut, 3, 100)
    assert (every.low, every.value, every.high) == (60, None, 210)


def test_a_cut_rollout_is_no_sample_of_the_short_ones() -> None:
    # Two of eight had ended after 5 tokens, when the others were at 50 on the way to 1,000.
    cut = [[Length(low=5, high=5)]] * 2 + [[Length(low=50, high=1000, cut=True)]] * 6
    found = total_tokens(cut, 8, 1000)
    assert (found.low, found.high) == (310, 6010)
    assert found.low <= 2 * 5 + 6 * 1000 <= found.high


def test_nothing_looked_at_is_no_estimate() -> None:
    with pytest.raises(StatisticsError, match="no rollout was looked at"):
        total_tokens([[]], 5, 10)


@pytest.mark.parametrize(("n", "least"), [(8, 0.91), (32, 0.92)])
def test_intervals_hold_the_totals_of_skewed_lengths_about_as_often_as_they_say(
    n: int, least: float
) -> None:
    random = np.random.default_rng(n)
    held = 0
    for _ in range(600):
        lengths = np.maximum(1, random.lognormal(5, 0.8, 200)).astype(int)
        found = total_tokens(looked_at(*map(int, lengths[:n])), 200, 10**6)
        held += found.low <= lengths.sum() <= found.high
    assert least <= held / 600 <= 0.99


def test_independent_half_widths_add_as_squares() -> None:
    parts = [Range(value=10, low=7, high=14), Range(value=20, low=16, high=23)]
    assert added(parts) == Range(value=30, low=25, high=35)


def test_half_widths_from_the_same_rollouts_add_in_full() -> None:
    parts = [Range(value=10, low=7, high=14), Range(value=20, low=16, high=23)]
    assert added([], parts) == Range(value=30, low=23, high=37)


def test_a_total_with_an_unknown_part_is_only_bounded() -> None:
    found = added([Range(value=10, low=7, high=14), bounded(5, 100)])
    assert found == Range(value=None, low=7, high=514)


def test_lengths_of_other_benchmarks_are_taken_with_a_factor_of_two() -> None:
    found = guessed(Range(value=100, low=80, high=140), 250)
    assert found == Range(value=100, low=40, high=250)


def test_a_bound_of_other_benchmarks_stays_a_bound() -> None:
    found = guessed(Range(value=None, low=100, high=200), 350)
    assert found == Range(value=None, low=50, high=350)


def moments(*points: tuple[float, int, int]) -> list[Moment]:
    return [Moment(seconds=s, tokens=t, finished=f) for s, t, f in points]


def test_speed_is_that_of_the_full_pilot_and_its_tail_is_spent_once() -> None:
    # 10 rollouts; 100 tokens a second until half are done, then a tail of 4 s for 100 tokens.
    seen = moments((0, 0, 0), (2, 200, 2), (4, 400, 5), (8, 500, 10))
    found = pilot_pace(seen, 10, loading=3, swapping=0, wanted=10)
    assert found is not None
    assert found.tokens_per_second.value == 100
    assert found.fixed_seconds == pytest.approx(3 + 8 - 5)
    assert found.tokens_per_second.low == pytest.approx(0.85 * 500 / 8)
    assert found.tokens_per_second.high == pytest.approx(115)


def test_a_pilot_smaller_than_the_runs_batches_bounds_the_speed_from_below() -> None:
    seen = moments((0, 0, 0), (4, 400, 5), (5, 500, 10))
    found = pilot_pace(seen, 10, loading=0, swapping=0, wanted=40)
    assert found is not None
    assert (found.concurrent, found.wanted) == (10, 40)
    assert found.tokens_per_second.low == pytest.approx(85)
    assert found.tokens_per_second.value == pytest.approx(100 * 4 ** (1 / 3))
    assert found.tokens_per_second.high == pytest.approx(4 * 115)
    # What passes whatever the size is of the pilot's own speed.
    assert found.fixed_seconds == 0


def test_swaps_of_a_pilot_are_spent_once() -> None:
    seen = moments((0, 0, 0), (10, 400, 5), (15, 500, 10))
    found = pilot_pace(seen, 10, loading=1, swapping=5, wanted=10)
    assert found is not None
    assert found.tokens_per_second.value == 50
    assert found.fixed_seconds == pytest.approx(6)


def test_a_pilot_without_tokens_has_no_speed() -> None:
    assert pilot_pace(moments((0, 0, 0), (3, 0, 4)), 4, 0, 0, 4) is None
    assert pilot_pace([], 4, 0, 0, 4) is None


def pace(value: float, low: float, high: float) -> Pace:
    return Pace(
        tokens_per_second=Range(value=value, low=low, high=high),
        fixed_seconds=0,
        source="pilot",
        concurrent=1,
        wanted=1,
    )


def test_errors_of_tokens_and_speed_add_as_squares() -> None:
    # 30% more tokens, and 40% slower: by half, not by 82%.
    found = duration(Range(value=1000, low=1000, high=1300), pace(10, 10 / 1.4, 10))
    assert found.value == 100
    assert found.low == 100
    assert found.high == pytest.approx(150)


def test_tokens_that_are_only_bounded_bound_the_time() -> None:
    found = duration(Range(value=None, low=0, high=900), pace(10, 9, 12))
    assert (found.value, found.low, found.high) == (None, 0, 100)


def test_a_call_without_tokens_takes_what_it_was_waited_for_and_no_longer_with_more() -> None:
    # 20 calls of 8 prompts were waited for 4 s each: 0.5 s of the machine a call.
    same = call_seconds(20, 80_000, 8, 8)
    assert same == Range(value=0.5, low=0.25, high=1.0)
    more = call_seconds(20, 80_000, 8, 64)
    assert more is not None
    assert more.value == pytest.approx(0.25)
    assert (more.low, more.high) == (0.5 / 8 / 2, 1.0)
    assert call_seconds(0, 0, 8, 8) is None
    assert call_seconds(5, 100, 0, 8) is None
