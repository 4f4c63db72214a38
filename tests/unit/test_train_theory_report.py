"""The theory of a training through its command: measured, resumed, printed, drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from tests.support.sessions import registry
from tseval.cli import train_report
from tseval.data import load_rows
from tseval.probes.steering import NOTICE
from tseval.requests import ModelSpec, Subject
from tseval.train import theory_draws, theory_scores
from tseval.train.job import TrainFolder
from tseval.train.records import Example, Fall, Gathered, Panel, Recipe
from tseval.train.report import limits, shown, theory_page, theory_plots
from tseval.train.theory_means import Quantity
from tseval.train.theory_measure import load_theory
from tseval.train.theory_sources import Settings, pool_prompts
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


# -- what a training is: its notice, panel, filter, method


def changed(path: Path, **fields: Any) -> None:
    """Make another training's record of it."""
    folder = TrainFolder.load(path)
    folder.record.recipe = replace(folder.record.recipe, **fields)
    folder.save()


@pytest.mark.parametrize("notice", [None, "Say no to this."])
def test_the_theory_draws_under_the_training_s_own_notice(
    tmp_path: Path, notice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = training(tmp_path, options={} if notice is None else {"notice": notice})
    asked: list[str | None] = []

    def spy(text: str, under: str | None) -> str:
        asked.append(under)
        return f"{under}: {text}"

    monkeypatch.setattr("tseval.train.theory_draws.asked_as", spy)
    monkeypatch.setattr("tseval.train.theory_scores.asked_as", spy)

    result = report(path, *SMALL, "--json")

    assert result.exit_code == 0, result.output
    assert set(asked) == {None, notice or NOTICE}
    assert repr(notice or NOTICE) in json.loads(result.stdout)["assumptions"]["notice"]


def test_the_prompts_of_the_panel_are_none_of_the_pool(tmp_path: Path) -> None:
    path = training(tmp_path)
    rows = load_rows(registry().benchmarks["quick_harmful"].card).samples[:6]
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        pool.read_text() + "".join(json.dumps({"prompt": row.prompt}) + "\n" for row in rows)
    )
    settings = Settings(prompts=99, benign=0)
    whole = pool_prompts(TrainFolder.load(path), registry(), settings)["harmful"]

    changed(path, panel=Panel(suites=("quick_harmful",), prompts=99))
    rest = pool_prompts(TrainFolder.load(path), registry(), settings)["harmful"]

    assert {row.prompt for row in rows} <= {each.text for each in whole}
    assert not {row.prompt for row in rows} & {each.text for each in rest}
    assert len(rest) == 14


def test_a_training_that_asks_no_judges_has_the_numbers_of_its_answers_alone(
    tmp_path: Path,
) -> None:
    path = training(tmp_path)
    changed(path, method="sft", judges=())

    result = report(path, *SMALL, "--json")
    taught = report(path, *SMALL, "--teacher", "scripted/thinking")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [line["name"] for line in found["lines"]] == ["perplexity"]
    assert (
        "nothing was drawn: this training asks no judges what is safe (--judge names one)"
        in found["notes"]
    )
    assert report(path, "--show", "--markdown").exit_code == 0
    assert taught.exit_code == 2
    assert "--teacher needs a guard" in taught.stderr


def test_another_guard_is_named_and_mixes_no_verdicts_with_the_training_s_own(
    tmp_path: Path,
) -> None:
    path = training(tmp_path)
    own = report(path, *SMALL, "--json")
    other = report(path, *SMALL, "--judge", "refusal-strings", "--json")
    shown_only = report(path, "--show", "--markdown")

    assert own.exit_code == other.exit_code == 0, other.output
    found = json.loads(other.stdout)
    assert found["judges"] == ["refusal-strings"]
    assert "refusal-strings" in found["assumptions"]["guard"]
    assert "the guard of these numbers is refusal-strings, by --judge" in shown_only.stdout
    assert "the training's own (refusal-rules)" in shown_only.stdout
    runs = [each for each in (path / "theory").iterdir() if each.is_dir()]
    assert len(runs) == 2

    named = report(path, *SMALL, "--judge", "refusal-rules", "--json")
    assert named.exit_code == 0, named.output
    assert json.loads(named.stdout) == json.loads(own.stdout)


