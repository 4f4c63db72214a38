"""A run as logs of Inspect: one ``.eval`` file a benchmark, which ``inspect view`` opens."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tseval.errors import CapabilityMissing, ConfigError
from tseval.loaded import Run, load_run, public
from tseval.report.text import neutral

from ._common import plain_name, remarks_of, times_of, version_of, whole_file

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore

    from tseval.types import Score

# How a run that is not complete ended, in Inspect's words.
_STATUS = {"running": "started", "interrupted": "cancelled", "failed": "error"}


class InspectExporter:
    """Writes one log for each benchmark, and for each suite that has averages.

    A sample is one rollout (an epoch, where there are several): the conversation, the trace as
    reasoning, the answer, token counts, a score for each judge with what it wrote, and the error
    of a rollout that failed. Metrics are tseval's own, with their interval, denominator, exclusions
    and bounds as metadata; Inspect computes none of them again. The task's arguments are the
    protocol. A probe has numbers and no samples.

    Differs: a verdict that is missing is an empty field of a score beside its reason, never
    'incorrect'. The log of one benchmark is held in memory while it is written.
    """

    name = "inspect"
    summary = "an .eval log for each benchmark, for `inspect view` (extra: inspect)"
    redacts = True

    def export(self, run: Path, out: Path, *, redact: bool = True) -> list[Path]:
        """Write the logs into a folder; see ``tseval.roles.Exporter``.

        Raises:
            ConfigError: The folder holds no run, or one without scores.
            JournalError: The run's journal is gone.
            CapabilityMissing: inspect-ai is not installed.
        """
        write = _writer()
        opened = load_run(run)
        names = dict.fromkeys(score.benchmark for score in opened.scores)
        names |= dict.fromkeys(opened.scorecard.failed)
        if not names:
            raise ConfigError(f"{run} has no scores", hint="tseval show RUN says why")
        files = []
        for benchmark in names:
            log = _log(opened, benchmark, redact=redact)
            files.append(out / f"{_stamp(opened)}_{plain_name(benchmark)}_{log.eval.task_id}.eval")
            with whole_file(files[-1]) as file:
                write(log, str(file), "eval")
        return files


def _writer() -> Any:
    """Return Inspect's function that writes logs."""
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise CapabilityMissing(
            "logs are written by inspect-ai, which is not installed",
            hint="pip install 'tseval[inspect]'",
        ) from error
    return write_eval_log


def _log(run: Run, benchmark: str, *, redact: bool) -> "EvalLog":
    """Put together the log of one benchmark."""
    from inspect_ai.log import EvalError, EvalLog, EvalResults

    from ._inspect_samples import sample_of

    model = model_name(run)
    prompt = run.manifest.spec.system_prompt
    samples = [
        sample_of(stored, model=model, system_prompt=prompt, redact=redact)
        for stored in run.rollouts(benchmark)
    ]
    scores = [score for score in run.scores if score.benchmark == benchmark]
    failed = run.scorecard.failed.get(benchmark)
    status: Any = "error" if failed is not None else _STATUS.get(run.status, "success")
    error = None
    if status == "error":
        message = failed or f"the run is {run.status}"
        error = EvalError(message=message, traceback=message, traceback_ansi=message)
    results = EvalResults(
        total_samples=len(samples),
        completed_samples=sum(sample.error is None for sample in samples),
        scores=list(_scores(scores)),
    )
    return EvalLog(
        status=status,
        eval=_spec(run, benchmark, samples, redact=redact),
        results=results,
        stats=_stats(run, model, samples),
        error=error,
        samples=samples,
    )


def model_name(run: Run) -> str:
    """Name the model as Inspect does: who serves it, and what it is called."""
    return neutral(f"{run.manifest.spec.model.backend}/{run.subject.name}")


