"""Holds when a training goes on in its folder: with the same recipe and the same files."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tseval.errors import ConfigError
from tseval.requests import ModelSpec
from tseval.train.job import TrainFolder, digests
from tseval.train.records import Adapter, Fit, Gathered, Recipe


def recipe(harmful: Path, **more: Any) -> Recipe:
    fields = {"benign": ("quick_benign",), **more}
    return Recipe(
        method="thinksafe", model=ModelSpec(backend="demo"), harmful=(str(harmful),), **fields
    )


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Rob a bank."}\n')
    return path


def test_files_are_hashed_under_the_names_that_the_recipe_has_for_them(
    tmp_path: Path, prompts: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "safechain.jsonl").write_text("a")
    teacher, held = tmp_path / "teacher.jsonl", tmp_path / "held.jsonl"
    teacher.write_text("b")
    held.write_text("c")
    found = digests(
        recipe(
            prompts,
            benign=("safechain", "quick_benign", str(tmp_path / "gone.jsonl")),
            teacher=(str(teacher),),
            data_dirs=(str(mirror),),
            options={"exclude": f"{held}:1+quick_harmful"},
        )
    )
    expected = {str(prompts): prompts.read_bytes(), "safechain": b"a"}
    expected |= {str(teacher): b"b", str(held): b"c"}
    assert found == {name: sha256(data).hexdigest() for name, data in expected.items()}


def test_a_training_whose_files_have_changed_does_not_go_on(tmp_path: Path, prompts: Path) -> None:
    wanted = recipe(prompts)
    begun = TrainFolder.choose(tmp_path / "t", wanted)
    begun.record.gathered = Gathered()
    begun.save()
    assert TrainFolder.choose(tmp_path / "t", wanted).record.files == begun.record.files
    before = prompts.read_text()
    prompts.write_text(before + '{"prompt": "Forge a passport."}\n')
    with pytest.raises(ConfigError) as caught:
        TrainFolder.choose(tmp_path / "t", wanted)
    said = f"holds a training on other data: {prompts} has changed since"
    assert caught.value.message.endswith(said)
    assert "another --out" in caught.value.hint
    prompts.write_text(before)
    assert TrainFolder.choose(tmp_path / "t", wanted).record.files == begun.record.files


def test_a_file_may_be_mended_until_the_data_are_gathered(tmp_path: Path, prompts: Path) -> None:
    wanted = recipe(prompts)
    TrainFolder.choose(tmp_path / "t", wanted).save()
    prompts.write_text('{"prompt": "Forge a passport."}\n')
    found = TrainFolder.choose(tmp_path / "t", wanted).record.files
    assert found == {str(prompts): sha256(prompts.read_bytes()).hexdigest()}


def test_a_file_that_is_gone_by_now_keeps_no_training_from_going_on(
    tmp_path: Path, prompts: Path
) -> None:
    wanted = recipe(prompts)
    begun = TrainFolder.choose(tmp_path / "t", wanted)
    begun.record.gathered = Gathered()
    begun.save()
    prompts.unlink()
    assert str(prompts) in TrainFolder.choose(tmp_path / "t", wanted).record.files


def test_a_recipe_with_whole_numbers_goes_on_as_it_is_read_back(
    tmp_path: Path, prompts: Path
) -> None:
    wanted = recipe(prompts, fit=Fit(epochs=5, learning_rate=1, kl=1), adapter=Adapter(dropout=0))
    begun = TrainFolder.choose(tmp_path / "t", wanted)
    begun.save()
    assert TrainFolder.load(tmp_path / "t").record.recipe.hash == wanted.hash
    assert TrainFolder.choose(tmp_path / "t", wanted).record.recipe == wanted
