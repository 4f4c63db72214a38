"""A pilot: a few rows of every benchmark, run as a run would be, for as long as a plan may take.

What the time limit cuts off is not thrown away, which would leave the short rollouts only: a
rollout that is not finished is at least as long as it was, and at most as long as its limit.
"""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from .cards import ProbeCard
from .evidence import COUNTED, Evidence, Lengths, calls_of, lengths_of, size_of
from .legs import Display
from .pace import Moment, Pace, pilot_pace
from .pilot_log import Drawn, Log, NotedBackend, NotedRegistry
from .planning import CALLS_SPREAD, Length, length_under
from .plugins import Registry
from .roles import Backend
from .runfolder import Leg, Manifest, RunFolder
from .runner import run
from .session import Session
from .spec import RunSpec
from .workload import Workload

# What a plan may take unless told otherwise, from its first request on.
PILOT_SECONDS = 60.0


class Cut(NamedTuple):
    """Where the time limit cut a pilot.

    Attributes:
        begun: Rollouts that the model was asked for and that did not fail.
        tokens: What each unfinished one of them had, by ``id``; 0 where the backend can't know.
        blind: Whether the backend can't know.
    """

    begun: list[Drawn]
    tokens: dict[int, float]
    blind: bool


class Watch:
    """A display that also keeps how far the pilot was when, and ends it when its time is up.

    Args:
        shown: Shows progress.
        log: What was asked.
        limit: Seconds from the first request on; 0 for no limit.

    Attributes:
        task: The pilot.
        cut: Where it was cut; None if it was not.
    """

    def __init__(self, shown: Display, log: Log, limit: float) -> None:
        self._shown = shown
        self._log = log
        self._limit = limit
        self.task: asyncio.Task[Any] | None = None
        self.cut: Cut | None = None
        self.began: float | None = None
        self.moments: list[Moment] = []
        self.wanted = 1
        self.context: int | None = None

    def phase(self, phrase: str, share: float | None) -> None:
        """See ``Display``."""
        self._shown.phase(phrase, share)

    def remark(self, message: str) -> None:
        """See ``Display``."""
        self._shown.remark(message)

    def tick(self, session: Session) -> None:
        """See ``Display``."""
        if self.cut is not None:
            return
        now = time.monotonic()
        if self.began is None:
            self.began = now
        self.wanted = session.target.backend.max_outstanding
        self.context = session.target.backend.context_length
        under_way = session.tokens_under_way
        self.moments.append(
            Moment(
                seconds=now - self.began,
                tokens=session.counts["tokens"] + under_way + self._log.halves,
                finished=session.done.total(),
            )
        )
        self._shown.tick(session)
        if self._limit and now - self.began >= self._limit and self.task is not None:
            begun = [x for x in self._log.drawn.values() if x.begun and not x.lost]
            so_far = self._log.so_far(under_way, now)
            self.cut = Cut(begun, so_far, blind=bool(self._log.waiting) and not under_way)
            self.task.cancel()


async def run_pilot(
    spec: RunSpec,
    registry: Registry,
    display: Display,
    works: list[Workload],
    there: tuple[str, ...],
    rows: int,
    backend: Backend,
    limit: float = PILOT_SECONDS,
) -> Evidence:
    """Run a few rows of every benchmark, judges and all, in a folder that is thrown away.

    Args:
        spec: What is planned.
        registry: Everything that is registered.
        display: Shows progress.
        works: What is planned, counted.
        there: Benchmarks that can be measured here.
        rows: Of each.
        backend: The model's.
        limit: Seconds from the first request on, behind which the pilot is cut; 0 for none.
    """
    small = msgspec.structs.replace(
        spec, benchmarks=there, suites=(), limit=min(rows, spec.limit or rows), rollouts=1
    )
    log = Log()
    watch, started = Watch(display, log, limit), time.monotonic()
    until = f"for {limit:g} s at most" if limit else "to its end"
    display.remark(f"a pilot of up to {small.limit} rows a benchmark runs {until}")
    with tempfile.TemporaryDirectory(prefix="tseval-plan-") as place:
        folder = await _run(small, registry, watch, log, backend, Path(place) / "pilot")
        leg = folder.manifest.legs[-1]
        if watch.cut is None:
            lengths, classes, thinks = lengths_of(folder, spec, works)
        else:
            lengths, classes, thinks = _cut_lengths(watch, small, registry, works)
        tokens = sum(x.low for by in lengths.values() for p in by.values() for x in p if not x.cut)
        size = size_of(folder)
    calls = calls_of(leg.counts, works, small.limit, watch.wanted)
    return Evidence(
        source="pilot",
        lengths=lengths,
        classes=classes,
        thinks=thinks,
        pace=_pace(watch, leg, works, calls, started),
        token_bytes=size / tokens if tokens else None,
        calls=calls,
        fixed_seconds=(watch.began or time.monotonic()) - started,
        seconds=time.monotonic() - started,
        skipped=dict(folder.manifest.skipped),
        context=watch.context,
        notes=tuple(_notes(watch, limit, folder.manifest)),
    )


