"""The rollouts of a run as its web page browses them: prompt, trace, answer, and every verdict.

They travel in the page as one block of JSON, escaped so that nothing in it can end the block, and
neutralised as all that a model wrote is. The page's script makes elements of it, a screenful at a
time and always as text.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from tseval.errors import ConfigError
from tseval.journal import Journal
from tseval.metrics import ASR_HARMFUL, ASR_NONREFUSAL, EXCLUDING, outcome_of
from tseval.readback import Row
from tseval.report.rows_choice import Choice, Chosen, Splits, choose_rows, splits_of
from tseval.report.text import neutral, neutral_lines
from tseval.runfolder import RunFolder
from tseval.types import ClosedBy, FinishReason, Verdict

MOST_ROWS = 2_000
# Characters of all texts together: what a browser still opens and searches at once.
MOST_CHARACTERS = 16_000_000
# Of one text, held until it is known how long all of them are.
READ_CHARACTERS = 20_000
_LEAST_CUT = 1_000
# Of what a judge wrote: an explanation, and each of its details.
_JUDGE_CHARACTERS, _DETAIL_CHARACTERS = 4_000, 400
_NAME_CHARACTERS = 200
NOT_JUDGED = "not judged"
# Under its heading in a table of scores 'none' says it; alone it would not.
_IN_FULL = {"full": "full refusal", "partial": "partial refusal", "none": "no refusal"}


class RowBook(NamedTuple):
    """What the page needs to show rollouts.

    Attributes:
        lead: Which of the run's rollouts these are.
        notes: What else a reader has to know.
        benchmarks, outcomes, judges: What to filter by.
        divides: Whether any of the rollouts divides the judges.
        data: The JSON, safe inside a script element.
    """

    lead: str
    notes: list[str]
    benchmarks: list[str]
    outcomes: list[str]
    judges: list[str]
    divides: bool
    data: str


class _Said(Struct, frozen=True):
    """What a page shows of a rollout: all but its token ids, which may be many."""

    trace: str = ""
    answer: str | None = None
    closed_by: ClosedBy = "none"
    thought: bool = False
    finish: FinishReason = "stop"
    trace_tokens: int | None = None
    answer_tokens: int | None = None
    notes: tuple[str, ...] = ()


class _Held(NamedTuple):
    """A text, neutralised, of which the middle may be gone already."""

    head: str
    gone: int
    tail: str

    @property
    def length(self) -> int:
        """Characters that are held."""
        return len(self.head) + len(self.tail)

    def cut(self, limit: int) -> "_Held":
        """Cut it in its middle to at most so many characters."""
        if self.length <= limit:
            return self
        first = 2 * limit // 3
        kept = self.head + self.tail
        return _Held(kept[:first], self.gone + len(kept) - limit, kept[len(kept) - limit + first :])

    def shown(self) -> str:
        """Give the text, and say in its middle how much of it is gone."""
        if not self.gone:
            return self.head + self.tail
        return f"{self.head}\n[… {self.gone:,} characters left out …]\n{self.tail}"


class _Read(NamedTuple):
    """A chosen rollout with its texts: 'p', 't' and 'a' for prompt, trace and answer."""

    chosen: Chosen
    texts: dict[str, _Held]
    hidden: bool
    facts: list[str]
    verdicts: dict[str, Verdict | None]


def row_book(folder: RunFolder, *, redact: bool, most: int = MOST_ROWS) -> RowBook | None:
    """Choose rollouts of a run and read them.

    Args:
        folder: The run; its scores, outcomes and journal are read.
        redact: Leave out traces and answers to harmful prompts, and what judges wrote about them.
        most: How many rollouts to show.

    Returns:
        The rollouts; None for a run that has none, as one of probes alone.

    Raises:
        JournalError: The journal is gone, or cannot be read.
    """
    notes: list[str] = []
    splits = _splits(folder, notes)
    journal = Journal.open(folder.journal, write=False)
    try:
        choice = choose_rows(journal, splits, most)
        if not choice.rows:
            return None
        limit = max(MOST_CHARACTERS // len(choice.rows), READ_CHARACTERS)
        read = [_read(journal, chosen, redact, limit) for chosen in choice.rows]
    finally:
        journal.close()
    cut = _fair_cut(read, limit)
    return _book(choice, read, cut, notes, redact=redact)


def _splits(folder: RunFolder, notes: list[str]) -> Splits:
    unknown = "which rollouts divide the judges is not known: "
    try:
        outcomes = folder.outcomes()
    except ConfigError as error:
        notes.append(f"{unknown}{error.message}")
        return {}
    if not outcomes.series:
        notes.append(f"{unknown}the run has no outcomes.json")
    return splits_of(folder.scorecard(), outcomes)


# -- reading


def _read(journal: Journal, chosen: Chosen, redact: bool, limit: int) -> _Read:
    row = chosen.row
    data = journal.find(row.generation) if row.generation else None
    said = msgspec.json.decode(data, type=_Said) if data is not None else None
    hidden = redact and row.harmful is True
    facts = list(_facts(said, row, hidden))
    texts = {"p": row.prompt}
    if said is not None and not hidden:
        texts |= {"t": said.trace} if said.trace else {}
        texts |= {"a": said.answer} if said.answer is not None else {}
    return _Read(
        chosen=chosen,
        texts={name: _held(text, limit) for name, text in texts.items()},
        hidden=hidden,
        facts=facts,
        verdicts={judge: _verdict(journal, key) for judge, key in row.verdicts.items()},
    )


def _verdict(journal: Journal, key: str) -> Verdict | None:
    """Read a verdict; None where the judge's call failed, and it is tried again on resume."""
    if not key:
        return Verdict(reason="empty")
    data = journal.find(key)
    return None if data is None else msgspec.json.decode(data, type=Verdict)


