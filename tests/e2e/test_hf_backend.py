"""The transformers backend on the real demo model: what it draws, scores, stops and loads."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from tests.support.sessions import AskingJudge, finish, session_on
from tests.support.signals import heed_interrupts
from tseval.errors import BackendError
from tseval.formats import BUILTIN_FAMILIES, FORCED_TAGS, NO_FORMAT, choose_format
from tseval.models.demo import TENSORS_SHA256, create, demo_folder, tensors_hash
from tseval.models.hf import HfBackend
from tseval.requests import (
    ChoiceRequest,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    Report,
    ScoringRequest,
    Subject,
)
from tseval.spec import RunSpec
from tseval.thinking import Limits
from tseval.types import Message, Sampling, Verdict

pytestmark = pytest.mark.model

T = TypeVar("T")
GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=0.9, top_p=0.95)
PROMPTS = (
    "What is the capital of France?",
    "Write a limerick. " * 30,
    "Hi",
    "Name three colours, then explain at some length why grass is green.",
    "Say no.",
    "List these words in reverse order: " + ", ".join(f"word{n}" for n in range(60)),
)


class Started:
    """A backend that is loaded, and the event loop that it serves."""

    def __init__(self, backend: HfBackend) -> None:
        self.backend = backend
        self.loop = asyncio.new_event_loop()
        self.subject = self.run(backend.start(lambda phrase, share: None))

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 600))

    def texts(self, *requests: CompletionRequest) -> list[str]:
        async def gather() -> list[str]:
            done = await asyncio.gather(*map(self.backend.complete, requests))
            return [each.text for each in done]

        return self.run(gather())

    def end(self) -> None:
        self.run(self.backend.close())
        self.loop.close()


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return demo_folder(lambda phrase, share: None)
    except BackendError as error:
        pytest.skip(f"no demo model: {error}")


@pytest.fixture(scope="module")
def exact(folder: Path) -> Iterator[Started]:
    started = Started(create(ModelSpec(backend="demo", options={"deterministic": "true"})))
    yield started
    started.end()


@pytest.fixture(scope="module")
def fast(folder: Path) -> Iterator[Started]:
    started = Started(HfBackend(ModelSpec(backend="hf", name=str(folder))))
    yield started
    started.end()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """The model as transformers loads it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ask(prompt: str, tokens: int = 16, **more: Any) -> CompletionRequest:
    return CompletionRequest(
        **{
            "messages": (Message(role="user", content=prompt),),
            "limits": Limits(thinking=0, answer=tokens),
            "sampling": GREEDY,
            **more,
        }
    )


