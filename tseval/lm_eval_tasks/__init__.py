"""lm-eval's tasks as benchmarks: ``lm-eval/NAME`` for a task, a group, a tag or a YAML file.

lm-eval is a library of tasks and scorers here, not the runner. A worker process loads the task and
builds its requests; the session generates or scores them, in one queue with everything else; a
worker process then lets ``lm_eval.evaluate`` score the recorded answers, so filters, metrics and
sample rows are lm-eval's own. lm_eval is never imported in tseval's own process.
"""

from typing import TYPE_CHECKING

from tseval.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from .benchmark import LmEvalBenchmark

PREFIX = "lm-eval/"


@hookimpl
def find_benchmark(name: str) -> "LmEvalBenchmark | None":
    """Make the benchmark ``lm-eval/NAME``; None for other names.

    Raises:
        UnknownName: lm-eval has no such task, group or tag.
    """
    if not name.startswith(PREFIX):
        return None
    from .benchmark import LmEvalBenchmark
    from .stock import locate

    return LmEvalBenchmark(name, locate(name.removeprefix(PREFIX)))


@hookimpl
def register_exporters(register: Register) -> None:
    """Register the exporter ``lm-eval``."""
    from .export import LmEvalExporter

    register(LmEvalExporter())
