"""``tseval run``: measure a model."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from tseval.cli.common import (
    errors,
    given_values,
    option,
    read_config,
    registry,
    until_terminated,
)
from tseval.cli.output import REDACT_HELP
from tseval.cli.specs import build_spec

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.runfolder import RunFolder
    from tseval.spec import RunSpec

_WHAT, _HOW, _WHERE = "What is measured", "How it is measured", "Where it goes"


def command(
    context: typer.Context,
    model: str | None = option(
        "--model", "-m", panel=_WHAT, help="Path, hub id, or backend/name[@rev]; default: demo."
    ),
    suite: list[str] = option(
        "--suite", "-s", panel=_WHAT, default=[], help="Suites, comma-separated; default: quick."
    ),
    benchmark: list[str] = option(
        "--benchmark", "-b", panel=_WHAT, default=[], help="Benchmarks, comma-separated."
    ),
    limit: int | None = option(
        "--limit", panel=_WHAT, min=1, help="Rows per benchmark; marks results as partial."
    ),
    subset_seed: int = option(
        "--subset-seed", panel=_WHAT, default=0, help="Which rows --limit takes; subsets nest."
    ),
    system_prompt: str = option(
        "--system-prompt", panel=_WHAT, default="", help="Of the model under test; @FILE reads one."
    ),
    intervention: str = option(
        "--intervention", panel=_WHAT, default="", help="Wraps generation: NAME(option=value)."
    ),
    scale: str | None = option(
        "--scale", panel=_WHAT, help="Sizes of probes: smoke (the demo's default), standard, paper."
    ),
    harmful_from: list[str] = option(
        "--harmful-from", panel=_WHAT, default=[], help="Benchmarks whose prompts probes take."
    ),
    benign_from: list[str] = option(
        "--benign-from", panel=_WHAT, default=[], help="The same for benign prompts."
    ),
    base_url: str = option(
        "--base-url", panel=_WHAT, default="", help="Server address for openai/NAME."
    ),
    model_option: list[str] = option(
        "-M", "--model-option", panel=_WHAT, default=[], help="Backend option key=value; repeat."
    ),
    confirm_run_unsafe_code: bool = option(
        "--confirm-run-unsafe-code",
        panel=_WHAT,
        default=False,
        help="Let lm-eval tasks execute code that the model wrote; use a sandbox.",
    ),
    protocol: str = option(
        "--protocol", "-p", panel=_HOW, default="default", help="default, thinksafe or ri2026."
    ),
    judge: list[str] = option(
        "--judge",
        "-j",
        panel=_HOW,
        default=[],
        help="Judges, comma-separated: name, name@model, panel(a,b,c; vote>=2).",
    ),
    judge_option: list[str] = option(
        "-J",
        "--judge-option",
        panel=_HOW,
        default=[],
        help="Backend option key=value of judges' models, or judge:key=value; repeat.",
    ),
    stance_judge: list[str] = option(
        "--stance-judge",
        panel=_HOW,
        default=[],
        help="Labels chunks of traces for oscillation: stance-rules, stance-rubric@model.",
    ),
    rollouts: int | None = option("--rollouts", "-k", panel=_HOW, min=1, help="Rollouts a prompt."),
    seed: int = option("--seed", panel=_HOW, default=0, help="Run seed; every row's derives."),
    temperature: float | None = option("--temperature", panel=_HOW, min=0.0, help="0 is greedy."),
    top_p: float | None = option("--top-p", panel=_HOW, min=0.0, max=1.0, help="Nucleus mass."),
    top_k: int | None = option("--top-k", panel=_HOW, min=0, help="Candidates kept; 0: all."),
    answer_tokens: int | None = option(
        "--answer-tokens", panel=_HOW, min=1, help="Most tokens of an answer; default: the card's."
    ),
    thinking: str | None = option(
        "--thinking", panel=_HOW, help="default, off (the family's switch) or forced."
    ),
    thinking_budget: int | None = option(
        "--thinking-budget",
        panel=_HOW,
        min=1,
        help="Most tokens of a trace, then force-close; default: 16384 (demo: 512).",
    ),
    unclosed: str | None = option(
        "--unclosed",
        panel=_HOW,
        help="A trace that never closes: force, exclude, empty, judge-trace.",
    ),
    judged_text: str | None = option(
        "--judged-text", panel=_HOW, help="What judges see: answer, trace or both."
    ),
    data_dir: list[str] = option(
        "--data-dir", panel=_WHERE, default=[], help="Local mirror of benchmark data; repeat."
    ),
    out: Path | None = option(
        "--out", "-o", panel=_WHERE, help="A run's folder, or a folder of runs; default: runs/."
    ),
    fresh: bool = option(
        "--fresh", panel=_WHERE, default=False, help="Start anew instead of resuming."
    ),
    redact: bool | None = option(
        "--redact/--no-redact",
        panel=_WHERE,
        help=REDACT_HELP.format(default="as the run's page was, at first no"),
    ),
    config: Path | None = option(
        "--config", "-C", panel=_WHERE, help="YAML with flags as keys; flags and variables win."
    ),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    json: bool = option("--json", default=False, help="Print the scorecard as JSON on stdout."),
    markdown: bool = option("--markdown", default=False, help="Print the table as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Measure a model and print its scorecard. Run the same command again to resume.

    Exit codes: 0 fine; 1 something failed; 2 wrong usage; 5 incomplete, or more than 5% of the
    verdicts missing; 130 interrupted.
    """
    given = given_values(context)
    with errors(debug=debug):
        if config is not None:
            read_config(config, context, given)
        plugins = registry(given["without"])
        spec, remarks = build_spec(given, plugins)
    raise SystemExit(_execute(spec, plugins, given, remarks))


def _execute(
    spec: "RunSpec", plugins: "Registry", given: dict[str, Any], remarks: list[str]
) -> int:
    """Run, print, and say what the exit code is."""
    import asyncio

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
        try:
            outcome = asyncio.run(until_terminated(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    with errors(debug=given["debug"]):
        _print(outcome, given)
    return outcome.exit_code


def _print(outcome: Any, given: dict[str, Any]) -> None:
    """Print records on stdout and what to do next on stderr."""
    from tseval.cli.output import print_scorecard, remarks_of, write_page
    from tseval.errors import TsevalError
    from tseval.runner import FAIL_SHARE, WARN_SHARE

    form: Literal["json", "markdown", "table"] = "table"
    if given["json"] or given["markdown"]:
        form = "json" if given["json"] else "markdown"
    remarks = remarks_of(outcome.folder.manifest)
    if any(score.member for score in outcome.scorecard.scores):
        remarks.append("tseval show prints the rates of each panel's members too")
    print_scorecard(outcome.scorecard, remarks, form, members=False)
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
