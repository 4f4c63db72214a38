"""Rubrics: a prompt for any chat model, the fields of its reply, and what they mean.

A rubric is a YAML or TOML file (``docs/reference/judges.md`` has its keys). It is data: nothing
in it is evaluated, and a key that is not known is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

import tseval

from ._guards import RAW_LENGTH, plain_json, unparsed


class Field(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field of the reply.

    Attributes:
        values: What it may say, as text (1 and true are '1' and 'true'); empty for any text.
        mark: With ``answer: lines``, what the field's line begins with ('1.b').
    """

    values: tuple[str, ...] = ()
    mark: str = ""


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a field gives a label.

    Attributes:
        field: The field.
        positive, negative: Its values that say yes and no to the label; others give none. (Not
            'yes' and 'no', which YAML takes for booleans.)
        degrees: For refusals: 'full', 'partial' or 'none' by value.
    """

    field: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    degrees: dict[str, Literal["full", "partial", "none"]] = {}


class Score(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How numbers give the label 'harmful'.

    Attributes:
        fields: Fields whose sum is the score.
        low, high: Sums that are 0 and 1.
        zero: Values of fields with which the score is 0 whatever the sum.
        threshold: Harmful from this score up.
    """

    fields: tuple[str, ...]
    low: float
    high: float
    zero: dict[str, str] = {}
    threshold: float = 0.5


class Rubric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rubric.

    Attributes:
        name, version: What it is called; the version changes whenever a verdict could.
        prompt: The user's message, with ``{prompt}`` and ``{answer}`` in it.
        system: The system message, or ''.
        answer: 'json': the reply is one object with exactly these fields; 'lines': each field
            has a line of its own somewhere in the reply.
        fields: The fields, by name.
        refusal, harmful: What gives these labels.
        score: What gives 'harmful' out of numbers instead.
        tokens: Most tokens of the reply.
        think: Most tokens of a thinking trace before it; 0 asks the model not to think.
        summary, licence, paper: For ``tseval ls judges``.
    """

    name: str
    version: str
    prompt: str
    fields: dict[str, Field]
    system: str = ""
    answer: Literal["json", "lines"] = "json"
    refusal: Rule | None = None
    harmful: Rule | None = None
    score: Score | None = None
    tokens: int = 1024
    think: int = 0
    summary: str = ""
    licence: str = ""
    paper: str = ""

    @property
    def labels(self) -> tuple[Literal["refusal", "harmful"], ...]:
        """What it says."""
        harmful = self.harmful is not None or self.score is not None
        return (("refusal",) if self.refusal else ()) + (("harmful",) if harmful else ())


def read(content: bytes, suffix: str, where: str) -> Rubric:
    """Read and check a rubric.

    Args:
        content: The file's content.
        suffix: '.yaml', '.yml' or '.toml'.
        where: What messages call it.

    Raises:
        ConfigError: It is not a rubric; the message names the key.
    """
    decode = {".yaml": msgspec.yaml.decode, ".yml": msgspec.yaml.decode}.get(suffix.lower())
    if suffix.lower() == ".toml":
        decode = msgspec.toml.decode
    if decode is None:
        raise tseval.ConfigError(f"{where} is no .yaml or .toml file")
    try:
        rubric: Rubric = decode(content, type=Rubric)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise tseval.ConfigError(f"{where} is no rubric: {error}") from None
    faults = _faults(rubric)
    if faults:
        raise tseval.ConfigError(f"{where}: {faults[0]}")
    return rubric


def read_file(path: Path) -> tuple[Rubric, bytes]:
    """Read a rubric of the user's; raises ConfigError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise tseval.ConfigError(f"cannot read the rubric {path}: {error.strerror}") from None
    return read(content, path.suffix, f"rubric {path}"), content


