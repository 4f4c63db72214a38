"""The roles that plugins play. The docstrings here are the contracts.

A plugin need not inherit from anything: an object with these members plays the role.
``tseval.testing`` has the checks that every object of a role must pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from .formats import NO_FORMAT, TemplateView, ThinkingFormat
from .thinking import Limits
from .types import (
    BenchmarkSize,
    ChoiceScores,
    LogLikelihood,
    Message,
    Rollout,
    Sampling,
    Score,
    TextJudged,
    Verdict,
)

if TYPE_CHECKING:
    import numpy as np

    from .cards import BenchmarkCard
    from .session import Session
    from .spec import RunSpec

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
    """

    chat: bool = True
    prefix: bool = False
    token_ids: bool = False
    raw: bool = False
    logprobs: bool = False
    choices: bool = False
    hidden_states: bool = False
    seeds: bool = False


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
    """

    text: str
    ids: tuple[int, ...] | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    trace_text: str | None = None
    notes: tuple[str, ...] = ()


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
            layer behind the final norm).
        template_kwargs: Arguments for the chat template.
    """

    messages: tuple[Message, ...]
    prefix: tuple[Piece, ...] = ()
    positions: tuple[int, ...]
    layers: tuple[int, ...] = (-1,)
    template_kwargs: dict[str, Any] = {}


