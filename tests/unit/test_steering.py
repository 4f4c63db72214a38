"""Refusal steering in numbers, and how counts of few are written."""

import numpy as np
import pytest

from tseval.errors import StatisticsError
from tseval.probes.setup import counted, undefined
from tseval.probes.steering import paired_gain, refusal_share
from tseval.stats import wilson
from tseval.stats_compare import mcnemar_exact, tango_interval


def test_independent_prompts_have_tangos_interval_and_mcnemars_test() -> None:
    steered = [True] * 12 + [False] * 8
    plain = [True] * 3 + [False] * 15 + [True] * 2
    gain, p_value, test = paired_gain(steered, plain, np.arange(20))
    # Nine are refused under the notice only, two without it only.
    wanted = tango_interval(9, 2, 20)
    assert gain.value == pytest.approx(7 / 20)
    assert (gain.low, gain.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert (p_value, test) == (pytest.approx(mcnemar_exact(9, 2)), "McNemar, exact")
    share = refusal_share(steered, np.arange(20))
    alone = wilson(12, 20)
    assert (share.value, share.low, share.high) == (alone.value, alone.low, alone.high)


def test_near_duplicates_say_little_more_than_one_of_them() -> None:
    # Twelve prompts, each there four times and answered alike: a third of them gain.
    once = np.arange(12) < 4
    steered, plain, groups = (
        np.repeat(each, 4) for each in (once, np.zeros(12, bool), np.arange(12))
    )
    alone, alone_p, _ = paired_gain(steered, plain, np.arange(48))
    gain, p_value, test = paired_gain(steered, plain, groups)
    one, one_p, _ = paired_gain(once, np.zeros(12, bool), np.arange(12))
    assert gain.value == alone.value == one.value
    assert gain.high - gain.low > 1.5 * (alone.high - alone.low)
    # Four clusters of one sign: 2 / 2^4, as for the twelve prompts alone; 2 / 2^16 would be bold.
    assert p_value == pytest.approx(one_p) == pytest.approx(0.125)
    assert alone_p < 0.0001
    assert test == "signs flipped by near-duplicates"
    wide, narrow = refusal_share(steered, groups), refusal_share(steered, np.arange(48))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_without_prompts_there_is_no_gain() -> None:
    with pytest.raises(StatisticsError):
        paired_gain([], [], [])


@pytest.mark.parametrize(
    ("n", "name", "written"),
    [
        (1, "refusals", "1 refusal"),
        (0, "refusals", "0 refusals"),
        (4, "refusals", "4 refusals"),
        (1, "compliances", "1 compliance"),
        (1, "harmful prompts", "1 harmful prompt"),
        (1, "prompts with both labels", "1 prompt with both labels"),
        (1, "rollouts without thinking", "1 rollout without thinking"),
        (2, "prompts with both labels", "2 prompts with both labels"),
    ],
)
def test_one_of_a_class_is_written_in_the_singular(n: int, name: str, written: str) -> None:
    assert counted(n, name) == written


def test_all_classes_that_are_too_small_are_named() -> None:
    assert undefined({"refusals": 1, "compliances": 10}) == "undefined: 1 refusal"
    assert undefined({"refusals": 1, "compliances": 3}) == "undefined: 1 refusal, 3 compliances"
    assert undefined({"refusals": 10}) == ""
