"""Rows to questions: what is asked, which answer is right, and which rows are refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tseval.cards import BenchmarkCard, Columns, load_card, read_catalogue
from tseval.data import Rows, content_hash, load_rows
from tseval.errors import ConfigError, DataError
from tseval.questions import question_of
from tseval.tables import RawRow
from tseval.types import Sample

CARDS = {card.name: card for card in read_catalogue("tseval.benchmarks").cards}
REASONING = ("aime24", "gpqa_diamond", "gsm8k", "ifeval", "math500", "mmlu_pro")

GSM8K = {"question": "How many?", "answer": "Two and three.\n#### 5"}
MMLU = {"question": "Which?", "options": ["one", "two", "three"], "answer": "B", "category": "x"}
GPQA = {
    "Question": "Which of these?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "wrong 1",
    "Incorrect Answer 2": "wrong 2",
    "Incorrect Answer 3": "wrong 3",
}
IFEVAL = {
    "prompt": "Write without commas.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}


def load(folder: Path, name: str, *rows: dict[str, Any], **more: Any) -> Rows:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return load_rows(CARDS[name], [folder], **more)


def one(folder: Path, name: str, row: dict[str, Any]) -> Sample:
    (sample,) = load(folder, name, row).samples
    return sample


def listed(sample: Sample) -> dict[str, str]:
    """Letters and texts as the prompt lists them."""
    lines = [line for line in sample.prompt.splitlines() if line.startswith("(")]
    return {line[1]: line[4:] for line in lines}


# -- references


def test_the_reference_is_what_follows_the_last_mark(tmp_path: Path) -> None:
    row = {"question": "x", "answer": "#### 4 is wrong\n####  1,234 "}
    assert one(tmp_path, "gsm8k", row).reference == "1,234"


@pytest.mark.parametrize("value", [73, "73", " 73\n"])
def test_a_number_is_a_reference_like_its_text(tmp_path: Path, value: Any) -> None:
    assert one(tmp_path, "aime24", {"problem": "x", "answer": value}).reference == "73"


def test_a_question_has_no_class_and_its_prompt_is_the_filled_template(tmp_path: Path) -> None:
    sample = one(tmp_path, "gsm8k", GSM8K)
    assert sample.harmful is None
    assert sample.prompt.startswith("How many?\n\n")
    assert sample.prompt.endswith("\\boxed{}.")
    assert "####" not in sample.prompt


@pytest.mark.parametrize("name", ["gsm8k", "math500", "aime24"])
def test_braces_in_a_question_are_not_filled_in(tmp_path: Path, name: str) -> None:
    question = r"Let \{question} be {choices} and {0} or {question}, \frac{1}{2} \1 \g<0>."
    column = {"gsm8k": "question"}.get(name, "problem")
    row = {column: question, "answer": "#### 1", "subject": "s", "level": 1}
    assert one(tmp_path, name, row).prompt.count(question) == 1


def test_braces_in_a_choice_or_beside_it_are_not_filled_in(tmp_path: Path) -> None:
    texts = ["{question}", "{choices}", r"\1 {answer}"]
    row = {**MMLU, "question": "Is {choices} or {question}?", "options": texts}
    sample = one(tmp_path, "mmlu_pro", row)
    assert list(listed(sample).values()) == texts
    assert sample.prompt.startswith("Is {choices} or {question}?\n\n(A) {question}\n(B) {choices}")


# -- choices


@pytest.mark.parametrize("answer", ["B", 1, "two", " two "])
def test_an_answer_is_given_as_letter_number_or_text(tmp_path: Path, answer: Any) -> None:
    sample = one(tmp_path, "mmlu_pro", {**MMLU, "answer": answer})
    assert listed(sample) == {"A": "one", "B": "two", "C": "three"}
    assert json.loads(sample.reference) == {"answer": "B", "choices": ["one", "two", "three"]}


def test_a_letter_is_the_letter_of_a_choice_also_where_another_has_it_as_its_text(
    tmp_path: Path,
) -> None:
    row = {**MMLU, "options": ["A", "AB", "B", "O"], "answer": "B"}
    sample = one(tmp_path, "mmlu_pro", row)
    assert json.loads(sample.reference)["answer"] == "B"
    assert listed(sample)["B"] == "AB"
    # Beyond the letters of its choices it is a text.
    row = {**MMLU, "options": ["A", "AB", "B", "O"], "answer": "O"}
    assert json.loads(one(tmp_path, "mmlu_pro", row).reference)["answer"] == "D"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["one", "two", "N/A", "N/A"], ["one", "two"]),
        (["one", "N/A", "two", "N/A"], ["one", "N/A", "two"]),
    ],
)
def test_what_fills_up_a_list_of_choices_is_left_out_and_moves_no_letter(
    tmp_path: Path, options: list[str], kept: list[str]
) -> None:
    letter = "ABCD"[options.index("two")]
    sample = one(tmp_path, "mmlu_pro", {**MMLU, "options": options, "answer": letter})
    assert json.loads(sample.reference) == {"answer": letter, "choices": kept}


def test_ten_choices_have_ten_letters_in_the_order_of_the_data(tmp_path: Path) -> None:
    options = [f"choice {9 - number}" for number in range(10)]
    sample = one(tmp_path, "mmlu_pro", {**MMLU, "options": options, "answer": 9})
    assert listed(sample) == dict(zip("ABCDEFGHIJ", options, strict=True))
    assert json.loads(sample.reference)["answer"] == "J"


def gpqa_rows(count: int) -> list[dict[str, str]]:
    return [{**GPQA, "Question": f"Question {number}?"} for number in range(count)]


def letters(rows: Rows) -> dict[str, str]:
    return {s.prompt.splitlines()[0]: json.loads(s.reference)["answer"] for s in rows.samples}


def test_the_right_letter_of_gpqa_is_where_the_right_text_stands(tmp_path: Path) -> None:
    for sample in load(tmp_path, "gpqa_diamond", *gpqa_rows(40)).samples:
        reference = json.loads(sample.reference)
        shown = listed(sample)
        assert sorted(shown.values()) == ["right", "wrong 1", "wrong 2", "wrong 3"]
        assert shown[reference["answer"]] == "right"
        assert list(shown.values()) == reference["choices"]


def test_the_order_of_gpqas_choices_depends_on_the_row_alone(tmp_path: Path) -> None:
    rows = gpqa_rows(30)
    first = load(tmp_path, "gpqa_diamond", *rows)
    again = load(tmp_path, "gpqa_diamond", *reversed(rows), subset_seed=7)
    assert letters(first) == letters(again)
    assert first.content_hash == again.content_hash
    few = load(tmp_path, "gpqa_diamond", *rows, limit=5)
    assert letters(few).items() <= letters(first).items()


def test_each_letter_of_gpqa_is_right_equally_often(tmp_path: Path) -> None:
    rows = load(tmp_path, "gpqa_diamond", *gpqa_rows(4000))
    right = Counter(letters(rows).values())
    assert sorted(right) == list("ABCD")
    # 1000 each; five standard deviations are 137.
    assert all(abs(count - 1000) < 137 for count in right.values())
    orders = Counter(tuple(json.loads(s.reference)["choices"]) for s in rows.samples)
    assert len(orders) == 24
    # 167 each; five standard deviations are 63.
    assert all(abs(count - 4000 / 24) < 63 for count in orders.values())


def test_equal_choices_are_shown_both(tmp_path: Path) -> None:
    sample = one(tmp_path, "gpqa_diamond", {**GPQA, "Incorrect Answer 3": "wrong 1"})
    assert len(listed(sample)) == 4
    assert listed(sample)[json.loads(sample.reference)["answer"]] == "right"


def test_instructions_reach_the_checker_as_one_object(tmp_path: Path) -> None:
    sample = one(tmp_path, "ifeval", IFEVAL)
    assert sample.prompt == "Write without commas."
    assert json.loads(sample.reference) == {**IFEVAL, "answer": IFEVAL["instruction_id_list"]}


# -- rows that are refused

_BROKEN = [
    ("gsm8k", {"answer": "no mark, 5"}, "answer", "nothing follows '####'"),
    ("gsm8k", {"answer": "5 ####  \n"}, "answer", "nothing follows '####'"),
    ("gsm8k", {"answer": None}, "answer", "expected the right answer, found null"),
    ("gsm8k", {"answer": "  "}, "answer", "expected the right answer"),
    ("gsm8k", {"answer": True}, "answer", "expected the right answer, found a truth value"),
    ("gsm8k", {"answer": ["5"]}, "answer", "expected the right answer, found a list"),
    ("gsm8k", {"question": " "}, "question", "is empty"),
    ("mmlu_pro", {"answer": "D"}, "answer", "'D' is none of the 3 choices"),
    ("mmlu_pro", {"answer": 3}, "answer", "3 is none of the 3 choices"),
    ("mmlu_pro", {"answer": -1}, "answer", "-1 is none of the 3 choices"),
    ("mmlu_pro", {"answer": True}, "answer", "True is none of the 3 choices"),
    ("mmlu_pro", {"answer": None}, "answer", "None is none of the 3 choices"),
    ("mmlu_pro", {"answer": ""}, "answer", "'' is none of the 3 choices"),
    ("mmlu_pro", {"answer": "AB"}, "answer", "'AB' is none of the 3 choices"),
    ("mmlu_pro", {"options": []}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": ["one"]}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": ["one", " "]}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": ["one", None]}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": "one two"}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": None}, "options", "expected 2 to 26 texts"),
    ("mmlu_pro", {"options": list(map(str, range(27)))}, "options", "expected 2 to 26 texts"),
    ("gpqa_diamond", {"Incorrect Answer 2": None}, "Correct Answer", "expected 2 to 26 texts"),
    ("gpqa_diamond", {"Correct Answer": ""}, "Correct Answer", "expected 2 to 26 texts"),
    ("ifeval", {"instruction_id_list": []}, "instruction_id_list", "expected a value"),
    ("ifeval", {"kwargs": None}, "kwargs", "expected a value, found null"),
]


@pytest.mark.parametrize(("name", "change", "field", "said"), _BROKEN)
def test_a_broken_row_is_refused_by_file_line_and_field(
    tmp_path: Path, name: str, change: dict[str, Any], field: str, said: str
) -> None:
    whole = {"gsm8k": GSM8K, "mmlu_pro": MMLU, "gpqa_diamond": GPQA, "ifeval": IFEVAL}[name]
    with pytest.raises(DataError) as caught:
        load(tmp_path, name, whole, {**whole, **change})
    assert f"{name}.jsonl" in caught.value.message
    assert "line 2" in caught.value.message
    assert f"'{field}'" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("name", "column"),
    [("gsm8k", "answer"), ("mmlu_pro", "answer"), ("mmlu_pro", "options"), ("ifeval", "kwargs")],
)
def test_a_field_that_one_row_lacks_is_named(tmp_path: Path, name: str, column: str) -> None:
    whole = {"gsm8k": GSM8K, "mmlu_pro": MMLU, "ifeval": IFEVAL}[name]
    lacking = {key: value for key, value in whole.items() if key != column}
    with pytest.raises(DataError, match=f"line 2, field '{column}'"):
        load(tmp_path, name, whole, lacking)


@pytest.mark.parametrize("where", ["answer", "options"])
def test_half_a_character_is_refused(where: str) -> None:
    fields = {**GSM8K, "answer": "#### \ud800"} if where == "answer" else {**MMLU}
    if where == "options":
        fields["options"] = ["one", "\udfff"]
    card = CARDS["gsm8k" if where == "answer" else "mmlu_pro"]
    assert card.answer is not None
    with pytest.raises(DataError, match=r"line 1: .* no character"):
        question_of(card.answer, card.local[0], RawRow("line 1", fields), "x")


# -- what is hashed


def test_the_content_hash_covers_reference_choices_and_template(tmp_path: Path) -> None:
    hashes = {
        load(tmp_path, "mmlu_pro", row).content_hash
        for row in (
            MMLU,
            {**MMLU, "answer": "A"},
            {**MMLU, "options": ["one", "two", "four"]},
            {**MMLU, "options": ["two", "one", "three"], "answer": "A"},
            {**MMLU, "question": "Who?"},
        )
    }
    assert len(hashes) == 5
    (row,) = [load(tmp_path, "mmlu_pro", MMLU, {**MMLU, "category": "y"}).content_hash]
    assert row not in hashes


def test_a_reference_moves_the_hash_and_a_sample_without_one_hashes_as_before() -> None:
    plain = Sample(id="1", prompt="x")
    assert content_hash([plain]) != content_hash([Sample(id="1", prompt="x", reference="5")])
    assert content_hash([Sample(id="1", prompt="x", reference="5")]) != content_hash(
        [Sample(id="1", prompt="x", reference="6")]
    )


def test_rows_of_one_question_with_two_answers_have_ids_that_no_file_order_moves(
    tmp_path: Path,
) -> None:
    rows = [{**GSM8K, "answer": f"#### {number}"} for number in range(4)]

    def ids(order: list[dict[str, Any]]) -> dict[str, str]:
        return {s.id: s.reference for s in load(tmp_path, "gsm8k", *order).samples}

    assert len(ids(rows)) == 4
    assert ids(rows) == ids(rows[::-1])


# -- cards


@pytest.mark.parametrize("name", REASONING)
def test_the_reasoning_cards_ask_for_pass_at_1_and_say_what_nobody_saw(name: str) -> None:
    card = CARDS[name]
    assert card.kind == "reasoning"
    assert card.metrics == ("pass_at_1",)
    assert card.answer_tokens >= 1024
    if not card.content_hash:
        assert "look at the rows" in card.note


CARD = r"""
name: quiz
title: Quiz
kind: reasoning
summary: s
metrics: [pass_at_1]
source: {hub: x/y, columns: {prompt: q, answer: a%s}}
local: [{prompt: q, answer: a%s}]
answer: {checker: some.module, template: "%s"}
expected_rows: 1
licence: none
paper: none
note: none
"""


def _card(hub: str = "", local: str = "", template: str = "{question}") -> BenchmarkCard:
    return load_card(CARD % (hub, local, template), "quiz.yaml")


def test_a_consistent_card_is_read() -> None:
    assert _card().answer is not None
    assert _card(", choices: [c]", ", choices: [c]", "{question} {choices}").local == (
        Columns(prompt="q", answer="a", choices=("c",)),
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"template": "{choices}"}, "answer.template"),
        ({"template": "{question} {choices}"}, "answer.template"),
        ({"hub": ", choices: [c]", "local": ", choices: [c]"}, "answer.template"),
        ({"hub": ", choices: [c]", "template": "{question} {choices}"}, "local"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused_by_field(
    change: dict[str, str], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"quiz.yaml, field '{field}'"):
        _card(**change)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("kind: reasoning", "kind: harmful", "answer"),
        ('answer: {checker: some.module, template: "{question}"}\n', "", "answer"),
        ("local: [{prompt: q, answer: a}]", "local: [{prompt: q}]", "answer"),
        ("some.module", "some module", "answer.checker"),
        ("template:", "budget: 3, template:", "answer"),
    ],
)
def test_a_reasoning_card_needs_an_answer_and_only_it_does(old: str, new: str, field: str) -> None:
    text = CARD % ("", "", "{question}")
    assert old in text
    with pytest.raises(ConfigError, match=f"quiz.yaml, field '{field}'"):
        load_card(text.replace(old, new), "quiz.yaml")
