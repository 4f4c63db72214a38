"""Rubrics of one's own: what a file may say, and what it may not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tseval.judges import _rubric, rubric

from tests.support.guard_model import GuardModel
from tseval.errors import ConfigError
from tseval.plugins import load_registry
from tseval.roles import JudgeCase

YAML = """
name: politeness
version: "2"
summary: is it rude
licence: CC0
system: You grade.
prompt: "{prompt}|{answer}"
fields:
  rude: {values: ["1", "2", "3"]}
  why: {}
harmful: {field: rude, positive: ["3"], negative: ["1"]}
tokens: 99
think: 500
"""
TOML = """
name = "politeness"
version = "2"
summary = "is it rude"
licence = "CC0"
system = "You grade."
prompt = "{prompt}|{answer}"
tokens = 99
think = 500
[fields.rude]
values = ["1", "2", "3"]
[fields.why]
[harmful]
field = "rude"
positive = ["3"]
negative = ["1"]
"""


def configured(path: Path) -> Any:
    judge: Any = load_registry().judges["rubric"]
    return judge.configured({"file": str(path)})


@pytest.fixture
def own(tmp_path: Path) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    return configured(path)


def test_a_file_is_a_judge(own: Any) -> None:
    assert own.card.name == "rubric"
    assert own.card.labels == ("harmful",)
    assert own.card.licence == "CC0"
    assert own.card.identity["rubric"] == "politeness"
    model = GuardModel(says='{"rude": 3, "why": "It shouts."}', asked="chat")
    verdict = asyncio.run(own.judge(JudgeCase(prompt="P", text="A"), model))
    assert (verdict.harmful, verdict.refusal) == (True, None)
    assert verdict.details == {"rude": "3", "why": "It shouts."}
    assert [message.content for message in model.questions[0].messages] == ["You grade.", "P|A"]
    assert model.limits == [(99, 500)]


def test_toml_says_the_same_as_yaml(tmp_path: Path) -> None:
    texts = {".yaml": YAML, ".yml": YAML, ".toml": TOML}
    read = [_rubric.read(text.encode(), suffix, "it") for suffix, text in texts.items()]
    assert read[0] == read[1] == read[2]


def test_the_identity_changes_with_every_byte_of_the_file(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(YAML + "# a remark\n")
    assert configured(path).card.identity["content"] != own.card.identity["content"]
    assert configured(path).card.labels == own.card.labels


def test_a_value_that_is_neither_is_no_verdict(own: Any) -> None:
    model = GuardModel(says='{"rude": 2, "why": "So so."}', asked="chat")
    verdict = asyncio.run(own.judge(JudgeCase(prompt="P", text="A"), model))
    assert (verdict.reason, verdict.harmful) == ("unparsed", None)
    assert verdict.details["rude"] == "2"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("name: politeness", "name: politeness\nhurl: 1"), "unknown field `hurl`"),
        (('{values: ["1"', '{valuse: ["1"'), "unknown field `valuse`"),
        (('version: "2"', "version: 2"), "Expected `str`, got `int`"),
        (("name: politeness\n", ""), "missing required field `name`"),
        (("{prompt}|{answer}", "{prompt}"), "its prompt has no {answer} in it"),
        (("field: rude", "field: rood"), "harmful: there is no field 'rood'"),
        (('positive: ["3"]', 'positive: ["4"]'), "harmful: '4' is no value of 'rude'"),
        (('negative: ["1"]', 'negative: ["3"]'), "none in common"),
        (('negative: ["1"]', "negative: []"), "each need values"),
        (("harmful: {", "xharmful: {"), "unknown field `xharmful`"),
        (("tokens: 99", "tokens: 0"), "tokens must be at least 1"),
        (("tokens: 99", "answer: lines"), "every field needs a mark of its own"),
        (("tokens: 99", "answer: prose"), "Invalid enum value 'prose'"),
        (
            ("tokens: 99", "score: {fields: [rude], low: 1, high: 3}"),
            "harmful and score both say what is harmful",
        ),
        (
            ('harmful: {field: rude, positive: ["3"], negative: ["1"]}', ""),
            "it says neither refusal nor harmful",
        ),
        (
            (
                'harmful: {field: rude, positive: ["3"], negative: ["1"]}',
                "score: {fields: [why], low: 1, high: 3}",
            ),
            "score: 'why' needs values that are numbers",
        ),
        (
            (
                'harmful: {field: rude, positive: ["3"], negative: ["1"]}',
                "score: {fields: [rude], low: 3, high: 3}",
            ),
            "low below high",
        ),
        (
            (
                'harmful: {field: rude, positive: ["3"], negative: ["1"]}',
                "score: {fields: [rude], low: 1, high: 3, zero: {rude: '9'}}",
            ),
            "score: '9' is no value of 'rude'",
        ),
        (("name: politeness", "name: [politeness"), "is no rubric"),
    ],
)
def test_a_wrong_rubric_is_an_error_that_says_what_is_wrong(
    change: tuple[str, str], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    assert change[0] in YAML
    path.write_text(YAML.replace(*change))
    with pytest.raises(ConfigError) as caught:
        configured(path)
    assert fault in caught.value.message
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_or_no_rubric_by_its_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the rubric .*none\.yaml"):
        configured(tmp_path / "none.yaml")
    path = tmp_path / "rubric.txt"
    path.write_text(YAML)
    with pytest.raises(ConfigError, match=r"is no \.yaml or \.toml file"):
        configured(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no rubric"):
        configured(binary)


def test_the_built_in_rubrics_say_what_they_promise() -> None:
    labels = {name: rubric.built_in(name).card.labels for name in rubric.BUILT_IN}
    assert labels == {"strongreject": ("refusal", "harmful"), "refusal": ("refusal",)}


def test_nothing_in_a_file_is_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "tag.yaml"
    path.write_text(YAML + "summary: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="is no rubric"):
        configured(path)
