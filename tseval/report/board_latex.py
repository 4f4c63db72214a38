"""A board as LaTeX tables that can be pasted into a paper."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from tseval.leaderboard.records import Cell, Column, Row, Standing, Table
from tseval.report import board_cells as cells
from tseval.report.text import neutral

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    # Brackets are the optional argument of what stands before them, a star its variant.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}
# Letters below U+0180 that the T1 encoding has no command for.
_NOT_IN_T1 = frozenset("ĦħĸĿŀŉŦŧſ")
_HEAD = """\
% Needs in the preamble:
%   \\usepackage[T1]{fontenc}  % quotation marks and letters such as o-slash, thorn and d-stroke
%   \\usepackage[utf8]{inputenc}  % only in a LaTeX older than 2018
%   \\usepackage{textcomp}  % only in a LaTeX older than 2020
%   \\usepackage{booktabs}
% A table that is still too wide fits with \\usepackage{graphicx} and
% \\resizebox{\\linewidth}{!}{...} around the tabular.
"""
# Columns of a table: more are another table. Characters of a heading's line.
_WIDEST = 4
_HEADING = 16
# Names of models are broken.
_MODEL = r"p{0.27\linewidth}"


def escape(text: str) -> str:
    """Escape a text for LaTeX: it is printed, and no command, comment or formula is left in it.

    Letters that pdfLaTeX lacks in the encoding T1 are written as their code points: '(U+4E2D)'.
    """
    joined = "".join(map(_escaped, neutral(text)))
    # Two dashes would become a longer one, two commas or apostrophes a quotation mark.
    return re.sub(r"([-,'])(?=\1)", r"\1{}", joined)


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character == " " or "!" <= character <= "~":
        return character
    # Letters of Latin alphabets; also those that are put together of a letter and an accent.
    if character < "\u0180" and unicodedata.category(character) in ("Ll", "Lu"):
        return f"(U+{ord(character):04X})" if character in _NOT_IN_T1 else character
    return f"(U+{ord(character):04X})"


def board_latex(standing: Standing) -> str:
    """Write a board as LaTeX: one table for each protocol, and one of reported figures."""
    parts = [_HEAD]
    for number, table in enumerate(standing.tables):
        if table.rows:
            parts += _measured(standing, table, number)
    if standing.reported:
        parts += _reported(standing)
    return "\n".join(parts)


class _Part(NamedTuple):
    """Some of a table's columns, which stand in a table of their own where they are many."""

    columns: Sequence[Column]
    number: int
    of: int

    def caption(self, title: str, notes: str) -> str:
        """Give its caption; the notes stand once, below the first part."""
        said = f"{title} (part {self.number} of {self.of})" if self.of > 1 else title
        return f"{said}. {notes}" if self.number == 1 else said

    def label(self, name: str) -> str:
        """Name it."""
        return name if self.number == 1 else f"{name}-part{self.number}"


def _parts(columns: Sequence[Column]) -> list[_Part]:
    found = [columns[start : start + _WIDEST] for start in range(0, len(columns), _WIDEST)]
    return [_Part(each, place, len(found)) for place, each in enumerate(found, 1)]


def _measured(standing: Standing, table: Table, number: int) -> Iterator[str]:
    title = f"{standing.board.title}: {table.title}"
    notes = ". ".join(_notes(standing, table))
    name = f"tab:{_label_name(standing)}" + ("" if number == 0 else f"-{number + 1}")
    for part in _parts(cells.columns_of(standing, table.rows)):
        heads = ["", "Model", *map(_heading, part.columns)]
        lines = [
            ["--" if row.rank is None else str(row.rank), *_line(row, part.columns)]
            for row in table.rows
        ]
        layout = f"r{_MODEL}{'r' * len(part.columns)}"
        yield _table(layout, heads, lines, part.caption(title, notes), part.label(name))


