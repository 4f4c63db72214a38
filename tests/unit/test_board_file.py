"""Boards as files: what is read, what is refused, and what others reported."""

import json
from pathlib import Path

import pytest

from tests.support.boards import board, column
from tseval.errors import ConfigError, UnknownName
from tseval.leaderboard import load_standing
from tseval.leaderboard.board import entry_files, find_board, flat, read_board
from tseval.leaderboard.check import check_files
from tseval.leaderboard.reported import reported_rows
from tseval.plugins import load_registry
from tseval.protocol import preset

WHOLE = """
title = "A board"
rank_by = ["mean"]
axes = ["a", "b"]

[require]
decoding = "recommended"
"thinking.budget" = 16384
thinking.mode = "default"

[[column]]
key = "mean"
title = "Mean"
mean_of = ["a", "b"]

[[column]]
key = "a"
title = "A"
benchmark = "one"
metric = "asr_nonrefusal"

[[column]]
key = "b"
title = "B"
benchmark = "two"
metric = "orr"
judge = "wildguard"
require = { text = "both" }
"""


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "board.toml").write_text(text, encoding="utf-8")
    return folder


def column_of(key: str, benchmark: str, metric: str) -> str:
    return (
        f'[[column]]\nkey = "{key}"\ntitle = "T"\nbenchmark = "{benchmark}"\nmetric = "{metric}"\n'
    )


def test_a_board_is_read_with_its_folders_name(tmp_path: Path) -> None:
    found = read_board(written(tmp_path / "mine", WHOLE))
    assert (found.name, found.title, found.rank_by) == ("mine", "A board", ("mean",))
    assert found.require == {
        "decoding": "recommended",
        "thinking.budget": 16384,
        "thinking.mode": "default",
    }
    assert [each.key for each in found.columns] == ["mean", "a", "b"]
    assert found.column("b").require == {"text": "both"}
    assert (found.alpha, found.max_excluded, found.min_n) == (0.05, 0.02, 1)
    assert read_board(tmp_path / "mine" / "board.toml") == found


