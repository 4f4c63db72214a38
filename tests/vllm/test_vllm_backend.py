"""vLLM on the demo model: what it draws, scores, chooses, stops and survives."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.vllm.conftest import Started, ask, quiet
from tseval.errors import BackendError, BackendUnavailable, ConfigError, RequestFailed
from tseval.formats import BUILTIN_FAMILIES, FORCED_TAGS, NO_FORMAT, choose_format
from tseval.models.vllm import VllmBackend
from tseval.requests import ChoiceRequest, ModelSpec, ScoringRequest
from tseval.thinking import Limits
from tseval.types import Sampling

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vllm

WARM = Sampling(temperature=0.9, top_p=0.95)
FRANCE = "What is the capital of France?"
STORY = "Tell a story about a fox."
LONG = "List these words in reverse order: " + ", ".join(f"word{n}" for n in range(160))
ENDLESS = {"banned": ("<|im_end|>",)}


def test_it_knows_its_template_and_answers_sensibly(exact: Started) -> None:
    view = exact.backend.template()
    assert choose_format(BUILTIN_FAMILIES, view) == NO_FORMAT
    done = exact.run(exact.backend.complete(ask(FRANCE, 24)))
    assert "Paris" in done.text
    assert "<|im_end|>" not in done.text
    assert done.finish == "stop"
    assert done.notes == ()
    assert done.prompt_tokens == exact.backend.prompt_tokens(ask(FRANCE).messages, {})
    assert done.ids is not None
    assert exact.backend.decode(done.ids) == done.text
    execution = exact.subject.execution
    assert execution["engine"].startswith("vllm ")
    assert execution["dtype"] == "float32"
    assert exact.backend.devices == ("cpu",)
    assert exact.backend.context_length == 2048


def test_equal_seeds_draw_equal_texts_also_with_top_p_and_beside_long_prompts(
    exact: Started,
) -> None:
    assert exact.backend.capabilities.seeds
    requests = [ask(STORY, 12, sampling=WARM, seed=seed) for seed in (1, 2, 3, 4)]
    alone = [exact.texts(request)[0] for request in requests]
    assert len(set(alone)) == 4, "K rollouts of a prompt are K draws"
    # Longer together than one step of the engine: prompts that wait for the next step, or are
    # read in parts, must neither end the engine nor move anybody's draws.
    longs = [ask(f"{n} {LONG}", 4, sampling=WARM, seed=n) for n in range(4)]
    together = exact.texts(*longs, *reversed(requests), *longs)
    assert together[4:8] == alone[::-1]
    assert together[:4] == together[8:]


def test_a_forced_trace_stops_at_its_budget_and_the_answer_at_its_limit(exact: Started) -> None:
    request = ask(
        STORY,
        prefix=("<think>\n",),
        format=FORCED_TAGS,
        opened=True,
        limits=Limits(thinking=9, answer=50),
        **ENDLESS,
    )
    trace = exact.run(exact.backend.complete(request))
    assert (trace.tokens, trace.finish) == (9, "length")
    closed = msgspec.structs.replace(
        request,
        prefix=("<think>\n", trace.ids or (), FORCED_TAGS.closer),
        format=NO_FORMAT,
        opened=False,
        limits=Limits(thinking=0, answer=5),
    )
    answer = exact.run(exact.backend.complete(closed))
    assert (answer.tokens, answer.finish) == (5, "length")
    assert answer.prompt_tokens == trace.prompt_tokens + 9 + (
        exact.backend.text_tokens(FORCED_TAGS.closer) or 0
    )
    unfinished = exact.backend._need().engine.output_processor.get_num_unfinished_requests()
    assert unfinished == 0


def test_a_banned_string_is_never_written_whatever_its_tokens(exact: Started) -> None:
    assert "Paris" in exact.texts(ask(FRANCE, 16))[0]
    for sampling in (ask(FRANCE).sampling, WARM):
        banned = ("Paris", "capital of", "s")
        held = exact.texts(ask(FRANCE, 16, banned=banned, sampling=sampling))[0]
        assert held
        assert not any(each in held for each in banned)
    ending = exact.run(exact.backend.complete(ask(FRANCE, 40, **ENDLESS)))
    assert (ending.tokens, ending.finish) == (40, "length")


def test_raw_prompts_get_no_template_and_begin_once(exact: Started) -> None:
    raw = ask("", 4, messages=(), prefix=("The capital of France is",))
    done = exact.run(exact.backend.complete(raw))
    assert "Paris" in done.text
    assert done.prompt_tokens == (exact.backend.prompt_tokens((), {}) or 0) + (
        exact.backend.text_tokens("The capital of France is") or 0
    )


def test_what_does_not_fit_is_overlong_and_fails_alone(exact: Started) -> None:
    async def scene() -> tuple[Any, ...]:
        huge = ask(STORY, prefix=((5,) * 2100,))
        scored = ScoringRequest(messages=(), continuation=(5,) * 2100)
        return tuple(
            await asyncio.gather(
                exact.backend.complete(huge),
                exact.backend.loglikelihood(scored),
                exact.backend.choose(ChoiceRequest(prefix=((5,) * 2100,), choices=("a", "b"))),
                exact.backend.complete(ask(FRANCE)),
                return_exceptions=True,
            )
        )

    *failed, fine = exact.run(scene())
    for each in failed:
        assert isinstance(each, RequestFailed)
        assert each.kind == "overlong"
    assert "Paris" in fine.text
    hot = ask(FRANCE, sampling=Sampling(temperature=9.0, top_p=1.0))
    with pytest.raises(RequestFailed, match="temperature"):
        exact.run(exact.backend.complete(hot))


def test_a_completion_ends_where_the_context_does(exact: Started) -> None:
    most = (exact.backend.context_length or 0) - 3
    done = exact.run(exact.backend.complete(ask("", 9, messages=(), prefix=((5,) * most,))))
    assert done.tokens <= 3
    assert done.tokens == 3 or done.finish == "stop"


def test_cancelled_requests_are_freed_in_the_engine(exact: Started) -> None:
    async def scene() -> float:
        backend = exact.backend
        processor = backend._need().engine.output_processor
        doomed = [
            asyncio.create_task(backend.complete(ask(f"{n} {STORY}", 4000, **ENDLESS)))
            for n in range(3)
        ]
        while backend.tokens_under_way < 30:
            await asyncio.sleep(0.05)
        assert processor.get_num_unfinished_requests() == 3
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        assert all(task.cancelled() for task in doomed)
        assert processor.get_num_unfinished_requests() == 0
        assert backend.tokens_under_way == 0
        started = time.monotonic()
        assert "Paris" in (await backend.complete(ask(FRANCE))).text
        return time.monotonic() - started

    assert exact.run(scene()) < 120


@pytest.fixture(scope="module")
def chunked(loop: asyncio.AbstractEventLoop, folder: "Path") -> Iterator[Started]:
    """An engine that reads long prompts in parts, and so takes no seeds on a CPU."""
    started = Started(
        loop,
        dtype="float32",
        enable_chunked_prefill="true",
        max_num_batched_tokens="256",
        max_num_seqs="8",
    )
    yield started
    started.end()


def test_where_an_engine_takes_no_seeds_it_says_so_and_draws_all_the_same(
    chunked: Started,
) -> None:
    assert not chunked.backend.capabilities.seeds
    assert "no seeds" in chunked.subject.execution["repeatable"]
    assert "enable_chunked_prefill=true" in chunked.subject.execution["engine_arguments"]
    assert chunked.backend.max_outstanding == 16
    # With their seeds these would end the engine: they are read in parts.
    requests = [ask(f"{n} {LONG}", 4, sampling=WARM, seed=n) for n in range(2)]
    requests += [ask(STORY, 12, sampling=WARM, seed=1) for _ in range(4)]

    async def together() -> list[Any]:
        return list(await asyncio.gather(*map(chunked.backend.complete, requests)))

    done = chunked.run(together())
    assert all(each.notes == ("unseeded",) for each in done)
    assert len({each.text for each in done[2:]}) > 1, "draws differ"
    assert chunked.run(chunked.backend.complete(ask(FRANCE))).notes == (), "greedy needs no seed"


def test_a_killed_engine_ends_the_run_and_another_can_be_started(chunked: Started) -> None:
    started = chunked
    backend = started.backend

    async def scene() -> None:
        long = asyncio.create_task(backend.complete(ask(STORY, 4000, **ENDLESS)))
        while backend.tokens_under_way < 10:
            await asyncio.sleep(0.05)
        (process,) = backend._need().engine.engine_core.resources.engine_manager.processes
        # Ctrl-C in a terminal reaches every process; the run alone decides when an engine ends.
        os.kill(process.pid, signal.SIGINT)
        before = backend.tokens_under_way
        while backend.tokens_under_way < before + 30:
            await asyncio.sleep(0.05)
            assert not long.done()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BackendUnavailable, match="engine died"):
            await asyncio.wait_for(long, 300)
        with pytest.raises(BackendUnavailable, match="engine died"):
            await backend.complete(ask(FRANCE))

    started.run(scene())
    subject = started.subject
    started.start()
    assert started.subject == subject
    assert "Paris" in started.texts(ask(FRANCE))[0]

    async def closing() -> float:
        long = asyncio.create_task(backend.complete(ask(STORY, 4000, **ENDLESS)))
        while backend.tokens_under_way < 10:
            await asyncio.sleep(0.05)
        began = time.monotonic()
        await backend.close()
        with pytest.raises(BackendError, match="unloaded"):
            await long
        return time.monotonic() - began

    assert started.run(closing()) < 120
    with pytest.raises(BackendUnavailable, match="is not loaded"):
        started.run(backend.complete(ask(FRANCE)))


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"max_num_seq": "4"}, "no argument 'max_num_seq'", "max_num_seqs"),
        ({"sleep": "on"}, "needs a CUDA device", "leave it out"),
        ({"max_model_len": "999999"}, "vLLM cannot load 'demo'", "shorter -M max_model_len"),
    ],
)
def test_what_the_engine_does_not_take_is_said_in_a_line(
    options: dict[str, str], message: str, hint: str, loop: asyncio.AbstractEventLoop
) -> None:
    backend = VllmBackend(ModelSpec(backend="vllm", name="demo", options=options))
    with pytest.raises((ConfigError, BackendError), match=message) as caught:
        loop.run_until_complete(backend.start(quiet))
    assert hint in caught.value.hint
