"""What entries of one board are beside each other: copies, the same subject, other rows."""

import hashlib
from collections.abc import Iterator
from typing import Any

from tseval.outcomes import key_of
from tseval.protocol import fingerprint

from .cells import numbers_of
from .recompute import RATES
from .records import Board, Entry, Severity

# Of a file that holds nothing, which any run may have.
_EMPTY = hashlib.sha256(b"").hexdigest()


def subject(entry: Entry) -> str:
    """Say what an entry is of, whatever it was measured with."""
    return fingerprint([entry.identity, entry.intervention, entry.system_prompt_hash])


def prints(board: Board | None, entry: Entry) -> dict[Any, str]:
    """Give the protocols of an entry's numbers, of those that the board has."""
    if board is not None:
        return dict(numbers_of(board, entry).fingerprints)
    return {key_of(score): score.fingerprint for score in entry.scores}


def alike(one: dict[Any, str], other: dict[Any, str]) -> bool:
    """Whether two entries could stand in one table with a number of the same protocol."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[key] == other[key] for key in shared)


def file_faults(entry: Entry, name: str, known: dict[str, str]) -> Iterator[tuple[Severity, str]]:
    """Say which entry was made of the same run: of a copy, or under another name."""
    own = [
        value
        for file, value in sorted(entry.files.items())
        if (file == "run.json" or file.startswith("journal/")) and value != _EMPTY
    ]
    for where in dict.fromkeys(known[value] for value in own if value in known):
        yield "error", f"it is of the run that {where} is of: keep one of them"
    known.update((value, name) for value in own if value not in known)


def prompt_faults(
    entry: Entry, name: str, known: dict[tuple[str, str], str]
) -> Iterator[tuple[Severity, str]]:
    """Say whose prompts of a benchmark, or whose judge, are not those of entries before it."""
    read = {
        score.benchmark: str(entry.protocols.get(score.fingerprint, {}).get("content_hash", ""))
        for score in entry.scores
        if score.metric in RATES
    }
    judged = {
        f"{score.benchmark} {score.metric} {score.judge}": fingerprint(
            entry.protocols.get(score.fingerprint, {}).get("judge")
        )
        for score in entry.scores
        if score.metric in RATES and score.judge
    }
    for number, judge in judged.items():
        others = [where for (n, j), where in known.items() if n == number and j != judge]
        if others:
            said = f"{number}: its judge is another (weights, prompt or version) than that of"
            yield "remark", f"{said} {others[0]}: they stand in tables of their own"
        known.setdefault((number, judge), name)
    for benchmark, content in read.items():
        others = [where for (b, c), where in known.items() if b == benchmark and c != content]
        if others:
            said = f"{benchmark}: its prompts (content_hash {content[:12]}) are not those of"
            yield "remark", f"{said} {others[0]}: they stand in tables of their own"
        known.setdefault((benchmark, content), name)


def row_faults(
    entry: Entry, name: str, known: dict[str, tuple[str, str]]
) -> Iterator[tuple[Severity, str]]:
    """Say where the rows of a protocol are not those of other entries."""
    for series in entry.outcomes.series:
        if series.metric not in RATES:
            continue
        hashes = entry.outcomes.rows[series.rows].hashes
        first, where = known.setdefault(series.fingerprint, (hashes, name))
        said = f"{series.benchmark} {series.metric}: its rows are not those of {where}"
        if len(first) != len(hashes):
            yield "error", f"{said}: some were left out, though the protocol is the same"
        elif first != hashes:
            yield "remark", f"{said}: they are compared on those that both have, or as independent"
