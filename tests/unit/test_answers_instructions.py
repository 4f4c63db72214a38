"""IFEval's instructions: lm-eval's own checks, run with the packages they need or stand-ins.

langdetect and immutabledict are no dependency of tseval. A process of its own gets stand-ins for
them, so that every kind which asks for no language and no nltk data is checked for real.
"""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from tseval.benchmarks.reasoning import _instructions
from tseval.benchmarks.reasoning._instructions import check, classes, missing, parts

import tseval

STAND_INS = {
    "langdetect": (
        "class DetectorFactory:\n    seed = None\n"
        "class LangDetectException(Exception):\n    pass\n"
        "def detect(text):\n    return 'en'\n"
    ),
    "immutabledict": "immutabledict = dict\n",
}
PROGRAM = """
import json, sys
from tseval.benchmarks.reasoning._instructions import check
print(json.dumps([check(json.dumps(row), answer) for row, answer in json.load(sys.stdin)]))
"""
# The same rows through lm-eval's own scorer, as its task calls it.
STOCK = """
import json, random, sys
from tseval.benchmarks.reasoning._instructions import _library
found = []
for row, answer in json.load(sys.stdin):
    random.seed(0)
    found.append(_library().process_results({"key": 0, **row}, [answer]))
print(json.dumps(found))
"""
# Kind, its parameters, an answer that follows it, one that does not.
KINDS = [
    ("keywords:existence", {"keywords": ["tide"]}, "The tide turns.", "The sea turns."),
    (
        "keywords:frequency",
        {"keyword": "tide", "frequency": 2, "relation": "at least"},
        "Tide after tide.",
        "One tide.",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "The tide turns.", "A sea."),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        "Buzz.",
        "Boat.",
    ),
    ("language:response_language", {"language": "en"}, "The tide turns.", None),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One."),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "One two three.",
        "One two.",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "tide"},
        "One.\n\nTide is two.",
        "Tide.\n\nOne is two.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "Dear [name],", "Dear,"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Hi.", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*Tide*", "Tide"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\nOne.\nSection 2\nTwo.",
        "Section 1\nOne.",
    ),
    ("detectable_format:json_format", {}, '{"tide": 1}', "tide: 1"),
    ("detectable_format:title", {}, "<<Tides>>\nThey turn.", "Tides\nThey turn."),
    ("combination:two_responses", {}, "Ebb.\n******\nFlood.", "Ebb and flood."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why?"}, "Why? The moon.", "The moon."),
    ("startend:end_checker", {"end_phrase": "The end."}, "It turns. The end.", "It turns."),
    ("change_case:english_capital", {}, "THE TIDE TURNS.", "The tide turns."),
    ("change_case:english_lowercase", {}, "the tide turns.", "The tide turns."),
    ("punctuation:no_comma", {}, "Ebb and flood.", "Ebb, flood."),
    ("startend:quotation", {}, '"The tide turns."', "The tide turns."),
]
# These two cut with nltk's data, which cannot be fetched where the tests run.
TOKENIZED = ["length_constraints:number_sentences", "change_case:capital_word_frequency"]


