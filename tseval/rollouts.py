"""From one prompt to one rollout: open, think within a budget, close, answer.

This is the one place where the thinking contract meets a backend, so it holds for all of them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct, structs

from .errors import CapabilityMissing, ConfigError, RowSkipped
from .formats import NO_FORMAT, Opening, ThinkingFormat, opening, replay_prefill
from .requests import Completion, CompletionRequest, Piece, Subject
from .roles import Backend
from .thinking import Limits, Parsed, parse, parse_answer, split_ids
from .types import ClosedBy, Message, Rollout, Sampling, Thinking

# Below this many tokens left of the context a row is skipped rather than cut short.
LEAST_ROOM = 256

Complete = Callable[[CompletionRequest], Awaitable[Completion]]


class Model(Struct, frozen=True, kw_only=True):
    """A started backend with everything that was decided about it once.

    Attributes:
        name: Role in the run: 'target', or the judge that it serves.
        backend: The backend.
        subject: Its identity.
        format: Its thinking format.
        complete: ``backend.complete``, wrapped by the intervention if there is one.
        identity: Hash of subject, intervention and system prompt: part of every content key.
        system_prompt: Put before every conversation, or ''.
    """

    name: str
    backend: Backend
    subject: Subject
    format: ThinkingFormat
    complete: Complete
    identity: str
    system_prompt: str = ""

    def conversation(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put the system prompt in front, if there is one."""
        if not self.system_prompt:
            return messages
        return (Message(role="system", content=self.system_prompt), *messages)

    def require(self, *capabilities: str) -> None:
        """Raise CapabilityMissing unless the backend can do all of these."""
        have = self.backend.capabilities
        missing = [name for name in capabilities if not getattr(have, name)]
        if missing:
            raise CapabilityMissing(
                f"backend {self.backend.spec.backend!r} lacks {', '.join(missing)}",
                hint="run it on another backend, for example hf",
            )

    def recommended(self, sampling: Sampling) -> Sampling:
        """Return the decoding that the model's own configuration recommends.

        Args:
            sampling: Gives ``answer_tokens``, of which no model says anything.

        Raises:
            ConfigError: The model recommends nothing (a server never does).
        """
        values = self.subject.recommended
        if not values:
            raise ConfigError(
                f"{self.subject.name} recommends no decoding of its own",
                hint="give --temperature, --top-p and --top-k",
            )
        return Sampling(
            temperature=values.get("temperature", 1.0),
            top_p=values.get("top_p", 1.0),
            top_k=int(values.get("top_k", 0)),
            answer_tokens=sampling.answer_tokens,
        )


class Continuation(Struct, frozen=True, kw_only=True):
    """How a recorded trace is continued.

    Attributes:
        prefix: The trace so far, as token ids or text.
        close: Whether tseval closes it there and asks for the answer.
        think_tokens: Otherwise: most further tokens of the trace.
        ban_closer: Whether the model is kept from closing it; the rollout then ends there,
            without an answer.
    """

    prefix: tuple[Piece, ...]
    close: bool = True
    think_tokens: int = 0
    ban_closer: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """One rollout to be made: the request's fixed part.

    Attributes:
        key: Content key (hex).
        seed: Row seed.
        messages: The conversation, system prompt included.
        sampling: How tokens are drawn.
        thinking: Mode, budget, rule.
        raw: A text that is the whole prompt, where there are no messages.
        prefill: How the answer begins, where thinking is off; the model goes on from there.
        template_kwargs: Further arguments for the chat template.
    """

    key: str
    seed: int
    messages: tuple[Message, ...]
    sampling: Sampling
    thinking: Thinking
    raw: str = ""
    prefill: str = ""
    template_kwargs: dict[str, Any] = {}


async def roll_out(model: Model, plan: Plan) -> Rollout:
    """Make one rollout.

    A trace that is still open at its end (budget used up, or the model stopped inside it) is
    closed by tseval and the answer asked for, under the rule 'force'; under the other rules the
    rollout has no answer and the benchmark says what that means.

    Raises:
        RowSkipped: The prompt leaves fewer than 256 tokens of the context.
        RequestFailed: The backend failed.
    """
    if plan.raw:
        # Nobody's template, and so nobody's trace.
        start = Opening(format=NO_FORMAT, prefill=plan.raw)
    else:
        start = opening(model.format, plan.thinking.mode)
        start = structs.replace(start, prefill=start.prefill + plan.prefill)
    if plan.template_kwargs:
        kwargs = {**start.template_kwargs, **plan.template_kwargs}
        start = structs.replace(start, template_kwargs=kwargs)
    limits = _limits(model, plan, start)
    rollout = await _think_and_answer(model, plan, start, limits)
    short = []
    if 0 < limits.thinking < plan.thinking.budget:
        short.append("short-budget")
    if limits.answer < plan.sampling.answer_tokens:
        short.append("short-answer")
    return structs.replace(rollout, notes=(*rollout.notes, *short)) if short else rollout


