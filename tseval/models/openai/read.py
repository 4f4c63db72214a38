"""From a server's reply to a completion: whose the text is, and whether the limits held."""

from msgspec.structs import replace

from tseval.formats import TAG_PAIRS
from tseval.requests import Completion, CompletionRequest
from tseval.thinking import parse

from .render import Renderer
from .wire import Reply


def behind_trace(request: CompletionRequest) -> bool:
    """Whether a request asks for the answer behind a trace that its prefix closed."""
    return bool(request.prefix) and not request.opened


def completion_of_text(request: CompletionRequest, reply: Reply) -> Completion:
    """Read a reply of the completions route: the text is as the model wrote it."""
    return _unbanned(request, _completion(request, reply, reply.text, None))


def completion_of_chat(request: CompletionRequest, reply: Reply, *, separates: bool) -> Completion:
    """Read a reply of the chat route, where a reasoning parser may have cut the text up.

    Such a parser sees the new text only. Behind a closed trace, or with thinking switched off,
    it often takes the whole answer for a trace; and a trace that was cut off at the limit comes
    back from some as if it were the answer.

    Args:
        request: What was asked for.
        reply: What came back.
        separates: Whether the server was seen to take traces out of the text.
    """
    fmt = request.format
    trace: str | None = reply.trace
    text: str = reply.text
    notes: tuple[str, ...] = ()
    if request.prefix and request.opened:
        # Put together again: what stands before and behind the mark is one text to the caller.
        trace, text = None, (trace or "") + (fmt.answer_mark if trace and text else "") + text
    elif fmt.thinks and (request.prefix or request.limits.thinking == 0):
        if trace and not text:
            text, trace, notes = trace, None, ("answer-in-trace-field",)
    elif fmt.thinks:
        if separates and not trace and reply.finish == "length" and not _marked(text):
            trace, text, notes = text, "", ("trace-in-answer-field",)
    elif trace:
        notes = ("unexpected-trace",)
    return _unbanned(request, _completion(request, reply, text, trace, notes))


def _marked(text: str) -> bool:
    start = text.lstrip()
    return any(start.startswith(opener) or closer in text for opener, closer in TAG_PAIRS)


def _completion(
    request: CompletionRequest,
    reply: Reply,
    text: str,
    trace: str | None,
    notes: tuple[str, ...] = (),
) -> Completion:
    written = {request.format.opener, request.format.closer, request.format.off_prefill}
    again = any(isinstance(piece, str) and piece not in written for piece in request.prefix)
    if again and request.messages:
        # What the model wrote went back as text; its tokens may be others than the first time.
        notes += ("text-prefix",)
    return Completion(
        text=text,
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        trace_text=trace,
        notes=(*reply.notes, *notes),
    )


def _unbanned(request: CompletionRequest, done: Completion) -> Completion:
    """End a text before the first string that it must not hold; not every server can ban any."""
    found = [at for ban in request.banned if (at := done.text.find(ban)) >= 0]
    if not found:
        return done
    return replace(done, text=done.text[: min(found)], finish="stop", notes=(*done.notes, "leaked"))


async def bound_limits(
    request: CompletionRequest, done: Completion, renderer: Renderer | None
) -> Completion:
    """Hold trace and answer to their own limits; the server only knows their sum.

    With a renderer a part that is too long is cut where its limit was, as if generation had
    stopped there. Without one the completion gets the note 'joint-limit' where it cannot be
    told whether both limits held.
    """
    limits = request.limits
    if not request.format.thinks or limits.thinking == 0 or behind_trace(request):
        return done
    if 0 < done.tokens <= min(limits.thinking, limits.answer):
        return done
    if renderer is None:
        return replace(done, notes=(*done.notes, "joint-limit"))
    parsed = parse(request.format, done.text, opened=request.opened)
    if parsed.thought:
        end = parsed.trace_span[1]
        ids = await renderer.text_ids(done.text[:end])
        if len(ids) > limits.thinking:
            return await _cut(done, "", ids[: limits.thinking], renderer)
    if parsed.answer_span is not None:
        begin, end = parsed.answer_span
        ids = await renderer.text_ids(done.text[begin:end])
        if len(ids) > limits.answer:
            return await _cut(done, done.text[:begin], ids[: limits.answer], renderer)
    return done


async def _cut(done: Completion, before: str, ids: list[int], renderer: Renderer) -> Completion:
    # A cut inside a character leaves half of it behind.
    text = before + (await renderer.text_of(ids)).rstrip("\ufffd")
    return replace(
        done,
        text=text,
        tokens=len(await renderer.text_ids(text)),
        finish="length",
        notes=(*done.notes, "cut-to-limit"),
    )
