"""Ranks of a board: no better row by chance, ties together, protocols apart."""

from itertools import product
from math import erfc, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.boards import ASR, ORR, PASS1, board, column, entry, hits, ranks
from tseval.leaderboard.cells import means_of, numbers_of
from tseval.leaderboard.flips import flips_pvalue
from tseval.leaderboard.pairs import Bench, cluster_sums, mean_test
from tseval.leaderboard.rank import slug_of, standing
from tseval.leaderboard.records import Board, Cell, Entry, Row, Table
from tseval.outcomes import Outcomes
from tseval.protocol import JudgeIdentity
from tseval.stats_compare import mcnemar_exact
from tseval.types import Thinking

ONE = board(column("a"))


def table(of: Board, *entries: Entry) -> Table:
    return standing(of, entries).tables[0]


def test_a_row_is_ranked_below_those_that_are_shown_to_be_better() -> None:
    found = table(
        ONE,
        entry("worst", {("a", ASR): hits(150, 200)}),
        entry("best", {("a", ASR): hits(10, 200)}),
        entry("middle", {("a", ASR): hits(70, 200)}),
    )
    assert ranks(found.rows) == {"best": 1, "middle": 2, "worst": 3}
    assert [row.label for row in found.rows] == ["best", "middle", "worst"]
    best, middle, worst = found.rows
    assert best.better_than == ("middle", "worst")
    assert middle.beaten_by == ("best",)
    assert worst.beaten_by == ("best", "middle")


def test_rows_that_nothing_tells_apart_share_a_rank() -> None:
    found = table(
        ONE,
        entry("x", {("a", ASR): hits(20, 200)}),
        entry("y", {("a", ASR): hits(21, 200)}),
        entry("z", {("a", ASR): hits(120, 200)}),
    )
    assert ranks(found.rows) == {"x": 1, "y": 1, "z": 3}


def test_a_higher_value_is_better_where_the_column_says_so() -> None:
    found = table(
        board(column("a", PASS1)),
        entry("low", {("a", PASS1): hits(20, 100)}),
        entry("high", {("a", PASS1): hits(80, 100)}),
    )
    assert ranks(found.rows) == {"high": 1, "low": 2}


def test_pairs_show_what_two_intervals_do_not() -> None:
    # Ten of 100 prompts changed, all one way: exact p is 0.002; as independent rates, 0.13.
    one, other = hits(40, 100), hits(30, 100)
    entries = [entry("one", {("a", ASR): one}), entry("other", {("a", ASR): other})]
    assert ranks(table(ONE, *entries).rows) == {"one": 2, "other": 1}
    bare = [replace(each, outcomes=Outcomes()) for each in entries]
    assert ranks(table(ONE, *bare).rows) == {"one": 1, "other": 1}
    mixed = [entries[0], bare[1]]
    assert ranks(table(ONE, *mixed).rows) == {"one": 1, "other": 1}


def test_intervals_alone_tell_what_is_far_apart() -> None:
    entries = [
        replace(entry(name, {("a", ASR): hits(n, 100)}), outcomes=Outcomes())
        for name, n in (("one", 70), ("other", 20))
    ]
    assert ranks(table(ONE, *entries).rows) == {"one": 2, "other": 1}


def test_the_adjustment_is_over_all_pairs() -> None:
    # Six discordant prompts, all one way: p = 0.03 for one pair; Holm over six takes it back.
    entries = [entry("x", {("a", ASR): hits(6, 100)}), entry("y", {("a", ASR): hits(0, 100)})]
    assert ranks(table(ONE, *entries).rows) == {"x": 2, "y": 1}
    more = [entry(f"z{n}", {("a", ASR): hits(3, 100)}) for n in range(2)]
    assert set(ranks(table(ONE, *entries, *more).rows).values()) == {1}


