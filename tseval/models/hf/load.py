"""Loads a model of transformers: folder, hub id, GGUF file, or LoRA adapter on one of them."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tseval.errors import BackendError
from tseval.requests import ModelSpec, Report, Subject

from .identity import source_identity, text_identity
from .options import HfOptions
from .source import Source, locate
from .text import Text

# How long an OpenMP thread waits awake for the others, in turns of libgomp's loop. By default it
# waits for as long as it takes, which is fast alone and ruins everything on a shared machine:
# measured on two busy cores, one matrix product took 8 ms, and 0.2 ms with this.
_SPIN_COUNT = "10000"
_INSTALL_PEFT = "pip install 'tseval[train]'"


class Loaded(NamedTuple):
    """A model in memory, and what there is to know about it."""

    model: Any
    text: Text
    subject: Subject
    device: str
    stop_ids: frozenset[int]
    context_length: int | None


class Named(NamedTuple):
    """What to load under which name.

    Attributes:
        name: What tables call it.
        base: The weights.
        adapter: The LoRA adapter on top, if any.
        identity: Replaces the hashes of the base's files, where they say less.
    """

    name: str
    base: Source
    adapter: Source | None = None
    identity: dict[str, str] | None = None


def resolve(spec: ModelSpec) -> Named:
    """Find the files that a model string names.

    Raises:
        BackendError: See ``locate``; or an adapter is none, or names no base.
    """
    found = locate(spec.name, spec.revision)
    label = f"{spec.name}@{spec.revision}" if spec.revision else spec.name
    if spec.adapter:
        named = Path(spec.adapter).name if Path(spec.adapter).exists() else spec.adapter
        return Named(f"{_short(label, found)}:{named}", found, locate(spec.adapter))
    if found.gguf or found.read_json("config.json") is not None:
        return Named(_short(label, found), found)
    adapter = found.read_json("adapter_config.json")
    if adapter is None:
        raise BackendError(
            f"'{spec.name}' holds neither config.json nor adapter_config.json",
            hint="name the folder that `save_pretrained` wrote",
        )
    base = adapter.get("base_model_name_or_path")
    if not base:
        raise BackendError(
            f"the adapter '{spec.name}' names no base model in adapter_config.json",
            hint="name both: hf/BASE:ADAPTER",
        )
    return Named(_short(label, found), locate(str(base), str(adapter.get("revision") or "")), found)


def _short(label: str, source: Source) -> str:
    return Path(label).name if source.folder is not None else label


def load(named: Named, options: HfOptions, report: Report) -> Loaded:
    """Load weights and tokenizer onto the device.

    Args:
        named: What to load.
        options: Dtype, device and the rest.
        report: Told of the steps.

    Raises:
        BackendError: Something is missing, broken, or does not fit into memory.
    """
    _prepare_threads()
    import torch

    transformers: Any = import_module("transformers")
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    device = _device(options)
    dtype = _dtype(options, device)
    report(f"loading {named.name} ({dtype}, {device})", None)
    try:
        with without_bars():
            tokenizer = load_tokenizer(named, options)
            model = _model(named, options, dtype, device)
            if named.adapter is not None:
                model = _with_adapter(model, named.adapter, tokenizer)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise _cannot_load(named, error) from error
    model.eval()
    text = Text(tokenizer)
    configured = model.generation_config
    # Nothing of the model's own generation config acts by itself (repetition penalty and the
    # like would change what is measured); what it recommends is offered as data.
    model.generation_config = transformers.GenerationConfig()
    subject = Subject(
        name=named.name,
        identity={**model_identity(named, report), **text_identity(text)},
        recommended=recommended_decoding(configured),
        execution=_execution(model, options, dtype, device, configured),
    )
    config = model.config.get_text_config()
    return Loaded(
        model=model,
        text=text,
        subject=subject,
        device=device,
        stop_ids=text.stop_ids(configured.eos_token_id),
        context_length=getattr(config, "max_position_embeddings", None),
    )


def _prepare_threads() -> None:
    """Let OpenMP threads sleep while they wait; libgomp reads this once, as torch loads it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def _device(options: HfOptions) -> str:
    import torch

    if options.device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(options.device)
    except RuntimeError:
        raise BackendError(
            f"'{options.device}' is no device of torch", hint="-M device=cpu, cuda or cuda:1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"there is no device '{options.device}' (CUDA devices: {torch.cuda.device_count()})",
            hint="leave out -M device to take what there is",
        )
    return "cuda:0" if options.device == "cuda" else options.device


def _dtype(options: HfOptions, device: str) -> str:
    """Choose bfloat16 where the device multiplies in it, else float32.

    On CPUs that is AVX512-BF16, AMX, or BF16 of ARM; elsewhere bfloat16 is emulated, slower than
    float32.
    """
    import torch

    if options.deterministic:
        return "float32"
    if options.dtype != "auto":
        return options.dtype
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and _cpu_has_bf16()
    return "bfloat16" if native else "float32"


