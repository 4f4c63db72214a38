"""``tseval leaderboard`` on runs of scripted models."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from tests.support.boards import entry, hits
from tests.unit.test_compare_cli import HOSTILE, REFUSAL, made
from tests.unit.test_runner import always
from tseval.cli.app import app
from tseval.leaderboard import entry as entries
from tseval.leaderboard.entry import digest_of, entry_bytes, read_entry, submit
from tseval.runfolder import RunFolder
from tseval.testing import Call, mixed, thinking
from tseval.types import Thinking

BOARD = """
title = "Quick"
rank_by = ["orr"]
axes = ["orr", "asr"]

[require]
"thinking.budget" = 16384

[[column]]
key = "orr"
title = "ORR"
benchmark = "quick_benign"
metric = "orr"
judge = "refusal-rules"

[[column]]
key = "asr"
title = "ASR"
benchmark = "quick_harmful"
metric = "asr_nonrefusal"
judge = "refusal-rules"
"""


def hostile(call: Call) -> str:
    return HOSTILE


def silent(call: Call) -> str:
    """Answer nothing to some prompts, and the same word over and over to others."""
    text = mixed(call)
    return "" if len(text) % 3 == 0 else "loop " * 400 if len(text) % 3 == 1 else text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    scripts: dict[str, Callable[[Call], str]] = {
        "mixed": mixed,
        "refuses": always(REFUSAL),
        "hostile": hostile,
        "silent": silent,
    }
    found = {name: made(root / name, script, name) for name, script in scripts.items()}
    found["other"] = made(root / "other", mixed, "other", thinking=Thinking(budget=99))
    found["several"] = made(root / "several", thinking, "several", rollouts=2, limit=6)
    return found


@pytest.fixture
def board(tmp_path: Path) -> Path:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "board.toml").write_text(BOARD, encoding="utf-8")
    return tmp_path / "quick"


def tseval(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["leaderboard", *(str(each) for each in arguments)])


def submitted(run: Path, board: Path, *more: object) -> Path:
    result = tseval("submit", run, "--board", board, *more)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def test_a_run_becomes_an_entry_of_its_board(runs: dict[str, Path], board: Path) -> None:
    file = submitted(runs["mixed"], board, "--note", "a try", "--demonstration")
    assert file.parent == board / "entries"
    assert file.name.startswith("scripted-mixed-")
    found, run = read_entry(file), RunFolder.load(runs["mixed"])
    assert (found.label, found.model, found.note) == ("scripted/mixed", "scripted/mixed", "a try")
    assert found.demonstration
    assert found.identity == run.scorecard().subject.identity
    assert found.tseval_version == run.manifest.versions["tseval"]
    assert found.date == run.manifest.legs[-1].started[:10]
    assert list(found.scores) == run.scorecard().scores
    assert found.protocols == run.scorecard().protocols
    assert {"run.json", "scores.json", "outcomes.json", "journal/00000.jsonl"} == set(found.files)
    assert tseval("check", file).exit_code == 0


def test_an_entry_holds_no_prompt_and_no_completion(runs: dict[str, Path], board: Path) -> None:
    said = submitted(runs["hostile"], board).read_text(encoding="utf-8")
    assert "alert(1)" not in said
    assert "calc" not in said
    journal = (runs["hostile"] / "journal" / "00000.jsonl").read_text(encoding="utf-8")
    texts = {
        text
        for line in journal.splitlines()
        for text in strings(json.loads(line))
        if len(text) > 20 and " " in text
    }
    assert HOSTILE in texts
    assert len(texts) > 40
    assert not [text for text in texts if text in said]


def strings(value: object) -> Iterator[str]:
    """Every text in plain values."""
    if isinstance(value, str):
        yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        yield from strings(each)


def test_rollouts_and_limits_survive(runs: dict[str, Path], board: Path) -> None:
    file = submitted(runs["several"], board)
    result = tseval("check", file, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == found["exit_code"] == 4
    (only,) = found["entries"]
    assert only["sound"]
    assert [each["severity"] for each in only["problems"]] == ["protocol"]
    assert "limit is 6, not all rows" in only["problems"][0]["message"]


def test_another_protocol_is_said_at_once_and_has_its_exit_code(
    runs: dict[str, Path], board: Path
) -> None:
    result = tseval("submit", runs["other"], "--board", board)
    assert result.exit_code == 0
    assert "protocol: stands in a table of its own: thinking.budget is 99" in result.stderr
    assert tseval("check", board).exit_code == 4
    (file,) = (board / "entries").iterdir()
    file.unlink()
    submitted(runs["other"], board, "--demonstration")
    assert tseval("check", board).exit_code == 0


def test_what_is_no_finished_run_with_scores_is_refused(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs["mixed"], copy)
    manifest = json.loads((copy / "run.json").read_text())

    def refused(said: str) -> None:
        result = tseval("submit", copy, "--board", board)
        assert result.exit_code == 2
        assert said in result.stderr
        assert not (board / "entries").exists()

    for status in ("running", "interrupted", "failed", "incomplete"):
        (copy / "run.json").write_text(json.dumps(manifest | {"status": status}))
        refused(f"is not complete (status: {status}): no entry can be made of it")
    (copy / "run.json").write_text(json.dumps(manifest))
    scores = json.loads((copy / "scores.json").read_text())
    empty = [each | {"estimate": None, "undefined": "no rows"} for each in scores["scores"]]
    (copy / "scores.json").write_text(json.dumps(scores | {"scores": empty}))
    refused("has no score with a value")
    other = [each | {"benchmark": "x"} for each in scores["scores"]]
    (copy / "scores.json").write_text(json.dumps(scores | {"scores": other}))
    refused("has no number of the board 'quick'")
    (copy / "scores.json").unlink()
    refused("has no scores yet")
    assert tseval("submit", board).exit_code == 2


def test_labels_that_cannot_be_shown_are_refused(runs: dict[str, Path], board: Path) -> None:
    result = tseval("submit", runs["mixed"], "--board", board, "--label", "a\u202eb")
    assert result.exit_code == 2
    assert "the label holds control or direction characters" in result.stderr
    assert "\u202e" not in result.stderr


def test_without_a_board_the_entry_is_written_here_or_where_told(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tseval("submit", runs["mixed"], "--label", "Mine", "--json")
    record = json.loads(result.stdout)
    assert record["label"] == "Mine"
    assert Path(record["file"]).name.startswith("mine-")
    assert (tmp_path / record["file"]).is_file()
    told = tmp_path / "deep" / "e.json"
    assert tseval("submit", runs["mixed"], "--out", told).stdout.strip() == str(told)
    assert read_entry(told).label == "scripted/mixed"


# -- check


def edit(file: Path, change: Callable[[dict], None]) -> None:
    fields = msgspec.json.decode(file.read_bytes())
    change(fields)
    fields["digest"] = digest_of(fields)
    file.write_bytes(msgspec.json.encode(fields))


def test_a_number_that_was_changed_fails_in_every_form(runs: dict[str, Path], board: Path) -> None:
    file = submitted(runs["mixed"], board)
    edit(file, lambda f: f["scores"][0]["estimate"].update(value=0.01))
    for form in ((), ("--json",), ("--markdown",)):
        result = tseval("check", board, *form)
        assert result.exit_code == 1
        assert "the score is 0.01" in " ".join(result.stdout.split())
    assert "1 entries checked, 1 not to be accepted." in tseval("check", board, "--markdown").stdout


def test_markdown_escapes_what_an_entry_says(board: Path) -> None:
    (board / "entries").mkdir()
    hostile = entry("m", {("quick_benign", "orr"): hits(3, 20)})
    file = board / "entries" / "x.json"
    file.write_bytes(entry_bytes(hostile))
    edit(file, lambda f: f.update(date="<b>|`x"))
    said = tseval("check", board, "--markdown").stdout
    assert "\\<b>\\|\\`x" in said
    assert "<b>|" not in said


def test_an_entry_is_checked_against_its_run(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs["mixed"], copy)
    file = submitted(copy, board, "--label", "Mine")
    assert tseval("check", file, "--run", copy).exit_code == 0
    other = tseval("check", file, "--run", runs["refuses"], "--json")
    assert other.exit_code == 1
    said = [each["message"] for each in json.loads(other.stdout)["entries"][0]["problems"]]
    assert "outcomes is not the run's" in said
    assert any(each.startswith("scores.json is not the run's") for each in said)
    assert any("quick_benign orr refusal-rules: not the run's score (bounds" in e for e in said)
    (copy / "journal" / "00000.jsonl").write_text("{}")
    touched = tseval("check", file, "--run", copy)
    assert touched.exit_code == 1
    assert "journal/00000.jsonl is not the run's" in " ".join(touched.stdout.split())


def test_a_forgery_that_fits_itself_is_found_by_its_run(runs: dict[str, Path], board: Path) -> None:
    # The entry of another run, under this one's name: nothing in it is wrong but the origin.
    honest, better = submit(runs["mixed"]), submit(runs["refuses"])
    taken = {name: getattr(better, name) for name in ("scores", "outcomes", "protocols")}
    forged = entries.signed(msgspec.structs.replace(honest, **taken))
    file = board / "entries" / "x.json"
    file.parent.mkdir()
    file.write_bytes(entry_bytes(forged))
    assert tseval("check", file).exit_code == 0
    assert tseval("check", file, "--run", runs["mixed"]).exit_code == 1


def test_a_run_whose_scores_were_edited_does_not_pass_either(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    # Scores and outcomes of a run that refused more, beside the journal of one that did not.
    copy = tmp_path / "copy"
    shutil.copytree(runs["refuses"], copy)
    shutil.rmtree(copy / "journal")
    shutil.copytree(runs["mixed"] / "journal", copy / "journal")
    file = submitted(copy, board)
    assert tseval("check", file).exit_code == 0
    found = tseval("check", file, "--run", copy, "--json")
    assert found.exit_code == 1
    said = [each["message"] for each in json.loads(found.stdout)["entries"][0]["problems"]]
    assert all(each.endswith("the verdicts in the run's journal say") for each in said)
    assert [each.split(":")[0] for each in said] == [
        "quick_harmful asr_nonrefusal refusal-rules",
        "quick_harmful asr_nonrefusal_substantive refusal-rules",
        "quick_benign orr refusal-rules",
    ]


@pytest.mark.parametrize("name", ["mixed", "refuses", "hostile", "other", "several", "silent"])
def test_every_honest_run_passes_with_its_journal(
    runs: dict[str, Path], board: Path, name: str
) -> None:
    file = submitted(runs[name], board, "--demonstration")
    result = tseval("check", file, "--run", runs[name], "--json")
    assert result.exit_code == 0, result.stdout


def test_one_run_is_for_one_entry(runs: dict[str, Path], board: Path) -> None:
    submitted(runs["mixed"], board)
    submitted(runs["refuses"], board)
    result = tseval("check", board, "--run", runs["mixed"])
    assert result.exit_code == 2
    assert "--run is of one entry, got 2" in result.stderr


def test_a_pull_requests_file_is_checked_beside_the_others(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    submitted(runs["mixed"], board)
    new = submitted(runs["mixed"], board, "--out", tmp_path / "new.json", "--label", "again")
    alone = tseval("check", new)
    assert alone.exit_code == 0
    beside = tseval("check", new, "--board", board)
    assert beside.exit_code == 1
    assert "the same subject under the same protocol" in " ".join(beside.stdout.split())


def test_a_board_without_entries_and_unknown_targets_are_said(board: Path, tmp_path: Path) -> None:
    assert tseval("check", board).stdout == "no entries\n"
    gone = tseval("check", tmp_path / "gone.json")
    assert gone.exit_code == 2
    assert "cannot read" in gone.stderr
    unknown = tseval("check", "quik")
    assert unknown.exit_code == 2
    assert "unknown leaderboard 'quik'" in unknown.stderr


# -- build


def test_boards_are_built_and_their_files_named(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    for name in ("mixed", "refuses", "other"):
        submitted(runs[name], board, "--demonstration")
    result = tseval("build", board, "--out", tmp_path / "site")
    assert result.exit_code == 0, result.output
    files = [Path(line) for line in result.stdout.splitlines()]
    assert files
    assert all(file.is_file() for file in files)


def test_a_board_with_a_bad_entry_is_not_built(
    runs: dict[str, Path], board: Path, tmp_path: Path
) -> None:
    file = submitted(runs["mixed"], board)
    edit(file, lambda f: f["scores"][0].update(n=3))
    result = tseval("build", board, "--out", tmp_path / "site")
    assert result.exit_code == 1
    assert "is not to be accepted" in result.stderr
    assert not (tmp_path / "site").exists()
