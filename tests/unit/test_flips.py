"""What thinking changes: tables by hand, halves by enumeration, tests of the right size."""

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact
from statsmodels.stats.multitest import multipletests

from tseval.errors import StatisticsError
from tseval.measurements import Number
from tseval.probes import (
    Flips,
    LabelledAnswers,
    compare_halves,
    fisher_by_prompt,
    flip_results,
    flip_table,
    majority_label,
    permutation_tests,
    smallest_p,
)


def answers(refusals: Any, labelled: Any = 8) -> LabelledAnswers:
    k = np.asarray(refusals, dtype=np.int64)
    return LabelledAnswers(k, np.broadcast_to(np.asarray(labelled, dtype=np.int64), k.shape).copy())


# -- labels and their table


def test_a_tie_is_no_label_and_complies_in_the_paper() -> None:
    given = answers([8, 5, 4, 3, 0, 0], [8, 8, 8, 8, 8, 0])
    assert majority_label(given).tolist() == [1, 1, -1, 0, 0, -1]
    # Without a single label there is none under either rule.
    assert majority_label(given, "comply").tolist() == [1, 1, 0, 0, 0, -1]


def test_the_table_counts_from_no_thinking_to_thinking() -> None:
    without = np.array([1, 1, 1, 0, 0, 0, 0, -1, 1])
    thinking = np.array([1, 0, 0, 1, 0, 0, 0, 1, -1])
    table = flip_table(without, thinking)
    assert (table.rr, table.rc, table.cr, table.cc, table.undecided) == (1, 2, 1, 3, 2)
    assert table.labelled == 7


# -- halves


def brute(k: int, n: int, k2: int, n2: int, h: int, *, same: bool) -> list[float]:
    """Count over every way to choose the halves."""
    one = [1] * k + [0] * (n - k)
    two = [1] * k2 + [0] * (n2 - k2)
    found = []
    for first in combinations(range(n), h):
        rest = [p for p in range(n) if p not in first] if same else range(n2)
        for second in combinations(rest, h):
            a = sum(one[p] for p in first)
            b = sum((one if same else two)[p] for p in second)
            row = (a > b, a < b, a == b, 2 * a > h > 2 * b, 2 * a < h < 2 * b, 2 * a != h != 2 * b)
            found.append(row)
    return np.asarray(found, dtype=float).mean(axis=0).tolist()


@pytest.mark.parametrize(
    ("k", "n", "k2", "n2", "h"), [(2, 4, 1, 4, 2), (3, 7, 5, 6, 3), (0, 4, 4, 4, 1)]
)
def test_halves_are_averages_over_every_way_to_choose_them(
    k: int, n: int, k2: int, n2: int, h: int
) -> None:
    first, others = answers([k], n), answers([k2], n2)
    seen = [float(each[0]) for each in compare_halves(first, others, [h])]
    assert seen == pytest.approx(brute(k, n, k2, n2, h, same=False))
    null = [float(each[0]) for each in compare_halves(first, None, [h])]
    assert null == pytest.approx(brute(k, n, k2, n2, h, same=True))