def test_the_folder_holds_the_very_weights_and_tokens_of_the_wheel(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert tensors_hash(model) == TENSORS_SHA256
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = tokenizer.tokenize("in  1998 it was<|im_end|>")
    assert pieces == ["in", "ĠĠ", "1", "9", "9", "8", "Ġit", "Ġwas", "<|im_end|>"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_it_knows_its_template_and_answers_sensibly(fast: Started) -> None:
    view = fast.backend.template()
    assert "You are a helpful AI assistant named SmolLM" in view.rendered
    assert view.rendered.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert choose_format(BUILTIN_FAMILIES, view) == NO_FORMAT
    done = fast.run(fast.backend.complete(ask(PROMPTS[0], 24)))
    assert "Paris" in done.text
    assert "<|im_end|>" not in done.text
    assert done.finish == "stop"
    assert done.prompt_tokens == fast.backend.prompt_tokens(ask(PROMPTS[0]).messages, {})
    assert done.ids is not None
    assert fast.backend.decode(done.ids) == done.text


def test_concurrent_requests_get_the_text_they_get_alone(exact: Started, plain: Any) -> None:
    import torch

    requests = [ask(prompt, 12) for prompt in PROMPTS]
    alone = [exact.texts(request)[0] for request in requests]
    assert exact.texts(*reversed(requests)) == alone[::-1]
    text = exact.backend._need().text
    for request, said in zip(requests[:3], alone, strict=False):
        ids = torch.tensor([text.prompt(request.messages, {})])
        out = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        assert text.decode(out[0, ids.shape[1] :].tolist()).removesuffix("<|im_end|>") == said


def test_a_batch_in_float32_draws_what_a_single_row_draws(exact: Started, folder: Path) -> None:
    single = Started(
        HfBackend(ModelSpec(backend="hf", name=str(folder), options={"dtype": "fp32"}))
    )
    try:
        requests = [ask(p, 12, sampling=WARM, seed=n) for n, p in enumerate(PROMPTS)]
        assert single.texts(*requests) == exact.texts(*requests)
    finally:
        single.end()


def test_seeds_decide_and_nothing_else(exact: Started) -> None:
    texts = exact.texts(*(ask(PROMPTS[3], 10, sampling=WARM, seed=seed) for seed in (1, 2, 3, 1)))
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_a_forced_trace_stops_at_its_budget_and_the_answer_at_its_limit(fast: Started) -> None:
    request = ask(
        PROMPTS[3],
        prefix=("<think>\n",),
        format=FORCED_TAGS,
        opened=True,
        limits=Limits(thinking=9, answer=5),
    )
    trace = fast.run(fast.backend.complete(request))
    assert (trace.tokens, trace.finish) == (9, "length")
    closed = msgspec.structs.replace(
        request,
        prefix=("<think>\n", trace.ids or (), FORCED_TAGS.closer),
        format=NO_FORMAT,
        opened=False,
        limits=Limits(thinking=0, answer=5),
    )
    answer = fast.run(fast.backend.complete(closed))
    assert (answer.tokens, answer.finish) == (5, "length")
    assert answer.prompt_tokens == trace.prompt_tokens + 9 + (
        fast.backend.text_tokens(FORCED_TAGS.closer) or 0
    )


def test_a_banned_string_is_never_written_whatever_its_tokens(fast: Started) -> None:
    free = fast.texts(ask(PROMPTS[0], 16))[0]
    assert "Paris" in free
    for sampling in (GREEDY, WARM):
        held = fast.texts(ask(PROMPTS[0], 16, banned=("Paris", "capital of"), sampling=sampling))[0]
        assert held
        assert "Paris" not in held
        assert "capital of" not in held
    # The end of the turn is a token like any other: banned, the text goes on to its limit.
    ending = fast.run(fast.backend.complete(ask(PROMPTS[0], 40, banned=("<|im_end|>",))))
    assert (ending.tokens, ending.finish) == (40, "length")


def test_log_likelihoods_are_those_of_the_full_logits(exact: Started, plain: Any) -> None:
    import torch

    text = exact.backend._need().text
    messages = ask(PROMPTS[0]).messages
    scored = exact.run(
        exact.backend.loglikelihood(
            ScoringRequest(
                messages=messages, context=("The capital",), continuation=" of France is"
            )
        )
    )
    before = text.prompt(messages, {}, ("The capital",))
    after = text.piece(" of France is")
    with torch.inference_mode():
        shares = plain(input_ids=torch.tensor([before + after])).logits[0].log_softmax(dim=-1)
    total = sum(float(shares[len(before) - 1 + n, token]) for n, token in enumerate(after))
    assert scored.total == pytest.approx(total, abs=1e-3)
    assert scored.tokens == len(after)
    greedy = exact.run(exact.backend.complete(ask(PROMPTS[0], 4))).ids
    best = ScoringRequest(messages=messages, continuation=greedy or ())
    assert exact.run(exact.backend.loglikelihood(best)).greedy
    raw = ScoringRequest(messages=(), continuation="Paris")
    assert exact.run(exact.backend.loglikelihood(raw)).total < 0


def test_a_raw_prompt_that_spells_a_conversation_out_gets_its_answer(exact: Started) -> None:
    spelt = exact.backend._need().text.render(ask(PROMPTS[0]).messages, {})
    assert spelt.startswith("<|im_start|>")
    raw = ask(PROMPTS[0], 12, messages=(), prefix=(spelt,))
    done = exact.run(exact.backend.complete(raw))
    wanted = exact.run(exact.backend.complete(ask(PROMPTS[0], 12)))
    assert done == wanted
    # This tokenizer puts nothing before a text.
    assert exact.backend.prompt_tokens((), {}) == 0
    assert exact.backend.text_tokens(spelt) == done.prompt_tokens


def test_choices_have_the_shares_of_the_full_logits(exact: Started, plain: Any) -> None:
    import torch

    text = exact.backend._need().text
    choices = ("Paris", "London", " Paris")
    requests = [
        ChoiceRequest(messages=ask(PROMPTS[0]).messages, choices=choices),
        ChoiceRequest(prefix=("The capital of France is",), choices=choices),
        ChoiceRequest(messages=ask(PROMPTS[1]).messages, prefix=("Sure, ",), choices=choices),
    ]

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*map(exact.backend.choose, requests)))

    for request, found in zip(requests, exact.run(gather()), strict=True):
        ids = text.prompt(request.messages, {}, request.prefix)
        with torch.inference_mode():
            shares = plain(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        for choice in choices:
            token = text.piece(choice)[0]
            assert found.logprobs[choice] == pytest.approx(float(shares[token]), abs=1e-3)
        assert found.floor is None
    raw = exact.run(exact.backend.choose(requests[1])).logprobs
    assert max(raw, key=raw.__getitem__) == " Paris"


def test_hidden_states_are_those_of_the_full_output(exact: Started, plain: Any) -> None:
    import torch

    async def both() -> list[np.ndarray]:
        return list(
            await asyncio.gather(
                *(
                    exact.backend.hidden_states(
                        HiddenStatesRequest(
                            messages=ask(prompt).messages,
                            prefix=("<think>\n",),
                            positions=(0, 5, -1),
                            layers=(0, 7, -2, -1),
                        )
                    )
                    for prompt in PROMPTS[:2]
                )
            )
        )

    text = exact.backend._need().text
    for prompt, states in zip(PROMPTS, exact.run(both()), strict=False):
        ids = text.prompt(ask(prompt).messages, {}, ("<think>\n",))
        with torch.inference_mode():
            full = plain(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted = torch.stack([full[layer][0, [0, 5, -1]] for layer in (0, 7, -2, -1)], dim=1)
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_a_cancelled_request_frees_the_thread_and_harms_no_other(fast: Started) -> None:
    async def scene() -> tuple[float, str]:
        endless = {"banned": ("<|im_end|>",)}
        doomed = [
            asyncio.create_task(fast.backend.complete(ask(prompt, 4000, **endless)))
            for prompt in PROMPTS[:3]
        ]
        await asyncio.sleep(1.0)
        for task in doomed:
            task.cancel()
        started = time.monotonic()
        said = (await fast.backend.complete(ask(PROMPTS[0], 8))).text
        return time.monotonic() - started, said

    seconds, said = fast.run(scene())
    assert "capital" in said
    assert seconds < 60


def test_closing_stops_a_long_completion_and_start_loads_again(folder: Path) -> None:
    started = Started(HfBackend(ModelSpec(backend="hf", name=str(folder))))

    async def scene() -> float:
        long = asyncio.create_task(
            started.backend.complete(ask(PROMPTS[0], 4000, banned=("<|im_end|>",)))
        )
        await asyncio.sleep(1.0)
        began = time.monotonic()
        await started.backend.close()
        seconds = time.monotonic() - began
        with pytest.raises(BackendError, match="unloaded"):
            await long
        return seconds

    assert started.run(scene()) < 60
    assert started.run(started.backend.start(lambda phrase, share: None)) == started.subject
    assert "Paris" in started.texts(ask(PROMPTS[0], 16))[0]
    started.end()


def test_an_adapter_folder_is_a_model(folder: Path, tmp_path: Path, exact: Started) -> None:
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=256, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path)
    started = Started(
        HfBackend(ModelSpec(backend="hf", name=str(tmp_path), options={"deterministic": "true"}))
    )
    try:
        said = started.texts(ask(PROMPTS[0], 12))[0]
        names = set(started.subject.identity)
    finally:
        started.end()
    ids = torch.tensor([exact.backend._need().text.prompt(ask(PROMPTS[0]).messages, {})])
    out = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )
    wanted = exact.backend.decode(tuple(out[0, ids.shape[1] :].tolist()))
    assert said == wanted.removesuffix("<|im_end|>")
    assert said != exact.texts(ask(PROMPTS[0], 12))[0]
    assert {"base/model.safetensors", "adapter/adapter_model.safetensors"} <= names