class Backend(Protocol):
    """A way to run one model. One object serves a whole run.

    Requests are single and concurrent: the session keeps up to ``max_outstanding`` of them
    waiting, and the backend forms its own batches. Every coroutine runs on the session's event
    loop; blocking work belongs into one worker thread. A request that fails raises
    ``RequestFailed`` and harms no other; ``BackendUnavailable`` says that none can succeed.
    Cancelling a request frees what it holds. Results do not depend on the order of requests;
    with ``seeds`` they depend on the request alone, up to rounding of low-precision batches.

    Attributes:
        spec: What was asked for.
        capabilities: What this object can do; may be less than its factory's.
        context_length: Tokens that prompt and completion share; None if unknown.
        max_outstanding: Requests that are worth having waiting at once.
        devices: Names of the devices it occupies ('cpu', 'cuda:0'); empty for a server. Models
            that name a common device take turns on it, except on 'cpu'.
    """

    spec: ModelSpec
    capabilities: Capabilities
    context_length: int | None
    max_outstanding: int
    devices: tuple[str, ...]

    @property
    def tokens_under_way(self) -> int:
        """New tokens of requests that are not answered yet, for the progress display.

        0 where the backend cannot know.
        """
        ...

    async def start(self, report: Report) -> Subject:
        """Load the model, or load it again after :meth:`close`; raise BackendError if it can't."""
        ...

    async def close(self) -> None:
        """Free the device. Safe to call twice; ``start`` may follow."""
        ...

    def template(self) -> TemplateView:
        """Show the chat template, for the choice of a thinking format."""
        ...

    def prompt_tokens(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> int | None:
        """Length of the rendered prompt in tokens; None where the backend cannot know."""
        ...

    def text_tokens(self, text: str) -> int | None:
        """Length of a text tokenised on its own; None where the backend cannot know."""
        ...

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of token ids, special tokens kept; only called with ``token_ids``."""
        ...

    async def complete(self, request: CompletionRequest) -> Completion:
        """Generate one completion."""
        ...

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        """Score a continuation; only called with ``logprobs``."""
        ...

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        """Say how probable each choice is as the next token; only called with ``choices``.

        Raises RequestFailed where two choices begin with the same token.
        """
        ...

    async def hidden_states(self, request: HiddenStatesRequest) -> np.ndarray:
        """Return float32 [positions, layers, width]; only called with ``hidden_states``."""
        ...


class Benchmark(Protocol):
    """A measurement: a coroutine over a memoised session; what ``register_benchmarks`` takes.

    ``run`` makes every call to a model or a judge through the session, so that it resumes after
    a kill and shares what others have asked already. It must give the same scores whatever the
    order in which its samples finish. What fails for one sample is counted and goes on; what
    raises ends this benchmark only.

    It may offer more: :class:`Sized`, :class:`Vetting`.

    Attributes:
        card: Describes it; needs at least ``name`` and ``summary``.
    """

    card: BenchmarkCard

    async def run(self, session: Session) -> list[Score]:
        """Measure, and return the scores."""
        ...


@runtime_checkable
class Sized(Protocol):
    """A benchmark with a ``run`` of its own that can say how much it will ask."""

    def size(self, spec: RunSpec) -> BenchmarkSize:
        """Count what a run with these settings will ask, without any model.

        Called in a thread without an event loop, so it may block. Raises DataError where rows
        cannot be read, and CapabilityMissing where they cannot be measured.
        """
        ...


@runtime_checkable
class Vetting(Protocol):
    """A benchmark that some settings cannot be meant for."""

    def vet(self, spec: RunSpec) -> None:
        """Raise ConfigError for settings that cannot be meant; called before a model is loaded."""
        ...


class BackendFactory(Struct, frozen=True, kw_only=True):
    """What ``register_backends`` takes: a backend that is not built yet.

    Attributes:
        name: The word before the slash of a model string.
        summary: One line for ``tseval ls backends``.
        capabilities: The most that it can do.
        create: Builds a backend; cheap, loads nothing (``Backend.start`` does).
        options: Names and meanings of its ``-M`` options.
        needs_model: Whether a model string needs a name after the slash.
    """

    name: str
    summary: str
    capabilities: Capabilities
    create: Callable[[ModelSpec], Backend]
    options: dict[str, str] = {}
    needs_model: bool = True


class JudgeCard(Struct, frozen=True, kw_only=True):
    """What a judge is.

    Attributes:
        name: Registered name.
        version: Changes whenever a verdict could.
        labels: What it says: 'refusal', 'harmful', or both.
        sees: Which text it judges unless told otherwise.
        summary, licence, paper: For ``tseval ls judges`` and the docs.
        identity: Everything else that determines a verdict: prompt hash, vote rule ...
        model: Default model string of judges that run one, or ''.
        asked: The ways in which its model can be asked, best first: 'raw' (tseval renders the
            published prompt) or 'chat' (messages, and the model's own chat template); none for a
            judge that runs no model.
        choices: Whether it reads the probabilities of the next token where the backend has them.
        alias_of: Name of the judge that this is another name of, or ''; its verdicts are the same.
    """

    name: str
    version: str
    labels: tuple[Literal["refusal", "harmful"], ...]
    sees: TextJudged = "answer"
    summary: str = ""
    licence: str = ""
    paper: str = ""
    identity: dict[str, str] = {}
    model: str = ""
    asked: tuple[Literal["raw", "chat"], ...] = ("chat",)
    choices: bool = False
    alias_of: str = ""


class JudgeCase(Struct, frozen=True, kw_only=True):
    """What a judge is shown: the prompt, and the text to be judged."""

    prompt: str
    text: str


class Question(Struct, frozen=True, kw_only=True):
    """What a judge asks its model.

    Attributes:
        messages: A conversation; empty if ``raw`` is the prompt.
        raw: The whole prompt as text, without the beginning-of-text token.
        template_kwargs: Arguments for the chat template.
    """

    messages: tuple[Message, ...] = ()
    raw: str = ""
    template_kwargs: dict[str, Any] = {}


class JudgeModel(Protocol):
    """A judge's own model, as the session hands it over: memoised, journalled, scheduled.

    Attributes:
        asked: 'raw' or 'chat': the first way on the judge's card that the backend can.
        choices: Whether :meth:`choose` may be called.
        context_length: Tokens that question and reply share; None if unknown.
    """

    asked: Literal["raw", "chat"]
    choices: bool
    context_length: int | None

    def tokens(self, question: Question) -> int | None:
        """Length of the question in tokens; None where the backend cannot know."""
        ...

    async def reply(
        self, question: Question, *, tokens: int, think: int = 0, temperature: float = 0.0
    ) -> Rollout:
        """Have the model answer.

        Args:
            question: What is asked.
            tokens: Most tokens of the answer.
            think: Most tokens of a thinking trace before it, for models that think; the answer
                of a trace that never closed is None.
            temperature: 0 is greedy.

        Raises:
            RequestFailed: The backend failed; kind 'overlong' if the question does not fit.
            RowSkipped: The question leaves too little of the context.
        """
        ...

    async def choose(self, question: Question, choices: tuple[str, ...]) -> ChoiceScores:
        """Say how probable each choice is as the next token; raises like :meth:`reply`."""
        ...


class Judge(Protocol):
    """Labels a text. Guard models are judges.

    A judge never guesses: what it cannot parse is ``Verdict(reason='unparsed')`` with all
    labels None. It is a pure function of the case (and of what its model answers), and must
    cope with any text: empty, huge, non-Latin, control characters.
    """

    card: JudgeCard

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        """Return a verdict; ``model`` is None for judges that run none."""
        ...


class MetricSpec(Struct, frozen=True, kw_only=True):
    """A rate over verdicts; what ``register_metrics`` takes.

    Attributes:
        name: 'asr_nonrefusal', 'asr_harmful', 'orr' ...
        title: Column heading.
        on: Which prompts it is about: 'harmful', 'benign', or 'question' for those with a right
            answer.
        label: Which label of the verdict it reads.
        hit: Whether a usable verdict (reason 'ok') counts as a hit.
        model_failure: What an empty or degenerate answer counts as: a hit or not.
        higher_is_better: Direction.
        version: Changes whenever a value could.
        companions: Metrics that are always computed beside it: other readings of the same rows.
        summary: One line.
    """

    name: str
    title: str
    on: Literal["harmful", "benign", "question"]
    label: Literal["refusal", "harmful", "correct"]
    hit: Callable[[Verdict], bool]
    model_failure: bool
    higher_is_better: bool = False
    version: str = "1"
    companions: tuple[str, ...] = ()
    summary: str = ""


class Intervention(Protocol):
    """Wraps generation: a system prompt, a prefilled sentence, a guided decoding loop.

    Part of the subject's identity, since it changes what is measured.
    """

    name: str
    identity: dict[str, str]

    async def complete(
        self,
        request: CompletionRequest,
        inner: Callable[[CompletionRequest], Awaitable[Completion]],
    ) -> Completion:
        """Make a completion with any number of calls to ``inner``."""
        ...


class Trainer(Protocol):
    """Turns a model into a better one; what ``register_trainers`` takes."""

    name: str
    summary: str

    def train(self, model: ModelSpec, out: Path, options: dict[str, Any]) -> Path:
        """Train and return the folder that holds the adapter or the weights."""
        ...


class Exporter(Protocol):
    """Writes a run in somebody else's format; what ``register_exporters`` takes."""

    name: str
    summary: str

    def export(self, run: Path, out: Path) -> list[Path]:
        """Write and return the files."""
        ...