def test_a_training_without_judges_is_measured_by_a_guard_that_is_named(tmp_path: Path) -> None:
    path = training(tmp_path)
    changed(path, method="sft", judges=())
    result = report(path, *SMALL, "--judge", "refusal-rules", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["judges"] == ["refusal-rules"]
    assert {"pooled", "mean"} <= {line["name"] for line in found["lines"]}
    assert "the training's own (none)" in found["notes"][0]


def test_a_guard_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    result = report(training(tmp_path), *SMALL, "--judge", "no-such-guard")
    assert result.exit_code == 2
    assert "no-such-guard" in result.stderr


def test_a_teacher_has_to_have_harmful_prompts(tmp_path: Path) -> None:
    path = training(tmp_path)
    changed(path, benign=(str(tmp_path / "pool.jsonl"),), harmful=())

    result = report(path, *SMALL, "--benign-prompts", "0", "--teacher", "scripted/thinking")

    assert result.exit_code == 2
    assert "--teacher answers harmful prompts" in result.stderr


def test_prompts_without_answers_are_no_training_set(tmp_path: Path) -> None:
    path = training(tmp_path)
    folder = TrainFolder.load(path)
    bare = [replace(each, answer="", steered=False) for each in folder.read_examples()]
    folder.write_examples(bare)

    result = report(path, *SMALL, "--json")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {line["law"] for line in found["lines"]} == {"plain"}
    assert "examples that are prompts without answers are not scored" in found["notes"]


def test_a_guard_that_fails_too_often_ends_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = training(tmp_path)
    guarded = theory_draws._guarded

    async def failing(session: Any, jury: Any, prompt: Any, rollout: Any) -> Any:
        accepted = await guarded(session, jury, prompt, rollout)
        return (None, "no verdict") if rollout.seed % 8 == 0 else accepted

    monkeypatch.setattr(theory_draws, "_guarded", failing)

    result = report(path, *SMALL)
    changed(path, options={"lost": "0.5"})

    assert result.exit_code == 1
    assert "the guard (refusal-rules) gave no verdict on" in result.stderr
    assert report(path, *SMALL, "--draws", "32").exit_code == 0


@pytest.mark.parametrize("knows", ["teacher", "base", "both"])
def test_a_teacher_s_ratio_has_the_end_of_the_turn_on_both_sides_or_on_neither(
    tmp_path: Path, knows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(backend: Any) -> tuple[int, ...] | None:
        thinks = "<think>" in backend.template().single_tokens
        return (65,) if knows == "both" or thinks is (knows == "teacher") else None

    path = training(tmp_path)
    plain = report(path, *SMALL, "--teacher", "scripted/thinking", "--json")
    (path / "theory" / "theory.json").unlink()
    monkeypatch.setattr(theory_scores, "end_of_turn", end)

    ended = report(path, *SMALL, "--teacher", "scripted/thinking", "--json")

    assert ended.exit_code == 0, ended.output
    plain_ratios, ratios = (
        [
            ratio
            for tally in json.loads(each.stdout)["tallies"]["harmful · teacher"]
            for ratio in tally["ratios"]
        ]
        for each in (plain, ended)
    )
    # One nat a token on either side: an end on one alone would show as one nat.
    assert ratios
    assert ratios == pytest.approx(plain_ratios)
    found = json.loads(ended.stdout)
    said = any("by both models without the end of the turn" in note for note in found["notes"])
    assert said is (knows == "base")
    included = "the end of the turn included" in found["assumptions"]["scored"]
    assert included is (knows != "teacher")


def test_the_theory_is_shown_with_the_training_s_other_filters_and_on_its_page(
    tmp_path: Path,
) -> None:
    path = training(tmp_path)
    folder = TrainFolder.load(path)
    falls = (
        Fall(step="safe-answer", kind="harmful", came=40, fell=10),
        Fall(step="refuses", kind="harmful", came=30, fell=6),
        Fall(step="closed", kind="harmful", came=30, fell=0, applies=False),
    )
    folder.record.gathered = Gathered(falls=falls)
    folder.save()

    result = report(path, *SMALL, "--markdown")

    assert result.exit_code == 0, result.output
    found = load_theory(TrainFolder.load(path))
    assert found is not None
    assert theory_page(found).sections[-1].rows == [
        ("harmful", "safe-answer", "40", "0.750"),
        ("harmful", "refuses", "30", "0.800"),
    ]
    assert "shares kept, step by step" in result.stdout
    assert "The theory, measured" in (path / "report.html").read_text()


def test_what_was_measured_by_older_rules_is_measured_again(tmp_path: Path) -> None:
    path = training(tmp_path)
    assert report(path, *SMALL).exit_code == 0
    file = path / "theory" / "theory.json"
    old = json.loads(file.read_text())
    file.write_text(json.dumps({**old, "schema": 1}))

    assert load_theory(TrainFolder.load(path)) is None
    assert report(path, *SMALL).exit_code == 0
    assert load_theory(TrainFolder.load(path)) is not None


def test_another_model_or_pool_than_the_training_s_is_refused(tmp_path: Path) -> None:
    path = training(tmp_path)
    trained = TrainFolder.load(path)
    trained.record.subject = Subject(name="mixed", identity={"weights": "of another day"})
    trained.save()
    swapped = report(path, *SMALL)
    assert swapped.exit_code == 2
    assert "the model is not the one that this training began with" in swapped.stderr

    pool = tmp_path / "pool.jsonl"
    trained.record.files = {str(pool): "0" * 64}
    trained.record.gathered = Gathered(examples=())
    trained.save()
    changed = report(path, *SMALL)
    assert changed.exit_code == 2
    assert "pool.jsonl has changed since" in changed.stderr


def test_answers_that_have_changed_are_scored_anew(tmp_path: Path) -> None:
    path, file = training(tmp_path), tmp_path / "taught.jsonl"

    def nats(answer: str) -> float:
        rows = [{"prompt": f"Prompt {n}", "response": answer} for n in range(11)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = json.loads(report(path, *SMALL, "--answers", str(file), "--json").stdout)
        [line] = [line for line in found["lines"] if line["name"] == "cross-entropy"]
        return float(line["quantity"]["value"])

    assert [nats("I will not do it."), nats("I will not.")] == [17, 11]


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
