"""Slots, swaps and maps: bounds are kept, nothing waits for ever, nothing is asked twice."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.sessions import AskingJudge, finish, session_on
from tseval.errors import BackendError, BackendUnavailable, RequestFailed, RowSkipped, TsevalError
from tseval.requests import CompletionRequest, Report, Subject
from tseval.scheduler import Scheduler
from tseval.session import Session
from tseval.testing import ScriptedBackend
from tseval.types import Sampling

GPU = ("cuda:0",)


async def drained(pairs: AsyncIterator[tuple[Any, Any]]) -> dict[Any, Any]:
    """What a map gave for each sample; a sample that comes twice fails the test."""
    found: dict[Any, Any] = {}
    async for sample, result in pairs:
        assert sample not in found
        found[sample] = result
    return found


class Recorded(ScriptedBackend):
    """A scripted backend that keeps what it was asked, and whether it was loaded then."""

    def __init__(self, name: str, devices: tuple[str, ...] = GPU, **more: Any) -> None:
        more.setdefault("max_outstanding", 4)
        super().__init__(name=name, devices=devices, **more)
        self.asked: list[str] = []
        self.loaded_at: list[int] = []

    async def complete(self, request: CompletionRequest) -> Any:
        self.asked.append(request.messages[-1].content)
        return await super().complete(request)


def three_models(**more: Any) -> tuple[Recorded, dict[str, Any]]:
    target, first, second = (Recorded(name, **more) for name in ("target", "first", "second"))
    judges = {"first": (AskingJudge("j1"), first), "second": (AskingJudge("j2"), second)}
    return target, judges


def backends(judges: dict[str, Any]) -> list[Recorded]:
    return [backend for _, backend in judges.values()]


# -- slots


async def hold(
    scheduler: Scheduler, name: str, seconds: float = 0.001, priority: int = 0, seen: Any = None
) -> None:
    async def work() -> None:
        if seen is not None:
            seen.append(priority)
        await asyncio.sleep(seconds)

    await scheduler.run(name, priority, work)


def lone(bound: int | None = None, **more: Any) -> tuple[Scheduler, ScriptedBackend]:
    backend = ScriptedBackend(max_outstanding=4)
    scheduler = Scheduler(bound, **more)
    scheduler.add("target", backend, resident=True)
    return scheduler, backend


def test_no_more_requests_run_than_the_backend_wants(tmp_path: Path) -> None:
    async def run() -> ScriptedBackend:
        backend = ScriptedBackend(max_outstanding=5, delay=0.001)
        async with session_on(tmp_path, backend) as session:
            prompts = [str(number) for number in range(60)]
            assert len(await drained(session.map(prompts, session.generate))) == 60
        return backend

    backend = finish(run())
    assert backend.most_running == 5
    assert backend.calls == 60


def test_later_stages_are_served_before_new_generations() -> None:
    async def run() -> list[int]:
        scheduler, _ = lone(1)
        seen: list[int] = []
        first = asyncio.create_task(hold(scheduler, "target", 0.01, 3, seen))
        await asyncio.sleep(0)
        rest = [hold(scheduler, "target", 0, priority, seen) for priority in (3, 2, 3, 0, 1)]
        await asyncio.gather(first, *rest)
        return seen

    assert finish(run()) == [3, 0, 1, 2, 3, 3]


def test_requests_of_one_priority_are_served_in_the_order_in_which_they_came() -> None:
    async def run() -> list[int]:
        scheduler, _ = lone(1)
        order: list[int] = []

        async def work(number: int) -> None:
            async def note() -> None:
                order.append(number)
                await asyncio.sleep(0)

            await scheduler.run("target", 3, note)

        await asyncio.gather(*(work(number) for number in range(20)))
        return order

    assert finish(run()) == list(range(20))


@pytest.mark.parametrize("seed", range(20))
def test_cancelling_at_any_moment_leaks_no_slot(seed: int) -> None:
    async def run() -> None:
        scheduler, _ = lone(2)
        draw = random.Random(seed)
        tasks = [asyncio.create_task(hold(scheduler, "target", 0.0005)) for _ in range(30)]
        for _ in range(60):
            await asyncio.sleep(0 if draw.random() < 0.7 else 0.0005)
            draw.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Both slots are free again: two requests that wait for each other get through.
        met = asyncio.Barrier(2)
        await asyncio.gather(*(scheduler.run("target", 0, met.wait) for _ in range(2)))
        # ... and there are only two: a third one has to wait.
        third = asyncio.Barrier(3)
        many = [asyncio.create_task(scheduler.run("target", 0, third.wait)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert third.n_waiting == 2
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)

    finish(run())


def test_a_request_that_fails_gives_its_slot_back() -> None:
    async def run() -> None:
        scheduler, _ = lone(1)

        async def fail() -> None:
            raise RequestFailed("no")

        for _ in range(3):
            with pytest.raises(RequestFailed):
                await scheduler.run("target", 0, fail)
        await hold(scheduler, "target")

    finish(run())


def test_a_request_that_the_backend_cancels_by_itself_fails_and_is_not_lost() -> None:
    async def run() -> None:
        scheduler, _ = lone(1)

        async def give_up() -> None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        with pytest.raises(RequestFailed, match="the backend gave the request up"):
            await scheduler.run("target", 0, give_up)
        await hold(scheduler, "target")

    finish(run())


# -- swaps


def test_three_models_an_adaptive_benchmark_and_a_bound_of_four_do_not_deadlock(
    tmp_path: Path,
) -> None:
    """Each next call depends on the answer before it, and alternates between the models."""
    target, judges = three_models()

    async def adaptive(session: Session, prompt: str) -> int:
        text, turns = prompt, 0
        for turn in range(6):
            rollout = await session.generate(text, stream=f"turn {turn}")
            answer = rollout.answer or ""
            first, second = ("first", "second") if len(answer) % 2 else ("second", "first")
            _, verdict = await session.judge(first, text, answer)
            text, turns = f"{prompt} {turn} {verdict.refusal} {answer[-6:]}", turn + 1
            if verdict.refusal:
                _, verdict = await session.judge(second, text, answer)
                text += str(verdict.refusal)
        return turns

    async def run() -> dict[str, int]:
        async with session_on(tmp_path, target, judges, bound=4) as session:
            prompts = [f"prompt {number}" for number in range(40)]
            return await drained(session.map(prompts, lambda p: adaptive(session, p)))

    found = finish(run())
    assert len(found) == 40
    assert set(found.values()) == {6}
    for backend in (target, *backends(judges)):
        assert backend.most_running <= 4
        assert max(Counter(backend.asked).values()) == 1
    assert target.calls == 240


def test_only_the_model_that_is_loaded_is_ever_asked(tmp_path: Path) -> None:
    target, judges = three_models()
    loaded: set[str] = set()

    for backend in (target, *backends(judges)):

        def watch(backend: Recorded = backend) -> None:
            start, close, complete = backend.start, backend.close, backend.complete

            async def started(report: Report) -> Subject:
                loaded.add(backend.spec.name)
                return await start(report)

            async def closed() -> None:
                assert backend.running == 0
                loaded.discard(backend.spec.name)
                await close()

            async def completed(request: CompletionRequest) -> Any:
                assert loaded == {backend.spec.name}
                return await complete(request)

            backend.start, backend.close = started, closed  # type: ignore[method-assign]
            backend.complete = completed  # type: ignore[method-assign]

        watch()

    async def one(session: Session, prompt: str) -> None:
        rollout = await session.generate(prompt)
        for judge in ("first", "second"):
            await session.judge(judge, prompt, rollout.answer or "")

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            await drained(session.map(map(str, range(20)), lambda p: one(session, p)))

    finish(run())


@pytest.mark.parametrize("count", [1, 7, 300])
def test_a_judge_stage_behind_n_samples_costs_one_swap_and_not_n(
    tmp_path: Path, count: int
) -> None:
    target, judges = three_models(max_outstanding=8)

    async def one(session: Session, prompt: str) -> None:
        rollout = await session.generate(prompt)
        await asyncio.sleep(0)
        for judge in ("first", "second"):
            await session.judge(judge, prompt, rollout.answer or "")

    async def run() -> Session:
        async with session_on(tmp_path, target, judges) as session:
            await drained(session.map(map(str, range(count)), lambda p: one(session, p)))
            return session

    session = finish(run())
    assert session._scheduler.swaps == 2
    assert target.calls == count
    # Each sample was run three times and asked once.
    assert session.counts["generation.found"] >= 2 * count


def test_a_sample_that_computes_between_its_calls_keeps_its_model(tmp_path: Path) -> None:
    target, judges = three_models()

    async def one(session: Session, number: int) -> None:
        for turn in range(3):
            rollout = await session.generate(f"{number} {turn}")
            await asyncio.sleep(0.005)
        await session.judge("first", str(number), rollout.answer or "")

    async def run() -> int:
        async with session_on(tmp_path, target, judges, bound=2) as session:
            await drained(session.map(range(12), lambda n: one(session, n)))
            return session._scheduler.swaps

    assert finish(run()) == 1


def test_the_model_that_has_waited_longest_comes_next(tmp_path: Path) -> None:
    target, judges = three_models(delay=0.05)
    order: list[str] = []

    async def run() -> None:
        async with session_on(
            tmp_path, target, judges, report=lambda phrase, share: order.append(phrase)
        ) as session:
            blocker = asyncio.create_task(session.generate("x"))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(session.judge("second", "p", "text"))
            await asyncio.sleep(0.01)
            first = asyncio.create_task(session.judge("first", "p", "text"))
            await asyncio.gather(blocker, first, second)

    finish(run())
    assert [phrase for phrase in order if phrase.startswith("loading")] == [
        "loading judge second",
        "loading judge first",
    ]


def test_a_stream_of_requests_for_one_model_lets_the_other_wait_only_until_it_is_idle(
    tmp_path: Path,
) -> None:
    target, judges = three_models()

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            waiting = asyncio.create_task(session.judge("first", "p", "text"))
            for number in range(30):
                await session.generate(str(number))
            await waiting
            await session.generate("behind the swap")

    finish(run())
    assert target.starts == 2


def test_models_that_share_a_device_only_through_a_third_take_turns(tmp_path: Path) -> None:
    target = Recorded("target", ("cuda:0", "cuda:1"))
    judges = {
        "first": (AskingJudge("j1"), Recorded("first", ("cuda:1",))),
        "second": (AskingJudge("j2"), Recorded("second", ("cuda:0",))),
    }

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            await session.judge("first", "p", "text")
            await session.judge("second", "p", "text")
            await session.generate("x")

    finish(run())
    assert [backend.calls for backend in (target, *backends(judges))] == [1, 1, 1]
    # Once to be known and once for its turn: no judge stays loaded beside the other.
    assert [backend.starts for backend in (target, *backends(judges))] == [2, 2, 2]


def test_models_on_the_cpu_or_on_a_server_are_never_swapped(tmp_path: Path) -> None:
    target = Recorded("target", ("cpu",))
    judges = {
        "first": (AskingJudge("j1"), Recorded("first", ("cpu",))),
        "second": (AskingJudge("j2"), Recorded("second", ())),
    }

    async def one(session: Session, prompt: str) -> None:
        rollout = await session.generate(prompt)
        for judge in judges:
            await session.judge(judge, prompt, rollout.answer or "")

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            await drained(session.map(map(str, range(20)), lambda p: one(session, p)))
            assert session._scheduler.swaps == 0

    finish(run())
    assert [b.starts for b in (target, *backends(judges))] == [1, 1, 1]


class Broken(Recorded):
    """Loads the first time and never again."""

    async def start(self, report: Report) -> Subject:
        if self.starts:
            raise BackendError("out of memory", hint="use a smaller judge")
        return await super().start(report)


@pytest.mark.parametrize("in_map", [True, False])
def test_a_swap_that_fails_is_an_error_for_all_who_wait(tmp_path: Path, in_map: bool) -> None:
    target = Recorded("target")
    judges = {"first": (AskingJudge("j1"), Broken("first"))}

    async def one(session: Session, prompt: str) -> None:
        rollout = await session.generate(prompt)
        await session.judge("first", prompt, rollout.answer or "")

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            prompts = list(map(str, range(20)))
            if in_map:
                await drained(session.map(prompts, lambda p: one(session, p)))
            else:
                await asyncio.gather(*(one(session, prompt) for prompt in prompts))

    with pytest.raises(BackendUnavailable) as refused:
        finish(run())
    assert refused.value.message == "cannot load judge first again: out of memory"
    assert refused.value.hint == "use a smaller judge"


def test_a_swap_that_fails_reaches_those_who_wait_for_another_device(tmp_path: Path) -> None:
    target = Recorded("target", ("cuda:0",))
    third = ScriptedBackend(name="third", devices=("cuda:1",))
    fourth = ScriptedBackend(name="fourth", devices=("cuda:1",))
    judges = {"first": (AskingJudge("j1"), Broken("first"))}

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            scheduler = session._scheduler
            for name, backend, resident in (("third", third, True), ("fourth", fourth, False)):
                await backend.start(lambda phrase, share: None)
                scheduler.add(name, backend, resident=resident)
            busy = asyncio.create_task(hold(scheduler, "third", 30))
            waiting = asyncio.create_task(hold(scheduler, "fourth"))
            with pytest.raises(BackendUnavailable):
                await session.judge("first", "p", "text")
            with pytest.raises(BackendUnavailable):
                await waiting
            busy.cancel()

    finish(run())


@pytest.mark.parametrize("seed", range(15))
def test_cancelled_requests_neither_hold_a_model_nor_call_for_one(seed: int) -> None:
    """Cancel at random; whoever is left is served all the same."""

    async def run() -> None:
        draw = random.Random(seed)
        scheduler = Scheduler(2)
        for number, name in enumerate(("a", "b", "c")):
            backend = ScriptedBackend(name=name, devices=GPU)
            scheduler.add(name, backend, resident=number == 0)
        tasks = [
            asyncio.create_task(hold(scheduler, draw.choice("abc"), draw.choice([0, 0.001])))
            for _ in range(40)
        ]
        for _ in range(30):
            await asyncio.sleep(draw.choice([0, 0, 0.001]))
            draw.choice(tasks).cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)
        for name in "cab":
            await hold(scheduler, name)

    finish(run())


def test_a_model_that_nobody_waits_for_any_more_is_not_loaded() -> None:
    async def run() -> Scheduler:
        scheduler = Scheduler(1)
        for name in ("a", "b"):
            scheduler.add(name, ScriptedBackend(name=name, devices=GPU), resident=name == "a")
        running = asyncio.create_task(hold(scheduler, "a", 0.5))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(hold(scheduler, "b"))
        await asyncio.sleep(0.005)
        waiting.cancel()
        await running
        await asyncio.sleep(0.01)
        await hold(scheduler, "a")
        return scheduler

    assert finish(run()).swaps == 0


# -- samples that wait for what the scheduler cannot see


def test_a_task_of_the_benchmark_that_its_samples_wait_for_is_served_in_the_end(
    tmp_path: Path,
) -> None:
    target, judges = three_models()

    async def run() -> None:
        async with session_on(tmp_path, target, judges, patience_seconds=0.05) as session:
            shared = asyncio.create_task(session.judge("first", "p", "text"))

            async def one(prompt: str) -> Any:
                await session.generate(prompt)
                return await asyncio.shield(shared)

            found = await drained(session.map(map(str, range(10)), one))
            assert len(found) == 10

    finish(run())


def test_a_consumer_may_wait_for_a_model_while_samples_are_parked(tmp_path: Path) -> None:
    """The loop's body needs one model, the parked samples the other, over and over."""
    target, judges = three_models()

    async def one(session: Session, number: int) -> int:
        rollout = await session.generate(f"{number}")
        if number % 3:
            await session.judge("first", f"{number}", rollout.answer or "")
            await session.generate(f"again {number}")
        return number

    async def run() -> int:
        async with session_on(tmp_path, target, judges, bound=2) as session:
            done = 0
            async for number, _ in session.map(range(30), lambda n: one(session, n)):
                await session.judge("second" if number % 2 else "first", "p", f"text {number}")
                await session.generate(f"consumed {number}")
                done += 1
            return done

    assert finish(run()) == 30


