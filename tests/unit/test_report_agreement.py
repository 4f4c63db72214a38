"""The tables on agreement: what they show, and that nothing a model wrote acts on a reader."""

import io
from typing import Any

import pytest

from tseval.judgement.agreement import Agreements, Disagreement, GroupAgreement, PairAgreement
from tseval.readback import Row, Stored
from tseval.report.agreement import agreements_page, disagreements_page
from tseval.report.judges import Page, markdown_page, rich_page
from tseval.stats_agreement import Agreement
from tseval.types import Estimate, Rollout


def agreement(value: float, units: int, dropped: int = 0) -> Agreement:
    estimate = Estimate(value=value, low=value - 0.1, high=value + 0.05)
    return Agreement(estimate=estimate, units=units, dropped=dropped)


def pair(**more: Any) -> PairAgreement:
    fields: dict[str, Any] = {
        "label": "refusal",
        "first": "a",
        "second": "b",
        "both": 40,
        "missing": 8,
        "same": 30,
        "kappa": agreement(0.5, 40, 8),
    }
    return PairAgreement(**(fields | more))


def group(**more: Any) -> GroupAgreement:
    fields: dict[str, Any] = {
        "label": "refusal",
        "name": "panel/x",
        "judges": ("a", "b", "c"),
        "kappa": agreement(0.4, 31, 17),
        "alpha": agreement(0.45, 47, 1),
    }
    return GroupAgreement(**(fields | more))


def found(pairs: Any = (), groups: Any = (), rollouts: int = 48) -> Agreements:
    return Agreements(pairs=list(pairs), groups=list(groups), rollouts=rollouts)


def divided(**more: Any) -> Disagreement:
    rollout = Rollout(key="0" * 32, answer=more.pop("answer", "an answer"))
    row: dict[str, Any] = {"benchmark": "bench", "sample": "s1", "rollout": 0, "prompt": "a prompt"}
    stored = Stored(row=Row(**(row | more)), rollout=rollout, verdicts={})
    return Disagreement(label="refusal", stored=stored, votes={"a": True, "b": False, "c": None})


def in_terminal(page: Page, width: int = 200) -> str:
    from rich.console import Console

    to = io.StringIO()
    console = Console(
        file=to, width=width, highlight=False, emoji=False, markup=False, force_terminal=True
    )
    console.print(rich_page(page))
    return to.getvalue()


def test_a_pair_is_shown_with_its_share_its_denominator_and_its_kappa() -> None:
    page = agreements_page(found([pair()]))
    [section] = page.sections
    assert dict(zip(section.headings, section.rows[0], strict=True)) == {
        "label": "refusal",
        "judges": "a",
        "": "b",
        "agree": "75.0%",
        "of": "40",
        "missing": "8",
        "kappa": "0.500",
        "95% CI": "[0.400, 0.550]",
    }
    assert "48 rollouts" in page.notes[0]


def test_each_coefficient_of_a_group_is_shown_with_the_rollouts_it_rests_on() -> None:
    [section] = agreements_page(found(groups=[group()])).sections
    assert dict(zip(section.headings, section.rows[0], strict=True)) == {
        "label": "refusal",
        "judges": "panel/x: a, b, c",
        "Fleiss' kappa": "0.400",
        "95% CI": "[0.300, 0.450]",
        "n": "31",
        "alpha": "0.450",
        "95% CI ": "[0.350, 0.500]",
        "n ": "47",
    }


def test_what_is_undefined_is_a_dash_with_its_reason_below() -> None:
    page = agreements_page(
        found(
            [pair(kappa=None, undefined="both say yes"), pair(both=0, same=0, kappa=None)],
            [group(kappa=None, alpha=None, undefined="all say yes")],
        )
    )
    pairs, groups = page.sections
    assert list(pairs.rows[0])[3:] == ["75.0%", "40", "8", "-", "-"]
    assert list(pairs.rows[1])[3:] == ["-", "0", "8", "-", "-"]
    assert list(groups.rows[0])[2:] == ["-"] * 6
    assert page.notes[1:] == ["a and b: both say yes", "panel/x: all say yes"]


def test_divided_rollouts_are_shown_with_every_vote_and_both_texts() -> None:
    page = disagreements_page([divided(), divided(rollout=2, answer=None)])
    [section] = page.sections
    assert dict(zip(section.headings, section.rows[0], strict=True)) == {
        "label": "refusal",
        "benchmark": "bench",
        "sample": "s1",
        "votes": "a:yes b:no c:-",
        "prompt": "a prompt",
        "answer": "an answer",
    }
    assert section.rows[1][2] == "s1 #2"
    assert section.rows[1][5] == ""


def test_where_there_is_nothing_to_compare_that_is_said() -> None:
    page = agreements_page(found())
    assert page.sections == []
    assert page.notes[1:] == ["no two of the judges say the same kind of label"]
    page = disagreements_page([])
    assert page.notes == ["none: where two judges or more gave a verdict, they agree"]
    assert "none: where" in in_terminal(page)
    assert "none: where" in markdown_page(page)


HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202egnp.exe | a | b |\n\n# head\r\n"
    "<script>alert(1)</script> [x](javascript:y) `code` *bold* ${jndi} \x00"
)


@pytest.mark.parametrize("field", ["prompt", "answer", "sample", "benchmark"])
def test_what_a_model_wrote_acts_neither_in_a_terminal_nor_in_markdown(field: str) -> None:
    page = disagreements_page([divided(**{field: HOSTILE})])
    shown = in_terminal(page, 4000)
    for mark in ("\x1b[31m", "\x1b]", "\x07", "\x9b", "\u202e", "\x00"):
        assert mark not in shown
    text = markdown_page(page)
    assert not any(mark in text for mark in ("\x1b", "\x07", "\x9b", "\u202e", "\x00"))
    assert "<script" not in text.replace("\\<script", "")
    assert "](javascript" not in text.replace("\\](javascript", "")
    # The table has one row still, with as many cells as headings.
    head, rule, row = (line for line in text.splitlines() if line.startswith("|"))
    cells = [line.replace("\\|", "").count("|") for line in (head, rule, row)]
    assert cells == [7, 7, 7]


def test_a_judge_named_like_markup_is_text_too() -> None:
    name = "panel(a,b|c; vote>=2)\x1b[2J"
    page = agreements_page(found([pair(first=name)], [group(name=name, judges=(name, "b", "c"))]))
    assert "\x1b[2J" not in in_terminal(page, 4000)
    assert "b\\|c" in markdown_page(page)


def test_long_texts_are_cut_and_lines_joined() -> None:
    [section] = disagreements_page([divided(answer="word \n" * 500, prompt="x" * 201)]).sections
    *_, prompt, answer = section.rows[0]
    assert len(prompt) == len(answer.rstrip()) == 200
    assert prompt == "x" * 199 + "…"
    assert "\n" not in answer
