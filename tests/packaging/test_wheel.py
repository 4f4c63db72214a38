"""What is installed is what stands in the tree, from the wheel and from an editable install."""

import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDERS = {
    "tseval": "tseval",
    "tseval.benchmarks": "benchmarks",
    "tseval.judges": "judges",
    "tseval.leaderboards": "leaderboards",
}
DATA = {".py", ".yaml", ".jsonl", ".toml", ".json", ".html", ".css", ".js"}
PRINT_FILES = """
import tseval, tseval.benchmarks, tseval.judges, tseval.leaderboards
for package in tseval, tseval.benchmarks, tseval.judges, tseval.leaderboards:
    print(package.__file__)
"""
IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def shipped(root: Path) -> Iterator[tuple[str, Path]]:
    """Where each file of the tree that ships belongs in the wheel, and the file."""
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in DATA or path.name == "py.typed":
                inside = Path(*package.split(".")) / path.relative_to(root / folder)
                yield inside.as_posix(), path


def packages(root: Path) -> set[str]:
    """The dotted name of every folder of the tree that holds a module."""
    found = set()
    for package, folder in FOLDERS.items():
        for path in (root / folder).rglob("*.py"):
            found.add(".".join([package, *path.relative_to(root / folder).parent.parts]))
    return found


def test_the_package_list_equals_the_tree(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages(root)
    assert project["tool"]["setuptools"]["package-dir"] == FOLDERS


def test_a_package_missing_from_the_list_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "new").mkdir(parents=True)
    (tmp_path / "benchmarks" / "new" / "one.py").touch()
    assert packages(tmp_path) == {"tseval.benchmarks.new"}


def test_every_folder_with_modules_is_a_package(root: Path) -> None:
    missing = [
        path.parent
        for folder in FOLDERS.values()
        for path in (root / folder).rglob("*.py")
        if not (path.parent / "__init__.py").is_file()
    ]
    assert missing == []


@pytest.mark.parametrize("catalogue", ["benchmarks", "judges", "leaderboards"])
def test_a_catalogue_refuses_its_bare_name(root: Path, catalogue: str) -> None:
    command = [sys.executable, "-c", f"import {catalogue}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"import this package as 'tseval.{catalogue}'" in done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(sources: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = dict(shipped(sources))
        assert held == set(expected)
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(installed, sources: Path) -> None:
    for line in installed.run("python", "-c", PRINT_FILES).splitlines():
        assert Path(line).is_relative_to(installed.folder), line
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name, path in shipped(sources)
        if path.suffix == ".py" and path.name != "__main__.py"
    ]
    installed.run("python", "-c", IMPORT_ALL, *modules)
    assert "Usage" in installed.run("tseval", "--help")
    listed = installed.run("tseval", "ls", "benchmarks")
    for name in ("harmbench", "xstest", "quick_benign"):
        assert name in listed


@pytest.mark.slow
def test_an_editable_install_sees_new_files_and_edits(
    copied: Callable[[], Path], new_environment
) -> None:
    checkout, environment = copied(), new_environment()
    environment.install("-e", checkout)
    for line in environment.run("python", "-c", PRINT_FILES).splitlines():
        assert Path(line).is_relative_to(checkout), line
    (checkout / "judges" / "written_later.py").write_text("ANSWER = 42\n", encoding="utf-8")
    later = "import tseval.judges.written_later as module; print(module.ANSWER)"
    assert environment.run("python", "-c", later) == "42\n"
    assert "xstest" in environment.run("tseval", "ls", "benchmarks")
