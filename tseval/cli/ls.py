"""``tseval ls``: what there is."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli.common import errors, option, registry
from tseval.cli.output import print_json, print_rows
from tseval.errors import UnknownName

if TYPE_CHECKING:
    from tseval.plugins import Registry

_KINDS = (
    *("benchmarks", "suites", "judges", "stance-judges", "backends", "metrics", "formats"),
    "protocols",
    *("interventions", "trainers", "exporters", "leaderboards", "plugins"),
)


def command(
    kind: str = typer.Argument("benchmarks", help=", ".join(_KINDS)),
    without: list[str] = option("--without", default=[], help="Leave out plugins."),
    json: bool = option("--json", default=False, help="Print records as JSON."),
    debug: bool = option("--debug", default=False, help="Show tracebacks."),
) -> None:
    """List benchmarks, suites, judges, backends and whatever else is registered."""
    with errors(debug=debug):
        if kind not in _KINDS:
            near = get_close_matches(kind, _KINDS, n=1, cutoff=0.6)
            hint = f"tseval ls {near[0]}" if near else "tseval ls --help"
            raise UnknownName("kind", kind, _KINDS, hint=hint)
        records = _records(kind, registry(without))
        if json:
            print_json(records)
            return
        headings = list(records[0]) if records else ["(none)"]
        print_rows(headings, ([str(record[h]) for h in headings] for record in records))
        if kind == "benchmarks":
            typer.echo("\nand each task of lm-eval: lm-eval/NAME, e.g. lm-eval/gsm8k", err=True)


def _records(kind: str, plugins: "Registry") -> list[dict[str, Any]]:
    if kind == "protocols":
        from tseval.protocol import PRESETS

        return [{"protocol": p.name, "summary": p.summary} for p in PRESETS.values()]
    if kind == "plugins":
        return [
            {"plugin": o.plugin, "from": o.distribution, "version": o.version}
            for o in plugins.plugins()
        ]
    table = getattr(plugins, kind.replace("-", "_"))
    describe: dict[str, Callable[[Any], dict[str, Any]]] = {
        "benchmarks": _benchmark,
        "suites": lambda suite: {
            "benchmarks": ", ".join(suite.benchmarks),
            "summary": suite.summary,
        },
        "judges": lambda judge: {
            "says": ", ".join(judge.card.labels),
            "sees": judge.card.sees,
            "version": judge.card.version,
            "summary": judge.card.summary,
        },
        "stance-judges": lambda judge: {
            "version": judge.card.version,
            "validated": judge.validated or "no",
            "summary": judge.card.summary,
        },
        "backends": lambda factory: {
            "can": ", ".join(
                name
                for name in type(factory.capabilities).__struct_fields__
                if getattr(factory.capabilities, name)
            ),
            "options": ", ".join(factory.options),
            "summary": factory.summary,
        },
        "metrics": lambda metric: {
            "on": metric.on,
            "better": {True: "higher", False: "lower", None: "neither"}[metric.higher_is_better],
            "summary": metric.summary,
        },
        "formats": lambda family: {"priority": family.priority},
        "trainers": lambda trainer: {
            "takes": ", ".join(trainer.card.takes),
            "judges": "yes" if trainer.card.judges else "no",
            "options": ", ".join(trainer.card.options),
            "version": trainer.card.version,
            "paper": trainer.card.paper,
            "summary": trainer.card.summary,
        },
        "interventions": lambda each: {
            "needs": ", ".join(getattr(each, "needs", ())),
            "options": ", ".join(getattr(each, "options", ())),
            **_summary(each),
        },
        "leaderboards": _board,
    }
    singular = kind[:-1]
    return [
        {
            singular: name,
            **describe.get(kind, _summary)(table[name]),
            "from": table.origin(name).distribution,
        }
        for name in sorted(table)
    ]


def _summary(value: Any) -> dict[str, Any]:
    return {"summary": getattr(value, "summary", "")}


def _board(folder: Any) -> dict[str, Any]:
    from pathlib import Path

    from tseval.leaderboard.board import entry_files, read_board

    found = read_board(Path(folder))
    return {
        "entries": len(entry_files(Path(folder))),
        "ranked by": ", ".join(found.column(key).title for key in found.rank_by),
        "title": found.title,
    }


def _benchmark(benchmark: Any) -> dict[str, Any]:
    from tseval.cards import ProbeCard

    card = benchmark.card
    source = getattr(card, "source", None)
    probe = isinstance(card, ProbeCard)
    return {
        "kind": "probe" if probe else getattr(card, "kind", ""),
        # A probe's prompts are those of --scale, --harmful-from and --benign-from.
        "rows": getattr(card, "expected_rows", ""),
        "metrics": ", ".join(getattr(card, "metrics", ())),
        "gated": "yes" if source is not None and source.gated else "",
        "needs": ", ".join(getattr(card, "needs", ())),
        "licence": getattr(card, "licence", ""),
        "paper": getattr(card, "paper", ""),
        "summary": card.summary,
    }
