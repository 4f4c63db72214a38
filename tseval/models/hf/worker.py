"""The one thread that torch runs in: takes what waits, forms batches, hands results back.

Requests arrive on the event loop and wait in a pool. The thread looks at the pool whenever a
segment ends: scoring and reading first (later stages of a benchmark wait for them), then rows for
the batch. It can be stopped within a token.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from tseval.errors import BackendError, BackendUnavailable, RequestFailed

from .batches import BatchLimits, admit, passes
from .engine import Engine, Prefill
from .passes import Choosing, Reading, Scoring, choose, read, score
from .rows import Row

T = TypeVar("T")

# Requests that belong together arrive within a few turns of the event loop.
_GATHER_SECONDS = 0.01
# A segment ends when this share of its rows is done. Measured: a border costs about a quarter of
# a step, so ending at each row would cost more than the idle rows do.
_DONE_SHARE = 1 / 8
# ... or when others wait, but not before this many steps.
_LEAST_STEPS = 8
_PASSES: tuple[tuple[type, Callable[..., list[Any]]], ...] = (
    (Scoring, score),
    (Choosing, choose),
    (Reading, read),
)
# What torch and models raise about a request; anything else is a bug and ends the run.
_FAULTS = (RuntimeError, ValueError, IndexError, MemoryError, BackendError)


class Job(Generic[T]):
    """Something to be done, and the future that waits for it."""

    def __init__(self, work: T, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def give(self, result: Any) -> None:
        """Hand over a result or an error, from the worker's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: Any) -> None:
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Worker:
    """Serves requests in one thread.

    Args:
        engine: Runs the rows.
        model: For single passes.
        pad_id: Id that fills batches.
        limits: What a batch may hold.
        executor: Has one thread, the one that loaded the model.
    """

    def __init__(
        self, engine: Engine, model: Any, pad_id: int, limits: BatchLimits, executor: Executor
    ) -> None:
        self._engine = engine
        self._model = model
        self._pad_id = pad_id
        self._limits = limits
        self._executor = executor
        self._lock = threading.Lock()
        # Only changed in place and under the lock: the event loop appends while the thread takes.
        self._rows: list[Job[Row]] = []
        self._passes: list[Job[Scoring] | Job[Choosing] | Job[Reading]] = []
        self._running: dict[Row, Job[Row]] = {}
        self._suspects: list[Job[Row]] = []
        self._arrived = False
        self._busy = False
        self._stopped = False

    @property
    def tokens_under_way(self) -> int:
        """New tokens of the rows in the batch, read while the thread adds to them."""
        return sum(len(row.new) for row in list(self._running))

    @property
    def prefill(self) -> Prefill:
        """Tokens of prompts so far, and those of them that the model read."""
        return self._engine.prefill

    async def complete(self, row: Row) -> Any:
        """Run a row to its end."""
        job = Job(row, asyncio.get_running_loop())
        try:
            return await self._wait(job, self._rows)
        finally:
            row.cancelled = True

    async def score(self, work: Scoring) -> Any:
        """Score a continuation."""
        return await self._wait(Job(work, asyncio.get_running_loop()), self._passes)

    async def choose(self, work: Choosing) -> Any:
        """Look at the next token."""
        return await self._wait(Job(work, asyncio.get_running_loop()), self._passes)

    async def read(self, work: Reading) -> Any:
        """Read hidden states."""
        return await self._wait(Job(work, asyncio.get_running_loop()), self._passes)

    def stop(self) -> None:
        """Make the thread return within a token."""
        self._stopped = True

    def abandon(self) -> None:
        """Fail whatever still waits, once the thread has returned."""
        self._fail_all(RequestFailed("the model was unloaded before it answered"))

    async def _wait(self, job: Job[Any], waiting: list[Any]) -> Any:
        with self._lock:
            # Rows that join a pool of others wait for the next border: who joined was decided
            # with a choice, and another one would hardly change it.
            self._arrived |= waiting is self._passes or not waiting
            waiting.append(job)
            wake, self._busy = not self._busy, True
        if wake:
            job.loop.call_later(_GATHER_SECONDS, self._launch)
        return await job.future

    def _launch(self) -> None:
        if not self._stopped:
            self._executor.submit(self._serve)

    def _is_stopped(self) -> bool:
        # Without the main thread nobody is left to take a result: the process is ending.
        return self._stopped or not threading.main_thread().is_alive()

    def _serve(self) -> None:
        """Work until nothing waits."""
        import torch

        try:
            with torch.inference_mode():
                while not self._is_stopped():
                    self._do_passes()
                    self._do_rows()
                    with self._lock:
                        if not (self._rows or self._passes or self._running or self._suspects):
                            self._busy = False
                            return
        except BaseException as error:
            # Nobody awaits this thread; without this the requests would wait for ever.
            self._engine.reset()
            self._fail_all(error)
            raise

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            jobs = [*self._rows, *self._passes, *self._running.values(), *self._suspects]
            for each in (self._rows, self._passes, self._running, self._suspects):
                each.clear()
            self._busy = False
        for job in jobs:
            job.give(error)

    def _do_passes(self) -> None:
        with self._lock:
            self._passes[:] = [job for job in self._passes if not job.future.cancelled()]
            self._arrived = False
            jobs = list(self._passes)
        for kind, call in _PASSES:
            these = [job for job in jobs if isinstance(job.work, kind)]
            for group in passes([len(job.work.ids) for job in these], self._limits):
                if self._is_stopped():
                    return
                self._do_pass([these[n] for n in group], call)
        with self._lock:
            self._passes[:] = [job for job in self._passes if job not in jobs]

    def _do_pass(self, jobs: Sequence[Job[Any]], call: Callable[..., list[Any]]) -> None:
        try:
            results = call(self._model, [job.work for job in jobs], self._pad_id)
        except _FAULTS as error:
            failure, scarce = _failure(error), _is_memory(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.give(result)
            return
        # Out here, since what failed stays in memory for as long as its exception is at hand.
        if len(jobs) == 1 and not (scarce and self._engine.prefixes.size_bytes):
            jobs[0].give(failure)
            return
        # Too many for the memory, or one of them is at fault: the others must not pay.
        self._free()
        half = len(jobs) // 2
        for some in (jobs[:half], jobs[half:]):
            if some:
                self._do_pass(some, call)

    def _do_rows(self) -> None:
        """Let rows join, run one segment, hand back those that are done."""
        joining: list[Job[Row]] = []
        try:
            joining = self._joining()
            if joining:
                self._engine.add([job.work for job in joining], self._limits, self._is_stopped)
            joining = []
            self._hand_back()
            self._engine.run(self._pause)
            self._hand_back()
        except _FAULTS as error:
            self._recover(error, joining)

    def _joining(self) -> list[Job[Row]]:
        """Take the rows that join the batch from the pool; suspects run alone."""
        with self._lock:
            if self._suspects:
                jobs = [] if self._engine.rows else [self._suspects.pop()]
            else:
                self._rows[:] = [job for job in self._rows if not job.work.cancelled]
                waiting = [job.work.length for job in self._rows]
                chosen = admit(self._engine.lengths, waiting, self._limits)
                jobs = [self._rows[n] for n in chosen]
                self._rows[:] = [job for n, job in enumerate(self._rows) if n not in set(chosen)]
            self._running |= {job.work: job for job in jobs}
        return jobs

    def _hand_back(self) -> None:
        for row in self._engine.drop_done():
            job = self._running.pop(row)
            if row.done:
                job.give(row.completion())
        self._put_back(self._engine.drop_surplus(self._limits))

    def _put_back(self, rows: list[Row]) -> None:
        with self._lock:
            self._rows[:0] = [self._running.pop(row) for row in rows]

    def _pause(self, steps: int, done: int) -> bool:
        if self._is_stopped():
            return True
        rows = self._engine.rows
        if done and done >= _DONE_SHARE * len(rows):
            return True
        if len(rows) > 1 and len(rows) * max(self._engine.lengths) > self._limits.tokens:
            return True
        return self._arrived and steps >= _LEAST_STEPS

    def _recover(self, error: Exception, joining: list[Job[Row]]) -> None:
        """Try again what ran: in smaller batches after memory ran out, else each row alone.

        A row that fails alone has failed, unless memory ran out that others left behind.
        """
        roomy = self._engine.is_roomy
        running = {*self._engine.reset(), *(job.work for job in joining)}
        self._free()
        unfinished = [row for row in running if not row.done]
        for row in running.difference(unfinished):
            self._running.pop(row).give(row.completion())
        if len(unfinished) == 1 and roomy and _is_memory(error):
            self._engine.prefixes.halve()
            self._put_back(unfinished)
        elif len(unfinished) == 1:
            self._running.pop(unfinished[0]).give(_failure(error))
        elif _is_memory(error):
            self._limits = self._limits.halved()
            self._engine.prefixes.halve()
            self._put_back(unfinished)
        else:
            self._suspects += [self._running.pop(row) for row in unfinished]

    def _free(self) -> None:
        import gc

        import torch

        self._engine.prefixes.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, MemoryError) or any(
        phrase in said for phrase in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _failure(error: Exception) -> Exception:
    """Say what an exception of torch means for a request."""
    if isinstance(error, BackendError):
        return error
    if _is_memory(error):
        return RequestFailed(
            "memory ran out even for this request alone",
            hint="take a smaller -M batch_tokens, a shorter budget, or a larger device",
        )
    said = " ".join(str(error).split())[:300]
    if "CUDA error" in said or "device-side assert" in said:
        return BackendUnavailable(f"the device failed: {said}", hint="run again to resume")
    return RequestFailed(f"{type(error).__name__} in the model: {said}")
