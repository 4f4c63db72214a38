"""``tseval show``: print a run's scorecard again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option
from tseval.cli.output import Form, console, print_json, print_scorecard, remarks_of

if TYPE_CHECKING:
    from tseval.report.judges import Page
    from tseval.runfolder import RunFolder


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    calibration: Path | None = option(
        "--calibration",
        help="Correct rates for the judge's errors, by a record of tseval judge validate.",
    ),
    disagreements: int = option(
        "--disagreements", default=0, min=0, help="Show the N rollouts that divide judges most."
    ),
    json: bool = option("--json", default=False, help="Print the scorecard as JSON."),
    markdown: bool = option("--markdown", default=False, help="Print the tables as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Print the scorecard of a run, with every number's denominator, interval and protocol.

    A run with several judges also shows how far they agree; one with labels by people, or with
    --calibration, rates that are corrected for the judge's errors.
    """
    with errors(debug=debug):
        from msgspec import to_builtins

        from tseval.runfolder import RunFolder

        folder = RunFolder.load(run)
        form: Form = "json" if json else "markdown" if markdown else "table"
        warnings = remarks_of(folder.manifest)
        if folder.manifest.status != "complete":
            warnings.insert(0, f"this run is not complete (status: {folder.manifest.status})")
        further = _further(folder, calibration, disagreements)
        if _judges(folder) > 1 and "agreement" not in further:
            warnings.append("agreement of the judges: not shown, since the run's journal is gone")
        if form == "json" and further:
            # Beside the scorecard's own fields, which stand where they do without any of this.
            print_json({**to_builtins(folder.scorecard()), **further})
            return
        print_scorecard(folder.scorecard(), warnings, form)
        for page in _pages(further):
            _print(page, form)


def _further(folder: "RunFolder", calibration: Path | None, count: int) -> dict[str, Any]:
    """Find what there is to show beside the scorecard."""
    from tseval.judgement.agreement import agreements
    from tseval.judgement.agreement import disagreements as divided
    from tseval.judgement.calibration import read_record
    from tseval.judgement.correction import corrected
    from tseval.judgement.labelling import load_labels
    from tseval.plugins import load_registry

    found: dict[str, Any] = {}
    if _judges(folder) > 1 and folder.journal.is_dir():
        found["agreement"] = agreements(folder)
    if count:
        found["disagreements"] = divided(folder, count)
    if calibration is not None or load_labels(folder):
        record = read_record(calibration) if calibration is not None else None
        found["corrections"] = corrected(folder, load_registry().metrics, record)
    return found


def _judges(folder: "RunFolder") -> int:
    return len({score.judge for score in folder.scorecard().scores if score.judge})


def _pages(further: dict[str, Any]) -> "list[Page]":
    from tseval.report.agreement import agreements_page, disagreements_page
    from tseval.report.judges import corrections_page

    layouts: dict[str, Any] = {
        "agreement": agreements_page,
        "disagreements": disagreements_page,
        "corrections": corrections_page,
    }
    return [layouts[name](value) for name, value in further.items()]


def _print(page: "Page", form: Form) -> None:
    import sys

    from tseval.report.judges import markdown_page, rich_page

    if form == "markdown":
        sys.stdout.write("\n" + markdown_page(page))
    else:
        console().print()
        console().print(rich_page(page))
