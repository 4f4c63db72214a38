"""Label files and calibration records: what is read, what is counted, what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tseval.errors import ConfigError, DataError
from tseval.judgement.calibration import (
    CalibrationRecord,
    Population,
    calibrate,
    outcome_of_label,
    read_record,
    write_record,
)
from tseval.judgement.labelfile import Labelled, Labels, read_labels, xstest_labels
from tseval.protocol import JudgeIdentity
from tseval.stats import clustered_proportion, wilson
from tseval.types import Verdict

FULL, PARTIAL, NONE = "2_full_refusal", "3_partial_refusal", "1_full_compliance"


def a_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def some_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def xstest_file(folder: Path, *labels: str) -> Path:
    rows = [
        {"id": str(i), "prompt": f"p{i}", "completion": f"c{i}", "final_label": label}
        for i, label in enumerate(labels)
    ]
    return a_csv(folder / "completions.csv", rows)


# -- label files


def test_xstest_files_are_read_as_they_are(tmp_path):
    found = read_labels(xstest_file(tmp_path, FULL, PARTIAL, NONE), xstest_labels())
    assert [(row.prompt, row.answer, row.positive) for row in found.rows] == [
        ("p0", "c0", True),
        ("p1", "c1", True),
        ("p2", "c2", False),
    ]
    assert found.excluded == {}
    assert len(found.digest) == 64


def test_partial_refusals_count_as_compliance_if_told_so(tmp_path):
    how = xstest_labels(partial_is_refusal=False)
    found = read_labels(xstest_file(tmp_path, FULL, PARTIAL, NONE), how)
    assert [row.positive for row in found.rows] == [True, False, False]
    assert how.meaning == "full refusals only"


def test_an_unknown_label_is_an_error_that_names_file_row_and_value(tmp_path):
    path = xstest_file(tmp_path, FULL, NONE, "4_unclear")
    with pytest.raises(DataError) as caught:
        read_labels(path, xstest_labels())
    assert f"{path}, line 4, column 'final_label': unknown label '4_unclear'" in str(caught.value)
    assert f"known: {FULL}, {PARTIAL}, {NONE}" in str(caught.value)


def test_json_lines_may_hold_truth_values_numbers_and_words(tmp_path):
    labels = [True, 0, "Yes", "no ", 1, False]
    rows = [{"prompt": "p", "answer": f"a{i}", "label": each} for i, each in enumerate(labels)]
    found = read_labels(some_jsonl(tmp_path / "l.jsonl", rows), Labels())
    assert [row.positive for row in found.rows] == [True, False, True, False, True, False]
    assert [row.value for row in found.rows] == ["true", "0", "Yes", "no", "1", "false"]


def test_columns_and_values_are_chosen(tmp_path):
    rows = [
        {"q": "p1", "a": "x", "verdict": "Unsafe"},
        {"q": "p2", "a": "y", "verdict": "safe"},
        {"q": "p3", "a": "z", "verdict": "unsure"},
        {"q": "p4", "a": "w", "verdict": ""},
    ]
    how = Labels(prompt="q", answer="a", label="verdict", positive=("unsafe",), negative=("safe",),
                 ignored=("unsure",))  # fmt: skip
    found = read_labels(a_csv(tmp_path / "l.csv", rows), how)
    assert [(row.prompt, row.positive) for row in found.rows] == [("p1", True), ("p2", False)]
    assert found.excluded == {"ignored": 1, "unlabelled": 1}


def test_without_named_negatives_the_one_other_value_is_no_and_a_third_is_an_error(tmp_path):
    how = Labels(positive=("bad",), negative=())
    rows = [{"prompt": "p", "answer": "a", "label": each} for each in ("bad", "good", "good")]
    found = read_labels(a_csv(tmp_path / "l.csv", rows), how)
    assert [row.positive for row in found.rows] == [True, False, False]
    rows.append({"prompt": "p", "answer": "a", "label": "goood"})
    with pytest.raises(DataError, match=r"line 5, column 'label': unknown label 'goood' \(known: "):
        read_labels(a_csv(tmp_path / "l.csv", rows), how)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "label": "yes"}, r"no column 'answer' \(found: prompt, label\)"),
        ({"prompt": "p", "answer": 3, "label": "yes"}, "'answer': expected a text, found a number"),
        ({"prompt": "p", "answer": "a", "label": ["x"]}, "expected a label, found a list"),
        ({"prompt": "p", "answer": "a", "label": 0.5}, "expected a label, found a number"),
        ({"prompt": "p", "answer": "a", "label": ""}, "holds no labelled row"),
    ],
)
def test_broken_rows_are_errors(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_labels(some_jsonl(tmp_path / "l.jsonl", [row]), Labels())


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*none\.csv"):
        read_labels(tmp_path / "none.csv", Labels())


# -- records


def a_row(prompt: str, value: str, *, answer: str = "a") -> Labelled:
    return Labelled("file, line 1", prompt, answer, value in (FULL, PARTIAL), value)


YES, NO = Verdict(refusal=True), Verdict(refusal=False)
JUDGED = [
    (a_row("p1", FULL), YES),
    (a_row("p1", FULL), NO),
    (a_row("p2", PARTIAL), YES),
    (a_row("p3", NONE), NO),
    (a_row("p4", NONE), YES),
    (a_row("p5", NONE), NO),
    (a_row("p6", NONE), Verdict(reason="unparsed")),
    (a_row("p7", FULL), Verdict(reason="error")),
    (a_row("p8", FULL), Verdict(reason="degenerate")),
    (a_row("p9", NONE), Verdict(harmful=True)),
]


def a_record(pairs: Any = JUDGED, **more: Any) -> CalibrationRecord:
    return calibrate(
        pairs,
        judge=JudgeIdentity(name="j", version="1"),
        label="refusal",
        text="answer",
        population=Population(labels="refusal", source="0" * 64, **more),
        excluded={"unlabelled": 2},
    )


def test_a_record_counts_by_label_and_by_prompt():
    record = a_record()
    assert record.n == 6
    assert record.table == {
        NONE: {"negative": 2, "positive": 1, "unparsed": 2},
        FULL: {"degenerate": 1, "error": 1, "negative": 1, "positive": 1},
        PARTIAL: {"positive": 1},
    }
    # A judge that says 'ok' without the label has not judged it.
    assert record.excluded == {"degenerate": 1, "error": 1, "unlabelled": 2, "unparsed": 2}
    assert record.prompts == ((0, 0, 0, 1, 2), (0, 0, 1, 0, 1), (1, 0, 0, 0, 1), (1, 1, 0, 0, 1))
    assert sorted(record.by_prompt()) == [
        (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 1, 0), (1, 0, 0, 0), (1, 1, 0, 0)]  # fmt: skip
    assert record.positive == (FULL, PARTIAL)
    # 3 of 9 verdicts are missing; a degenerate answer is not the judge's failure.
    assert record.lost_share == pytest.approx(3 / 9)


def test_rates_are_clustered_where_prompts_repeat():
    record = a_record()
    assert record.sensitivity == clustered_proportion([1, 1], [2, 1])
    assert record.specificity == wilson(2, 3)
    assert record.accuracy == clustered_proportion([1, 1, 1, 0, 1], [2, 1, 1, 1, 1])
    assert record.kappa is not None
    assert record.kappa.value == pytest.approx(1 / 3)
    assert record.kappa.method == "linearised, 5 clusters"


def test_prompts_that_differ_in_case_and_space_only_are_one_cluster():
    pairs = [(a_row("Say  no", FULL), YES), (a_row("say no", NONE), NO)]
    assert a_record(pairs).prompts == ((1, 0, 0, 1, 1),)


def test_what_is_undefined_is_none():
    record = a_record([(a_row("p", FULL), YES)])
    assert record.sensitivity is not None
    assert record.specificity is None
    assert record.kappa is None
    nothing = a_record([(a_row("p", FULL), Verdict(reason="unparsed"))])
    assert (nothing.n, nothing.accuracy, nothing.lost_share) == (0, None, 1.0)


def test_equal_measurements_give_equal_bytes_whatever_their_order(tmp_path):
    write_record(tmp_path / "a.json", a_record())
    write_record(tmp_path / "b.json", a_record(reversed(JUDGED)))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_record(tmp_path / "a.json") == a_record()
    assert b"p1" not in (tmp_path / "a.json").read_bytes()


def test_a_record_whose_counts_do_not_fit_is_refused(tmp_path):
    for change in ({"n": 7}, {"prompts": ((1, 1, 1, 3, 1),)}, {"positive": (FULL,)}):
        write_record(tmp_path / "r.json", msgspec.structs.replace(a_record(), **change))
        with pytest.raises(ConfigError, match="its counts do not fit each other"):
            read_record(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is no calibration record"),
        ("no", "is no calibration record"),
        ('{"schema": 99}', "has schema 99, this tseval reads 1"),
    ],
)
def test_other_files_are_no_records(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_record(tmp_path / "r.json")


def test_a_missing_record_says_how_one_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"r\.json: No such file") as caught:
        read_record(tmp_path / "r.json")
    assert "tseval judge validate --calibration" in caught.value.hint


@pytest.mark.parametrize(
    ("verdict", "kind", "said"),
    [
        (Verdict(refusal=True, harmful=False), "refusal", "positive"),
        (Verdict(refusal=True, harmful=False), "harmful", "negative"),
        (Verdict(refusal=True), "harmful", "unparsed"),
        (Verdict(reason="undecided"), "refusal", "undecided"),
        (Verdict(reason="empty"), "refusal", "empty"),
    ],
)
def test_a_verdict_means_yes_no_or_the_reason_why_neither(verdict, kind, said):
    assert outcome_of_label(verdict, kind) == said
