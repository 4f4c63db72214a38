"""The deliberation scorecard and the change between two, as tables and slopes."""

from typing import TYPE_CHECKING

from tseval.report import values
from tseval.report.html import Part
from tseval.report.judges import Page, Section
from tseval.report.plots import COLOURS, Plot, Series, file_name

if TYPE_CHECKING:
    from tseval.before_after import Change, Changes
    from tseval.deliberation import DeliberationCard, Finding

_TITLE = "Do the thinking tokens deliberate?"


def deliberation_page(card: "DeliberationCard", *, several: bool = False) -> Page:
    """Lay a card out.

    Args:
        card: The card.
        several: Whether there are cards of other judges beside it.
    """
    headings = ("finding", "value", "95% CI", "n", "against", "p", "reading")
    rows = [_row(finding) for finding in card.findings]
    section = Section("", headings, list(rows), frozenset({"value", "95% CI", "n", "p"}))
    notes = [card.reading, f"labels by {card.judge}; scale {card.scale}"]
    if card.missing:
        notes.append(f"not run: {', '.join(card.missing)}")
    notes.append(
        "readings are chosen by rules from the intervals; several findings are read at once,"
        " without correction for their number"
    )
    title = f"{_TITLE} {card.judge}" if several else _TITLE
    return Page(title, [section], [*notes, *card.notes])


def deliberation_part(card: "DeliberationCard", *, several: bool = False) -> Part:
    """Make the card's part of a web page."""
    page = deliberation_page(card, several=several)
    lead, *notes = page.notes
    return Part(f"deliberation-{file_name(card.judge)}", page._replace(notes=notes), (), lead)


def _row(finding: "Finding") -> tuple[str, ...]:
    estimate, beside, unit = finding.estimate, finding.beside, finding.unit
    against = ""
    if beside is not None:
        gain = finding.is_gain
        shown = values.difference(beside, unit) if gain else values.value(beside.value, unit)
        against = f"{finding.beside_title}: {shown} {values.interval(beside, unit)}"
    few = finding.n == finding.n_prompts or not finding.n_prompts
    return (
        f"{finding.title} {values.arrow(finding.higher_is_better)}",
        values.value(estimate.value if estimate else None, unit),
        values.interval(estimate, unit) if estimate else finding.undefined,
        f"{finding.n}" if few else f"{finding.n} ({finding.n_prompts} p.)",
        against,
        values.p_value(finding.p_value),
        finding.reading,
    )


def changes_page(found: "Changes") -> Page:
    """Lay the change between two runs out."""
    headings = ("finding", "before", "after", "n", "difference", "95% CI", "by", "reading")
    rows = [_changed(change) for change in found.changes]
    right = frozenset({"before", "after", "n", "difference", "95% CI"})
    names = f"{found.before} → {found.after}"
    notes = [f"before: {found.before}; after: {found.after}; labels by {found.judge}"]
    return Page(f"Before and after: {names}", [Section("", headings, list(rows), right)],
                [*notes, *found.notes])  # fmt: skip


def changes_part(found: "Changes") -> Part:
    """Make the comparison's part of a web page, with a slope plot for each axis."""
    anchor = f"change-{file_name(found.judge)}"
    return Part(anchor, changes_page(found), slopes(found))


def _changed(change: "Change") -> tuple[str, ...]:
    unit, found = change.unit, change.difference
    interval = ""
    if found is not None:
        # Limits in the unit of the difference, whose percent signs would be percentage points.
        interval = values.interval(found, unit)
    return (
        f"{change.title} {values.arrow(change.higher_is_better)}",
        values.value(change.before.value if change.before else None, unit),
        values.value(change.after.value if change.after else None, unit),
        f"{change.n_before} → {change.n_after}",
        values.difference(found, unit),
        interval,
        found.method if found is not None else "",
        # Not beside the limits, which are never wrapped: two reasons fill a terminal.
        change.reading or change.undefined,
    )


def slopes(found: "Changes") -> list[Plot]:
    """Draw each finding as a line from before to after; findings of one axis share a plot."""
    axes: dict[str, list[Change]] = {}
    for change in found.changes:
        if change.before is not None and change.after is not None:
            axes.setdefault(change.axis, []).append(change)
    return [
        Plot(
            name=file_name("slope", axis.replace(" ", "_"), found.judge),
            title=f"Before and after: {axis}",
            x_title="",
            y_title=axis,
            series=tuple(_slope(change, place) for place, change in enumerate(changes)),
            ticks=(f"before: {found.before}", f"after: {found.after}"),
        )
        for axis, changes in axes.items()
    ]


def _slope(change: "Change", place: int) -> Series:
    ends = [end for end in (change.before, change.after) if end is not None]
    return Series(
        label=change.title,
        x=(0.0, 1.0),
        y=tuple(end.value for end in ends),
        low=tuple(end.low for end in ends),
        high=tuple(end.high for end in ends),
        colour=COLOURS[place % len(COLOURS)],
    )
