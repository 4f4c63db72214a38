"""What lm-eval's scorer returned, as scores: a value, an interval, a denominator, a protocol."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version

from msgspec import Struct, structs

from tseval.metrics import Judged
from tseval.outcomes import row_hash
from tseval.protocol import Protocol, fingerprint
from tseval.scoring import Outcome
from tseval.session import Session
from tseval.types import Estimate, Sampling, Score, Thinking

from .decoding import sampling_of
from .records import GroupValue, Scored, Series, TaskPlan

_LEVEL = 0.95
# How far lm-eval's aggregate and ours may differ before they are different things.
_SAME = 1e-6
_NO_TRACE = Thinking(mode="off", budget=0)


ProtocolOf = Callable[[TaskPlan], Protocol]


class Measured(Struct, frozen=True, kw_only=True):
    """What is known of a task beside its values.

    Attributes:
        plan: The task.
        clusters: Cluster of each document.
        outcomes: One a rollout, of the documents that were answered.
        excluded: Documents that were not, by reason.
    """

    plan: TaskPlan
    clusters: dict[int, str]
    outcomes: list[Outcome]
    excluded: dict[str, int]


def scores_of(
    name: str, session: Session, measured: list[Measured], scored: Scored, *, own: bool
) -> list[Score]:
    """Make the scores: of groups first, then of each task, in lm-eval's order.

    Args:
        name: The benchmark.
        session: Where protocols are declared, and remarks kept.
        measured: The tasks.
        scored: What the scorer said.
        own: Whether the task is a file of the user's own.
    """
    tasks = {each.plan.name: each for each in measured}
    protocol = partial(_protocol, name, session, own=own)
    whole = len(tasks) == 1 and not scored.groups
    parts: dict[tuple[str, str, str], Score] = {}
    known = {(series.task, series.metric, series.filter): series for series in scored.series}
    for series in scored.series:
        score = _score(name, session, tasks[series.task], series, protocol, whole=whole)
        if score is not None:
            parts[series.task, series.metric, series.filter] = score
    groups = [
        score
        for value in scored.groups
        if (score := _group_score(name, session, tasks, parts, known, value, protocol)) is not None
    ]
    return [*groups, *parts.values()]


def _score(
    name: str,
    session: Session,
    task: Measured,
    series: Series,
    protocol: ProtocolOf,
    *,
    whole: bool,
) -> Score | None:
    if series.value is None or not 0 <= series.value <= 1:
        session.warn(
            f"{name}: {_label(series)} of {series.task} is {series.value}, which is no share and"
            " has no row; tseval export --format lm-eval writes it"
        )
        return None
    group = "" if whole else series.task
    made = structs.replace(protocol(task.plan), metric=_label(series), group=group)
    count = sum(len(v) if isinstance(v, tuple) else 1 for v in series.values)
    shares = _shares(task.outcomes)
    found = Score(
        benchmark=name,
        group=group,
        metric=_label(series),
        estimate=_estimate(name, session, series, task.clusters),
        n=count,
        n_prompts=len(series.docs),
        excluded=task.excluded,
        bounds=_bounds(series, task.excluded),
        outcomes=_outcomes(series),
        fingerprint=session.declare(made),
        partial=len(task.plan.docs) < task.plan.n_total,
        higher_is_better=series.higher_is_better,
        forced_close_share=shares[0],
        truncated_share=shares[1],
        unclosed_share=shares[2],
    )
    if rows := _rows(task, series):
        session.outcomes.keep(found, rows)
    return found


def _rows(task: Measured, series: Series) -> list[Judged]:
    """Give the values of a mean of shares as rows; none where it is no such mean."""
    places = [task.clusters[doc] for doc in series.docs]
    mean = _clustered(zip(places, series.values, strict=True))
    if mean is None or series.value is None or abs(mean.value - series.value) >= _SAME:
        return []
    # Documents may be equal: those are told apart by their order.
    seen: Counter[str] = Counter()
    names = {}
    for each in task.plan.docs:
        seen[each.hash] += 1
        names[each.id] = row_hash(task.plan.name, f"{each.hash}-{seen[each.hash]}")
    scored = set(series.docs)
    lost = [
        Judged(cluster=task.clusters[doc], outcome="excluded", hit=None, row=names[doc])
        for doc in names
        if doc not in scored
    ]
    return lost + [
        Judged(
            cluster=place,
            outcome="value",
            hit=value,
            row=names[doc],
            rollout=index,
        )
        for doc, place, values in zip(series.docs, places, series.values, strict=True)
        for index, value in enumerate(values if isinstance(values, tuple) else (values,))
    ]


def _label(series: Series | GroupValue) -> str:
    return series.metric if series.filter == "none" else f"{series.metric},{series.filter}"


def _protocol(name: str, session: Session, task: TaskPlan, *, own: bool) -> Protocol:
    """Say how a task's numbers are made, but for metric and group."""
    run = session.spec
    generated = task.kind == "generate_until"
    partial = len(task.docs) < task.n_total
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, answer_tokens=0)
    if generated:
        sampling = sampling_of(task.kwargs[0] if task.kwargs else {}, run, session.sampling)
    told = f"{task.version}; lm-eval {version('lm-eval')}; filters {', '.join(task.filters)}"
    repeats = max((ask.repeats for doc in task.docs for ask in doc.asks), default=1)
    return Protocol(
        # A path would differ from one machine to the next.
        benchmark=f"lm-eval/{task.name}" if own else name,
        benchmark_version=f"{told}; config {task.config}",
        content_hash=_content_hash(task),
        limit=run.limit if partial else None,
        subset_seed=run.subset_seed if partial else None,
        messages=(f"lm-eval: chat, {task.shots} examples as turns",),
        # What is scored as an answer knows no trace and no draw; what goes on from a
        # beginning, no trace.
        thinking=run.thinking if generated and not task.begun else _NO_TRACE,
        decoding=run.decoding if generated else "fixed",
        sampling=sampling,
        rollouts=repeats,
        judge=None,
        metric="",
        metric_version="lm-eval",
    )


