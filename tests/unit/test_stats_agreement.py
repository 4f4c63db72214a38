"""Agreement coefficients: against statsmodels, published examples, and numbers worked by hand."""

import numpy as np
import pytest
from scipy.special import stdtrit
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

from tseval.errors import StatisticsError
from tseval.stats import clopper_pearson
from tseval.stats_agreement import cohen, fleiss, krippendorff
from tseval.stats_compare import cohen_kappa

NO = -1
# Four observers, twelve units, of which one was seen by one observer only: the example that
# Krippendorff works through for nominal data with missing values.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
]


def raters(n: int, *, agree: float, labels: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, labels, n)
    second = np.where(rng.random(n) < agree, first, rng.integers(0, labels, n))
    return first, second


def table_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    table = np.zeros((3, 3), dtype=int)
    np.add.at(table, (first, second), 1)
    return table


def test_cohens_kappa_and_its_error_are_those_of_statsmodels():
    n = 200
    first, second = raters(n, agree=0.7)
    theirs = cohens_kappa(table_of(first, second))
    ours = cohen(first, second)
    assert ours.estimate.value == pytest.approx(theirs.kappa)
    assert ours.estimate.value == pytest.approx(cohen_kappa(table_of(first, second)))
    assert (ours.units, ours.dropped) == (n, 0)
    # On the scale of log(1 - kappa), the limits lie one quantile of the error apart.
    error = theirs.std_kappa * (n / (n - 1)) ** 0.5
    half = stdtrit(n - 1, 0.975) * error / (1 - theirs.kappa)
    assert np.log(1 - ours.estimate.low) - np.log(1 - theirs.kappa) == pytest.approx(half)
    assert np.log(1 - theirs.kappa) - np.log(1 - ours.estimate.high) == pytest.approx(half)


def test_cohens_kappa_worked_by_hand():
    # 3 of 4 rows alike; chance: both say yes in half of the rows, so a half.
    assert cohen([1, 1, 0, 0], [1, 0, 0, 0]).estimate.value == pytest.approx(0.5)


def test_fleiss_kappa_is_that_of_statsmodels():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 150)
    ratings = np.where(rng.random((150, 4)) < 0.6, truth[:, None], rng.integers(0, 3, (150, 4)))
    ours = fleiss(ratings)
    assert ours.estimate.value == pytest.approx(fleiss_kappa(aggregate_raters(ratings)[0]))
    assert ours.estimate.low < ours.estimate.value < ours.estimate.high


def test_krippendorffs_alpha_is_that_of_his_example():
    found = krippendorff(np.array(OBSERVERS).T)
    assert found.estimate.value == pytest.approx(0.743, abs=0.0005)
    assert (found.units, found.dropped) == (11, 1)


def test_alpha_without_missing_values_is_fleiss_kappa_but_for_small_samples():
    first, second = raters(2000, agree=0.7)
    ratings = np.stack([first, second], axis=1)
    assert krippendorff(ratings).estimate.value == pytest.approx(
        fleiss(ratings).estimate.value, abs=1e-3
    )


@pytest.mark.parametrize("measure", [fleiss, krippendorff])
def test_the_order_of_raters_units_and_clusters_does_not_matter(measure):
    rng = np.random.default_rng(2)
    ratings = rng.integers(0, 2, (60, 3))
    clusters = rng.integers(0, 20, 60)
    order = rng.permutation(60)
    here = measure(ratings, clusters).estimate
    there = measure(ratings[order][:, [2, 0, 1]], clusters[order] + 5).estimate
    for name in ("value", "low", "high"):
        assert getattr(here, name) == pytest.approx(getattr(there, name))


def test_rows_that_repeat_within_a_prompt_widen_the_interval():
    first, second = raters(100, agree=0.7)
    four_times = [np.repeat(each, 4) for each in (first, second)]
    once = cohen(first, second).estimate
    alone = cohen(*four_times).estimate
    clustered = cohen(*four_times, np.repeat(np.arange(100), 4)).estimate
    assert alone.high - alone.low < 0.6 * (once.high - once.low)
    assert clustered.low == pytest.approx(once.low)
    assert clustered.high == pytest.approx(once.high)
    assert clustered.method == "linearised, 100 clusters"


def test_clusters_that_happen_to_cancel_claim_no_more_than_independent_rows():
    # Each prompt has the same four rows, so that nothing varies between prompts.
    first, second = np.tile([1, 1, 0, 0], 25), np.tile([1, 0, 0, 0], 25)
    clustered = cohen(first, second, np.repeat(np.arange(25), 4)).estimate
    alone = cohen(first, second).estimate
    assert clustered.high - clustered.low >= alone.high - alone.low


def test_full_agreement_is_not_certainty():
    # As if 0 of 40 rows disagreed, beside the chance disagreement of a half.
    found = cohen([0] * 20 + [1] * 20, [0] * 20 + [1] * 20).estimate
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - clopper_pearson(0, 40).high / 0.5)


def test_one_disagreement_claims_no_more_than_none():
    none = cohen([0] * 20 + [1] * 20, [0] * 20 + [1] * 20).estimate
    one = cohen([0] * 20 + [1] * 20, [0] * 20 + [1] * 19 + [0]).estimate
    assert one.low <= none.low + 1e-3
    # Nor where it is one of four rows of its prompt, and can't show how alike these are.
    prompts = np.repeat(np.arange(40), 4)
    clustered = cohen([0] * 80 + [1] * 80, [0] * 80 + [1] * 79 + [0], prompts).estimate
    assert clustered.low <= none.low + 1e-3


def test_one_prompt_says_nothing_about_the_spread():
    found = cohen([0, 0, 1, 1], [0, 1, 1, 1], [7, 7, 7, 7]).estimate
    assert (found.low, found.high) == (-1, 1)


def test_units_that_one_rater_left_out_are_dropped_and_counted():
    full = cohen([0, 1, 1, 0], [0, 1, 0, 0])
    holes = cohen([0, 1, NO, 1, 0], [0, 1, 1, 0, 0])
    assert holes.estimate == full.estimate
    assert (holes.units, holes.dropped) == (4, 1)
    assert fleiss([[0, 0], [1, NO], [1, 1]]).dropped == 1


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: cohen([1, 1], [1, 1]), "both raters use the same one label throughout"),
        (lambda: fleiss([[0, 0], [0, 0]]), "all raters use the same one label throughout"),
        (lambda: krippendorff([[0, 0], [0, NO]]), "all raters use the same one label"),
        (lambda: cohen([], []), "at least one unit that was rated often enough"),
        (lambda: krippendorff([[0, NO], [NO, 1]]), "at least one unit that was rated often"),
        (lambda: fleiss([[0], [1]]), "at least two raters, got 1"),
        (lambda: cohen([0, 1], [0]), r"same units, got shapes \(2,\) and \(1,\)"),
        (lambda: fleiss([[0, -2], [1, 1]]), "whole numbers from 0, and -1 where missing"),
        (lambda: fleiss([[0.5, 1.0]]), "whole numbers from 0"),
        (lambda: cohen([0, 1], [0, 1], [1]), "one cluster a unit"),
    ],
)
def test_what_has_no_coefficient_is_an_error(measure, message):
    with pytest.raises(StatisticsError, match=message):
        measure()
