"""A board as web pages in one folder: nothing they need is elsewhere, nothing in them acts.

Names, notes and sources are text that somebody handed in: the templates escape them, and a content
security policy allows the pages' own scripts, by hash, and the copy of plotly.js beside them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.leaderboard.records import Entry, Row, Standing
from tseval.report import board_cells as cells
from tseval.report import board_view, values
from tseval.report.board_plots import Drawn, pareto_plots, probe_plots
from tseval.report.pages import environment, markup, policy, template_text
from tseval.types import Score

if TYPE_CHECKING:
    pass

PLOTLY = "plotly.min.js"
_CARD = (
    *(("benchmark", False), ("metric", False), ("value", True), ("95% CI", True), ("n", True)),
    *(("outcomes", False), ("excluded", False), ("judge", False), ("protocol", False)),
)
_NAMES = {
    "asr_nonrefusal": "ASR (not refused)",
    "asr_nonrefusal_substantive": "ASR (not refused, substantive)",
    "asr_harmful": "ASR (harmful)",
    "orr": "ORR",
}


class ScoreLine(NamedTuple):
    """One score of an entry as text; ``key`` is what it sorts by."""

    name: str
    metric: str
    value: str
    interval: str
    n: str
    rollouts: int
    outcomes: str
    lost: str
    judge: str
    fingerprint: str
    anchor: str
    key: str
    partial: bool
    bar: board_view.Bar | None


class Listed(NamedTuple):
    """A board as the index shows it."""

    title: str
    description: str
    link: str
    measured: int
    demonstrations: int
    reported: int
    leaders: Sequence[str]


def index_page(listed: Sequence[Listed]) -> str:
    """Make the page that lists the boards."""
    path = [("tseval leaderboards", "")]
    return _page("board_index.html", "tseval leaderboards", path, (), "", boards=listed)


def listed(standing: Standing, folder: str) -> Listed:
    """Say of a board what the index shows."""
    rows = [row for table in standing.tables for row in table.rows]
    kinds = [cells.kind_of(row) for row in rows]
    return Listed(
        title=standing.board.title,
        description=standing.board.description,
        link=f"{folder}/index.html",
        measured=kinds.count("measured"),
        demonstrations=kinds.count("demonstration"),
        reported=len(standing.reported),
        leaders=list(_leaders(standing, is_measured="measured" in kinds)),
    )


def _leaders(standing: Standing, *, is_measured: bool) -> Iterator[str]:
    """Name the first of the board's own table; demonstrations only where nothing was measured."""
    for row in (row for table in standing.tables[:1] for row in table.rows if row.rank == 1):
        if cells.kind_of(row) == "measured":
            yield row.label
        elif not is_measured:
            yield f"{row.label} (demonstration)"


def board_page(standing: Standing, pages: dict[str, str], links: Sequence[tuple[str, str]]) -> str:
    """Make a board's page.

    Args:
        standing: The board.
        pages: Names of the models' pages, by slug.
        links: Names and places of the board in other formats.
    """
    panels = board_view.panels(standing, pages)
    kinds = list(dict.fromkeys(line.kind for panel in panels for line in panel.lines))
    plots = pareto_plots(standing)
    title = standing.board.title
    return _page(
        "board.html",
        f"{title} · tseval leaderboard",
        [("tseval leaderboards", "../index.html"), (title, "")],
        plots,
        "../",
        board=standing.board,
        panels=panels,
        kinds=kinds,
        plots=plots,
        files=links,
        notes=standing.notes,
    )


