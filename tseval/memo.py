"""The memo behind a session: each call is answered from the journal, or made once.

A call has a content key. The key is looked up in the journal first; what has to be made is made
once, journalled as it arrives, and shared by whoever asks for it meanwhile.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from .errors import RequestFailed, RowSkipped, TsevalError
from .journal import Journal, Kind
from .protocol import canonical_json
from .rollouts import Model
from .scheduler import Scheduler

T = TypeVar("T")

# Later stages first, so that a sample once begun is finished before another is begun.
_PRIORITY = {
    "verdict": 0,
    "loglikelihood": 1,
    "choice": 1,
    "hidden": 1,
    "extension": 2,
    "generation": 3,
}


class Memo:
    """Calls by content key.

    Args:
        journal: The run's journal, open for writing.
        scheduler: Grants slots; knows every model.
        on_made: Told of every value that was made, with its kind and its model.

    Attributes:
        counts: What was made, found, shared and failed so far: 'generation.made' ...; what a
            judge's model was asked counts apart ('judging.generation.made').
        journal: As given.
    """

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        on_made: Callable[[Kind, Model, Any], None] | None = None,
    ) -> None:
        self.journal = journal
        self.counts: Counter[str] = Counter()
        self._scheduler = scheduler
        self._on_made = on_made
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    def find(self, kind: Kind, key: str, kind_of: type[T], *, counted: str = "") -> T | None:
        """Return what the journal holds of a key, or None; counted as 'kind', or as told."""
        found = self.journal.find(key)
        if found is None:
            return None
        self.counts[f"{counted or kind}.found"] += 1
        return msgspec.json.decode(found, type=kind_of)

    async def call(
        self,
        kind: Kind,
        key: str,
        kind_of: type[T],
        model: Model,
        make: Callable[[], Awaitable[Any]],
        keep: Callable[[Any], Awaitable[T]] | None = None,
    ) -> T:
        """Answer a call from the journal, from whoever is asking the same, or from the model.

        Args:
            kind: What is asked for.
            key: Content key of the call.
            kind_of: Type of the value.
            model: Who is asked.
            make: The request.
            keep: Turns what the request returned into what is journalled, once it has given its
                slot back.

        Raises:
            RequestFailed, RowSkipped: Journalled as an error, and made again on resume.
            BackendUnavailable: No request can succeed any more.
        """
        counted = _counted(kind, model)
        found = self.find(kind, key, kind_of, counted=counted)
        if found is not None:
            return found
        with self._scheduler.call(model.name):
            task = self._under_way.get(key)
            if task is None:
                work = self._make(kind, key, model, make, keep)
                task = asyncio.get_running_loop().create_task(work)
                self._under_way[key] = task
                task.add_done_callback(lambda done: self._made(key, done))
            else:
                self.counts[f"{counted}.shared"] += 1
            # Shielded: whoever asked first may be cancelled without harming the others.
            result: T = await asyncio.shield(task)
            return result

    async def compute(
        self, kind: Kind, key: str, kind_of: type[T], make: Callable[[], Awaitable[T]]
    ) -> T:
        """Answer a computation that needs no model.

        Args:
            kind: What is asked for.
            key: Content key of the computation.
            kind_of: Type of the value.
            make: Does it.

        Raises:
            RequestFailed: Journalled as an error, and made again on resume.
        """
        found = self.find(kind, key, kind_of)
        if found is not None:
            return found
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._compute(kind, key, make))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._made(key, done))
        result: T = await asyncio.shield(task)
        return result

    async def _compute(self, kind: Kind, key: str, make: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await make()
            self.journal.append(kind, key, value)
        except RequestFailed as error:
            raise self.lost(kind, key, error) from error.__cause__
        self.counts[f"{kind}.made"] += 1
        return value

    def lost(self, kind: Kind, key: str, error: TsevalError, *, counted: str = "") -> TsevalError:
        """Journal why a call has no answer; it is made again on resume."""
        self.counts[f"{counted or kind}.failed"] += 1
        data = {"during": kind, "type": type(error).__name__, "message": error.message}
        self.journal.append("error", key, data)
        return error

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _made(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # looked at, also where all who asked are gone

    async def _make(
        self,
        kind: Kind,
        key: str,
        model: Model,
        make: Callable[[], Awaitable[Any]],
        keep: Callable[[Any], Awaitable[T]] | None,
    ) -> Any:
        started = time.monotonic()
        counted = _counted(kind, model)
        # What a judge asks its model comes before everything that begins something new.
        priority = _PRIORITY[kind] if model.name == "target" else 0
        try:
            value = await self._scheduler.run(model.name, priority, make)
            if keep is not None:
                value = await keep(value)
            self.journal.append(kind, key, value)
        except UnicodeEncodeError as error:
            message = f"the model's text is no Unicode: {error.reason}"
            failed = RequestFailed(message, kind="malformed")
            raise self.lost(kind, key, failed, counted=counted) from error
        except (RequestFailed, RowSkipped) as error:
            raise self.lost(kind, key, error, counted=counted) from error.__cause__
        self.counts[f"{counted}.made"] += 1
        self.counts[f"{counted}.milliseconds"] += round(1000 * (time.monotonic() - started))
        if self._on_made is not None:
            self._on_made(kind, model, value)
        return value


def _counted(kind: Kind, model: Model) -> str:
    return kind if model.name == "target" else f"judging.{kind}"


def content_key(value: Any) -> str:
    """Return a content key: 32 hex digits of SHA-256 over canonical JSON."""
    return sha256(canonical_json(value)).hexdigest()[:32]