def test_better_on_one_column_and_worse_on_another_is_no_better() -> None:
    two = board(column("a"), column("b", ORR), rank_by=("a", "b"))
    refuses = entry("refuses", {("a", ASR): hits(2, 100), ("b", ORR): hits(90, 100)})
    complies = entry("complies", {("a", ASR): hits(90, 100), ("b", ORR): hits(2, 100)})
    good = entry("good", {("a", ASR): hits(2, 100), ("b", ORR): hits(2, 100)})
    found = table(two, refuses, complies, good)
    assert ranks(found.rows) == {"good": 1, "refuses": 2, "complies": 2}
    assert ranks(table(two, refuses, complies).rows) == {"refuses": 1, "complies": 1}


def simulated(
    rng: np.random.Generator, names: int, benchmarks: tuple[str, ...], prompts: int, rollouts: int
) -> list[Entry]:
    """Equal models on prompts of different difficulty."""
    hard = {name: rng.beta(0.6, 1.4, size=prompts) for name in benchmarks}
    return [
        entry(
            f"m{n}",
            {
                (name, ASR): [float(x) for x in rng.random(prompts * rollouts) < chances]
                for name in benchmarks
                for chances in [np.repeat(hard[name], rollouts)]
            },
            rollouts=rollouts,
        )
        for n in range(names)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "rollouts", "prompts"),
    [
        (("a",), 1, 100),
        (("a",), 3, 60),
        (("mean",), 1, 60),
        (("mean",), 2, 30),
        (("a", "b"), 1, 60),
    ],
)
def test_equal_models_are_ranked_apart_no_more_often_than_alpha(
    keys: tuple[str, ...], rollouts: int, prompts: int
) -> None:
    columns = (column("a"), column("b"), column("c"), column("mean", mean_of=("a", "b", "c")))
    rng = np.random.default_rng(11)
    boards, wrong = 250, 0
    of = board(*columns, rank_by=keys, alpha=0.1)
    for _ in range(boards):
        found = table(of, *simulated(rng, 4, ("a", "b", "c"), prompts, rollouts))
        wrong += any(row.rank != 1 for row in found.rows)
    assert wrong / boards <= 0.1 + 2 * sqrt(0.1 * 0.9 / boards)


def test_a_real_difference_of_a_mean_is_found_that_no_column_shows() -> None:
    columns = (column("a"), column("b"), column("c"), column("mean", mean_of=("a", "b", "c")))
    rows = {name: {(b, ASR): hits(n, 50) for b in "abc"} for name, n in (("x", 10), ("y", 5))}
    entries = [entry(name, found) for name, found in rows.items()]
    by_mean = table(board(*columns, rank_by=("mean",)), *entries)
    assert ranks(by_mean.rows) == {"y": 1, "x": 2}
    by_column = table(board(*columns, rank_by=("a", "b", "c")), *entries)
    assert set(ranks(by_column.rows).values()) == {1}


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(12, 2), (9, 1), (30, 12), (6, 0), (5, 0), (7, 7), (900, 800)]
)
def test_the_test_of_a_mean_is_the_exact_one_of_its_only_column(only_a: int, only_b: int) -> None:
    sums = np.array([1.0] * only_a + [-1.0] * only_b + [0.0] * 100) / (only_a + only_b + 100)
    found = mean_test(sums)
    assert found.higher == (only_a > only_b)
    assert found.pvalue == pytest.approx(mcnemar_exact(only_a, only_b), rel=1e-9)


def test_a_small_column_weighs_no_more_in_the_test_of_a_mean_than_it_may() -> None:
    # Five of 30 questions, all one way, beside a benchmark that shows nothing: 2 / 2^5.
    small, still = np.array([1 / 30] * 5 + [0.0] * 25), np.zeros(1319)
    assert mean_test(np.concatenate([small, still])).pvalue == pytest.approx(1 / 16)
    columns = (column("g", PASS1), column("a", PASS1), column("m", PASS1, mean_of=("g", "a")))
    rows = {("g", PASS1): hits(600, 1319)}
    entries = [entry(str(n), {**rows, ("a", PASS1): hits(n, 30)}) for n in (0, 5, 6)]
    of = board(*columns, rank_by=("m",))
    assert ranks(table(of, *entries[:2]).rows) == {"0": 1, "5": 1}
    assert ranks(table(of, entries[0], entries[2]).rows) == {"6": 1, "0": 2}


