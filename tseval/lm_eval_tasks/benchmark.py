"""A benchmark that is an lm-eval task or group: build, ask, score."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from tseval.errors import (
    CapabilityMissing,
    ConfigError,
    DataError,
    RequestFailed,
    RowSkipped,
    TsevalError,
)
from tseval.formats import opening
from tseval.readback import Row
from tseval.requests import Piece
from tseval.scoring import Outcome, oddities
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.tables import SUFFIXES
from tseval.thinking import ODDITIES
from tseval.types import BenchmarkSize, Message, Rollout, Score
from tseval.workers import Workers

from .decoding import cut, sampling_of, stops_of
from .export import results_file
from .records import VERSION, Answers, Ask, Built, DocPlan, Order, Scored, TaskPlan, Template
from .scores import Measured, scores_of
from .sizes import cluster_of, size_of
from .stock import Location, may_run_code, own_sources

_WORKER = "tseval.lm_eval_tasks.worker"
# A dataset may have to be fetched first; a scorer may run programs.
_BUILD_SECONDS = 1800.0
_SCORE_SECONDS = 3600.0
# Errors that no data raises which could not be read.
_OF_THE_FILE = ("ValueError:", "TypeError:", "KeyError:", "AttributeError:", "AssertionError:")


class LmEvalCard(Struct, frozen=True, kw_only=True):
    """What a benchmark made of an lm-eval task is called."""

    name: str
    summary: str


class Answered(NamedTuple):
    """What is kept of one document: its answers, and what the scores say about them.

    Attributes:
        responses: For each request its texts, or log-likelihood and greedy.
        outcomes: One a rollout.
    """

    responses: tuple[Any, ...]
    outcomes: tuple[Outcome, ...]


class LmEvalBenchmark:
    """Measure an lm-eval task, group or tag.

    Documents, prompts, filters, metrics and aggregates are lm-eval's. Differs from its own runner:
    prompts are conversations with examples as turns, always under the chat template; an answer is
    what follows the thinking trace, and stop strings are applied to it alone; a trace that never
    closed is an empty answer, which the task's own scorer sees; choices are scored behind an empty
    trace where the model thinks; ``--limit`` takes documents by
    hash, so that subsets nest; documents that the machine failed leave the denominator.

    Args:
        name: 'lm-eval/...' as given.
        location: Where the task is.
    """

    def __init__(self, name: str, location: Location) -> None:
        self.card = LmEvalCard(name=name, summary=f"lm-eval's {name.partition('/')[2]}")
        self._location = location

    def vet(self, spec: RunSpec) -> None:
        """Refuse tasks that run code of the model's where nobody has confirmed that."""
        if not spec.unsafe_code and may_run_code(self._location):
            asyncio.run(_apart("refusal", _order(self._location, spec)))

    def size(self, spec: RunSpec) -> BenchmarkSize:
        """Count what will be asked; see ``tseval.roles.Sized``."""
        return size_of(asyncio.run(_apart("build", _order(self._location, spec))), spec)

    async def run(self, session: Session) -> list[Score]:
        """Measure; see ``tseval.roles.Benchmark``."""
        order = await asyncio.to_thread(_order, self._location, session.spec)
        built = await _built(
            session.check(
                f"{_WORKER}:build",
                msgspec.to_builtins(order),
                version=_versions(),
                seconds=_BUILD_SECONDS,
            )
        )
        self._check(session, built)
        template = _template(session, built)
        outcomes: list[Outcome] = []
        lost: dict[str, Counter[str]] = {task.name: Counter() for task in built.tasks}
        answered: dict[str, dict[int, Answered]] = {task.name: {} for task in built.tasks}
        session.expect(self.card.name, sum(len(task.docs) for task in built.tasks))
        work = ((task, doc) for task in built.tasks for doc in task.docs)
        async for (task, doc), result in session.map(
            work, lambda item: self._ask(session, built, *item)
        ):
            session.advance(self.card.name)
            if isinstance(result, TsevalError):
                outcome = self._failed(session, built, task, doc, result)
                lost[task.name][outcome.lost] += 1
                outcomes.append(outcome)
            else:
                answered[task.name][doc.id] = result
                outcomes.extend(result.outcomes)
        for warning in oddities(self.card.name, outcomes):
            session.warn(warning)
        scored = await self._score(session, order, built, answered, template)
        measured = [
            Measured(
                plan=task,
                clusters={doc.id: cluster_of(doc) for doc in task.docs},
                outcomes=_rollouts(task, answered[task.name]),
                excluded=dict(sorted(lost[task.name].items())),
            )
            for task in built.tasks
        ]
        own = self._location.file is not None
        return scores_of(self.card.name, session, measured, scored, own=own)

    def _check(self, session: Session, built: Built) -> None:
        """Refuse what the session cannot ask, before anything is asked."""
        scored = [task.name for task in built.tasks if task.kind != "generate_until"]
        if scored:
            session.require("logprobs")
            if session.target.format.thinks:
                session.warn(
                    f"{self.card.name}: choices are scored as answers behind an empty trace,"
                    " without any thinking"
                )
        for task in built.tasks:
            places = {ask.context for doc in task.docs for ask in doc.asks} - {-1}
            contexts = [built.contexts[place] for place in places]
            if task.begun and task.name not in scored:
                session.require("prefix")
                if session.target.format.thinks:
                    session.warn(
                        f"{task.name} begins the model's turn for it, which leaves no room for"
                        " thinking"
                    )
            if session.spec.system_prompt and any(c.turns[0][0] == "system" for c in contexts):
                raise ConfigError(
                    f"{task.name} has a system turn of its own, and --system-prompt is another",
                    hint="leave --system-prompt out for this benchmark",
                )
        repeats = {ask.repeats for task in built.tasks for doc in task.docs for ask in doc.asks}
        if session.spec.rollouts > 1:
            session.warn(
                f"{self.card.name}: --rollouts does not count here; the task asks"
                f" {max(repeats)} times and says what becomes of the answers"
            )

    # -- asking

    async def _ask(self, session: Session, built: Built, task: TaskPlan, doc: DocPlan) -> Answered:
        """Ask everything about one document."""
        responses: list[Any] = []
        outcomes: list[Outcome] = []
        for number, ask in enumerate(doc.asks):
            if ask.continuation is not None:
                responses.append([await self._loglikelihood(session, built, ask)])
                continue
            texts = []
            for repeat in range(ask.repeats):
                kwargs = task.kwargs[ask.kwargs]
                rollout = await session.generate(
                    _turns(built, ask),
                    rollout=repeat,
                    sampling=sampling_of(kwargs, session.spec, session.sampling),
                    prefill=_prefill(built, ask),
                )
                row = self._row(built, task, doc, number, repeat)
                session.note_row(msgspec.structs.replace(row, generation=rollout.key))
                answer = cut(rollout.answer or "", stops_of(kwargs))
                texts.append(answer)
                outcomes.append(_outcome(doc, task, rollout, answer))
            responses.append(texts)
        if not outcomes:
            outcomes.append(Outcome(cluster_of(doc), None, task.name, {}))
        return Answered(tuple(responses), tuple(outcomes))

    async def _loglikelihood(self, session: Session, built: Built, ask: Ask) -> tuple[float, bool]:
        assert ask.continuation is not None
        prefill = _prefill(built, ask)
        context: tuple[Piece, ...] = (prefill,) if prefill else ()
        found = await session.loglikelihood(
            _turns(built, ask), ask.continuation, context=context, answers=True
        )
        return found.total, found.greedy

    def _failed(
        self, session: Session, built: Built, task: TaskPlan, doc: DocPlan, error: TsevalError
    ) -> Outcome:
        """Note that a document could not be asked whole; a resume tries it again."""
        lost = "overlong" if isinstance(error, RowSkipped) else "error"
        for number, ask in enumerate(doc.asks):
            if ask.continuation is None:
                row = self._row(built, task, doc, number, 0)
                session.note_row(msgspec.structs.replace(row, failed=lost))
        return Outcome(cluster_of(doc), None, task.name, {}, lost=lost, failure=error.message)

    def _row(self, built: Built, task: TaskPlan, doc: DocPlan, number: int, repeat: int) -> Row:
        whole = len(built.tasks) == 1
        sample = f"{doc.id}" if whole else f"{task.name}/{doc.id}"
        turns = _turns(built, doc.asks[number])
        return Row(
            benchmark=self.card.name,
            sample=f"{sample}#{number}" if len(doc.asks) > 1 else sample,
            rollout=repeat,
            prompt=turns[-1].content if turns else "",
            group="" if whole else task.name,
        )

    # -- scoring

    async def _score(
        self,
        session: Session,
        order: Order,
        built: Built,
        answered: dict[str, dict[int, Answered]],
        template: Template,
    ) -> Scored:
        given: dict[str, Answers] = {}
        for task in built.tasks:
            docs = answered[task.name]
            if not docs:
                raise TsevalError(
                    f"no document of {task.name} could be answered",
                    hint="run the same command again to try them once more",
                )
            given[task.name] = Answers(
                digest=task.digest,
                planned=tuple(doc.id for doc in task.docs),
                docs=tuple(sorted(docs)),
                responses=tuple(docs[number].responses for number in sorted(docs)),
            )
        try:
            found = await session.check(
                f"{_WORKER}:score",
                *msgspec.to_builtins(
                    (order, given, template, str(results_file(session, self.card.name)))
                ),
                version=_versions(),
                seconds=_SCORE_SECONDS,
            )
        except RequestFailed as error:
            reason, hint = _reason(error)
            hint = hint or "the answers are kept; the same command scores them again"
            raise TsevalError(f"the answers cannot be scored: {reason}", hint=hint) from error
        return msgspec.convert(found, Scored)


