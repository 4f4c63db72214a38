"""What a server can do, found out at the start by asking it; a doubtful outcome means no.

A server that does not know a field often ignores it in silence: asked to continue a message, it
starts a new turn, and the text that comes back looks like an answer. So nothing is believed that
has not been seen, and token counts are compared wherever the server gives them.
"""

from difflib import get_close_matches
from hashlib import sha256
from typing import Any

from msgspec import Struct

from tseval.errors import ConfigError, RequestFailed
from tseval.formats import BUILTIN_FAMILIES, TAG_PAIRS, TemplateView, ThinkingFormat, choose_format
from tseval.thinking import parse

from .http import Json, Rejected, Server
from .render import Renderer
from .wire import OPTIONAL, Draw, Reply, Wire, room_left

# Short to answer, and enough of a question that a model which thinks does so.
LOOK_QUESTION = "What is 17 + 25? Reply with the number only."
LOOK_TOKENS = 2048
_CANARY_QUESTION = "Who are you? Answer in one sentence."
_CANARY_TOKENS = 32
_LETTERS = "Write the alphabet in capital letters, separated by hyphens, and nothing else."
# Even a small model goes on from here as expected; a new turn begins with A, or with words.
_CUT, _REST = "A-B-C-D-E-F-G-H-", "I-J"
_HARMONY_HEAD, _HARMONY_PROMPT = "<|channel|>analysis<|message|>", "<|start|>assistant"


class Served(Struct, frozen=True, kw_only=True):
    """The model that a server was asked for.

    Attributes:
        name: The name that it answers to.
        context_length: Its context in tokens, or None if the server does not say.
        listed: Whether the server's list of models names it.
    """

    name: str
    context_length: int | None = None
    listed: bool = False


async def find_model(server: Server, wanted: str, *, strict: bool) -> Served:
    """Look a model up in the server's list.

    Args:
        server: The server.
        wanted: Its name; '' takes the only model that there is.
        strict: Whether a name that is not listed is an error. Some servers answer to any name
            with the one model they have, and the scorecard would carry the wrong name.

    Raises:
        ConfigError: The server does not have the model, or it has several and none was named.
        Rejected: The server refused the key.
    """
    try:
        content = await server.get("/models")
    except Rejected as rejected:
        if rejected.status in (401, 403) or 300 <= rejected.status < 400:
            raise
        content = {}
    rows = content.get("data")
    cards = {
        row["id"]: row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and isinstance(row.get("id"), str)
    }
    name = wanted or (next(iter(cards)) if len(cards) == 1 else "")
    if name and name not in cards and f"{name}:latest" in cards:
        name += ":latest"
    if not name or (cards and strict and name not in cards):
        raise _no_such_model(server.address.url, wanted, sorted(cards))
    length = cards.get(name, {}).get("max_model_len")
    return Served(
        name=name,
        context_length=length if isinstance(length, int) and length > 0 else None,
        listed=name in cards,
    )


def _no_such_model(url: str, wanted: str, known: list[str]) -> ConfigError:
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    if not wanted:
        return ConfigError(
            f"{url} serves {len(known)} models ({shown or 'it lists none'}), none was named",
            hint="--model openai/NAME",
        )
    near = get_close_matches(wanted, known, n=2, cutoff=0.4)
    meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ConfigError(
        f"{url} does not serve {wanted!r} (it lists: {shown})",
        hint=f"{meant}-M check_name=off asks for it all the same",
    )


class Look(Struct, frozen=True, kw_only=True):
    """The first answer, and the tokens that it was granted."""

    reply: Reply
    tokens: int


async def first_answer(wire: Wire) -> Look:
    """Ask the question that shows how the model answers, and learn the server's dialect.

    Raises:
        Rejected: The server refuses even a request of the plainest kind.
    """
    try:
        return Look(reply=await _look(wire, LOOK_TOKENS), tokens=LOOK_TOKENS)
    except Rejected as rejected:
        room = room_left(rejected, LOOK_TOKENS)
        if room is not None and room.tokens:
            return Look(reply=await _look(wire, room.tokens), tokens=room.tokens)
        if rejected.status not in (400, 422) or set(OPTIONAL) <= wire.dropped:
            raise
        before = set(wire.dropped)
        wire.dropped |= set(OPTIONAL)
        try:
            return Look(reply=await _look(wire, LOOK_TOKENS), tokens=LOOK_TOKENS)
        except Rejected:
            wire.dropped = before
            raise rejected from None


async def _look(wire: Wire, tokens: int, **fields: Any) -> Reply:
    return await wire.chat(_user(LOOK_QUESTION), Draw(max_tokens=tokens), strict=False, **fields)


