"""Reads a guard's verdict from how probable its possible words are as the next token."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import tseval

if TYPE_CHECKING:
    from collections.abc import Mapping

# The words must hold at least this share of the probability. With less, the model is not about
# to give its verdict (it writes a line break first, say), and their ratio means nothing.
LEAST_MASS = 0.5


async def ask(
    model: tseval.JudgeModel, question: tseval.Question, words: tuple[str, ...]
) -> tseval.ChoiceScores | None:
    """Ask how probable words are; None where the backend cannot say.

    Raises:
        RequestFailed: The backend failed, other than by not being able to tell the words apart.
    """
    if not model.choices:
        return None
    try:
        return await model.choose(question, words)
    except tseval.RequestFailed as error:
        # One token does not tell these words apart, or nothing was reported: read the reply.
        if error.kind == "malformed":
            return None
        raise


class Chance(NamedTuple):
    """What two words' probabilities say.

    Attributes:
        label: Whether the first word is the more probable; None for a tie, or where an engine
            that reports only its most probable tokens leaves it open.
        shown: P(first) / (P(first) + P(second)), or a bound on it ('>=0.9731').
    """

    label: bool | None
    shown: str


def two(scores: tseval.ChoiceScores | None, yes: str, no: str) -> Chance | None:
    """Weigh two words against each other; None where the model is about to write another."""
    if scores is None or not _at_verdict(scores.logprobs, (yes, no)):
        return None
    known = scores.logprobs
    if yes in known and no in known:
        share = 1 / (1 + math.exp(min(known[no] - known[yes], 700.0)))
        label = None if known[yes] == known[no] else known[yes] > known[no]
        return Chance(label, f"{share:.4f}")
    if scores.floor is None:
        return None
    word = yes if yes in known else no
    bound = 1 / (1 + math.exp(min(scores.floor - known[word], 700.0)))
    label = word == yes if known[word] > scores.floor else None
    return Chance(label, f">={bound:.4f}" if word == yes else f"<={1 - bound:.4f}")


class Span(NamedTuple):
    """The least and the greatest that an expected value can be."""

    low: float
    high: float


def expected(scores: tseval.ChoiceScores | None, values: Mapping[str, float]) -> Span | None:
    """Give the expected value over the words, which share the whole probability among them.

    Words that the engine did not report have a probability between 0 and its floor.

    Returns:
        None where the model is about to write something else.
    """
    if scores is None or not _at_verdict(scores.logprobs, tuple(values)):
        return None
    known = scores.logprobs
    missing = [word for word in values if word not in known]
    if missing and scores.floor is None:
        return None
    present = {word: math.exp(known[word]) for word in values if word in known}
    most = math.exp(scores.floor) if scores.floor is not None else 0.0
    found = []
    # The value is monotone in each unknown probability, so its extremes are at the corners.
    for corner in product((0.0, most), repeat=len(missing)):
        weights = {**present, **dict(zip(missing, corner, strict=True))}
        total = sum(weights.values())
        found.append(sum(values[word] * weight for word, weight in weights.items()) / total)
    return Span(min(found), max(found))


def _at_verdict(known: Mapping[str, float], words: tuple[str, ...]) -> bool:
    present = [known[word] for word in words if word in known]
    # No comparison with NaN is true; a little above 0 is rounding.
    return all(each <= 1e-3 for each in present) and sum(map(math.exp, present)) >= LEAST_MASS
