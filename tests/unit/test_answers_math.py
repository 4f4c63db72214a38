"""Mathematical answers: odd forms, the mirror's reference solutions, classes, hostile texts."""

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tseval.benchmarks.reasoning import _formulas
from tseval.benchmarks.reasoning._final import final_answer
from tseval.benchmarks.reasoning._math import check, classes

from tseval.workers import Workers

DATA = Path(__file__).parent.parent / "data"
ODD = [
    json.loads(line)
    for line in (DATA / "odd_answers_math.jsonl").read_text(encoding="utf-8").splitlines()
]
# Where the reference and the solution stand in each file of the mirror.
ROWS = {"gsm8k": 1319, "math500": 500, "aime24": 30}
SOLUTION = {"gsm8k": "answer", "math500": "solution", "aime24": "solution"}


def solutions(mirror: Path, name: str) -> list[tuple[str, str]]:
    """The reference answer and the reference solution of each row."""
    lines = (mirror / "reasoning" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == ROWS[name]
    return [(str(row["answer"]).rpartition("####")[2].strip(), row[SOLUTION[name]]) for row in rows]


def right_forms(reference: str, solution: str) -> Iterator[str]:
    yield solution
    yield f"So we get $\\boxed{{{reference}}}$."
    yield reference
    yield f"${reference}$"
    yield f"After 3 steps, the answer is ${reference}$."


def wrong_forms(reference: str, other: str) -> Iterator[str]:
    if other != reference:
        yield f"So we get $\\boxed{{{other}}}$."
        yield f"\\boxed{{{reference}}} or \\boxed{{{other}}}"
    digits = re.sub(r"[,$\\!\s]", "", reference)
    if re.fullmatch(r"-?\d+", digits):
        yield f"The answer is {int(digits) + 1}."
        yield f"\\boxed{{{int(digits) - 1}}}"
    yield ""


def misjudged(rows: list[tuple[str, str]], every: int = 1) -> Iterator[tuple[str, str]]:
    """References with the right forms of them that are found wrong, and the wrong found right."""
    for number in range(0, len(rows), every):
        reference, solution = rows[number]
        for answer in right_forms(reference, solution):
            if not check(reference, answer)["correct"]:
                yield reference, answer
        for answer in wrong_forms(reference, rows[(number + 7) % len(rows)][0]):
            if check(reference, answer)["correct"]:
                yield reference, answer


def test_the_odd_forms_are_many_and_written_once():
    choice = (DATA / "odd_answers_choice.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(ODD) >= 250
    assert len(ODD) + len(choice) >= 400
    assert len({(row["reference"], row["answer"]) for row in ODD}) == len(ODD)
    assert sum(row["correct"] for row in ODD) >= 100
    assert sum(not row["correct"] for row in ODD) >= 80


@pytest.mark.parametrize("row", ODD, ids=lambda row: row["why"])
def test_an_odd_form_is_judged_as_by_hand(row):
    assert check(row["reference"], row["answer"])["correct"] is row["correct"], row["why"]


@pytest.mark.parametrize("name", ["gsm8k", "aime24"])
def test_every_reference_solution_is_right_and_its_neighbour_wrong(mirror: Path, name: str):
    assert list(misjudged(solutions(mirror, name))) == []


def test_each_tenth_reference_solution_of_math500_is_right(mirror: Path):
    assert list(misjudged(solutions(mirror, "math500"), every=10)) == []


@pytest.mark.slow
def test_every_reference_solution_of_math500_is_right_and_its_neighbour_wrong(mirror: Path):
    assert list(misjudged(solutions(mirror, "math500"))) == []


def test_an_extracted_answer_is_judged_as_the_text_it_came_from():
    for row in ODD:
        found = check(row["reference"], row["answer"])
        if found["extracted"] is not None:
            label = classes([found["extracted"], row["reference"]], row["reference"])
            assert (label[0] == label[1]) is found["correct"], row


def test_no_answer_is_none_and_wrong():
    for answer in ("", "  \n\n", "I cannot tell.", r"\boxed{}", r"so $\boxed{12", "..."):
        assert check("12", answer) == {"correct": False, "extracted": None}, answer


def test_what_is_extracted_has_no_dressing():
    assert final_answer(r"Thus $x = \boxed{ \frac{1}{2} }$.") == r"\frac{1}{2}"
    assert final_answer("**Answer:** 1,234 apples.") == "1,234"
    assert final_answer("It is 5.\n#### 5") == "5"
    assert final_answer(r"\boxed{a} and \boxed{b}") == "a, b"


def test_equal_answers_are_one_class_and_none_is_none():
    forms = ["0.5", r"\frac{1}{2}", "1/2", "2", None, r"\dfrac{2}{4}", "x = 2", None, "0.50"]
    assert classes(forms, "7") == [0, 0, 0, 1, -1, 0, 1, -1, 0]


def test_the_right_answers_are_one_class_though_they_differ_from_each_other():
    # 0.1 and 10 are each right for ten percent, and are not equal where neither is right.
    assert classes(["10", "0.1", r"10\%", "7"], r"10\%") == [0, 0, 0, 1]
    assert classes(["10", "0.1"], "3") == [0, 1]


def test_classes_are_compared_with_their_first_members_only():
    many = [str(number % 50) for number in range(5000)]
    begin = time.process_time()
    labels = classes(many, "3")
    # Twelve million comparisons would take an hour.
    assert time.process_time() - begin < 60
    assert labels == [number % 50 for number in range(5000)]


HOSTILE = {
    "digits": "9" * 1_000_000,
    "digits in a box": rf"\boxed{{{'9' * 1_000_000}}}",
    "deep braces": r"\boxed{" + "{" * 100_000 + "5" + "}" * 100_000 + "}",
    "deep fractions": r"\boxed{" + r"\frac{1}{" * 60 + "2" + "}" * 60 + "}",
    "boxes that never end": r"\boxed{" * 100_000,
    "boxes in boxes": r"\boxed{" * 20_000 + "7" + "}" * 20_000,
    "blanks": "The answer is" + " " * 300_000 + "7",
    "stars": "The answer is " + "* " * 300_000 + "7",
    "dollars": "$a " * 300_000,
    "brackets": r"\(" * 300_000,
    "colons": "answer" + ": " * 300_000,
    "statements": "answer is " * 50_000,
    "alternatives": "The answer is A" + " or A" * 100_000,
    "tower": r"\boxed{9^{9^{9^{9}}}}",
    "tower without braces": "9^9^9^9",
    "tower of programs": r"\boxed{9**9**9}",
    "large power": r"\boxed{2^{999999999}}",
    "power of a power": r"\boxed{((9^{999})^{999})^{999}}",
    "product in a power": r"\boxed{9^{9*9*9*9*9*9*9*9*9}}",
    "factorial": r"\boxed{99999!}",
    "factorials": r"\boxed{(999!)!}",
    "binomial": r"\boxed{\binom{99999999}{4999999}}",
    "sum": r"\boxed{\sum_{k=1}^{10000000} \frac{1}{k}}",
    "integral": r"\boxed{\int_0^{100} e^{x^2}\sin(x^3)\,dx}",
    "polynomial": r"\boxed{(x+y+z+w+1)^{400}}",
    "scientific": r"\boxed{1e999999999}",
    "surrogates": "\ud800 the answer is \udfff",
    "nothing to print": "\0" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_wrong_within_a_minute(name: str):
    begin = time.process_time()
    for reference in ("5", r"\sqrt{2}+\pi"):
        assert check(reference, HOSTILE[name])["correct"] is False
    assert time.process_time() - begin < 60


def test_a_comparison_that_overruns_its_time_is_an_error_and_no_verdict(monkeypatch):
    monkeypatch.setattr(_formulas, "_CPU_SECONDS", 0.05)

    def spin(text: str) -> object:
        while True:
            with contextlib.suppress(Exception):  # as math-verify does
                sum(range(1000))

    monkeypatch.setattr(_formulas, "_parse", spin)
    with pytest.raises(TimeoutError, match=r"more than 0.05 s of CPU time"):
        _formulas.equal_formulas(r"\sqrt{4172}", r"\sqrt{4173}")
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_long_answer_is_the_same_only_as_itself():
    long = "+".join(f"x_{number}" for number in range(300))
    assert check(long, rf"\boxed{{{long}}}")["correct"] is False
    labels = classes(
        [check("1", rf"\boxed{{{one}}}")["extracted"] for one in (long, long + "+1")], "1"
    )
    assert labels == [0, 1]


def test_a_worker_checks_as_this_process_does():
    async def ask() -> list[object]:
        workers = Workers(1)
        module = "tseval.benchmarks.reasoning._math"
        try:
            return [
                await workers.call(
                    f"{module}:check", [r"3\sqrt{13}", r"\boxed{\sqrt{117}}"], seconds=60
                ),
                await workers.call(f"{module}:classes", [["1/2", None, "0.5"], "3"], seconds=60),
            ]
        finally:
            await workers.close()

    assert asyncio.run(ask()) == [{"correct": True, "extracted": r"\sqrt{117}"}, [0, -1, 0]]
