"""Lay out the theory of a training: tables with intervals and assumptions, and plots."""

from collections.abc import Mapping, Sequence
from string import ascii_lowercase

from tseval.report import values
from tseval.report.html import Part
from tseval.report.judges import Page, Section
from tseval.report.plots import COLOURS, Plot, Series, file_name

from .records import Fall
from .theory import surprise
from .theory_draws import Tally
from .theory_means import Quantity
from .theory_measure import TheoryReport
from .theory_numbers import ASSUMED, Line

_BESIDE = ("value", "95% CI", "prompts", "made of", "assumes", "note")
_DRAWN, _GIVEN = ("quantity", "draws by", *_BESIDE), ("quantity", "of", *_BESIDE)
_LAWS = {"plain": "the model", "steered": "the model, under the notice", "teacher": "the teacher"}
_RIGHT = frozenset({"value", "95% CI", "prompts"})
_LEAD = (
    "The closest safe law to a model's own is its own answers as far as they are safe; what a"
    " notice or a teacher changes costs more. Nats a prompt."
)


def theory_page(report: TheoryReport) -> Page:
    """Lay the numbers out, with the assumptions that their letters stand for below."""
    # In the order of their list, whatever order a file has them in.
    assumed = [key for key in ASSUMED if key in report.assumptions]
    letters = dict(zip(assumed, ascii_lowercase, strict=False))
    groups: dict[str, list[Sequence[str]]] = {}
    for line in report.lines:
        title = "Given answers" if line.law == "given" else f"Answers to {line.of} prompts"
        groups.setdefault(title, []).append(_row(line, letters))
    sections = [
        Section(title, _GIVEN if title == "Given answers" else _DRAWN, rows, _RIGHT)
        for title, rows in groups.items()
    ]
    notes = [f"{letters[key]}: {report.assumptions[key]}" for key in assumed]
    sections += _filters(report.falls, own=not report.settings.judges)
    made = f"{report.settings.draws} draws a prompt, {report.tokens} tokens drawn"
    return Page(
        f"The theory, measured on {report.subject.name}", sections, [*notes, made, *report.notes]
    )


def _filters(falls: Sequence[Fall], *, own: bool) -> list[Section]:
    """Lay out what each step of the training's own filter kept of what came to it."""
    rows: list[Sequence[str]] = [
        (each.kind, each.step, str(each.came), values.value(1 - each.fell / each.came, "number"))
        for each in falls
        if each.applies and each.came
    ]
    which = "of which the guard is a part" if own else "whose guard was another"
    title = f"The training's own filter, {which}: shares kept, step by step"
    headings = ("prompts", "step", "came", "share kept")
    return [Section(title, headings, rows, frozenset(headings[2:]))] if rows else []


def theory_part(report: TheoryReport) -> Part:
    """Make the theory's part of a web page."""
    page = theory_page(report)
    return Part("theory", page._replace(title="The theory, measured"), theory_plots(report), _LEAD)


def theory_plots(report: TheoryReport) -> list[Plot]:
    """Draw the numbers side by side, and how they spread over prompts."""
    kinds = dict.fromkeys(line.of for line in report.lines if line.law != "given")
    plots = []
    for kind in kinds:
        lines = [line for line in report.lines if line.of == kind and line.quantity is not None]
        plots.append(_numbers_plot(kind, lines))
        spread = {
            name.partition(" · ")[2]: found
            for name, found in report.tallies.items()
            if name.startswith(f"{kind} · ")
        }
        plots.append(_spread_plot(kind, spread))
    return [plot for plot in plots if plot.series]


def _row(line: Line, letters: dict[str, str]) -> tuple[str, ...]:
    found = line.quantity
    return (
        line.title,
        _LAWS.get(line.law, line.of),
        shown(found),
        limits(found) if found else line.undefined,
        str(found.prompts) if found else "-",
        values.counts({"answers": line.draws, **dict(sorted(line.counts.items()))}),
        " ".join(letter for key, letter in letters.items() if key in line.assumes),
        line.note,
    )


def shown(found: Quantity | None) -> str:
    """Write a value; one that is a bound says so."""
    sign = "" if found is None else {"is": "", "at least": "≥ ", "at most": "≤ "}[found.says]
    return f"{sign}{values.value(found.value if found else None, 'number')}"


def limits(found: Quantity) -> str:
    """Write the limits of a number, of which a side may be open."""
    low, high = (
        "" if limit is None else values.value(limit, "number") for limit in (found.low, found.high)
    )
    return f"[{low or '-∞'}, {high or '∞'}]"


def _numbers_plot(kind: str, lines: Sequence[Line]) -> Plot:
    names = [f"{line.title} ({line.law})" for line in lines]
    series = tuple(
        Series(
            label=f"{name}{'' if q.says == 'is' else f', {q.says}'}",
            x=(place,),
            y=(q.value,),
            # An open side is drawn as none: the legend says of what sort the number is.
            low=(q.value if q.low is None else q.low,),
            high=(q.value if q.high is None else q.high,),
            counts=(q.prompts,),
            colour=COLOURS[place % len(COLOURS)],
        )
        for place, (name, line) in enumerate(zip(names, lines, strict=True))
        if (q := line.quantity) is not None
    )
    return Plot(
        name=file_name("theory", kind),
        title=f"What safe answers to {kind} prompts cost",
        x_title="",
        y_title="nats a prompt",
        series=series,
        ticks=tuple(names),
    )


def _spread_plot(kind: str, laws: Mapping[str, Sequence[Tally]]) -> Plot:
    """Draw -log of each prompt's acceptance, prompts in order of it."""
    series = []
    for place, (law, found) in enumerate(laws.items()):
        costs = sorted(surprise(each.accepted, each.draws) for each in found if each.draws)
        none = sum(not each.accepted for each in found if each.draws)
        if costs:
            series.append(
                Series(
                    label=f"{law}{f', {none} prompts at their lower bound' if none else ''}",
                    x=tuple((n + 1) / len(costs) for n in range(len(costs))),
                    y=tuple(costs),
                    colour=COLOURS[place % len(COLOURS)],
                )
            )
    return Plot(
        name=file_name("theory-spread", kind),
        title=f"-log of the acceptance of each of the {kind} prompts",
        x_title="share of prompts",
        y_title="nats",
        series=tuple(series),
    )
