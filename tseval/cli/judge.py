"""``tseval judge``: judge stored rollouts, measure judges against people, label rows."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from tseval.cli import judge_label, judge_validate
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

if TYPE_CHECKING:
    from tseval.runner import Outcome

# No word that a run's folder is likely to be called.
_AGAIN = "RUN"


class _RunFirst(TyperGroup):
    """A group whose first word, where it names no command, is a run to be judged."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name in front of a run's folder."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [_AGAIN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunFirst,
    help="Judge a run's stored rollouts (tseval judge RUN --judge X), and judge the judges.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("validate")(judge_validate.validate)
app.command("label")(judge_label.label)


class _JudgeOptions(Options):
    judge: list[str] = option(
        "--judge", "-j", default=[], help="Judges, comma-separated: name, name@model, panel(...)."
    )
    judge_option: list[str] = option(
        "-J", "--judge-option", default=[], help="Backend option key=value of judges' models."
    )
    without: list[str] = option("--without", default=[], help="Leave out plugins.")
    json: bool = option("--json", default=False, help="Print the scorecard as JSON on stdout.")
    markdown: bool = option("--markdown", default=False, help="Print the table as Markdown.")
    debug: bool = option("--debug", default=False, help="Show tracebacks.")


@app.command(_AGAIN)
@with_options(_JudgeOptions)
def command(
    context: typer.Context, run: Path = typer.Argument(..., help="A run's folder."), **_: Any
) -> None:
    """Judge the rollouts that a run has stored; what is there is not generated again.

    Probes are run again under the new labels, which starts the model under test.

    Verdicts of all judges lie side by side; tseval show prints every metric under each of them,
    and how far they agree. The same command goes on where it was stopped.

    Exit codes: 0 fine; 1 something failed, or a benchmark had failed in the run; 2 wrong usage;
    5 a new score has no value, or more than 5% of the new verdicts are missing; 130 interrupted.
    """
    given = given_values(context)
    with errors(debug=given["debug"], resume=lambda: f"tseval {shlex.join(sys.argv[1:])}"):
        outcome = _judge(run, given)
        _print(outcome, given)
    _say(outcome)
    raise SystemExit(outcome.exit_code)


def _judge(run: Path, given: dict[str, Any]) -> "Outcome":
    """Judge the run in a folder by the judges that are asked for."""
    from tseval.cli.progress import display
    from tseval.errors import ConfigError
    from tseval.judgement.rejudge import rejudge
    from tseval.runfolder import RunFolder
    from tseval.spec import parse_options

    judges = tuple(words(given["judge"]))
    if not judges:
        raise ConfigError("no judge given", hint="--judge NAME; see tseval ls judges")
    folder = RunFolder.load(run)
    plugins = registry(given["without"])
    with display() as shown:
        options = parse_options(given["judge_option"])
        return finish(rejudge(folder, judges, plugins, shown, options=options))


def _print(outcome: "Outcome", given: dict[str, Any]) -> None:
    """Print the run's scorecard, and write its page anew."""
    from tseval.cli.output import form_of, print_scorecard, remarks_of, write_page

    remarks = remarks_of(outcome.folder.manifest)
    print_scorecard(outcome.scorecard, remarks, form_of(given))
    write_page(outcome.folder)


def _say(outcome: "Outcome") -> None:
    """Say on stderr what was made, and what is missing."""
    counts = outcome.folder.manifest.legs[-1].counts
    made = counts.get("verdict.made", 0)
    asked = sum(counts.get(f"{kind}.made", 0) for kind in ("generation", "extension"))
    new = f"{asked} rollouts generated that probes lacked" if asked else "nothing generated"
    sys.stderr.write(f"\n{outcome.folder.path}: {made} verdicts made, {new}\n")
    for line in _what_is_missing(outcome):
        sys.stderr.write(f"{line}\n")


def _what_is_missing(outcome: "Outcome") -> Iterator[str]:
    """Say why the exit code is not 0, and what the same command would try again."""
    from tseval.report.text import neutral
    from tseval.runner import FAIL_SHARE, WARN_SHARE

    for name, reason in outcome.scorecard.failed.items():
        yield neutral(f"error: {name} failed when the run was made: {reason}")
    for name, reason in outcome.left.items():
        yield neutral(f"error: {name} was not measured again: {reason}")
    for score in outcome.undefined:
        place = " ".join(filter(None, (score.benchmark, score.group, score.metric)))
        why = f": {score.undefined}" if score.undefined else ""
        yield neutral(f"error: {place} by {score.judge} has no value{why}")
    lost, failed = outcome.lost_share, outcome.failed_share
    if lost > WARN_SHARE:
        level = "error" if lost > FAIL_SHARE else "warning"
        parts = []
        if failed:
            parts.append(f"{100 * failed:.1f}% failed (the same command tries those again)")
        if lost > failed:
            parts.append(
                f"{100 * (lost - failed):.1f}% cannot be read (they are kept: asking again would"
                " give the same)"
            )
        yield (
            f"{level}: {100 * lost:.1f}% of the verdicts of a benchmark are missing:"
            f" {', '.join(parts)}"
        )
