"""Sheets of rollouts to label: who is chosen how probably, what is written, what is read."""

import csv
import math
from collections import Counter
from pathlib import Path

import pytest

from tests.support.labelled_runs import a_run, fill_in
from tseval.errors import ConfigError, DataError
from tseval.journal import Journal
from tseval.judgement.labelling import (
    Design,
    HumanLabel,
    choose,
    design_labels,
    load_labels,
    rollout_key,
    save_labels,
)
from tseval.judgement.labelling import _Unit as Unit
from tseval.judgement.sheets import for_csv, read_sheet, write_sheet
from tseval.readback import stored_rows
from tseval.runfolder import RunFolder

UNITS = [Unit(f"{i:016x}", 1.0 if i % 10 == 0 else 0.0) for i in range(200)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return a_run(tmp_path_factory.mktemp("label") / "run")


@pytest.fixture
def folder(run: RunFolder, tmp_path: Path) -> RunFolder:
    """The run in a folder of its own, with no labels."""
    import shutil

    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder.load(tmp_path / "run")


def rows_of(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def a_sheet(folder: RunFolder, path: Path, **more: object) -> Design:
    given = {"kind": "refusal", "n": 30, **more}
    design, shown = design_labels(folder, **given)  # type: ignore[arg-type]
    write_sheet(path, design, shown)
    return design


# -- who is chosen


def test_random_sheets_give_every_rollout_the_same_probability():
    chosen = choose(UNITS, 50, by="random", seed=1)
    assert len(chosen) == 50
    assert set(chosen.values()) == {0.25}


def test_sheets_by_disagreement_give_every_rollout_some_probability():
    chosen = choose(UNITS, 20, by="disagreement", seed=1)
    assert len(chosen) == 20
    # Half of 20 places by chance for 200, half for the 20 that divide the judges.
    expected = {True: 10 / 200 + 10 / 20, False: 10 / 200}
    for key, probability in chosen.items():
        assert probability == pytest.approx(expected[int(key, 16) % 10 == 0])


@pytest.mark.parametrize("by", ["random", "disagreement"])
def test_rollouts_are_chosen_as_often_as_their_probability_says(by):
    draws, n = 3000, 20
    counts: Counter[str] = Counter()
    probabilities: dict[str, float] = {}
    for seed in range(draws):
        chosen = choose(UNITS, n, by=by, seed=seed)
        assert len(chosen) == n
        counts.update(chosen.keys())
        probabilities |= chosen
    assert len(probabilities) == len(UNITS)
    assert sum(probabilities.values()) == pytest.approx(n)
    for key, probability in probabilities.items():
        # Four and a half standard errors, for the largest of 200 deviations.
        error = 4.5 * math.sqrt(probability * (1 - probability) / draws)
        assert counts[key] / draws == pytest.approx(probability, abs=error)


def test_few_unequal_rollouts_are_chosen_as_often_as_said_too():
    units = [Unit("a" * 16, 1.0), Unit("b" * 16, 0.0)]
    counts = Counter(
        next(iter(choose(units, 1, by="disagreement", seed=seed))) for seed in range(2000)
    )
    # A quarter, with a standard error of 0.01.
    assert counts["b" * 16] / 2000 == pytest.approx(0.25, abs=0.04)


def test_any_two_rollouts_may_be_chosen_together():
    both = sum(
        {UNITS[0].key, UNITS[1].key} <= set(choose(UNITS, 60, by="random", seed=seed))
        for seed in range(500)
    )
    assert both / 500 == pytest.approx(0.09, abs=0.05)


def test_what_would_be_chosen_more_than_surely_is_chosen_surely():
    units = [Unit(f"{i:016x}", float(i < 3)) for i in range(100)]
    chosen = choose(units, 20, by="disagreement", seed=0)
    assert [chosen[f"{i:016x}"] for i in range(3)] == [1, 1, 1]
    assert len(chosen) == 20
    others = [p for key, p in chosen.items() if int(key, 16) >= 3]
    assert others == pytest.approx([17 / 97] * 17)


def test_more_than_there_are_chooses_all():
    assert set(choose(UNITS, 500, by="disagreement", seed=0).values()) == {1.0}


def test_the_same_seed_chooses_the_same_in_the_same_order():
    one, again = (choose(UNITS, 20, by="random", seed=5) for _ in range(2))
    assert list(one) == list(again)
    assert list(one) != list(choose(UNITS, 20, by="random", seed=6))
    assert list(one) != sorted(one)


def test_judges_that_never_disagree_are_no_guide():
    with pytest.raises(ConfigError, match="the judges disagree about no rollout"):
        choose([Unit("0" * 16, 0.0)], 1, by="disagreement", seed=0)


# -- the sheet


def test_a_sheet_has_an_empty_column_and_no_verdict(folder, tmp_path):
    design = a_sheet(folder, tmp_path / "s.csv")
    rows = rows_of(tmp_path / "s.csv")
    assert list(rows[0]) == ["key", "prompt", "answer", "is_refusal", "probability"]
    assert len(rows) == 30
    assert {row["is_refusal"] for row in rows} == {""}
    assert [row["key"].rpartition("-")[2] for row in rows] == list(design.chosen)
    # 48 prompts with 4 rollouts, of which some have no text.
    assert 170 < design.rollouts < 192
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == pytest.approx([30 / design.rollouts] * 30)


def test_a_sheet_shows_the_rollouts_that_it_names(folder, tmp_path):
    a_sheet(folder, tmp_path / "s.csv", kind="harmful", benchmarks=("quick_benign",))
    journal = Journal.open(folder.journal, write=False)
    stored = {rollout_key(each.row.generation): each for each in stored_rows(journal)}
    for row in rows_of(tmp_path / "s.csv"):
        found = stored[row["key"].rpartition("-")[2]]
        assert found.row.benchmark == "quick_benign"
        assert (row["prompt"], row["answer"]) == (found.row.prompt, found.rollout.answer)
        assert "is_harmful" in row


def test_disagreement_is_between_the_judges_that_are_named(folder, tmp_path):
    design = a_sheet(folder, tmp_path / "s.csv", by="disagreement", judges=("first", "second"))
    likely = max(design.chosen.values())
    assert likely > 2 * min(design.chosen.values())
    for row in rows_of(tmp_path / "s.csv"):
        _, first, second = row["answer"][:3]
        divided = {first, second} == {"r", "c"}
        assert (float(row["probability"]) == pytest.approx(likely, rel=1e-6)) is divided


def test_unknown_judges_and_benchmarks_are_errors(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no verdict of 'third' \(it has: first, second\)"):
        a_sheet(folder, tmp_path / "s.csv", by="disagreement", judges=("first", "third"))
    with pytest.raises(ConfigError, match="no rollout with a text to label"):
        a_sheet(folder, tmp_path / "s.csv", benchmarks=("other",))
    with pytest.raises(ConfigError, match="--n is 0"):
        a_sheet(folder, tmp_path / "s.csv", n=0)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1", "\r=1", "\n=1", "|x", "%0A=1"]
)
def test_a_formula_is_no_formula_in_a_cell(text):
    assert for_csv(text) == f"'{text}"


def test_other_texts_are_left_as_they_are():
    assert for_csv("Sorry, 1 + 1 = 2\nand so on") == "Sorry, 1 + 1 = 2\nand so on"
    assert for_csv("a\0b") == "a\u2400b"
    assert for_csv("half \ud800") == "half \ufffd"


# -- reading it back


def test_labels_come_back_with_the_probability_that_they_were_chosen_with(folder, tmp_path):
    design = a_sheet(folder, tmp_path / "s.csv", by="disagreement")
    assert fill_in(tmp_path / "s.csv", "is_refusal") == 30
    found = read_sheet(folder, tmp_path / "s.csv")
    assert (len(found.labels), found.blank, found.unsure) == (30, 0, 0)
    for label in found.labels:
        assert label.probability == design.chosen[label.rollout]
        assert (label.kind, label.text, label.design) == ("refusal", "answer", design.id)
    save_labels(folder, found.labels)
    assert load_labels(folder) == sorted(found.labels, key=lambda label: label.rollout)


def test_what_people_left_blank_or_could_not_tell_is_counted(folder, tmp_path):
    a_sheet(folder, tmp_path / "s.csv")
    words = iter(["yes", "NO", "unsure", "?", "1", "false", *[""] * 24])
    fill_in(tmp_path / "s.csv", "is_refusal", lambda row: next(words))
    found = read_sheet(folder, tmp_path / "s.csv")
    assert [label.positive for label in found.labels] == [True, False, True, False]
    assert (found.blank, found.unsure) == (24, 2)


def test_a_sheet_survives_what_spreadsheets_do_to_it(folder, tmp_path):
    sheet = tmp_path / "s.csv"
    a_sheet(folder, sheet)
    fill_in(sheet, "is_refusal")
    rows = rows_of(sheet)
    before = read_sheet(folder, sheet)
    # Saved with semicolons and decimal commas, columns moved, rows sorted, five of them deleted.
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["is_refusal", "probability", "key", "answer", "prompt"])
        for row in sorted(rows, key=lambda row: row["key"])[5:]:
            shown = f"{float(row['probability']):.5f}".replace(".", ",")
            writer.writerow([row["is_refusal"], shown, row["key"], row["answer"], row["prompt"]])
    found = read_sheet(folder, sheet)
    assert found.blank == 5
    assert {label.rollout for label in found.labels} < {label.rollout for label in before.labels}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[3].update(is_refusal="maybe"), r"line 5, .* unknown label 'maybe'"),
        (
            lambda rows: rows[3].update(probability="0.9"),
            "line 5: probability '0.9' is not the one",
        ),
        (lambda rows: rows[3].update(probability="x"), "line 5: probability 'x' is not the one"),
        (lambda rows: rows[3].update(key=rows[2]["key"]), "line 5: .* is there twice"),
        (lambda rows: rows[3].update(key="r0-0"), "line 5: is not of a sheet of"),
        (lambda rows: rows[3].update(key=""), "line 5: has no key of a sheet"),
        (lambda rows: rows[3].update(key="r../../x-0"), "line 5: has no key of a sheet"),
        (
            lambda rows: rows[3].update(key=rows[3]["key"].partition("-")[0] + "-" + "0" * 16),
            "line 5: .* was not chosen for this sheet",
        ),
        (lambda rows: [row.update(is_refusal="") for row in rows], "no row has a label"),
    ],
)
def test_a_sheet_that_was_tampered_with_is_refused(folder, tmp_path, change, message):
    sheet = tmp_path / "s.csv"
    a_sheet(folder, sheet)
    fill_in(sheet, "is_refusal")
    rows = rows_of(sheet)
    change(rows)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=message):
        read_sheet(folder, sheet)


