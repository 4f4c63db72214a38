"""Scores of answers that were checked: pass@1, pass@k, maj@K, and what is counted in parts."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import fsum
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from .metrics import Judged
from .scoring import Outcome
from .types import Estimate, Score


class Checked(NamedTuple):
    """What is kept of one rollout: small, and without any text but the answer itself.

    Attributes:
        prompt: Id of its sample.
        outcome: What a score counts.
        name: 'correct', 'wrong', 'no-answer', 'truncated', 'unclosed'; or why it was lost.
        correct: None if it left the denominator.
        extracted: The answer that was found in its text, or None.
        reference: The right answer.
        parts: Of what is counted beside it, how much is right.
    """

    prompt: str
    outcome: Outcome
    name: str
    correct: bool | None
    extracted: str | None
    reference: str
    parts: Mapping[str, int] = MappingProxyType({})


def judged(each: Checked) -> Judged:
    """Give of a checked rollout what a metric needs to know."""
    kept = each.outcome
    return Judged(
        cluster=kept.cluster,
        outcome=each.name,
        hit=each.correct,
        forced=kept.forced,
        truncated=kept.truncated,
        unclosed=kept.unclosed,
        row=kept.row,
        rollout=kept.rollout,
    )


def by_prompt(checked: Iterable[Checked], values: Mapping[str, float]) -> list[Judged]:
    """Give a value of each prompt as rows; prompts without one left the denominator."""
    firsts = {each.prompt: each.outcome for each in checked}
    return [
        Judged(
            cluster=kept.cluster,
            outcome="value" if prompt in values else "prompts",
            hit=values.get(prompt),
            row=kept.row,
        )
        for prompt, kept in firsts.items()
    ]


def ks(rollouts: int) -> list[int]:
    """Powers of two up to the number of rollouts, and that number."""
    powers = [2**power for power in range(1, rollouts.bit_length()) if 2**power < rollouts]
    return [*powers, rollouts]


def passes(
    checked: list[Checked], k: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Give pass@k of each prompt that has k rollouts left.

    Returns:
        The values; and for every prompt what they were if all lost rollouts were wrong, and right.
    """
    from .stats import pass_at_k

    sizes: Counter[str] = Counter()
    right: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for each in checked:
        if each.correct is None:
            lost[each.prompt] += 1
        else:
            sizes[each.prompt] += 1
            right[each.prompt] += each.correct
    values = {name: pass_at_k(n, right[name], k) for name, n in sizes.items() if n >= k}
    limits = {}
    for name in sizes | lost:
        n, c, more = sizes[name], right[name], lost[name]
        limits[name] = pass_at_k(n + more, c, k), pass_at_k(n + more, c + more, k)
    return values, limits


def over_prompts(
    base: Score,
    single: Score,
    clusters: dict[str, str],
    values: dict[str, float],
    limits: dict[str, tuple[float, float]],
    unknown: int = 0,
) -> Score:
    """Average a value over prompts; those without one left the denominator.

    Args:
        base: The score to fill in.
        single: The score of the same rollouts one by one.
        clusters: Of each prompt.
        values: Of the prompts that have one.
        limits: Between which it lies, by prompt; of others, anywhere.
        unknown: Prompts that have none since the checker failed.
    """
    from .stats import clustered_mean

    totals: dict[str, float] = defaultdict(float)
    sizes: Counter[str] = Counter()
    for prompt in sorted(values):
        totals[clusters[prompt]] += values[prompt]
        sizes[clusters[prompt]] += 1
    lost = {"error": unknown, "prompts": len(clusters) - len(values) - unknown}
    extremes = [limits.get(name, (0.0, 1.0)) for name in clusters]
    names = sorted(sizes)
    estimate: Estimate | None = None
    if names:
        estimate = clustered_mean([totals[c] for c in names], [sizes[c] for c in names])
    return msgspec.structs.replace(
        base,
        estimate=estimate,
        undefined="" if estimate else "no prompt has all of its rollouts",
        n=len(values),
        n_prompts=len(values),
        excluded={why: count for why, count in lost.items() if count},
        bounds=_means(extremes) if extremes else None,
        forced_close_share=single.forced_close_share,
        truncated_share=single.truncated_share,
        unclosed_share=single.unclosed_share,
    )


def _means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*pairs, strict=True)
    return fsum(lows) / len(pairs), fsum(highs) / len(pairs)


def in_parts(
    base: Score, single: Score, checked: list[Checked], sizes: dict[str, int], name: str
) -> Score:
    """Count something of which an answer may be right in part: the share over all prompts.

    Args:
        base: The score to fill in.
        single: The score of the same rollouts as wholes.
        checked: One a rollout. One that is wrong as a whole without being looked at has no part
            that is right; those that the machine lost are left out, with all of their parts.
        sizes: Parts of a rollout, by prompt.
        name: What is counted.
    """
    from .stats import bounds, clustered_proportion

    right: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for each in checked:
        if each.correct is None:
            lost[each.name] += sizes[each.prompt]
            continue
        parts[each.outcome.cluster] += sizes[each.prompt]
        right[each.outcome.cluster] += each.parts.get(name, 0)
    clusters = sorted(parts)
    n, hits = parts.total(), right.total()
    estimate = None
    if clusters:
        estimate = clustered_proportion([right[c] for c in clusters], [parts[c] for c in clusters])
    return msgspec.structs.replace(
        base,
        estimate=estimate,
        undefined="" if estimate else "no row has a verdict",
        n=n,
        n_prompts=len(clusters),
        excluded=dict(sorted(lost.items())),
        bounds=bounds(hits, n, lost.total()) if n or lost else None,
        outcomes={"correct": hits, "wrong": n - hits} if n else {},
        forced_close_share=single.forced_close_share,
        truncated_share=single.truncated_share,
        unclosed_share=single.unclosed_share,
    )
