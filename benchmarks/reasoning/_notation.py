r"""Bring an answer's notation to one form, so that equal writings become equal texts.

LaTeX, Unicode and keyboard notation are brought to plain LaTeX: ``½``, ``1/2`` stays ``1/2``,
``√3`` and ``sqrt(3)`` become ``\sqrt{3}``; spacing, sizes, fonts, currency, thousands separators
and units go. Nothing is computed here.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

# Longest answer that is read as mathematics, in characters; the longest reference of the sets that
# this was written for has 56.
LENGTH = 400

_SYMBOLS = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\u2011": "-", "\ufe63": "-",
    "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2217": r"\cdot ",
    "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u03c0": r"\pi ", "\u03b8": r"\theta ",
    "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u221e": r"\infty ", "\u222a": r"\cup ",
    "\u2229": r"\cap ", "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u00b0": r"^\circ ",
    "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2208": r"\in ",
    "\u2248": r"\approx ", "\u2245": r"\approx ", "\u2061": "", "\u200b": "", "\ufeff": "",
    "\u2032": "'",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-"
)
_SUPERSCRIPT_RUN = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_SUBSCRIPT_RUN = re.compile("[\u2080-\u2089]+")
_OVERLINED = re.compile("(?:\\d\u0305)+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")

_DROPPED = re.compile(
    r"\\(?:left|right|m?big[lr]?|Big[lr]?|bigg[lr]?|Bigg[lr]?|displaystyle|textstyle|limits"
    r"|nolimits|hfill|null)(?![A-Za-z])|(?<!\\)\\[!,;:> ]|~|\\q?quad(?![A-Za-z])|\\&"
)
_FONTS = re.compile(
    r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|textbf|textit|emph|bf|pmb)(?![A-Za-z])"
)
_TEXT = re.compile(r"\\(?:text|textrm|textnormal|mathrm|mbox|hbox|rm|operatorname)\s*\{([^{}]*)\}")
_ALIASES = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:neq)(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\(?:simeq|thickapprox|approxeq)(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:begin|end)\{[bBvV]matrix\}"), None),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|\\textdegree"), " "),
    (re.compile(r"(?<!\\)\bsqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\u221a\s*(\d+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=\d)\s*x\s*(?=10\s*\^)"), r"\\times "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])", re.I), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])(pi|sin|cos|tan|cot|sec|csc|ln|log|theta)(?![a-z])"), r"\\\1 "),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
)
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:,|\{,\})\d{3})+)(?!\d)")
# A blank parts thousands as well ('5 000'), but not the whole from the part of a mixed number.
_SPACED = re.compile(r"(?<![\d.,/])([1-9]\d{0,2})((?: \d{3})+)(?!\d|\s*(?:/|\\frac))")
_CONNECTED = re.compile(
    r"(?:,\s*)?(?:\\text\s*\{\s*)?(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])(?:\s*\})?"
)
# A unit behind a number: words, perhaps with a power. Letters that are joined to the number are
# variables ('2xy') unless they are a usual unit or a long word.
_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_USUAL = r"(?:[cmk]m|kg|mg|ft|in|lbs?|oz|ml|hrs?|mins?|sec|mph|km/h|cents?|feet|miles?|am|pm)"
_UNIT = re.compile(
    rf"(?<=[\d)}}%])(?:\s*-?\s*{_USUAL}|\s*-\s*[A-Za-z]{{3,}}|\s*[A-Za-z]{{5,}}|\s+[A-Za-z]{{3,}})"
    rf"(?:[\s./-]*[A-Za-z]+)*\.?{_POWER}\s*$"
)
_SHORT_UNIT = re.compile(rf"(?<=\d)\s*(?:[mgshLVNJW]|m/s|g/L){_POWER}\s*$")
_KEPT_WORDS = re.compile(
    r"\\?(?:sqrt|frac|pi|sin|cos|tan|cot|sec|csc|ln|log|infty|theta|cdot|times|cup|cap|alpha|beta)"
)
_CURRENCY = re.compile(r"\\?[$\u20ac\u00a3\u00a5]|(?<![A-Za-z])(?:USD|EUR|Rs\.?)(?![A-Za-z])")


def tidy(span: str) -> str:
    """Bring notation to one form; units, currency, fonts and spacing go."""
    text = _VULGAR.sub(lambda one: f" {unicodedata.normalize('NFKC', one[0])}", span)
    text = _SUPERSCRIPT_RUN.sub(lambda one: f"^{{{one[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda one: f"_{{{unicodedata.normalize('NFKC', one[0])}}}", text)
    text = "".join(_SYMBOLS.get(one, one) for one in unicodedata.normalize("NFKC", text))
    text = "".join(_SYMBOLS.get(one, one) for one in text)
    text = _OVERLINED.sub(lambda one: rf"\overline{{{re.sub(chr(0x305), '', one[0])}}}", text)
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = re.sub(r"(?<=\d)(?:\\[,; ]|~|\u202f)(?=\d{3}(?!\d))", "", text)
    text = _FONTS.sub("", _DROPPED.sub(" ", text))
    text = _CURRENCY.sub("", text)
    for pattern, by in _ALIASES:
        if by is None:
            text = pattern.sub(lambda one: re.sub(r"[bBvV]matrix", "pmatrix", one[0]), text)
        else:
            text = pattern.sub(by, text)
    text = _CONNECTED.sub(",", text)
    text = _THOUSANDS.sub(lambda one: one[1] + re.sub(r"\D", "", one[2]), text)
    text = re.sub(r"\s+", " ", text).strip()
    text = _SPACED.sub(lambda one: one[1] + one[2].replace(" ", ""), text)
    return _without_dressing(text)


def _without_dressing(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = text.strip().rstrip(".,;").strip()
        if text.startswith("{") and text.endswith("}") and _closes_last(text):
            text = text[1:-1]
    return text


def _closes_last(text: str) -> bool:
    """Whether the group that the first character opens is closed by the last one."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "{([") - (character in "})]")
        if depth == 0:
            return position == len(text) - 1
    return False


