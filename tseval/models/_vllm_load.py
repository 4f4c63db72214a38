"""Starts vLLM's engine for a folder, a hub id, a LoRA adapter on one of them, or the demo model."""

import dataclasses
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from tseval.errors import BackendError, ConfigError, TsevalError
from tseval.models.hf.identity import text_identity
from tseval.models.hf.limits import free_bytes
from tseval.models.hf.load import (
    Named,
    ignored_settings,
    load_tokenizer,
    model_identity,
    recommended_decoding,
    resolve,
    without_bars,
)
from tseval.models.hf.options import HfOptions
from tseval.models.hf.source import Source
from tseval.models.hf.text import Text
from tseval.requests import ModelSpec, Report, Subject

from ._vllm_options import VllmOptions, engine_arguments
from .demo import demo_model

_GUIDE = "docs/how-to/run-on-vllm.md"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_GIB = 1 << 30
# Tokens between two looks at a completion that may have to be stopped. What is drawn behind the
# limit is thrown away; looking at each token would keep the event loop from everything else.
_STREAM_INTERVAL = 8


class Loaded(NamedTuple):
    """A running engine, and what there is to know about it.

    Attributes:
        engine: ``AsyncLLM``.
        text: Renders, encodes and decodes, as the hf backend does.
        subject: What is measured.
        stop_ids: Tokens that end a turn.
        context_length: Tokens that prompt and completion share.
        batch: Most completions in one batch.
        devices: Names of the devices.
        adapter: ``LoRARequest`` that goes with every request, or None.
        seeds: Whether a request may carry a seed.
    """

    engine: Any
    text: Text
    subject: Subject
    stop_ids: frozenset[int]
    context_length: int
    batch: int
    devices: tuple[str, ...]
    adapter: Any
    seeds: bool


def find(spec: ModelSpec, report: Report) -> Named:
    """Find the files that a model string names; 'demo' is the embedded model.

    Raises:
        BackendError: They are not there, or of a kind that vLLM does not load.
    """
    if spec.name == "demo" and not spec.revision and not Path(spec.name).exists():
        named = demo_model(report)
        if spec.adapter:
            adapted = resolve(
                ModelSpec(backend=spec.backend, name=named.base.place, adapter=spec.adapter)
            )
            named = adapted._replace(
                name=f"demo:{adapted.name.rpartition(':')[2]}", identity=named.identity
            )
    else:
        named = resolve(spec)
    if named.base.gguf:
        raise BackendError(
            f"vLLM does not load '{named.base.gguf}', a GGUF file",
            hint=f"take the hf backend: hf/{spec.name}",
        )
    return named


def load(named: Named, options: VllmOptions, report: Report) -> Loaded:
    """Start an engine; blocks until it answers.

    Args:
        named: What to load.
        options: Options, those of the engine unchecked.
        report: Told of the steps.

    Raises:
        ConfigError: vLLM knows no such argument.
        BackendError: vLLM is not installed, or cannot load the model.
    """
    prepare_environment()
    vllm = _import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    defaults = _defaults(AsyncEngineArgs)
    given = engine_arguments(options.engine, defaults)
    is_cpu = bool(current_platform.is_cpu())
    if options.sleep and not current_platform.is_sleep_mode_available():
        raise ConfigError(
            "-M sleep=on needs a CUDA device", hint="leave it out: models are then loaded again"
        )
    if is_cpu and given.get("enforce_eager", True):
        # Else the first log-probabilities wait for a C++ compiler, or fail where there is none.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    try:
        with without_bars():
            text, configured, config = _read(named, bool(given.get("trust_remote_code")))
            fixed = _arguments(named, options, text, config, is_cpu=is_cpu)
            wanted = {name: value for name, value in fixed.items() if name in defaults} | given
            report(f"starting vLLM {vllm.__version__} for {named.name}", None)
            with interrupts_blocked():
                engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**wanted))
    except TsevalError:
        raise
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, KeyError) as error:
        raise _cannot_load(named, error) from error
    found = engine.vllm_config
    seeds = can_rewind(current_platform.device_type) or not (
        found.scheduler_config.enable_chunked_prefill
    )
    identity = {**model_identity(named, report), **text_identity(text), **options.changes}
    facts = _execution(vllm, found, options, current_platform, seeds=seeds)
    ignored = ignored_settings(configured)
    return Loaded(
        engine=engine,
        text=text,
        subject=Subject(
            name=named.name,
            identity=identity,
            recommended=recommended_decoding(configured),
            execution={**facts, "generation_config_ignored": ignored} if ignored else facts,
        ),
        stop_ids=text.stop_ids(configured.eos_token_id),
        context_length=int(found.model_config.max_model_len),
        batch=int(found.scheduler_config.max_num_seqs),
        devices=devices(found.parallel_config.world_size_across_dp, is_cpu=is_cpu),
        adapter=None if named.adapter is None else _lora_request(named),
        seeds=seeds,
    )


