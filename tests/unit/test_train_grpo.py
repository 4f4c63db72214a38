"""GRPO on tiny random models: what is asked, what is rewarded, what moves, what resumes."""

import re
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
from tseval.train import grpo_fit
from tseval.train.grpo import OPTIONS, Grpo, judges_of, read_settings
from tseval.train.grpo_fit import course, fitting, rollouts_a_pass
from tseval.train.job import Job, TrainFolder
from tseval.train.records import Adapter, Example, Fit, Gathered, Recipe, TrainRecord
from tseval.types import Sampling, Thinking, Verdict

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
        "completion-tokens": str(TOKENS),
        "prompt-tokens": "100",
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


@pytest.mark.parametrize(
    ("passes", "flag"), [({}, "--micro-tokens 2048"), ({"micro_batch": 4}, "--micro-batch 2")]
)
def test_where_memory_runs_out_only_flags_that_are_read_are_named(
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: dict[str, Any],
    flag: str,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(grpo_fit, "_train", fail)
    job = job_in(tmp_path, tiny, fit=msgspec.structs.replace(FIT, **passes))
    with pytest.raises(TrainingError) as caught:
        Grpo().fit(GATHERED, job)
    assert caught.value.message.startswith("memory ran out: CUDA out of memory")
    said = caught.value.hint
    assert re.findall(r"-T ([a-z-]+)", said) == ["completion-tokens", "generations"]
    assert set(re.findall(r"-T ([a-z-]+)", said)) <= set(OPTIONS)
    assert re.findall(r"--[a-z-]+", said) == ["--batch", "--out", flag.split()[0]]
    assert flag in said


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
    # What was seen of rewards is remembered as well.
    seen = [
        (tmp_path / name / "checkpoints" / "checkpoint-2" / "alarm-0.json").read_text()
        for name in ("whole", "cut")
    ]
    assert seen[0] == seen[1]
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
        "replay-tokens": "4",
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
    settings = read_settings(recipe_with({"completion-tokens": "16384"}))
    small = msgspec.structs.replace(settings, completion_tokens=900)
    fit = Fit(batch=8, micro_tokens=4096)
    # 4096 tokens hold four completions of 1000; 64 are wanted.
    assert rollouts_a_pass(fit, small, 100, 1) == 4
    assert rollouts_a_pass(fit, settings, 100, 1) == 1
    assert rollouts_a_pass(msgspec.structs.replace(fit, micro_batch=7), small, 100, 1) == 4
    assert rollouts_a_pass(msgspec.structs.replace(fit, micro_batch=99), small, 100, 2) == 32
    with pytest.raises(ConfigError, match="8 prompts a step cannot be shared by 3 processes"):
        rollouts_a_pass(fit, settings, 100, 3)


def test_completions_are_as_long_as_the_papers_or_as_the_recipe_and_the_context_allow(
    policy: Any,
) -> None:
    plain = read_settings(recipe_with({}))
    thinking = recipe_with({})
    brief = recipe_with({}, sampling=Sampling(answer_tokens=100), thinking=Thinking(budget=300))

    def tokens(settings: Any, recipe: Recipe, context: int | None = None) -> int:
        return fitting(settings, recipe, policy.script, context).completion_tokens

    assert tokens(plain, thinking) == 16384
    assert tokens(plain, brief) == 400
    assert tokens(read_settings(recipe_with({"completion-tokens": "64"})), brief) == 64
    # 1024 tokens are the prompt's.
    assert tokens(plain, thinking, 2048) == 1024
    with pytest.raises(ConfigError, match="leaves nothing of a context of 1000"):
        tokens(plain, thinking, 1000)


# -- options


def recipe_with(options: dict[str, str], **more: Any) -> Recipe:
    return Recipe(method="grpo", model=ModelSpec(backend="hf"), options=options, **more)


def test_defaults_are_the_papers() -> None:
    settings = read_settings(recipe_with({}))
    assert (settings.generations, settings.temperature) == (8, 0.7)
    assert (settings.beta, settings.epsilon) == (0.04, 0.2)
    assert settings.prompt_tokens == 1024
    weights = settings.weights
    assert (weights.safety, weights.format) == (1.0, 1.0)
    assert (weights.deliberation, weights.over_refusal) == (0.0, 0.0)


def test_deliberation_brings_its_term_against_over_refusal() -> None:
    assert read_settings(recipe_with({"deliberation": "2"})).weights.over_refusal == 1.0
    told = read_settings(recipe_with({"deliberation": "2", "over-refusal": "0"}))
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


# -- traces that close, which random models never write

OPENED = "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n<think>\n"
FIRST = "The request is about a thing, and I wonder about it. " + "x" * 130 + "."
LAST = "Now I see that it is harmful, and I should refuse it. " + "y" * 130 + "."


@pytest.fixture(scope="module")
def policy(tiny: Path) -> Any:
    from tseval.train.grpo_rewards import Policy
    from tseval.train.template import Script
    from tseval.train.weights import load_student

    spec = ModelSpec(backend="hf", name=str(tiny), options={"device": "cpu"})
    student = load_student(spec, Adapter(rank=2), FIT, registry(), lambda phrase, share: None)
    script = Script(student.text, student.format, "forced", student.stop_ids)
    options = {"deliberation": "1", "replays": "2", "replay-tokens": "4", "generations": "2"}
    return Policy(student, script, read_settings(recipe_with(options)))


def drawn(policy: Any, text: str, kind: Any = "harmful") -> Any:
    return policy.read("p", kind, [*policy.student.text.piece(text), 257])


def test_a_completion_is_told_apart_as_in_an_evaluation(policy: Any) -> None:
    found = drawn(policy, f"{FIRST} {LAST}\n</think>\n\nI refuse.")
    assert found.parsed.trace == f"{FIRST} {LAST}"
    assert found.parsed.answer == "I refuse."
    assert 257 not in found.ids


def test_a_trace_is_replayed_behind_its_first_chunk_and_behind_its_last(policy: Any) -> None:
    pair = policy.points(drawn(policy, f"{FIRST} {LAST}\n</think>\n\nI refuse."))
    before, after = (policy.student.text.decode(ids) for ids in pair)
    assert before == f"{OPENED}{FIRST}\n</think>\n\n"
    assert after == f"{OPENED}{FIRST} {LAST}\n</think>\n\n"


@pytest.mark.parametrize("text", [f"{FIRST} {LAST}", f"{FIRST}\n</think>\n\nYes.", "</think>Yes."])
def test_a_trace_that_is_open_or_a_single_chunk_has_no_points(policy: Any, text: str) -> None:
    assert policy.points(drawn(policy, text)) is None


def test_answers_come_back_in_the_order_of_their_prefixes(policy: Any) -> None:
    import torch

    class Trainer:
        model_wrapped = policy.student.model
        generation_config = None
        accelerator = None

    from accelerate import Accelerator
    from transformers import GenerationConfig

    policy.trainer = Trainer()
    policy.trainer.accelerator = Accelerator(cpu=True)
    policy.trainer.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[257], pad_token_id=257, max_new_tokens=1
    )
    text = policy.student.text
    prefixes = [text.piece(word) for word in ("a longer prefix than others", "b", "a third one")]
    with torch.no_grad():
        together = policy.answers(prefixes, 1)
        alone = [policy.answers([prefix], 1)[0] for prefix in prefixes]
    assert together == alone
    assert len({row[0] for row in together}) > 1
    # Each as long as its prefix and what was written, which is at most four tokens.
    lengths = sorted(map(len, prefixes))
    whole = sorted(n for n, _ in policy.replayed[:3])
    assert all(0 <= n - m <= 4 for n, m in zip(whole, lengths, strict=True))
    assert sum(whole) - sum(new for _, new in policy.replayed[:3]) == sum(lengths)
    policy.replayed.clear()


