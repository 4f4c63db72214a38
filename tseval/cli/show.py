"""``tseval show``: print a run's scorecard again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option
from tseval.cli.output import (
    REDACT_HELP,
    Form,
    incomplete,
    print_json,
    print_page,
    print_scorecard,
    remarks_of,
    write_page,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tseval.before_after import Changes
    from tseval.report.judges import Page
    from tseval.runfolder import RunFolder


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    against: Path | None = option(
        "--against", help="A run to compare scores and the deliberation scorecard with: before."
    ),
    html: Path | None = option("--html", help="Write all of it as one web page into this file."),
    redact: bool | None = option(
        "--redact/--no-redact",
        help=REDACT_HELP.format(default="yes"),
    ),
    measurements: bool = option(
        "--measurements", default=False, help="Print every number and table of the probes."
    ),
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

    A run of probes also shows its deliberation scorecard; a run with several judges how far they
    agree; one with labels by people, or with --calibration, rates that are corrected for the
    judge's errors.

    Exit codes: 0 fine; 2 wrong usage; 4 --against names a run that was measured differently.
    """
    with errors(debug=debug):
        from msgspec import to_builtins

        from tseval.runfolder import RunFolder

        folder = RunFolder.load(run)
        form: Form = "json" if json else "markdown" if markdown else "table"
        changes = _changes(against, folder) if against is not None else []
        warnings = [*incomplete(folder), *remarks_of(folder.manifest)]
        further = _further(folder, calibration, disagreements)
        if _judges(folder) > 1 and "agreement" not in further:
            warnings.append("agreement of the judges: not shown, since the run's journal is gone")
        probed = _probed(folder, measurements)
        if changes:
            probed["changes"] = changes
        if html is not None:
            _write(folder, html, changes, redact)
        if form == "json" and (further or probed):
            # Beside the scorecard's own fields, which stand where they do without any of this.
            print_json({**to_builtins(folder.scorecard()), **further, **probed})
            return
        print_scorecard(folder.scorecard(), warnings, form)
        for page in _pages({**further, **probed}):
            print_page(page, form)


def _changes(against: Path, folder: "RunFolder") -> "list[Changes]":
    from tseval.before_after import all_changes
    from tseval.runfolder import RunFolder

    return all_changes(RunFolder.load(against), folder)


def _write(folder: "RunFolder", path: Path, changes: "list[Changes]", redact: bool | None) -> None:
    import sys

    from tseval.report.deliberation import changes_part

    page = write_page(folder, path, [changes_part(each) for each in changes], redact=redact)
    sys.stderr.write(f"{page}\n")


def _probed(folder: "RunFolder", whole: bool) -> dict[str, Any]:
    """Find what probes have to show: their scorecard, and if asked for the whole of it."""
    from tseval.deliberation import deliberation

    found = folder.measurements()
    cards = deliberation(folder.scorecard(), found)
    probed: dict[str, Any] = {"deliberation": cards} if cards else {}
    if whole:
        probed["measurements"] = found
    return probed


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
    """Count the judges that judged rollouts one by one: of probes there is nothing to compare."""
    scorecard = folder.scorecard()
    judged = (score for score in scorecard.scores if not scorecard.is_probed(score))
    return len({score.judge for score in judged if score.judge})


def _pages(further: dict[str, Any]) -> "Iterator[Page]":
    from tseval.report.agreement import agreements_page, disagreements_page
    from tseval.report.deliberation import changes_page, deliberation_page
    from tseval.report.judges import corrections_page
    from tseval.report.measured import measurement_page

    layouts: dict[str, Any] = {
        "agreement": agreements_page,
        "disagreements": disagreements_page,
        "corrections": corrections_page,
    }
    of_each: dict[str, Any] = {
        "deliberation": deliberation_page,
        "measurements": measurement_page,
        "changes": changes_page,
    }
    for name, value in further.items():
        if name in layouts:
            yield layouts[name](value)
        else:
            yield from map(of_each[name], value)
