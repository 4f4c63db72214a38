"""Holds the dependency rule: imports point up the list of modules; heavy libraries stay lazy."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# A module of tseval imports only modules that stand above it here; a package counts as one.
ORDER = (
    *("errors", "files", "workers", "types", "measurements"),
    *("hookspecs", "formats", "thinking", "requests", "stances", "roles", "wrapping"),
    *("stats", "stats_compare", "stats_paired", "stats_agreement"),
    *("stats_judge", "metrics", "outcomes", "row_means", "prompt_pairs", "tally", "power"),
    *("protocol", "spec", "panels", "cards", "tables", "hub"),
    *("checkers", "questions", "data", "rollouts"),
    *("kinds", "plugins", "journal_index", "journal", "readback", "arrays"),
    *("scheduler", "mapping", "memo"),
    *("hidden", "asking", "judging", "verdicts", "stance_judging", "ledger", "session"),
    *("scoring", "answer_scores", "card_benchmark", "reasoning", "prompt_benchmark"),
    *("runfolder", "tabular", "loaded", "lm_eval_tasks", "loading", "legs", "runner"),
    *("judgement", "pace", "planning", "workload", "evidence", "pilot_log", "pilot", "forecast"),
    *("compare", "flips", "policy", "coverage", "gate"),
    *("readings", "deliberation_rows", "deliberation", "before_after"),
    *("leaderboard", "report", "exports"),
    *("scripts", "intervention_checks", "testing"),
    *("models", "interventions", "probes", "train", "cli"),
)
CATALOGUES = ("benchmarks", "judges", "leaderboards")
# What the catalogues may import from.
PUBLIC = ("tseval", "tseval.probes")
# Imported inside the functions that need them: each costs seconds, or may not be installed.
HEAVY = {
    *("torch", "transformers", "accelerate", "peft", "trl", "vllm", "gguf"),
    *("datasets", "pyarrow", "pandas", "lm_eval", "math_verify"),
    *("scipy", "sklearn", "statsmodels"),
    *("plotly", "matplotlib", "rich", "httpx"),
    *("inspect_ai", "huggingface_hub"),
}


class Import(NamedTuple):
    """One import statement, or one part of it."""

    line: int
    module: str
    names: tuple[str, ...]
    when: str


def imports(name: str, source: str, *, is_package: bool = False) -> list[Import]:
    """Every import of a module, relative ones made absolute.

    ``when`` is 'load' for those that run as the module is imported, 'call' for those inside a
    function, 'types' for those under ``if TYPE_CHECKING``, which never run.
    """
    package = (name if is_package else name.rpartition(".")[0]).split(".")
    found: list[Import] = []

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(node.lineno, alias.name, (), when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found.append(Import(node.lineno, module, tuple(a.name for a in node.names), when))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, "types")
            for child in node.orelse:
                visit(child, when)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, "call" if inside and when == "load" else when)

    visit(ast.parse(source), "load")
    return found


def engine_faults(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one engine module.

    Args:
        name: Its dotted name: 'tseval.cli.run'.
        source: Its text.
        is_package: It is a package's ``__init__``.
    """
    unit = name.split(".")[1]
    if unit not in ORDER:
        return [f"{name}: {unit!r} has no place in ORDER"]
    faults = heavy_faults(name, source)
    for line, module, names, when in imports(name, source, is_package=is_package):
        if module.split(".")[0] != "tseval":
            continue
        for target in [module.split(".")[1]] if "." in module else names or ("",):
            if target in CATALOGUES:
                faults.append(f"{name}:{line} imports the catalogue {target!r}")
            elif target in ORDER:
                # A role's signature may name what is built on it: types bind nothing at run time.
                if when != "types" and ORDER.index(target) > ORDER.index(unit):
                    faults.append(f"{name}:{line} imports {target!r}, which stands below {unit!r}")
            elif unit != ORDER[-1]:
                # tseval/__init__ re-exports from everywhere, so it stands below everything.
                faults.append(f"{name}:{line} imports {target!r} from tseval, not where it stands")
    return faults


