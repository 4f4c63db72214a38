"""Holds a checker's VERSION to its code: verdicts are kept, and numbers compared, by version.

The hash is over code without comments and docstrings, of the checker and of the modules beside it
that it imports. Where it differs: if a verdict could, change VERSION; then store the new pair.
"""

import ast
import hashlib
import io
import re
import tokenize
from pathlib import Path

import pytest

# Of each module with a VERSION: what that is, and the hash of its code.
KNOWN = {
    "benchmarks/reasoning/_choice.py": ("3", "56a98bd12af270b3"),
    "benchmarks/reasoning/_instructions.py": ("2", "ac6e37a99f5f7916"),
    "benchmarks/reasoning/_math.py": ("4", "3b65f5f806c8af71"),
    "tseval/lm_eval_tasks/records.py": ("4", "168115e53fe67896"),
}
# What a version covers without importing it.
ALSO = {"tseval/lm_eval_tasks/records.py": ("worker",)}


def bare(source: str) -> str:
    """Return code without comments, docstrings and blank lines."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                for number in range(first.lineno - 1, first.end_lineno or first.lineno):
                    lines[number] = ""
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def modules(root: Path, name: str) -> list[Path]:
    """Name a module and those in its folder that it imports, and they in turn."""
    first = root / name
    found, waiting = set(), [first, *(first.with_name(f"{also}.py") for also in ALSO.get(name, ()))]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        package = re.escape(".".join(path.relative_to(root).with_suffix("").parts[:-1]))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = re.findall(rf"^(?:tseval\.)?{package}\.(\w+)$", node.module)
            beside = (path.with_name(f"{each}.py") for each in names)
            waiting += [each for each in beside if each.exists()]
    return sorted(found)


def version_of(path: Path) -> str:
    (found,) = re.findall(r'^VERSION = "(.+)"$', path.read_text(encoding="utf-8"), re.M)
    return str(found)


def hash_of(root: Path, name: str) -> str:
    texts = [f"{p.name}\n{bare(p.read_text(encoding='utf-8'))}" for p in modules(root, name)]
    # The version itself may change alone.
    code = re.sub(r'^VERSION = ".+"$', "", "\0".join(texts), flags=re.M)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_version_changes_when_its_code_does(root: Path, name: str) -> None:
    version, code = KNOWN[name]
    found = version_of(root / name), hash_of(root, name)
    if found[1] != code and found[0] == version:
        pytest.fail(f"the code of {name} changed: change VERSION, then this hash, to {found[1]!r}")
    assert found == (version, code), f"store {found!r} for {name}"


def test_every_checker_is_watched(root: Path) -> None:
    checkers = {
        str(path.relative_to(root))
        for path in sorted((root / "benchmarks").rglob("*.py"))
        if re.search(r"^VERSION = ", path.read_text(encoding="utf-8"), re.M)
        and re.search(r"^def classes\(", path.read_text(encoding="utf-8"), re.M)
    }
    assert checkers == {name for name in KNOWN if name.startswith("benchmarks/")}


def test_what_a_checker_imports_is_watched_with_it(root: Path) -> None:
    names = {path.name for path in modules(root, "benchmarks/reasoning/_math.py")}
    assert names >= {"_math.py", "_final.py", "_notation.py"}
    names = {path.name for path in modules(root, "tseval/lm_eval_tasks/records.py")}
    assert names >= {"records.py", "worker.py", "_loading.py", "_models.py", "_series.py"}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("x = 1  # one\n\n\ndef f():\n    return '# no comment'\n", True),
        ('"""What for."""\nx = 1\ndef f():\n    """Do."""\n    return \'# no comment\'\n', True),
        ("# why\nx = 1\ndef f():\n    '''Do.'''\n    return '# no comment'\n", True),
        ("x = 2\ndef f():\n    return '# no comment'\n", False),
        ("x = 1\ndef f():\n    return '# a comment'\n", False),
    ],
)
def test_words_about_code_are_no_code(other: str, same: bool) -> None:
    code = "x = 1\ndef f():\n    return '# no comment'\n"
    assert (bare(other) == bare(code)) is same
