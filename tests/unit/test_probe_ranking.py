"""AUROC and balanced accuracy: worked by hand, against scikit-learn, and their coverage."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tseval.errors import StatisticsError
from tseval.probes import (
    auroc,
    auroc_difference,
    auroc_value,
    balanced_accuracy,
    mean_auroc,
    out_of_fold_decisions,
)
from tseval.probes.ranking import _grouped_variance, _influence, paper_bootstrap

LABELS = np.asarray([True, True, False, False])
SCORES = np.asarray([3.0, 1.0, 2.0, 0.0])


def draw(rng, m: int, k: int, truth: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(m + k) < m
    return labels, rng.normal(size=m + k) + labels * np.sqrt(2) * norm.ppf(truth)


def test_auroc_counts_pairs_and_ties_half() -> None:
    assert auroc_value(LABELS, SCORES) == 0.75
    assert auroc_value(LABELS, np.asarray([1.0, 1.0, 1.0, 0.0])) == 0.75
    rng = np.random.default_rng(0)
    labels, scores = draw(rng, 30, 50, 0.7)
    assert auroc_value(labels, np.round(scores)) == pytest.approx(
        roc_auc_score(labels, np.round(scores))
    )


def test_the_variance_is_delongs() -> None:
    # Placements of the class are 1 and 1/2, of the other 1/2 and 1: variances 1/8, over 2 each.
    value, influence = _influence(LABELS, SCORES)
    assert value == 0.75
    assert _grouped_variance(influence, None) == pytest.approx(0.125)


def test_copies_of_prompts_in_one_group_add_nothing() -> None:
    labels, scores = draw(np.random.default_rng(1), 20, 30, 0.8)
    alone = auroc(labels, scores, np.arange(50))
    copied = auroc(np.tile(labels, 3), np.tile(scores, 3), np.tile(np.arange(50), 3))
    naive = auroc(np.tile(labels, 3), np.tile(scores, 3))
    assert copied.value == pytest.approx(alone.value)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert naive.high - naive.low < 0.7 * (alone.high - alone.low)


@pytest.mark.parametrize("scores", [SCORES * 0 + LABELS, SCORES * 0 - LABELS])
def test_complete_separation_has_an_interval_of_some_width(scores: np.ndarray) -> None:
    found = auroc(np.repeat(LABELS, 10), np.repeat(scores, 10))
    assert found.value in (0.0, 1.0)
    assert 0.05 < found.high - found.low < 0.3
    assert found.value in (found.low, found.high)


def test_scores_that_are_all_equal_say_nothing() -> None:
    found = auroc(np.repeat(LABELS, 10), np.zeros(40))
    assert found.value == 0.5
    assert found.low < 0.4
    assert found.high > 0.6


def test_one_class_has_no_auroc() -> None:
    with pytest.raises(StatisticsError, match="two classes are needed, got 4 of 4"):
        auroc(np.ones(4, dtype=bool), SCORES)


def test_a_difference_of_equal_scores_is_zero_without_doubt_and_of_others_paired() -> None:
    labels, scores = draw(np.random.default_rng(2), 40, 40, 0.8)
    same = auroc_difference(labels, scores, scores * 2 + 1)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    noise = np.random.default_rng(3).normal(size=80)
    apart = auroc_difference(labels, scores, noise)
    near = auroc_difference(labels, scores, scores + 0.1 * noise)
    assert apart.value == pytest.approx(auroc_value(labels, scores) - auroc_value(labels, noise))
    assert apart.low > 0
    assert near.high - near.low < 0.3 * (apart.high - apart.low)


def test_the_mean_over_sets_of_prompts_is_that_of_one_for_one() -> None:
    labels, scores = draw(np.random.default_rng(2), 20, 40, 0.8)
    places = np.arange(60)
    one = auroc(labels, scores, places)
    assert mean_auroc([(places, labels, scores)], places).low == pytest.approx(one.low)
    other = draw(np.random.default_rng(3), 20, 40, 0.8)[1]
    both = mean_auroc([(places, labels, scores), (places, labels, other)], places)
    assert both.value == pytest.approx((one.value + auroc_value(labels, other)) / 2)
    # Two readings of the same prompts are no more prompts.
    assert both.high - both.low == pytest.approx(one.high - one.low, rel=0.1)
    with pytest.raises(StatisticsError, match="at least one set"):
        mean_auroc([], places)


def test_thresholds_come_from_the_other_folds() -> None:
    # Outside fold 0 the classes part at 5, outside fold 1 at 1.
    labels = np.asarray([True, True, False, False] * 2)
    scores = np.asarray([3.0, 2, 1, 0, 6, 5, 4, 3])
    folds = np.repeat([0, 1], 4)
    decided = out_of_fold_decisions(labels, scores, folds)
    assert decided.tolist() == [False] * 4 + [True] * 4
    found = balanced_accuracy(labels, decided)
    assert found.value == balanced_accuracy_score(labels, decided) == 0.5
    assert found.low < 0.3
    assert found.high > 0.7


def test_the_papers_interval_is_a_bootstrap_and_its_table_the_bootstraps_mean() -> None:
    labels, scores = draw(np.random.default_rng(2), 40, 60, 0.8)

    def statistic(drawn: np.ndarray) -> float:
        return auroc_value(labels[drawn], scores[drawn])

    value = auroc_value(labels, scores)
    plain = paper_bootstrap(labels, statistic, stratified=False)
    kept = paper_bootstrap(labels, statistic, stratified=True, value=value)
    assert kept.value == value
    assert plain.value == pytest.approx(value, abs=0.01)
    assert plain.value != value
    assert plain.high - plain.value == pytest.approx(plain.value - plain.low)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(10, 50), (10, 490), (100, 100)])
@pytest.mark.parametrize("truth", [0.5, 0.7, 0.9, 0.97])
def test_intervals_hold_the_truth_as_often_as_they_say(
    sizes: tuple[int, int], truth: float
) -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        found = auroc(*draw(rng, *sizes, truth))
        hits += found.low <= truth <= found.high
    # 0.95 is meant; 400 draws have a standard deviation of 0.011. Above it for AUROCs near 1.
    assert 0.915 <= hits / 400 <= 0.995
