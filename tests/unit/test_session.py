"""Session: every call is answered once: by the journal, by whoever asks the same, or by a model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.sessions import SPEC, AskingJudge, finish, session_on
from tseval.asking import row_seed
from tseval.errors import (
    BackendUnavailable,
    CapabilityMissing,
    ConfigError,
    RequestFailed,
    RowSkipped,
)
from tseval.journal import Journal
from tseval.protocol import Protocol
from tseval.requests import Capabilities, Completion, CompletionRequest, Report, Subject
from tseval.rollouts import Continuation
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import Call, ScriptedBackend, mixed
from tseval.types import Message, Sampling, Thinking, Verdict


def with_spec(**changes: Any) -> RunSpec:
    return msgspec.structs.replace(SPEC, **changes)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "journal" / "00000.jsonl").read_bytes().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


# -- the memo


def test_a_call_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    backend = ScriptedBackend()

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            first = await session.generate("hello")
            assert await session.generate("hello") == first
            assert await session.generate([Message(role="user", content="hello")]) == first
            assert session.counts["generation.made"] == 1
            assert session.counts["generation.found"] == 2

    finish(run())
    assert backend.calls == 1


def test_another_process_finds_what_the_first_has_made(tmp_path: Path) -> None:
    async def run() -> tuple[Any, int]:
        backend = ScriptedBackend()
        async with session_on(tmp_path, backend) as session:
            rollout = await session.generate("hello")
            scored = await session.loglikelihood("hello", "there")
            states = await session.hidden_states("hello", positions=(-1,))
            cut = await session.extend("hello", Continuation(prefix=("hm",)))
        return (rollout, scored, states.tolist(), cut), backend.calls

    first, calls = finish(run())
    assert calls == 4
    again, calls = finish(run())
    assert calls == 0
    assert again == first


def test_askers_of_the_same_at_the_same_time_make_one_request(tmp_path: Path) -> None:
    backend = ScriptedBackend(delay=0.005)

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            found = await asyncio.gather(*(session.generate("hello") for _ in range(10)))
            assert all(rollout == found[0] for rollout in found)
            assert session.counts["generation.shared"] == 9

    finish(run())
    assert backend.calls == 1
    assert len(records(tmp_path, "generation")) == 1


def test_the_first_askers_cancellation_does_not_harm_the_second(tmp_path: Path) -> None:
    backend = ScriptedBackend(delay=0.5)

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            first = asyncio.create_task(session.generate("hello"))
            await asyncio.sleep(0)
            second = asyncio.create_task(session.generate("hello"))
            await asyncio.sleep(0.002)
            first.cancel()
            assert (await second).answer
            with pytest.raises(asyncio.CancelledError):
                await first

    finish(run())
    assert backend.calls == 1


def test_a_request_whose_askers_are_all_gone_is_journalled_all_the_same(tmp_path: Path) -> None:
    backend = ScriptedBackend(delay=0.01)

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            asker = asyncio.create_task(session.generate("hello"))
            await asyncio.sleep(0.002)
            asker.cancel()
            await asyncio.sleep(0.02)
            await session.generate("hello")

    finish(run())
    assert backend.calls == 1


def test_a_failure_that_nobody_hears_of_any_more_makes_no_noise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: CompletionRequest) -> None:
        raise RequestFailed("server said 500")

    async def run() -> None:
        async with session_on(tmp_path, ScriptedBackend(fail=fail, delay=0.2)) as session:
            asker = asyncio.create_task(session.generate("hello"))
            await asyncio.sleep(0.001)
            asker.cancel()
            while not any((tmp_path / "journal").glob("*.jsonl")) or not records(tmp_path, "error"):
                await asyncio.sleep(0.01)

    finish(run())
    assert caplog.records == []
    assert len(records(tmp_path, "error")) == 1


def test_closing_cancels_what_is_under_way(tmp_path: Path) -> None:
    backend = ScriptedBackend(delay=60)

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            asker = asyncio.create_task(session.generate("hello"))
            await asyncio.sleep(0.002)
        with pytest.raises(asyncio.CancelledError):
            await asker
        assert backend.running == 0

    finish(run())


# -- keys


async def _generate(session: Session, **more: Any) -> None:
    await session.generate(more.pop("messages", "hello"), **more)


async def _extend(session: Session, **more: Any) -> None:
    how = more.pop("how", Continuation(prefix=("hm",)))
    await session.extend(more.pop("messages", "hello"), how, **more)


async def _score(session: Session, **more: Any) -> None:
    continuation = more.pop("continuation", "there")
    await session.loglikelihood(more.pop("messages", "hello"), continuation, **more)


async def _read(session: Session, **more: Any) -> None:
    more.setdefault("positions", (-1,))
    await session.hidden_states(more.pop("messages", "hello"), **more)


TURNS = [Message(role="user", content="hello")]
DRAWN = [
    {"messages": "hallo"},
    {"messages": [Message(role="system", content="hello"), *TURNS]},
    {"messages": [*TURNS, Message(role="assistant", content="hello")]},
    {"rollout": 1},
    {"stream": "probe"},
    {"sampling": Sampling(temperature=0.7)},
    {"sampling": Sampling(top_p=0.9)},
    {"sampling": Sampling(top_k=5)},
    {"sampling": Sampling(answer_tokens=7)},
    {"thinking": Thinking(mode="off")},
    {"thinking": Thinking(budget=99)},
    {"thinking": Thinking(unclosed="exclude")},
    {"model": "judge asking"},
]
CHANGES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((_generate, change) for change in DRAWN),
    *((_extend, change) for change in DRAWN),
    (_extend, {"how": Continuation(prefix=("hmm",))}),
    (_extend, {"how": Continuation(prefix=((104, 109),))}),
    (_extend, {"how": Continuation(prefix=("hm",), close=False, think_tokens=5)}),
    (_score, {"messages": "hallo"}),
    (_score, {"continuation": "here"}),
    (_score, {"continuation": (1, 2)}),
    (_score, {"context": ("x",)}),
    (_score, {"model": "judge asking"}),
    (_read, {"messages": "hallo"}),
    (_read, {"positions": (-2,)}),
    (_read, {"positions": (-1, -2)}),
    (_read, {"layers": (0,)}),
    (_read, {"prefix": ("x",)}),
    (_read, {"model": "judge asking"}),
]


def calls_of(folder: Path, *calls: Any, **options: Any) -> int:
    """Requests that calls cost in one session; a model that a judge brought along counts too."""
    target, other = ScriptedBackend(mixed, name="target"), ScriptedBackend(mixed, name="other")

    async def run() -> None:
        judges = {"asking": (AskingJudge(), other)}
        async with session_on(folder, options.pop("target", target), judges, **options) as session:
            for call, arguments in calls:
                await call(session, **arguments)

    finish(run())
    return target.calls + other.calls


@pytest.mark.parametrize(("call", "change"), CHANGES)
def test_a_call_that_differs_in_anything_that_matters_is_another_call(
    tmp_path: Path, call: Any, change: dict[str, Any]
) -> None:
    assert calls_of(tmp_path, (call, {}), (call, change), (call, change), (call, {})) == 2


@pytest.mark.parametrize(
    ("call", "same"),
    [
        (_generate, {"sampling": Sampling(), "thinking": Thinking(), "rollout": 0, "stream": ""}),
        (_generate, {"messages": TURNS}),
        (_generate, {"model": "target"}),
        (_extend, {"sampling": Sampling(), "thinking": Thinking()}),
        (_score, {"messages": TURNS, "context": ()}),
        (_read, {"layers": (-1,), "prefix": ()}),
    ],
)
def test_saying_what_holds_anyway_is_the_same_call(
    tmp_path: Path, call: Any, same: dict[str, Any]
) -> None:
    assert calls_of(tmp_path, (call, {}), (call, same)) == 1


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"seed": 1}, 1),
        ({"system_prompt": "Be brief."}, 1),
        ({"sampling": Sampling(temperature=0)}, 1),
        ({"thinking": Thinking(budget=5)}, 1),
        ({"decoding": "recommended"}, 1),
        # What else a run asks for says nothing about this answer.
        ({"benchmarks": ("xstest",), "suites": ("safety",), "limit": 3, "subset_seed": 4}, 0),
        ({"rollouts": 8, "judges": ("a", "b"), "text": "both", "preset": "x"}, 0),
        ({"data_dirs": ("/somewhere",), "answer_tokens_fixed": True}, 0),
    ],
)
def test_a_run_finds_its_answers_unless_its_specification_changes_them(
    tmp_path: Path, changes: dict[str, Any], calls: int
) -> None:
    assert calls_of(tmp_path, (_generate, {})) == 1
    assert calls_of(tmp_path, (_generate, {}), spec=with_spec(**changes)) == calls


def test_another_model_asks_anew(tmp_path: Path) -> None:
    assert calls_of(tmp_path, (_generate, {})) == 1
    other = ScriptedBackend(mixed, name="another")
    calls_of(tmp_path, (_generate, {}), target=other)
    assert other.calls == 1


def test_execution_is_no_part_of_a_key(tmp_path: Path) -> None:
    assert calls_of(tmp_path, (_generate, {})) == 1

    class Elsewhere(ScriptedBackend):
        async def start(self, report: Report) -> Subject:
            subject = await super().start(report)
            return msgspec.structs.replace(subject, execution={"dtype": "float16"})

    other = Elsewhere(mixed, name="target", delay=0.001, max_outstanding=3)
    calls_of(tmp_path, (_generate, {}), target=other)
    assert other.calls == 0


# -- seeds and streams


class Seeds(ScriptedBackend):
    """Keeps the row seeds that it was asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        self.seeds.append(request.seed)
        return await super().complete(request)


