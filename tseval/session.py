"""Session: memoised calls to models and judges, against the journal of a run.

Every call has a content key: a hash of the subject, the messages, the prefix, the sampling, the
thinking policy, the run seed, the rollout index and the stream. The key is looked up in the
journal first; what has to be made is made once, journalled as it arrives, and shared by whoever
asks for it meanwhile. Resume, re-judging, pooling and sharing all follow from this.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .asking import row_seed
from .errors import TsevalError
from .formats import Opening, opening
from .hidden import hidden_states_of
from .journal import Journal, Kind
from .judging import Seat
from .ledger import Ledger
from .mapping import map_samples
from .memo import Memo, content_key
from .protocol import JudgeIdentity
from .readback import Row
from .requests import HiddenStatesRequest, Piece, ScoringRequest
from .roles import JudgeCase
from .rollouts import Continuation, Model, Plan, continue_trace, roll_out
from .scheduler import Scheduler
from .spec import RunSpec
from .stance_judging import StanceCalls, StanceSeat
from .types import LogLikelihood, Message, Rollout, Sampling, TextJudged, Thinking, Verdict
from .verdicts import Verdicts
from .workers import Workers

if TYPE_CHECKING:
    import numpy as np

    from .arrays import ArrayStore
    from .plugins import Registry

# An answer that takes longer to check is no answer that a checker can judge.
CHECK_SECONDS = 60.0

T = TypeVar("T")
R = TypeVar("R")


class Session(Ledger):
    """What a benchmark calls. Made by the runner; one per run.

    Args:
        spec: What is run.
        journal: The run's journal, open for writing.
        registry: Everything that is registered.
        models: Started models by role; 'target' is the one under test.
        judges: Seats by label (see ``tseval.judging``), members of panels before the panel.
        scheduler: Grants slots; knows every model.
        stances: Seats of the stance judges by label, members of panels before the panel.

    Attributes:
        spec, registry: As given.
        seats: The run's judges by label, in order.
        stances: The run's stance judges, and how they are asked.
        counts: What was made, found and failed so far: 'generation.made', 'verdict.found' ...
        protocols, warnings, expected, done: As in :class:`tseval.ledger.Ledger`.
    """

    def __init__(
        self,
        *,
        spec: RunSpec,
        journal: Journal,
        registry: "Registry",
        models: dict[str, Model],
        judges: dict[str, Seat],
        scheduler: Scheduler,
        stances: dict[str, StanceSeat] | None = None,
        arrays: "ArrayStore | None" = None,
        on_rollout: Callable[[Rollout], None] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.registry = registry
        self.seats = judges
        self._workers = Workers()
        self._memo = Memo(journal, scheduler, self._on_made)
        self.counts = self._memo.counts
        self._models = models
        self._scheduler = scheduler
        self._arrays = arrays
        self._on_rollout = on_rollout
        self._verdicts = Verdicts(self._memo, models, judges, self._workers, seed=spec.seed)
        self.stances = StanceCalls(self._memo, models, stances or {}, seed=spec.seed)

    # -- what a benchmark may ask about the run

    @property
    def target(self) -> Model:
        """The model under test."""
        return self._models["target"]

    @property
    def sampling(self) -> Sampling:
        """Decoding of the model under test: the run's values, or what the model recommends."""
        return self._sampling(self.target)

    def identity_of(self, judge: str) -> JudgeIdentity:
        """Identity of one of the run's judges, its model's or its members' included."""
        return self._verdicts.identity_of(judge)

    @property
    def tokens_under_way(self) -> int:
        """New tokens of unanswered requests, of the model under test or else of the judges'."""
        wanted = [self._models[name] for name in ("target",) if name in self._models]
        return sum(m.backend.tokens_under_way for m in wanted or self._models.values())

    @property
    def journal(self) -> Journal:
        """The run's journal."""
        return self._memo.journal

    def require(self, *capabilities: str) -> None:
        """Raise CapabilityMissing unless the model under test can do all of these.

        Hidden states may be another's to read: the same model's on another backend.
        """
        read = {"hidden_states"} if "reader" in self._models else set()
        self.target.require(*(name for name in capabilities if name not in read))

    # -- calls

    async def generate(
        self,
        messages: str | Iterable[Message],
        *,
        rollout: int = 0,
        stream: str = "",
        sampling: Sampling | None = None,
        thinking: Thinking | None = None,
        prefill: str = "",
        model: str = "target",
    ) -> Rollout:
        """Sample one completion.

        Args:
            messages: The conversation before templating; a string is one user turn.
            rollout: Index among the rollouts of this prompt.
            stream: Label of an independent series of draws; the default is shared by all
                benchmarks, so that two which ask the same pay once.
            sampling: Overrides the run's.
            thinking: Overrides the run's.
            prefill: Text that begins the answer, and is no part of the rollout's: the model goes
                on from there, without thinking; what it writes keeps its spaces.
            model: Role of the model.

        Raises:
            CapabilityMissing: The backend cannot continue a prefill.
            RequestFailed: The backend failed after its retries; journalled as an error.
            RowSkipped: The prompt leaves too little of the context.
            BackendUnavailable: No request can succeed any more.
        """
        made = self._models[model]
        drawn: dict[str, Any] = {"rollout": rollout, "stream": stream}
        if prefill:
            made.require("prefix")
            drawn["prefill"] = prefill
            thinking = msgspec.structs.replace(thinking or self.spec.thinking, mode="off")
        plan = self._plan("generation", made, messages, sampling, thinking, **drawn)
        plan = msgspec.structs.replace(plan, prefill=prefill)
        return await self._memo.call(
            "generation", plan.key, Rollout, made, lambda: roll_out(made, plan)
        )

    async def extend(
        self,
        messages: str | Iterable[Message],
        how: Continuation,
        *,
        rollout: int = 0,
        stream: str = "",
        sampling: Sampling | None = None,
        thinking: Thinking | None = None,
        model: str = "target",
    ) -> Rollout:
        """Continue a recorded trace from a prefix of it (see ``tseval.rollouts.Continuation``).

        Raises:
            CapabilityMissing: The backend cannot continue a prefix.
            RequestFailed, RowSkipped, BackendUnavailable: As for :meth:`generate`.
        """
        made = self._models[model]
        made.require("prefix")
        drawn = {"rollout": rollout, "stream": stream, "how": msgspec.to_builtins(how)}
        plan = self._plan("extension", made, messages, sampling, thinking, **drawn)
        return await self._memo.call(
            "extension", plan.key, Rollout, made, lambda: continue_trace(made, plan, how)
        )

    async def loglikelihood(
        self,
        messages: str | Iterable[Message],
        continuation: Piece,
        *,
        context: tuple[Piece, ...] = (),
        answers: bool = False,
        model: str = "target",
    ) -> LogLikelihood:
        """Score a continuation; raises like :meth:`extend`.

        With ``answers`` it stands behind an empty trace, as an answer with thinking off; else
        where the template ends, which may be inside a trace.
        """
        made = self._models[model]
        made.require("logprobs")
        turns = _turns(messages)
        start = opening(made.format, "off") if answers and turns else Opening(format=made.format)
        request = ScoringRequest(
            messages=made.conversation(turns),
            context=(start.prefill, *context) if start.prefill else context,
            continuation=continuation,
            template_kwargs=start.template_kwargs,
        )
        key = content_key(["loglikelihood", made.identity, msgspec.to_builtins(request)])
        return await self._memo.call(
            "loglikelihood", key, LogLikelihood, made, lambda: made.backend.loglikelihood(request)
        )

    async def hidden_states(
        self,
        messages: str | Iterable[Message],
        *,
        positions: tuple[int, ...] = (),
        layers: tuple[int | float, ...] = (-1,),
        prefix: tuple[Piece, ...] = (),
        spans: tuple[tuple[int, int], ...] = (),
        model: str = "target",
    ) -> "np.ndarray":
        """Read hidden states at token positions of prompt and prefix.

        Args:
            messages: The conversation before templating; a string is one user turn.
            positions: Token positions, as in ``tseval.requests.HiddenStatesRequest``.
            layers: Layers, likewise.
            prefix: Pieces that follow the rendered prompt.
            spans: Token spans, likewise.
            model: Role of the model.

        Returns:
            float32 [positions + spans, layers, width]; means over spans stand last.

        Raises:
            CapabilityMissing: The backend cannot.
            RequestFailed, BackendUnavailable: As for :meth:`generate`.
        """
        made = self._models[model]
        if model == "target" and not made.backend.capabilities.hidden_states:
            made = self._models.get("reader", made)
        request = HiddenStatesRequest(
            messages=made.conversation(_turns(messages)),
            prefix=prefix,
            positions=positions,
            layers=layers,
            spans=spans,
        )
        return await hidden_states_of(self._memo, self._arrays, made, request)

    async def judge(
        self,
        judge: str,
        prompt: str,
        text: str,
        *,
        sees: TextJudged = "answer",
        sample: int = 0,
        known: Mapping[str, Verdict] | None = None,
    ) -> tuple[str, Verdict]:
        """Have a text judged.

        Args:
            judge: Label of one of the run's judges.
            prompt: What the model was asked.
            text: What is judged.
            sees: Which text it is; part of the key.
            sample: Index among repeated verdicts of a sampling judge.
            known: Verdicts of other judges on the same text: a panel asks none of these again,
                not even where they failed.

        Returns:
            The verdict's key and the verdict. A judge whose model fails gives a verdict with
            reason 'error', which is not journalled as one: it is tried again on resume.
        """
        case = JudgeCase(prompt=prompt, text=text)
        return await self._verdicts.judge(judge, case, sees=sees, sample=sample, known=known or {})

    async def check(
        self, function: str, *arguments: Any, version: str, seconds: float = 60.0
    ) -> Any:
        """Compute something in a process of its own: check an answer, run a foreign scorer.

        Args:
            function: 'package.module:name'; a pure function of its arguments.
            arguments: Plain values.
            version: Changes whenever the result could; part of the key.
            seconds: Time after which it is stopped.

        Returns:
            What the function returned, as plain values; None is no result that can be kept.

        Raises:
            RequestFailed: It raised, ran out of time, or its process died; tried again on
                resume.
        """
        key = content_key(["check", function, version, arguments])
        return await self._memo.compute(
            "check", key, object, lambda: self._workers.call(function, arguments, seconds=seconds)
        )

    async def grade(
        self,
        checker: str,
        identity: JudgeIdentity,
        reference: str,
        answer: str,
        *,
        fate: str = "",
    ) -> tuple[str, Verdict]:
        """Have an answer checked; see :meth:`tseval.verdicts.Verdicts.grade`."""
        return await self._verdicts.grade(
            checker, identity, reference, answer, fate=fate, seconds=CHECK_SECONDS
        )

    def note_row(self, row: Row) -> None:
        """Journal how a sample's rollout and verdicts belong together."""
        self._memo.journal.append("row", content_key(["row", row]), row)

    def map(
        self, samples: Iterable[T], fn: Callable[[T], Awaitable[R]]
    ) -> AsyncIterator[tuple[T, R | TsevalError]]:
        """Apply a coroutine to samples, a bounded number at once, and yield as they finish.

        A sample may be run more than once (it is thrown away while a model it needs is absent);
        its calls to the session are answered from the journal the second time, so ``fn`` must
        have no other lasting effect before its last call.

        Args:
            samples: Consumed lazily.
            fn: Called with one sample. It may use task groups and maps of its own.

        Returns:
            An iterator over the samples, each with what ``fn`` returned, or with the
            RequestFailed or RowSkipped that it raised. Any other exception ends the map and is
            raised.
        """
        first = "target" if "target" in self._models else next(iter(self._models), "")
        window = max(2 * self._scheduler.bound(first), 4) if first else 64
        return map_samples(self._scheduler, samples, fn, window=window)

    async def close(self) -> None:
        """Cancel what is under way; the backends stay open."""
        await self._memo.close()
        await self._workers.close()
        await self._scheduler.close()

    def _on_made(self, kind: Kind, model: Model, value: Any) -> None:
        if kind != "generation" or model.name != "target":
            return
        self.counts["tokens"] += (value.trace_tokens or 0) + (value.answer_tokens or 0)
        self.counts["prompt_tokens"] += value.prompt_tokens or 0
        if self._on_rollout is not None:
            self._on_rollout(value)

    # -- keys

    def _sampling(self, model: Model) -> Sampling:
        if self.spec.decoding == "fixed":
            return self.spec.sampling
        return model.recommended(self.spec.sampling)

    def _plan(
        self,
        kind: Kind,
        model: Model,
        messages: str | Iterable[Message],
        sampling: Sampling | None,
        thinking: Thinking | None,
        **more: Any,
    ) -> Plan:
        """Plan a rollout; what is not given is the run's, and all of it makes the key."""
        turns = _turns(messages)
        sampling = sampling or self._sampling(model)
        thinking = thinking or self.spec.thinking
        key = content_key([kind, model.identity, turns, sampling, thinking, self.spec.seed, more])
        return Plan(
            key=key,
            seed=row_seed(key),
            messages=model.conversation(turns),
            sampling=sampling,
            thinking=thinking,
        )


def _turns(messages: str | Iterable[Message]) -> tuple[Message, ...]:
    if isinstance(messages, str):
        return (Message(role="user", content=messages),)
    return tuple(messages)
