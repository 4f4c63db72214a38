"""Rows of a run: how a sample's rollouts and verdicts belong together, written and read back."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from .journal import Journal
from .types import Rollout, Verdict


class Row(Struct, frozen=True, kw_only=True):
    """Ties one rollout of a benchmark's sample to what the journal holds of it.

    Attributes:
        benchmark, sample, rollout: Which rollout it is.
        group, tags: As on the sample.
        harmful: As on the sample.
        prompt: The prompt's text.
        generation: Key of the rollout, or '' where there is none.
        verdicts: Keys of the verdicts by judge's label; '' where there was no text to judge.
        failed: Why there is no rollout, or ''.
    """

    benchmark: str
    sample: str
    rollout: int
    prompt: str
    group: str = ""
    tags: dict[str, str] = {}
    harmful: bool | None = None
    generation: str = ""
    verdicts: dict[str, str] = {}
    failed: str = ""


class Stored(Struct, frozen=True, kw_only=True):
    """One rollout of a run as its journal holds it.

    Attributes:
        row: Which rollout it is; ``row.verdicts`` has the keys of every judge that saw it.
        rollout: The rollout; None where there is none (``row.failed`` says why).
        verdicts: By judge's label. A judge whose call failed has reason 'error'.
    """

    row: Row
    rollout: Rollout | None
    verdicts: dict[str, Verdict]


def stored_rows(journal: Journal) -> Iterator[Stored]:
    """Read every rollout of a run, in the order in which they were first noted.

    A rollout that was judged again has several records; they are put together. Memory holds the
    keys, not the texts.

    Args:
        journal: The run's journal; open for reading is enough.
    """
    latest: dict[tuple[str, str, int], tuple[str, str, dict[str, str]]] = {}
    for row in _rows(journal):
        place = (row.benchmark, row.sample, row.rollout)
        before = latest[place][2] if place in latest else {}
        latest[place] = (row.generation, row.failed, {**before, **row.verdicts})
    for row in _rows(journal):
        found = latest.pop((row.benchmark, row.sample, row.rollout), None)
        if found is not None:
            generation, failed, verdicts = found
            row = msgspec.structs.replace(
                row, generation=generation, failed=failed, verdicts=verdicts
            )
            yield _stored(journal, row)


def _rows(journal: Journal) -> Iterator[Row]:
    for record in journal.rows():
        yield msgspec.json.decode(record.data, type=Row)


def _stored(journal: Journal, row: Row) -> Stored:
    data = journal.find(row.generation) if row.generation else None
    rollout = msgspec.json.decode(data, type=Rollout) if data is not None else None
    return Stored(
        row=row,
        rollout=rollout,
        verdicts={judge: _verdict(journal, key) for judge, key in row.verdicts.items()},
    )


def _verdict(journal: Journal, key: str) -> Verdict:
    if not key:
        return Verdict(reason="empty")
    data = journal.find(key)
    if data is None:
        return Verdict(reason="error", raw="the judge's call failed")
    return msgspec.json.decode(data, type=Verdict)
