"""``tseval judge validate``: measure a judge against people."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import (
    Options,
    errors,
    finish,
    given_values,
    option,
    registry,
    with_options,
    words,
)
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.judgement.labelfile import LabelFile, Labels
    from tseval.judgement.validation import Validation
    from tseval.plugins import Registry

_MARKER = "validation.json"


class _What(Options, heading="What is measured"):
    judge: str = option("--judge", "-j", default="refusal-rules", help="The judge, or a panel.")
    labels: Path | None = option(
        "--labels", help="Answers that people labelled: .csv, .jsonl or .parquet."
    )
    judge_option: list[str] = option(
        "-J", "--judge-option", default=[], help="Backend option of its model."
    )
    kind: str | None = option(
        "--kind", help="What is labelled: refusal or harmful; default: what it says."
    )
    benchmark: str = option("--benchmark", default="", help="Benchmark that the prompts come from.")
    model_family: str = option(
        "--model-family", default="", help="Family of the models that answered."
    )


class _Labels(Options, heading="How labels are read"):
    form: str = option("--format", default="columns", help="columns, or xstest (its files as is).")
    partial: str | None = option(
        "--partial", help="xstest: partial refusals count as refusal or compliance."
    )
    prompt_column: str | None = option("--prompt-column", help="Default: prompt.")
    answer_column: str | None = option("--answer-column", help="Default: answer.")
    label_column: str | None = option("--label-column", help="Default: label.")
    positive: list[str] = option(
        "--positive", default=[], help="Label values that say yes, comma-separated."
    )
    negative: list[str] = option(
        "--negative", default=[], help="... and no; default: the one other value."
    )
    ignore: list[str] = option(
        "--ignore", default=[], help="Values of rows to leave out ('unsure')."
    )


class _Where(Options, heading="Where it goes"):
    calibration: Path | None = option(
        "--calibration", help="Write the calibration record (JSON) there."
    )
    out: Path | None = option(
        "--out", "-o", help="Keep verdicts in this folder, after the end too."
    )
    worst: int = option("--worst", default=10, min=0, help="Disagreements to show, surest first.")


class _Output(Options):
    without: list[str] = option("--without", default=[], help="Leave out plugins.")
    json: bool = option("--json", default=False, help="Print the record as JSON on stdout.")
    markdown: bool = option("--markdown", default=False, help="Print the tables as Markdown.")
    debug: bool = option("--debug", default=False, help="Show tracebacks.")


@with_options(_What, _Labels, _Where, _Output)
def validate(context: typer.Context, **_: Any) -> None:
    """Have a judge label what people labelled: accuracy, sensitivity, specificity, kappa.

    The same command goes on where it was stopped.

    Exit codes: 0 fine; 1 something failed; 2 wrong usage; 5 more than 5% of the verdicts missing;
    130 interrupted.
    """
    given = given_values(context)
    begun: list[Path] = []

    def resume() -> str:
        return f"tseval {shlex.join(sys.argv[1:])}" if begun else ""

    with errors(debug=given["debug"], resume=resume):
        if given["labels"] is None:
            raise ConfigError(
                "--labels FILE is missing", hint="CSV or JSON lines, one answer a row"
            )
        from tseval.judgement.labelfile import read_labels

        how = _how(given)
        file = read_labels(given["labels"], how)
        code = _validate(given, file, how, registry(given["without"]), begun)
    raise SystemExit(code)


def _how(given: dict[str, Any]) -> "Labels":
    """Fold the flags into a description of the file."""
    import msgspec

    from tseval.judgement.labelfile import Labels, xstest_labels

    form, partial = given["form"], given["partial"]
    if form not in ("columns", "xstest"):
        raise ConfigError(f"--format is {form!r}", hint="expected columns or xstest")
    if partial not in (None, "refusal", "compliance"):
        raise ConfigError(f"--partial is {partial!r}", hint="expected refusal or compliance")
    values = {name: tuple(words(given[name])) for name in ("positive", "negative", "ignore")}
    if given["kind"] not in (None, "refusal", "harmful"):
        raise ConfigError(f"--kind is {given['kind']!r}", hint="expected refusal or harmful")
    if form == "xstest":
        if given["kind"] == "harmful":
            raise ConfigError(
                "--format xstest: its labels are about refusal, not about harm",
                hint="leave out --kind; labels about harm are read with --format columns",
            )
        if values["positive"] or values["negative"]:
            raise ConfigError(
                "--format xstest knows its labels", hint="--partial refusal|compliance; or columns"
            )
        how = xstest_labels(partial_is_refusal=partial != "compliance")
    elif partial is not None:
        raise ConfigError("--partial is for --format xstest", hint="--positive names values")
    elif values["negative"] and not values["positive"]:
        raise ConfigError("--negative without --positive", hint="name the values that say yes too")
    else:
        how = Labels()
        if values["positive"]:
            how = Labels(positive=values["positive"], negative=values["negative"])
    columns = {
        field: given[flag]
        for field, flag in (
            ("prompt", "prompt_column"),
            ("answer", "answer_column"),
            ("label", "label_column"),
        )
        if given[flag]
    }
    return msgspec.structs.replace(how, ignored=values["ignore"], **columns)


def _validate(
    given: dict[str, Any], file: "LabelFile", how: "Labels", plugins: "Registry", begun: list[Path]
) -> int:
    """Validate, print, and say what the exit code is; ``begun`` gets the folder of verdicts."""
    from tseval.cli.progress import display
    from tseval.judgement.calibration import Kind, Population, write_record
    from tseval.judgement.validation import validate as run
    from tseval.spec import parse_options

    options = parse_options(given["judge_option"])
    record = given["calibration"]
    if record is not None and not record.parent.is_dir():
        # Before hours of judging, not behind them.
        raise ConfigError(f"no folder {record.parent} for --calibration", hint="make it first")

    def population(kind: Kind) -> Population:
        return Population(
            benchmark=given["benchmark"],
            model_family=given["model_family"],
            labels=f"{kind} ({how.meaning})" if how.meaning else kind,
            source=file.digest,
        )

    folder = _folder(given["out"]) if given["out"] else _cached(given["judge"], options, file)
    with display() as shown:
        begun.append(folder)
        work = run(
            given["judge"],
            file,
            plugins,
            folder,
            shown.phase,
            kind=how.kind or given["kind"],
            population=population,
            options=options,
        )
        found = finish(work)
    if given["out"] is None and not found.failures:
        # Nothing is left to be asked: what is in the cache was for an interrupt, or a failure.
        shutil.rmtree(folder, ignore_errors=True)
    if given["calibration"] is not None and found.record.n:
        write_record(given["calibration"], found.record)
    _print(found, given)
    return _exit_code(found, given)


def _cached(judge: str, options: dict[str, str], file: "LabelFile") -> Path:
    """Name the folder in the user's cache that the same command always gets."""
    from tseval.models.hf.identity import cache_folder
    from tseval.protocol import fingerprint

    asked = {"judge": judge, "options": options, "labels": file.digest}
    return cache_folder() / "validations" / fingerprint(asked)


