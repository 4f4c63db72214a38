"""What is computed with all rows at once is what is computed row by row, to the last bit."""

from collections import Counter
from math import fsum
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tseval.compare import match, match_scores
from tseval.errors import ConfigError, TsevalError
from tseval.metrics import (
    ASR_HARMFUL,
    ASR_NONREFUSAL,
    ASR_SUBSTANTIVE,
    ORR,
    Judged,
    score_of,
)
from tseval.metrics import score as score_rows
from tseval.outcomes import OutcomeBook, Outcomes, row_hash
from tseval.row_means import Means, means_of
from tseval.scoring import Finding, Outcome, _judged
from tseval.tally import Tally
from tseval.types import Score, Verdict

METRICS = (ASR_NONREFUSAL, ASR_SUBSTANTIVE, ASR_HARMFUL, ORR)
BASE = Score(benchmark="b", metric="", judge="j", fingerprint="f")

verdicts = some.sampled_from(
    [
        Verdict(refusal=True, degree="partial"),
        Verdict(refusal=True, harmful=False, notes=("truncated",)),
        Verdict(refusal=False, degree="none", harmful=True, notes=("truncated", "escaped")),
        Verdict(harmful=False),
        Verdict(reason="empty"),
        Verdict(reason="unparsed"),
    ]
)
soft = some.one_of(
    some.floats(0, 1).map(lambda share: Verdict(refusal=share > 0.5, soft=share)), verdicts
)


def outcomes_with(said: Any) -> Any:
    """Rollouts of a benchmark; what is said of them is, or is not, the same object."""
    finding = some.one_of(
        said.map(lambda verdict: {"j": Finding(verdict)}),
        some.just({"j": Finding(None, "unclosed")}),
    )
    places = some.dictionaries(
        some.tuples(some.integers(0, 9), some.integers(0, 3)),
        some.fixed_dictionaries(
            {
                "findings": finding,
                "lost": some.sampled_from(["", "", "", "overlong"]),
                "harmful": some.booleans(),
                "group": some.sampled_from(["", "x"]),
                "forced": some.sampled_from([None, True, False]),
                "truncated": some.booleans(),
                "unclosed": some.booleans(),
            }
        ),
        min_size=1,
        max_size=40,
    )
    return places.map(
        lambda found: [
            Outcome(cluster=f"c{n % 4}", row=row_hash(f"{n}", ""), rollout=rollout, **fields)
            for (n, rollout), fields in found.items()
        ]
    )


@settings(max_examples=150)
@given(some.one_of(outcomes_with(verdicts), outcomes_with(soft)))
def test_rollouts_that_are_tallied_give_the_scores_and_outcomes_of_single_rows(
    outcomes: list[Outcome],
) -> None:
    tally = Tally("b", outcomes)
    for metric in METRICS:
        for group in ("", "x"):
            chosen = [each for each in outcomes if each.harmful and group in ("", each.group)]
            part = tally.part(lambda each, group=group: each.harmful and group in ("", each.group))
            assert (part is None) is (not chosen)
            if part is None:
                continue

            def reading(each: Outcome, metric: Any = metric) -> Judged:
                return _judged(metric, "j", each)

            rows = [reading(each) for each in chosen]
            expected = score_rows(metric, rows, BASE)
            found = score_of(metric, tally.counts(part, reading), BASE)
            assert msgspec.json.encode(found) == msgspec.json.encode(expected)
            one, other = OutcomeBook(), OutcomeBook()
            one.keep(expected, rows)
            other.keep_packed(found, part.table, *tally.codes(part, reading))
            wanted = one.packed([expected], Outcomes())
            assert other.packed([found], Outcomes()) == wanted
            assert list(wanted.series[0].legend) == sorted(wanted.series[0].legend)


def test_remarks_of_a_judge_are_counted_once_a_rollout() -> None:
    said = {"j": Finding(Verdict(refusal=True, notes=("truncated", "truncated")))}
    outcomes = [
        Outcome(cluster="c", harmful=True, group="", findings=said, row=row_hash(f"{n}", ""))
        for n in range(3)
    ]
    tally = Tally("b", outcomes)
    part = tally.part(lambda each: True)
    assert part is not None
    assert tally.notes(part, "j") == {"truncated": 3}
    assert tally.notes(part, "another") == {}


