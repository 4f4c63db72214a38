"""``tseval report``: write a run's web page again."""

from pathlib import Path

import typer

from tseval.cli.common import errors, option
from tseval.cli.output import write_page


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    out: Path | None = option(
        "--out", "-o", help="The file; default: report.html in the run's folder."
    ),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Write a run's scorecard, measurements and plots as one web page, and print its path.

    The page needs no network and no other file. tseval run writes it at its end.
    """
    with errors(debug=debug):
        from tseval.runfolder import RunFolder

        path = write_page(RunFolder.load(run), out)
    typer.echo(str(path))
