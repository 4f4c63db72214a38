"""A run as one web page that needs nothing else: no network, no other file.

Everything in it that a model, a dataset or a server wrote is text: escaped by the template, and
kept from acting by a content security policy that allows this page's own scripts and no request
at all.
"""

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.measurements import Measurement
from tseval.report import table
from tseval.report.interactive import figure
from tseval.report.judges import Page, Section
from tseval.report.measured import measurement_page
from tseval.report.plots import Plot, plots_of
from tseval.report.rows import RowBook
from tseval.report.text import neutral

if TYPE_CHECKING:
    from jinja2 import Environment

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
    scripts = [_plotly(), _text("report.js")] if drawn else []
    if browsed:
        scripts.append(_text("rows.js"))
    template = _environment().get_template("report.html")
    return template.render(
        title=f"tseval: {subject}",
        subject=subject,
        facts=facts,
        parts=shown,
        figures=drawn,
        policy=_policy(scripts),
        redacted=redacted,
        style=_markup(_text("report.css") + (_text("rows.css") if browsed else "")),
        scripts=[_markup(script) for script in scripts],
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


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Neutralise what is put into the page, before it is escaped."""
        return neutral(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("tseval.report", "templates"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy(scripts: Sequence[str]) -> str:
    """Allow these scripts by their hashes, pictures that the page makes itself, nothing else."""
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _text(name: str) -> str:
    return (files("tseval.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Read plotly.js, which its Python package brings along; without importing that package."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    script = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text("utf-8")
    # Inside a page a script ends at the first such mark, wherever that stands.
    return script.replace("</script", "<\\/script").strip()


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
