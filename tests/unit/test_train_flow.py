"""A training from beginning to end: what it leaves, and where it goes on after each kind of end."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from tests.support.toy_trainer import (
    WEIGHTS,
    Place,
    Toy,
    place_for,
    refusing,
    toy_recipe,
    train_toy,
)
from tseval.errors import ConfigError, RequestFailed, TrainingError, UnknownName
from tseval.runfolder import RunFolder
from tseval.train import flow, weights
from tseval.train.job import TrainFolder
from tseval.train.panel import benchmarks_of, halves_of
from tseval.train.records import Fit, Recipe
from tseval.types import Sampling

FAST = {"suites": ("quick",), "prompts": 8}


class Shown:
    """A display that keeps remarks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Any) -> None: ...

    def remark(self, message: str) -> None:
        self.remarks.append(message)


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return place_for(monkeypatch, Toy())


def kept(folder: TrainFolder) -> int:
    """The step whose weights are in the adapter's folder."""
    return int((folder.adapter / WEIGHTS).read_text())


def plain(folder: TrainFolder) -> Any:
    return msgspec.to_builtins(folder.record, enc_hook=str)


def look_names(place: Place) -> list[str]:
    return [name.rpartition("-")[0] for name in place.measured if name.startswith("selection-0")]


# -- what it leaves


def test_a_training_without_a_panel_leaves_adapter_data_cards_and_record(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(), command="tseval train toy")
    record = TrainFolder.load(tmp_path / "t").record
    assert (record.status, record.command) == ("complete", "tseval train toy")
    assert record.subject is not None
    assert record.subject.name == "scripted/scripted"
    assert [each.phase for each in record.compute] == ["gather", "fit"]
    # Nobody knows the sizes of a script: what it drew is not counted, and no zero.
    assert record.compute[0].tokens > 0
    assert record.compute[0].flops is None
    why = record.compute[0].uncounted
    assert why
    assert f"gather: operations are not counted ({why})" in record.warnings
    assert "not counted" in (folder.path / "report.html").read_text()
    assert (record.panel, place.measured) == (None, [])
    assert kept(folder) == 4
    assert len(folder.read_examples()) == 6
    names = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*.md")}
    assert names == {"adapter/README.md", "data/README.md"}
    assert (folder.path / "report.html").exists()
    assert record.warnings[0] == (
        "one training with one seed (0): a claim about the method needs 3 or more"
    )


def test_the_record_comes_back_as_it_was_also_where_the_folder_was_moved(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    made = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=2))
    assert plain(TrainFolder.load(made.path)) == plain(made)
    moved = made.path.rename(tmp_path / "moved")
    record = TrainFolder.load(moved).record
    assert record.fitted is not None
    assert record.fitted.adapter == moved / "adapter"
    assert str(tmp_path / "t") not in json.dumps(
        json.loads((moved / "train.json").read_text())["fitted"]
    )


def test_the_panel_measures_before_on_the_way_and_after(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=2, alpha=0.0001))
    panel = folder.record.panel
    assert panel is not None
    assert [look.step for look in panel.looks] == [0, 2, 4]
    assert panel.planned == 2  # 6 examples are a step of 8, three times: at the most 3 steps
    assert place.measured[:2] == ["selection-base", "final-before"]
    assert place.measured[-1].startswith("final-after-")
    asr = [look.rates["asr"].estimate.value for look in panel.looks]  # type: ignore[union-attr]
    assert asr[0] == 1.0
    assert asr[0] > asr[1] > asr[2]
    assert panel.looks[0].rises == {}
    assert panel.looks[2].rises["asr"].value == pytest.approx(asr[2] - asr[0])
    by_key = {change.key: change for change in panel.final}
    assert by_key["asr_nonrefusal"].before is not None
    assert by_key["asr_nonrefusal"].before.value == 1.0
    assert by_key["asr_nonrefusal"].difference is not None
    assert by_key["asr_nonrefusal"].difference.method == "paired by prompt, n=8 (tango)"
    assert by_key["asr_nonrefusal"].difference.value < 0
    assert not (folder.panel / "adapters").exists()


