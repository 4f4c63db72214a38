r"""Find the final answer that a text states, without knowing the right one.

What counts, the first kind that is there deciding:

1. The last ``\boxed{...}`` (also ``\fbox``, ``\framebox``). Boxes that only 'and', 'or' or a comma
   parts are one list; so are two boxes that a hedge parts ('or maybe', 'alternatively'). If the
   last box never closes, the text was cut off there and holds no answer.
2. The last line ``#### ...``, or the last ``<answer>...</answer>``.
3. The last statement 'the answer is ...', 'Answer: ...', or what stands below a heading 'Answer';
   what is said there as a number or a formula goes before what is said in words.
4. The whole text where it is one short line; else its last sentence, where that holds one bold
   text, one formula or one number. With several it is not said which is meant: no answer.

Inside a statement the value it begins with counts ('42 apples after 3 days' is 42), and 'a or b'
is the list of both, which equals neither. 'negative 5' and 'minus 5' are -5.
"""

from __future__ import annotations

import re
from itertools import pairwise

# A final answer stands at the end; what is before that many characters is not looked at.
_TAIL = 20_000
_SHORT = 200
# No final answer has more characters; the patterns below are meant for texts of this size.
_LONGEST = 2000
_NESTED = 5
_STATEMENTS = 50

_BOX = re.compile(r"\\(?:f?boxed|fbox|framebox)\b\s*")
# A sign in words. 'minus' between two values is none: it needs something to begin behind.
_SIGN = re.compile(
    r"(?:(?<!-)\b(?:\\text\s*\{\s*)?negative\b|\\text\s*\{\s*negative\b"
    r"|(?P<lead>(?:^|(?<=\s)(?:\*\*|__|\$)|[:={(#>]|\b(?:is|are|was|be|equals|or|and|exactly|about)\b)\s*)"
    r"(?:\\text\s*\{\s*)?minus\b)\s*\}?\s*"
    r"(?P<marks>(?:\*\*|__|\\\(|\\?\$)*)(?=\.?\d|\\[dt]?frac|\\sqrt)",
    re.I | re.M,
)
_PLUS_OR_MINUS = re.compile(r"\bplus or minus\s+(?=\.?\d|\\[dt]?frac|\\sqrt)", re.I)
_MARKS = re.compile(r"(?:[*_#>:=.!?\"'`$\\(\[\]-]\s*){12,}")
_TOKEN = re.compile(r"\\[A-Za-z]+|[\w.-]+")
_CONNECTOR = re.compile(
    r"(?:[\s$.,;:*&()\[\]\\]|\b(?:and|or|also|either)\b|\\(?:text|quad|qquad|mbox|textbf)\b|[{}]"
    r"|[A-Za-z]\s*=)*"
)
_HEDGE = re.compile(r"\b(?:or|alternatively|maybe|perhaps|possibly|might|could)\b", re.I)
_CORRECTION = re.compile(
    r"\b(?:no|not|wait|actually|instead|correct\w*|rather|sorry|mistake|error|so|thus|hence"
    r"|therefore|final(?:ly)?)\b",
    re.I,
)
_MARKED = re.compile(
    r"^[ \t]*#{4}[ \t]*(?![#\s])(.+)$|<answer>[ \t\n]*([^\s<][^<]*)</answer>", re.M
)
_SAYS = (
    r"(?:\b(?:is(?!n)|are(?!n)|was(?!n)|equals|(?:would|will|must|should) be|comes (?:out )?to)\b"
    r"|[:=\uff1a])"
)
_STATEMENT = re.compile(
    r"\b(?:answer|final (?:result|value|solution))s?\b"
    r"(?P<mid>(?:(?!\banswer)[^.!?\n:=]){0,120}?)"
    rf"(?:[\s*_]{{0,6}}{_SAYS}){{1,4}}(?:[*_]+(?=\s))?\s*(?=(?P<rest>\S[^\n]*))",
    re.I,
)
_HEADING = re.compile(
    r"^[\s#*_>-]*(?:(?:the|my)\s+)?(?:final\s+)?answer[\s*_:.]*\n\s*(?P<rest>\S[^\n]*)", re.I | re.M
)
# 'Answer - 5' is 5, but 'Answer -5' may be -5.
_DASHED = re.compile(
    r"^(?P<lead>[\s#*_>-]*(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?answer[*_]*)"
    r"\s*(?:(?<=[\s*_])[-\u2013\u2014]+(?=\s)|-+>|=>|\u2192)\s*(?=\S)",
    re.I | re.M,
)
_NEGATED = re.compile(r"\bnot\b|n['\u2019]t\b|\b(?:format|if|unless|whether)\b", re.I)
_DISPLAY = re.compile(r"(\\\[|\$\$)(.{1,2000}?)(\\\]|\$\$)", re.S)
# A dollar opens a formula if no blank follows it, and closes one if no blank stands before it and
# no digit follows: '$18 and $20' holds no formula.
_FORMULA = re.compile(
    r"\$\$(?P<a>.{1,2000}?)\$\$|\\\[(?P<b>.{1,2000}?)\\\]|\\\((?P<c>.{1,2000}?)\\\)"
    r"|(?<![\\$])\$(?=[^\s$])(?P<d>(?:\\.|[^$\n\\]){1,2000}?)(?<=[^\s\\])\$(?!\d)",
    re.S,
)
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.{1,1000}?)(?<=\S)\1")
_NUMBER = (
    r"[-+\u2212\u2013]?[ ]?(?:\\?[$\u20ac\u00a3\u00a5]\s?)?[-\u2212]?"
    r"(?:\d{1,3}(?:,\d{3})+(?![\d])|[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*/|-[A-Za-z])"
    r"|\d+)?(?:\.?\d+|(?<=\d))"
    r"(?:\s*[\u00bc-\u00be\u2150-\u215e])?"
    r"(?:e[-+]?\d+\b|\s*(?:\\times|\u00d7|\*|x)\s*10\s*\^\s*\{?-?\d+\}?)?"
    r"(?:\s+\d+\s*/\s*\d+|\s*/\s*\d+(?:\.\d+)?)?(?:\s*\\?%)?"
    r"(?:\s+(?:hundred|thousand|[mb]illion|trillion)\b)?"
)
_ANY_NUMBER = re.compile(rf"(?<![\w.,/^]){_NUMBER}", re.I)
_LEADING = re.compile(
    rf"(?:(?:about|exactly|approximately|roughly|around|only|simply|just|a total of|either|both"
    rf"|equal to)\s+)*(?P<value>{_NUMBER})(?![\w^(\[\\/*+=])"
    # What goes on is a computation: its first number is no answer.
    r"(?!\s*(?:[\u00d7\u00f7*+/=]|\\(?:times|cdot|div)(?![a-z])|[-\u2212]\s*\d"
    r"|(?:x|times|plus|minus|divided by|multiplied by)\s+[$]?\d))",
    re.I,
)
_MORE = re.compile(
    rf"(?:\s+[A-Za-z]+){{0,3}}?\s*(?:,|,?\s*\b(?:or|and)\b)\s*(?P<value>{_NUMBER})(?!\w)", re.I
)
_FUNCTIONS = re.compile(
    r"\\[A-Za-z]+|\b(?:sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|exp|oo|inf|infinity|or|and|mod|abs"
    r"|theta|alpha|beta|i)\b"
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_EMPTY_WORDS = re.compile(
    r"(?:correct|wrong|right|incorrect|consistent|reasonable|that|because|the same|clear|valid"
    r"|verified|in|as|given|obtained|found|what|when|where|how|unknown|unclear|below|above|shown"
    r"|confirmed|therefore|thus|then|now|follows?|also|indeed|still|likely|probably|not|none"
    r"|the sum|the number|the product|the following|it|this|these|we|you|i|to|at|on|by|for)\b",
    re.I,
)


def final_answer(text: str) -> str | None:
    """Return the final answer as it is written, without its dressing; None where there is none."""
    text = _signed(_DASHED.sub(r"\g<lead>: ", spaced(text)))
    boxed, is_cut = _boxed(text)
    if boxed or is_cut:
        return boxed
    if marked := [one[1] or one[2] for one in _MARKED.finditer(text)]:
        return _reduce(marked[-1], strict=False) or _undress(marked[-1]) or None
    # What is left of the boxes is empty.
    text = re.sub(r"\$?\\f?boxed\s*\{[^{}]*\}\$?", " ", text)
    return _stated(text) or _closing(text)


def spaced(text: str) -> str:
    """Return the end of a text without long runs of blanks and marks, over which patterns crawl."""
    text = re.sub(r"[^\S\n]+", " ", text[-_TAIL:].replace("\r\n", "\n"))
    return _MARKS.sub(lambda run: run[0][:3], re.sub(r"\n\s*\n", "\n\n", text))


def _signed(text: str) -> str:
    """Write signs that are words as signs: 'negative 5' is -5."""
    text = _PLUS_OR_MINUS.sub(r"\\pm ", text)
    return _SIGN.sub(lambda one: f"{one['lead'] or ''}{one['marks']}-", text)


def _boxed(text: str) -> tuple[str | None, bool]:
    """Return what the last box holds, and whether a last box begins that never ends."""
    is_cut = False
    boxes: list[tuple[int, int, str]] = []
    ends = _group_ends(text)
    for found in _BOX.finditer(text):
        if boxes and found.start() < boxes[-1][1]:
            continue
        start = found.end()
        token = _TOKEN.match(text, start)
        end = token.end() if token else ends.get(start)
        is_cut = end is None
        if end is None:
            continue
        content = text[start + 1 : end - 1] if text[start] == "{" else text[start:end]
        # A box within a box says the same; an empty one is a form that was copied.
        for _ in range(_NESTED):
            if inner := _BOX.search(content):
                end_inside = _group_ends(content).get(inner.end())
                content = content[inner.end() + 1 : end_inside - 1] if end_inside else content
        if content.strip(" ~.\\$?"):
            boxes.append((found.start(), end, content.strip()))
    if not boxes or is_cut:
        return None, is_cut
    values = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _joined(text[end:start]):
            break
        if content not in values:
            values.insert(0, content)
    return ", ".join(values), False


def _joined(gap: str) -> bool:
    if len(gap) > 100 or "\n\n" in gap.strip(" "):
        return False
    if _CONNECTOR.fullmatch(gap):
        return True
    return bool(_HEDGE.search(gap)) and not _CORRECTION.search(gap)


def _group_ends(text: str) -> dict[int, int]:
    """Return where each group ends, by where its brace opens; without those that never end."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            ends[opened.pop()] = found.end()
    return ends


def _stated(text: str) -> str | None:
    found = sorted(
        [*_STATEMENT.finditer(text), *_HEADING.finditer(text)], key=lambda one: one.start("rest")
    )
    words = None
    for one in reversed(found[-_STATEMENTS:]):
        rest = one["rest"]
        if _NEGATED.search(one.groupdict().get("mid") or "") or _NEGATED.match(rest):
            continue
        display = _DISPLAY.match(text, one.start("rest"))
        if display:
            rest = display[0]
        value = _reduce(_sentence(rest), strict=False)
        if value and re.search(r"[\d\\]", value):
            return value
        words = words or value
    return words


def _closing(text: str) -> str | None:
    whole = text.strip()
    if _NEGATED.search(whole[-_SHORT:]):
        return None
    is_short = len(whole) <= _SHORT and ("\n" not in whole or _FORMULA.fullmatch(whole))
    if is_short and (value := _reduce(whole, strict=False, alone=True)):
        return value
    paragraphs = [part for part in re.split(r"\n\s*\n", whole) if part.strip()]
    if not paragraphs:
        return None
    last = paragraphs[-1].strip()
    if not _DISPLAY.fullmatch(last):
        last = last.splitlines()[-1]
        sentences = [one for one in re.split(r"(?<=[.!?])\s+(?=[^a-z\s])", last) if one.strip()]
        last = sentences[-1] if sentences else last
    return _reduce(last, strict=True)


def _sentence(rest: str) -> str:
    """Cut at the end of the sentence: a full stop outside formulas that no digit follows."""
    spans = [found.span() for found in _FORMULA.finditer(rest)]
    for stop in re.finditer(r"[.!?](?=[*_\"')]*(?:\s|$))", rest):
        if not any(start <= stop.start() < end for start, end in spans):
            return rest[: stop.end()]
    return rest


def _undress(span: str) -> str:
    before = None if len(span) <= _LONGEST else span
    while before != span:
        before = span
        span = span.strip().strip("`\"'\u201c\u201d\u2018\u2019").strip()
        span = re.sub(r"(?:(?<!\d)[.]|(?<=\d)[.](?!\d)|[,;!])+$", "", span)
        span = re.sub(r"^[>#\u2022-]\s+", "", span)
        for mark in ("**", "__", "*", "_"):
            if span.startswith(mark) and span.endswith(mark) and len(span) > 2 * len(mark):
                span = span[len(mark) : -len(mark)]
        span = re.sub(r"^\*+|(?<!\*)\*\*$", "", span)
        formula = _FORMULA.fullmatch(span)
        if formula:
            span = next(group for group in formula.groups() if group is not None)
    return span


def _reduce(span: str, *, strict: bool, alone: bool = False) -> str | None:
    """Return the value that a sentence states.

    Args:
        span: The sentence, or what follows 'the answer is'.
        strict: Whether it is any sentence, so that only a value without a rival counts.
        alone: Whether the span is the whole text.
    """
    if len(span) > _LONGEST:
        return None
    bold = [found[2] for found in _BOLD.finditer(span)]
    bold = [one for one in bold if re.search(r"[\d$\\]", one)]
    if bold and (len(set(bold)) == 1 or not strict):
        return _reduce(bold[0], strict=False)
    bare = _undress(span)
    if not bare:
        return None
    formulas = list(_FORMULA.finditer(bare))
    if formulas:
        return _from_formulas(bare, formulas, strict)
    bare = bare.replace("\\$", "$")
    if not _WORD.search(_FUNCTIONS.sub(" ", bare)) and re.search(r"[\d\\=]|^[A-Za-z]$", bare):
        return bare
    if "\\" in bare and not re.search(r"\s[a-z]{2,}\s+[a-z]{2,}\s", bare):
        return bare
    return _from_words(bare, strict, alone)


def _from_formulas(span: str, formulas: list[re.Match[str]], strict: bool) -> str | None:
    values = [
        next(group for group in one.groups() if group is not None).strip() for one in formulas
    ]
    gaps = [span[a.end() : b.start()] for a, b in pairwise(formulas)]
    joined = 1
    while joined <= len(gaps) and _CONNECTOR.fullmatch(gaps[joined - 1]):
        joined += 1
    if joined == len(values) or not strict:
        outside = _FORMULA.sub(" ", span)
        before = span[: formulas[0].start()]
        rivals = _ANY_NUMBER.search(outside if strict else before)
        if not rivals:
            return ", ".join(dict.fromkeys(values[:joined]))
        if not strict:
            return _from_words(before, strict, False)
    return None


def _from_words(span: str, strict: bool, alone: bool) -> str | None:
    numbers = [found[0].strip() for found in _ANY_NUMBER.finditer(span)]
    leading = _LEADING.match(span)
    if leading:
        values = [leading["value"].strip()]
        position = leading.end()
        while more := _MORE.match(span, position):
            values.append(more["value"].strip())
            position = more.end()
        # Where nothing says that the answer comes now, a number without a part in it is a rival.
        if len(values) == len(numbers) or not (strict or alone):
            return ", ".join(dict.fromkeys(values))
    if len(numbers) == 1:
        return numbers[0]
    if equal := re.search(rf"=\s*(?P<value>{_NUMBER})[^=\d]*$", span):
        return equal["value"].strip()
    if numbers or strict or len(span) > 60 or _EMPTY_WORDS.match(span):
        return None
    return span if len(span.split()) <= (4 if not alone else 5) else None
