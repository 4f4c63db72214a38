"""How far the judges of a run agree, and on which rollouts they disagree most."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, islice
from typing import Any

from msgspec import Struct

from tseval.errors import DataError, StatisticsError
from tseval.journal import Journal
from tseval.judging import MEMBER, parse_judge
from tseval.panels import Label, is_panel
from tseval.protocol import fingerprint
from tseval.readback import Stored, stored_rows
from tseval.runfolder import RunFolder, Scorecard
from tseval.stats_agreement import MISSING, Agreement, cohen, fleiss, krippendorff
from tseval.types import Verdict

from .labelling import judged_texts
from .rows import Kept, read_rows

LABELS: tuple[Label, ...] = ("refusal", "harmful")


class PairAgreement(Struct, frozen=True, kw_only=True):
    """Agreement of two judges about one label.

    Attributes:
        label: 'refusal' or 'harmful'.
        first, second: The judges.
        both: Rollouts that both gave a verdict on; ``missing`` those that only one or none did.
        same: Those on which they agree.
        kappa: Cohen's; None where it is undefined (``undefined`` says why).
    """

    label: Label
    first: str
    second: str
    both: int
    missing: int
    same: int
    kappa: Agreement | None = None
    undefined: str = ""


class GroupAgreement(Struct, frozen=True, kw_only=True):
    """Agreement of three judges or more about one label.

    Attributes:
        label: 'refusal' or 'harmful'.
        name: The panel whose members they are, or 'all judges'.
        judges: The judges.
        kappa: Fleiss', on the rollouts that all of them gave a verdict on.
        alpha: Krippendorff's, on those that two or more did.
        undefined: Why one of them is None, or ''.
    """

    label: Label
    name: str
    judges: tuple[str, ...]
    kappa: Agreement | None = None
    alpha: Agreement | None = None
    undefined: str = ""


class Disagreement(Struct, frozen=True, kw_only=True):
    """A rollout that judges disagree on.

    Attributes:
        label: What they disagree about.
        stored: The rollout, with its texts.
        votes: Each judge's vote; None where it gave none.
    """

    label: Label
    stored: Stored
    votes: dict[str, bool | None]


class Agreements(Struct, frozen=True, kw_only=True):
    """Agreement of the judges of a run, pooled over its benchmarks, clustered by prompt.

    Judges that were shown different texts (the answer, the trace, or both) are never compared.

    Attributes:
        pairs, groups: Of judges; panels are left out, since they are made of their members.
        rollouts: Rollouts of the run.
    """

    pairs: list[PairAgreement]
    groups: list[GroupAgreement]
    rollouts: int


def agreements(folder: RunFolder) -> Agreements:
    """Measure how far the judges of a run agree.

    Args:
        folder: The run; its scores and its journal are read.
    """
    rows = read_rows(folder)
    # Numbered by the rows, and not by a set, whose order would show in the last digits.
    prompts: dict[str, int] = {}
    for row in rows:
        prompts.setdefault(row.cluster, len(prompts))
    clusters = [prompts[row.cluster] for row in rows]
    single, panels = _judges(folder, rows)
    texts = judged_texts(folder)
    pairs: list[PairAgreement] = []
    groups: list[GroupAgreement] = []
    for label in LABELS:
        every = {judge: _ratings(rows, judge, label) for judge in single}
        ratings = {judge: each for judge, each in every.items() if set(each) != {MISSING}}
        pairs += [
            _pair(label, a, b, ratings, clusters)
            for a, b in combinations(ratings, 2)
            if texts.get(a) == texts.get(b)
        ]
        named = [*_all_judges(tuple(ratings), texts), *panels.items()]
        seen: set[tuple[str, ...]] = set()
        for name, judges in reversed(named):
            chosen = tuple(judge for judge in judges if judge in ratings)
            if len(chosen) > 2 and chosen not in seen:
                seen.add(chosen)
                groups.append(_group(label, name, chosen, ratings, clusters))
    return Agreements(pairs=pairs, groups=groups, rollouts=len(rows))


def journal_gap(rows: list[Kept], scorecard: Scorecard) -> str:
    """Say of which benchmark the journal lacks rollouts that its scores count; '' if of none."""
    held = Counter(row.benchmark for row in rows if row.key or row.failed)
    for score in scorecard.scores:
        # Only what judges judged one by one is in the journal.
        counted = score.n + sum(score.excluded.values())
        if not score.judge or score.group == "average" or scorecard.is_probed(score):
            continue
        if held[score.benchmark] < counted:
            found = f"only {held[score.benchmark]}" if held[score.benchmark] else "none"
            return (
                f"the run's journal holds {found} of the {counted} rollouts that"
                f" {score.metric} on {score.benchmark} counts"
            )
    return ""


def disagreements(folder: RunFolder, count: int) -> list[Disagreement]:
    """Find the rollouts on which the votes are split most evenly.

    Args:
        folder: The run.
        count: Most of them; ties are broken by the order of the rollouts.

    Returns:
        The most split first, with their texts.

    Raises:
        DataError: The journal lacks rollouts that the scores count.
    """
    rows = read_rows(folder) if folder.journal.is_dir() else []
    if gap := journal_gap(rows, folder.scorecard()):
        raise DataError(f"no disagreements can be shown: {gap}", hint="put the journal back")
    single, _ = _judges(folder, rows)
    # Judges that were shown different texts may both be right.
    alike = [judges for _, judges in _all_judges(tuple(single), judged_texts(folder))]
    ranked: list[tuple[float, int, int, int]] = []
    for place, row in enumerate(rows):
        for number, label in enumerate(LABELS):
            for group, judges in enumerate(alike):
                votes = [v for v in _votes(row.verdicts, judges, label).values() if v is not None]
                minority = min(sum(votes), len(votes) - sum(votes))
                if minority:
                    ranked.append((-minority / len(votes), place, number, group))
    chosen = {each[1:]: rank for rank, each in enumerate(islice(sorted(ranked), count))}
    found: list[tuple[int, Disagreement]] = []
    for place, stored in enumerate(_stored(folder)):
        for number, label in enumerate(LABELS):
            for group, judges in enumerate(alike):
                rank = chosen.get((place, number, group))
                if rank is not None:
                    said = _votes(stored.verdicts, judges, label)
                    found.append((rank, Disagreement(label=label, stored=stored, votes=said)))
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def _all_judges(
    judges: tuple[str, ...], texts: dict[str, str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Group judges by the text that they were shown, and name the groups."""
    groups: dict[str, list[str]] = {}
    for judge in judges:
        groups.setdefault(texts.get(judge, ""), []).append(judge)
    return [
        ("all judges" if len(groups) == 1 else f"all judges (text={text})", tuple(chosen))
        for text, chosen in groups.items()
    ]


