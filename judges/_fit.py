"""Makes a guard's question fit its context, by taking text out of the middle of the answer.

The template stays whole, head and tail: a prompt that is cut at its end would lose the line that
asks for the verdict. Where the backend can count tokens, the longest text that fits is searched
for; where it cannot, the question goes out whole and is halved until the server takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import tseval

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

# Stands where text was taken out.
GAP = "\n[...]\n"
# Below so many characters of an answer its prompt is cut instead.
LEAST = 200


class Cut(NamedTuple):
    """How many characters of prompt and answer are kept."""

    prompt: int
    answer: int


def shorten(text: str, keep: int) -> str:
    """Keep so many characters of a text, half from each end, with a mark between them."""
    if keep >= len(text):
        return text
    head = (keep + 1) // 2
    return text[:head] + GAP + text[len(text) - (keep - head) :]


async def ask_fitting(
    model: tseval.JudgeModel,
    build: Callable[[str, str], tseval.Question],
    prompt: str,
    answer: str,
    ask: Callable[[tseval.Question], Awaitable[T]],
    *,
    tokens: int,
) -> tuple[T, tuple[str, ...]]:
    """Ask a question about prompt and answer, shortened as far as it must be.

    Args:
        model: The guard's model.
        build: Makes the question out of prompt and answer.
        prompt: The prompt, marks broken up.
        answer: The answer, likewise.
        ask: Sends the question.
        tokens: Tokens that the reply needs, a trace before it included.

    Returns:
        What was replied; and 'truncated' if the answer was shortened, 'truncated-prompt' if the
        prompt was.

    Raises:
        RequestFailed: The backend failed; kind 'overlong' if nothing more can be taken out.
    """
    whole = Cut(len(prompt), len(answer))
    cut = _first(model, build, prompt, answer, tokens)
    while True:
        question = build(shorten(prompt, cut.prompt), shorten(answer, cut.answer))
        try:
            replied = await ask(question)
        except tseval.RequestFailed as error:
            smaller = _halved(cut) if error.kind == "overlong" else None
            if smaller is None:
                raise
            cut = smaller
            continue
        notes = ("truncated",) if cut.answer < whole.answer else ()
        if cut.prompt < whole.prompt:
            notes += ("truncated-prompt",)
        return replied, notes


def _first(
    model: tseval.JudgeModel,
    build: Callable[[str, str], tseval.Question],
    prompt: str,
    answer: str,
    tokens: int,
) -> Cut:
    """Return the longest texts that fit; everything where that cannot be known."""
    whole = Cut(len(prompt), len(answer))
    if model.context_length is None or model.tokens(build("", "")) is None:
        return whole
    room = model.context_length - tokens

    def fits(cut: Cut) -> bool:
        question = build(shorten(prompt, cut.prompt), shorten(answer, cut.answer))
        return (model.tokens(question) or 0) <= room

    if fits(whole):
        return whole
    least = min(LEAST, whole.answer)
    if fits(Cut(whole.prompt, least)):
        return Cut(whole.prompt, _most(lambda n: fits(Cut(whole.prompt, n)), least, whole.answer))
    if not fits(Cut(0, 0)):
        raise tseval.RequestFailed(
            f"the guard's own prompt does not fit into its context of {model.context_length}"
            f" tokens, of which {tokens} are kept for the reply",
            kind="overlong",
        )
    # The prompt is what is too long: it yields to the answer, which gets up to half of the room.
    half = _most(lambda n: fits(Cut(n, 0)), 0, whole.prompt) // 2
    kept = _most(lambda n: fits(Cut(0, n)), 0, min(whole.answer, max(half, least)))
    return Cut(_most(lambda n: fits(Cut(n, kept)), 0, whole.prompt), kept)


def _most(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number up to ``high`` that fits, by halving; ``low`` is known to."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _halved(cut: Cut) -> Cut | None:
    """Return half of the answer, then half of the prompt; None if both are short already."""
    if cut.answer > LEAST:
        return Cut(cut.prompt, max(cut.answer // 2, LEAST))
    if cut.prompt > LEAST:
        return Cut(max(cut.prompt // 2, LEAST), cut.answer)
    return None