async def _apart(function: str, order: Order) -> Built:
    """Have a worker look at a task outside of any session."""
    workers = Workers(1)
    try:
        arguments = [msgspec.to_builtins(order)]
        return await _built(
            workers.call(f"{_WORKER}:{function}", arguments, seconds=_BUILD_SECONDS)
        )
    finally:
        await workers.close()


async def _built(answer: Awaitable[Any]) -> Built:
    """Read what a worker made of a task.

    Raises:
        DataError: It cannot be loaded.
        ConfigError, CapabilityMissing: It is not run.
    """
    try:
        built = msgspec.convert(await answer, Built)
    except RequestFailed as error:
        reason, hint = _reason(error)
        if not hint and reason.startswith(_OF_THE_FILE):
            hint = "mend the task's file, or the functions that it names"
        hint = hint or "its rows come from the hub, or from a file in a --data-dir"
        raise DataError(f"the task cannot be loaded: {reason}", hint=hint) from error
    if built.refusal is not None:
        kind = ConfigError if built.refusal.kind == "config" else CapabilityMissing
        raise kind(built.refusal.message, hint=built.refusal.hint)
    return built


def _versions() -> str:
    return f"{VERSION} lm-eval {version('lm-eval')}"


def _reason(error: RequestFailed) -> tuple[str, str]:
    """Give a worker's error without the name of its function, and its hint or ''."""
    head, _, rest = error.message.partition(": ")
    reason, _, hint = (rest if head.startswith(_WORKER) else error.message).partition("\nhint: ")
    return reason, hint


