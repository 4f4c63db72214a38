"""In a worker: what ``lm_eval.evaluate`` returned, as series of values by document."""

import math
from typing import Any, NamedTuple

from .records import Answers, GroupValue, Series

# Groups of documents that the jackknife leaves out in turn; up to so many documents, each is one.
_JACKKNIFE, _SINGLY = 50, 200
_ABOUT = ("alias", "name", "sample_len", "sample_count")


def series_of(
    results: dict[str, Any], tasks: dict[str, Any], given: dict[str, Answers]
) -> tuple[Series, ...]:
    """Give one series for each task, metric and filter, in lm-eval's order."""
    return tuple(
        _series(name, key, results, tasks[name])
        for name in given
        for key in results["results"][name]
        if _is_metric(key)
    )


def _is_metric(key: str) -> bool:
    metric = key.partition(",")[0]
    return "," in key and not metric.endswith("_stderr") and key not in _ABOUT


def _series(name: str, key: str, results: dict[str, Any], task: Any) -> Series:
    from lm_eval.api.metrics import mean

    metric, _, filter_ = key.partition(",")
    rows = [row for row in results["samples"][name] if row["filter"] == filter_ and metric in row]
    aggregate = task.aggregation().get(metric, mean)
    raw = [row[metric] for row in rows]
    is_mean = aggregate is mean
    spread = _Spread() if is_mean else _jackknife(aggregate, raw)
    return Series(
        task=name,
        metric=metric,
        filter=filter_,
        value=_number(results["results"][name][key]),
        stderr=_number(results["results"][name].get(f"{metric}_stderr,{filter_}")),
        mean=is_mean,
        higher_is_better=_better(task.higher_is_better(), metric),
        docs=tuple(int(row["doc_id"]) for row in rows),
        values=tuple(_value(value) for value in raw),
        spread=spread.stderr,
        groups=spread.groups,
        no_spread=spread.why,
    )


def _better(directions: dict[str, Any] | None, metric: str) -> bool:
    return (directions or {}).get(metric) is not False


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _value(value: Any) -> float | tuple[float, ...] | None:
    if isinstance(value, list) and value and all(isinstance(each, bool | int) for each in value):
        return tuple(float(each) for each in value)
    return None if isinstance(value, list | tuple | str) else _number(value)


class _Spread(NamedTuple):
    stderr: float | None = None
    groups: int = 0
    why: str = ""


def _jackknife(aggregate: Any, raw: list[Any]) -> _Spread:
    """Standard error of an aggregate that is no mean, by leaving out groups of documents.

    Source: delete-a-group jackknife, Kott (2001): with R groups of equal size, the variance is
    (R - 1) / R times the sum of squared differences to the mean of the R estimates.
    """
    groups = len(raw) if len(raw) <= _SINGLY else _JACKKNIFE
    if groups < 2:
        return _Spread(why="fewer than two documents")
    partial = []
    for left in range(groups):
        rest = [value for n, value in enumerate(raw) if n % groups != left]
        try:
            partial.append(float(aggregate(rest)))
        except Exception as error:
            # Somebody else's function, on data that it was not made for, may raise anything: that
            # costs the interval, not the score. What it says may quote an answer; its kind cannot.
            return _Spread(why=f"leaving documents out raises {type(error).__name__[:30]}")
    if not all(map(math.isfinite, partial)):
        return _Spread(why="leaving documents out gives no number")
    centre = math.fsum(partial) / groups
    squares = math.fsum((each - centre) ** 2 for each in partial)
    stderr = math.sqrt((groups - 1) / groups * squares)
    if stderr == 0:
        # As wide as a point, it would claim that nothing else can be.
        return _Spread(why="leaving documents out changes nothing")
    return _Spread(stderr, groups)


def group_values(results: dict[str, Any], loaded: dict[str, Any]) -> tuple[GroupValue, ...]:
    """Give what lm-eval aggregates over groups."""
    found = []
    groups = loaded["groups"]
    within = {id(part) for group in groups.values() for part in group.get_all_groups()}
    for name, values in (results.get("groups") or {}).items():
        group = groups[name]
        tasks = tuple(task.task_name for task in group.get_all_tasks())
        better = results["higher_is_better"].get(name) or {}
        for key, value in values.items():
            metric, _, filter_ = key.partition(",")
            number = _number(value) if _is_metric(key) else None
            if number is not None:
                found.append(
                    GroupValue(
                        group=name,
                        metric=metric,
                        filter=filter_,
                        value=number,
                        stderr=_number(values.get(f"{metric}_stderr,{filter_}")),
                        tasks=tasks,
                        higher_is_better=_better(better, metric),
                        inner=id(group) in within,
                    )
                )
    return tuple(found)
