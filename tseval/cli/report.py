"""``tseval report``: write a run's web page again."""

from pathlib import Path

import typer

from tseval.cli.common import errors, option
from tseval.cli.output import REDACT_HELP, write_page


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    out: Path | None = option(
        "--out", "-o", help="The file; default: report.html in the run's folder."
    ),
    redact: bool | None = option(
        "--redact/--no-redact",
        help=REDACT_HELP.format(default="as the run's page was, at first no; elsewhere yes"),
    ),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Write a run's scorecard, measurements, plots and rollouts as one web page; print its path.

    The page needs no network and no other file. tseval run writes it at its end. A page outside
    the run's folder is meant for others: without --no-redact it has no answers to harmful prompts.
    """
    with errors(debug=debug):
        from tseval.runfolder import RunFolder

        path = write_page(RunFolder.load(run), out, redact=redact)
    typer.echo(str(path))