def _template(session: Session, built: Built) -> Template:
    view = session.target.backend.template()
    closed = any(task.begun or task.kind != "generate_until" for task in built.tasks)
    start = opening(session.target.format, "off" if closed else session.spec.thinking.mode)
    return Template(
        source=view.template,
        rendered=view.rendered,
        kwargs=start.template_kwargs,
        system=session.spec.system_prompt,
    )


def _order(location: Location, spec: RunSpec) -> Order:
    folders = [Path(folder).resolve() for folder in spec.data_dirs]
    return Order(
        task=location.task,
        folder=str(location.folder or ""),
        file=str(location.file or ""),
        data_dirs=tuple(map(str, folders)),
        stamps=tuple(_stamps([*folders, *own_sources(location)])),
        limit=spec.limit,
        subset_seed=spec.subset_seed,
        unsafe_code=spec.unsafe_code,
    )


def _stamps(places: list[Path]) -> Iterator[tuple[str, int, int]]:
    for place in places:
        files = [place] if place.is_file() else sorted([*place.glob("*"), *place.glob("*/*")])
        for file in files:
            if file == place or file.suffix in SUFFIXES:
                about = file.stat()
                yield str(file), about.st_size, about.st_mtime_ns


def _turns(built: Built, ask: Ask) -> tuple[Message, ...]:
    if ask.context < 0:
        return ()
    return msgspec.convert(
        [{"role": role, "content": text} for role, text in built.contexts[ask.context].turns],
        tuple[Message, ...],
    )


def _prefill(built: Built, ask: Ask) -> str:
    return built.contexts[ask.context].prefill if ask.context >= 0 else ""


def _rollouts(task: TaskPlan, answered: dict[int, Answered]) -> list[Outcome]:
    """Outcomes of a task's rollouts; where choices are scored there are none."""
    if task.kind != "generate_until":
        return []
    return [outcome for each in answered.values() for outcome in each.outcomes]


def _outcome(doc: DocPlan, task: TaskPlan, rollout: Rollout, answer: str) -> Outcome:
    # An answer that a stop string ended is whole, however long the model went on behind it.
    ended = len(answer) < len(rollout.answer or "")
    return Outcome(
        cluster=cluster_of(doc),
        harmful=None,
        group=task.name,
        findings={},
        forced=(rollout.closed_by == "budget") if rollout.thought else None,
        notes=tuple(note for note in rollout.notes if note in ODDITIES),
        truncated=rollout.answer is not None and rollout.finish == "length" and not ended,
        unclosed=rollout.answer is None,
    )
