"""Draw a model's own answers to prompts, and have answers and traces judged apart."""

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError, RequestFailed, RowSkipped, TsevalError
from tseval.formats import opening
from tseval.judging import Seat
from tseval.probes.steering import NOTICE
from tseval.types import Rollout, Sampling, TextJudged, Verdict

from .prompts import Prompts
from .records import Prompt, Recipe

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.session import Session
    from tseval.spec import RunSpec

    from .job import Job

# What trainers draw shares nothing with what is measured, under the same seed and prompt either.
STREAM = "train"
TASK = "synthesis"
DEFAULT_REFUSAL_JUDGE = "refusal-rules"


class Jury(Struct, frozen=True, kw_only=True):
    """Which of a session's judges says what, by label.

    Attributes:
        answer: Judges that say whether an answer is harmful; all of them are asked.
        trace: The same for traces.
        refusal: The judge that says whether an answer refuses; '' if there is none.
    """

    answer: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    refusal: str = ""


class Draw(Struct, frozen=True, kw_only=True):
    """One answer that was drawn, with what was said of it.

    Judges are asked one after the other and no further than needed: what one finds harmful is
    not shown to the next, so ``verdicts`` and ``trace_verdicts`` may lack the later ones.

    Attributes:
        prompt: What was asked, without the notice.
        index: Number among the draws of this prompt.
        steered: Whether the notice stood before it.
        rollout: What was drawn; None if it ``failed``.
        failed: Why there is none: 'overlong', or the kind of failure; else ''.
        verdicts: On the answer, by judge.
        trace_verdicts: On the trace, by judge.
    """

    prompt: Prompt
    index: int = 0
    steered: bool = False
    rollout: Rollout | None = None
    failed: str = ""
    verdicts: dict[str, Verdict] = {}
    trace_verdicts: dict[str, Verdict] = {}


def synthesis_spec(recipe: Recipe, registry: "Registry") -> "RunSpec":
    """Say which run a recipe's answers are drawn in.

    Where none of the recipe's judges labels refusals, 'refusal-rules' joins them: what was drawn
    under the notice has to be a refusal. A trainer that asks no judges gets none.

    Raises:
        ConfigError: A judge's specification is wrong.
    """
    from tseval.spec import RunSpec

    judges = recipe.judges if registry.trainers[recipe.method].card.judges else ()
    judges = with_refusal_judge(judges, recipe.judge_options if judges else {}, registry)
    return RunSpec(
        model=recipe.model,
        benchmarks=(),
        judges=judges,
        judge_options=recipe.judge_options if judges else {},
        sampling=recipe.sampling,
        answer_tokens_fixed=True,
        thinking=recipe.thinking,
        data_dirs=recipe.data_dirs,
        seed=recipe.seed,
    )


def with_refusal_judge(
    judges: tuple[str, ...], options: dict[str, str], registry: "Registry"
) -> tuple[str, ...]:
    """Add 'refusal-rules' where there are judges and none of them labels refusals.

    Raises:
        ConfigError: A judge's specification is wrong.
    """
    from tseval.judging import seat_judges

    seats = seat_judges(judges, registry, options)
    known = any("refusal" in seat.judge.card.labels for seat in seats.values() if seat.shown)
    return judges if known or not judges else (*judges, DEFAULT_REFUSAL_JUDGE)


def jury_of(session: "Session") -> Jury:
    """Say which of a session's judges filter what.

    A judge named with ``text=answer`` or ``text=trace`` judges that text alone, any other both.

    Raises:
        ConfigError: A judge wants both texts as one, or nothing judges answers.
    """
    shown = [seat for seat in session.seats.values() if seat.shown]
    for seat in shown:
        if seat.sees == "both":
            raise ConfigError(
                f"judge {seat.label!r} sees trace and answer as one text, which hides either in"
                " the other",
                hint="leave text=both out: a training has them judged apart",
            )

    def having(label: str, text: TextJudged) -> tuple[str, ...]:
        fitting: list[Seat] = [
            seat for seat in shown if label in seat.judge.card.labels and seat.sees in (None, text)
        ]
        return tuple(seat.label for seat in fitting)

    refusal = having("refusal", "answer")
    jury = Jury(
        answer=having("harmful", "answer"),
        trace=having("harmful", "trace"),
        refusal=refusal[0] if refusal else "",
    )
    if not jury.answer and not jury.refusal:
        raise ConfigError(
            "none of these judges judges answers", hint=f"add --judge {DEFAULT_REFUSAL_JUDGE}"
        )
    return jury


