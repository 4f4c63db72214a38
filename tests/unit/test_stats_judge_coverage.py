"""How often the 95% intervals of corrected rates and of kappa cover the truth, by simulation.

Coverage at one setting is a share of REPLICATES, so its standard error is at most 0.007 where it
is near 0.95. A floor for the lowest of many such shares has to leave room for three of these: what
is asserted is FLOOR - 0.02, where FLOOR is what an interval may cover at its worst. The mean over
settings has a standard error below 0.0015. Run with ``-s`` to see the figures that the docs quote.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from tseval.errors import StatisticsError
from tseval.stats_agreement import cohen
from tseval.stats_judge import Counts, prediction_powered, rogan_gladen

pytestmark = pytest.mark.slow

REPLICATES = 1000
THREE_ERRORS = 0.02
FLOOR = 0.94
RATES = (0.0, 0.02, 0.1, 0.5, 0.9)
# Sensitivity and specificity about hits.
JUDGES = ((0.95, 0.9), (0.8, 0.95), (0.7, 0.7))


def own_rates(
    rng: np.random.Generator, mean: float, rho: float, prompts: int
) -> NDArray[np.float64]:
    """Rates of prompts whose rollouts correlate by rho."""
    if rho == 0 or mean in (0, 1):
        return np.full(prompts, mean)
    return rng.beta(mean * (1 - rho) / rho, (1 - mean) * (1 - rho) / rho, prompts)


def say(label: str, coverage: dict[object, float]) -> None:
    shares = np.array(list(coverage.values()))
    worst = min(coverage, key=lambda setting: coverage[setting])
    print(
        f"{label:<58} mean {shares.mean():.4f}  minimum {shares.min():.4f} at {worst}"
        f"  ({len(shares)} settings, {REPLICATES} replicates)"
    )


def assert_covers(coverage: dict[object, float]) -> None:
    shares = np.array(list(coverage.values()))
    assert shares.min() >= FLOOR - THREE_ERRORS, coverage
    # Never far too wide either, but where the truth lies at an edge: there one side can't miss.
    assert 0.945 <= shares.mean() <= 0.99


@pytest.mark.parametrize(
    ("prompts", "rollouts", "rho", "labelled", "each"),
    [(400, 1, 0.0, 225, 1), (100, 1, 0.0, 50, 1), (100, 4, 0.5, 60, 3)],
)
def test_rogan_gladen_covers(prompts, rollouts, rho, labelled, each):
    """Judges' errors correlate within a prompt, in the run and in the calibration."""
    rng = np.random.default_rng([prompts, rollouts, labelled])
    coverage: dict[object, float] = {}
    for (se, sp), rate in product(JUDGES, RATES):
        covered = refused = 0
        for _ in range(REPLICATES):
            hits = rng.binomial(rollouts, own_rates(rng, rate, rho, prompts))
            seen = rng.binomial(hits, own_rates(rng, se, rho, prompts))
            seen += rng.binomial(rollouts - hits, 1 - own_rates(rng, sp, rho, prompts))
            right_yes = rng.binomial(each, own_rates(rng, se, rho, labelled))
            right_no = rng.binomial(each, own_rates(rng, sp, rho, labelled))
            rows = np.full(labelled, each)
            try:
                found = rogan_gladen(
                    Counts(seen, np.full(prompts, rollouts)),
                    Counts(right_yes, rows),
                    Counts(right_no, rows),
                    draws=2000,
                    seed=int(rng.integers(2**31)),
                ).rate
            except StatisticsError:
                refused += 1
                continue
            covered += found.low <= rate <= found.high
        assert refused < 0.25 * REPLICATES
        coverage[se, sp, rate] = covered / (REPLICATES - refused)
    say(
        f"Rogan-Gladen, {prompts} x {rollouts}, rho {rho}, 2 x {labelled} x {each} labels", coverage
    )
    assert_covers(coverage)