# -- maps


def test_a_map_gives_every_sample_once_and_failures_as_values(tmp_path: Path) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.messages[-1].content.endswith("3"):
            raise RequestFailed("server said 500", kind="server")
        if request.messages[-1].content.endswith("7"):
            raise RowSkipped("no room")

    async def run() -> dict[str, Any]:
        async with session_on(tmp_path, ScriptedBackend(fail=fail)) as session:
            return await drained(session.map(map(str, range(40)), session.generate))

    found = finish(run())
    assert sorted(map(int, found)) == list(range(40))
    kinds = {sample: type(result).__name__ for sample, result in found.items()}
    for sample, kind in kinds.items():
        expected = {"3": "RequestFailed", "7": "RowSkipped"}.get(sample[-1], "Rollout")
        assert kind == expected


def test_a_map_takes_samples_lazily_and_no_more_than_its_window(tmp_path: Path) -> None:
    taken = 0

    def source() -> Any:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield str(number)

    async def run() -> None:
        async with session_on(tmp_path, bound=4) as session:
            seen = 0
            async for _ in session.map(source(), session.generate):
                seen += 1
                # A consumer that is slow must not let finished samples pile up.
                await asyncio.sleep(0.001)
                assert taken - seen <= 9
                if seen == 50:
                    break

    finish(run())


