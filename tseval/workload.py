"""What a run asks of models and judges, counted without any of them: rows, rollouts, calls."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from .cards import BenchmarkCard
from .checkers import identify_checker
from .data import cluster_of, load_rows
from .errors import CapabilityMissing, DataError
from .judging import Seat
from .panels import Panel
from .planning import JudgeCalls, Limits
from .prompt_benchmark import PromptBenchmark
from .reasoning import ReasoningBenchmark
from .requests import Capabilities
from .roles import Benchmark, Sized
from .spec import RunSpec
from .stance_judging import StancePanel, StanceSeat
from .types import BenchmarkSize, Sample

CLASSES: dict[bool | None, str] = {True: "harmful", False: "benign", None: "question"}

# What is asked of the model beside rollouts, and which field of a size counts it.
OTHERS = {"continued": "continuations", "scored": "loglikelihoods", "read": "hidden_states"}
# What a backend has to be able to do for it.
_NEEDS = {"continued": "prefix", "scored": "logprobs", "read": "hidden_states"}


class Workload(NamedTuple):
    """What can be known of a benchmark without a model; as in ``BenchmarkPlan``."""

    name: str
    prompts: int | None
    rollouts: int | None
    limits: Limits
    classes: dict[str, int]
    judges: tuple[JudgeCalls, ...]
    missing: str = ""
    gated: bool = False
    page: str = ""
    warnings: tuple[str, ...] = ()
    others: Mapping[str, int] = MappingProxyType({})
    skipped: bool = False


def workload(
    benchmark: Benchmark,
    spec: RunSpec,
    seats: dict[str, Seat],
    stances: Mapping[str, StanceSeat] = MappingProxyType({}),
) -> Workload:
    """Count a benchmark's rows, and what is asked about them.

    Args:
        benchmark: A card's, or one in code: that may say its size (``tseval.roles.Sized``).
        spec: The run.
        seats: Its judges by label.
        stances: Its stance judges by label.
    """
    card, name = benchmark.card, benchmark.card.name
    if not isinstance(benchmark, PromptBenchmark | ReasoningBenchmark):
        return _coded(benchmark, spec, seats, stances)
    missing, gated, page = "", False, ""
    warnings: tuple[str, ...] = ()
    try:
        rows = load_rows(card, spec.data_dirs, limit=spec.limit, subset_seed=spec.subset_seed)
    except DataError as error:
        prompts = min(card.expected_rows, spec.limit or card.expected_rows)
        missing, gated, page = error.message, card.source.gated, _page(card)
        # A mixture's shares are not on its card.
        classes = {} if card.kind == "mixed" else {_class_of(card): prompts}
    else:
        prompts, warnings = len(rows.samples), rows.warnings
        classes = _independent(rows.samples)
    rollouts = prompts * spec.rollouts
    return Workload(
        name=name,
        prompts=prompts,
        rollouts=rollouts,
        limits=_limits(spec, card),
        classes=classes,
        judges=(
            _checks(benchmark, rollouts)
            if isinstance(benchmark, ReasoningBenchmark)
            else _calls(seats, rollouts)
        ),
        missing=missing,
        gated=gated,
        page=page,
        warnings=warnings,
    )


def _coded(
    benchmark: Benchmark,
    spec: RunSpec,
    seats: dict[str, Seat],
    stances: Mapping[str, StanceSeat],
) -> Workload:
    """Ask a benchmark with a ``run`` of its own, if it can say."""
    name, limits = benchmark.card.name, _limits(spec, None)
    if not isinstance(benchmark, Sized):
        return Workload(name, None, None, limits, {}, ())
    try:
        size = benchmark.size(spec)
    except (DataError, CapabilityMissing) as error:
        return Workload(name, None, None, limits, {}, (), error.message, page=error.hint)
    judges = _calls(seats, size.judged) if size.judged else ()
    if getattr(benchmark.card, "stances", False):
        # One call a trace: every rollout of such a probe has one.
        judges += _calls(stances, size.generations)
    return Workload(
        name=name,
        prompts=size.prompts,
        rollouts=size.generations,
        limits=_limits_of(size, limits),
        classes=size.independent,
        judges=judges,
        others={name: count for name, kind in OTHERS.items() if (count := getattr(size, kind))},
    )


def on_backend(benchmark: Benchmark, work: Workload, name: str, have: Capabilities) -> Workload:
    """Say that a run skips a benchmark, if its card or what it asks needs more than there is."""
    needs = {*getattr(benchmark.card, "needs", ()), *(_NEEDS[kind] for kind in work.others)}
    lacking = sorted(need for need in needs if not getattr(have, need))
    if work.missing or not lacking:
        return work
    return skipped(work, f"backend {name!r} lacks {', '.join(lacking)}: the benchmark is skipped")


def unreadable(work: Workload, errors: tuple[DataError, ...]) -> Workload:
    """Say that a benchmark's data cannot be read, and why."""
    if work.missing:
        return work
    missing = "; ".join(error.message for error in errors)
    return work._replace(missing=missing, page="; ".join(error.hint for error in errors))


