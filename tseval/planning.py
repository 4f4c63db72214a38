"""What a run will take, before it is run: prompts, tokens, time and disk, each with an interval.

Tokens come from rollouts that were looked at, of a pilot or of an earlier run, and are summed over
benchmarks. A pilot's prompts are a random part of the run's (rows are ranked by a hash), so the
interval is that of a total of which a part is known. Arithmetic only: nothing here runs a model.

Letters: n rollouts looked at, of N to be made.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from .errors import StatisticsError
from .pace import Pace, Range, faster
from .types import Rollout

LEVEL = 0.95
# By so much the mean lengths of two benchmarks of one kind may differ, as a factor.
OTHER_BENCHMARKS = 2.0
# What a call that makes no tokens takes is known to this factor: nobody counts what it reads.
CALLS_SPREAD = 2.0

Source = Literal["pilot", "earlier run", "other benchmarks", "limits"]


class Limits(Struct, frozen=True, kw_only=True):
    """Most tokens of a rollout's trace and answer."""

    trace: int
    answer: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.trace + self.answer


class Length(Struct, frozen=True, kw_only=True):
    """New tokens of one rollout, as it would be under the limits of the run that is planned.

    Attributes:
        low, high: They differ for a rollout that was cut off where the run would let it go on:
            it is right-censored, and ``high`` is its limit.
        truncated: Whether a limit of the run cuts its answer off.
        cut: Whether the time limit of a pilot cut it off, so that nobody knows how it ends.
    """

    low: int
    high: int
    truncated: bool = False
    cut: bool = False


class JudgeCalls(Struct, frozen=True, kw_only=True):
    """Texts that a judge is shown.

    Attributes:
        judge: Its label; a checker of answers counts as one.
        calls: At most: empty answers, and texts that occur twice, are not asked about again.
        model: The model that it runs, or ''.
        panels: Labels of the panels whose member it is.
    """

    judge: str
    calls: int
    model: str = ""
    panels: tuple[str, ...] = ()


class Resolution(Struct, frozen=True, kw_only=True):
    """The smallest true difference of two runs that shows: power 80%, one-sided level 5%.

    Attributes:
        on: 'harmful' or 'benign' prompts, or 'question'.
        prompts: Independent ones; several rollouts of one, or variants of it, count once.
        paired_worst: Same prompts in both runs, outcomes of a prompt uncorrelated.
        paired_typical: The same, correlated by ``tseval.power.TYPICAL_CORRELATION``.
        unpaired: Different prompts.
    """

    on: str
    prompts: int
    paired_worst: float | None
    paired_typical: float | None
    unpaired: float | None


class BenchmarkPlan(Struct, frozen=True, kw_only=True):
    """One benchmark's part of a plan.

    Attributes:
        benchmark: Its name.
        prompts: Rows to be run; None if nobody can know before it runs.
        rollouts: Completions to be made.
        others: What else is asked of the model, by kind: 'continued' traces, 'scored' texts,
            passes whose states are 'read'.
        tokens: New tokens, all rollouts together; None if unknown.
        truncated_share: Of the finished answers that were looked at; None if none were.
        looked_at: Rollouts that the tokens were estimated from.
        unfinished: Those of them that the time limit of a pilot cut off.
        source: Where these came from.
        seconds: This benchmark's share of the time; None if unknown.
        disk_bytes: Its share of the journal; None if unknown.
        judges: Who judges how much.
        resolution: What can be told apart, by class of prompts.
        missing: Why it cannot be measured here, or ''; the counts are then its card's. Mostly
            its data cannot be read.
        gated: Whether the data's owner has to grant access.
        skipped: Whether that is because its backend cannot do what it needs.
        page: Where access is asked for, or the data is found, or what else is to be done.
        warnings: What is odd about its data.
    """

    benchmark: str
    prompts: int | None
    rollouts: int | None
    others: dict[str, int] = {}
    tokens: Range | None = None
    truncated_share: float | None = None
    looked_at: int = 0
    unfinished: int = 0
    source: Source = "limits"
    seconds: Range | None = None
    disk_bytes: Range | None = None
    judges: tuple[JudgeCalls, ...] = ()
    resolution: tuple[Resolution, ...] = ()
    missing: str = ""
    gated: bool = False
    skipped: bool = False
    page: str = ""
    warnings: tuple[str, ...] = ()


