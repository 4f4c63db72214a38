"""Fold the flags of ``tseval train`` into a recipe."""

from typing import TYPE_CHECKING, Any

from tseval.cli.common import words
from tseval.errors import ConfigError

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.requests import ModelSpec
    from tseval.roles import TrainerCard
    from tseval.train.records import Adapter, Fit, Panel, Recipe

# The embedded model is there to try things out, offline and in minutes.
_DEMO_PROMPTS = {"harmful": ("quick_harmful",), "benign": ("quick_benign",)}
_DEMO_TOKENS, _TOKENS = 512, 16384


def build_recipe(method: str, given: dict[str, Any], plugins: "Registry") -> "Recipe":
    """Fold flags and defaults into a recipe.

    Args:
        method: The trainer.
        given: Parameters of the command by name.
        plugins: For the names of trainers and backends.

    Raises:
        ConfigError: An unknown name, or a value that is none of the flag's.
    """
    from tseval.cli.specs import one_of
    from tseval.spec import DEFAULT_BACKEND, parse_model, parse_options
    from tseval.train.records import Recipe
    from tseval.types import Sampling, Thinking

    card = plugins.trainers[method].card
    needs = {name: factory.needs_model for name, factory in plugins.backends.items()}
    model = parse_model(given["model"], needs, options=parse_options(given["model_option"]))
    plugins.backends[model.backend]
    default = _DEMO_TOKENS if model.backend == DEFAULT_BACKEND else _TOKENS
    if given["top_p"] == 0:
        raise ConfigError("--top-p 0 keeps no token", hint="--temperature 0 is greedy")
    if given["epochs"] == 0:
        raise ConfigError("--epochs 0 trains nothing", hint="--max-steps ends within a pass")
    return Recipe(
        method=method,
        model=model,
        harmful=_sources("harmful", given, model, card),
        benign=_sources("benign", given, model, card),
        teacher=tuple(words(given["teacher"])),
        max_harmful=given["max_harmful"],
        max_benign=given["max_benign"],
        draws=given["draws"],
        sampling=Sampling(
            temperature=given["temperature"],
            top_p=given["top_p"],
            top_k=given["top_k"],
            answer_tokens=given["answer_tokens"] or default,
        ),
        thinking=Thinking(
            mode=one_of("thinking", given["thinking"], "default", "off", "forced"),
            budget=given["thinking_budget"],
            unclosed="exclude",
        ),
        judges=(tuple(words(given["judge"])) or _judges(model)) if card.judges else (),
        judge_options=parse_options(given["judge_option"], flag="-J"),
        select=one_of("select", given["select"], "all", "deliberative"),
        adapter=_adapter(given),
        fit=_fit(given),
        panel=_panel(given),
        data_dirs=tuple(words(given["data_dir"])),
        seed=given["seed"],
        options=parse_options(given["trainer_option"], flag="-T"),
    )


def _sources(
    kind: str, given: dict[str, Any], model: "ModelSpec", card: "TrainerCard"
) -> tuple[str, ...]:
    from tseval.spec import DEFAULT_BACKEND

    named = tuple(words(given[kind]))
    if kind not in card.takes:
        if named:
            raise ConfigError(
                f"{card.name} takes no --{kind}", hint="tseval ls trainers says what each takes"
            )
        return ()
    default = _DEMO_PROMPTS[kind] if model.backend == DEFAULT_BACKEND else ("safechain",)
    return named or default


def _judges(model: "ModelSpec") -> tuple[str, ...]:
    from tseval.spec import DEFAULT_BACKEND

    return ("refusal-rules",) if model.backend == DEFAULT_BACKEND else ("llama-guard-3",)


def _adapter(given: dict[str, Any]) -> "Adapter":
    from tseval.train.records import Adapter

    return Adapter(
        rank=given["lora_rank"],
        alpha=given["lora_alpha"],
        dropout=given["lora_dropout"],
        targets=given["lora_targets"],
    )


def _fit(given: dict[str, Any]) -> "Fit":
    from tseval.cli.specs import one_of
    from tseval.train.records import Fit

    return Fit(
        epochs=given["epochs"],
        max_steps=given["max_steps"],
        learning_rate=given["lr"],
        warmup=given["warmup"],
        batch=given["batch"],
        micro_batch=given["micro_batch"],
        micro_tokens=given["micro_tokens"],
        max_tokens=given["max_tokens"],
        kl=given["kl"],
        save_steps=given["save_steps"],
        dtype=one_of("dtype", given["dtype"], "auto", "bfloat16", "float32"),
        seed=given["seed"],
    )


def _panel(given: dict[str, Any]) -> "Panel":
    from tseval.train.records import Panel

    suites = tuple(words(given["eval_suite"]))
    if given["eval_steps"] and not suites:
        raise ConfigError(
            "--eval-steps says when to look, and nothing says at what",
            hint="--eval-suite names suites or benchmarks",
        )
    return Panel(
        suites=suites,
        steps=given["eval_steps"],
        prompts=given["eval_prompts"],
        judges=tuple(words(given["eval_judge"])) or ("refusal-rules",),
        rule=given["keep"],
        alpha=given["alpha"],
        margin=given["margin"],
        answer_tokens=given["eval_answer_tokens"],
        data_dirs=tuple(words(given["data_dir"])),
    )
