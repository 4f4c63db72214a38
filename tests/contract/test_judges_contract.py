"""What every registered judge, benchmark, suite, backend and metric must be, built-in or not."""

import asyncio
import json
import pickle
from typing import Any

import msgspec
import pytest

from tseval.cards import ProbeCard
from tseval.cli.ls import _records
from tseval.errors import ConfigError
from tseval.panels import Panel
from tseval.plugins import load_registry
from tseval.protocol import PRESETS, JudgeIdentity, canonical_json
from tseval.requests import Capabilities, ModelSpec
from tseval.roles import BackendFactory, JudgeCase
from tseval.testing import AWKWARD_TEXTS, check_judge
from tseval.types import Verdict

REGISTRY = load_registry()
each_judge = pytest.mark.parametrize("name", sorted(REGISTRY.judges))
each_benchmark = pytest.mark.parametrize("name", sorted(REGISTRY.benchmarks))
each_backend = pytest.mark.parametrize("name", sorted(REGISTRY.backends))


def is_one_line(text: str, most: int = 120) -> bool:
    return 0 < len(text) <= most and "\n" not in text and text == text.strip()


# -- judges


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, judge in REGISTRY.judges.items()
        if not judge.card.asked and not isinstance(judge, Panel)
    ),
)
def test_a_judge_without_a_model_keeps_its_contract_on_awkward_texts(name: str) -> None:
    asyncio.run(asyncio.wait_for(check_judge(REGISTRY.judges[name]), 300))


@each_judge
def test_a_judge_s_card_says_what_it_is(name: str) -> None:
    card = REGISTRY.judges[name].card
    assert card.name == name
    assert card.version
    assert card.labels
    assert set(card.labels) <= {"refusal", "harmful"}
    assert card.sees in ("answer", "trace", "both")
    assert is_one_line(card.summary)
    assert card.licence or isinstance(REGISTRY.judges[name], Panel)
    # It is part of a fingerprint and of a journal key.
    identity = JudgeIdentity(name=card.name, version=card.version, identity=card.identity)
    assert msgspec.json.decode(canonical_json(identity), type=JudgeIdentity) == identity


def test_the_default_judge_is_there_and_needs_no_model() -> None:
    assert set(PRESETS["default"].judges) <= set(REGISTRY.judges)
    assert all(REGISTRY.judges[name].card.model == "" for name in PRESETS["default"].judges)


def test_the_check_itself_fails_a_judge_that_breaks_its_contract() -> None:
    good = REGISTRY.judges["refusal-rules"].card

    class Judge:
        card = good

        def __init__(self, *verdicts: Any) -> None:
            self.verdicts, self.calls = verdicts, 0

        async def judge(self, case: JudgeCase, model: Any) -> Any:
            self.calls += 1
            return self.verdicts[self.calls % len(self.verdicts)]

    asyncio.run(check_judge(Judge(Verdict(refusal=True, degree="full"))))
    for broken, why in (
        (Judge("refused"), "returns a Verdict"),
        (Judge(Verdict(refusal=True), Verdict(refusal=False)), "not a function of its case"),
        (Judge(Verdict(reason="unparsed", refusal=False)), "comes with no label"),
        (Judge(Verdict(refusal=True, harmful=True)), "a label that the card lacks: harmful"),
    ):
        with pytest.raises(AssertionError, match=why):
            asyncio.run(check_judge(broken))


def test_the_awkward_texts_are_awkward() -> None:
    assert "" in AWKWARD_TEXTS
    assert max(map(len, AWKWARD_TEXTS)) >= 100_000
    assert any(not text.isascii() for text in AWKWARD_TEXTS)
    assert any("\x1b" in text for text in AWKWARD_TEXTS)


# -- benchmarks and suites


