"""Linear probes: planted and absent signals, duplicates across folds, the published objective."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kstest, norm

from tseval.errors import StatisticsError
from tseval.probes import (
    P1,
    P2,
    LinearProbe,
    auroc_value,
    grouped_folds,
    held_out,
    out_of_fold,
    permutation_null,
    permuted,
    prepare,
    stratified_folds,
)

REPLICATES = 40


def planted(rng, n: int, width: int, auroc: float) -> tuple[np.ndarray, np.ndarray]:
    """States of which one direction tells the classes (half and half) apart with this AUROC."""
    labels = np.arange(n) % 2 == 0
    states = rng.normal(size=(n, width))
    direction = rng.normal(size=width)
    direction /= np.linalg.norm(direction)
    gap = np.sqrt(2) * norm.ppf(auroc)
    return (states + np.outer(labels * gap, direction)).astype(np.float32), labels


def score(states, labels, folds, probe: LinearProbe = P1) -> float:
    return auroc_value(labels, out_of_fold(prepare(states, folds, probe), labels, probe))


@pytest.mark.parametrize("probe", [P1, P2], ids=["P1", "P2"])
@pytest.mark.parametrize(("truth", "tolerance"), [(0.85, 0.025), (0.5, 0.03)])
def test_a_planted_signal_is_found_as_strong_as_it_is(
    probe: LinearProbe, truth: float, tolerance: float
) -> None:
    # One replicate of 100 and 100 has a standard deviation of 0.03 to 0.04; their mean of 0.006.
    folds = grouped_folds(np.arange(200) % 2 == 0, np.arange(200))
    found = [
        score(*planted(np.random.default_rng(n), 200, 5, truth), folds, probe)
        for n in range(REPLICATES)
    ]
    assert np.mean(found) == pytest.approx(truth, abs=tolerance)


def test_grouped_folds_do_not_leak_a_duplicate_that_others_leak() -> None:
    inside, outside = [], []
    for n in range(5):
        rng = np.random.default_rng(n)
        half = rng.normal(size=(60, 120))
        labels = np.tile(rng.permutation(np.arange(60) % 2 == 0), 2)
        states, groups = np.tile(half, (2, 1)), np.tile(np.arange(60), 2)
        outside.append(score(states, labels, grouped_folds(labels, groups, seed=n)))
        inside.append(score(states, labels, stratified_folds(labels, seed=n)))
    # Four of five partners are in training: leaked, they are simply looked up.
    assert np.mean(inside) > 0.75
    assert np.mean(outside) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shape", [(40, 12), (40, 150)], ids=["tall", "wide"])
def test_p1_minimises_the_published_objective(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    states = rng.normal(size=shape) * rng.uniform(0.1, 9, shape[1]) + 5
    states[:, 0] = 7.0  # a dimension that never varies has no sd to divide by
    labels = rng.random(shape[0]) < 0.4
    folds = np.arange(shape[0]) % 4
    found = out_of_fold(prepare(states, folds, P1), labels, P1)
    for fold in range(4):
        train, test = folds != fold, folds == fold
        mean, sd = states[train].mean(axis=0), states[train].std(axis=0)
        sd[sd <= 1e-6] = 1
        known, other = (states[train] - mean) / sd, (states[test] - mean) / sd
        sign = np.where(labels[train], 1.0, -1.0)
        n = len(sign)

        def loss(w, known=known, sign=sign, n=n) -> tuple[float, np.ndarray]:
            margin = sign * (known @ w[:-1] + w[-1])
            value = np.logaddexp(0, -margin).mean() + w[:-1] @ w[:-1] / (2 * n)
            pull = -sign / (1 + np.exp(margin)) / n
            return value, np.r_[known.T @ pull + w[:-1] / n, pull.sum()]

        best = minimize(loss, np.zeros(shape[1] + 1), jac=True, options={"gtol": 1e-9})
        expected = other @ best.x[:-1] + best.x[-1]
        assert found[test] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("probe", [P1, P2], ids=["P1", "P2"])
@pytest.mark.parametrize("width", [8, 90])
def test_states_that_are_all_the_same_say_nothing(probe: LinearProbe, width: int) -> None:
    # At the embedding, state A is the same token for every prompt.
    labels = np.arange(60) % 3 == 0
    states = np.tile(np.random.default_rng(0).normal(size=width), (60, 1)).astype(np.float32)
    assert score(states, labels, grouped_folds(labels, np.arange(60)), probe) == 0.5
    assert held_out(states, labels, [np.arange(9)], probe, np.arange(60))[0].tolist() == [0] * 9


def test_folds_keep_groups_whole_and_classes_even() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 90, 120)
    labels = rng.random(120) < 0.3
    folds = grouped_folds(labels, groups, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    shares = [labels[folds == fold].mean() for fold in range(5)]
    assert max(shares) - min(shares) < 0.15
    assert (folds == grouped_folds(labels, groups, seed=1)).all()
    assert (folds != grouped_folds(labels, groups, seed=2)).any()


def test_a_class_of_too_few_independent_prompts_has_no_folds() -> None:
    labels = np.arange(40) < 12
    groups = np.where(labels, np.arange(40) % 3, np.arange(40))
    with pytest.raises(StatisticsError, match="of each class, one class has 3"):
        grouped_folds(labels, groups)


def test_permuted_labels_keep_the_classes_of_folds_and_what_groups_share() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    labels = np.repeat(rng.random(60) < 0.4, 2)
    folds = grouped_folds(labels, groups)
    shuffled = permuted(labels, folds, groups, rng)
    assert (shuffled != labels).any()
    assert (shuffled[::2] == shuffled[1::2]).all()
    for fold in range(5):
        assert shuffled[folds == fold].sum() == labels[folds == fold].sum()


def test_a_planted_signal_beats_its_null_and_the_null_is_at_a_half() -> None:
    rng = np.random.default_rng(5)
    states, labels = planted(rng, 60, 30, 0.95)
    groups = np.arange(60)
    folds = grouped_folds(labels, groups)
    prepared = prepare(states, folds, P1)
    null = permutation_null(
        prepared,
        labels,
        P1,
        folds=folds,
        groups=groups,
        scores=out_of_fold(prepared, labels, P1),
        draws=60,
        rng=rng,
    )
    assert null.auroc.value == pytest.approx(0.5, abs=0.05)
    assert null.auroc.low < 0.4
    assert null.auroc.high > 0.6
    assert null.auroc_p == pytest.approx(1 / 61)
    assert null.balanced_accuracy_p < 0.05


@pytest.mark.slow
def test_p_values_are_uniform_where_labels_say_nothing() -> None:
    found = []
    for n in range(80):
        rng = np.random.default_rng(1000 + n)
        states, labels = planted(rng, 40, 10, 0.5)
        groups = np.arange(40)
        folds = grouped_folds(labels, groups, seed=n)
        prepared = prepare(states, folds, P1)
        scores = out_of_fold(prepared, labels, P1)
        kwargs = {"folds": folds, "groups": groups, "scores": scores, "draws": 39, "rng": rng}
        found.append(permutation_null(prepared, labels, P1, **kwargs).auroc_p)
    # Steps of 1/40: a uniform law is within their width.
    assert kstest(np.asarray(found) - 1 / 80, "uniform").pvalue > 0.01
    assert np.mean(np.asarray(found) <= 0.1) < 0.22


def test_what_is_held_out_is_scored_by_others_only_and_not_by_its_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    states, labels = planted(rng, 60, 4, 0.99)
    groups = np.arange(60)
    test = np.arange(20)
    (clean,) = held_out(states, labels, [test], P1, groups)
    # Poisoned duplicates of the held-out prompts would turn the probe around.
    twisted = np.r_[states, np.repeat(states[test], 20, axis=0)]
    lies = np.r_[labels, np.repeat(~labels[test], 20)]
    linked = np.r_[groups, np.repeat(groups[test], 20)]
    (same,) = held_out(twisted, lies, [test], P1, linked)
    assert same == pytest.approx(clean)
    assert held_out(states, labels, [np.flatnonzero(labels)], P1, groups) == [None]
