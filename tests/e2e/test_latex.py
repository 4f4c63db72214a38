"""pdfLaTeX takes a board's tables, whatever was handed in; skipped where there is none."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.board_pages import row, standing
from tests.support.hostile import EVIL
from tseval import leaderboards
from tseval.report.board_latex import board_latex, escape

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed"),
]
ODD = (
    r"100% a_b & #1 $x$ ~ ^^5c \ \\ {} [2ex]* <<>> | \" ' '' `` ?` !` ,, -- --- \end{document}"
    "\n\n\u4e2d\u6587 \u202e \x00 \u0126\u00fe\u0105\u0149\u017f \u2191 \u2014"
)


def compiled(folder: Path, body: str) -> str:
    """Compile a document by pdfLaTeX with what the table says that it needs; its log."""
    needed = re.findall(r"^%   (\\usepackage\S+)", board_latex(standing()), re.MULTILINE)
    assert any("booktabs" in line for line in needed)
    document = ["\\documentclass{article}", *needed, "\\begin{document}", body, "\\end{document}"]
    (folder / "paper.tex").write_text("\n".join(document), encoding="utf-8")
    found = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", "paper.tex"],
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert found.returncode == 0, re.findall(r"^!.*", log, re.MULTILINE)
    assert (folder / "paper.pdf").exists()
    return log


@pytest.mark.parametrize("text", [EVIL, ODD], ids=["evil", "odd"])
def test_a_board_with_hostile_names_compiles(tmp_path: Path, text: str) -> None:
    found = standing()
    bad = row(text, 0.1, 0.2, slug="bad", note=text)
    table = replace(found.tables[0], rows=(*found.tables[0].rows, bad), title=text)
    board = replace(found.board, title=text, name=text)
    log = compiled(tmp_path, board_latex(replace(found, board=board, tables=(table,))))
    assert "Missing character" not in log


def test_every_sign_and_letter_that_is_not_a_code_point_is_printed(tmp_path: Path) -> None:
    signs = [chr(code) for code in range(0x20, 0x250)]
    log = compiled(tmp_path, "\n\n".join(f"x{escape(sign)}x" for sign in signs))
    assert "Missing character" not in log


def test_the_shipped_boards_compile(tmp_path: Path) -> None:
    shipped = Path(leaderboards.__file__).parent
    main = (sys.executable, "-c", "from tseval.cli import main; main()")
    made = subprocess.run(
        [*main, "leaderboard", "build", "--out", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    tables = sorted(tmp_path.glob("site/*/board.tex"))
    assert [each.parent.name for each in tables] == sorted(
        each.parent.name for each in shipped.glob("*/board.toml")
    )
    compiled(tmp_path, "\n".join(f"\\input{{{table.as_posix()}}}" for table in tables))