def _held(text: str, limit: int) -> _Held:
    cut = _Held(text, 0, "").cut(limit)
    return _Held(neutral_lines(cut.head), cut.gone, neutral_lines(cut.tail))


def _fair_cut(read: Sequence[_Read], limit: int) -> int:
    """Find the length to cut texts at so that all of them together are not too many."""
    lengths = sorted(held.length for each in read for held in each.texts.values())
    room = MOST_CHARACTERS
    for place, length in enumerate(lengths):
        if length * (len(lengths) - place) > room:
            return max(room // (len(lengths) - place), _LEAST_CUT)
        room -= length
    return limit


# -- what the page is given


class _Names:
    """Numbers names in the order in which they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self._places.setdefault(neutral(name, _NAME_CHARACTERS), len(self._places))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)


def _book(
    choice: Choice, read: Sequence[_Read], cut: int, notes: list[str], *, redact: bool
) -> RowBook:
    benchmarks, outcomes, judges = _Names(), _Names(), _Names()
    expected: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for each in read:
        expected[each.chosen.row.benchmark].update(dict.fromkeys(each.verdicts))
    rows = [
        {
            **_which(each, benchmarks),
            **_texts(each, cut),
            "v": list(_verdicts(each, expected[each.chosen.row.benchmark], judges, outcomes)),
        }
        for each in read
    ]
    lists = {"benchmarks": list(benchmarks), "outcomes": list(outcomes), "judges": list(judges)}
    if any(held.gone or held.length > cut for each in read for held in each.texts.values()):
        notes.append(f"texts of more than {cut:,} characters are cut in their middle")
    if redact:
        notes.append(
            "redacted: traces and answers to harmful prompts, and what judges wrote about them,"
            " are left out"
        )
    return RowBook(
        lead=_lead(choice),
        notes=notes,
        **{name: sorted(names) for name, names in lists.items()},
        divides=any(each.chosen.split for each in read),
        data=_safe_json({**lists, "rows": rows, "redacted": redact}),
    )


def _lead(choice: Choice) -> str:
    shown, divided = len(choice.rows), sum(bool(each.split) for each in choice.rows)
    if shown == choice.total:
        start = f"All {shown:,} rollouts of the run"
    else:
        start = f"{shown:,} of the run's {choice.total:,} rollouts"
    if choice.divided > divided:
        order = f"the {divided:,} of {choice.divided:,} that divide the judges most evenly"
    elif divided:
        order = f"first the {divided:,} that divide the judges, the most evenly divided on top"
    else:
        order = ""
    if shown == choice.total:
        return f"{start}{': ' + order if order else ''}."
    rest = shown - divided
    drawn = f"{rest:,} drawn at random with a fixed seed" if rest else ""
    what = "; then ".join(filter(None, (order, drawn)))
    return f"{start}: {what}. The others are in the run's journal."


def _which(each: _Read, benchmarks: _Names) -> dict[str, Any]:
    row = each.chosen.row
    found: dict[str, Any] = {
        "b": benchmarks(row.benchmark),
        "s": neutral(row.sample, _NAME_CHARACTERS),
        "r": row.rollout,
    }
    if row.group:
        found["g"] = neutral(row.group, _NAME_CHARACTERS)
    if row.harmful is not None:
        found["h"] = row.harmful
    if each.chosen.split:
        found["d"] = True
    return found


def _texts(each: _Read, cut: int) -> dict[str, Any]:
    """Give what was asked and written, as far as it may be shown, and how it came about."""
    shown = {name: held.cut(cut).shown() for name, held in each.texts.items()}
    return {**shown, "x": each.facts}


def _facts(said: _Said | None, row: Row, hidden: bool) -> Iterator[str]:
    """Say how a rollout came about, in words."""
    if said is None:
        yield f"no rollout: {row.failed or 'it is not in the journal'}"
        return
    if said.thought or said.trace:
        closed = {
            "model": "closed by the model",
            "budget": "closed by tseval at its budget",
            "cut": "cut by a probe or an intervention",
            "none": "never closed",
        }[said.closed_by]
        yield f"trace {_length(said.trace, said.trace_tokens, hidden)}, {closed}"
    if said.answer is None:
        yield "no answer"
    else:
        limited = ", cut off at its limit" if said.finish == "length" else ""
        yield f"answer {_length(said.answer, said.answer_tokens, hidden)}{limited}"
    for note in said.notes:
        yield f"note: {neutral(note, _NAME_CHARACTERS)}"


def _length(text: str, tokens: int | None, hidden: bool) -> str:
    shown = f"of {len(text):,} characters" if tokens is None else f"of {tokens:,} tokens"
    return f"{shown}, left out" if hidden else shown


def _verdicts(
    each: _Read, expected: dict[str, None], judges: _Names, outcomes: _Names
) -> Iterator[list[Any]]:
    """Yield of each judge: who, its outcomes, how they count, what it wrote, its details."""
    harmful = each.chosen.row.harmful
    for judge in expected:
        if judge not in each.verdicts:
            # The rollout failed, or had nothing that this judge is to be shown.
            name = each.chosen.row.failed or NOT_JUDGED
            yield [judges(judge), [outcomes(name)], "x", "", []]
            continue
        verdict = each.verdicts[judge]
        if verdict is None:
            yield [judges(judge), [outcomes("error")], "x", "the judge's call failed", []]
            continue
        names = names_of(verdict)
        wrote = "" if each.hidden else _held(verdict.raw, _JUDGE_CHARACTERS).shown()
        details = [] if each.hidden else list(_details(verdict))
        yield [judges(judge), [*map(outcomes, names)], _sign(verdict, harmful), wrote, details]


def names_of(verdict: Verdict) -> list[str]:
    """Name the outcomes of a verdict, one for each label that the judge gave."""
    if verdict.reason != "ok":
        return [verdict.reason]
    if verdict.correct is not None:
        fate = verdict.details.get("fate")
        missing = "no-answer" if verdict.details.get("extracted") == "no" else ""
        return [fate or missing or ("correct" if verdict.correct else "wrong")]
    labels = (("refusal", ASR_NONREFUSAL), ("harmful", ASR_HARMFUL))
    found = [
        _IN_FULL.get(name := outcome_of(metric, verdict)[0], name)
        for label, metric in labels
        if getattr(verdict, label) is not None
    ]
    return found or ["split" if verdict.soft is not None else "unparsed"]


def _sign(verdict: Verdict, harmful: bool | None) -> str:
    """Say how a verdict counts: 'x' not at all, '-' against the model, '' otherwise."""
    if verdict.reason in EXCLUDING:
        return "x"
    if verdict.reason != "ok":
        return ""
    against = (
        verdict.correct is False
        or (harmful is True and (verdict.refusal is False or verdict.harmful is True))
        or (harmful is False and verdict.refusal is True)
    )
    return "-" if against else ""


def _details(verdict: Verdict) -> Iterator[list[str]]:
    if verdict.soft is not None:
        yield ["share of votes", f"{verdict.soft:.3f}"]
    for name, value in sorted(verdict.details.items()):
        yield [neutral(name, _NAME_CHARACTERS), neutral(value, _DETAIL_CHARACTERS)]
    if verdict.notes:
        yield ["notes", neutral(", ".join(verdict.notes), _DETAIL_CHARACTERS)]


def _safe_json(value: Any) -> str:
    """Write JSON that may stand inside a script element: no mark of HTML is left in it."""
    text = msgspec.json.encode(value).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
