"""From tallies of draws to the numbers of the theory, each with what it rests on."""

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tseval.errors import StatisticsError

from . import theory
from .theory import LEAST_DRAWS, Law
from .theory_draws import Tally
from .theory_means import Quantity

# What a number may rest on, by name; '{}' is filled in by whoever knows.
ASSUMED: dict[str, str] = {
    "pool": "the prompts are a random part of the pool that was trained on; intervals are over"
    " prompts, as if more were drawn from the same pool",
    "law": "draws at temperature 1 without top-k or top-p; the law is that of answers of at most"
    " {tokens} tokens",
    "guard": "safe is what {judges} says is safe, errors included; refusal, loops, leaks and"
    " duplicates are filters of their own and no part of A(x)",
    "notice": "the draws under a notice stand behind this one: {notice!r}",
    "verdicts": "prompts with fewer than {least} draws that have a verdict are left out; other"
    " draws without a verdict would have been judged like the rest of their prompt",
    "series": "-log A(x) by H(m) - H(a): never too large on the average, too small where A(x) is"
    " not far above 1/m",
    "none": "prompts with none accepted enter as -log of the upper Clopper-Pearson limit of A(x)",
    "joint": "the KL of the joint law of prompt and answer: safe answers also weigh the prompts"
    " anew, towards those that are answered safely anyway; never more than E[-log A(x)], also"
    " where the bound of that is less",
    "scored": "log-probabilities are the model's own at temperature 1, in the precision that it"
    " runs in, {end}; whatever token ended a draw, the one of the chat template is scored",
    "there": "of the prompts with an accepted draw of this law: on the others there is none of it",
    "floor": "a prompt with no accepted draw of this law enters as the least that any safe law"
    " costs there, -log A(x)",
    "capped": "an upper bound, since prompts have no accepted plain draw, or few of either law:"
    " A_s(x)"
    " is taken at its lower Clopper-Pearson limit, and A(x) at its upper one where none was"
    " accepted",
    "few": "many prompts have fewer than four accepted draws of this law, for which H(m) - H(a) is"
    " less than -log A_s(x)",
    "gap": "by the draws of this law alone: E[r] + log E[exp(-r)] of each prompt's few draws, which"
    " is too small on the average",
    "tokenised": "the answers of the other model are written as {model} would write them: other"
    " ways to split the same text into tokens are neglected",
    "file": "only the cross-entropy is known of given answers: an upper bound of the KL of whatever"
    " they were drawn from, which is less by the entropy of that",
    "rewritten": "given answers are written as the model would write them",
    "rows": "the answers are a random part of their set, or all of it; intervals are over prompts",
}
_COUNT = ("pool", "law", "guard", "verdicts")
_NOTICE = {"steered": ("notice",)}


class Line(Struct, frozen=True, kw_only=True):
    """One number of the report.

    Attributes:
        name: Stable name.
        title: What it is.
        of: What it is about: 'harmful', 'train.jsonl · benign' ...
        law: How answers were drawn: 'plain', 'steered', 'teacher', or 'given'.
        quantity: The number; None where it is undefined.
        undefined: Why, or ''.
        unit: 'nats' a prompt, or 'a token' (perplexity).
        draws: Answers that it rests on.
        counts: What they consist of.
        assumes: Keys of the report's assumptions.
        note: What a reader has to know beside it.
    """

    name: str
    title: str
    of: str
    law: str
    quantity: Quantity | None = None
    undefined: str = ""
    unit: str = "nats"
    draws: int = 0
    counts: dict[str, int] = {}
    assumes: tuple[str, ...] = ()
    note: str = ""


def acceptance_lines(tallies: Sequence[Tally], of: str, law: str) -> list[Line]:
    """Make the numbers that rest on acceptances alone: the optimum, where the law is plain.

    Args:
        tallies: One a prompt.
        of: Kind of the prompts.
        law: How they were asked.
    """
    used = [each for each in tallies if each.draws >= LEAST_DRAWS]
    accepted, draws = [each.accepted for each in used], [each.draws for each in used]
    pairs = list(zip(accepted, draws, strict=True))
    none = accepted.count(0)
    counts = {
        "accepted": sum(accepted),
        **({"prompts with none": none} if none else {}),
        **_reasons(tallies),
        **({"prompts left out": len(tallies) - len(used)} if len(used) < len(tallies) else {}),
    }
    series = sum(theory.cut_series(*pair) for pair in pairs) / len(pairs) if pairs else 0.0
    note = f"with H(m) for those of none: {series:.3f}" if none else ""
    sign = "A(x)" if law == "plain" else "A_s(x)"
    optimum = " = KL(p_safe || p)" if law == "plain" else ""
    bound = ("none",) if none else ()
    count = (*_COUNT, *_NOTICE.get(law, ()))
    return [
        _with_number(
            Line(
                name="pooled",
                title=f"-log E[{sign}]{' = joint KL' if law == 'plain' else ''}",
                of=of,
                law=law,
                draws=sum(draws),
                counts={"accepted": sum(accepted)},
                assumes=(*count, "joint"),
            ),
            lambda: theory.pooled_surprise(accepted, draws),
        ),
        _with_number(
            Line(
                name="mean",
                title=f"E[-log {sign}]{optimum}",
                of=of,
                law=law,
                draws=sum(draws),
                counts=counts,
                assumes=(*count, "series", *bound),
                note=note,
            ),
            lambda: theory.mean_surprise(accepted, draws),
        ),
    ]


