r"""Check answers to multiple choice: gpqa_diamond, mmlu_pro.

A letter counts where the text states it as its answer; the first kind that is there decides:

1. in the last ``\boxed{}`` or ``<answer>`` tag: ``C``, ``\text{(C)}``, ``C) text``;
2. in the last statement: 'the answer is (C)', '**Answer: C**', 'the correct option is C', 'C is
   correct', 'I choose C', a line that begins 'Answer - C', or what stands below a heading
   'Answer'; a statement that denies ('is not C') is none;
3. alone: the whole text or its last line is ``C``, ``(C).``, 'So C', or the only lines that begin
   as an option does begin with one letter ('C) text').

Where a statement, a box, the last line or the whole text names no letter but holds the text of
exactly one choice, that choice is the answer; this needs the texts in the reference.

A letter that is a word of the sentence is none: 'a', 'A catalyst', 'I think', 'vitamin C', 'C-14'.
Two letters stated as one answer ('A or C', 'both B and C') are wrong. A list of all options
without a statement holds no answer.

Source: none; the forms are those that chat models write. GPQA (arXiv:2311.12022) and MMLU-Pro
    (arXiv:2406.01574) define the questions.
Differs: the data sets' own extractors take ``\boxed{C}`` for no answer, and MMLU-Pro's the first
    'answer is X' for the final one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import tseval

from ._final import spaced

VERSION = "3"

# Characters of a last line in which 'it is C' is looked for.
_LINE = 500

_DRESS = (
    r"(?:[\s*_$({\[\"'`:<\u201c\u2018]|\\[(\[]"
    r"|\\(?:text|textbf|mathrm|mathbf|boxed|left|rm)(?![A-Za-z])){0,12}"
)
# Not a letter of a word, a name or a formula: 'Carbon', "A's", 'C-14', 'B12', 'C++', 'A = 3'.
_END = r"(?![\w+#^\u00b0=]|['\u2019]\w|[-\u2011]\w|\s*[=+^<>]|_\w|\.\w)"
# 'A' and 'I' are words where a sentence goes on behind them.
_GOES_ON = r"(?:\s+(?!(?:because|since|as|and|or|is|not|was|with|for|which)\b)[a-z])"
_LETTER = rf"(?P<letter>[B-HJ]{_END}|[AI]{_END}(?!{_GOES_ON}))"
_SMALL = rf"(?P<small>[a-j](?=\s*[)\]}}\"'.*$]*\s*(?:$|\n|[.)])){_END})"
_SAYS = (
    r"(?:\bis(?!n)\b|\bwas\b|\bwould be\b|\bmust be\b|\bshould be\b|\bwill be\b|\bseems to be\b"
    r"|\bappears to be\b|[:=\uff1a])"
)
_NOUN = (
    r"(?:correct(?=[\s*]*:)|answers?|options?|choices?|response|solution|ans|letter|\u7b54\u6848)"
)
_WHICH = (
    r"(?:\s*(?:option|choice|answer|letter|statement|be|therefore|thus|indeed|clearly|definitely"
    r"|most likely|probably|likely|either|both)\b){0,4}"
)
_FORWARD = re.compile(
    rf"(?i:\b{_NOUN}\b|\u7b54\u6848)(?P<mid>[^.!?\n:=]{{0,80}}?)[\s*_\"']{{0,6}}"
    rf"(?i:{_SAYS}[\s*_]{{0,6}}){{1,4}}(?i:{_WHICH}){_DRESS}(?:{_LETTER}|{_SMALL})"
)
_CHOSEN = re.compile(
    r"(?i:\b(?:i|we)(?:\s+(?:would|will|must|should|can)|['\u2019](?:d|ll))?\s+"
    r"(?:choose|pick|select|go with|answer|conclude(?: that it is)?)|\bgo(?:ing)? with"
    r"|\bmy (?:final )?(?:pick|choice) is)"
    rf"(?i:{_WHICH}){_DRESS}(?:{_LETTER})"
)
_BACKWARD = re.compile(
    r"(?<![\w'\u2019\\-])(?<!not )[(\[*]*(?P<letter>[A-J])[)\]*.]*"
    r"\s+(?i:is|would be|must be|seems|appears(?: to be)?)"
    r"\s+(?i:therefore |thus |clearly |indeed |definitely )?(?i:the\s+)?"
    r"(?i:most likely |only |best |single )*"
    r"(?i:correct|right|answer|best)\b(?!\s+(?i:if|only|when))"
)
_HEADING = re.compile(
    rf"(?im:^[\s#*_>-]*(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?(?:answer|choice)[\s*_:.]*\n\s*)"
    rf"{_DRESS}(?:{_LETTER}|{_SMALL})"
)
_DASHED = re.compile(
    r"(?im:^[\s#*_>-]*(?:(?:the|my|so|thus|hence)\s+)*(?:final\s+|correct\s+)*"
    r"(?:answer|(?<=correct )(?:option|choice))[\s*_]*"
    rf"(?:[-\u2013\u2014]+>?|=>|\u2192)\s*){_DRESS}(?:{_LETTER}|{_SMALL})"
    # 'A - D' are several.
    r"(?!\s*[-\u2013\u2014]\s*[A-J]\b)"
)
_MORE = re.compile(
    r"[)\]}*_$.\"']*\s*"
    r"(?:/|&|,?\s*\b(?:or|and)\b(?:\s+(?:option|choice|also|maybe|perhaps|possibly))*|,)"
    r"\s*[(\[*$]*(?P<letter>[A-J])(?![\w'\u2019+-])"
    r"(?!\s+(?:is|was|are|would|can|has|does|cannot|could|says|gives)\b)"
)
_NEGATED = re.compile(
    r"\b(?:not|never|neither|wrong|incorrect|if|unless|whether|eliminate\w*|rule\w* out)\b"
    r"|n['\u2019]t\b",
    re.I,
)
_TAG = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.I | re.S)
_BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OPTION = re.compile(r"^[\s>*_(\[-]*(?P<letter>[A-J])(?:[)\].:]+[*_)]*(?=\s|$)|[*_]*\s*$)")
_LED = re.compile(
    r"^\W*(?:(?:so|thus|hence|therefore|it['\u2019]s|it is|it must be|ans|option|choice|final"
    r"|answer|i think|probably|definitely|surely)\b[\s,:]*)*"
    rf"{_DRESS}(?:{_LETTER}|(?P<small>[a-j]))[)\]}}*_$.\"'`!\s\\]*$",
    re.I,
)


_IT_IS = re.compile(
    r"(?i:\b(?:it|that)(?:['\u2019]s| is| must be| has to be))"
    rf"(?i:{_WHICH}){_DRESS}(?:{_LETTER})[)\]}}*_$\s]*[.!]?[*\s]*$"
)


class _Reference(NamedTuple):
    """The right letter, and the texts of the choices in order (empty if they are not known)."""

    letter: str
    choices: tuple[str, ...] = ()


def check(reference: str, answer: str) -> dict[str, Any]:
    """Say whether an answer names the right choice.

    Args:
        reference: The right letter, or a JSON object: 'answer', the letter, and 'choices', the
            texts of all choices in the order in which they were asked.
        answer: The model's answer without its thinking trace.

    Returns:
        'correct', and 'extracted': the letter that the text states, upper case; several, as in
        'A, C', where it states them as one answer; None if it states none.

    Raises:
        tseval.DataError: The reference is no letter from A to J, or none of its choices.
    """
    right = _reference(reference)
    letters = _extract(spaced(answer), right.choices)
    return {"correct": letters == [right.letter], "extracted": ", ".join(letters) or None}


def classes(extracted: list[str | None], reference: str) -> list[int]:
    """Number the classes of equal answers, in order of appearance; -1 where there is none."""
    known: dict[str, int] = {}
    return [-1 if one is None else known.setdefault(one, len(known)) for one in extracted]


@lru_cache(maxsize=1024)
def _reference(reference: str) -> _Reference:
    import json

    letter = reference.strip()
    choices: tuple[str, ...] = ()
    if letter.startswith("{"):
        try:
            fields = json.loads(letter)
            letter, choices = fields["answer"], tuple(map(str, fields.get("choices", ())))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise tseval.DataError(
                f"no reference of a multiple choice: {reference[:80]!r}"
            ) from None
    letter = str(letter).strip().strip("()").upper()
    last = chr(ord("A") + len(choices) - 1) if choices else "J"
    if not re.fullmatch("[A-J]", letter) or letter > last:
        raise tseval.DataError(
            f"the right choice is {letter[:80]!r}, expected a letter from A to {last}"
        )
    return _Reference(letter, choices)


def _extract(text: str, choices: tuple[str, ...]) -> list[str]:
    found = _marked(text, choices) or _stated(text, choices) or _alone(text, choices)
    allowed = [chr(ord("A") + number) for number in range(len(choices) or 10)]
    return found if all(letter in allowed for letter in found) else []


def _marked(text: str, choices: tuple[str, ...]) -> list[str]:
    """Read the last box or tag that is not empty; boxes that only a connector parts are one."""
    boxes = [*_BOX.finditer(text), *_TAG.finditer(text)]
    boxes = sorted((box for box in boxes if box[1].strip()), key=lambda box: box.start())
    if not boxes:
        return []
    letters = _inside(boxes[-1][1], choices)
    for before, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        gap = re.sub(
            r"\\(?:text|mbox|q?quad)(?![a-z])|[{}]|\\[()\[\]]",
            " ",
            text[before.end() : after.start()],
        )
        if len(gap) > 60 or not re.fullmatch(r"(?:[\s$.,;*]|\b(?:and|or|also|maybe)\b)*", gap):
            break
        letters = [*_inside(before[1], choices), *letters]
    return list(dict.fromkeys(letters))


def _inside(content: str, choices: tuple[str, ...]) -> list[str]:
    plain = re.sub(
        r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox|left|right|bf)(?![A-Za-z])", "", content
    )
    plain = re.sub(r"[{}$*_\\~]", " ", plain).strip()
    found = re.match(
        r"(?i:(?:option|choice|answer)\W*)*[(\[\s]*([A-Ja-j])(?![\w'\u2019])(?!\s*[=+^])", plain
    )
    if found and (plain[found.end() :].strip(" ).]:") == "" or found[1].isupper()):
        rest = plain[found.end() :]
        several = [found[1].upper()]
        while more := _MORE.match(rest):
            several.append(more["letter"])
            rest = rest[more.end() :]
        is_word = found[1] == "A" and re.match(r"\s+[a-z]", rest)
        if not is_word:
            return list(dict.fromkeys(several))
    return _by_text(content, choices)


def _stated(text: str, choices: tuple[str, ...]) -> list[str]:
    found = [
        one
        for pattern in (_FORWARD, _CHOSEN, _BACKWARD, _HEADING, _DASHED)
        for one in _all(pattern, text)
        if not _is_denied(text, one)
    ]
    last = max(found, key=lambda one: (one.end(), -one.start()), default=None)
    worded = _stated_text(text, choices, after=last.end() if last else 0)
    if worded or last is None:
        return worded
    fields = last.groupdict()
    letters = [(fields.get("letter") or fields.get("small") or "").upper()]
    position = last.end()
    if last.re is _BACKWARD:
        before = re.search(
            r"\b([A-J])\)?,?\s+(?:or|and)\s+(?:option\s+)?[(\[*]*$", text[: last.start()]
        )
        letters += [before[1]] if before else []
        # 'A is the correct answer' may go on with what it is: that is no second letter.
        return letters
    while more := _MORE.match(text, position):
        letters.append(more["letter"])
        position = more.end()
    return list(dict.fromkeys(letters))


def _all(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Every match from every start: an early 'answer' must not hide a later one in its line."""
    matches = []
    position = 0
    while found := pattern.search(text, position):
        matches.append(found)
        position = found.start() + 1
    return matches


