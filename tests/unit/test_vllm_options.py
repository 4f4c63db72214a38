"""The vLLM backend's options and environment, without vLLM."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tseval.errors import BackendError, ConfigError
from tseval.models import _vllm_load as loading
from tseval.models._vllm_options import OPTIONS, engine_arguments, read_options
from tseval.models._vllm_requests import attempt_seed, sampling_fields
from tseval.models.hf.load import Named
from tseval.models.hf.source import Source
from tseval.models.vllm import VllmBackend
from tseval.plugins import load_registry
from tseval.requests import ModelSpec
from tseval.types import Sampling

DEFAULTS: dict[str, object] = {
    "tensor_parallel_size": 1,
    "gpu_memory_utilization": 0.9,
    "dtype": "auto",
    "attention_backend": "auto",
    "speculative_config": None,
    "quantization": None,
    "enforce_eager": False,
    "max_model_len": None,
}


def test_values_are_read_as_what_the_engine_takes() -> None:
    given = {
        "tensor_parallel_size": "2",
        "gpu_memory_utilization": "0.5",
        "dtype": "bf16",
        "attention_backend": "7",
        "speculative_config": '{"method": "ngram"}',
        "quantization": "fp8",
        "enforce_eager": "True",
        "max_model_len": "none",
    }
    assert engine_arguments(given, DEFAULTS) == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "dtype": "bfloat16",
        "attention_backend": "7",
        "speculative_config": {"method": "ngram"},
        "quantization": "fp8",
        "enforce_eager": True,
        "max_model_len": None,
    }


def test_a_misspelt_argument_suggests_near_ones() -> None:
    with pytest.raises(ConfigError, match="no argument 'tensor_paralel'") as caught:
        engine_arguments({"tensor_paralel": "2"}, DEFAULTS)
    assert caught.value.hint == "did you mean -M tensor_parallel_size?"
    with pytest.raises(ConfigError) as caught:
        engine_arguments({"max_outstandig": "2"}, DEFAULTS)
    assert "max_outstanding" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        engine_arguments({"xyzzy": "2"}, DEFAULTS)
    assert "documentation" in caught.value.hint


def test_broken_json_is_said_and_not_passed_on_as_text() -> None:
    with pytest.raises(ConfigError, match="broken JSON") as caught:
        engine_arguments({"speculative_config": '{"method": }'}, DEFAULTS)
    assert "quote it" in caught.value.hint


def test_hyphens_and_own_options_are_understood() -> None:
    options = read_options(
        {"tensor-parallel-size": "2", "sleep": "on", "max_outstanding": "9", "format": "none"}
    )
    assert options.engine == {"tensor_parallel_size": "2"}
    assert options.sleep
    assert options.max_outstanding == 9
    assert not read_options({}).sleep


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"model": "x"}, "-M model is set by the vllm backend itself", "the model string"),
        ({"logprobs-mode": "raw_logits"}, "-M logprobs_mode is set", "raw_logprobs"),
        ({"enable_lora": "true"}, "-M enable_lora is set", "':ADAPTER'"),
        ({"sleep": "2"}, "-M sleep=2 is neither on nor off", "host memory"),
        ({"max_outstanding": "-1"}, "-M max_outstanding=-1 is no count", "requests"),
    ],
)
def test_what_is_not_the_users_to_set_is_refused(
    given: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        VllmBackend(ModelSpec(backend="vllm", name="x", options=given))
    assert hint in caught.value.hint


def test_what_makes_another_model_of_the_files_is_part_of_the_identity() -> None:
    options = read_options({"quantization": "fp8", "max_num_seqs": "4", "dtype": "bf16"})
    assert options.changes == {"engine/quantization": "fp8"}
    assert read_options({}).changes == {}


def test_waiting_requests_are_twice_a_batch_unless_told_otherwise() -> None:
    assert VllmBackend(ModelSpec(backend="vllm", name="x")).max_outstanding == 512
    told = ModelSpec(backend="vllm", name="x", options={"max_outstanding": "3"})
    assert VllmBackend(told).max_outstanding == 3


def test_devices_are_named_before_anything_is_loaded() -> None:
    assert loading.asks_for({"tensor_parallel_size": "2", "pipeline_parallel_size": "2"}) == 4
    assert loading.asks_for({"tensor_parallel_size": "two"}) == 1
    assert loading.devices(2, is_cpu=False) == ("cuda:0", "cuda:1")
    assert loading.devices(2, is_cpu=True) == ("cpu",)


def test_the_backend_is_registered_with_its_options() -> None:
    factory = load_registry().backends["vllm"]
    assert factory.needs_model
    assert factory.options == OPTIONS
    assert factory.capabilities.choices
    assert not factory.capabilities.hidden_states


def test_without_vllm_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="vLLM is not installed") as caught:
        loading._import_vllm()
    assert "tseval[vllm]" in caught.value.hint
    assert "run-on-vllm.md" in caught.value.hint


def test_a_vllm_that_cannot_be_imported_is_no_missing_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtorch.so: undefined symbol")

    monkeypatch.setattr(loading, "find_spec", lambda name: importlib.util.find_spec("json"))
    monkeypatch.setattr(loading, "import_module", broken)
    with pytest.raises(BackendError, match="undefined symbol"):
        loading._import_vllm()


def test_nothing_is_reported_to_anybody_and_what_the_user_set_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ |= {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_NO_USAGE_STATS": "0"}
    loading.prepare_environment()
    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["VLLM_DO_NOT_TRACK"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
    assert int(os.environ["VLLM_CPU_KVCACHE_SPACE"]) >= 1


def test_a_greedy_row_sends_no_seed_and_a_drawn_one_its_own() -> None:
    drawn = Sampling(temperature=0.7, top_p=0.9, top_k=20)
    common = {"tokens": 5, "stop_ids": frozenset({9, 2}), "never": {7}}
    sent = sampling_fields(drawn, seed=(1 << 63) + 5, **common)
    assert sent["seed"] == 5
    assert (sent["temperature"], sent["top_p"], sent["top_k"]) == (0.7, 0.9, 20)
    assert sent["max_tokens"] == 5
    assert sent["stop_token_ids"] == [2, 9]
    assert sent["ignore_eos"], "ends of turns are watched outside"
    assert sent["logit_bias"][7] < -1e6
    greedy = sampling_fields(Sampling(temperature=0.0, top_p=1.0), seed=5, **common)
    assert greedy["seed"] is None
    without = sampling_fields(drawn, seed=None, **common)
    assert without["seed"] is None
    assert without["top_p"] == 0.9, "the seed is dropped, never top_p"


def test_a_further_request_of_a_completion_does_not_repeat_the_draws_of_the_first() -> None:
    assert attempt_seed(5, 0) == 5
    further = {attempt_seed(5, n) for n in range(50)} | {attempt_seed(6, n) for n in range(50)}
    assert len(further) == 100
    assert all(0 <= seed < 1 << 63 for seed in further)


def adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


def found(spec: ModelSpec) -> Named:
    return loading.find(spec, lambda phrase, share: None)


def test_demo_is_the_embedded_model_also_below_an_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    identity = {"model": "the demo"}
    demo = Named("demo", Source(place=str(base)), identity=identity)
    monkeypatch.setattr(loading, "demo_model", lambda report: demo)
    monkeypatch.chdir(tmp_path)
    assert found(ModelSpec(backend="vllm", name="demo")) == demo
    tuned = adapter(tmp_path / "tuned", r=4)
    named = found(ModelSpec(backend="vllm", name="demo", adapter=str(tuned)))
    assert named.name == "demo:tuned"
    assert named.identity == identity
    assert named.adapter == Source(place=str(tuned))
    # A folder of that name is what its owner means.
    adapter(tmp_path / "demo", base_model_name_or_path=str(base))
    assert found(ModelSpec(backend="vllm", name="demo")).base.place == str(base)


def test_a_gguf_file_is_sent_to_hf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(BackendError, match="does not load") as caught:
        found(ModelSpec(backend="vllm", name=str(tmp_path / "x.gguf")))
    assert "hf/" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "rank"),
    [({"r": 4}, 8), ({"r": 16}, 16), ({"r": 8, "rank_pattern": {"q_proj": 40}}, 64), ({}, 8)],
)
def test_an_adapter_gets_the_room_that_its_rank_needs(
    config: dict[str, Any], rank: int, tmp_path: Path
) -> None:
    source = Source(place=str(adapter(tmp_path, **config)))
    arguments = loading._lora_arguments(source, vocabulary(100), sizes(100))
    assert arguments == {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


@pytest.mark.parametrize(
    ("config", "tokens", "message"),
    [
        ({"peft_type": "LOHA"}, 100, "of type 'LOHA', expected 'LORA'"),
        ({"r": 1024}, 100, "has rank 1024, vLLM takes 512 at most"),
        ({"r": 8}, 101, "adds tokens"),
    ],
)
def test_an_adapter_that_vllm_cannot_load_is_said_before_it_starts(
    config: dict[str, Any], tokens: int, message: str, tmp_path: Path
) -> None:
    source = Source(place=str(adapter(tmp_path, **config)))
    with pytest.raises(BackendError, match=message) as caught:
        loading._lora_arguments(source, vocabulary(tokens), sizes(100))
    assert "merge it into its base" in caught.value.hint


def vocabulary(size: int) -> Any:
    return SimpleNamespace(tokenizer=range(size))


def sizes(size: int) -> Any:
    return SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=size))


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (ValueError("needs trust_remote_code=True"), "code of its own", "trust_remote_code=true"),
        (ValueError("KV cache is too small"), "KV cache is too small", "shorter -M max_model_len"),
        (ValueError("Architectures ['X'] are not supported"), "not supported", "the hf backend"),
        (RuntimeError("Engine core\ninitialization failed"), "core initialization", "stand above"),
    ],
)
def test_an_engine_that_does_not_start_says_why_in_a_line(
    error: Exception, said: str, hint: str
) -> None:
    made = loading._cannot_load(Named("toy", Source(place="x")), error)
    assert made.message.startswith("vLLM cannot load 'toy': ")
    assert said in made.message
    assert hint in made.hint


def test_files_of_the_hub_are_pinned_and_cached_ones_named_by_their_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def download(name: str, **arguments: Any) -> str:
        asked.append((name, arguments))
        return "/cache/org/name"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    online = Source(place="org/name", commit="c0ffee")
    assert loading._files(online) == {
        "model": "org/name",
        "revision": "c0ffee",
        "code_revision": "c0ffee",
    }
    assert loading._files(Source(place="/folder"))["revision"] is None
    assert asked == []
    cached = Source(place="org/name", commit="c0ffee", cached=True)
    assert loading._files(cached) == {"model": "/cache/org/name"}
    assert asked == [("org/name", {"revision": "c0ffee", "local_files_only": True})]


def test_what_starts_under_blocked_interrupts_outlives_a_ctrl_c() -> None:
    script = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"

    def is_blocked() -> str:
        command = [sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with loading.interrupts_blocked():
        assert is_blocked() == "True"
    assert is_blocked() == "False"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