def test_the_test_of_a_mean_is_right_by_every_flip() -> None:
    rng = np.random.default_rng(3)
    for sizes in ((4, 3), (6, 2, 2), (10,)):
        parts = [rng.choice((0.25, 0.5, 1), n) * rng.choice((-1, 1), n) / (n + 1) for n in sizes]
        every = np.concatenate(parts)
        flips = np.array(list(product((-1, 1), repeat=len(every)))) @ np.abs(every)
        wanted = np.mean(np.abs(flips) >= abs(every.sum()) - 1e-12)
        assert flips_pvalue(every) == pytest.approx(min(1, wanted))


def test_sums_that_are_too_many_to_count_are_drawn() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.random(40) / 40
    values = sizes * np.where(np.arange(40) % 9 < 5, 1, -1)
    score = abs(values.sum()) / sqrt(float((values**2).sum()))
    assert flips_pvalue(values) == pytest.approx(erfc(score / sqrt(2)), rel=0.1)
    assert flips_pvalue(values) == flips_pvalue(values)


def test_equal_rows_of_unequal_columns_are_told_apart_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(5)
    wrong, times = 0, 800
    for _ in range(times):
        small = rng.choice((-1, 1), rng.binomial(30, 0.3)) / 30
        large = rng.choice((-1, 1), rng.binomial(400, 0.1)) / 400
        wrong += flips_pvalue(np.concatenate([small, large])) <= 0.05
    assert 0.02 < wrong / times <= 0.05 + 2 * sqrt(0.05 * 0.95 / times)


def test_a_prompt_that_stands_in_two_columns_is_not_evidence_twice() -> None:
    # Five of 100 prompts changed, all one way: 2 / 2^5, however many columns show the same rows.
    columns = (column("a"), column("b"), column("m", mean_of=("a", "b")))
    alike = board(*columns)
    rows = {name: [1.0] * n + [0.0] * (100 - n) for name, n in (("one", 0), ("other", 5))}
    numbers = [
        numbers_of(alike, entry(name, {("a", ASR): hit, ("b", ASR): hit}))
        for name, hit in rows.items()
    ]
    bench = Bench(alike, numbers)
    matched = bench._matched(0, 1, "a")
    assert matched is not None
    shared = matched._replace(clusters=[str(place) for place in range(len(matched.samples))])
    apart = mean_test(cluster_sums([shared]))
    assert mean_test(cluster_sums([shared, shared])).pvalue == pytest.approx(apart.pvalue)
    assert apart.pvalue == pytest.approx(2 / 2**5)


def test_the_mean_of_columns_of_one_benchmark_is_as_wide_as_they_are() -> None:
    columns = (
        column("a", benchmark="x"),
        column("b", ORR, benchmark="x"),
        column("m", mean_of=("a", "b")),
    )
    of = board(*columns)
    cells = {key: Cell(value=0.5, low=0.4, high=0.6) for key in ("a", "b")}
    assert (means_of(of, cells)["m"].low, means_of(of, cells)["m"].high) == (0.4, 0.6)


def test_equal_rows_of_a_mean_are_never_told_apart() -> None:
    assert mean_test(np.zeros(6)) == (1.0, 0)
    assert mean_test(np.array([0.5, 0.0, -0.5, 0.0])) == (1.0, 0)


