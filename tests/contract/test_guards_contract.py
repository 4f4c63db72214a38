"""What every judge that runs a model must be and do, whatever is registered."""

import asyncio
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.guard_model import GuardModel
from tseval.plugins import load_registry
from tseval.roles import JudgeCase
from tseval.spec import parse_model
from tseval.testing import AWKWARD_TEXTS, check_judge

REGISTRY = load_registry()
GUARDS: dict[str, Any] = {
    name: judge for name, judge in REGISTRY.judges.items() if getattr(judge.card, "model", "")
}
each_guard = pytest.mark.parametrize("name", sorted(GUARDS))


def module_text(name: str) -> str:
    module = importlib.import_module(type(GUARDS[name]).__module__)
    return inspect.getdoc(module) or ""


@each_guard
def test_a_guard_keeps_the_contract_on_awkward_texts_whatever_its_model_says(name: str) -> None:
    for way in GUARDS[name].card.asked:
        for says in ("I like trains.", "", None):
            model = GuardModel(says=says, asked=way)
            asyncio.run(asyncio.wait_for(check_judge(GUARDS[name], model), 300))


@each_guard
def test_a_guard_asks_with_the_whole_of_a_short_text(name: str) -> None:
    for text in filter(str.strip, AWKWARD_TEXTS):
        model = GuardModel(asked=GUARDS[name].card.asked[0])
        asyncio.run(GUARDS[name].judge(JudgeCase(prompt="x", text=text), model))
        assert text.strip() in model.last


@each_guard
def test_a_guard_s_card_names_model_licence_and_paper(name: str) -> None:
    card = GUARDS[name].card
    spec = parse_model(
        card.model, {key: each.needs_model for key, each in REGISTRY.backends.items()}
    )
    assert spec.backend in REGISTRY.backends
    assert spec.name
    assert card.licence
    assert "arXiv" in card.paper
    assert card.asked
    assert card.identity.get("prompt") or card.identity.get("content")


@each_guard
def test_a_guard_s_docstring_has_every_part_that_a_reader_needs(name: str) -> None:
    text = module_text(name)
    for part in ("Model:", "Format:", "Reading:", "Context:", "Licence:", "Source:", "Differs:"):
        assert re.search(rf"^{part} ", text, re.MULTILINE), part
    revision = parse_model(GUARDS[name].card.model, {"hf": True, "openai": False}).revision
    # Pinned to a commit that the docstring names, or said not to be.
    said = revision[:12] in text if revision else re.search(r"(?i)not pinned|is pinned|any\.", text)
    assert said, revision


@each_guard
def test_a_guard_s_prompt_marks_are_not_those_of_a_beginning(name: str) -> None:
    # The backend puts the beginning-of-text token; a second one would shift everything.
    model = GuardModel(asked=GUARDS[name].card.asked[0])
    asyncio.run(GUARDS[name].judge(JudgeCase(prompt="x", text="y"), model))
    assert not model.last.startswith(("<s>", "<bos>", "<|begin_of_text|>"))


@each_guard
def test_the_reference_page_has_a_row_for_every_guard(name: str, root: Path) -> None:
    page = (root / "docs" / "reference" / "judges.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(name)}` .*$", page, re.MULTILINE)
    card = GUARDS[name].card
    spec = parse_model(card.model, {"hf": True, "openai": False})
    assert spec.name in row
    assert spec.revision[:12] in row
    assert all(label in row for label in card.labels)
    assert all(paper in row for paper in re.findall(r"\d{4}\.\d{5}", card.paper))
    assert " or ".join(card.asked) in row