def said(verdict: Verdict, label: Literal["harmful", "refusal"]) -> bool | None:
    """Read a label; None where the judge failed to give it.

    Empty and degenerate texts are neither harmful nor refusals. Soft votes say what half of them
    say.
    """
    if verdict.reason in ("empty", "degenerate"):
        return False
    if verdict.reason != "ok":
        return None
    value: bool | None = getattr(verdict, label)
    if value is None and verdict.soft is not None:
        return verdict.soft >= 0.5
    return value


def thinks(session: "Session") -> bool:
    """Whether what the model writes in this run has a thinking trace."""
    mode = session.spec.thinking.mode
    return mode != "off" and opening(session.target.format, mode).format.thinks


def notice_of(recipe: Recipe) -> str:
    """Return the notice that stands before harmful prompts: ``-T notice``, or tseval's own."""
    return recipe.options.get("notice", NOTICE)


def under(notice: str, prompt: str) -> str:
    """Put a notice before a prompt, as ``tseval.probes.steering`` does with its own."""
    return f"{notice}\nPrompt:\n\n{prompt}"


async def synthesise(
    session: "Session",
    job: "Job",
    prompts: Prompts,
    *,
    steer: bool = True,
    harmful_tokens: int | None = None,
) -> list[Draw]:
    """Draw answers and have them judged: ``recipe.draws`` a harmful prompt, one a benign prompt.

    Resumes like every run: what is in the journal is not asked again.

    Args:
        session: The run in which they are drawn (see :func:`synthesis_spec`).
        job: The training.
        prompts: What is asked.
        steer: Whether harmful prompts are asked under the notice (:func:`notice_of`).
        harmful_tokens: Most tokens of an answer to a harmful prompt, where that is less than
            the recipe's.

    Returns:
        In the order of the prompts; failed ones too.

    Raises:
        ConfigError: The session's judges cannot filter.
        TsevalError: The run cannot go on.

    Source: arXiv 2601.23143: one draw a prompt, harmful ones under a notice, the same frozen
        model for both kinds.
    Differs: Answer and trace are judged apart, each by every judge that says 'harmful'; draws
        have seeds; several draws a prompt are possible.
    """
    jury, recipe = jury_of(session), job.recipe
    planned = [
        Draw(prompt=prompt, index=index, steered=steer and prompt.kind == "harmful")
        for prompt in prompts.prompts
        for index in range(recipe.draws if prompt.kind == "harmful" else 1)
    ]
    most = min(session.sampling.answer_tokens, harmful_tokens or session.sampling.answer_tokens)
    sampling = {
        "harmful": msgspec.structs.replace(session.sampling, answer_tokens=most),
        "benign": session.sampling,
    }
    session.expect(TASK, len(planned))
    found: dict[tuple[str, int], Draw] = {}
    notice = notice_of(recipe)

    async def one(draw: Draw) -> Draw:
        text = draw.prompt.text
        asked = under(notice, text) if draw.steered else text
        return await _one(session, jury, draw, asked, sampling[draw.prompt.kind])

    async for draw, result in session.map(planned, one):
        session.advance(TASK)
        if isinstance(result, TsevalError):
            result = msgspec.structs.replace(draw, failed=_reason(result))
        found[draw.prompt.id, draw.index] = result
    return [found[draw.prompt.id, draw.index] for draw in planned]


async def _one(session: "Session", jury: Jury, draw: Draw, asked: str, sampling: Sampling) -> Draw:
    """Draw one answer, and ask the judges as far as it takes."""
    rollout = await session.generate(asked, rollout=draw.index, stream=STREAM, sampling=sampling)
    draw = msgspec.structs.replace(draw, rollout=rollout)
    answer, verdicts = rollout.answer or "", dict[str, Verdict]()
    if not answer.strip():
        return draw
    # Judges are shown the prompt that will be trained on: the notice is none of their business.
    for judge in jury.answer:
        _, verdicts[judge] = await session.judge(judge, draw.prompt.text, answer)
        if said(verdicts[judge], "harmful") is not False:
            return msgspec.structs.replace(draw, verdicts=verdicts)
    if jury.refusal and jury.refusal not in verdicts:
        _, verdicts[jury.refusal] = await session.judge(jury.refusal, draw.prompt.text, answer)
    on_trace: dict[str, Verdict] = {}
    if rollout.trace:
        for judge in jury.trace:
            _, on_trace[judge] = await session.judge(
                judge, draw.prompt.text, rollout.trace, sees="trace"
            )
            if said(on_trace[judge], "harmful") is not False:
                break
    return msgspec.structs.replace(draw, verdicts=verdicts, trace_verdicts=on_trace)


def _reason(error: TsevalError) -> str:
    if isinstance(error, RowSkipped):
        return "overlong"
    return error.kind if isinstance(error, RequestFailed) else "error"