def test_every_rollout_has_a_row_seed_of_its_own(tmp_path: Path) -> None:
    backend = Seeds()

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            for prompt in ("a", "b"):
                for rollout in range(50):
                    await session.generate(prompt, rollout=rollout)
                await session.generate(prompt, stream="probe")

    finish(run())
    assert len(set(backend.seeds)) == 102
    assert all(0 <= seed < 2**63 for seed in backend.seeds)


def test_row_seeds_are_equal_in_every_process() -> None:
    code = "from tseval.asking import row_seed; print(row_seed('00ff' * 8))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    # Pinned: another value would silently give other draws to every run that is resumed.
    assert outputs == {f"{row_seed('00ff' * 8)}\n"} == {"8919501185382735839\n"}


def test_the_key_and_the_seed_of_a_rollout_stand_in_its_record(tmp_path: Path) -> None:
    async def run() -> None:
        async with session_on(tmp_path) as session:
            rollout = await session.generate("hello")
            assert rollout.seed == row_seed(rollout.key)

    finish(run())
    [record] = records(tmp_path, "generation")
    assert record["data"]["key"] == record["key"]
    assert record["data"]["seed"] == row_seed(record["key"])


def test_keys_are_pinned_so_that_old_journals_stay_readable(tmp_path: Path) -> None:
    async def run() -> str:
        async with session_on(tmp_path, ScriptedBackend(mixed, name="pinned")) as session:
            return (await session.generate("hello")).key

    assert finish(run()) == "5af557b00c4c98f5eedf77901da16389"


