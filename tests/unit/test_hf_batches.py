"""Batches are formed by what they cost; no row is lost, and limits hold."""

import random
from itertools import product

import pytest

from tseval.models.hf.batches import BatchLimits, admit, passes, surplus


def limits(**changed: int) -> BatchLimits:
    values = {"tokens": 10**6, "rows": 100, "step_tokens": 1000, "pass_tokens": 10**6}
    return BatchLimits(**{**values, "pass_cost": 100, **changed})


def cost(batches: list[list[int]], of: BatchLimits) -> int:
    return sum(of.step_tokens + max(batch) * len(batch) for batch in batches)


def cheapest(active: list[int], waiting: list[int], of: BatchLimits) -> int:
    """Cost of the best partition, by trying all that are contiguous in length."""
    waiting = sorted(waiting, reverse=True)
    found = []
    for cuts in product((False, True), repeat=len(waiting) - 1):
        batches = [[waiting[0]]]
        for length, cut in zip(waiting[1:], cuts, strict=True):
            if cut:
                batches.append([length])
            else:
                batches[-1].append(length)
        options = [batches] if not active else [[*batches, active]]
        for n in range(len(batches)) if active else ():
            joined = [*active, *batches[n]]
            options.append([*batches[:n], joined, *batches[n + 1 :]])
        found += [
            cost(option, of)
            for option in options
            if all(of.fits(max(batch), len(batch)) for batch in option)
        ]
    return min(found)


@pytest.mark.parametrize("running", [False, True])
def test_what_joins_is_part_of_the_cheapest_partition(running: bool) -> None:
    generator = random.Random(3)
    for _ in range(150):
        of = limits(
            step_tokens=generator.choice([0, 50, 300, 2000]),
            tokens=generator.choice([700, 3000, 10**6]),
            rows=generator.choice([2, 3, 50]),
        )
        active = [generator.randint(1, 500)] if running else []
        waiting = [generator.randint(1, 500) for _ in range(generator.randint(1, 7))]
        best = cheapest(active, waiting, of)
        batches = []
        while waiting or active:
            joining = admit(active, waiting, of)
            batches.append([*active, *(waiting[n] for n in joining)])
            waiting = [length for n, length in enumerate(waiting) if n not in joining]
            active = []
        assert cost(batches, of) == best


def test_short_rows_do_not_join_a_long_one_when_they_fill_a_batch_of_their_own() -> None:
    waiting = [50] * 30 + [2000]
    assert admit([], waiting, limits(step_tokens=12000)) == [30]
    # A few of them are cheaper to pad than to run apart.
    assert len(admit([], [50, 50, 2000], limits(step_tokens=12000))) == 3


def test_a_row_longer_than_the_whole_budget_runs_alone() -> None:
    assert admit([], [5000, 40, 40], limits(tokens=1000, step_tokens=10**6)) == [0]
    assert admit([5000], [40, 40], limits(tokens=1000, step_tokens=10**6)) == []


def test_room_is_left_for_growth() -> None:
    # Twelve rows of 20 fit into 240 tokens, but only two of them can grow by 64.
    assert len(admit([], [20] * 12, limits(tokens=240))) == 2


def test_one_row_at_a_time_where_batches_are_switched_off() -> None:
    assert admit([], [10, 30, 20], limits(rows=1)) == [1]
    assert admit([30], [10, 20], limits(rows=1)) == []
    assert passes([10, 30, 20], limits(rows=1)) == [[1], [2], [0]]


def test_nothing_waits_nothing_joins() -> None:
    assert admit([], [], limits()) == []
    assert passes([], limits()) == []


def test_rows_that_grew_over_the_budget_give_way_from_the_end() -> None:
    assert surplus([100, 100, 100], limits(tokens=300)) == 0
    assert surplus([100, 100, 101], limits(tokens=300)) == 1
    assert surplus([400, 10, 10], limits(tokens=300)) == 2
    assert surplus([400], limits(tokens=300)) == 0


def test_passes_hold_every_row_once_and_keep_the_budget() -> None:
    generator = random.Random(4)
    lengths = [generator.randint(1, 900) for _ in range(80)]
    found = passes(lengths, limits(pass_tokens=2000, pass_cost=150))
    assert sorted(n for each in found for n in each) == list(range(80))
    for each in found:
        assert len(each) == 1 or max(lengths[n] for n in each) * len(each) <= 2000
    padding = sum(max(lengths[n] for n in each) - lengths[m] for each in found for m in each)
    assert padding < 0.25 * sum(lengths)
    assert passes([3000], limits(pass_tokens=2000)) == [[0]]


def test_limits_are_halved_after_memory_ran_out() -> None:
    half = limits(tokens=101, rows=1, pass_tokens=50).halved()
    assert (half.tokens, half.rows, half.pass_tokens) == (50, 1, 25)
