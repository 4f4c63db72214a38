"""``tseval export``: write a run in other tools' formats."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tseval.cli.common import errors, option, registry, words
from tseval.report.text import neutral

if TYPE_CHECKING:
    from tseval.roles import Exporter


def command(
    run: Path = typer.Argument(..., help="A run's folder."),
    format: list[str] = option(
        "--format",
        default=[],
        help="Registered exporters, repeated or separated by commas; default: lm-eval.",
    ),
    out: Path | None = option(
        "--out",
        "-o",
        help="Folder for the files; default: export/ in the run's folder. Of several formats each"
        " has a folder of its own in it.",
    ),
    redact: bool | None = option(
        "--redact/--no-redact",
        help="Leave out traces and answers to harmful prompts, and what judges wrote about them"
        " (the default of formats that can), or keep them.",
    ),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Write a run's results in other tools' formats, and print the paths of the files.

    Formats: inspect, hf-card, every-eval-ever, parquet, lm-eval, figures; `tseval ls exporters`
    lists them with those of other packages.

    Exit codes: 0 fine; 1 a file cannot be written; 2 wrong usage, or nothing to export; 5 a library
    is missing.
    """
    with errors(debug=debug):
        from tseval.errors import ConfigError
        from tseval.runfolder import RunFolder

        RunFolder.load(run)
        known = registry(without).exporters
        names = words(format) or ["lm-eval"]
        # All of them looked up before the first one writes.
        exporters = [(name, known[name]) for name in names]
        for name, exporter in exporters:
            if redact and getattr(exporter, "holds_texts", True) and not _redacts(exporter):
                raise ConfigError(
                    f"the format {name!r} cannot leave texts out",
                    hint="without the flag, formats that can leave them out do so",
                )
        folder = out if out is not None else run / "export"
        for name, exporter in exporters:
            place = folder if len(exporters) == 1 else folder / name
            for file in _export(exporter, run, place, redact):
                typer.echo(neutral(str(file)))


def _export(exporter: "Exporter", run: Path, out: Path, redact: bool | None) -> list[Path]:
    """Have a format written; raises TsevalError where a file cannot be written."""
    from tseval.errors import TsevalError

    flags = {"redact": redact is not False} if _redacts(exporter) else {}
    try:
        return exporter.export(run, out, **flags)
    except OSError as error:
        raise TsevalError(
            f"cannot write the export: {error}", hint="give --out a folder that can be written"
        ) from error


def _redacts(exporter: "Exporter") -> bool:
    return getattr(exporter, "redacts", False)
