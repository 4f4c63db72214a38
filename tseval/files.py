"""Read files that somebody may have damaged: whatever is wrong with one is a ConfigError."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import ConfigError

T = TypeVar("T")
# What decoders raise, whatever the bytes: bad UTF-8 and integers of thousands of digits are
# ValueErrors, and values nested thousands deep exhaust the stack.
BROKEN = (OSError, ValueError, RecursionError, msgspec.MsgspecError)


def read_json(file: Path, kind: type[T], hint: str = "") -> T:
    """Read a JSON file as a type.

    Args:
        file: The file.
        kind: What it should hold.
        hint: What to do where it does not.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise ConfigError(f"cannot read {file}: {said(error)}", hint=hint) from error


def read_toml(file: Path, what: str, hint: str = "") -> dict[str, Any]:
    """Read a TOML file; ``what`` it should be is named where it is broken.

    Raises:
        ConfigError: It is missing, or no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {said(error)}", hint=hint) from error
    except BROKEN as error:
        raise ConfigError(f"{file} is no {what}: {said(error)}", hint=hint) from error


def said(error: Exception) -> str:
    """Say an error of a reader in a few words."""
    if isinstance(error, RecursionError):
        return "its values are nested too deep"
    return (isinstance(error, OSError) and error.strerror) or str(error)
