"""Is an entry what it says: its form, its protocols, its numbers, and whether it fits a board.

Everything that an entry claims is made again from its own outcomes where they give it; what they
do not give (the numbers of probes) can be checked against the run alone (see ``origin``).
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from math import isclose
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError
from tseval.outcomes import MISSING, key_of
from tseval.protocol import PROTOCOL_SCHEMA, Protocol, differing, fingerprint
from tseval.types import Score

from .beside import alike, file_faults, prints, prompt_faults, row_faults, subject
from .cells import Numbers, misfits, numbers_of
from .entry import decode, digest_of, label_faults
from .recompute import RATES, outcome_faults, score_faults
from .records import ENTRY_SCHEMA, Board, Entry, Severity
from .texts import text_faults

# Of every interval that tseval makes, and that boards show.
_LEVEL = 0.95
# What two ways to the same share may differ by.
_SLACK = 1e-9
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Problem(Struct, frozen=True, kw_only=True):
    """Something that is to be said of an entry.

    Attributes:
        entry: Its file, or its label.
        severity: 'error': it is not to be accepted; 'protocol': its protocol is not the board's;
            'remark': to be known.
        message: What, in words.
    """

    entry: str
    severity: Severity
    message: str


class Checked(Struct, frozen=True, kw_only=True):
    """An entry that was looked at.

    Attributes:
        name: Its file.
        entry: What it holds; None where that cannot be read.
        problems: What is to be said of it.
    """

    name: str
    entry: Entry | None
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with it; its protocol may be another than the board's."""
        return all(problem.severity != "error" for problem in self.problems)


def check_data(data: bytes, name: str, board: Board | None = None) -> Checked:
    """Check one entry on its own.

    Args:
        data: Its file's content.
        name: Of the file, for messages.
        board: What it is for; None: any.
    """
    try:
        entry, raw = decode(data), msgspec.json.decode(data)
    except ConfigError as error:
        problem = Problem(entry=name, severity="error", message=error.message)
        return Checked(name=name, entry=None, problems=(problem,))
    found = [
        Problem(entry=name, severity="error", message=message)
        for message in (*_form_faults(entry, raw), *_number_faults(entry))
    ]
    if board is not None:
        found += _board_problems(board, entry, name)
    free = [score for score in entry.scores if not _has_rows(entry, score)]
    if free:
        message = f"{len(free)} of {len(entry.scores)} scores can be checked against the run only"
        found.append(Problem(entry=name, severity="remark", message=message))
    return Checked(name=name, entry=entry, problems=tuple(found))


def check_together(board: Board | None, every: Sequence[Checked]) -> list[Checked]:
    """Add what is wrong with entries beside each other: duplicates, and rows that differ."""
    extra: dict[int, list[tuple[Severity, str]]] = {place: [] for place in range(len(every))}
    subjects: dict[str, list[tuple[str, dict[Any, str]]]] = {}
    labels: dict[str, str] = {}
    prompts: dict[tuple[str, str], str] = {}
    rows: dict[str, tuple[str, str]] = {}
    files: dict[str, str] = {}
    for place, each in enumerate(every):
        entry = each.entry
        if entry is None or not each.is_sound:
            continue
        own, before = prints(board, entry), subjects.setdefault(subject(entry), [])
        same = [name for name, theirs in before if alike(theirs, own)]
        before.append((each.name, own))
        if same:
            message = f"the same subject under the same protocol is in {same[0]}: keep one of them"
            extra[place].append(("error", message))
        called = entry.label.strip().casefold()
        if labels.setdefault(called, each.name) != each.name:
            message = f"the same label, {entry.label!r}, is in {labels[called]}"
            extra[place].append(("error", f"{message}: keep one of them"))
        extra[place] += [] if same else file_faults(entry, each.name, files)
        extra[place] += prompt_faults(entry, each.name, prompts)
        extra[place] += row_faults(entry, each.name, rows)
    return [
        msgspec.structs.replace(
            each,
            problems=each.problems
            + tuple(Problem(entry=each.name, severity=s, message=m) for s, m in extra[place]),
        )
        for place, each in enumerate(every)
    ]


def check_files(
    files: Sequence[Path], board: Board | None = None, *, beside: Sequence[Path] = ()
) -> list[Checked]:
    """Check entries as files, each on its own and beside each other.

    Args:
        files: What is checked.
        board: What they are for.
        beside: Entries that the board has already; problems of these are not returned.


    Raises:
        ConfigError: A file is not there.
    """
    wanted = {file.resolve() for file in files}
    every = [file for file in beside if file.resolve() not in wanted] + [*files]
    checked = [_check_file(file, board) for file in every]
    return check_together(board, checked)[len(every) - len(files) :]


def exit_code(problems: Sequence[Problem]) -> int:
    """Return 1 if an entry is bad, 4 if one was measured otherwise than the board wants it."""
    found = {problem.severity for problem in problems}
    return 1 if "error" in found else 4 if "protocol" in found else 0


