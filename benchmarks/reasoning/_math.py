r"""Check mathematical answers: gsm8k, math500, aime24.

``check`` finds the final answer that a text states (:mod:`._final` says which forms count) and
compares it with the reference. Two answers are the same if

- their notation is (``\dfrac12`` and ``\frac{1}{2}``, ``1{,}000`` and ``1000``, ``073``, ``73``);
- both are plain numbers of one value, exactly; a decimal with six places or more also equals the
  number that rounds to it (``0.333333`` and ``1/3``, never ``0.33``), and one whose digits repeat
  is its fraction (``0.\overline{3}`` and ``1/3``); a blank may part thousands (``5 000``);
- both are tuples, points, intervals or matrices with the same brackets and entries, in order;
- both are lists or sets with the same members in any order (``a \pm b`` are two);
- both are the same words, whatever their case ('Evelyn'); a number in words is not a number;
- math-verify finds the two formulas equal.

Units, currency and degree signs are not compared and nothing is converted: '5 km' counts for 5,
and so does '5 m'. '5 million' counts for 5 and for 5000000, ``10\%`` for 10 and for 0.1: the two
ways in which each is asked for.
``x = 5`` counts for 5, and 5 for ``x = 5``; the base of a number may be left out but not be
another. ``a, b`` without brackets counts for ``(a, b)`` and for ``\{a, b\}``, but a list of two
never counts for one of them. What is too long or too large to compute with is equal only to the
same text.

Only the answer may be passed in, never the thinking trace. math-verify bounds its time with
signals, so this runs in a main thread.

Source: math-verify 0.9 (Hugging Face), parse and verify with its default tolerance of six decimals,
    for formulas; numbers, lists, brackets and words are compared here.
Differs: math-verify alone takes the subscript of a base for nothing, an open interval
    for the set of its ends, a point with equal coordinates for the empty set and a text's first
    match for its answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from ._final import final_answer
from ._formulas import NAMED, equal_formulas
from ._notation import LENGTH, number_of, tidy, without_short_unit, without_units, words_of

VERSION = "4"
# A version of these can change what is equal.
LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")

# Most members of a list that are compared as formulas.
_MEMBERS = 12
_BASE = re.compile(r"\(?(?P<digits>[0-9A-Z]+)\)?\s*_\s*\{?\s*(?P<base>\d{1,2})\s*\}?")
_MULTIPLE = re.compile(
    r"(.+?)\s*(?:\\(?:text|mathrm|mbox)\s*\{)?\s*\b(hundred|thousand|million|billion|trillion)\b.*"
)
_TIMES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_OPEN = {"(": ")", "[": "]", "\\{": "\\}"}


class _Value(NamedTuple):
    """An answer as it is compared.

    ``text`` is a form to compare, ``written`` the notation as it was; ``brackets`` is '' for a
    single value, ',' for a bare list, 'u' for a union, else both brackets.
    """

    text: str
    number: Fraction | None = None
    decimals: int = 0
    percent: bool = False
    base: str = ""
    words: str | None = None
    brackets: str = ""
    parts: tuple[_Value, ...] = ()
    written: str = ""


def check(reference: str, answer: str) -> dict[str, Any]:
    """Say whether an answer is right.

    Args:
        reference: The right value alone, as the data set writes it.
        answer: The model's answer without its thinking trace.

    Returns:
        'correct', and 'extracted': the final answer as found in the text, None if there is none.
    """
    extracted = final_answer(answer)
    if extracted is None:
        return {"correct": False, "extracted": None}
    extracted = _clipped(extracted)
    return {"correct": _right(reference, extracted), "extracted": extracted}


def classes(extracted: list[str | None], reference: str) -> list[int]:
    r"""Number the classes of equal answers, in order of appearance.

    The answers that are right are one class, since being right is looser than being equal (``10``
    and ``0.1`` are both right for ``10\%``). Each other one joins the first class whose first
    member it equals.

    Args:
        extracted: What ``check`` found, per rollout.
        reference: The right value.

    Returns:
        A class per rollout, from 0; -1 where nothing was found.
    """
    heads: list[tuple[str, bool]] = []
    known: dict[str, int] = {}
    for one in dict.fromkeys(text for text in extracted if text is not None):
        right = _right(reference, one)
        for number, (head, is_right) in enumerate(heads):
            if right == is_right and (right or _same(_read(head), _read(one))):
                known[one] = number
                break
        else:
            known[one] = len(heads)
            heads.append((one, right))
    return [-1 if one is None else known[one] for one in extracted]


def _clipped(extracted: str) -> str:
    """Bound what is stored; two long texts are the same only if they agree, end and length too."""
    extracted = " ".join(extracted.split())
    if len(extracted) <= LENGTH:
        return extracted
    return f"{extracted[:LENGTH]}... ({len(extracted)} characters, ends {extracted[-20:]})"


@lru_cache(maxsize=4096)
def _right(reference: str, extracted: str) -> bool:
    gold, found = _read(reference), _read(extracted)
    if _same(gold, found) or _same_multiple(gold, extracted):
        return True
    left, equals, right = found.text.rpartition("=")
    if equals and "=" not in gold.text and right not in ("0", "") and "\\begin" not in left:
        # 'a + b = 42' says 42; an equation with 0 on its right says nothing of the kind.
        return _same(gold, _value(right))
    if gold.number is not None and found.number is None:
        return number_of(without_short_unit(found.text)) == gold.number
    if gold.percent or found.percent:
        return _same_percentage(gold, found)
    # Brackets may be left out, and a list of solutions may be set in some.
    if gold.parts and found.parts and "," in (gold.brackets, found.brackets):
        ordered = gold.brackets not in (",", "\\{\\}")
        return _same_parts(gold.parts, found.parts, ordered=ordered)
    return False


def _same_multiple(gold: _Value, extracted: str) -> bool:
    """Whether a number is right once its 'million' is worked out."""
    if gold.number is None or len(extracted) > LENGTH:
        return False
    found = _MULTIPLE.fullmatch(tidy(extracted))
    number = number_of(found[1]) if found else None
    return (
        found is not None and number is not None and number * 10 ** _TIMES[found[2]] == gold.number
    )


def _same_percentage(gold: _Value, found: _Value) -> bool:
    if gold.number is None or found.number is None:
        return False
    if gold.number == found.number and (gold.percent or abs(gold.number) > 1):
        return True
    shares = [one.number / 100 if one.percent else one.number for one in (gold, found)]  # type: ignore[operator]
    return shares[0] == shares[1]


def _same(one: _Value, other: _Value) -> bool:
    """Whether two answers are equal."""
    if one.text == other.text:
        return bool(one.text)
    if one.percent != other.percent:
        return False
    if one.base and other.base and one.base != other.base:
        return False
    if one.number is not None and other.number is not None:
        return _same_number(one, other)
    if one.words or other.words:
        return _letter(one) == _letter(other)
    if one.parts or other.parts:
        if one.brackets == other.brackets:
            ordered = one.brackets not in (",", "\\{\\}", "u")
            return _same_parts(one.parts, other.parts, ordered=ordered)
        mixed = {one.brackets, other.brackets}
        return (
            mixed == {",", "\\{\\}"} and _same_parts(one.parts, other.parts, ordered=False)
        ) or (
            "" in mixed and bool(mixed - {""} & {"()", "[]", "(]", "[)"}) and _related(one, other)
        )
    return equal_formulas(one.written or one.text, other.written or other.text)


def _letter(value: _Value) -> str | None:
    """Return the words; a bare capital is one beside a letter that is set as text."""
    return value.text.casefold() if re.fullmatch("[A-Z]", value.text) else value.words


def _same_number(one: _Value, other: _Value) -> bool:
    assert one.number is not None
    assert other.number is not None
    if one.number == other.number:
        return True
    for rough, exact in ((one, other), (other, one)):
        if rough.decimals >= 6 and (exact.decimals == 0 or exact.decimals > rough.decimals):
            assert rough.number is not None
            assert exact.number is not None
            # Half a unit of the last place; the exact value must not vanish in it.
            if rough.number and abs(rough.number - exact.number) * 2 <= Fraction(
                1, 10**rough.decimals
            ):
                return abs(rough.number) > Fraction(1, 10**4)
    return False


def _same_parts(one: tuple[_Value, ...], other: tuple[_Value, ...], *, ordered: bool) -> bool:
    if ordered:
        return len(one) == len(other) and all(map(_same, one, other))
    # Of a set no member counts twice.
    one, other = _distinct(one), _distinct(other)
    return len(one) == len(other) and all(any(_same(a, b) for b in other) for a in one)


def _distinct(parts: tuple[_Value, ...]) -> tuple[_Value, ...]:
    kept: list[_Value] = []
    for part in parts:
        if not any(_same(part, other) for other in kept):
            kept.append(part)
    return tuple(kept)


@lru_cache(maxsize=4096)
def _read(span: str) -> _Value:
    if len(span) > LENGTH:
        return _Value(" ".join(span.split()))
    return _value(tidy(span))


def _value(text: str, depth: int = 0) -> _Value:
    words = words_of(text)
    if words:
        return _Value(words, words=words)
    if re.fullmatch(r"\\(?:text|mbox)\s*\{[^{}]*\d[^{}]*\}", text):
        text = text[text.index("{") + 1 : -1].strip()
    text = without_units(_after_relation(text))
    percent = bool(re.search(r"(?:\\?%|\bpercent)\s*$", text))
    if percent:
        text = re.sub(r"\s*(?:\\?%|\bpercent)\s*$", "", text)
    if depth < 3 and (parted := _parted(text, depth)):
        return parted
    base = _BASE.fullmatch(text)
    digits = base["digits"] if base else text
    number = number_of(digits)
    places = len(digits.partition(".")[2]) if re.fullmatch(r"[-+]?\s*\d*\.\d+", digits) else 0
    # Between letters a blank ends a command: '\\cdot x'.
    plain = (
        digits
        if base
        else re.sub(r"(?<![A-Za-z\d])\s+|(?<!\d)\s+(?![A-Za-z])|\s+(?![A-Za-z\d])", "", text)
    )
    plain = plain if number is None else str(number)
    return _Value(
        f"{plain}_{base['base']}" if base else f"{plain}%" if percent else plain,
        number=number,
        decimals=places,
        percent=percent,
        base=base["base"] if base else "",
        written=digits if base else text,
    )


def _after_relation(text: str) -> str:
    r"""Return the value of ``x = ...`` and ``x \in ...``, and of approximations the exact side."""
    if "\\approx" in text:
        exact, _, rough = text.rpartition("\\approx")
        is_name = re.fullmatch(r"\s*(?:\\?[A-Za-z]+|\\?[A-Za-z]\s*\([A-Za-z]\))?\s*", exact)
        text = (rough if is_name else exact).strip()
    text = re.sub(r"^\s*\\?[A-Za-z]\s*\\in(?![A-Za-z])\s*", "", text)
    left, equals, right = text.rpartition("=")
    # An equation such as y = 2x + 3 may itself be the answer: only a number follows here alone.
    if equals and "\\begin" not in text and not re.search(r"[<>,]|\\[lg]e", left):
        value = without_units(right)
        is_sum = not re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", left))
        if number_of(value) is not None and (is_sum or NAMED.fullmatch(left)):
            return value
    return text


def _parted(text: str, depth: int) -> _Value | None:
    """Take lists, tuples, intervals, sets and unions apart; None if the text is none of them."""
    if "\\begin" in text:
        return None
    union = _split(text, "\\cup")
    if len(union) > 1:
        return _many("u", union, depth)
    for opening in _OPEN:
        for closing in _OPEN.values():
            inner = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and _balanced(inner):
                members = _split(inner, ",")
                if len(members) > 1 or opening == "\\{":
                    return _many(opening + closing, members, depth)
    members = _split(text, ",")
    if len(members) > 1:
        return _many(",", members, depth)
    if found := re.fullmatch(r"([^,]*?)\\pm\s*([^,]+)", text):
        left, right = found[1].strip(), found[2].strip()
        if _balanced(left) and _balanced(right):
            return _many(",", [f"{left} + {right}" if left else right, f"{left} - {right}"], depth)
    return None


def _many(brackets: str, members: list[str], depth: int) -> _Value:
    parts = tuple(
        inner
        for member in members
        for value in [_value(member.strip(), depth + 1)]
        for inner in (value.parts if value.brackets == "," else (value,))
    )
    if len(parts) > _MEMBERS and not all(part.number is not None for part in parts):
        return _Value(f"{brackets}{[part.text for part in parts]}")
    if brackets == "," and len(alike := _distinct(parts)) == 1:
        # One value in two forms: '15 39/40, or 639/40'.
        return alike[0]
    return _Value(f"{brackets}{[part.text for part in parts]}", brackets=brackets, parts=parts)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside all brackets."""
    pieces, depth, start, position = [], 0, 0, 0
    while position < len(text):
        depth += (text[position] in "{([") - (text[position] in "})]")
        if depth == 0 and text.startswith(separator, position):
            pieces.append(text[start:position].strip())
            start = position + len(separator)
        position += 1
    return [piece for piece in [*pieces, text[start:].strip()] if piece]


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        if depth < 0:
            return False
    return depth == 0


def _related(one: _Value, other: _Value) -> bool:
    r"""Whether an interval and a chain of inequalities (``1 < x \le 2``) say the same."""
    interval, relation = (one, other) if one.brackets else (other, one)
    less = r"(<|\\le(?![A-Za-z]))"
    pattern = rf"(.+?){less}\s*\\?[A-Za-z]+{less}(.+)"
    found = re.fullmatch(pattern, relation.text)
    if not found or len(interval.parts) != 2:
        return False
    brackets = ("(" if found[2] == "<" else "[") + (")" if found[3] == "<" else "]")
    ends = (_value(found[1]), _value(found[4]))
    return brackets == interval.brackets and _same_parts(interval.parts, ends, ordered=True)
