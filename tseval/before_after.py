"""Two deliberation scorecards side by side: what changed between two runs, and by how much."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, structs

from .compare import match_scores
from .deliberation import DeliberationCard, Finding, deliberation
from .errors import ConfigError, NotComparable
from .measurements import ByPrompt
from .outcomes import Outcomes
from .prompt_pairs import paired_by_prompt
from .protocol import differing
from .runfolder import RunFolder, Scorecard
from .stats_compare import independent
from .types import Estimate, Score, Unit


class Change(Struct, frozen=True, kw_only=True):
    """One row of two cards.

    Attributes:
        key, title, unit, higher_is_better, axis: As on the findings.
        before, after: Values; None where undefined.
        n_before, n_after: Their denominators.
        undefined: Why there is no difference, or ''.
        difference: After less before, with its interval; ``method`` says whether it is paired.
        reading: A sentence, or ''.
    """

    key: str
    title: str
    unit: Unit
    higher_is_better: bool | None
    axis: str
    before: Estimate | None = None
    after: Estimate | None = None
    n_before: int = 0
    n_after: int = 0
    undefined: str = ""
    difference: Estimate | None = None
    reading: str = ""


class Changes(Struct, frozen=True, kw_only=True):
    """What changed from one run to another, under one judge.

    Attributes:
        before, after: Names of the two models, with what they were under.
        judge: Whose labels both rest on.
        changes: Rows, in the order of the page.
        notes: What a reader has to know.
    """

    before: str
    after: str
    judge: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


class _Side(NamedTuple):
    folder: RunFolder
    scorecard: Scorecard
    card: DeliberationCard


class _Named(NamedTuple):
    folder: RunFolder
    scorecard: Scorecard


def all_changes(baseline: RunFolder, candidate: RunFolder) -> list[Changes]:
    """Compare what two runs have in common: scores, and deliberation scorecards.

    Arguments are those of :func:`score_changes`.

    Raises:
        ConfigError: They have nothing in common, or one of them alone has probes.
        NotComparable: Something was measured under different protocols; names the fields.
    """
    probed = any(folder.measurements() for folder in (baseline, candidate))
    cards = [folder.scorecard() for folder in (baseline, candidate)]
    there, here = ({_place(s) for s in card.scores if _plain(card, s)} for card in cards)
    found = [] if probed and not there & here else [score_changes(baseline, candidate)]
    return [*found, *changes_between(baseline, candidate)] if probed else found


def changes_between(baseline: RunFolder, candidate: RunFolder) -> list[Changes]:
    """Compare the deliberation scorecards of two runs.

    Args:
        baseline: The run before: the base model, or the model without a defence.
        candidate: The run after.

    Returns:
        A comparison for each judge that both runs have.

    Raises:
        ConfigError: A run has no probe.
        NotComparable: They were measured under different protocols; names the fields.
    """
    before, after = _sides(baseline), _sides(candidate)
    shared = [judge for judge in after if judge in before]
    if not shared:
        raise NotComparable(
            f"no judge is common to the probes of both runs ({', '.join(before)} there,"
            f" {', '.join(after)} here)",
            hint=f"tseval judge {baseline.path} --judge {next(iter(after))}",
        )
    return [_compared(before[judge], after[judge]) for judge in shared]


def _sides(folder: RunFolder) -> dict[str, _Side]:
    scorecard = folder.scorecard()
    cards = deliberation(scorecard, folder.measurements())
    if not cards:
        raise ConfigError(
            f"{folder.path} has no probe of the deliberation scorecard",
            hint="tseval run --suite deliberation measures them",
        )
    return {card.judge: _Side(folder, scorecard, card) for card in cards}


def _compared(before: _Side, after: _Side) -> Changes:
    _require_alike(before, after)
    there = {(row.key, row.title): row for row in before.card.findings}
    here = {(row.key, row.title): row for row in after.card.findings}
    outcomes = before.folder.outcomes(), after.folder.outcomes()
    rows = [
        _change(
            there[at],
            row,
            _paired(_score(before, row), _score(after, row), outcomes)
            or paired_by_prompt(_kept(before, row), _kept(after, row)),
            key=row.key,
            title=row.title,
            axis=row.axis,
        )
        for at, row in here.items()
        if at in there
    ]
    alone = [title for (_, title) in {**there, **here} if (_, title) not in there.keys() & here]
    notes = [f"in one of the runs only: {'; '.join(alone)}"] if alone else []
    notes += _notes(rows, (before, after))
    return Changes(
        before=_named(before),
        after=_named(after),
        judge=after.card.judge,
        changes=tuple(rows),
        notes=tuple(notes),
    )


def _notes(rows: Sequence[Change], sides: "Sequence[_Side | _Named]") -> Iterator[str]:
    if any(row.difference is not None and "independent" in row.difference.method for row in rows):
        yield (
            "differences marked 'independent' take the two runs as independent samples, also where"
            " both were asked the same prompts: as a rule their intervals are then too wide"
        )
    if len({_named(side) for side in sides}) == 1:
        yield "both runs name the same model"


def _named(side: "_Side | _Named") -> str:
    """Name a model with what it was under: as a rule that is what the comparison is about."""
    spec = side.folder.manifest.spec
    under = [spec.intervention] if spec.intervention else []
    if prompt := side.scorecard.system_prompt_hash:
        under.append(f"system prompt {prompt[:6]}")
    return " under ".join(filter(None, (side.scorecard.subject.name, " and ".join(under))))


# -- benchmarks of prompts and of questions


def score_changes(baseline: RunFolder, candidate: RunFolder) -> Changes:
    """Compare the scores of two runs, benchmark by benchmark; probes and averages are left out.

    Args:
        baseline: The run before: the base model, or the model without a defence.
        candidate: The run after.

    Raises:
        ConfigError: No score is common to both.
        NotComparable: One was measured under different protocols; names the fields.
    """
    sides = [(folder, folder.scorecard()) for folder in (baseline, candidate)]
    there, here = ({_place(s): s for s in card.scores if _plain(card, s)} for _, card in sides)
    shared = [place for place in here if place in there]
    if not shared:
        raise ConfigError(
            f"{baseline.path} and {candidate.path} have no score in common",
            hint="compare runs of the same benchmarks under the same judges",
        )
    fields: dict[str, list[str]] = defaultdict(list)
    for place in shared:
        protocols = (
            card.protocols.get(scores[place].fingerprint, {})
            for (_, card), scores in zip(sides, (there, here), strict=True)
        )
        for name in differing(*protocols):
            if place[0] not in fields[name]:
                fields[name].append(place[0])
    _refuse_different(fields, baseline, candidate)
    outcomes = baseline.outcomes(), candidate.outcomes()
    several = len({place[3] for place in shared if place[3]}) > 1
    changes = []
    for place in shared:
        paired = _paired(there[place], here[place], outcomes)
        left, right = there[place], here[place]
        title = _titled(right, several)
        changes.append(
            _change(left, right, paired, key=right.metric, title=title, axis=right.metric)
        )
    sides_named = [_Named(folder, card) for folder, card in sides]
    return Changes(
        before=_named(sides_named[0]),
        after=_named(sides_named[1]),
        judge=", ".join(dict.fromkeys(place[3] for place in shared if place[3])),
        changes=tuple(changes),
        notes=tuple(_notes(changes, sides_named)),
    )


def _place(score: Score) -> tuple[str, str, str, str]:
    return score.benchmark, score.group, score.metric, score.judge


def _plain(card: Scorecard, score: Score) -> bool:
    return not (score.member or score.group == "average" or card.is_probed(score))


def _titled(score: Score, several: bool) -> str:
    named = [score.benchmark, score.group, score.title or score.metric.replace("_at_", "@")]
    return ", ".join(filter(None, [*named, score.judge if several else ""]))


# -- comparable or not


def _require_alike(before: _Side, after: _Side) -> None:
    """Raise NotComparable where a row of both cards was measured in two ways."""
    fields: dict[str, list[str]] = defaultdict(list)
    for benchmark, names in _differences(before, after):
        for name in names:
            if benchmark not in fields[name]:
                fields[name].append(benchmark)
    _refuse_different(fields, before.folder, after.folder)


def _refuse_different(fields: Mapping[str, list[str]], before: RunFolder, after: RunFolder) -> None:
    if fields:
        shown = "; ".join(f"{name} ({', '.join(of)})" for name, of in sorted(fields.items()))
        raise NotComparable(
            f"{before.path} and {after.path} were measured differently: {shown}",
            hint="run both with the same --scale, --limit, --protocol, judges and data",
        )


def _differences(before: _Side, after: _Side) -> Iterator[tuple[str, list[str]]]:
    judge = after.card.judge
    used = {row.source[0] for row in after.card.findings}
    used &= {row.source[0] for row in before.card.findings}
    there, here = (
        {
            (s.benchmark, s.group, s.metric): side.scorecard.protocols.get(s.fingerprint, {})
            for s in side.scorecard.scores
            if s.judge == judge and s.benchmark in used
        }
        for side in (before, after)
    )
    for at in sorted(there.keys() & here):
        yield at[0], differing(there[at], here[at])
    # A probe without a score that both have: its constants are all that is known of it.
    settings = [
        {m.probe: m.settings for m in side.folder.measurements() if m.judge == judge}
        for side in (before, after)
    ]
    for probe in sorted(used & settings[0].keys() & settings[1].keys()):
        named = [f"settings.{each}" for each in differing(settings[0][probe], settings[1][probe])]
        yield probe, named


# -- one row


def _change(
    there: Finding | Score,
    here: Finding | Score,
    paired: Estimate | None,
    *,
    key: str,
    title: str,
    axis: str,
) -> Change:
    found = None
    if there.estimate is not None and here.estimate is not None:
        found = paired or independent(there.estimate, here.estimate)
    why = [f"{name}: {row.undefined}" for name, row in (("before", there), ("after", here))]
    return Change(
        key=key,
        title=title,
        unit=here.unit,
        higher_is_better=here.higher_is_better,
        axis=axis,
        before=there.estimate,
        after=here.estimate,
        n_before=there.n,
        n_after=here.n,
        undefined="" if found is not None else "; ".join(w for w in why if not w.endswith(": ")),
        difference=found,
        reading=_reading(found, here.higher_is_better),
    )


def _paired(
    there: Score | None, here: Score | None, outcomes: tuple[Outcomes, Outcomes]
) -> Estimate | None:
    """Pair the rows of two scores by prompt; None where they are no means over rows."""
    if there is None or here is None:
        return None
    matched = match_scores((outcomes[0], there), (outcomes[1], here))
    if matched is None or not matched.samples:
        return None
    found = matched.paired().interval()
    method = f"paired by prompt, n={len(matched.samples)} ({found.method})"
    return structs.replace(found, method=method)


def _score(side: _Side, row: Finding) -> Score | None:
    found = (
        score
        for score in side.scorecard.scores
        if (score.benchmark, score.metric, score.group) == row.source
        and score.judge == side.card.judge
    )
    return next(found, None)


def _kept(side: _Side, row: Finding) -> ByPrompt | None:
    """Find what a probe kept of its prompts for a row."""
    found = (
        number.by_prompt
        for measured in side.folder.measurements()
        if measured.judge == side.card.judge
        for number in measured.numbers
        if (measured.probe, number.metric, number.group) == row.source and not number.variant
    )
    return next(found, None)


def _reading(found: Estimate | None, better: bool | None) -> str:
    if found is None:
        return ""
    if found.low <= 0 <= found.high:
        return "No difference is shown: the interval holds 0."
    rose = found.low > 0
    if better is None:
        return "It rose." if rose else "It fell."
    return "Better." if rose is better else "Worse."
