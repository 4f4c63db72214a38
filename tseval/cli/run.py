"""``tseval run``: measure a model."""

import contextlib
import math
import shlex
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import typer

from tseval.cli.common import errors, given_values, option, read_config, registry, words
from tseval.cli.sources import check_sources
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.protocol import Preset
    from tseval.requests import ModelSpec
    from tseval.runfolder import RunFolder
    from tseval.spec import RunSpec

T = TypeVar("T")

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
        "--thinking-budget", panel=_HOW, min=1, help="Most tokens of a trace, then force-close."
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


def build_spec(given: dict[str, Any], plugins: "Registry") -> "tuple[RunSpec, list[str]]":
    """Fold flags, preset and defaults into a specification.

    Args:
        given: Parameters of the command by name.
        plugins: For the names of suites, benchmarks and backends.

    Returns:
        The specification, and remarks for the user.

    Raises:
        ConfigError: An unknown name, or values that exclude each other.
    """
    from tseval.protocol import preset as find_preset
    from tseval.roles import Vetting
    from tseval.spec import DEFAULT_STANCE_JUDGES, RunSpec, parse_model, parse_options
    from tseval.wrapping import parse_intervention

    preset = find_preset(given["protocol"])
    suites, benchmarks, remarks = _benchmarks(given, plugins)
    needs = {name: factory.needs_model for name, factory in plugins.backends.items()}
    model = parse_model(
        given["model"],
        needs,
        base_url=given["base_url"],
        options=parse_options(given["model_option"]),
    )
    plugins.backends[model.backend]
    if given["intervention"]:
        parse_intervention(given["intervention"], plugins.interventions)
    values, changed = _protocol_values(given, preset)
    judge_options = parse_options(given["judge_option"], flag="-J")
    _check_judges(values["judges"], judge_options, preset, plugins)
    spec = RunSpec(
        model=model,
        benchmarks=benchmarks,
        suites=suites,
        preset="+".join([preset.name, *changed]),
        limit=given["limit"],
        subset_seed=given["subset_seed"],
        seed=given["seed"],
        system_prompt=_system_prompt(given["system_prompt"]),
        intervention=given["intervention"],
        scale=_scale(given["scale"], model),
        harmful_from=tuple(words(given["harmful_from"])),
        benign_from=tuple(words(given["benign_from"])),
        stance_judges=tuple(words(given["stance_judge"])) or DEFAULT_STANCE_JUDGES,
        data_dirs=tuple(words(given["data_dir"])),
        judge_options=judge_options,
        unsafe_code=given["confirm_run_unsafe_code"],
        **values,
    )
    check_sources(spec, plugins)
    for each in (plugins.benchmarks[name] for name in spec.benchmarks):
        if isinstance(each, Vetting):
            each.vet(spec)
    if spec.rollouts > 1 and spec.decoding == "fixed" and spec.sampling.temperature == 0:
        remarks.append("temperature 0 makes all rollouts of a prompt the same")
    return spec, remarks


