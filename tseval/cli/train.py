"""``tseval train``: realign a model on answers that are safe, and measure what that did."""

import contextlib
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from tseval.cli import train_report
from tseval.cli.common import (
    Options,
    Sections,
    errors,
    given_values,
    option,
    read_config,
    registry,
    with_options,
)
from tseval.cli.train_recipe import build_recipe
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.train.job import TrainFolder
    from tseval.train.records import Recipe

# No word that a trainer is likely to be called.
_METHOD = "METHOD"


class _Methods(TyperGroup):
    """A group whose first word, where it names no command, is a trainer."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give the command of a trainer; which one it is, the context knows by its name."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, _METHOD)


app = typer.Typer(
    cls=_Methods,
    help="Train a model by a METHOD (tseval ls trainers), or report what its data cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("report")(train_report.command)


class _What(Options, heading="What is trained"):
    model: str | None = option(
        "--model", "-m", help="Path, hub id, or backend/name[@rev]; default: demo."
    )
    model_option: list[str] = option(
        "-M", "--model-option", default=[], help="Backend option key=value; repeat."
    )
    harmful: list[str] = option(
        "--harmful",
        default=[],
        help="Harmful prompts: safechain (default), JSON Lines files, benchmarks.",
    )
    benign: list[str] = option("--benign", default=[], help="Benign prompts, likewise.")
    teacher: list[str] = option("--teacher", default=[], help="Files of finished answers, for sft.")
    max_harmful: int | None = option("--max-harmful", min=0, help="Most harmful prompts.")
    max_benign: int | None = option("--max-benign", min=0, help="Most benign ones.")
    data_dir: list[str] = option("--data-dir", default=[], help="Local mirror of prompts; repeat.")


class _How(Options, heading="How its data are made"):
    draws: int = option("--draws", default=1, min=1, help="Answers a harmful prompt.")
    judge: list[str] = option(
        "--judge",
        "-j",
        default=[],
        help="All have to find an answer safe; default: llama-guard-3, for demo refusal-rules.",
    )
    judge_option: list[str] = option(
        "-J", "--judge-option", default=[], help="Backend option of judges' models."
    )
    temperature: float = option("--temperature", default=0.6, min=0.0, help="Of the answers drawn.")
    top_p: float = option("--top-p", default=0.95, min=0.0, max=1.0, help="Likewise.")
    top_k: int = option("--top-k", default=0, min=0, help="Likewise; 0: all.")
    answer_tokens: int | None = option(
        "--answer-tokens", min=1, help="Most tokens; default: 16384, for demo 512."
    )
    thinking: str = option("--thinking", default="default", help="default, off or forced.")
    thinking_budget: int = option(
        "--thinking-budget", default=16384, min=1, help="Most tokens of a trace."
    )
    select: str = option(
        "--select", default="all", help="all, or deliberative: weigh what decides."
    )
    seed: int = option("--seed", default=0, help="Of draws, order and adapter.")
    seeds: int = option(
        "--seeds", default=1, min=1, help="Trainings under as many seeds, in seed-N."
    )
    trainer_option: list[str] = option(
        "-T", "--trainer-option", default=[], help="The method's option key=value."
    )


class _Fit(Options, heading="How it is fitted"):
    lora_rank: int = option("--lora-rank", default=32, min=1, help="Of the adapter.")
    lora_alpha: int = option("--lora-alpha", default=16, min=1, help="Its scale.")
    lora_dropout: float = option(
        "--lora-dropout", default=0.05, min=0.0, max=1.0, help="Its dropout."
    )
    lora_targets: str = option(
        "--lora-targets",
        default="all-linear",
        help="all-linear, default (PEFT's), or names of layers.",
    )
    lr: float = option("--lr", default=1e-5, min=0.0, help="Peak learning rate.")
    warmup: float = option(
        "--warmup", default=0.1, min=0.0, max=1.0, help="Share of steps that rise."
    )
    epochs: float = option("--epochs", default=3.0, min=0.0, help="Passes.")
    max_steps: int | None = option("--max-steps", min=1, help="End sooner.")
    batch: int = option("--batch", default=8, min=1, help="Examples a step.")
    micro_batch: int | None = option(
        "--micro-batch", min=1, help="Examples a pass; default: by --micro-tokens."
    )
    micro_tokens: int = option("--micro-tokens", default=4096, min=1, help="Tokens a pass.")
    max_tokens: int = option(
        "--max-tokens", default=16384, min=1, help="Longer examples are dropped."
    )
    kl: float = option("--kl", default=0.0, min=0.0, help="Weight of the KL to the base on benign.")
    dtype: str = option(
        "--dtype", default="auto", help="Of frozen weights: auto, bfloat16, float32."
    )
    save_steps: int | None = option(
        "--save-steps", min=1, help="Steps between checkpoints; default: an epoch."
    )


class _Panel(Options, heading="How it is measured on the way"):
    eval_suite: list[str] = option(
        "--eval-suite", default=[], help="Suites or benchmarks before and after."
    )
    eval_steps: int | None = option(
        "--eval-steps", min=1, help="Steps between looks; none: before and after."
    )
    eval_prompts: int = option(
        "--eval-prompts", default=100, min=2, help="Of a benchmark, in each half."
    )
    eval_judge: list[str] = option(
        "--eval-judge", default=[], help="Judges; default: refusal-rules."
    )
    eval_answer_tokens: int | None = option(
        "--eval-answer-tokens", min=1, help="Most tokens; default: the cards'."
    )
    keep: str = option("--keep", default="least-asr", help="The checkpoint: least-asr or last.")
    margin: float = option(
        "--margin", default=0.05, min=0.0, max=1.0, help="Allowed rise of refusals."
    )
    alpha: float = option(
        "--alpha", default=0.05, min=0.0, max=0.5, help="Level of the early stop."
    )


class _Where(Options, heading="Where it goes"):
    out: Path | None = option("--out", "-o", help="Folder of the training.")
    merge: bool = option("--merge", default=False, help="Write merged weights too, in float32.")
    fresh: bool = option("--fresh", default=False, help="Refuse to go on with what is there.")
    config: Path | None = option(
        "--config", "-C", help="YAML with flags as keys; flags and variables win."
    )


class _Output(Options):
    without: list[str] = option("--without", default=[], help="Leave out plugins.")
    json: bool = option("--json", default=False, help="Print the record as JSON on stdout.")
    markdown: bool = option("--markdown", default=False, help="Print the tables as Markdown.")
    debug: bool = option("--debug", default=False, help="Show tracebacks.")


@app.command(_METHOD, cls=Sections)
@with_options(_What, _How, _Fit, _Panel, _Where, _Output)
def command(context: typer.Context, **_: Any) -> None:
    """Train a model by a method, and leave an adapter. Run the same command again to resume.

    Exit codes: 0 fine; 1 something failed; 2 wrong usage; 5 more than 5% of the panel's outcomes
    missing; 130 interrupted.
    """
    given = given_values(context)
    with errors(debug=given["debug"]):
        if given["config"] is not None:
            read_config(given["config"], context, given)
        if given["out"] is None:
            raise ConfigError("--out is missing", hint="--out DIR: the folder of the training")
        plugins = registry(given["without"])
        recipe = build_recipe(str(context.info_name), given, plugins)
    raise SystemExit(_execute(recipe, plugins, given))


def _execute(recipe: "Recipe", plugins: "Registry", given: dict[str, Any]) -> int:
    """Train, print, and say what the exit code is."""
    from tseval.cli.progress import display
    from tseval.train.flow import train
    from tseval.train.seeds import train_seeds
    from tseval.train.together import rank_of_process

    out, seeds = Path(given["out"]), int(given["seeds"])
    arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
    command = f"tseval {shlex.join(arguments)}"
    more = {"fresh": given["fresh"], "merge": given["merge"], "command": command}

    def resume() -> str:
        begun = [*out.glob("train.json"), *out.glob("seed-*/train.json")]
        return command if begun else ""

    # A container's end, or a cluster's time limit, ends a training as cleanly as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, before)
        stack.enter_context(errors(debug=given["debug"], resume=resume))
        shown = stack.enter_context(display())
        if seeds > 1:
            folders = train_seeds(recipe, seeds, plugins, shown, out=out, **more)
        else:
            folders = [train(recipe, plugins, shown, out=out, **more)]
    if rank_of_process() == 0:  # the others know less, and one page is enough
        with errors(debug=given["debug"]):
            _print(folders, given)
    return max(exit_code(folder) for folder in folders)


def exit_code(folder: "TrainFolder") -> int:
    """0, or 5 where the panel lost over 5% of an axis or a final figure, or could not be made."""
    from tseval.runner import FAIL_SHARE

    panel = folder.record.panel
    if panel is None:
        return 0
    rates = [rate for look in panel.looks for rate in look.rates.values()]
    lost = any(rate.lost > FAIL_SHARE * (rate.n + rate.lost) for rate in rates) or panel.lost
    undefined = any(change.difference is None for change in panel.final)
    missing = any(not look.rates for look in panel.looks)
    return 5 if lost or undefined or missing else 0


def _print(folders: "list[TrainFolder]", given: dict[str, Any]) -> None:
    """Print records on stdout, and where everything is on stderr."""
    from msgspec import to_builtins

    from tseval.cli.output import form_of, print_json, print_page
    from tseval.train.pages import parts_of
    from tseval.train.seeds import across, seeds_page

    form = form_of(given)
    records = [to_builtins(folder.record, enc_hook=str) for folder in folders]
    if form == "json":
        print_json(
            records[0] if len(records) == 1 else {"trainings": records, "seeds": across(folders)}
        )
    elif len(folders) > 1:
        print_page(seeds_page(folders), form)
    else:
        for part in parts_of(folders[0].record):
            print_page(part.page, form)
    for folder in folders:
        sys.stderr.write(
            f"\n{folder.adapter}: the adapter; tseval run --model {folder.adapter} measures it\n"
            f"{folder.path / 'report.html'} shows the training in a browser\n"
        )