def model_pages(standing: Standing, pages: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Make the page of each measured row, with its name."""
    panels = board_view.panels(standing, pages)
    for panel, table in zip(panels, standing.tables, strict=False):
        for row, line in zip(table.rows, panel.lines, strict=True):
            if row.entry is not None and line.page:
                yield line.page, _model_page(standing, panel, line, row, row.entry)


def _model_page(
    standing: Standing, panel: board_view.Panel, line: board_view.Line, row: Row, entry: Entry
) -> str:
    anchors = {print_: f"protocol-{n}" for n, print_ in enumerate(sorted(entry.protocols), 1)}
    plots = probe_plots(entry)
    title = standing.board.title
    return _page(
        "board_model.html",
        f"{row.label} · {title}",
        [("tseval leaderboards", "../../index.html"), (title, "../index.html"), (row.label, "")],
        plots,
        "../../",
        panel=panel,
        line=line,
        card_heads=_CARD,
        scores=[_score(score, anchors) for score in entry.scores],
        plots=plots,
        facts=list(_facts(entry)),
        judges=_judges(entry),
        protocols=[
            (anchor, print_, _place(entry.protocols[print_]), _fields(entry.protocols[print_]))
            for print_, anchor in anchors.items()
        ],
        files=sorted(entry.files.items()),
    )


def _score(score: Score, anchors: dict[str, str]) -> ScoreLine:
    found = score.estimate
    lost = values.counts({reason: n for reason, n in score.excluded.items() if n})
    if lost and score.bounds is not None:
        low, high = (values.value(end, score.unit) for end in score.bounds)
        lost += f": {low} to {high} with them"
    prompts = f" ({score.n_prompts} prompts)" if score.n_prompts not in (0, score.n) else ""
    return ScoreLine(
        name=f"{score.benchmark} · {score.group}" if score.group else score.benchmark,
        metric=f"{values.heading(score, _NAMES)} {values.arrow(score.higher_is_better)}",
        value=values.value(found.value if found else None, score.unit),
        interval=values.interval(found, score.unit) if found else score.undefined,
        n=f"{score.n}{prompts}",
        rollouts=score.n,
        outcomes=values.counts(score.outcomes),
        lost=lost,
        judge=score.judge,
        fingerprint=score.fingerprint,
        anchor=anchors.get(score.fingerprint, ""),
        key=repr(found.value) if found else "",
        partial=score.partial,
        bar=board_view.bar(found.value, found.low, found.high) if found else None,
    )


def _facts(entry: Entry) -> Iterator[tuple[str, str]]:
    known = {
        "model": entry.model,
        "revision": entry.revision,
        "adapter": entry.adapter,
        "intervention": entry.intervention,
        "system prompt": entry.system_prompt_hash,
        "protocol preset": entry.preset,
        "seed": str(entry.seed),
        "tseval": entry.tseval_version,
        "commit of tseval": entry.commit,
        "date": entry.date,
        "digest of the entry": entry.digest,
    }
    yield from ((name, value) for name, value in known.items() if value)
    if not entry.verified:
        yield "identity", "unverified: it rests on a server's word"
    yield from ((f"identity: {name}", value) for name, value in sorted(entry.identity.items()))
    yield from sorted(entry.execution.items())


def _judges(entry: Entry) -> list[tuple[str, str]]:
    """Say who the judges are: name, version, vote rule and what identifies them."""
    found: dict[tuple[str, str], None] = {}
    for protocol in entry.protocols.values():
        judge = protocol.get("judge")
        if isinstance(judge, dict) and judge.get("name"):
            rest = {name: value for name, value in judge.items() if name != "name"}
            said = "; ".join(f"{name} {value}" for name, value in board_view.flat(rest))
            found[str(judge["name"]), said] = None
    return sorted(found)


def _place(protocol: dict[str, Any]) -> str:
    return " · ".join(
        str(protocol[name]) for name in ("benchmark", "group", "metric") if protocol.get(name)
    )


def _fields(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    return board_view.flat(protocol)


# -- the page


def _page(
    template: str,
    heading: str,
    path: Sequence[tuple[str, str]],
    drawn: Sequence[Drawn],
    above: str,
    **more: Any,
) -> str:
    early, script = template_text("board_early.js"), template_text("board.js")
    return environment().get_template(template).render(
        title=heading,
        path=path,
        figures=[each.figure for each in drawn],
        plotly=f"{above}{PLOTLY}",
        policy=policy((early, script), beside=True),
        style=markup(template_text("board.css")),
        early=markup(early),
        script=markup(script),
        **more,
    )  # fmt: skip
