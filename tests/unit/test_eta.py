"""The time left of a run: simulated runs of known length, and what is said when."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.sessions import SPEC, finish, session_on
from tseval.cards import ProbeCard
from tseval.cli import progress
from tseval.cli.eta import Eta, State, clock, state_of
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, ScriptedBackend, thinking
from tseval.types import Sampling, Thinking


def simulated(
    lengths: list[float], at_once: int, tokens_per_second: Callable[[int], float], limit: int = 0
) -> list[State]:
    """Every tick of a run whose rollouts have these lengths, to its end."""
    waiting, rows, states = list(reversed(lengths)), [], []
    seconds, tokens, made = 0.0, 0.0, 0
    while made < len(lengths):
        while waiting and len(rows) < at_once:
            rows.append([0.0, waiting.pop()])
        step = 0.25 * tokens_per_second(len(rows)) / len(rows)
        for row in rows:
            row[0] += step
        ended = [row for row in rows if row[0] >= row[1]]
        rows = [row for row in rows if row[0] < row[1]]
        made += len(ended)
        tokens += sum(row[1] for row in ended)
        seconds += 0.25
        under_way = int(sum(row[0] for row in rows))
        states.append(
            State(seconds, len(lengths), made, made, 0, 0, int(tokens), under_way, at_once, limit)
        )
    return states


def ratios(states: list[State], *shares: float) -> list[float]:
    """What was promised over what it then took, when so much of the time had passed."""
    eta, total, found = Eta(), states[-1].seconds, []
    marks = [share * total for share in shares]
    for state in states:
        left = eta.left(state)
        if marks and state.seconds >= marks[0]:
            assert left is not None
            found.append(left / (total - state.seconds))
            marks.pop(0)
    return found


def alike(random: np.random.Generator) -> list[float]:
    return [200.0] * 400


def varied(random: np.random.Generator) -> list[float]:
    return list(random.lognormal(5, 0.5, 400))


def skewed(random: np.random.Generator) -> list[float]:
    return list(random.lognormal(5, 1.0, 400))


def alike_a_row(rows: int) -> float:
    """A machine on which one more row costs nothing."""
    return 30.0 * rows


def alike_in_all(rows: int) -> float:
    """A machine that is busy with one row."""
    return 400.0


@pytest.mark.parametrize("speed", [alike_a_row, alike_in_all])
@pytest.mark.parametrize("lengths", [alike, varied, skewed])
def test_the_time_left_is_about_what_it_then_takes(
    lengths: Callable[[Any], list[float]], speed: Callable[[int], float]
) -> None:
    found = ratios(simulated(lengths(np.random.default_rng(0)), 32, speed), 0.25, 0.5, 0.75)
    # One very long rollout among the last ones is a matter of chance.
    assert all(0.3 < ratio < 1.6 for ratio in found), found


def test_the_first_to_finish_do_not_promise_too_little() -> None:
    # A tenth of the way the finished ones are the short ones: their mean is 0.6 of the true one.
    states = simulated(list(np.random.default_rng(1).exponential(200, 2000)), 200, alike_a_row)
    (early,) = ratios(states, 0.1)
    assert 0.65 < early < 1.35


def test_a_halt_of_a_busy_machine_does_not_look_like_the_end() -> None:
    states = simulated([200.0] * 400, 32, lambda rows: 100.0)
    halted = next(n for n, state in enumerate(states) if state.seconds >= 300)
    eta = Eta()
    for state in states[:halted]:
        before = eta.left(state)
    for waited in range(1, 26):
        after = eta.left(states[halted]._replace(seconds=states[halted].seconds + waited))
    assert before is not None
    assert after is not None
    assert after < 2 * before


def test_a_limit_bounds_the_tail() -> None:
    cut = [min(each, 256.0) for each in skewed(np.random.default_rng(0))]
    free = ratios(simulated(cut, 128, alike_in_all), 0.5)
    known = ratios(simulated(cut, 128, alike_in_all, limit=256), 0.5)
    assert abs(np.log(known[0])) < abs(np.log(free[0]))


def state(**more: int) -> State:
    plain: dict[str, Any] = dict.fromkeys(State._fields, 0)
    return State(**{**plain, "at_once": 8, **more})


def test_nothing_is_said_before_anything_is_known() -> None:
    eta = Eta()
    assert eta.left(state()) is None
    assert eta.left(state(seconds=1, expected=100)) is None
    assert eta.left(state(seconds=2, expected=100, done=3, made=3, tokens=90)) is None
    assert eta.left(state(seconds=3, expected=100, done=4, made=4, tokens=120)) is not None


def test_rollouts_from_the_journal_cost_no_time() -> None:
    eta = Eta()
    eta.left(state(seconds=0, expected=1000, found=900, done=900))
    # 10 of the last 100 took 10 s, 8 at once; 900 in no time.
    left = eta.left(
        state(seconds=10, expected=1000, found=900, done=910, made=10, tokens=1000, under_way=0)
    )
    assert left is not None
    assert 60 < left < 130


def test_where_only_verdicts_are_missing_their_own_speed_counts() -> None:
    eta = Eta()
    made = {"expected": 100, "made": 100, "tokens": 9000}
    eta.left(state(seconds=100, done=40, **made))
    assert eta.left(state(seconds=110, done=60, **made)) == pytest.approx(20)


def test_where_only_judges_run_their_speed_counts() -> None:
    eta = Eta()
    eta.left(state(seconds=0, expected=60, done=10, at_once=0))
    assert eta.left(state(seconds=5, expected=60, done=20, at_once=0)) == pytest.approx(20)


def test_a_run_at_its_end_has_nothing_left() -> None:
    eta = Eta()
    eta.left(state(seconds=1, expected=10, done=9, made=9, tokens=90))
    assert eta.left(state(seconds=2, expected=10, done=10, made=10, tokens=100)) is None


def test_a_time_is_written_with_hours_where_there_are_any() -> None:
    assert [clock(59.6), clock(61), clock(3723)] == ["1:00", "1:01", "1:02:03"]


async def _only_judges(folder: Path) -> State:
    async with session_on(folder) as session:
        session._models = {}
        session.expect("bench", 7)
        return state_of(session, 1.0)


async def _limit_of(folder: Path, spec: RunSpec, backend: ScriptedBackend) -> int:
    async with session_on(folder, backend, spec=spec) as session:
        session.expect("quick_harmful", 1)
        return state_of(session, 1.0).limit


def test_a_session_of_judges_alone_has_a_state(tmp_path: Path) -> None:
    found = finish(_only_judges(tmp_path))
    assert (found.at_once, found.expected, found.limit) == (0, 7, 0)


def test_the_longest_rollout_may_use_its_budget_and_its_cards_answer(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, thinking=Thinking(budget=500))
    plain, thinks = ScriptedBackend(), ScriptedBackend(thinking, view=TAGS_VIEW)
    off = msgspec.structs.replace(spec, thinking=Thinking(mode="off", budget=500))
    fixed = msgspec.structs.replace(
        spec, sampling=Sampling(answer_tokens=30), answer_tokens_fixed=True
    )
    assert finish(_limit_of(tmp_path / "a", spec, plain)) == 256
    assert finish(_limit_of(tmp_path / "b", spec, thinks)) == 756
    assert finish(_limit_of(tmp_path / "c", off, thinks)) == 256
    assert finish(_limit_of(tmp_path / "d", fixed, thinks)) == 530


class Running:
    """What the displays look at of a session: half done after a minute."""

    def __init__(self) -> None:
        from collections import Counter

        self.tokens_under_way = 100
        backend = SimpleNamespace(max_outstanding=10)
        self.target = SimpleNamespace(backend=backend, format=SimpleNamespace(name="none"))
        self.counts = Counter({"tokens": 0})
        self.expected, self.done = Counter({"bench": 100}), Counter({"bench": 0})
        self.registry = SimpleNamespace(benchmarks={"bench": SimpleNamespace(card=None)})
        self.spec = SimpleNamespace(
            thinking=SimpleNamespace(mode="default", budget=500),
            answer_tokens_fixed=False,
            sampling=SimpleNamespace(answer_tokens=100),
        )

    def go_on(self) -> None:
        self.done["bench"] += 10
        self.counts["generation.made"] += 10
        self.counts["tokens"] += 1000


def test_probes_are_shown_each_on_its_own_and_timed_by_their_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    session: Any = Running()
    card = ProbeCard(name="cuts", title="t", summary="s", metrics=("m",))
    session.registry.benchmarks["cuts"] = SimpleNamespace(card=card)
    session.expected["cuts"], session.done["cuts"] = 40, 0
    lines = progress._Lines()
    for _ in range(2):
        lines.tick(session)
        now[0] += 16
        session.done["bench"], session.done["cuts"] = 100, 5
    lines.tick(session)
    # 105 steps in 32 s: the 35 that are left take 11 s, whatever tokens were made.
    last = capsys.readouterr().err.splitlines()[-1]
    assert "105 of 140 steps (cuts 5/40)" in last
    assert last.endswith("about 0:11 left"), last


@pytest.mark.parametrize("shown", ["lines", "bars"])
def test_both_displays_refresh_the_time_left_at_every_tick(
    shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    session: Any = Running()
    said = []
    if shown == "bars":
        with progress._Bars() as bars:
            for _ in range(4):
                bars.tick(session)
                (task,) = bars._progress.tasks
                said.append(task.fields["left"])
                session.go_on()
                now[0] += 16
    else:
        lines = progress._Lines()
        for _ in range(4):
            lines.tick(session)
            printed = capsys.readouterr().err
            said.append(printed.rpartition("tok/s")[2].removeprefix(", ").strip())
            session.go_on()
            now[0] += 16
    assert said[0] == ""
    assert all(each.startswith("about ") and each.endswith(" left") for each in said[1:]), said
    # 10 rollouts each 16 s: at 10, 20 and 30 of 100, some 144, 128 and 112 s are left.
    minutes = [each.split()[1].split(":") for each in said[1:]]
    seconds = [60 * int(m) + int(s) for m, s in minutes]
    assert seconds == sorted(seconds, reverse=True)
    assert 100 < seconds[-1] < 180