def test_benchmarks_share_the_default_stream_and_no_other(tmp_path: Path) -> None:
    backend = ScriptedBackend()

    async def benchmark(session: Session, stream: str) -> list[Any]:
        return [await session.generate(f"prompt {n}", stream=stream) for n in range(20)]

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            one, two = await asyncio.gather(benchmark(session, ""), benchmark(session, ""))
            assert one == two
            assert backend.calls == 20
            probe = await benchmark(session, "probe")
            assert backend.calls == 40
            assert [rollout.answer for rollout in probe] != [rollout.answer for rollout in one]

    finish(run())


# -- failures


def test_a_failed_request_is_journalled_and_tried_again_by_the_next_process(
    tmp_path: Path,
) -> None:
    broken = {"yes": True}

    def fail(request: CompletionRequest) -> None:
        if broken["yes"]:
            raise RequestFailed("server said 500", kind="server")

    async def run() -> Any:
        async with session_on(tmp_path, ScriptedBackend(fail=fail)) as session:
            return await session.generate("hello")

    with pytest.raises(RequestFailed, match="server said 500"):
        finish(run())
    [error] = records(tmp_path, "error")
    assert error["data"] == {
        "during": "generation",
        "type": "RequestFailed",
        "message": "server said 500",
    }
    broken["yes"] = False
    assert finish(run()).key == error["key"]
    journal = Journal.open(tmp_path / "journal", write=False)
    assert list(journal.errors()) == []
    journal.close()


def test_a_failed_request_may_be_asked_again_at_once(tmp_path: Path) -> None:
    times = 0

    def fail(request: CompletionRequest) -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise RequestFailed("once")

    async def run() -> None:
        async with session_on(tmp_path, ScriptedBackend(fail=fail)) as session:
            with pytest.raises(RequestFailed):
                await session.generate("hello")
            assert (await session.generate("hello")).answer

    finish(run())


