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


class _Place(Struct, frozen=True):
    """Which rollout a row is about."""

    benchmark: str
    sample: str
    rollout: int


def stored_rows(journal: Journal, benchmark: str = "") -> Iterator[Stored]:
    """Read every rollout of a run, in the order in which they were first noted.

    A rollout that was judged again has several records; they are put together. Memory holds a hash
    a rollout, and of those with several records the keys; not the texts.

    Args:
        journal: The run's journal; open for reading is enough.
        benchmark: Only of this benchmark; '' for all.
    """
    for row in noted_rows(journal, benchmark):
        yield stored_of(journal, row)


def noted_rows(journal: Journal, benchmark: str = "") -> Iterator[Row]:
    """Read which rollouts a run has, as :func:`stored_rows` does, without reading them."""
    # What is noted meanwhile, by whoever judges these rollouts again, is not read.
    first = journal.counts["row"]
    several = _noted_again(journal, first)
    latest: dict[tuple[str, str, int], tuple[str, str, dict[str, str]]] = {}
    if several:
        for row in _rows(journal, first, benchmark):
            place = (row.benchmark, row.sample, row.rollout)
            if hash(place) in several:
                before = latest[place][2] if place in latest else {}
                latest[place] = (row.generation, row.failed, {**before, **row.verdicts})
    for row in _rows(journal, first, benchmark):
        place = (row.benchmark, row.sample, row.rollout)
        if hash(place) not in several:
            yield row
        elif (found := latest.pop(place, None)) is not None:
            generation, failed, verdicts = found
            yield msgspec.structs.replace(
                row, generation=generation, failed=failed, verdicts=verdicts
            )


def _noted_again(journal: Journal, first: int) -> set[int]:
    """Hash the rollouts that have several records, and perhaps some that have one."""
    seen: set[int] = set()
    several: set[int] = set()
    for record in journal.rows(first):
        place = _places.decode(record.data)
        hashed = hash((place.benchmark, place.sample, place.rollout))
        (several if hashed in seen else seen).add(hashed)
    return several


def _rows(journal: Journal, first: int, benchmark: str) -> Iterator[Row]:
    for record in journal.rows(first):
        row = _whole.decode(record.data)
        if benchmark in ("", row.benchmark):
            yield row


def stored_of(journal: Journal, row: Row) -> Stored:
    """Read a rollout of :func:`noted_rows` with its verdicts."""
    data = journal.find(row.generation) if row.generation else None
    return Stored(
        row=row,
        rollout=_rollouts.decode(data) if data is not None else None,
        verdicts=verdicts_of(journal, row),
    )


def verdicts_of(journal: Journal, row: Row) -> dict[str, Verdict]:
    """Read the verdicts on a rollout, by judge's label."""
    return {judge: _verdict(journal, key) for judge, key in row.verdicts.items()}


def _verdict(journal: Journal, key: str) -> Verdict:
    if not key:
        return Verdict(reason="empty")
    data = journal.find(key)
    if data is None:
        return Verdict(reason="error", raw="the judge's call failed")
    return _verdicts.decode(data)


_whole = msgspec.json.Decoder(Row)
_places = msgspec.json.Decoder(_Place)
_rollouts = msgspec.json.Decoder(Rollout)
_verdicts = msgspec.json.Decoder(Verdict)