def _stored(folder: RunFolder) -> Iterator[Stored]:
    journal = Journal.open(folder.journal, write=False)
    try:
        yield from stored_rows(journal)
    finally:
        journal.close()


def _judges(folder: RunFolder, rows: list[Kept]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Name the judges that are no panels, and the members of the panels.

    Judges without any score are left out: they were stopped before they had judged every rollout,
    or say nothing that a metric of the run reads.
    """
    scorecard = folder.scorecard()
    present = {judge for row in rows for judge in row.verdicts}
    seen = [j for j in dict.fromkeys(s.judge for s in scorecard.scores) if j in present]
    identities = {
        score.judge: scorecard.protocols[score.fingerprint]["judge"]
        for score in scorecard.scores
        if score.fingerprint in scorecard.protocols
    }
    texts = judged_texts(folder)
    panels = {
        judge: tuple(
            j
            for j in seen
            if j in identities
            and texts.get(j) == texts.get(judge)
            and _sits(j, identities[j], identity)
        )
        for judge, identity in identities.items()
        if identity is not None and identity["vote"]
    }
    return [judge for judge in seen if judge not in panels], panels


def _sits(judge: str, identity: dict[str, Any], panel: dict[str, Any]) -> bool:
    """Whether a judge is a member of a panel: one on another model bears the same plain name."""
    name, hashed = f"{MEMBER}{_plain(judge)}", fingerprint(identity)
    return any(
        one == hashed and (key == name or key.startswith(f"{name} +"))
        for key, one in panel["identity"].items()
    )


def _plain(judge: str) -> str:
    """Return a judge's label without the place of its model."""
    return judge if is_panel(judge) else parse_judge(judge).label


def _votes(
    verdicts: dict[str, Verdict], judges: tuple[str, ...], label: Label
) -> dict[str, bool | None]:
    return {judge: _vote(verdicts[judge], label) for judge in judges if judge in verdicts}


def _vote(verdict: Verdict | None, label: Label) -> bool | None:
    """A label that comes along with a failure is none."""
    if verdict is None or verdict.reason != "ok":
        return None
    vote: bool | None = getattr(verdict, label)
    return vote


def _ratings(rows: list[Kept], judge: str, label: Label) -> list[int]:
    def rating(row: Kept) -> int:
        vote = _vote(row.verdicts.get(judge), label)
        return MISSING if vote is None else int(vote)

    return [rating(row) for row in rows]


def _pair(
    label: Label, first: str, second: str, ratings: dict[str, list[int]], clusters: list[int]
) -> PairAgreement:
    a, b = ratings[first], ratings[second]
    both = [(x, y) for x, y in zip(a, b, strict=True) if MISSING not in (x, y)]
    kappa, undefined = None, ""
    try:
        kappa = cohen(a, b, clusters)
    except StatisticsError as error:
        undefined = error.message
    return PairAgreement(
        label=label,
        first=first,
        second=second,
        both=len(both),
        missing=len(a) - len(both),
        same=sum(x == y for x, y in both),
        kappa=kappa,
        undefined=undefined,
    )


def _group(
    label: Label,
    name: str,
    judges: tuple[str, ...],
    ratings: dict[str, list[int]],
    clusters: list[int],
) -> GroupAgreement:
    table = list(zip(*(ratings[judge] for judge in judges), strict=True))
    made: list[Agreement | None] = []
    undefined: list[str] = []
    for measure in (fleiss, krippendorff):
        try:
            made.append(measure(table, clusters))
        except StatisticsError as error:
            made.append(None)
            undefined.append(error.message)
    return GroupAgreement(
        label=label,
        name=name,
        judges=judges,
        kappa=made[0],
        alpha=made[1],
        undefined="; ".join(dict.fromkeys(undefined)),
    )
