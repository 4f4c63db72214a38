"""Which request runs next, and which model is on the device.

A slot is held for one request to one model and never across an await of another call, and later
stages (extensions, verdicts) are served before new generations; so however small the bound, a
full queue cannot deadlock.

Models that name a common accelerator take turns on it. A model is swapped in only when no ready
request needs the one that is loaded; the model that has waited longest comes next. Samples of
``Session.map`` that need an absent model are *parked*: their coroutine is thrown away and run
again when the model is there. Every call it made before is in the journal, so nothing is computed
twice, and a hundred thousand waiting samples cost a reference each.
"""

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from .errors import BackendUnavailable, RequestFailed, TsevalError
from .requests import Report
from .roles import Backend

T = TypeVar("T")

# Turns of the event loop in which whoever has just been served asks for more.
_TURNS = 8
_PATIENCE_SECONDS = 5.0


class SampleScope:
    """One sample of ``Session.map`` that is under way.

    Attributes:
        calls: Calls that it waits for right now.
        over: Whether it has ended; tasks that it left behind may still be running.
    """

    __slots__ = ("calls", "over")

    def __init__(self) -> None:
        self.calls = 0
        self.over = False


# The sample that the running code belongs to, if any; copied into the tasks that it starts.
_sample: contextvars.ContextVar[SampleScope | None] = contextvars.ContextVar("sample", default=None)


class Parked(BaseException):
    """A sample needs a model that is not loaded.

    A BaseException, so that no benchmark's ``except Exception`` can take it for a failure.
    """

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class _Lane:
    """The queue of one model."""

    def __init__(self, name: str, backend: Backend, bound: int) -> None:
        self.name = name
        self.backend = backend
        self.bound = bound
        self.waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self.running = 0
        self.parked = 0
        self.since: int | None = None
        self.resident = False
        self.arrived = asyncio.Event()
        self.device = _Device(set(), [self])

    @property
    def queued(self) -> bool:
        """Whether a request waits; one that was cancelled meanwhile does not."""
        while self.waiting and self.waiting[0][2].done():
            heapq.heappop(self.waiting)
        return bool(self.waiting)

    @property
    def wanted(self) -> bool:
        return self.parked > 0 or self.queued


class _Device:
    """Models that share an accelerator, directly or through a third."""

    def __init__(self, names: set[str], lanes: list[_Lane]) -> None:
        self.names = names
        self.lanes = lanes
        self.swap: asyncio.Task[None] | None = None
        self.stirred = asyncio.Event()
        self.used = time.monotonic()

    @property
    def resident(self) -> list[_Lane]:
        return [lane for lane in self.lanes if lane.resident]

    @property
    def busy(self) -> bool:
        return any(lane.running or lane.queued for lane in self.resident)

    def next(self) -> _Lane | None:
        """The absent model that has waited longest."""
        absent = [lane for lane in self.lanes if not lane.resident and lane.wanted]
        return min(absent, key=lambda lane: lane.since or 0, default=None)


