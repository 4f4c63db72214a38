"""Pilots that a time limit cuts: what is kept of them, what is said of them, what is not known."""

import asyncio
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.support.sessions import finish, registry
from tseval.errors import RequestFailed
from tseval.forecast import plan
from tseval.pilot_log import Drawn, Log, NotedSession
from tseval.planning import Plan
from tseval.report.judges import markdown_page
from tseval.report.plan import plan_page
from tseval.requests import Completion, CompletionRequest, ModelSpec
from tseval.runner import run
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, ScriptedBackend, thinking
from tseval.types import Thinking

QUICK = ("quick_harmful", "quick_benign")
SPEC = RunSpec(
    model=ModelSpec(backend="scripted", name="thinking"),
    benchmarks=QUICK,
    thinking=Thinking(budget=400),
)


class Shown:
    """A display that keeps remarks and counts ticks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.ticks = 0

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Session) -> None:
        self.ticks += 1

    def remark(self, message: str) -> None:
        self.remarks.append(message)


class Slow(ScriptedBackend):
    """Answers the first requests at once, and the others not before a minute has passed.

    Each that it works on has seven tokens so far, if it says so.
    """

    def __init__(self, quick: int = 0, *, counts: bool = True, **more: Any) -> None:
        super().__init__(thinking, view=TAGS_VIEW, **more)
        self._asked = itertools.count()
        self._quick = quick
        self._counts = counts
        self._at_work = 0

    @property
    def tokens_under_way(self) -> int:
        return 7 * self._at_work if self._counts else 0

    async def complete(self, request: CompletionRequest) -> Completion:
        if next(self._asked) >= self._quick:
            self._at_work += 1
            try:
                await asyncio.sleep(60)
            finally:
                self._at_work -= 1
        return await super().complete(request)


def planned(backend: ScriptedBackend, place: Path, shown: Shown | None = None, **more: Any) -> Plan:
    more = {"pilot": 8, "pilot_seconds": 0.6, "out": place / "none", **more}
    spec = more.pop("spec", SPEC)
    return finish(plan(spec, registry(), shown or Shown(), backend=backend, **more), 50)


def test_a_pilot_that_never_ends_is_cut_and_bounds_the_run(tmp_path: Path) -> None:
    shown, began = Shown(), time.monotonic()
    found = planned(Slow(), tmp_path, shown)
    assert time.monotonic() - began < 45
    # Eight rows of each, none finished; each has 7 tokens, and 400 + 256 are the limit.
    assert [(x.looked_at, x.unfinished) for x in found.benchmarks] == [(8, 8)] * 2
    for each in found.benchmarks:
        assert each.tokens is not None
        assert each.tokens.value is None
        assert each.tokens.high == 24 * 656
        assert 8 * 6 <= each.tokens.low <= 24 * 7
        assert each.truncated_share is None
    assert found.seconds is not None
    assert found.seconds.value is None
    assert found.pace is not None
    assert found.pace.concurrent == 16
    assert found.pace.tail_seconds > 0
    # The range of the time has the time of the last rollout alone in it.
    assert found.seconds.high > found.pace.fixed_seconds + found.pace.tail_seconds
    assert any("16 of its 16 rollouts unfinished" in note for note in found.notes)
    page = markdown_page(plan_page(found))
    assert "8 of a pilot, 8 unfinished" in page
    assert "the pilot has not seen how its own ended" in page
    assert "a pilot of up to 8 rows a benchmark runs for 0.6 s at most" in shown.remarks
    assert shown.ticks >= 2


def test_what_a_run_takes_lies_between_the_bounds_of_a_cut_pilot(tmp_path: Path) -> None:
    found = planned(Slow(quick=9), tmp_path)
    assert sum(x.unfinished for x in found.benchmarks) == 7
    assert sum(x.looked_at for x in found.benchmarks) == 16
    whole = ScriptedBackend(thinking, view=TAGS_VIEW)
    finish(run(SPEC, registry(), Shown(), out=tmp_path / "run", backend=whole))
    leg = json.loads((tmp_path / "run" / "run.json").read_text())["legs"][0]
    assert found.tokens is not None
    assert found.tokens.value is None
    assert found.tokens.low <= leg["counts"]["tokens"] <= found.tokens.high


def test_without_a_limit_a_pilot_runs_to_its_end(tmp_path: Path) -> None:
    backend = ScriptedBackend(thinking, view=TAGS_VIEW, delay=0.8, max_outstanding=64)
    found = planned(backend, tmp_path, pilot_seconds=0)
    assert [(x.looked_at, x.unfinished) for x in found.benchmarks] == [(8, 0)] * 2
    assert found.tokens is not None
    assert found.tokens.value is not None
    assert found.pace is not None
    assert found.pace.tail_seconds == 0


def test_a_server_that_counts_nothing_under_way_has_no_speed_when_it_is_cut(tmp_path: Path) -> None:
    found = planned(Slow(quick=4, counts=False), tmp_path)
    assert found.pace is None
    assert found.seconds is None
    assert any("does not count the tokens of unfinished" in note for note in found.notes)
    assert found.tokens is not None
    assert found.tokens.value is None


def test_a_pilot_runs_probes_which_take_their_prompts_from_other_benchmarks(
    tmp_path: Path,
) -> None:
    probing = msgspec.structs.replace(SPEC, benchmarks=("think_flip",), scale="smoke", limit=12)
    backend = ScriptedBackend(thinking, view=TAGS_VIEW)
    found = planned(backend, tmp_path, spec=probing, pilot_seconds=0)
    assert not [note for note in found.notes if note.startswith("pilot: ")]
    assert found.pace is not None
    # Of a probe that is cut no rollout is looked at: not each of them is like those of the run.
    cut = planned(Slow(quick=30), tmp_path, spec=probing)
    (each,) = cut.benchmarks
    assert (each.looked_at, each.source) == (0, "limits")
    assert any("the pilot was cut" in note for note in cut.notes)


def test_the_context_bounds_what_was_cut(tmp_path: Path) -> None:
    found = planned(Slow(context_length=500), tmp_path, spec=SPEC)
    for each in found.benchmarks:
        assert each.tokens is not None
        assert each.tokens.high == 24 * 500


def test_a_plan_that_is_given_up_is_given_up(tmp_path: Path) -> None:
    async def given_up() -> None:
        work = plan(
            SPEC, registry(), Shown(), backend=Slow(), pilot=8, pilot_seconds=0, out=tmp_path
        )
        task = asyncio.get_running_loop().create_task(work)
        await asyncio.sleep(1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        finish(given_up(), 30)


def test_what_is_under_way_is_shared_out_by_the_time_waited_and_adds_up() -> None:
    log, first, second = Log(), Drawn("a"), Drawn("b")
    for drawn in (first, second, None):
        log.ask(drawn)
    since = {1: 0.0, 2: 6.0, 3: 4.0}
    log.waiting = {n: each._replace(since=since[n]) for n, each in log.waiting.items()}
    # At 10 s they have waited for 10, 4 and 6 s; the last is of no rollout.
    so_far = log.so_far(40, 10.0)
    assert (so_far[id(first)], so_far[id(second)]) == (pytest.approx(20), pytest.approx(8))
    first.tokens = 30
    assert log.halves == 30
    assert (first.begun, second.begun) == (True, True)


def test_two_benchmarks_that_ask_the_same_share_what_is_noted() -> None:
    async def generate(messages: Any, **how: Any) -> str:
        if messages == "no":
            raise RequestFailed("broken", kind="engine")
        return "rollout"

    log = Log()
    inner: Any = SimpleNamespace(generate=generate, target="model")
    one, two = NotedSession(inner, "one", log), NotedSession(inner, "two", log)

    async def ask() -> None:
        await one.generate("yes", rollout=0)
        await two.generate("yes", rollout=0)
        await two.generate("yes", rollout=1)
        with pytest.raises(RequestFailed):
            await one.generate("no")

    asyncio.run(ask())
    assert one.target == "model"
    assert [list(x.benchmarks) for x in log.drawn.values()] == [["one", "two"], ["two"], ["one"]]
    assert [x.lost for x in log.drawn.values()] == [False, False, True]
