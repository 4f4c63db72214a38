"""Fold the flags of ``tseval run`` and ``tseval plan`` into a specification."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.cli.common import words
from tseval.cli.sources import check_sources
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.protocol import Preset
    from tseval.requests import ModelSpec
    from tseval.spec import RunSpec

# Most tokens of a trace that the demo model is made to write.
DEMO_BUDGET = 512


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
    import msgspec

    from tseval.protocol import preset as find_preset
    from tseval.roles import Vetting
    from tseval.spec import DEFAULT_STANCE_JUDGES, RunSpec, parse_model, parse_options
    from tseval.wrapping import check_capable, parse_intervention

    preset = find_preset(given["protocol"])
    suites, benchmarks, remarks = _benchmarks(given, plugins)
    needs = {name: factory.needs_model for name, factory in plugins.backends.items()}
    model = parse_model(
        given["model"],
        needs,
        base_url=given["base_url"],
        options=parse_options(given["model_option"]),
    )
    most = plugins.backends[model.backend].capabilities
    if given["intervention"]:
        intervention = parse_intervention(given["intervention"], plugins.interventions)
        # Before a folder is made, or an engine started for minutes.
        check_capable(intervention, most, model.backend)
    values, changed = _protocol_values(given, preset)
    if _is_demo_budget(given, preset, model):
        values["thinking"] = msgspec.structs.replace(values["thinking"], budget=DEMO_BUDGET)
        remarks.append(
            f"traces of the demo model end at {DEMO_BUDGET} tokens: --thinking-budget sets another"
            " limit"
        )
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


def _is_demo_budget(given: dict[str, Any], preset: "Preset", model: "ModelSpec") -> bool:
    """Say whether traces get the demo model's own limit.

    It knows no end of a trace that it is made to write, and repeats itself up to any limit. A
    preset of a paper keeps the paper's.
    """
    from tseval.spec import DEFAULT_BACKEND

    forced = given["thinking"] == "forced" and given["thinking_budget"] is None
    return forced and preset.name == "default" and model.backend == DEFAULT_BACKEND


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
            mode=one_of("thinking", pick("thinking", policy.mode), "default", "off", "forced"),
            budget=pick("thinking_budget", policy.budget),
            unclosed=one_of(
                "unclosed",
                pick("unclosed", policy.unclosed),
                "force",
                "exclude",
                "empty",
                "judge-trace",
            ),
        ),
        "text": one_of("judged-text", pick("judged_text", preset.text), "answer", "trace", "both"),
        "rollouts": pick("rollouts", preset.rollouts),
    }, changed


def one_of(flag: str, value: str, *allowed: str) -> Any:
    """Return a flag's value; raise ConfigError if it is none of those allowed."""
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
