"""A board as LaTeX tables that can be pasted into a paper."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

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
_HEAD = """\
% Needs \\usepackage{booktabs} and \\usepackage{textcomp} in the preamble; wide tables fit with
% \\usepackage{graphicx} and \\resizebox{\\linewidth}{!}{...} around the tabular.
"""


def escape(text: str) -> str:
    """Escape a text for LaTeX: it is printed, and no command, comment or formula is left in it.

    Letters that the basic fonts of pdfLaTeX lack are written as their code points: '(U+4E2D)'.
    """
    joined = "".join(map(_escaped, neutral(text)))
    # Two dashes would become a longer one.
    return joined.replace("--", "-{}-").replace("--", "-{}-")


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character == " " or "!" <= character <= "~":
        return character
    # Letters of Latin alphabets; also those that are put together of a letter and an accent.
    if character < "\u0180" and unicodedata.category(character) in ("Ll", "Lu"):
        return character
    return f"(U+{ord(character):04X})"


def board_latex(standing: Standing) -> str:
    """Write a board as LaTeX: one table for each protocol, and one of reported figures."""
    parts = [_HEAD]
    for number, table in enumerate(standing.tables):
        if table.rows:
            parts.append(_measured(standing, table, number))
    if standing.reported:
        parts.append(_reported(standing))
    return "\n".join(parts)


def _measured(standing: Standing, table: Table, number: int) -> str:
    columns = cells.columns_of(standing, table.rows)
    heads = ["", "Model", *(_heading(column) for column in columns)]
    lines = [
        [
            "--" if row.rank is None else str(row.rank),
            _label(row),
            *(_cell(cells.cell_of(row, column)) for column in columns),
        ]
        for row in table.rows
    ]
    caption = f"{standing.board.title}: {table.title}. " + ". ".join(_notes(standing, table))
    label = "" if number == 0 else f"-{number + 1}"
    name = _label_name(standing)
    return _table(f"rl{'r' * len(columns)}", heads, lines, caption, f"tab:{name}{label}")


def _reported(standing: Standing) -> str:
    columns = cells.columns_of(standing, standing.reported)
    heads = ["Model", *(_heading(column) for column in columns), "Source"]
    lines = [
        [
            _label(row),
            *(_cell(cells.cell_of(row, column)) for column in columns),
            escape("; ".join(filter(None, (row.source, *cells.row_notes(row))))),
        ]
        for row in standing.reported
    ]
    caption = f"{standing.board.title}: reported. {cells.REPORTED}."
    name = f"tab:{_label_name(standing)}-reported"
    return _table(f"l{'r' * len(columns)}l", heads, lines, caption, name)


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
    unit = r" (\%)" if column.unit == "share" else ""
    return f"{escape(column.title)}{unit} {_arrow(column)}".rstrip()


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