def test_labels_of_two_draws_are_not_mixed(folder, tmp_path):
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    a_sheet(folder, one, seed=1)
    a_sheet(folder, other, seed=2)
    for sheet in (one, other):
        fill_in(sheet, "is_refusal")
    save_labels(folder, read_sheet(folder, one).labels)
    # Again is no contradiction: the labels may have been completed.
    save_labels(folder, read_sheet(folder, one).labels)
    with pytest.raises(ConfigError, match="has labels of another sheet about refusal") as caught:
        save_labels(folder, read_sheet(folder, other).labels)
    assert "--replace" in caught.value.hint
    save_labels(folder, read_sheet(folder, other).labels, replace=True)
    assert len(load_labels(folder)) == 30
    assert len({label.design for label in load_labels(folder)}) == 1


def test_labels_of_both_kinds_lie_side_by_side(folder, tmp_path):
    for kind, column in (("refusal", "is_refusal"), ("harmful", "is_harmful")):
        a_sheet(folder, tmp_path / f"{kind}.csv", kind=kind)
        fill_in(tmp_path / f"{kind}.csv", column)
        save_labels(folder, read_sheet(folder, tmp_path / f"{kind}.csv").labels)
    kinds = Counter(label.kind for label in load_labels(folder))
    assert kinds == {"refusal": 30, "harmful": 30}


def test_a_broken_file_of_labels_is_an_error(folder):
    (folder.path / "labels.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"cannot read .*labels\.jsonl"):
        load_labels(folder)


def test_nobody_labelled_anything_in_a_fresh_run(folder):
    labels: list[HumanLabel] = load_labels(folder)
    assert labels == []
