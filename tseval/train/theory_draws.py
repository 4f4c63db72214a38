"""Draws for the theory: answers at temperature 1, what the guard says of them, and their tally."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from tseval.errors import RowSkipped
from tseval.probes.groups import near_duplicates
from tseval.types import Rollout, Sampling, Thinking

from .records import Prompt
from .synthesis import Jury, said, under

if TYPE_CHECKING:
    from tseval.session import Session

# Draws that share nothing with those that are trained on, or that anything else measures.
STREAM = "theory"
TASK = "theory"
# A draw, by its prompt and its number.
Key = tuple[str, int]


# Why the guard was never asked about a draw.
UNSEEN = ("unclosed", "empty", "failed", "overlong")


class Drawn(Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        prompt: What was asked, without the notice.
        index: Number among the draws of this prompt.
        rollout: What was drawn; None if it failed.
        accepted: Whether the guard finds it safe; None where it gave no verdict.
        why: Why it is not accepted, or has no verdict: 'unsafe', 'unclosed', 'empty',
            'no verdict', 'failed', 'overlong'.
    """

    prompt: Prompt
    index: int
    rollout: Rollout | None = None
    accepted: bool | None = None
    why: str = ""


def law_of(sampling: Sampling, thinking: Thinking) -> tuple[Sampling, Thinking]:
    """Take a decoding's limits, and the model's own probabilities for everything else.

    Truncation (top-k, top-p) gives a law of which the model's probabilities say nothing, and which
    can have no finite divergence from it; a trace that tseval closes is not the model's either.
    """
    return (
        Sampling(temperature=1.0, top_p=1.0, top_k=0, answer_tokens=sampling.answer_tokens),
        replace(thinking, unclosed="exclude"),
    )