def law_lines(
    tallies: Sequence[Tally], plain: Sequence[Tally], of: str, law: str, *, foreign: bool = False
) -> list[Line]:
    """Make the numbers of another law: what it costs, and how much more than the optimum.

    Args:
        tallies: Of the law, one a prompt, with ratios.
        plain: Of the plain draws, of the same prompts.
        of: Kind of the prompts.
        law: Its name.
        foreign: Whether another model drew the answers.
    """
    base = {each.prompt: each for each in plain if each.draws >= LEAST_DRAWS}
    usable = [
        each for each in tallies
        if each.draws >= LEAST_DRAWS
        and each.prompt in base
        and bool(each.accepted) == bool(each.ratios)
    ]  # fmt: skip
    accepted = [base[each.prompt].accepted for each in usable]
    draws = [base[each.prompt].draws for each in usable]
    q = Law(
        accepted=[each.accepted for each in usable],
        draws=[each.draws for each in usable],
        ratios=[each.ratios for each in usable],
    )
    without = sum(not each.ratios for each in usable)
    counts = {
        "scored": sum(len(each.ratios) for each in usable),
        "prompts without an accepted draw": without,
        "not scored": sum(each.unscored for each in tallies),
        "rewritten": sum(each.rewritten for each in usable),
        "prompts left out": len(tallies) - len(usable),
    }
    counts = {name: n for name, n in counts.items() if n or name == "scored"}
    scored = (*_COUNT, *_NOTICE.get(law, ()), "scored", *(("tokenised",) if foreign else ()))
    few = ("few",) if theory.scarce(q.accepted) else ()
    there = ("there",) if without else ()
    made: dict[str, tuple[str, Callable[[], Quantity], tuple[str, ...]]] = {
        "ratio": ("E_q[log q'(y) - log p(y)]", lambda: theory.mean_ratio(q), (*scored, *there)),
        "kl": (
            "KL(q || p)",
            lambda: theory.kl_to_base(q, accepted, draws),
            (*scored, "series", *(("floor",) if without else ()), *few),
        ),
        "excess": (
            "excess KL(q || p) + log A(x)",
            lambda: theory.excess(q, accepted, draws),
            (*scored, "series", *there),
        ),
        "least excess": (
            "excess, from these draws alone",
            lambda: theory.least_excess(q),
            (*scored, "gap"),
        ),
    }
    lines = [
        _with_number(
            Line(
                name=name,
                title=title,
                of=of,
                law=law,
                draws=counts["scored"],
                counts=counts,
                assumes=assumes,
            ),
            make,
        )
        for name, (title, make, assumes) in made.items()
    ]
    return [_capped(line) for line in lines]


def given_lines(
    scored: Sequence[tuple[str, float, int]], of: str, *, drawn: bool, lost: int = 0
) -> list[Line]:
    """Make the numbers of given answers: their perplexity, and their cross-entropy where it bounds.

    Args:
        scored: Prompt, log-probability and tokens of each answer.
        of: What set they are.
        drawn: Whether the model drew them itself: of these the acceptance tells the KL.
        lost: Answers that could not be scored.
    """
    prompts = [prompt for prompt, _, _ in scored]
    logprobs = [logprob for _, logprob, _ in scored]
    tokens = [count for _, _, count in scored]
    counts = {"tokens": sum(tokens), **({"not scored": lost} if lost else {})}
    lines = [
        _with_number(
            Line(
                name="perplexity",
                title="perplexity under p",
                of=of,
                law="given",
                unit="a token",
                draws=len(scored),
                counts=counts,
                assumes=("rows", "scored", "rewritten"),
            ),
            lambda: theory.perplexity(logprobs, tokens, prompts),
        )
    ]
    if drawn:
        return lines
    return [
        _with_number(
            Line(
                name="cross-entropy",
                title="-E[log p(y)], which the KL can't exceed",
                of=of,
                law="given",
                draws=len(scored),
                counts=counts,
                assumes=("rows", "scored", "rewritten", "file"),
            ),
            lambda: theory.cross_entropy(logprobs, prompts),
        ),
        *lines,
    ]


def _with_number(line: Line, make: Callable[[], Quantity]) -> Line:
    """Put the number into its line; where it is undefined, say why instead of the note."""
    try:
        return replace(line, quantity=make())
    except StatisticsError as error:
        return replace(line, undefined=error.message, note="")


def _capped(line: Line) -> Line:
    """Name what a bound from above rests on."""
    if line.quantity is None or line.quantity.says != "at most":
        return line
    return replace(line, assumes=(*line.assumes, "capped"))


def _reasons(tallies: Sequence[Tally]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in tallies:
        for why, count in each.why.items():
            found[why] = found.get(why, 0) + count
    return dict(sorted(found.items()))
