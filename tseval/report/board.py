"""Boards as files: a static site, and each board as Markdown, CSV, JSON and LaTeX."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from tseval.errors import TsevalError
from tseval.leaderboard.records import Standing
from tseval.report.board_latex import board_latex
from tseval.report.board_site import PLOTLY, board_page, index_page, listed, model_pages
from tseval.report.board_text import board_csv, board_json, board_markdown
from tseval.report.pages import plotly_script
from tseval.report.plots import file_name

WORKFLOW = Path(".github") / "workflows" / "leaderboards.yml"
_FORMATS = {
    "Markdown": ("board.md", board_markdown),
    "CSV": ("board.csv", board_csv),
    "JSON": ("board.json", board_json),
    "LaTeX": ("board.tex", board_latex),
}
# In every page of a model, so that those of an earlier build are known again.
_OURS = b'name="generator" content="tseval leaderboard build"'


def write_board(standings: Sequence[Standing], out: Path) -> list[Path]:
    """Write boards into a folder that can be published as it is.

    The folder gets ``index.html``, the one copy of plotly.js, a GitHub workflow that checks entries
    and publishes the pages, and for each board a folder with its page, its models' pages, and the
    board in other formats. Equal boards give equal bytes. Pages of models that an earlier build
    left in a board's folder are removed; no other file is.

    Args:
        standings: The boards.
        out: Folder; made if missing.

    Returns:
        The paths of all files, in the order in which they were written.

    Raises:
        TsevalError: The folder cannot be written.
    """
    folders = _names([standing.board.name for standing in standings], "board")
    written: list[Path] = []
    try:
        for standing, folder in zip(standings, folders, strict=True):
            written += _write_all(out / folder, _files(standing))
            _remove_stale(out / folder / "models", set(written))
        shared = [
            ("index.html", index_page([*map(listed, standings, folders)]).encode()),
            (PLOTLY, plotly_script()),
            (str(WORKFLOW), _workflow()),
        ]
        written += _write_all(out, shared)
    except OSError as error:
        raise TsevalError(
            f"cannot write the boards: {error}", hint="give --out a folder that can be written"
        ) from error
    return written


def _files(standing: Standing) -> Iterator[tuple[str, bytes]]:
    slugs = list(
        dict.fromkeys(row.slug for table in standing.tables for row in table.rows if row.entry)
    )
    pages = dict(zip(slugs, _names(slugs, "model"), strict=True))
    links = [(name, file) for name, (file, _) in _FORMATS.items()]
    yield "index.html", board_page(standing, pages, links).encode()
    for name, page in model_pages(standing, pages):
        yield f"models/{name}.html", page.encode()
    for file, write in _FORMATS.values():
        yield file, write(standing).encode()


def _names(wanted: Iterable[str], otherwise: str) -> list[str]:
    """Make names of files: safe in any file system and address, no two alike in any case."""
    found: list[str] = []
    for name in wanted:
        safe = file_name(name).replace(".", "-").strip("-_").lower()[:80] or otherwise
        number, chosen = 1, safe
        while chosen in found:
            number += 1
            chosen = f"{safe}-{number}"
        found.append(chosen)
    return found


def _write_all(folder: Path, contents: Iterable[tuple[str, bytes]]) -> list[Path]:
    written = []
    for name, content in contents:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: somebody may be serving the folder.
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        written.append(path)
    return written


def _remove_stale(folder: Path, written: set[Path]) -> None:
    """Remove pages of models that are no longer on the board: they would still be published."""
    for path in sorted(folder.glob("*.html")):
        if path not in written and _OURS in path.read_bytes():
            path.unlink()


def _workflow() -> bytes:
    return (files("tseval.report") / "templates" / "board_workflow.yaml").read_bytes()