async def _think_and_answer(model: Model, plan: Plan, start: Opening, limits: Limits) -> Rollout:
    """Make one rollout within limits that fit the context."""
    first = await model.complete(
        CompletionRequest(
            messages=plan.messages,
            template_kwargs=start.template_kwargs,
            prefix=(start.prefill,) if start.prefill else (),
            format=start.format,
            opened=start.opened,
            limits=limits,
            sampling=plan.sampling,
            seed=plan.seed,
            part="answer" if start.closed or not start.format.thinks else "start",
        )
    )
    parsed = _parse(start, first)
    if plan.prefill:
        parsed = _begun(parsed, first.text)
    if parsed.answer is not None or plan.thinking.unclosed != "force":
        return _rollout(model, plan, limits, first, parsed)
    # Without a closer the model would only go on thinking, and that be taken for the answer.
    closable = start.format.thinks and first.trace_text is None
    if not closable or not model.backend.capabilities.prefix:
        parsed = structs.replace(parsed, notes=(*parsed.notes, "cannot-force"))
        return _rollout(model, plan, limits, first, parsed)
    so_far: Piece = first.ids if first.ids is not None else first.text
    second = await _answer(model, plan, start, (start.prefill, so_far), limits.answer)
    return _joined(model, plan, limits, (first, parsed), second)


async def continue_trace(model: Model, plan: Plan, how: Continuation) -> Rollout:
    """Continue a recorded trace from a prefix of it.

    Returns:
        A rollout whose trace is what was newly thought ('' if ``how.close``) and whose
        ``closed_by`` is 'cut' where tseval closed the prefix.

    Raises:
        RowSkipped: The prefix leaves too little of the context for an answer.
        RequestFailed: The backend failed, or the prefix leaves no room in the context.
    """
    start = opening(model.format, plan.thinking.mode)
    if not start.format.thinks:
        start = opening(model.format, "forced")
    mode = plan.thinking.mode if model.format.thinks else "forced"
    prefix = (replay_prefill(model.format, mode), *how.prefix)
    answer_limit = plan.sampling.answer_tokens
    if how.close:
        done = await _answer(model, plan, start, prefix, answer_limit)
        parsed = parse_answer(start.format, done.text)
        room = (model.backend.context_length or 1 << 30) - done.prompt_tokens
        if room < min(LEAST_ROOM, answer_limit):
            raise _no_room(done.prompt_tokens, room + done.prompt_tokens)
        notes = parsed.notes + (("short-answer",) if room < answer_limit else ())
        parsed = structs.replace(parsed, thought=True, trace="", trace_span=(0, 0), notes=notes)
        return _rollout(model, plan, Limits(thinking=0, answer=answer_limit), done, parsed, "cut")
    limits = Limits(thinking=how.think_tokens, answer=0 if how.ban_closer else answer_limit)
    banned = (start.format.answer_mark, *start.format.end_marks) if how.ban_closer else ()
    done = await model.complete(
        CompletionRequest(
            messages=plan.messages,
            template_kwargs=start.template_kwargs,
            prefix=tuple(piece for piece in prefix if piece),
            format=start.format,
            opened=True,
            limits=limits,
            sampling=plan.sampling,
            seed=plan.seed,
            banned=banned,
            part="trace",
        )
    )
    return _rollout(model, plan, limits, done, parse(start.format, done.text, opened=True))


async def _answer(
    model: Model, plan: Plan, start: Opening, so_far: tuple[Piece, ...], limit: int
) -> Completion:
    """Close the trace and ask for the answer."""
    pieces = (*so_far, start.format.closer)
    return await model.complete(
        CompletionRequest(
            messages=plan.messages,
            template_kwargs=start.template_kwargs,
            prefix=tuple(piece for piece in pieces if piece),
            format=start.format,
            # A second trace, opened against the closer, eats up the answer that it replaces: no
            # more than the answer's room is left of the context.
            limits=Limits(thinking=0, answer=limit),
            sampling=plan.sampling,
            # Draws behind the closer are independent of those before it.
            seed=plan.seed ^ 0x5DEECE66D,
            part="answer",
        )
    )


def _limits(model: Model, plan: Plan, start: Opening) -> Limits:
    """Fit budget and answer into the context (the guard of methods.md, section 2)."""
    thinks = start.format.thinks and plan.thinking.mode != "off"
    wanted = Limits(
        thinking=plan.thinking.budget if thinks else 0, answer=plan.sampling.answer_tokens
    )
    backend = model.backend
    prompt = backend.prompt_tokens(plan.messages, start.template_kwargs)
    if prompt is None or backend.context_length is None:
        return wanted
    room = backend.context_length - prompt - (backend.text_tokens(start.prefill) or 0)
    if not thinks:
        least = min(LEAST_ROOM, wanted.answer)
        if room < least:
            raise _no_room(prompt, backend.context_length)
        return Limits(thinking=0, answer=min(wanted.answer, room))
    closer = backend.text_tokens(start.format.closer) or 0
    budget = min(wanted.thinking, room - closer - wanted.answer)
    if budget < min(LEAST_ROOM, wanted.thinking):
        raise _no_room(prompt, backend.context_length)
    return Limits(thinking=budget, answer=wanted.answer)


