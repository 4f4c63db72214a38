"""A board's files: what each format says, and that nothing that was handed in acts in any."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.board_pages import BOARD, cell, cells, entry, reported, row, rows, standing
from tests.support.hostile import EVIL
from tseval.errors import TsevalError
from tseval.leaderboard.records import Cell, Column, Standing
from tseval.report import board_cells
from tseval.report.board import WORKFLOW, write_board
from tseval.report.board_latex import board_latex, escape
from tseval.report.board_text import board_csv, board_json, board_markdown


def hostile() -> Standing:
    """A board each of whose texts is the same hostile one."""
    found = standing()
    bad = row(
        EVIL,
        0.1,
        0.2,
        slug="../../evil",
        why_unranked=EVIL,
        beaten_by=(EVIL,),
        note=EVIL,
        entry=entry(EVIL, note=EVIL, identity={EVIL: EVIL}, files={EVIL: EVIL}),
    )
    bad = replace(bad, cells={**bad.cells, "orr": cell(0.2, note=EVIL, excluded={EVIL: 2})})
    main = replace(found.tables[0], rows=(bad,), title=EVIL, protocol={EVIL: EVIL})
    column = replace(BOARD.columns[0], title=EVIL, note=EVIL)
    board = replace(
        BOARD, title=EVIL, description=EVIL, name=EVIL, columns=(column, *BOARD.columns[1:])
    )
    source = replace(reported(EVIL), source=EVIL, note=EVIL)
    return replace(found, board=board, tables=(main,), reported=(source,), notes=(EVIL,))


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def table_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the Markdown table below a heading."""
    below = text.split(f"### {heading}\n", 1)[1].split("\n### ")[0]
    found = [line for line in below.splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip("|").split("|")] for line in found]


# -- Markdown


def test_markdown_shows_rank_value_interval_denominator_and_what_was_excluded() -> None:
    heads, _, first, *_ = table_of(board_markdown(standing()), "The board's protocol")
    assert heads == [
        *("rank", "model", "ASR ↓", "HarmBench ↓", "StrongREJECT ↓", "XSTest ORR ↓", "GSM8K ↑"),
        "kind",
    ]
    assert first[:2] == ["1", "Heron 8B"]
    assert first[2] == "5.0% [1.0, 9.0] (n 400)"
    assert first[3] == ("5.0% [1.0, 9.0] (n 200; 3 excluded (unparsed 3): 4.0% to 7.0% with them)")
    assert first[-1] == "measured"


def test_markdown_leaves_ranks_and_numbers_that_are_not_there_blank_and_says_why() -> None:
    text = board_markdown(standing())
    found = {line[1]: line for line in table_of(text, "The board's protocol")}
    assert found["Finch 4B"][6] == "-"
    assert found["Wren demo"][0] == "-"
    assert found["Wren demo"][-1] == "demonstration"
    assert "- Wren demo is not ranked: cut by --limit" in text
    assert "- No row has Valley depth" in text


def test_other_protocols_and_reported_rows_stand_in_tables_of_their_own_without_ranks() -> None:
    text = board_markdown(standing())
    labels = [line[1] for line in table_of(text, "The board's protocol")]
    assert labels[2:] == ["Heron 8B", "Plover 8B", "Finch 4B", "Wren demo"]
    (other,) = table_of(text, "thinking.budget 96")[2:]
    assert other[:2] == ["-", "Heron 8B short"]
    heads, _, published = table_of(text, "Reported")
    assert "rank" not in heads
    assert published == [
        *("Heron 8B (paper)", "4.7%", "80.0%"),
        "Heron et al., arXiv 2601.23143, table 2; judged by another guard",
    ]


def test_a_board_without_entries_says_so() -> None:
    empty = replace(standing().tables[0], rows=(), ranked=False, ranked_by=(), fingerprints={})
    bare = standing(tables=(empty,), reported=(), notes=())
    assert "No entry yet." in board_markdown(bare)
    assert r"\begin{tabular}" not in board_latex(bare)
    assert lines_of(board_csv(bare)) == []


