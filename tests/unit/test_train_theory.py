"""The theory's estimators: exact means over all outcomes, known laws, and what only bounds."""

from itertools import product
from math import comb, exp, inf, log, sqrt

import numpy as np
import pytest

from tseval.errors import StatisticsError
from tseval.train.theory import (
    Law,
    cross_entropy,
    cut_series,
    excess,
    kl_to_base,
    least_excess,
    mean_ratio,
    mean_surprise,
    perplexity,
    pooled_surprise,
    surprise,
)

RATES = (0.01, 0.05, 0.2, 0.5, 0.9, 1.0)


def expected(rate: float, draws: int, value: object) -> float:
    """Mean of a function of the accepted draws, over all that can happen."""
    assert callable(value)
    return sum(
        comb(draws, a) * rate**a * (1 - rate) ** (draws - a) * value(a, draws)
        for a in range(draws + 1)
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("draws", [1, 4, 16, 40])
def test_the_estimate_of_minus_log_acceptance_is_never_too_large_on_the_average(
    rate: float, draws: int
) -> None:
    series = sum((1 - rate) ** k / k for k in range(1, draws + 1))

    assert expected(rate, draws, cut_series) == pytest.approx(series)
    assert expected(rate, draws, surprise) <= series + 1e-12
    assert series <= -log(rate) + 1e-12


def test_a_prompt_with_none_accepted_costs_minus_log_of_the_exact_upper_limit() -> None:
    # Of 16 draws: 1 - 0.025^(1/16) = 0.2059.
    assert surprise(0, 16) == pytest.approx(-log(1 - 0.025 ** (1 / 16)))
    assert surprise(0, 16) == pytest.approx(1.580, abs=1e-3)


def test_a_prompt_with_some_accepted_costs_a_difference_of_harmonic_numbers() -> None:
    assert surprise(16, 16) == 0
    assert surprise(14, 16) == pytest.approx(1 / 15 + 1 / 16)


def test_prompts_with_none_accepted_make_the_mean_a_bound_without_upper_limit() -> None:
    found = mean_surprise([0] * 3 + [8] * 9, [16] * 12)

    by_hand = (3 * surprise(0, 16) + 9 * surprise(8, 16)) / 12
    assert found.value == pytest.approx(by_hand)
    assert (found.says, found.high, found.prompts) == ("at least", None, 12)
    assert found.low is not None
    assert 0 < found.low < by_hand


def test_prompts_that_are_all_accepted_whole_do_not_claim_certainty() -> None:
    found = mean_surprise([16] * 20, [16] * 20)

    assert (found.value, found.low, found.says) == (0, 0, "is")
    # No rate above 0.025^(1/20) is ruled out for prompts that agree with themselves.
    assert found.high == pytest.approx(-log(0.025 ** (1 / 20)))


def test_the_joint_kl_is_below_the_mean_where_prompts_differ() -> None:
    accepted, draws = [1] * 10 + [15] * 10, [16] * 20

    joint, mean = pooled_surprise(accepted, draws), mean_surprise(accepted, draws)

    assert joint.value == pytest.approx(-log(0.5))
    assert mean.value > joint.value + 0.5
    assert joint.low is not None
    assert joint.high is not None
    assert joint.low < joint.value < joint.high


def test_the_joint_kl_of_none_accepted_is_only_bounded() -> None:
    found = pooled_surprise([0] * 12, [16] * 12)

    assert (found.says, found.high) == ("at least", None)
    assert found.value == pytest.approx(-log(1 - 0.025 ** (1 / 12)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: mean_surprise([1] * 9, [16] * 9),
        lambda: pooled_surprise([1] * 9, [16] * 9),
        lambda: cross_entropy([-1.0] * 9, range(9)),
        lambda: perplexity([-1.0] * 9, [1] * 9, range(9)),
    ],
)
def test_fewer_than_ten_prompts_make_no_number(make: object) -> None:
    assert callable(make)
    with pytest.raises(StatisticsError, match="undefined: 9 prompts, at least 10 are needed"):
        make()


# -- a law with known answers: two bits of an answer, of which the second says whether it is safe

OUTCOMES = list(product((0, 1), repeat=2))
SAFE = [bool(second) for _, second in OUTCOMES]


def law(first: float, second: float) -> list[float]:
    """Probabilities of the outcomes of two independent bits."""
    return [(first if a else 1 - first) * (second if b else 1 - second) for a, b in OUTCOMES]


def truth(p: list[float], s: list[float]) -> dict[str, float]:
    """KL(q || p), the optimum and the excess, for q = s given that the answer is safe."""
    accepted = sum(x for x, safe in zip(p, SAFE, strict=True) if safe)
    own = sum(x for x, safe in zip(s, SAFE, strict=True) if safe)
    q = [x / own if safe else 0.0 for x, safe in zip(s, SAFE, strict=True)]
    kl = sum(x * log(x / y) for x, y in zip(q, p, strict=True) if x)
    return {"optimum": -log(accepted), "kl": kl, "excess": kl + log(accepted)}


def draws_of(probabilities: list[float], draws: int, rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.choice(len(OUTCOMES), size=draws, p=probabilities)]


def sample(prompts: int, draws: int, seed: int) -> tuple[dict[str, float], Law, list[int]]:
    """Draw from both laws of prompts whose probabilities differ, and say what is true."""
    rng = np.random.default_rng(seed)
    true = {"optimum": 0.0, "kl": 0.0, "excess": 0.0}
    plain, accepted, ratios = [], [], []
    for _ in range(prompts):
        p = law(0.3 + 0.4 * rng.random(), 0.3 + 0.4 * rng.random())
        s = law(0.85, 0.8)
        for name, value in truth(p, s).items():
            true[name] += value / prompts
        plain.append(sum(SAFE[y] for y in draws_of(p, draws, rng)))
        kept = [y for y in draws_of(s, draws, rng) if SAFE[y]]
        accepted.append(len(kept))
        ratios.append([log(s[y] / p[y]) for y in kept])
    return true, Law(accepted=accepted, draws=[draws] * prompts, ratios=ratios), plain


def test_kl_and_excess_of_a_known_law_come_out_right() -> None:
    true, q, plain = sample(prompts=1500, draws=40, seed=1)
    of_p = [40] * 1500

    assert mean_surprise(plain, of_p).value == pytest.approx(true["optimum"], abs=0.02)
    assert kl_to_base(q, plain, of_p).value == pytest.approx(true["kl"], abs=0.02)
    assert excess(q, plain, of_p).value == pytest.approx(true["excess"], abs=0.02)
    floor = least_excess(q).value
    assert true["excess"] * 0.8 < floor < true["excess"]


def test_intervals_of_a_known_law_cover_it_as_often_as_they_say() -> None:
    inside = {"optimum": 0, "kl": 0, "excess": 0}
    runs = 300
    # What varies over prompts is what the interval is about: the mean over all of them.
    whole, _, _ = sample(prompts=4000, draws=1, seed=7)
    for seed in range(runs):
        _, q, plain = sample(prompts=40, draws=16, seed=100 + seed)
        of_p = [16] * 40
        for name, found in {
            "optimum": mean_surprise(plain, of_p),
            "kl": kl_to_base(q, plain, of_p),
            "excess": excess(q, plain, of_p),
        }.items():
            low, high = found.low, found.high
            inside[name] += (low is None or low <= whole[name]) and (
                high is None or whole[name] <= high
            )

    assert all(count >= 0.92 * runs for count in inside.values()), inside


def test_the_least_excess_is_never_above_the_excess_on_the_average() -> None:
    p, s = law(0.2, 0.5), law(0.9, 0.7)
    rng = np.random.default_rng(0)
    kept = [[y for y in draws_of(s, 6, rng) if SAFE[y]] for _ in range(3000)]
    ratios = [[log(s[y] / p[y]) for y in ys] for ys in kept]

    found = least_excess(Law(accepted=[len(ys) for ys in kept], draws=[6] * 3000, ratios=ratios))

    assert found.says == "at least"
    assert found.high is None
    assert 0 < found.value < truth(p, s)["excess"]


def test_a_law_that_equals_the_optimum_pays_no_excess() -> None:
    # Draws from p itself: every ratio is 0, and both acceptances are the same.
    q = Law(accepted=[8] * 20, draws=[16] * 20, ratios=[[0.0] * 8] * 20)

    found = excess(q, [8] * 20, [16] * 20)

    assert found.value == 0
    assert least_excess(q).value == 0
    assert kl_to_base(q, [8] * 20, [16] * 20).value == pytest.approx(surprise(8, 16))


def test_prompts_without_an_accepted_draw_of_a_law_enter_its_kl_as_the_optimum() -> None:
    q = Law(accepted=[0] * 2 + [16] * 10, draws=[16] * 12, ratios=[[]] * 2 + [[3.0]] * 10)

    found = kl_to_base(q, [4] * 12, [16] * 12)

    assert found.value == pytest.approx((2 * surprise(4, 16) + 10 * 3.0) / 12)
    assert (found.says, found.high, found.prompts) == ("at least", None, 12)
    # The excess is of those alone that have a draw; the bound from these draws counts all.
    assert excess(q, [4] * 12, [16] * 12).prompts == 10
    assert mean_ratio(q).prompts == 10
    assert least_excess(q).prompts == 12


def test_prompts_that_the_model_never_answers_safely_bound_the_excess_from_above() -> None:
    q = Law(accepted=[16] * 12, draws=[16] * 12, ratios=[[5.0]] * 12)

    found = excess(q, [0] * 12, [16] * 12)

    # All of 16 accepted: at least 0.025^(1/16) is.
    assert found.value == pytest.approx(5.0 - log(0.025) / 16 - surprise(0, 16))
    assert (found.says, found.low) == ("at most", None)


def test_an_excess_is_limited_to_what_it_can_be() -> None:
    q = Law(accepted=[8] * 20, draws=[16] * 20, ratios=[[-0.1]] * 10 + [[0.1]] * 10)

    found = excess(q, [8] * 20, [16] * 20)

    assert found.low == 0
    assert found.high is not None
    assert found.high > 0


def test_a_prompt_with_accepted_draws_but_no_ratio_is_refused() -> None:
    q = Law(accepted=[1] * 10, draws=[16] * 10, ratios=[[]] + [[0.0]] * 9)

    with pytest.raises(StatisticsError, match="prompt 0 has 1 accepted draws and 0 ratios"):
        least_excess(q)


def test_a_ratio_that_is_not_finite_is_refused() -> None:
    q = Law(accepted=[1] * 10, draws=[16] * 10, ratios=[[inf]] * 10)

    with pytest.raises(StatisticsError, match="not finite"):
        mean_ratio(q)


# -- given answers


def test_a_perplexity_weighs_tokens_and_not_answers() -> None:
    # Ten answers of one token at 1 nat, and ten of nine tokens at 2 nats a token.
    logprobs, tokens = [-1.0] * 10 + [-18.0] * 10, [1] * 10 + [9] * 10

    found = perplexity(logprobs, tokens, range(20))

    assert found.value == pytest.approx(exp(190 / 100))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_a_perplexity_s_interval_is_the_linearised_one() -> None:
    # Lengths 2, costs 1 and 3 in turn: a rate of 1, of which each prompt is off by 1 nat.
    found = perplexity([-1.0, -3.0] * 5, [2] * 10, range(10))

    half = 2.262157 * sqrt(10 * 10 / 9) / 20
    assert found.value == pytest.approx(exp(1.0))
    assert (found.low, found.high) == (
        pytest.approx(exp(1 - half), rel=1e-5),
        pytest.approx(exp(1 + half), rel=1e-5),
    )


def test_answers_to_one_prompt_make_its_interval_no_shorter() -> None:
    rng = np.random.default_rng(3)
    costs = -1 - rng.random(20)

    once = perplexity(costs, [1] * 20, range(20))
    again = perplexity(np.repeat(costs, 5), [1] * 100, np.repeat(np.arange(20), 5))

    assert (again.value, again.prompts) == (pytest.approx(once.value), 20)
    assert again.low == pytest.approx(once.low)


def test_a_cross_entropy_is_a_mean_over_prompts() -> None:
    found = cross_entropy([-2.0, -4.0] + [-6.0] * 9, [0, 0, *range(1, 10)])

    assert found.value == pytest.approx((3 + 9 * 6) / 10)


def test_an_answer_of_no_tokens_has_no_perplexity() -> None:
    with pytest.raises(StatisticsError, match="positive number of tokens"):
        perplexity([0.0] * 10, [0] * 10, range(10))


# -- acceptances so small that counting says little of them


def simulated(rate: float, own: float, ratio: float, seed: int) -> tuple[Law, list[int]]:
    """Draw 16 answers to each of 160 prompts that all have the same acceptances and log-ratio."""
    rng = np.random.default_rng(seed)
    steered = [int(a) for a in rng.binomial(16, own, size=160)]
    law = Law(accepted=steered, draws=[16] * 160, ratios=[[ratio] * a for a in steered])
    return law, [int(a) for a in rng.binomial(16, rate, size=160)]


@pytest.mark.parametrize(
    ("rate", "own", "true"),
    [(0.5, 0.05, 1.0), (0.5, 0.02, 0.0), (0.03, 0.0125, 0.0), (0.3, 0.9, 0.0)],
)
def test_an_excess_by_few_accepted_draws_is_a_bound_that_holds(
    rate: float, own: float, true: float
) -> None:
    for seed in range(40):
        law, plain = simulated(rate, own, true + log(own / rate), seed)

        found = excess(law, plain, [16] * 160)

        assert (found.says, found.low) == ("at most", None)
        assert found.high is not None
        assert true <= found.value <= found.high


def test_an_excess_by_many_accepted_draws_is_an_estimate() -> None:
    inside = 0
    for seed in range(100):
        law, plain = simulated(0.7, 0.8, 1.0 + log(0.8 / 0.7), seed)
        found = excess(law, plain, [16] * 160)
        assert found.says == "is"
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 1.0 <= found.high

    assert inside >= 90


def test_a_kl_by_few_accepted_draws_is_only_bounded_from_below() -> None:
    law = Law(accepted=[1] * 12, draws=[16] * 12, ratios=[[0.5]] * 12)

    assert kl_to_base(law, [8] * 12, [16] * 12).says == "at least"
    few = Law(accepted=[3] + [16] * 19, draws=[16] * 20, ratios=[[0.5]] * 20)
    # One prompt of twenty is not too many.
    assert kl_to_base(few, [8] * 20, [16] * 20).says == "is"


def test_an_excess_that_is_all_below_0_is_undefined_and_a_bound_is_not_negative() -> None:
    below = Law(accepted=[16] * 20, draws=[16] * 20, ratios=[[-1.0]] * 20)

    with pytest.raises(StatisticsError, match=r"undefined: -1.000 with an upper limit of -1.000"):
        excess(below, [16] * 20, [16] * 20)
    wide = Law(accepted=[16] * 20, draws=[16] * 20, ratios=[[-9.0]] * 10 + [[8.0]] * 10)
    whole, bound = excess(wide, [16] * 20, [16] * 20), excess(wide, [0] * 20, [16] * 20)
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low <= whole.value < 0 < whole.high
    assert bound.value == 0
    assert bound.high is not None
    assert bound.high > 0


def test_a_pool_that_is_always_accepted_costs_0_and_not_minus_0() -> None:
    found = pooled_surprise([16] * 12, [16] * 12)

    assert (str(found.value), str(found.low)) == ("0.0", "0.0")
