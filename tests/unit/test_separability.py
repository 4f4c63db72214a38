"""Measures of separability against plain formulas, and what their corrections promise."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import ttest_ind
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf

from tseval.errors import StatisticsError
from tseval.probes import (
    P1,
    SeparabilityPanel,
    norm_fisher,
    out_of_fold,
    prepare,
    stratified_folds,
    stretch_mean,
    trace_places,
    valley_depth,
)
from tseval.probes.linear import Fold
from tseval.probes.separability import (
    discriminant_scores,
    held_out_logits,
    ledoit_wolf,
    mahalanobis_as_published,
    mahalanobis_of,
    measures_as_published,
    norm_fishers,
    score_measures,
    span_features,
)
from tseval.probes.valleys import Separation, _equal_classes

LABELS = np.arange(30) < 12


def sample(seed: int = 0, shift: float = 1.0, width: int = 7) -> np.ndarray:
    states = np.random.default_rng(seed).normal(size=(30, width)) * np.arange(1, width + 1)
    states[LABELS, 0] += shift
    return states


def plain_norm_fisher(states: np.ndarray, labels: np.ndarray) -> float:
    sd = states.std(axis=0)
    z = (states - states.mean(axis=0)) / np.where(sd <= 1e-6, 1.0, sd)
    m1, m0 = z[labels].mean(axis=0), z[~labels].mean(axis=0)
    spread = [((z[each] - m) ** 2).sum(axis=1).mean() for each, m in ((labels, m1), (~labels, m0))]
    return float(((m1 - m0) ** 2).sum() / sum(spread))


# -- formulas


def test_norm_fisher_is_the_plain_formula_also_where_dimensions_hardly_vary() -> None:
    states = sample()
    states[:, 3] = 5.0
    states[:, 4] = 1e3 + 1e-8 * states[:, 4]
    assert norm_fisher(states, LABELS) == pytest.approx(plain_norm_fisher(states, LABELS), rel=1e-4)


def test_reweighted_norm_fisher_is_that_of_the_prompts_that_are_drawn() -> None:
    states = sample().astype(np.float32)
    rng = np.random.default_rng(1)
    rows = [_equal_classes(LABELS, rng) for _ in range(300)]
    one, zero = (np.stack([row[side] for row in rows]) / 12 for side in (0, 1))
    found = norm_fishers(states, one, zero)
    for row, value in zip(rows, found, strict=True):
        kept = row.any(axis=0)
        assert kept.sum() == 24
        assert value == pytest.approx(plain_norm_fisher(states[kept], LABELS[kept]), rel=1e-4)


def test_states_that_are_points_have_no_norm_fisher_and_equal_ones_have_0() -> None:
    one, zero = LABELS[None] / 12, ~LABELS[None] / 18
    assert np.isnan(norm_fishers(LABELS[:, None].astype(float), one, zero)[0])
    assert norm_fishers(np.ones((30, 2)), one, zero)[0] == 0.0
    with pytest.raises(StatisticsError, match="got 30 of 30 prompts in one"):
        norm_fisher(sample(), LABELS | True)


def test_measures_of_scores_are_their_formulas() -> None:
    scores = sample()[:, 0]
    a, b = scores[LABELS], scores[~LABELS]
    s1, s0 = a.var(ddof=1), b.var(ddof=1)
    s, gap = (s1 + s0) / 2, a.mean() - b.mean()
    found = score_measures(scores, LABELS[None], ~LABELS[None])
    assert found["logit_fisher"] == pytest.approx([gap**2 / (s1 + s0)])
    assert found["cohens_d"] == pytest.approx([gap / np.sqrt(s)])
    log = 0.5 * np.log(s / np.sqrt(s1 * s0))
    assert found["bhattacharyya"] == pytest.approx([0.125 * gap**2 / s + log])
    paper = score_measures(scores, LABELS[None], ~LABELS[None], doubled=True)
    assert paper["bhattacharyya"] == pytest.approx([0.25 * gap**2 / s + log])
    # Student's t of two classes of one size is their d, times the root of half that size.
    halves = np.arange(30) % 2 == 0
    d = score_measures(scores, halves[None], ~halves[None])["cohens_d"][0]
    assert ttest_ind(scores[halves], scores[~halves]).statistic == pytest.approx(d * np.sqrt(7.5))


def test_bhattacharyya_is_the_overlap_of_two_normal_densities() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.4, 1.0, 1000), rng.normal(2.0, 2.5, 1000)
    labels = np.arange(2000) < 1000
    found = score_measures(np.r_[a, b], labels[None], ~labels[None])["bhattacharyya"][0]
    x = np.linspace(-15, 20, 20_001)

    def density(values: np.ndarray) -> np.ndarray:
        m, s = values.mean(), values.std(ddof=1)
        return np.exp(-((x - m) ** 2) / (2 * s**2)) / (s * np.sqrt(2 * np.pi))

    overlap = np.sqrt(density(a) * density(b)).sum() * (x[1] - x[0])
    assert found == pytest.approx(-np.log(overlap), rel=1e-6)


def test_counts_in_a_draw_are_the_prompts_that_often() -> None:
    scores = sample()[:, 0]
    times = np.random.default_rng(3).integers(0, 4, 30)
    found = score_measures(scores, (LABELS * times)[None], (~LABELS * times)[None])
    again, labels = np.repeat(scores, times), np.repeat(LABELS, times)
    plain = score_measures(again, labels[None], ~labels[None])
    for name, values in plain.items():
        assert found[name] == pytest.approx(values)


def test_scores_without_variance_are_degenerate_and_give_0() -> None:
    scores = np.where(LABELS, 0.1, 0.7)
    for values in score_measures(scores, LABELS[None], ~LABELS[None]).values():
        assert values == pytest.approx([0.0])


def test_the_published_mahalanobis_is_that_of_total_covariance_in_sample() -> None:
    states, folds = sample(width=40), np.arange(30) % 5
    plain = []
    for fold in range(5):
        known, classes = states[folds != fold], LABELS[folds != fold]
        covariance = np.cov(known.T, bias=True) + np.eye(40)
        means = known[classes].mean(axis=0), known[~classes].mean(axis=0)
        plain.append(mahalanobis(*means, np.linalg.inv(covariance)))
    assert mahalanobis_as_published(states, LABELS, folds) == pytest.approx(np.mean(plain))
    published = measures_as_published(states, LABELS)
    assert published["mahalanobis"] == pytest.approx(
        mahalanobis_as_published(states, LABELS, stratified_folds(LABELS))
    )


@pytest.mark.parametrize("width", [5, 60])
def test_shrinkage_is_that_of_scikit_learn(width: int) -> None:
    rest = sample(width=width)
    covariance, share = sklearn_ledoit_wolf(rest, assume_centered=True)
    assert ledoit_wolf(rest, width) == pytest.approx(
        (share, np.trace(rest.T @ rest) / 30 / width), rel=1e-9
    )
    assert np.trace(covariance) > 0


@pytest.mark.parametrize("width", [5, 60])
def test_discriminant_scores_are_those_of_the_unrotated_states(width: int) -> None:
    states, folds = sample(width=width), stratified_folds(LABELS)
    z = (states - states.mean(axis=0)) / states.std(axis=0)
    plain = np.empty(30)
    for fold in range(5):
        held = folds == fold
        known, classes = z[~held], LABELS[~held]
        means = known[classes].mean(axis=0), known[~classes].mean(axis=0)
        rest = known - np.where(classes[:, None], *means)
        covariance, share = sklearn_ledoit_wolf(rest, assume_centered=True)
        assert share > 1e-3
        direction = np.linalg.solve(covariance, means[0] - means[1])
        plain[held] = (z[held] - (means[0] + means[1]) / 2) @ direction
    features = span_features(states)
    assert features.shape[1] <= min(30, width)
    prepared = [
        Fold(np.flatnonzero(folds != f), np.flatnonzero(folds == f), *parts)
        for f in range(5)
        for parts in [(features[folds != f], features[folds == f])]
    ]
    found = discriminant_scores(prepared, LABELS, width)
    assert found == pytest.approx(plain, rel=1e-6, abs=1e-9)
    square = plain[LABELS].mean() - plain[~LABELS].mean()
    distance = mahalanobis_of(found, LABELS[None], ~LABELS[None])
    assert distance == pytest.approx([np.sign(square) * np.sqrt(abs(square))])


@pytest.mark.parametrize("shift", [0.0, 2.0, 30.0])
def test_newton_finds_what_scikit_learn_finds(shift: float) -> None:
    states = sample(shift=shift, width=50)
    prepared = prepare(states, stratified_folds(LABELS), P1)
    slow = out_of_fold(prepared, LABELS, P1)
    assert held_out_logits(prepared, LABELS) == pytest.approx(slow, abs=3e-3)


# -- places


def test_places_of_a_trace_are_those_of_the_published_code() -> None:
    for length in (1, 7, 99, 100, 101, 250, 1999):
        plan = trace_places(length)
        hops = [plan.tokens[n] for n in plan.hopping]
        assert hops == np.floor(np.linspace(0, length - 1, 100)).astype(int).tolist()
        values = np.arange(length, dtype=float)
        read = np.r_[values[list(plan.tokens)], [values[a:b].mean() for a, b in plan.slices]]
        hopping, pooling = np.split(plan.laid_out(read), 2)
        assert hopping.tolist() == hops
        if length <= 100:
            assert pooling.tolist() == hops
            assert plan.slices == ()
        else:
            edges = np.linspace(0, length, 101).astype(int)
            means = [values[a:b].mean() for a, b in pairwise(edges)]
            assert pooling.tolist() == means


# -- corrections


def panel(
    seed: int, shift: np.ndarray, *, fitted: bool = False, rho: float = 0.8, width: int = 16
) -> dict[str, Separation]:
    """States of 45 prompts along a trace, their noise alike at neighbouring places."""
    rng = np.random.default_rng(seed)
    labels = np.arange(45) < 15
    found = SeparabilityPanel(
        labels,
        np.arange(45),
        len(shift),
        permutations=40,
        draws=80,
        seed=seed,
        name="test",
        fitted=fitted,
        published=False,
    )
    noise = rng.normal(size=(45, width))
    for place, by in enumerate(shift):
        noise = rho * noise + np.sqrt(1 - rho**2) * rng.normal(size=noise.shape)
        states = noise.copy()
        states[labels, 0] += by
        found.measure(place, states)
    return found.found()


def test_corrected_norm_fisher_is_0_where_there_is_nothing() -> None:
    found = [panel(seed, np.zeros(2), rho=0.0)["norm_fisher"] for seed in range(60)]
    values = np.asarray([each.corrected for each in found])
    assert values.mean() == pytest.approx(0.0, abs=3 * values.std() / np.sqrt(values.size))
    # What would be plotted otherwise, for equal classes of 15 whose own means are taken off.
    assert np.mean([each.raw for each in found]) == pytest.approx(1 / 14, rel=0.1)


@pytest.mark.slow
def test_every_corrected_measure_is_0_where_there_is_nothing() -> None:
    found = [panel(seed, np.zeros(2), fitted=True, rho=0.0) for seed in range(40)]
    assert len(found[0]) == 5
    for name in found[0]:
        values = np.asarray([each[name].corrected for each in found])
        assert abs(values.mean()) < 3.5 * values.std() / np.sqrt(values.size), name


def test_a_planted_curve_is_recovered() -> None:
    shift = np.asarray([3.0, 1.5, 0.0, 1.5, 3.0])
    found = [panel(seed, shift)["norm_fisher"] for seed in range(40)]
    values = np.asarray([each.corrected for each in found])
    # One of 16 dimensions differs; its sd over both equal classes is sqrt(1 + shift^2 / 4).
    scale = 1 + shift**2 / 4
    expected = (shift**2 / scale) / (2 * (15 + 1 / scale))
    assert values.mean(axis=0) == pytest.approx(expected, abs=0.008)
    covered = [
        (low <= expected) & (expected <= high) for low, high in (each.band() for each in found)
    ]
    assert np.mean(covered) > 0.88


def test_corrected_values_do_not_depend_on_how_unequal_classes_are() -> None:
    def mean(refusals: int) -> float:
        found = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            labels = np.arange(90) < refusals
            states = rng.normal(size=(90, 12))
            states[labels, 0] += 2.0
            made = SeparabilityPanel(
                *(labels, np.arange(90), 1),
                **{"permutations": 40, "draws": 2, "seed": seed, "name": "x"},
                fitted=False,
                published=False,
            )
            made.measure(0, states)
            found.append(made.found()["norm_fisher"].corrected[0])
        return float(np.mean(found))

    assert mean(12) == pytest.approx(mean(45), rel=0.12)


def test_everything_drawn_depends_on_the_seed_alone() -> None:
    one, two = (panel(3, np.ones(2), fitted=True) for _ in range(2))
    for name, values in one.items():
        assert np.array_equal(values.raw, two[name].raw)
        assert np.array_equal(values.null, two[name].null)
        assert np.array_equal(values.draws, two[name].draws)


def test_near_duplicates_widen_the_band() -> None:
    rng = np.random.default_rng(0)
    once = rng.normal(size=(24, 8))
    labels = np.arange(24) < 12
    once[labels, 0] += 1.5
    states, twice = np.repeat(once, 3, axis=0), np.repeat(labels, 3)

    def width(groups: np.ndarray) -> float:
        made = SeparabilityPanel(
            *(twice, groups, 1),
            **{"permutations": 80, "draws": 300, "seed": 0, "name": "x"},
            fitted=False,
            published=False,
        )
        made.measure(0, states)
        low, high = made.found()["norm_fisher"].band()
        return float((high - low)[0])

    assert width(np.repeat(np.arange(24), 3)) > 1.4 * width(np.arange(72))


def test_measures_that_need_folds_are_left_out_where_there_are_too_few_prompts() -> None:
    groups = np.r_[np.zeros(20), np.arange(1, 21)].astype(int)
    made = SeparabilityPanel(
        *(np.arange(40) < 20, groups, 1), permutations=5, draws=5, seed=0, name="x"
    )
    made.measure(0, np.random.default_rng(0).normal(size=(40, 4)))
    assert "5 folds need 5 independent prompts" in made.lost
    assert set(made.found()) == {"norm_fisher"}
    with pytest.raises(StatisticsError, match="panel 'y' has prompts of one class only"):
        SeparabilityPanel(
            *(np.ones(4, dtype=bool), np.arange(4), 1), permutations=1, draws=1, seed=0, name="y"
        )


# -- depth


def level(curve: np.ndarray, noise: float = 0.0, seed: int = 0) -> Separation:
    rng = np.random.default_rng(seed)
    return Separation(
        raw=curve + 0.1,
        null=0.1 + 1e-9 * rng.normal(size=(200, len(curve))),
        draws=curve + noise * rng.normal(size=(200, len(curve))),
    )


def test_the_depth_is_that_of_the_middle_below_both_ends() -> None:
    curve = np.full(100, 0.5)
    curve[:5], curve[95:], curve[40] = 0.8, 0.6, 0.2
    found = valley_depth(level(curve))
    assert found.estimate.value == pytest.approx(0.7 - 0.2)
    assert found.p_value == 1 / 201
    # Just outside the middle, and just inside the ends.
    for place, by in ((19, 0.0), (80, 0.0), (20, 0.15), (79, 0.15), (4, -0.01), (5, 0.0)):
        other = np.full(100, 0.5)
        other[place] -= 0.15 if by >= 0 else 0.1
        expected = by if by >= 0 else -0.01
        assert valley_depth(level(other)).estimate.value == pytest.approx(expected, abs=1e-6), place
    hill = np.full(100, 0.1)
    hill[15:85] = 0.4
    assert valley_depth(level(hill)).estimate.value == pytest.approx(-0.3)


def test_a_level_curve_has_no_depth_however_noisy() -> None:
    rng = np.random.default_rng(0)
    depths = [
        valley_depth(level(0.3 + 0.1 * rng.normal(size=100), 0.1, seed)) for seed in range(60)
    ]
    values = np.asarray([each.estimate.value for each in depths])
    assert values.mean() == pytest.approx(0.0, abs=3 * values.std() / np.sqrt(60))
    # The least of sixty noisy values is far below: that is what was taken off.
    assert np.mean([each.p_value < 0.05 for each in depths]) < 0.15


def test_stretches_are_tested_against_permuted_labels() -> None:
    found = panel(0, np.asarray([3.0, 3.0, 0.0, 0.0, 0.0]))["norm_fisher"]
    start, end = stretch_mean(found, (0.0, 0.4)), stretch_mean(found, (0.4, 1.0))
    assert start.estimate.value == pytest.approx(found.corrected[:2].mean())
    assert start.p_value == 1 / 41
    assert end.p_value > 0.05
    assert start.null.low < 0 < start.null.high < start.estimate.low


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_level_curves_are_called_valleys_no_more_often_than_said(shift: float) -> None:
    found = [panel(seed, np.full(40, shift))["norm_fisher"] for seed in range(100)]
    depths = [valley_depth(each) for each in found]
    assert np.mean([each.p_value < 0.05 for each in depths]) <= 0.1
    assert np.mean([each.estimate.low <= 0 <= each.estimate.high for each in depths]) >= 0.88
    truth = np.mean([each.corrected for each in found], axis=0)
    covered = [(low <= truth) & (truth <= high) for low, high in (each.band() for each in found)]
    assert np.mean(covered) >= 0.92