def _folder(out: Path) -> Path:
    """Make the folder that was asked for, or find it as an earlier validation left it."""
    if out.exists() and not (out / _MARKER).exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} is not empty and holds no validation", hint="give --out a new folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARKER).write_text('{"schema": 1}\n')
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def _print(found: "Validation", given: dict[str, Any]) -> None:
    from tseval.cli.output import console, print_json
    from tseval.report.judges import markdown_page, rich_page, validation_page

    worst = found.misses[: given["worst"]]
    page = validation_page(found.record, worst)
    for note, count in sorted(found.notes.items()):
        page.notes.append(f"the judge remarked {note!r} on {count} rows")
    if given["json"]:
        print_json({"record": found.record, "worst": worst, "disagreements": len(found.misses)})
    elif given["markdown"]:
        sys.stdout.write(markdown_page(page))
    else:
        console().print(rich_page(page))


def _exit_code(found: "Validation", given: dict[str, Any]) -> int:
    """Say on stderr what is missing and where the record is."""
    from tseval.report.text import neutral
    from tseval.runner import FAIL_SHARE, WARN_SHARE

    record = found.record
    if not record.n:
        sys.stderr.write("error: the judge gave no verdict on any row; no record was written\n")
    elif given["calibration"] is not None:
        sys.stderr.write(
            f"calibration record in {given['calibration']}: tseval show RUN --calibration"
            f" {shlex.quote(str(given['calibration']))}\n"
        )
    for message, count in found.failures.most_common(1):
        sys.stderr.write(f"{count} verdicts failed, with: {neutral(message)}\n")
    if record.lost_share > WARN_SHARE:
        level = "error" if record.lost_share > FAIL_SHARE else "warning"
        failed = found.failures.total()
        again = f"; the same command asks again for the {failed} that failed" if failed else ""
        sys.stderr.write(
            f"{level}: {100 * record.lost_share:.1f}% of the verdicts are unparsed, undecided or"
            f" failed{again}\n"
        )
    return 5 if record.lost_share > FAIL_SHARE or not record.n else 0
