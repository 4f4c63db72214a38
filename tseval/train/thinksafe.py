"""``thinksafe``: train a model on its own safe answers, drawn by telling it to refuse.

The model answers harmful prompts under a one-line notice that asks for a refusal, and benign
prompts as they are. What judges find safe is trained on, without the notice: the student's own
distribution, filtered, which is nearer to it than any teacher's.

Source: arXiv 2601.23143.
Differs: Judges see answer and trace apart; what was drawn under the notice has to be a refusal;
leaks of the notice, loops, cut answers, duplicates and refusals of benign prompts are dropped.
"""

import asyncio
from typing import TYPE_CHECKING

from tseval.errors import ConfigError
from tseval.roles import TrainerCard

from .records import Fitted, Gathered

if TYPE_CHECKING:
    from tseval.session import Session

    from .filters import Filtered, Rules
    from .job import Job
    from .prompts import Prompts
    from .records import Recipe
    from .synthesis import Draw

# ``-T`` options of trainers that draw and filter.
OPTIONS = {
    "exclude": "sources whose prompts are not trained on, joined by '+'; NAME:N takes its first N"
    " rows, as --limit N does",
    "lost": "most share of rows on which a judge may fail, default 0.01",
    "benign-refusals": "'drop' (default) or 'keep'",
    "harmful-tokens": "most tokens of an answer to a harmful prompt; default: --answer-tokens",
}
STEERED_OPTIONS = {
    **OPTIONS,
    "notice": "text that stands before harmful prompts; for models that tseval's own does not move",
}


class ThinkSafe:
    """The trainer; see the module's docstring."""

    card = TrainerCard(
        name="thinksafe",
        summary="its own safe answers to harmful prompts, drawn under a notice that asks to refuse",
        takes=("harmful", "benign"),
        paper="arXiv 2601.23143",
        options=STEERED_OPTIONS,
    )

    async def gather(self, session: "Session", job: "Job") -> Gathered:
        """Draw under the notice, filter; see ``tseval.roles.Trainer``."""
        check_options(job.recipe, STEERED_OPTIONS)
        prompts = await read(job)
        return await gather_own(session, job, prompts, steer=True)

    def fit(self, gathered: Gathered, job: "Job") -> Fitted:
        """Fit an adapter; see ``tseval.train.sft``."""
        from .sft import fit

        return fit(gathered, job)


async def read(job: "Job") -> "Prompts":
    """Read a training's prompts, without those that its panel asks.

    Raises:
        ConfigError, DataError: As ``tseval.train.prompts.read_prompts``.
    """
    from .prompts import read_prompts

    return await asyncio.to_thread(read_prompts, job.recipe, job.registry, evaluated=job.evaluated)


async def gather_own(
    session: "Session", job: "Job", prompts: "Prompts", *, steer: bool
) -> Gathered:
    """Draw the model's own answers, filter, and weigh where the recipe says so.

    Args:
        session: The run in which answers are drawn.
        job: The training.
        prompts: What is asked.
        steer: Whether harmful prompts are asked under the notice.

    Raises:
        ConfigError: An option or the choice of judges is wrong.
        TrainingError: A judge failed too often, or nothing of a kind is left.
    """
    from .accepted import require_some
    from .filters import filter_draws
    from .synthesis import synthesise

    rules = rules_of(session, job.recipe)
    draws = await synthesise(
        session, job, prompts, steer=steer, harmful_tokens=harmful_tokens(job.recipe)
    )
    filtered = await asyncio.to_thread(filter_draws, draws, rules)
    require_some(filtered.examples, filtered.falls, list(prompts.counts))
    gathered = gathered_of(prompts, draws, filtered)
    if job.recipe.select != "deliberative":
        return gathered
    from .deliberative import weigh

    return await weigh(session, job, gathered)


def gathered_of(prompts: "Prompts", draws: list["Draw"], filtered: "Filtered") -> Gathered:
    """Put together what a trainer hands on."""
    from .accepted import acceptance

    rollouts = [draw.rollout for draw in draws if draw.rollout is not None]
    return Gathered(
        examples=filtered.examples,
        prompts={kind: n for kind, n in prompts.counts.items()},
        falls=filtered.falls,
        acceptance=acceptance(draws, filtered),
        dropped=prompts.dropped,
        tokens=sum((each.trace_tokens or 0) + (each.answer_tokens or 0) for each in rollouts),
        notes=prompts.notes,
    )


def rules_of(session: "Session", recipe: "Recipe") -> "Rules":
    """Say what the filter goes by.

    Raises:
        ConfigError: An option is wrong, or the judges cannot filter.
    """
    from .filters import LOST_SHARE, Rules
    from .synthesis import jury_of, notice_of, thinks

    kept = recipe.options.get("benign-refusals", "drop")
    if kept not in ("drop", "keep"):
        raise ConfigError(f"-T benign-refusals is {kept!r}", hint="drop or keep")
    try:
        lost = float(recipe.options.get("lost", LOST_SHARE))
    except ValueError:
        lost = -1.0
    if not 0 <= lost <= 1:
        raise ConfigError(
            f"-T lost is {recipe.options['lost']!r}", hint="a share in [0, 1], such as 0.05"
        )
    if not notice_of(recipe).strip():
        raise ConfigError("-T notice is empty", hint="rejection draws without a notice")
    return Rules(
        jury=jury_of(session),
        thinks=thinks(session),
        forced=recipe.thinking.unclosed == "force",
        complies=kept == "drop",
        lost=lost,
        notice=notice_of(recipe),
    )


def harmful_tokens(recipe: "Recipe") -> int | None:
    """Read ``-T harmful-tokens``: refusals are short, and what is none need not be written out.

    Raises:
        ConfigError: It is no number of tokens.
    """
    given = recipe.options.get("harmful-tokens")
    if given is None:
        return None
    if not given.isdigit() or int(given) < 1:
        raise ConfigError(f"-T harmful-tokens is {given!r}", hint="a number of tokens, at least 1")
    return int(given)


def check_options(recipe: "Recipe", options: dict[str, str]) -> None:
    """Raise ConfigError for a ``-T`` option that a trainer does not have."""
    known = set(options)
    if recipe.select == "deliberative":
        from .deliberative import OPTIONS as WEIGHING

        known |= set(WEIGHING)
    unknown = sorted(set(recipe.options) - known)
    if unknown:
        raise ConfigError(
            f"{recipe.method} has no option -T {unknown[0]}",
            hint=f"it takes {', '.join(sorted(known)) or 'none'}",
        )
