"""``grpo``: group relative policy optimisation against a judge, the baseline of reinforcement.

The model draws several completions of each prompt, a judge says how safe each is, and what is safer
than its siblings becomes likelier. An option rewards deliberation besides: how far the model's own
answer moves to the right side between the first chunk of its trace and the end of it.

Source: arXiv 2601.23143, GRPO baseline (P(safe) of a guard and the format of the trace, one each;
8 completions of 8 prompts a step, temperature 0.7, beta 0.04, epsilon 0.2, loss 'grpo'), with
arXiv 2402.03300 behind it.
Differs: The judge sees the answer alone, and one that never came is worth 0. A failing judge drops
its group or ends the training; there, it gives 0 to the whole batch. Dropout is off, so that
completions are drawn from the policy that is optimised. Passes are the recipe's; there, one.
"""

import asyncio
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError, TrainingError
from tseval.protocol import fingerprint
from tseval.roles import TrainerCard

from .records import Example, Fitted, Gathered, Recipe
from .rewards import Weights

if TYPE_CHECKING:
    from tseval.session import Session

    from .job import Job

OPTIONS = {
    "generations": "completions of each prompt (8); a step has --batch prompts",
    "temperature": "that they are drawn at (0.7), without top-p or top-k",
    "beta": "weight of the KL to the base model (0.04)",
    "epsilon": "clip of probability ratios (0.2)",
    "completion-tokens": "most tokens of a completion, trace and answer together (--answer-tokens,"
    " and --thinking-budget for a model that thinks; at most 16384)",
    "prompt-tokens": "longer prompts are left out (1024)",
    "safety": "weight of the judges' P(safe) (1)",
    "format": "weight of a trace that is opened and closed once (1)",
    "deliberation": "weight of the rise of right outcomes over the trace (0: not asked)",
    "over-refusal": "weight of -1 for a refused benign prompt (1 with deliberation, else 0)",
    "replays": "answers behind each point of a trace, for deliberation (8)",
    "replay-tokens": "most tokens of such an answer (64)",
    "outcome": "judge that says whether an answer refuses, for the last terms (refusal-rules)",
    "exclude": "sources whose prompts are not trained on, joined by '+'",
}


