"""Docstrings and values as Markdown, for the generated pages of the reference."""

import inspect
import re
from collections.abc import Iterable, Sequence

# Google's sections whose items are 'name: text', and those that hold prose.
_ITEMS = ("Args", "Attributes", "Raises")
_PROSE = ("Returns", "Yields")
_CODE = ("Example", "Examples")
_HEADER = re.compile(rf"({'|'.join((*_ITEMS, *_PROSE, *_CODE))}):$")
# 'Source: ...' and the like, which run over the lines behind them.
_LABEL = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?): (.+)$")
_ITEM = re.compile(r"([A-Za-z_*][\w.*, ]*?): (.+)$")
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_SPAN = re.compile(r"(`+.+?`+)", re.DOTALL)


def inline(text: str) -> str:
    """One run of text: code spans as Markdown has them, the rest without meaning to Markdown."""
    parts = _SPAN.split(_ROLE.sub(r"`\1`", text).replace("``", "`"))
    for place in range(0, len(parts), 2):
        escaped = parts[place].replace("*", r"\*").replace("__", r"\_\_").replace("<", "&lt;")
        parts[place] = escaped
    return " ".join("".join(parts).split())


def cell(value: object) -> str:
    """A cell of a table."""
    return inline(str(value)).replace("|", r"\|")


def code(text: str) -> str:
    """A code span, or nothing; a bar in it would end the cell of a table."""
    clean = " ".join(text.split()).replace("|", r"\|")
    return f"`{clean}`" if clean else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def docstring(text: str | None) -> str:
    """A docstring with Google's sections as Markdown, '' for none."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        lines = block.splitlines()
        blocks.extend(_block(lines))
    return "\n\n".join(filter(None, blocks))


def _block(lines: list[str]) -> list[str]:
    """Everything that stands between two empty lines."""
    header = _HEADER.match(lines[0])
    if header is not None:
        return [f"**{header[1]}**", _section(header[1], lines[1:])]
    if all(line.startswith("    ") for line in lines):
        return [_fence(lines, "text")]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        label = _LABEL.match(line)
        if label is not None or line.startswith("- "):
            paragraphs.append([])
        if label is not None:
            paragraphs[-1].append(f"**{label[1]}.** {inline(label[2])}")
        else:
            paragraphs[-1].append(inline(line))
    return ["\n".join(paragraph) for paragraph in paragraphs if paragraph]


def _section(name: str, lines: list[str]) -> str:
    if name in _CODE:
        return _fence(lines, "python")
    margin = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    if name in _PROSE:
        return inline(" ".join(lines))
    items: list[str] = []
    for line in lines:
        text = line[margin:]
        found = None if text.startswith(" ") else _ITEM.match(text)
        if found is not None:
            items.append(f"- `{found[1]}`: {inline(found[2])}")
        elif text.startswith(" ") and items:
            items[-1] += f" {inline(text)}"
        else:
            items.append(f"- {inline(text)}")
    return "\n".join(items)


def _fence(lines: list[str], language: str) -> str:
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join([f"```{language}", *(line[margin:] for line in lines), "```"])