async def canary(wire: Wire) -> str:
    """Hash a greedy answer; 'unstable' where the same question gets two, 'silent' where none."""
    draw = Draw(max_tokens=_CANARY_TOKENS)
    first = await wire.chat(_user(_CANARY_QUESTION), draw, strict=False)
    again = await wire.chat(_user(_CANARY_QUESTION), draw, strict=False)
    if first.whole != again.whole:
        return "unstable"
    if not first.whole:
        return "silent"
    return sha256(first.whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def recognise(reply: Reply, *, off_works: bool) -> TemplateView | None:
    """Conclude from an answer to the look question what the unseen template does.

    Args:
        reply: The answer.
        off_works: Whether ``enable_thinking=False`` was seen to switch the trace off.

    Returns:
        A view from which the format families draw the right conclusion; None if the answer
        allows none, since a trace that is cut off looks like an answer.
    """
    text = reply.text.lstrip()
    off = "thinking switched off" if off_works else ""
    if reply.trace:
        return TemplateView(rendered="", rendered_off=off, template="".join(TAG_PAIRS[0]))
    if text.startswith(_HARMONY_HEAD):
        return TemplateView(
            rendered=_HARMONY_PROMPT, rendered_off=_HARMONY_PROMPT, template="<|channel|>"
        )
    for opener, closer in TAG_PAIRS:
        if text.startswith(opener):
            return TemplateView(rendered="", rendered_off=off, template=opener + closer)
        if closer in text:
            return TemplateView(
                rendered=opener, rendered_off=off or opener, template=opener + closer
            )
    return None if reply.finish == "length" else TemplateView(rendered="", rendered_off="")


def thinks(reply: Reply) -> bool:
    """Whether an answer shows a trace."""
    view = recognise(reply, off_works=False)
    return view is not None and choose_format(BUILTIN_FAMILIES, view).thinks


async def off_works(wire: Wire, tokens: int) -> bool:
    """Whether ``enable_thinking=False`` switches the trace off."""
    switch = wire.template_kwargs({"enable_thinking": False})
    try:
        reply = await _look(wire, tokens, chat_template_kwargs=switch)
    except (Rejected, RequestFailed):
        return False
    # A reasoning parser that is not told of the switch puts the whole answer where the trace
    # should be; the switch worked all the same.
    misplaced = bool(reply.trace) and not reply.text and reply.finish == "stop"
    return misplaced or (reply.finish == "stop" and not thinks(reply))


async def renders_alike(wire: Wire, renderer: Renderer, looked: Reply) -> bool | None:
    """Whether a renderer makes the prompt that the chat route makes; None if nobody can tell."""
    ids = await renderer.prompt_ids(_user(LOOK_QUESTION), wire.template_kwargs({}))
    if not looked.prompt_tokens:
        return None
    return bool(ids) and len(ids) == looked.prompt_tokens


async def raw_agrees(wire: Wire, renderer: Renderer, look: Look) -> bool:
    """Whether the completions route, given token ids, answers as the chat route did.

    It must count the same prompt, and the trace that the chat route showed must be found by the
    format that the template leads to: marks that no family knows would pass for an answer.
    """
    ids = await renderer.prompt_ids(_user(LOOK_QUESTION), wire.template_kwargs({}))
    try:
        raw = await wire.complete(ids, Draw(max_tokens=look.tokens))
    except (Rejected, RequestFailed):
        return False
    if raw.prompt_tokens and raw.prompt_tokens != len(ids):
        return False
    fmt = choose_format(BUILTIN_FAMILIES, await renderer.view(wire.template_kwargs({})))
    parsed = parse(fmt, raw.text, opened=fmt.opened_by == "template")
    return parsed.thought == (bool(look.reply.trace) or thinks(look.reply))


async def chat_continues(wire: Wire, fmt: ThinkingFormat) -> bool:
    """Whether the chat route continues a final assistant message, think marks and all.

    Three things must hold: the text goes on where it was cut; the prompt is shorter than with
    the message as a finished turn (a new turn may well take up the thread, so the text alone
    proves nothing); and a message with a trace in it is as much longer as the trace is, so the
    template neither strips a trace nor adds an empty one.
    """
    opener = fmt.opener_mark or TAG_PAIRS[0][0]
    closer = fmt.answer_mark or TAG_PAIRS[0][1]
    block = f"{opener}\nThe user wants the letters of the alphabet.\n{closer}\n\n"
    begun = f"{opener}\nThe user wants the letters"
    try:
        plain = await _continue(wire, _CUT)
        finished = await _finish_turn(wire)
        with_trace = await _continue(wire, block + _CUT)
        inside = await _continue(wire, begun)
        sizes = [await _size(wire, text) for text in (_CUT, block + _CUT, begun)]
    except (Rejected, RequestFailed):
        return False
    counted = all(r.prompt_tokens for r in (plain, finished, with_trace, inside))
    if not counted or not all(sizes) or plain.prompt_tokens >= finished.prompt_tokens:
        return False
    if not _goes_on(plain) or not _goes_on(with_trace):
        return False
    return _alike(with_trace, plain, sizes[1] - sizes[0]) and _alike(
        inside, plain, sizes[2] - sizes[0]
    )


async def not_refuted(wire: Wire) -> bool:
    """Whether nothing speaks against a chat route that continues: enough for ``-M prefix=chat``."""
    try:
        plain = await _continue(wire, _CUT)
    except (Rejected, RequestFailed):
        return False
    try:
        finished = await _finish_turn(wire)
    except (Rejected, RequestFailed):
        return _goes_on(plain)
    if plain.prompt_tokens and finished.prompt_tokens:
        return plain.prompt_tokens < finished.prompt_tokens
    return _goes_on(plain)


async def _finish_turn(wire: Wire) -> Reply:
    return await wire.chat([*_user(_LETTERS), _assistant(_CUT)], Draw(max_tokens=8), strict=False)


def continued(text: str) -> Json:
    """Fields and message that ask a chat route to continue a beginning of the assistant's turn."""
    return {
        "message": _assistant(text),
        "fields": {"continue_final_message": True, "add_generation_prompt": False},
    }


async def _continue(wire: Wire, text: str) -> Reply:
    begun = continued(text)
    return await wire.chat(
        [*_user(_LETTERS), begun["message"]], Draw(max_tokens=8), strict=False, **begun["fields"]
    )


async def _size(wire: Wire, text: str) -> int:
    """Tokens of a text, give or take those that the server puts before every text."""
    return (await wire.complete(text, Draw(max_tokens=1))).prompt_tokens


def _goes_on(reply: Reply) -> bool:
    return reply.whole.startswith(_REST)


def _alike(longer: Reply, shorter: Reply, expected: int) -> bool:
    # One token may merge or part where the pieces meet.
    return abs(longer.prompt_tokens - shorter.prompt_tokens - expected) <= 1


async def takes_raw(wire: Wire) -> bool:
    """Whether the completions route takes a text as the whole prompt.

    Some servers put it into the chat template as if it were a question; what stands around it
    shows in the number of tokens. A beginning-of-text token does too, and a token may merge or
    part where the halves meet.
    """
    half = "The sky is blue. "
    try:
        once, twice = await _size(wire, half), await _size(wire, half + half)
    except (Rejected, RequestFailed):
        return False
    around = once - (twice - once)
    return 0 < once < twice and -1 <= around <= 2


async def heeds_seeds(wire: Wire) -> bool:
    """Whether equal seeds give equal texts and another seed another one."""
    question = _user("Write one sentence about anything you like.")

    async def drawn(seed: int) -> str:
        draw = Draw(max_tokens=24, temperature=1.0, seed=seed)
        return (await wire.chat(question, draw, strict=False)).whole

    if "seed" in wire.dropped:
        return False
    try:
        first, again, other = await drawn(1), await drawn(1), await drawn(2)
    except (Rejected, RequestFailed):
        return False
    return bool(first) and first == again != other


async def score(wire: Wire, ids: list[int]) -> list[tuple[float, bool]] | None:
    """Ask for the log-probability of every token of a prompt but the first.

    Returns:
        Natural log-probability and whether the token was the most probable one, for ids[1:];
        None where the server gives no such figures.
    """
    reply = await wire.complete(ids, Draw(max_tokens=1), echo=True, logprobs=1)
    table = reply.choice.get("logprobs")
    if not isinstance(table, dict):
        return None
    values, tops = table.get("token_logprobs"), table.get("top_logprobs")
    # With echo the prompt's tokens come first and the one new token last.
    if not isinstance(values, list) or not isinstance(tops, list):
        return None
    if len(values) != len(ids) + 1 or len(tops) != len(values):
        return None
    rows = list(zip(values[1:-1], tops[1:-1], strict=True))
    return [_scored(*row) for row in rows] if all(_is_scored(*row) for row in rows) else None


def _is_scored(value: Any, top: Any) -> bool:
    return isinstance(value, float | int) and value <= 1e-6 and isinstance(top, dict) and bool(top)


def _scored(value: float, top: dict[str, float]) -> tuple[float, bool]:
    return float(value), value >= max(top.values()) - 1e-9


def _user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}
