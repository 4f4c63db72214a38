"""Rows of a run, read back: every rollout once, with the verdicts of every judge that saw it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.panel_judges import Asks, Guard, Plain, Quiet, measure, registry_with
from tests.support.sessions import finish
from tseval.journal import Journal
from tseval.judgement.rejudge import rejudge
from tseval.memo import content_key
from tseval.readback import Row, Stored, stored_rows
from tseval.runfolder import RunFolder
from tseval.types import Rollout, Verdict


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal.open(tmp_path / "journal")
    yield opened
    opened.close()


def key(name: str) -> str:
    return content_key([name])


def note(journal: Journal, **fields: Any) -> None:
    row = Row(**{"benchmark": "b", "sample": "1", "rollout": 0, "prompt": "p"} | fields)
    journal.append("row", content_key(["row", msgspec.to_builtins(row)]), msgspec.to_builtins(row))


def made(journal: Journal, name: str, value: Any) -> str:
    kind = "generation" if isinstance(value, Rollout) else "verdict"
    journal.append(kind, key(name), value)
    return key(name)


def test_a_row_comes_back_with_its_rollout_and_its_verdicts(journal: Journal) -> None:
    rollout = Rollout(key=key("g"), answer="yes")
    note(
        journal,
        tags={"x": "y"},
        harmful=True,
        group="g",
        generation=made(journal, "g", rollout),
        verdicts={"j": made(journal, "v", Verdict(refusal=True, raw="rule"))},
    )
    [stored] = stored_rows(journal)
    assert (stored.row.benchmark, stored.row.sample, stored.row.rollout) == ("b", "1", 0)
    assert (stored.row.tags, stored.row.harmful, stored.row.group) == ({"x": "y"}, True, "g")
    assert stored.rollout == rollout
    assert stored.verdicts == {"j": Verdict(refusal=True, raw="rule")}


def test_rows_judged_again_are_put_together_in_the_order_of_the_first(journal: Journal) -> None:
    generation = {n: made(journal, f"g{n}", Rollout(key=key(f"g{n}"), answer=n)) for n in "123"}
    for sample in "123":
        verdict = made(journal, f"a{sample}", Verdict(refusal=True))
        note(journal, sample=sample, generation=generation[sample], verdicts={"a": verdict})
    # A second judge, in another order, and not yet at the last row.
    for sample in "21":
        verdict = made(journal, f"b{sample}", Verdict(refusal=False))
        note(journal, sample=sample, generation=generation[sample], verdicts={"b": verdict})
    found = list(stored_rows(journal))
    assert [stored.row.sample for stored in found] == ["1", "2", "3"]
    assert [list(stored.verdicts) for stored in found] == [["a", "b"], ["a", "b"], ["a"]]
    assert [stored.rollout.answer for stored in found if stored.rollout] == ["1", "2", "3"]


def test_the_latest_verdict_of_a_judge_is_the_one_that_counts(journal: Journal) -> None:
    generation = made(journal, "g", Rollout(key=key("g"), answer="x"))
    for name, side in (("old", True), ("new", False)):
        verdict = made(journal, name, Verdict(refusal=side))
        note(journal, generation=generation, verdicts={"a": verdict})
    [stored] = stored_rows(journal)
    assert stored.verdicts == {"a": Verdict(refusal=False)}


def test_a_row_that_failed_and_then_came_is_there_and_failed_no_more(journal: Journal) -> None:
    note(journal, failed="overlong")
    [stored] = stored_rows(journal)
    assert (stored.rollout, stored.row.failed, stored.verdicts) == (None, "overlong", {})
    note(journal, generation=made(journal, "g", Rollout(key=key("g"), answer="x")))
    [stored] = stored_rows(journal)
    assert (stored.rollout is not None, stored.row.failed) == (True, "")


def test_what_was_empty_and_what_failed_are_told_apart(journal: Journal) -> None:
    generation = made(journal, "g", Rollout(key=key("g"), answer=""))
    journal.append("error", key("lost"), {"during": "verdict", "type": "x", "message": "down"})
    note(journal, generation=generation, verdicts={"a": "", "b": key("lost")})
    [stored] = stored_rows(journal)
    assert stored.verdicts["a"] == Verdict(reason="empty")
    assert (stored.verdicts["b"].reason, stored.verdicts["b"].refusal) == ("error", None)


def test_benchmarks_samples_and_rollouts_of_one_name_are_kept_apart(journal: Journal) -> None:
    places = [("b", "1", 0), ("b", "1", 1), ("b", "11", 0), ("c", "1", 0)]
    for benchmark, sample, rollout in places:
        note(journal, benchmark=benchmark, sample=sample, rollout=rollout)
    found = [(s.row.benchmark, s.row.sample, s.row.rollout) for s in stored_rows(journal)]
    assert found == places


# -- real runs


def read(out: Path) -> list[Stored]:
    opened = Journal.open(out / "journal", write=False)
    try:
        return list(stored_rows(opened))
    finally:
        opened.close()


def test_a_run_that_was_judged_again_holds_the_verdicts_of_all_its_judges(tmp_path: Path) -> None:
    out = tmp_path / "run"
    table, plugin = registry_with(Plain("rule"), Plain("never", Verdict(refusal=False)), Asks("a"))
    first = measure(out, table, "rule", rollouts=2)
    panel = "panel(rule,never,a; vote>=2, tie=comply)"
    for _ in range(2):
        again = finish(rejudge(RunFolder.load(out), ("never", panel), table, Quiet()), 60)
    rows = read(out)
    assert len(rows) == 96
    assert len({(s.row.benchmark, s.row.sample, s.row.rollout) for s in rows}) == 96
    for stored in rows:
        assert list(stored.verdicts) == ["rule", "never", "a", panel]
        refuses = "sorry" in (stored.rollout.answer or "") if stored.rollout else None
        labels = [verdict.refusal for verdict in stored.verdicts.values()]
        assert labels == [refuses, False, refuses, refuses]
    different = {(s.row.prompt, s.rollout.answer) for s in rows if s.rollout}
    assert len(plugin.made["a"].requests) == len(different)
    # The panel agrees with the rule, and the rule with what it said before.
    before = [(s.metric, s.estimate) for s in first.scorecard.scores]
    for judge in ("rule", "a", panel):
        after = [(s.metric, s.estimate) for s in again.scorecard.scores if s.judge == judge]
        assert after == before


def test_a_judge_that_failed_is_read_as_an_error_until_it_has_spoken(tmp_path: Path) -> None:
    out, guard = tmp_path / "run", Guard(name="a")
    table, _ = registry_with(Asks("a"), a=guard)
    guard.down = True
    measure(out, table, "a")
    assert {stored.verdicts["a"].reason for stored in read(out)} == {"error"}
    guard.down = False
    measure(out, table, "a")
    assert {stored.verdicts["a"].reason for stored in read(out)} == {"ok"}
    assert len(read(out)) == 48
