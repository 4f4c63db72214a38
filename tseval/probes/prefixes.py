"""Prefixes of recorded traces: where they are cut, which traces cannot be, and shuffled controls.

Everything works on token ids as the engine gave them; nothing is tokenised again.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from tseval.types import Rollout

Ids = tuple[int, ...]
Decode = Callable[[Ids], str]

# A trace that ends in so many copies of one piece, and they in so many tokens, is a loop ...
LOOP_COPIES = 4
LOOP_TOKENS = 32
# ... and the piece may have at most so many.
LOOP_PERIOD = 512
# Notes of the format parser which say that opener and trace ids are not what the model wrote.
_ODD: Final = frozenset({"opener-missing", "late-opener", "headless", "unexpected-trace"})
_TRIES = 20


def tokens_kept(length: int, cut: int) -> int:
    """Tokens of a trace of ``length`` that stand before a cut in percent; 0 only at 0%.

    Source: arXiv 2606.25013 keeps the first max(1, int(B n / 100)) tokens.
    """
    return max(1, length * cut // 100) if cut else 0


def prefix_fault(rollout: Rollout, ids: Ids, cuts: Sequence[int]) -> str:
    """Say why a trace cannot be cut, or ''.

    Args:
        rollout: Whose trace it is.
        ids: Its token ids, as :func:`trim_trace` left them.
        cuts: In percent.

    Returns:
        'empty' (or no trace at all), 'unclosed', 'odd-trace' (put behind the opener it would not
        be what the model wrote), 'no-token-ids', 'loop', or 'short' (cuts coincide after
        rounding, so that curves over cuts would count a prefix twice).
    """
    if not rollout.thought or not rollout.trace.strip():
        return "empty"
    if rollout.closed_by == "none":
        return "unclosed"
    if rollout.trace_ids is None:
        return "no-token-ids"
    if is_odd(rollout):
        return "odd-trace"
    if is_loop(ids):
        return "loop"
    lengths = [tokens_kept(len(ids), cut) for cut in cuts]
    return "short" if len(set(lengths)) < len(lengths) else ""


def is_odd(rollout: Rollout) -> bool:
    """Whether opener and trace ids are not what the model wrote, as its format's parser says."""
    return bool(_ODD & set(rollout.notes))


def trim_trace(ids: Ids, decode: Decode, marks: Sequence[str] = ()) -> Ids:
    """Cut blank space, and a family's own marks, off the end of a trace.

    The closer begins with both: behind them it would stand there twice.

    Args:
        ids: The trace.
        decode: Ids to text, special tokens kept.
        marks: Marks that are no part of a trace's text (``ThinkingFormat.noise``).
    """
    end = len(ids)
    for start in range(len(ids) - 1, -1, -1):
        text = decode(ids[start:])
        for mark in marks:
            text = text.replace(mark, "")
        # A mark may be spelt with several tokens, so what looks like text may yet become one.
        if not text.strip():
            end = start
        elif end - start > 16:
            break
    return ids[:end]


def is_loop(ids: Sequence[int]) -> bool:
    """Whether a trace ends in at least four copies of one piece, of 32 tokens or more together."""
    array = np.asarray(ids)
    for period in range(1, min(LOOP_PERIOD, len(array) // LOOP_COPIES) + 1):
        needed = max(LOOP_TOKENS, LOOP_COPIES * period) - period
        if len(array) < needed + period:
            continue
        if bool((array[-needed:] == array[-needed - period : -period]).all()):
            return True
    return False


def sentence_starts(ids: Ids, decode: Decode) -> list[int]:
    """Find where sentences begin, between tokens: behind . ! ? and blank space, and behind lines.

    Tokens are decoded alone or in pairs, since some vocabularies show the blank space in front of
    a token only when another one stands before it.
    """
    alone = {token: decode((token,)) for token in set(ids)}
    starts = [0]
    blank = True
    for place, token in enumerate(ids[:-1]):
        text = alone[token]
        blank = blank and not text.strip()
        ends = "\n" in text
        if not ends and text.rstrip().endswith((".", "!", "?")):
            behind = decode((token, ids[place + 1]))[len(text) : len(text) + 1]
            ends = text != text.rstrip() or behind.isspace()
        if not ends:
            continue
        if blank and len(starts) > 1:
            # An empty line belongs to what it follows.
            starts[-1] = place + 1
        else:
            starts.append(place + 1)
        blank = True
    return starts


def shuffle_sentences(ids: Ids, starts: Sequence[int], rng: np.random.Generator) -> Ids | None:
    """Put the sentences of a prefix into another order; None where there is no other."""
    ends = [*starts[1:], len(ids)]
    pieces = [ids[start:end] for start, end in zip(starts, ends, strict=True)]
    if len(set(pieces)) < 2:
        return None
    for _ in range(_TRIES):
        order = rng.permutation(len(pieces))
        found = tuple(token for place in order for token in pieces[place])
        if found != tuple(ids):
            return found
    return None