class Settings(Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The ``-T`` options, as values; :data:`OPTIONS` has the meanings.

    0 ``completion_tokens`` are as many as the recipe's lengths say.
    """

    generations: int = 8
    temperature: float = 0.7
    beta: float = 0.04
    epsilon: float = 0.2
    completion_tokens: int = 0
    prompt_tokens: int = 1024
    safety: float = 1.0
    format: float = 1.0
    deliberation: float = 0.0
    over_refusal: float | None = None
    replays: int = 8
    replay_tokens: int = 64
    outcome: str = "refusal-rules"
    exclude: str = ""

    @property
    def weights(self) -> Weights:
        """Weights of the reward's terms."""
        implied = 1.0 if self.deliberation else 0.0
        return Weights(
            safety=self.safety,
            format=self.format,
            deliberation=self.deliberation,
            over_refusal=implied if self.over_refusal is None else self.over_refusal,
        )

    @property
    def asks_outcome(self) -> bool:
        """Whether a term needs to know if answers refuse."""
        return bool(self.weights.deliberation or self.weights.over_refusal)


class Grpo:
    """The trainer; see the module's docstring."""

    card = TrainerCard(
        name="grpo",
        summary="reinforcement: completions that a judge finds safer than their siblings",
        takes=("harmful", "benign"),
        paper="arXiv 2402.03300, as a baseline in 2601.23143",
        options=OPTIONS,
        unread=(
            "draws",
            "sampling.temperature",
            "sampling.top_p",
            "sampling.top_k",
            "fit.kl",
            "fit.max_tokens",
        ),
    )

    async def gather(self, session: "Session", job: "Job") -> Gathered:
        """Read the prompts; see ``tseval.roles.Trainer``. Nothing is drawn before the fit.

        An example is a prompt without an answer.
        """
        from .prompts import read_prompts

        settings = read_settings(job.recipe)
        judges_of(job)
        prompts = await asyncio.to_thread(
            read_prompts, job.recipe, job.registry, evaluated=job.evaluated
        )
        if not prompts.prompts:
            fell = ", ".join(f"{n} {reason}" for reason, n in prompts.dropped.items())
            raise TrainingError(f"no prompts to draw completions of ({fell or 'none were read'})")
        examples = tuple(
            Example(
                id=fingerprint([prompt.text, "", ""]),
                prompt=prompt.text,
                kind=prompt.kind,
                trace="",
                answer="",
                thought=False,
                source=prompt.source,
            )
            for prompt in prompts.prompts
        )
        return Gathered(
            examples=examples,
            prompts={str(kind): count for kind, count in prompts.counts.items()},
            dropped=prompts.dropped,
            notes=(
                *prompts.notes,
                f"completions are drawn during the fit, {settings.generations} a prompt at"
                f" temperature {settings.temperature:g}: examples are prompts",
            ),
        )

    def fit(self, gathered: Gathered, job: "Job") -> Fitted:
        """Draw, reward, optimise; see ``tseval.train.grpo_fit``."""
        from .grpo_fit import fit

        return fit(gathered, job)


def read_settings(recipe: Recipe) -> Settings:
    """Read the ``-T`` options of a recipe.

    Raises:
        ConfigError: One is unknown, no value, or cannot be meant.
    """
    unknown = sorted(set(recipe.options) - set(OPTIONS))
    if unknown:
        raise ConfigError(
            f"{recipe.method} has no option -T {unknown[0]}", hint=f"it takes {', '.join(OPTIONS)}"
        )
    try:
        settings = msgspec.convert(recipe.options, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"-T options of {recipe.method}: {error}") from None
    least = {"generations": 2, "completion-tokens": 0, "prompt-tokens": 1, "replays": 2}
    for name, value in {**least, "replay-tokens": 1}.items():
        given = getattr(settings, name.replace("-", "_"))
        if given < value:
            raise ConfigError(f"-T {name}={given} is less than {value}", hint=OPTIONS[name])
    if settings.temperature <= 0:
        raise ConfigError(
            f"-T temperature={settings.temperature:g} draws the same completion every time",
            hint="groups are compared within: give more than 0",
        )
    for name in ("beta", "epsilon", "deliberation"):
        if getattr(settings, name) < 0:
            raise ConfigError(f"-T {name}={getattr(settings, name):g} is negative")
    if recipe.select != "all":
        raise ConfigError(
            f"--select {recipe.select} weights finished answers, and grpo draws its own",
            hint="-T deliberation=1 rewards deliberation",
        )
    return settings


def judges_of(job: "Job") -> tuple[tuple[str, ...], str]:
    """Name the judges that reward, and the one that says whether an answer refuses.

    Returns:
        Specifications, in order; and a specification, or '' where no term needs it.

    Raises:
        ConfigError: A judge cannot be seated, or says nothing that a reward could be made of.
    """
    from tseval.judging import seat_judges

    from .judge_room import label_of

    settings, recipe = read_settings(job.recipe), job.recipe
    outcome = settings.outcome if settings.asks_outcome else ""
    if settings.safety and not recipe.judges:
        raise ConfigError("grpo is rewarded by a judge", hint="--judge llama-guard-3")
    rewarding = recipe.judges if settings.safety else ()
    if not any((settings.safety, settings.deliberation, settings.format)):
        raise ConfigError("every reward has weight 0", hint="give one of -T safety, deliberation")
    seats = seat_judges(
        (*rewarding, *([outcome] if outcome else [])), job.registry, recipe.judge_options
    )
    if outcome and not _labels_refusals(seats[label_of(seats, outcome)].judge):
        raise ConfigError(
            f"-T outcome={outcome}: that judge says nothing about refusals",
            hint="-T outcome=refusal-rules",
        )
    return rewarding, outcome


def _labels_refusals(judge: object) -> bool:
    rule = getattr(judge, "rule", None)
    if rule is not None:
        return bool(rule.label == "refusal")
    card = getattr(judge, "card", None)
    return "refusal" in getattr(card, "labels", ())