def test_a_partial_number_and_an_undefined_one_say_so() -> None:
    found = {**cells(0.1, 0.2), "asr": cell(0.1, partial=True)}
    found["maths"] = cell(undefined="every row was excluded", excluded={"error": 2})
    text = board_markdown(with_cells(found))
    (line,) = table_of(text, "The board's protocol")[2:]
    assert line[2] == "10.0% [6.0, 14.0] (n 200; partial)"
    assert line[6] == "- (2 excluded (error 2); every row was excluded)"
    assert r"\textsuperscript{p}" in board_latex(with_cells(found))


def test_a_number_that_nobody_measured_gives_no_reason_in_each_cell() -> None:
    found = {**cells(0.1, 0.2), "maths": Cell(undefined="not measured")}
    assert "not measured" not in board_markdown(with_cells(found))


def with_cells(found: dict[str, Cell]) -> Standing:
    one = replace(rows()[0], cells=found)
    return standing(tables=(replace(standing().tables[0], rows=(one,)),), reported=())


# -- CSV


def test_csv_has_plain_numbers_and_a_line_for_each_row_of_any_kind() -> None:
    lines = lines_of(board_csv(standing()))
    assert [line["kind"] for line in lines] == [
        *("measured",) * 3,
        *("demonstration", "measured", "reported"),
    ]
    first, _, finch, wren, other, published = lines
    assert (first["rank"], first["asr"], first["asr_n"]) == ("1", "0.05", "400")
    assert float(first["asr_high"]) == pytest.approx(0.09)
    assert (first["hb_excluded"], first["hb_partial"]) == ("3", "no")
    assert (finch["maths"], finch["maths_n"], finch["maths_partial"]) == ("", "", "")
    assert wren["rank"] == ""
    assert other["table"] == "thinking.budget 96"
    assert (published["asr"], published["asr_low"], published["model"]) == ("0.0467", "", "")
    assert published["source"].startswith("Heron et al.")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " ="])
def test_no_text_in_the_csv_starts_a_formula(start: str) -> None:
    label = f"{start}cmd|' /C calc'!A0"
    one = replace(rows()[0], label=label, entry=entry(label, model=label, revision=label))
    table = replace(standing().tables[0], rows=(one,), title=label)
    source = replace(reported(label), source=label)
    text = board_csv(standing(tables=(table,), reported=(source,)))
    for line in lines_of(text):
        for name in ("table", "label", "model", "revision", "source"):
            assert not line[name].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len(text.splitlines()) == 3


def test_negative_numbers_stay_numbers_in_the_csv() -> None:
    found = {**cells(0.1, 0.2), "depth": Cell(value=-0.25, low=-0.5, high=0.1, n=9, unit="number")}
    (line,) = lines_of(board_csv(with_cells(found)))
    assert float(line["depth"]) == -0.25


# -- JSON


def test_json_holds_what_the_tables_show_but_no_row_by_row_outcomes() -> None:
    found = json.loads(board_json(standing()))
    assert [table["title"] for table in found["tables"]] == [
        "The board's protocol",
        "thinking.budget 96",
    ]
    first = found["tables"][0]["rows"][0]
    assert first["rank"] == 1
    assert first["better_than"] == ["Finch 4B"]
    assert first["cells"]["hb"]["excluded"] == {"unparsed": 3}
    assert first["entry"]["digest"] == "0f" * 32
    assert found["reported"][0]["rank"] is None
    assert '"outcomes"' not in board_json(standing())


# -- LaTeX


