"""TRL's GRPOTrainer with this package's prompts, rewards, checkpoints and looks."""

import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from tseval.errors import ConfigError, TrainingError

from .cost import Meter, Shape, shape_of
from .grpo import Settings, judges_of, read_settings
from .grpo_rewards import Policy, Rewarder
from .job import Job
from .judge_room import JudgeRoom
from .records import Example, Fit, Fitted, Gathered, PromptKind, Recipe
from .rewards import Alarm
from .sft import (
    copy_adapter,
    read_log,
    require_libraries,
    said_plainly,
    smaller_passes,
    teller,
)
from .template import Script
from .together import PATIENCE, processes, rank_of_process
from .watch import Course, Watch, callback, checkpoints, look_again, read_spent, step_of
from .weights import load_student, require_same

# Completions of the paper's baseline.
LONGEST = 16384


class Asked(NamedTuple):
    """A prompt as the model reads it."""

    text: str
    kind: PromptKind
    ids: tuple[int, ...]


def fit(gathered: Gathered, job: Job) -> Fitted:
    """Draw, reward and optimise, going on from the newest checkpoint.

    The judges' models are loaded beside the policy, and their verdicts journalled in ``rewards/``.

    Args:
        gathered: Its examples are prompts.
        job: Recipe and folder; ``job.look`` is called as by ``tseval.train.sft.fit``.

    Returns:
        The adapter, its log, and what it cost. The operations of the judges are not counted.

    Raises:
        TrainingError: Judges fail, rewards are constant, memory or disk ran out.
        ConfigError: An option is wrong.
        BackendError: A model cannot be loaded, or a judge is gone.
    """
    require_libraries()
    recipe, settings = job.recipe, read_settings(job.recipe)
    folder, spent = job.folder.checkpoints, job.folder.checkpoints / "spent.json"
    judges, outcome = judges_of(job)
    with said_plainly(_room(recipe.fit)):
        folder.mkdir(parents=True, exist_ok=True)
        meter = Meter("fit", read_spent(spent))
        student = load_student(
            recipe.model, recipe.adapter, recipe.fit, job.registry, job.display.phase
        )
        require_same(job.folder.record.subject, student.subject.identity)
        script = Script(student.text, student.format, recipe.thinking.mode, student.stop_ids)
        settings = fitting(settings, recipe, script, student.context_length)
        asked, dropped = read_asked(gathered.examples, script, settings)
        plan = course(len(asked), recipe.fit)
        watch = Watch(recipe.fit, plan, meter, spent, teller(job), job.look, job.look_steps)
        every = (*judges, *([outcome] if outcome else []))
        with JudgeRoom(
            job.folder.path / "rewards", recipe, every, job.registry, job.display
        ) as room:
            policy = Policy(student, script, settings)
            alarm = Alarm(job.display.remark)
            rewarder = Rewarder(room, judges, outcome, policy, settings, alarm)
            stopped = _train(asked, policy, rewarder, watch, job)
        last = checkpoints(folder)[-1]
        if rank_of_process() == 0:
            copy_adapter(last, job.folder.adapter)
            watch.note()
    return Fitted(
        adapter=job.folder.adapter,
        step=step_of(last),
        log=read_log(last),
        dropped=dropped,
        compute=meter.read(),
        stopped=stopped,
        notes=alarm.notes,
    )


def _room(fit: Fit) -> str:
    """Say what makes room where memory ran out, in drawing a step's completions or in a pass."""
    return (
        "a lower -T completion-tokens, -T generations or --batch draws less at once, and makes"
        f" another training: give it another --out; {smaller_passes(fit)}, down to one completion"
        " each"
    )


def read_asked(
    examples: Sequence[Example], script: Script, settings: Settings
) -> tuple[list[Asked], dict[str, int]]:
    """Render prompts as for an evaluation; those that are too long are left out and counted.

    Raises:
        TrainingError: None is left.
    """
    asked, dropped = [], 0
    for example in examples:
        ids = tuple(script.prompt_ids(example.prompt))
        if len(ids) > settings.prompt_tokens:
            dropped += 1
            continue
        asked.append(Asked(example.prompt, example.kind, ids))
    if not asked:
        raise TrainingError(
            f"none of {len(examples)} prompts has at most {settings.prompt_tokens} tokens",
            hint="raise -T prompt-tokens",
        )
    return asked, {
        f"prompt longer than {settings.prompt_tokens} tokens": dropped
    } if dropped else {}


def course(prompts: int, fit: Fit) -> Course:
    """Lay out all steps: every step has ``fit.batch`` prompts, the last of a pass from the next.

    TRL would drop a pass's last prompts, and all of them where there are fewer than a step needs.
    """
    import numpy as np

    total = math.ceil(fit.epochs * prompts / fit.batch - 1e-9)
    total = max(1, total if fit.max_steps is None else min(total, fit.max_steps))
    order: list[int] = []
    number = 0
    while len(order) < total * fit.batch:
        order += np.random.default_rng([fit.seed, number]).permutation(prompts).tolist()
        number += 1
    steps = [order[start : start + fit.batch] for start in range(0, total * fit.batch, fit.batch)]
    return Course(steps, math.ceil(prompts / fit.batch))


def rollouts_a_pass(fit: Fit, settings: Settings, longest: int, processes: int) -> int:
    """Completions of a forward pass: as many as fit, and a divisor of those of a step.

    Args:
        fit: The recipe's.
        settings: The options.
        longest: Tokens of the longest prompt.
        processes: That share a step.

    Raises:
        ConfigError: The prompts of a step cannot be shared among the processes.
    """
    if fit.batch % processes:
        raise ConfigError(
            f"{fit.batch} prompts a step cannot be shared by {processes} processes",
            hint=f"--batch {processes * max(1, round(fit.batch / processes))}",
        )
    local = fit.batch // processes * settings.generations
    fits = fit.micro_tokens // (longest + settings.completion_tokens)
    most = max(1, fits if fit.micro_batch is None else fit.micro_batch)
    return max(size for size in range(1, local + 1) if local % size == 0 and size <= most)


