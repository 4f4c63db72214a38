"""``tseval run``: measure a model."""

import shlex
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
    read_config,
    registry,
    with_options,
)
from tseval.cli.output import REDACT_HELP
from tseval.cli.specs import build_spec

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.runfolder import RunFolder
    from tseval.spec import RunSpec


class _What(Options, heading="What is measured"):
    model: str | None = option(
        "--model", "-m", help="Path, hub id, or backend/name[@rev]; default: demo."
    )
    suite: list[str] = option(
        "--suite", "-s", default=[], help="Suites, comma-separated; default: quick."
    )
    benchmark: list[str] = option(
        "--benchmark", "-b", default=[], help="Benchmarks, comma-separated."
    )
    limit: int | None = option(
        "--limit", min=1, help="Rows per benchmark; marks results as partial."
    )
    subset_seed: int = option(
        "--subset-seed", default=0, help="Which rows --limit takes; subsets nest."
    )
    system_prompt: str = option(
        "--system-prompt", default="", help="Of the model under test; @FILE reads one."
    )
    intervention: str = option(
        "--intervention", default="", help="Wraps generation: NAME(option=value)."
    )
    scale: str | None = option(
        "--scale", help="Sizes of probes: smoke (the demo's default), standard, paper."
    )
    harmful_from: list[str] = option(
        "--harmful-from", default=[], help="Benchmarks whose prompts probes take."
    )
    benign_from: list[str] = option(
        "--benign-from", default=[], help="The same for benign prompts."
    )
    base_url: str = option("--base-url", default="", help="Server address for openai/NAME.")
    model_option: list[str] = option(
        "-M", "--model-option", default=[], help="Backend option key=value; repeat."
    )
    confirm_run_unsafe_code: bool = option(
        "--confirm-run-unsafe-code",
        default=False,
        help="Let lm-eval tasks execute code that the model wrote; use a sandbox.",
    )


class _How(Options, heading="How it is measured"):
    protocol: str = option(
        "--protocol", "-p", default="default", help="default, thinksafe or ri2026."
    )
    judge: list[str] = option(
        "--judge",
        "-j",
        default=[],
        help="Judges, comma-separated: name, name@model, panel(a,b,c; vote>=2).",
    )
    judge_option: list[str] = option(
        "-J",
        "--judge-option",
        default=[],
        help="Backend option key=value of judges' models, or judge:key=value; repeat.",
    )
    stance_judge: list[str] = option(
        "--stance-judge",
        default=[],
        help="Labels chunks of traces for oscillation: stance-rules, stance-rubric@model.",
    )
    rollouts: int | None = option("--rollouts", "-k", min=1, help="Rollouts a prompt.")
    seed: int = option("--seed", default=0, help="Run seed; every row's derives.")
    temperature: float | None = option("--temperature", min=0.0, help="0 is greedy.")
    top_p: float | None = option("--top-p", min=0.0, max=1.0, help="Nucleus mass.")
    top_k: int | None = option("--top-k", min=0, help="Candidates kept; 0: all.")
    answer_tokens: int | None = option(
        "--answer-tokens", min=1, help="Most tokens of an answer; default: the card's."
    )
    thinking: str | None = option(
        "--thinking", help="default, off (the family's switch) or forced."
    )
    thinking_budget: int | None = option(
        "--thinking-budget",
        min=1,
        help="Most tokens of a trace, then force-close; default: 16384 (demo: 512).",
    )
    unclosed: str | None = option(
        "--unclosed", help="A trace that never closes: force, exclude, empty, judge-trace."
    )
    judged_text: str | None = option(
        "--judged-text", help="What judges see: answer, trace or both."
    )