class Plan(Struct, frozen=True, kw_only=True):
    """What a run will take.

    Attributes:
        benchmarks: In the order of the run.
        prompts, rollouts: Totals of what is known.
        tokens, seconds, disk_bytes: Totals; None where a part is unknown.
        disk_free_bytes: Where the run would be written.
        judges: Calls by judge, over all benchmarks.
        pace: How fast; None if unknown.
        pilot_seconds: What the pilot took, loading included; None without one.
        earlier_run: Folder of the run that lengths and speed come from, or ''.
        notes: What has to be known to read the figures.
        level: Of the intervals.
    """

    benchmarks: tuple[BenchmarkPlan, ...]
    prompts: int
    rollouts: int
    tokens: Range | None
    seconds: Range | None
    disk_bytes: Range | None
    disk_free_bytes: int | None
    judges: tuple[JudgeCalls, ...]
    pace: Pace | None = None
    pilot_seconds: float | None = None
    earlier_run: str = ""
    notes: tuple[str, ...] = ()
    level: float = LEVEL

    @property
    def complete(self) -> bool:
        """Whether every benchmark can be measured here."""
        return not any(each.missing for each in self.benchmarks)


def length_under(rollout: Rollout, own: Limits, limits: Limits) -> Length | None:
    """Say how long a rollout would be under other limits than its own.

    One that its own limits cut off might have gone on as far as the new ones let it. None if its
    backend did not count tokens.
    """
    trace, answer = rollout.trace_tokens, rollout.answer_tokens
    if trace is None or (answer is None and rollout.answer is not None):
        return None
    answer, ended = answer or 0, rollout.finish != "length"
    trace_cut = rollout.closed_by == "budget" or (rollout.answer is None and not ended)
    answer_cut = rollout.answer is not None and not ended
    low = min(trace, limits.trace) + min(answer, limits.answer)
    high = low
    if trace_cut and limits.trace > own.trace:
        high += max(0, limits.trace - trace)
    if answer_cut and limits.answer > own.answer:
        high += max(0, limits.answer - answer)
    cut = answer_cut and limits.answer <= own.answer
    return Length(low=low, high=high, truncated=cut or answer > limits.answer)


def total_tokens(
    lengths: Sequence[Sequence[Length]],
    rollouts: int,
    limit: int,
    *,
    anew: int = 0,
    level: float = LEVEL,
) -> Range:
    """Estimate the new tokens of all rollouts from those that were looked at.

    Args:
        lengths: Lengths of the rollouts looked at, by prompt.
        rollouts: N, of the run.
        limit: Most tokens of one rollout.
        anew: Prompts of the run, if it draws its rollouts anew; 0 if what was looked at is a
            random part of it, as a pilot is.
        level: Confidence level in (0, 1).

    Returns:
        N times the mean, with Student's interval over prompts: for the total of a finite
        population where a part of it was looked at, for that of another sample where it is drawn
        anew. Where all prompts have one length (most often a limit), as many of the others may
        differ as the exact interval of a share allows. Where the length of one is not known (its
        ``low`` and ``high`` differ), the lower limit is that of the lower ends, the upper limit
        that of the upper ends, and there is no value: what lies between is not to be guessed.

    Raises:
        StatisticsError: If nothing was looked at.

    Source: Cochran (1977), Sampling Techniques, section 2.8.
    Differs: By prompts, each weighing alike; the upper limit on the logarithm. Lengths are skewed:
        from 8 of 200 log-normal lengths (sigma 0.8) a nominal 0.95 covers 0.93 of the totals,
        from 32 of them 0.94; where they are drawn anew 0.92 and 0.93.
    """
    groups = [group for group in lengths if group]
    if not groups:
        raise StatisticsError("no rollout was looked at")
    n, seen = len(groups), [x for g in groups for x in g]
    left = 1 + n / anew if anew else max(0.0, 1 - n / rollouts)
    low, _ = _mean_limits([_mean(x.low for x in g) for g in groups], left, limit, level)
    _, high = _mean_limits([_mean(x.high for x in g) for g in groups], left, limit, level)
    # What a pilot has seen, the run will have.
    known = 0 if anew or len(seen) > rollouts else sum(x.low for x in seen)
    certain = all(x.low == x.high for x in seen)
    return Range(
        value=rollouts * _mean(_mean(x.low for x in g) for g in groups) if certain else None,
        low=max(low * rollouts, known),
        high=min(high, limit) * rollouts,
    )