def _content_hash(task: TaskPlan) -> str:
    """Hash documents, prompts and targets, whatever their order in the split."""
    rows = sorted((doc.hash, doc.target) for doc in task.docs)
    return fingerprint([task.digest, rows])


def _estimate(name: str, session: Session, series: Series, clusters: dict[int, str]) -> Estimate:
    """Give a value its interval: by document where the aggregate is a mean of shares."""
    assert series.value is not None
    places = [clusters[doc] for doc in series.docs]
    found = _clustered(zip(places, series.values, strict=True))
    # A nested list or a weighted aggregate may be another mean than that over its values.
    if found is not None and abs(found.value - series.value) < _SAME:
        return found
    if series.spread is not None:
        how = f"t on a jackknife over {series.groups} groups"
        return _around(series.value, series.spread, series.groups - 1, how)
    if series.no_spread:
        session.warn(
            f"{name}: {_label(series)} of {series.task} has no jackknife interval:"
            f" {series.no_spread}"
        )
    return _by_stderr(series.value, series.stderr, len(series.docs), series.no_spread)


def _clustered(
    rows: Iterable[tuple[str, float | tuple[float, ...] | None]],
) -> Estimate | None:
    """Estimate the mean of shares, each with its cluster; None if one of them is no share."""
    from tseval.stats import clustered_mean, clustered_proportion

    totals: dict[str, float] = defaultdict(float)
    sizes: Counter[str] = Counter()
    binary = True
    for cluster, value in rows:
        each = value if isinstance(value, tuple) else (value,)
        numbers = [v for v in each if v is not None and 0 <= v <= 1]
        if len(numbers) < len(each):
            return None
        binary = binary and all(v in (0, 1) for v in numbers)
        totals[cluster] += math.fsum(numbers)
        sizes[cluster] += len(numbers)
    if not sizes:
        return None
    s, k = [totals[each] for each in sizes], list(sizes.values())
    if binary:
        return clustered_proportion([round(each) for each in s], k, _LEVEL)
    return clustered_mean(s, k, _LEVEL)


def _by_stderr(value: float, stderr: float | None, n: int, why: str = "") -> Estimate:
    """Take lm-eval's standard error; else all of [0, 1], and say why in the method."""
    if stderr is not None and stderr > 0 and n > 1:
        return _around(value, stderr, n - 1, "t on lm-eval's standard error")
    why = why or f"lm-eval's standard error is {'not given' if stderr is None else stderr}"
    method = f"no interval is known: {why}"
    return Estimate(value=value, low=0.0, high=1.0, level=_LEVEL, method=method)


def _around(value: float, stderr: float, freedom: int, method: str) -> Estimate:
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, 1 - (1 - _LEVEL) / 2)) * stderr
    low, high = max(0.0, value - reach), min(1.0, value + reach)
    return Estimate(value=value, low=low, high=high, level=_LEVEL, method=method)


