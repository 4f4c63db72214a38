"""What an entry's strings may hold: names and hashes, and no room for a prompt or an answer.

An entry is public and nobody's texts are to be in it, so every string that is not one of a few
known ones is short, and what is a name looks like one.
"""

import re
from collections.abc import Iterator
from typing import Any

from tseval.types import Score

from .entry import ACTING
from .recompute import RATES
from .records import Entry

_MOST = 300
# Shapes of conversations, and settings, are longer than names are.
_MOST_PROTOCOL = 2000
_MOST_TITLE = 60
_SHOWN = 40
# These hold hashes, or one character a rollout, and are checked as such.
_PACKED = ("hashes", "clusters", "codes")
# Of names, such as a model's; of facts, such as a processor's; of an interval's method; of why a
# score is undefined: characters, and words.
_MOST_NAME, _MOST_FACT, _MOST_METHOD, _MOST_REASON = (300, 8), (100, 10), (80, 12), (120, 20)
# Identities and facts that one model or machine has.
_MOST_NAMES = 64
_NOTE = re.compile(r"[a-z0-9][a-z0-9:_-]{0,31}")
_REASON = re.compile(r"[A-Za-z0-9][A-Za-z0-9 :_-]{0,31}")
_FACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,39}")


def text_faults(entry: Entry) -> Iterator[str]:
    """Say which of an entry's strings are too long, or hold what names do not."""
    from msgspec import to_builtins

    fields = to_builtins(entry)
    for name in ("label", "note"):
        # These are their author's words, and have limits of their own.
        del fields[name]
    yield from _long(fields, "", _MOST)
    yield from _acting(fields, "")
    names = {name: fields[name] for name in ("model", "revision", "preset", "adapter")}
    names |= {f"identity: {_cut(name)}": value for name, value in entry.identity.items()}
    for name, value in names.items():
        yield from _wordy(name, value, _MOST_NAME)
    for name in ("identity", "execution"):
        if len(fields[name]) > _MOST_NAMES:
            yield f"{name} has {len(fields[name])} entries, at most {_MOST_NAMES} may be there"
    for name, value in entry.execution.items():
        yield from _wordy(f"execution: {_cut(name)}", value, _MOST_FACT)
        if not _FACT.fullmatch(name):
            yield f"execution: {_cut(name)} is no name of a fact"
        if "://" in value or value.startswith("/"):
            yield f"execution: {_cut(name)} names a server or a place on a disk"
    for score in entry.scores:
        yield from _score_faults(score)


def _score_faults(score: Score) -> Iterator[str]:
    name = " ".join(filter(None, (score.benchmark, score.metric)))
    if score.title and (score.metric in RATES or len(score.title) > _MOST_TITLE):
        yield f"{_cut(name)}: its title {_cut(score.title)} is not the metric's"
    if score.undefined and score.estimate is not None:
        yield f"{_cut(name)}: it has an estimate and is undefined"
    yield from _wordy(f"{_cut(name)}: why it is undefined", score.undefined, _MOST_REASON)
    if score.estimate is not None:
        method = score.estimate.method
        yield from _wordy(f"{_cut(name)}: its interval's method", method, _MOST_METHOD)
    for note in score.judge_notes:
        if not _NOTE.fullmatch(note):
            yield f"{_cut(name)}: {_cut(note)} is no remark of a judge"
    for reason in (*score.excluded, *score.outcomes):
        if not _REASON.fullmatch(reason):
            yield f"{_cut(name)}: {_cut(reason)} is no outcome"


def _wordy(name: str, value: str, most: tuple[int, int]) -> Iterator[str]:
    """Say where there is more than a name: an answer would find room in it."""
    characters, words = most
    if len(value) > characters or len(value.split()) > words:
        yield f"{name} holds a text: at most {characters} characters and {words} words may be there"


def _long(value: Any, where: str, most: int) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) > most:
            yield f"{where} holds a text of {len(value)} characters, at most {most} may be there"
    elif isinstance(value, dict):
        for key, each in value.items():
            if len(key) > _MOST:
                yield f"{where} holds a name of {len(key)} characters, at most {_MOST} may be there"
            elif key not in _PACKED or where != "outcomes":
                below = where or key
                yield from _long(each, below, _MOST_PROTOCOL if below == "protocols" else most)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _long(each, where, most)


def _acting(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str):
        # Templates of conversations have lines.
        text = value.replace("\n", "") if where == "protocols" else value
        if ACTING.search(text):
            yield f"{where} holds control or direction characters"
    elif isinstance(value, dict):
        for key, each in value.items():
            if len(key) > 1:
                yield from _acting(key, where or "a field")
            if key not in _PACKED or where != "outcomes":
                yield from _acting(each, where or key)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _acting(each, where)


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
