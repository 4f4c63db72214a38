"""However often and in whatever order rollouts were noted, each comes back once and whole."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as some

from tseval import readback
from tseval.journal import Journal
from tseval.memo import content_key
from tseval.readback import Row, noted_rows

rows = some.builds(
    Row,
    benchmark=some.sampled_from(["b", "c"]),
    sample=some.sampled_from(["1", "11", "é"]),
    rollout=some.integers(0, 1),
    prompt=some.just("p"),
    generation=some.sampled_from(["", "g"]),
    failed=some.sampled_from(["", "error"]),
    verdicts=some.dictionaries(some.sampled_from(["x", "y"]), some.sampled_from(["", "v", "w"])),
)


def journal_of(folder: Path, notes: list[Row]) -> Journal:
    journal = Journal.open(folder)
    for row in notes:
        journal.append("row", content_key(["row", row]), row)
    return journal


def plainly(notes: list[Row], benchmark: str) -> list[Row]:
    """Put the records of each rollout together: its first place, its latest rollout, all judges."""
    found: dict[Any, Row] = {}
    for row in dict.fromkeys(msgspec.json.encode(each) for each in notes):
        each = msgspec.json.decode(row, type=Row)
        place = (each.benchmark, each.sample, each.rollout)
        first = found.get(place, each)
        found[place] = msgspec.structs.replace(
            first,
            generation=each.generation,
            failed=each.failed,
            verdicts={**first.verdicts, **each.verdicts},
        )
    return [row for row in found.values() if benchmark in ("", row.benchmark)]


@settings(max_examples=60, deadline=None)
@given(some.lists(rows, max_size=12), some.sampled_from(["", "b", "none"]))
def test_each_rollout_is_read_once_in_the_order_of_its_first_record(
    notes: list[Row], benchmark: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        journal = journal_of(Path(name), notes)
        assert list(noted_rows(journal, benchmark)) == plainly(notes, benchmark)
        journal.close()


def test_rollouts_whose_hashes_are_equal_are_kept_apart(monkeypatch: Any, tmp_path: Path) -> None:
    # Hashes only say which rollouts may have several records.
    monkeypatch.setattr(readback, "hash", lambda place: 7, raising=False)
    notes = [
        Row(benchmark="b", sample=sample, rollout=n, prompt="p", verdicts={judge: "v"})
        for sample in "12"
        for n in (0, 1)
        for judge in "xy"
    ]
    journal = journal_of(tmp_path / "journal", notes)
    assert list(noted_rows(journal)) == plainly(notes, "")
    journal.close()


def test_what_is_noted_while_rollouts_are_read_is_read_the_next_time(tmp_path: Path) -> None:
    notes = [Row(benchmark="b", sample=f"{n}", rollout=0, prompt="p") for n in range(3)]
    journal = journal_of(tmp_path / "journal", notes)
    judged = []
    for row in noted_rows(journal):
        again = msgspec.structs.replace(row, verdicts={"x": "v"})
        journal.append("row", content_key(["row", again]), again)
        judged.append(row)
    assert judged == notes
    assert [row.verdicts for row in noted_rows(journal)] == [{"x": "v"}] * 3
    journal.close()
