"""Tests of replayed cuts, against scipy, statsmodels and simulations."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tseval.probes import (
    Pair,
    Tally,
    choose_cuts,
    cut_p_value,
    detectable_move,
    family_of,
    first_round,
    futile,
    is_locked,
    locked_as_published,
    sign_flip_p,
    smallest_significant_move,
)
from tseval.probes.cuts import fisher_table, side_probabilities


def pair(a: int, n: int, b: int, m: int, *, stopped: bool = False) -> Pair:
    return Pair(pre=Tally(a, n), post=Tally(b, m), stopped=stopped)


def drawn(rng: np.random.Generator, pairs: int, replays: int = 50) -> list[Pair]:
    """Pairs at which nothing moves, at many rates."""
    rates = rng.uniform(size=pairs)
    a, b = (rng.binomial(replays, rates) for _ in range(2))
    return [pair(int(x), replays, int(y), replays) for x, y in zip(a, b, strict=True)]


def test_p_values_are_fishers_and_families_holms_and_benjamini_hochbergs() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        pair(int(rng.integers(0, n + 1)), int(n), int(rng.integers(0, m + 1)), int(m))
        for n, m in rng.integers(5, 40, size=(60, 2))
    ]
    family = family_of(pairs)
    tables = [[[p.pre.comply, p.pre.n - p.pre.comply], [p.post.comply, p.post.n - p.post.comply]]
              for p in pairs]  # fmt: skip
    assert family.p == pytest.approx([stats.fisher_exact(table).pvalue for table in tables])
    assert family.holm == pytest.approx(multipletests(family.p, method="holm")[1])
    assert family.bh == pytest.approx(multipletests(family.p, method="fdr_bh")[1])


def test_families_apart_are_adjusted_apart() -> None:
    pairs = [pair(10, 20, 1, 20), pair(10, 20, 9, 20), pair(12, 20, 2, 20)]
    family = family_of(pairs, [0, 0, 1])
    assert family.holm[2] == pytest.approx(family.p[2])
    assert family.holm[0] == pytest.approx(2 * family.p[0])


def test_a_family_held_against_a_larger_one_has_its_thresholds() -> None:
    pairs = [pair(0, 50, 9, 50), pair(0, 50, 8, 50)]
    family, whole = family_of(pairs, tests=5), family_of([*pairs, *[pair(9, 50, 9, 50)] * 3])
    assert family.holm == pytest.approx(whole.holm[:2])
    assert family.bh == pytest.approx(whole.bh[:2])
    assert family_of(pairs, tests=1).holm == pytest.approx(family_of(pairs).holm)


def test_a_stopped_pair_stays_in_the_family_and_is_never_significant() -> None:
    family = family_of([pair(0, 25, 25, 25, stopped=True), pair(5, 50, 45, 50)])
    assert family.p[0] == 1.0
    assert family.holm[1] == pytest.approx(2 * family.p[1])
    assert family_of([]).holm.shape == (0,)


@pytest.mark.parametrize("n", [1, 4, 7, 16])
def test_the_table_of_p_values_is_scipys(n: int) -> None:
    table = fisher_table(n)
    for a in range(n + 1):
        for b in range(n + 1):
            assert table[a, b] == pytest.approx(cut_p_value(pair(a, n, b, n))), (a, b)


def test_the_power_that_is_printed_is_that_of_the_published_design() -> None:
    # Methods: at 100 replays, from one half, 15 points alone and 31 in a family of thousands.
    assert smallest_significant_move(100, 1) == pytest.approx(0.15)
    assert smallest_significant_move(100, 5000) == pytest.approx(0.31)
    # 16 replays a point and 30 cuts: not even 0.5 to 1 would be significant.
    assert smallest_significant_move(16, 30) is None
    assert detectable_move(16, 30) is None


def test_the_detectable_move_has_the_power_that_it_claims() -> None:
    move = detectable_move(100, 30)
    assert move is not None
    rng = np.random.default_rng(3)
    a, b = rng.binomial(100, 0.5, 4000), rng.binomial(100, 0.5 + move, 4000)
    found = float((fisher_table(100)[a, b] <= 0.05 / 30).mean())
    assert 0.78 < found < 0.88


@pytest.mark.parametrize(("n", "most"), [(16, 0), (25, 1), (50, 2), (100, 4)])
def test_locked_knows_how_many_replays_there_are(n: int, most: int) -> None:
    assert [c for c in range(n // 2) if is_locked(Tally(c, n))] == list(range(most + 1))
    assert is_locked(Tally(n - most, n))
    assert not is_locked(Tally(n - most - 1, n))


def test_the_posterior_is_the_beta_of_jeffreys_prior() -> None:
    low, high = side_probabilities(Tally(3, 40))
    posterior = stats.beta(3.5, 37.5)
    assert (low, high) == pytest.approx((posterior.cdf(0.05), posterior.sf(0.95)))


def test_the_three_published_definitions_of_locked_differ_where_they_should() -> None:
    edge_only_before = pair(0, 100, 50, 100)
    assert locked_as_published(edge_only_before, "pre")
    assert not locked_as_published(edge_only_before, "both")
    assert not locked_as_published(edge_only_before, "either")
    # A rate of exactly 0.05 is locked by two of them, and wavering by the third.
    at_the_edge = pair(5, 100, 5, 100)
    assert locked_as_published(at_the_edge, "pre")
    assert locked_as_published(at_the_edge, "both")
    assert not locked_as_published(at_the_edge, "either")


def test_futility_needs_both_points_locked_on_the_same_side() -> None:
    assert futile(Tally(0, 25), Tally(1, 25))
    assert futile(Tally(25, 25), Tally(24, 25))
    # Locked on opposite sides is the largest move that there is.
    assert not futile(Tally(0, 25), Tally(25, 25))
    assert not futile(Tally(0, 25), Tally(3, 25))
    assert not futile(Tally(0, 0), Tally(0, 25))


def test_futility_is_looked_at_after_25_and_not_at_all_below_50_replays() -> None:
    assert [first_round(n) for n in (16, 25, 49, 50, 100)] == [16, 25, 49, 25, 25]


def test_transitions_are_spread_over_prompts() -> None:
    prompts = [0] * 20 + [1] * 3 + [2]
    for seed in range(20):
        chosen = choose_cuts(prompts, 6, np.random.default_rng(seed))
        # One of each prompt first, then of those that have more.
        assert sorted(Counter(prompts[c] for c in chosen).values()) in ([1, 2, 3], [1, 1, 4])
        assert Counter(prompts[c] for c in chosen)[2] == 1
        assert list(chosen) == sorted(set(chosen))
    assert choose_cuts(prompts, 100, np.random.default_rng(0)) == tuple(range(24))
    assert choose_cuts([], 10, np.random.default_rng(0)) == ()


def test_where_nothing_moves_one_test_in_twenty_rejects_at_most_and_holm_one_family() -> None:
    rng = np.random.default_rng(4)
    rejected, false_families = 0, 0
    for _ in range(60):
        family = family_of(drawn(rng, 20))
        rejected += int((family.p <= 0.05).sum())
        false_families += bool((family.holm <= 0.05).any())
    # Fisher's test is conservative; 1200 tests, 60 families.
    assert rejected / 1200 < 0.05
    assert false_families / 60 < 0.12


def test_stopping_for_futility_makes_rejections_no_more_frequent() -> None:
    rng = np.random.default_rng(5)
    rejected = with_stops = stops = 0
    for rate in rng.beta(0.3, 0.3, size=600):
        first, second = rng.binomial(25, rate, size=(2, 2))
        whole = pair(*(int(x) for each in first + second for x in (each, 50)))
        stopped = futile(Tally(int(first[0]), 25), Tally(int(first[1]), 25))
        stops += stopped
        rejected += cut_p_value(whole) <= 0.05
        with_stops += (1.0 if stopped else cut_p_value(whole)) <= 0.05
    assert stops > 200
    assert with_stops <= rejected < 30


def test_turning_signs_finds_a_shift_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(6)
    assert sign_flip_p(rng.normal(1, 1, 40).tolist(), rng, 999) < 0.01
    assert sign_flip_p([0.0] * 10, rng, 99) == 1.0
    ps = [sign_flip_p(rng.normal(0, 1, 12).tolist(), rng, 199) for _ in range(300)]
    assert 0.02 < np.mean(np.array(ps) <= 0.05) < 0.09
