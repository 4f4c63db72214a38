"""``tseval leaderboard``: runs to entries, entries to boards."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option, registry
from tseval.cli.output import print_json, print_rows

if TYPE_CHECKING:
    from tseval.leaderboard.check import Checked
    from tseval.leaderboard.records import Board, Entry

app = typer.Typer(
    help="Make entries of runs, check them, and build ranked boards.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("submit")
def submit_command(
    run: Path = typer.Argument(..., help="A run's folder."),
    board: str = option("--board", default="", help="A board's name, or its folder."),
    label: str = option("--label", default="", help="What tables call it; default: the model."),
    note: str = option("--note", default="", help="What you have to say of it."),
    demonstration: bool = option(
        "--demonstration", default=False, help="Mark it as made to show the board at work."
    ),
    out: Path | None = option(
        "--out",
        "-o",
        help="File of the entry; default: entries/ of the board's folder, or here without one.",
    ),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    json: bool = option("--json", default=False, help="Print the entry's facts as JSON."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Make an entry of a run: scores, outcomes and hashes, without any prompt or completion.

    Prints the file's path. Exit codes: 0 fine, also where the protocol is not the board's, which is
    said; 1 it cannot be written; 2 wrong usage, or a run that cannot be entered.
    """
    with errors(debug=debug):
        from tseval.leaderboard.board import find_board, read_board
        from tseval.leaderboard.entry import entry_bytes, submit
        from tseval.leaderboard.rank import slug_of

        folder = find_board(board, registry(without)) if board else None
        definition = read_board(folder) if folder is not None else None
        entry = submit(run, definition, label=label, note=note, demonstration=demonstration)
        file = f"{slug_of(entry.label)}-{entry.digest[:8]}.json"
        path = out or (folder / "entries" / file if folder is not None else Path(file))
        data = entry_bytes(entry)
        _write(path, data)
        if json:
            print_json({"file": str(path), **_facts(entry)})
        else:
            typer.echo(str(path))
        _say(data, str(path), definition)


def _facts(entry: "Entry") -> dict[str, Any]:
    from msgspec import to_builtins

    fields = to_builtins(entry)
    # These are for the file: hashes by the thousand.
    del fields["outcomes"], fields["protocols"], fields["files"]
    return dict(fields)


def _write(path: Path, data: bytes) -> None:
    from tseval.errors import TsevalError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise TsevalError(
            f"cannot write {path}: {error.strerror or error}", hint="give --out another file"
        ) from error


def _say(data: bytes, name: str, board: "Board | None") -> None:
    """Say on stderr what `check` would say of a new entry."""
    from tseval.leaderboard.check import check_data
    from tseval.report.text import neutral

    for problem in check_data(data, name, board).problems:
        sys.stderr.write(f"{problem.severity}: {neutral(problem.message)}\n")


@app.command("check")
def check_command(
    targets: list[str] = typer.Argument(
        None, help="Files of entries, and names or folders of boards; default: every board."
    ),
    board: str = option("--board", default="", help="Board that the files are for."),
    run: Path | None = option("--run", help="Folder of the run that the one entry was made of."),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    json: bool = option("--json", default=False, help="Print the findings as JSON."),
    markdown: bool = option("--markdown", default=False, help="Print them as Markdown."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Check entries: form, tampering, scores against their own outcomes, duplicates, protocol.

    A file in a board's entries/ is checked as an entry of that board, beside its others.
    Exit codes: 0 fine; 1 an entry is not to be accepted; 2 wrong usage; 4 an entry that is no
    demonstration was measured otherwise than its board wants it.
    """
    with errors(debug=debug):
        from tseval.leaderboard.check import exit_code
        from tseval.report.text import for_markdown

        checked = _checked(targets or [], board, run, without)
        problems = [problem for each in checked for problem in each.problems]
        if json:
            from msgspec import to_builtins

            files = [
                {
                    "file": each.name,
                    "label": each.entry.label if each.entry else None,
                    "sound": each.is_sound,
                    "problems": to_builtins(each.problems),
                }
                for each in checked
            ]
            print_json({"entries": files, "exit_code": exit_code(problems)})
        elif markdown:
            sys.stdout.write(_markdown(checked, for_markdown))
        elif checked:
            print_rows(("entry", "", "finding"), _lines(checked))
        else:
            typer.echo("no entries")
        code = exit_code(problems)
        sys.stdout.flush()
    raise SystemExit(code)


def _checked(
    targets: list[str], named: str, run: Path | None, without: list[str]
) -> "list[Checked]":
    """Check each board's entries together, and files of no board on their own."""
    from msgspec.structs import replace

    from tseval.errors import ConfigError
    from tseval.leaderboard.board import entry_files, find_board, read_board
    from tseval.leaderboard.check import check_files
    from tseval.leaderboard.origin import check_run

    plugins = registry(without)
    asked: dict[Path | None, list[Path]] = {}
    for target in targets or sorted(plugins.leaderboards):
        path = Path(target)
        if path.suffix != ".json" and not (targets and path.is_file()):
            folder = find_board(target, plugins)
            asked.setdefault(folder.resolve(), []).extend(entry_files(folder))
        elif named:
            asked.setdefault(find_board(named, plugins).resolve(), []).append(path)
        else:
            above = path.resolve().parent.parent
            known = above if (above / "board.toml").is_file() else None
            asked.setdefault(known, []).append(path)
    found: list[Checked] = []
    for place, files in asked.items():
        board = read_board(place) if place is not None else None
        beside = entry_files(place) if place is not None else []
        found += check_files(list(dict.fromkeys(files)), board, beside=beside)
    if run is None:
        return found
    if len(found) != 1:
        raise ConfigError(
            f"--run is of one entry, got {len(found)}", hint="name the file of that entry"
        )
    (only,) = found
    if only.entry is None:
        return found
    return [replace(only, problems=only.problems + tuple(check_run(only.entry, run, only.name)))]


def _lines(checked: "list[Checked]") -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for each in checked:
        found += [(each.name, p.severity, p.message) for p in each.problems]
        if each.is_sound:
            found.append((each.name, "sound", each.entry.label if each.entry else ""))
    return found


def _markdown(checked: "list[Checked]", shown: Any) -> str:
    lines = ["| entry | | finding |", "|---|---|---|"]
    lines += [f"| {' | '.join(shown(cell) for cell in line)} |" for line in _lines(checked)]
    bad = sum(not each.is_sound for each in checked)
    lines += ["", f"{len(checked)} entries checked, {bad} not to be accepted."]
    return "\n".join(lines) + "\n"


@app.command("build")
def build_command(
    boards: list[str] = typer.Argument(
        None, help="Names or folders of boards; default: every one."
    ),
    out: Path = option("--out", "-o", default=Path("site"), help="Folder for the files."),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """Rank boards and write their tables and pages; print the paths of the files.

    Every entry is checked before: a board with one that is not to be accepted is not built.
    Exit codes: 0 fine; 1 an entry is bad, or a file cannot be written; 2 wrong usage.
    """
    with errors(debug=debug):
        from tseval.errors import TsevalError
        from tseval.leaderboard import load_standing
        from tseval.leaderboard.board import find_board
        from tseval.report.board import write_board

        plugins = registry(without)
        names = boards or sorted(plugins.leaderboards)
        standings = [load_standing(find_board(name, plugins)) for name in names]
        try:
            files = write_board(standings, out)
        except OSError as error:
            raise TsevalError(
                f"cannot write {out}: {error.strerror or error}",
                hint="give --out a folder that can be written",
            ) from error
    for file in files:
        typer.echo(str(file))
