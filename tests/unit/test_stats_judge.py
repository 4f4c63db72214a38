"""Rates corrected for a judge's errors: worked by hand, at the edges, and against oracles."""

import numpy as np
import pytest

from tseval.errors import StatisticsError
from tseval.stats_judge import Counts, Powered, prediction_powered, rogan_gladen

NAN = float("nan")


def rows(successes: int, trials: int) -> Counts:
    """Single rows, one a prompt."""
    return Counts([1] * successes + [0] * (trials - successes), [1] * trials)


def test_the_corrected_rate_worked_by_hand():
    # (0.30 + 0.80 - 1) / (0.90 + 0.80 - 1) = 0.1 / 0.7
    found = rogan_gladen(rows(30, 100), rows(90, 100), rows(80, 100))
    assert found.rate.value == pytest.approx(1 / 7)
    assert found.apparent == pytest.approx(0.3)
    assert found.youden.value == pytest.approx(0.7)
    assert found.rate.low < 1 / 7 < found.rate.high
    assert found.rate.method == "rogan-gladen"


def test_many_rows_give_the_interval_of_the_delta_method():
    n = 40_000
    p, se, sp = 0.4, 0.9, 0.85
    found = rogan_gladen(rows(int(p * n), n), rows(int(se * n), n), rows(int(sp * n), n))
    j, theta = se + sp - 1, (p + sp - 1) / (se + sp - 1)
    variance = p * (1 - p) + theta**2 * se * (1 - se) + (1 - theta) ** 2 * sp * (1 - sp)
    half = 1.96 * (variance / n) ** 0.5 / j
    assert found.rate.high - theta == pytest.approx(half, rel=0.05)
    assert theta - found.rate.low == pytest.approx(half, rel=0.05)


def test_a_judge_that_never_errs_leaves_the_rate_as_it_is():
    found = rogan_gladen(rows(30, 100), rows(1000, 1000), rows(1000, 1000))
    assert found.rate.value == pytest.approx(0.3)
    assert found.rate.high - found.rate.low == pytest.approx(0.18, abs=0.02)


def test_less_than_the_false_alarms_is_no_hit_and_still_no_certainty():
    # 2% are called hits, where 10% would be by false alarms alone.
    found = rogan_gladen(rows(2, 100), rows(95, 100), rows(90, 100)).rate
    assert (found.value, found.low) == (0, 0)
    at_the_edge = rogan_gladen(rows(10, 100), rows(95, 100), rows(90, 100)).rate
    assert found.high == pytest.approx(at_the_edge.high, abs=0.01)
    assert found.high > 0.05


def test_more_than_the_judge_could_see_is_all_and_still_no_certainty():
    found = rogan_gladen(rows(99, 100), rows(80, 100), rows(95, 100)).rate
    assert (found.value, found.high) == (1, 1)
    assert 0.7 < found.low < 0.95


def test_swapping_hits_and_the_rest_mirrors_the_rate():
    one = rogan_gladen(rows(30, 100), rows(90, 100), rows(80, 100)).rate
    other = rogan_gladen(rows(70, 100), rows(80, 100), rows(90, 100)).rate
    assert other.value == pytest.approx(1 - one.value)
    assert other.low == pytest.approx(1 - one.high, abs=0.005)


@pytest.mark.parametrize("sensitivity", [50, 55, 40, 10])
def test_a_judge_near_chance_or_worse_is_refused_with_the_reason(sensitivity):
    with pytest.raises(StatisticsError, match=r"sensitivity \+ specificity - 1 is") as caught:
        rogan_gladen(rows(30, 100), rows(sensitivity, 100), rows(55, 100))
    assert "has to lie above 0.1" in caught.value.message


def test_a_good_judge_that_was_hardly_measured_is_refused():
    with pytest.raises(StatisticsError, match="has to lie above"):
        rogan_gladen(rows(30, 100), rows(2, 3), rows(2, 3))


