"""Entropies that the hf backend reports, and what saferemind makes of them, on tiny models."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch

from tests.support.tiny_models import save_tiny
from tseval.formats import FORCED_TAGS
from tseval.interventions import SafeRemind
from tseval.models.hf import HfBackend
from tseval.models.hf.entropies import top_entropy
from tseval.requests import Completion, CompletionRequest, ModelSpec
from tseval.thinking import Limits
from tseval.types import Message, Sampling
from tseval.wrapping import Inner

WARM = Sampling(temperature=0.7, top_p=0.9, top_k=30)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Waking a second thread takes longer than these models do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["llama", "stateful"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


def asked(number: int, *, top: int = 20, tokens: int = 40, **more) -> CompletionRequest:
    return CompletionRequest(
        messages=(Message(role="user", content=f"Say {'more ' * number}."),),
        limits=Limits(thinking=0, answer=tokens),
        sampling=WARM,
        seed=number,
        entropy_top=top,
        **more,
    )


def on(folder: Path, scene: Callable[[HfBackend], Awaitable[None]]) -> None:
    async def whole() -> None:
        backend = HfBackend(ModelSpec(backend="hf", name=str(folder), options={"dtype": "float32"}))
        await backend.start(lambda phrase, share: None)
        try:
            await scene(backend)
        finally:
            await backend.close()

    asyncio.run(whole())


def by_hand(backend: HfBackend, prompt: list[int], new: list[int], top: int) -> list[float]:
    """Entropies from one plain forward pass, over the largest of the whole softmax."""
    with torch.inference_mode():
        ids = torch.tensor([prompt + new])
        logits = backend._need().model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
    shares = logits.softmax(dim=-1).sort(descending=True).values[:, :top]
    return (-(shares * shares.log()).sum(dim=-1)).tolist()


def test_entropies_are_those_of_a_forward_pass_whatever_else_is_in_the_batch(folder: Path) -> None:
    async def scene(backend: HfBackend) -> None:
        assert backend.capabilities.entropies
        # Rows of several lengths and widths, some that do not ask, one under a ban.
        tops = (20, 0, 5, 20, 300)
        requests = [asked(n, top=top, tokens=10 + 9 * n) for n, top in enumerate(tops)]
        requests.append(asked(9, banned=("e",)))
        found = await asyncio.gather(*(backend.complete(each) for each in requests))
        for request, done in zip(requests, found, strict=True):
            if not request.entropy_top:
                assert done.entropies is None
                continue
            prompt = backend.prompt_ids(request.messages, {})
            wanted = by_hand(backend, list(prompt), list(done.ids), request.entropy_top)
            assert len(done.ids) > 1
            assert done.entropies == pytest.approx(wanted, abs=1e-3)

    on(folder, scene)


def test_asking_for_entropies_changes_no_draw(folder: Path) -> None:
    async def scene(backend: HfBackend) -> None:
        plain, watched = [
            await asyncio.gather(*(backend.complete(asked(n, top=top)) for n in range(4)))
            for top in (0, 20)
        ]
        assert [done.ids for done in plain] == [done.ids for done in watched]

    on(folder, scene)


def test_saferemind_triggers_where_a_forward_pass_says(folder: Path) -> None:
    reminder = SafeRemind(top=20, times=2, chunk=24, sds=1.0, reminder="\nIs it safe?\n")

    async def one(backend: HfBackend, seed: int) -> int:
        request = CompletionRequest(
            messages=(Message(role="user", content="Go on."),),
            prefix=(FORCED_TAGS.opener,),
            format=FORCED_TAGS,
            opened=True,
            limits=Limits(thinking=120, answer=20),
            sampling=Sampling(temperature=1.0, top_p=1.0),
            seed=seed,
        )
        done: Completion = await reminder.complete(request, Inner(backend))
        ids = list(done.ids)
        prompt = [*backend.prompt_ids(request.messages, {}), *backend.text_ids(FORCED_TAGS.opener)]
        entropies = by_hand(backend, prompt, ids, 20)
        written = {n for start, stop in done.injected for n in range(start, stop)}
        for start, stop in done.injected:
            assert backend.decode(tuple(ids[start:stop])) == "\nIs it safe?\n"
        # The rule again, token by token, over what the model drew.
        seen, triggers, resting = [], [], 0
        for place, value in enumerate(entropies):
            if place in written or len(triggers) == 2:
                continue
            before = seen[-10:]
            seen.append(value)
            whole = not backend.decode(tuple(ids[: place + 1])).endswith(("\ufffd", "<"))
            if resting:
                resting -= 1
            elif len(before) == 10 and value < fmean(before) - pstdev(before) and whole:
                triggers.append(place)
                resting = 10
        assert [place + 1 for place in triggers] == [start for start, _ in done.injected]
        return len(triggers)

    async def scene(backend: HfBackend) -> None:
        found = await asyncio.gather(*(one(backend, seed) for seed in range(4)))
        assert sum(found) >= 3

    on(folder, scene)


def test_an_impossible_token_adds_nothing_and_a_sure_one_leaves_zero() -> None:
    logits = torch.full((2, 50), -torch.inf)
    logits[0, 7] = 3.0
    logits[1, :4] = 0.0
    found = top_entropy(logits, 20)
    assert found.tolist() == pytest.approx([0.0, torch.tensor(4.0).log().item()], abs=1e-6)