@pytest.mark.parametrize("q", [0.1, 0.5, 0.8])
def test_where_thinking_changes_nothing_halves_expect_what_their_null_expects(q: float) -> None:
    n, h = 6, 3
    chance = [comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
    seen, null = np.zeros(6), np.zeros(6)
    for k, one in enumerate(chance):
        null += one * np.array([e[0] for e in compare_halves(answers([k], n), None, [h])])
        for k2, two in enumerate(chance):
            halves = compare_halves(answers([k], n), answers([k2], n), [h])
            seen += one * two * np.array([e[0] for e in halves])
    assert seen == pytest.approx(null, abs=1e-12)
    # And it is much: with three answers each, chance alone changes most of what is even.
    if q == 0.5:
        assert null[2] == pytest.approx(20 / 64)


def test_halves_larger_than_what_there_is_are_refused() -> None:
    for first, others, h in (
        (answers([1], 4), None, 3),
        (answers([1], 4), answers([1], 2), 3),
        (answers([1], 4), None, 0),
    ):
        with pytest.raises(StatisticsError, match="halves need at least one answer each"):
            compare_halves(first, others, [h])


# -- tests


def test_exchanging_modes_has_the_right_size_whatever_prompts_differ_in() -> None:
    rng = np.random.default_rng(4)
    small: list[tuple[bool, bool]] = []
    for _ in range(300):
        q = rng.beta(0.4, 0.4, 25)
        a, b = (answers(rng.binomial(6, q), 6) for _ in range(2))
        tests = permutation_tests(a, b, draws=99, rng=rng)
        small.append((tests.change <= 0.05, tests.moved <= 0.05))
    change, moved = np.mean(small, axis=0)
    # 0.05 is meant; 300 replicates have a standard deviation of 0.0126. Ties make it less.
    assert 0.01 < change < 0.088
    assert 0.01 < moved < 0.088


def test_exchanging_modes_finds_prompts_that_move_against_each_other() -> None:
    a = answers([8, 8, 0, 0] * 5)
    b = answers([0, 8, 8, 0] * 5)
    tests = permutation_tests(a, b, draws=199, rng=np.random.default_rng(0))
    assert tests.change == 1.0
    assert tests.moved == 1 / 200


def test_exchanging_modes_needs_labels_in_both() -> None:
    with pytest.raises(StatisticsError, match="no prompt has labelled answers in both modes"):
        permutation_tests(
            answers([1], [2]), answers([0], [0]), draws=9, rng=np.random.default_rng(0)
        )


def test_each_prompt_is_tested_by_fisher() -> None:
    found = fisher_by_prompt(answers([8, 2, 0], [8, 8, 0]), answers([1, 3, 4], [7, 8, 8]))
    assert found[0] == pytest.approx(fisher_exact([[8, 0], [1, 6]])[1])
    assert found[1] == pytest.approx(fisher_exact([[2, 6], [3, 5]])[1])
    assert np.isnan(found[2])
    assert smallest_p(4) == pytest.approx(2 / comb(8, 4))
    assert smallest_p(1) == 1.0


# -- findings


def flips(
    without: Any, thinking: Any, *, harmful: Any = True, rollouts: int = 8, labelled: Any = None
) -> Flips:
    a, b = (answers(k, rollouts if labelled is None else labelled) for k in (without, thinking))
    count = len(a.refusals)
    return Flips(
        without=a,
        thinking=b,
        harmful=np.broadcast_to(np.asarray(harmful), count).copy(),
        clusters=np.arange(count),
        rollouts=rollouts,
        plain=np.full(count, rollouts),
        reopened=np.zeros(count, dtype=np.int64),
    )


def named(found: Flips, metric: str, group: str = "harmful", variant: str = "") -> Number:
    results = flip_results(found, draws=60, permutations=99, seed=0)
    (one,) = [
        each
        for each in results.numbers
        if (each.metric, each.group, each.variant) == (metric, group, variant)
    ]
    return one


def value(number: Number) -> float:
    assert number.estimate is not None, number.undefined
    assert number.estimate.low <= number.estimate.value <= number.estimate.high
    return number.estimate.value


# Of 20 prompts: 6 from compliance to refusal, 2 back, 7 refuse, 3 comply, 2 tied without.
WITHOUT = [0] * 6 + [8] * 2 + [7] * 7 + [1] * 3 + [4] * 2
THINKING = [8] * 6 + [1] * 2 + [8] * 7 + [0] * 3 + [8] * 2


@pytest.mark.parametrize("harmful", [True, False])
def test_flips_are_better_or_worse_by_the_pool(harmful: bool) -> None:
    found = flips(WITHOUT, THINKING, harmful=harmful)
    group = "harmful" if harmful else "benign"
    better, worse = named(found, "flips_better", group), named(found, "flips_worse", group)
    shares = (6 / 18, 2 / 18) if harmful else (2 / 18, 6 / 18)
    assert (value(better), value(worse)) == pytest.approx(shares)
    assert better.counts == {"RR": 7, "RC": 2, "CR": 6, "CC": 3}
    assert better.excluded == {"undecided": 2}
    assert better.p_value == pytest.approx(binomtest(2, 8, 0.5).pvalue)
    paper = named(found, "flips_better", group, "paper")
    assert paper.n == 20
    assert value(paper) == pytest.approx((8 if harmful else 2) / 20)
    change = named(found, "refusal_change", group)
    assert value(change) == pytest.approx((48 - 14 + 7 - 3 + 8) / 8 / 20)


def test_the_papers_tables_take_complete_prompts_only() -> None:
    labelled = [8] * 19 + [6]
    found = flips([8] * 10 + [0] * 10, [8] * 20, labelled=labelled)
    found.without.refusals[-1] = found.thinking.refusals[-1] = 6
    assert named(found, "flips_better", variant="paper").n == 19
    lenient = named(found, "lenient_better", variant="paper")
    assert (lenient.n, lenient.excluded) == (19, {"incomplete": 1})
    assert named(found, "flips_better").n == 20


def test_the_lenient_shares_stand_beside_what_chance_gives() -> None:
    rng = np.random.default_rng(3)
    same = flips(rng.binomial(8, 0.5, 400), rng.binomial(8, 0.5, 400))
    paper = named(same, "lenient_unchanged", variant="paper")
    # The paper's reading finds four of five prompts changed, where nothing changes.
    assert value(paper) < 0.27
    unchanged = named(same, "lenient_unchanged")
    assert unchanged.null is not None
    # Of two halves of four coins, 70 of 256 pairs agree.
    assert value(unchanged) == pytest.approx(70 / 256, abs=0.03)
    assert unchanged.null.value == pytest.approx(70 / 256, abs=0.05)
    assert unchanged.p_value is not None
    assert unchanged.p_value > 0.05
    over = named(same, "flips_over_chance")
    assert over.estimate is not None
    assert over.estimate.low < 0 < over.estimate.high


def test_flips_over_chance_are_all_of_them_where_nothing_is_chance() -> None:
    found = flips([0] * 10 + [8] * 10, [8] * 10 + [8] * 10)
    over = named(found, "flips_over_chance")
    assert value(over) == 0.5
    assert over.null is not None
    assert over.null.value == 0.0
    assert named(found, "lenient_unchanged").p_value == 0.01


def test_a_coin_that_thinking_makes_of_sure_answers_is_a_change_and_no_chance() -> None:
    # Without thinking 8 of 8 comply, with it 4 of 8 refuse. Of four from such eight, 2 refuse in
    # 36 of 70 ways: a tie. Decided halves refuse in one of two, and are flips; two halves of
    # thinking have 4 - a refusals where the other has a, so that each decided one is a flip.
    found = flips([0] * 20, [4] * 20)
    over = named(found, "flips_over_chance")
    assert over.null is not None
    assert over.null.value == pytest.approx((1 + 0) / 2)
    assert value(over) == pytest.approx(1 / 2 - 1 / 2)
    # With rates that were drawn, and not fixed at one half, the square of their difference.
    rng = np.random.default_rng(5)
    drawn = flips([0] * 4000, rng.binomial(2, 0.45, 4000), rollouts=2)
    beyond = named(drawn, "flips_over_chance")
    # Halves of one answer are never ties: 0.45 of the first pair flip, and of the null
    # 2 * 0.45 * 0.55 with thinking, none without it.
    assert value(beyond) == pytest.approx(0.45**2, abs=0.02)
    assert beyond.null is not None
    assert beyond.null.value == pytest.approx(0.45 * 0.55, abs=0.02)
    assert beyond.estimate is not None
    assert beyond.estimate.low > 0


def test_prompts_that_move_are_found_among_all_of_both_pools() -> None:
    without, thinking = [0] * 30, [8] * 5 + [5] * 5 + [1] * 20
    found = flips(without, thinking, harmful=[True] * 15 + [False] * 15)
    p = [fisher_exact([[0, 8], [k, 8 - k]])[1] for k in thinking]
    rejected = multipletests(p, 0.05, "fdr_bh")[0]
    moved = named(found, "prompts_moved")
    assert moved.counts == {"better": int(rejected[:15].sum()), "worse": 0}
    # In a family of 15 the five of 8 (p = 0.026) would be found as well; in one of 30 they are not.
    assert rejected[:15].sum() == 5
    assert value(named(found, "prompts_moved", "benign")) == 0.0
    assert "a p-value below 0.00016" in moved.note


def test_one_rollout_a_mode_has_labels_but_no_halves() -> None:
    found = flips([0] * 10 + [1] * 10, [1] * 20, rollouts=1)
    assert value(named(found, "flips_better")) == 0.5
    for metric in ("lenient_better", "lenient_unchanged", "flips_over_chance"):
        number = named(found, metric)
        assert number.undefined == ("undefined: halves need two labelled answers in each mode")


def test_with_fewer_than_ten_of_a_class_there_is_no_number() -> None:
    found = flips([0] * 20, [4] + [0] * 19)
    for metric in ("flips_better", "refusal_change", "lenient_worse", "prompts_moved"):
        number = named(found, metric)
        assert number.estimate is None
        assert number.p_value is None
        assert number.undefined == "undefined: 4 refusals"


def test_ten_refusals_of_fewer_prompts_give_no_number() -> None:
    # 72 refusals, of nine prompts; a tenth prompt makes all of them numbers.
    few, enough = ([8] * count + [0] * (30 - count) for count in (9, 10))
    for metric in ("refusal_change", "lenient_worse", "flips_over_chance", "prompts_moved"):
        number = named(flips([0] * 30, few), metric)
        assert (number.estimate, number.null, number.p_value) == (None, None, None)
        assert number.undefined == "undefined: 9 prompts with refusals"
        assert named(flips([0] * 30, enough), metric).estimate is not None
    assert named(flips([0] * 30, few), "refusal_change").counts["refusals"] == 72
    results = flip_results(flips([0] * 30, few), draws=20, permutations=19, seed=0)
    assert results.grids[1].rows == (("harmful", 30, *[None] * 5),)


def test_label_flips_need_ten_prompts_with_the_label_and_not_with_the_answer() -> None:
    # Every prompt refuses now and then, and one of them most of the time.
    found = flips([2] * 29 + [8], [2] * 29 + [0])
    for variant in ("", "paper"):
        worse = named(found, "flips_worse", variant=variant)
        assert worse.undefined == "undefined: 1 prompt labelled refusals"
        assert (worse.estimate, worse.p_value) == (None, None)
    assert named(found, "refusal_change").estimate is not None
    # The mirror image: nearly all refuse.
    mirror = flips([6] * 29 + [0], [6] * 29 + [8])
    assert named(mirror, "flips_better").undefined == "undefined: 1 prompt labelled compliances"


def test_prompts_that_are_alike_are_one_flip() -> None:
    # Four groups of three turn to refusal, and one to compliance; without groups p = 0.035.
    found = flips([0] * 12 + [8] * 3 + [0] * 5, [8] * 12 + [0] * 3 + [0] * 5)
    alike = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 7, 8, 9])
    assert named(found, "flips_better").p_value == pytest.approx(binomtest(3, 15).pvalue)
    apart = named(found._replace(clusters=alike), "flips_better")
    assert apart.p_value == pytest.approx(binomtest(1, 5).pvalue)