def row(*kinds: tuple[str, dict[str, object]]) -> dict[str, object]:
    return {
        "prompt": "Tell of the tide.",
        "instruction_id_list": [kind for kind, _ in kinds],
        # The published rows hold every parameter, null where it does not apply.
        "kwargs": [{"num_words": None, **parameters} for _, parameters in kinds],
    }


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Check pairs of row and answer in a process with the stand-ins."""
    folder = tmp_path_factory.mktemp("stand_ins")
    for name, text in STAND_INS.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]

    def run(
        pairs: list[tuple[dict[str, object], str]], program: str = PROGRAM
    ) -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(pairs),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            cwd=Path(__file__).parent,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_all_kinds_but_those_that_need_data_are_followed_or_not(checked):
    assert len(KINDS) + len(TOKENIZED) == 25
    pairs, expected = [], []
    for kind, parameters, good, bad in KINDS:
        for answer, is_right in ((good, True), (bad, False)):
            if answer is not None:
                pairs.append((row((kind, parameters)), answer))
                expected.append((kind, is_right))
    found = checked(pairs)
    assert [
        (kind, one["correct"]) for (kind, _), one in zip(expected, found, strict=True)
    ] == expected


def test_strict_and_loose_and_both_levels_are_told_apart(checked):
    kinds = row(("startend:quotation", {}), ("punctuation:no_comma", {}))
    # The first line spoils the quotation, and loosening drops it; the comma stays in every form.
    loose, neither, empty, again = checked(
        [
            (kinds, 'Here it is\n"The tide turns."'),
            (kinds, '"Ebb, flood."'),
            (kinds, "  "),
            (kinds, 'Here it is\n"The tide turns."'),
        ]
    )
    assert loose == {
        "correct": False,
        "extracted": "strict 1/2, loose 2/2",
        "parts": {
            "prompt_level_loose": [1, 1],
            "instruction_level_strict": [1, 2],
            "instruction_level_loose": [2, 2],
        },
        "details": {"1. startend:quotation": "loosely", "2. punctuation:no_comma": "strictly"},
    }
    assert again == loose
    assert not neither["correct"]
    assert neither["parts"] == {
        "prompt_level_loose": [0, 1],
        "instruction_level_strict": [1, 2],
        "instruction_level_loose": [1, 2],
    }
    assert neither["details"]["2. punctuation:no_comma"] == "not"
    assert empty["extracted"] is None
    assert not empty["correct"]
    assert [right for right, _ in empty["parts"].values()] == [0, 0, 0]


def test_as_many_parts_are_announced_as_are_counted(checked):
    kinds = row(
        ("startend:quotation", {}), ("punctuation:no_comma", {}), ("startend:quotation", {})
    )
    (found,) = checked([(kinds, "Ebb.")])
    assert parts(json.dumps(kinds)) == {name: of for name, (_, of) in found["parts"].items()}
    assert len(found["details"]) == 3


def test_all_four_rates_are_those_of_lm_evals_own_scorer(checked):
    """Every kind but two, with its right and its wrong answer, alone and in company."""
    kinds = [(kind, parameters) for kind, parameters, *_ in KINDS]
    answers = [answer for *_, good, bad in KINDS for answer in (good, bad) if answer is not None]
    answers += ["", " ", "**bold**, here.", f"Sure:\n{answers[0]}", f"{answers[-2]}\nBye, then."]
    pairs = []
    for number, answer in enumerate(answers):
        for size in (1, 2, 3):
            first = number * 7 % len(kinds)
            chosen = [kinds[(first + step * (number + 1)) % len(kinds)] for step in range(size)]
            pairs.append((row(*dict(chosen).items()), answer))
        if number < 2 * len(kinds):
            pairs.append((row(kinds[number // 2]), answer))
    ours, theirs = checked(pairs), checked(pairs, STOCK)
    told = {(True, True): "strictly", (False, True): "loosely", (False, False): "not"}
    for mine, stock in zip(ours, theirs, strict=True):
        strict, loose = stock["inst_level_strict_acc"], stock["inst_level_loose_acc"]
        assert mine["correct"] == stock["prompt_level_strict_acc"]
        assert mine["parts"] == {
            "prompt_level_loose": [int(stock["prompt_level_loose_acc"]), 1],
            "instruction_level_strict": [sum(strict), len(strict)],
            "instruction_level_loose": [sum(loose), len(loose)],
        }
        each = [told[bool(a), bool(b)] for a, b in zip(strict, loose, strict=True)]
        assert list(mine["details"].values()) == each
    assert len(pairs) > 150
    assert {"strictly", "loosely", "not"} <= {t for one in ours for t in one["details"].values()}


@pytest.mark.parametrize(
    ("kind", "parameters", "good", "bad"),
    [
        (
            "length_constraints:number_sentences",
            {"num_sentences": 2, "relation": "at least"},
            "The tide turns. The sea stays.",
            "The tide turns, and the sea stays.",
        ),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "THE TIDE turns.",
            "THE tide turns.",
        ),
        (
            "language:response_language",
            {"language": "de"},
            "Die Flut kommt und geht wieder, jeden Tag zweimal.",
            "The tide comes and goes every day, twice.",
        ),
    ],
)
def test_kinds_that_need_data_are_followed_or_not_where_it_is_installed(
    kind: str, parameters: dict[str, object], good: str, bad: str
):
    if lacking := missing([kind]):
        pytest.skip(f"without {lacking}")
    reference = json.dumps(row((kind, parameters)))
    assert [check(reference, answer)["correct"] for answer in (good, bad)] == [True, False]


@pytest.mark.parametrize("absent", ["langdetect", "immutabledict", "nltk"])
def test_an_absent_package_is_an_error_that_names_it(monkeypatch, absent: str):
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == absent else real(name))
    with pytest.raises(tseval.CapabilityMissing, match=rf"without .*{absent}") as caught:
        check(json.dumps(row(("punctuation:no_comma", {}))), "Ebb.")
    assert "pip install 'lm-eval[ifeval]'" in str(caught.value)


@pytest.mark.parametrize("kind", TOKENIZED)
def test_absent_data_is_an_error_for_the_kinds_that_need_it_only(monkeypatch, kind: str):
    nltk = pytest.importorskip("nltk")

    def find(name: str) -> None:
        raise LookupError(name)

    monkeypatch.setattr(_instructions, "_PACKAGES", ())
    monkeypatch.setattr(nltk.data, "find", find)
    assert missing(["punctuation:no_comma"]) == ""
    assert missing([kind]) == "nltk's punkt_tab data"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no json", "no row of IFEval: 'no json'"),
        ("[]", "no row of IFEval"),
        ('{"prompt": "x", "instruction_id_list": ["a"]}', "no row of IFEval"),
        ('{"prompt": "", "instruction_id_list": [], "kwargs": []}', "has 0 instructions and 0"),
        ('{"prompt": "", "instruction_id_list": ["a"], "kwargs": []}', "has 1 instructions and 0"),
    ],
)
def test_a_reference_that_is_no_row_is_an_error(reference: str, message: str):
    with pytest.raises(tseval.DataError, match=message):
        check(reference, "Ebb.")


def test_free_texts_never_agree():
    assert classes(["strict 1/1, loose 1/1", None, "strict 1/1, loose 1/1"], "{}") == [0, -1, 2]