def test_another_exception_ends_the_map_and_is_raised_as_it_is(tmp_path: Path) -> None:
    backend = ScriptedBackend(max_outstanding=4)

    async def one(session: Session, number: int) -> None:
        await session.generate(str(number))
        if number == 5:
            raise KeyError("a bug")

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            await drained(session.map(range(1000), lambda n: one(session, n)))

    with pytest.raises(KeyError, match="a bug"):
        finish(run())
    assert backend.calls < 50


def test_an_exception_of_the_source_is_raised(tmp_path: Path) -> None:
    def source() -> Any:
        yield from map(str, range(20))
        raise ValueError("row 21 is broken")

    async def run() -> None:
        async with session_on(tmp_path) as session:
            await drained(session.map(source(), session.generate))

    with pytest.raises(ValueError, match="row 21 is broken"):
        finish(run())


def test_a_backend_that_is_gone_ends_the_map_at_once(tmp_path: Path) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.messages[-1].content == "10":
            raise BackendUnavailable("the server is gone")

    backend = ScriptedBackend(fail=fail, max_outstanding=4)

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            await drained(session.map(map(str, range(1000)), session.generate))

    with pytest.raises(BackendUnavailable, match="the server is gone"):
        finish(run())
    assert backend.calls < 30


def test_a_sample_that_is_cancelled_from_within_is_counted_as_failed(tmp_path: Path) -> None:
    async def one(number: int) -> int:
        if number == 3:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return number

    async def run() -> dict[int, Any]:
        async with session_on(tmp_path) as session:
            return await drained(session.map(range(6), one))

    found = finish(run())
    assert isinstance(found.pop(3), RequestFailed)
    assert found == {0: 0, 1: 1, 2: 2, 4: 4, 5: 5}


