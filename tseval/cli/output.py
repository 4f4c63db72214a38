"""Put results out: tables, Markdown or JSON on stdout, a web page into a file."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tseval.report.html import Part
    from tseval.report.judges import Page
    from tseval.report.rows import RowBook
    from tseval.runfolder import Manifest, RunFolder, Scorecard
    from tseval.spec import RunSpec

Form = Literal["json", "markdown", "table"]
# Wide enough for every column where the output is no terminal, so that nothing is wrapped.
_PLAIN_WIDTH = 200


def form_of(given: dict[str, Any]) -> Form:
    """Say which form the flags of a command ask for; --json wins over --markdown."""
    if given["json"]:
        return "json"
    return "markdown" if given["markdown"] else "table"


def console() -> Any:
    """Make a console on stdout that does not squeeze tables when it is piped."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            # rich would exit with 1 here; what a closed pipe means, the command decides.
            raise BrokenPipeError

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Plain(width=width, highlight=False, emoji=False, markup=False)


def remarks_of(manifest: "Manifest") -> list[str]:
    """Say what belongs beside a run's scores: what the model was under, warnings, engines."""
    executions = [leg.execution for leg in manifest.legs if leg.execution]
    keys = ("engine", "dtype", "device")
    ran = dict.fromkeys(", ".join(e[key] for key in keys if key in e) for e in executions)
    return [*_under(manifest.spec), *manifest.warnings, *(f"run on {each}" for each in ran if each)]


def _under(spec: "RunSpec") -> list[str]:
    """Say what the model's name does not: a defence is no part of it."""
    found = [f"under the intervention {spec.intervention}"] if spec.intervention else []
    if spec.system_prompt:
        found.append(f"under a system prompt of {len(spec.system_prompt)} characters")
    return found


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


REDACT_HELP = (
    "Leave traces and answers to harmful prompts, and what judges wrote about them, out of the web"
    " page; default: {default}."
)


def write_page(
    folder: "RunFolder",
    to: Path | None = None,
    first: "Sequence[Part]" = (),
    *,
    redact: bool | None = None,
) -> Path:
    """Write a run's web page.

    Args:
        folder: The run; it has scores.
        to: The file; None: ``report.html`` in the run's folder.
        first: Parts above those of the run.
        redact: Leave out traces and answers to harmful prompts, and what judges wrote about them.
            None: of a page outside the run's folder, since it is meant for others; and of the run's
            own where the one that it replaces has none either.

    Raises:
        TsevalError: It cannot be written.
    """
    from tseval.deliberation import deliberation
    from tseval.errors import TsevalError
    from tseval.report.deliberation import deliberation_part
    from tseval.report.html import is_redacted, report_html, write_whole

    path = to or folder.path / "report.html"
    if redact is None:
        redact = path.resolve().parent != folder.path.resolve() or is_redacted(path)
    scorecard, measurements, manifest = folder.scorecard(), folder.measurements(), folder.manifest
    cards = deliberation(scorecard, measurements)
    remarks = [*incomplete(folder), *remarks_of(manifest)]
    rows = _rows(folder, redact, remarks)
    page = report_html(
        scorecard,
        measurements,
        remarks,
        facts=_facts(folder),
        first=[*first, *(deliberation_part(card, several=len(cards) > 1) for card in cards)],
        rows=rows,
        redacted=redact,
    )
    try:
        write_whole(path, page)
    except OSError as error:
        raise TsevalError(
            f"cannot write {path}: {error.strerror or error}",
            hint="tseval report RUN --out FILE writes it elsewhere",
        ) from error
    return path


def _rows(folder: "RunFolder", redact: bool, remarks: list[str]) -> "RowBook | None":
    """Read what a page browses; a run whose journal is gone keeps the rest of its page."""
    from tseval.errors import JournalError
    from tseval.report.rows import row_book

    try:
        return row_book(folder, redact=redact)
    except JournalError as error:
        remarks.append(f"rollouts are not shown: {error.message}")
        return None


def incomplete(folder: "RunFolder") -> list[str]:
    """Say that a run is not complete, or has lost a file, if that is so."""
    status = folder.manifest.status
    found = [] if status == "complete" else [f"this run is not complete (status: {status})"]
    scorecard = folder.scorecard()
    if any(map(scorecard.is_probed, scorecard.scores)) and not folder.measurements():
        found.append(
            "measurements.json is gone: what the probes found beside these scores is not shown;"
            " the run's command makes it again"
        )
    return found


def _facts(folder: "RunFolder") -> dict[str, str]:
    manifest = folder.manifest
    started = manifest.legs[0].started if manifest.legs else ""
    named = {
        "suite": ", ".join(manifest.spec.suites),
        "judges": ", ".join((*manifest.spec.judges, *manifest.judges)),
        "intervention": manifest.spec.intervention,
        "started": started,
        "tseval": manifest.versions.get("tseval", ""),
    }
    return {name: value for name, value in named.items() if value}


def print_page(page: "Page", form: Form) -> None:
    """Print a page below what stands there already."""
    from tseval.report.judges import markdown_page, rich_page

    if form == "markdown":
        sys.stdout.write("\n" + markdown_page(page))
    else:
        console().print()
        console().print(rich_page(page))


def print_json(value: Any) -> None:
    """Print plain values as one indented JSON document with sorted keys."""
    import msgspec

    from tseval.protocol import canonical_json
    from tseval.report.text import for_json

    text = msgspec.json.format(canonical_json(value), indent=2).decode()
    sys.stdout.write(for_json(text) + "\n")


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