def test_known_outcomes_are_not_corrected():
    # Half of the rollouts are empty and count as hits; of the others 1/7 are hits behind 30%.
    judged = Counts([1] * 30 + [0] * 70 + [0] * 100, [1] * 100 + [0] * 100)
    empty = Counts([0] * 100 + [1] * 100, [0] * 100 + [1] * 100)
    found = rogan_gladen(judged, rows(90, 100), rows(80, 100), known=empty)
    assert found.rate.value == pytest.approx(0.5 * (1 / 7) + 0.5)
    assert found.apparent == pytest.approx(0.65)
    none = rogan_gladen(judged, rows(90, 100), rows(80, 100), known=Counts([0] * 200, empty.trials))
    assert none.rate.value == pytest.approx(0.5 / 7)


def test_prompts_with_alike_rollouts_count_as_fewer():
    alike = Counts([4] * 30 + [0] * 70, [4] * 100)
    apart = rows(120, 400)
    wide = rogan_gladen(alike, rows(90, 100), rows(80, 100)).rate
    narrow = rogan_gladen(apart, rows(90, 100), rows(80, 100)).rate
    once = rogan_gladen(rows(30, 100), rows(90, 100), rows(80, 100)).rate
    assert wide.value == pytest.approx(narrow.value)
    assert narrow.high < wide.high
    assert wide.high == pytest.approx(once.high, abs=0.02)


def test_prompts_labelled_several_times_make_the_judge_less_sure():
    single, clustered = rows(180, 200), Counts([4] * 45 + [0] * 5, [4] * 50)
    sure = rogan_gladen(rows(30, 100), single, rows(190, 200))
    unsure = rogan_gladen(rows(30, 100), clustered, rows(190, 200))
    assert unsure.sensitivity.value == pytest.approx(sure.sensitivity.value)
    assert unsure.sensitivity.low < sure.sensitivity.low - 0.01


def test_the_same_seed_gives_the_same_interval_and_the_seed_hardly_matters():
    counts = (rows(30, 100), rows(90, 100), rows(80, 100))
    assert rogan_gladen(*counts, seed=3) == rogan_gladen(*counts, seed=3)
    one, other = rogan_gladen(*counts, seed=3).rate, rogan_gladen(*counts, seed=4).rate
    assert one.high == pytest.approx(other.high, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensitivity": Counts([], [])}, "a correction needs rows that people call a hit"),
        ({"specificity": Counts([0], [0])}, "a correction needs rows that people call no hit"),
        ({"hits": Counts([], [])}, "a correction needs rollouts with a verdict"),
        ({"hits": Counts([2], [1])}, "0 <= successes <= trials"),
        ({"known": Counts([1, 1], [1, 1])}, "prompt by prompt as the hits do"),
    ],
)
def test_counts_that_say_nothing_are_errors(change, message):
    counts = {"hits": rows(3, 10), "sensitivity": rows(9, 10), "specificity": rows(9, 10)}
    with pytest.raises(StatisticsError, match=message):
        rogan_gladen(**{**counts, **change})


# Prediction-powered


