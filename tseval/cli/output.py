"""Print scorecards and lists: as a table, as Markdown, or as JSON records on stdout."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tseval.runfolder import Manifest, Scorecard

Form = Literal["json", "markdown", "table"]
# Wide enough for every column where the output is no terminal, so that nothing is wrapped.
_PLAIN_WIDTH = 200


def console() -> Any:
    """Make a console on stdout that does not squeeze tables when it is piped."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, highlight=False, emoji=False, markup=False)


def remarks_of(manifest: "Manifest") -> list[str]:
    """Say what belongs beside a run's scores: its warnings, and what it ran on."""
    executions = [leg.execution for leg in manifest.legs if leg.execution]
    keys = ("engine", "dtype", "device")
    ran = dict.fromkeys(", ".join(e[key] for key in keys if key in e) for e in executions)
    return [*manifest.warnings, *(f"run on {each}" for each in ran if each)]


def print_scorecard(
    scorecard: "Scorecard", warnings: Iterable[str], form: Form, *, members: bool = True
) -> None:
    """Print a scorecard on stdout; as JSON always with the members of panels."""
    from tseval.report import table

    if form == "json":
        print_json(scorecard)
    elif form == "markdown":
        sys.stdout.write(table.markdown(scorecard, warnings, members=members))
    else:
        console().print(table.rich_table(scorecard, warnings, members=members))


def print_json(value: Any) -> None:
    """Print plain values as one indented JSON document with sorted keys."""
    import msgspec

    from tseval.protocol import canonical_json

    sys.stdout.write(msgspec.json.format(canonical_json(value), indent=2).decode() + "\n")


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain list as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tseval.report.text import neutral

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        shown.add_column(heading)
    for row in rows:
        shown.add_row(*(Text(neutral(cell)) for cell in row))
    console().print(shown)
