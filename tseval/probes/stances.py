"""Stance runs of a trace, the transitions between them, and sham transitions inside one.

Letters: l_i in {-1, 0, +1} is the stance of chunk i; a run is a stretch of chunks of one stance
once the last stance is carried forward over zeros.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct

from tseval.types import Estimate

from .resampling import bootstrap_estimate, resample_ratios

Mode = Literal["segment", "flip"]
# How many times longer or shorter than what it stands for a sham may be.
LOOSEST_MATCH = 2.0


class Run(NamedTuple):
    """Chunks of one stance: ``start`` is the first of them, ``end`` the one behind the last."""

    stance: int
    start: int
    end: int


class Transition(Struct, frozen=True, kw_only=True):
    """A change of stance.

    Attributes:
        before, after: The stances.
        pre, post: Chunks of the trace that a prefix holds before the change, and after it.
    """

    before: int
    after: int
    pre: int
    post: int


class Sham(Struct, frozen=True, kw_only=True):
    """Two points inside one run.

    Attributes:
        stance: Of the run.
        pre, post: Chunks of the trace that a prefix holds at the first and at the second point.
        ratio: Length between the two over that of the transition that it stands for.
    """

    stance: int
    pre: int
    post: int
    ratio: float


def runs_of(labels: Sequence[int]) -> tuple[Run, ...]:
    """Carry each stance forward over zeros, and form runs.

    Zeros before the first stance are a run of their own, of stance 0.

    Args:
        labels: int [chunks], -1, 0 or 1.
    """
    runs: list[Run] = []
    held = 0
    for place, label in enumerate(labels):
        held = label or held
        if runs and runs[-1].stance == held:
            runs[-1] = runs[-1]._replace(end=place + 1)
        else:
            runs.append(Run(held, place, place + 1))
    return tuple(runs)


def transitions(
    labels: Sequence[int],
    *,
    mode: Mode = "segment",
    least_before: int = 1,
    least_after: int = 1,
) -> tuple[Transition, ...]:
    """Find the changes of stance of a trace.

    By segments: two neighbouring runs of opposite stance. The point before is the end of the first
    run and the point after the end of the second, so what lies between is the whole second run. By
    flips: neighbouring chunks of opposite stance, without carrying; what lies between is the second
    chunk.

    Args:
        labels: int [chunks], -1, 0 or 1.
        mode: 'segment' or 'flip'.
        least_before: Shortest run before the change, in chunks (segments only).
        least_after: Shortest run behind it, likewise.

    Source: arXiv 2606.25013 (segments, both lengths 1).
    """
    if mode == "flip":
        return tuple(
            Transition(before=labels[i - 1], after=labels[i], pre=i, post=i + 1)
            for i in range(1, len(labels))
            if labels[i - 1] * labels[i] < 0
        )
    runs = runs_of(labels)
    return tuple(
        Transition(before=first.stance, after=second.stance, pre=first.end, post=second.end)
        for first, second in pairwise(runs)
        if first.stance * second.stance < 0
        and first.end - first.start >= least_before
        and second.end - second.start >= least_after
    )


def sham_for(
    change: Transition,
    labels: Sequence[int],
    ends: Sequence[int],
    *,
    length: int | None = None,
    taken: frozenset[tuple[int, int]] = frozenset(),
) -> Sham | None:
    """Find two points inside one run that are as far apart as those of a transition.

    The first point stands behind the first chunk of the run at the earliest, so that the run's
    stance has been taken; the second at its end at the latest. Where the transition's own first run
    has such a pair it is preferred: there the answer is as open as it is before the transition,
    while behind a change that matters it may be settled. Otherwise, and among several, the pair is
    taken whose distance is nearest in ratio; of equals, the one nearest to the transition.

    Args:
        change: The transition.
        labels: int [chunks], of the trace that the sham is sought in.
        ends: int [chunks], where each chunk of it ends, in characters.
        length: Characters between the transition's points, where it stands in another trace; None
            if it stands in this one.
        taken: Pairs that stand for others already.

    Returns:
        The sham; None where no pair is within a factor of two.
    """
    wanted = length or ends[change.post - 1] - ends[change.pre - 1]
    found: list[tuple[bool, float, int, int, int, int]] = []
    for run in runs_of(labels):
        elsewhere = length is not None or run.end != change.pre
        for pre in range(run.start + 1, run.end) if run.stance else ():
            for post in range(pre + 1, run.end + 1):
                ratio = (ends[post - 1] - ends[pre - 1]) / wanted
                if ratio > LOOSEST_MATCH:
                    break
                if ratio >= 1 / LOOSEST_MATCH and (pre, post) not in taken:
                    near = abs(pre - change.pre)
                    found.append((elsewhere, abs(math.log(ratio)), near, pre, post, run.stance))
    if not found:
        return None
    *_, pre, post, stance = min(found)
    ratio = (ends[post - 1] - ends[pre - 1]) / wanted
    return Sham(stance=stance, pre=pre, post=post, ratio=ratio)


class StanceTrace(Struct, frozen=True, kw_only=True):
    """A trace whose chunks have stances.

    Attributes:
        prompt: Place of its prompt in the pool.
        rollout: Which rollout of the prompt it is.
        harmful: Whether the prompt is.
        ends: Where each chunk ends, in characters, int [chunks].
        labels: Stances by the judge whose transitions are replayed, int [chunks].
        beside: Stances by each judge that labels on its own, where all of them did.
    """

    prompt: int
    rollout: int
    harmful: bool
    ends: tuple[int, ...]
    labels: tuple[int, ...]
    beside: tuple[tuple[int, ...], ...] = ()


class StanceAgreement(Struct, frozen=True, kw_only=True):
    """How far stance judges agree on the same traces.

    Attributes:
        chunks, traces: What all of them labelled.
        alpha: Krippendorff's alpha for ordered labels over chunks; None if undefined.
        shared: Share of a judge's transitions that another one has too (see
            :func:`shared_transitions`), over ordered pairs of judges; None without transitions.
    """

    chunks: int
    traces: int
    alpha: Estimate | None = None
    shared: Estimate | None = None


def ordinal_alpha(ratings: "np.ndarray") -> float | None:
    """Krippendorff's alpha with the ordinal metric, for complete ratings.

    Args:
        ratings: int [units, raters] in {-1, 0, 1}.

    Returns:
        1 for perfect agreement, about 0 for chance; None where only one label occurs.

    Source: Krippendorff (2019), Content Analysis, chapter 12.
    """
    units, raters = ratings.shape
    counts = np.stack([(ratings == each).sum(axis=1) for each in (-1, 0, 1)], axis=1).astype(float)
    totals = counts.sum(axis=0)
    if units == 0 or raters < 2 or np.count_nonzero(totals) < 2:
        return None
    upto = np.cumsum(totals)
    distance = np.zeros((3, 3))
    for c in range(3):
        for k in range(c + 1, 3):
            between = upto[k] - (upto[c - 1] if c else 0.0)
            distance[c, k] = distance[k, c] = (between - (totals[c] + totals[k]) / 2) ** 2
    seen = (np.einsum("uc,uk,ck->", counts, counts, distance)) / (raters - 1)
    chance = float(totals @ distance @ totals) / (totals.sum() - 1)
    return float(1 - seen / chance)


def shared_transitions(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Count the transitions of one judge, and those that another one has too.

    The same transition goes the same way, and begins at the same chunk or one beside it.
    """
    mine, theirs = transitions(first), transitions(second)
    shared = sum(
        any(t.after == other.after and abs(t.pre - other.pre) <= 1 for other in theirs)
        for t in mine
    )
    return len(mine), shared


