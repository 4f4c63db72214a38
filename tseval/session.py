"""Session: memoised calls to models and judges, against the journal of a run.

Every call has a content key: a hash of the subject, the messages, the prefix, the sampling, the
thinking policy, the run seed, the rollout index and the stream. The key is looked up in the
journal first; what has to be made is made once, journalled as it arrives, and shared by whoever
asks for it meanwhile. Resume, re-judging, pooling and sharing all follow from this.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .asking import asked_model, row_seed
from .errors import CapabilityMissing, ConfigError, RequestFailed, RowSkipped, TsevalError
from .journal import Journal, Kind
from .judging import Seat, identify
from .mapping import map_samples
from .memo import Memo, content_key
from .panels import Panel
from .protocol import JudgeIdentity, Protocol
from .readback import Row
from .roles import HiddenStatesRequest, JudgeCase, Piece, ScoringRequest
from .rollouts import Continuation, Model, Plan, continue_trace, roll_out
from .scheduler import Scheduler
from .spec import RunSpec
from .types import LogLikelihood, Message, Rollout, Sampling, TextJudged, Thinking, Verdict
from .workers import Workers

if TYPE_CHECKING:
    import numpy as np

    from .arrays import ArrayStore
    from .plugins import Registry

# An answer that takes longer to check is no answer that a checker can judge.
CHECK_SECONDS = 60.0

T = TypeVar("T")
R = TypeVar("R")


class Session:
    """What a benchmark calls. Made by the runner; one per run.

    Args:
        spec: What is run.
        journal: The run's journal, open for writing.
        registry: Everything that is registered.
        models: Started models by role; 'target' is the one under test.
        judges: Seats by label (see ``tseval.judging``), members of panels before the panel.
        scheduler: Grants slots; knows every model.

    Attributes:
        spec, registry: As given.
        seats: The run's judges by label, in order.
        counts: What was made, found and failed so far: 'generation.made', 'verdict.found' ...
        protocols: Every protocol that a score was made under, by fingerprint.
        warnings: Remarks that belong beside the scores.
        expected, done: Steps by benchmark, for the progress display.
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
        arrays: "ArrayStore | None" = None,
        on_rollout: Callable[[Rollout], None] | None = None,
    ) -> None:
        self.spec = spec
        self.registry = registry
        self.seats = judges
        self.protocols: dict[str, Protocol] = {}
        self.warnings: list[str] = []
        self.expected: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._workers = Workers()
        self._memo = Memo(journal, scheduler, self._on_made)
        self.counts = self._memo.counts
        self._models = models
        self._scheduler = scheduler
        self._arrays = arrays
        self._on_rollout = on_rollout
        self._identities: dict[str, JudgeIdentity] = {}

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
        if judge not in self._identities:
            seat = self.seats[judge]
            members = [self.identity_of(member) for member in seat.members]
            self._identities[judge] = identify(seat, self._models, members)
        return self._identities[judge]

    @property
    def tokens_under_way(self) -> int:
        """New tokens of unanswered requests, of the model under test or else of the judges'."""
        wanted = [self._models[name] for name in ("target",) if name in self._models]
        return sum(m.backend.tokens_under_way for m in wanted or self._models.values())

    @property
    def journal(self) -> Journal:
        """The run's journal."""
        return self._memo.journal

    def warn(self, message: str) -> None:
        """Keep a remark that belongs beside the scores; each is kept once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def require(self, *capabilities: str) -> None:
        """Raise CapabilityMissing unless the model under test can do all of these."""
        _require(self.target, *capabilities)

    def declare(self, protocol: Protocol) -> str:
        """Record the protocol of a score that will be made; return its fingerprint."""
        self.protocols[protocol.fingerprint] = protocol
        return protocol.fingerprint

    def expect(self, benchmark: str, steps: int) -> None:
        """Say how many steps a benchmark will take, for the progress display."""
        self.expected[benchmark] += steps

    def advance(self, benchmark: str, steps: int = 1) -> None:
        """Say that steps were done."""
        self.done[benchmark] += steps

    # -- calls

    async def generate(
        self,
        messages: str | Iterable[Message],
        *,
        rollout: int = 0,
        stream: str = "",
        sampling: Sampling | None = None,
        thinking: Thinking | None = None,
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
            model: Role of the model.

        Raises:
            RequestFailed: The backend failed after its retries; journalled as an error.
            RowSkipped: The prompt leaves too little of the context.
            BackendUnavailable: No request can succeed any more.
        """
        made = self._models[model]
        turns = _turns(messages)
        sampling = sampling or self._sampling(made)
        thinking = thinking or self.spec.thinking
        key = self._key(
            "generation", made, turns, sampling, thinking, rollout=rollout, stream=stream
        )
        plan = self._plan(key, made, turns, sampling, thinking)
        return await self._memo.call("generation", key, Rollout, made, lambda: roll_out(made, plan))

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
            RequestFailed, BackendUnavailable: As for :meth:`generate`.
        """
        made = _require(self._models[model], "prefix")
        turns = _turns(messages)
        sampling = sampling or self._sampling(made)
        thinking = thinking or self.spec.thinking
        key = self._key(
            "extension",
            made,
            turns,
            sampling,
            thinking,
            rollout=rollout,
            stream=stream,
            how=msgspec.to_builtins(how),
        )
        plan = self._plan(key, made, turns, sampling, thinking)
        return await self._memo.call(
            "extension", key, Rollout, made, lambda: continue_trace(made, plan, how)
        )

    async def loglikelihood(
        self,
        messages: str | Iterable[Message],
        continuation: Piece,
        *,
        context: tuple[Piece, ...] = (),
        model: str = "target",
    ) -> LogLikelihood:
        """Score a continuation; raises like :meth:`extend`."""
        made = _require(self._models[model], "logprobs")
        turns = _turns(messages)
        request = ScoringRequest(
            messages=made.conversation(turns), context=context, continuation=continuation
        )
        key = content_key(["loglikelihood", made.identity, msgspec.to_builtins(request)])
        return await self._memo.call(
            "loglikelihood", key, LogLikelihood, made, lambda: made.backend.loglikelihood(request)
        )

    async def hidden_states(
        self,
        messages: str | Iterable[Message],
        *,
        positions: tuple[int, ...],
        layers: tuple[int, ...] = (-1,),
        prefix: tuple[Piece, ...] = (),
        model: str = "target",
    ) -> "np.ndarray":
        """Read hidden states at token positions of prompt and prefix.

        Returns:
            float32 [positions, layers, width].

        Raises:
            CapabilityMissing: The backend cannot.
            RequestFailed, BackendUnavailable: As for :meth:`generate`.
        """
        made = _require(self._models[model], "hidden_states")
        arrays = self._arrays
        if arrays is None:
            raise ConfigError("this session was made without a place for arrays")
        request = HiddenStatesRequest(
            messages=made.conversation(_turns(messages)),
            prefix=prefix,
            positions=positions,
            layers=layers,
        )
        key = content_key(["hidden", made.identity, msgspec.to_builtins(request)])

        async def keep(values: "np.ndarray") -> dict[str, str]:
            # Written before the record that points to it: a pointer is never dangling.
            return {"array": await arrays.write(key, values)}

        pointer = await self._memo.call(
            "hidden", key, dict[str, str], made, lambda: made.backend.hidden_states(request), keep
        )
        return arrays.read(pointer["array"])

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
        seat = self.seats[judge]
        if not text.strip():
            # Nothing was said: the model's doing, and nothing that a judge could be asked about.
            return "", Verdict(reason="empty")
        identity = msgspec.to_builtins(self.identity_of(judge))
        key = content_key(["verdict", identity, prompt, text, sees, sample])
        found = self._memo.find("verdict", key, Verdict)
        if found is not None:
            return key, found
        if isinstance(seat.judge, Panel):
            votes = dict(known or {})
            for member in seat.members:
                if member not in votes:
                    _, votes[member] = await self.judge(
                        member, prompt, text, sees=sees, sample=sample, known=known
                    )
            verdict = _count(seat, seat.judge, votes)
        else:
            model = asked_model(
                self._memo,
                self._models[seat.role] if seat.role else None,
                seat.judge.card,
                seed=self.spec.seed,
                sample=sample,
            )
            try:
                verdict = await seat.judge.judge(JudgeCase(prompt=prompt, text=text), model)
            except (RequestFailed, RowSkipped) as error:
                self._memo.lost("verdict", key, error)
                return key, Verdict(reason="error", raw=error.message)
        if verdict.reason == "error":
            return key, verdict
        if key in self._memo.journal:
            # Somebody asked the same meanwhile: what was journalled first is what counts.
            return key, self._memo.find("verdict", key, Verdict) or verdict
        self._memo.journal.append("verdict", key, verdict)
        self.counts["verdict.made"] += 1
        return key, verdict

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
        """Have an answer checked against the right one.

        Args:
            checker: Module of the checker.
            identity: What its verdicts depend on.
            reference: The right answer.
            answer: The model's.
            fate: Why the answer is wrong without being looked at ('truncated', 'unclosed'), or
                ''.

        Returns:
            The verdict's key and the verdict: ``correct``, in ``raw`` the answer that was found,
            and in ``details`` whether there was one. A checker that fails gives a verdict with
            reason 'error', which is not journalled as one: it is tried again on resume.
        """
        named = msgspec.to_builtins(identity)
        key = content_key(["grade", checker, named, reference, answer, fate])
        if fate:
            verdict = Verdict(correct=False, details={"fate": fate})
            self._memo.journal.append("verdict", key, verdict)
            return key, verdict

        async def make() -> Verdict:
            value = await self._workers.call(
                f"{checker}:check", (reference, answer), seconds=CHECK_SECONDS
            )
            found = _checked(checker, value)
            return Verdict(
                correct=found.correct,
                raw=found.extracted or "",
                details={"extracted": "no" if found.extracted is None else "yes"},
            )

        try:
            return key, await self._memo.compute("verdict", key, Verdict, make)
        except RequestFailed as error:
            return key, Verdict(reason="error", raw=error.message)

    def note_row(self, row: Row) -> None:
        """Journal how a sample's rollout and verdicts belong together."""
        plain = msgspec.to_builtins(row)
        self._memo.journal.append("row", content_key(["row", plain]), plain)

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
        return recommended(model, self.spec.sampling)

    def _key(
        self,
        kind: Kind,
        model: Model,
        turns: tuple[Message, ...],
        sampling: Sampling,
        thinking: Thinking,
        **more: Any,
    ) -> str:
        return content_key(
            [
                kind,
                model.identity,
                msgspec.to_builtins(turns),
                msgspec.to_builtins(sampling),
                msgspec.to_builtins(thinking),
                self.spec.seed,
                more,
            ]
        )

    def _plan(
        self,
        key: str,
        model: Model,
        turns: tuple[Message, ...],
        sampling: Sampling,
        thinking: Thinking,
    ) -> Plan:
        return Plan(
            key=key,
            seed=row_seed(key),
            messages=model.conversation(turns),
            sampling=sampling,
            thinking=thinking,
        )


