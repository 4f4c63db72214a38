"""A run as one web page that needs nothing else: no network, no other file.

Everything in it that a model, a dataset or a server wrote is text: escaped by the template, and
kept from acting by a content security policy that allows this page's own scripts and no request
at all.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.measurements import Measurement
from tseval.report import table
from tseval.report.interactive import figure
from tseval.report.judges import Page, Section
from tseval.report.measured import measurement_page
from tseval.report.pages import environment, markup, plotly_script, policy, template_text
from tseval.report.plots import Plot, plots_of
from tseval.report.rows import RowBook

if TYPE_CHECKING:
    from tseval.runfolder import Scorecard

# As the template has it.
_REDACTED = b'<meta name="tseval-redacted" content="yes">'


class Part(NamedTuple):
    """One part of the page.

    Attributes:
        anchor: Where links to it lead.
        page: Its tables and remarks.
        plots: What is drawn in it.
        lead: A sentence below its heading, or ''.
        rows: Rollouts to browse in it, or None.
    """

    anchor: str
    page: Page
    plots: Sequence[Plot] = ()
    lead: str = ""
    rows: RowBook | None = None


def report_html(
    scorecard: "Scorecard",
    measurements: Sequence[Measurement],
    remarks: Sequence[str],
    *,
    facts: dict[str, str] | None = None,
    first: Sequence[Part] = (),
    rows: RowBook | None = None,
    redacted: bool = False,
) -> str:
    """Make the page.

    Args:
        scorecard: The run's.
        measurements: What its probes found.
        remarks: What belongs beside the scores.
        facts: What else is said of the run at the page's head, by name.
        first: Parts above the scorecard.
        rows: Rollouts to browse; None shows none.
        redacted: Mark the page as one that lacks what the model wrote (see :func:`is_redacted`).
    """
    parts = [*first, _scores(scorecard, remarks), *_measured(measurements)]
    if rows is not None:
        parts.append(Part("rollouts", Page("Rollouts", [], rows.notes), (), rows.lead, rows))
    if scorecard.protocols:
        parts.append(_protocols(scorecard))
    known = {**(facts or {}), "protocol": scorecard.preset, "seed": str(scorecard.seed)}
    return page_html(scorecard.subject.name, parts, known, redacted=redacted)


def page_html(
    subject: str, parts: Sequence[Part], facts: dict[str, str], *, redacted: bool = False
) -> str:
    """Make a page of parts.

    Args:
        subject: The model that it is about.
        parts: In order.
        facts: What is said at the page's head, by name.
        redacted: Mark the page as redacted.
    """
    # Names of plots are made of names of curves: two that differ in a sign may come out alike.
    drawn = [
        figure(plot._replace(name=f"plot-{number}-{plot.name}"))
        for number, plot in enumerate(plot for part in parts for plot in part.plots)
    ]
    names = iter([each["name"] for each in drawn])
    shown = [
        {"part": part, "plots": [(next(names), p.title) for p in part.plots]} for part in parts
    ]
    browsed = any(part.rows for part in parts)
    scripts = [_plotly(), template_text("report.js")] if drawn else []
    if browsed:
        scripts.append(template_text("rows.js"))
    template = environment().get_template("report.html")
    return template.render(
        title=f"tseval: {subject}",
        subject=subject,
        facts=facts,
        parts=shown,
        figures=drawn,
        policy=policy(scripts),
        redacted=redacted,
        style=markup(template_text("report.css") + (template_text("rows.css") if browsed else "")),
        scripts=[markup(script) for script in scripts],
    )


def _scores(scorecard: "Scorecard", remarks: Sequence[str]) -> Part:
    right = frozenset({"rate", "value", "95% CI", "n"})
    rows = list(table.lines(scorecard))
    section = Section("", table.headings(scorecard), list(rows), right)
    return Part("scorecard", Page("Scorecard", [section], table.notes(scorecard, remarks)))


def _measured(measurements: Sequence[Measurement]) -> list[Part]:
    several = len({found.judge for found in measurements}) > 1
    parts = []
    for number, found in enumerate(measurements):
        page = measurement_page(found)
        title = f"{page.title}, {found.judge}" if several else page.title
        page = page._replace(title=title)
        parts.append(Part(f"measurement-{number}", page, plots_of(found)))
    return parts


def _protocols(scorecard: "Scorecard") -> Part:
    """List how each number was measured, by its fingerprint."""
    rows: list[Sequence[str]] = []
    for fingerprint, fields in sorted(scorecard.protocols.items()):
        place = " · ".join(
            str(fields[name]) for name in ("benchmark", "group", "metric") if fields.get(name)
        )
        rest = {
            name: value
            for name, value in fields.items()
            if value not in (None, "", {}, []) and name not in ("benchmark", "group", "metric")
        }
        rows.append((fingerprint, place, _flat(rest)))
    section = Section("", ("protocol", "of", "fields"), rows)
    return Part("protocols", Page("Protocols", [section], []))


def _flat(fields: dict[str, Any], path: str = "") -> str:
    found = []
    for name, value in sorted(fields.items()):
        if isinstance(value, dict):
            found.append(_flat(value, f"{path}{name}."))
        else:
            found.append(f"{path}{name}={value}")
    return "; ".join(filter(None, found))


# -- the page


@cache
def _plotly() -> str:
    """Return plotly.js as it may stand inside a page."""
    # There a script ends at the first such mark, wherever that stands.
    return plotly_script().decode().replace("</script", "<\\/script").strip()


def is_redacted(path: Path) -> bool:
    """Say whether there is a page at a path that is marked as redacted."""
    try:
        with path.open("rb") as page:
            # Above everything in the page that others wrote.
            return _REDACTED in page.read(400)
    except OSError:
        return False


def write_whole(path: Path, page: str) -> None:
    """Write a page whole or not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
