"""Fingerprints: equal wherever the protocol is, different wherever any part of it differs."""

import os
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from msgspec.structs import fields, replace

from tseval.errors import UnknownName
from tseval.protocol import (
    PRESETS,
    JudgeIdentity,
    Preset,
    Protocol,
    canonical_json,
    differing_fields,
    fingerprint,
    preset,
)
from tseval.spec import RunSpec
from tseval.types import Sampling, Thinking

FULL = Protocol(
    benchmark="harmbench",
    benchmark_version="1",
    content_hash="c" * 64,
    metric="asr_nonrefusal",
    metric_version="1",
    group="standard",
    limit=10,
    subset_seed=3,
    messages=("system: {system}", "user: {prompt}"),
    thinking=Thinking(),
    sampling=Sampling(),
    rollouts=2,
    judge=JudgeIdentity(name="panel", version="1", identity={"a": "1", "b": "2"}, vote="majority"),
    text="answer",
)
GOLDEN = "86abb11ae219"


def other(kind: Any, value: Any) -> Any:
    """Some value of the same type that is not equal to the one given."""
    for literal in (each for part in (kind, *get_args(kind)) for each in get_args(part)):
        if isinstance(literal, str) and literal != value:
            return literal
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value < 1000 else value - 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, "more")
    if isinstance(value, dict):
        return {**value, "more": "x"}
    raise AssertionError(f"no other value for {value!r} of {kind}: teach this test")


def variants(record: msgspec.Struct, path: str = "") -> list[tuple[str, Any]]:
    """The record with one field changed, for each of its fields, nested ones with dots."""
    hints = get_type_hints(type(record))
    found = []
    for field in fields(record):
        value = getattr(record, field.name)
        assert value is not None, f"give {path + field.name} a value here, so that it is tested"
        if isinstance(value, msgspec.Struct):
            found += [
                (name, replace(record, **{field.name: each}))
                for name, each in variants(value, f"{path}{field.name}.")
            ]
        else:
            changed = other(hints[field.name], value)
            found.append((path + field.name, replace(record, **{field.name: changed})))
    return found


# All but 'decoding', which decides what else counts and has its own tests below.
VARIANTS = {name: each for name, each in variants(FULL) if name != "decoding"}


def test_the_loop_over_fields_reaches_the_nested_ones() -> None:
    assert {
        "benchmark",
        "limit",
        "subset_seed",
        "thinking.mode",
        "thinking.budget",
        "thinking.unclosed",
        "sampling.temperature",
        "sampling.answer_tokens",
        "judge.vote",
        "judge.identity",
        "text",
    } <= set(VARIANTS)
    top = {name.split(".")[0] for name in VARIANTS}
    assert top == {field.name for field in fields(Protocol)} - {"decoding"}


@pytest.mark.parametrize("name", VARIANTS)
def test_any_field_that_differs_changes_the_fingerprint_and_is_named(name: str) -> None:
    changed = VARIANTS[name]
    assert changed.fingerprint != FULL.fingerprint
    # A dictionary's difference is named down to its key.
    named = differing_fields(FULL, changed)
    assert named == [name + ".more" if name == "judge.identity" else name]
    assert differing_fields(changed, FULL) == named


def test_every_pair_of_variants_differs() -> None:
    assert len({each.fingerprint for each in VARIANTS.values()}) == len(VARIANTS)


def test_equal_protocols_have_equal_fingerprints_whatever_the_order_of_keys() -> None:
    assert FULL.judge is not None
    turned = replace(FULL, judge=replace(FULL.judge, identity={"b": "2", "a": "1"}))
    assert turned.fingerprint == FULL.fingerprint
    assert differing_fields(turned, FULL) == []
    again = msgspec.json.decode(msgspec.json.encode(FULL), type=Protocol)
    assert again.fingerprint == FULL.fingerprint
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "import msgspec, sys\n"
        "from tseval.protocol import Protocol\n"
        "from tseval.spec import RunSpec\n"
        "print(msgspec.json.decode(sys.argv[1], type=Protocol).fingerprint)\n"
        "print(msgspec.json.decode(sys.argv[2], type=RunSpec).hash)\n"
    )
    spec = RunSpec(
        model={"backend": "hf", "options": {"b": "2", "a": "1", "format": "tags"}},
        benchmarks=("a", "b"),
    )
    spec = msgspec.convert(msgspec.to_builtins(spec), RunSpec)
    given = [canonical_json(FULL).decode(), canonical_json(spec).decode()]
    seen = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", code, *given],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert seen == {f"{FULL.fingerprint}\n{spec.hash}\n"}


def test_a_fingerprint_is_short_and_does_not_change_from_release_to_release() -> None:
    # A change here makes every published number incomparable: raise PROTOCOL_SCHEMA knowingly.
    assert FULL.fingerprint == GOLDEN
    assert len(GOLDEN) == 12


def test_recommended_decoding_ignores_values_that_each_model_brings_itself() -> None:
    own = replace(FULL, decoding="recommended")
    assert own.fingerprint != FULL.fingerprint
    for change in ({"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 7}):
        same = replace(own, sampling=replace(own.sampling, **change))
        assert same.fingerprint == own.fingerprint
        assert differing_fields(own, same) == []
    longer = replace(own, sampling=replace(own.sampling, answer_tokens=2048))
    assert longer.fingerprint != own.fingerprint
    assert differing_fields(own, longer) == ["sampling.answer_tokens"]
    assert "decoding" in differing_fields(own, FULL)


def test_the_subset_seed_counts_only_under_a_limit() -> None:
    whole = replace(FULL, limit=None, subset_seed=1)
    assert whole.fingerprint == replace(whole, subset_seed=2).fingerprint
    assert whole.fingerprint == replace(whole, subset_seed=None).fingerprint
    assert whole.fingerprint != replace(FULL, subset_seed=1).fingerprint


def test_a_judge_against_none_is_named_as_a_whole() -> None:
    assert differing_fields(FULL, replace(FULL, judge=None)) == ["judge"]


def test_several_differences_are_named_in_order() -> None:
    changed = replace(FULL, thinking=Thinking(budget=1, unclosed="empty"), benchmark="x")
    assert differing_fields(FULL, changed) == ["benchmark", "thinking.budget", "thinking.unclosed"]


# -- presets


def test_a_preset_is_found_by_name() -> None:
    assert preset("ri2026").judges == ("panel/ri2026",)
    assert [each.name for each in PRESETS.values()] == list(PRESETS)
    assert all(isinstance(each, Preset) and each.summary for each in PRESETS.values())


def test_an_unknown_preset_is_an_error_that_suggests() -> None:
    with pytest.raises(UnknownName) as error:
        preset("thinksave")
    assert str(error.value) == (
        "unknown protocol 'thinksave' (known: default, ri2026, thinksafe)\n"
        "hint: did you mean 'thinksafe'? see `tseval ls protocols`"
    )


def test_the_presets_are_those_of_the_two_papers() -> None:
    ours, thinksafe, ri2026 = PRESETS["default"], PRESETS["thinksafe"], PRESETS["ri2026"]
    assert (ours.judges, ours.decoding, ours.rollouts, ours.text) == (
        ("refusal-rules",),
        "fixed",
        1,
        "answer",
    )
    assert thinksafe.text == "both"
    assert thinksafe.thinking == Thinking(budget=16384, unclosed="judge-trace")
    assert (thinksafe.decoding, thinksafe.rollouts) == ("recommended", 1)
    assert (ri2026.rollouts, ri2026.answer_tokens, ri2026.text) == (4, 1024, "answer")
    assert ri2026.thinking == Thinking(budget=16384, unclosed="force")
