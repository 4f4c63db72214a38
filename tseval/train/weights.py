"""Loads a model for training: frozen weights with a fresh LoRA adapter on them."""

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import structs

from tseval.errors import ConfigError, TrainingError
from tseval.formats import ThinkingFormat, choose_format
from tseval.models.demo import demo_model
from tseval.models.hf.load import Named, load, model_identity, resolve
from tseval.models.hf.options import read_options
from tseval.models.hf.text import Text
from tseval.requests import ModelSpec, Report, Subject

from .records import Adapter, Fit

if TYPE_CHECKING:
    from tseval.plugins import Registry

INSTALL = "pip install 'tseval[train]'"
# Backends whose models are files that transformers reads, whatever engine ran them.
_READABLE = ("hf", "vllm", "demo")
# Of a state-space mixer, the layers whose weights fused kernels read past an adapter on them: it
# would not be trained there. PEFT refuses the last for some architectures.
_FUSED = frozenset({"x_proj", "dt_proj", "out_proj"})
# Options of those backends that say how weights are read; the others are about generation.
_READING = ("device", "attn", "threads", "trust_remote_code", "format")


class Student(NamedTuple):
    """A model that can be trained, and what there is to know about it.

    Attributes:
        model: A ``PeftModel``; the adapter's parameters are float32 and alone need gradients.
        text: Its tokenizer.
        format: Its thinking format.
        subject: Identity of the base model.
        device: Where it is.
        stop_ids: Tokens that end a turn.
        context_length: In tokens, or None.
    """

    model: Any
    text: Text
    format: ThinkingFormat
    subject: Subject
    device: str
    stop_ids: frozenset[int]
    context_length: int | None


def load_student(
    spec: ModelSpec, adapter: Adapter, fit: Fit, registry: "Registry", report: Report
) -> Student:
    """Load a model's weights and put a fresh adapter on them.

    The adapter's beginning depends on ``fit.seed`` alone.

    Args:
        spec: The model; backends 'hf', 'vllm' and 'demo' name weights that can be trained.
        adapter: The adapter.
        fit: Its ``dtype`` and ``seed``.
        registry: For thinking formats.
        report: Told of the steps.

    Raises:
        ConfigError: The model's weights are not at hand, or are an adapter themselves.
        BackendError: They cannot be loaded.
        TrainingError: PEFT is missing, or no layer fits ``adapter.targets``.
    """
    named = base_of(spec, report)
    options = {name: spec.options[name] for name in _READING if name in spec.options}
    read = structs.replace(read_options("hf", options), dtype=fit.dtype)
    rank = os.environ.get("LOCAL_RANK", "")
    if rank and read.device == "auto" and _has_cuda():
        read = structs.replace(read, device=f"cuda:{rank}")
    loaded = load(named, read, report)
    model = with_adapter(loaded.model, adapter, fit.seed)
    config = model.peft_config["default"]
    # As ``resolve`` reads it back when the adapter's folder is named as a model.
    place = (named.base.place, named.base.gguf)
    config.base_model_name_or_path = "/".join(filter(None, place))
    config.revision = named.base.arguments.get("revision")
    return Student(
        model=model,
        text=loaded.text,
        format=choose_format(
            registry.formats.values(), loaded.text.view(), spec.options.get("format", "")
        ),
        subject=loaded.subject,
        device=loaded.device,
        stop_ids=loaded.stop_ids,
        context_length=loaded.context_length,
    )


def save_errors() -> tuple[type[Exception], ...]:
    """Name what saving weights raises where a file cannot be written.

    The error of safetensors derives from ``Exception`` alone.
    """
    from safetensors import SafetensorError

    return OSError, SafetensorError


def base_of(spec: ModelSpec, report: Report) -> Named:
    """Find the files of the model that is to be trained.

    Raises:
        ConfigError: It is served by somebody else, or an adapter already.
        BackendError: There are none.
    """
    if spec.backend not in _READABLE:
        raise ConfigError(
            f"backend {spec.backend!r} has no weights that could be trained"
            f" (known: {', '.join(_READABLE)})",
            hint="name the checkpoint: --model hf/PATH or a hub id",
        )
    named = demo_model(report) if spec.backend == "demo" else resolve(spec)
    if named.adapter is not None:
        raise ConfigError(
            f"'{named.name}' is an adapter already; one on top of it could not be saved alone",
            hint="merge it into its base and name the merged folder",
        )
    return named


def identity_of(spec: ModelSpec, report: Report) -> dict[str, str]:
    """Identify a model's weights without loading them; raises as :func:`base_of`."""
    return model_identity(base_of(spec, report), report)


def require_same(recorded: Subject | None, found: Mapping[str, str]) -> None:
    """Refuse to go on with another model under the name of the one that a training began with.

    Args:
        recorded: What it began with; None before anything was drawn.
        found: Identity of what the name stands for now, or a part of it.

    Raises:
        ConfigError: They differ.
    """
    known = recorded.identity if recorded is not None else found
    differ = sorted(name for name, value in found.items() if known.get(name) != value)
    if recorded is not None and differ:
        raise ConfigError(
            f"the model is not the one that this training began with ({', '.join(differ)})",
            hint=f"put the former {recorded.name} back, or give another --out to begin anew",
        )


def with_adapter(model: Any, adapter: Adapter, seed: int) -> Any:
    """Freeze a model and put a LoRA adapter on it, its parameters in float32.

    In bfloat16 a parameter cannot take steps as small as a learning rate of 1e-5 makes them.

    Raises:
        TrainingError: PEFT is missing, or no layer fits ``adapter.targets``.
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError("training needs the package 'peft'", hint=INSTALL) from None
    targets: str | list[str] | None = adapter.targets
    if adapter.targets == "default":
        targets = None
    elif adapter.targets != "all-linear":
        targets = adapter.targets.split()
    elif _has_mixers(model):
        targets = _workable(model)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    head = model.get_output_embeddings()
    workable = _workable(model)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
            adapted: Any = get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        said = " ".join(str(error).split())
        raise TrainingError(
            f"no adapter fits the model: {said[:200]}",
            hint="--lora-targets takes 'all-linear', 'default', or names of linear layers, here of:"
            f" {' '.join(workable)}",
        ) from None
    if adapted.get_base_model().get_output_embeddings() is not head:
        raise TrainingError(
            "the model's head cannot have an adapter: its logits are made by the frozen one",
            hint="leave it out of --lora-targets",
        )
    return adapted


def _has_mixers(model: Any) -> bool:
    """Say whether a model has state-space mixers, as Mamba and its hybrids have."""
    parts = ("conv1d", "in_proj", "out_proj")
    return any(all(hasattr(module, part) for part in parts) for module in model.modules())


def _workable(model: Any) -> list[str]:
    """Name the linear layers that an adapter can be trained on."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head, left_out = model.get_output_embeddings(), _FUSED if _has_mixers(model) else ()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return sorted(found.difference(left_out))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