def test_a_few_shared_prompts_decide_nothing() -> None:
    worst, best = (
        entry("worst", {("a", ASR): hits(190, 200)}),
        entry("best", {("a", ASR): hits(2, 200)}),
    )
    rows = worst.outcomes.rows[0]
    for shared in (1, 100, 159, 160, 200):
        names = [rows.hashes[n * 12 : n * 12 + 12] for n in range(200)]
        names = names[:shared] + [f"{'f' * 8}{n:04x}" for n in range(200 - shared)]
        other = replace(rows, hashes="".join(names))
        moved = replace(worst, outcomes=replace(worst.outcomes, rows=(other,)))
        bench = Bench(ONE, [numbers_of(ONE, best), numbers_of(ONE, moved)])
        assert (bench._matched(0, 1, "a") is None) is (shared < 160)
        assert ranks(table(ONE, best, moved).rows) == {"best": 1, "worst": 2}


def test_a_mean_has_the_mean_of_its_columns_and_an_interval() -> None:
    columns = (column("a"), column("b"), column("mean", mean_of=("a", "b")))
    (row,) = table(
        board(*columns, rank_by=("mean",)),
        entry("x", {("a", ASR): hits(10, 50), ("b", ASR): [None, *hits(20, 49)]}),
    ).rows
    cell = row.cells["mean"]
    assert cell.value == pytest.approx((10 / 50 + 20 / 49) / 2)
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < cell.value < cell.high
    assert (cell.n, cell.excluded) == (99, {"error": 1})


# -- protocols


def test_other_protocols_have_tables_and_ranks_of_their_own() -> None:
    of = board(column("a"), require={"thinking.budget": 16384})
    entries = [
        entry("main", {("a", ASR): hits(90, 100)}),
        entry("short", {("a", ASR): hits(5, 100)}, thinking=Thinking(budget=99)),
        entry("short, bad", {("a", ASR): hits(50, 100)}, thinking=Thinking(budget=99)),
        entry("cut", {("a", ASR): hits(1, 10)}, limit=10, subset_seed=0),
    ]
    found = standing(of, entries)
    assert [[row.label for row in each.rows] for each in found.tables] == [
        ["main"],
        ["short", "short, bad"],
        ["cut"],
    ]
    main, short, cut = found.tables
    assert ranks(main.rows) == {"main": 1}
    assert ranks(short.rows) == {"short": 1, "short, bad": 2}
    assert (main.is_main, short.is_main) == (True, False)
    assert short.title == "Other protocol: thinking.budget is 99, not 16384"
    assert cut.title == "Other protocol: limit is 10, not all rows"
    assert cut.rows[0].cells["a"].partial
    assert main.protocol["thinking.budget"] == 16384
    assert main.protocols["a"]["benchmark"] == "a"
    assert set(main.fingerprints) == {"a"}
    assert main.fingerprints["a"] != short.fingerprints["a"]


def test_no_two_numbers_of_one_column_have_different_protocols() -> None:
    found = standing(
        ONE,
        [
            entry("x", {("a", ASR): hits(5, 100)}),
            entry("y", {("a", ASR): hits(50, 100)}, rollouts=2),
            entry("z", {("a", ASR): hits(5, 100)}),
        ],
    )
    assert [[row.label for row in each.rows] for each in found.tables] == [["x", "z"], ["y"]]
    assert "1 entries fit the board's protocol but differ" in found.notes[0]
    assert found.tables[1].title == "Other protocol: other prompts or versions"


def test_entries_that_others_join_to_the_boards_table_are_in_it() -> None:
    of = board(*(column(key) for key in "abcd"), rank_by=("d",))
    entries = [
        *(entry(f"z{n}", {("a", ASR): hits(20, 200), ("b", ASR): hits(1, 20)}) for n in range(3)),
        entry("bad", {("d", ASR): hits(190, 200)}),
        entry("good", {("c", ASR): hits(1, 20), ("d", ASR): hits(2, 200)}),
        entry("link", {("b", ASR): hits(1, 20), ("c", ASR): hits(1, 20)}),
    ]
    found = standing(of, entries)
    assert len(found.tables) == 1
    assert found.notes == ()
    ranked = ranks(found.tables[0].rows)
    assert (ranked["good"], ranked["bad"], ranked["link"]) == (1, 2, None)


