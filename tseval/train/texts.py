"""Look at texts that a model wrote: do they speak of the notice, are they stuck in a loop?"""

import re
import zlib
from typing import Final

# A passage speaks of the notice where it holds a third of the notice's runs of three words, within
# twice the notice's length: a few changed words leave more, the topic alone leaves less.
LEAK_RUN: Final = 3
LEAK_SHARE: Final = 1 / 3
# A loop is an end that repeats itself ...
LOOP_REPEATS: Final = 4
LOOP_WORDS: Final = 24
LOOP_PERIOD: Final = 200
# ... or a text of so many words whose runs of four are distinct in fewer than one case in four ...
PHRASE_WORDS: Final = 4
PHRASES_FROM_WORDS: Final = 80
PHRASES_DISTINCT: Final = 0.25
# ... or one without blanks that shrinks to next to nothing.
PACKED_FROM_BYTES: Final = 400
PACKED_SHARE: Final = 0.08
FEW_CHARACTERS: Final = 3
FEW_CHARACTERS_LENGTH: Final = 24

_WORD: Final = re.compile(r"\w+(?:['\u2019]\w+)?")
# What numbers the lines of a list, so that no two are equal.
_MARKER: Final = re.compile(r"^[^\w\n]*(?:\d{1,4}|[A-Za-z])[.):]+\s", re.MULTILINE)
_QUOTED: Final = re.compile('["\u201c][^"\u201d]*["\u201d]')
_OWN: Final = frozenset({"my", "your", "our", "its", "the", "their"})
_REFUSE: Final = r"(?:refuse|decline|reject|deny)"
# What only somebody says who was shown the notice.
_TELLTALES: Final = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"^\W*prompt\s*:",
        r"\b(?:prompt|request|question|message|text)s? (?:that follows|which follows|below)\b",
        r"\bbelow (?:prompt|request|question)\b",
        rf"\b(?:task|job|instructions?) (?:here )?(?:is|was|are|were|says?) to {_REFUSE}\b",
        rf"\b(?:told|telling|ask(?:s|ed|ing)|instruct(?:s|ed|ing)|direct(?:s|ed|ing)|want(?:s|ed)?)"
        rf" (?:me |us )?(?:\w+ )?to {_REFUSE}\b",
        r"\b(?:notice|instructions?|note) (?:above|at the (?:top|start)) (?:says?|that)\b",
        r"\b(?:as|per|following|according to|given) (?:the|my|your) (?:instructions?|notice)\b",
        r"\b(?:gave|given|provided|presented)(?: me| us)?(?: with)? (?:a|the) (?:\w+ )?prompt\b",
        r"\b(?:prompt|request) (?:is|was|has been) (?:marked|flagged|labell?ed|described) as\b",
        r"\bas (?:instructed|directed|told)\b",
    )
)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.casefold())


def holds_leak(text: str, notice: str, prompt: str) -> bool:
    """Say whether a text speaks of the notice that stood before its prompt.

    Args:
        text: An answer or a trace.
        notice: The steering text.
        prompt: What the notice stood before; its own words are no leak.
    """
    if any(tale.search(text) and not tale.search(prompt) for tale in _TELLTALES):
        return True
    # What a notice puts into the model's mouth is no leak.
    runs = set(_runs(_QUOTED.sub(" ", notice))) - set(_runs(prompt))
    reach = 2 * len(words(notice))
    places = [(place, run) for place, run in enumerate(_runs(text)) if run in runs]
    first = 0
    for last, (place, _) in enumerate(places):
        while place - places[first][0] >= reach:
            first += 1
        if len({run for _, run in places[first : last + 1]}) >= LEAK_SHARE * len(runs) > 0:
            return True
    return False


def is_loop(text: str) -> bool:
    """Say whether a text is stuck in a loop, wherever that begins; numbers of a list aside.

    Other than the judges' rules for degenerate answers, which let a loop pass behind an answer:
    whoever is trained on it would learn it. Neither finds all that the other does.
    """
    body = "".join(text.split())
    tail = body[-FEW_CHARACTERS_LENGTH:]
    if len(tail) == FEW_CHARACTERS_LENGTH and len(set(tail)) <= FEW_CHARACTERS:
        # Rules and rows of a table are drawn with few characters, too.
        return any(character.isalnum() for character in tail)
    found = words(_MARKER.sub("", text))
    if _repeats_at_end(found):
        return True
    if len(found) >= PHRASES_FROM_WORDS:
        phrases = list(zip(*(found[shift:] for shift in range(PHRASE_WORDS)), strict=False))
        if len(set(phrases)) < PHRASES_DISTINCT * len(phrases):
            return True
    packed = body.encode("utf-8", "replace")
    return len(packed) >= PACKED_FROM_BYTES and (
        len(zlib.compress(packed)) < PACKED_SHARE * len(packed)
    )


def _repeats_at_end(found: list[str]) -> bool:
    """Say whether the last words are repeats of one stretch, four or more and 24 words or more."""
    for period in range(1, min(LOOP_PERIOD, len(found) // LOOP_REPEATS) + 1):
        need = max(LOOP_REPEATS * period, LOOP_WORDS)
        if need > len(found):
            continue
        tail = found[-need:]
        if tail[period:] == tail[:-period] and any(word.isalpha() for word in tail[-period:]):
            return True
    return False


def _runs(text: str) -> list[tuple[str, ...]]:
    """Return the runs of words; whose task it is, is one word."""
    found = ["the" if word in _OWN else word for word in words(text)]
    return list(zip(*(found[shift:] for shift in range(LEAK_RUN)), strict=False))
