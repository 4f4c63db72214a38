"""lm-eval's tasks as benchmarks, through the whole pipeline on scripted models."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import lm_eval_toys as toys
from tests.support.sessions import SPEC, finish, session_on
from tseval.errors import CapabilityMissing, ConfigError, DataError, RequestFailed, TsevalError
from tseval.lm_eval_tasks import find_benchmark
from tseval.lm_eval_tasks.export import results_file
from tseval.readback import stored_rows
from tseval.roles import Capabilities
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Score, Thinking

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def spec(name: str, **more: Any) -> RunSpec:
    from msgspec.structs import replace

    return replace(SPEC, benchmarks=(name,), **more)


@asynccontextmanager
async def opened(
    folder: Path, backend: ScriptedBackend, run: RunSpec, workers: Any = None
) -> AsyncIterator[Session]:
    async with session_on(folder, backend, spec=run) as session:
        session._workers = workers or toys.InProcess()
        yield session


def measure(
    folder: Path, backend: ScriptedBackend, name: str, workers: Any = None, **more: Any
) -> list[Score]:
    """Run one benchmark in a session of its own."""

    async def work() -> list[Score]:
        benchmark = find_benchmark(name)
        assert benchmark is not None
        async with opened(folder, backend, spec(name, **more), workers) as session:
            return await benchmark.run(session)

    return finish(work(), seconds=120)


def scripted(script: Any, **more: Any) -> ScriptedBackend:
    return ScriptedBackend(script, view=toys.VIEW, **more)


def kept(folder: Path, name: str) -> dict[str, Any]:
    """What lm-eval's scorer returned, as the run's folder keeps it."""

    async def work() -> Path:
        async with opened(folder, scripted(toys.add), spec(name)) as session:
            return results_file(session, name)

    return json.loads(finish(work()).read_text())


def by_metric(scores: list[Score]) -> dict[str, Score]:
    return {
        f"{score.group}:{score.metric}" if score.group else score.metric: score for score in scores
    }


def test_a_model_that_knows_every_answer_scores_one(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    scores = by_metric(measure(tmp_path / "run", scripted(toys.add), name))
    assert set(scores) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    for score in scores.values():
        assert score.estimate is not None
        assert score.estimate.value == 1.0
        assert score.estimate.method == "exact"
        assert (score.n, score.n_prompts, score.excluded) == (12, 12, {})
        assert score.outcomes == {"correct": 12}
        assert score.higher_is_better
        assert score.truncated_share == 0.0


def test_a_model_that_knows_no_answer_scores_zero(tmp_path: Path) -> None:
    name = toys.sums_task(tmp_path)
    for score in measure(tmp_path / "run", scripted(toys.add_wrongly), name):
        assert score.estimate is not None
        assert score.estimate.value == 0.0
        assert score.outcomes == {"wrong": 12}
