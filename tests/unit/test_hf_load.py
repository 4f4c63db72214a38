"""What a model string finds, how it is identified, and how a wrong one is refused."""

import asyncio
import importlib
import json
import os
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.tiny_models import save_tiny
from tseval.errors import BackendError, ConfigError, RequestFailed
from tseval.models.hf import HfBackend
from tseval.models.hf.batches import BatchLimits
from tseval.models.hf.engine import Engine
from tseval.models.hf.identity import cache_folder, source_identity
from tseval.models.hf.load import resolve
from tseval.models.hf.options import likely_device, read_options
from tseval.models.hf.source import Source, locate
from tseval.models.hf.worker import Worker
from tseval.requests import (
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    ScoringRequest,
    Subject,
)
from tseval.thinking import Limits
from tseval.types import Message, Sampling


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tiny") / "llama")


def spec(name: str, **more: str) -> ModelSpec:
    return ModelSpec(backend="hf", name=name, options=more)


def ask(prompt: str, tokens: int = 8) -> CompletionRequest:
    return CompletionRequest(
        messages=(Message(role="user", content=prompt),),
        limits=Limits(thinking=0, answer=tokens),
        sampling=Sampling(temperature=0.0, top_p=1.0),
    )


def with_model(model: ModelSpec, scene: Callable[[HfBackend, Subject], Awaitable[None]]) -> None:
    async def whole() -> None:
        backend = HfBackend(model)
        subject = await backend.start(lambda phrase, share: None)
        try:
            await asyncio.wait_for(scene(backend, subject), 600)
        finally:
            await backend.close()

    asyncio.run(whole())


def test_options_are_read_as_what_they_are() -> None:
    options = read_options("hf", {"deterministic": "true", "batch_tokens": "4096", "dtype": "fp32"})
    assert (options.deterministic, options.batch_tokens, options.dtype) == (True, 4096, "float32")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtyp": "bf16"}, "no option 'dtyp'.*\n.*did you mean -M dtype"),
        ({"dtype": "int8"}, "-M dtype=int8 is no value"),
        ({"batch_tokens": "many"}, "-M batch_tokens=many is no value"),
        ({"threads": "-1"}, "-M threads=-1 is negative"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_options("hf", given)


def test_deterministic_takes_no_other_dtype() -> None:
    with pytest.raises(ConfigError, match="computes in float32"):
        read_options("hf", {"deterministic": "true", "dtype": "bfloat16"})


def test_the_device_is_guessed_before_torch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert likely_device("cuda") == "cuda:0"
    assert likely_device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert likely_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere/at/all", "no model at './nowhere/at/all': no such folder, and no hub id"),
        ("nobody/nothing", "'nobody/nothing' is not in the local cache, and the hub cannot"),
        ("nobody/nothing@v1", "'nobody/nothing' at revision 'v1' is not in the local cache"),
    ],
)
def test_a_model_that_is_nowhere_fails_at_once_and_names_the_ways_out(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(BackendError) as caught:
        locate(*name.split("@"))
    text = str(caught.value)
    assert said in text
    assert 2 <= len(text.splitlines()) <= 3
    assert "folder" in text
    # A hub that is asked again and again takes minutes; imports alone may take half of one.
    assert time.monotonic() - started < 60
    if "nobody" in name:
        assert "HF_TOKEN" in text


def test_a_revision_of_a_folder_and_a_file_that_is_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="has no revision 'v1'"):
        locate(str(tmp_path), "v1")
    (tmp_path / "model.bin").touch()
    with pytest.raises(BackendError, match=r"expected a folder, a .gguf file or a hub id"):
        locate(str(tmp_path / "model.bin"))
    with pytest.raises(BackendError, match=r"neither config.json nor adapter_config.json"):
        resolve(spec(str(tmp_path)))


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    found = locate(str(tmp_path / "x.gguf"))
    assert (found.folder, found.gguf) == (tmp_path, "x.gguf")


def test_an_adapter_folder_brings_its_base(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(folder), "peft_type": "LORA"}))
    named = resolve(spec(str(tmp_path)))
    assert named.base.folder == folder
    assert named.adapter is not None
    assert named.adapter.folder == tmp_path
    beside = resolve(ModelSpec(backend="hf", name=str(folder), adapter=str(tmp_path)))
    assert (beside.base, beside.adapter) == (named.base, named.adapter)
    assert beside.name == f"llama:{tmp_path.name}"
    config.write_text("{}")
    with pytest.raises(BackendError, match="names no base model"):
        resolve(spec(str(tmp_path)))


def test_without_peft_an_adapter_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"base_model_name_or_path": str(folder), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    # They look for it once and remember: what is imported later must not find it missing for good.
    for library in ("transformers.utils", "accelerate.utils"):
        importlib.import_module(library).is_peft_available()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BackendError, match=r"needs the package 'peft'\nhint: pip install"):
        with_model(spec(str(tmp_path)), None)  # type: ignore[arg-type]


