"""``tseval judge label``: have people label rollouts of a run."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, given_values, option, words
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.runfolder import RunFolder


def label(
    context: typer.Context,
    run: Path = typer.Argument(..., help="A run's folder."),
    sheet: Path | None = option("--sheet", help="Write a sheet (CSV) of rollouts to label."),
    read: Path | None = option("--read", help="Read a labelled sheet back into the run."),
    n: int = option("--n", default=100, min=1, help="Rollouts on the sheet."),
    by: str = option(
        "--by", default="random", help="random, or disagreement (half of the places by it)."
    ),
    judges: list[str] = option(
        "--judges", default=[], help="Judges whose disagreement counts; default: all of the run."
    ),
    kind: str = option("--kind", default="refusal", help="What people label: refusal or harmful."),
    benchmark: list[str] = option(
        "--benchmark", "-b", default=[], help="Choose from these benchmarks only."
    ),
    seed: int = option("--seed", default=0, min=0, help="Of the draw."),
    replace: bool = option(
        "--replace", default=False, help="With --read: forget labels of another sheet."
    ),
    json: bool = option("--json", default=False, help="Print what was done as JSON."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Export a sheet of rollouts for people to label, or read one back.

    Every rollout with a text has a known probability above 0 of being on the sheet. With labels
    read back, `tseval show RUN --calibration ...` estimates the run's rates from them as well.
    """
    given = given_values(context)
    with errors(debug=debug):
        from tseval.runfolder import RunFolder

        if (sheet is None) == (read is None):
            raise ConfigError("give either --sheet FILE or --read FILE")
        if read is not None and not read.is_file():
            raise ConfigError(
                f"no file {read} for --read", hint="name a sheet that people labelled"
            )
        folder = RunFolder.load(run)
        done = _export(folder, given) if sheet is not None else _read(folder, given)
        if json:
            from tseval.cli.output import print_json

            print_json(done)


def _export(folder: "RunFolder", given: dict[str, Any]) -> dict[str, Any]:
    from tseval.judgement.labelling import design_labels
    from tseval.judgement.sheets import heading, write_sheet

    for flag, allowed in (("by", ("random", "disagreement")), ("kind", ("refusal", "harmful"))):
        if given[flag] not in allowed:
            raise ConfigError(
                f"--{flag} is {given[flag]!r}", hint=f"expected {' or '.join(allowed)}"
            )
    if given["sheet"].exists():
        raise ConfigError(f"{given['sheet']} exists", hint="people may have labelled it: move it")
    design, shown = design_labels(
        folder,
        kind=given["kind"],
        n=given["n"],
        by=given["by"],
        judges=tuple(words(given["judges"])),
        benchmarks=tuple(words(given["benchmark"])),
        seed=given["seed"],
    )
    write_sheet(given["sheet"], design, shown)
    path, run = shlex.quote(str(given["sheet"])), shlex.quote(str(folder.path))
    sys.stderr.write(
        f"{len(design.chosen)} of {design.rollouts} rollouts in {path}: write yes, no or unsure"
        f" into the column {heading(design.kind)}, then\n"
        f"  tseval judge label {run} --read {path}\n"
    )
    return {
        "sheet": str(given["sheet"]),
        "design": design.id,
        "chosen": len(design.chosen),
        "rollouts": design.rollouts,
    }


def _read(folder: "RunFolder", given: dict[str, Any]) -> dict[str, Any]:
    from tseval.judgement.labelling import save_labels
    from tseval.judgement.sheets import read_sheet

    found = read_sheet(folder, given["read"])
    path = save_labels(folder, found.labels, replace=given["replace"])
    kind = found.labels[0].kind
    sys.stderr.write(
        f"{len(found.labels)} labels about {kind} in {path}; {found.blank} rows blank,"
        f" {found.unsure} unsure\n"
    )
    if found.blank or found.unsure:
        sys.stderr.write(
            "warning: rates take the rows without a label to be like the others; if they were left"
            " out because they are hard, they are not\n"
        )
    return {
        "labels": len(found.labels),
        "blank": found.blank,
        "unsure": found.unsure,
        "kind": kind,
        "file": str(path),
    }