def test_a_row_without_room_is_an_error_record_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with session_on(tmp_path, ScriptedBackend(context_length=300)) as session:
            with pytest.raises(RowSkipped):
                await session.generate("x" * 200)

    finish(run())
    assert [error["data"]["type"] for error in records(tmp_path, "error")] == ["RowSkipped"]


def test_a_backend_that_is_gone_leaves_no_error_record(tmp_path: Path) -> None:
    def fail(request: CompletionRequest) -> None:
        raise BackendUnavailable("gone")

    async def run() -> None:
        async with session_on(tmp_path, ScriptedBackend(fail=fail)) as session:
            await session.generate("hello")

    with pytest.raises(BackendUnavailable, match="gone"):
        finish(run())
    assert not (tmp_path / "journal" / "00000.jsonl").exists()


def test_a_text_that_is_no_unicode_fails_its_request_and_not_the_run(tmp_path: Path) -> None:
    class Lone(ScriptedBackend):
        async def complete(self, request: CompletionRequest) -> Completion:
            done = await super().complete(request)
            return msgspec.structs.replace(done, text="half a pair: \ud83d", ids=None)

    async def run() -> None:
        async with session_on(tmp_path, Lone()) as session:
            with pytest.raises(RequestFailed, match="no Unicode") as failed:
                await session.generate("hello")
            assert failed.value.kind == "malformed"

    finish(run())
    assert len(records(tmp_path, "error")) == 1


# -- verdicts


def judged(folder: Path, judge: AskingJudge, *asked: tuple[Any, ...], **more: Any) -> list[Any]:
    async def run() -> list[Any]:
        async with session_on(folder, judges={"j": (judge, more.get("backend"))}) as session:
            return [await session.judge("j", *arguments[:2], **arguments[2]) for arguments in asked]

    return finish(run())


def test_a_verdict_is_made_once_and_keeps_what_the_judge_wrote(tmp_path: Path) -> None:
    judge = AskingJudge()
    [(key, verdict)] = judged(tmp_path, judge, ("p", "sorry, no", {}))
    assert verdict == Verdict(refusal=True, raw="sorry, no")
    [again] = judged(tmp_path, judge, ("p", "sorry, no", {}))
    assert again == (key, verdict)
    assert len(judge.cases) == 1


@pytest.mark.parametrize(
    ("prompt", "text", "more"),
    [
        ("q", "text", {}),
        ("p", "texts", {}),
        ("p", "text", {"sees": "trace"}),
        ("p", "text", {"sample": 1}),
    ],
)
def test_a_case_that_differs_is_another_verdict(
    tmp_path: Path, prompt: str, text: str, more: dict[str, Any]
) -> None:
    judge = AskingJudge()
    first, second = judged(tmp_path, judge, ("p", "text", {}), (prompt, text, more))
    assert first[0] != second[0]
    assert len(judge.cases) == 2


@pytest.mark.parametrize("change", ["name", "version", "identity", "model"])
def test_a_judge_that_differs_in_its_identity_judges_anew(tmp_path: Path, change: str) -> None:
    first, second = AskingJudge(), AskingJudge()
    backends = {
        "first": ScriptedBackend(mixed, name="m"),
        "second": ScriptedBackend(mixed, name="n" if change == "model" else "m"),
    }
    if change == "identity":
        second = AskingJudge(prompt="another")
    elif change != "model":
        second.card = msgspec.structs.replace(second.card, **{change: "another"})
    judged(tmp_path, first, ("p", "text", {}), backend=backends["first"])
    judged(tmp_path, second, ("p", "text", {}), backend=backends["second"])
    assert len(first.cases) == len(second.cases) == 1


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_text_is_judged_empty_without_asking(tmp_path: Path, text: str) -> None:
    judge = AskingJudge()
    assert judged(tmp_path, judge, ("p", text, {})) == [("", Verdict(reason="empty"))]
    assert judge.cases == []


def test_a_judge_whose_model_fails_gives_an_error_that_is_tried_again(tmp_path: Path) -> None:
    broken = {"yes": True}

    def fail(request: CompletionRequest) -> None:
        if broken["yes"]:
            raise RequestFailed("server said 500")

    judge = AskingJudge()
    [(key, verdict)] = judged(
        tmp_path, judge, ("p", "text", {}), backend=ScriptedBackend(fail=fail)
    )
    assert verdict == Verdict(reason="error", raw="server said 500")
    assert records(tmp_path, "verdict") == []
    broken["yes"] = False
    [(again, verdict)] = judged(
        tmp_path, judge, ("p", "text", {}), backend=ScriptedBackend(fail=fail)
    )
    assert again == key
    assert verdict.reason == "ok"
    assert len(records(tmp_path, "verdict")) == 1


