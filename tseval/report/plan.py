"""A plan as tables: what is run, who judges how much, what can be told apart, what is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tseval.power import TYPICAL_CORRELATION
from tseval.report.judges import Page, Section

if TYPE_CHECKING:
    from tseval.pace import Range
    from tseval.planning import BenchmarkPlan, Plan, Resolution

_UNKNOWN = "unknown"
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def plan_page(plan: "Plan") -> Page:
    """Lay a plan out; it has no figure that the plan has not."""
    sections = [_work(plan), _calls(plan), _differences(plan)]
    if not plan.complete:
        sections.append(_missing(plan))
    return Page("What this run will take", [s for s in sections if s.rows], list(_notes(plan)))


def _work(plan: "Plan") -> Section:
    rows: list[Sequence[str]] = [_row(each) for each in plan.benchmarks]
    known = [each for each in plan.benchmarks if each.prompts is not None]
    others: Counter[str] = Counter()
    for each in plan.benchmarks:
        others.update(each.others)
    rows.append(
        (
            "total",
            _count(plan.prompts) if known else _UNKNOWN,
            _count(plan.rollouts) if known else _UNKNOWN,
            _others(others),
            amount(plan.tokens),
            "",
            "",
            clock(plan.seconds),
            amount(plan.disk_bytes, "B"),
        )
    )
    headings: tuple[str, ...] = (
        *("benchmark", "prompts", "rollouts", "other calls", "new tokens", "looked at", "cut off"),
        *("time", "disk"),
    )
    if not others:
        # Most runs ask for nothing but rollouts.
        place = headings.index("other calls")
        headings = (*headings[:place], *headings[place + 1 :])
        rows = [(*row[:place], *row[place + 1 :]) for row in rows]
    return Section("", headings, rows, frozenset(headings[1:]) - {"looked at"})


def _row(each: "BenchmarkPlan") -> Sequence[str]:
    seen = {"pilot": "of a pilot", "earlier run": "of an earlier run"}
    origin = seen.get(each.source, f"of {each.source}")
    share = each.truncated_share
    looked_at = f"{each.looked_at} {origin}" if each.looked_at else "none"
    if each.unfinished:
        looked_at += f", {each.unfinished} unfinished"
    return (
        each.benchmark,
        _UNKNOWN if each.prompts is None else _count(each.prompts),
        _UNKNOWN if each.rollouts is None else _count(each.rollouts),
        _others(each.others),
        amount(each.tokens),
        looked_at,
        "" if share is None else f"{100 * share:.0f}%",
        clock(each.seconds),
        amount(each.disk_bytes, "B"),
    )


def _others(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_count(count)} {kind}" for kind, count in counts.items())


def _calls(plan: "Plan") -> Section:
    rows: list[Sequence[str]] = [
        (
            each.judge,
            each.model or "none",
            ", ".join(each.panels),
            _count(each.calls),
        )
        for each in plan.judges
    ]
    headings = ("judge", "its model", "member of", "calls at most")
    return Section("Judging", headings, rows, frozenset({"calls at most"}))


def _differences(plan: "Plan") -> Section:
    rows: list[Sequence[str]] = [
        (each.benchmark, *_resolved(found)) for each in plan.benchmarks for found in each.resolution
    ]
    headings = (
        *("benchmark", "prompts of kind", "independent"),
        f"same prompts, correlation {TYPICAL_CORRELATION:g}",
        *("same prompts, none", "other prompts"),
    )
    return Section(
        "Smallest difference of two runs that shows (power 80%, one-sided 5%, rates around 50%)",
        headings,
        rows,
        frozenset(headings[2:]),
    )


def _resolved(found: "Resolution") -> Sequence[str]:
    return (
        found.on,
        _count(found.prompts),
        *map(_percent, (found.paired_typical, found.paired_worst, found.unpaired)),
    )


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}%"


def _missing(plan: "Plan") -> Section:
    rows: list[Sequence[str]] = [
        (
            each.benchmark,
            "backend" if each.skipped else "gated data" if each.gated else "data",
            each.missing,
            f"ask for access at {each.page}" if each.gated else each.page,
        )
        for each in plan.benchmarks
        if each.missing
    ]
    headings = ("benchmark", "missing", "what was found", "what to do")
    return Section("What cannot be measured here yet", headings, rows)


def _notes(plan: "Plan") -> Iterator[str]:
    if plan.pilot_seconds is not None:
        yield f"the pilot took {_clock(plan.pilot_seconds)}, loading included"
    if plan.earlier_run:
        yield f"lengths{' and speed' if plan.pace else ''} are those of {plan.earlier_run}"
    if plan.pace is not None:
        speed = plan.pace.tokens_per_second
        yield (
            f"speed: {speed.value:.0f} new tokens a second ({speed.low:.0f} to {speed.high:.0f}),"
            f" judging included, measured with {plan.pace.concurrent} rollouts at once;"
            f" {_clock(plan.pace.fixed_seconds)} more are spent whatever the size"
        )
        if plan.pace.tail_seconds:
            yield (
                f"the last rollouts may take up to {_clock(plan.pace.tail_seconds)} beyond that:"
                " the pilot has not seen how its own ended"
            )
    free, need = plan.disk_free_bytes, plan.disk_bytes
    if free is not None and need is not None and need.high > free:
        yield f"the disk has {_amount(free)}B free, and this run may need {_amount(need.high)}B"
    yield f"in brackets: intervals at level {plan.level:g}"
    yield from plan.notes
    for each in plan.benchmarks:
        yield from each.warnings


def amount(found: "Range | None", unit: str = "") -> str:
    """Write a range of tokens or bytes."""
    if found is None:
        return _UNKNOWN
    low, high = _amount(found.low), _amount(found.high)
    if found.value is None:
        return f"{low} to {high}{unit}"
    return f"{_amount(found.value)}{unit} [{low}, {high}]"


def clock(found: "Range | None") -> str:
    """Write a range of seconds."""
    if found is None:
        return _UNKNOWN
    low, high = _clock(found.low), _clock(found.high)
    if found.value is None:
        return f"{low} to {high}"
    return f"{_clock(found.value)} [{low}, {high}]"


def _amount(value: float) -> str:
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
