"""Laws of pass@k, of majorities, and of how choices are put in order."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tseval.cards import AnswerSpec, Columns
from tseval.questions import question_of
from tseval.stats import majority, pass_at_k
from tseval.tables import RawRow

COUNTS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
)
VOTES = st.lists(st.tuples(st.integers(-1, 4), st.booleans()), max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


@given(COUNTS)
def test_pass_at_k_lies_between_0_and_1_and_never_falls_with_k(counts: tuple[int, int, int]):
    n, right, k = counts
    value = pass_at_k(n, right, k)
    assert 0 <= right / n - 1e-12 <= value + 1e-9 <= 1 + 1e-9 or right == 0
    if k < n:
        assert pass_at_k(n, right, k + 1) >= value
    if right < n:
        assert pass_at_k(n, right + 1, k) >= value


@given(COUNTS)
def test_a_lost_rollout_lies_between_what_it_could_have_been(counts: tuple[int, int, int]):
    n, right, k = counts
    value = pass_at_k(n, right, k)
    assert pass_at_k(n + 1, right, k) <= value + 1e-12
    assert value <= pass_at_k(n + 1, right + 1, k) + 1e-12


@given(VOTES, st.randoms())
def test_a_majority_does_not_depend_on_the_order_of_rollouts_or_on_the_numbers_of_classes(
    votes: list[tuple[int, bool]], random: Any
):
    value = majority([v for v, _ in votes], [hit for _, hit in votes])
    assert 0 <= value <= 1
    names = dict(enumerate(random.sample(range(100), 5))) | {-1: -1}
    random.shuffle(votes)
    again = majority([names[v] for v, _ in votes], [hit for _, hit in votes])
    assert again == value


@given(VOTES, st.integers(0, 5))
def test_rollouts_without_an_answer_change_no_majority(votes: list[tuple[int, bool]], more: int):
    classes, correct = [v for v, _ in votes], [hit for _, hit in votes]
    assert majority(classes + [-1] * more, correct + [False] * more) == majority(classes, correct)


@given(TEXTS, st.lists(TEXTS, min_size=2, max_size=10), st.data())
def test_shuffling_loses_no_choice_and_keeps_the_right_one(
    question: str, options: list[str], data: st.DataObject
):
    right = data.draw(st.integers(0, len(options) - 1))
    columns = Columns(prompt="q", answer="a", choices=("c",))
    row = RawRow("line 1", {"q": question, "c": options, "a": right})
    template = "{question}\n{choices}"
    texts: dict[bool, list[str]] = {}
    for shuffle in (False, True):
        spec = AnswerSpec(checker="x", template=template, shuffle=shuffle)
        try:
            prompt, reference = question_of(spec, columns, row, question)
        except Exception:
            # 'N/A' at the end fills a list up; nothing else may be lost.
            assert options[-1] == "N/A"
            return
        found = json.loads(reference)
        texts[shuffle] = found["choices"]
        place = ord(found["answer"]) - ord("A")
        kept = texts[False]
        assert found["choices"][place] == kept[right]
        assert prompt.startswith(question.strip())
    assert sorted(texts[True]) == sorted(texts[False])


@given(TEXTS, TEXTS, TEXTS)
def test_a_template_is_filled_once(question: str, one: str, two: str):
    columns = Columns(prompt="q", answer="a", choices=("c",))
    row = RawRow("line 1", {"q": question, "c": [f"{one}{{question}}", f"x{two}"], "a": 0})
    spec = AnswerSpec(checker="x", template="<{question}|{choices}|{other}>")
    prompt, reference = question_of(spec, columns, row, question)
    first, second = json.loads(reference)["choices"]
    assert prompt == f"<{question}|(A) {first}\n(B) {second}|{{other}}>"