def _check_file(file: Path, board: Board | None) -> Checked:
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except OSError as error:
        message = f"cannot read it: {error.strerror or error}"
        problem = Problem(entry=str(file), severity="error", message=message)
        return Checked(name=str(file), entry=None, problems=(problem,))
    return check_data(data, str(file), board)


# -- one entry


def _form_faults(entry: Entry, raw: Any) -> Iterator[str]:
    known = msgspec.json.decode(msgspec.json.encode(entry))
    for place in _unknown(raw, known, ""):
        yield f"the field {place!r} is unknown"
    if digest_of(raw) != entry.digest:
        yield "the digest does not fit: the entry was changed after it was made"
    yield from label_faults(entry)
    yield from dict.fromkeys(text_faults(entry))
    if entry.schema != ENTRY_SCHEMA:
        yield f"it has schema {entry.schema}, expected {ENTRY_SCHEMA}"
    try:
        day = date.fromisoformat(entry.date)
        ahead = day - datetime.now(UTC).date()
        # Other ways to write a day sort otherwise.
        written = day.isoformat() == entry.date
    except ValueError:
        written = False
    if not written:
        yield f"the date {entry.date!r} is no day such as 2026-01-31"
    elif ahead > timedelta(days=1):  # somewhere it is tomorrow already
        yield f"the date {entry.date} is yet to come"
    # A run of probes alone has no rows, and so no outcomes.json.
    wanted = ("run.json", "scores.json", *["outcomes.json"] * bool(entry.outcomes.series))
    missing = [name for name in wanted if name not in entry.files]
    if missing:
        yield f"the hashes of {', '.join(missing)} are missing"
    for name, value in entry.files.items():
        if not _SHA256.fullmatch(value):
            yield f"files: {name} has no SHA-256"
    if not entry.model or not entry.identity:
        yield "it does not say which model was measured"
    yield from _protocol_faults(entry)


