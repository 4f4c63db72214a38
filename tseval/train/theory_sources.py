"""What the theory of a training is measured on: its pool of prompts, and sets of answers."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from tseval.errors import ConfigError
from tseval.requests import ModelSpec

from .accepted import make_example
from .prompts import prompt_of, read_prompts
from .records import Example, Prompt, PromptKind, Recipe
from .synthesis import synthesis_spec, with_refusal_judge
from .teacher import read_lessons
from .theory import LEAST_DRAWS
from .theory_draws import choose, law_of
from .theory_means import LEAST_PROMPTS
from .thinksafe import harmful_tokens

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.spec import RunSpec

    from .job import TrainFolder


class Settings(Struct, frozen=True, kw_only=True):
    """What is measured.

    Attributes:
        prompts, benign: Harmful and benign prompts, from the pool that was trained on.
        draws: Answers a prompt under each law, at least sixteen.
        rows: Most answers of each set that are given to the model to score.
        answer_tokens, thinking_budget: Limits of the draws; None: the training's, for answers those
            of harmful prompts.
        judges, judge_options: The guard, as in ``RunSpec``; none: the training's own.
        teacher: Another model whose draws are compared, or None.
        answers: Files of finished answers that are scored beside the training's own, as the
            trainer 'sft' reads them.
        digests: sha256 of these files: one that has changed makes another measurement.
        seed: Chooses prompts and rows.
    """

    prompts: int = 64
    benign: int = 32
    draws: int = LEAST_DRAWS
    rows: int = 200
    answer_tokens: int | None = None
    thinking_budget: int | None = None
    judges: tuple[str, ...] = ()
    judge_options: dict[str, str] = {}
    teacher: ModelSpec | None = None
    answers: tuple[str, ...] = ()
    digests: dict[str, str] = {}
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError where a size is too small to make a number."""
        if self.draws < LEAST_DRAWS:
            raise ConfigError(
                f"--draws {self.draws} says too little of a prompt's own acceptance",
                hint=f"give {LEAST_DRAWS} or more",
            )
        if self.prompts < LEAST_PROMPTS:
            raise ConfigError(
                f"--prompts {self.prompts} makes no interval",
                hint=f"give {LEAST_PROMPTS} or more",
            )
        if self.benign < LEAST_PROMPTS and self.benign:
            raise ConfigError(
                f"--benign-prompts {self.benign} makes no interval",
                hint=f"give 0, or {LEAST_PROMPTS} or more",
            )


def draws_spec(folder: "TrainFolder", registry: "Registry", settings: Settings) -> "RunSpec":
    """Say which run the draws are made in.

    Raises:
        ConfigError: A judge's specification is wrong.
    """
    spec = synthesis_spec(folder.record.recipe, registry)
    sampling, thinking = law_of(spec.sampling, spec.thinking)
    most = harmful_tokens(folder.record.recipe) or sampling.answer_tokens
    tokens = settings.answer_tokens or min(most, sampling.answer_tokens)
    sampling = structs.replace(sampling, answer_tokens=tokens)
    if settings.thinking_budget is not None:
        thinking = structs.replace(thinking, budget=settings.thinking_budget)
    options = settings.judge_options or folder.record.recipe.judge_options
    judges = spec.judges
    if settings.judges:
        # Another guard's draws stand in a run of their own, as the run's hash has its judges.
        options = settings.judge_options
        judges = with_refusal_judge(settings.judges, options, registry)
    return structs.replace(
        spec,
        judges=judges,
        judge_options=options if judges else {},
        sampling=sampling,
        thinking=thinking,
        decoding="fixed",
        seed=settings.seed,
    )


def pool_prompts(
    folder: "TrainFolder", registry: "Registry", settings: Settings
) -> dict[PromptKind, list[Prompt]]:
    """Take prompts of the pool, not those of the examples, which are what was accepted of it."""
    recipe = folder.record.recipe
    counts: dict[PromptKind, int] = {"harmful": settings.prompts, "benign": settings.benign}
    takes = registry.trainers[recipe.method].card.takes
    # Trainers that take finished answers have no pool: the prompts of those are what there is.
    pool = "harmful" in takes or "benign" in takes
    found: dict[PromptKind, list[Prompt]] = {}
    if pool:
        kinds = tuple(kind for kind in counts if kind in takes and counts[kind])
        evaluated = _evaluated(recipe, registry)
        every = read_prompts(recipe, registry, evaluated=evaluated, kinds=kinds)
        found = {kind: choose(every.of(kind), counts[kind], settings.seed) for kind in kinds}
    else:
        texts = {each.prompt: each for each in folder.read_examples()}
        given = [prompt_of(text, each.kind, each.source) for text, each in texts.items()]
        for kind, count in counts.items():
            found[kind] = choose(
                [each for each in given if each.kind == kind], count, settings.seed
            )
    found.setdefault("harmful", [])
    for kind, chosen in found.items():
        if 0 < len(chosen) < LEAST_PROMPTS:
            raise ConfigError(
                f"the training has {len(chosen)} {kind} prompts that are no near-duplicates,"
                f" {LEAST_PROMPTS} are needed",
                hint="the theory is measured on larger pools",
            )
    return found


def _evaluated(recipe: Recipe, registry: "Registry") -> list[str]:
    """What the training's panel asks: none of it is in the pool."""
    if not recipe.panel.suites:
        return []
    from .panel import benchmarks_of, halves_of

    return halves_of(recipe, benchmarks_of(recipe, registry)).prompts


def read_answers(
    folder: "TrainFolder", settings: Settings, thought: bool
) -> dict[str, list[Example]]:
    """Read files of finished answers; a trace that never closed makes no answer."""
    found: dict[str, list[Example]] = {}
    for source in settings.answers:
        lessons = read_lessons(source, folder.record.recipe)
        found[Path(source).name] = [
            make_example(
                lesson.prompt,
                trace=lesson.trace if thought else "",
                answer=lesson.answer,
                thought=thought,
            )
            for lesson in lessons
            if lesson.answer
        ]
    return found


def answer_sets(
    files: Mapping[str, Sequence[Example]], settings: Settings
) -> list[tuple[str, list[Example]]]:
    """Group answers by file, kind and notice; of each group at most so many rows.

    Examples that are prompts alone, whose completions a trainer draws as it fits, are no answers.
    """

    def rank(example: Example) -> str:
        return hashlib.sha256(f"theory\0{settings.seed}\0{example.id}".encode()).hexdigest()

    groups: dict[str, dict[str, Example]] = {}
    for file, examples in files.items():
        for each in (each for each in examples if each.trace or each.answer):
            notice = ", drawn under the notice" if each.steered else ""
            # The same prompt and answer twice is one row.
            groups.setdefault(f"{file} · {each.kind}{notice}", {})[each.id] = each
    return [
        (name, sorted(group.values(), key=rank)[: settings.rows]) for name, group in groups.items()
    ]