def prepare_environment() -> None:
    """Set what vLLM reads from the environment as it is imported; what the user set stays."""
    # Nothing is reported to anybody: a measurement of a model is its owner's business.
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        # Standard output belongs to the scorecard.
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # torch has threads by now, which a forked engine would find dead.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, int(free_bytes("cpu") / _GIB / 6))),
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started meanwhile: they inherit this thread's mask.

    A terminal sends it to all of a command's processes. An engine that it ends would turn an
    interrupted run into a failed one; what ends engines is the run.
    """
    # As it starts for the first spawned process, multiprocessing's tracker lets interrupts through.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def devices(count: int, *, is_cpu: bool) -> tuple[str, ...]:
    """Names of the devices that an engine occupies."""
    return ("cpu",) if is_cpu else tuple(f"cuda:{n}" for n in range(count))


def can_rewind(device: str) -> bool:
    """Whether a random generator of this device can be set back.

    vLLM sets the generator of a seeded request back whenever it has read only a part of its
    prompt. A generator that cannot do that ends the whole engine.
    """
    import torch

    try:
        torch.Generator(device=device).get_offset()
    except RuntimeError:
        return False
    return True


def _import_vllm() -> Any:
    if find_spec("vllm") is None:
        raise BackendError(
            "vLLM is not installed in this environment",
            hint=f"in an environment of its own: pip install 'tseval[vllm]'; for CPUs see {_GUIDE}",
        )
    try:
        return import_module("vllm")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"vLLM cannot be imported: {' '.join(str(error).split())[:300]}",
            hint=f"its libraries do not fit together; {_GUIDE} says which do",
        ) from error


def _defaults(arguments: type) -> dict[str, object]:
    """The engine's arguments with their defaults."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(arguments):
        if not field.name.startswith("_"):
            found[field.name] = None if field.default is dataclasses.MISSING else field.default
    return found


def _read(named: Named, trust_remote_code: bool) -> tuple[Text, Any, Any]:
    """Read tokenizer, generation config and config."""
    transformers: Any = import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    source = named.base
    tokenizer = load_tokenizer(named, HfOptions(trust_remote_code=trust_remote_code))
    config = transformers.AutoConfig.from_pretrained(
        source.place, trust_remote_code=trust_remote_code, **source.arguments
    )
    try:
        configured = transformers.GenerationConfig.from_pretrained(source.place, **source.arguments)
    except OSError:
        configured = transformers.GenerationConfig.from_model_config(config)
    return Text(tokenizer), configured, config


def _arguments(
    named: Named, options: VllmOptions, text: Text, config: Any, *, is_cpu: bool
) -> dict[str, Any]:
    """What tseval asks of the engine unless the user says otherwise."""
    source = named.base
    found: dict[str, Any] = {
        **_files(source),
        # tseval renders, encodes and decodes itself, as with every other backend.
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "language_model_only": True,
        "enable_prefix_caching": True,
        "enable_sleep_mode": options.sleep,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "stream_interval": _STREAM_INTERVAL,
        # Only draws without a seed of their own use it; those of a resumed run must be others.
        "seed": secrets.randbits(31),
    }
    if is_cpu:
        found["enforce_eager"] = True
        if not can_rewind("cpu") and "enable_chunked_prefill" not in options.engine:
            # Prompts in one piece: see `can_rewind`.
            longest = options.engine.get("max_model_len") or _context(config)
            found["enable_chunked_prefill"] = False
            found["max_num_batched_tokens"] = max(int(longest), 2048)
    if named.adapter is not None:
        found |= _lora_arguments(named.adapter, text, config)
    return found