def test_latex_is_a_booktabs_table_with_values_intervals_and_ranks() -> None:
    text = board_latex(standing())
    # Two protocols of five columns, of which a table takes four, and the reported figures.
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 5
    assert "(part 1 of 2)" in text
    assert r"\label{tab:toy-part2}" in text
    assert r"1 & Heron 8B & 5.0 {\scriptsize[1.0, 9.0]} &" in text
    assert r"-- & Wren demo\textsuperscript{d} &" in text
    assert r"5.0 {\scriptsize[1.0, 9.0]}\textsuperscript{x}" in text
    assert r"GSM8K (\%) $\uparrow$" in text
    assert "n: ASR 400, HarmBench 200" in text
    assert r"\label{tab:toy}" in text
    assert r"\label{tab:toy-reported}" in text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a_b & c%", r"a\_b \& c\%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x$ #1 ~^", r"\$x\$ \#1 \textasciitilde{}\textasciicircum{}"),
        ("[2ex]*", "{[}2ex{]}{*}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("a,,b '' c", "a,{},b '{}' c"),
        ("\u00fe \u0126", "\u00fe (U+0126)"),
        ("Qwen3-0.6B", "Qwen3-0.6B"),
        ("né \u4e2d", "né (U+4E2D)"),
        ("a\nb\x1b[0m", "a b(U+241B){[}0m"),
        ("x → y", r"x $\rightarrow$ y"),
    ],
)
def test_latex_text_is_printed_as_it_is(text: str, printed: str) -> None:
    assert escape(text) == printed


# One token of escaped text: a plain letter, an escaped sign, or a command without arguments.
_TOKEN = re.compile(
    r"[A-Za-z0-9 .,;:!?()/=+\-@'\u00a0-\u017f]|\\[{}$&#_%]|\\text[a-z]+\{\}|\\ldots\{\}|"
    r"\$\\[a-z]+\$|\{[\[\]*]\}|\{\}"
)


def test_nothing_but_printed_signs_is_left_of_a_hostile_text_in_latex() -> None:
    escaped = escape(EVIL + r"\write18{rm} %$&#_{}~^ ^^5c")
    assert _TOKEN.sub("", escaped) == ""


def test_latex_of_a_hostile_board_has_the_tables_of_a_plain_one() -> None:
    text = board_latex(hostile())
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    # Heading and row, of a table in two parts and of the reported figures, each with as many
    # cells as it has columns.
    cells_of = [len(re.findall(r"(?<!\\)&", line)) for line in body]
    assert cells_of == [5, 5, 2, 2, 3, 3]
    depth = re.sub(r"\\[{}]", "", text)
    assert depth.count("{") == depth.count("}")
    assert text.isprintable() or set(text) - set(filter(str.isprintable, text)) == {"\n"}


# -- the folder


