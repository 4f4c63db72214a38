"""Three steps of GRPO on the demo model."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.panel_judges import Quiet, registry_with
from tests.support.sessions import finish, session_on
from tseval.models.demo import demo_folder
from tseval.models.hf.load import resolve
from tseval.requests import ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.testing import ScriptedBackend
from tseval.train.job import Job, TrainFolder
from tseval.train.records import Fit, Gathered, Recipe, TrainRecord
from tseval.types import Verdict

pytestmark = [pytest.mark.model, pytest.mark.slow]


class Lengths:
    """A guard that is surer the longer an answer is: rewards differ within every group."""

    card = JudgeCard(name="lengths", version="1", labels=("harmful",))

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        chance = 1 / (1 + len(case.text) / 100)
        return Verdict(harmful=chance > 0.5, details={"p_unsafe": f"{chance:.4f}"})


def test_three_steps_draw_reward_and_move_the_adapter(tmp_path: Path) -> None:
    recipe = Recipe(
        method="grpo",
        model=ModelSpec(backend="demo", options={"device": "cpu"}),
        harmful=("quick_harmful",),
        benign=("quick_benign",),
        max_harmful=4,
        max_benign=2,
        judges=("lengths",),
        fit=Fit(batch=1, max_steps=3, learning_rate=1e-4),
        options={"generations": "4", "completion-tokens": "16", "temperature": "1"},
    )
    known, _ = registry_with(Lengths())
    folder = TrainFolder(tmp_path, TrainRecord(recipe=recipe, recipe_hash=recipe.hash))
    job = Job(folder, known, Quiet())
    trainer = known.trainers["grpo"]

    async def gather() -> Gathered:
        async with session_on(tmp_path / "synthesis", ScriptedBackend()) as session:
            return await trainer.gather(session, job)

    gathered = finish(gather())
    assert gathered.prompts == {"harmful": 4, "benign": 2}
    assert all(example.answer == "" for example in gathered.examples)
    fitted = trainer.fit(gathered, job)
    assert [log.step for log in fitted.log] == [1, 2, 3]
    for log in fitted.log:
        assert 0.0 < log.more["reward_safety"] < 1.0
        assert log.more["reward_std"] > 0.0
        assert log.more["lost"] == 0
        # The demo model has no thinking format, so nothing is said of one.
        assert "reward_format" not in log.more
        # Four completions of at most 16 tokens.
        assert 4 <= log.labelled <= 4 * 16
    assert fitted.compute.flops > 0
    weights = load_file(fitted.adapter / "adapter_model.safetensors")
    late = [value for name, value in weights.items() if "lora_B" in name]
    assert late
    assert all(float(value.abs().max()) > 0 for value in late)
    found = resolve(ModelSpec(backend="hf", name=str(fitted.adapter)))
    assert found.base.place == str(demo_folder(lambda phrase, share: None))
    assert found.adapter is not None
