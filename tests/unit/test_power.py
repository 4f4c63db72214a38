"""Smallest differences: against another library, against simulation, and by hand."""

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import power_proportions_2indep

from tseval.errors import StatisticsError
from tseval.power import paired_difference, paired_power, unpaired_difference


@pytest.mark.parametrize("n", [24, 100, 450, 2000])
def test_an_unpaired_difference_has_the_power_that_another_library_gives_it(n: int) -> None:
    difference = unpaired_difference(n)
    assert difference is not None
    found = power_proportions_2indep(
        difference, (1 - difference) / 2, n, alpha=0.05, alternative="larger"
    )
    assert found.power == pytest.approx(0.8, abs=1e-3)


def _table(difference: float, correlation: float) -> tuple[float, float]:
    """Shares of pairs that only a, and only b, wins: rates around one half, correlated."""
    high, low = (1 + difference) / 2, (1 - difference) / 2
    both = high * low + correlation * np.sqrt(high * (1 - high) * low * (1 - low))
    return high - both, low - both


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("n", [40, 200])
def test_a_paired_difference_is_found_in_four_of_five_simulated_comparisons(
    n: int, correlation: float
) -> None:
    difference = paired_difference(n, correlation)
    assert difference is not None
    only_a, only_b = _table(difference, correlation)
    draws = np.random.default_rng(n).multinomial(
        n, [only_a, only_b, 1 - only_a - only_b], size=20_000
    )
    pvalues = binom.sf(draws[:, 0] - 1, draws[:, 0] + draws[:, 1], 0.5)
    assert (pvalues <= 0.05).mean() == pytest.approx(0.8, abs=0.012)


def test_without_a_true_difference_the_test_finds_one_in_at_most_one_of_twenty() -> None:
    for n in (20, 100, 500):
        # By hand: half of the pairs discordant, each of them falls either way.
        assert paired_power(n, 1e-9, 0.0) <= 0.05


def test_four_pairs_show_nothing_and_five_need_a_difference_near_one() -> None:
    # One half to the power of four is 0.0625: above the level, whatever happens.
    assert paired_difference(4) is None
    # All five must be won: (1 + d^2) / 2 discordant, of which (1 + d)^2 / (2 (1 + d^2)) are won,
    # is ((1 + d) / 2)^2 a pair, and its fifth power is 0.8 at 2 * 0.8^0.1 - 1.
    assert paired_difference(5) == pytest.approx(2 * 0.8**0.1 - 1, abs=1e-6)


def test_a_correlation_of_outcomes_makes_smaller_differences_show() -> None:
    found = [paired_difference(200, rho) for rho in (0.0, 0.3, 0.6, 0.9)]
    assert None not in found
    assert found == sorted(found, key=lambda each: -(each or 0))
    assert (found[0] or 0) > 2 * (found[-1] or 0)


def test_four_times_the_prompts_halve_the_difference() -> None:
    for few, many in ((200, 800), (500, 2000)):
        for ask in (paired_difference, unpaired_difference):
            small, large = ask(many), ask(few)
            assert small is not None
            assert large is not None
            assert large / small == pytest.approx(2, abs=0.1)


def test_where_outcomes_always_agree_only_the_difference_itself_is_discordant() -> None:
    # All discordant pairs are won by one side: five of them are needed, in 0.8 of the cases.
    difference = paired_difference(300, 1.0)
    assert difference is not None
    assert binom.sf(4, 300, difference) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": 0}, "at least one prompt, got n = 0"),
        ({"n": 9, "power": 1.0}, "power 1.0 or level 0.05"),
        ({"n": 9, "alpha": 0.5}, "power 0.8 or level 0.5"),
        ({"n": 9, "correlation": -0.1}, "a correlation from 0 to 1 is expected, got -0.1"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(StatisticsError, match=said):
        paired_difference(**arguments)  # type: ignore[arg-type]
