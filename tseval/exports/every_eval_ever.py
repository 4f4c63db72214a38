"""A run as a record of Every Eval Ever, the shared schema for results of evaluations."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tseval.errors import ConfigError
from tseval.loaded import Run, public
from tseval.protocol import canonical_json
from tseval.report.text import neutral

from ._common import (
    finished_run,
    known_registry,
    plain_name,
    remarks_of,
    source_of,
    times_of,
    version_of,
    whole_file,
)

if TYPE_CHECKING:
    from tseval.plugins import Registry
    from tseval.types import Score

# Of the schema that the records below follow.
SCHEMA_VERSION = "0.3.0"
COLLECTION = "tseval"
_UNKNOWN = "unknown"
# Backends that run the weights themselves; of a server's nobody here knows.
_SELF_DEPLOYED = ("demo", "hf", "vllm")

# The schema's free fields take texts only.
Details = dict[str, str]


class SourceMetadata(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who reports: the schema's ``source_metadata``."""

    source_name: str
    source_type: Literal["documentation", "evaluation_run"]
    source_organization_name: str
    evaluator_relationship: Literal["first_party", "third_party", "collaborative", "other"]
    additional_details: Details


class EvalLibrary(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What measured."""

    name: str
    version: str
    additional_details: Details


class Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ran the model."""

    name: str
    version: str


class ModelInfo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured; ``id`` also says in which folder a record stands."""

    name: str
    id: str
    developer: str
    additional_details: Details
    inference_engine: Engine | UnsetType = UNSET


class SourceData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rows: of the hub ('hf_dataset'), or of somewhere else ('other')."""

    dataset_name: str
    source_type: Literal["hf_dataset", "other"]
    additional_details: Details
    hf_repo: str | UnsetType = UNSET


class MetricConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a number means; bounds are numbers, or words where there are none."""

    metric_id: str
    metric_name: str
    metric_unit: str
    lower_is_better: bool
    score_type: Literal["continuous"]
    min_score: float | Literal["-Infinity"]
    max_score: float | Literal["Infinity"]
    additional_details: Details


class Interval(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The schema's ``confidence_interval``."""

    lower: float
    upper: float
    confidence_level: float
    method: str


class Uncertainty(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An interval, and the rollouts that it rests on."""

    confidence_interval: Interval
    num_samples: int


class ScoreDetails(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number with its uncertainty."""

    score: float
    details: Details
    uncertainty: Uncertainty


class GenerationArgs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decoding values that were fixed."""

    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: float | UnsetType = UNSET


class GenerationConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers were made."""

    generation_args: GenerationArgs
    additional_details: Details


class Result(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number."""

    evaluation_result_id: str
    evaluation_name: str
    evaluation_timestamp: str
    source_data: SourceData
    metric_config: MetricConfig
    score_details: ScoreDetails
    generation_config: GenerationConfig


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: a run's numbers.

    Source: the schema of the package every-eval-ever, version 0.3.0, as far as tseval has
    something to say; field names and closed sets of values are the schema's.
    """

    schema_version: str
    evaluation_id: str
    evaluation_timestamp: str
    retrieved_timestamp: str
    source_metadata: SourceMetadata
    eval_library: EvalLibrary
    model_info: ModelInfo
    evaluation_results: tuple[Result, ...]


class EveryEvalEverExporter:
    """Writes one record a run, where the shared data store would keep it.

    Numbers that are undefined, and those of which neither end is better, have no place in the
    schema; how many were left out is said in the record. No text of the run is in it. Who
    publishes it, and in which relation to the model's makers, tseval cannot know: the record says
    'unknown' and 'other'.

    Differs: ``llm_scoring`` asks for the judge's prompt; tseval gives the judge's identity, with
    the hash of its prompt, among the metric's details instead.
    """

    name = "every-eval-ever"
    summary = "one record in the shared schema of Every Eval Ever (0.3.0), without any text"
    holds_texts = False

    def export(self, run: Path, out: Path) -> list[Path]:
        """Write ``data/tseval/<developer>/<model>/<uuid>.json``; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The run is not finished, or no number of it has a place in the schema.
        """
        opened = finished_run(run)
        record = _record(opened, known_registry())
        developer, _, model = record.model_info.id.partition("/")
        name = f"{_uuid(record.evaluation_id)}.json"
        place = out / "data" / COLLECTION / developer / model / name
        with whole_file(place) as file:
            data = msgspec.json.format(msgspec.json.encode(record), indent=2)
            file.write_bytes(data + b"\n")
        return [place]


def _record(run: Run, registry: "Registry | None") -> Record:
    kept = [
        score
        for score in run.scores
        if score.estimate is not None and score.higher_is_better is not None
    ]
    if not kept:
        raise ConfigError(f"{run.path} has no number that the schema has a place for")
    model, times = _model(run), times_of(run)
    left = len(run.scores) - len(kept)
    return Record(
        schema_version=SCHEMA_VERSION,
        # Of what the run is, not of when it was exported: the same run is the same record.
        evaluation_id=f"tseval/{model.id}/{run.manifest.spec_hash}/{times.started.timestamp():.0f}",
        evaluation_timestamp=times.ended.isoformat(),
        retrieved_timestamp=f"{times.ended.timestamp():.0f}",
        source_metadata=SourceMetadata(
            source_name="tseval",
            source_type="evaluation_run",
            source_organization_name=_UNKNOWN,
            evaluator_relationship="other",
            additional_details={
                "status": run.status,
                "remarks": _json(remarks_of(run)),
                "numbers_left_out": f"{left}",
            },
        ),
        eval_library=EvalLibrary(
            name="tseval",
            version=version_of(run),
            additional_details={
                "preset": neutral(run.scorecard.preset),
                "seed": f"{run.scorecard.seed}",
            },
        ),
        model_info=model,
        evaluation_results=tuple(_results(run, kept, registry)),
    )


def _model(run: Run) -> ModelInfo:
    subject, backend = run.subject, run.manifest.spec.model.backend
    developer, slash, model = subject.name.partition("/")
    if not slash:
        developer, model = _UNKNOWN, subject.name
    developer, model = plain_name(developer), plain_name(model)
    details = {
        # An address of a server is nobody's business but its owner's.
        "identity": _json(public(subject.identity)),
        "verified": "yes" if subject.verified else "no",
        "intervention": neutral(run.manifest.spec.intervention),
        "system_prompt_sha256": run.scorecard.system_prompt_hash,
        "deployment_type": "self_deployed" if backend in _SELF_DEPLOYED else _UNKNOWN,
        "model_availability": _UNKNOWN,
    }
    engine = subject.execution.get("engine", backend)
    return ModelInfo(
        name=neutral(subject.name),
        id=f"{developer}/{model}",
        developer=developer,
        additional_details={name: value for name, value in details.items() if value},
        inference_engine=Engine(
            name=neutral(engine), version=run.manifest.versions.get(engine, _UNKNOWN)
        ),
    )


def _results(run: Run, scores: "list[Score]", registry: "Registry | None") -> Iterator[Result]:
    ended = times_of(run).ended.isoformat()
    for score in scores:
        parts = (score.benchmark, score.group, score.metric, score.judge)
        yield Result(
            evaluation_result_id=neutral("/".join(filter(None, (*parts, score.fingerprint)))),
            evaluation_name=neutral(".".join(filter(None, ("tseval", *parts[:2])))),
            evaluation_timestamp=ended,
            source_data=_source(run, score, registry),
            metric_config=_metric(run, score),
            score_details=_details(score),
            generation_config=_generation(run.protocol_of(score)),
        )


def _source(run: Run, score: "Score", registry: "Registry | None") -> SourceData:
    source = source_of(run, score, registry)
    protocol = run.protocol_of(score)
    details = {
        "content_hash": f"{protocol.get('content_hash', '')}",
        "subset": f"{protocol.get('limit')} rows" if score.partial else "all rows",
        "revision": source.revision if source else "",
    }
    return SourceData(
        dataset_name=neutral(score.benchmark),
        source_type="hf_dataset" if source else "other",
        hf_repo=source.hub if source else UNSET,
        additional_details={name: value for name, value in details.items() if value},
    )


def _metric(run: Run, score: "Score") -> MetricConfig:
    estimate = score.estimate
    assert estimate is not None
    inside = min(estimate.value, estimate.low) >= 0 and max(estimate.value, estimate.high) <= 1
    bounded = score.unit == "share" and inside
    judge = run.protocol_of(score).get("judge")
    details = {
        "judge": neutral(score.judge),
        "judge_identity": _json(public(judge)) if judge else "",
        "text_judged": f"{run.protocol_of(score).get('text', '')}" if judge else "",
        "metric_version": f"{run.protocol_of(score).get('metric_version', '')}",
        "only_a_member_of_a_panel": "yes" if score.member else "",
        "tseval_protocol": score.fingerprint,
    }
    return MetricConfig(
        metric_id=f"tseval.{plain_name(score.metric)}",
        metric_name=neutral(score.title or score.metric),
        metric_unit="proportion" if score.unit == "share" else "number",
        lower_is_better=not score.higher_is_better,
        score_type="continuous",
        min_score=0.0 if bounded else "-Infinity",
        max_score=1.0 if bounded else "Infinity",
        additional_details={name: value for name, value in details.items() if value},
    )


def _details(score: "Score") -> ScoreDetails:
    estimate = score.estimate
    assert estimate is not None
    return ScoreDetails(
        score=estimate.value,
        details={
            "n": f"{score.n}",
            "n_prompts": f"{score.n_prompts}",
            "excluded": _json(score.excluded),
            "bounds_if_excluded_went_one_way": _json(score.bounds),
            "outcomes": _json(score.outcomes),
            "partial": "yes" if score.partial else "no",
        },
        uncertainty=Uncertainty(
            confidence_interval=Interval(
                lower=estimate.low,
                upper=estimate.high,
                confidence_level=estimate.level,
                method=neutral(estimate.method),
            ),
            num_samples=score.n,
        ),
    )


def _generation(protocol: dict[str, Any]) -> GenerationConfig:
    sampling = protocol.get("sampling") or {}
    given = {name: sampling[name] for name in ("temperature", "top_p", "top_k") if name in sampling}
    return GenerationConfig(
        # With 'recommended' decoding the values are each model's own, and not in the protocol. The
        # schema's one limit of tokens is neither that of traces nor that of answers.
        generation_args=GenerationArgs(**given),
        additional_details={"tseval_protocol": _json(public(protocol))},
    )


def _json(value: Any) -> str:
    return neutral(canonical_json(value).decode())


def _uuid(text: str) -> UUID:
    """Make a version 4 UUID that is the same for the same text."""
    return UUID(bytes=sha256(text.encode()).digest()[:16], version=4)
