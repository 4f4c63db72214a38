"""Make text from models and servers safe to print."""

import re
import unicodedata

# What starts a table cell, a tag, an entity, emphasis or code, and what makes brackets a link.
# Underscores are left: inside a word they mean nothing, and names are full of them.
_MARKDOWN = re.compile(r"[\\`*|<&]|\](?=[(\[:])")

_LINE_END = re.compile(r"\r\n?|[\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


def neutral(text: str, limit: int | None = None) -> str:
    """Neutralise what a terminal would act on.

    Escape sequences, control characters and direction overrides become visible symbols; tabs and
    line ends of any kind become spaces.

    Args:
        text: Anything that a model, a dataset or a server wrote.
        limit: Cut to this many characters, with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    return text.translate(_SHOWN)


def shortened(text: str, limit: int) -> str:
    """Cut a name to so many characters in its middle: names that begin alike differ at the end."""
    if len(text) <= limit:
        return text
    tail = 2 * limit // 3
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"


def neutral_lines(text: str) -> str:
    """Neutralise a text as :func:`neutral` does, but keep its lines."""
    return "\n".join(map(neutral, _LINE_END.split(text)))


def for_markdown(text: str) -> str:
    """Neutralise a text, and escape what Markdown or the HTML in it would act on."""
    return _MARKDOWN.sub(r"\\\g<0>", neutral(text))


def for_json(text: str) -> str:
    """Escape in JSON what a terminal would act on, so that it may be printed and still be read."""
    return text.translate(_ESCAPED)


class _Escaped(dict[int, str]):
    """What each character is in JSON that is printed, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        # A line end stands between the parts of JSON; inside of its texts there is none.
        acts = character != "\n" and _acts(character)
        units = character.encode("utf-16-be", "surrogatepass").hex()
        escapes = "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
        found = self[code] = escapes if acts else character
        return found


class _Shown(dict[int, str]):
    """What each character is shown as, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        shown = self[code] = _shown(chr(code))
        return shown


# Cc: controls; Cf: direction overrides and other invisible format characters; Cs, Co: surrogates
# and private use.
_ACTING = ("Cc", "Cf", "Cs", "Co")
_SHOWN = _Shown()
_ESCAPED = _Escaped()


def _shown(character: str) -> str:
    if character in "\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        return " "
    if character < " ":
        return chr(0x2400 + ord(character))
    return "\ufffd" if _acts(character) else character


def _acts(character: str) -> bool:
    """Whether a character does more than be seen, or is none: XML forbids noncharacters."""
    code = ord(character)
    none = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return none or unicodedata.category(character) in _ACTING