def test_prompts_of_one_class_alone_are_measured_alone() -> None:
    results = flip_results(flips(WITHOUT, THINKING), draws=20, permutations=19, seed=0)
    assert {number.group for number in results.numbers} == {"all", "harmful"}
    (transitions, _) = results.grids
    assert transitions.rows == (
        ("harmful", "leave", 7, 2, 6, 3, 2, 6, 2),
        ("harmful", "comply (paper)", 7, 2, 8, 3, 0, 8, 2),
    )


def test_prompts_without_labels_are_left_out_and_counted() -> None:
    labelled = [8] * 18 + [0] * 2
    found = flips([0] * 9 + [8] * 9 + [0] * 2, [0] * 9 + [8] * 9 + [0] * 2, labelled=labelled)
    change = named(found, "refusal_change")
    assert (change.n, change.excluded) == (18, {"no labels": 2})
    assert named(found, "lenient_unchanged").excluded == {"too few labels": 2}
    assert named(found, "flips_better").excluded == {"undecided": 2}
    nothing = flips([0] * 20, [0] * 20, labelled=0)
    assert named(nothing, "refusal_change").undefined == "undefined: 0 refusals, 0 compliances"


def test_rollouts_that_think_anyway_are_a_share_of_those_without_thinking() -> None:
    found = flips(WITHOUT, THINKING)
    found.reopened[:4] = 8
    assert value(named(found, "reopened_share", "all")) == pytest.approx(0.2)
