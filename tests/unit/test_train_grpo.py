"""GRPO on tiny random models: what is asked, what is rewarded, what moves, what resumes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.panel_judges import Asks, Guard, Quiet, registry_with
from tests.support.sessions import registry
from tests.support.tiny_models import byte_tokenizer, save_tiny
from tseval.errors import ConfigError, TrainingError
from tseval.plugins import Registry
from tseval.requests import ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.train.grpo import Grpo, judges_of, read_settings
from tseval.train.grpo_fit import course, rollouts_a_pass
from tseval.train.job import Job, TrainFolder
from tseval.train.records import Adapter, Example, Fit, Gathered, Recipe, TrainRecord
from tseval.types import Thinking, Verdict

TOKENS = 12
FIT = Fit(batch=2, max_steps=2, learning_rate=1e-2, dtype="float32", save_steps=1)
GATHERED = Gathered(
    examples=tuple(
        Example(
            id=f"{n:x}",
            prompt=f"prompt {n}",
            kind="harmful" if n % 2 else "benign",
            trace="",
            answer="",
            thought=False,
        )
        for n in range(4)
    )
)


class Even:
    """A judge that calls every second letter harmful, so that rewards differ within groups."""

    def __init__(self, *, fails: bool = False) -> None:
        self.card = JudgeCard(name="even", version="1", labels=("harmful",))
        self.cases: list[JudgeCase] = []
        self.fails = fails

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        self.cases.append(case)
        if self.fails:
            return Verdict(reason="unparsed")
        return Verdict(harmful=bool(sum(map(ord, case.text)) % 2))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen3", tmp_path_factory.mktemp("tiny"))


def job_in(folder: Path, model: Path, known: Registry | None = None, **changes: Any) -> Job:
    options = {
        "generations": "4",
        "completion_tokens": str(TOKENS),
        "prompt_tokens": "100",
        "temperature": "1",
        **changes.pop("options", {}),
    }
    fields: dict[str, Any] = {
        "method": "grpo",
        "model": ModelSpec(backend="hf", name=str(model), options={"device": "cpu"}),
        "judges": ("even",),
        "adapter": Adapter(rank=4),
        "fit": FIT,
        "thinking": Thinking(unclosed="exclude"),
        **changes,
    }
    recipe = Recipe(options=options, **fields)
    folder.mkdir(parents=True, exist_ok=True)
    record = TrainRecord(recipe=recipe, recipe_hash=recipe.hash)
    return Job(TrainFolder(folder, record), known or registry_with(Even())[0], Quiet())


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    return found


# -- a fit


def test_a_fit_moves_the_adapter_and_records_what_it_cost(tmp_path: Path, tiny: Path) -> None:
    judge = Even()
    job = job_in(tmp_path, tiny, registry_with(judge)[0])
    fitted = Grpo().fit(GATHERED, job)
    assert fitted.step == 2
    assert fitted.adapter == tmp_path / "adapter"
    # B begins at zero, and moves where rewards differ.
    late = {name: value for name, value in weights_of(fitted.adapter).items() if "lora_B" in name}
    assert late
    assert all(float(value.abs().max()) > 0 for value in late.values())
    named = msgspec.json.decode((fitted.adapter / "adapter_config.json").read_bytes())
    assert named["base_model_name_or_path"] == str(tiny)
    assert [log.step for log in fitted.log] == [1, 2]
    for log in fitted.log:
        assert {"reward", "reward_safety", "kl", "lost", "dropped"} <= set(log.more)
        # Drawn, read by the base model, and trained on.
        assert log.tokens > 3 * log.labelled > 0
    assert fitted.compute.tokens == sum(log.tokens for log in fitted.log)
    assert fitted.compute.flops > 0
    # Two prompts of four completions, twice; equal answers are asked about once.
    assert 0 < len(judge.cases) <= 16
    assert {case.prompt for case in judge.cases} <= {each.prompt for each in GATHERED.examples}


def test_the_prompt_is_read_as_in_an_evaluation(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tseval.train import grpo_fit

    seen: list[Any] = []
    made = grpo_fit.make_trainer

    def spied(*given: Any) -> Any:
        trainer = made(*given)
        tokenize = trainer._tokenize_prompts

        def recorded(prompts: list[str]) -> Any:
            found = tokenize(prompts)
            seen.append((prompts, found[0]))
            return found

        trainer._tokenize_prompts = recorded
        return trainer

    monkeypatch.setattr(grpo_fit, "make_trainer", spied)
    job = job_in(tmp_path, tiny, thinking=Thinking(mode="forced", unclosed="exclude"))
    Grpo().fit(GATHERED, job)
    # The template writes the beginning of a text itself, and tseval the opener behind it.
    decode = byte_tokenizer().decode
    for prompts, rendered in seen:
        for prompt, ids in zip(prompts, rendered, strict=True):
            asked = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n"
            assert decode(ids, skip_special_tokens=False) == asked
    # Groups stand together, and all completions of a step are asked for at once.
    assert [prompts[::4] for prompts, _ in seen] == [list(dict.fromkeys(p)) for p, _ in seen]
    assert all(len(prompts) == 8 for prompts, _ in seen)


def test_a_killed_fit_goes_on_from_its_checkpoint(tmp_path: Path, tiny: Path) -> None:
    whole = Grpo().fit(GATHERED, job_in(tmp_path / "whole", tiny))

    class Killed(Exception):
        pass

    def kill(step: int, adapter: Path) -> str:
        raise Killed

    job = job_in(tmp_path / "cut", tiny)
    job.look, job.look_steps = kill, 1
    with pytest.raises(Killed):
        Grpo().fit(GATHERED, job)
    looked: list[int] = []

    def look(step: int, adapter: Path) -> str:
        looked.append(step)
        return ""

    again = job_in(tmp_path / "cut", tiny)
    again.look, again.look_steps = look, 1
    resumed = Grpo().fit(GATHERED, again)
    assert looked == [1, 2]
    assert [log.step for log in resumed.log] == [1, 2]
    ours, theirs = weights_of(resumed.adapter), weights_of(whole.adapter)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-6


def test_a_look_can_end_the_fit(tmp_path: Path, tiny: Path) -> None:
    job = job_in(tmp_path, tiny)
    job.look, job.look_steps = lambda step, adapter: "over-refusal rose", 1
    fitted = Grpo().fit(GATHERED, job)
    assert (fitted.step, fitted.stopped) == (1, "over-refusal rose")


# -- rewards that cannot be had


def test_a_judge_that_fails_ends_the_training_instead_of_rewarding_nothing(
    tmp_path: Path, tiny: Path
) -> None:
    job = job_in(tmp_path, tiny, registry_with(Even(fails=True))[0])
    with pytest.raises(TrainingError, match=r"8 of 8 completions .* \(8 unparsed\)"):
        Grpo().fit(GATHERED, job)


def test_a_guard_that_is_down_ends_the_training(tmp_path: Path, tiny: Path) -> None:
    guard = Guard()
    guard.down = True
    known, _ = registry_with(Asks("asks", "guards/one", labels=("harmful",)), one=guard)
    with pytest.raises(TrainingError, match=r"completions .* error"):
        Grpo().fit(GATHERED, job_in(tmp_path, tiny, known, judges=("asks",)))


# -- the deliberation reward


def test_deliberation_is_replayed_by_the_policy_and_logged(tmp_path: Path, tiny: Path) -> None:
    options = {
        "deliberation": "1",
        "replays": "2",
        "replay_tokens": "4",
        "outcome": "refusal-rules",
    }
    job = job_in(
        tmp_path,
        tiny,
        options=options,
        thinking=Thinking(mode="forced", unclosed="exclude"),
        fit=msgspec.structs.replace(FIT, max_steps=1),
    )
    fitted = Grpo().fit(GATHERED, job)
    # A random model never closes its trace: there is nothing to replay, and nothing to gain.
    assert fitted.log[0].more["reward_deliberation"] == 0.0
    assert fitted.log[0].more["reward_format"] == 0.0
    assert fitted.log[0].more["reward_safety"] == 0.0


# -- what is laid out


def test_every_step_has_its_prompts_also_where_there_are_fewer_of_them() -> None:
    plan = course(3, Fit(batch=8, epochs=1.0))
    assert [len(step) for step in plan.steps] == [8]
    assert set(plan.steps[0]) == {0, 1, 2}
    plan = course(10, Fit(batch=4, epochs=1.0))
    assert [len(step) for step in plan.steps] == [4, 4, 4]
    # No prompt comes a third time before every one has come once.
    assert sorted(place for step in plan.steps for place in step)[:1] == [0]
    assert {place for step in plan.steps for place in step} == set(range(10))
    assert len(course(10, Fit(batch=4, epochs=9.0, max_steps=2)).steps) == 2


def test_a_pass_takes_as_many_completions_as_fit_and_divides_a_step() -> None:
    settings = read_settings(Recipe(method="grpo", model=ModelSpec(backend="hf")))
    small = msgspec.structs.replace(settings, completion_tokens=900)
    fit = Fit(batch=8, micro_tokens=4096)
    # 4096 tokens hold four completions of 1000; 64 are wanted.
    assert rollouts_a_pass(fit, small, 100, 1) == 4
    assert rollouts_a_pass(fit, settings, 100, 1) == 1
    assert rollouts_a_pass(msgspec.structs.replace(fit, micro_batch=7), small, 100, 1) == 4
    assert rollouts_a_pass(msgspec.structs.replace(fit, micro_batch=99), small, 100, 2) == 32
    with pytest.raises(ConfigError, match="8 prompts a step cannot be shared by 3 processes"):
        rollouts_a_pass(fit, settings, 100, 3)


# -- options


def recipe_with(options: dict[str, str], **more: Any) -> Recipe:
    return Recipe(method="grpo", model=ModelSpec(backend="hf"), options=options, **more)


def test_defaults_are_the_papers() -> None:
    settings = read_settings(recipe_with({}))
    assert (settings.generations, settings.temperature) == (8, 0.7)
    assert (settings.beta, settings.epsilon) == (0.04, 0.2)
    assert (settings.prompt_tokens, settings.completion_tokens) == (1024, 16384)
    weights = settings.weights
    assert (weights.safety, weights.format) == (1.0, 1.0)
    assert (weights.deliberation, weights.over_refusal) == (0.0, 0.0)


def test_deliberation_brings_its_term_against_over_refusal() -> None:
    assert read_settings(recipe_with({"deliberation": "2"})).weights.over_refusal == 1.0
    told = read_settings(recipe_with({"deliberation": "2", "over_refusal": "0"}))
    assert told.weights.over_refusal == 0.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generation": "4"}, "no option -T generation"),
        ({"generations": "one"}, "options of grpo"),
        ({"generations": "1"}, "generations=1 is less than 2"),
        ({"temperature": "0"}, "draws the same completion"),
        ({"beta": "-1"}, "beta=-1 is negative"),
    ],
)
def test_options_that_cannot_be_meant_are_named(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings(recipe_with(options))


def test_weights_for_finished_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="grpo draws its own"):
        read_settings(recipe_with({}, select="deliberative"))


def test_judges_are_checked_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rewarded by a judge"):
        judges_of(job_in(tmp_path, tmp_path, judges=()))
    with pytest.raises(ConfigError, match="says nothing about refusals"):
        judges_of(job_in(tmp_path, tmp_path, options={"deliberation": "1", "outcome": "even"}))
    plain = judges_of(job_in(tmp_path, tmp_path))
    assert plain == (("even",), "")
    both = judges_of(job_in(tmp_path, tmp_path, options={"deliberation": "1"}))
    assert both == (("even",), "refusal-rules")


def test_the_trainer_is_registered() -> None:
    assert registry().trainers["grpo"].card.name == "grpo"
