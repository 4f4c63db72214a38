"""The scorecard as a table: every rate with its interval, denominator and exclusions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from tseval.report import values
from tseval.report.text import for_markdown, neutral
from tseval.types import Score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tseval.runfolder import Scorecard


class Line(NamedTuple):
    """One row of the table, as text."""

    benchmark: str
    metric: str
    rate: str
    interval: str
    n: str
    outcomes: str
    excluded: str
    judge: str
    protocol: str


HEADINGS = Line(
    "benchmark", "metric", "rate", "95% CI", "n", "outcomes", "excluded", "judge", "protocol"
)
_NAMES = {
    "asr_nonrefusal": "ASR (not refused)",
    "asr_nonrefusal_substantive": "ASR (not refused, substantive)",
    "asr_harmful": "ASR (harmful)",
    "orr": "ORR",
}


def lines(scorecard: "Scorecard", *, members: bool = True) -> list[Line]:
    """Make the rows of the table, in the scorecard's order.

    ``asr_nonrefusal_substantive`` differs from ``asr_nonrefusal`` only by empty and degenerate
    answers; where there are none its row is left out.

    Args:
        scorecard: The scores.
        members: Whether judges that are there only as members of a panel have rows.
    """
    shown = (score for score in scorecard.scores if members or not score.member)
    return [_line(score) for score in shown if not _redundant(score)]


def headings(scorecard: "Scorecard") -> Line:
    """Name the columns: not everything that probes measure is a rate."""
    return HEADINGS._replace(rate="value") if _probed(scorecard) else HEADINGS


def _probed(scorecard: "Scorecard") -> bool:
    """Say whether there are scores of probes: they have titles of their own."""
    return any(score.title or score.unit != "share" for score in scorecard.scores)


def _redundant(score: Score) -> bool:
    failures = score.outcomes.get("empty", 0) + score.outcomes.get("degenerate", 0)
    return score.metric == "asr_nonrefusal_substantive" and failures == 0


def _line(score: Score) -> Line:
    name = f"{score.benchmark} · {score.group}" if score.group else score.benchmark
    estimate = score.estimate
    prompts = f"{score.n}" if score.n == score.n_prompts else f"{score.n} ({score.n_prompts} p.)"
    return Line(
        benchmark=f"{name} *" if score.partial else name,
        metric=f"{values.heading(score, _NAMES)} {values.arrow(score.higher_is_better)}",
        rate=values.value(estimate.value if estimate else None, score.unit),
        interval=values.interval(estimate, score.unit) if estimate else score.undefined,
        n=prompts,
        outcomes=values.counts(score.outcomes),
        excluded=_excluded(score),
        judge=score.judge,
        protocol=score.fingerprint,
    )


def _excluded(score: Score) -> str:
    if not score.excluded:
        return "0"
    lost = values.counts(score.excluded)
    if score.bounds is None:
        # What a probe lost might have been anything: no bounds hold for a curve's depth.
        return lost
    low, high = score.bounds
    return f"{lost} → {100 * low:.1f}-{100 * high:.1f}%"


def notes(scorecard: "Scorecard", warnings: Iterable[str] = ()) -> list[str]:
    """Say what a reader of the numbers has to know, one sentence each."""
    found = [f"protocol {scorecard.preset}, seed {scorecard.seed}; rates are shares of n rollouts"]
    if _probed(scorecard):
        found.append("of probes, n counts traces, rollouts or cuts; · marks what has no better end")
    if any(score.partial for score in scorecard.scores):
        found.append("* partial: --limit took a subset of the rows")
    forced = [s for s in scorecard.scores if s.forced_close_share]
    if forced:
        share = max(s.forced_close_share or 0.0 for s in forced)
        found.append(
            f"tseval closed up to {100 * share:.1f}% of the thinking traces of a benchmark"
        )
    found.extend(_judge_notes(scorecard))
    found.extend(_share(scorecard, "truncated_share", "answers that were cut off at their limit"))
    found.extend(_share(scorecard, "unclosed_share", "rollouts whose trace never closed"))
    if any(score.group == "average" for score in scorecard.scores):
        found.append("averages weigh benchmarks equally; their intervals take them as independent")
    if not scorecard.subject.verified:
        found.append("the model's identity rests on the server's word (unverified)")
    found.extend(f"{name} failed: {why}" for name, why in scorecard.failed.items())
    found.extend(f"{name} skipped: {why}" for name, why in scorecard.skipped.items())
    found.extend(warnings)
    return [neutral(note) for note in found]


_JUDGE_NOTES = {
    "truncated": "answers were cut in the middle to fit the judge's context",
    "truncated-prompt": "prompts were cut to fit the judge's context",
    "escaped": "texts held marks of the judge's own format, which were broken up",
}


def _judge_notes(scorecard: "Scorecard") -> list[str]:
    """Say what judges remarked, of the benchmark where it was most."""
    most: dict[tuple[str, str], tuple[int, str]] = {}
    for score in scorecard.scores:
        for note, count in score.judge_notes.items():
            most[score.judge, note] = max(
                most.get((score.judge, note), (0, "")), (count, score.benchmark)
            )
    return [
        f"{judge}: {count} {_JUDGE_NOTES.get(note, note)} ({benchmark})"
        for (judge, note), (count, benchmark) in sorted(most.items())
    ]


def _share(scorecard: "Scorecard", field: str, what: str) -> list[str]:
    """Say the largest share of something, and of which benchmark, if there is any."""
    shares = [(getattr(s, field) or 0.0, s.benchmark) for s in scorecard.scores]
    share, benchmark = max(shares, default=(0.0, ""))
    return [f"{what}: up to {100 * share:.1f}% ({benchmark})"] if share else []


def rich_table(
    scorecard: "Scorecard", warnings: Iterable[str] = (), *, members: bool = True
) -> "RenderableType":
    """Make the table for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    right = {"rate", "value", "95% CI", "n"}
    for heading in headings(scorecard):
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading in right | {"protocol"},
        )
    for line in lines(scorecard, members=members):
        table.add_row(*(Text(neutral(cell)) for cell in line))
    head = Text(neutral(scorecard.subject.name), style="bold")
    return Group(
        head, table, *(Text(f"  {note}", style="dim") for note in notes(scorecard, warnings))
    )


def markdown(scorecard: "Scorecard", warnings: Iterable[str] = (), *, members: bool = True) -> str:
    """Make the table as Markdown."""
    from tabulate import tabulate

    rows = [[for_markdown(cell) for cell in line] for line in lines(scorecard, members=members)]
    table = tabulate(
        rows, headers=list(headings(scorecard)), tablefmt="github", disable_numparse=True
    )
    remarks = "\n".join(f"- {for_markdown(note)}" for note in notes(scorecard, warnings))
    return f"**{for_markdown(scorecard.subject.name)}**\n\n{table}\n\n{remarks}\n"
