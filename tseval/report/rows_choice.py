"""Which rollouts of a run a page shows, where it can't show all.

Those come first on which judges are divided most evenly, then a random draw of the others. Which
they are is known before any text is read: ``outcomes.json`` says what each judge made of each
rollout, and the journal's 'row' records are read once. Memory holds the chosen rows and eight bytes
of a hash for each of the others.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from tseval.journal import Journal
from tseval.outcomes import Outcomes, Series, key_of, row_hash
from tseval.readback import Row
from tseval.runfolder import Scorecard

# What a judge says by an outcome of that name; any other name is no vote.
_VOTES = {
    "refusal": {"full": True, "partial": True, "refusal": True, "none": False},
    "harmful": {"harmful": True, "unharmful": False},
}
# Rollouts of one sample are told apart by the low bits of a place.
_ROLLOUT_BITS = 24

# Splits by benchmark and place: the share of the judges that are in the minority.
Splits = dict[str, dict[int, float]]


class Chosen(NamedTuple):
    """A rollout to show.

    Attributes:
        row: Which it is, with the keys of all of its verdicts.
        split: Share of the judges in the minority, in [0, 0.5]; 0 where they agree.
    """

    row: Row
    split: float


class Choice(NamedTuple):
    """The rollouts to show.

    Attributes:
        rows: Those that divide the judges, the most divided first; then the others by benchmark,
            sample and rollout.
        total: Rollouts of the run.
        divided: Those that divide its judges.
    """

    rows: list[Chosen]
    total: int
    divided: int


def splits_of(scorecard: Scorecard, outcomes: Outcomes) -> Splits:
    """Find the rollouts that divide a run's judges, and how evenly.

    Panels are left out, since they are made of their members; judges that were shown different
    texts are never compared; a judge that gave no verdict has no vote.

    Args:
        scorecard: The run's: which judges there are, and what they were shown.
        outcomes: What each rollout came to.
    """
    protocols = scorecard.protocols
    fields = {key_of(score): protocols.get(score.fingerprint) for score in scorecard.scores}
    alike: defaultdict[tuple[str, int, str, str], dict[str, Series]] = defaultdict(dict)
    for series in outcomes.series:
        known = fields.get(series.key)
        judge = known.get("judge") if known else None
        if known is None or not judge or judge.get("vote"):
            continue
        for label in _labels(series):
            place = (series.benchmark, series.rows, label, str(known.get("text")))
            alike[place].setdefault(series.judge, series)
    found: Splits = {}
    for (benchmark, number, label, _), judges in alike.items():
        if len(judges) > 1:
            rows = outcomes.rows[number]
            shares = _shares(list(judges.values()), label)
            into = found.setdefault(benchmark, {})
            for where, share in zip(_places(rows.hashes, rows.rollouts), shares, strict=True):
                if share:
                    into[where] = max(share, into.get(where, 0.0))
    return found


def _labels(series: Series) -> Iterator[str]:
    names = {name for name, _ in series.legend.values()}
    return (label for label, votes in _VOTES.items() if names & set(votes))


def _shares(judges: list[Series], label: str) -> Iterator[float]:
    """Yield the share of the minority at each place; few combinations of codes ever occur."""
    votes = [
        {code: _VOTES[label].get(name) for code, (name, _) in each.legend.items()}
        for each in judges
    ]
    known: dict[tuple[str, ...], float] = {}
    for codes in zip(*(each.codes for each in judges), strict=True):
        if codes not in known:
            cast = [by.get(code) for by, code in zip(votes, codes, strict=True)]
            said = [vote for vote in cast if vote is not None]
            minority = min(sum(said), len(said) - sum(said))
            known[codes] = minority / len(said) if said else 0.0
        yield known[codes]


def _places(hashes: str, rollouts: tuple[int, ...]) -> Iterator[int]:
    digits = len(hashes) // len(rollouts) if rollouts else 0
    for number, size in enumerate(rollouts):
        first = _place(hashes[number * digits : (number + 1) * digits], 0)
        yield from range(first, first + size)


def _place(hashed: str, rollout: int) -> int:
    return (int(hashed, 16) << _ROLLOUT_BITS) + rollout


def choose_rows(journal: Journal, splits: Splits, most: int, *, seed: int = 0) -> Choice:
    """Choose the rollouts to show.

    Args:
        journal: The run's; open for reading is enough.
        splits: Which rollouts divide the judges.
        most: How many to choose.
        seed: Of the draw; a draw of more holds one of fewer, whatever the order of the journal.
    """
    wanted = _most_divided(splits, most)
    divided: dict[int, Chosen] = {}
    drawn: dict[int, Row] = {}
    heap: list[int] = []
    seen: set[int] = set()
    for record in journal.rows():
        row = msgspec.json.decode(record.data, type=Row)
        mark = _mark(row, seed)
        seen.add(mark)
        share = 0.0
        if row.benchmark in wanted:
            place = _place(row_hash(row.sample, row.prompt), row.rollout)
            share = wanted[row.benchmark].get(place, 0.0)
        if share:
            before = divided.get(mark)
            divided[mark] = Chosen(_joined(before.row if before else None, row), share)
        elif mark in drawn or len(heap) < most:
            if mark not in drawn:
                heapq.heappush(heap, -mark)
            drawn[mark] = _joined(drawn.get(mark), row)
        elif mark < -heap[0]:
            # The bound only falls, so one that was put out never comes in again.
            del drawn[-heapq.heapreplace(heap, -mark)]
            drawn[mark] = row
    first = sorted(divided, key=lambda mark: (-divided[mark].split, mark))
    rest = sorted(drawn)[: most - len(first)]
    others = [Chosen(drawn[mark], 0.0) for mark in rest]
    others.sort(key=lambda each: _order(each.row))
    return Choice(
        rows=[*(divided[mark] for mark in first), *others],
        total=len(seen),
        divided=sum(map(len, splits.values())),
    )


def _most_divided(splits: Splits, most: int) -> Splits:
    """Keep the most divided; of equals, an arbitrary choice that is always the same."""
    every = (
        (-share, place, benchmark)
        for benchmark, places in splits.items()
        for place, share in places.items()
    )
    kept: Splits = {}
    for share, place, benchmark in heapq.nsmallest(most, every):
        kept.setdefault(benchmark, {})[place] = -share
    return kept


def _mark(row: Row, seed: int) -> int:
    """Hash a rollout: which one it is, and its place in the draw."""
    named = f"{seed}\0{row.benchmark}\0{row.sample}\0{row.rollout}"
    digest = blake2b(named.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)


def _joined(before: Row | None, row: Row) -> Row:
    """Put a rollout's records together: one that was judged again has several."""
    if before is None:
        return row
    return msgspec.structs.replace(row, verdicts={**before.verdicts, **row.verdicts})


def _order(row: Row) -> tuple[str, int, str, int]:
    # Ids that are numbers stand in the order of numbers.
    plain = len(row.sample) < 19 and row.sample.isascii() and row.sample.isdigit()
    number = int(row.sample) if plain else -1
    return row.benchmark, number, row.sample, row.rollout