def _bounds(series: Series, excluded: dict[str, int]) -> tuple[float, float] | None:
    from tseval.stats import bounds

    if not series.mean or series.value is None or any(isinstance(v, tuple) for v in series.values):
        return None
    n = len(series.values)
    return bounds(min(float(n), series.value * n), n, sum(excluded.values()))


def _outcomes(series: Series) -> dict[str, int]:
    values = [v for each in series.values for v in (each if isinstance(each, tuple) else (each,))]
    if not series.higher_is_better or not series.mean or any(v not in (0, 1) for v in values):
        return {}
    counts = Counter("correct" if v == 1 else "wrong" for v in values)
    return dict(sorted(counts.items()))


def _shares(outcomes: list[Outcome]) -> tuple[float | None, float | None, float | None]:
    """Shares of rollouts that were force-closed, cut off, and never closed."""
    if not outcomes:
        return None, None, None
    thought = [each.forced for each in outcomes if each.forced is not None]
    n = len(outcomes)
    return (
        sum(thought) / len(thought) if thought else None,
        sum(each.truncated for each in outcomes) / n,
        sum(each.unclosed for each in outcomes) / n,
    )


def _group_score(
    name: str,
    session: Session,
    tasks: dict[str, Measured],
    parts: dict[tuple[str, str, str], Score],
    known: dict[tuple[str, str, str], Series],
    value: GroupValue,
    protocol: ProtocolOf,
) -> Score | None:
    found = [parts.get((task, value.metric, value.filter)) for task in value.tasks]
    members = [score for score in found if score is not None]
    if not members or not 0 <= value.value <= 1:
        return None
    # A group that holds one group alone has the same tasks.
    named = name.rpartition("/")[2] == value.group
    top = not value.inner and (named or len(tasks) == len(value.tasks))
    plans = [tasks[task].plan for task in value.tasks]
    made = structs.replace(
        protocol(plans[0]),
        group="" if top else value.group,
        metric=_label(value),
        benchmark_version=fingerprint([protocol(plan).fingerprint for plan in plans]),
        content_hash=fingerprint([_content_hash(plan) for plan in plans]),
    )
    excluded: Counter[str] = Counter()
    for score in members:
        excluded.update(score.excluded)
    return Score(
        benchmark=name,
        group="" if top else value.group,
        metric=_label(value),
        estimate=_shared(value, tasks, known) or _group_estimate(value, members),
        n=sum(score.n for score in members),
        n_prompts=sum(score.n_prompts for score in members),
        excluded=dict(sorted(excluded.items())),
        fingerprint=session.declare(made),
        partial=any(score.partial for score in members),
        higher_is_better=value.higher_is_better,
        forced_close_share=_mean_share("forced_close_share", members),
        truncated_share=_mean_share("truncated_share", members),
        unclosed_share=_mean_share("unclosed_share", members),
    )


def _shared(
    value: GroupValue, tasks: dict[str, Measured], known: dict[tuple[str, str, str], Series]
) -> Estimate | None:
    """Estimate a group's mean by document where its tasks ask about the same ones.

    Such tasks are no independent parts. None where none of them share a document, and where
    lm-eval's mean is not that over all documents.
    """
    holders = Counter(h for t in set(value.tasks) for h in {d.hash for d in tasks[t].plan.docs})
    if max(holders.values(), default=0) < 2:
        return None
    rows = []
    for task in value.tasks:
        hashes = {doc.id: doc.hash for doc in tasks[task].plan.docs}
        series = known.get((task, value.metric, value.filter))
        if series is None:
            return None
        for doc, one in zip(series.docs, series.values, strict=True):
            many = holders[hashes[doc]] > 1
            rows.append((hashes[doc] if many else tasks[task].clusters[doc], one))
    found = _clustered(rows)
    return found if found is not None and abs(found.value - value.value) < _SAME else None


def _group_estimate(value: GroupValue, members: list[Score]) -> Estimate:
    """Put the intervals of a group's tasks together, weighed as lm-eval weighs the tasks."""
    from tseval.stats import mover_mean

    estimates = [score.estimate for score in members if score.estimate is not None]
    for weights in ([score.n_prompts for score in members], None):
        mean = mover_mean(estimates, weights)
        if abs(mean.value - value.value) < _SAME:
            return mean
    return _by_stderr(value.value, value.stderr, sum(score.n_prompts for score in members))


def _mean_share(field: str, members: list[Score]) -> float | None:
    shares = [(getattr(score, field), score.n) for score in members]
    known = [(share, n) for share, n in shares if share is not None and n]
    return sum(share * n for share, n in known) / sum(n for _, n in known) if known else None
