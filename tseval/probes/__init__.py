"""Measurements on hidden states and traces: library functions, and what probes are made of.

Everything public is here, loaded when it is first used: ``from tseval import probes``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .setup import LEAST_OF_A_CLASS, Label, Pool, Probing, begin, undefined
    from .sizes import SCALES, SIZES, Sizes, sizes_of

_HOMES: dict[str, tuple[str, ...]] = {
    "setup": ("LEAST_OF_A_CLASS", "Label", "Pool", "Probing", "begin", "undefined"),
    "sizes": ("SCALES", "SIZES", "Sizes", "sizes_of"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LEAST_OF_A_CLASS",
    "SCALES",
    "SIZES",
    "Label",
    "Pool",
    "Probing",
    "Sizes",
    "begin",
    "sizes_of",
    "undefined",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