def _is_denied(text: str, found: re.Match[str]) -> bool:
    if _NEGATED.search(found.groupdict().get("mid") or ""):
        return True
    start = max(text.rfind(mark, 0, found.start()) for mark in (".", "\n", "!", "?", ";")) + 1
    lead = text[start : found.start()]
    behind = text[found.end() : found.end() + 40]
    return bool(
        re.search(r"\b(?:if|unless|whether|suppose|assume|not|n't|don't think)\b[^,]*$", lead, re.I)
        or re.match(r"[)\]*]*\s*(?:is|seems|looks)\s+(?:wrong|incorrect|false|not)\b", behind)
        or re.match(r"[)\]*]*\s*\?", behind)
    )


def _stated_text(text: str, choices: tuple[str, ...], after: int) -> list[str]:
    """Read the last statement behind ``after`` that gives a choice's text instead of its letter."""
    if not choices:
        return []
    pattern = rf"\b{_NOUN}\b(?P<mid>[^.!?\n:=]{{0,80}}?)[\s*_]{{0,6}}{_SAYS}\s*(?P<rest>\S[^\n]*)"
    for found in reversed(list(re.finditer(pattern, text[after:], re.I))):
        is_denied = _NEGATED.search(found["mid"]) or _NEGATED.match(found["rest"])
        if not is_denied and (letters := _by_text(found["rest"], choices)):
            return letters
    return []


