"""Requests to vLLM's engine, driven through a scripted engine: nothing of vLLM is needed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.tiny_models import byte_tokenizer
from tseval.errors import BackendUnavailable, RequestFailed
from tseval.formats import FORCED_TAGS, NO_FORMAT
from tseval.models._vllm_requests import Requests
from tseval.models.hf.rows import Row
from tseval.models.hf.text import Text
from tseval.requests import CompletionRequest
from tseval.thinking import Limits
from tseval.types import Sampling

END = 257
GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=1.0, top_p=0.9)


class EngineDeadError(Exception):
    pass


class SamplingParams:
    __struct_fields__ = ("logprob_token_ids",)

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the three modules that requests are made with."""
    kinds = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")
    for name, members in {
        "vllm": {"SamplingParams": SamplingParams},
        "vllm.sampling_params": {"RequestOutputKind": kinds},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)


def output(ids: list[int], reason: str | None = None, **more: Any) -> Any:
    made = SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=more.get("logprobs"))
    return SimpleNamespace(outputs=[made], prompt_logprobs=more.get("prompt_logprobs"))


Script = Callable[[list[int], SamplingParams, int], Any]


class Engine:
    """Answers by a script: prompt, parameters and number of the request to outputs."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sent: list[SamplingParams] = []
        self.prompts: list[list[int]] = []
        self.ended = 0
        self.aborted: list[str] = []

    async def generate(
        self, prompt: Any, params: SamplingParams, name: str, lora_request: Any = None
    ) -> AsyncIterator[Any]:
        self.sent.append(params)
        self.prompts.append(list(prompt["prompt_token_ids"]))
        try:
            for each in self.script(self.prompts[-1], params, len(self.sent)):
                await asyncio.sleep(0)
                if isinstance(each, Exception):
                    raise each
                yield each
        finally:
            self.ended += 1

    async def abort(self, names: list[str]) -> None:
        self.aborted += names


def letters(text: str) -> list[int]:
    return Text(byte_tokenizer()).piece(text)


def spell(text: str) -> Script:
    """Write a text on from wherever the prompt has got to, as far as is asked for."""

    def script(prompt: list[int], params: SamplingParams, number: int) -> Any:
        ids = [*letters(text), END][len(prompt) - 1 :][: params.max_tokens]
        banned = getattr(params, "logit_bias", None) or {}
        for token in ids:
            # Where its next letter is denied it writes a hyphen and goes on from there.
            yield output([letters("-")[0] if token in banned else token])

    return script


def run(
    engine: Engine,
    *,
    limits: Limits,
    sampling: Sampling = GREEDY,
    seeds: bool = True,
    room: int = 100,
    **more: Any,
) -> tuple[Row, Requests]:
    text = Text(byte_tokenizer())
    request = CompletionRequest(
        messages=(), limits=limits, sampling=sampling, **{"seed": 5, "format": NO_FORMAT, **more}
    )
    row = Row([1], request, text, frozenset({END}), room)
    requests = Requests(engine, text, frozenset({END}), None, seeds=seeds)
    asyncio.run(asyncio.wait_for(requests.complete(row, limits, thinks=request.format.thinks), 120))
    return row, requests


def test_the_end_of_the_turn_ends_it_and_is_no_part_of_it() -> None:
    row, requests = run(Engine(spell("hi")), limits=Limits(thinking=0, answer=9))
    done = row.completion()
    assert (done.text, done.finish, done.tokens) == ("hi", "stop", 2)
    assert requests.tokens_under_way == 0


def test_the_answer_is_cut_at_its_limit_or_where_the_context_ends() -> None:
    for limit, room in ((3, 100), (50, 3)):
        engine = Engine(spell("abcdefgh"))
        row, _ = run(engine, limits=Limits(thinking=0, answer=limit), room=room)
        assert (row.completion().text, row.completion().finish) == ("abc", "length")
        assert engine.sent[0].max_tokens == 3


def test_tokens_behind_the_limit_of_a_trace_are_thrown_away_and_the_request_ended() -> None:
    def script(prompt: list[int], params: SamplingParams, number: int) -> Any:
        yield output(letters("one two"))
        yield output(letters(" three"))
        yield AssertionError("went on behind the limit")

    engine = Engine(script)
    row, _ = run(engine, limits=Limits(thinking=10, answer=5), format=FORCED_TAGS, opened=True)
    assert row.completion().text == "one two th"
    assert engine.ended == 1
    assert engine.sent[0].max_tokens == 15


def test_an_answer_behind_a_trace_gets_its_own_limit() -> None:
    written = "no" + FORCED_TAGS.answer_mark + "abcdefgh"
    row, _ = run(
        Engine(spell(written)),
        limits=Limits(thinking=50, answer=4),
        format=FORCED_TAGS,
        opened=True,
    )
    assert row.completion().text == "no" + FORCED_TAGS.answer_mark + "abcd"


def test_a_token_that_completes_a_banned_string_is_drawn_again_without_it() -> None:
    engine = Engine(spell("xabyabz"))
    row, _ = run(engine, limits=Limits(thinking=0, answer=20), banned=("ab",))
    assert row.completion().text == "xa-ya-z"
    bans = [set(params.logit_bias or {}) for params in engine.sent]
    b = letters("b")[0]
    # Denied for one token each time, and not before or behind it.
    assert bans == [set(), {b}, set(), {b}, set()]
    assert [params.max_tokens for params in engine.sent] == [20, 1, 17, 1, 14]
    assert engine.prompts[2] == [1, *letters("xa-")]


def test_a_banned_token_of_its_own_is_never_drawn_at_all() -> None:
    engine = Engine(spell("xaby"))
    row, _ = run(engine, limits=Limits(thinking=0, answer=4), banned=("b", "<|im_end|>"))
    assert row.completion().text == "xa-y"
    assert len(engine.sent) == 1
    assert set(engine.sent[0].logit_bias) == {letters("b")[0], END}


def test_an_engine_that_insists_on_a_banned_token_fails_the_request() -> None:
    engine = Engine(lambda prompt, params, number: [output(letters("ab"[number > 1 :]))])
    with pytest.raises(RequestFailed, match="gives no token but"):
        run(engine, limits=Limits(thinking=0, answer=9), banned=("ab",))


def test_an_engine_that_gives_nothing_fails_the_request() -> None:
    with pytest.raises(RequestFailed, match="gives no token but none"):
        run(Engine(lambda *_: [output([], "length")]), limits=Limits(thinking=0, answer=9))


def test_seeds_go_along_where_the_engine_takes_them_and_top_p_always() -> None:
    for seeds, sent in ((True, 5), (False, None)):
        engine = Engine(spell("hi"))
        run(engine, limits=Limits(thinking=0, answer=9), sampling=WARM, seeds=seeds)
        assert engine.sent[0].seed == sent
        assert engine.sent[0].top_p == 0.9


@pytest.mark.parametrize(
    ("thrown", "kind", "message"),
    [
        (ValueError("prompt exceeds the maximum model length"), "overlong", "maximum model"),
        (ValueError("temperature must be in [0, 2]"), "engine", "temperature must be"),
        (KeyError("x"), "engine", "KeyError"),
        (output([], "abort"), "engine", "unloaded before it answered"),
        (output([], "error"), "engine", "failed in this request"),
    ],
)
def test_what_fails_one_request_fails_no_run(thrown: Any, kind: str, message: str) -> None:
    with pytest.raises(RequestFailed, match=message) as caught:
        run(Engine(lambda *_: [thrown]), limits=Limits(thinking=0, answer=9))
    assert caught.value.kind == kind


def test_a_dead_engine_ends_the_run() -> None:
    with pytest.raises(BackendUnavailable, match="engine died") as caught:
        run(Engine(lambda *_: [EngineDeadError()]), limits=Limits(thinking=0, answer=9))
    assert "resumes" in caught.value.hint


def requests_of(engine: Engine) -> Requests:
    return Requests(engine, Text(byte_tokenizer()), frozenset({END}), None, seeds=True)


def test_a_score_sums_the_continuation_alone_and_ranks_say_whether_it_is_greedy() -> None:
    def row(token: int, logprob: float, rank: int) -> dict[int, Any]:
        return {token: SimpleNamespace(logprob=logprob, rank=rank)}

    rows = [None, row(11, -9.0, 50), row(12, -0.5, 1), row(13, -0.25, 1)]
    engine = Engine(lambda *_: [output([1], "length", prompt_logprobs=rows)])
    scored = asyncio.run(requests_of(engine).score([10, 11, 12, 13], 2))
    assert (scored.total, scored.greedy, scored.tokens) == (-0.75, True, 2)
    rows[3] = row(13, -0.25, 2)
    assert not asyncio.run(requests_of(engine).score([10, 11, 12, 13], 2)).greedy
    assert engine.sent[0].prompt_logprobs == 0
    nothing = Engine(lambda *_: [output([1], "length")])
    with pytest.raises(RequestFailed, match="no log-probabilities"):
        asyncio.run(requests_of(nothing).score([10, 11], 1))


def test_next_tokens_are_asked_for_by_id_where_the_engine_takes_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {7: SimpleNamespace(logprob=-1.0), 8: SimpleNamespace(logprob=-2.0)}
    engine = Engine(lambda *_: [output([7], "length", logprobs=[row])])
    assert asyncio.run(requests_of(engine).next_tokens([1], [7, 8])) == ({7: -1.0, 8: -2.0}, None)
    assert engine.sent[0].logprob_token_ids == [7, 8]
    # An older engine reports its top ones only; what is not there lies below the lowest of them.
    monkeypatch.setattr(SamplingParams, "__struct_fields__", ())
    assert asyncio.run(requests_of(engine).next_tokens([1], [7, 9])) == ({7: -1.0}, -2.0)
    assert engine.sent[1].logprobs == 20


def test_a_cancelled_request_is_ended_in_the_engine_and_forgotten() -> None:
    def endless(prompt: list[int], params: SamplingParams, number: int) -> Any:
        while True:
            yield output(letters("a"))

    engine = Engine(endless)
    requests = requests_of(engine)

    async def scene() -> None:
        limits = Limits(thinking=0, answer=10**9)
        request = CompletionRequest(messages=(), limits=limits, sampling=GREEDY)
        row = Row([1], request, Text(byte_tokenizer()), frozenset({END}), 10**9)
        task = asyncio.create_task(requests.complete(row, limits, thinks=False))
        while row.position < 5:
            await asyncio.sleep(0)
        assert requests.tokens_under_way >= 5
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await requests.abandon()
        assert engine.aborted == [], "none is left to be told"

    asyncio.run(scene())
    assert engine.ended == 1
    assert requests.tokens_under_way == 0


def test_requests_that_wait_are_told_again_until_none_is_left() -> None:
    engine = Engine(spell(""))

    async def generate(*_: Any, **__: Any) -> AsyncIterator[Any]:
        # An engine that has not taken the request in yet does not know it when it is aborted.
        while len(engine.aborted) < 3:
            await asyncio.sleep(0)
        yield output([], "abort")

    engine.generate = generate  # type: ignore[method-assign]
    requests = requests_of(engine)

    async def scene() -> None:
        task = asyncio.create_task(requests.score([1, 2], 1))
        await asyncio.sleep(0)
        await requests.abandon()
        with pytest.raises(RequestFailed, match="unloaded before it answered"):
            await task

    asyncio.run(asyncio.wait_for(scene(), 120))
    assert engine.aborted == ["tseval-0"] * 3