def test_a_rollout_that_is_there_twice_is_an_error() -> None:
    twice = [Outcome(cluster="c", harmful=True, group="", findings={}, lost="error", row="a" * 12)]
    with pytest.raises(TsevalError, match="b: two rows are aaaaaaaaaaaa, rollout 0"):
        Tally("b", [*twice, *twice]).part(lambda each: True)


named = some.tuples(
    some.sampled_from(["full", "error"]), some.one_of(some.none(), some.floats(0, 1))
)
yes_or_no = some.tuples(some.sampled_from(["full", "none"]), some.sampled_from([None, 0.0, 1.0]))
tables = some.one_of(
    *(
        some.dictionaries(some.tuples(some.integers(0, 9), some.integers(0, 3)), each, max_size=30)
        for each in (named, yes_or_no)
    )
)


def kept(rows: dict[tuple[int, int], tuple[str, float | None]]) -> tuple[Outcomes, Score]:
    judged = [
        Judged(cluster=f"c{n % 4}", outcome=o, hit=hit, row=row_hash(f"{n}", ""), rollout=rollout)
        for (n, rollout), (o, hit) in rows.items()
    ]
    lost = sum(each.hit is None for each in judged)
    found = msgspec.structs.replace(BASE, n=len(judged) - lost, excluded={"error": lost})
    book = OutcomeBook()
    book.keep(found, judged)
    return book.packed([found], Outcomes()), found


@settings(max_examples=200)
@given(tables, tables, some.sampled_from([None, (0.0, 1.0), (1.0, 0.0)]))
def test_rows_that_are_matched_as_columns_are_those_that_are_matched_one_by_one(
    left: dict[tuple[int, int], tuple[str, float | None]],
    right: dict[tuple[int, int], tuple[str, float | None]],
    fill: tuple[float, float] | None,
) -> None:
    before, after = kept(left), kept(right)
    expected = match(before[0].of(before[1]), after[0].of(after[1]), fill=fill)
    assert match_scores(before, after, fill=fill) == expected
    assert expected is not None
    # And once more by hand, in the order of the candidate's samples.
    there, here = (by_hand(rows, fill and fill[n]) for n, rows in enumerate((left, right)))
    if fill:
        there |= {name: (fill[0], here[name][1]) for name in here if name not in there}
        here |= {name: (fill[1], there[name][1]) for name in there if name not in here}
    assert expected.samples == [name for name in here if name in there]
    assert expected.before == [there[name][0] for name in expected.samples]
    assert expected.after == [here[name][0] for name in expected.samples]
    least = [min(there[name][1], here[name][1]) for name in expected.samples]
    assert expected.rollouts == least
    assert expected.alone == len(there.keys() ^ here.keys())


def by_hand(
    rows: dict[tuple[int, int], tuple[str, float | None]], fill: float | None
) -> dict[str, tuple[float, int]]:
    values: dict[str, list[float]] = {}
    named = [(row_hash(f"{sample}", ""), value) for (sample, _), (_, value) in rows.items()]
    for name, value in sorted(named, key=lambda pair: pair[0]):
        worth = fill if value is None else value
        if worth is not None:
            values.setdefault(name, []).append(worth)
    return {name: (fsum(each) / len(each), len(each)) for name, each in values.items()}


def columns(samples: str) -> Means:
    ones = np.ones(len(samples))
    names = np.array(list(samples), dtype=np.str_)
    return Means(names, ones, ones.astype(np.int64), names)


@given(some.text("abc", max_size=5), some.text("abc", max_size=5))
def test_samples_that_are_there_twice_are_never_paired(left: str, right: str) -> None:
    here, there = columns(left), columns(right)
    if max([*Counter(left).values(), *Counter(right).values()], default=0) > 1:
        with pytest.raises(ConfigError, match="hold a sample twice"):
            here.shared(there)
    else:
        one, other = here.shared(there)
        assert [left[n] for n in one] == [right[n] for n in other]
        assert {left[n] for n in one} == set(left) & set(right)


def test_a_score_that_is_no_mean_over_rows_has_no_means() -> None:
    outcomes, found = kept({(1, 0): ("full", 1.0)})
    other = msgspec.structs.replace(found, judge="another")
    assert means_of(outcomes, other) is None
    assert match_scores((outcomes, other), (outcomes, found)) is None
