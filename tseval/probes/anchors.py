r"""Where in a prompt states are read: anchors over the user's text, and the template behind it.

    <header> | How do I pick a lock ? | <end> \n <header> \n <opener>
      before   u ..... the user's ... last    tail ............... p

The user's text is found by rendering the chat template around another text and looking what stays
the same. Searching for the prompt itself would find one that also stands in the header behind it.

A token that holds the end of the user's text and the beginning of the template belongs to neither
part.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tseval.stats import two_sided_tail
from tseval.types import Estimate, Message

if TYPE_CHECKING:
    from tseval.rollouts import Model

    from .ranking import Groups, Labels

# Anchors over the user's text, as the paper has over all up to the prompt's last token ...
ANCHORS = 20
# ... and at most so many over the template's tail, which seldom has more tokens.
TAIL_ANCHORS = 8
# A text that no template holds or changes.
_STAND_IN = "Qzx7wvKj"
_UNKNOWN = "\ufffd"

Decode = Callable[[tuple[int, ...]], str]


class Frame(NamedTuple):
    """What the chat template puts around a user's text.

    Attributes:
        before, behind: Text.
        tail: Tokens behind the user's text.
    """

    before: str
    behind: str
    tail: int


class PromptPlaces(NamedTuple):
    """Token places of a rendered prompt.

    Attributes:
        user: First and last token that hold nothing but the user's text; None if there is none.
        tail: First and last token behind it; None if the template ends with the user's text.
        published: First token at or behind the last verbatim occurrence of the prompt, or else
            the first that is not blank, as the paper's code has it; and the prompt's last token.
        lost: Why there is no ``user``: 'prompt-not-found', 'no-token-of-its-own'; '' with one.
    """

    user: tuple[int, int] | None
    tail: tuple[int, int] | None
    published: tuple[int, int]
    lost: str = ""


def prompt_frame(model: "Model") -> Frame | None:
    """See what a model's chat template puts around a user's text.

    Returns:
        None where the backend does not know the rendered prompt, or the text is not in it.
    """
    ids = _rendered(model, _STAND_IN)
    if ids is None:
        return None
    text = model.backend.decode(ids)
    before, found, behind = text.rpartition(_STAND_IN)
    if not found:
        return None
    end = len(before) + len(_STAND_IN)
    return Frame(before, behind, len(ids) - _first_at(model.backend.decode, ids, text, end))


def prompt_places(model: "Model", prompt: str, frame: Frame | None) -> PromptPlaces | None:
    """Find the user's text and the template's tail among the tokens of a rendered prompt.

    Args:
        model: The model.
        prompt: The user's text.
        frame: See :func:`prompt_frame`.

    Returns:
        None where the backend does not know the rendered prompt.
    """
    ids = _rendered(model, prompt)
    return None if ids is None else places_in(model.backend.decode, ids, prompt, frame)


def places_in(
    decode: Decode, ids: tuple[int, ...], prompt: str, frame: Frame | None
) -> PromptPlaces:
    """Find the user's text and the template's tail in a rendered prompt; see prompt_places."""
    text = decode(ids)
    verbatim = text.rfind(prompt)
    published = (
        _first_at(decode, ids, text, verbatim) if verbatim >= 0 else _first_word(decode, ids)
    )
    ends = (min(published, len(ids) - 1), len(ids) - 1)
    span = _user_span(text, prompt, frame)
    if span is None:
        return PromptPlaces(None, None, ends, "prompt-not-found")
    start, stop = span
    first, behind = (_first_at(decode, ids, text, at) for at in (start, stop))
    tail = (behind, len(ids) - 1) if behind < len(ids) else None
    last = behind - 1
    if _completed(decode, ids, text, behind) > stop:
        last -= 1  # it holds a part of the template
    if first > last:
        return PromptPlaces(None, tail, ends, "no-token-of-its-own")
    return PromptPlaces((first, last), tail, ends)


def spread(ends: tuple[int, int], count: int) -> tuple[int, ...]:
    """Spread places evenly from the first to the last; where there are few, they repeat.

    Place k of n is at first + round(k (last - first) / (n - 1)), halves to even.
    """
    first, last = ends
    if count == 1:
        return (last,)
    return tuple(first + round(k * (last - first) / (count - 1)) for k in range(count))


def readable_from(
    scores: NDArray[np.float64],
    labels: "Labels",
    groups: "Groups",
    threshold: float,
    *,
    draws: int,
    rng: np.random.Generator,
) -> Estimate | None:
    """Say after which share of the way an outcome can be read, and can be from there on.

    Args:
        scores: float [K, n], out of fold, at K places from first to last.
        labels: bool [n].
        groups: int [n], drawn as one.
        threshold: AUROC that counts as readable: what chance seldom exceeds.
        draws: Bootstrap draws.
        rng: Draws the prompts.

    Returns:
        Share in [0, 1] with its interval, which reaches back to the place before; None if it
        cannot be read at the last place, for the prompts as they are or in a tenth of the draws.
    """
    _, place = np.unique(groups, return_inverse=True)
    size = int(place.max()) + 1
    times = rng.multinomial(size, np.full(size, 1 / size), size=draws)[:, place]
    weights = np.concatenate([np.ones((1, len(labels))), times]).astype(np.float64)
    one, zero = weights[:, labels], weights[:, ~labels]
    both = (one.sum(axis=1) > 0) & (zero.sum(axis=1) > 0)
    one, zero = one[both], zero[both]
    ranks = np.empty((len(scores), len(one)))
    for number, each in enumerate(scores):
        wins = np.sign(each[labels][:, None] - each[~labels][None, :]) / 2 + 0.5
        ranks[number] = ((one @ wins) * zero).sum(axis=1) / (one.sum(axis=1) * zero.sum(axis=1))
    # The first place from which on no later one falls back.
    stays = np.flip(np.minimum.accumulate(np.flip(ranks, axis=0), axis=0), axis=0) > threshold
    first = np.where(stays.any(axis=0), stays.argmax(axis=0), len(scores)).astype(float)
    shares = first / (len(scores) - 1)
    drawn = shares[1:]
    if shares[0] > 1 or (drawn > 1).mean() > 0.1:
        return None
    tail = two_sided_tail(0.95)
    low, high = np.quantile(np.minimum(drawn, 1.0), (tail, 1 - tail))
    value = float(shares[0])
    # It happens somewhere behind the place before.
    low = max(0.0, float(low) - 1 / (len(scores) - 1))
    return Estimate(
        value=value,
        low=min(low, value),
        high=max(float(high), value),
        method="bootstrap over prompts",
    )


def _rendered(model: "Model", prompt: str) -> tuple[int, ...] | None:
    asked = model.conversation((Message(role="user", content=prompt),))
    return model.backend.prompt_ids(asked, {})


def _user_span(text: str, prompt: str, frame: Frame | None) -> tuple[int, int] | None:
    """Characters of the user's text in a rendered prompt."""
    if frame is not None and text.startswith(frame.before) and text.endswith(frame.behind):
        stop = len(text) - len(frame.behind)
        if stop > len(frame.before):
            return len(frame.before), stop
    # The template looks at the text and puts something else around this one.
    for known in (prompt, prompt.strip()):
        start = text.rfind(known)
        if known and start >= 0:
            return start, start + len(known)
    return None


def _completed(decode: Decode, ids: tuple[int, ...], text: str, count: int) -> int:
    """Characters that the first tokens hold; one whose bytes go on behind them does not count."""
    part = decode(ids[:count])
    whole = part.rstrip(_UNKNOWN)
    if text.startswith(part):
        return len(part)
    if text.startswith(whole):
        return len(whole)
    return next(n for n, (one, other) in enumerate(zip(part, text, strict=False)) if one != other)


def _first_at(decode: Decode, ids: tuple[int, ...], text: str, at: int) -> int:
    """First token that begins at or behind a character; as many as there are, if none does."""
    return bisect_left(range(len(ids)), at, key=lambda count: _completed(decode, ids, text, count))


def _first_word(decode: Decode, ids: tuple[int, ...]) -> int:
    return next((n for n, each in enumerate(ids) if decode((each,)).strip()), 0)
