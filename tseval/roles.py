"""The roles that plugins play. The docstrings here are the contracts.

A plugin need not inherit from anything: an object with these members plays the role.
``tseval.testing`` has the checks that every object of a role must pass. The role of
interventions, which wrap generation, stands in ``tseval.wrapping``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from .formats import TemplateView
from .requests import (
    Capabilities,
    ChoiceRequest,
    Completion,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    Report,
    ScoringRequest,
    Subject,
)
from .stances import StanceCase, Stances
from .types import (
    BenchmarkSize,
    ChoiceScores,
    LogLikelihood,
    Message,
    Rollout,
    Score,
    TextJudged,
    Verdict,
)

if TYPE_CHECKING:
    import numpy as np

    from .cards import BenchmarkCard
    from .session import Session
    from .spec import RunSpec
    from .train.job import Job
    from .train.records import Fitted, Gathered


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

    def prompt_ids(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """Token ids of the rendered prompt, as many as :meth:`prompt_tokens` says.

        Positions of :meth:`hidden_states` count from the first of them. None where the backend
        cannot know.
        """
        ...

    def text_tokens(self, text: str) -> int | None:
        """Length of a text tokenised on its own; None where the backend cannot know."""
        ...

    def text_ids(self, text: str) -> tuple[int, ...] | None:
        """Token ids of a text tokenised on its own; None where the backend cannot know."""
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
        """Return float32 [positions + spans, layers, width]; only called with ``hidden_states``.

        Raises RequestFailed (kind 'malformed') where a position, span or layer does not exist.
        """
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
        reader: Names the same model on a backend that shows hidden states, where this one does
            not; None where there is no such backend.
    """

    name: str
    summary: str
    capabilities: Capabilities
    create: Callable[[ModelSpec], Backend]
    options: dict[str, str] = {}
    needs_model: bool = True
    reader: Callable[[ModelSpec], ModelSpec] | None = None


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


class StanceJudge(Protocol):
    """Labels the chunks of a whole thinking trace; what ``register_stance_judges`` takes.

    As a :class:`Judge`, it is a pure function of its case and never guesses: what it cannot read
    is ``Stances(reason='unparsed')`` without labels. Labels that are not one a chunk, or none of
    -1, 0 and 1, are taken for unread.

    Attributes:
        card: As a judge's, but without ``labels``.
        validated: Where its agreement with people is reported; '' marks what rests on it as
            unvalidated.
    """

    card: JudgeCard
    validated: str

    async def label(self, case: StanceCase, model: JudgeModel | None) -> Stances:
        """Return a label a chunk; ``model`` is None for judges that run none."""
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


class TrainerCard(Struct, frozen=True, kw_only=True):
    """What a trainer is.

    Attributes:
        name: Registered name; the word behind ``tseval train``.
        summary, paper: For ``tseval ls trainers`` and the docs.
        takes: What it learns from: prompts of a kind, or a 'teacher' file of finished answers.
        judges: Whether it filters by judges, or is rewarded by them.
        options: Names and meanings of its ``-T`` options.
        unread: Fields of a recipe that it has no use for, such as 'fit.kl'. A recipe that sets one
            is refused, and no page shows it.
        version: Changes whenever its result could.
    """

    name: str
    summary: str
    takes: tuple[Literal["harmful", "benign", "teacher"], ...]
    judges: bool = True
    paper: str = ""
    options: dict[str, str] = {}
    unread: tuple[str, ...] = ()
    version: str = "1"


class Trainer(Protocol):
    """Turns a model into a better one; what ``register_trainers`` takes.

    Attributes:
        card: Describes it.
    """

    card: TrainerCard

    async def gather(self, session: Session, job: Job) -> Gathered:
        """Make what is trained on, asking models and judges through the session only.

        Raises TrainingError where nothing is left to train on.
        """
        ...

    def fit(self, gathered: Gathered, job: Job) -> Fitted:
        """Fit an adapter; no model of the session is loaded any more. Goes on from a checkpoint.

        Raises TrainingError.
        """
        ...


class Exporter(Protocol):
    """Writes a run in somebody else's format; what ``register_exporters`` takes.

    One that can leave out what was answered to harmful prompts sets ``redacts`` to True and is a
    :class:`RedactingExporter`; one that never writes a text sets ``holds_texts`` to False.
    """

    name: str
    summary: str

    def export(self, run: Path, out: Path) -> list[Path]:
        """Write the files into a folder, which is made if it is missing.

        Args:
            run: Folder of a run.
            out: Folder for the files.

        Returns:
            The paths of the files, all of them below ``out``.

        Raises:
            ConfigError: The run has nothing that the format has a place for.
            CapabilityMissing: A library is missing; says what to install.
            OSError: A file cannot be written.
        """
        ...


class RedactingExporter(Exporter, Protocol):
    """An exporter that can leave out traces and answers; ``tseval export`` tells it to, or not."""

    redacts: Literal[True]

    def export(self, run: Path, out: Path, *, redact: bool = True) -> list[Path]:
        """Write the files, without what was answered to harmful prompts if ``redact``."""
        ...