def _benchmarks(
    given: dict[str, Any], plugins: "Registry"
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    suites, names = words(given["suite"]), words(given["benchmark"])
    remarks = []
    if not suites and not names:
        suites = ["quick"]
        remarks.append("no --suite or --benchmark given: running the suite 'quick'")
    members = [name for suite in suites for name in plugins.suites[suite].benchmarks]
    wanted = tuple(dict.fromkeys([*members, *names]))
    for name in wanted:
        plugins.benchmarks[name]
    return tuple(suites), wanted, remarks


def _check_judges(
    judges: tuple[str, ...], options: dict[str, str], preset: "Preset", plugins: "Registry"
) -> None:
    """Say what is wrong with a judge before a model is loaded."""
    from tseval.judging import parse_judge, said_of, seat_judges

    if judges == preset.judges:
        for name in (parse_judge(text).name for text in judges):
            if name not in plugins.judges:
                raise ConfigError(
                    f"protocol {preset.name!r} needs the judge {name!r}, which is not installed"
                    f" (judges: {', '.join(sorted(plugins.judges))})",
                    hint=f"--judge refusal-rules measures with the offline rules instead; the"
                    f" table then says '{preset.name}+judge'",
                )
    for seat in seat_judges(judges, plugins, options).values():
        if seat.spec is not None:
            with said_of(seat.label):
                plugins.backends[seat.spec.backend].create(seat.spec)


def _protocol_values(given: dict[str, Any], preset: "Preset") -> tuple[dict[str, Any], list[str]]:
    """Fold flags into a preset; name the fields that they override."""
    from tseval.types import Sampling, Thinking

    changed: list[str] = []

    def pick(flag: str, default: Any, shown: str = "") -> Any:
        value = given[flag]
        if value is None or value == [] or value == default:
            return default
        changed.append(shown or flag.replace("_", "-"))
        return value

    judges = tuple(words(given["judge"])) or preset.judges
    if judges != preset.judges:
        changed.append("judge")
    decoding = preset.decoding
    base = preset.sampling
    fixed = [given[name] for name in ("temperature", "top_p", "top_k")]
    if decoding == "recommended" and any(value is not None for value in fixed):
        decoding = "fixed"
        changed.append("decoding")
    tokens = given["answer_tokens"] or preset.answer_tokens
    sampling = Sampling(
        temperature=pick("temperature", base.temperature),
        top_p=pick("top_p", base.top_p),
        top_k=pick("top_k", base.top_k),
        answer_tokens=tokens or base.answer_tokens,
    )
    if not math.isfinite(sampling.temperature):
        raise ConfigError(f"--temperature is {sampling.temperature}, expected a finite number")
    if sampling.top_p == 0:
        raise ConfigError("--top-p 0 keeps no token", hint="--temperature 0 is greedy")
    if given["answer_tokens"] not in (None, preset.answer_tokens):
        changed.append("answer-tokens")
    policy = preset.thinking
    return {
        "judges": judges,
        "decoding": decoding,
        "sampling": sampling,
        "answer_tokens_fixed": tokens is not None,
        "thinking": Thinking(
            mode=_one_of("thinking", pick("thinking", policy.mode), "default", "off", "forced"),
            budget=pick("thinking_budget", policy.budget),
            unclosed=_one_of(
                "unclosed",
                pick("unclosed", policy.unclosed),
                "force",
                "exclude",
                "empty",
                "judge-trace",
            ),
        ),
        "text": _one_of("judged-text", pick("judged_text", preset.text), "answer", "trace", "both"),
        "rollouts": pick("rollouts", preset.rollouts),
    }, changed


def _one_of(flag: str, value: str, *allowed: str) -> Any:
    if value not in allowed:
        raise ConfigError(f"--{flag} is {value!r}", hint=f"expected one of {', '.join(allowed)}")
    return value


def _scale(name: str | None, model: "ModelSpec") -> str:
    """Choose the sizes of the probes: the demo model is there to try things out."""
    from tseval.probes import sizes_of
    from tseval.spec import DEFAULT_BACKEND

    return sizes_of(name or ("smoke" if model.backend == DEFAULT_BACKEND else "standard")).scale


def _system_prompt(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read --system-prompt {text}: {error.strerror}", hint="@ names a file"
        ) from error


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


async def until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Let SIGTERM (a container's end, a cluster's time limit) end a run as cleanly as Ctrl-C."""
    import asyncio
    import signal

    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


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
        page = write_page(outcome.folder)
        sys.stderr.write(f"{page} shows it in a browser\n")
    except TsevalError as error:
        # The run is done and its scores are written: a page that is not takes nothing away.
        sys.stderr.write(f"warning: {error}\n")
    sys.stderr.write(f"tseval show {shlex.quote(str(path))} prints this table again\n")
