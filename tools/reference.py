"""Writes docs/reference/generated: the reference that follows from the code.

python tools/reference.py                     write the pages
python tools/reference.py --check [FOLDER]    name the pages that differ from the code; exit 1
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogue_pages
import prose as md
import python_pages
import typer

from tseval import plugins
from tseval.cli.app import app

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference" / "generated"
_HEAD = "<!-- Written by tools/reference.py from the code: `make docs` writes it again. -->"


# File, title, what stands above the page.
_PAGES = (
    (
        "commands.md",
        "Every command and flag",
        "A flag wins over its variable, and both over its key in a `--config` file; "
        "[Commands](../commands.md) has the order, and the exit codes.",
    ),
    (
        "benchmarks.md",
        "Every benchmark",
        "What the cards say; [`BenchmarkCard`](python.md#benchmarkcard) has their fields.",
    ),
    (
        "judges.md",
        "Every judge",
        "What the judges' cards and modules say. [Judges](../judges.md) says how they are named "
        "and run, [Choose judges](../../how-to/choose-a-judge.md) which to take.",
    ),
    (
        "probes.md",
        "Every probe and measure",
        "Sizes, needs and measures. [Probes](../probes.md) has the methods, and how to read "
        "their numbers.",
    ),
    (
        "registered.md",
        "Backends, metrics, trainers and the rest",
        "Everything else that is registered under a name, with its options.",
    ),
    (
        "python.md",
        "Python: hooks, roles, public names",
        "What a plugin may rely on. [Extension points](../hooks.md) is the short form.",
    ),
)


def pages() -> dict[str, str]:
    """Every page's whole text, by the name of its file."""
    # What is installed beside tseval is no part of its reference.
    others = [origin.plugin for origin in plugins.load_registry().origins()]
    registry = plugins.load_registry(others)
    bodies = {
        "commands.md": commands(),
        "benchmarks.md": catalogue_pages.benchmarks(registry),
        "judges.md": catalogue_pages.judges(registry),
        "probes.md": catalogue_pages.probes(registry),
        "registered.md": catalogue_pages.others(registry),
        "python.md": python_pages.page(),
    }
    return {
        name: f"{_HEAD}\n\n# {title}\n\n{lead}\n\n{bodies[name]}\n" for name, title, lead in _PAGES
    }


def commands() -> str:
    """A section for each command, in the order of ``tseval --help``."""
    root = typer.main.get_command(app)
    return "\n\n".join(_commands(root, "tseval"))


def _commands(command: Any, path: str) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield _command(command, path)
        return
    if path != "tseval":
        yield f"## {path}\n\n{md.docstring(command.help)}"
    for name, each in below.items():
        yield from _commands(each, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = [f"{one.name.upper()}{' ...' if one.nargs != 1 else ''}" for one in arguments]
    # 'tseval judge RUN' has its argument in its name.
    usage = " ".join([path, *(word for word in words if word != path.split()[-1]), "[OPTIONS]"])
    parts = [f"## {path}", f"    {usage}", md.docstring(command.help)]
    if any(one.help for one in arguments):
        rows = ((md.code(one.name.upper()), md.cell(one.help or "")) for one in arguments)
        parts.append(md.table(("argument", "meaning"), rows))
    panels: dict[str, list[Any]] = {}
    for one in options:
        if not one.hidden and one.name != "help":
            panels.setdefault(one.rich_help_panel or "Options", []).append(one)
    for heading, group in panels.items():
        if len(panels) > 1:
            parts.append(f"**{heading}**")
        parts.append(md.table(("flag", "variable", "default", "meaning"), map(_option, group)))
    return "\n\n".join(parts)


def _option(option: Any) -> tuple[str, str, str, str]:
    names = ", ".join(md.code(name) for name in (*option.opts, *option.secondary_opts))
    default = option.default
    if option.required:
        shown = "required"
    elif option.is_flag and isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = "" if default in (None, [], (), "") else md.code(str(default))
    bounds = [
        f"{word} {limit}"
        for word, limit in (("at least", _limit(option, "min")), ("at most", _limit(option, "max")))
        if limit is not None
    ]
    notes = [
        *bounds,
        *(["may be repeated"] if option.multiple and "repeat" not in (option.help or "") else []),
    ]
    meaning = md.cell(option.help or "")
    if notes:
        meaning += f" ({', '.join(notes)})"
    variable = option.envvar if isinstance(option.envvar, str) else ""
    return names, md.code(variable), shown, meaning


def _limit(option: Any, name: str) -> Any:
    # Older versions of typer keep it with the type.
    return getattr(option, name, getattr(getattr(option, "type", None), name, None))


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare them; return the exit code."""
    check = "--check" in arguments
    folder = Path(next((each for each in arguments if each != "--check"), FOLDER))
    made = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    stale = sorted(n for n in made.keys() | there.keys() if made.get(n) != there.get(n))
    if check:
        for name in stale:
            sys.stderr.write(f"{name} is not what the code gives\n")
        if stale:
            sys.stderr.write("hint: python tools/reference.py\n")
        return bool(stale)
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (folder / name).write_text(made[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
