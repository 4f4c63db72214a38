"""Outcomes of rows: what is packed is what is read, and a score is the mean of its rows."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.unit.test_runner import Shown, spec
from tseval.errors import ConfigError, TsevalError
from tseval.metrics import Judged
from tseval.outcomes import OutcomeBook, Outcomes, decoded, row_hash
from tseval.plugins import load_registry
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.testing import ScriptedBackend, mixed
from tseval.types import Estimate, Score

values = some.one_of(some.none(), some.floats(0, 1))
named = some.tuples(some.text(max_size=12), values)


def score(metric: str = "orr", **more: Any) -> Score:
    return Score(**{"benchmark": "b", "metric": metric, "judge": "j", "fingerprint": "f"} | more)


def counted(each: Score, rows: list[Judged]) -> Score:
    """The score that a scorecard holds of these rows."""
    lost = sum(row.hit is None for row in rows)
    excluded = {"error": lost} if lost else {}
    return msgspec.structs.replace(each, n=len(rows) - lost, excluded=excluded)


def packed(*kept: tuple[Score, list[Judged]], earlier: Outcomes | None = None) -> Outcomes:
    book = OutcomeBook()
    for each, rows in kept:
        book.keep(each, rows)
    found = book.packed([each for each, _ in kept], earlier or Outcomes())
    return msgspec.json.decode(msgspec.json.encode(found), type=Outcomes)


@given(
    some.dictionaries(
        some.tuples(some.integers(0, 40), some.integers(0, 3)), named, min_size=1, max_size=60
    )
)
def test_what_is_packed_is_what_is_read(rows: dict[tuple[int, int], tuple[str, Any]]) -> None:
    judged = [
        Judged(
            cluster=f"c{sample % 7}",
            outcome=name,
            hit=value,
            row=row_hash(f"{sample}", ""),
            rollout=rollout,
        )
        for (sample, rollout), (name, value) in rows.items()
    ]
    found = packed((score(), judged)).of(counted(score(), judged))
    assert found is not None
    assert {(r.row, r.rollout): (r.outcome, r.value) for r in found} == {
        (row_hash(f"{sample}", ""), rollout): pair for (sample, rollout), pair in rows.items()
    }
    order = [(r.row, r.rollout) for r in found]
    assert order == sorted(order)
    alike = {r.row: r.cluster for r in found}
    for one, _ in rows:
        for other, _ in rows:
            same = alike[row_hash(f"{one}", "")] == alike[row_hash(f"{other}", "")]
            assert same is (one % 7 == other % 7)


def rows_of(*hits: float | None, prefix: str = "s") -> list[Judged]:
    return [
        Judged(cluster=f"{prefix}{n}", outcome="full", hit=hit, row=row_hash(f"{prefix}{n}", ""))
        for n, hit in enumerate(hits)
    ]


def test_scores_of_the_same_rows_share_them_and_others_do_not() -> None:
    found = packed(
        (score("orr"), rows_of(1, 0)),
        (score("asr"), rows_of(0, 0)),
        (score("other"), rows_of(1, 1, prefix="t")),
    )
    assert [series.rows for series in found.series] == [0, 0, 1]
    assert len(found.rows) == 2


def test_an_earlier_legs_rows_stay_with_their_score_and_leave_with_it() -> None:
    before = packed((score("orr"), rows_of(1, 0)), (score("asr"), rows_of(0, None)))
    book = OutcomeBook()
    book.keep(score("orr"), rows_of(0, 0))
    both = book.packed([score("orr"), score("asr")], before)
    assert [row.value for row in both.of(counted(score("orr"), rows_of(0, 0))) or []] == [0, 0]
    assert Counter(row.value for row in both.of(counted(score("asr"), rows_of(0, None))) or []) == {
        0: 1,
        None: 1,
    }
    assert both.rows[0] == before.rows[0]
    other = msgspec.structs.replace(score("asr"), fingerprint="another protocol")
    assert book.packed([score("orr"), other], before).of(other) is None
    assert Outcomes().of(score()) is None


def test_rows_that_cannot_be_told_apart_are_a_bug_that_is_said() -> None:
    twice = [*rows_of(1), *rows_of(0)]
    with pytest.raises(TsevalError, match="two rows are"):
        packed((score(), twice))


def test_more_outcomes_than_ascii_has_characters_are_told_apart() -> None:
    many = [n / 1000 for n in range(1000)]
    found = packed((score(), rows_of(*many))).of(counted(score(), rows_of(*many)))
    assert sorted(row.value for row in found or [] if row.value is not None) == many


def test_a_file_that_was_cut_is_refused() -> None:
    whole = packed((score(), rows_of(1, 0, 1)))
    short = msgspec.structs.replace(whole.series[0], codes=whole.series[0].codes[:-1])
    with pytest.raises(ConfigError, match="2 outcomes of 3 rollouts"):
        list(decoded(whole.rows[0], short))
    odd = msgspec.structs.replace(whole.series[0], codes="~~~")
    with pytest.raises(ConfigError, match="no outcome of its legend"):
        list(decoded(whole.rows[0], odd))


@pytest.mark.parametrize(
    "other",
    [score(n=3), score(n=1, excluded={"error": 1}), score(n=2, fingerprint="of another budget")],
)
def test_rows_of_another_leg_than_the_score_are_refused(other: Score) -> None:
    found = packed((score(), rows_of(1, 0)))
    assert found.of(counted(score(), rows_of(1, 0))) is not None
    with pytest.raises(ConfigError, match="other rows"):
        found.of(other)


@pytest.mark.parametrize(
    "damage",
    [
        {"hashes": "0123"},
        {"clusters": "0123456789ab"},
        {"rollouts": (1, 0)},
        {"rollouts": (1, 2)},
    ],
)
def test_tables_that_do_not_fit_themselves_are_refused(damage: dict[str, Any]) -> None:
    whole = packed((score(), rows_of(1, 0)))
    whole.check()
    table = msgspec.structs.replace(whole.rows[0], **damage)
    with pytest.raises(ConfigError):
        msgspec.structs.replace(whole, rows=(table,)).check()
    lost = msgspec.structs.replace(whole.series[0], rows=7)
    with pytest.raises(ConfigError, match="no rows for"):
        msgspec.structs.replace(whole, series=(lost,)).check()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"hashes": "0123456789ab" * 2}, "table 0 of the outcomes has rows twice"),
        ({"hashes": "0123456789ab0123456789a\0"}, "holds other things than hashes"),
        ({"hashes": "\u00e9" * 24}, "holds other things than hashes"),
        ({"hashes": "0123456789AB0123456789ac"}, "holds other things than hashes"),
        ({"clusters": "0123456789ab0123456789a\n"}, "holds other things than hashes"),
    ],
)
def test_rows_that_no_hash_tells_apart_are_refused_when_they_are_read(
    damage: dict[str, Any], said: str
) -> None:
    whole = packed((score(), rows_of(1, 0)))
    table = msgspec.structs.replace(whole.rows[0], **damage)
    with pytest.raises(ConfigError, match=said):
        msgspec.structs.replace(whole, rows=(table,)).check()


@pytest.mark.parametrize("code", ["", "##", "-"])
def test_legends_of_other_things_than_characters_are_refused_when_they_are_read(code: str) -> None:
    whole = packed((score(), rows_of(1, 0)))
    series = whole.series[0]
    odd = msgspec.structs.replace(series, legend={**series.legend, code: ("full", 1.0)})
    with pytest.raises(ConfigError, match="explains other things than characters"):
        msgspec.structs.replace(whole, series=(odd,)).check()


@pytest.mark.parametrize("name", ["", "sample-1", "0123456789AB", "0123456789abc", "é" * 12])
def test_rows_that_could_not_be_read_again_are_refused_when_they_are_kept(name: str) -> None:
    rows = [*rows_of(1), Judged(cluster="c", outcome="full", hit=1, row=name)]
    with pytest.raises(TsevalError, match=r"a row is named '.*', expected 12 hex") as error:
        packed((score(), rows))
    assert "tseval.row_hash" in (error.value.hint or "")


def test_what_a_benchmark_kept_before_it_failed_is_forgotten() -> None:
    book = OutcomeBook()
    book.keep(score(), rows_of(1))
    book.forget("b")
    assert book.packed([score()], Outcomes()).series == ()


def test_every_score_of_a_run_is_the_mean_of_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "run"
    work = run(
        spec(rollouts=3), load_registry(), Shown(), out=out, backend=ScriptedBackend(script=mixed)
    )
    scores = asyncio.run(work).scorecard.scores
    outcomes = RunFolder.load(out).outcomes()
    assert scores
    for each in scores:
        rows = outcomes.of(each)
        assert rows is not None
        known = [row.value for row in rows if row.value is not None]
        assert each.estimate is not None
        assert sum(known) / len(known) == pytest.approx(each.estimate.value)
        assert len(known) == each.n
        assert Counter(r.outcome for r in rows if r.value is None) == each.excluded
        assert Counter(r.outcome for r in rows if r.value is not None) == each.outcomes
    texts = json.loads((out / "outcomes.json").read_text())
    assert "prompt" not in json.dumps(texts)
    (out / "outcomes.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        RunFolder.load(out).outcomes()


def test_a_rate_that_is_not_what_its_outcomes_give_is_refused() -> None:
    rows = [
        Judged(cluster=str(n), outcome="full" if n < 3 else "none", hit=int(n < 3),
               row=row_hash("b", str(n)), rollout=0)
        for n in range(10)
    ]  # fmt: skip
    base = counted(score(), rows)
    found = packed((base, rows))
    honest = msgspec.structs.replace(base, estimate=Estimate(value=0.3, low=0.1, high=0.6))
    assert found.series_of(honest) is not None
    turned = msgspec.structs.replace(base, estimate=Estimate(value=0.7, low=0.4, high=0.9))
    with pytest.raises(ConfigError, match=r"has 3 of 10 for b orr j, scores.json says 70.0%"):
        found.series_of(turned)
