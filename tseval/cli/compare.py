"""``tseval compare``: two or more runs, number by number."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option, words
from tseval.cli.output import Form, print_json, print_page

if TYPE_CHECKING:
    from tseval.compare import Comparison, Side
    from tseval.flips import Flip
    from tseval.runfolder import RunFolder


def command(
    runs: list[Path] = typer.Argument(..., help="Folders of runs; the first is the baseline."),
    allow: list[str] = option(
        "--allow", default=[], help="Fields of the protocol that may differ; said in the table."
    ),
    flips: int = option(
        "--flips", default=0, min=0, help="Show N samples of each number that changed."
    ),
    redact: bool | None = option(
        "--redact/--no-redact",
        help="Leave answers to harmful prompts out of --flips (default for --json and --markdown).",
    ),
    json: bool = option("--json", default=False, help="Print the comparison as JSON."),
    markdown: bool = option("--markdown", default=False, help="Print the tables as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Compare runs with a baseline on the prompts that both were asked.

    Exit codes: 0 fine, whatever the difference; 2 wrong usage; 4 measured differently.
    """
    with errors(debug=debug):
        from msgspec import to_builtins

        from tseval.compare import compare
        from tseval.flips import without_answers

        folders, sides = read_sides(runs)
        found = compare(sides[0], sides[1:], allow=words(allow))
        changed = _flips(found, folders, sides, flips)
        if redact or (redact is None and (json or markdown)):
            # These are for pull requests and pages; a terminal is the reader's own.
            changed = [without_answers(samples) for samples in changed]
        if json:
            record: dict[str, Any] = {"comparisons": to_builtins(found)}
            if flips:
                record["flips"] = to_builtins(changed)
            print_json(record)
            return
        form: Form = "markdown" if markdown else "table"
        from tseval.report.compare import comparison_page, flips_page

        for each, samples in zip(found, changed, strict=True):
            print_page(comparison_page(each), form)
            if flips:
                print_page(flips_page(samples), form)


def read_sides(runs: list[Path]) -> "tuple[list[RunFolder], list[Side]]":
    """Read runs, and name them so that they can be told apart.

    Raises:
        ConfigError: There are fewer than two, or one is no run or has no scores.
    """
    from tseval.compare import side_of
    from tseval.errors import ConfigError
    from tseval.runfolder import RunFolder

    if len(runs) < 2:
        raise ConfigError("a comparison needs two runs", hint="tseval compare BASELINE CANDIDATE")
    folders = [RunFolder.load(run) for run in runs]
    sides = [side_of(folder) for folder in folders]
    names = [side.label for side in sides]
    if len(set(names)) < len(names):
        sides = [
            side._replace(label=f"{side.label} ({folder.path})")
            for side, folder in zip(sides, folders, strict=True)
        ]
    return folders, sides


def _flips(
    found: "list[Comparison]", folders: "list[RunFolder]", sides: "list[Side]", most: int
) -> "list[list[Flip]]":
    from tseval.flips import flips

    if not most:
        return [[] for _ in found]
    return [
        flips(
            [row for row in each.rows if row.counted],
            sides[0],
            sides[place],
            (folders[0], folders[place]),
            most,
        )
        for place, each in enumerate(found, start=1)
    ]