def _unknown(raw: Any, known: Any, where: str) -> Iterator[str]:
    """Name what the file holds and no record has; protocols are anybody's (see below)."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for name, value in raw.items():
            if name not in known:
                yield f"{where}{name}"
            else:
                yield from _unknown(value, known[name], f"{where}{name}.")
    elif isinstance(raw, list) and isinstance(known, list):
        for place, (one, other) in enumerate(zip(raw, known, strict=False)):
            yield from _unknown(one, other, f"{where}{place}.")


def _protocol_faults(entry: Entry) -> Iterator[str]:
    used = {score.fingerprint for score in entry.scores}
    for name, fields in entry.protocols.items():
        if fingerprint(fields) != name:
            yield f"the protocol {name} has the fingerprint {fingerprint(fields)}: it was changed"
            continue
        if fields.get("schema") != PROTOCOL_SCHEMA:
            # What its fields mean, and which there are, is known of this one alone.
            yield f"the protocol {name} has another schema than {PROTOCOL_SCHEMA}"
        if name not in used:
            yield f"the protocol {name} is no score's"
        try:
            protocol = msgspec.convert(fields, type=Protocol, strict=False)
        except msgspec.ValidationError as error:
            yield f"the protocol {name} is none: {error}"
            continue
        extra = differing(msgspec.json.decode(msgspec.json.encode(protocol.canonical())), fields)
        extra = [each for each in extra if each != "schema"]
        if extra:
            yield f"the protocol {name} has fields that none has: {', '.join(extra[:4])}"


# -- its numbers


def _number_faults(entry: Entry) -> Iterator[str]:
    broken = list(outcome_faults(entry.outcomes, entry.scores))
    if broken:
        # Nothing can be made of them.
        yield from broken
        return
    keys = [key_of(score) for score in entry.scores]
    for score in entry.scores:
        name = " ".join(filter(None, key_of(score)))
        faults = [*_score_faults(entry, score), *score_faults(entry.outcomes, score)]
        if keys.count(key_of(score)) > 1:
            faults.append("is there twice")
        yield from (f"{name}: {fault}" for fault in faults)
    yield from _size_faults(entry)


def _score_faults(entry: Entry, score: Score) -> Iterator[str]:
    protocol = entry.protocols.get(score.fingerprint)
    if protocol is None:
        yield f"its protocol {score.fingerprint} is missing"
        return
    if score.member or score.group == "average":
        yield "averages and members of panels are no part of an entry"
    own = score.benchmark.startswith("lm-eval/")
    said = protocol.get("benchmark"), protocol.get("group"), protocol.get("metric")
    if not own and said != (score.benchmark, score.group, score.metric):
        yield f"its protocol is of {' '.join(str(each) for each in said if each)}"
    if bool(score.judge) is (protocol.get("judge") is None):
        yield f"its protocol's judge does not fit {score.judge or 'none'}"
    if score.partial is (protocol.get("limit") is None):
        yield "whether it is of all rows does not fit its protocol's limit"
    metric = RATES.get(score.metric)
    if metric is not None and not protocol.get("settings"):
        if not own and not _has_rows(entry, score):
            yield "it is a rate over rows, and has no outcomes"
        if score.higher_is_better is not metric.higher_is_better or score.unit != "share":
            yield "its better end or its unit is not the metric's"
    estimate = score.estimate
    if estimate is not None and not estimate.low <= estimate.high:
        yield f"its interval ends below where it begins: [{estimate.low}, {estimate.high}]"
    elif estimate is not None and not estimate.low <= estimate.value <= estimate.high:
        yield f"{estimate.value} lies outside its interval [{estimate.low}, {estimate.high}]"
    if estimate is not None and score.unit == "share":
        # A rate, or a change of one.
        least = 0.0 if metric is not None else -1.0
        if not least <= estimate.low <= estimate.high <= 1:
            yield f"its interval [{estimate.low}, {estimate.high}] leaves [{least:g}, 1]"
    yield from _count_faults(score)
    for name in ("forced_close_share", "truncated_share", "unclosed_share"):
        share = getattr(score, name)
        if share is not None and not 0 <= share <= 1:
            yield f"{name} is {share}, expected a share"


def _count_faults(score: Score) -> Iterator[str]:
    """Say what cannot be in the counts of a score, in its level and in its bounds."""
    estimate, bounds = score.estimate, score.bounds
    if score.n < 0 or any(count < 0 for count in score.excluded.values()):
        yield "it has counts below 0"
    if not 0 <= score.n_prompts <= max(score.n, 0) + sum(score.excluded.values()):
        yield f"it has {score.n_prompts} prompts among {score.n} rollouts"
    if estimate is not None and score.n < 1:
        yield "it has a value, and is over nothing"
    if estimate is not None and not isclose(estimate.level, _LEVEL):
        yield f"the level of its interval is {estimate.level}, not {_LEVEL}"
    if bounds is not None and not bounds[0] <= bounds[1]:
        yield f"its bounds end below where they begin: [{bounds[0]}, {bounds[1]}]"
    elif bounds and estimate and not bounds[0] - _SLACK <= estimate.value <= bounds[1] + _SLACK:
        yield f"{estimate.value} lies outside its bounds [{bounds[0]}, {bounds[1]}]"


def _has_rows(entry: Entry, score: Score) -> bool:
    return any(series.key == key_of(score) for series in entry.outcomes.series)


def _size_faults(entry: Entry) -> Iterator[str]:
    """Say where there are more rows than the protocol asks for, or fewer of them."""
    for series in entry.outcomes.series:
        fields = entry.protocols.get(series.fingerprint, {})
        if series.metric not in RATES or series.benchmark.startswith("lm-eval/"):
            continue
        rollouts = entry.outcomes.rows[series.rows].rollouts
        name = f"{series.benchmark} {series.metric}"
        limit, most = fields.get("limit"), fields.get("rollouts", 1)
        if isinstance(limit, int) and len(rollouts) > limit:
            yield f"{name}: {len(rollouts)} rows, but its protocol's limit is {limit}"
        if isinstance(most, int) and max(rollouts, default=0) > most:
            yield f"{name}: {max(rollouts)} rollouts of a row, but its protocol has {most}"
        elif isinstance(most, int) and not fields.get("settings"):
            # A rollout that failed is excluded, with its reason: none is just not there.
            lost = most * len(rollouts) - sum(rollouts) + series.codes.count(MISSING)
            if lost:
                yield f"{name}: {lost} rollouts are missing, and are not among the excluded ones"


# -- beside a board, and beside others


def _board_problems(board: Board, entry: Entry, name: str) -> Iterator[Problem]:
    numbers = numbers_of(board, entry)
    if not numbers.scores:
        message = f"it has no number of the board {board.name!r}"
        yield Problem(entry=name, severity="error", message=message)
        return
    for key, score in numbers.scores.items():
        column = board.column(key)
        own = score.benchmark.startswith("lm-eval/")
        if score.metric in RATES and not own and not _has_rows(entry, score):
            message = f"{key}: it is a rate over rows, and has no outcomes"
            yield Problem(entry=name, severity="error", message=message)
        if (score.higher_is_better, score.unit) != (column.higher_is_better, column.unit):
            message = f"{key}: its better end or its unit is not that of the board's column"
            yield Problem(entry=name, severity="error", message=message)
    faults = misfits(board, numbers)
    if not faults:
        yield from _lost_rows(board, numbers, name)
    if faults:
        severity: Severity = "remark" if entry.demonstration else "protocol"
        message = f"stands in a table of its own: {'; '.join(faults)}"
        yield Problem(entry=name, severity=severity, message=message)


def _lost_rows(board: Board, numbers: Numbers, name: str) -> Iterator[Problem]:
    """Say where there are other rows than the board's benchmark has: some were left out."""
    outcomes = numbers.entry.outcomes
    rows = {each.key: len(outcomes.rows[each.rows].rollouts) for each in outcomes.series}
    for key, score in numbers.scores.items():
        wanted, found = board.column(key).rows, rows.get(key_of(score))
        if wanted and not score.partial and found not in (None, wanted):
            message = f"{key}: {found} rows, but the whole of it has {wanted}"
            yield Problem(entry=name, severity="error", message=message)