def stance_agreement(
    labelled: Sequence[Sequence[Sequence[int]]],
    prompts: Sequence[int],
    rng: "np.random.Generator",
    bootstraps: int,
) -> StanceAgreement:
    """Measure how far stance judges agree.

    Cuts, not chunks, are what the oscillation probe rests on, so the agreement about transitions
    stands beside that about chunks.

    Args:
        labelled: By trace, then by judge: int [chunks]; only traces that all judges labelled.
        prompts: int [traces], the prompt of each trace; near-duplicates have the same.
        rng: Draws the interval.
        bootstraps: Number of draws.
    """
    tables = [np.asarray(trace, dtype=np.int64).T for trace in labelled]
    if not tables:
        return StanceAgreement(chunks=0, traces=0)
    counts = []
    for trace in labelled:
        found = [shared_transitions(a, b) for a, b in permutations(trace, 2)]
        counts.append([sum(each) for each in zip(*found, strict=True)])
    mine, shared = np.asarray(counts, dtype=float).T[:, :, None]
    drawn = resample_ratios(shared, mine, prompts, draws=bootstraps, rng=rng)
    return StanceAgreement(
        chunks=sum(len(table) for table in tables),
        traces=len(tables),
        alpha=_alpha(tables, prompts, rng, bootstraps),
        shared=bootstrap_estimate(drawn),
    )


def _alpha(
    tables: Sequence["np.ndarray"],
    prompts: Sequence[int],
    rng: "np.random.Generator",
    bootstraps: int,
) -> Estimate | None:
    value = ordinal_alpha(np.concatenate(tables))
    if value is None:
        return None
    by_prompt: dict[int, list[np.ndarray]] = {}
    for prompt, table in zip(prompts, tables, strict=True):
        by_prompt.setdefault(prompt, []).append(table)
    clusters = [np.concatenate(parts) for parts in by_prompt.values()]
    draws = (
        ordinal_alpha(np.concatenate([clusters[i] for i in picked]))
        for picked in rng.integers(len(clusters), size=(bootstraps, len(clusters)))
    )
    defined = [draw for draw in draws if draw is not None]
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(
        value=value,
        low=min(value, float(low)),
        high=max(value, float(high)),
        method="bootstrap over prompts",
    )