def _spec(run: Run, benchmark: str, samples: "list[EvalSample]", *, redact: bool) -> Any:
    """Say what was run: the protocol as the task's arguments, the identity as the model's."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalSpec
    from inspect_ai.model import GenerateConfig

    spec, card = run.manifest.spec, run.scorecard
    protocols = {
        score.fingerprint: run.protocol_of(score)
        for score in run.scores
        if score.benchmark == benchmark
    }
    version = next((str(each.get("benchmark_version", "0")) for each in protocols.values()), "0")
    named = f"{run.manifest.spec_hash}:{times_of(run).started.isoformat()}"
    ids: list[int | str] = list(dict.fromkeys(sample.id for sample in samples))
    return EvalSpec(
        # Made of the run, so that an export repeated is the same log.
        eval_id=_hash(f"eval:{named}:{benchmark}"),
        run_id=_hash(f"run:{named}"),
        task_id=_hash(f"task:{named}:{benchmark}"),
        created=times_of(run).started.isoformat(),
        task=benchmark,
        task_version=version,
        task_args={"preset": card.preset, "seed": card.seed, "protocols": public(protocols)},
        dataset=EvalDataset(name=benchmark, samples=len(ids), sample_ids=ids, shuffled=False),
        model=model_name(run),
        model_args=public(dict(run.subject.identity)),
        # One protocol's values where all share them: a judge's never differ here.
        model_generate_config=GenerateConfig(**_decoding(protocols)),
        config=EvalConfig(limit=spec.limit, epochs=spec.rollouts),
        packages={"tseval": version_of(run)},
        metadata={"remarks": remarks_of(run), "redacted": redact, "tseval_status": run.status},
    )


def _decoding(protocols: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Find the decoding values that all protocols of a benchmark share and Inspect has names for.

    Top-k 0 keeps everything in tseval; in Inspect nothing stands for that, so it is left out.
    """
    found = [each.get("sampling") or {} for each in protocols.values()]
    names = ("temperature", "top_p", "top_k")
    shared = {name: found[0][name] for name in names if found and name in found[0]}
    return {
        name: value
        for name, value in shared.items()
        if all(each.get(name) == value for each in found) and not (name == "top_k" and value == 0)
    }


def _scores(scores: "list[Score]") -> "Iterator[EvalScore]":
    """Make Inspect's results: one entry a number."""
    from inspect_ai.log import EvalMetric, EvalScore

    for score in scores:
        estimate = score.estimate
        about = {
            "n": score.n,
            "n_prompts": score.n_prompts,
            "excluded": score.excluded,
            "bounds": score.bounds,
            "outcomes": score.outcomes,
            "protocol": score.fingerprint,
            "partial": score.partial,
            "unit": score.unit,
            "higher_is_better": score.higher_is_better,
        }
        name = f"{score.metric} · {score.group}" if score.group else score.metric
        metrics = {}
        if estimate is not None:
            interval = {
                each: getattr(estimate, each) for each in ("low", "high", "level", "method")
            }
            metrics[name] = EvalMetric(name=name, value=estimate.value, metadata=interval | about)
        else:
            about["undefined"] = score.undefined
        judge = score.judge or score.metric
        yield EvalScore(
            name=judge,
            scorer=judge,
            scored_samples=score.n,
            unscored_samples=sum(score.excluded.values()),
            metrics=metrics,
            metadata=about,
        )


def _stats(run: Run, model: str, samples: "list[EvalSample]") -> Any:
    """Say when, and sum up the tokens of the samples that are in the log."""
    from inspect_ai.log import EvalStats
    from inspect_ai.model import ModelUsage

    times = times_of(run)
    used = [usage for sample in samples for usage in sample.model_usage.values()]
    total = ModelUsage(
        input_tokens=sum(each.input_tokens for each in used),
        output_tokens=sum(each.output_tokens for each in used),
        total_tokens=sum(each.total_tokens for each in used),
        reasoning_tokens=sum(each.reasoning_tokens or 0 for each in used),
    )
    return EvalStats(
        started_at=times.started.isoformat(),
        completed_at=times.ended.isoformat(),
        model_usage={model: total} if used else {},
    )


def _stamp(run: Run) -> str:
    return f"{times_of(run).started:%Y-%m-%dT%H-%M-%S}"


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:22]