def test_a_broken_folder_fails_in_a_few_lines(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(BackendError, match=f"cannot load '{tmp_path.name}'") as caught:
        with_model(spec(str(tmp_path)), None)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) <= 3


def test_a_device_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BackendError, match=r"no device 'cuda:9' \(CUDA devices: \d+\)"):
        with_model(spec(str(folder), device="cuda:9"), None)  # type: ignore[arg-type]


def test_identity_is_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    source = Source(place=str(folder))
    first = source_identity(source, told.append)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "README.md").write_text("not loaded")
    (copy / "training_args.bin").write_bytes(b"not loaded")
    assert source_identity(Source(place=str(copy)), told.append) == first
    (copy / "config.json").write_text("{}")
    changed = source_identity(Source(place=str(copy)), told.append)
    assert [name for name in first if first[name] != changed[name]] == ["config.json"]


def test_hashes_are_remembered_only_of_files_that_have_settled(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    memory = cache_folder() / "hashes.json"
    source = Source(place=str(tmp_path))
    source_identity(source, print)
    assert not memory.exists()
    old = time.time() - 60
    os.utime(weights, (old, old))
    before = source_identity(source, print)
    assert str(weights) in json.loads(memory.read_text())
    # Same size and time: taken from memory, which is what saves hashing gigabytes at each start.
    weights.write_bytes(b"two")
    os.utime(weights, (old, old))
    assert source_identity(source, print) == before
    os.utime(weights, (old + 1, old + 1))
    assert source_identity(source, print) != before


def test_start_says_what_it_runs_and_close_frees_it(folder: Path) -> None:
    async def scene(backend: HfBackend, subject: Subject) -> None:
        assert subject.name == "llama"
        assert subject.execution["dtype"] == "float32"
        assert {"tokenizer", "chat_template", "model.safetensors"} <= set(subject.identity)
        assert await backend.start(lambda phrase, share: None) == subject
        assert backend.context_length == 512
        first = await backend.complete(ask("one"))
        await backend.close()
        await backend.close()
        assert await backend.start(lambda phrase, share: None) == subject
        assert await backend.complete(ask("one")) == first

    with_model(spec(str(folder), deterministic="true"), scene)


def test_closing_fails_what_waits_instead_of_leaving_it(folder: Path) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        tasks = [asyncio.create_task(backend.complete(ask(str(n), 450))) for n in range(6)]
        await asyncio.sleep(0.2)
        await backend.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(each, RequestFailed) for each in ended)
        assert not any(isinstance(each, asyncio.CancelledError) for each in ended)

    with_model(spec(str(folder)), scene)


def test_what_does_not_fit_the_context_fails_as_overlong(folder: Path) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        for call in (
            backend.complete(ask("x" * 600)),
            backend.loglikelihood(ScoringRequest(messages=(), continuation="x" * 600)),
            backend.hidden_states(
                HiddenStatesRequest(messages=(), prefix=("x" * 600,), positions=(0,))
            ),
        ):
            with pytest.raises(RequestFailed, match="the context 512") as caught:
                await call
            assert caught.value.kind == "overlong"
        almost = await backend.complete(ask("x" * 440, 100))
        assert almost.finish == "length"
        assert almost.prompt_tokens + almost.tokens == 512

    with_model(spec(str(folder), dtype="float32"), scene)


def test_a_position_or_layer_that_is_not_there_is_named(folder: Path) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        for wanted, said in (
            ({"positions": (99,)}, "no position 99"),
            ({"positions": (0,), "layers": (-5,)}, "no layer -5 among 4"),
        ):
            request = HiddenStatesRequest(messages=(), prefix=("abc",), **wanted)
            with pytest.raises(RequestFailed, match=said):
                await backend.hidden_states(request)

    with_model(spec(str(folder)), scene)


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        alone = [await backend.complete(ask(str(n))) for n in range(6)]
        assert backend._loaded is not None
        model = backend._loaded.model
        generate, sizes = model.generate, []

        def scarce(**arguments: object) -> object:
            sizes.append(len(arguments["input_ids"]))  # type: ignore[arg-type]
            if sizes[-1] > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            return generate(**arguments)

        monkeypatch.setattr(model, "generate", scarce)
        prefixes = backend._at_work()._engine.prefixes
        capacity = prefixes.capacity
        assert prefixes.size_bytes > 0
        together = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(6)))
        assert list(together) == alone
        assert max(sizes) > 2
        assert prefixes.capacity <= capacity / 2

        def none_left(**arguments: object) -> object:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

        monkeypatch.setattr(model, "generate", none_left)
        with pytest.raises(RequestFailed, match=r"memory ran out(.|\n)*batch_tokens"):
            await backend.complete(ask("x"))
        assert prefixes.size_bytes == 0

    with_model(spec(str(folder), dtype="float32"), scene)