def group(session: Session, calls: Callable[[Session, str], list[Any]]) -> Any:
    """A sample that makes its calls in a task group."""

    async def one(prompt: str) -> str:
        async with asyncio.TaskGroup() as tasks:
            for call in calls(session, prompt):
                tasks.create_task(call)
        return prompt

    return one


def gathered(session: Session, calls: Callable[[Session, str], list[Any]]) -> Any:
    """A sample that gathers its calls, and leaves the others running when one is parked."""

    async def one(prompt: str) -> str:
        await asyncio.gather(*calls(session, prompt))
        return prompt

    return one


@pytest.mark.parametrize("style", [group, gathered])
def test_calls_side_by_side_in_a_sample_may_need_models_that_are_absent(
    tmp_path: Path, style: Any
) -> None:
    target, judges = three_models(delay=0.001)

    def calls(session: Session, prompt: str) -> list[Any]:
        return [
            session.generate(prompt),
            session.generate(prompt, rollout=1),
            session.judge("first", prompt, f"text of {prompt}"),
            session.judge("second", prompt, f"text of {prompt}"),
        ]

    async def run() -> tuple[dict[str, Any], Session]:
        async with session_on(tmp_path, target, judges) as session:
            found = await drained(session.map(map(str, range(25)), style(session, calls)))
            return found, session

    found, session = finish(run())
    assert found == {str(number): str(number) for number in range(25)}
    assert target.calls == 50
    for backend in backends(judges):
        assert max(Counter(backend.asked).values()) == 1
    assert session._scheduler._computing == 0
    assert session._scheduler.swaps < 10


