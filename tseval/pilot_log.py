"""What a pilot asks of its model, noted as it passes: for whom, since when, and how much came back.

Around a registry, a session and a backend stand objects that pass everything on, and note what is
asked: so a pilot runs the very same benchmarks as a run.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

from .errors import RequestFailed, RowSkipped
from .plugins import Registry
from .requests import Completion, CompletionRequest
from .roles import Backend, Benchmark
from .session import Session
from .types import Message, Rollout, Score


class Drawn:
    """A rollout that a pilot asked for.

    Attributes:
        benchmarks: Who asked; two may share it.
        prompt: Names its prompt.
        begun: Whether the backend was asked.
        tokens: Of what the backend has finished of it: a trace whose answer is still to come.
        rollout: The rollout; None while it is not finished.
        lost: Whether it failed.
    """

    def __init__(self, prompt: str) -> None:
        self.benchmarks: dict[str, None] = {}
        self.prompt = prompt
        self.begun = self.lost = False
        self.tokens = 0
        self.rollout: Rollout | None = None


class Waiting(NamedTuple):
    """A request that the backend has not answered yet, and since when; None: of no rollout."""

    drawn: Drawn | None
    since: float


class Log:
    """What a pilot has asked its model for."""

    def __init__(self) -> None:
        self.drawn: dict[str, Drawn] = {}
        self.waiting: dict[int, Waiting] = {}
        self._numbered = 0

    def ask(self, drawn: Drawn | None) -> int:
        """Note a request; returns its number."""
        self._numbered += 1
        self.waiting[self._numbered] = Waiting(drawn, time.monotonic())
        if drawn is not None:
            drawn.begun = True
        return self._numbered

    @property
    def halves(self) -> int:
        """Tokens of traces that are finished, whose answers are not."""
        open_ = {id(each.drawn): each.drawn for each in self.waiting.values()}
        return sum(drawn.tokens for drawn in open_.values() if drawn is not None)

    def so_far(self, under_way: int, now: float) -> dict[int, float]:
        """Say how many tokens each unfinished rollout has, by its ``id``.

        Backends tell what is under way all together; it is shared out by how long each request
        has waited, since those in one batch grow alike. The sum is what was counted.
        """
        waited = sum(now - each.since for each in self.waiting.values())
        found: dict[int, float] = defaultdict(float)
        for each in self.waiting.values():
            if each.drawn is not None:
                share = (now - each.since) / waited if waited > 0 else 0.0
                found[id(each.drawn)] += share * under_way
        return found


_drawing: ContextVar[Drawn | None] = ContextVar("drawing", default=None)


class NotedBackend:
    """A backend that notes what it is asked."""

    def __init__(self, backend: Backend, log: Log) -> None:
        self._backend = backend
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def complete(self, request: CompletionRequest) -> Completion:
        """See ``Backend``."""
        drawn = _drawing.get()
        number = self._log.ask(drawn)
        try:
            done = await self._backend.complete(request)
        finally:
            del self._log.waiting[number]
        if drawn is not None:
            drawn.tokens += done.tokens or len(done.ids or ())
        return done


class NotedSession:
    """A session that notes for whom a rollout is made."""

    def __init__(self, session: Session, benchmark: str, log: Log) -> None:
        self._session = session
        self._benchmark = benchmark
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def generate(self, messages: str | Iterable[Message], **how: Any) -> Rollout:
        """See ``Session``."""
        asked = messages if isinstance(messages, str) else tuple(messages)
        drawn = self._log.drawn.setdefault(repr((asked, sorted(how.items()))), Drawn(repr(asked)))
        drawn.benchmarks[self._benchmark] = None
        before = _drawing.set(drawn)
        try:
            drawn.rollout = await self._session.generate(asked, **how)
        except (RequestFailed, RowSkipped):
            drawn.lost = True
            raise
        finally:
            _drawing.reset(before)
        return drawn.rollout


class NotedBenchmark:
    """A benchmark whose session is watched."""

    def __init__(self, benchmark: Benchmark, log: Log) -> None:
        self._benchmark = benchmark
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)

    async def run(self, session: Session) -> list[Score]:
        """See ``Benchmark``."""
        told = NotedSession(session, self._benchmark.card.name, self._log)
        return await self._benchmark.run(cast(Session, told))


class _Benchmarks(Mapping[str, Any]):
    """A table of benchmarks, some of which are watched; probes look up others for their prompts."""

    def __init__(self, registry: Registry, names: Iterable[str], log: Log) -> None:
        self._all = registry.benchmarks
        self._noted = {name: NotedBenchmark(self._all[name], log) for name in names}

    def __getitem__(self, name: str) -> Any:
        return self._noted[name] if name in self._noted else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


class NotedRegistry:
    """A registry whose benchmarks are watched."""

    def __init__(self, registry: Registry, names: Iterable[str], log: Log) -> None:
        self._registry = registry
        self.benchmarks = _Benchmarks(registry, names, log)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)
