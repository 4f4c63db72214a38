"""The theory of a training through its command: measured, resumed, printed, drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tseval.cli import train_report
from tseval.requests import ModelSpec
from tseval.train.job import TrainFolder
from tseval.train.records import Example, Recipe
from tseval.train.report import limits, shown, theory_plots
from tseval.train.theory import Quantity
from tseval.train.theory_measure import load_theory
from tseval.types import Sampling

app = typer.Typer()
app.command()(train_report.command)
SMALL = ("--prompts", "10", "--draws", "16", "--rows", "12")


def training(folder: Path, **recipe: Any) -> Path:
    """Leave a training behind whose model is a script: it refuses three of ten."""
    pool = folder / "pool.jsonl"
    rows = [{"prompt": f"How is {word * 3} done?"} for word in "abcdefghijklmn"]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = Recipe(
        method="thinksafe",
        model=ModelSpec(backend="scripted", name="mixed"),
        harmful=(str(pool),),
        benign=(),
        judges=("refusal-rules",),
        sampling=Sampling(answer_tokens=100),
        **recipe,
    )
    trained = TrainFolder.choose(folder / "out", made)
    trained.save()
    trained.write_examples(
        Example(
            id=f"{n}", prompt=f"Prompt {n}", kind="harmful", trace="", answer="I can't do that.",
            thought=False, steered=True, draw=f"{n}",
        )
        for n in range(12)
    )  # fmt: skip
    return trained.path


def report(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [str(path), *arguments])


def test_a_report_measures_once_and_prints_it_again_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = training(tmp_path)
    first = report(path, *SMALL, "--json")
    assert first.exit_code == 0, first.output
    monkeypatch.setattr("tseval.train.theory_measure.measure", None)

    again = report(path, *SMALL, "--json")
    shown_only = report(path, "--show", "--json")

    assert again.exit_code == shown_only.exit_code == 0
    assert json.loads(again.stdout) == json.loads(shown_only.stdout) == json.loads(first.stdout)
    found = json.loads(first.stdout)
    lines = {(line["law"], line["name"]): line for line in found["lines"]}
    assert set(lines) == {
        *(("plain", name) for name in ("pooled", "mean")),
        *(
            ("steered", name)
            for name in ("pooled", "mean", "ratio", "kl", "excess", "least excess")
        ),
        ("given", "perplexity"),
    }
    # The script gives every text the same probability under either prompt.
    assert lines["steered", "ratio"]["quantity"]["value"] == 0
    # One nat a token.
    assert lines["given", "perplexity"]["quantity"]["value"] == pytest.approx(2.71828, abs=1e-4)
    assert lines["plain", "mean"]["draws"] == 160
    assert 0.9 < lines["plain", "pooled"]["quantity"]["value"] < 1.5
    used = {key for line in found["lines"] for key in line["assumes"]}
    assert used == set(found["assumptions"])
    assert "refusal-rules" in found["assumptions"]["guard"]
    assert "at most 100 tokens" in found["assumptions"]["law"]


def test_the_table_has_an_interval_and_assumptions_beside_each_number(tmp_path: Path) -> None:
    path = training(tmp_path)

    result = report(path, *SMALL, "--markdown", "--html", str(tmp_path / "page.html"))

    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if "KL(q" in line or "A(x)] =" in line]
    assert len(rows) == 4
    assert all("[" in row and "]" in row for row in rows)
    assert "- a: the prompts are a random part of the pool" in result.stdout
    assert report(path, *SMALL, "--markdown").stdout == result.stdout
    page = (tmp_path / "page.html").read_text()
    assert "KL(p_safe || p)" in page
    found = load_theory(TrainFolder.load(path))
    assert found is not None
    plots = theory_plots(found)
    assert [len(plot.series) for plot in plots] == [8, 2]
    assert all(plot.name in page for plot in plots)


def test_a_teacher_s_draws_are_scored_by_both_models(tmp_path: Path) -> None:
    path = training(tmp_path)

    result = report(path, *SMALL, "--teacher", "scripted/thinking", "--json")

    assert result.exit_code == 0, result.output
    lines = {
        line["name"]: line
        for line in json.loads(result.stdout)["lines"]
        if line["law"] == "teacher"
    }
    assert {"kl", "excess", "least excess", "mean"} <= set(lines)
    # The student, which has no thinking format, writes the teacher's traces between plain tags.
    assert lines["kl"]["counts"]["rewritten"] == lines["kl"]["counts"]["scored"]
    assert "tokenised" in lines["kl"]["assumes"]


def test_a_teacher_s_file_has_a_cross_entropy_and_no_kl(tmp_path: Path) -> None:
    path = training(tmp_path)
    file = tmp_path / "taught.jsonl"
    rows = [{"prompt": f"Prompt {n}", "response": "I will not do it."} for n in range(11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))

    result = report(path, *SMALL, "--answers", str(file), "--json")

    assert result.exit_code == 0, result.output
    every = json.loads(result.stdout)["lines"]
    lines = {line["name"]: line for line in every if line["of"] == "taught.jsonl · harmful"}
    assert set(lines) == {"cross-entropy", "perplexity"}
    # Seventeen bytes of one nat each; the row that is there twice counts once.
    assert lines["cross-entropy"]["quantity"]["value"] == 17
    assert lines["cross-entropy"]["draws"] == 11
    assert "file" in lines["cross-entropy"]["assumes"]


def test_draws_are_as_long_as_the_training_let_harmful_prompts_be_answered(tmp_path: Path) -> None:
    path = training(tmp_path, options={"harmful-tokens": "20"})

    own = json.loads(report(path, *SMALL, "--json").stdout)
    other = json.loads(report(path, *SMALL, "--answer-tokens", "50", "--json").stdout)

    assert "at most 20 tokens" in own["assumptions"]["law"]
    assert "at most 50 tokens" in other["assumptions"]["law"]
    assert len(list((path / "theory").glob("base-*"))) == 2


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    result = report(training(tmp_path), "--show")

    assert result.exit_code == 2
    assert "nothing has been measured" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--draws", "8"), "--draws 8 says too little of a prompt's own acceptance"),
        (("--prompts", "5"), "--prompts 5 makes no interval"),
        (("--benign-prompts", "5"), "--benign-prompts 5 makes no interval"),
    ],
)
def test_sizes_that_make_no_number_are_refused_before_a_model_is_loaded(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = report(training(tmp_path), *arguments)

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_pool_that_is_too_small_is_refused(tmp_path: Path) -> None:
    path = training(tmp_path)
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(pool.read_text().splitlines(keepends=True)[:6]))

    result = report(path, *SMALL)

    assert result.exit_code == 2
    assert "6 harmful prompts" in result.stderr


def test_a_folder_without_a_training_is_refused(tmp_path: Path) -> None:
    result = report(tmp_path)

    assert result.exit_code == 2
    assert "holds no training" in result.stderr


def test_an_open_side_of_an_interval_is_written_as_such() -> None:
    found = Quantity(value=1.5, low=1.25, high=None, says="at least", prompts=12)

    assert (shown(found), limits(found)) == ("≥ 1.500", "[1.250, ∞]")
    assert shown(None) == "-"
