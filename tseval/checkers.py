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


def parts_of(module: str, references: list[str]) -> list[dict[str, int]]:
    """Ask a checker what it counts in parts beside right and wrong.

    Args:
        module: The checker; may have ``parts(reference) -> dict[str, int]``: names of what it
            counts, and how many parts of each an answer to this row has.
        references: Right answers of the rows.

    Returns:
        For each reference what there is to count; {} where the checker counts nothing.

    Raises:
        ConfigError: It counts other things for one row than for another.
    """
    asks = getattr(importlib.import_module(module), "parts", None)
    found = [asks(each) if asks is not None else {} for each in references]
    if any(each.keys() != found[0].keys() or min(each.values(), default=1) < 1 for each in found):
        raise ConfigError(
            f"{module}:parts does not count the same for every row",
            hint="it returns the same names each time, and numbers from 1",
        )
    return found