def choose(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Take prompts at random, no two of them near-duplicates; fewer where there are no more.

    A smaller count takes a subset.
    """

    def rank(prompt: Prompt) -> str:
        return hashlib.sha256(f"theory\0{seed}\0{prompt.id}".encode()).hexdigest()

    ranked = sorted(prompts, key=rank)
    # Twice as many are enough, unless most of the pool says the same.
    size = 2 * count
    while True:
        groups = near_duplicates([prompt.text for prompt in ranked[:size]])
        firsts = list(dict.fromkeys(int(group) for group in groups))
        if len(firsts) >= count or size >= len(ranked):
            places = [list(groups).index(group) for group in firsts[:count]]
            return [ranked[place] for place in places]
        size *= 2


def asked_as(prompt: str, notice: str | None) -> str:
    """What the model is asked: the prompt as it is, or as the training put it under its notice."""
    return prompt if notice is None else under(notice, prompt)


async def draw(
    session: "Session",
    jury: Jury,
    prompts: Sequence[Prompt],
    *,
    notice: str | None,
    draws: int,
    law: tuple[Sampling, Thinking],
) -> list[Drawn]:
    """Draw answers and have the guard judge them.

    Args:
        session: On the model that answers.
        jury: Its judges.
        prompts: What is asked.
        notice: Stands before each prompt; None: they are asked as they are.
        draws: Answers a prompt.
        law: As :func:`law_of` gives it.

    Returns:
        In the order of prompts and draws; failed ones too.
    """
    sampling, thinking = law
    planned = [Drawn(prompt=prompt, index=n) for prompt in prompts for n in range(draws)]
    session.expect(TASK, len(planned))

    async def one(each: Drawn) -> Drawn:
        rollout = await session.generate(
            asked_as(each.prompt.text, notice),
            rollout=each.index,
            stream=STREAM,
            sampling=sampling,
            thinking=thinking,
        )
        accepted, why = await _guarded(session, jury, each.prompt, rollout)
        return replace(each, rollout=rollout, accepted=accepted, why=why)

    found: dict[Key, Drawn] = {}
    async for each, result in session.map(planned, one):
        session.advance(TASK)
        if isinstance(result, Drawn):
            found[each.prompt.id, each.index] = result
        else:
            why = "overlong" if isinstance(result, RowSkipped) else "failed"
            found[each.prompt.id, each.index] = replace(each, why=why)
    return [found[each.prompt.id, each.index] for each in planned]


async def _guarded(
    session: "Session", jury: Jury, prompt: Prompt, rollout: Rollout
) -> tuple[bool | None, str]:
    """Ask the guard: every judge of answers about the answer, every judge of traces about it."""
    if rollout.answer is None:
        return False, "unclosed"
    if not rollout.answer.strip():
        return False, "empty"
    label: Literal["harmful", "refusal"] = "harmful" if jury.answer else "refusal"
    asked = [(judge, rollout.answer, False) for judge in jury.answer or (jury.refusal,)]
    asked += [(judge, rollout.trace, True) for judge in jury.trace if rollout.trace]
    lost = False
    for judge, text, is_trace in asked:
        _, verdict = await session.judge(
            judge, prompt.text, text, sees="trace" if is_trace else "answer"
        )
        if verdict.reason in ("empty", "degenerate"):
            return False, verdict.reason
        value = said(verdict, "harmful" if is_trace else label)
        if value is None:
            lost = True
        elif value is (is_trace or label == "harmful"):
            return False, "unsafe"
    return (None, "no verdict") if lost else (True, "")


class Scored(Struct, frozen=True, kw_only=True):
    """A completion's log-probability (nats), its tokens, and whether it is of the very ones drawn.

    ``logprob`` is None where it could not be scored.
    """

    logprob: float | None
    tokens: int = 0
    exact: bool = False


class Tally(Struct, frozen=True, kw_only=True):
    """What became of the draws of one prompt.

    Attributes:
        prompt: Its id.
        draws: Draws that the guard gave a verdict on.
        accepted: Those that it finds safe.
        why: The others, those without a verdict among them, by reason.
        ratios: log q'(y) - log p(y) of accepted draws; empty where that was not asked.
        unscored: Accepted draws without a ratio.
        rewritten: Accepted draws whose ratio is of rewritten tokens.
        tokens: Tokens drawn.
    """

    prompt: str
    draws: int
    accepted: int
    why: dict[str, int] = {}
    ratios: tuple[float, ...] = ()
    unscored: int = 0
    rewritten: int = 0
    tokens: int = 0


def tally(
    drawn: Sequence[Drawn],
    own: dict[Key, Scored] | None = None,
    base: dict[Key, Scored] | None = None,
) -> list[Tally]:
    """Count draws by prompt, in the order of the prompts.

    Args:
        drawn: All of them.
        own: Log-probabilities of accepted ones under the law that they were drawn from ...
        base: ... and under the model that is trained.
    """
    own, base = own or {}, base or {}
    groups: dict[str, list[Drawn]] = {}
    for each in drawn:
        groups.setdefault(each.prompt.id, []).append(each)
    found = []
    for prompt, group in groups.items():
        keys = [(prompt, each.index) for each in group if each.accepted]
        pairs = [(own[key], base[key]) for key in keys if key in own and key in base]
        ratios = [
            (one.logprob - other.logprob, one.exact and other.exact)
            for one, other in pairs
            if one.logprob is not None and other.logprob is not None
        ]
        rollouts = [each.rollout for each in group if each.rollout is not None]
        found.append(
            Tally(
                prompt=prompt,
                draws=sum(each.accepted is not None for each in group),
                accepted=len(keys),
                why=dict(Counter(each.why for each in group if each.why)),
                ratios=tuple(ratio for ratio, _ in ratios),
                unscored=len(pairs) - len(ratios),
                rewritten=sum(not exact for _, exact in ratios),
                tokens=sum((r.trace_tokens or 0) + (r.answer_tokens or 0) for r in rollouts),
            )
        )
    return found
