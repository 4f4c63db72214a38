"""A run as the evaluation part of a model card on the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.errors import CapabilityMissing, ConfigError
from tseval.loaded import Run
from tseval.report.table import headings, lines
from tseval.report.text import for_markdown, neutral

from ._common import (
    finished_run,
    known_registry,
    remarks_of,
    source_of,
    times_of,
    version_of,
    whole_file,
)

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.types import Score

FILE = "model-card.md"
_TASK = "text-generation"


class HfCardExporter:
    """Writes ``model-card.md``: metadata with a ``model-index``, and the table that it needs.

    A metric's name says its judge and protocol, its arguments its interval and denominator; the
    text below has all of it, with what was excluded. Values are what tseval measures: shares are
    fractions in [0, 1], never percentages. A number is left out of the metadata where it is
    undefined, or of a judge that is there only as a member of a panel. There is no prompt, trace
    or answer in the file.
    """

    name = "hf-card"
    summary = "model-index metadata and a table with intervals for a model card on the hub"
    holds_texts = False

    def export(self, run: Path, out: Path) -> list[Path]:
        """Write the file into a folder; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The run is not finished, or no number of it is defined.
            CapabilityMissing: huggingface_hub is not installed.
        """
        opened = finished_run(run)
        metadata = _metadata(opened, known_registry())
        with whole_file(out / FILE) as file:
            file.write_text(f"---\n{metadata}---\n\n{_text(opened)}", encoding="utf-8")
        return [out / FILE]


def _metadata(run: Run, registry: "Registry | None") -> str:
    """Write the metadata as YAML."""
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise CapabilityMissing(
            "model cards are checked by huggingface_hub, which is not installed",
            hint="pip install huggingface_hub",
        ) from error
    results = [EvalResult(**fields) for fields in _results(run, registry)]
    if not results:
        raise ConfigError(f"{run.path} has no defined number that a card could show")
    data = ModelCardData(model_name=neutral(run.subject.name), eval_results=results)
    return f"{data.to_yaml()}\n"


def _results(run: Run, registry: "Registry | None") -> Iterator[dict[str, Any]]:
    for score in run.scores:
        if score.estimate is None or score.member:
            continue
        source = source_of(run, score, registry)
        named = neutral(f"{score.benchmark} · {score.group}" if score.group else score.benchmark)
        fields: dict[str, Any] = {
            "task_type": _TASK,
            # The hub's own name only for the very rows that it has.
            "dataset_type": source.hub if source else neutral(score.benchmark),
            "dataset_name": f"{named} (partial)" if score.partial else named,
            # Results that share type, configuration and revision are merged under the name of the
            # first: two parts of a benchmark, or two benchmarks of one repository, must not be.
            "dataset_config": named,
            "metric_type": neutral(score.metric),
            "metric_name": _metric_name(score),
            "metric_value": score.estimate.value,
            "metric_args": {
                "low": score.estimate.low,
                "high": score.estimate.high,
                "level": score.estimate.level,
                "n": score.n,
                "excluded": sum(score.excluded.values()),
                "judge": neutral(score.judge),
                "protocol": score.fingerprint,
            },
        }
        if source and source.revision:
            fields["dataset_revision"] = source.revision
        yield fields


def _metric_name(score: "Score") -> str:
    judge = f", judge {score.judge}" if score.judge else ""
    unit = "fraction" if score.unit == "share" else "number"
    return neutral(f"{score.metric}{judge} ({unit}; protocol {score.fingerprint})")


def _text(run: Run) -> str:
    """Write the table that belongs beside the metadata."""
    made = times_of(run)
    about = (
        f"Measured by tseval {for_markdown(version_of(run))} on {made.ended:%Y-%m-%d}, protocol"
        f" {for_markdown(run.scorecard.preset)}, seed {run.scorecard.seed}. Every rate stands with"
        " its 95% interval and n, the rollouts in its denominator; 'excluded' are rollouts without"
        " a usable verdict, with the bounds that the rate would have if all of them went one way or"
        " the other. Numbers compare only where their protocols are the same. In the metadata"
        " shares are fractions in [0, 1]."
    )
    rows = [headings(run.scorecard), *lines(run.scorecard)]
    table = [f"| {' | '.join(for_markdown(cell) for cell in row)} |" for row in rows]
    table.insert(1, "|" + " --- |" * len(rows[0]))
    remarks = [f"- {for_markdown(each)}" for each in remarks_of(run)]
    parts = ["## Safety evaluation", about, "\n".join(table), "\n".join(remarks)]
    return "\n\n".join(filter(None, parts)) + "\n"
