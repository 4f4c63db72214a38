"""vLLM against transformers: the same identity, and teacher-forced the same tokens and scores.

Free-running texts of two engines may part for good at the first near-tie, so they are not
compared. Every token that one engine chooses is put to the other behind the same beginning: there
its logit must be the largest but for rounding.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.conftest import GREEDY, Started, ask
from tseval.models.demo import create
from tseval.models.hf import HfBackend
from tseval.requests import ChoiceRequest, ModelSpec, ScoringRequest
from tseval.types import Message

pytestmark = pytest.mark.vllm

PROMPTS = (
    "What is the capital of France?",
    "Name three colours, then explain at some length why grass is green.",
    "Hi",
    "List these words in reverse order: " + ", ".join(f"word{n}" for n in range(60)),
    "Write a limerick. " * 30,
    "Schreibe einen Satz über den Regen. 請說你好。",
)
TOKENS = 32
# A difference of logits, in nats; what rounding can move in this precision.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(dtype: str, request: pytest.FixtureRequest, loop: Any) -> Iterator[Started]:
    if dtype == "float32":
        yield request.getfixturevalue("exact")
        return
    started = Started(loop, dtype=dtype)
    yield started
    started.end()


@pytest.fixture(scope="module")
def plain(dtype: str, folder: Path) -> Any:
    """The model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def prompts(started: Started) -> list[list[int]]:
    text = started.backend._need().text
    return [text.prompt((Message(role="user", content=each),), {}) for each in PROMPTS]


def test_each_token_that_vllm_chooses_is_a_best_one_to_transformers(
    engine: Started, plain: Any, dtype: str
) -> None:
    import torch

    async def together() -> list[Any]:
        return list(
            await asyncio.gather(*(engine.backend.complete(ask(p, TOKENS)) for p in PROMPTS))
        )

    worst = 0.0
    for before, done in zip(prompts(engine), engine.run(together()), strict=True):
        assert done.ids
        ids = [*before, *done.ids]
        with torch.inference_mode():
            logits = plain(input_ids=torch.tensor([ids])).logits[0, len(before) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(done.ids)[:, None])[:, 0]
        worst = max(worst, float((logits.amax(dim=1) - chosen).max()))
    print(f"\n{dtype}: worst gap of vLLM's tokens in transformers {worst:.2g}")
    assert worst <= TOLERANCE[dtype]


def test_each_token_that_transformers_chooses_is_a_best_one_to_vllm(
    engine: Started, plain: Any, dtype: str
) -> None:
    import torch

    async def gaps(ids: list[int], new: int) -> float:
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1, "detokenize": False}
        last = await engine.backend._at_work()._last(ids, params)
        rows = zip(last.prompt_logprobs[-new:], ids[-new:], strict=True)
        return max(max(each.logprob for each in row.values()) - row[at].logprob for row, at in rows)

    worst = 0.0
    for before in prompts(engine):
        given = torch.tensor([before])
        out = plain.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=2,
        )[0].tolist()
        worst = max(worst, engine.run(gaps(out, len(out) - len(before))))
    print(f"\n{dtype}: worst gap of transformers' tokens in vLLM {worst:.2g}")
    assert worst <= TOLERANCE[dtype]


def test_scores_and_choices_are_those_of_the_full_logits(exact: Started, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text, backend = exact.backend._need().text, exact.backend
    messages = ask(PROMPTS[0]).messages
    scored = exact.run(
        backend.loglikelihood(
            ScoringRequest(
                messages=messages, context=("The capital",), continuation=" of France is"
            )
        )
    )
    before, after = text.prompt(messages, {}, ("The capital",)), text.piece(" of France is")
    with torch.inference_mode():
        shares = plain(input_ids=torch.tensor([before + after])).logits[0].log_softmax(dim=-1)
    total = sum(float(shares[len(before) - 1 + n, token]) for n, token in enumerate(after))
    assert scored.total == pytest.approx(total, abs=1e-3)
    assert scored.tokens == len(after)
    greedy = exact.run(backend.complete(ask(PROMPTS[0], 4))).ids or ()
    best = ScoringRequest(messages=messages, continuation=greedy)
    assert exact.run(backend.loglikelihood(best)).greedy
    # One of them is so improbable that no list of top tokens would hold it.
    choices = ("The", "Yes", "<|im_start|>")
    chosen = exact.run(backend.choose(ChoiceRequest(messages=messages, choices=choices)))
    assert chosen.floor is None
    row = shares[len(text.prompt(messages, {})) - 1]
    for choice in choices:
        expected = float(row[text.piece(choice)[0]])
        assert chosen.logprobs[choice] == pytest.approx(expected, abs=2e-3)


def test_a_model_has_the_same_identity_on_both_engines(exact: Started, folder: Path) -> None:
    def identified(backend: Any) -> Any:
        subject = exact.run(backend.start(lambda phrase, share: None))
        exact.run(backend.close())
        return subject

    theirs = identified(create(ModelSpec(backend="demo")))
    assert exact.subject.identity == theirs.identity
    assert exact.subject.name == theirs.name == "demo"
    assert exact.subject.recommended == theirs.recommended
    assert exact.backend._need().stop_ids == {2}


def test_a_lora_adapter_acts_as_it_does_in_peft(
    exact: Started, folder: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(base, config)
    adapted.save_pretrained(tmp_path)
    hf = HfBackend(ModelSpec(backend="hf", name=str(tmp_path), options={"dtype": "float32"}))
    theirs = exact.run(hf.start(lambda phrase, share: None))
    exact.run(hf.close())
    started = Started(exact.loop, name=str(tmp_path), dtype="float32")
    try:
        done = started.run(started.backend.complete(ask(PROMPTS[0], 16)))
        assert started.subject.identity == theirs.identity
        assert started.subject.name == theirs.name
        text = started.backend._need().text
    finally:
        started.end()
    before = text.prompt(ask(PROMPTS[0]).messages, {})
    with torch.inference_mode():
        ids = torch.tensor([[*before, *(done.ids or ())]])
        logits = adapted(input_ids=ids).logits[0, len(before) - 1 : -1].float()
        plain = exact.run(exact.backend.complete(ask(PROMPTS[0], 16, sampling=GREEDY)))
    chosen = logits.gather(1, torch.tensor(done.ids)[:, None])[:, 0]
    assert float((logits.amax(dim=1) - chosen).max()) <= 1e-3
    assert done.ids != plain.ids, "the adapter changes what is said"