def _reported(standing: Standing) -> Iterator[str]:
    rows = standing.reported
    said = ["; ".join(filter(None, (row.source, *cells.row_notes(row)))) for row in rows]
    sources = {text: _letter(place) for place, text in enumerate(dict.fromkeys(said))}
    notes = f"{cells.REPORTED}." + "".join(f" {key}: {text}." for text, key in sources.items())
    title = f"{standing.board.title}: reported"
    name = f"tab:{_label_name(standing)}-reported"
    for part in _parts(cells.columns_of(standing, rows)):
        heads = ["Model", *map(_heading, part.columns), "Source"]
        lines = [
            [*_line(row, part.columns), sources[text]] for row, text in zip(rows, said, strict=True)
        ]
        layout = f"{_MODEL}{'r' * len(part.columns)}l"
        yield _table(layout, heads, lines, part.caption(title, notes), part.label(name))


def _line(row: Row, columns: Iterable[Column]) -> list[str]:
    return [_label(row), *(_cell(cells.cell_of(row, column)) for column in columns)]


def _table(
    layout: str, heads: Sequence[str], lines: Iterable[Sequence[str]], caption: str, name: str
) -> str:
    body = "\n".join(f"  {' & '.join(line)} \\\\" for line in lines)
    return (
        "\\begin{table}\n"
        "  \\centering\\small\n"
        f"  \\caption{{{escape(caption)}}}\n"
        f"  \\label{{{name}}}\n"
        f"  \\begin{{tabular}}{{{layout}}}\n"
        "  \\toprule\n"
        f"  {' & '.join(heads)} \\\\\n"
        "  \\midrule\n"
        f"{body}\n"
        "  \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}\n"
    )


def _heading(column: Column) -> str:
    """Write a heading in lines, so that a column is as wide as its values."""
    unit = r" (\%)" if column.unit == "share" else ""
    lines = [escape(line) for line in wrap(neutral(column.title), _HEADING)] or [""]
    lines[-1] = f"{lines[-1]}{unit} {_arrow(column)}".rstrip()
    stacked = r"\\ ".join(lines)
    return rf"\shortstack[r]{{{stacked}}}" if len(lines) > 1 else stacked


def _letter(place: int) -> str:
    """Name a source: a to z, then aa and so on."""
    rest, letter = divmod(place, 26)
    return (_letter(rest - 1) if rest else "") + chr(ord("a") + letter)


def _arrow(column: Column) -> str:
    better = column.higher_is_better
    return "" if better is None else r"$\uparrow$" if better else r"$\downarrow$"


def _label(row: Row) -> str:
    demonstration = cells.kind_of(row) == "demonstration"
    return escape(row.label) + (r"\textsuperscript{d}" if demonstration else "")


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    # The unit stands in the heading, the interval in small print behind the value.
    said = escape(cells.value_text(cell).removesuffix("%"))
    interval = cells.interval_text(cell)
    if interval:
        said += rf" {{\scriptsize{interval}}}"
    marks = "".join(_marks(cell))
    return said + (rf"\textsuperscript{{{marks}}}" if marks else "")


def _marks(cell: Cell) -> Iterator[str]:
    if cell.partial:
        yield "p"
    if any(cell.excluded.values()):
        yield "x"


def _notes(standing: Standing, table: Table) -> Iterator[str]:
    yield "Values with 95% intervals"
    columns = cells.columns_of(standing, table.rows)
    yield "n: " + ", ".join(filter(None, (_sizes(table.rows, column) for column in columns)))
    found = {mark for row in table.rows for cell in row.cells.values() for mark in _marks(cell)}
    if any(cells.kind_of(row) == "demonstration" for row in table.rows):
        yield "d: a demonstration"
    if "p" in found:
        yield "p: partial, a subset of the rows"
    if "x" in found:
        yield "x: rollouts without a usable verdict left the denominator"
    if table.ranked:
        by = cells.titles(standing, table.ranked_by)
        yield f"{cells.RANKS} on one of {by}, and worse on none"


def _sizes(rows: Iterable[Row], column: Column) -> str:
    """Say how many rollouts stand behind the values of a column."""
    found = [cells.cell_of(row, column).n for row in rows]
    known = sorted({n for n in found if n})
    if not known:
        return ""
    span = str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return f"{column.title} {span}"


def _label_name(standing: Standing) -> str:
    """Make a name that a LaTeX label may have."""
    name = standing.board.name
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name)