class _Where(Options, heading="Where it goes"):
    data_dir: list[str] = option(
        "--data-dir", default=[], help="Local mirror of benchmark data; repeat."
    )
    out: Path | None = option(
        "--out", "-o", help="A run's folder, or a folder of runs; default: runs/."
    )
    fresh: bool = option("--fresh", default=False, help="Start anew instead of resuming.")
    redact: bool | None = option(
        "--redact/--no-redact",
        help=REDACT_HELP.format(default="as the run's page was, at first no"),
    )
    config: Path | None = option(
        "--config", "-C", help="YAML with flags as keys; flags and variables win."
    )


class _Output(Options):
    without: list[str] = option("--without", default=[], help="Leave out plugins.")
    json: bool = option("--json", default=False, help="Print the scorecard as JSON on stdout.")
    markdown: bool = option("--markdown", default=False, help="Print the table as Markdown.")
    debug: bool = option("--debug", default=False, help="Show tracebacks.")


# What plan has too.
OPTIONS = (_What, _How, _Where, _Output)


@with_options(*OPTIONS)
def command(context: typer.Context, **_: Any) -> None:
    """Measure a model and print its scorecard. Run the same command again to resume.

    Exit codes: 0 fine; 1 something failed; 2 wrong usage; 5 incomplete, or more than 5% of the
    verdicts missing; 130 interrupted.
    """
    given = given_values(context)
    with errors(debug=given["debug"]):
        if given["config"] is not None:
            read_config(given["config"], context, given)
        plugins = registry(given["without"])
        spec, remarks = build_spec(given, plugins)
    raise SystemExit(_execute(spec, plugins, given, remarks))


def _execute(
    spec: "RunSpec", plugins: "Registry", given: dict[str, Any], remarks: list[str]
) -> int:
    """Run, print, and say what the exit code is."""
    from tseval.cli.progress import display
    from tseval.runner import run

    folders: list[RunFolder] = []

    def resume() -> str:
        if not folders:
            return ""
        arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
        return f"tseval {shlex.join(arguments)}"

    with errors(debug=given["debug"], resume=resume), display() as shown:
        for remark in remarks:
            shown.remark(remark)
        work = run(
            spec, plugins, shown, out=given["out"], fresh=given["fresh"], on_folder=folders.append
        )
        outcome = finish(work)
    with errors(debug=given["debug"]):
        _print(outcome, given)
    return outcome.exit_code


def _print(outcome: Any, given: dict[str, Any]) -> None:
    """Print records on stdout and what to do next on stderr."""
    from tseval.cli.output import form_of, print_scorecard, remarks_of, write_page
    from tseval.errors import TsevalError
    from tseval.runner import FAIL_SHARE, WARN_SHARE

    remarks = remarks_of(outcome.folder.manifest)
    if any(score.member for score in outcome.scorecard.scores):
        remarks.append("tseval show prints the rates of each panel's members too")
    print_scorecard(outcome.scorecard, remarks, form_of(given), members=False)
    path = outcome.folder.path
    leg = outcome.folder.manifest.legs[-1]
    made, found = leg.counts.get("generation.made", 0), leg.counts.get("generation.found", 0)
    sys.stderr.write(
        f"\n{path}: {made} rollouts made, {found} found in the journal, {leg.seconds:.0f} s\n"
    )
    if leg.swaps:
        sys.stderr.write(f"{leg.swaps} model swaps took {leg.swap_seconds:.0f} s\n")
    if outcome.lost_share > WARN_SHARE:
        level = "error" if outcome.lost_share > FAIL_SHARE else "warning"
        again = "; the same command tries those that failed again" if outcome.failed_share else ""
        sys.stderr.write(
            f"{level}: {100 * outcome.lost_share:.1f}% of the verdicts of a benchmark are unparsed"
            f" or failed{again}\n"
        )
    try:
        page = write_page(outcome.folder, redact=given["redact"])
        sys.stderr.write(f"{page} shows it in a browser\n")
    except TsevalError as error:
        # The run is done and its scores are written: a page that is not takes nothing away.
        sys.stderr.write(f"warning: {error}\n")
    sys.stderr.write(f"tseval show {shlex.quote(str(path))} prints this table again\n")