def test_no_prompt_of_the_panel_may_be_trained_on(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    recipe = toy_recipe(**FAST, steps=2)
    train_toy(place, tmp_path / "t", shown, recipe)
    halves = halves_of(recipe, benchmarks_of(recipe, place.registry))
    assert set(place.toy.evaluated) == set(halves.prompts)
    assert len(place.toy.evaluated) == 32


# -- which checkpoint it keeps


def test_a_checkpoint_that_refuses_too_much_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, tmp_path: Path
) -> None:
    shares = {0: (0.0, 0.0), 1: (0.2, 0.0), 2: (0.5, 0.0), 3: (0.9, 1.0)}
    place = place_for(monkeypatch, Toy(3), lambda step, call: refusing(*shares[step], call))
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=1, alpha=0.0))
    panel, fitted = folder.record.panel, folder.record.fitted
    assert panel is not None
    assert fitted is not None
    assert panel.looks[3].rises["orr"].value == 1.0
    assert (panel.chosen, fitted.step, kept(folder)) == (2, 2, 2)
    assert len(fitted.log) == 3


def test_a_training_stops_where_over_refusal_rises_and_keeps_what_came_before(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, tmp_path: Path
) -> None:
    place = place_for(
        monkeypatch, Toy(steps=9), lambda step, call: refusing(0, 0 if step < 3 else 1, call)
    )
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=1))
    panel, fitted = folder.record.panel, folder.record.fitted
    assert panel is not None
    assert fitted is not None
    assert [look.step for look in panel.looks] == [0, 1, 2, 3]
    assert fitted.stopped.startswith("over-refusal rose by 100.0 percentage points")
    assert kept(folder) == panel.chosen == 1
    assert any(
        each.startswith("stopped early: over-refusal rose") for each in folder.record.warnings
    )


def test_a_last_step_between_two_looks_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch, shown: Shown, tmp_path: Path
) -> None:
    place = place_for(monkeypatch, Toy(steps=5))
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=2, alpha=0.0))
    assert folder.record.panel is not None
    assert [look.step for look in folder.record.panel.looks] == [0, 2, 4, 5]


def test_a_look_that_fails_stops_nothing_and_is_said(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    def fail(name: str) -> None:
        if name.startswith("selection-000002"):
            raise TrainingError("no memory")

    place.fail = fail
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=2, alpha=0.0))
    panel = folder.record.panel
    assert panel is not None
    assert panel.looks[1].note == "no look: no memory"
    assert (panel.looks[1].rates, panel.chosen) == ({}, 4)
    assert "step 2: no look: no memory" in folder.record.warnings


def test_a_look_that_failed_once_is_taken_before_the_choice(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    failures = ["the judge is away"]

    def fail(name: str) -> None:
        if name.startswith("selection-000002") and failures:
            raise TrainingError(failures.pop())

    place.fail = fail
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe(**FAST, steps=2, alpha=0.0))
    panel = folder.record.panel
    assert panel is not None
    assert [look.step for look in panel.looks] == [0, 2, 4]
    assert all(look.rates for look in panel.looks)
    assert "step 2: no look: the judge is away" in shown.remarks
    assert not any("no look" in warning for warning in folder.record.warnings)


def test_draws_of_the_training_do_not_depend_on_looks(place: Place, tmp_path: Path) -> None:
    import torch

    from tseval.train.panel_runs import _unmoved_draws

    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with _unmoved_draws():
        torch.rand(100)
    assert torch.equal(torch.rand(3), wanted)


# -- where it goes on


