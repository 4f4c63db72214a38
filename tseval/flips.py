"""The samples whose outcome changed from one run to another, with both answers."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from .compare import Compared, Side
from .errors import ConfigError
from .journal import Journal
from .outcomes import row_hash
from .readback import Stored, noted_rows, stored_of
from .row_means import means_of
from .runfolder import RunFolder


class Flip(Struct, frozen=True, kw_only=True):
    """One sample that changed.

    Attributes:
        benchmark, metric, judge: Under which number.
        sample: Its id; its hash where the journal does not have it under the same one (documents of
            lm-eval's tasks), and then there are no texts.
        harmful: Whether the prompt is harmful; None where that means nothing.
        prompt: Its text.
        before, after: Mean values of its rollouts.
        worse: Whether the change is for the worse; None where neither end is better.
        answers_before, answers_after: What was answered, one text for each rollout that there is
            (a failed one has none); None where a trace never closed. Empty if ``redacted``.
        redacted: Whether the answers were left out.
    """

    benchmark: str
    metric: str
    judge: str
    sample: str
    harmful: bool | None
    prompt: str
    before: float
    after: float
    worse: bool | None
    answers_before: tuple[str | None, ...]
    answers_after: tuple[str | None, ...]
    redacted: bool = False


class _Changed(NamedTuple):
    """The samples that changed under a number, with their values before and after."""

    row: Compared
    values: dict[str, tuple[float, float]]


# A rollout's sample, by benchmark and hash.
_Sample = tuple[str, str]


def flips(
    rows: Iterable[Compared],
    before: Side,
    after: Side,
    folders: tuple[RunFolder, RunFolder],
    most: int,
) -> list[Flip]:
    """Find the samples that changed most under each number, the worst first.

    Args:
        rows: The numbers.
        before: The baseline.
        after: The candidate.
        folders: Their folders, for prompts and answers; each journal is read once.
        most: How many to give of each number.

    Raises:
        ConfigError: A run's journal is gone.
    """
    changed = [_changed(row, before, after, most) for row in rows]
    wanted = {(each.row.benchmark, sample) for each in changed for sample in each.values}
    if not wanted:
        return []
    there, here = (_texts(folder, wanted) for folder in folders)
    return [
        _flip(each.row, sample, values, there, here)
        for each in changed
        for sample, values in each.values.items()
    ]


def without_answers(found: Iterable[Flip]) -> list[Flip]:
    """Leave out what was answered to harmful prompts, as reports that are published do."""
    return [
        replace(flip, answers_before=(), answers_after=(), redacted=True) if flip.harmful else flip
        for flip in found
    ]


def _changed(row: Compared, before: Side, after: Side, most: int) -> _Changed:
    left, right = means_of(before.outcomes, row.before), means_of(after.outcomes, row.after)
    if left is None or right is None:
        return _Changed(row, {})
    there, here = left.shared(right)
    old, new = left.values[there], right.values[here]
    sign = -1 if row.higher_is_better else 1
    # The worst first, and of equals the first by hash.
    order = np.lexsort((right.samples[here], -sign * (new - old)))
    chosen = order[(old != new)[order]][:most]
    samples = right.samples[here][chosen].tolist()
    pairs = zip(old[chosen].tolist(), new[chosen].tolist(), strict=True)
    return _Changed(row, dict(zip(samples, pairs, strict=True)))


def _flip(
    row: Compared,
    sample: str,
    values: tuple[float, float],
    there: dict[_Sample, list[Stored]],
    here: dict[_Sample, list[Stored]],
) -> Flip:
    place = row.benchmark, sample
    old, new = there.get(place, []), here.get(place, [])
    found = next((each.row for each in new or old), None)
    return Flip(
        benchmark=row.benchmark,
        metric=row.metric,
        judge=row.judge,
        sample=found.sample if found else sample,
        harmful=found.harmful if found else None,
        prompt=found.prompt if found else "(not in the journal under this name)",
        before=values[0],
        after=values[1],
        worse=None
        if row.higher_is_better is None
        else (values[1] < values[0]) is row.higher_is_better,
        answers_before=tuple(_answers(old)),
        answers_after=tuple(_answers(new)),
    )


def _texts(folder: RunFolder, wanted: set[_Sample]) -> dict[_Sample, list[Stored]]:
    if not folder.journal.is_dir():
        raise ConfigError(
            f"the journal of {folder.path} is gone, and with it the answers",
            hint="leave --flips out",
        )
    journal = Journal.open(folder.journal, write=False)
    found: dict[_Sample, list[Stored]] = {}
    benchmarks = {benchmark for benchmark, _ in wanted}
    try:
        for row in noted_rows(journal):
            if row.benchmark in benchmarks:
                place = row.benchmark, row_hash(row.sample, row.prompt)
                if place in wanted:
                    found.setdefault(place, []).append(stored_of(journal, row))
    finally:
        journal.close()
    return found


def _answers(rows: list[Stored]) -> Iterator[str | None]:
    for stored in sorted(rows, key=lambda each: each.row.rollout):
        # A failure of the machine is none of the model's doing: it has no answer to show.
        if stored.rollout is not None:
            yield stored.rollout.answer