def _alone(text: str, choices: tuple[str, ...]) -> list[str]:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return []
    led = _LED.match(lines[-1])
    if led and (led["letter"] or len(lines) == 1):
        return [(led["letter"] or led["small"]).upper()]
    if it_is := _IT_IS.search(lines[-1][-_LINE:]):
        return [it_is["letter"]]
    begun = {found["letter"] for line in lines if (found := _OPTION.match(line))}
    if begun:
        return list(begun) if len(begun) == 1 else []
    return _by_text(lines[-1], choices) or (_by_text(text, choices) if len(lines) <= 3 else [])


def _by_text(text: str, choices: tuple[str, ...]) -> list[str]:
    """Return the one choice whose text is in ``text``; not one that is part of a longer one."""
    haystack = f" {_plain(text)} "
    texts = [_plain(choice) for choice in choices]
    inside = [one for one in dict.fromkeys(texts) if one and f" {one} " in haystack]
    inside = [
        one
        for one in inside
        if not any(one != other and f" {one} " in f" {other} " for other in inside)
    ]
    if len(inside) != 1 or texts.count(inside[0]) != 1:
        return []
    return [chr(ord("A") + texts.index(inside[0]))]


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|left|right|textbf|mathbf)(?![A-Za-z])|[$*{}~\"'`]", " ", text)
    text = re.sub(r"(?<!\w)[(\[]|[)\]](?!\w)|[.,;:!?](?=\s|$)|\\[(),;!\[\]]", " ", text.casefold())
    return " ".join(text.split())