def test_two_who_ask_for_one_verdict_get_the_one_that_is_journalled(tmp_path: Path) -> None:
    class Moody(AskingJudge):
        async def judge(self, case: Any, model: Any) -> Verdict:
            await asyncio.sleep(0.001)
            self.cases.append(case)
            return Verdict(refusal=True, raw=f"thought {len(self.cases)}")

    async def run() -> list[Any]:
        async with session_on(tmp_path, judges={"j": (Moody(), None)}) as session:
            return await asyncio.gather(*(session.judge("j", "p", "text") for _ in range(3)))

    found = finish(run())
    assert {verdict.raw for _, verdict in found} == {"thought 1"}
    assert len(records(tmp_path, "verdict")) == 1


def test_a_model_that_judges_itself_draws_apart_from_what_is_measured(tmp_path: Path) -> None:
    backend = ScriptedBackend()

    async def run() -> None:
        async with session_on(tmp_path, backend, {"j": (AskingJudge(), backend)}) as session:
            await session.judge("j", "p", "text")
            await session.generate("asking: p: text", sampling=Sampling(temperature=0))

    finish(run())
    assert backend.calls == 2


def test_a_judges_model_is_not_given_the_subjects_system_prompt(tmp_path: Path) -> None:
    seen: list[tuple[Message, ...]] = []

    def fail(request: CompletionRequest) -> None:
        seen.append(request.messages)

    async def run() -> None:
        target, other = ScriptedBackend(fail=fail), ScriptedBackend(fail=fail, name="other")
        spec = with_spec(system_prompt="Be brief.")
        async with session_on(
            tmp_path, target, {"j": (AskingJudge(), other)}, spec=spec
        ) as session:
            await session.generate("hello")
            await session.judge("j", "p", "text")

    finish(run())
    subject, judge = seen
    assert [message.role for message in subject] == ["system", "user"]
    assert [message.role for message in judge] == ["user"]


# -- hidden states


def test_hidden_states_come_back_from_their_pointer(tmp_path: Path) -> None:
    async def run() -> np.ndarray:
        async with session_on(tmp_path) as session:
            return await session.hidden_states("hello", positions=(0, -1), layers=(0, 1, -1))

    states = finish(run())
    assert states.shape == (2, 3, 16)
    assert states.dtype == np.float32
    [record] = records(tmp_path, "hidden")
    shard, _, name = record["data"]["array"].partition("#")
    assert name == record["key"]
    assert (tmp_path / "arrays" / shard).exists()
    np.testing.assert_array_equal(finish(run()), states)


def test_means_over_spans_stand_behind_the_positions_and_are_kept_apart(tmp_path: Path) -> None:
    async def run() -> list[np.ndarray]:
        async with session_on(tmp_path) as session:
            return [
                await session.hidden_states("hello", positions=(1, 2, 3)),
                await session.hidden_states("hello", positions=(2,), spans=((1, 4), (-10, -9))),
                await session.hidden_states("hello", spans=((1, 3),)),
            ]

    every, both, span = finish(run())
    assert (both.shape, span.shape) == ((3, 1, 16), (1, 1, 16))
    np.testing.assert_allclose(both[:2], [every[1], every.mean(axis=0)], atol=1e-3)
    np.testing.assert_allclose(span[0], every[:2].mean(axis=0), atol=1e-3)
    assert len(records(tmp_path, "hidden")) == 3
    for first, again in zip((every, both, span), finish(run()), strict=True):
        np.testing.assert_array_equal(first, again)


def test_hidden_states_beyond_float16_come_back_too(tmp_path: Path) -> None:
    class Large(ScriptedBackend):
        async def hidden_states(self, request: Any) -> np.ndarray:
            return np.array([[[1e6, -1e-3]]], dtype=np.float32)

    async def run() -> np.ndarray:
        async with session_on(tmp_path, Large()) as session:
            return await session.hidden_states("hello", positions=(-1,))

    np.testing.assert_allclose(finish(run()), [[[1e6, -1e-3]]], rtol=2**-8)