def test_entries_of_other_protocols_stand_together_by_way_of_others() -> None:
    of = board(*(column(key) for key in "abc"), require={"rollouts": 9})
    entries = [
        entry("x", {("a", ASR): hits(1, 20)}),
        entry("y", {("c", ASR): hits(1, 20)}),
        entry("z", {("b", ASR): hits(1, 20)}),
        entry("link", {("a", ASR): hits(1, 20), ("c", ASR): hits(1, 20)}),
    ]
    groups = [[row.label for row in each.rows] for each in standing(of, entries).tables]
    assert [sorted(each) for each in groups] == [[], ["link", "x", "y"], ["z"]]


def test_another_judge_is_another_protocol_and_a_label_is_not_believed() -> None:
    of = board(column("a", judge="rules"))
    other = JudgeIdentity(name="other", version="1")
    found = standing(of, [entry("x", {("a", ASR): hits(5, 100)}, judge=other)])
    assert found.tables[0].rows == ()
    (table_of_its_own,) = found.tables[1:]
    assert table_of_its_own.title == "Other protocol: judge is other (called rules), not rules"
    assert ranks(table_of_its_own.rows) == {"x": 1}


def test_a_table_without_the_boards_columns_is_ranked_by_others() -> None:
    of = board(
        column("a"), column("b", ORR), rank_by=("a",), rank_else=("b",), require={"rollouts": 9}
    )
    entries = [entry("x", {("b", ORR): hits(5, 100)}), entry("y", {("b", ORR): hits(60, 100)})]
    found = standing(of, entries).tables[1]
    assert found.ranked_by == ("b",)
    assert ranks(found.rows) == {"x": 1, "y": 2}
    fitting = board(column("a"), column("b", ORR), rank_by=("a",), rank_else=("b",))
    main = standing(fitting, entries).tables[0]
    assert main.ranked is False
    assert ranks(main.rows) == {"x": None, "y": None}


# -- what is not ranked


def test_a_row_without_a_number_is_shown_with_a_blank_and_says_why() -> None:
    two = board(column("a"), column("b", ORR))
    found = table(
        two,
        entry("whole", {("a", ASR): hits(5, 50), ("b", ORR): hits(5, 50)}),
        entry("half", {("b", ORR): hits(1, 50)}),
    )
    assert ranks(found.rows) == {"whole": 1, "half": None}
    half = found.rows[1]
    assert half.cells["a"] == Cell(undefined="not measured")
    assert half.why_unranked == "A: not measured"


def test_many_excluded_rows_or_few_of_them_are_not_ranked() -> None:
    lost: list[float | None] = [None] * 3
    entries = [
        entry("whole", {("a", ASR): hits(50, 100)}),
        entry("lossy", {("a", ASR): lost + hits(0, 97)}),
    ]
    found = table(ONE, *entries)
    assert ranks(found.rows) == {"whole": 1, "lossy": None}
    assert found.rows[1].why_unranked == "A: 3.0% of the rows are excluded, at most 2% may be"
    assert found.rows[1].cells["a"].excluded == {"error": 3}
    small = table(board(column("a"), min_n=98), *entries)
    assert small.rows[1].why_unranked == "A: n is 97, the board asks for 98"


def shown(made: Entry) -> Entry:
    return replace(made, demonstration=True)