INTERRUPTED = """
import asyncio
from tseval.models.demo import create
from tseval.requests import CompletionRequest, ModelSpec
from tseval.thinking import Limits
from tseval.types import Message, Sampling

async def main():
    backend = create(ModelSpec(backend="demo"))
    await backend.start(lambda phrase, share: None)
    request = CompletionRequest(
        messages=(Message(role="user", content="Count."),),
        limits=Limits(thinking=0, answer=8000),
        sampling=Sampling(temperature=0.0, top_p=1.0),
        banned=("<|im_end|>",),
    )
    task = asyncio.create_task(backend.complete(request))
    await asyncio.sleep(1)
    print("running", flush=True)
    await task

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_the_process_within_a_few_tokens(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_interrupts,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n", process.communicate()[1]
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=300)
        assert time.monotonic() - started < 60
        assert "KeyboardInterrupt" in errors
    finally:
        process.kill()


def test_target_and_judge_take_turns_on_a_device_by_unloading(folder: Path, tmp_path: Path) -> None:
    loaded: set[str] = set()
    most: list[int] = []

    class Shared(HfBackend):
        """The model as it is on an accelerator that holds one at a time."""

        def __init__(self, name: str) -> None:
            super().__init__(
                ModelSpec(backend="hf", name=str(folder), options={"dtype": "float32"})
            )
            self.name, self.devices = name, ("shared:0",)

        async def start(self, report: Report) -> Subject:
            subject = await super().start(report)
            self.devices = ("shared:0",)
            loaded.add(self.name)
            most.append(len(loaded))
            return subject

        async def close(self) -> None:
            await super().close()
            loaded.discard(self.name)

    async def run() -> tuple[list[Verdict], int]:
        judges = {"j": (AskingJudge(), Shared("judge"))}
        spec = RunSpec(
            model=ModelSpec(backend="hf"), benchmarks=(), sampling=Sampling(answer_tokens=6)
        )
        async with session_on(tmp_path, Shared("target"), judges, spec=spec) as session:

            async def one(prompt: str) -> Verdict:
                rollout = await session.generate(prompt)
                _, verdict = await session.judge("j", prompt, rollout.answer or "nothing")
                return verdict

            prompts = ["Name a colour.", "Name a fruit.", "Name a river.", "Name a bird."]
            found = [verdict async for _, verdict in session.map(prompts, one)]
            return found, session._scheduler.swaps

    verdicts, swaps = finish(run(), 240)
    assert [verdict.reason for verdict in verdicts] == ["ok"] * 4
    # All are answered, then the models change places once, then all are judged.
    assert swaps == 1
    assert most == [1, 1, 1]
