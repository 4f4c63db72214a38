"""The tests of every backend's contract, on vLLM.

They are those of ``tests/contract``, with one engine for all of them: starting one takes longer
than any of the tests.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from tests.contract import test_backends_contract as contract
from tseval.models.vllm import VllmBackend
from tseval.requests import ModelSpec
from tseval.roles import Backend

if TYPE_CHECKING:
    from tests.vllm.conftest import Started

pytestmark = pytest.mark.vllm

globals().update({name: test for name, test in vars(contract).items() if name[:5] == "test_"})


@pytest.fixture(scope="module")
def make() -> Callable[[], Backend]:
    """Give a function that makes a backend: only what starts and closes one itself calls it."""
    return lambda: VllmBackend(ModelSpec(backend="vllm", name="demo", options={"dtype": "float32"}))


@pytest.fixture
def make_rambling(make: Callable[[], Backend]) -> Callable[[], Backend]:
    """The same: the demo model rambles on its own account."""
    return make


@pytest.fixture(autouse=True)
def play(monkeypatch: pytest.MonkeyPatch, exact: "Started") -> None:
    """Play every scene on the one engine."""

    def played(make: Callable[[], Backend], scene: Callable[[Backend], Awaitable[None]]) -> None:
        exact.loop.run_until_complete(asyncio.wait_for(scene(exact.backend), 900))

    monkeypatch.setattr(contract, "play", played)