def powered(n: int = 400, m: int = 100, seed: int = 0, **more: float) -> tuple[np.ndarray, ...]:
    """Verdicts on n single rollouts, labels on m of them at random."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < more.get("rate", 0.4)
    wrong = rng.random(n) < more.get("errors", 0.1)
    human = np.full(n, NAN)
    chosen = rng.choice(n, m, replace=False)
    human[chosen] = truth[chosen]
    return (truth ^ wrong).astype(float), human, np.full(n, m / n), np.arange(n)


def test_the_rate_is_that_of_the_formula():
    f, y, pi, prompts = powered()
    found = prediction_powered(f, y, pi, prompts)
    labelled = ~np.isnan(y)
    w = found.weight
    expected = y[labelled].mean() + w * (f.mean() - f[labelled].mean())
    assert found.rate.value == pytest.approx(expected)
    assert (found.labels, found.prompts) == (100, 100)
    assert found.labels_alone == pytest.approx(y[labelled].mean())
    assert 0.5 < w < 1


def test_a_helpful_judge_narrows_the_interval_and_a_useless_one_is_not_relied_on():
    good = prediction_powered(*powered(errors=0.05))
    useless = prediction_powered(*powered(errors=0.5))
    assert good.rate.high - good.rate.low < 0.75 * (useless.rate.high - useless.rate.low)
    assert useless.weight < 0.2
    assert useless.rate.value == pytest.approx(useless.labels_alone, abs=0.03)


def test_labels_on_every_rollout_give_their_mean():
    rng = np.random.default_rng(1)
    y = (rng.random(200) < 0.3).astype(float)
    found = prediction_powered(rng.random(200) < 0.5, y, np.ones(200), np.arange(200))
    assert found.rate.value == pytest.approx(y.mean())


def test_labels_chosen_with_unequal_probability_are_weighted_by_its_inverse():
    # Hits are labelled twenty times as often as the rest; the judge says nothing.
    truth = np.array([1.0] * 100 + [0.0] * 900)
    pi = np.where(truth == 1, 1.0, 0.05)
    y = np.where((truth == 1) | (np.arange(1000) % 20 == 0), truth, NAN)
    found = prediction_powered(np.zeros(1000), y, pi, np.arange(1000))
    assert found.rate.value == pytest.approx(0.1)
    assert found.rate.low < 0.1 < found.rate.high


def test_only_ratios_of_the_probabilities_matter():
    f, y, pi, prompts = powered()
    assert prediction_powered(f, y, pi, prompts).rate.value == pytest.approx(
        prediction_powered(f, y, pi / 3, prompts).rate.value
    )


def test_labels_that_never_contradict_the_judge_leave_doubt():
    f, y, pi, prompts = powered(errors=0.0, rate=0.3)
    rate = prediction_powered(f, y, pi, prompts).rate
    assert rate.value == pytest.approx(f.mean())
    binomial = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert rate.high - rate.value > binomial


def test_no_hit_among_labels_is_not_certainty():
    n = 400
    y = np.where(np.arange(n) % 4 == 0, 0.0, NAN)
    rate = prediction_powered(np.zeros(n), y, np.full(n, 0.25), np.arange(n)).rate
    assert rate.value == rate.low == 0
    assert 0.01 < rate.high < 0.1


def test_rollouts_of_one_prompt_are_one_unit_of_the_variance():
    f, y, pi, prompts = powered()
    four = [np.repeat(each, 4) for each in (f, y, pi, prompts)]
    once = prediction_powered(f, y, pi, prompts).rate
    clustered = prediction_powered(*four).rate
    apart = prediction_powered(*four[:3], np.arange(1600)).rate
    assert clustered.value == pytest.approx(once.value)
    width = clustered.high - clustered.low
    assert width == pytest.approx(once.high - once.low, rel=0.05)
    assert apart.high - apart.low < 0.7 * width


def test_known_outcomes_stay_what_they_are():
    f, y, pi, prompts = powered(n=400)
    base = prediction_powered(f, y, pi, prompts)
    more = [
        np.concatenate([f, np.ones(100)]),
        # A label on an empty answer is not asked for, and not listened to.
        np.concatenate([y, np.zeros(100)]),
        np.concatenate([pi, np.ones(100)]),
        np.arange(500),
    ]
    known = np.arange(500) >= 400
    found = prediction_powered(*more, known=known)
    assert found.labels == base.labels
    assert found.rate.value == pytest.approx(0.8 * base.rate.value + 0.2, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"human": [1.0] * 5 + [NAN] * 15}, "5 labels on 5 prompts are too few, expected at least"),
        ({"clusters": [0] * 20}, "20 labels on 1 prompts are too few"),
        ({"probability": [0.0] * 20}, "probability above 0"),
        ({"predicted": [2.0] * 20}, r"predictions lie in \[0, 1\]"),
        ({"human": [0.5] * 20}, "labels are 0, 1 or missing"),
        ({"clusters": [0]}, "lists of one length"),
    ],
)
def test_what_has_no_powered_rate_is_an_error(change, message):
    given = {
        "predicted": [1.0, 0.0] * 10,
        "human": [1.0, 0.0] * 10,
        "probability": [0.5] * 20,
        "clusters": list(range(20)),
    }
    assert isinstance(prediction_powered(**given), Powered)
    with pytest.raises(StatisticsError, match=message):
        prediction_powered(**{**given, **change})