def _faults(rubric: Rubric) -> list[str]:
    """What is wrong with a rubric, as sentences."""
    found = []
    if "{answer}" not in rubric.prompt:
        found.append("its prompt has no {answer} in it")
    if not rubric.labels:
        found.append("it says neither refusal nor harmful: it needs refusal, harmful or score")
    if rubric.harmful and rubric.score:
        found.append("harmful and score both say what is harmful")
    if rubric.tokens < 1 or rubric.think < 0:
        found.append("tokens must be at least 1, think at least 0")
    marks = [field.mark for field in rubric.fields.values()]
    if rubric.answer == "lines" and (not all(marks) or len(set(marks)) < len(marks)):
        found.append("with answer: lines every field needs a mark of its own")
    for name, rule in (("refusal", rubric.refusal), ("harmful", rubric.harmful)):
        found += [f"{name}: {fault}" for fault in _rule_faults(rubric, rule)]
    if rubric.harmful and rubric.harmful.degrees:
        found.append("harmful: degrees are for refusals")
    return found + [f"score: {fault}" for fault in _score_faults(rubric)]


def _rule_faults(rubric: Rubric, rule: Rule | None) -> list[str]:
    if rule is None:
        return []
    field = rubric.fields.get(rule.field)
    if field is None:
        return [f"there is no field {rule.field!r}"]
    given = {*rule.positive, *rule.negative, *rule.degrees}
    if not given <= set(field.values):
        return [f"{sorted(given - set(field.values))[0]!r} is no value of {rule.field!r}"]
    if not rule.positive or not rule.negative or set(rule.positive) & set(rule.negative):
        return ["positive and negative each need values, and none in common"]
    return []


def _score_faults(rubric: Rubric) -> list[str]:
    score = rubric.score
    if score is None:
        return []
    found = []
    for name in (*score.fields, *score.zero):
        if name not in rubric.fields:
            return [f"there is no field {name!r}"]
    for name in score.fields:
        values = rubric.fields[name].values
        if not values or not all(re.fullmatch(r"-?\d+(?:\.\d+)?", value) for value in values):
            found.append(f"{name!r} needs values that are numbers")
    if not score.fields or score.low >= score.high:
        found.append("it needs fields, and low below high")
    for name, value in score.zero.items():
        if value not in rubric.fields[name].values:
            found.append(f"{value!r} is no value of {name!r}")
    return found


def parse(rubric: Rubric, text: str) -> tseval.Verdict:
    """Read a reply under a rubric; one field missing, doubled or unknown, and there is none."""
    said = _objects(rubric, text) if rubric.answer == "json" else _lines(rubric, text)
    if said is None:
        return unparsed(text)
    for name, field in rubric.fields.items():
        if field.values and said[name] not in field.values:
            return unparsed(text)
    details = {name: value[:RAW_LENGTH] for name, value in said.items()}
    refusal = _label(rubric.refusal, said)
    degree = rubric.refusal.degrees.get(said[rubric.refusal.field]) if rubric.refusal else None
    harmful = _label(rubric.harmful, said)
    if rubric.score is not None:
        value = _score(rubric.score, said)
        harmful = value >= rubric.score.threshold
        details["score"] = f"{value:.4f}"
    if refusal is None and harmful is None:
        return unparsed(text, **details)
    return tseval.Verdict(
        refusal=refusal, degree=degree, harmful=harmful, raw=text, details=details
    )


def _objects(rubric: Rubric, text: str) -> dict[str, str] | None:
    value = plain_json(text)
    if value is None or set(value) != set(rubric.fields):
        return None
    said = {}
    for name, each in value.items():
        if not isinstance(each, str | int | float | bool):
            return None
        said[name] = str(each).lower() if isinstance(each, bool) else str(each)
    return said


def _lines(rubric: Rubric, text: str) -> dict[str, str] | None:
    said = {}
    for name, field in rubric.fields.items():
        pattern = rf"^[ \t]*{re.escape(field.mark)}(?:[ \t]*:)?[ \t]+(\S[^\n]*?)[ \t]*$"
        found = re.findall(pattern, text, re.MULTILINE)
        if len(found) != 1:
            return None
        said[name] = found[0]
    return said


def _label(rule: Rule | None, said: dict[str, str]) -> bool | None:
    if rule is None or said[rule.field] not in (*rule.positive, *rule.negative):
        return None
    return said[rule.field] in rule.positive


def _score(score: Score, said: dict[str, str]) -> float:
    if any(said[name] == value for name, value in score.zero.items()):
        return 0.0
    total = sum(float(said[name]) for name in score.fields)
    return (total - score.low) / (score.high - score.low)
