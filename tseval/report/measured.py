"""What a probe found as tables: its numbers with nulls and tests, its grids, its remarks."""

from collections.abc import Sequence

from tseval.measurements import Grid, Measurement, Number
from tseval.report import values
from tseval.report.judges import Page, Section
from tseval.types import Unit

_HEADINGS = (
    *("quantity", "of", "value", "95% CI", "n", "null", "p", "test", "made of", "excluded", "note"),
)
_RIGHT = frozenset({"value", "95% CI", "n", "p"})
_OPTIONAL = ("null", "p", "test", "made of", "excluded", "note")


def measurement_page(found: Measurement) -> Page:
    """Lay out a measurement; curves are for those who can draw."""
    title = f"{found.title} ({found.probe})"
    sections = [numbers_section(found), *map(grid_section, found.grids)]
    return Page(title, [section for section in sections if section.rows], remarks(found))


def remarks(found: Measurement) -> list[str]:
    """Say what a reader of a measurement has to know beside its numbers."""
    parts = [f"labels by {found.judge}"] if found.judge else []
    if found.settings:
        chosen = (f"{name} {_setting(value)}" for name, value in sorted(found.settings.items()))
        parts.append(f"made with: {', '.join(chosen)}")
    if found.excluded:
        parts.append(f"left out: {values.counts(found.excluded)}")
    return [*parts, *found.notes]


def numbers_section(found: Measurement) -> Section:
    """Tabulate the numbers; columns that are empty throughout are left out."""
    measures = {measure.name: measure for measure in found.measures}
    rows = []
    for number in found.numbers:
        measure = measures.get(number.metric)
        title = measure.title if measure else number.metric.replace("_", " ")
        better = measure.higher_is_better if measure else None
        unit: Unit = measure.unit if measure else "number"
        rows.append(_row(number, f"{title} {values.arrow(better)}", unit))
    empty = {h for place, h in enumerate(_HEADINGS) if not any(row[place] for row in rows)}
    dropped = empty & set(_OPTIONAL)
    kept = [place for place, heading in enumerate(_HEADINGS) if heading not in dropped]
    cells: list[Sequence[str]] = [tuple(row[place] for place in kept) for row in rows]
    return Section("Numbers", tuple(_HEADINGS[place] for place in kept), cells, _RIGHT)


def _row(number: Number, title: str, unit: Unit) -> Sequence[str]:
    estimate, null = number.estimate, number.null
    prompts = number.n_prompts
    return (
        f"{title} ({number.variant})" if number.variant else title,
        number.group,
        values.value(estimate.value if estimate else None, unit),
        values.interval(estimate, unit) if estimate else number.undefined,
        f"{number.n}" if number.n == prompts or not prompts else f"{number.n} ({prompts} p.)",
        f"{values.value(null.value, unit)} {values.interval(null, unit)}" if null else "",
        values.p_value(number.p_value),
        number.test,
        values.counts(number.counts),
        values.counts(number.excluded),
        number.note,
    )


def grid_section(grid: Grid) -> Section:
    """Tabulate a grid; columns that hold numbers alone are aligned right."""
    rows: list[Sequence[str]] = [tuple(map(_cell, row)) for row in grid.rows]
    right = frozenset(
        heading
        for heading, column in zip(grid.columns, zip(*grid.rows, strict=True), strict=False)
        if not any(isinstance(cell, str) for cell in column)
    )
    return Section(grid.title, grid.columns, rows, right)


def _cell(cell: str | float | None) -> str:
    if cell is None:
        return "-"
    return values.value(cell, "number") if isinstance(cell, float) else str(cell)


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_setting, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