def test_a_training_that_is_complete_does_nothing_again(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    recipe = toy_recipe(**FAST, steps=2, alpha=0.0)
    first = plain(train_toy(place, tmp_path / "t", shown, recipe))
    place.measured.clear()
    again = plain(train_toy(place, tmp_path / "t", shown, recipe))
    assert (place.toy.gathers, place.toy.fits, place.measured) == (1, 1, [])
    assert again == first


def test_an_interrupted_gathering_goes_on_where_it_was(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    def interrupt(where: str) -> None:
        if where == "gather" and place.drawn.calls == 3:
            raise KeyboardInterrupt

    place.toy.break_at = interrupt
    with pytest.raises(KeyboardInterrupt):
        train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert TrainFolder.load(tmp_path / "t").record.status == "interrupted"
    place.toy.break_at = lambda where: None
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert (folder.record.status, place.drawn.calls) == ("complete", 6)
    assert RunFolder.load(folder.synthesis).manifest.status == "complete"
    whole = train_toy(place, tmp_path / "whole", shown, toy_recipe())
    assert tokens_gathered(folder) == tokens_gathered(whole) > 0


def tokens_gathered(folder: TrainFolder) -> int:
    """Tokens that were drawn for a training, by its record."""
    return next(each.tokens for each in folder.record.compute if each.phase == "gather")


@pytest.mark.parametrize("error", [KeyboardInterrupt, TrainingError, ZeroDivisionError])
def test_a_fit_that_ends_early_goes_on_without_gathering_or_looking_again(
    place: Place, shown: Shown, tmp_path: Path, error: type[BaseException]
) -> None:
    def break_at(where: str) -> None:
        if where == "step 3":
            raise error("x")

    place.toy.break_at = break_at
    recipe = toy_recipe(**FAST, steps=2, alpha=0.0)
    with pytest.raises(error):
        train_toy(place, tmp_path / "t", shown, recipe)
    status = "interrupted" if error is KeyboardInterrupt else "failed"
    assert TrainFolder.load(tmp_path / "t").record.status == status
    place.toy.break_at = lambda where: None
    folder = train_toy(place, tmp_path / "t", shown, recipe)
    assert (place.toy.gathers, place.toy.fits) == (1, 2)
    assert look_names(place) == ["selection-000002", "selection-000004"]
    assert folder.record.status == "complete"


def test_a_panel_that_fails_at_the_end_goes_on_without_fitting_again(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    def fail(name: str) -> None:
        if name.startswith("final-after"):
            raise RequestFailed("gone")

    place.fail = fail
    recipe = toy_recipe(**FAST)
    with pytest.raises(RequestFailed):
        train_toy(place, tmp_path / "t", shown, recipe)
    place.fail = lambda name: None
    folder = train_toy(place, tmp_path / "t", shown, recipe)
    assert (place.toy.fits, folder.record.status) == (1, "complete")
    assert place.measured.count("final-before") == 1


def test_another_recipe_needs_another_folder(place: Place, shown: Shown, tmp_path: Path) -> None:
    train_toy(place, tmp_path / "t", shown, toy_recipe())
    with pytest.raises(ConfigError) as caught:
        train_toy(place, tmp_path / "t", shown, toy_recipe(draws=2))
    assert "holds a training of another recipe (differs in draws)" in caught.value.message
    with pytest.raises(ConfigError, match="holds a training already"):
        train_toy(place, tmp_path / "t", shown, toy_recipe(), fresh=True)


def test_a_fit_goes_on_with_another_limit_of_memory(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    def out_of_memory(where: str) -> None:
        if where == "step 2":
            raise TrainingError("memory ran out")

    place.toy.break_at = out_of_memory
    with pytest.raises(TrainingError):
        train_toy(place, tmp_path / "t", shown, toy_recipe())
    place.toy.break_at = lambda where: None
    smaller = toy_recipe(fit=Fit(micro_tokens=128, micro_batch=1, save_steps=5))
    folder = train_toy(place, tmp_path / "t", shown, smaller)
    # The trainer was handed them, and the record says what it was fitted with.
    assert (place.toy.micro_tokens, folder.record.recipe.fit.micro_tokens) == (128, 128)
    again = train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert again.record.recipe.fit.micro_tokens == 128


def test_a_model_that_was_swapped_under_its_name_is_refused(
    place: Place, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_at(where: str) -> None:
        if where == "fit":
            raise TrainingError("x")

    place.toy.break_at = break_at
    with pytest.raises(TrainingError):
        train_toy(place, tmp_path / "t", shown, toy_recipe())
    place.toy.break_at = lambda where: None
    monkeypatch.setattr(weights, "identity_of", lambda spec, report: {"script": "another"})
    with pytest.raises(ConfigError, match=r"not the one that this training began with \(script\)"):
        train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert place.toy.fits == 1


def test_a_recipe_that_never_drew_an_answer_blocks_no_folder(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--eval-suite first_token"):
        train_toy(place, tmp_path / "t", shown, toy_recipe(suites=("first_token",)))
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert folder.record.status == "complete"


# -- what cannot be meant


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (toy_recipe(options={"color": "red"}), "toy has no option -T color"),
        (toy_recipe(teacher=("x.jsonl",)), "toy takes no --teacher"),
        (toy_recipe(rule="best"), "--keep is 'best'"),
        (structs.replace(toy_recipe(), fit=Fit(kl=1.0)), "toy does not read --kl"),
        (
            structs.replace(toy_recipe(), sampling=Sampling(top_k=5, temperature=0.6, top_p=0.95)),
            "toy does not read --top-k",
        ),
        (toy_recipe(suites=("quick",), judges=("nosuch",)), "unknown judge 'nosuch'"),
    ],
)
def test_a_wrong_recipe_is_said_before_anything_is_made(
    place: Place, shown: Shown, tmp_path: Path, recipe: Recipe, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train_toy(place, tmp_path / "t", shown, recipe)
    assert not (tmp_path / "t").exists()


def test_a_trainer_of_finished_answers_needs_some(
    place: Place, shown: Shown, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(toy_recipe(), method="sft")
    with pytest.raises(ConfigError, match="sft learns from a teacher's answers, and none are"):
        train_toy(place, tmp_path / "t", shown, recipe)


def test_an_unknown_trainer_is_said(place: Place, shown: Shown, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(toy_recipe(), method="thinksave")
    with pytest.raises(UnknownName, match="did you mean 'thinksafe'"):
        train_toy(place, tmp_path / "t", shown, recipe)


def test_missing_libraries_are_said_before_an_answer_is_drawn(
    place: Place, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(TrainingError) as caught:
        train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert caught.value.message == "training needs the package 'trl'"
    assert caught.value.hint == "pip install 'tseval[train]'"
    assert place.drawn.calls == 0


# -- several processes


def test_a_second_process_does_not_fit_what_is_fitted(
    place: Place, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe())
    folder.record.status = "fitting"  # as while the panel is asked a last time
    folder.save()
    monkeypatch.setenv("RANK", "1")
    found = train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert place.toy.fits == 1
    assert found.record.fitted is not None


def test_a_second_process_fits_what_the_first_one_gathered(
    place: Place, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_toy(place, tmp_path / "t", shown, toy_recipe())
    folder.record.status, folder.record.fitted = "fitting", None
    folder.save()
    monkeypatch.setenv("RANK", "1")
    before = (folder.path / "train.json").read_bytes()
    train_toy(place, tmp_path / "t", shown, toy_recipe())
    assert (place.toy.gathers, place.toy.fits) == (1, 2)
    assert (folder.path / "train.json").read_bytes() == before


def test_a_second_process_saves_where_the_first_one_looks(
    place: Place, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy_recipe(**FAST, steps=2, alpha=0.0)
    folder = train_toy(place, tmp_path / "t", shown, recipe)
    folder.record.status, folder.record.fitted = "fitting", None
    folder.save()
    place.measured.clear()
    assert place.toy.looked == [2, 4]
    monkeypatch.setenv("RANK", "1")
    train_toy(place, tmp_path / "t", shown, recipe)
    assert place.toy.looked == [2, 4, 2, 4]
    assert place.measured == []
