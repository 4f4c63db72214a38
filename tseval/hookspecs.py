"""Every extension point of tseval, on one page.

A plugin is a module with functions marked ``@tseval.hookimpl`` and one line of metadata:

    [project.entry-points.tseval]
    my_plugin = "my_package.my_module"

Each ``register_*`` hook is handed a callback, ``register``, to call once per object. The callback
knows whose call it is: it validates the object, refuses a name that is taken (naming both
plugins), and records which distribution and version the object came from. Registration must be
cheap: hand over a factory, build on first use.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .roles import Benchmark
    from .types import Rollout, Score

hookspec = pluggy.HookspecMarker("tseval")
hookimpl = pluggy.HookimplMarker("tseval")

Register = Callable[[Any], None]


@hookspec
def register_benchmarks(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.roles.Benchmark`` role."""


@hookspec(firstresult=True)
def find_benchmark(name: str) -> "Benchmark | None":
    """Return a benchmark for a name that holds a '/' and that nothing is registered under.

    For families too large to be registered one by one, such as ``lm-eval/NAME``. Cheap for names
    of others, which get None; the first plugin that returns a benchmark provides it. A name of
    the family that does not exist raises ``UnknownName``, with the near misses.
    """


@hookspec
def register_suites(register: Register) -> None:
    """Call ``register`` with ``tseval.cards.Suite`` records, which name benchmarks."""


@hookspec
def register_judges(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.roles.Judge`` role."""


@hookspec
def register_stance_judges(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.roles.StanceJudge`` role."""


@hookspec
def register_backends(register: Register) -> None:
    """Call ``register`` with ``tseval.roles.BackendFactory`` records."""


@hookspec
def register_trainers(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.roles.Trainer`` role."""


@hookspec
def register_interventions(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.wrapping.Intervention`` role."""


@hookspec
def register_formats(register: Register) -> None:
    """Call ``register`` with ``tseval.formats.FormatFamily`` records."""


@hookspec
def register_metrics(register: Register) -> None:
    """Call ``register`` with ``tseval.roles.MetricSpec`` or ``MeasureSpec`` records.

    The first are rates over verdicts; the second (``tseval.measurements``) what probes measure.
    """


@hookspec
def register_leaderboards(register: Register) -> None:
    """Call ``register`` with paths of leaderboard folders that hold a ``board.toml``."""


@hookspec
def register_exporters(register: Register) -> None:
    """Call ``register`` with objects of the ``tseval.roles.Exporter`` role."""


@hookspec
def register_commands(app: Any) -> None:
    """Add commands to the ``typer.Typer`` application."""


@hookspec
def run_started(run: str, manifest: dict[str, Any]) -> None:
    """Called once per process when a run starts or resumes; must not change the manifest."""


@hookspec
def rollout_journalled(run: str, rollout: "Rollout") -> None:
    """Called after a new rollout has reached the journal; never for one that was found there."""


@hookspec
def run_finished(run: str, scores: "list[Score]") -> None:
    """Called after ``scores.json`` has been written; not called for an interrupted run."""