def fitting(settings: Settings, recipe: Recipe, script: Script, context: int | None) -> Settings:
    """Say how long completions may be, and leave room for them.

    Args:
        settings: The options.
        recipe: Its lengths are those of completions, unless the options say otherwise.
        script: Knows whether there is a trace.
        context: Tokens that the model can read, or None.

    Raises:
        ConfigError: Nothing is left for a completion.
    """
    start, tokens = script.opening, settings.completion_tokens
    if not tokens:
        thinks = start.format.thinks and not start.closed
        wanted = recipe.sampling.answer_tokens + (recipe.thinking.budget if thinks else 0)
        tokens = min(wanted, LONGEST)
    if context is not None:
        tokens = min(tokens, context - settings.prompt_tokens)
    if tokens < 1:
        raise ConfigError(
            f"-T prompt-tokens={settings.prompt_tokens} leaves nothing of a context of {context}",
            hint="give less",
        )
    return structs.replace(settings, completion_tokens=tokens)


def _train(
    asked: Sequence[Asked], policy: Policy, rewarder: Rewarder, watch: Watch, job: Job
) -> str:
    """Take the steps that are left; say why they ended early, or ''."""
    found = checkpoints(job.folder.checkpoints)
    start = found[-1] if found else None
    done, total = step_of(start) if start else 0, len(watch.course.steps)
    args = _arguments(
        job.recipe.fit,
        policy.settings,
        job.folder.checkpoints,
        total,
        max(len(each.ids) for each in asked),
        on_cpu=policy.student.device == "cpu",
    )
    if start is not None:
        job.display.remark(f"going on from step {done} of {total}")
        stopped = look_again(watch, start)
        if stopped or done >= total:
            return stopped
        rewarder.alarm.load(start / _alarm_file())
    trainer = make_trainer(asked, policy, rewarder, watch, args)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    return watch.stopped


def make_trainer(
    asked: Sequence[Asked], policy: Policy, rewarder: Rewarder, watch: Watch, args: Any
) -> Any:
    """Build TRL's trainer around a policy and what rewards it."""
    from datasets import Dataset

    trl: Any = import_module("trl")
    callbacks: Any = import_module("transformers.trainer_callback")
    student = policy.student
    by_text = {each.text: list(each.ids) for each in asked}
    rows = [asked[place] for step in watch.course.steps for place in step]
    config = student.model.peft_config["default"]
    place, revision = config.base_model_name_or_path, config.revision

    class Stepping(trl.GRPOTrainer):  # type: ignore[misc]
        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            # As they are asked in an evaluation: templates know no opener that tseval puts there.
            return [list(by_text[prompt]) for prompt in prompts], None, {}

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs |= rewarder.logged()
            super().log(logs, start_time)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Leave the card to whoever knows the whole training."""

    model = student.model.unload()
    # Loading leaves the generation config blank, and TRL reads from it what ends a completion.
    model.generation_config.eos_token_id = sorted(student.stop_ids)
    trainer: Any = Stepping(
        model=model,
        reward_funcs=[rewarder],
        args=args,
        train_dataset=Dataset.from_dict(
            {"prompt": [row.text for row in rows], "kind": [row.kind for row in rows]}
        ),
        processing_class=student.text.tokenizer,
        callbacks=[_remembering(rewarder.alarm), callback(watch)],
        peft_config=config,
    )
    trainer.remove_callback(callbacks.PrinterCallback)
    named = trainer.model.peft_config["default"]
    named.base_model_name_or_path, named.revision = place, revision
    policy.trainer = trainer
    shape: Shape = shape_of(trainer.model)
    rewarder.count_with(watch.meter, shape, recomputed=trainer.args.gradient_checkpointing)
    return trainer


def _alarm_file() -> str:
    """Name the file of a checkpoint that holds what this process's alarm has seen."""
    return f"alarm-{rank_of_process()}.json"


def _remembering(alarm: Alarm) -> Any:
    """Make a callback that puts what an alarm has seen into each checkpoint."""
    base: Any = import_module("transformers").TrainerCallback

    class Remembering(base):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            alarm.save(folder / _alarm_file())

    return Remembering()


def _arguments(
    fit: Fit, settings: Settings, folder: Path, steps: int, longest: int, *, on_cpu: bool
) -> Any:
    """Arguments of TRL's trainer."""
    trl: Any = import_module("trl")
    size = rollouts_a_pass(fit, settings, longest, processes())
    made: Any = trl.GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=fit.batch // processes() * settings.generations // size,
        num_generations=settings.generations,
        max_completion_length=settings.completion_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        top_k=0,
        beta=settings.beta,
        epsilon=settings.epsilon,
        loss_type="grpo",
        scale_rewards="group",
        disable_dropout=True,
        # The order is laid out beforehand, all as one pass.
        shuffle_dataset=False,
        num_train_epochs=1,
        max_steps=steps,
        learning_rate=fit.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(fit.warmup * steps),
        max_grad_norm=fit.clip,
        weight_decay=0.0,
        optim="adamw_torch",
        # Weights keep their own precision and the adapter float32.
        bf16=False,
        fp16=False,
        gradient_checkpointing=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=fit.seed,
        use_cpu=on_cpu,
        ddp_timeout=PATIENCE,
    )
    if made.device.type == "cuda":
        # One process takes one device; more are for `accelerate launch`.
        made._n_gpu = 1
    return made
