"""When the vLLM backend starts, sleeps, wakes and ends its engine; the engine is a scripted one."""

import asyncio
from typing import Any

import pytest

from tests.support.tiny_models import byte_tokenizer
from tseval.errors import BackendUnavailable, CapabilityMissing, RequestFailed
from tseval.models import vllm as backends
from tseval.models._vllm_load import Loaded
from tseval.models.hf.text import Text
from tseval.models.vllm import VllmBackend
from tseval.requests import (
    ChoiceRequest,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    Subject,
)
from tseval.thinking import Limits
from tseval.types import Sampling

REQUEST = CompletionRequest(
    messages=(), prefix=("a",), limits=Limits(thinking=0, answer=1), sampling=Sampling()
)


class Engine:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.errored = False
        self.output_handler = None

    async def sleep(self, level: int) -> None:
        self.done.append(f"sleep {level}")

    async def wake_up(self) -> None:
        self.done.append("wake")

    def shutdown(self) -> None:
        self.done.append("end")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The engines that were started, in order."""
    started: list[Engine] = []

    def load(named: Any, options: Any, report: Any) -> Loaded:
        report("starting", None)
        started.append(Engine())
        return Loaded(
            engine=started[-1],
            text=Text(byte_tokenizer()),
            subject=Subject(name="toy", identity={"weights": "x"}),
            stop_ids=frozenset({257}),
            context_length=16,
            batch=8,
            devices=("cuda:0",),
            adapter=None,
            seeds=False,
        )

    monkeypatch.setattr(backends, "find", lambda spec, report: None)
    monkeypatch.setattr(backends, "load", load)
    return started


def backend(**options: str) -> VllmBackend:
    return VllmBackend(ModelSpec(backend="vllm", name="toy", options=options))


def quiet(phrase: str, share: float | None) -> None: ...


def test_an_engine_is_started_once_and_ended_once(engines: list[Engine]) -> None:
    async def scene() -> None:
        made, said = backend(), []
        subject = await made.start(lambda phrase, share: said.append(phrase))
        assert await made.start(quiet) == subject
        await asyncio.sleep(0)
        assert said == ["starting"]
        assert (made.context_length, made.max_outstanding, made.devices) == (16, 16, ("cuda:0",))
        assert not made.capabilities.seeds
        assert made.capabilities.choices
        await made.close()
        await made.close()
        with pytest.raises(BackendUnavailable, match="'toy' is not loaded"):
            await made.complete(REQUEST)
        assert made.text_tokens("a") == 1
        assert await made.start(quiet) == subject
        await made.close()

    asyncio.run(scene())
    assert [each.done for each in engines] == [["end"], ["end"]]


def test_under_sleep_it_sleeps_and_wakes_and_a_second_close_ends_it(engines: list[Engine]) -> None:
    async def scene() -> None:
        made = backend(sleep="on")
        subject = await made.start(quiet)
        await made.close()
        with pytest.raises(BackendUnavailable, match="is not loaded"):
            await made.complete(REQUEST)
        assert await made.start(quiet) == subject
        assert made.text_tokens("a") == 1
        await made.close()
        await made.close()
        await made.close()

    asyncio.run(scene())
    assert [each.done for each in engines] == [["sleep 1", "wake", "sleep 1", "end"]]


def test_a_dead_engine_is_replaced_asleep_or_awake(engines: list[Engine]) -> None:
    async def scene() -> None:
        made = backend(sleep="on")
        await made.start(quiet)
        engines[0].errored = True
        await made.start(quiet)
        await made.close()
        engines[1].errored = True
        await made.start(quiet)
        engines[2].errored = True
        await made.close()

    asyncio.run(scene())
    assert [each.done for each in engines] == [["end"], ["sleep 1", "end"], ["end"]]


def test_an_engine_that_slept_through_its_loop_is_started_anew(engines: list[Engine]) -> None:
    made = backend(sleep="on")

    async def once() -> None:
        await made.start(quiet)
        await made.close()

    asyncio.run(once())
    asyncio.run(once())
    asyncio.run(made.close())
    assert [each.done for each in engines] == [["sleep 1", "end"], ["sleep 1", "end"]]


def test_what_it_cannot_answer_is_refused_before_the_engine_is_asked(
    engines: list[Engine],
) -> None:
    async def scene() -> None:
        made = backend()
        await made.start(quiet)
        with pytest.raises(CapabilityMissing, match="no hidden states"):
            await made.hidden_states(HiddenStatesRequest(messages=(), positions=(0,)))
        for choices in (("yes", "yesterday"), ("a", "")):
            with pytest.raises(RequestFailed, match="begin with the same") as caught:
                await made.choose(ChoiceRequest(prefix=("q",), choices=choices))
            assert caught.value.kind == "malformed"
        with pytest.raises(RequestFailed, match="16 tokens, the context 16") as caught:
            await made.choose(ChoiceRequest(prefix=("q" * 16,), choices=("a", "b")))
        assert caught.value.kind == "overlong"
        await made.close()

    asyncio.run(scene())
    assert engines[0].done == ["end"]
