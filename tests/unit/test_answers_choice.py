"""Letters of multiple choice, in all their dressings."""

import json
import time
from pathlib import Path

import pytest
from tseval.benchmarks.reasoning._choice import check, classes

import tseval

ODD = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "data" / "odd_answers_choice.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


def test_the_odd_forms_are_many_and_written_once():
    assert len(ODD) >= 150
    assert len({(row["reference"], row["answer"]) for row in ODD}) == len(ODD)
    assert sum(not row["correct"] for row in ODD) >= 50


@pytest.mark.parametrize("row", ODD, ids=lambda row: row["why"])
def test_an_odd_form_is_judged_as_by_hand(row):
    assert check(row["reference"], row["answer"])["correct"] is row["correct"], row["why"]


@pytest.mark.parametrize("letter", "ABCDEFGHIJ")
def test_each_letter_is_right_for_itself_only(letter: str):
    for form in (
        "{}",
        "({})",
        "**Answer: {}**",
        r"\boxed{{{}}}",
        "The answer is ({}).",
        "{}) text",
    ):
        answer = form.format(letter)
        right = [one for one in "ABCDEFGHIJ" if check(one, answer)["correct"]]
        assert right == [letter], answer


def test_two_letters_are_extracted_as_two_and_are_a_class_of_their_own():
    assert check("C", "The answer is A or C.") == {"correct": False, "extracted": "A, C"}
    assert classes(["C", None, "A, C", "C", "A"], "C") == [0, -1, 1, 0, 2]


def test_no_letter_is_none_and_wrong():
    assert check("C", "It depends.") == {"correct": False, "extracted": None}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("K", "the right choice is 'K', expected a letter from A to J"),
        ("", "the right choice is '', expected a letter from A to J"),
        ('{"answer": "C", "choices": ["x", "y"]}', "expected a letter from A to B"),
        ('{"choices": ["x", "y"]}', "no reference of a multiple choice"),
        ("{broken", "no reference of a multiple choice"),
    ],
)
def test_a_reference_that_is_no_choice_is_an_error(reference: str, message: str):
    with pytest.raises(tseval.DataError, match=message):
        check(reference, "C")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is" + " " * 300_000,
        "The answer is " + "* " * 300_000,
        "answer" + ": " * 300_000,
        "answer is " * 50_000,
        r"\(" * 300_000,
        r"\[ " * 300_000,
        "The answer is A" + " or A" * 100_000,
        "option " + "is " * 100_000,
        r"\boxed{" * 50_000,
        "<answer>" * 50_000,
        "{" * 300_000,
        "ABC " * 100_000,
        "\ud800 the answer is",
    ],
    ids=lambda text: text[:12].encode("ascii", "replace").decode(),
)
def test_a_hostile_text_is_read_within_a_minute(text: str):
    begin = time.process_time()
    assert check("C", text)["correct"] is False
    # Backtracking would take minutes or more; the machine may be slow.
    assert time.process_time() - begin < 60
