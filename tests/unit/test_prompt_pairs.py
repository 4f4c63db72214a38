"""Probes paired by prompt: tables by hand, names that match, intervals that hold what they say."""

import numpy as np
import pytest

from tests.unit.test_commitment import continuations
from tests.unit.test_flips import flips, named
from tseval.errors import StatisticsError
from tseval.measurements import ByPrompt
from tseval.outcomes import row_hash
from tseval.probes import commitment_results
from tseval.prompt_pairs import by_prompt, paired_by_prompt
from tseval.stats_compare import independent, tango_interval
from tseval.stats_paired import paired
from tseval.types import Estimate


def names(n: int, first: int = 0) -> list[str]:
    return [row_hash("", str(each)) for each in range(first, first + n)]


def kept(hits, answers=1, *, first: int = 0, clusters=None) -> ByPrompt:
    sizes = np.broadcast_to(answers, np.shape(hits))
    groups = np.arange(len(hits)) if clusters is None else clusters
    found = by_prompt(names(len(hits), first), groups, hits, sizes)
    assert found is not None
    return found


def test_traces_of_a_prompt_are_put_together_and_prompts_without_answers_are_left_out() -> None:
    a, b, c = names(3)
    found = by_prompt([a, b, a, c], [4, 7, 4, 9], [1, 3, 2, 0], [4, 4, 2, 0])
    assert found is not None
    rows = [found.rows[place : place + 12] for place in range(0, len(found.rows), 12)]
    known = dict(
        zip(rows, zip(found.clusters, found.means, found.answers, strict=True), strict=True)
    )
    assert known == {a: (4, 0.5, 6), b: (7, 0.75, 4)}


def test_nothing_is_kept_without_names_or_answers_and_no_share_is_above_one() -> None:
    assert by_prompt([], [0], [0], [1]) is None
    assert by_prompt(names(2), [0, 1], [0, 0], [0, 0]) is None
    with pytest.raises(StatisticsError, match="hits lie between"):
        by_prompt(names(1), [0], [2], [1])
    with pytest.raises(StatisticsError, match="of one length"):
        by_prompt(names(2), [0, 1], [0], [1])


def test_one_answer_a_prompt_is_compared_by_its_discordant_pairs() -> None:
    # 6 both, 4 only before, 2 only after, 8 neither.
    before = kept([1] * 6 + [1] * 4 + [0] * 2 + [0] * 8)
    after = kept([1] * 6 + [0] * 4 + [1] * 2 + [0] * 8)
    found, by_hand = paired_by_prompt(before, after), tango_interval(2, 4, 20)
    assert found is not None
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    assert found.method == "paired by prompt, n=20 (tango)"


def test_prompts_are_paired_by_name_and_not_by_place() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 9, (2, 30))
    order, rows = rng.permutation(30), names(30)
    turned = by_prompt([rows[n] for n in order], order, y[order], np.full(30, 8))
    assert paired_by_prompt(kept(x, 8), turned) == paired_by_prompt(kept(x, 8), kept(y, 8))
    # Pairs of places would be others.
    assert paired_by_prompt(kept(x, 8), turned) != paired_by_prompt(kept(x, 8), kept(y[order], 8))


def test_only_prompts_that_both_have_are_compared_and_how_many_is_said() -> None:
    before, after = kept([1] * 25), kept([0] * 25, first=5)
    found = paired_by_prompt(before, after)
    assert found is not None
    assert found.value == -1
    assert found.method.startswith("paired by prompt, n=20 of 25 (")


@pytest.mark.parametrize("common", [0, 9])
def test_runs_with_few_common_prompts_or_without_names_are_not_paired(common: int) -> None:
    assert paired_by_prompt(kept([1] * 30), kept([1] * 30, first=30 - common)) is None
    assert paired_by_prompt(kept([1] * 30), kept([1] * 30, first=20)) is not None
    assert paired_by_prompt(None, kept([1] * 30)) is None


