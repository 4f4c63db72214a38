"""RunSpec: everything that determines what a run measures; its hash finds a run to resume."""

import re
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from .errors import ConfigError, UnknownName
from .protocol import fingerprint
from .requests import ModelSpec
from .types import Sampling, TextJudged, Thinking

DEFAULT_BACKEND = "demo"
DEFAULT_STANCE_JUDGES = ("stance-rules",)
# Names that credentials go by, in options and in the JSON that an option may hold.
_SECRET = re.compile(r"api[_-]?key|secret|password|access[_-]?token|authorization", re.IGNORECASE)


class RunSpec(Struct, frozen=True, kw_only=True):
    """What is run, in full; flags, environment, file and preset are already folded in.

    Attributes:
        model: The model under test.
        benchmarks: Benchmark names, in table order.
        suites: Suite names whose averages are shown.
        preset: Protocol preset as shown: 'default', or 'thinksafe+judge' with what overrides it.
        judges: Judge specifications, e.g. 'refusal-rules' or 'wildguard@vllm'.
        judge_options: Backend options of the judges' models ('judge:key' for one judge only).
            Not part of the hash, as the options of the model are not.
        sampling: Decoding values; ``answer_tokens`` only counts if ``answer_tokens_fixed``.
        decoding: 'fixed', or each model's 'recommended' values.
        answer_tokens_fixed: Whether ``sampling.answer_tokens`` overrides the benchmarks' cards.
        thinking: Mode, budget and force-close rule.
        text: Which text is judged.
        rollouts: Rollouts per prompt.
        limit: Rows per benchmark, or None.
        subset_seed: Seed that ranks rows under ``limit``; apart from ``seed``, so that runs
            under different seeds measure the same rows.
        seed: Run seed; every row seed derives from it.
        system_prompt: Of the subject; part of its identity.
        intervention: Name of an intervention, or ''.
        data_dirs: Local mirrors. Not part of the hash: contents are, through the protocol.
        scale: Sizes of the probes: 'smoke', 'standard' or 'paper'.
        harmful_from, benign_from: Benchmarks that probes take their prompts from; empty: those of
            the scale.
        stance_judges: What labels the chunks of traces for the probe of oscillation.
        unsafe_code: Whether benchmarks may execute code that the model wrote. Not part of the
            hash: it decides whether something is measured, never how.
    """

    model: ModelSpec
    benchmarks: tuple[str, ...]
    suites: tuple[str, ...] = ()
    preset: str = "default"
    judges: tuple[str, ...] = ("refusal-rules",)
    judge_options: dict[str, str] = {}
    sampling: Sampling = Sampling()
    decoding: Literal["fixed", "recommended"] = "fixed"
    answer_tokens_fixed: bool = False
    thinking: Thinking = Thinking()
    text: TextJudged = "answer"
    rollouts: int = 1
    limit: int | None = None
    subset_seed: int = 0
    seed: int = 0
    system_prompt: str = ""
    intervention: str = ""
    scale: str = "standard"
    harmful_from: tuple[str, ...] = ()
    benign_from: tuple[str, ...] = ()
    stance_judges: tuple[str, ...] = DEFAULT_STANCE_JUDGES
    data_dirs: tuple[str, ...] = ()
    unsafe_code: bool = False

    @property
    def hash(self) -> str:
        """Twelve hex digits; equal for two specifications that measure the same thing."""
        fields = self.comparable()
        return fingerprint(fields)

    def comparable(self) -> dict[str, object]:
        """Return the fields that the hash covers, as plain values."""
        fields: dict[str, object] = msgspec.to_builtins(self)
        del fields["data_dirs"], fields["judge_options"], fields["unsafe_code"]
        # How a model is executed (dtype, batches, time-outs) may differ between two legs of one
        # run; how its trace is told from its answer may not.
        model = dict(msgspec.to_builtins(self.model))
        model["options"] = {k: v for k, v in self.model.options.items() if k == "format"}
        fields["model"] = model
        return fields