def test_a_request_that_could_have_what_others_left_is_tried_once_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        states = HiddenStatesRequest(messages=(), prefix=("ab",), positions=(0,))
        wanted = [await backend.complete(ask("x" * 60)), await backend.hidden_states(states)]
        assert backend._loaded is not None
        model, engine = backend._loaded.model, backend._at_work()._engine
        generate, forward, failed = model.generate, model.model.forward, []
        most = 1.5 * engine.prefixes.size_bytes

        async def crowd() -> None:
            for other in "yz":
                await backend.complete(ask(other * 60))
            assert engine.prefixes.size_bytes > most

        def scarce(call: Callable[..., object]) -> Callable[..., object]:
            def called(*given: object, **arguments: object) -> object:
                if engine.prefixes.size_bytes > most:
                    failed.append(call)
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                return call(*given, **arguments)

            return called

        await crowd()
        monkeypatch.setattr(model, "generate", scarce(generate))
        assert await backend.complete(ask("x" * 60)) == wanted[0]
        monkeypatch.setattr(model, "generate", generate)
        await crowd()
        monkeypatch.setattr(model.model, "forward", scarce(forward))
        assert (await backend.hidden_states(states) == wanted[1]).all()
        assert {generate, forward} <= set(failed)

    with_model(spec(str(folder), dtype="float32"), scene)


def test_what_failed_is_out_of_memory_before_it_is_tried_again_in_halves() -> None:
    class Large:
        """Stands for what a pass has allocated when it fails."""

    class Given:
        """A job that keeps what it is given."""

        work = None

        def give(self, result: object) -> None:
            results.append(result)

    left: list[weakref.ref[Large]] = []
    results: list[object] = []

    def call(model: object, works: list[object], pad_id: int) -> list[object]:
        assert all(each() is None for each in left), "what failed is still there"
        large = Large()
        left.append(weakref.ref(large))
        if len(works) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return ["done"]

    limits = BatchLimits(tokens=9, rows=9, step_tokens=1, pass_tokens=9, pass_cost=1)
    worker = Worker(Engine(None, None, 0), None, 0, limits, None)  # type: ignore[arg-type]
    worker._do_pass([Given() for _ in range(4)], call)  # type: ignore[misc]
    assert results == ["done"] * 4
    assert len(left) == 7


def test_a_request_that_breaks_the_model_harms_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        assert backend._loaded is not None
        model, text = backend._loaded.model, backend._loaded.text
        prompts = ["one", "two", "~", "three", "four"]
        alone = [await backend.complete(ask(prompt)) for prompt in prompts]
        states = HiddenStatesRequest(messages=(), prefix=("ab",), positions=(0,))
        generate, (poison,) = model.generate, text.piece("~")

        def fragile(**arguments: object) -> object:
            if (arguments["input_ids"] == poison).any():  # type: ignore[attr-defined]
                raise IndexError("index out of range in self")
            return generate(**arguments)

        monkeypatch.setattr(model, "generate", fragile)
        done = await asyncio.gather(
            *(backend.complete(ask(prompt)) for prompt in prompts),
            backend.hidden_states(states),
            return_exceptions=True,
        )
        failure = done[2]
        assert isinstance(failure, RequestFailed)
        assert "IndexError in the model: index out of range" in str(failure)
        assert [*done[:2], *done[3:5]] == [*alone[:2], *alone[3:]]
        assert done[5].shape == (1, 1, 32)  # type: ignore[union-attr]

    with_model(spec(str(folder), dtype="float32"), scene)


def test_a_bug_reaches_whoever_waits_and_the_next_request_is_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        assert backend._loaded is not None

        def buggy(**arguments: object) -> object:
            raise AttributeError("no such attribute")

        with monkeypatch.context() as patch:
            patch.setattr(backend._loaded.model, "generate", buggy)
            with pytest.raises(AttributeError, match="no such attribute"):
                await asyncio.wait_for(backend.complete(ask("x")), 300)
        assert (await asyncio.wait_for(backend.complete(ask("x")), 300)).tokens > 0

    with_model(spec(str(folder)), scene)


def test_a_fault_of_the_model_fails_its_rows_and_no_later_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(backend: HfBackend, _: Subject) -> None:
        assert backend._loaded is not None
        model = backend._loaded.model

        def broken(**arguments: object) -> object:
            raise RuntimeError("shapes do not match")

        with monkeypatch.context() as patch:
            patch.setattr(model, "generate", broken)
            with pytest.raises(RequestFailed, match="shapes do not match"):
                await backend.complete(ask("x"))
        assert (await backend.complete(ask("x"))).tokens > 0

    with_model(spec(str(folder)), scene)