async def _run(
    small: RunSpec, registry: Registry, watch: Watch, log: Log, backend: Backend, place: Path
) -> RunFolder:
    """Run the pilot until it ends or is cut, and give its folder."""
    folders: list[RunFolder] = []
    watch.task = asyncio.get_running_loop().create_task(
        run(
            small,
            cast(Registry, NotedRegistry(registry, small.benchmarks, log)),
            watch,
            out=place,
            backend=cast(Backend, NotedBackend(backend, log)),
            on_folder=folders.append,
        )
    )
    try:
        await watch.task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        # Whoever waits for the plan may have given up as well.
        if watch.cut is None or (current is not None and current.cancelling()):
            raise
    return folders[0]


def _cut_lengths(
    watch: Watch, small: RunSpec, registry: Registry, works: list[Workload]
) -> tuple[Lengths, Lengths, bool]:
    """Say how long rollouts of a pilot are that was cut: by benchmark, and by class.

    Probes are left out: not each of their rollouts is like those of the run, and without the limit
    none of them is looked at either.
    """
    by_name: Lengths = defaultdict(lambda: defaultdict(list))
    by_class: Lengths = defaultdict(lambda: defaultdict(list))
    found, cut = {work.name: work for work in works}, watch.cut
    assert cut is not None
    for drawn in cut.begun:
        for name in drawn.benchmarks:
            if isinstance(registry.benchmarks[name].card, ProbeCard):
                continue
            work = found[name]
            if drawn.rollout is not None:
                length = length_under(drawn.rollout, work.limits, work.limits)
            else:
                # An intervention may throw away some of what was made.
                known = 0.0 if small.intervention else drawn.tokens + cut.tokens.get(id(drawn), 0.0)
                most = _longest(watch, work)
                length = Length(low=min(int(known), most), high=most, cut=True)
            if length is None:
                continue
            by_name[name][drawn.prompt].append(length)
            # Of which class it is nobody has said before it is judged.
            for on in work.classes:
                by_class[on][f"{name}\0{drawn.prompt}"].append(length)
    finished = [each.rollout for each in cut.begun if each.rollout is not None]
    return by_name, by_class, not finished or any(each.thought for each in finished)


def _longest(watch: Watch, work: Workload) -> int:
    """Say how long a rollout may be at most."""
    return min(work.limits.total, watch.context or work.limits.total)


def _pace(
    watch: Watch, leg: Leg, works: list[Workload], calls: Mapping[str, Any], started: float
) -> Pace | None:
    """Say how fast the pilot was."""
    made = leg.counts.get("generation.made", 0)
    cut = watch.cut
    if cut is not None:
        if cut.blind:
            # What is under way was made as well, and nobody knows how much.
            return None
        made = len(cut.begun)
    loading = (watch.began or time.monotonic()) - started
    rollouts = sum(work.rollouts or 0 for work in works)
    wanted = min(rollouts, watch.wanted)
    pace = pilot_pace(watch.moments, made, loading, leg.swap_seconds, wanted)
    if pace is None:
        return None
    # What the pilot's other calls took is no tail that every run has once.
    spent = sum(
        leg.counts.get(f"{COUNTED[kind]}.made", 0) * each.high / CALLS_SPREAD
        for kind, each in calls.items()
    )
    fixed = max(min(loading, pace.fixed_seconds), pace.fixed_seconds - spent)
    tail = 0.0
    if cut is not None and any(each.rollout is None for each in cut.begun):
        # Nobody has seen the end: the last rollout may be as long as its limit allows, and goes
        # on no slower than it did among all the others.
        speed = watch.moments[-1].tokens / watch.moments[-1].seconds
        tail = max(_longest(watch, work) for work in works) * min(made, watch.wanted) / speed
    return msgspec.structs.replace(pace, fixed_seconds=fixed, tail_seconds=tail)


def _notes(watch: Watch, limit: float, manifest: Manifest) -> Iterator[str]:
    for name, why in manifest.failed.items():
        yield f"pilot: {name}: {why}"
    if watch.cut is None:
        return
    begun = watch.cut.begun
    unfinished = sum(each.rollout is None for each in begun)
    yield (
        f"the pilot was cut after {limit:g} s, with {unfinished} of its {len(begun)} rollouts"
        " unfinished: each of these is taken to be at least as long as it was and at most as long"
        " as its limit, and so what rests on them has bounds and no expected value"
        " (--pilot-seconds gives more time, 0 as much as it needs)"
    )
    if watch.cut.blind:
        yield (
            "this backend does not count the tokens of unfinished rollouts: they are taken to have"
            " none, and the speed is not known"
        )