def test_a_slot_is_not_held_while_an_array_waits_for_its_shard(tmp_path: Path) -> None:
    async def run() -> int:
        async with session_on(tmp_path, bound=1) as session:
            assert session._arrays is not None
            session._arrays._gather_seconds = 0.2
            await asyncio.gather(
                *(session.hidden_states(str(number), positions=(-1,)) for number in range(8))
            )
        return len(list((tmp_path / "arrays").iterdir()))

    assert finish(run()) == 1


def test_a_session_without_a_place_for_arrays_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with session_on(tmp_path) as session:
            session._arrays = None
            await session.hidden_states("hello", positions=(-1,))

    with pytest.raises(ConfigError, match="without a place for arrays"):
        finish(run())


# -- capabilities


@pytest.mark.parametrize(
    ("call", "lacking"), [(_extend, "prefix"), (_score, "logprobs"), (_read, "hidden_states")]
)
def test_a_call_that_the_backend_cannot_answer_is_refused(
    tmp_path: Path, call: Any, lacking: str
) -> None:
    backend = ScriptedBackend(capabilities=Capabilities())

    async def run() -> None:
        async with session_on(tmp_path, backend) as session:
            await call(session)

    with pytest.raises(CapabilityMissing) as missing:
        finish(run())
    assert missing.value.message == f"backend 'scripted' lacks {lacking}"
    assert missing.value.hint == "run it on another backend, for example hf"
    assert missing.value.exit_code == 5
    assert backend.calls == 0


@pytest.mark.parametrize("call", [_extend, _score, _read])
def test_the_model_that_is_asked_is_the_one_that_must_be_able_to(tmp_path: Path, call: Any) -> None:
    plain, able = ScriptedBackend(capabilities=Capabilities()), ScriptedBackend(name="able")

    async def run(target: ScriptedBackend, other: ScriptedBackend) -> None:
        judges = {"asking": (AskingJudge(), other)}
        async with session_on(tmp_path, target, judges) as session:
            await call(session, model="judge asking")

    finish(run(plain, able))
    with pytest.raises(CapabilityMissing):
        finish(run(able, plain))


# -- the rest of what a benchmark may ask


def test_what_a_benchmark_says_about_itself_is_kept(tmp_path: Path) -> None:
    protocol = Protocol(
        benchmark="b", benchmark_version="1", content_hash="0", metric="orr", metric_version="1"
    )

    async def run() -> None:
        async with session_on(tmp_path) as session:
            session.warn("odd")
            session.warn("odd")
            session.expect("b", 3)
            session.advance("b")
            assert session.warnings == ["odd"]
            assert (session.expected["b"], session.done["b"]) == (3, 1)
            fingerprint = session.declare(protocol)
            assert session.protocols == {fingerprint: protocol}

    finish(run())


def test_recommended_decoding_is_the_models_own_and_its_absence_an_error(tmp_path: Path) -> None:
    class Silent(ScriptedBackend):
        async def start(self, report: Report) -> Subject:
            return msgspec.structs.replace(await super().start(report), recommended={})

    async def run(backend: ScriptedBackend) -> Sampling:
        spec = with_spec(decoding="recommended", sampling=Sampling(answer_tokens=77))
        async with session_on(tmp_path, backend, spec=spec) as session:
            return session.sampling

    assert finish(run(ScriptedBackend())) == Sampling(temperature=1, top_p=1, answer_tokens=77)
    with pytest.raises(ConfigError, match="recommends no decoding of its own") as refused:
        finish(run(Silent()))
    assert refused.value.hint == "give --temperature, --top-p and --top-k"


def test_counts_say_what_was_made_found_and_how_many_tokens(tmp_path: Path) -> None:
    def script(call: Call) -> str:
        return "twelve bytes"

    async def run() -> Session:
        async with session_on(tmp_path, ScriptedBackend(script)) as session:
            await session.generate("a")
            await session.generate("b")
            await session.generate("b")
            return session

    counts = finish(run()).counts
    assert counts["generation.made"] == 2
    assert counts["generation.found"] == 1
    assert counts["tokens"] == 24
    assert counts["prompt_tokens"] == 2 * (1 + 8)


def test_a_session_costs_no_heavy_import() -> None:
    code = (
        "import sys, tseval.session\n"
        "heavy = {'numpy', 'torch', 'scipy', 'transformers', 'safetensors', 'httpx', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
