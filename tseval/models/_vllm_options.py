"""The ``-M`` options of the vLLM backend: a few of its own, and every argument of the engine."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

from tseval.errors import ConfigError

OPTIONS = {
    "max_model_len": "tokens of context (default: the model's; less needs less memory)",
    "dtype": "auto, bfloat16, float16 or float32",
    "tensor_parallel_size": "devices that share the model",
    "gpu_memory_utilization": "share of the device's memory that the engine takes",
    "max_num_seqs": "most completions in one batch",
    "trust_remote_code": "true runs Python code that comes with the model (default false)",
    "sleep": "on: while another model has the device, keep the weights in host memory (CUDA) "
    "instead of loading them again",
    "format": "thinking format, instead of the one that the chat template shows",
    "max_outstanding": "requests that wait at once (default: twice max_num_seqs)",
    "ANY_ARGUMENT": "any other argument of vLLM's engine, by its name; lists and mappings as JSON",
}
_OWN = ("sleep", "format", "max_outstanding")
_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# What the backend's own promises rest on, by what takes its place.
_OURS = {
    "model": "the model string",
    "revision": "'@revision' in the model string",
    "code_revision": "'@revision' in the model string",
    "tokenizer": "the model's own, which tseval runs itself",
    "tokenizer_mode": "the model's own, which tseval runs itself",
    "tokenizer_revision": "'@revision' in the model string",
    "skip_tokenizer_init": "the model's own, which tseval runs itself",
    "enable_lora": "':ADAPTER' in the model string",
    "enable_sleep_mode": "-M sleep=on",
    "generation_config": "--protocol thinksafe or ri2026, which decode as the model recommends",
    "override_generation_config": "--temperature, --top-p and --top-k",
    "logprobs_mode": "'raw_logprobs', which scores rest on",
    "runner": "'generate'",
    "convert": "'none'",
    "hf_token": "the variable HF_TOKEN",
}
# These give another model than the files are: they belong to the identity of what is measured.
_CHANGES = (
    *("hf_overrides", "model_class_overrides", "quantization", "quantization_config"),
    *("load_format", "watermark_config", "model_impl"),
)


class VllmOptions(Struct, frozen=True, kw_only=True):
    """What ``-M key=value`` says.

    Attributes:
        sleep: Whether the engine sleeps instead of ending when the model is unloaded.
        max_outstanding: Requests that wait at once; 0 for the default.
        engine: Arguments of the engine as given, not yet checked.
    """

    sleep: bool = False
    max_outstanding: int = 0
    engine: dict[str, str] = {}

    @property
    def changes(self) -> dict[str, str]:
        """What makes another model of the files, for its identity."""
        return {f"engine/{name}": self.engine[name] for name in _CHANGES if name in self.engine}


def read_options(given: Mapping[str, str]) -> VllmOptions:
    """Read tseval's own options; those of the engine wait until its names are known.

    Raises:
        ConfigError: A value is none, or an argument is not the user's to set.
    """
    engine = {name.replace("-", "_"): value for name, value in given.items() if name not in _OWN}
    for name in engine:
        if name in _OURS:
            raise ConfigError(
                f"-M {name} is set by the vllm backend itself", hint=f"instead: {_OURS[name]}"
            )
    sleep = given.get("sleep", "off")
    if sleep.lower() not in _SWITCH:
        raise ConfigError(f"-M sleep={sleep} is neither on nor off", hint=OPTIONS["sleep"])
    waiting = given.get("max_outstanding", "0")
    if not waiting.isdecimal():
        raise ConfigError(
            f"-M max_outstanding={waiting} is no count", hint=OPTIONS["max_outstanding"]
        )
    return VllmOptions(sleep=_SWITCH[sleep.lower()], max_outstanding=int(waiting), engine=engine)


def engine_arguments(given: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Turn the texts of engine arguments into values.

    Args:
        given: Arguments as given.
        defaults: The engine's arguments with their defaults, by name.

    Raises:
        ConfigError: There is no such argument (near ones are suggested), or its JSON is broken.
    """
    read: dict[str, Any] = {}
    for name, text in given.items():
        if name not in defaults:
            near = get_close_matches(name, [*_OWN, *defaults], n=2)
            raise ConfigError(
                f"vLLM's engine has no argument {name!r}",
                hint=f"did you mean -M {' or '.join(near)}?"
                if near
                else "its arguments are in vLLM's documentation, under engine arguments",
            )
        read[name] = _value(name, text, defaults[name])
    return read


def _value(name: str, text: str, default: object) -> Any:
    """Read one value: JSON where it is some, unless the argument takes a text."""
    if isinstance(default, str):
        return _DTYPES.get(text, text) if name == "dtype" else text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        if text.startswith(("{", "[")):
            raise ConfigError(
                f"-M {name}={text} is broken JSON: {error}",
                hint="""quote it for the shell: -M 'name={"key": 1}'""",
            ) from None
        return text