def _mean_limits(means: list[float], left: float, limit: int, level: float) -> tuple[float, float]:
    """Give the limits of a mean; its variance is ``left`` times that of a mean of all."""
    from scipy.special import stdtrit

    n, mean = len(means), _mean(means)
    if n == 1:
        # One prompt says nothing about the others.
        other = min(1.0, left)
        return mean * (1 - other), mean + (limit - mean) * other
    spread = sum((each - mean) ** 2 for each in means) / (n - 1)
    if spread == 0:
        other = min(1.0, left) * (1 - ((1 - level) / 2) ** (1 / n))
        return mean * (1 - other), mean + (limit - mean) * other
    half = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(left * spread / n)
    # Lengths are skewed to the right, and so is the chance of their mean: the upper limit is that
    # of its logarithm.
    return max(0.0, mean - half), mean * math.exp(min(half / mean, 50.0))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def bounded(rollouts: int, limit: int) -> Range:
    """Bound the tokens of rollouts that nothing is known about but their limit."""
    return Range(value=None, low=0.0, high=float(rollouts * limit))


def guessed(found: Range, most: float) -> Range:
    """Widen an estimate from prompts of other benchmarks, which may be half or twice as long."""
    return Range(
        value=None if found.value is None else min(found.value, most),
        low=found.low / OTHER_BENCHMARKS,
        high=min(found.high * OTHER_BENCHMARKS, most),
    )


def added(independent: Iterable[Range], dependent: Iterable[Range] = ()) -> Range:
    """Add estimates.

    Args:
        independent: Their half-widths add as squares; those of parts that are only bounded in
            full.
        dependent: Estimates from the same rollouts: their half-widths add in full.
    """
    apart, together = list(independent), list(dependent)
    together += [part for part in apart if part.value is None]
    apart = [part for part in apart if part.value is not None]
    total = sum(part.value or 0.0 for part in (*apart, *together))
    below = math.sqrt(sum(((part.value or 0.0) - part.low) ** 2 for part in apart))
    above = math.sqrt(sum((part.high - (part.value or 0.0)) ** 2 for part in apart))
    return Range(
        value=None if any(part.value is None for part in together) else total,
        low=total - below - sum((part.value or 0.0) - part.low for part in together),
        high=total + above + sum(part.high - (part.value or 0.0) for part in together),
    )


def call_seconds(made: int, milliseconds: int, at_once: int, wanted: int) -> Range | None:
    """Say what a call takes that makes no tokens, from how long each was waited for.

    Args:
        made: Calls that were looked at.
        milliseconds: How long they were waited for, all together.
        at_once: Prompts that were under way; each is taken to have waited for one call.
        wanted: Prompts that will be under way.

    Returns:
        Seconds of the whole machine, a call; None if nothing was looked at. More at once may be
        as fast as that, or faster by as much as their ratio.
    """
    if not made or not at_once:
        return None
    each = milliseconds / 1000 / made / at_once
    gain = max(1.0, wanted / at_once)
    return Range(
        value=each / faster(1.0, gain),
        low=each / gain / CALLS_SPREAD,
        high=each * CALLS_SPREAD,
    )


def resolution(on: str, prompts: int) -> Resolution:
    """Say what can be told apart with so many independent prompts."""
    from .power import TYPICAL_CORRELATION, paired_difference, unpaired_difference

    return Resolution(
        on=on,
        prompts=prompts,
        paired_worst=paired_difference(prompts),
        paired_typical=paired_difference(prompts, TYPICAL_CORRELATION),
        unpaired=unpaired_difference(prompts),
    )
