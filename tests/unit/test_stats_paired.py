"""Paired differences with rollouts and clusters: plain cases, brute force, simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tseval.errors import StatisticsError
from tseval.stats_compare import mcnemar_exact, tango_interval
from tseval.stats_paired import flip_signs, paired


@given(some.lists(some.tuples(some.booleans(), some.booleans()), min_size=1, max_size=60))
def test_independent_pairs_of_yes_and_no_are_tangos_and_mcnemars(
    pairs: list[tuple[bool, bool]],
) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    found = paired(a, b, range(len(a)), [1] * len(a))
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    plain = tango_interval(only_a, only_b, len(pairs))
    assert found.interval().low == pytest.approx(plain.low, abs=1e-9)
    assert found.interval().high == pytest.approx(plain.high, abs=1e-9)
    assert found.interval().method == "tango"
    assert found.pvalue == mcnemar_exact(only_a, only_b)


@pytest.mark.parametrize(("n", "upper"), [(40, 0.088), (100, 0.037), (250, 0.015)])
def test_without_a_discordant_pair_there_is_an_interval(n: int, upper: float) -> None:
    for k in (1, 8):
        found = paired([0.0] * n, [0.0] * n, range(n), [k] * n)
        interval = found.interval()
        assert interval.low < 0 < interval.high
        # Student's quantile makes that of several rollouts a little wider, never narrower.
        assert interval.high >= upper - 0.0005
        assert interval.high < upper * 1.1
        assert found.pvalue == 1.0


@settings(max_examples=50, deadline=None)
@given(some.lists(some.integers(-4, 4), min_size=1, max_size=9), some.sampled_from([1, 4, 8]))
def test_sign_flips_are_counted_as_brute_force_counts_them(values: list[int], k: int) -> None:
    sums = np.array(values) / k
    flips = [abs(sum(s * v for s, v in zip(signs, sums, strict=True)))
             for signs in product((-1, 1), repeat=len(values))]  # fmt: skip
    wanted = np.mean([each >= abs(sums.sum()) - 1e-9 for each in flips])
    assert flip_signs(sums) == pytest.approx(wanted)


def test_sums_without_a_common_denominator_are_drawn_and_the_same_each_time() -> None:
    sums = np.random.default_rng(0).normal(0.3, 1, 60) * np.pi
    drawn = flip_signs(sums)
    assert drawn == flip_signs(sums)
    from scipy.stats import permutation_test

    wanted = permutation_test(
        (sums,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert drawn == pytest.approx(wanted.pvalue, abs=0.02)


def test_the_one_sided_p_value_and_the_limit_say_the_same() -> None:
    rng = np.random.default_rng(5)
    told = set()
    for k in (1, 4):
        for shift in np.linspace(0, 0.3, 16):
            a, b = rng.binomial(k, 0.3 + shift, 80) / k, rng.binomial(k, 0.3, 80) / k
            found = paired(a, b, range(80), [k] * 80)
            worse = found.worse() < 0.05
            assert worse is (found.interval(0.9).low > 0)
            told.add(worse)
    assert told == {True, False}


def test_prompts_of_one_cluster_count_as_one() -> None:
    a, b = [1.0] * 8 + [0.0] * 32, [0.0] * 40
    free = paired(a, b, range(40), [1] * 40)
    bound = paired(a, b, [n // 4 for n in range(40)], [1] * 40)
    assert free.pvalue == pytest.approx(2 / 2**8)
    # Two clusters of four changed, of ten.
    assert bound.pvalue == pytest.approx(0.5)
    assert bound.interval().low < 0 < free.interval().low
    assert bound.clusters == 10


def test_one_cluster_says_little() -> None:
    found = paired([1.0, 1.0], [0.0, 1.0], ["same", "same"], [1, 1])
    assert found.interval().high - found.interval().low > 1.5


def test_how_many_prompts_would_tell() -> None:
    none = paired([0.0] * 40, [0.0] * 40, range(40), [1] * 40)
    needed = none.pairs_to_tell(0.02, 0.05)
    # z^2 / (n + z^2) < 0.02 with z = 1.645
    assert needed == pytest.approx(1.645**2 * 0.98 / 0.02, abs=2)
    assert not none.tells(0.02, 0.05)
    assert none.tells(0.02, 0.05, (needed + 1) / 40)
    assert none.pairs_to_tell(0.1, 0.05) == 40
    assert none.pairs_to_tell(1e-9, 0.05) is None
    mixed = paired([1.0] * 6 + [0.0] * 34, [0.0] * 4 + [1.0] * 4 + [0.0] * 32, range(40), [1] * 40)
    more = mixed.pairs_to_tell(0.03, 0.05)
    assert more is not None
    assert more > 40
    assert mixed.tells(0.03, 0.05, more / 40)
    assert not mixed.tells(0.03, 0.05, more / 40 * 0.97)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [([], [], "got none"), ([2.0], [0.0], "between 0 and 1"), ([1.0, 0.0], [1.0], "one length")],
)
def test_what_cannot_be_compared_is_refused(a: list[float], b: list[float], match: str) -> None:
    with pytest.raises(StatisticsError, match=match):
        paired(a, b, range(len(a)), [1] * len(a))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("rates", [(0.05, 0.05), (0.02, 0.06), (0.3, 0.5)])
@pytest.mark.parametrize("concentration", [0.5, 5.0])
def test_intervals_hold_the_true_difference(
    k: int, rates: tuple[float, float], concentration: float
) -> None:
    from scipy.stats import beta, norm

    rng = np.random.default_rng(k)
    n, held, runs = 60, 0, 400
    for _ in range(runs):
        z = rng.standard_normal((2, n))
        shared = norm.cdf([z[0], 0.5 * z[0] + np.sqrt(0.75) * z[1]])
        a, b = (
            rng.binomial(k, beta.ppf(u, rate * concentration, (1 - rate) * concentration)) / k
            for u, rate in zip(shared, rates, strict=True)
        )
        found = paired(a, b, range(n), [k] * n).interval()
        held += found.low <= rates[0] - rates[1] <= found.high
    # 0.95 less three standard errors, and two points for the rarest events.
    assert held / runs > 0.90
