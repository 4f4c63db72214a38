"""``tseval train``: what its flags mean, what it prints, and how it ends."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.toy_trainer import Place, Toy, place_for
from tseval import plugins
from tseval.cli import app as app_module
from tseval.cli import train as train_module
from tseval.errors import TrainingError
from tseval.train import flow
from tseval.train.looks import LookRecord, PanelRecord, Rate
from tseval.train.records import Adapter, Fit, Panel, Recipe
from tseval.types import Sampling, Thinking


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_entry_points", list)
    return tmp_path


def tseval(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app_module.app, list(arguments), env=env)


def failed(result: Result, code: int) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.stderr


@pytest.fixture
def specified(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """Give the recipe that a command line means, without training anything."""
    seen: list[Recipe] = []

    def execute(recipe: Recipe, plugins: object, given: dict[str, Any]) -> int:
        seen.append(recipe)
        return 0

    monkeypatch.setattr(train_module, "_execute", execute)

    def specify(*arguments: str, env: dict[str, str] | None = None) -> Recipe:
        result = tseval("train", *arguments, "--out", "t", env=env)
        assert result.exit_code == 0, result.output
        return seen[-1]

    return specify


@pytest.fixture
def toyed(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Trainings by a toy, whose answers come from a scripted model."""
    place = place_for(monkeypatch, Toy())
    monkeypatch.setattr(train_module, "registry", lambda without: place.registry)
    real = flow.train

    def train(*arguments: Any, **more: Any) -> Any:
        return real(*arguments, **more, backend=place.drawn)

    monkeypatch.setattr(flow, "train", train)
    return place


# -- what flags mean


def test_the_papers_constants_are_the_defaults(specified) -> None:
    recipe = specified("thinksafe", "--model", "hf/org/name")
    assert (recipe.method, recipe.model.backend, recipe.model.name) == (
        "thinksafe",
        "hf",
        "org/name",
    )
    assert (recipe.harmful, recipe.benign) == (("safechain",), ("safechain",))
    assert recipe.judges == ("llama-guard-3",)
    assert recipe.sampling == Sampling(temperature=0.6, top_p=0.95, top_k=0, answer_tokens=16384)
    assert recipe.thinking == Thinking(mode="default", budget=16384, unclosed="exclude")
    assert recipe.adapter == Adapter(rank=32, alpha=16, dropout=0.05, targets="all-linear")
    assert recipe.fit == Fit(epochs=3.0, learning_rate=1e-5, warmup=0.1, clip=1.0, batch=8)
    assert (recipe.panel, recipe.draws, recipe.select) == (Panel(), 1, "all")


def test_the_demo_is_trained_offline(specified) -> None:
    recipe = specified("thinksafe")
    assert recipe.model.backend == "demo"
    assert (recipe.harmful, recipe.benign) == (("quick_harmful",), ("quick_benign",))
    assert (recipe.judges, recipe.sampling.answer_tokens) == (("refusal-rules",), 512)