def words_of(tidied: str) -> str | None:
    """Return the words of an answer that is words ('Evelyn', '(C)'), lower case; else None.

    A single bare letter is a variable, not a word, unless it is set as text or in brackets.
    """
    plain = _TEXT.sub(r"\1", tidied)
    is_text = plain != tidied
    plain = plain.strip().strip("().").strip()
    if not plain or re.search(r"[\d\\^_=+*/{}<>|]", plain) or not re.search(r"[^\W\d_]", plain):
        return None
    if len(plain) == 1 and not is_text and not tidied.startswith("("):
        return None
    if not is_text and not re.search(r"[^\W\d_]{2,}|^\(?[A-Z]\)?$", plain):
        return None
    return " ".join(re.sub(r"[^\w\s]", " ", plain).casefold().split())


def without_units(tidied: str) -> str:
    r"""Drop what follows a number as its unit: ``6\\text{ cm}^2``, '42 apples', '5 km/h'."""
    text = re.sub(r"^\s*(?:\\text\s*\{[^{}]*\})\s*(?=[-\d.\\])", "", tidied)
    text = re.sub(
        r"(?<=[\d)}\]%A-Za-z])\s*(?:\\(?:text|textrm|mathrm|mbox|hbox|operatorname)\s*\{[^{}]*\}"
        r"\s*(?:\^\s*\{?-?\d\}?|/)?\s*)+$",
        "",
        text,
    )
    found = _UNIT.search(text)
    if found and not _KEPT_WORDS.search(found[0]):
        text = text[: found.start()]
    return _without_dressing(text)


def without_short_unit(tidied: str) -> str:
    """Drop the letter of a unit behind a number ('5 m'), which elsewhere is a variable."""
    return _SHORT_UNIT.sub("", tidied)


_INTEGER = r"\d+"
_PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:"
    rf"(?P<whole>{_INTEGER})(?P<mixed>\s+\d+\s*/\s*\d+|\s*\\frac\s*\{{\d+\}}\s*\{{\d+\}})"
    rf"|(?P<top>\d+(?:\.\d+)?|\.\d+)\s*/\s*(?P<bottom>[-+]?\d+(?:\.\d+)?)"
    rf"|\\frac\s*\{{\s*(?P<ftop>[-+]?\d+(?:\.\d+)?)\s*\}}\s*\{{\s*(?P<fbottom>[-+]?\d+(?:\.\d+)?)\s*\}}"
    # Digits that repeat without end.
    rf"|(?P<before>\d*)\.(?P<once>\d*)(?:\\(?:overline|bar|dot)\s*(?:\{{\s*(?P<period>\d+)\s*\}}"
    rf"|(?P<digit>\d))|\((?P<bracketed>\d+)\))"
    rf"|(?P<decimal>\d+\.?\d*|\.\d+)"
    rf"(?:[eE](?P<exp>[-+]?\d{{1,3}})|\s*\\(?:times|cdot)\s*10\s*\^\s*\{{?\s*(?P<power>[-+]?\d{{1,3}})\s*\}}?)?"
    rf")"
)


def number_of(text: str) -> Fraction | None:
    r"""Read a plain number: integer, decimal, fraction, mixed, scientific, repeating decimal.

    None if it is none. Of ``0.1\overline{6}`` the digits under the line repeat: 1/6.
    """
    if len(text) > LENGTH:
        return None
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and _closes_last(text):
        text = text[1:-1].strip()
    found = _PLAIN.fullmatch(text)
    if not found:
        return None
    sign = -1 if found["sign"] == "-" else 1
    try:
        if found["mixed"]:
            top, bottom = re.findall(r"\d+", found["mixed"])
            return sign * (int(found["whole"]) + Fraction(int(top), int(bottom)))
        if found["top"] or found["ftop"]:
            top, bottom = found["top"] or found["ftop"], found["bottom"] or found["fbottom"]
            return sign * Fraction(top) / Fraction(bottom)
        period = found["period"] or found["digit"] or found["bracketed"]
        if period:
            once = found["once"]
            start = Fraction(int(f"{found['before']}{once}" or "0"), 10 ** len(once))
            repeated = Fraction(int(period), 10 ** len(period) - 1) / 10 ** len(once)
            return sign * (start + repeated)
        power = found["exp"] or found["power"] or "0"
        return sign * Fraction(found["decimal"].rstrip(".")) * Fraction(10) ** int(power)
    except (ZeroDivisionError, ValueError):
        return None
