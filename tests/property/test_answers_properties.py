"""Equal forms are one answer, different values are two, and no text makes the checkers fail."""

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tseval.benchmarks.reasoning import _choice, _math

integers = st.integers(-2000, 2000)
fractions = st.builds(Fraction, st.integers(-60, 60), st.sampled_from([1, 2, 3, 4, 5, 7, 8, 25]))


def decimal_of(value: Fraction) -> str | None:
    """The exact decimal of a value; None where it does not end."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return f"{float(value):.6f}".rstrip("0").rstrip(".") if bottom == 1 else None


@st.composite
def forms_of(draw, value: Fraction) -> str:
    """One way to write a value."""
    top, bottom = value.numerator, value.denominator
    scale = draw(st.integers(1, 4))
    sign = "-" if top < 0 else ""
    forms = [
        rf"\frac{{{top * scale}}}{{{bottom * scale}}}",
        rf"{sign}\dfrac{{{abs(top)}}}{{{bottom}}}",
        f"{top * scale}/{bottom * scale}",
        rf"x = {sign}\frac{{{abs(top)}}}{{{bottom}}}",
    ]
    if decimal := decimal_of(value):
        forms += [decimal, f"x={decimal}", rf"{decimal} \text{{ cm}}", rf"\$ {decimal}"]
    if bottom == 1:
        forms += [str(top), f"{top:,}", f"{top}.0", rf"{sign}0{abs(top)}", rf"{top}^\circ"]
    return draw(st.sampled_from(forms))


@st.composite
def pools(draw) -> tuple[list[Fraction], list[str]]:
    """Forms of a few values, with the value of each."""
    values = draw(st.lists(fractions, min_size=1, max_size=4, unique=True))
    drawn = draw(st.lists(st.sampled_from(values), min_size=2, max_size=10))
    return drawn, [draw(forms_of(value)) for value in drawn]


def partition(labels: list[int]) -> set[frozenset[int]]:
    groups: dict[int, set[int]] = {}
    for place, label in enumerate(labels):
        groups.setdefault(label, set()).add(place)
    return {frozenset(group) for group in groups.values()}


@given(fractions.flatmap(lambda value: st.tuples(forms_of(value), forms_of(value))))
def test_a_value_is_right_in_each_of_its_forms(pair):
    reference, answer = pair
    assert _math.check(reference, rf"Hence $\boxed{{{answer}}}$.")["correct"], pair
    assert _math.check(reference, f"The answer is ${answer}$.")["correct"], pair


@given(st.lists(fractions, min_size=2, max_size=2, unique=True), st.data())
def test_another_value_is_wrong_in_each_of_its_forms(values, data):
    reference, answer = (data.draw(forms_of(value)) for value in values)
    assert not _math.check(reference, rf"\boxed{{{answer}}}")["correct"], (reference, answer)


@given(pools(), fractions)
def test_classes_are_the_values(pool, reference):
    drawn, forms = pool
    expected = partition([drawn.index(value) for value in drawn])
    assert partition(_math.classes(list(forms), str(reference))) == expected, forms


formulas = st.sampled_from(
    [
        r"\sqrt{12}", r"2\sqrt{3}", "2*sqrt(3)", r"\sqrt{3} \cdot 2",
        "(x+1)^2", "x^2+2x+1", "x^2 + 1", "1+x^2",
        "(1,2)", "1,2", "2,1", r"\{1,2\}", r"\{2, 1\}", "(2,1)", "[1,2]",
        r"10\%", "10", "0.1", r"1 \pm 2", "3,-1", "-1, 3",
        r"\text{even}", "Even", r"\text{odd}", r"2\pi", "2π", "6.283185", "", r"\frac{1}{0}",
    ]
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(formulas, min_size=1, max_size=9), st.randoms(), formulas)
@example([r"10\%", "10", "0.1"], None, r"10\%")
def test_classes_do_not_depend_on_the_order_and_agree_with_being_right(pool, random, reference):
    order = list(range(len(pool)))
    if random is not None:
        random.shuffle(order)
    straight = _math.classes(pool, reference)
    shuffled = _math.classes([pool[place] for place in order], reference)
    assert partition(straight) == {
        frozenset(order[place] for place in group) for group in partition(shuffled)
    }
    is_right = [_math.check(reference, rf"\boxed{{{one}}}")["correct"] for one in pool]
    right = {label for label, one in zip(straight, is_right, strict=True) if one}
    assert len(right) <= 1
    assert all((label in right) is one for label, one in zip(straight, is_right, strict=True))


@given(st.text(max_size=300), st.sampled_from(["7", r"\sqrt{2}", r"\text{odd}"]))
@settings(max_examples=300)
@example(r"\boxed{\left(}", "7")
@example(r"\boxed{\begin{pmatrix}}", "7")
def test_any_text_is_judged(text, reference):
    for module, right in ((_math, reference), (_choice, "C")):
        found = module.check(right, text)
        assert set(found) == {"correct", "extracted"}
        assert not (found["correct"] and found["extracted"] is None)
        assert module.check(right, text) == found


broken = st.lists(
    st.sampled_from(
        [
            r"\boxed{", r"\text{", r"\frac", r"\pm", r"\cup", r"\left", r"\\",
            "}", "{", "(", ")", "]", "$", "1", "2", ",", "=", "^", "_", "x", " ", "\n",
            "answer is ", "####", "**", "%", "or", "A",
        ]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(broken)
@settings(max_examples=300)
def test_broken_notation_is_judged(text):
    assert isinstance(_math.check("73", text)["correct"], bool)
    assert _choice.check("B", text)["correct"] is False
    extracted = _math.check("73", text)["extracted"]
    assert _math.classes([extracted, extracted, None], "73")[:2] in ([0, 0], [-1, -1])


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"), st.data())
def test_the_last_statement_of_a_letter_counts(first, last, data):
    forms = [
        "The answer is ({}).",
        "**Answer: {}**",
        "Answer: {}.",
        "The correct option is **{}**.",
    ]
    text = " ".join(data.draw(st.sampled_from(forms)).format(one) for one in (first, last))
    assert _choice.check(last, text) == {"correct": True, "extracted": last}, text
    if first != last:
        assert not _choice.check(first, text)["correct"], text