def test_demonstrations_move_no_rank_of_a_measured_row() -> None:
    measured = [
        entry("good", {("a", ASR): hits(30, 200)}),
        entry("bad", {("a", ASR): hits(150, 200)}),
        entry("even", {("a", ASR): hits(41, 200)}),
    ]
    demos = [shown(entry(f"demo {n}", {("a", ASR): hits(n, 200)})) for n in range(3)]
    alone, beside = table(ONE, *measured), table(ONE, *measured, *demos)
    assert {name: rank for name, rank in ranks(beside.rows).items() if "demo" not in name} == (
        ranks(alone.rows)
    )
    assert beside.rows[0].label == "good"
    assert {row.why_unranked for row in beside.rows if row.label.startswith("demo")} == {
        "a demonstration, beside measured rows"
    }
    assert ranks(table(ONE, *demos).rows) == {"demo 0": 1, "demo 1": 1, "demo 2": 1}
    # Where no measured row can be ranked, demonstrations show how it would be.
    lossy = entry("lossy", {("a", ASR): [None] * 50 + hits(0, 150)})
    assert ranks(table(ONE, lossy, demos[0]).rows) == {"demo 0": 1, "lossy": None}


def test_demonstrations_decide_no_table_of_measured_rows() -> None:
    # Two demonstrations of another protocol outnumber the one measured row.
    demos = [shown(entry(f"demo {n}", {("a", ASR): hits(n, 50)}, text="both")) for n in range(2)]
    found = standing(ONE, [*demos, entry("real", {("a", ASR): hits(9, 50)}, text="answer")])
    assert [[row.label for row in each.rows] for each in found.tables] == [
        ["real"],
        ["demo 0", "demo 1"],
    ]


def test_rows_that_share_a_rank_stand_in_the_order_that_the_board_names() -> None:
    def of(label: str, bad: int, date: str) -> Entry:
        return replace(entry(label, {("a", ASR): hits(bad, 200)}), date=date)

    entries = [of("c", 20, "2026-01-03"), of("b", 22, "2026-01-01"), of("a", 21, "2026-01-02"),
               of("0", 150, "2025-01-01")]  # fmt: skip
    orders = {
        ties: [row.label for row in table(board(column("a"), ties=ties), *entries).rows]
        for ties in ("headline", "label", "date")
    }
    assert orders == {"headline": ["c", "a", "b", "0"], "label": ["a", "b", "c", "0"],
                      "date": ["b", "a", "c", "0"]}  # fmt: skip


def test_reported_rows_are_never_ranked() -> None:
    figure = Row(label="x", slug="reported-x", cells={"a": Cell(value=0.0)}, source="a paper")
    found = standing(ONE, [entry("x", {("a", ASR): hits(50, 100)})], [figure])
    assert found.reported == (figure,)
    assert ranks(found.tables[0].rows) == {"x": 1}


def test_an_entry_of_other_benchmarks_is_left_out_and_said() -> None:
    found = standing(ONE, [entry("x", {("b", ORR): hits(5, 100)})])
    assert found.tables[0].rows == ()
    assert found.notes == ("x has no number of this board and is left out",)


def test_equal_labels_are_told_apart_and_slugs_are_fit_for_files() -> None:
    rows = {("a", ASR): hits(5, 50)}
    found = table(ONE, entry("../M x", rows), entry("../M x", {("a", ASR): hits(6, 50)}))
    labels, slugs = [row.label for row in found.rows], [row.slug for row in found.rows]
    assert labels[0] == "../M x"
    assert labels[1].startswith("../M x (")
    assert slugs[0] == "m-x"
    assert slugs[1].startswith("m-x-")
    assert slug_of("\u202e//..") == "entry"


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 5))
def test_the_order_of_entries_never_shows(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    budgets = (16384, 16384, 99, 16384, 99)
    entries = [
        entry(
            f"m{n}",
            {("a", ASR): [float(x) for x in rng.random(40) < 0.2 * n]},
            thinking=Thinking(budget=budget),
        )
        for n, budget in enumerate(budgets)
    ]
    of = board(column("a"), require={"thinking.budget": 16384})
    assert standing(of, [entries[n] for n in order]) == standing(of, entries)
