"""Show progress on stderr: bars in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tseval.cli.eta import Eta, clock, probes_of, state_of
from tseval.report.text import neutral

if TYPE_CHECKING:
    from tseval.legs import Display
    from tseval.session import Session

_LINE_SECONDS = 15.0


@contextmanager
def display() -> "Iterator[Display]":
    """Give the display that fits stderr, and clean up behind it."""
    if sys.stderr.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


def _rate(session: "Session", started: float) -> str:
    seconds = max(time.monotonic() - started, 1e-6)
    tokens = session.counts["tokens"] + session.tokens_under_way
    return f"{tokens / seconds:.0f} tok/s"


class _Lines:
    """Progress for logs: phases as they change, and a line every quarter of a minute."""

    def __init__(self) -> None:
        self._phrase = ""
        self._shown = time.monotonic()
        self._started: float | None = None
        self._eta = Eta()

    def phase(self, phrase: str, share: float | None) -> None:
        """See ``Display``."""
        if phrase != self._phrase:
            self._phrase = phrase
            self.remark(phrase)

    def remark(self, message: str) -> None:
        """See ``Display``."""
        sys.stderr.write(f"tseval: {neutral(message)}\n")
        sys.stderr.flush()

    def tick(self, session: "Session") -> None:
        """See ``Display``."""
        now = time.monotonic()
        if self._started is None:
            self._started = self._shown = now
        # At every tick, also where nothing is shown: the estimate needs to have seen them all.
        left = _left(self._eta, session, now)
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        behind = f", {left}" if left else ""
        self.remark(f"{_done(session)}, {_rate(session, self._started)}{behind}")


def _done(session: "Session") -> str:
    """Say how far a session is; of probes each on its own, since they go through stages."""
    done, expected = session.done.total(), session.expected.total()
    probes = probes_of(session)
    if not probes:
        return f"{done} of {expected} rollouts"
    open_ = [name for name in probes if session.done[name] < session.expected[name]]
    each = ", ".join(f"{name} {session.done[name]}/{session.expected[name]}" for name in open_)
    return f"{done} of {expected} steps" + (f" ({each})" if each else "")


def _left(eta: Eta, session: "Session", now: float) -> str:
    seconds = eta.left(state_of(session, now))
    return "" if seconds is None else f"about {clock(seconds)} left"


class _Bars:
    """Progress for terminals: one bar a benchmark, and what is being loaded."""

    def __enter__(self) -> "_Bars":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True, emoji=False, highlight=False, markup=False),
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._phase: Any = None
        self._started: float | None = None
        self._eta = Eta()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, phrase: str, share: float | None) -> None:
        """See ``Display``."""
        if self._phase is None:
            self._phase = self._progress.add_task("", total=None, rate="", left="")
        self._progress.update(
            self._phase,
            description=neutral(phrase, 40),
            total=None if share is None else 100,
            completed=0 if share is None else round(100 * share),
            visible=True,
        )

    def remark(self, message: str) -> None:
        """See ``Display``."""
        self._progress.console.print(f"tseval: {neutral(message)}")

    def tick(self, session: "Session") -> None:
        """See ``Display``."""
        if self._started is None:
            self._started = time.monotonic()
            if self._phase is not None:
                self._progress.update(self._phase, visible=False)
        # Of the whole run: benchmarks wait in one queue, and none ends on its own.
        left = _left(self._eta, session, time.monotonic())
        for name, expected in session.expected.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(neutral(name, 40), rate="", left="")
            self._progress.update(
                self._tasks[name],
                total=expected,
                completed=session.done[name],
                rate=_rate(session, self._started),
                left=left,
            )