def _files(source: Source) -> dict[str, Any]:
    """Where the engine finds the base."""
    if source.cached:
        # By its folder: by its name the engine would ask the hub, which cannot be reached.
        return {"model": _snapshot(source)}
    commit = source.commit or None
    return {"model": source.place, "revision": commit, "code_revision": commit}


def _snapshot(source: Source) -> str:
    """Give the folder of a repository's files, fetched where they may be."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(source.place, **source.arguments))


def _context(config: Any) -> int:
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 15)


def _lora_arguments(adapter: Source, text: Text, config: Any) -> dict[str, Any]:
    """Room for one adapter.

    Raises:
        BackendError: It is no LoRA adapter, or one that vLLM cannot put on its base.
    """
    read = adapter.read_json("adapter_config.json") or {}
    if read.get("peft_type") != "LORA":
        raise BackendError(
            f"the adapter '{adapter.place}' is of type {read.get('peft_type')!r}, expected 'LORA'",
            hint="merge it into its base and name the merged folder",
        )
    vocabulary = config.get_text_config().vocab_size
    if len(text.tokenizer) > vocabulary:
        raise BackendError(
            f"the adapter '{adapter.place}' adds tokens ({len(text.tokenizer)}, its base has"
            f" {vocabulary}), which vLLM cannot load",
            hint="merge it into its base, or take the hf backend",
        )
    patterns = read.get("rank_pattern") or {}
    rank = max([int(read.get("r") or 8), *map(int, patterns.values())])
    if rank > _RANKS[-1]:
        raise BackendError(
            f"the adapter '{adapter.place}' has rank {rank}, vLLM takes {_RANKS[-1]} at most",
            hint="merge it into its base and name the merged folder",
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(each for each in _RANKS if each >= rank),
    }


def _lora_request(named: Named) -> Any:
    from vllm.lora.request import LoRARequest

    adapter = named.adapter
    assert adapter is not None
    folder = adapter.place if adapter.folder is not None else _snapshot(adapter)
    return LoRARequest(lora_name=named.name, lora_int_id=1, lora_path=folder)


def _execution(
    vllm: Any, found: Any, options: VllmOptions, platform: Any, *, seeds: bool
) -> dict[str, str]:
    import torch

    facts = {
        "engine": f"vllm {vllm.__version__}",
        "torch": str(torch.__version__),
        "dtype": str(found.model_config.dtype).removeprefix("torch."),
        "device": str(platform.get_device_name()),
        "batches": f"continuous, at most {found.scheduler_config.max_num_seqs} rows",
    }
    if found.parallel_config.world_size > 1:
        facts["tensor_parallel_size"] = str(found.parallel_config.tensor_parallel_size)
    if not seeds:
        facts["repeatable"] = "no: this engine takes no seeds per request"
    shown = ", ".join(f"{name}={value}" for name, value in sorted(options.engine.items()))
    return {**facts, "engine_arguments": shown} if shown else facts


def _cannot_load(named: Named, error: Exception) -> BackendError:
    """Say in a line why an engine did not start."""
    said = " ".join(str(error).split())
    hint = "its own words stand above; VLLM_LOGGING_LEVEL=INFO shows more"
    if "trust_remote_code" in said:
        said, hint = "it comes with Python code of its own", "-M trust_remote_code=true runs it"
    elif "max_model_len" in said or "max seq len" in said or "KV cache" in said:
        hint = "a shorter -M max_model_len=... needs less memory"
    elif "not supported" in said and "rchitecture" in said:
        hint = "take the hf backend"
    return BackendError(f"vLLM cannot load '{named.name}': {said[:300]}", hint=hint)


def asks_for(options: Mapping[str, str]) -> int:
    """Devices that an engine will occupy, by its options alone."""
    count = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        given = options.get(name, "1")
        count *= int(given) if given.isdecimal() else 1
    return max(count, 1)
