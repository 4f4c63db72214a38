"""The generated page of everything in Python: hooks, roles, public names with signatures.

Signatures are read from the sources, so that they look the same under every Python.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import prose as md

import tseval
from tseval import hookspecs

# What else a plugin may be asked to be or to call, by module.
_ROLES = {
    "tseval.roles": ("Sized", "Vetting", "Trainer", "TrainerCard", "Exporter"),
    "tseval.wrapping": ("Intervention",),
    "tseval.formats": ("FormatFamily",),
    # What a board.toml may hold.
    "tseval.leaderboard.records": ("Board", "Column"),
}


def page() -> str:
    """Hooks, then roles and records that stand in modules of their own, then public names."""
    parts = ["## Hooks", _callback_note()]
    parts += [_entry(hookspecs, name, level=3) for name in _hooks()]
    parts.append("## Names of `tseval`")
    parts += [
        _entry(importlib.import_module(f"tseval.{tseval._HOME[name]}"), name, level=3)
        for name in sorted(tseval.__all__, key=str.casefold)
        if name != "__version__"
    ]
    parts.append("## Roles and records of other modules")
    for module, names in _ROLES.items():
        known = importlib.import_module(module)
        parts += [_entry(known, name, level=3, prefix=f"{module}.") for name in names]
    parts.append("## Checks for plugin authors")
    testing = importlib.import_module("tseval.testing")
    checks = sorted(name for name in vars(testing) if name.startswith(("check_", "Scripted")))
    parts += [
        _entry(importlib.import_module(getattr(testing, name).__module__), name, level=3)
        for name in checks
    ]
    return "\n\n".join(filter(None, parts))


def _callback_note() -> str:
    return md.docstring((hookspecs.__doc__ or "").split("\n\n", 1)[1])


def _hooks() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "tseval_spec")]


def _entry(module: ModuleType, name: str, *, level: int, prefix: str = "") -> str:
    node = _definition(module, name)
    heading = f"{'#' * level} {prefix}{name}"
    if isinstance(node, ast.ClassDef):
        return "\n\n".join([heading, *_class(getattr(module, name), node)])
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        text = md.docstring(ast.get_docstring(node))
        return "\n\n".join([heading, _signature(node), text])
    text = md.docstring(inspect.getdoc(getattr(module, name)))
    return "\n\n".join(filter(None, [heading, _assignment(node), text]))


def _definition(module: ModuleType, name: str) -> ast.stmt:
    """The statement that gives a name its meaning.

    Raises:
        LookupError: The module has no such statement at its top level.
    """
    source = Path(inspect.getsourcefile(module) or "").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        named = getattr(node, "name", None)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if named == name or any(getattr(target, "id", "") == name for target in targets):
            return node
    raise LookupError(f"{module.__name__} does not define {name!r}")


def _assignment(node: ast.stmt) -> str:
    return f"```python\n{ast.unparse(node)}\n```"


def _class(value: type, node: ast.ClassDef) -> Iterator[str]:
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "Struct"]
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    lines = [f"class {node.name}({', '.join(bases)})" if bases else f"class {node.name}"]
    lines += [f"    {ast.unparse(field)}" for field in fields if not _private(field.target)]
    yield "```python\n" + "\n".join(lines) + "\n```"
    yield md.docstring(ast.get_docstring(node))
    # What a scripted backend does is what every backend does.
    for method in () if node.name.startswith("Scripted") else _methods(value):
        text = md.docstring(ast.get_docstring(method))
        yield "\n\n".join([f"#### {node.name}.{method.name}", _signature(method), text])


def _methods(value: type) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public methods that say what they do, inherited ones of tseval last, each once."""
    seen: set[str] = set()
    for one in value.__mro__:
        if not one.__module__.startswith("tseval") or one.__name__.startswith("_"):
            continue
        node = _definition(importlib.import_module(one.__module__), one.__name__)
        for each in getattr(node, "body", []):
            if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if each.name in seen or each.name.startswith("_") or not ast.get_docstring(each):
                continue
            seen.add(each.name)
            yield each


def _private(target: ast.expr) -> bool:
    return ast.unparse(target).startswith("_")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    marks = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    lines = [mark for mark in marks if mark in ("@property", "@classmethod", "@staticmethod")]
    lines.append(f"{word} {node.name}({ast.unparse(node.args)}){returns}")
    return "```python\n" + "\n".join(lines) + "\n```"
