"""pass@k and maj@K: against all subsets, against draws, and at their edges."""

from itertools import combinations, product
from statistics import mean

import numpy as np
import pytest

from tseval.errors import StatisticsError
from tseval.stats import clustered_mean, clustered_proportion, majority, pass_at_k, wilson


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_rollout(n: int) -> None:
    for right, k in product(range(n + 1), range(1, n + 1)):
        rollouts = [True] * right + [False] * (n - right)
        expected = mean(float(any(chosen)) for chosen in combinations(rollouts, k))
        assert pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_share_of_right_rollouts_and_pass_at_n_whether_there_is_one() -> None:
    for n, right in [(1, 0), (1, 1), (7, 3), (64, 1)]:
        assert pass_at_k(n, right, 1) == pytest.approx(right / n)
        assert pass_at_k(n, right, n) == float(right > 0)


def test_many_rollouts_neither_overflow_nor_round_to_nothing() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)
    assert 0 < pass_at_k(10**5, 1, 1) < 1.1e-5
    assert pass_at_k(2000, 1000, 2000) == 1.0


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_pass_at_k_has_no_bias(k: int) -> None:
    rate, n, times = 0.15, 8, 40_000
    draws = np.random.default_rng(5).binomial(n, rate, times)
    found = float(np.mean([pass_at_k(n, int(right), k) for right in draws]))
    # Five standard errors of a mean of values in [0, 1].
    assert found == pytest.approx(1 - (1 - rate) ** k, abs=5 * 0.5 / times**0.5)


@pytest.mark.parametrize(
    ("n", "right", "k"), [(4, 2, 5), (4, 2, 0), (4, 2, -1), (4, 5, 2), (4, -1, 2), (0, 0, 1)]
)
def test_what_was_not_drawn_is_refused(n: int, right: int, k: int) -> None:
    with pytest.raises(StatisticsError, match="1 <= k <= n"):
        pass_at_k(n, right, k)


# -- majorities


def by_lot(classes: list[int], correct: list[bool]) -> float:
    """The mean over every way of breaking the tie."""
    numbers = sorted({number for number in classes if number >= 0})
    if not numbers:
        return 0.0
    most = max(map(classes.count, numbers))
    winners = [number for number in numbers if classes.count(number) == most]
    return mean(float(correct[classes.index(winner)]) for winner in winners)


def test_a_majority_is_what_breaking_ties_by_lot_gives_on_average() -> None:
    for classes in product([-1, 0, 1, 2], repeat=5):
        for right in (-2, 0, 1, 2):
            correct = [number == right for number in classes]
            expected = by_lot(list(classes), correct)
            assert majority(classes, correct) == pytest.approx(expected), (classes, right)


@pytest.mark.parametrize(
    ("classes", "right", "expected"),
    [
        ([0, 0, 1], 0, 1.0),
        ([0, 0, 1], 1, 0.0),
        ([0, 1], 1, 1 / 2),
        ([0, 1, 2], 2, 1 / 3),
        ([0, 1, 2], 3, 0.0),
        # No answer is no answer: three of them do not outvote one.
        ([-1, -1, -1, 0], 0, 1.0),
        ([-1, 0, 0, 1, 1], 0, 1 / 2),
        ([-1, -1], 0, 0.0),
        ([7, 3, 7], 7, 1.0),
    ],
)
def test_majorities_worked_by_hand(classes: list[int], right: int, expected: float) -> None:
    assert majority(classes, [number == right for number in classes]) == pytest.approx(expected)


def test_lists_of_different_lengths_are_no_majority() -> None:
    with pytest.raises(ValueError, match="zip"):
        majority([0, 1], [True])


# -- intervals over prompts


def width(hits: list[int], rollouts: int) -> float:
    found = clustered_proportion([rollouts * hit for hit in hits], [rollouts for _ in hits])
    return found.high - found.low


def test_four_identical_rollouts_do_not_narrow_the_interval() -> None:
    hits = [1] * 30 + [0] * 20
    single = wilson(30, 50)
    assert width(hits, 1) == pytest.approx(single.high - single.low)
    assert width(hits, 4) >= single.high - single.low
    assert width(hits, 4) == pytest.approx(width(hits, 64))
    # Taken as independent they would.
    many = wilson(120, 200)
    assert width(hits, 4) > 1.8 * (many.high - many.low)


def test_an_interval_of_means_over_prompts_is_about_prompts() -> None:
    values = [1.0, 0.5, 0.0, 0.5, 1.0, 0.0, 0.25, 0.75] * 5
    found = clustered_mean(values, [1] * 40)
    assert found.value == pytest.approx(0.5)
    # Not narrower than the spread of the values, with the t quantile of 39 degrees of freedom, and
    # not wider than yes or no with the same mean would have it.
    spread = 2 * 2.0227 * float(np.std(values, ddof=1)) / 40**0.5
    yes_or_no = wilson(20, 40)
    width = found.high - found.low
    assert 0.98 * spread <= width <= 1.05 * (yes_or_no.high - yes_or_no.low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_prompts_that_all_agree_leave_the_exact_limits(value: float) -> None:
    found = clustered_mean([value] * 30, [1] * 30)
    edge = wilson(int(30 * value), 30)
    assert (found.low, found.high) == (edge.low, edge.high)
