"""The ``-M`` options of the server backend, read and checked before anything is sent."""

import json
import os
from difflib import get_close_matches
from typing import Literal

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError

from .http import Json
from .wire import RESERVED

Prefix = Literal["auto", "chat", "completions", "none"]

DESCRIPTIONS = {
    "concurrency": "most requests at once (default 16)",
    "timeout": "most seconds for one attempt (default 1800)",
    "max_retries": "further attempts after a 429, a 5xx, a time-out or a lost connection (6)",
    "extra_body": "JSON object with further fields for every request, part of the identity",
    "api_key_env": "name of the variable that holds the key (default OPENAI_API_KEY)",
    "prefix": "how a beginning is continued: auto, chat, completions or none (default auto)",
    "tokenizer": "folder or hub id of the served model's tokenizer, for prefix=completions",
    "context_length": "tokens that prompt and completion share, if the server does not say",
    "canary": "off leaves the hash of a greedy answer out of the identity (default on)",
    "check_name": "off asks for the model also where the server does not list it (default on)",
    "format": "thinking format, instead of the one that the answers show",
}


class Options(Struct, frozen=True, kw_only=True):
    """What ``-M key=value`` says, as values; DESCRIPTIONS has the meanings."""

    concurrency: int = 16
    timeout_seconds: float = 1800.0
    max_retries: int = 6
    extra_body: Json = {}
    prefix: Prefix = "auto"
    tokenizer: str = ""
    context_length: int | None = None
    canary: bool = True
    check_name: bool = True
    format: str = ""


def read_options(given: dict[str, str]) -> Options:
    """Read the options.

    Raises:
        ConfigError: An option is unknown or its value is none that it takes.
    """
    for name in given:
        if name not in DESCRIPTIONS:
            near = get_close_matches(name, DESCRIPTIONS, n=1)
            raise ConfigError(
                f"the openai backend has no option {name!r} (known: {', '.join(DESCRIPTIONS)})",
                hint=f"did you mean -M {near[0]}=...?" if near else "see `tseval ls backends`",
            )
    default = Options()
    context = given.get("context_length")
    return Options(
        concurrency=_whole(given, "concurrency", default.concurrency, least=1),
        timeout_seconds=_seconds(given, "timeout", default.timeout_seconds),
        max_retries=_whole(given, "max_retries", default.max_retries, least=0),
        extra_body=_extra_body(given.get("extra_body", "")),
        prefix=_prefix(given.get("prefix", default.prefix)),
        tokenizer=given.get("tokenizer", ""),
        context_length=_whole(given, "context_length", 0, least=1) if context else None,
        canary=_switch(given, "canary"),
        check_name=_switch(given, "check_name"),
        format=given.get("format", ""),
    )


def api_key(given: dict[str, str]) -> str:
    """Read the key from the environment; '' where there is none.

    Raises:
        ConfigError: ``-M api_key_env`` names a variable that is not set, or the key cannot
            stand in a header. The message never holds the key.
    """
    named = given.get("api_key_env", "")
    variable = named or "OPENAI_API_KEY"
    key = os.environ.get(variable, "").strip()
    if named and not key:
        # What looks like a key instead of a name is not repeated.
        shown = repr(named) if named.isidentifier() and len(named) <= 40 else "that name"
        raise ConfigError(
            f"-M api_key_env: no variable of {shown} is set",
            hint="export the key under the variable's name and pass the name, not the key",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"the key in {variable} holds characters that cannot stand in an HTTP header",
            hint="it may have been pasted with a line break or a space",
        )
    return key


def _whole(given: dict[str, str], name: str, default: int, *, least: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigError(f"-M {name}={text}: expected a whole number of at least {least}")
    return value


def _seconds(given: dict[str, str], name: str, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"-M {name}={text}: expected a number of seconds above 0")
    return value


def _switch(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "on").lower()
    if text not in ("on", "off", "true", "false"):
        raise ConfigError(f"-M {name}={given[name]}: expected on or off")
    return text in ("on", "true")


def _prefix(text: str) -> Prefix:
    try:
        checked: Prefix = msgspec.convert(text, Prefix)
        return checked
    except msgspec.ValidationError:
        raise ConfigError(f"-M prefix={text}: expected auto, chat, completions or none") from None


def _extra_body(text: str) -> Json:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            "-M extra_body is no JSON object",
            hint="""for example -M 'extra_body={"reasoning_effort": "low"}'""",
        )
    taken = sorted(RESERVED & value.keys())
    if taken:
        raise ConfigError(
            f"-M extra_body must not hold {', '.join(taken)}: tseval sets that itself",
            hint="use the flags of `tseval run` (--temperature, --seed ...)",
        )
    kwargs = value.get("chat_template_kwargs", {})
    if not isinstance(kwargs, dict):
        raise ConfigError("-M extra_body: chat_template_kwargs is no JSON object")
    return value