class _Check(msgspec.Struct, frozen=True):
    """What a checker of answers returns."""

    correct: bool
    extracted: str | None


def _checked(checker: str, value: Any) -> _Check:
    """Read what a checker returned; what is not as agreed says nothing about the answer."""
    try:
        found = msgspec.convert(value, _Check)
    except msgspec.ValidationError as error:
        raise RequestFailed(f"{checker}:check: {error}", kind="malformed") from error
    if found.correct and found.extracted is None:
        raise RequestFailed(f"{checker}:check: right, without an answer", kind="malformed")
    return found


def _require(model: Model, *capabilities: str) -> Model:
    """Return the model; raise CapabilityMissing unless its backend can do all of these."""
    have = model.backend.capabilities
    missing = [name for name in capabilities if not getattr(have, name)]
    if missing:
        raise CapabilityMissing(
            f"backend {model.backend.spec.backend!r} lacks {', '.join(missing)}",
            hint="run it on another backend, for example hf",
        )
    return model


def recommended(model: Model, sampling: Sampling) -> Sampling:
    """Return the decoding that a model's own configuration recommends.

    Raises:
        ConfigError: The model recommends nothing (a server never does).
    """
    values = model.subject.recommended
    if not values:
        raise ConfigError(
            f"{model.subject.name} recommends no decoding of its own",
            hint="give --temperature, --top-p and --top-k",
        )
    return Sampling(
        temperature=values.get("temperature", 1.0),
        top_p=values.get("top_p", 1.0),
        top_k=int(values.get("top_k", 0)),
        answer_tokens=sampling.answer_tokens,
    )


def _count(seat: Seat, panel: Panel, votes: Mapping[str, Verdict]) -> Verdict:
    """Count the votes of a panel's members."""
    verdicts = [votes[member] for member in seat.members]
    decided = panel.vote(dict(zip(panel.members, verdicts, strict=True)))
    if decided.reason != "error":
        return decided
    failures = [verdict.raw for verdict in verdicts if verdict.reason == "error"]
    return msgspec.structs.replace(decided, raw=failures[0])


def _turns(messages: str | Iterable[Message]) -> tuple[Message, ...]:
    if isinstance(messages, str):
        return (Message(role="user", content=messages),)
    return tuple(messages)