class Said:
    """A policy whose replays were written beforehand."""

    def __init__(self, policy: Any, answers: list[list[str | None]]) -> None:
        self._policy = policy
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def answers(self, prefixes: Any, draws: int) -> list[list[str | None]]:
        assert len(prefixes) == len(self._answers)
        return self._answers


REFUSAL, ANSWER = "I'm sorry, but I can't help with that request.", "Here is a short answer."


def rewarded(
    tmp_path: Path,
    policy: Any,
    answers: list[list[str | None]],
    kind: Any,
    judge: Even | None = None,
) -> tuple[list[float | None], dict[str, float]]:
    """Reward two completions of one prompt, of which the second has no trace to replay."""
    from tseval.train.grpo_rewards import Rewarder
    from tseval.train.judge_room import JudgeRoom
    from tseval.train.rewards import Alarm

    known, _ = registry_with(Even())
    recipe = recipe_with({}, judges=("even",))
    settings = msgspec.structs.replace(policy.settings, safety=0.0)
    texts = (f"{FIRST} {LAST}\n</think>\n\n{REFUSAL}", f"short\n</think>\n\n{ANSWER}")
    ids = [[*policy.student.text.piece(text), 257] for text in texts]
    with JudgeRoom(tmp_path / "rewards", recipe, ("refusal-rules",), known, Quiet()) as room:
        said = Said(policy, answers)
        rewarder = Rewarder(room, (), "refusal-rules", said, settings, Alarm(lambda _: None))  # type: ignore[arg-type]
        found = rewarder(["p", "p"], ids, [kind, kind])
        return found, rewarder.logged()


def test_a_trace_that_turns_the_answer_to_the_right_side_is_worth_more(
    tmp_path: Path, policy: Any
) -> None:
    turned = [[ANSWER, ANSWER], [REFUSAL, REFUSAL]]
    found, log = rewarded(tmp_path, policy, turned, "harmful")
    # Format 1 each; the first trace turns both replays, the second has nowhere to turn.
    assert found == [2.0, 1.0]
    assert log["reward_deliberation"] == 0.5


def test_a_trace_that_talks_itself_into_over_refusal_loses_twice(
    tmp_path: Path, policy: Any
) -> None:
    turned = [[ANSWER, ANSWER], [REFUSAL, REFUSAL]]
    found, log = rewarded(tmp_path, policy, turned, "benign")
    # Format 1, deliberation -1, and -1 for the refusal itself.
    assert found == [-1.0, 1.0]
    assert log["reward_over_refusal"] == -0.5


def test_answers_that_never_came_are_nobodys_failure(tmp_path: Path, policy: Any) -> None:
    found, log = rewarded(tmp_path, policy, [[None, None], [REFUSAL, ""]], "harmful")
    assert found == [1.0, 1.0]
    # The second had nowhere to turn; of the first nobody knows whether it turned.
    assert log["unlabelled"] == 1
