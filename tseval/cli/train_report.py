"""``tseval train report``: what a training's data cost in divergence from the model's own law."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option, registry, words

if TYPE_CHECKING:
    from tseval.train.job import TrainFolder
    from tseval.train.theory_measure import TheoryReport
    from tseval.train.theory_sources import Settings


def command(
    training: Path = typer.Argument(..., help="A training's folder."),
    prompts: int = option("--prompts", default=64, min=0, help="Harmful prompts of its pool."),
    benign_prompts: int = option(
        "--benign-prompts", default=32, min=0, help="Benign prompts of its pool."
    ),
    draws: int = option(
        "--draws", default=16, min=0, help="Answers a prompt under each law, 16 or more."
    ),
    rows: int = option("--rows", default=200, min=0, help="Rows of each training set to score."),
    answer_tokens: int | None = option(
        "--answer-tokens", min=1, help="Most tokens of a draw's answer; default: the training's."
    ),
    thinking_budget: int | None = option(
        "--thinking-budget", min=1, help="Most tokens of a draw's trace; default: the training's."
    ),
    judge: list[str] = option(
        "--judge",
        "-j",
        default=[],
        help="The guard: judges, comma-separated; all have to find an answer safe. Default: the"
        " training's own.",
    ),
    judge_option: list[str] = option(
        "-J", "--judge-option", default=[], help="Backend option key=value of judges' models."
    ),
    teacher: str | None = option(
        "--teacher", help="A model whose answers are drawn and compared; its KL needs the model."
    ),
    answers: list[str] = option(
        "--answers", default=[], help="Files of a teacher's finished answers to score beside."
    ),
    seed: int = option("--seed", default=0, help="Chooses prompts and rows, and seeds the draws."),
    show: bool = option(
        "--show", default=False, help="Print what was measured before; load no model."
    ),
    html: Path | None = option("--html", help="Write it as one web page into this file."),
    json: bool = option("--json", default=False, help="Print records as JSON on stdout."),
    markdown: bool = option("--markdown", default=False, help="Print the table as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Estimate what the training's answers cost: KL to the model's own law, and the excess.

    The optimum is -log of the model's own acceptance by the guard; answers drawn under a notice
    or by a teacher pay more. Each number has its interval and its assumptions. Draws are made at
    temperature 1 and kept: the same command resumes, and prints again what it has measured.

    Exit codes: 0 fine; 1 it cannot go on; 2 wrong usage; 5 the backend gives no log-probabilities.
    """
    from tseval.spec import parse_options
    from tseval.train.job import TrainFolder

    with errors(debug=debug, resume=lambda: f"tseval {shlex.join(sys.argv[1:])}"):
        folder = TrainFolder.load(training)
        report = None
        if not show:
            settings = _settings(
                prompts=prompts, benign=benign_prompts, draws=draws, rows=rows,
                answer_tokens=answer_tokens, thinking_budget=thinking_budget,
                judges=_judges(folder, words(judge)),
                judge_options=parse_options(judge_option, flag="-J"),
                teacher=teacher, answers=tuple(words(answers)), seed=seed,
            )  # fmt: skip
            report = _measured(folder, settings)
        report = report or _known(folder)
        _print(folder, report, html, "json" if json else "markdown" if markdown else "table")


def _settings(*, teacher: str | None, **sizes: Any) -> "Settings":
    from tseval.spec import parse_model
    from tseval.train.job import file_digests
    from tseval.train.theory_sources import Settings

    model = None
    if teacher is not None:
        backends = registry().backends
        model = parse_model(teacher, {name: f.needs_model for name, f in backends.items()})
    return Settings(teacher=model, digests=file_digests(sizes["answers"]), **sizes)


def _judges(folder: "TrainFolder", named: list[str]) -> tuple[str, ...]:
    """Give the guard's judges; none where they are the training's own, which is the default."""
    return () if tuple(named) == folder.record.recipe.judges else tuple(named)


def _measured(folder: "TrainFolder", settings: "Settings") -> "TheoryReport":
    """Measure, unless just that has been measured."""
    import asyncio

    from tseval.cli.common import until_terminated
    from tseval.cli.progress import display
    from tseval.train.output import write_report
    from tseval.train.theory_measure import load_theory, measure

    settings.check()
    found = load_theory(folder)
    if found is not None and found.settings == settings:
        return found
    with display() as shown:
        work = measure(folder, registry(), shown, settings)
        try:
            report = asyncio.run(until_terminated(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    # The training's own page shows the theory from now on.
    write_report(folder)
    return report


def _known(folder: "TrainFolder") -> "TheoryReport":
    from tseval.errors import ConfigError
    from tseval.train.theory_measure import load_theory

    found = load_theory(folder)
    if found is None:
        raise ConfigError(
            f"nothing has been measured of {folder.path} yet", hint="leave --show out"
        )
    return found


def _print(folder: "TrainFolder", report: "TheoryReport", html: Path | None, form: Any) -> None:
    from tseval.cli.output import print_json, print_page
    from tseval.train.report import theory_page

    if html is not None:
        _write(folder, report, html)
        sys.stderr.write(f"{html}\n")
    if form == "json":
        print_json(report)
    else:
        print_page(theory_page(report), form)


def _write(folder: "TrainFolder", report: "TheoryReport", path: Path) -> None:
    from tseval.errors import TsevalError
    from tseval.report.html import page_html, write_whole
    from tseval.train.report import theory_part

    facts = {"training": folder.record.recipe.method, "guard": ", ".join(report.judges)}
    try:
        write_whole(path, page_html(report.subject.name, [theory_part(report)], facts))
    except OSError as error:
        raise TsevalError(
            f"cannot write {path}: {error.strerror or error}", hint="give --html another file"
        ) from error
