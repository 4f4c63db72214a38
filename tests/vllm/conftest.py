"""The vLLM backend on the real engine and the real demo model; `make test-vllm` runs it.

Elsewhere nothing here is collected. The make target imports vLLM first, so that there a missing
one is a failure and no silence.
"""

import asyncio
import warnings
from collections.abc import Awaitable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tseval.models.demo import demo_folder
from tseval.models.vllm import VllmBackend
from tseval.requests import CompletionRequest, ModelSpec, Report
from tseval.thinking import Limits
from tseval.types import Message, Sampling

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

T = TypeVar("T")
GREEDY = Sampling(temperature=0.0, top_p=1.0)
# One worker's KV cache; several engines live at once.
_GIB = "1"


def quiet(phrase: str, share: float | None) -> None:
    """Hear what is reported while a model loads."""


class Started:
    """A backend that is started, and the event loop that it serves."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "demo", **options: str) -> None:
        self.loop = loop
        self.backend = VllmBackend(ModelSpec(backend="vllm", name=name, options=options))
        self.start()

    def start(self, report: Report = quiet) -> None:
        self.subject = self.run(self.backend.start(report))

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 600))

    def texts(self, *requests: CompletionRequest) -> list[str]:
        async def gather() -> list[str]:
            done = await asyncio.gather(*map(self.backend.complete, requests))
            return [each.text for each in done]

        return self.run(gather())

    def end(self) -> None:
        self.run(self.backend.close())


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """One loop's engines share two cores and little memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", _GIB)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


@pytest.fixture(scope="session")
def folder() -> Path:
    """The demo model's folder."""
    return demo_folder(quiet)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that every shared engine serves."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="session")
def exact(loop: asyncio.AbstractEventLoop, folder: Path) -> Iterator[Started]:
    """The demo model in float32, with a context that three long prompts fill."""
    started = Started(loop, dtype="float32", max_model_len="2048")
    yield started
    started.end()


def ask(prompt: str, tokens: int = 16, **more: Any) -> CompletionRequest:
    """A greedy request for so many tokens."""
    return CompletionRequest(
        **{
            "messages": (Message(role="user", content=prompt),),
            "limits": Limits(thinking=0, answer=tokens),
            "sampling": GREEDY,
            **more,
        }
    )