def catalogue_faults(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one catalogue module; arguments as above."""
    own = ".".join(name.split(".")[:2])
    faults = heavy_faults(name, source)
    for line, module, names, _ in imports(name, source, is_package=is_package):
        if module == own or module.startswith(f"{own}."):
            continue
        if module in PUBLIC:
            private = [each for each in names if each not in public_names(module)]
            faults += [f"{name}:{line} imports {each!r}, no public name" for each in private]
        elif module.startswith("tseval."):
            faults.append(f"{name}:{line} imports {module!r}; public names come from 'tseval'")
    return faults


def heavy_faults(name: str, source: str) -> list[str]:
    """Which heavy libraries are imported as soon as the module is."""
    return [
        f"{name}:{line} imports {module.split('.')[0]!r} at the top level"
        for line, module, _, when in imports(name, source)
        if when == "load" and module.split(".")[0] in HEAVY
    ]


def public_names(package: str) -> list[str]:
    return list(importlib.import_module(package).__all__)


def modules(folder: Path, name: str) -> Iterator[tuple[str, str, bool]]:
    """Dotted name, text and whether it is a package, for each module below a folder, sorted."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        dotted = ".".join([name, *(parts[:-1] if is_package else parts)])
        yield dotted, path.read_text(encoding="utf-8"), is_package


def test_engine_modules_import_only_what_stands_above_them(root: Path) -> None:
    faults = []
    found = list(modules(root / "tseval", "tseval"))
    for name, source, is_package in found:
        if name == "tseval":  # re-exports everything, lazily
            faults += heavy_faults(name, source)
        else:
            faults += engine_faults(name, source, is_package=is_package)
    assert len(found) > 10
    assert faults == []


def test_catalogue_modules_import_only_public_names(root: Path) -> None:
    faults = []
    for catalogue in CATALOGUES:
        found = list(modules(root / catalogue, f"tseval.{catalogue}"))
        assert found, catalogue
        for name, source, is_package in found:
            faults += catalogue_faults(name, source, is_package=is_package)
    assert faults == []


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("tseval.stats", "from .runner import run", "'runner', which stands below 'stats'"),
        ("tseval.stats", "from tseval import runner", "'runner', which stands below 'stats'"),
        ("tseval.stats", "import tseval.runner", "'runner', which stands below 'stats'"),
        ("tseval.models.hf", "from ..cli.run import x", "'cli', which stands below 'models'"),
        ("tseval.stats", "def f():\n    from . import cli", "'cli', which stands below 'stats'"),
        ("tseval.cli.run", "from ..benchmarks.quick import x", "the catalogue 'benchmarks'"),
        ("tseval.cli.run", "import tseval.judges", "the catalogue 'judges'"),
        ("tseval.runner", "from tseval import Sample", "'Sample' from tseval, not where"),
        ("tseval.runner", "import tseval", "'' from tseval, not where"),
        ("tseval.runner", "if TYPE_CHECKING:\n    from . import judges", "the catalogue 'judges'"),
        ("tseval.helpers", "", "'helpers' has no place in ORDER"),
        ("tseval.models.hf", "import torch", "'torch' at the top level"),
        ("tseval.models.hf", "from scipy.stats import norm", "'scipy' at the top level"),
        ("tseval.models.hf", "try:\n    import vllm\nexcept ImportError: ...", "'vllm' at the top"),
        ("tseval.models.hf", "class A:\n    import trl", "'trl' at the top level"),
        (
            "tseval.models.hf",
            "if TYPE_CHECKING:\n    import torch\nelse:\n    import datasets",
            "'datasets' at the top level",
        ),
    ],
)
def test_a_forbidden_import_in_the_engine_is_found(name: str, source: str, fault: str) -> None:
    (found,) = engine_faults(name, source)
    assert fault in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tseval.runner", "from .session import Session\nfrom . import stats\nimport numpy"),
        ("tseval.models.hf", "from ..types import Rollout\nfrom .demo import y"),
        ("tseval.models.hf", "def f():\n    import torch\n    from transformers import x"),
        ("tseval.models.hf", "if TYPE_CHECKING:\n    import torch"),
        ("tseval.roles", "if TYPE_CHECKING:\n    from .session import Session"),
        ("tseval.cli.app", "def f():\n    from tseval import __version__"),
    ],
)
def test_an_allowed_import_in_the_engine_passes(name: str, source: str) -> None:
    assert engine_faults(name, source) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from tseval.session import Session", "'tseval.session'; public names come from"),
        ("from ...session import Session", "'tseval.session'; public names come from"),
        ("from tseval.judges import rules", "'tseval.judges'; public names come from"),
        ("from tseval import _private", "'_private', no public name"),
        ("import torch", "'torch' at the top level"),
    ],
)
def test_a_forbidden_import_in_a_catalogue_is_found(source: str, fault: str) -> None:
    (found,) = catalogue_faults("tseval.benchmarks.safety.harmbench", source)
    assert fault in found


def test_a_catalogue_may_import_its_own_modules() -> None:
    source = "from .. import _shared\nfrom .rows import x\nimport tseval\nimport json"
    assert catalogue_faults("tseval.benchmarks.safety.harmbench", source) == []
