"""The OpenAI dialects: what is sent, what comes back, and which fields a server does not know.

Servers fill fields that a request leaves out from the model's own configuration (vLLM and SGLang
take temperature, top-k and penalties from ``generation_config.json``, llama.cpp has a min-p of
its own). So every field that shapes the distribution is sent, also where it changes nothing, and
dropped only where the server says that it does not know it.
"""

import re
from typing import Any, Literal, NoReturn

from msgspec import Struct
from msgspec.structs import replace

from tseval.errors import BackendError, BackendUnavailable, RequestFailed

from .http import Json, Rejected, Server

# Fields that a server may refuse without changing what is measured, as long as they say nothing.
OPTIONAL = ("top_k", "min_p", "repetition_penalty", "skip_special_tokens", "seed", "bad_words")
_DECODING = ("temperature", "top_p")
# Hosted servers take this one beside, or instead of, the arguments of a template.
_EFFORT, _TEMPLATE = "reasoning_effort", "chat_template_kwargs"
# Fields that are tseval's own to set; ``-M extra_body`` must not.
RESERVED = frozenset(
    {
        *("model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "stop"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed"),
        *("logprobs", "top_logprobs", "echo", "skip_special_tokens", "bad_words"),
        *("continue_final_message", "add_generation_prompt"),
    }
)
# Fields that shape the draw, never the prompt.
_SAMPLERS = {"min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "typical_p"}
_UNKNOWN = re.compile(
    r"(?i)unknown|unrecogni[sz]ed|unsupported|not support|extra|not permitted|unexpected"
    r"|not allowed|not accept|no such"
)
_DISLIKED = re.compile(
    r"(?i)invalid|must be|should be|too (?:small|large)|out of range|greater|less"
)
_CONTEXT = re.compile(r"(?i)context (?:length|window|size)|max_model_len|too many tokens")
_FILTERED = re.compile(
    r"(?i)content[ _-]?(?:filter|management|policy)|moderation|flagged|safety (?:system|policy)"
)
_STOPPED = frozenset({"stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"})
_CUT = frozenset({"length", "max_tokens", "max_length", "model_length"})
_WITHHELD = frozenset(
    {"content_filter", "content_filtered", "safety", "recitation", "prohibited_content", "refusal"}
)


class Draw(Struct, frozen=True, kw_only=True):
    """How one completion is drawn; ``seed`` has 31 bits, or is None for greedy probes."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    banned: tuple[str, ...] = ()


class Reply(Struct, frozen=True, kw_only=True):
    """What a server answered.

    Attributes:
        text: The content; '' where the server said null.
        trace: What the server moved into a field of its own, or None if it moved nothing.
        finish: 'stop' or 'length'.
        prompt_tokens, tokens: Its counts; 0 where it gives none.
        reasoning_tokens: Its count of the trace, or None.
        notes: Remarks that end up on the rollout.
        choice: The first choice as it came, for log-probabilities.
    """

    text: str
    trace: str | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    reasoning_tokens: int | None = None
    notes: tuple[str, ...] = ()
    choice: Json = {}

    @property
    def whole(self) -> str:
        """Everything that was written, marks aside: trace and text in order."""
        return (self.trace or "") + self.text


class Wire:
    """Speaks one server's dialect, and learns it from what the server refuses.

    Args:
        server: The server.
        model: Name that it knows the model by.
        extra_body: Further fields for every request (``-M extra_body``).

    Attributes:
        dropped: Fields that the server does not take.
    """

    def __init__(self, server: Server, model: str, extra_body: Json) -> None:
        self.server = server
        self.model = model
        self.dropped: set[str] = set()
        self._extra = {k: v for k, v in extra_body.items() if k != "chat_template_kwargs"}
        self._template_kwargs: Json = extra_body.get("chat_template_kwargs") or {}
        self._limit_field = "max_tokens"
        # Refused at their neutral value only: 'top_k must be positive'.
        self._unsaid: set[str] = set()

    def template_kwargs(self, wanted: dict[str, Any]) -> Json:
        """Join the template arguments of a request with those of ``-M extra_body``."""
        return {**self._template_kwargs, **wanted}

    @property
    def shapes_prompts(self) -> bool:
        """Whether ``-M extra_body`` may change the prompt, which then cannot be rendered here."""
        return not self._extra.keys() <= _SAMPLERS

    async def chat(
        self, messages: list[Json], draw: Draw, *, strict: bool = True, **fields: Any
    ) -> Reply:
        """Ask the chat route.

        Args:
            messages: The conversation.
            draw: How to draw.
            strict: Whether a decoding value that the server refuses is an error; else the
                request goes out without it.
            fields: Further fields of the body.

        Raises:
            Rejected: The server refused the request.
            RequestFailed: It failed, or the provider's filter withheld the answer.
            BackendUnavailable: No request with this draw can succeed.
        """
        content = await self._send(
            "/chat/completions", {"messages": messages, **fields}, draw, strict
        )
        return self._noted(read_chat(content, draw.max_tokens), draw)

    async def complete(self, prompt: list[int] | str, draw: Draw, **fields: Any) -> Reply:
        """Ask the completions route; arguments and errors as in :meth:`chat`."""
        content = await self._send("/completions", {"prompt": prompt, **fields}, draw, False)
        return self._noted(read_text(content, draw.max_tokens), draw)

    async def _send(self, path: str, content: Json, draw: Draw, strict: bool) -> Json:
        while True:
            body = self._body(content, draw, strict)
            try:
                return await self.server.post(path, body)
            except Rejected as rejected:
                if not self._adapt(rejected, body, draw):
                    raise

    def _body(self, content: Json, draw: Draw, strict: bool) -> Json:
        fields: Json = {
            self._limit_field: draw.max_tokens,
            "temperature": draw.temperature,
            "top_p": draw.top_p,
            "top_k": draw.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # Some vocabularies make their think marks special tokens, which a server would
            # leave out of the text: trace and answer would run into each other.
            "skip_special_tokens": False,
        }
        if draw.seed is not None:
            fields["seed"] = draw.seed
        if draw.banned:
            fields["bad_words"] = list(draw.banned)
        for name in _DECODING:
            if strict and name in self.dropped and fields[name] != 1.0:
                raise BackendUnavailable(
                    f"{self.server.address.url} does not take {name} (wanted {fields[name]:g})",
                    hint="its models decode one way only: --temperature 1 --top-p 1",
                )
        silent = self.dropped | (set() if draw.top_k else self._unsaid)
        kept = {name: value for name, value in fields.items() if name not in silent}
        return {"model": self.model, **self._with_effort(content), **kept, **self._extra}

    def _with_effort(self, content: Json) -> Json:
        """Say how hard to think in the way, or in both ways, that the server was seen to take."""
        told = content.get(_TEMPLATE) or {}
        if _EFFORT not in told or _EFFORT in self.dropped:
            return content
        alone = set(told) == {_EFFORT} and _TEMPLATE in self.dropped
        kept = {name: value for name, value in content.items() if name != _TEMPLATE or not alone}
        return {_EFFORT: told[_EFFORT], **kept}

    def _adapt(self, rejected: Rejected, body: Json, draw: Draw) -> bool:
        """Learn from a refusal; return whether the request is worth sending again."""
        if rejected.status not in (400, 422) or room_left(rejected, 1) is not None:
            return False
        known = (*OPTIONAL, *_DECODING, "max_tokens", _TEMPLATE, _EFFORT, *self._extra)
        field = complaint(rejected, known, body)
        if field == "max_tokens" and self._limit_field == "max_tokens":
            self._limit_field = "max_completion_tokens"
            return True
        if field in _DECODING or (field in OPTIONAL and field not in self._extra):
            knows_it = field == "top_k" and not _UNKNOWN.search(rejected.message)
            (self._unsaid if knows_it and not draw.top_k else self.dropped).add(field)
            return True
        told = body.get(_TEMPLATE) or {}
        twice = _EFFORT in body and _EFFORT in told and _EFFORT not in self._extra
        if twice and (field == _EFFORT or (field == _TEMPLATE and set(told) == {_EFFORT})):
            # What is said twice may be left out once, never twice.
            self.dropped.add(field)
            return True
        return False

    def _noted(self, reply: Reply, draw: Draw) -> Reply:
        notes = reply.notes
        if draw.top_k and "top_k" in self.dropped:
            notes += ("top-k-dropped",)
        return reply if notes == reply.notes else replace(reply, notes=notes)


def complaint(rejected: Rejected, names: tuple[str, ...], body: Json) -> str:
    """Name the field of the body that a refusal is about, or ''."""
    said = rejected.param.split(".")[-1].split("[")[0]
    if said in names and said in body:
        return said
    if not (_UNKNOWN.search(rejected.message) or _DISLIKED.search(rejected.message)):
        return ""
    for name in names:
        if name in body and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rejected.message):
            return name
    return ""


class Room(Struct, frozen=True, kw_only=True):
    """Tokens that a server still grants a completion; ``context`` says for whose sake."""

    tokens: int
    context: bool


def room_left(rejected: Rejected, asked: int) -> Room | None:
    """Read from a refusal how many tokens would have been granted.

    Args:
        rejected: The refusal.
        asked: Tokens that were asked for.

    Returns:
        None if the refusal is about something else; 0 tokens if it is about the context but
        names no figures.
    """
    text = rejected.message
    cap = re.search(r"(?:at most|<=|less than or equal to|\[1,)\s*`?(\d+)", text)
    if re.search(r"max_(?:completion_)?tokens", text) and cap and not _CONTEXT.search(text):
        return Room(tokens=int(cap[1]), context=False)
    if not (_CONTEXT.search(text) or "context_length" in rejected.code):
        return None
    limit = re.search(r"(?i)context (?:length|window|size)\D{0,20}?(\d+)", text)
    used = re.search(
        r"(\d+) (?:input tokens|prompt tokens|in the (?:messages|prompt)|tokens from the input)"
        r"|resulted in (\d+)",
        text,
    )
    if not limit or not used:
        return Room(tokens=0, context=True)
    left = int(limit[1]) - int(used[1] or used[2])
    return Room(tokens=max(min(left, asked), 0), context=True)


def fail(rejected: Rejected) -> NoReturn:
    """Raise what a refusal in mid-run means for its request.

    A prompt that the provider's filter stops never reached the model: the request failed with
    the kind 'refused', is counted under that word, and is neither a refusal of the model's nor
    an empty answer.
    """
    if rejected.status in (400, 403, 451) and (
        _FILTERED.search(rejected.code) or _FILTERED.search(rejected.message)
    ):
        raise RequestFailed(
            f"the provider's content filter stopped the prompt: {rejected.message}", kind="refused"
        )
    raise RequestFailed(f"the server answered {rejected.status}: {rejected.message}", kind="server")


def cannot_start(rejected: Rejected, url: str, model: str) -> BackendError:
    """Say what a refusal means before the first answer, and what to do about it."""
    hints = {
        401: "set OPENAI_API_KEY (or the variable that -M api_key_env=NAME names)",
        403: "the key in OPENAI_API_KEY may not use this model",
        404: f"see whether {url} ends as it should, usually in /v1",
    }
    redirect = "pass that address as --base-url" if 300 <= rejected.status < 400 else ""
    return BackendError(
        f"{url} answered {rejected.status} for model {model!r}: {rejected.message}",
        hint=hints.get(rejected.status, redirect),
    )


def read_chat(content: Json, max_tokens: int) -> Reply:
    """Read an answer of the chat route.

    The trace stands in ``reasoning_content`` (vLLM until 0.11, SGLang, DeepSeek) or ``reasoning``
    (vLLM, OpenRouter, Ollama), or in parts of type 'thinking' (Mistral); null content is ''.

    Raises:
        RequestFailed: Kind 'refused' where a filter withheld it, 'malformed' where it is no
            chat answer.
    """
    choice = _choice(content)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RequestFailed("the answer has no message", kind="malformed")
    text, trace = _content(message.get("content"))
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if not trace and isinstance(value, str) and value:
            trace = value
    notes: tuple[str, ...] = ()
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str) and refusal:
        # The model's own words, put into a field of their own.
        text, notes = refusal, ("refusal-field",)
    return _reply(content, choice, max_tokens, text, trace or None, notes)


def read_text(content: Json, max_tokens: int) -> Reply:
    """Read an answer of the completions route; raises as :func:`read_chat`."""
    choice = _choice(content)
    text = choice.get("text")
    return _reply(content, choice, max_tokens, text if isinstance(text, str) else "", None, ())


def _choice(content: Json) -> Json:
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RequestFailed("the answer has no choices", kind="malformed")
    return choices[0]


def _content(value: Any) -> tuple[str, str]:
    """Split message content into text and thinking; a list holds parts of either type."""
    if isinstance(value, str):
        return value, ""
    text, trace = [], []
    for part in value if isinstance(value, list) else ():
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            trace.append(inner if isinstance(inner, str) else _content(inner)[0])
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            text.append(part["text"])
    return "".join(text), "".join(trace)


def _reply(
    content: Json,
    choice: Json,
    max_tokens: int,
    text: str,
    trace: str | None,
    notes: tuple[str, ...],
) -> Reply:
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    tokens = _count(usage.get("completion_tokens"))
    return Reply(
        text=text,
        trace=trace,
        finish=_finish(choice.get("finish_reason"), tokens, max_tokens),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        tokens=tokens,
        # Servers without such a count say 0, so only a positive one tells anything.
        reasoning_tokens=_count(reasoning) or None,
        notes=notes,
        choice=choice,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _finish(word: Any, tokens: int, max_tokens: int) -> Literal["stop", "length"]:
    said = word.lower() if isinstance(word, str) else ""
    if said in _STOPPED:
        return "stop"
    if said in _CUT:
        return "length"
    if said in _WITHHELD:
        raise RequestFailed(
            f"the provider's content filter withheld the answer ({said})", kind="refused"
        )
    if not said and tokens:
        return "length" if tokens >= max_tokens else "stop"
    raise RequestFailed(f"the answer ended for an unknown reason {word!r}", kind="malformed")
