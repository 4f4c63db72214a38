"""Damaged files: a clear error that names the file, whatever is wrong with it."""

import json
from pathlib import Path

import pytest

from tests.support.boards import board, column
from tseval.errors import ConfigError
from tseval.files import read_json, read_toml
from tseval.leaderboard.board import _faults, find_board
from tseval.plugins import load_registry
from tseval.policy import read_policy
from tseval.runfolder import RunFolder

DEEP = "[" * 100_000
SPEC = {"model": {"backend": "demo"}, "benchmarks": ["quick_benign"]}


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", DEEP.encode(), b"{", b"", b"1" * 5001, b'{"a": "\xed\xa0\x80"}']
)
def test_json_that_is_damaged_is_an_error_that_names_the_file(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "scores.json"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"cannot read .*scores\.json: ."):
        read_json(file, dict[str, str])


def test_a_json_file_that_is_not_there_is_for_the_caller_to_say(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", dict[str, str])


@pytest.mark.parametrize("text", [b"\xff", f"a = {DEEP}".encode(), b"a =", b"a = " + b"1" * 5001])
def test_toml_that_is_damaged_is_an_error_that_names_the_file(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "gate.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"gate\.toml is no policy: ."):
        read_policy(file)
    with pytest.raises(ConfigError, match="is no board"):
        read_toml(file, "board")


def run_of(folder: Path, **more: object) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"spec": SPEC, "spec_hash": "x", **more}))
    return folder


@pytest.mark.parametrize(
    ("leg", "said"),
    [
        ({"started": "yesterday"}, "was started at 'yesterday', which is no time"),
        ({"started": "9999-12-31T23:00:00-05:00"}, "was started at '9999.* which is no time"),
        ({"started": "9999-12-31T00:00:00+00:00", "seconds": 90000}, "which is no time"),
        ({"started": "2026-01-31T00:00:00", "seconds": 1e300}, "took 1e.300 seconds"),
        ({"started": "2026-01-31T00:00:00", "seconds": -1}, "took -1 seconds"),
    ],
)
def test_a_run_whose_times_cannot_be_is_refused(
    tmp_path: Path, leg: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        RunFolder.load(run_of(tmp_path / "run", legs=[leg]))


def test_scores_of_a_newer_tseval_are_refused(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    scores = {
        "subject": {"name": "m", "identity": {}},
        "preset": "default",
        "seed": 0,
        "scores": [],
        "protocols": {},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    assert RunFolder.load(folder).scorecard().scores == []
    (folder / "scores.json").write_text(json.dumps({**scores, "schema": 99}))
    with pytest.raises(ConfigError, match="has schema 99, this tseval reads 1") as caught:
        RunFolder.load(folder).scorecard()
    assert caught.value.hint == "upgrade tseval"


def test_a_board_that_wants_what_nothing_is_has_a_fault() -> None:
    wanted = board(column("a"), require={"sampling.temperature": float("nan")})
    assert "[require] wants sampling.temperature to be nan, which nothing is" in _faults(wanted)


def test_a_folder_of_nobody_is_no_board() -> None:
    with pytest.raises(ConfigError, match="no board in ~nosuchuser/x"):
        find_board("~nosuchuser/x", load_registry())