def skipped(work: Workload, why: str) -> Workload:
    """Say that a run skips a benchmark, and why."""
    page = "run it on another backend, for example hf"
    return work._replace(skipped=True, missing=why, page=page)


def _limits_of(size: BenchmarkSize, limits: Limits) -> Limits:
    return Limits(
        trace=limits.trace if size.trace_tokens is None else size.trace_tokens,
        answer=limits.answer if size.answer_tokens is None else size.answer_tokens,
    )


def _page(card: BenchmarkCard) -> str:
    source = card.source
    hub = f"https://huggingface.co/datasets/{source.hub}" if source.hub else ""
    return source.access or source.url or hub


def _class_of(card: BenchmarkCard) -> str:
    return "question" if card.kind == "reasoning" else card.kind


def _independent(samples: tuple[Sample, ...]) -> dict[str, int]:
    """Count clusters by class: variants of one prompt say little more than one of them."""
    clusters: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        clusters[CLASSES[sample.harmful]].add(cluster_of(sample))
    return {on: len(found) for on, found in sorted(clusters.items())}


def _limits(spec: RunSpec, card: BenchmarkCard | None) -> Limits:
    fixed = spec.answer_tokens_fixed or card is None
    answer = spec.sampling.answer_tokens if fixed or card is None else card.answer_tokens
    return Limits(trace=0 if spec.thinking.mode == "off" else spec.thinking.budget, answer=answer)


def _checks(benchmark: ReasoningBenchmark, rollouts: int) -> tuple[JudgeCalls, ...]:
    """Say who checks how many answers."""
    assert benchmark.card.answer is not None
    checker = identify_checker(benchmark.card.answer.checker)
    return (JudgeCalls(judge=checker.name, calls=rollouts),)


def _calls(seats: Mapping[str, Seat | StanceSeat], texts: int) -> tuple[JudgeCalls, ...]:
    """Say who judges so many texts; a panel asks its members and is no judge of its own."""
    calls = []
    for label, seat in seats.items():
        if isinstance(seat.judge, Panel | StancePanel):
            continue
        panels = tuple(name for name, other in seats.items() if label in other.members)
        model = f"{seat.spec.backend}/{seat.spec.name}".rstrip("/") if seat.spec else ""
        calls.append(JudgeCalls(judge=label, calls=texts, model=model, panels=panels))
    return tuple(calls)


def all_calls(calls_of: Iterable[tuple[JudgeCalls, ...]]) -> tuple[JudgeCalls, ...]:
    """Sum the calls of each judge over benchmarks, in order of appearance."""
    found: dict[str, list[JudgeCalls]] = defaultdict(list)
    for each in calls_of:
        for calls in each:
            found[calls.judge].append(calls)
    return tuple(
        JudgeCalls(
            judge=name,
            calls=sum(each.calls for each in calls),
            model=calls[0].model,
            panels=calls[0].panels,
        )
        for name, calls in found.items()
    )
