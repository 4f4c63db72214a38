"""Which numbers of two runs a gate's rule is about, and which of them one run alone has."""

from collections.abc import Iterable, Iterator, Sequence

from .compare import Compared, Comparison, Side
from .errors import ConfigError
from .outcomes import SeriesKey, key_of
from .policy import Rule
from .types import Score

# Of the whole of a benchmark, not of a part of it.
_WHOLE = ("", "average")


def covered(rule: Rule, scores: Iterable[Score]) -> list[SeriesKey]:
    """Name the numbers that a rule is about: of a benchmark the whole, or else its parts.

    A panel's members and a suite's averages are covered only where they are named.
    """
    named = [key_of(score) for score in scores if _is_meant(rule, score)]
    whole = {benchmark for benchmark, group, _, _ in named if group in _WHOLE}
    return [key for key in named if key[0] not in whole or key[1] in _WHOLE]


def _is_meant(rule: Rule, score: Score) -> bool:
    return (
        score.metric == rule.metric
        and rule.benchmark in ("*", score.benchmark)
        and rule.judge in ("", score.judge)
        and rule.group in ("", score.group)
        and not (score.member and not rule.judge)
        and (score.group != "average" or rule.benchmark == score.benchmark)
    )


def decided(rule: Rule, comparison: Comparison) -> list[Compared]:
    """Choose the rows of a comparison that a rule decides.

    Raises:
        ConfigError: A number has several judges, and the rule names none of them.
    """
    keys = covered(rule, (row.after for row in comparison.rows))
    rows = [row for row in comparison.rows if key_of(row.after) in keys]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        judges = sorted({row.judge for row in rows if row.benchmark == benchmark})
        if len(judges) > 1:
            raise ConfigError(
                f"the policy's {said(rule)!r} was judged by several: {', '.join(judges)}",
                hint='name one of them: judge = "..."',
            )
    return rows


def missing(
    rule: Rule, before: Side, after: Side, rows: Sequence[Compared]
) -> Iterator[tuple[SeriesKey, bool]]:
    """Find the numbers that a rule is about and cannot decide, since one run alone has them.

    Where a rule leaves the judge open, a number that both have under some judge is there.

    Args:
        rule: The rule.
        before: The baseline.
        after: The candidate.
        rows: What the rule decides.

    Yields:
        Its key, and whether the baseline is the run that has it.
    """
    have = {key_of(row.after) for row in rows}
    there, here = (covered(rule, side.scorecard.scores) for side in (before, after))
    seen = {key[:3] for key in have} if not rule.judge else set()
    for key in dict.fromkeys((*there, *here)):
        if key in have or key[:3] in seen:
            continue
        if not rule.judge:
            seen.add(key[:3])
        yield key, key in there


def said(rule: Rule) -> str:
    """Name a rule as its policy does."""
    return " ".join(filter(None, (rule.benchmark, rule.group, rule.metric, rule.judge)))
