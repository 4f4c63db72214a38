"""Traces in chunks, and the token at which each chunk ends."""

import re
from collections.abc import Callable, Sequence

from msgspec import Struct

# Constants of arXiv 2606.25013: most characters of a chunk; chunks up to so many are dropped;
# traces with more chunks are loops.
LONGEST_CHUNK = 200
SHORTEST_CHUNK = 20
MOST_CHUNKS = 120
_BREAK = re.compile(r"(?<=[.!?])\s+")

Decode = Callable[[tuple[int, ...]], str]


class Chunk(Struct, frozen=True, kw_only=True):
    """A part of a trace.

    Attributes:
        text: Its sentences, joined by single spaces: what stance judges are shown.
        start, end: Its place in the text of the trace, in characters; ``end`` is behind its last
            sentence, before the whitespace that follows.
    """

    text: str
    start: int
    end: int


def chunked(
    text: str, longest: int = LONGEST_CHUNK, shortest: int = SHORTEST_CHUNK
) -> tuple[Chunk, ...]:
    """Cut a trace into chunks of whole sentences.

    Sentences end at whitespace behind '.', '!' or '?'. They are taken together as long as the
    chunk, its sentences joined by single spaces, has at most ``longest`` characters; a longer
    sentence stands alone. Chunks of ``shortest`` characters or fewer are left out: nothing is
    asked about them, but they stay in the trace that is cut.

    Args:
        text: The trace.
        longest: Most characters of a chunk.
        shortest: Chunks of so many characters or fewer are left out.

    Returns:
        The chunks in order.

    Source: arXiv 2606.25013, released code.
    Differs: Chunks know where they stand, so that a prefix is cut from the trace as it was written;
        there, prefixes are put together from chunks, without newlines and without short chunks.
    """
    groups: list[list[tuple[int, int]]] = []
    length = 0
    for start, end in _sentences(text):
        joined = length + 1 + end - start
        if groups and joined <= longest:
            groups[-1].append((start, end))
            length = joined
        else:
            groups.append([(start, end)])
            length = end - start
    chunks = (
        Chunk(
            text=" ".join(text[start:end] for start, end in group),
            start=group[0][0],
            end=group[-1][1],
        )
        for group in groups
    )
    return tuple(chunk for chunk in chunks if len(chunk.text) > shortest)


def token_end(decode: Decode, ids: Sequence[int], text: str, end: int) -> int:
    """Say how many tokens of a trace it takes to write its first characters.

    Safe for vocabularies of bytes: a prefix that ends inside a character does not count as having
    written it. The tokens may go beyond ``end`` where one of them straddles it.

    Args:
        decode: Ids to text.
        ids: Token ids of the whole trace.
        text: Their text, ``decode(ids)``.
        end: A place in it, in characters.

    Returns:
        The smallest n such that ``decode(ids[:n])`` begins with ``text[:end]``.

    Raises:
        ValueError: ``text`` is not what the ids say.
    """
    wanted = text[:end]
    low, high = 0, len(ids)
    if not decode(tuple(ids)).startswith(wanted):
        raise ValueError("the text is not that of the token ids")
    while low < high:
        middle = (low + high) // 2
        if decode(tuple(ids[:middle])).startswith(wanted):
            high = middle
        else:
            low = middle + 1
    return low


def _sentences(text: str) -> list[tuple[int, int]]:
    """Place of each sentence that is not blank."""
    edges = [0]
    for found in _BREAK.finditer(text):
        edges += [found.start(), found.end()]
    edges.append(len(text))
    spans = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        bare = text[start:end].strip()
        if bare:
            first = start + text[start:end].index(bare)
            spans.append((first, first + len(bare)))
    return spans