@pytest.mark.parametrize("style", [group, gathered])
def test_a_failure_beside_others_in_a_sample_is_the_samples_failure(
    tmp_path: Path, style: Any
) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.messages[-1].content == "bad 3":
            raise RequestFailed("server said 500", kind="server")

    target, judges = three_models(fail=fail)

    def calls(session: Session, prompt: str) -> list[Any]:
        return [
            session.generate(f"bad {prompt}"),
            session.generate(f"good {prompt}"),
            session.judge("first", prompt, f"text of {prompt}"),
        ]

    async def run() -> dict[str, Any]:
        async with session_on(tmp_path, target, judges) as session:
            return await drained(session.map(map(str, range(8)), style(session, calls)))

    found = finish(run())
    failed = found.pop("3")
    assert isinstance(failed, RequestFailed)
    assert failed.kind == "server"
    assert found == {sample: sample for sample in "0124567"}


def test_a_map_inside_a_sample_may_need_models_that_are_absent(tmp_path: Path) -> None:
    target, judges = three_models()

    async def inner(session: Session, prompt: str) -> bool | None:
        rollout = await session.generate(prompt)
        _, verdict = await session.judge("first", prompt, rollout.answer or "")
        return verdict.refusal

    async def outer(session: Session, number: int) -> int:
        found = await drained(
            session.map([f"{number}.{part}" for part in range(5)], lambda p: inner(session, p))
        )
        await session.judge("second", str(number), f"{sorted(found.items())}")
        return len(found)

    async def run() -> tuple[dict[int, Any], Session]:
        async with session_on(tmp_path, target, judges, bound=4) as session:
            return await drained(session.map(range(30), lambda n: outer(session, n))), session

    found, session = finish(run())
    assert found == dict.fromkeys(range(30), 5)
    assert target.calls == 150
    assert session._scheduler.swaps == 2