def labelled_runs(
    rng: np.random.Generator, judge: tuple[float, float], rate: float, rho: float, by: str, m: int
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Runs of 400 rollouts with a judge's verdicts, and labels on about m of them."""
    prompts, rollouts = (400, 1) if rho == 0 else (100, 4)
    clusters = np.repeat(np.arange(prompts), rollouts)
    n = prompts * rollouts
    for _ in range(REPLICATES):
        yes, no = (own_rates(rng, each, rho, prompts)[clusters] for each in judge)
        truth = rng.random(n) < own_rates(rng, rate, rho, prompts)[clusters]
        said = np.where(truth, rng.random(n) < yes, rng.random(n) >= no)
        chance = np.full(n, m / n)
        if by == "disagreement":
            # Another judge disagrees with most of the errors, and with some of the rest.
            differs = rng.random(n) < np.where(said != truth, 0.7, 0.1)
            chance = np.minimum(1, m * (0.5 / n + 0.5 * differs / max(differs.sum(), 1)))
        human = np.where(rng.random(n) < chance, truth, np.nan)
        yield said.astype(float), human, chance, clusters


@pytest.mark.parametrize("by", ["random", "disagreement"])
@pytest.mark.parametrize(("rho", "m"), [(0.0, 100), (0.0, 50), (0.5, 100)])
def test_prediction_powered_rates_cover(rho, m, by):
    rng = np.random.default_rng([m, int(10 * rho), by == "random"])
    coverage: dict[object, float] = {}
    for judge, rate in product((*JUDGES, (0.99, 0.99)), RATES):
        found = [
            prediction_powered(*run).rate for run in labelled_runs(rng, judge, rate, rho, by, m)
        ]
        coverage[(*judge, rate)] = float(np.mean([e.low <= rate <= e.high for e in found]))
    say(f"prediction-powered, rho {rho}, {m} labels by {by}", coverage)
    assert_covers(coverage)


def test_an_uncorrected_rate_is_why_these_intervals_exist():
    # Seen through a judge with sensitivity 0.8 and specificity 0.95, a rate of 0.5 is 0.425.
    from tseval.stats import wilson

    rng = np.random.default_rng(5)
    seen = rng.binomial(400, 0.5 * 0.8 + 0.5 * 0.05, REPLICATES)
    covered = np.mean([(e := wilson(int(s), 400)).low <= 0.5 <= e.high for s in seen])
    print(f"uncorrected, 400 x 1, judge (0.8, 0.95), rate 0.5: covers {covered:.4f}")
    assert covered < 0.3


@pytest.mark.parametrize("rollouts", [1, 4])
def test_kappa_covers(rollouts):
    """Two raters of equal skill label rows with a given share of true labels."""
    rng = np.random.default_rng(rollouts)
    coverage: dict[object, float] = {}
    for n, rate, skill in [
        *[(100, 0.5, 0.95), (100, 0.2, 0.95), (100, 0.1, 0.95), (450, 0.15, 0.97)],
        *[(100, 0.5, 0.8), (60, 0.3, 0.99), (450, 0.5, 0.99)],
    ]:
        says = rate * skill + (1 - rate) * (1 - skill)
        truth = 1 - 2 * skill * (1 - skill) / (2 * says * (1 - says))
        clusters = np.repeat(np.arange(n), rollouts)
        covered = defined = 0
        for _ in range(REPLICATES):
            right = own_rates(rng, rate, 0.5 if rollouts > 1 else 0, n)[clusters]
            labels = rng.random(n * rollouts) < right
            raters = [labels ^ (rng.random(len(labels)) > skill) for _ in range(2)]
            try:
                found = cohen(*(r.astype(int) for r in raters), clusters).estimate
            except StatisticsError:
                continue
            defined += 1
            covered += found.low <= truth <= found.high
        coverage[n, rate, skill] = covered / defined
    say(f"Cohen's kappa, {rollouts} row(s) a prompt", coverage)
    shares = np.array(list(coverage.values()))
    assert shares.min() >= 0.93 - THREE_ERRORS
    assert 0.94 <= shares.mean() <= 0.97
