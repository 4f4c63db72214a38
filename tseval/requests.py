"""What passes between the engine and a backend, as frozen records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from .errors import RequestFailed
from .formats import NO_FORMAT, ThinkingFormat
from .thinking import Limits
from .types import Message, Sampling

# Text, or token ids as the engine gave them; a prefix is a sequence of such pieces.
Piece = str | tuple[int, ...]
# Called with a phrase ('converting weights') and the done share in [0, 1], or None if unknown.
Report = Callable[[str, float | None], None]


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a backend can do. A benchmark that needs more is skipped with the reason (exit 5).

    Attributes:
        chat: Takes messages.
        prefix: Continues from a given beginning of the assistant's turn.
        token_ids: Reports the token ids of what it generated and accepts them as a prefix.
        raw: Takes a text that is the whole prompt instead of messages.
        logprobs: Scores given continuations.
        choices: Says how probable given answers are as the next token.
        hidden_states: Returns hidden states.
        seeds: Equal row seeds give equal draws (batch effects of low precision aside).
        entropies: Says how uncertain the model was at each token it generated.
    """

    chat: bool = True
    prefix: bool = False
    token_ids: bool = False
    raw: bool = False
    logprobs: bool = False
    choices: bool = False
    hidden_states: bool = False
    seeds: bool = False
    entropies: bool = False


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Which model to run, and how.

    Attributes:
        backend: Registered backend name: 'hf', 'vllm', 'openai', 'demo' ...
        name: Path, hub id or served name; '' where the backend has only one.
        revision: Hub revision after '@', or ''.
        adapter: LoRA adapter after ':', or ''.
        base_url: Server address for backends that talk to one, or ''.
        options: ``-M key=value`` pairs, uninterpreted.
    """

    backend: str
    name: str = ""
    revision: str = ""
    adapter: str = ""
    base_url: str = ""
    options: dict[str, str] = {}


class Subject(Struct, frozen=True, kw_only=True):
    """The identity of what is measured (see docs/concepts on the three identities).

    Attributes:
        name: What tables call it.
        identity: Everything that identifies the weights, tokenizer and chat template: hub
            commit or file hashes; for a server URL, name and the hash of a greedy canary.
        verified: False where the identity rests on a server's word.
        recommended: Decoding values that the model's own configuration recommends.
        execution: Engine, dtype, device, versions: recorded, may differ between runs.
    """

    name: str
    identity: dict[str, str]
    verified: bool = True
    recommended: dict[str, float] = {}
    execution: dict[str, str] = {}


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """One completion to be made.

    Attributes:
        messages: The conversation before templating. Without any, ``prefix`` is the whole
            prompt (``raw``): no template is applied, marks in it are special tokens, and the
            tokenizer's own beginning-of-text token stands before it, once, if it has one.
        template_kwargs: Arguments for the chat template.
        prefix: Pieces that follow the rendered prompt, in order: text is tokenised on its own,
            ids are taken as they are.
        format: Format of the completion; together with ``opened`` and ``limits`` it says when
            to stop (see ``tseval.thinking.TraceState``).
        opened: Whether the completion starts inside a trace.
        limits: Most tokens of trace and answer.
        sampling: How tokens are drawn; its ``answer_tokens`` is not read, ``limits`` is.
        seed: Row seed, 63 bits. Equal seeds and requests give equal draws.
        banned: Strings that must not be generated (the closer, when thinking is extended).
        part: What is generated, for interventions: a trace from its 'start' (and what follows it),
            more of a recorded 'trace', of which ``prefix`` holds the beginning, or an 'answer'
            alone. Backends do not read it.
        entropy_top: Most probable tokens that entropies are taken over; 0: none are reported.
            More than 0 only with ``entropies``.
    """

    messages: tuple[Message, ...]
    template_kwargs: dict[str, Any] = {}
    prefix: tuple[Piece, ...] = ()
    format: ThinkingFormat = NO_FORMAT
    opened: bool = False
    limits: Limits
    sampling: Sampling
    seed: int = 0
    banned: tuple[str, ...] = ()
    part: Literal["start", "trace", "answer"] = "start"
    entropy_top: int = 0


class Completion(Struct, frozen=True, kw_only=True):
    """What a backend generated for one request.

    Attributes:
        text: The new text, special tokens kept, end-of-turn token removed.
        ids: Its token ids, likewise; None where the backend gives none.
        finish: 'stop' if the model ended its turn, 'length' if a limit was reached.
        prompt_tokens, tokens: Lengths of the whole input and of the new text; when a server
            does not say, 0.
        trace_text: A trace that a server already took out of ``text``; None if it did not.
        notes: Remarks that end up on the rollout.
        entropies: For each token of ``ids``, minus the sum of p ln p (nats) over the
            ``entropy_top`` most probable tokens there, p from a softmax over the whole vocabulary
            at temperature 1, before anything is banned; None where they were not asked for.
        injected: Ranges (start, stop) of ``ids`` that an intervention wrote, not the model.
        closed_by: 'cut' where an intervention closed the trace; '' where it did not.
    """

    text: str
    ids: tuple[int, ...] | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    trace_text: str | None = None
    notes: tuple[str, ...] = ()
    entropies: tuple[float, ...] | None = None
    injected: tuple[tuple[int, int], ...] = ()
    closed_by: Literal["cut", ""] = ""


class ScoringRequest(Struct, frozen=True, kw_only=True):
    """A continuation whose log-probability is asked for.

    Attributes:
        messages: The conversation; empty to score raw text.
        context: Pieces between the rendered prompt and the continuation.
        continuation: What is scored.
        template_kwargs: Arguments for the chat template.
    """

    messages: tuple[Message, ...]
    context: tuple[Piece, ...] = ()
    continuation: Piece
    template_kwargs: dict[str, Any] = {}


class ChoiceRequest(Struct, frozen=True, kw_only=True):
    """A question that is answered by the probability of the next token.

    Attributes:
        messages, prefix, template_kwargs: As for :class:`CompletionRequest`.
        choices: Possible answers, two or more; the first token of each, tokenised on its own,
            stands for it, so no two may begin with the same token.
    """

    messages: tuple[Message, ...] = ()
    prefix: tuple[Piece, ...] = ()
    template_kwargs: dict[str, Any] = {}
    choices: tuple[str, ...]


class HiddenStatesRequest(Struct, frozen=True, kw_only=True):
    """Hidden states to be read in one forward pass over prompt and prefix.

    Attributes:
        messages: The conversation before templating.
        prefix: Pieces that follow the rendered prompt.
        positions: Token positions; negative ones count from the end (-1 is the last token).
        layers: Layers; 0 is the embedding, negative ones count from the end (-1 is the last
            layer behind the final norm), and a float is a share of the depth (0.5 the middle).
        spans: Ranges of tokens (start, stop) of which the mean is wanted, taken in float32; stop
            is the first token behind it, and negative numbers count from the end.
        template_kwargs: Arguments for the chat template.
    """

    messages: tuple[Message, ...]
    prefix: tuple[Piece, ...] = ()
    positions: tuple[int, ...] = ()
    layers: tuple[int | float, ...] = (-1,)
    spans: tuple[tuple[int, int], ...] = ()
    template_kwargs: dict[str, Any] = {}


def places_of(given: tuple[int | float, ...], size: int, what: str) -> list[int]:
    """Turn places that may count from the end, or be shares of the way to it, into ones from 0.

    Args:
        given: Positions or layers; a float is a share, 1.0 the last of them.
        size: How many there are.
        what: 'position' or 'layer', for the message.

    Raises:
        RequestFailed: One does not exist (kind 'malformed').
    """
    found = []
    for each in given:
        place = round(each * (size - 1)) if isinstance(each, float) else each
        if not -size <= place < size or (isinstance(each, float) and each < 0):
            raise RequestFailed(f"there is no {what} {each} among {size}", kind="malformed")
        found.append(place % size)
    return found


def spans_of(given: tuple[tuple[int, int], ...], size: int) -> list[tuple[int, int]]:
    """Turn ranges (start, stop) whose ends may count from the end into ones from 0.

    Raises:
        RequestFailed: One is empty or leaves the text (kind 'malformed').
    """
    found = []
    for start, stop in given:
        first, last = (end + size if end < 0 else end for end in (start, stop))
        if not 0 <= first < last <= size:
            raise RequestFailed(
                f"there is no span ({start}, {stop}) among {size} tokens, or nothing in it",
                kind="malformed",
            )
        found.append((first, last))
    return found