def test_near_duplicates_of_either_run_count_together() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 5, (2, 24))
    pairs, shifted = np.arange(24) // 2, (np.arange(24) + 1) // 2
    alone = np.arange(24)
    for one, two, joined in (
        (pairs, alone, pairs),
        (alone, pairs, pairs),
        (pairs + 100, pairs, pairs),
        # 0-1 in the one, 1-2 in the other ...: a chain of all.
        (pairs, shifted, np.zeros(24)),
    ):
        found = paired_by_prompt(kept(x, 4, clusters=one), kept(y, 4, clusters=two))
        wanted = paired(y / 4, x / 4, joined, np.full(24, 4)).interval()
        assert found is not None
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_what_does_not_fit_itself_is_refused() -> None:
    good = kept([1] * 12)
    for bad in (
        ByPrompt(rows=good.rows, clusters=good.clusters, means=good.means, answers=(1,)),
        ByPrompt(
            rows=good.rows[:12] * 12,
            clusters=good.clusters,
            means=good.means,
            answers=good.answers,
        ),
    ):
        with pytest.raises(StatisticsError, match="does not fit itself"):
            paired_by_prompt(bad, good)


# -- what the probes keep


def test_flips_keep_the_prompts_that_have_a_label_in_both_modes() -> None:
    rows = names(24)
    # Of 22 that comply without thinking 20 refuse with it; one refuses anyway, one is a tie.
    counts = flips([0] * 22 + [8, 4], [8] * 20 + [0, 0] + [8, 8])._replace(rows=tuple(rows))
    number = named(counts, "flips_better")
    assert number.estimate is not None
    assert number.by_prompt is not None
    found = number.by_prompt
    assert found.rows == "".join(sorted(rows[:23]))
    assert set(found.answers) == {1}
    assert sum(found.means) == 20
    assert np.mean(found.means) == pytest.approx(number.estimate.value)
    # What is undefined, or of the paper's table, is not paired.
    assert named(counts, "flips_better", variant="paper").by_prompt is None
    few = flips([0] * 24, [8] * 2 + [0] * 22)._replace(rows=tuple(rows))
    assert named(few, "flips_better").by_prompt is None


def test_rates_behind_prefixes_keep_their_prompts_over_all_traces_and_both_series() -> None:
    rng = np.random.default_rng(3)
    done = continuations(rng.integers(0, 5, (48, 4)).tolist())
    # Two traces a prompt.
    rows = tuple(name for name in names(24) for _ in range(2))
    done = done._replace(rows=rows, clusters=np.arange(48) // 2)
    found = {(n.metric, n.group): n for n in commitment_results(done, draws=20, seed=0).numbers}
    asr = found["prefix_asr_nonrefusal", "harmful · 100%"]
    assert asr.by_prompt is not None
    assert asr.estimate is not None
    assert asr.by_prompt.answers == (16,) * 12
    assert asr.by_prompt.rows == "".join(sorted(names(12)))
    assert np.mean(asr.by_prompt.means) == pytest.approx(asr.estimate.value)
    orr = found["prefix_orr", "benign · 0%"]
    assert orr.by_prompt is not None
    assert (orr.by_prompt.answers, orr.by_prompt.rows) == (
        (8,) * 12,
        "".join(sorted(names(12, 12))),
    )
    # The difference of two rates is no share.
    assert found["prefix_orr_change", "benign"].by_prompt is None


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.2])
@pytest.mark.parametrize(("rate", "spread", "answers"), [(0.5, 0.5, 8), (0.9, 0.5, 8), (0.5, 4, 1)])
def test_the_interval_holds_the_change_as_often_as_it_says_and_is_narrower_than_an_independent_one(
    rate: float, spread: float, answers: int, shift: float
) -> None:
    """Prompts keep their propensity, times 1 - shift: the mean change is -shift * rate."""
    rng = np.random.default_rng(7)
    held, widths, apart = [], [], []
    for _ in range(400):
        chance = rng.beta(rate * spread, (1 - rate) * spread, 40)
        x, y = (rng.binomial(answers, each) for each in (chance, chance * (1 - shift)))
        found = paired_by_prompt(kept(x, answers), kept(y, answers))
        assert found is not None
        held.append(found.low <= -shift * rate <= found.high)
        widths.append(found.high - found.low)
        apart.append(_apart(x / answers, y / answers))
    # Of 400 draws at 0.95 the standard error is 0.011.
    assert np.mean(held) >= 0.92
    # Only propensities that differ between prompts are there to be gained by.
    assert np.mean(widths) < np.mean(apart) * (0.7 if answers > 1 else 1.02)


def _apart(x: np.ndarray, y: np.ndarray) -> float:
    """Width of the interval of two independent samples, normal."""
    sides = [
        Estimate(value=each.mean(), low=each.mean() - half, high=each.mean() + half)
        for each in (x, y)
        for half in (1.96 * each.std(ddof=1) / len(each) ** 0.5,)
    ]
    found = independent(*sides)
    return found.high - found.low
