"""The benchmarks that probes take prompts from, checked before a model is loaded."""

from pathlib import Path

import pytest

from tests.support.sessions import registry
from tseval.cli.sources import check_sources, probes_of, unread_sources
from tseval.errors import ConfigError, UnknownName
from tseval.requests import ModelSpec
from tseval.spec import RunSpec


def spec(*benchmarks: str, **more: object) -> RunSpec:
    model = ModelSpec(backend="scripted", name="thinking")
    return RunSpec(model=model, benchmarks=benchmarks or ("valley",), **more)  # type: ignore[arg-type]


def test_benchmarks_of_the_right_kind_are_taken() -> None:
    wanted = spec(harmful_from=("quick_harmful", "harmbench"), benign_from=("quick_benign",))
    check_sources(wanted, registry())
    check_sources(spec(), registry())


def test_an_unknown_benchmark_and_one_without_such_prompts_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown benchmark 'nobody'"):
        check_sources(spec(benign_from=("nobody",)), registry())
    with pytest.raises(ConfigError, match=r"--benign-from quick_harmful: .* no benign prompts"):
        check_sources(spec(benign_from=("quick_harmful",)), registry())
    with pytest.raises(ConfigError, match=r"--harmful-from gsm8k: .* no harmful prompts"):
        check_sources(spec(harmful_from=("gsm8k",)), registry())


def test_prompts_that_cannot_be_read_are_named_once_with_the_probes_that_need_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    wanted = spec("valley", "first_token", scale="smoke", harmful_from=("fortress",))
    (said,) = unread_sources(wanted, registry())
    assert said.message.startswith("dataset 'ScaleAI/fortress_public'")
    assert said.hint
    assert probes_of(wanted, registry()) == ["valley", "first_token"]


def test_prompts_that_ship_with_tseval_are_read_and_runs_without_probes_read_none() -> None:
    assert list(unread_sources(spec(scale="smoke"), registry())) == []
    assert list(unread_sources(spec("quick_benign", scale="paper"), registry())) == []