def parse_model(
    text: str | None,
    backends: dict[str, bool],
    *,
    base_url: str = "",
    options: dict[str, str] | None = None,
) -> ModelSpec:
    """Read a model string.

    Args:
        text: A path, a hub id, or 'backend/name', with '@revision' and ':adapter' at the end;
            None is the embedded demo model.
        backends: Registered backend names, each with whether it needs a model name.
        base_url: Server address (``--base-url``).
        options: ``-M`` pairs.

    Raises:
        ConfigError: The string names neither a path, nor a hub id, nor a backend with a model;
            or the address or an option holds a credential, which would end up in the run's files.
    """
    options = dict(options or {})
    _refuse_secrets(base_url, options)
    if not text:
        return ModelSpec(backend=DEFAULT_BACKEND, options=options)
    path = Path(text).expanduser()
    looks_local = text.startswith((".", "~", "/")) or path.suffix == ".gguf"
    if looks_local or (path.exists() and text.split("/")[0] not in backends):
        if not path.exists():
            raise ConfigError(
                f"no model at {text}", hint="pass a folder, a GGUF file, a hub id or backend/name"
            )
        return ModelSpec(backend="hf", name=str(path), base_url=base_url, options=options)
    backend, _, name = text.partition("/")
    if backend not in backends:
        if "/" not in text:
            raise _unknown_model(text, backends)
        backend, name = "hf", text
    if not name and backends[backend]:
        raise ConfigError(
            f"backend {backend!r} needs a model", hint=f"for example {backend}/Qwen/Qwen3-0.6B"
        )
    name, revision, adapter = _split_suffixes(name)
    return ModelSpec(
        backend=backend,
        name=name,
        revision=revision,
        adapter=adapter,
        base_url=base_url,
        options=options,
    )


def _refuse_secrets(base_url: str, options: dict[str, str]) -> None:
    """Refuse credentials where they would be written to ``run.json``."""
    if "@" in base_url.partition("//")[2].partition("/")[0]:
        raise ConfigError(
            "--base-url holds a user name or a password, and would be written to run.json",
            hint="put the key into OPENAI_API_KEY, or name its variable by -M api_key_env=NAME",
        )
    if "?" in base_url or "#" in base_url:
        raise ConfigError(
            "--base-url holds a query, and would be written to run.json",
            hint="give the address alone; keys go into OPENAI_API_KEY",
        )
    for name, value in options.items():
        if name.endswith("_env"):
            if not value.isidentifier():
                raise ConfigError(
                    f"-M {name} takes the name of a variable, not its value",
                    hint=f"export MY_KEY=... and pass -M {name}=MY_KEY",
                )
        elif _SECRET.search(name) or (value.startswith("{") and _SECRET.search(value)):
            raise ConfigError(
                f"-M {name} would be written to run.json",
                hint="put the key into OPENAI_API_KEY, or name its variable by -M api_key_env=NAME",
            )


def _unknown_model(text: str, backends: dict[str, bool]) -> ConfigError:
    error = UnknownName("model", text, backends)
    return ConfigError(
        f"{text!r} is neither a path, a hub id (org/name) nor a backend"
        f" ({', '.join(sorted(backends))})",
        hint="; ".join(
            filter(
                None,
                (
                    f"hf/{text} for a hub id without an organisation",
                    error.hint.split("see ")[0].strip(),
                ),
            )
        ),
    )


def _split_suffixes(name: str) -> tuple[str, str, str]:
    """Split 'base@revision:adapter'; an existing path keeps its '@' and ':'."""
    if Path(name).expanduser().exists():
        return name, "", ""
    # On a server 'llama3:8b' is a name: its backend puts the parts together again.
    name, _, adapter = name.partition(":")
    name, _, revision = name.partition("@")
    return name, revision, adapter


def parse_options(pairs: list[str], *, flag: str = "-M") -> dict[str, str]:
    """Read ``-M key=value`` pairs; several may stand in one, separated by commas.

    Commas inside the brackets and strings of a JSON value belong to it.

    Raises:
        ConfigError: A pair without '=' or a key given twice with different values.
    """
    options: dict[str, str] = {}
    for part in (part for pair in pairs for part in _split_outside_json(pair)):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise ConfigError(
                f"{flag} takes key=value, got {part!r}",
                hint="commas separate pairs, except inside {}, [] and double quotes",
            )
        if options.setdefault(key, value) != value:
            raise ConfigError(f"{flag} {key} is given twice: {options[key]!r} and {value!r}")
    return options


def _split_outside_json(text: str) -> list[str]:
    parts, depth, quoted, start = [], 0, False, 0
    for place, character in enumerate(text):
        if character == '"' and text[place - 1 : place] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (character in "{[") - (character in "}]")
            if character == "," and depth <= 0:
                parts.append(text[start:place])
                start = place + 1
    return [*parts, text[start:]]
