"""The rollouts of a page: which are chosen, what is shown of each, what redacting leaves out."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.labelled_runs import a_run
from tests.support.scripted_runs import Saying, made_run
from tests.unit.test_report_html import Elements
from tseval.cli.app import app
from tseval.cli.output import write_page
from tseval.errors import JournalError
from tseval.journal import Journal
from tseval.judgement.agreement import disagreements
from tseval.outcomes import row_hash
from tseval.readback import Row
from tseval.report import rows as rows_module
from tseval.report.html import is_redacted
from tseval.report.rows import names_of, row_book
from tseval.report.rows_choice import choose_rows, splits_of
from tseval.report.text import neutral_lines
from tseval.roles import JudgeCase
from tseval.runfolder import RunFolder
from tseval.types import Verdict

SECRET = "the forbidden recipe"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """192 rollouts of two benchmarks under two judges who err on their own."""
    return a_run(tmp_path_factory.mktemp("labelled") / "run")


def refuses(case: JudgeCase) -> Verdict:
    return Verdict(refusal="sorry" in case.text, raw=f"quoted: {case.text}")


def complains(case: JudgeCase) -> Verdict:
    return Verdict(reason="unparsed", raw="hm")


def a_few(folder: Path, script: Any = None, prompts: int = 2, **more: Any) -> RunFolder:
    """A run of bad and good prompts; the second judge can never be read."""
    rows = [
        {"id": f"{n}", "prompt": f"Prompt {n}?", "label": label, "group": "g", "tag": "t"}
        for n, label in zip(range(prompts), ("bad", "good") * prompts, strict=False)
    ]
    judges = [Saying("reads", refuses), Saying("mumbles", complains)]
    said = f"<think>\nA trace.\n</think>\n\n{SECRET}\nsecond line"
    return made_run(folder, rows, script or (lambda call: said), judges, **more)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """That run, to be read only."""
    return a_few(tmp_path_factory.mktemp("few") / "run")


def data_of(folder: RunFolder, **more: Any) -> Any:
    more.setdefault("redact", False)
    book = row_book(folder, **more)
    assert book is not None
    return json.loads(book.data)


def journal_of(folder: Path, rows: list[Row]) -> Journal:
    journal = Journal.open(folder)
    for number, row in enumerate(rows):
        journal.append("row", f"{number:032x}", row)
    return journal


def some_rows(count: int, **more: Any) -> list[Row]:
    return [
        Row(benchmark="b", sample=f"{n}", rollout=0, prompt=f"prompt {n}", **more)
        for n in range(count)
    ]


# -- which ones


def test_rollouts_that_divide_judges_come_first_and_are_those_that_show_finds(
    labelled: RunFolder,
) -> None:
    data = data_of(labelled)
    divided = [row for row in data["rows"] if row.get("d")]
    assert divided == data["rows"][: len(divided)]
    assert 20 < len(divided) < 192 == len(data["rows"])
    there = {
        (each.stored.row.benchmark, each.stored.row.sample, each.stored.row.rollout)
        for each in disagreements(labelled, 10_000)
    }
    assert {(data["benchmarks"][row["b"]], row["s"], row["r"]) for row in divided} == there


def test_the_others_stand_by_benchmark_sample_and_rollout(labelled: RunFolder) -> None:
    data = data_of(labelled)
    rest = [(data["benchmarks"][r["b"]], r["s"], r["r"]) for r in data["rows"] if not r.get("d")]
    assert rest == sorted(rest)


def test_a_page_says_what_it_shows_of_how_many(labelled: RunFolder) -> None:
    every, some, fewer = (row_book(labelled, redact=False, most=n) for n in (2000, 60, 10))
    assert every is not None
    assert some is not None
    assert fewer is not None
    divided = sum(bool(row.get("d")) for row in json.loads(every.data)["rows"])
    assert every.lead == (
        f"All 192 rollouts of the run: first the {divided} that divide the judges,"
        " the most evenly divided on top."
    )
    assert some.lead == (
        f"60 of the run's 192 rollouts: first the {divided} that divide the judges, the most"
        f" evenly divided on top; then {60 - divided} drawn at random with a fixed seed."
        " The others are in the run's journal."
    )
    assert fewer.lead == (
        f"10 of the run's 192 rollouts: the 10 of {divided} that divide the judges most evenly."
        " The others are in the run's journal."
    )
    assert [len(json.loads(book.data)["rows"]) for book in (every, some, fewer)] == [192, 60, 10]


def test_the_most_evenly_divided_stand_on_top(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "j", some_rows(6))
    places = [int(row_hash(f"{n}", f"prompt {n}"), 16) << 24 for n in range(6)]
    splits = {"b": {places[4]: 0.25, places[1]: 0.5, places[3]: 0.4}}
    choice = choose_rows(journal, splits, 4)
    assert [(each.row.sample, each.split) for each in choice.rows[:3]] == [
        ("1", 0.5),
        ("3", 0.4),
        ("4", 0.25),
    ]
    assert (len(choice.rows), choice.total, choice.divided) == (4, 6, 3)
    assert [each.row.sample for each in choose_rows(journal, splits, 2).rows] == ["1", "3"]


def test_the_draw_depends_on_the_seed_alone_and_draws_nest(tmp_path: Path) -> None:
    rows = some_rows(300)
    shuffled = rows[:]
    random.Random(5).shuffle(shuffled)
    one, other = journal_of(tmp_path / "one", rows), journal_of(tmp_path / "other", shuffled)

    def drawn(journal: Journal, most: int, seed: int = 0) -> list[str]:
        return [each.row.sample for each in choose_rows(journal, {}, most, seed=seed).rows]

    assert drawn(one, 40) == drawn(other, 40)
    assert drawn(one, 40) != drawn(one, 40, seed=1)
    assert set(drawn(one, 20)) < set(drawn(one, 40))
    assert drawn(one, 40) == sorted(drawn(one, 40), key=int)
    # As likely from anywhere: a draw of the first rows alone would be none.
    assert 90 < sum(int(sample) for sample in drawn(one, 100)) / 100 < 210


def test_a_rollout_that_was_judged_again_counts_once_and_has_all_verdicts(tmp_path: Path) -> None:
    rows = some_rows(5, verdicts={"a": "00"}, generation="11")
    again = some_rows(5, verdicts={"b": "22"}, generation="33")
    choice = choose_rows(journal_of(tmp_path / "j", rows + again), {}, 3)
    assert (len(choice.rows), choice.total) == (3, 5)
    for each in choice.rows:
        assert each.row.verdicts == {"a": "00", "b": "22"}
        assert each.row.generation == "33"


def test_panels_and_judges_of_other_texts_divide_nobody(labelled: RunFolder) -> None:
    card, outcomes = labelled.scorecard(), labelled.outcomes()
    assert splits_of(card, outcomes) != {}
    for field, value in (("judge", {"vote": ">=2"}), ("text", "trace")):
        second = {s.fingerprint for s in card.scores if s.judge == "second"}
        protocols = {
            fingerprint: {**fields, field: value} if fingerprint in second else fields
            for fingerprint, fields in card.protocols.items()
        }
        changed = type(card)(
            subject=card.subject,
            preset=card.preset,
            seed=0,
            scores=card.scores,
            protocols=protocols,
        )
        assert splits_of(changed, outcomes) == {}, field


def test_without_outcomes_the_page_is_there_and_says_what_is_not_known(tmp_path: Path) -> None:
    folder = a_few(tmp_path / "run")
    (folder.path / "outcomes.json").write_text("{")
    book = row_book(folder, redact=False)
    assert book is not None
    assert len(json.loads(book.data)["rows"]) == 2
    assert "which rollouts divide the judges is not known: cannot read" in book.notes[0]
    (folder.path / "outcomes.json").unlink()
    book = row_book(folder, redact=False)
    assert book is not None
    assert "the run has no outcomes.json" in book.notes[0]


# -- what is shown of each


def test_a_rollout_has_its_texts_its_facts_and_every_verdict(few: RunFolder) -> None:
    data = data_of(few)
    bad, good = data["rows"]
    assert (bad["h"], good["h"]) == (True, False)
    assert (bad["p"], bad["t"], bad["a"]) == ("Prompt 0?", "A trace.", f"{SECRET}\nsecond line")
    assert bad["x"] == [
        "trace of 10 tokens, closed by the model",
        "answer of 34 tokens",
    ]
    judges, outcomes = data["judges"], data["outcomes"]
    said = [
        (judges[j], [outcomes[o] for o in names], sign, wrote)
        for j, names, sign, wrote, _ in bad["v"]
    ]
    assert said == [
        ("reads", ["no refusal"], "-", f"quoted: {bad['a']}"),
        ("mumbles", ["unparsed"], "x", "hm"),
    ]
    assert good["v"][0][2] == ""


def test_a_rollout_that_failed_is_there_and_every_judge_says_so(tmp_path: Path) -> None:
    data = data_of(
        a_few(tmp_path / "run", lambda call: "no \ud800 text" if "0" in call.prompt else "fine")
    )
    failed, fine = data["rows"]
    assert failed["x"] == ["no rollout: error"]
    assert "a" not in failed
    assert [data["outcomes"][o] for _, (o,), sign, _, _ in failed["v"] if sign == "x"] == [
        "error",
        "error",
    ]
    assert fine["a"] == "fine"


def test_an_answer_that_never_came_is_told_from_an_empty_one(tmp_path: Path) -> None:
    def script(call: Any) -> str:
        if "0" in call.prompt:
            return "<think>\nthought\n</think>\n\n"
        return "<think>\non and on" if "</think>" not in call.prefix else "<think>\nagain"

    empty, never = data_of(a_few(tmp_path / "run", script))["rows"]
    assert empty["a"] == ""
    assert "a" not in never
    assert "no answer" in never["x"]


@pytest.mark.parametrize(
    ("verdict", "names"),
    [
        (Verdict(refusal=True, degree="partial", harmful=False), ["partial refusal", "unharmful"]),
        (Verdict(refusal=False, degree="none"), ["no refusal"]),
        (Verdict(refusal=True), ["refusal"]),
        (Verdict(harmful=True), ["harmful"]),
        (Verdict(correct=True), ["correct"]),
        (Verdict(correct=False, details={"extracted": "no"}), ["no-answer"]),
        (Verdict(correct=False, details={"fate": "truncated"}), ["truncated"]),
        (Verdict(reason="unparsed", refusal=True), ["unparsed"]),
        (Verdict(reason="degenerate"), ["degenerate"]),
        (Verdict(soft=0.5), ["split"]),
        (Verdict(), ["unparsed"]),
    ],
)
def test_outcomes_are_named_as_in_the_scores(verdict: Verdict, names: list[str]) -> None:
    assert names_of(verdict) == names


def test_long_texts_are_cut_in_the_middle_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough to be cut twice: as it is read, and so that all texts fit together.
    text = "begins " + "word " * 3000 + "ends"
    folder = a_few(tmp_path / "run", lambda call: f"<think>\n{text}\n</think>\n\nshort")
    monkeypatch.setattr(rows_module, "MOST_CHARACTERS", 12_000)
    monkeypatch.setattr(rows_module, "READ_CHARACTERS", 9_000)
    book = row_book(folder, redact=False)
    assert book is not None
    rows = json.loads(book.data)["rows"]
    assert 11_000 < sum(len(row["p"]) + len(row["t"]) + len(row["a"]) for row in rows) < 12_100
    for row in rows:
        assert row["t"].startswith("begins ")
        assert row["t"].endswith("ends")
        left = re.search(r"\n\[… ([0-9,]+) characters left out …\]\n", row["t"])
        assert left is not None
        gone = int(left[1].replace(",", ""))
        assert len(row["t"]) - len(left[0]) + gone == len(text)
        assert row["a"] == "short"
    assert any("are cut in their middle" in note for note in book.notes)


def test_a_short_run_is_shown_whole(few: RunFolder) -> None:
    book = row_book(few, redact=False)
    assert book is not None
    assert not any("cut" in note for note in book.notes)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("a\u2028b\u2029c\x85d\x0be", "a\nb\nc\nd\ne"),
        ("tab\tstop", "tab stop"),
        ("\x1b[31m \u202e \u200b \ud800", "␛[31m \ufffd \ufffd \ufffd"),
    ],
)
def test_texts_keep_their_lines_and_nothing_else_that_acts(text: str, shown: str) -> None:
    assert neutral_lines(text) == shown


# -- redacting


def test_redacting_leaves_out_what_was_said_to_harmful_prompts(few: RunFolder) -> None:
    bad, good = data_of(few, redact=True)["rows"]
    assert "t" not in bad
    assert "a" not in bad
    assert bad["x"][0] == "trace of 10 tokens, left out, closed by the model"
    assert [verdict[3:] for verdict in bad["v"]] == [["", []], ["", []]]
    assert bad["p"] == "Prompt 0?"
    assert SECRET in good["a"]
    book = row_book(few, redact=True)
    assert book is not None
    assert any(note.startswith("redacted: ") for note in book.notes)


def test_a_local_page_is_whole_and_one_for_others_is_redacted(tmp_path: Path) -> None:
    folder = a_few(tmp_path / "run", prompts=1)
    own = write_page(folder)
    assert SECRET in own.read_text()
    assert not is_redacted(own)
    away = write_page(folder, tmp_path / "page.html")
    assert SECRET not in away.read_text()
    assert is_redacted(away)
    assert SECRET in write_page(folder, away, redact=False).read_text()


def test_a_run_whose_page_was_redacted_stays_so_until_told_otherwise(tmp_path: Path) -> None:
    folder = a_few(tmp_path / "run", prompts=1)
    run = str(folder.path)

    def page(*flags: str) -> str:
        result = CliRunner().invoke(app, ["report", run, *flags])
        assert result.exit_code == 0, result.output
        return (folder.path / "report.html").read_text()

    assert SECRET not in page("--redact")
    assert SECRET not in page()
    assert SECRET in page("--no-redact")
    assert SECRET in page()


def test_show_writes_a_page_for_others_unless_told_otherwise(tmp_path: Path) -> None:
    folder = a_few(tmp_path / "run", prompts=1)
    to = tmp_path / "page.html"
    for flags, kept in (((), False), (("--no-redact",), True), (("--redact",), False)):
        arguments = ["show", str(folder.path), "--html", str(to), *flags]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert (SECRET in to.read_text()) is kept


# -- in the page


def test_the_block_of_rollouts_is_json_that_nothing_in_it_can_end(tmp_path: Path) -> None:
    evil = "</script><!-- <script> & \u2028 ]]>"
    folder = a_few(tmp_path / "run", lambda call: evil)
    text = write_page(folder).read_text()
    elements = Elements(text)
    kinds = [kind for kind, _ in elements.scripts]
    assert kinds == ["application/json", ""]
    (data,) = [text for kind, text in elements.scripts if kind]
    assert "<" not in data
    assert json.loads(data)["rows"][0]["a"] == evil.replace("\u2028", "\n")
    assert "Rollouts" in elements.text


def test_a_run_without_its_journal_keeps_the_rest_of_its_page(tmp_path: Path) -> None:
    import shutil

    folder = a_few(tmp_path / "run")
    shutil.rmtree(folder.journal)
    with pytest.raises(JournalError):
        row_book(folder, redact=False)
    text = Elements(write_page(folder).read_text()).text
    assert "rollouts are not shown: no journal in" in text
    assert "made_up" in text


def test_the_same_run_gives_the_same_rollouts(labelled: RunFolder) -> None:
    assert row_book(labelled, redact=False, most=50) == row_book(labelled, redact=False, most=50)
