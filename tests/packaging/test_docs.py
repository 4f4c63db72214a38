"""The documentation agrees with the code where the two can be compared."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tseval.cli.app import app

PAGES = ("README.md", "CONTRIBUTING.md", "bench/README.md", "docs")


def pages(root: Path) -> list[Path]:
    """Every page of documentation, sorted."""
    named = [root / name for name in PAGES]
    return sorted(
        page for path in named for page in (path.rglob("*.md") if path.is_dir() else [path])
    )


def test_every_link_between_pages_leads_somewhere(root: Path) -> None:
    broken = []
    for page in pages(root):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(root)}: {target}")
    assert len(pages(root)) > 15
    assert broken == []


def test_every_page_is_in_the_navigation(root: Path) -> None:
    navigation = (root / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": (\S+\.md)$", navigation, flags=re.MULTILINE))
    docs = root / "docs"
    assert named == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}


def test_the_hooks_page_names_every_hook_and_no_other(root: Path) -> None:
    from tseval import hookspecs

    page = (root / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    rows = "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    hooks = {name for name, value in vars(hookspecs).items() if hasattr(value, "tseval_spec")}
    assert set(re.findall(r"`(\w+)`", rows)) == hooks


def test_the_commands_page_names_every_command_and_no_other(root: Path) -> None:
    page = (root / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `tseval (\w+)", page, flags=re.MULTILINE)) == {
        one.name for one in (*app.registered_commands, *app.registered_groups)
    }


def test_the_how_to_shows_the_example_plugin_as_it_is(root: Path) -> None:
    page = (root / "docs" / "how-to" / "add-a-benchmark.md").read_text(encoding="utf-8")
    plugin = root / "tests" / "packaging" / "example_plugin"
    blocks = re.findall(r"```\w+\n(.*?)```", page, flags=re.DOTALL)
    for name in ("tseval_doctor/doctor.yaml", "tseval_doctor/__init__.py"):
        assert (plugin / name).read_text(encoding="utf-8") in blocks
    metadata = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    assert blocks[-1] in metadata


def test_the_board_that_the_how_to_shows_is_one(root: Path, tmp_path: Path) -> None:
    from tseval.leaderboard.board import read_board

    page = (root / "docs" / "how-to" / "publish-a-board.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "board.toml").write_text(shown, encoding="utf-8")
    board = read_board(tmp_path)
    assert board.rank_by == ("asr", "orr")
    assert set(re.findall(r"`alpha`\s+\(([\d.]+)\)", page)) == {str(board.alpha)}
    assert set(re.findall(r"`max_excluded` \(([\d.]+)\)", page)) == {str(board.max_excluded)}


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_the_make_commands_in_the_docs_exist(root: Path, name: str) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +make ([a-z-]+)", (root / name).read_text(), flags=re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def test_every_flag_that_a_page_gives_to_tseval_is_one_of_a_command(root: Path) -> None:
    known = {"--help", *flags(typer.main.get_command(app))}
    assert "--eval-steps" in known
    named = {
        (page.name, flag)
        for page in pages(root)
        for line in page.read_text(encoding="utf-8").splitlines()
        if "tseval" in line
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*(?!\w)", line)
    }
    assert len(named) > 20
    assert sorted(each for each in named if each[1] not in known) == []


def flags(command: Any) -> Iterator[str]:
    """Long flags of a command and of all that are below it."""
    for option in command.params:
        yield from (*option.opts, *option.secondary_opts)
    for below in getattr(command, "commands", {}).values():
        yield from flags(below)