def test_every_flag_reaches_the_recipe(specified) -> None:
    recipe = specified(
        *(
            "thinksafe",
            "--model",
            "hf/a/b@c",
            "-M",
            "dtype=bfloat16",
            "--harmful",
            "a.jsonl,advbench",
        ),
        *("--benign", "b.jsonl", "--max-harmful", "7", "--max-benign", "8", "--draws", "3"),
        *("--judge", "refusal-rules,wildguard", "-J", "wildguard:dtype=bfloat16"),
        *("--temperature", "1", "--top-p", "1", "--top-k", "20", "--answer-tokens", "99"),
        *("--thinking", "forced", "--thinking-budget", "300", "--select", "deliberative"),
        *("--seed", "5", "-T", "exclude=xstest", "--data-dir", "/d"),
        *("--lora-rank", "4", "--lora-alpha", "8", "--lora-dropout", "0", "--lora-targets", "q v"),
        *("--lr", "2e-4", "--warmup", "0", "--epochs", "1", "--max-steps", "9", "--batch", "4"),
        *("--micro-batch", "2", "--micro-tokens", "100", "--max-tokens", "200", "--kl", "0.5"),
        *("--dtype", "float32", "--save-steps", "3", "--eval-suite", "quick,xstest"),
        *("--eval-steps", "20", "--eval-prompts", "50", "--eval-judge", "wildguard"),
        *("--eval-answer-tokens", "64", "--keep", "last", "--margin", "0.1", "--alpha", "0.01"),
    )
    assert (recipe.model.name, recipe.model.revision) == ("a/b", "c")
    assert recipe.model.options == {"dtype": "bfloat16"}
    assert (recipe.harmful, recipe.benign) == (("a.jsonl", "advbench"), ("b.jsonl",))
    assert (recipe.max_harmful, recipe.max_benign, recipe.draws) == (7, 8, 3)
    assert recipe.judges == ("refusal-rules", "wildguard")
    assert recipe.judge_options == {"wildguard:dtype": "bfloat16"}
    assert recipe.sampling == Sampling(temperature=1.0, top_p=1.0, top_k=20, answer_tokens=99)
    assert (recipe.thinking.mode, recipe.thinking.budget) == ("forced", 300)
    assert (recipe.select, recipe.seed, recipe.options) == (
        "deliberative",
        5,
        {"exclude": "xstest"},
    )
    assert recipe.adapter == Adapter(rank=4, alpha=8, dropout=0.0, targets="q v")
    assert recipe.fit == Fit(
        epochs=1.0,
        max_steps=9,
        learning_rate=2e-4,
        warmup=0.0,
        batch=4,
        micro_batch=2,
        micro_tokens=100,
        max_tokens=200,
        kl=0.5,
        save_steps=3,
        dtype="float32",
        seed=5,
    )
    assert recipe.panel == Panel(
        suites=("quick", "xstest"),
        steps=20,
        prompts=50,
        judges=("wildguard",),
        rule="last",
        alpha=0.01,
        margin=0.1,
        answer_tokens=64,
        data_dirs=("/d",),
    )
    assert recipe.data_dirs == ("/d",)


def test_variables_and_a_file_give_flags_too(specified, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lr: 0.5\nepochs: 2\nthinking: off\njudge: [refusal-rules]\n")
    recipe = specified("thinksafe", "--config", "c.yaml", env={"TSEVAL_EPOCHS": "7"})
    assert (recipe.fit.learning_rate, recipe.fit.epochs, recipe.thinking.mode) == (0.5, 7.0, "off")


def test_a_trainer_without_prompts_of_a_kind_takes_no_source_of_it(specified) -> None:
    recipe = specified("sft", "--teacher", "a.jsonl,b.jsonl")
    assert recipe.teacher == ("a.jsonl", "b.jsonl")
    assert (recipe.harmful, recipe.benign, recipe.judges) == ((), (), ())
    said = failed(tseval("train", "sft", "--harmful", "x.jsonl", "--out", "t"), 2)
    assert "error: sft takes no --harmful" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nosuch", "--out", "t"), "unknown trainer 'nosuch'"),
        (("thinksave", "--out", "t"), "did you mean 'thinksafe'?"),
        (("thinksafe",), "error: --out is missing"),
        (("thinksafe", "--out", "t", "--model", "nobackend"), "'nobackend' is neither a path"),
        (("thinksafe", "--out", "t", "--thinking", "maybe"), "--thinking is 'maybe'"),
        (("thinksafe", "--out", "t", "--select", "some"), "--select is 'some'"),
        (("thinksafe", "--out", "t", "--dtype", "int8"), "--dtype is 'int8'"),
        (("thinksafe", "--out", "t", "--top-p", "0"), "--top-p 0 keeps no token"),
        (("thinksafe", "--out", "t", "--epochs", "0"), "--epochs 0 trains nothing"),
        (("thinksafe", "--out", "t", "--eval-steps", "5"), "nothing says at what"),
        (("thinksafe", "--out", "t", "-T", "x"), "-T takes key=value"),
    ],
)
def test_wrong_usage_ends_with_2_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in failed(tseval("train", *arguments), 2)
    assert not (tmp_path / "t").exists()


