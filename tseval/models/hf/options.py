"""The ``-M`` options of the transformers backends, read and checked before anything is loaded."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError

Dtype = Literal["auto", "bfloat16", "float16", "float32"]

OPTIONS = {
    "dtype": "auto, bfloat16, float16 or float32 (auto: bfloat16 where the device computes in it)",
    "device": "auto, cpu, cuda, cuda:1 ... (auto: the first CUDA device, else the CPU)",
    "batch_tokens": "most tokens of prompts and completions in one batch (default: by memory)",
    "prefix_cache": (
        "memory for beginnings that prompts share, such as 2GB; 0: none, as with deterministic=true"
    ),
    "deterministic": "true for float32 and batches of one: equal bytes in whatever order",
    "attn": "attention implementation of transformers: sdpa, eager, flash_attention_2 ...",
    "threads": "CPU threads of torch",
    "trust_remote_code": "true runs Python code that comes with the model (default false)",
    "format": "thinking format, instead of the one that the chat template shows",
    "max_outstanding": "requests that wait at once for the batches to be formed from",
}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class HfOptions(Struct, frozen=True, kw_only=True):
    """What ``-M key=value`` says, as values; OPTIONS has the meanings, 0 and '' are defaults."""

    dtype: Dtype = "auto"
    device: str = "auto"
    batch_tokens: int = 0
    prefix_cache: str = ""
    deterministic: bool = False
    attn: str = ""
    threads: int = 0
    trust_remote_code: bool = False
    format: str = ""
    max_outstanding: int = 0

    @property
    def prefix_bytes(self) -> int | None:
        """Memory for shared beginnings; None leaves it to us.

        Raises:
            ConfigError: The text is no size.
        """
        if not self.prefix_cache:
            return 0 if self.deterministic else None
        size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?I?)B?", self.prefix_cache.upper())
        if size is None or size[2] not in _UNITS:
            raise ConfigError(
                f"-M prefix_cache={self.prefix_cache} is no size",
                hint="expected bytes, or a number with KB, MB, GB, KiB, MiB or GiB; 0 for none",
            )
        return int(float(size[1]) * _UNITS[size[2]])


def read_options(backend: str, given: dict[str, str]) -> HfOptions:
    """Read the options of a model string.

    Args:
        backend: 'hf' or 'demo', for messages.
        given: ``-M`` pairs.

    Raises:
        ConfigError: An option is unknown, or its value is none that it takes.
    """
    for name in given:
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, n=1)
            raise ConfigError(
                f"the {backend} backend has no option {name!r} (known: {', '.join(OPTIONS)})",
                hint=f"did you mean -M {near[0]}=...?" if near else "see `tseval ls backends`",
            )
    values = {name: _SHORT.get(value, value) for name, value in given.items()}
    read: dict[str, object] = {}
    for field in msgspec.structs.fields(HfOptions):
        if field.name in values:
            try:
                read[field.name] = msgspec.convert(values[field.name], field.type, strict=False)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"-M {field.name}={given[field.name]} is no value for it: {error}",
                    hint=f"{field.name}: {OPTIONS[field.name]}",
                ) from None
    options = HfOptions(**read)  # type: ignore[arg-type]
    for name in ("batch_tokens", "threads", "max_outstanding"):
        if getattr(options, name) < 0:
            raise ConfigError(f"-M {name}={given[name]} is negative", hint=OPTIONS[name])
    if options.prefix_bytes and options.deterministic:
        raise ConfigError(
            f"-M deterministic=true keeps no prefixes, got -M prefix_cache={options.prefix_cache}",
            hint="leave out one of them: rounding must not depend on what was asked before",
        )
    if options.deterministic and options.dtype not in ("auto", "float32"):
        raise ConfigError(
            f"-M deterministic=true computes in float32, not in {options.dtype}",
            hint="leave out -M dtype",
        )
    return options


def likely_device(option: str) -> str:
    """Name the device that the model will take, without importing torch.

    The scheduler asks before anything is loaded; ``start`` corrects a wrong guess.
    """
    if option != "auto":
        return f"{option}:0" if option == "cuda" else option
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return "cuda:0" if Path("/dev/nvidia0").exists() and not hidden else "cpu"
