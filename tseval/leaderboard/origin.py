"""Is an entry of the run that it names: its files, its scores, and the verdicts behind them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tseval.journal import Journal
from tseval.metrics import outcome_of
from tseval.outcomes import key_of, row_hash
from tseval.protocol import differing
from tseval.readback import Stored, stored_rows
from tseval.roles import MetricSpec
from tseval.types import Score, Verdict

from .check import Problem
from .entry import hashed_files, submit
from .recompute import RATES
from .records import Entry

# What a run's own entry may say otherwise: who made it, when, and in what words.
_FREE = ("label", "note", "demonstration", "commit", "digest")
# Why a text was not shown to a judge, though there was a rollout.
_UNSHOWN = ("unclosed", "no-trace")
_SHOWN_FIELDS = 4
_CLOSE = 1e-9


def check_run(entry: Entry, run: Path, name: str) -> list[Problem]:
    """Check an entry against the run that it was made of.

    The run's own entry is made again and compared, field by field; and each outcome of a rate is
    compared with the verdict in the run's journal, so that a run whose scores were edited does not
    pass either. Numbers that are no mean over verdicts (pass@k, majorities, those of lm-eval's
    tasks and of probes) cannot be: a remark names them.

    Args:
        entry: The entry.
        run: The run's folder.
        name: Of the entry's file, for messages.

    Raises:
        ConfigError: No entry can be made of that run.
        JournalError: Its journal cannot be read.
    """
    made = submit(run, label=entry.label, note=entry.note, demonstration=entry.demonstration)
    hashes = dict(hashed_files(run))
    messages = [
        f"{file} is not the run's: its SHA-256 differs, or one of the two lacks it"
        for file in sorted({*hashes, *entry.files})
        if hashes.get(file) != entry.files.get(file)
    ]
    messages += _score_faults(entry, made)
    one, other = msgspec.to_builtins(entry), msgspec.to_builtins(made)
    rest = [field for field in one if field not in (*_FREE, "scores", "files")]
    messages += [f"{field} is not the run's" for field in rest if one[field] != other[field]]
    messages += journal_faults(entry, run)
    found = [Problem(entry=name, severity="error", message=message) for message in messages]
    apart = [_name(key_of(score)) for score in entry.scores if not _is_judged(score)]
    if apart:
        shown = ", ".join(apart[:_SHOWN_FIELDS]) + (", ..." if len(apart) > _SHOWN_FIELDS else "")
        said = (
            f"{len(apart)} numbers are held against the run's scores and files alone, not against"
            f" verdicts in its journal: {shown}"
        )
        found.append(Problem(entry=name, severity="remark", message=said))
    return found


def _is_judged(score: Score) -> bool:
    """Whether each outcome of a number is a verdict of the journal; lm-eval scores by itself."""
    return score.metric in RATES and not score.benchmark.startswith("lm-eval/")


def _score_faults(entry: Entry, made: Entry) -> Iterator[str]:
    theirs = {key_of(score): score for score in entry.scores}
    ours = {key_of(score): score for score in made.scores}
    for key in dict.fromkeys((*ours, *theirs)):
        if theirs.get(key) != ours.get(key):
            fields = differing(_plain(theirs.get(key)), _plain(ours.get(key)))
            shown = ", ".join(fields[:_SHOWN_FIELDS])
            yield f"{_name(key)}: not the run's score ({shown})"


def _plain(score: Score | None) -> Any:
    return {} if score is None else msgspec.to_builtins(score)


def _name(key: tuple[str, ...]) -> str:
    return " ".join(filter(None, key))


def journal_faults(entry: Entry, run: Path) -> Iterator[str]:
    """Say which scores count rows otherwise than the verdicts in the run's journal do.

    Raises:
        JournalError: The journal cannot be read.
    """
    known = {
        key_of(score): {(row.row, row.rollout): row for row in entry.outcomes.of(score) or []}
        for score in entry.scores
        if _is_judged(score)
    }
    scores = [score for score in entry.scores if known.get(key_of(score))]
    wrong: Counter[tuple[str, ...]] = Counter()
    journal = Journal.open(run / "journal", write=False)
    try:
        for stored in stored_rows(journal):
            place = row_hash(stored.row.sample, stored.row.prompt), stored.row.rollout
            for score in scores:
                metric = RATES[score.metric]
                if not _is_of(score, metric, stored):
                    continue
                found = known[key_of(score)].pop(place, None)
                fits = found is not None and _fits(metric, score.judge, stored, found[3:])
                wrong[key_of(score)] += not fits
    finally:
        journal.close()
    for score in scores:
        key = key_of(score)
        lost = len(known[key])
        if wrong[key] or lost:
            yield (
                f"{_name(key)}: {wrong[key] + lost} of its rows are not what the verdicts in the"
                " run's journal say"
            )


def _is_of(score: Score, metric: MetricSpec, stored: Stored) -> bool:
    row = stored.row
    if row.benchmark != score.benchmark:
        return False
    # Questions are neither harmful nor benign.
    if row.harmful is not (None if metric.on == "question" else metric.on == "harmful"):
        return False
    # A part that is shown aside bears the class of its prompts as its group.
    return score.group in ("", row.group, metric.on)


def _fits(metric: MetricSpec, judge: str, stored: Stored, found: tuple[str, float | None]) -> bool:
    """Whether an outcome is what the verdict of its judge comes to."""
    outcome, value = found
    verdict = stored.verdicts.get(judge)
    if verdict is None:
        return value is None
    if not stored.row.verdicts.get(judge) and outcome in _UNSHOWN:
        return value is None
    if metric.label == "correct":
        return _is_checked(verdict, outcome, value)
    name, hit = outcome_of(metric, verdict)
    if hit is None or value is None:
        return hit is value and name == outcome
    return name == outcome and abs(float(hit) - value) < _CLOSE


def _is_checked(verdict: Verdict, outcome: str, value: float | None) -> bool:
    """Whether an outcome of pass@1 is what its checker found, or why it was not asked."""
    if verdict.reason == "error":
        return value is None
    extracted = verdict.details.get("extracted")
    name = "correct" if verdict.correct else "wrong" if extracted == "yes" else "no-answer"
    return outcome == verdict.details.get("fate", name) and value == float(bool(verdict.correct))