def _no_room(prompt: int, context: int) -> RowSkipped:
    return RowSkipped(
        f"the prompt takes {prompt} of {context} tokens and leaves fewer than {LEAST_ROOM}"
    )


def _parse(start: Opening, completion: Completion) -> Parsed:
    if completion.trace_text is not None:
        return _parse_separated(start, completion, completion.trace_text.strip())
    if start.closed:
        return parse_answer(start.format, completion.text)
    return parse(start.format, completion.text, opened=start.opened)


def _begun(parsed: Parsed, text: str) -> Parsed:
    """Give an answer that goes on from a beginning its spaces back: they may part two words."""
    if parsed.answer is None or len(parsed.answer_spans) != 1:
        return parsed
    (first, last) = parsed.answer_spans[0]
    whole = text[first:last]
    bare = whole.strip()
    before, _, behind = whole.partition(bare) if bare else (whole, "", "")
    return structs.replace(parsed, answer=before + parsed.answer + behind)


def _parse_separated(start: Opening, completion: Completion, trace: str) -> Parsed:
    """Put together what a server took apart."""
    rest = parse_answer(start.format, completion.text)
    # Without a word of answer at the length limit, the trace never closed.
    closed = rest.answer is not None and (bool(rest.answer) or completion.finish == "stop")
    thought_anyway = start.closed and trace and "reopened" not in rest.notes
    return structs.replace(
        rest,
        notes=("reopened", *rest.notes) if thought_anyway else rest.notes,
        trace=trace or rest.trace,
        answer=rest.answer if closed else None,
        thought=bool(trace) or rest.thought,
        closed=closed and (bool(trace) or rest.closed),
        answer_spans=rest.answer_spans if closed else (),
    )


def _rollout(
    model: Model,
    plan: Plan,
    limits: Limits,
    completion: Completion,
    parsed: Parsed,
    closed_by: ClosedBy | None = None,
) -> Rollout:
    trace_ids: tuple[int, ...] | None = None
    answer_ids: tuple[int, ...] | None = None
    if completion.ids is not None and completion.trace_text is None:
        trace_ids, answer_ids = split_ids(completion.ids, _decoder(model), parsed)
    written: ClosedBy = completion.closed_by or "model"
    by: ClosedBy = closed_by or (written if parsed.thought and parsed.closed else "none")
    return Rollout(
        key=plan.key,
        trace=parsed.trace,
        answer=parsed.answer,
        trace_ids=trace_ids,
        answer_ids=answer_ids,
        closed_by=by,
        thought=parsed.thought,
        finish=completion.finish,
        prompt_tokens=completion.prompt_tokens or None,
        trace_tokens=len(trace_ids) if trace_ids is not None else (None if parsed.thought else 0),
        answer_tokens=_length(answer_ids, completion, parsed),
        budget=limits.thinking,
        seed=plan.seed,
        notes=(*parsed.notes, *completion.notes, *_injected(completion, trace_ids)),
    )


def _injected(completion: Completion, trace_ids: tuple[int, ...] | None) -> tuple[str, ...]:
    """Say which tokens of the trace an intervention wrote: 'injected-at:0-12,70-85'.

    Ranges are [start, stop) in the trace's ids; what stands outside of them (an opener, a closer)
    is left out.
    """
    if not completion.injected or not trace_ids or completion.ids is None:
        return ()
    size = len(trace_ids)
    starts = range(len(completion.ids) - size + 1)
    first = next(n for n in starts if completion.ids[n : n + size] == trace_ids)
    spans = (
        (max(start - first, 0), min(stop - first, size)) for start, stop in completion.injected
    )
    shown = [f"{start}-{stop}" for start, stop in spans if start < stop]
    return (f"injected-at:{','.join(shown)}",) if shown else ()


def _length(
    answer_ids: tuple[int, ...] | None, completion: Completion, parsed: Parsed
) -> int | None:
    """Length of the answer; a server's count covers the trace, so it serves only without one."""
    if answer_ids is not None:
        return len(answer_ids)
    return None if parsed.thought else completion.tokens or None


def _joined(
    model: Model,
    plan: Plan,
    limits: Limits,
    thought: tuple[Completion, Parsed],
    second: Completion,
) -> Rollout:
    """Join the trace of a first completion and the answer of a second."""
    first, parsed = thought
    answer = parse_answer(opening(model.format, plan.thinking.mode).format, second.text)
    before = _rollout(model, plan, limits, first, parsed, closed_by="budget")
    behind = _rollout(model, plan, limits, second, answer)
    return structs.replace(
        before,
        answer=answer.answer,
        answer_ids=behind.answer_ids,
        answer_tokens=behind.answer_tokens,
        finish=second.finish,
        trace_finish=first.finish,
        notes=(*before.notes, *behind.notes),
    )


def _decoder(model: Model) -> Callable[[Sequence[int]], str]:
    return lambda ids: model.backend.decode(tuple(ids))
