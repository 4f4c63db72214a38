"""Model strings, backend options, and the hash by which a run is found again."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields, replace

from tseval.errors import ConfigError
from tseval.requests import ModelSpec
from tseval.spec import RunSpec, parse_model, parse_options
from tseval.types import Sampling, Thinking

# Backends, and whether they need a model's name.
BACKENDS = {"demo": False, "hf": True, "openai": True, "vllm": True, "scripted": False}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whether a string is a path depends on the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("demo", "", "", "")),
        ("", ("demo", "", "", "")),
        ("demo", ("demo", "", "", "")),
        ("scripted", ("scripted", "", "", "")),
        ("scripted/thinking", ("scripted", "thinking", "", "")),
        ("hf/Qwen/Qwen3-8B", ("hf", "Qwen/Qwen3-8B", "", "")),
        ("Qwen/Qwen3-8B", ("hf", "Qwen/Qwen3-8B", "", "")),
        ("hf/gpt2", ("hf", "gpt2", "", "")),
        ("hf/Qwen/Qwen3-8B@main", ("hf", "Qwen/Qwen3-8B", "main", "")),
        ("Qwen/Qwen3-8B@v1.0", ("hf", "Qwen/Qwen3-8B", "v1.0", "")),
        ("vllm/org/base:org/adapter", ("vllm", "org/base", "", "org/adapter")),
        ("vllm/org/base@abc:org/adapter", ("vllm", "org/base", "abc", "org/adapter")),
        ("vllm/org/base:./lora", ("vllm", "org/base", "", "./lora")),
        ("openai/gpt-4o-mini", ("openai", "gpt-4o-mini", "", "")),
        ("openai/org/name", ("openai", "org/name", "", "")),
        # A server's backend puts name and adapter together again.
        ("openai/llama3:8b", ("openai", "llama3", "", "8b")),
    ],
)
def test_a_model_string_is_read(text: str | None, expected: tuple[str, ...]) -> None:
    model = parse_model(text, BACKENDS)
    assert (model.backend, model.name, model.revision, model.adapter) == expected


def test_a_path_is_a_model_of_hf_and_keeps_its_signs(tmp_path: Path) -> None:
    for name in ("folder", "a@b:c", "hf_models/qwen", "model.gguf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir()
        for text in (str(path), f"./{name}", name):
            model = parse_model(text, BACKENDS)
            assert (model.backend, model.revision, model.adapter) == ("hf", "", "")
            assert Path(model.name).resolve() == path
    assert parse_model("hf/a@b:c", BACKENDS).name == "a@b:c"
    assert parse_model(f"hf/{tmp_path}/folder", BACKENDS).name == f"{tmp_path}/folder"


def test_a_home_folder_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "home" / "model").mkdir(parents=True)
    assert parse_model("~/model", BACKENDS).name == str(tmp_path / "home" / "model")


def test_a_folder_called_like_a_backend_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "hf" / "gpt2").mkdir(parents=True)
    assert parse_model("demo", BACKENDS).backend == "demo"
    assert parse_model("hf/gpt2", BACKENDS) == ModelSpec(backend="hf", name="gpt2")
    assert parse_model("./demo", BACKENDS) == ModelSpec(backend="hf", name="demo")


def test_options_and_address_are_carried() -> None:
    options = {"dtype": "float32"}
    model = parse_model("openai/x", BACKENDS, base_url="http://localhost:1/v1", options=options)
    assert (model.base_url, model.options) == ("http://localhost:1/v1", options)
    assert parse_model(None, BACKENDS, options=options).options == options
    options["dtype"] = "changed"
    assert model.options == {"dtype": "float32"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("./nowhere", "no model at ./nowhere", "pass a folder, a GGUF file"),
        ("/no/where", "no model at /no/where", "pass a folder, a GGUF file"),
        ("lost.gguf", "no model at lost.gguf", "pass a folder, a GGUF file"),
        ("hf", "backend 'hf' needs a model", "for example hf/Qwen/Qwen3-0.6B"),
        ("vllm/", "backend 'vllm' needs a model", "for example vllm/Qwen/Qwen3-0.6B"),
        (
            "gpt2",
            "'gpt2' is neither a path, a hub id (org/name) nor a backend"
            " (demo, hf, openai, scripted, vllm)",
            "hf/gpt2 for a hub id without an organisation",
        ),
        ("dmeo", "'dmeo' is neither a path", "did you mean 'demo'?"),
    ],
)
def test_a_string_that_names_nothing_says_what_would(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_model(text, BACKENDS)
    assert error.value.message.startswith(message)
    assert hint in error.value.hint
    assert error.value.exit_code == 2


# -- options


@pytest.mark.parametrize(
    ("pairs", "options"),
    [
        ([], {}),
        (["dtype=float32"], {"dtype": "float32"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=1,b=2"], {"a": "1", "b": "2"}),
        ([" a = 1 , b=2"], {"a": "1", "b": "2"}),
        (["a=x=y"], {"a": "x=y"}),
        (["a="], {"a": ""}),
        (["a=1", "a=1"], {"a": "1"}),
        (['a={"x": 1, "y": [2, 3]}'], {"a": '{"x": 1, "y": [2, 3]}'}),
        (['a={"x": 1, "y": 2},b=[1,2],c=3'], {"a": '{"x": 1, "y": 2}', "b": "[1,2]", "c": "3"}),
        (['c=3,a={"x": "},"}'], {"c": "3", "a": '{"x": "},"}'}),
        (['a={"x": "\\",{"},b=1'], {"a": '{"x": "\\",{"}', "b": "1"}),
        (["script=module:function"], {"script": "module:function"}),
    ],
)
def test_backend_options_are_read(pairs: list[str], options: dict[str, str]) -> None:
    assert parse_options(pairs) == options


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["dtype"], "-M takes key=value, got 'dtype'"),
        (["=1"], "-M takes key=value, got '=1'"),
        (["stop=a,b"], "-M takes key=value, got 'b'"),
        (["a=1,"], "-M takes key=value, got ''"),
        (["a=1", "a=2"], "-M a is given twice: '1' and '2'"),
    ],
)
def test_broken_options_are_an_error_with_the_value(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_options(pairs)
    assert error.value.message == message


# -- the hash

SPEC = RunSpec(
    model=ModelSpec(backend="hf", name="a/b", options={"dtype": "bf16"}),
    benchmarks=("xstest", "harmbench"),
)
# What is measured; a run may not go on with another value of any of these.
OTHERS: dict[str, Any] = {
    "model": ModelSpec(backend="hf", name="a/c"),
    "benchmarks": ("xstest",),
    "suites": ("quick",),
    "preset": "thinksafe",
    "judges": ("wildguard",),
    "sampling": Sampling(top_k=3),
    "decoding": "recommended",
    "answer_tokens_fixed": True,
    "thinking": Thinking(budget=1),
    "text": "both",
    "rollouts": 2,
    "limit": 5,
    "subset_seed": 1,
    "seed": 1,
    "system_prompt": "Be kind.",
    "intervention": "nudge",
    "scale": "smoke",
    "harmful_from": ("advbench",),
    "benign_from": ("xstest",),
    "stance_judges": ("stance-rubric@demo",),
}


def test_every_field_of_a_specification_is_tested_here() -> None:
    apart = {"data_dirs", "judge_options", "unsafe_code"}
    assert {*OTHERS, *apart} == {field.name for field in fields(RunSpec)}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_measured_changes_the_hash(name: str) -> None:
    assert replace(SPEC, **{name: OTHERS[name]}).hash != SPEC.hash


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "vllm"),
        ("revision", "main"),
        ("adapter", "x"),
        ("base_url", "http://x"),
        ("options", {"format": "none"}),
    ],
)
def test_any_part_of_the_model_s_identity_changes_the_hash(field: str, value: Any) -> None:
    assert replace(SPEC, model=replace(SPEC.model, **{field: value})).hash != SPEC.hash


def test_how_it_is_executed_and_where_data_lie_do_not() -> None:
    elsewhere = replace(
        SPEC,
        data_dirs=("/elsewhere",),
        judge_options={"dtype": "float32"},
        unsafe_code=True,
        model=replace(SPEC.model, options={"dtype": "float32", "batch": "8"}),
    )
    assert elsewhere.hash == SPEC.hash
    assert len(SPEC.hash) == 12


@pytest.mark.parametrize(
    ("base_url", "options"),
    [
        ("https://me:hush@host/v1", {}),
        ("", {"api_key": "hush"}),
        ("", {"api_key_env": "sk-hush"}),
        ("", {"authorization": "hush"}),
        ("http://host/v1?api_key=hush", {}),
        ("", {"extra_body": '{"headers": {"Authorization": "hush"}}'}),
    ],
)
def test_a_credential_is_refused_and_not_repeated(base_url: str, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"run\.json|name of a variable") as caught:
        parse_model("openai/x", {"openai": False}, base_url=base_url, options=options)
    assert "hush" not in str(caught.value)
