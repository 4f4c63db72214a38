"""Tables about judges: how one fared against people, and the rates corrected for it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.report.text import for_markdown, neutral
from tseval.types import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tseval.judgement.calibration import CalibrationRecord
    from tseval.judgement.correction import CorrectedScore, Corrections
    from tseval.judgement.validation import Miss

_EXCERPT = 160
_WORDS = {
    "refusal": {"positive": "refusal", "negative": "no refusal"},
    "harmful": {"positive": "harmful", "negative": "not harmful"},
}


class Section(NamedTuple):
    """A table with a title.

    Attributes:
        title: What it shows, or ''.
        headings: Column headings; may hold names that others gave.
        rows: Cells as text; may hold what a model wrote.
        right: Headings of columns that are aligned right.
    """

    title: str
    headings: Sequence[str]
    rows: list[Sequence[str]]
    right: frozenset[str] = frozenset()


class Page(NamedTuple):
    """Sections under one title, with remarks below."""

    title: str
    sections: list[Section]
    notes: list[str]


def validation_page(record: "CalibrationRecord", worst: Sequence["Miss"] = ()) -> Page:
    """Lay out how a judge fared: agreement, confusion, and the worst rows."""
    sections = [_quality(record), _confusion(record)]
    if worst:
        sections.append(_worst(record, worst))
    return Page(f"{record.judge.name} against people: {record.kind}", sections, _facts(record))


def corrections_page(found: "Corrections") -> Page:
    """Lay out corrected rates, those that were refused among them."""
    # As in the scorecard: the other reading of the same rows is shown where it differs.
    shown = [s for s in found.scores if s.known or s.metric != "asr_nonrefusal_substantive"]
    rows: list[Sequence[str]] = [_corrected(score) for score in shown]
    headings = (
        *("benchmark", "metric", "measured", "corrected", "95% CI", "by", "n"),
        *("not corrected", "excluded", "gate", "judge", "protocol"),
    )
    right = frozenset({"measured", "corrected", "95% CI", "n"})
    return Page(
        "Rates corrected for the judge's errors",
        [Section("", headings, rows, right)],
        list(dict.fromkeys([*_warnings(shown), *found.warnings])),
    )


def rich_page(page: Page) -> "RenderableType":
    """Make a page for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(neutral(page.title), style="bold")]
    for section in page.sections:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        for heading in section.headings:
            right = heading in section.right
            name = Text(neutral(heading))
            table.add_column(name, justify="right" if right else "left", no_wrap=right)
        for row in section.rows:
            table.add_row(*(Text(neutral(cell)) for cell in row))
        parts += [Text(f"\n{neutral(section.title)}")] if section.title else []
        parts.append(table)
    return Group(*parts, *(Text(f"  {neutral(note)}", style="dim") for note in page.notes))


def markdown_page(page: Page) -> str:
    """Make a page as Markdown."""
    from tabulate import tabulate

    parts = [f"**{for_markdown(page.title)}**"]
    for section in page.sections:
        cells = [[for_markdown(cell) for cell in row] for row in section.rows]
        if section.title:
            parts.append(for_markdown(section.title))
        parts.append(
            tabulate(
                cells,
                headers=[for_markdown(heading) for heading in section.headings],
                tablefmt="github",
                disable_numparse=True,
            )
        )
    remarks = "\n".join(f"- {for_markdown(note)}" for note in page.notes)
    return "\n\n".join([*parts, *filter(None, [remarks])]) + "\n"


# -- validation


def _quality(record: "CalibrationRecord") -> Section:
    yes, no = (sum(row) for row in _cells(record))
    of = {"accuracy": record.n, "sensitivity": yes, "specificity": no, "kappa": record.n}
    words = _WORDS[record.kind]
    meaning = {
        "accuracy": "of all rows, judged as people did",
        "sensitivity": f"of what people call {words['positive']}, judged so",
        "specificity": f"of what people call {words['negative']}, judged so",
        "kappa": "agreement beyond chance (Cohen)",
    }
    rows: list[Sequence[str]] = []
    for name, note in meaning.items():
        estimate: Estimate | None = getattr(record, name)
        percent = name != "kappa"
        rows.append((name, _value(estimate, percent), _interval(estimate, percent),
                     str(of[name]), note))  # fmt: skip
    headings = ("measure", "value", "95% CI", "n", "meaning")
    return Section("", headings, rows, frozenset({"value", "95% CI", "n"}))


