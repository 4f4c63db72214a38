"""The samples whose outcome changed from one run to another, with both answers."""

from collections.abc import Iterator

from msgspec import Struct

from .compare import Compared, Side
from .errors import ConfigError
from .journal import Journal
from .outcomes import RowOutcome, row_hash
from .readback import Stored, stored_rows
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
        answers_before, answers_after: What was answered, one text a rollout; None where a trace
            never closed.
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


def flips(
    row: Compared, before: Side, after: Side, folders: tuple[RunFolder, RunFolder], most: int
) -> list[Flip]:
    """Find the samples that changed most under a number, the worst first.

    Args:
        row: The number.
        before: The baseline.
        after: The candidate.
        folders: Their folders, for prompts and answers.
        most: How many to give.

    Raises:
        ConfigError: A run's journal is gone.
    """
    left, right = (
        _values(side.outcomes.of(score))
        for side, score in ((before, row.before), (after, row.after))
    )
    changed = [sample for sample in right if sample in left and left[sample] != right[sample]]
    sign = {True: -1, False: 1, None: 1}[row.higher_is_better]
    changed.sort(key=lambda each: (-sign * (right[each] - left[each]), each))
    chosen = set(changed[:most])
    if not chosen:
        return []
    there, here = (_texts(folder, row.benchmark, chosen) for folder in folders)
    known = {
        sample: next((each.row for each in here.get(sample) or there.get(sample) or ()), None)
        for sample in chosen
    }
    return [
        Flip(
            benchmark=row.benchmark,
            metric=row.metric,
            judge=row.judge,
            sample=found.sample if (found := known[sample]) else sample,
            harmful=found.harmful if found else None,
            prompt=found.prompt if found else "(not in the journal under this name)",
            before=left[sample],
            after=right[sample],
            worse=None
            if row.higher_is_better is None
            else (right[sample] < left[sample]) is row.higher_is_better,
            answers_before=tuple(_answers(there.get(sample, []))),
            answers_after=tuple(_answers(here.get(sample, []))),
        )
        for sample in changed[:most]
    ]


def _values(rows: list[RowOutcome] | None) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows or ():
        if row.value is not None:
            values.setdefault(row.row, []).append(row.value)
    return {sample: sum(each) / len(each) for sample, each in values.items()}


def _texts(folder: RunFolder, benchmark: str, wanted: set[str]) -> dict[str, list[Stored]]:
    if not folder.journal.is_dir():
        raise ConfigError(
            f"the journal of {folder.path} is gone, and with it the answers",
            hint="leave --flips out",
        )
    journal = Journal.open(folder.journal, write=False)
    found: dict[str, list[Stored]] = {}
    try:
        for stored in stored_rows(journal):
            if stored.row.benchmark == benchmark:
                sample = row_hash(stored.row.sample, stored.row.prompt)
                if sample in wanted:
                    found.setdefault(sample, []).append(stored)
    finally:
        journal.close()
    return found


def _answers(rows: list[Stored]) -> Iterator[str | None]:
    for stored in sorted(rows, key=lambda each: each.row.rollout):
        yield stored.rollout.answer if stored.rollout is not None else None
