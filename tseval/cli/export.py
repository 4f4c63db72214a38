"""``tseval export``: write a run in somebody else's format."""

from pathlib import Path

import typer

from tseval.cli.common import errors, option, registry


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    format: str = option("--format", default="lm-eval", help="A registered exporter."),
    out: Path | None = option(
        "--out", "-o", help="Folder for the files; default: export/ in the run's folder."
    ),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Write a run's results in another tool's format, and print the paths of the files."""
    with errors(debug=debug):
        from tseval.errors import TsevalError
        from tseval.runfolder import RunFolder

        RunFolder.load(run)
        exporter = registry(without).exporters[format]
        try:
            files = exporter.export(run, out if out is not None else run / "export")
        except OSError as error:
            raise TsevalError(
                f"cannot write the export: {error}", hint="give --out a folder that can be written"
            ) from error
    for file in files:
        typer.echo(str(file))
