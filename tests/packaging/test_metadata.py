"""The metadata tells the truth: pins are complete, bounds hold, no machine's name is in it."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# vLLM brings its own torch: it is left to its users.
PINNED_EXTRAS = ("train", "dev", "docs", "figures", "inspect")


def project(root: Path) -> dict[str, object]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(root: Path, file: str = "constraints.txt") -> dict[str, Version]:
    """The pinned version of each distribution, by canonical name."""
    lines = (root / file).read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split("==")
            found[canonicalize_name(name)] = Version(version)
    return found


def requirements(root: Path, extras: tuple[str, ...] = PINNED_EXTRAS) -> list[Requirement]:
    declared = project(root)
    groups = [declared["dependencies"], *map(declared["optional-dependencies"].get, extras)]
    return [Requirement(text) for group in groups for text in group]


def closure(wanted: list[Requirement]) -> Iterator[str]:
    """The canonical name of everything installed that the requirements lead to."""
    seen, waiting = set(), [(each.name, frozenset(each.extras)) for each in wanted]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        yield canonicalize_name(name)
        for need in map(Requirement, needs):
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append((need.name, frozenset(need.extras)))


def test_everything_the_extras_pull_in_is_pinned(root: Path) -> None:
    reached = set(closure(requirements(root)))
    assert len(reached) > 80
    assert sorted(reached - set(pins(root))) == []


def test_each_pin_satisfies_its_declared_bound(root: Path) -> None:
    pinned = pins(root)
    for requirement in requirements(root):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name], prereleases=True), requirement


def test_torch_is_pinned(root: Path) -> None:
    assert pins(root)["torch"] == Version("2.13.0")


def test_the_vllm_environment_shares_torch_and_takes_what_both_engines_can_run_on(
    root: Path,
) -> None:
    vllm = pins(root, "constraints-vllm.txt")
    assert vllm["torch"] == pins(root)["torch"]
    assert vllm["transformers"] < Version("5.20")
    for requirement in requirements(root, ("train",)):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(vllm[name], prereleases=True), requirement


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_the_constraints_name_no_address_and_no_path(root: Path, name: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line) for line in entries)
    assert entries == sorted(entries)


def test_every_runtime_dependency_has_a_lower_bound(root: Path) -> None:
    for requirement in requirements(root):
        assert ">=" in str(requirement.specifier), requirement


def test_transformers_may_be_old_enough_for_vllm(root: Path) -> None:
    (bound,) = [each.specifier for each in requirements(root) if each.name == "transformers"]
    assert bound.contains("5.19.0")


def test_the_version_is_the_one_installed(root: Path) -> None:
    assert metadata.version("tseval") == project(root)["version"]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_the_files_a_stranger_looks_for_are_there(root: Path, name: str) -> None:
    assert (root / name).stat().st_size > 300
