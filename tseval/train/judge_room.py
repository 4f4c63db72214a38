"""Judges at work beside a training: a session without a model under test, in its own thread."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from tseval.arrays import ArrayStore
from tseval.errors import TsevalError
from tseval.judging import Seat, parse_judge, seat_judges
from tseval.legs import Display, open_leg
from tseval.plugins import Registry
from tseval.runfolder import choose_folder
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.types import Verdict

from .records import Recipe

T = TypeVar("T")


class Case(NamedTuple):
    """A text to be judged, by the label of a judge."""

    judge: str
    prompt: str
    text: str


def label_of(seats: Mapping[str, Seat], judge: str) -> str:
    """Give the label of a judge's seat, by its specification."""
    return judge if judge in seats else parse_judge(judge).label


class JudgeRoom:
    """Answers a training's questions to judges; a context manager.

    A trainer of TRL computes rewards in the middle of a step, outside of any event loop, while
    judges are asked through a session's. So the session lives in a thread. Verdicts are journalled
    in a folder as in any run: a training that is killed and goes on asks none of them twice.

    The judges' models stay loaded beside the model that is trained; where there are several on one
    device, they take turns. A guard that does not fit beside it runs elsewhere: ``guard@URL``.

    Args:
        folder: Of the journal; each process of a distributed training has a part of it.
        recipe: Names the model, and options of the judges.
        judges: Specifications, in order.
        registry: Everything that is registered.
        display: Told how loading goes.

    Attributes:
        seats: By label; only those that the recipe asks for.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        judges: Sequence[str],
        registry: Registry,
        display: Display,
    ) -> None:
        rank = os.environ.get("RANK", "")
        self._folder = folder / f"process-{rank}" if rank else folder
        self._registry = registry
        self._display = display
        self._spec = RunSpec(
            model=recipe.model,
            benchmarks=(),
            judges=tuple(dict.fromkeys(judges)),
            judge_options=recipe.judge_options,
            seed=recipe.seed,
        )
        seats = seat_judges(self._spec.judges, registry, recipe.judge_options)
        self._all = seats
        self.seats: dict[str, Seat] = {label: seat for label, seat in seats.items() if seat.shown}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judges", daemon=True)
        self._closing = asyncio.Event()
        self._session: Session | None = None
        self._life: Future[None] | None = None

    def __enter__(self) -> Self:
        """Load the judges' models.

        Raises:
            TsevalError: One cannot be loaded or asked, or the folder cannot be written.
        """
        self._thread.start()
        ready = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(ready), self._loop)
        self._life.add_done_callback(lambda _: ready.set())
        ready.wait()
        if self._session is None:
            self._stop()
            self._life.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the models, and write down what was asked."""
        self._loop.call_soon_threadsafe(self._closing.set)
        try:
            if self._life is not None:
                with contextlib.suppress(TsevalError) if error else contextlib.nullcontext():
                    self._life.result()
        finally:
            self._stop()

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Have texts judged, and wait for it.

        Returns:
            Verdicts in the order of the cases; a judge that fails gives one with reason 'error'.

        Raises:
            BackendUnavailable: A judge is gone for good.
        """
        return self._wait(self._judge(cases))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _live(self, ready: threading.Event) -> None:
        """Hold the journal and the models until the room is closed."""
        folder, _ = choose_folder(self._spec, self._folder, fresh=False)
        async with open_leg(folder, self._registry, self._display) as work:
            await work.models.start_judges(self._all)
            work.session = self._session = Session(
                spec=self._spec,
                journal=work.journal,
                registry=self._registry,
                models=work.models.started,
                judges=self._all,
                scheduler=work.models.scheduler,
                arrays=ArrayStore(folder.path / "arrays"),
            )
            ready.set()
            await self._closing.wait()
            folder.manifest.status = "complete"

    async def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        session = self._session
        assert session is not None

        async def one(place: int) -> Verdict:
            case = cases[place]
            _, verdict = await session.judge(case.judge, case.prompt, case.text, sees="answer")
            return verdict

        found: dict[int, Verdict] = {}
        async for place, result in session.map(range(len(cases)), one):
            if isinstance(result, TsevalError):
                result = Verdict(reason="error", raw=result.message)
            found[place] = result
        session.journal.sync()
        return [found[place] for place in range(len(cases))]
