"""How probable given answers are as the next token, from the few tokens that a server reports.

Servers report tokens as text: which token an answer begins with has to be told from the strings.
"""

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tseval.errors import RequestFailed
from tseval.types import ChoiceScores

from .http import Rejected
from .wire import Draw, Reply, Wire

# Most tokens that are asked for: what current servers allow, then what old ones do.
_MOST = (20, 5)
# How vocabularies write the space that a token begins with.
_SPACES = (" ", "\u2581", "\u0120")
# What servers write for no probability at all; JSON has no infinity.
_LOWEST = -9999.0
# The distribution itself: servers that scale what they report scale it by this.
NEXT = Draw(max_tokens=1, temperature=1.0)


class Tops(NamedTuple):
    """Most tokens that the chat and the completions route report; 0 for none."""

    chat: int = 0
    text: int = 0


class Reported(NamedTuple):
    """What was reported of one position.

    Attributes:
        logprobs: Natural log-probability by token string.
        floor: What no token that is not there can exceed.
    """

    logprobs: dict[str, float]
    floor: float


async def find_tops(wire: Wire, *, text: bool) -> Tops:
    """Ask how many of the most probable tokens a server reports; a doubtful outcome means none.

    Args:
        wire: Speaks to the server.
        text: Whether to ask the completions route too.
    """
    chat = await _most(lambda most: ask_chat(wire, [_QUESTION], most))
    return Tops(chat, await _most(lambda most: ask_text(wire, "The sky is", most)) if text else 0)


async def _most(ask: Callable[[int], Awaitable[Reply]]) -> int:
    for most in _MOST:
        try:
            return most if _shown(await ask(most)) else 0
        except Rejected:
            continue
        except RequestFailed:
            # It took all attempts to learn that; fewer tokens would hardly do better.
            return 0
    return 0


_QUESTION = {"role": "user", "content": "Is the sky blue? Answer yes or no."}


async def ask_chat(wire: Wire, messages: list[dict[str, Any]], most: int, **fields: Any) -> Reply:
    """Have one token written by the chat route, and the ``most`` most probable ones reported."""
    return await wire.chat(messages, NEXT, strict=False, logprobs=True, top_logprobs=most, **fields)


async def ask_text(wire: Wire, prompt: list[int] | str, most: int) -> Reply:
    """The same by the completions route."""
    return await wire.complete(prompt, NEXT, logprobs=most)


def _shown(reply: Reply) -> bool:
    try:
        return len(reported(reply).logprobs) > 1
    except RequestFailed:
        return False


def reported(reply: Reply) -> Reported:
    """Read what a reply reports of its first token.

    Either route may answer in either form: a list of tokens with their figures (OpenAI's chat
    route), or a table of strings (its completions route). A string that several tokens spell has
    their sum.

    Raises:
        RequestFailed: Nothing that can be read (kind 'malformed').
    """
    table = reply.choice.get("logprobs")
    table = table if isinstance(table, dict) else {}
    content, tops, tokens = (table.get(n) for n in ("content", "top_logprobs", "tokens"))
    drawn: Any = None
    rows: Any = None
    if isinstance(content, list) and content and isinstance(content[0], dict):
        rows, drawn = content[0].get("top_logprobs"), content[0].get("token")
        rows = [
            (row.get("token"), row.get("logprob"))
            for row in (rows if isinstance(rows, list) else ())
            if isinstance(row, dict)
        ]
    elif isinstance(tops, list) and tops and isinstance(tops[0], dict):
        rows = list(tops[0].items())
        drawn = tokens[0] if isinstance(tokens, list) and tokens else None
    if not rows or not all(_is_figure(*row) for row in rows):
        raise RequestFailed("the answer has no log-probabilities of tokens", kind="malformed")
    spelt: defaultdict[str, list[float]] = defaultdict(list)
    for token, value in rows:
        spelt[token].append(max(float(value), _LOWEST))
    # The token that was drawn is reported whatever its rank: others between it and the most
    # probable ones may be missing.
    ranked = sorted(rows, key=lambda row: row[1])
    low = ranked[1] if len(ranked) > 1 and ranked[0][0] == drawn else ranked[0]
    return Reported(
        {token: _log_sum(values) for token, values in spelt.items()},
        min(max(float(low[1]), _LOWEST), 0.0),
    )


def _log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def _is_figure(token: Any, value: Any) -> bool:
    return isinstance(token, str) and isinstance(value, float | int) and value <= 1e-6


def scores(choices: tuple[str, ...], found: Reported) -> ChoiceScores:
    """Say how probable each choice is.

    A token stands for a choice if the choice begins with it and no other choice does; one space
    before either does not count. Of the tokens that stand for a choice the most probable one
    counts, for the others may be the beginning of something else.

    Args:
        choices: Possible answers, none of which is the beginning of another.
        found: What was reported of the next token.

    Raises:
        RequestFailed: A choice is the beginning of another, or a token as probable as any that
            stands for a choice is the beginning of several (kind 'malformed').
    """
    plain = {choice: _without_space(choice) for choice in choices}
    _check_apart(plain)
    best: dict[str, float] = {}
    shared = -math.inf
    for token, value in found.logprobs.items():
        start = _without_space(token)
        meant = [choice for choice, text in plain.items() if start and text.startswith(start)]
        if len(meant) == 1:
            best[meant[0]] = max(value, best.get(meant[0], -math.inf))
        elif meant:
            shared = max(shared, value)
    if shared > -math.inf and shared >= max(best.values(), default=-math.inf):
        raise _not_apart(choices)
    known = {choice: min(best[choice], 0.0) for choice in choices if choice in best}
    return ChoiceScores(logprobs=known, floor=None if len(known) == len(plain) else found.floor)


def _check_apart(plain: dict[str, str]) -> None:
    for choice, text in plain.items():
        others = (other for name, other in plain.items() if name != choice)
        if not text or any(other.startswith(text) for other in others):
            raise _not_apart(tuple(plain))


def _not_apart(choices: tuple[str, ...]) -> RequestFailed:
    return RequestFailed(
        f"two of the choices {', '.join(map(repr, choices))} may begin with the same token, or"
        " one with none",
        kind="malformed",
    )


def _without_space(text: str) -> str:
    return text[1:] if text.startswith(_SPACES) else text
