"""``tseval plan``: say what a run will take, before it is run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tseval.cli import run
from tseval.cli.common import (
    Options,
    errors,
    finish,
    given_values,
    option,
    read_config,
    registry,
    with_options,
)
from tseval.cli.sources import probes_of, unread_sources
from tseval.cli.specs import build_spec

if TYPE_CHECKING:
    from tseval.planning import Plan
    from tseval.plugins import Registry
    from tseval.spec import RunSpec

_EXIT_INCOMPLETE = 5


class _Look(Options, heading="What is looked at"):
    pilot: int | None = option(
        "--pilot", min=0, help="Rows a benchmark to look at; 0 runs no model."
    )
    pilot_seconds: float = option(
        "--pilot-seconds",
        default=60.0,
        min=0.0,
        help="Time after which what is looked at is cut, loading apart; 0: none.",
    )
    earlier: Path | None = option(
        "--from", help="A run of the same model, to take lengths and speed from."
    )


# The very same options: what is said of a run is said of its plan by changing one word.
@with_options(*run.OPTIONS, _Look)
def command(context: typer.Context, **_: Any) -> None:
    """Say what tseval run would take with the same arguments, without running it.

    Prompts, rollouts, new tokens, judge calls, time, disk, data that cannot be read yet, and the
    smallest difference that each benchmark can show. Lengths and speed come from an earlier run
    of the same model, or from a pilot of a few rollouts.

    Exit codes: 0 fine; 1 something failed; 2 wrong usage; 5 a benchmark cannot be measured.
    """
    given = given_values(context)
    with errors(debug=given["debug"]):
        if given["config"] is not None:
            read_config(given["config"], context, given)
        plugins = registry(given["without"])
        spec, remarks = build_spec(given, plugins)
    raise SystemExit(_execute(spec, plugins, given, remarks))


def _execute(
    spec: "RunSpec", plugins: "Registry", given: dict[str, Any], remarks: list[str]
) -> int:
    """Plan, print, and say what the exit code is."""
    from tseval.cli.progress import display
    from tseval.forecast import plan

    with errors(debug=given["debug"]), display() as shown:
        for remark in remarks:
            shown.remark(remark)
        unread = list(unread_sources(spec, plugins))
        probes = probes_of(spec, plugins) if unread else []
        work = plan(
            spec,
            plugins,
            shown,
            out=given["out"],
            pilot=given["pilot"],
            pilot_seconds=given["pilot_seconds"],
            earlier=given["earlier"],
            unread=dict.fromkeys(probes, tuple(unread)),
        )
        found = finish(work)
    with errors(debug=given["debug"]):
        _print(found, given)
    return 0 if found.complete else _EXIT_INCOMPLETE


def _print(found: "Plan", given: dict[str, Any]) -> None:
    from tseval.cli.output import console, print_json
    from tseval.report.judges import markdown_page, rich_page
    from tseval.report.plan import plan_page

    if given["json"]:
        print_json(found)
    elif given["markdown"]:
        sys.stdout.write(markdown_page(plan_page(found)))
    else:
        console().print(rich_page(plan_page(found)))