def test_the_folder_holds_every_format_one_copy_of_plotly_and_a_workflow(tmp_path: Path) -> None:
    found = write_board([standing()], tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == [
        "toy/index.html",
        *(
            f"toy/models/{slug}.html"
            for slug in ("heron-8b", "plover-8b", "finch-4b", "wren-demo", "heron-8b-short")
        ),
        *("toy/board.md", "toy/board.csv", "toy/board.json", "toy/board.tex"),
        *("index.html", "plotly.min.js", ".github/workflows/leaderboards.yml"),
    ]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(found)


def test_equal_boards_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_board([standing()], tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_of_files_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    slugs = ("../../x", "..", "X", "x", "con/../../y")
    found = tuple(
        replace(rows()[0], slug=slug, label=f"row {n}", rank=n + 1) for n, slug in enumerate(slugs)
    )
    table = replace(standing().tables[0], rows=found)
    boards = [
        standing(board=replace(BOARD, name=name), tables=(table,)) for name in ("..", "a/b", "A_b")
    ]
    out = tmp_path / "out"
    written = write_board(boards, out)
    assert all(out in path.resolve().parents for path in written)
    assert len({str(path).lower() for path in written}) == len(written)
    assert list(tmp_path.iterdir()) == [out]


def test_pages_of_models_that_left_the_board_are_removed_but_no_other_file(tmp_path: Path) -> None:
    write_board([standing()], tmp_path)
    mine = tmp_path / "toy" / "models" / "mine.html"
    mine.write_text("<p>somebody's own")
    left = replace(standing().tables[0], rows=rows()[:1])
    write_board([standing(tables=(left,))], tmp_path)
    assert sorted(path.name for path in mine.parent.iterdir()) == ["heron-8b.html", "mine.html"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(TsevalError, match=r"cannot write the boards: .*taken"):
        write_board([standing()], tmp_path / "taken")


def test_the_workflow_checks_entries_and_publishes_without_write_access(tmp_path: Path) -> None:
    import yaml

    write_board([standing()], tmp_path)
    found: dict[Any, Any] = yaml.safe_load((tmp_path / WORKFLOW).read_text())
    assert found["permissions"] == {"contents": "read"}
    assert found["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert "pull_request" in found["jobs"]["publish"]["if"]
    steps = [step for job in found["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "tseval leaderboard check" in commands
    assert "tseval leaderboard build" in commands
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", each) for each in used)


@pytest.mark.parametrize(("said", "passes"), [(0, True), (4, True), (1, False), (2, False)])
def test_the_workflow_goes_on_with_entries_of_other_protocols_only(
    said: int, passes: bool, tmp_path: Path
) -> None:
    import yaml

    write_board([standing()], tmp_path)
    found: dict[Any, Any] = yaml.safe_load((tmp_path / WORKFLOW).read_text())
    (step,) = (s for s in found["jobs"]["check"]["steps"] if s.get("name") == "Check the entries")
    folder = tmp_path / "leaderboards" / "b"
    folder.mkdir(parents=True)
    (folder / "board.toml").write_text("")
    command = tmp_path / "tseval"
    command.write_text(f"#!/bin/sh\nexit {said}\n")
    command.chmod(0o755)
    # As GitHub runs `shell: bash`.
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=False,
    )
    assert (done.returncode == 0) is passes


# -- hostile texts


def test_texts_of_a_hostile_board_act_in_no_format() -> None:
    found = hostile()
    for text in (board_markdown(found), board_csv(found), board_json(found), board_latex(found)):
        for sign in ("\x1b", "\x07", "\u202e", "\u2028", "\0"):
            assert sign not in text
    outside = re.sub(r"\\.", "", board_markdown(found))
    assert "<" not in outside
    assert "](" not in outside
    assert "`" not in outside


def test_columns_that_no_row_has_are_left_out_and_named() -> None:
    found = standing()
    shown = [column.key for column in board_cells.columns_of(found, found.tables[0].rows)]
    assert shown == ["asr", "hb", "sr", "orr", "maths"]
    (missing,) = board_cells.missing_columns(found, found.tables[0])
    assert missing.title == "Valley depth"
    neither = Column(key="k", title="K", better="neither")
    assert board_cells.heading(neither) == "K ·"


@pytest.mark.parametrize("nth", [1, 3])
def test_a_build_that_is_killed_leaves_each_file_whole(tmp_path: Path, nth: int) -> None:
    out = tmp_path / "site"
    written = write_board([standing()], out)
    for file in written:
        file.write_text("as it was")
    # Killed with the n-th file written in part.
    code = f"""
import os, signal
from pathlib import Path
from tests.support.board_pages import standing
from tseval.report.board import write_board
real, left = Path.write_bytes, [{nth}]
def write(path, data):
    left[0] -= 1
    if not left[0]:
        real(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, data)
Path.write_bytes = write
write_board([standing()], Path({str(out)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    kept = [file for file in written if file.read_text(encoding="utf-8") == "as it was"]
    assert len(kept) == len(written) - (nth - 1)
    for again, file in zip(write_board([standing()], tmp_path / "other"), written, strict=True):
        assert file in kept or file.read_bytes() == again.read_bytes()