def _cells(record: "CalibrationRecord") -> tuple[tuple[int, int], tuple[int, int]]:
    """Judged yes and no, by what people say: yes first."""
    sums = [sum(row[cell] * row[4] for row in record.prompts) for cell in range(4)]
    return (sums[0], sums[1]), (sums[2], sums[3])


def _confusion(record: "CalibrationRecord") -> Section:
    said = {reason for row in record.table.values() for reason in row}
    others = sorted(said - {"positive", "negative"})
    words = _WORDS[record.kind]
    headings = ("people say", "as", *(f"judge: {words[w]}" for w in words), *others, "rows")
    rows: list[Sequence[str]] = []
    for value, row in record.table.items():
        label = "positive" if value in record.positive else "negative"
        counts = [row.get(each, 0) for each in ("positive", "negative", *others)]
        rows.append((value, words[label], *map(str, counts), str(sum(counts))))
    right = frozenset(headings[2:])
    return Section("Confusion", headings, rows, right)


def _worst(record: "CalibrationRecord", worst: Sequence["Miss"]) -> Section:
    rows: list[Sequence[str]] = [
        (
            miss.place.rpartition("/")[2],
            miss.label,
            _WORDS[record.kind][miss.said],
            "-" if miss.certainty is None else f"{miss.certainty:.2f}",
            neutral(miss.prompt, _EXCERPT // 2),
            neutral(miss.answer, _EXCERPT),
        )
        for miss in worst
    ]
    headings = ("row", "people say", "judge says", "certainty", "prompt", "answer")
    return Section("Rows on which they disagree", headings, rows, frozenset({"certainty"}))


def _facts(record: "CalibrationRecord") -> list[str]:
    people = record.population
    facts = [
        f"answers to {people.benchmark or 'an unknown benchmark'} by"
        f" {people.model_family or 'an unknown model family'}; a positive label means"
        f" {people.labels}; labels {people.source[:12]}",
    ]
    if record.excluded:
        facts.append(f"excluded: {_counts(record.excluded)}")
    if len(record.prompts) and any(sum(row[:4]) > 1 for row in record.prompts):
        facts.append("some prompts occur in several rows: intervals are clustered by prompt")
    return facts


# -- corrections


def _corrected(score: "CorrectedScore") -> Sequence[str]:
    name = f"{score.benchmark} · {score.group}" if score.group else score.benchmark
    labels = f"{score.method} ({score.labels} labels)"
    if score.weight is not None:
        labels += f", judge's weight {score.weight:.2f}"
    return (
        name,
        f"{score.metric} {'↑' if score.higher_is_better else '↓'}",
        f"{_value(score.measured)} {_interval(score.measured)}".strip(),
        _value(score.estimate),
        _interval(score.estimate) if score.estimate else "refused",
        labels,
        str(score.n),
        _counts(score.known) or "0",
        _counts(score.excluded) or "0",
        "yes" if score.feeds_gate else "no",
        score.judge,
        score.fingerprint,
    )


def _warnings(scores: "list[CorrectedScore]") -> Iterator[str]:
    """Say each reason once, with the rates that it is about."""
    about: defaultdict[str, list[str]] = defaultdict(list)
    for score in scores:
        name = f"{score.benchmark} {score.group}".strip()
        head = f"{name} {score.metric} under {score.judge}"
        if score.refused:
            about[f"refused ({score.method}): {score.refused}"].append(head)
        for warning in score.warnings:
            about[f"warning ({score.method}): {warning}"].append(head)
    for reason, heads in about.items():
        yield f"{reason}: {', '.join(heads)}"
    if any(score.warnings for score in scores):
        yield "corrected rates with a warning feed no gate and no board"


def _value(estimate: Estimate | None, percent: bool = True) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f}%" if percent else f"{estimate.value:.3f}"


def _interval(estimate: Estimate | None, percent: bool = True) -> str:
    if estimate is None:
        return ""
    if percent:
        return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _counts(counts: dict[str, int]) -> str:
    return " ".join(f"{name} {count}" for name, count in counts.items())
