"""Several seeds: a training each, and one table of what they agree on."""

from pathlib import Path

import pytest

from tests.support.measured import estimate
from tests.support.toy_trainer import Toy, place_for, toy_recipe
from tests.unit.test_train_output import record
from tests.unit.test_train_panel import Quiet
from tseval.before_after import Change
from tseval.report.judges import markdown_page
from tseval.requests import ModelSpec
from tseval.train.job import TrainFolder
from tseval.train.looks import PanelRecord
from tseval.train.records import Recipe
from tseval.train.seeds import across, seeds_page, train_seeds


def folder(seed: int, *changes: float | None) -> TrainFolder:
    """A training whose first, second ... number changed by so much."""
    final = tuple(
        Change(
            key="orr",
            title=f"set{number}, orr",
            unit="share",
            higher_is_better=False,
            axis="orr",
            difference=None if each is None else estimate(each, each - 0.1, each + 0.1),
        )
        for number, each in enumerate(changes)
    )
    recipe = Recipe(method="toy", model=ModelSpec(backend="hf", name="b"), seed=seed)
    panel = PanelRecord(final=final) if changes else None
    return TrainFolder(Path(f"seed-{seed}"), record(recipe=recipe, panel=panel))


def test_the_mean_over_seeds_has_students_interval_by_hand() -> None:
    # -0.4, -0.5, -0.3: mean -0.4, standard deviation 0.1, t(2, 0.975) = 4.30265.
    (line,) = across([folder(0, -0.4), folder(1, -0.5), folder(2, -0.3)])
    half = 4.30265273 * 0.1 / 3**0.5
    assert line.changes == {0: -0.4, 1: -0.5, 2: -0.3}
    assert line.mean is not None
    assert (line.mean.value, line.mean.low, line.mean.high) == pytest.approx(
        (-0.4, -0.4 - half, -0.4 + half)
    )


def test_a_number_that_is_undefined_under_one_seed_has_no_mean() -> None:
    first, second = across([folder(0, 0.1, 0.2), folder(1, 0.1, None)])
    assert first.mean is not None
    assert (second.mean, second.changes) == (None, {0: 0.2, 1: None})


def test_fewer_than_three_seeds_say_so() -> None:
    page = seeds_page([folder(0, 0.1), folder(1, 0.3)])
    text = markdown_page(page)
    assert "2 seeds: a claim about the method needs 3 or more" in text
    assert "+10.0 pp" in text
    assert "+20.0 pp" in text
    assert "needs 3" not in markdown_page(seeds_page([folder(n, 0.1) for n in range(3)]))


def test_trainings_without_a_panel_have_nothing_to_compare() -> None:
    page = seeds_page([folder(0), folder(1)])
    assert page.sections == []
    assert page.notes == [
        "nothing was measured: --eval-suite names what to measure before and after"
    ]


def test_each_seed_is_a_training_of_its_own_and_is_not_made_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = place_for(monkeypatch, Toy())
    more = {"out": tmp_path, "backend": place.drawn}
    made = train_seeds(toy_recipe(seed=3), 2, place.registry, Quiet(), **more)
    assert [each.path.name for each in made] == ["seed-3", "seed-4"]
    assert [each.record.recipe.fit.seed for each in made] == [3, 4]
    assert [each.record.recipe.seed for each in made] == [3, 4]
    again = train_seeds(toy_recipe(seed=3), 3, place.registry, Quiet(), **more)
    assert (len(again), place.toy.fits) == (3, 3)