def test_the_help_names_the_report_and_every_flag_of_a_method() -> None:
    group = tseval("train", "--help").output
    assert "report" in group
    assert "METHOD" in group
    flags = tseval("train", "thinksafe", "--help").output
    assert "Usage: " in flags
    assert "thinksafe" in flags.splitlines()[0]
    for flag in ("--harmful", "--lora-rank", "--eval-suite", "--kl", "--merge", "--select"):
        assert flag in flags
    assert "training" in tseval("train", "report", "--help").output.lower()


def test_trainers_are_listed_with_what_they_take() -> None:
    rows = json.loads(tseval("ls", "trainers", "--json").output)
    by_name = {row["trainer"]: row for row in rows}
    assert by_name["thinksafe"]["takes"] == "harmful, benign"
    assert by_name["sft"]["judges"] == "no"
    assert all(row["summary"] for row in rows)


# -- how it ends

_TOY = ("toy", "--model", "scripted/mixed", "--judge", "refusal-rules", "--out", "t")


def test_a_training_prints_its_tables_and_names_the_adapter(toyed: Place) -> None:
    result = tseval("train", *_TOY)
    assert result.exit_code == 0, result.output
    assert "recipe" in result.stdout
    assert "t/adapter: the adapter; tseval run --model t/adapter measures it" in result.stderr
    assert "t/report.html" in result.stderr


def test_of_several_processes_the_first_one_prints(
    toyed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tseval("train", *_TOY, "--json")
    monkeypatch.setenv("RANK", "1")
    second = tseval("train", *_TOY, "--json")
    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert (bool(first.stdout), second.stdout) == (True, "")


def test_as_json_the_whole_record_is_printed_and_nothing_else(toyed: Place) -> None:
    result = tseval("train", *_TOY, "--json")
    record = json.loads(result.stdout)
    assert record["status"] == "complete"
    assert record["recipe"]["method"] == "toy"
    assert record["fitted"]["step"] == 4


def test_an_interrupted_training_names_the_command_that_resumes(
    toyed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(where: str) -> None:
        if where == "step 2":
            raise KeyboardInterrupt

    toyed.toy.break_at = interrupt
    monkeypatch.setattr(sys, "argv", ["tseval", "train", *_TOY, "--fresh"])
    said = failed(tseval("train", *_TOY, "--fresh"), 130)
    assert "nothing is lost. To go on:\n  tseval train toy" in said
    assert "--fresh" not in said.partition("To go on:")[2]
    toyed.toy.break_at = lambda where: None
    assert tseval("train", *_TOY).exit_code == 0


def test_a_failed_training_ends_with_1_and_names_the_command_too(
    toyed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(where: str) -> None:
        if where == "fit":
            raise TrainingError("memory ran out", hint="--micro-batch 1")

    toyed.toy.break_at = fail
    monkeypatch.setattr(sys, "argv", ["tseval", "train", *_TOY])
    said = failed(tseval("train", *_TOY), 1)
    assert "error: memory ran out\nhint: --micro-batch 1\nresume: tseval train toy" in said


def rated(n: int, lost: int) -> LookRecord:
    return LookRecord(
        step=1, rates={"orr": Rate(metric="orr", judge="j", estimate=None, n=n, lost=lost)}
    )


@pytest.mark.parametrize(
    ("panel", "code"),
    [
        (None, 0),
        (PanelRecord(looks=(rated(95, 5),)), 0),
        (PanelRecord(looks=(rated(94, 6),)), 5),
        (PanelRecord(looks=(LookRecord(step=1, note="no look"),)), 5),
        (PanelRecord(lost=("final-after-0: xstest orr has lost 88 of 100 rollouts",)), 5),
    ],
)
def test_a_panel_with_more_than_a_twentieth_lost_ends_with_5(
    panel: PanelRecord | None, code: int
) -> None:
    class Folder:
        class record:
            pass

    Folder.record.panel = panel  # type: ignore[attr-defined]
    assert train_module.exit_code(Folder()) == code  # type: ignore[arg-type]