@each_benchmark
def test_a_benchmark_names_metrics_and_a_judge_that_exist(name: str) -> None:
    card = REGISTRY.benchmarks[name].card
    assert card.name == name
    assert is_one_line(card.summary)
    assert set(card.metrics) <= set(REGISTRY.metrics)
    on = {REGISTRY.metrics[metric].on for metric in card.metrics}
    if isinstance(card, ProbeCard):
        assert on == {"probe"}
        return
    assert card.default_judge in REGISTRY.judges
    about = {"mixed": {"harmful", "benign"}, "reasoning": {"question"}}
    assert on == about.get(card.kind, {card.kind})


@pytest.mark.parametrize("name", sorted(REGISTRY.suites))
def test_a_suite_names_benchmarks_that_exist(name: str) -> None:
    suite = REGISTRY.suites[name]
    assert suite.name == name
    assert is_one_line(suite.summary)
    assert set(suite.benchmarks) <= set(REGISTRY.benchmarks)


@pytest.mark.parametrize("name", sorted(REGISTRY.metrics))
def test_a_metric_s_companions_exist_and_are_about_the_same_rows(name: str) -> None:
    metric = REGISTRY.metrics[name]
    assert is_one_line(metric.summary)
    assert is_one_line(metric.title, 40)
    for companion in metric.companions:
        other = REGISTRY.metrics[companion]
        assert (other.on, other.label) == (metric.on, metric.label)
        assert other.companions == ()


# -- backends


@each_backend
def test_a_backend_s_factory_says_what_it_is(name: str) -> None:
    factory = REGISTRY.backends[name]
    assert isinstance(factory, BackendFactory)
    assert factory.name == name
    assert "/" not in name
    assert is_one_line(factory.summary)
    assert factory.capabilities.chat
    for option, meaning in factory.options.items():
        assert option.isidentifier()
        assert is_one_line(meaning)
    # How the thinking format is recognised can be overruled on every backend.
    assert "format" in factory.options


@each_backend
def test_a_backend_is_built_cheaply_and_can_do_no_more_than_its_factory_says(name: str) -> None:
    factory = REGISTRY.backends[name]
    spec = ModelSpec(
        backend=name,
        name="org/model" if factory.needs_model else "",
        base_url="http://127.0.0.1:9/v1" if name == "openai" else "",
    )
    backend = factory.create(spec)
    assert backend.max_outstanding >= 1
    assert isinstance(backend.devices, tuple)
    assert backend.spec.backend == name
    for capability in Capabilities.__struct_fields__:
        assert getattr(factory.capabilities, capability) >= getattr(
            backend.capabilities, capability
        )
    if factory.capabilities.token_ids:
        assert factory.capabilities.prefix, "ids are reported so that they can be continued"


# These pass options on to an engine, whose names are known once it is imported: their own tests
# hold that unknown ones are refused then.
OPEN = {"vllm"}


@pytest.mark.parametrize("name", sorted(set(REGISTRY.backends) - OPEN))
def test_a_backend_refuses_an_option_that_it_does_not_know(name: str) -> None:
    factory = REGISTRY.backends[name]
    spec = ModelSpec(
        backend=name,
        name="org/model" if factory.needs_model else "",
        base_url="http://127.0.0.1:9/v1",
        options={"no_such_option": "1"},
    )
    with pytest.raises(ConfigError, match="no_such_option"):
        factory.create(spec)


# -- all of them


@pytest.mark.parametrize(
    "kind", ["benchmarks", "suites", "judges", "backends", "metrics", "formats", "plugins"]
)
def test_whatever_is_registered_can_be_listed(kind: str) -> None:
    records = _records(kind, REGISTRY)
    assert records
    assert json.loads(canonical_json(records))
    assert len({record[kind[:-1]] for record in records}) == len(records)


def test_records_that_travel_between_processes_can_be_pickled() -> None:
    for name in REGISTRY.benchmarks:
        card = REGISTRY.benchmarks[name].card
        assert pickle.loads(pickle.dumps(card)) == card
    for name in REGISTRY.judges:
        card = REGISTRY.judges[name].card
        assert pickle.loads(pickle.dumps(card)) == card
