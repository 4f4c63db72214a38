"""What every backend must do, whatever it runs: the contract in ``tseval.roles.Backend``."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np
import pytest

from tseval.errors import CapabilityMissing, RequestFailed
from tseval.formats import BUILTIN_FAMILIES, NO_FORMAT, choose_format
from tseval.requests import (
    ChoiceRequest,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    ScoringRequest,
)
from tseval.roles import Backend
from tseval.rollouts import Model, Plan, roll_out
from tseval.testing import ScriptedBackend
from tseval.thinking import Limits
from tseval.types import Message, Sampling, Thinking

GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=1.0, top_p=1.0)
PROMPTS = (
    "Name one colour.",
    "What is two plus two?",
    "Write one sentence about rain, and then one about snow.",
    "Say hello.",
)

SPEAK = "Say anything you like."


def turns(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def request(prompt: str, *, tokens: int = 12, sampling: Sampling = GREEDY, seed: int = 1, **more):
    return CompletionRequest(
        messages=turns(prompt),
        limits=Limits(thinking=0, answer=tokens),
        sampling=sampling,
        seed=seed,
        **more,
    )


@pytest.fixture(
    scope="module",
    params=[
        "scripted",
        "openai",
        pytest.param("demo", marks=pytest.mark.model),
    ],
)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Backend]]:
    """Give a function that makes a backend; a server it needs lives as long as the module."""
    with ExitStack() as stack:
        if request.param == "scripted":
            yield lambda: ScriptedBackend(context_length=4096)
        elif request.param == "openai":
            yield _served(stack)
        else:
            from tseval.models.demo import create

            yield lambda: create(ModelSpec(backend="demo", options={"deterministic": "true"}))


def _served(stack: ExitStack, **behaviour: Any) -> Callable[[], Backend]:
    """An OpenAI-compatible server on loopback that echoes, counts and continues."""
    from tests.support.openai_server import serving
    from tseval.models.openai import OpenAIBackend

    known = {"tokenize": True, "starts": "<s>", "top_logprobs": 20}
    server = stack.enter_context(serving(**known | behaviour))
    return lambda: OpenAIBackend(ModelSpec(backend="openai", name="toy", base_url=server.url))


@pytest.fixture
def make_rambling(make: Callable[[], Backend]) -> Iterator[Callable[[], Backend]]:
    """The same, but for a server: one whose model rambles once a trace is opened for it."""
    with ExitStack() as stack:
        served = make.__qualname__.startswith("_served")
        yield _served(stack, trace="one two three four " * 20) if served else make


def play(make: Callable[[], Backend], scene: Callable[[Backend], Awaitable[None]]) -> None:
    """Start a backend, play a scene on it, and close it."""

    async def whole() -> None:
        backend = make()
        await backend.start(lambda phrase, share: None)
        try:
            await asyncio.wait_for(scene(backend), 900)
        finally:
            await backend.close()

    asyncio.run(whole())


def test_it_says_what_it_is(make: Callable[[], Backend]) -> None:
    async def scene() -> None:
        backend = make()
        first = await backend.start(lambda phrase, share: None)
        await backend.close()
        await backend.close()
        again = await backend.start(lambda phrase, share: None)
        await backend.close()
        assert first.name
        assert first.identity
        assert again.identity == first.identity
        assert msgspec.json.decode(msgspec.json.encode(first), type=type(first)) == first

    asyncio.run(scene())


def test_concurrent_requests_get_their_own_answers(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        alone = [(await backend.complete(request(prompt))).text for prompt in PROMPTS]
        together = await asyncio.gather(*(backend.complete(request(p)) for p in reversed(PROMPTS)))
        assert [done.text for done in reversed(together)] == alone
        assert len(set(alone)) > 1

    play(make, scene)


def test_limits_are_kept_and_say_so(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        done = await backend.complete(request(PROMPTS[2], tokens=3))
        assert done.finish == "length"
        if done.ids is not None:
            assert len(done.ids) == done.tokens == 3
            assert backend.decode(done.ids) == done.text

    play(make, scene)


def test_equal_seeds_give_equal_draws_and_others_do_not(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        if not backend.capabilities.seeds:
            return
        draws = [
            (await backend.complete(request(SPEAK, sampling=WARM, seed=seed))).text
            for seed in (1, 2, 3, 4, 1)
        ]
        assert draws[0] == draws[4]
        assert len(set(draws)) > 1

    play(make, scene)


def test_a_prefix_is_continued_and_not_repeated(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        assert backend.capabilities.prefix, "every backend here can continue"
        whole = await backend.complete(request(PROMPTS[2], tokens=12))
        if whole.ids is None:
            half = whole.text[: len(whole.text) // 2]
            rest = await backend.complete(request(PROMPTS[2], tokens=12, prefix=(half,)))
            assert not rest.text.startswith(half)
            return
        half_ids = whole.ids[:5]
        rest = await backend.complete(request(PROMPTS[2], tokens=7, prefix=(half_ids,)))
        assert (*half_ids, *(rest.ids or ())) == whole.ids

    play(make, scene)


def test_a_cancelled_request_harms_no_other(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        doomed = asyncio.create_task(backend.complete(request(PROMPTS[2], tokens=64)))
        other = asyncio.create_task(backend.complete(request(PROMPTS[0])))
        await asyncio.sleep(0)
        doomed.cancel()
        assert (await other).text
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert (await backend.complete(request(PROMPTS[1]))).text

    play(make, scene)


def test_an_endless_trace_is_force_closed_and_answered(
    make_rambling: Callable[[], Backend],
) -> None:
    async def scene(backend: Backend) -> None:
        subject = await backend.start(lambda phrase, share: None)
        model = Model(
            name="target",
            backend=backend,
            subject=subject,
            format=choose_format(BUILTIN_FAMILIES, backend.template()),
            complete=backend.complete,
            identity="x",
        )
        plan = Plan(
            key="00" * 16,
            seed=7,
            messages=turns(PROMPTS[2]),
            sampling=msgspec.structs.replace(GREEDY, answer_tokens=8),
            thinking=Thinking(mode="forced", budget=6),
        )
        rollout = await roll_out(model, plan)
        assert rollout.thought
        assert rollout.closed_by == "budget", rollout
        assert rollout.answer is not None
        assert "</think>" not in rollout.trace + rollout.answer
        if rollout.trace_ids is not None:
            assert rollout.trace_tokens == 6

    play(make_rambling, scene)


RAW = "The names of three colours are:"


def raw(*pieces: str | tuple[int, ...], tokens: int = 12) -> CompletionRequest:
    return CompletionRequest(
        messages=(), prefix=pieces, limits=Limits(thinking=0, answer=tokens), sampling=GREEDY
    )


def test_a_raw_prompt_is_continued_and_is_as_long_as_it_says(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        assert backend.capabilities.raw, "every backend here takes raw prompts"
        done = await backend.complete(raw(RAW))
        assert done.text
        assert (await backend.complete(raw(RAW))).text == done.text
        assert not done.notes
        start, length = backend.prompt_tokens((), {}), backend.text_tokens(RAW)
        if start is not None and length is not None:
            assert start in (0, 1)
            assert done.prompt_tokens == start + length
        if done.ids is not None:
            rest = await backend.complete(raw(RAW, done.ids[:3], tokens=9))
            assert (*done.ids[:3], *(rest.ids or ())) == done.ids

    play(make, scene)


@pytest.mark.parametrize("asked", ["chat", "raw"])
def test_the_choice_that_a_greedy_answer_begins_with_is_the_most_probable(
    make: Callable[[], Backend], asked: str
) -> None:
    question = {"messages": turns(PROMPTS[3])} if asked == "chat" else {"prefix": (RAW,)}

    async def scene(backend: Backend) -> None:
        assert backend.capabilities.choices, "every backend here can be asked"
        said = raw(RAW, tokens=1) if asked == "raw" else request(PROMPTS[3], tokens=1)
        begun = (await backend.complete(said)).text
        choices = (begun, "~", "=")
        found = await backend.choose(ChoiceRequest(**question, choices=choices))
        assert found.logprobs.keys() <= set(choices)
        assert (found.floor is None) == (len(found.logprobs) == 3)
        assert all(value <= 0 for value in found.logprobs.values())
        assert sum(math.exp(value) for value in found.logprobs.values()) <= 1 + 1e-6
        assert max(found.logprobs, key=found.logprobs.__getitem__) == begun
        again = await backend.choose(ChoiceRequest(**question, choices=choices[::-1]))
        assert again.logprobs == pytest.approx(found.logprobs, abs=1e-5)

    play(make, scene)


def test_choices_that_begin_alike_fail_and_harm_no_other(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        def asked(*choices: str) -> ChoiceRequest:
            return ChoiceRequest(messages=turns(PROMPTS[1]), choices=choices)

        alike, whole = await asyncio.gather(
            backend.choose(asked("yes", "yes, please")),
            backend.choose(asked("yes", "no")),
            return_exceptions=True,
        )
        assert isinstance(alike, RequestFailed)
        assert "'yes', 'yes, please'" in alike.message
        assert not isinstance(whole, BaseException)

    play(make, scene)


def test_a_question_that_does_not_fit_says_that_it_is_too_long(
    make: Callable[[], Backend],
) -> None:
    async def scene(backend: Backend) -> None:
        length = backend.context_length
        if length is None:
            return
        long = "word " * length
        for work in (
            backend.choose(ChoiceRequest(prefix=(long,), choices=("yes", "no"))),
            backend.choose(ChoiceRequest(messages=turns(long), choices=("yes", "no"))),
            backend.complete(raw(long)),
        ):
            with pytest.raises(RequestFailed) as caught:
                await work
            assert caught.value.kind == "overlong"

    play(make, scene)


def test_what_it_cannot_do_is_refused_and_what_it_can_is_sound(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        scoring = ScoringRequest(messages=turns(PROMPTS[1]), continuation=" four")
        if backend.capabilities.logprobs:
            scored = await backend.loglikelihood(scoring)
            assert scored.total <= 0
            assert scored.tokens > 0
        else:
            with pytest.raises(CapabilityMissing):
                await backend.loglikelihood(scoring)
        wanted = HiddenStatesRequest(messages=turns(PROMPTS[1]), positions=(0, -1), layers=(0, -1))
        if backend.capabilities.hidden_states:
            states = await backend.hidden_states(wanted)
            assert states.shape[:2] == (2, 2)
            assert str(states.dtype) == "float32"
        else:
            with pytest.raises(CapabilityMissing):
                await backend.hidden_states(wanted)

    play(make, scene)


def test_the_ids_of_a_prompt_are_as_many_as_it_says_and_differ_with_it(
    make: Callable[[], Backend],
) -> None:
    async def scene(backend: Backend) -> None:
        found = [backend.prompt_ids(turns(prompt), {}) for prompt in PROMPTS]
        if not backend.capabilities.token_ids:
            assert found == [None] * len(PROMPTS)
            return
        for prompt, ids in zip(PROMPTS, found, strict=True):
            assert ids is not None
            assert len(ids) == backend.prompt_tokens(turns(prompt), {})
            assert (await backend.complete(request(prompt))).prompt_tokens == len(ids)
            assert prompt in backend.decode(ids)
        assert len(set(found)) == len(PROMPTS)

    play(make, scene)


def test_spans_are_means_of_positions_and_stand_behind_them(make: Callable[[], Backend]) -> None:
    async def scene(backend: Backend) -> None:
        if not backend.capabilities.hidden_states:
            return
        ids = backend.prompt_ids(turns(PROMPTS[1]), {})
        assert ids is not None
        size = len(ids)

        def read(**more: Any) -> HiddenStatesRequest:
            return HiddenStatesRequest(messages=turns(PROMPTS[1]), layers=(0, -1), **more)

        every = await backend.hidden_states(read(positions=tuple(range(size))))
        assert (every[-1] == (await backend.hidden_states(read(positions=(-1,))))[0]).all()
        found = await backend.hidden_states(
            read(positions=(2,), spans=((0, size), (3, 4), (-3, -1)))
        )
        assert str(found.dtype) == "float32"
        wanted = [every[2], every.mean(axis=0), every[3], every[size - 3 : size - 1].mean(axis=0)]
        np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-4)
        for wrong in ({"spans": ((4, 4),)}, {"spans": ((0, size + 1),)}, {"positions": (size,)}):
            with pytest.raises(RequestFailed) as caught:
                await backend.hidden_states(read(**wrong))
            assert caught.value.kind == "malformed"

    play(make, scene)


def test_no_format_is_the_default_of_a_request() -> None:
    assert request("x").format is NO_FORMAT