class Scheduler:
    """Grants slots to requests and swaps models that share a device.

    Args:
        bound: Most requests running at once per model; None takes each backend's own.
        report: Told of swaps.
        patience_seconds: A device that is idle for so long is given to the next model even if a
            sample might still ask for the one that is loaded. Samples that wait for something
            the scheduler cannot see, such as each other, would hold it for ever.

    Attributes:
        failure: What kept a model from being loaded; no request succeeds after it.
        swaps: Number of swaps so far.
        swap_seconds: Time that they took, in seconds.
    """

    def __init__(
        self,
        bound: int | None = None,
        report: Report | None = None,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._bound = bound
        self._report: Report = report or (lambda phrase, share: None)
        self._patience_seconds = patience_seconds
        self._lanes: dict[str, _Lane] = {}
        self._order = itertools.count(1)
        self._computing = 0
        self.failure: Exception | None = None
        self.swaps = 0
        self.swap_seconds = 0.0

    def add(self, name: str, backend: Backend, *, resident: bool) -> None:
        """Add a model; ``resident`` says whether it is loaded now."""
        lane = self._lanes[name] = _Lane(name, backend, self._bound or backend.max_outstanding)
        device = lane.device
        device.names |= set(backend.devices) - {"cpu"}
        for other in self._lanes.values():
            if other.device is not device and other.device.names & device.names:
                device.names |= other.device.names
                device.lanes += other.device.lanes
                for member in other.device.lanes:
                    member.device = device
        self._load(lane, resident)

    def evict(self, name: str) -> None:
        """Say that a model was unloaded to make room, before any request."""
        self._load(self._lanes[name], False)

    def bound(self, name: str) -> int:
        """Most requests that run at once on a model."""
        return self._lanes[name].bound

    async def run(self, name: str, priority: int, work: Callable[[], Awaitable[T]]) -> T:
        """Wait for a slot on a model, then do the work in it.

        Args:
            name: The model.
            priority: Lower is served first.
            work: One request. It must not wait for another slot.

        Raises:
            RequestFailed: The backend cancelled the request by itself.
            Exception: What ``work`` raises, or what kept the model from being loaded.
        """
        lane = self._lanes[name]
        if self.failure is not None:
            raise self.failure
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(lane.waiting, (priority, next(self._order), future))
        self._mark(lane)
        self._pump(lane)
        try:
            await future
        except asyncio.CancelledError:
            granted = future.done() and not future.cancelled() and future.exception() is None
            if granted:
                self._release(lane)
            raise
        try:
            return await work()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RequestFailed("the backend gave the request up") from error
        finally:
            self._release(lane)

    # -- samples

    def begin(self) -> SampleScope:
        """Begin a sample of a map: until it ends, no swap happens while it computes."""
        self._count(+1)
        return SampleScope()

    @contextlib.contextmanager
    def inside(self, scope: SampleScope) -> Iterator[None]:
        """Run code that belongs to a sample."""
        token = _sample.set(scope)
        try:
            yield
        finally:
            _sample.reset(token)

    def end(self, scope: SampleScope) -> None:
        """End a sample, whatever became of it."""
        scope.over = True
        if not scope.calls:
            self._count(-1)

    @staticmethod
    def in_sample() -> bool:
        """Whether the running code belongs to a sample of a map."""
        return _sample.get() is not None

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Wait for a call to a model, on behalf of whatever sample is under way.

        Raises:
            Parked: The model is absent, and the sample can be run again when it is there.
            asyncio.CancelledError: The same, but the sample has ended without this call.
        """
        scope = _sample.get()
        if scope is None:
            yield
            return
        if not self._lanes[name].resident and self.failure is None:
            # A task that its sample left behind has nobody to whom it could say so.
            raise asyncio.CancelledError if scope.over else Parked(name)
        if scope.over:
            yield
            return
        scope.calls += 1
        if scope.calls == 1:
            self._count(-1)
        try:
            yield
        finally:
            scope.calls -= 1
            if not scope.calls and not scope.over:
                self._count(+1)

    def park(self, name: str, samples: int = 1) -> None:
        """Count samples that wait for a model; negative when they stop waiting."""
        lane = self._lanes[name]
        lane.parked += samples
        self._mark(lane)
        self._settle(lane.device)

    def is_resident(self, name: str) -> bool:
        """Whether a model is loaded."""
        return self._lanes[name].resident

    async def arrival(self, name: str) -> None:
        """Wait until a model is loaded; raises what kept it from loading."""
        await self._lanes[name].arrived.wait()
        if self.failure is not None:
            raise self.failure

    async def close(self) -> None:
        """Stop pending swaps."""
        swaps = [lane.device.swap for lane in self._lanes.values() if lane.device.swap is not None]
        for swap in swaps:
            swap.cancel()
        await asyncio.gather(*swaps, return_exceptions=True)

    # -- slots

    def _pump(self, lane: _Lane) -> None:
        while lane.resident and lane.running < lane.bound and lane.queued:
            heapq.heappop(lane.waiting)[2].set_result(None)
            lane.running += 1
        if not lane.resident:
            self._settle(lane.device)

    def _release(self, lane: _Lane) -> None:
        lane.running -= 1
        lane.device.used = time.monotonic()
        self._pump(lane)
        if not lane.running:
            self._settle(lane.device)

    # -- turns on a device

    def _count(self, change: int) -> None:
        """Count samples that compute, neither waiting for a call nor parked."""
        self._computing += change
        if not self._computing:
            for lane in self._lanes.values():
                self._settle(lane.device)

    def _mark(self, lane: _Lane) -> None:
        if lane.since is None and not lane.resident and lane.wanted:
            lane.since = next(self._order)

    def _load(self, lane: _Lane, resident: bool) -> None:
        lane.resident = resident
        lane.since = None
        if resident:
            lane.arrived.set()
        else:
            lane.arrived.clear()
            self._mark(lane)

    def _settle(self, device: _Device) -> None:
        """Look whether another model's turn has come; called whenever that may have changed."""
        device.stirred.set()
        if device.swap is None and self.failure is None and device.next() is not None:
            device.swap = asyncio.get_running_loop().create_task(self._swap_when_idle(device))

    async def _swap_when_idle(self, device: _Device) -> None:
        try:
            while await self._idle(device):
                chosen = device.next()
                if chosen is None:
                    return
                await self._swap(device, chosen)
                self._pump(chosen)
        except Exception as error:
            self._fail(error)
        finally:
            # Here and not in a callback: between the last look and this nothing else runs, so
            # whoever settles later starts another look.
            device.swap = None

    async def _idle(self, device: _Device) -> bool:
        """Wait until a device is free for another model; False if somebody uses it."""
        while True:
            # Who has just been served may ask for more: give that a few turns of the loop in
            # which nothing happens. Swapping too early costs time, never correctness.
            device.stirred.clear()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if device.busy:
                return False
            if device.stirred.is_set():
                continue
            left = device.used + self._patience_seconds - time.monotonic()
            if left <= 0 or not (self._computing or any(x.parked for x in device.resident)):
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await device.stirred.wait()

    async def _swap(self, device: _Device, chosen: _Lane) -> None:
        started = time.monotonic()
        for lane in device.resident:
            self._load(lane, False)
            await lane.backend.close()
        self._report(f"loading {chosen.name}", None)
        try:
            await chosen.backend.start(self._report)
        except TsevalError as error:
            what = f"cannot load {chosen.name} again: {error.message}"
            raise BackendUnavailable(what, hint=error.hint) from error
        self._load(chosen, True)
        device.used = time.monotonic()
        self.swaps += 1
        self.swap_seconds += device.used - started
        self._report(f"swapped in {chosen.name} ({device.used - started:.1f} s)", None)

    def _fail(self, error: Exception) -> None:
        """Tell everybody who waits, on whatever device, that the run is over."""
        self.failure = error
        for lane in self._lanes.values():
            lane.arrived.set()
            while lane.queued:
                heapq.heappop(lane.waiting)[2].set_exception(error)