def _cpu_has_bf16() -> bool:
    import torch

    if platform.machine() in ("aarch64", "arm64"):
        info = Path("/proc/cpuinfo")
        return info.exists() and " bf16" in info.read_text(encoding="utf-8", errors="replace")
    # torch has no public question for this in all versions that we support.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def load_tokenizer(named: Named, options: HfOptions) -> Any:
    """Load the tokenizer: the adapter's own if it brings one, else the base's."""
    from transformers import AutoTokenizer

    source = named.base
    own = ("tokenizer_config.json", "tokenizer.json")
    if named.adapter is not None and any(named.adapter.read_json(name) for name in own):
        source = named.adapter
    return AutoTokenizer.from_pretrained(
        source.place,
        trust_remote_code=options.trust_remote_code,
        **({"gguf_file": source.gguf} if source.gguf else {}),
        **source.arguments,
    )


def _model(named: Named, options: HfOptions, dtype: str, device: str) -> Any:
    import torch

    transformers: Any = import_module("transformers")
    source = named.base
    extra: dict[str, Any] = {}
    if source.gguf:
        extra = gguf_arguments(source.gguf)
    if options.attn:
        extra["attn_implementation"] = options.attn
    quantised = "quantization_config" in (source.read_json("config.json") or {})
    if quantised:
        # Packed weights cannot be moved once they are loaded.
        extra["device_map"] = {"": device}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        source.place,
        dtype=getattr(torch, dtype),
        trust_remote_code=options.trust_remote_code,
        **extra,
        **source.arguments,
    )
    return model if quantised else model.to(device)


def gguf_arguments(name: str) -> dict[str, Any]:
    """Arguments that load a GGUF file as an ordinary model.

    transformers 5.20 and later keep its blocks packed unless told otherwise: packed weights can
    be neither saved nor trained. Before, they were always unpacked and there was no such switch.
    """
    import transformers

    switch = getattr(transformers, "GgufConfig", None)
    unpacked = {} if switch is None else {"quantization_config": switch(dequantize=True)}
    return {"gguf_file": name, **unpacked}


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars of its own into ours, for as long as it loads.

    Its reader of GGUF files ignores its own switch.
    """
    logging: Any = import_module("transformers.utils.logging")
    reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    shown, drawn = logging.is_progress_bar_enabled(), getattr(reader, "tqdm", None)
    logging.disable_progress_bar()
    reader.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reader.tqdm = drawn
        if shown:
            logging.enable_progress_bar()


def _with_adapter(model: Any, adapter: Source, tokenizer: Any) -> Any:
    """Put a LoRA adapter on a model, unmerged.

    Merged into bfloat16 weights, much of a small update would be rounded away.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise BackendError(
            f"'{adapter.place}' is a LoRA adapter, which needs the package 'peft'",
            hint=_INSTALL_PEFT,
        ) from None
    kind = (adapter.read_json("adapter_config.json") or {}).get("peft_type")
    if kind != "LORA":
        raise BackendError(
            f"the adapter '{adapter.place}' is of type {kind!r}, expected 'LORA'",
            hint="merge it into its base and name the merged folder",
        )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, adapter.place, **adapter.arguments).get_base_model()


def _cannot_load(named: Named, error: Exception) -> BackendError:
    """Say in a line why a model could not be loaded."""
    if isinstance(error, BackendError):
        return error
    said = " ".join(str(error).split())
    hint = "see --debug for the whole message"
    if "trust_remote_code" in said:
        said, hint = "it comes with Python code of its own", "-M trust_remote_code=true runs it"
    elif "out of memory" in said or "can't allocate memory" in said:
        said, hint = "memory ran out", "take a smaller model or another -M device"
    elif isinstance(error, ImportError):
        hint = "install the package that it names"
    return BackendError(f"cannot load '{named.name}': {said[:300]}", hint=hint)


def model_identity(named: Named, report: Report) -> dict[str, str]:
    """Identify the weights: base, or base and adapter."""

    def tell(phrase: str) -> None:
        report(phrase, None)

    found = source_identity(named.base, tell) if named.identity is None else named.identity
    if named.adapter is None:
        return found
    adapter = source_identity(named.adapter, tell)
    return {
        **{f"base/{name}": value for name, value in found.items()},
        **{f"adapter/{name}": value for name, value in adapter.items()},
    }


def recommended_decoding(configured: Any) -> dict[str, float]:
    """Sampling that the model's generation config recommends; empty where it says greedy."""
    if not configured.do_sample:
        return {}
    values = {name: getattr(configured, name) for name in ("temperature", "top_p", "top_k")}
    return {name: float(value) for name, value in values.items() if value is not None}


def _execution(
    model: Any, options: HfOptions, dtype: str, device: str, configured: Any
) -> dict[str, str]:
    import torch
    import transformers

    facts = {
        "engine": f"transformers {transformers.__version__}",
        "torch": str(torch.__version__),
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "attention": str(model.config._attn_implementation),
        "batches": "one row" if options.deterministic else "token budget",
    }
    if device == "cpu":
        facts["threads"] = str(torch.get_num_threads())
    ignored = ignored_settings(configured)
    return {**facts, "generation_config_ignored": ignored} if ignored else facts


def ignored_settings(configured: Any) -> str:
    """Settings of the model's generation config that would act in ``generate`` by default."""
    names = (
        *("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "min_length"),
        *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_eos_token_id"),
        *("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "sequence_bias"),
        *("exponential_decay_length_penalty", "guidance_scale"),
    )
    neutral: tuple[Any, ...] = (None, 0, 0.0, 1.0, [])
    found = {name: getattr(configured, name, None) for name in names}
    return ", ".join(f"{name}={value}" for name, value in found.items() if value not in neutral)
