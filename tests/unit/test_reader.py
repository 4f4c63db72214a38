"""Hidden states of a model whose own backend shows none: read by the same model on another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.sessions import finish
from tseval.cards import ProbeCard
from tseval.errors import BackendUnavailable, ConfigError
from tseval.hookspecs import hookimpl
from tseval.models.vllm import register_backends as register_vllm
from tseval.plugins import Registry, load_registry
from tseval.requests import Capabilities, ModelSpec, Report, Subject
from tseval.roles import Backend, BackendFactory
from tseval.runner import Outcome, run
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Score

BLIND = Capabilities(prefix=True, token_ids=True, seeds=True)
PROMPTS = ("one", "two", "three")


class Probe:
    """Reads the first hidden state of some prompts, each behind a rollout of it."""

    def __init__(self, *needs: str) -> None:
        self.card = ProbeCard(
            name="look", title="Look", summary="looks", metrics=("look",), needs=needs
        )
        self.found: dict[str, np.ndarray] = {}
        self.read_by: list[ModelSpec] = []

    async def run(self, session: Session) -> list[Score]:
        session.require(*self.card.needs)

        async def one(prompt: str) -> None:
            await session.generate(prompt)
            if self.card.needs:
                self.found[prompt] = await session.hidden_states(prompt, positions=(0, -1))

        async for _, result in session.map(PROMPTS, one):
            assert result is None
        return []


class Shared(ScriptedBackend):
    """A model on a device that holds one at a time."""

    loaded: list["Shared"]

    async def start(self, report: Report) -> Subject:
        self.loaded.append(self)
        assert len(self.loaded) == 1, "two models on one device"
        return await super().start(report)

    async def close(self) -> None:
        if self in self.loaded:
            self.loaded.remove(self)
        await super().close()


class Plugin:
    """A backend that shows no hidden states, one that does, and a probe."""

    def __init__(self, probe: Probe, target: Backend, reader: Backend | None) -> None:
        self.probe, self.target, self.reader = probe, target, reader

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(self.probe)

    @hookimpl
    def register_backends(self, register: Any) -> None:
        def named(spec: ModelSpec) -> ModelSpec:
            return msgspec.structs.replace(spec, backend="seeing")

        def seeing(spec: ModelSpec) -> Backend:
            self.probe.read_by.append(spec)
            assert self.reader is not None
            return self.reader

        register(
            BackendFactory(
                name="blind",
                summary="shows nothing",
                capabilities=BLIND,
                create=lambda spec: self.target,
                reader=named if self.reader is not None else None,
            )
        )
        if self.reader is not None:
            register(
                BackendFactory(
                    name="seeing",
                    summary="shows all",
                    capabilities=Capabilities(hidden_states=True),
                    create=seeing,
                )
            )


class Shown:
    """A display that keeps remarks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def phase(self, phrase: str, share: float | None) -> None:
        pass

    def tick(self, session: Session) -> None:
        pass

    def remark(self, message: str) -> None:
        self.remarks.append(message)


def go(
    out: Path, probe: Probe, target: Backend, reader: Backend | None
) -> tuple[Outcome, list[str]]:
    registry: Registry = load_registry(extra=[Plugin(probe, target, reader)])
    spec = RunSpec(model=ModelSpec(backend="blind", name="m"), benchmarks=("look",))
    shown = Shown()
    return finish(run(spec, registry, shown, out=out)), shown.remarks


@pytest.fixture
def pair() -> Callable[..., tuple[Shared, Shared]]:
    def make(**more: Any) -> tuple[Shared, Shared]:
        loaded: list[Shared] = []
        target = Shared(name="m", capabilities=BLIND, devices=("shared:0",))
        reader = Shared(**{"name": "m", "devices": ("shared:0",), **more})
        target.loaded = reader.loaded = loaded
        return target, reader

    return make