def test_two_maps_at_once_share_their_requests_and_their_swaps(tmp_path: Path) -> None:
    target, judges = three_models()

    async def one(session: Session, prompt: str) -> str:
        rollout = await session.generate(prompt)
        for judge in ("first", "second"):
            await session.judge(judge, prompt, rollout.answer or "")
        return prompt

    async def run() -> Session:
        async with session_on(tmp_path, target, judges) as session:
            maps = [session.map(map(str, range(50)), lambda p: one(session, p)) for _ in range(3)]
            for found in await asyncio.gather(*map(drained, maps)):
                assert len(found) == 50
            return session

    session = finish(run())
    assert target.calls == 50
    assert [backend.calls for backend in backends(judges)] == [50, 50]
    assert session._scheduler.swaps == 2


@pytest.mark.parametrize("how", ["break", "raise", "close", "cancel"])
def test_a_map_that_is_abandoned_holds_no_model_and_no_slot(tmp_path: Path, how: str) -> None:
    target, judges = three_models(delay=0.0005)

    async def one(session: Session, number: int) -> int:
        rollout = await session.generate(str(number))
        if number % 2:
            await session.judge("first", str(number), rollout.answer or "")
        return number

    async def consume(session: Session) -> None:
        pairs = session.map(range(10_000), lambda n: one(session, n))
        seen = 0
        async for _ in pairs:
            seen += 1
            if seen < 5:
                continue
            if how == "break":
                break
            if how == "raise":
                raise TsevalError("enough")
            if how == "close":
                await pairs.aclose()  # type: ignore[attr-defined]
                return

    async def run() -> Scheduler:
        async with session_on(tmp_path, target, judges) as session:
            task = asyncio.create_task(consume(session))
            if how == "cancel":
                await asyncio.sleep(0.02)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task
            gc.collect()
            await asyncio.sleep(0.02)
            # Whoever comes next is served, on every model.
            await session.judge("second", "p", "text")
            await session.judge("first", "p", "text")
            await session.generate("behind it")
            await asyncio.sleep(0.01)
            return session._scheduler

    scheduler = finish(run())
    assert target.calls < 2000
    assert scheduler._computing == 0
    assert all(lane.running == lane.parked == 0 for lane in scheduler._lanes.values())


