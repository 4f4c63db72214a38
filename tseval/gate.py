"""Decide whether a candidate may replace a baseline: non-inferiority, metric by metric.

With d the worsening of the candidate, L and U its one-sided limits at alpha, and m the margin: a
metric passes if U < m; it fails if L > 0, and if that stands after Holm's adjustment over the
metrics; else nobody can tell. The gate passes if every metric passes (intersection-union: no
adjustment is needed for that), and fails if one fails.
"""

from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from .compare import Compared, Comparison, Side, match_scores
from .coverage import decided, missing, said
from .errors import ConfigError
from .outcomes import SeriesKey, key_of
from .policy import Policy, Rule
from .stats_compare import holm
from .stats_paired import Paired
from .types import Score, Unit

Outcome = Literal["pass", "fail", "cannot tell"]


class Decision(Struct, frozen=True, kw_only=True):
    """What came of one metric.

    Attributes:
        benchmark, group, metric, judge, title, unit: Which number.
        outcome: 'pass', 'fail' or 'cannot tell'.
        reason: Why, in a sentence.
        cause: Why nobody can tell: the 'interval' is too wide, the 'adjustment' for several metrics
            decides, or 'data' are missing, which no policy lets pass.
        before, after: The two values, over the pairs where there are some; None where undefined.
        worsening, low, high: d, L and U; None where undefined.
        margin: m.
        worst_high: U with every excluded row taken for the worse; None where it was not needed.
        pvalue, adjusted: One-sided, of no worsening, and Holm's over the metrics of the gate.
        prompts: Pairs behind it; 0 where the rows could not be paired.
        needed: Prompts that would tell, were the shares of discordant pairs to stay and the metric
            the first in Holm's adjustment; None where that is not known.
        excluded_before, excluded_after: Shares of rows that left the denominator.
        allowed: Fields of the protocol that differ, and were allowed to.
    """

    benchmark: str
    metric: str
    judge: str
    group: str
    title: str
    unit: Unit
    margin: float
    outcome: Outcome = "cannot tell"
    reason: str = ""
    cause: Literal["", "interval", "adjustment", "data"] = ""
    before: float | None = None
    after: float | None = None
    worsening: float | None = None
    low: float | None = None
    high: float | None = None
    worst_high: float | None = None
    pvalue: float | None = None
    adjusted: float | None = None
    prompts: int = 0
    needed: int | None = None
    excluded_before: float = 0.0
    excluded_after: float = 0.0
    allowed: tuple[str, ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of the gate.

    Attributes:
        outcome: 'fail' if a metric fails, else 'cannot tell' if one cannot be told, else 'pass'.
        passed: Whether to go on, under the policy.
        baseline, candidate: Names.
        alpha: The policy's.
        decisions: One a metric.
        notes: What a reader has to know of the runs.
    """

    outcome: Outcome
    passed: bool
    baseline: str
    candidate: str
    alpha: float
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()


class _Limits(NamedTuple):
    worsening: float
    low: float
    high: float
    pvalue: float


def decide(policy: Policy, before: Side, after: Side, comparison: Comparison) -> Verdict:
    """Apply a policy to a comparison.

    Args:
        policy: The policy.
        before: The baseline, for the worst case.
        after: The candidate, likewise.
        comparison: Of the two.

    Raises:
        ConfigError: The policy names a number that the runs do not have, or one twice.
    """
    chosen, lost = _chosen(policy, before, after, comparison)
    places = [key_of(row.after) for _, row in chosen] + [key for _, key, _ in lost]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"the policy names {' '.join(filter(None, place))} twice")
    found = [(rule, row, _limits(rule, row, policy.alpha)) for rule, row in chosen]
    tested = [limits.pvalue for _, _, limits in found if limits is not None]
    adjusted = iter(holm(tested).tolist())
    decisions = [
        _decision(
            policy,
            rule,
            row,
            limits,
            next(adjusted) if limits else None,
            sides=(before, after),
            tested=len(tested),
        )
        for rule, row, limits in found
    ]
    decisions += [_lost(rule, key, is_before) for rule, key, is_before in lost]
    outcomes = {each.outcome for each in decisions}
    outcome: Outcome = (
        "fail" if "fail" in outcomes else "cannot tell" if "cannot tell" in outcomes else "pass"
    )
    return Verdict(
        outcome=outcome,
        passed=outcome == "pass"
        or (outcome == "cannot tell" and _is_let_through(policy, decisions)),
        baseline=comparison.before,
        candidate=comparison.after,
        alpha=policy.alpha,
        decisions=tuple(decisions),
        notes=comparison.notes,
    )


def _is_let_through(policy: Policy, decisions: list[Decision]) -> bool:
    """Whether a policy takes what cannot be told for a pass; what is missing never is."""
    return policy.cannot_tell == "pass" and all(each.cause != "data" for each in decisions)


def _chosen(
    policy: Policy, before: Side, after: Side, comparison: Comparison
) -> tuple[list[tuple[Rule, Compared]], list[tuple[Rule, SeriesKey, bool]]]:
    """Give each rule its rows, and the numbers that one run lacks: True if the candidate does.

    Raises:
        ConfigError: A rule names what neither run has.
    """
    chosen: list[tuple[Rule, Compared]] = []
    lost: list[tuple[Rule, SeriesKey, bool]] = []
    for rule in policy.metrics:
        rows = decided(rule, comparison)
        gone = list(missing(rule, before, after, rows))
        if not rows and not gone:
            known = dict.fromkeys(f"{row.benchmark} {row.metric}" for row in comparison.rows)
            raise ConfigError(
                f"the policy names {said(rule)!r}, which the two runs do not both have",
                hint=f"they have: {', '.join(list(known)[:8])}",
            )
        chosen += [(rule, row) for row in rows]
        lost += [(rule, key, is_before) for key, is_before in gone]
    return chosen, lost


def _lost(rule: Rule, key: SeriesKey, is_before: bool) -> Decision:
    benchmark, group, metric, judge = key
    return Decision(
        benchmark=benchmark,
        metric=metric,
        judge=judge,
        group=group,
        title="",
        unit="share",
        margin=rule.margin,
        reason=f"the {'candidate' if is_before else 'baseline'} has no such number",
        cause="data",
    )


def _sign(rule: Rule, row: Compared) -> int:
    better = row.higher_is_better
    if better is None and not rule.worse:
        raise ConfigError(
            f"{row.metric} has no better end of its own", hint='say which: worse = "up" or "down"'
        )
    if better is not None and rule.worse not in ("", "down" if better else "up"):
        raise ConfigError(
            f"the policy says that {row.metric} gets worse as it goes {rule.worse}, but that is"
            " its better end",
            hint="leave worse out: it is for metrics without a better end of their own",
        )
    if rule.worse:
        return 1 if rule.worse == "up" else -1
    return -1 if better else 1


def _limits(rule: Rule, row: Compared, alpha: float) -> _Limits | None:
    """Give the worsening with its one-sided limits and p-value; None where there is none."""
    sign = _sign(rule, row)
    if row.unit == "share" and rule.margin >= 1:
        raise ConfigError(
            f"the margin of {row.metric} is {rule.margin}, which nothing can exceed",
            hint="0.03 is three points",
        )
    if row.difference is None or _open_sides(row):
        return None
    value = sign * row.difference.value
    if row.paired is not None:
        return _paired_limits(row.paired, sign, alpha)
    # The limits of independent values are known at one level only: they are scaled to alpha.
    from scipy.special import ndtr, ndtri

    two_sided = float(ndtri(1 - (1 - row.difference.level) / 2))
    ends = sorted((sign * row.difference.low, sign * row.difference.high))
    below, above = ((value - ends[0]) / two_sided, (ends[1] - value) / two_sided)
    z = float(ndtri(1 - alpha))
    pvalue = float(ndtr(-value / below)) if below > 0 else float(value <= 0)
    return _Limits(value, value - z * below, value + z * above, pvalue)


def _open_sides(row: Compared) -> str:
    """Name the runs whose share may be anything at all, where no pairs say more; '' if none.

    Limits of such a share are no quantiles, and nothing can be scaled to alpha from them.
    """
    if row.paired is not None or row.unit != "share":
        return ""
    sides = (("baseline", row.before.estimate), ("candidate", row.after.estimate))
    return " and ".join(name for name, e in sides if e is not None and e.low <= 0 and e.high >= 1)


def _paired_limits(pairs: Paired, sign: int, alpha: float) -> _Limits:
    turned = pairs if sign > 0 else pairs.turned()
    limits = turned.interval(1 - 2 * alpha)
    return _Limits(limits.value, limits.low, limits.high, turned.worse())


def _decision(
    policy: Policy,
    rule: Rule,
    row: Compared,
    limits: _Limits | None,
    adjusted: float | None,
    *,
    sides: tuple[Side, Side],
    tested: int,
) -> Decision:
    shares = _excluded(row.before), _excluded(row.after)
    base = Decision(
        benchmark=row.benchmark,
        metric=row.metric,
        judge=row.judge,
        group=row.group,
        title=row.title,
        unit=row.unit,
        margin=rule.margin,
        before=_value(row.before, row.paired.rate_b if row.paired else None),
        after=_value(row.after, row.paired.rate_a if row.paired else None),
        excluded_before=shares[0],
        excluded_after=shares[1],
        allowed=row.allowed,
    )
    if limits is None or adjusted is None:
        which = _open_sides(row)
        why = f"no interval is known of the {which}" if which else row.undefined
        why = why or "there is no difference"
        return msgspec.structs.replace(base, reason=why, cause="data")
    most = policy.excluded if rule.excluded is None else rule.excluded
    alone = _alone(row)
    doubtful = max(*shares, alone) > most or shares[1] - shares[0] > policy.excluded_rise
    worst = _worst_high(row, _sign(rule, row), policy.alpha, *sides) if doubtful else None
    holds = limits.high < rule.margin and (
        not doubtful or (worst is not None and worst < rule.margin)
    )
    doubt = _doubt(shares, alone) if doubtful else ""
    outcome, reason, cause = _outcome(policy, limits, adjusted, doubt, holds=holds)
    needed = None
    if cause in ("interval", "adjustment") and row.paired is not None:
        turned = row.paired if _sign(rule, row) > 0 else row.paired.turned()
        needed = turned.pairs_to_tell(rule.margin, policy.alpha, policy.alpha / tested)
    return msgspec.structs.replace(
        base,
        outcome=outcome,
        reason=reason,
        cause=cause,
        worsening=limits.worsening,
        low=limits.low,
        high=limits.high,
        worst_high=worst,
        pvalue=limits.pvalue,
        adjusted=adjusted,
        prompts=row.paired.prompts if row.paired is not None else 0,
        needed=needed,
    )


def _outcome(
    policy: Policy,
    limits: _Limits,
    adjusted: float,
    doubt: str,
    *,
    holds: bool,
) -> tuple[Outcome, str, Literal["", "interval", "adjustment", "data"]]:
    """Decide; ``doubt`` says what is missing, where that is too much to leave out."""
    if holds:
        return "pass", "the upper limit of the worsening is below the margin", ""
    if limits.low > 0 and adjusted < policy.alpha:
        return "fail", "it got worse: the lower limit of the worsening is above 0", ""
    if doubt:
        return (
            "cannot tell",
            f"{doubt}, and whether the margin would hold with them is not known",
            "data",
        )
    if limits.low > 0:
        why = "it looks worse, but not after the adjustment for several metrics"
        return "cannot tell", why, "adjustment"
    return "cannot tell", "the interval of the worsening holds both 0 and the margin", "interval"


def _doubt(excluded: tuple[float, float], alone: float) -> str:
    lost = f"{100 * excluded[1]:.1f}% of the rows are excluded ({100 * excluded[0]:.1f}% before)"
    return f"{lost}, one run alone has {100 * alone:.1f}% of the prompts" if alone else lost


def _alone(row: Compared) -> float:
    """Share of the prompts that one run alone was asked, as where it was interrupted.

    Prompts whose rows were excluded are no part of it; nor is anything where the runs were allowed
    to have other prompts.
    """
    if row.paired is None or "limit" in row.allowed:
        return 0.0
    excluded = sum(row.before.excluded.values()) + sum(row.after.excluded.values())
    alone = max(0, row.alone - excluded)
    return alone / (row.paired.prompts + row.alone)


def _value(score: Score, paired: float | None) -> float | None:
    if paired is not None:
        return paired
    return score.estimate.value if score.estimate else None


def _excluded(score: Score) -> float:
    lost = sum(score.excluded.values())
    return lost / (score.n + lost) if score.n + lost else 0.0


def _worst_high(row: Compared, sign: int, alpha: float, before: Side, after: Side) -> float | None:
    """Upper limit where every excluded row was good before, and is bad after; None if unknown."""
    good, bad = (0.0, 1.0) if sign > 0 else (1.0, 0.0)
    filled = match_scores(
        (before.outcomes, row.before), (after.outcomes, row.after), fill=(good, bad)
    )
    if filled is None or not filled.samples:
        return None
    return _paired_limits(filled.paired(), sign, alpha).high
