"""Checkers of answers: modules that are named by cards and run in worker processes."""

import importlib
from importlib.metadata import PackageNotFoundError, version

import msgspec

from .errors import CapabilityMissing, ConfigError
from .protocol import JudgeIdentity


def identify_checker(module: str) -> JudgeIdentity:
    """Return what a checker's verdicts depend on.

    Args:
        module: Importable name; cheap to import, its libraries are loaded in the worker.

    Raises:
        ConfigError: There is no such module, or it is no checker.
    """
    try:
        found = importlib.import_module(module)
        stamp, _ = str(found.VERSION), (found.check, found.classes)
        libraries = msgspec.convert(getattr(found, "LIBRARIES", ()), tuple[str, ...])
    except (ImportError, SyntaxError, AttributeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{module} is no checker of answers: {error}",
            hint="it needs VERSION, check and classes; NAME and LIBRARIES are welcome",
        ) from error
    name = getattr(found, "NAME", None)
    if not isinstance(name, str):  # what else a module may call so is no name
        name = module.rpartition(".")[2].lstrip("_")
    identity = {}
    for library in libraries:
        try:
            identity[library] = version(library)
        except PackageNotFoundError:
            identity[library] = "missing"
    return JudgeIdentity(name=name, version=stamp, identity=identity)


def require_libraries(module: str, references: list[str]) -> None:
    """Ask a checker whether it can check these rows, before anything is generated.

    Args:
        module: The checker; may have ``requires(references) -> str``, '' where it can.
        references: Right answers of the rows.

    Raises:
        CapabilityMissing: Something is not installed.
    """
    asks = getattr(importlib.import_module(module), "requires", None)
    lacking = asks(references) if asks is not None else ""
    if lacking:
        raise CapabilityMissing(f"its checker {lacking}")