def test_parked_samples_cost_a_reference_each_and_no_task(tmp_path: Path) -> None:
    target, judges = three_models(max_outstanding=2)
    most = 0

    async def one(session: Session, number: int) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        rollout = await session.generate(str(number))
        await session.judge("first", str(number), rollout.answer or "")

    async def run() -> None:
        async with session_on(tmp_path, target, judges) as session:
            await drained(session.map(range(500), lambda n: one(session, n)))

    finish(run())
    assert most < 25


def test_a_sampling_of_its_own_does_not_disturb_the_queue(tmp_path: Path) -> None:
    """A bound of one and nested stages: the smallest queue there is."""
    target, judges = three_models()

    async def one(session: Session, number: int) -> int:
        for turn in range(3):
            rollout = await session.generate(f"{number} {turn}", sampling=Sampling(temperature=1))
            await session.judge("first", str(number), rollout.answer or "")
        return number

    async def run() -> dict[int, Any]:
        async with session_on(tmp_path, target, judges, bound=1) as session:
            return await drained(session.map(range(12), lambda n: one(session, n)))

    assert len(finish(run())) == 12
    assert target.most_running == 1


# -- everything at once


class Program:
    """A random benchmark: stages, task groups, gathers, maps in maps, failures, early ends."""

    def __init__(self, session: Session, seed: int) -> None:
        self.session = session
        self.seed = seed

    def draw(self, *place: object) -> random.Random:
        """The same numbers each time that a sample is run again."""
        return random.Random(f"{self.seed} {place}")

    async def step(self, place: str, depth: int = 0) -> None:
        draw = self.draw(place)
        kind = draw.choice(["generate"] * 4 + ["judge"] * 4 + ["sleep", "group", "gather", "map"])
        parts = [f"{place}.{number}" for number in range(3)]
        if kind == "generate" or depth > 2:
            await self.session.generate(place)
        elif kind == "judge":
            await self.session.judge(draw.choice(["first", "second"]), place, "text")
        elif kind == "sleep":
            await asyncio.sleep(draw.choice([0, 0.0005]))
        elif kind == "group":
            async with asyncio.TaskGroup() as tasks:
                for part in parts:
                    tasks.create_task(self.step(part, depth + 1))
        elif kind == "gather":
            await asyncio.gather(*(self.step(part, depth + 1) for part in parts))
        else:
            async for _ in self.session.map(parts, lambda part: self.step(part, depth + 1)):
                if draw.random() < 0.2:
                    break
        if draw.random() < 0.02:
            raise RequestFailed(place)

    async def sample(self, name: str) -> None:
        for number in range(self.draw(name).randrange(1, 4)):
            await self.step(f"{name} {number}")

    async def run(self) -> None:
        draw, count, seen = self.draw("all"), self.draw("count").randrange(1, 25), 0
        async for _ in self.session.map([f"{self.seed} {n}" for n in range(count)], self.sample):
            seen += 1
            if draw.random() < 0.1:
                await self.session.judge(draw.choice(["first", "second"]), f"{seen}", "text")
            if draw.random() < 0.01:
                return
        assert seen == count


@pytest.mark.parametrize("seed", range(25))
def test_random_benchmarks_end_and_leave_nothing_behind(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    target, judges = three_models(delay=draw.choice([0, 0.0003]))
    if seed % 5 == 0:
        judges["second"] = (AskingJudge("j2"), Recorded("second", ("cuda:1", "cuda:0")))
    if seed % 5 == 1:
        judges["second"] = (AskingJudge("j2"), Recorded("second", ("cpu",)))

    async def run() -> Scheduler:
        # Nothing here waits for what the scheduler cannot see: without patience it must end too.
        async with session_on(
            tmp_path, target, judges, bound=draw.choice([1, 2, 4, 16]), patience_seconds=1000
        ) as session:
            programs = [Program(session, 100 * seed + n).run() for n in range(draw.randrange(1, 4))]
            tasks = [asyncio.create_task(program) for program in programs]
            if draw.random() < 0.3:
                await asyncio.sleep(0.02 * draw.random())
                draw.choice(tasks).cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
            gc.collect()  # maps that were left early are closed when they are collected
            await asyncio.sleep(0.02)
            return session._scheduler

    scheduler = finish(run())
    assert scheduler._computing == 0
    for lane in scheduler._lanes.values():
        assert (lane.running, lane.parked) == (0, 0)
    for backend in (target, *backends(judges)):
        assert backend.running == 0