def test_nested_fields_are_named_with_dots() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [1], "e": {}}) == {"a.b.c": 1, "d": [1], "e": {}}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "A board"', "", "is no board: Object missing required field `title`"),
        ('title = "A board"', 'title = " "', "it has no title"),
        ('title = "A board"', "title = ", "is no board: Invalid value"),
        ('rank_by = ["mean"]', "rank_by = []", "rank_by names no column"),
        ('rank_by = ["mean"]', 'rank_by = ["c"]', "rank_by names 'c', which is no column"),
        ('rank_by = ["mean"]', 'rank_by = ["a", "a"]', "rank_by names 'a' twice"),
        ('axes = ["a", "b"]', 'axes = ["a"]', "is no board: Expected `array` of length 2"),
        ('axes = ["a", "b"]', 'axes = ["a", "c"]', "axes names 'c', which is no column"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\ncolour = 1', "holds the unknown key 'colour'"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\nname = "x"', "holds the unknown key 'name'"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\nalpha = 0.7', "alpha is 0.7, expected a number"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\nmax_excluded = 2', "max_excluded is 2.0; it is"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\nties = "best"', "Invalid enum value 'best'"),
        ('axes = ["a", "b"]', 'axes = ["a", "b"]\nmin_n = 0', "min_n is 0, expected 1 or more"),
        ('decoding = "rec', 'decodings = "rec', "[require] names 'decodings', which no protocol"),
        ('key = "b"', 'key = "a"', "two columns have the key 'a'"),
        ('key = "b"', 'key = "B b"', "the key 'B b' holds more than lower-case letters"),
        ('title = "B"', "", "missing required field `title` - at `$.column[2]`"),
        ('title = "B"', 'title = ""', "column 'b' has no title"),
        ('title = "B"', 'title = "B"\nsize = 1', "unknown field `size` - at `$.column[2]`"),
        ('title = "B"', 'title = "B"\nbetter = "up"', "Invalid enum value 'up'"),
        ('title = "B"', 'title = "B"\nbetter = "higher"', "whose better end or unit is another"),
        ('title = "B"', 'title = "B"\nbetter = "neither"', "whose better end or unit is another"),
        ('title = "B"', 'title = "B"\ngroup = "average"', "column 'b' is a suite's average"),
        ('metric = "orr"', "", "column 'b' needs both a benchmark and a metric"),
        ('mean_of = ["a", "b"]', "", "column 'mean' needs a benchmark and a metric, or mean_of"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a"]', "is the mean of fewer than two columns"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a", "a"]', "is the mean of fewer than two columns"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a", "c"]', "is the mean of 'c', which is no column"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a", "mean"]', "of 'mean', which is a mean itself"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a", "b"]\nmetric = "orr"', "needs a benchmark and"),
        ('mean_of = ["a", "b"]', 'mean_of = ["a", "b"]\njudge = "x"', "is a mean: its judge"),
        ('{ text = "both" }', '{ texts = "both" }', "of column 'b' names 'texts', which no"),
    ],
)
def test_a_board_that_makes_no_sense_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert WHOLE.count(old) == 1
    folder = written(tmp_path / "mine", WHOLE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_board(folder)
    assert said in caught.value.message
    assert str(folder / "board.toml") in caught.value.message


def test_two_columns_of_one_number_are_refused(tmp_path: Path) -> None:
    again = (
        WHOLE + '[[column]]\nkey = "c"\ntitle = "C"\nbenchmark = "one"\nmetric = "asr_nonrefusal"\n'
    )
    with pytest.raises(ConfigError, match="'a' and 'c' show the same number"):
        read_board(written(tmp_path / "mine", again))


def test_a_board_may_not_rank_by_what_has_no_better_end(tmp_path: Path) -> None:
    text = WHOLE.replace('rank_by = ["mean"]', 'rank_by = ["c"]')
    text += (
        '[[column]]\nkey = "c"\ntitle = "C"\nbenchmark = "x"\nmetric = "m"\nbetter = "neither"\n'
    )
    with pytest.raises(ConfigError, match="names 'c', neither end of which is better"):
        read_board(written(tmp_path / "mine", text))


def test_boards_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    registry = load_registry()
    folder = written(tmp_path / "mine", WHOLE)
    assert find_board(str(folder), registry) == folder
    assert find_board(str(folder / "board.toml"), registry) == folder
    assert find_board("deliberation", registry).name == "deliberation"
    with pytest.raises(UnknownName) as caught:
        find_board("delibration", registry)
    assert "did you mean 'deliberation'? see `tseval ls leaderboards`" in caught.value.hint
    with pytest.raises(ConfigError, match=r"it has no board\.toml"):
        find_board(str(tmp_path), registry)


def test_a_board_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*board\.toml: No such file"):
        read_board(tmp_path)


# -- the boards that ship


@pytest.mark.parametrize("name", ["safety-reasoning", "deliberation"])
def test_the_boards_that_ship_are_whole(name: str) -> None:
    registry = load_registry()
    folder = find_board(name, registry)
    found = read_board(folder)
    for each in found.columns:
        if each.mean_of:
            continue
        card = registry.benchmarks[each.benchmark].card
        assert each.metric in card.metrics or getattr(card, "kind", "") != "reasoning"
        spec = registry.metrics[each.metric]
        assert each.higher_is_better is spec.higher_is_better, each.key
        assert each.unit == getattr(spec, "unit", "share"), each.key
        if each.judge:
            assert each.judge.partition("(")[0] in registry.judges
    checked = check_files(entry_files(folder), found)
    assert [
        (each.name, p.message) for each in checked for p in each.problems if not each.is_sound
    ] == []
    standing = load_standing(folder)
    assert standing.tables[0].is_main
    assert standing.reported
    assert all(row.rank is None and row.source for row in standing.reported)


@pytest.mark.parametrize(
    ("name", "protocol"), [("safety-reasoning", "thinksafe"), ("deliberation", "ri2026")]
)
def test_the_boards_that_ship_want_what_their_presets_do(name: str, protocol: str) -> None:
    found, wanted = read_board(find_board(name, load_registry())), preset(protocol)
    assert found.require["decoding"] == wanted.decoding
    assert found.require["thinking.budget"] == wanted.thinking.budget
    assert found.require["thinking.unclosed"] == wanted.thinking.unclosed
    judges = {each.judge for each in found.columns if each.judge}
    assert judges <= set(wanted.judges)
    prompts = [each for each in found.columns if each.metric in ("asr_nonrefusal", "asr_harmful")]
    for each in prompts:
        both = {**found.require, **each.require}
        assert (both["text"], both["rollouts"]) == (wanted.text, wanted.rollouts)


@pytest.mark.parametrize("name", ["safety-reasoning", "deliberation"])
def test_the_boards_that_ship_pin_what_their_benchmarks_and_judges_are(name: str) -> None:
    registry = load_registry()
    found = read_board(find_board(name, registry))
    for each in found.columns:
        if each.mean_of:
            continue
        card = registry.benchmarks[each.benchmark].card
        wanted = {**found.require, **each.require}
        assert wanted["benchmark_version"] == card.version, each.key
        if each.judge:
            assert wanted["judge.version"] == registry.judges[each.judge].card.version
        known = getattr(card, "content_hash", "")
        assert wanted.get("content_hash", "") == known
        if hasattr(card, "answer_tokens"):
            tokens = preset("ri2026" if name == "deliberation" else "thinksafe").answer_tokens
            assert wanted["sampling.answer_tokens"] == (tokens or card.answer_tokens)
        # Of both classes a metric counts one: the 250 safe prompts of XSTest.
        # Where no hash is known, since nobody could read the set from here, its size still is.
        expected = 250 if each.benchmark == "xstest" else getattr(card, "expected_rows", 0)
        assert each.rows == (expected or 0), each.key


# -- reported figures


def reported(folder: Path, **changes: object) -> None:
    row = {"label": "M/x", "source": "p", "values": {"a": 0.25, "b": 0.5}, "note": "n"} | changes
    data = {"sources": {"p": "A paper"}, "rows": [row, {**row, "values": {"a": 0.1}}]}
    (folder / "reported.json").write_text(json.dumps(data), encoding="utf-8")


def test_reported_figures_become_rows_with_their_source(tmp_path: Path) -> None:
    of = board(column("mean", mean_of=("a", "b")), column("a"), column("b"))
    reported(tmp_path)
    first, second = reported_rows(of, tmp_path)
    assert (first.label, first.source, first.note, first.rank) == ("M/x", "A paper", "n", None)
    assert first.why_unranked == "reported by others, not measured here"
    assert (first.cells["a"].value, first.cells["a"].low, first.cells["a"].n) == (0.25, None, 0)
    assert first.cells["mean"].value == 0.375
    assert first.cells["mean"].note == "computed here from the reported columns"
    assert second.cells["b"].undefined == "not reported"
    assert second.cells["mean"].value is None
    assert [first.slug, second.slug] == ["reported-m-x", "reported-m-x-2"]
    assert reported_rows(of, tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "q"}, "the source 'q' is not among its sources"),
        ({"values": {"c": 0.1}}, "'c' is no column of the board 'board'"),
        ({"values": {"a": 25.0}}, "a is 25.0; shares are fractions"),
        ({"values": {"a": "x"}}, "Expected `float`"),
        ({"size": 1}, "unknown field `size`"),
    ],
)
def test_reported_figures_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    reported(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        reported_rows(board(column("a"), column("b")), tmp_path)
    assert said in caught.value.message
    assert "reported.json" in caught.value.message