def test_the_reader_takes_turns_with_the_target_and_reads_what_it_would(
    tmp_path: Path, pair: Callable[..., tuple[Shared, Shared]]
) -> None:
    probe = Probe("hidden_states")
    target, reader = pair()
    outcome, remarks = go(tmp_path / "run", probe, target, reader)
    assert outcome.exit_code == 0
    assert (target.calls, reader.calls) == (3, 3)
    assert (
        "hidden states are read by backend 'scripted' (scripted), since 'scripted' shows none"
        in (remarks)
    )
    leg = outcome.folder.manifest.legs[0]
    # The target is loaded first, and the reader when all rollouts are there.
    assert leg.swaps == 1
    assert leg.execution["reader/engine"] == "scripted"
    direct = Probe("hidden_states")
    go(tmp_path / "direct", direct, ScriptedBackend(name="m"), None)
    for prompt in PROMPTS:
        np.testing.assert_array_equal(probe.found[prompt], direct.found[prompt])
    # The journal answers the second time, whoever reads.
    again, seeing = Probe("hidden_states"), ScriptedBackend(name="m")
    go(tmp_path / "run", again, seeing, None)
    assert seeing.calls == 0
    assert again.found.keys() == probe.found.keys()


def test_the_reader_of_a_resumed_run_reads_in_the_precision_of_the_first(tmp_path: Path) -> None:
    class Precise(ScriptedBackend):
        dtype = "bfloat16"

        async def start(self, report: Report) -> Subject:
            subject = await super().start(report)
            return msgspec.structs.replace(subject, execution={"dtype": self.dtype})

    probe = Probe("hidden_states")
    for dtype in ("bfloat16", "float32"):
        target = ScriptedBackend(name="m", capabilities=BLIND)
        reader = Precise(name="m")
        # What it would take by itself: another device, another precision.
        reader.dtype = dtype
        go(tmp_path / "run", probe, target, reader)
    assert [each.options.get("dtype") for each in probe.read_by] == [None, "bfloat16"]


def test_another_model_is_no_reader_and_the_difference_is_named(
    tmp_path: Path, pair: Callable[..., tuple[Shared, Shared]]
) -> None:
    target, reader = pair(name="n")
    with pytest.raises(ConfigError, match=r"another model than the target \(name\)"):
        go(tmp_path / "run", Probe("hidden_states"), target, reader)
    assert not target.loaded


def test_without_a_backend_that_reads_the_benchmark_is_skipped_with_the_reason(
    tmp_path: Path,
) -> None:
    target = ScriptedBackend(name="m", capabilities=BLIND)
    outcome, remarks = go(tmp_path / "run", Probe("hidden_states"), target, None)
    assert outcome.exit_code == 5
    assert outcome.scorecard.skipped["look"].startswith(
        "backend 'scripted' lacks hidden_states\nhint: "
    )
    assert not any("hidden states" in remark for remark in remarks)


def test_a_reader_that_does_not_load_is_a_remark_and_the_benchmark_is_skipped(
    tmp_path: Path,
) -> None:
    class Unloadable(ScriptedBackend):
        async def start(self, report: Report) -> Subject:
            raise BackendUnavailable("memory ran out")

    target = ScriptedBackend(name="m", capabilities=BLIND)
    outcome, remarks = go(tmp_path / "run", Probe("hidden_states"), target, Unloadable(name="m"))
    assert outcome.exit_code == 5
    assert "no hidden states, since 'seeing' fails: memory ran out" in remarks


def test_nobody_is_started_to_read_what_nobody_asks_for(tmp_path: Path) -> None:
    target, reader = ScriptedBackend(name="m", capabilities=BLIND), ScriptedBackend(name="m")
    outcome, _ = go(tmp_path / "run", Probe(), target, reader)
    assert outcome.exit_code == 0
    assert reader.starts == 0
    seeing = ScriptedBackend(name="m")
    outcome, _ = go(tmp_path / "able", Probe("hidden_states"), seeing, reader)
    assert (outcome.exit_code, reader.starts) == (0, 0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            ModelSpec(backend="vllm", name="a/b", revision="r", adapter="c"),
            ModelSpec(backend="hf", name="a/b", revision="r", adapter="c"),
        ),
        (
            ModelSpec(
                backend="vllm",
                name="/m",
                options={"dtype": "bf16", "max_num_seqs": "4", "format": "none"},
            ),
            ModelSpec(backend="hf", name="/m", options={"dtype": "bf16", "format": "none"}),
        ),
        (
            ModelSpec(backend="vllm", name="demo", options={"dtype": "half"}),
            ModelSpec(backend="demo", options={"dtype": "float16"}),
        ),
    ],
)
def test_vllm_models_are_read_by_transformers(given: ModelSpec, wanted: ModelSpec) -> None:
    factories: list[BackendFactory] = []
    register_vllm(factories.append)
    assert factories[0].reader is not None
    assert factories[0].reader(given) == wanted
