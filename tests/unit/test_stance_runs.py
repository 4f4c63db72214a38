"""Runs, transitions and shams of labelled traces: worked by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tseval.probes import (
    Run,
    Sham,
    Transition,
    ordinal_alpha,
    runs_of,
    sham_for,
    stance_agreement,
    transitions,
)

LABELS = st.lists(st.sampled_from([-1, 0, 1]), max_size=30)


def change(before: int, after: int, pre: int, post: int) -> Transition:
    return Transition(before=before, after=after, pre=pre, post=post)


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ([], []),
        ([0, 0], [(0, 0, 2)]),
        ([0, 0, 1, 0, 1, -1, 0], [(0, 0, 2), (1, 2, 5), (-1, 5, 7)]),
        ([-1, 0, 0, -1], [(-1, 0, 4)]),
        ([1, -1, 1], [(1, 0, 1), (-1, 1, 2), (1, 2, 3)]),
    ],
)
def test_zeros_carry_the_stance_before_them(labels: list[int], runs: list[Run]) -> None:
    assert list(runs_of(labels)) == runs


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        # Leading zeros are a run of their own, and no stance to turn from.
        ([0, 1, 1], []),
        ([0, 0, 1, 0, -1, 0], [change(1, -1, 4, 6)]),
        # Zeros between two stances belong to the first.
        ([1, 0, 0, -1], [change(1, -1, 3, 4)]),
        # The point after one change is the point before the next.
        ([-1, 1, 1, -1], [change(-1, 1, 1, 3), change(1, -1, 3, 4)]),
        ([1, 0, 1], []),
    ],
)
def test_transitions_lie_between_runs_of_opposite_stance(
    labels: list[int], found: list[Transition]
) -> None:
    assert list(transitions(labels)) == found


def test_runs_that_are_too_short_make_no_transition() -> None:
    labels = [1, -1, -1, 1, 1, 1]
    assert len(transitions(labels)) == 2
    assert transitions(labels, least_before=2) == (change(-1, 1, 3, 6),)
    assert transitions(labels, least_after=3) == (change(-1, 1, 3, 6),)
    assert transitions(labels, least_after=4) == ()


def test_flips_are_of_neighbouring_chunks_and_carry_nothing() -> None:
    labels = [1, 0, -1, 1, 1, -1]
    assert transitions(labels, mode="flip") == (change(-1, 1, 3, 4), change(1, -1, 5, 6))
    assert [t.pre for t in transitions(labels)] == [2, 3, 5]


@given(LABELS)
def test_runs_cover_every_chunk_once_and_neighbours_differ(labels: list[int]) -> None:
    runs = runs_of(labels)
    assert [i for run in runs for i in range(run.start, run.end)] == list(range(len(labels)))
    assert all(one.stance != other.stance for one, other in pairwise(runs))
    assert all(0 < t.pre < t.post <= len(labels) for t in transitions(labels))
    # Every flip is a transition; carrying only adds.
    flips = {t.pre for t in transitions(labels, mode="flip")}
    assert flips <= {t.pre for t in transitions(labels)}


def test_a_sham_lies_in_the_run_before_the_change_and_is_as_long() -> None:
    labels = [1, 1, 1, 1, -1, -1, -1, -1]
    ends = [100, 200, 300, 400, 500, 600, 700, 800]
    # From chunk 4 to 8: 400 characters. In the first run, behind its first chunk: at most 300.
    (turn,) = transitions(labels)
    assert sham_for(turn, labels, ends) == Sham(stance=1, pre=1, post=4, ratio=0.75)


def test_a_sham_is_sought_elsewhere_where_the_run_before_is_too_short() -> None:
    labels = [1, -1, -1, -1, -1]
    ends = [100, 200, 300, 400, 500]
    (turn,) = transitions(labels)
    # 400 characters; in the run behind at most 300, from behind its first chunk to its end.
    assert sham_for(turn, labels, ends) == Sham(stance=-1, pre=2, post=5, ratio=0.75)


def test_of_equal_shams_the_nearest_is_taken_and_none_twice() -> None:
    labels = [-1, 1, -1, -1, -1, -1]
    ends = [100, 200, 300, 400, 500, 600]
    turn = transitions(labels)[0]  # 100 characters, from 1 to 2
    first = sham_for(turn, labels, ends)
    assert first == Sham(stance=-1, pre=3, post=4, ratio=1.0)
    second = sham_for(turn, labels, ends, taken=frozenset({(3, 4)}))
    assert second == Sham(stance=-1, pre=4, post=5, ratio=1.0)


def test_there_is_no_sham_beyond_a_factor_of_two_nor_in_runs_of_one_chunk_or_no_stance() -> None:
    turn = change(1, -1, 1, 2)
    assert sham_for(turn, [1, -1, 1], [100, 200, 300]) is None
    assert sham_for(turn, [0, 0, 0, 1, -1], [100, 200, 300, 400, 500]) is None
    long = change(1, -1, 1, 2)
    assert sham_for(long, [1, 1, 1], [10, 20, 30], length=41) is None
    assert sham_for(long, [1, 1, 1], [10, 20, 30], length=40) is not None


@given(LABELS, st.integers(1, 400))
def test_a_sham_never_crosses_a_change(labels: list[int], length: int) -> None:
    ends = [100 * (i + 1) for i in range(len(labels))]
    sham = sham_for(change(1, -1, 1, 2), labels, ends, length=length)
    if sham is not None:
        run = next(r for r in runs_of(labels) if r.start < sham.pre <= r.end)
        assert run.stance == sham.stance != 0
        assert run.start + 1 <= sham.pre < sham.post <= run.end
        assert 0.5 <= sham.ratio <= 2.0


def test_ordinal_alpha_is_that_of_a_table_worked_by_hand() -> None:
    # Two judges, four chunks. n(-1)=3, n(0)=2, n(1)=3; distances: (-1,0) and (0,1): 2.5^2 = 6.25,
    # (-1,1): (8 - 3)^2 = 25. Disagreements: one (-1,0), one (0,1).
    ratings = np.array([[-1, -1], [-1, 0], [0, 1], [1, 1]])
    seen = 2 * 6.25 + 2 * 6.25
    chance = 2 * (3 * 2 * 6.25 + 2 * 3 * 6.25 + 3 * 3 * 25) / 7
    assert ordinal_alpha(ratings) == pytest.approx(1 - seen / chance)


def test_ordinal_alpha_is_one_for_agreement_and_about_zero_for_chance() -> None:
    rng = np.random.default_rng(1)
    same = rng.integers(-1, 2, size=(200, 1)).repeat(3, axis=1)
    assert ordinal_alpha(same) == pytest.approx(1.0)
    chance = ordinal_alpha(rng.integers(-1, 2, size=(4000, 3)))
    assert chance is not None
    assert abs(chance) < 0.05
    assert ordinal_alpha(np.zeros((5, 2), dtype=int)) is None


def test_near_duplicates_are_drawn_as_one_where_stance_judges_are_compared() -> None:
    rng = np.random.default_rng(4)
    same, other = (1, 1, -1, -1), (1, 1, 1, 1)
    traces = [[same, same if n < 6 else other] for n in range(12)]
    apart = stance_agreement(traces, list(range(12)), rng, 400).shared
    together = stance_agreement(traces, [n // 6 for n in range(12)], rng, 400).shared
    assert apart is not None
    assert together is not None
    assert apart.value == together.value
    assert together.high - together.low > 1.3 * (apart.high - apart.low)


def test_judges_that_agree_on_chunks_may_disagree_on_transitions() -> None:
    same = (1, 1, 1, 1, -1, -1)
    late = (1, 1, 1, 1, 1, -1)  # one chunk later: still the same transition
    none = (1, 1, 1, 1, 1, 1)
    rng = np.random.default_rng(2)
    near = stance_agreement([[same, late]] * 12, list(range(12)), rng, 50)
    far = stance_agreement([[same, none]] * 12, list(range(12)), rng, 50)
    assert near.shared is not None
    assert far.shared is not None
    assert (near.shared.value, far.shared.value) == (1.0, 0.0)
    assert (near.chunks, near.traces) == (72, 12)
    assert near.alpha is not None
    assert near.alpha.low <= near.alpha.value <= near.alpha.high
