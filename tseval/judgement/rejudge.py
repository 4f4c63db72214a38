"""Judge the stored rollouts of a run by further judges; nothing that is there is made again."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from itertools import islice

import msgspec

from tseval.arrays import ArrayStore
from tseval.cards import BenchmarkCard
from tseval.errors import ConfigError, TsevalError
from tseval.judging import Seat, seat_judges
from tseval.legs import Display, Work, open_leg, watched
from tseval.mapping import leaves
from tseval.plugins import Registry
from tseval.prompt_benchmark import judged
from tseval.protocol import Protocol
from tseval.readback import Stored, stored_rows
from tseval.roles import Backend
from tseval.runfolder import RunFolder, Scorecard
from tseval.runner import Outcome, lost_shares
from tseval.scoring import Outcome as Kept
from tseval.scoring import (
    averages,
    lost_outcome,
    metric_names,
    oddities,
    outcome,
    sample_of,
    scores_of,
)
from tseval.session import Session
from tseval.types import Score

from .agreement import journal_gap
from .reprobe import ProbedAgain, Probes, probe_again, start_for_probes
from .rows import read_rows


async def rejudge(
    folder: RunFolder,
    judges: tuple[str, ...],
    registry: Registry,
    display: Display,
    *,
    options: dict[str, str] | None = None,
    backend: Backend | None = None,
) -> Outcome:
    """Judge a run's rollouts by further judges, and add their scores to its scorecard.

    Every verdict is journalled as it arrives: the same call goes on where it was stopped. The
    scorecard becomes that of a run with all of these judges from its start; scores of judges that
    are not asked here stay as they are. A judge that the run has already is asked again where it
    failed.

    Probes are run again, since they compute with labels: the model under test is started, and
    asked for what the journal does not hold.

    Args:
        folder: The run; it has scores.
        judges: Specifications of the judges.
        registry: Everything that is registered.
        display: Shows progress.
        options: Backend options of the judges' models.
        backend: Use this one for probes instead of building the one of the run.

    Raises:
        ConfigError: The run has no scores yet, or nothing of it can be judged.
        UnknownName: A judge, or a benchmark or suite of the run, is not registered.
        TsevalError: What kept the judges from starting, or ended the work.
    """
    old, options = folder.scorecard(), options or {}
    _check_names(folder, registry)
    seats = _seats(folder, judges, registry, options)
    _check_journal(folder, old)
    async with open_leg(folder, registry, display, generates=False) as work:
        await work.models.start_judges(seats)
        probes = await start_for_probes(work, registry, seats, backend)
        for remark in work.models.remarks:
            display.remark(remark)
        session = _open_session(work, folder, registry, seats, probes)
        outcomes = await _judge_all(session, registry, display)
        again = await probe_again(session, probes, display)
        _check_outcomes(outcomes, again, folder, display)
        made = [*_scores(session, old, outcomes), *again.scores]
        scorecard = _merged(old, made, session)
        # The judges before the scores, which a run that is resumed without them would lose.
        _keep_judges(folder, judges, _named(options, seats), session.warnings)
        _keep_scores(folder, scorecard, session, again)
    lost, failed = lost_shares(made, registry, again.measurements)
    return Outcome(
        folder=folder,
        scorecard=scorecard,
        lost_share=lost,
        failed_share=failed,
        new=made,
        left=again.left,
    )


def _check_names(folder: RunFolder, registry: Registry) -> None:
    """Raise UnknownName unless the run's benchmarks and suites are registered."""
    # Without the card of a benchmark, an average over the others would bear the suite's name.
    for name in folder.manifest.spec.benchmarks:
        registry.benchmarks[name]
    for suite in folder.manifest.spec.suites:
        registry.suites[suite]


def _check_journal(folder: RunFolder, old: Scorecard) -> None:
    """Raise ConfigError unless the journal holds the rollouts that the scorecard is of."""
    # New scores would be about other rollouts than the ones that they stand beside.
    if gap := journal_gap(read_rows(folder) if folder.journal.is_dir() else [], old):
        raise ConfigError(gap, hint="put the journal back, or make the run again with --fresh")


def _open_session(
    work: Work, folder: RunFolder, registry: Registry, seats: dict[str, Seat], probes: Probes
) -> Session:
    """Give the leg a session on the run's journal and arrays, with all that has been started."""
    work.session = Session(
        spec=folder.manifest.spec,
        journal=work.journal,
        registry=registry,
        models=work.models.started,
        judges=seats,
        stances=probes.stances,
        scheduler=work.models.scheduler,
        arrays=ArrayStore(folder.path / "arrays"),
    )
    return work.session


def _check_outcomes(
    outcomes: dict[str, list[Kept]], again: ProbedAgain, folder: RunFolder, display: Display
) -> None:
    """Raise ConfigError where nothing was judged, and say what could not be."""
    if not outcomes and not again.scores:
        if again.left:
            reasons = "; ".join(dict.fromkeys(again.left.values()))
            raise ConfigError(
                f"the probes of {folder.path} cannot be run again: {reasons}",
                hint="judge them where the run's model can be had",
            )
        raise ConfigError(
            f"{folder.path} has no rollouts that were judged one by one, and no probe whose labels"
            " these judges could give",
            hint="judge a run of benchmarks that ask prompts (tseval ls benchmarks)",
        )
    for name, reason in again.left.items():
        display.remark(f"{name}: not measured again: {reason}")
    gone = sum(each.lost == "error" for kept in outcomes.values() for each in kept)
    if gone:
        display.remark(
            f"{gone} rollouts of the run failed and cannot be judged; the command of the run"
            " makes them again"
        )


def _keep_judges(
    folder: RunFolder, judges: tuple[str, ...], options: dict[str, str], warnings: list[str]
) -> None:
    """Write into the run's manifest who has judged it: whoever resumes it starts these judges."""
    manifest = folder.manifest
    known = (*manifest.spec.judges, *manifest.judges)
    manifest.warnings += [each for each in warnings if each not in manifest.warnings]
    manifest.judges += [text for text in judges if text not in known]
    manifest.judge_options |= options
    folder.save()


def _keep_scores(
    folder: RunFolder, scorecard: Scorecard, session: Session, again: ProbedAgain
) -> None:
    """Write measurements and outcomes before the scores that are made of them."""
    folder.save_measurements(again.measurements)
    folder.save_outcomes(session.outcomes, scorecard)
    folder.save_scores(scorecard)


def _seats(
    folder: RunFolder, judges: tuple[str, ...], registry: Registry, options: dict[str, str]
) -> dict[str, Seat]:
    """Seat the judges by the labels that they have beside the judges of the run."""
    alone = seat_judges(judges, registry, options)
    manifest = folder.manifest
    known = dict.fromkeys((*manifest.spec.judges, *manifest.judges))
    # One that cannot be seated any more keeps its scores, and no new judge can bear its name.
    earlier = tuple(text for text in known if _can_be_seated(text, registry))
    beside = seat_judges((*judges, *earlier), registry, options)
    return dict(islice(beside.items(), len(alone)))


def _can_be_seated(text: str, registry: Registry) -> bool:
    try:
        seat_judges((text,), registry)
    except TsevalError:
        return False
    return True


def _named(options: dict[str, str], seats: dict[str, Seat]) -> dict[str, str]:
    """Say of each option whose it is: on resume, the run's other judges must not get it."""
    names = {seat.judge.card.name for seat in seats.values() if seat.spec is not None}
    named = {
        f"{name}:{key}": value
        for key, value in options.items()
        if ":" not in key
        for name in sorted(names)
    }
    return named | {key: value for key, value in options.items() if ":" in key}


async def _judge_all(
    session: Session, registry: Registry, display: Display
) -> dict[str, list[Kept]]:
    """Judge every stored rollout; outcomes by benchmark."""
    journal = session.journal
    names = {name for name in registry.benchmarks if _is_card(registry, name)}
    for stored in stored_rows(journal):
        if stored.row.benchmark in names:
            session.expect(stored.row.benchmark, 1)
    outcomes: dict[str, list[Kept]] = defaultdict(list)
    try:
        async with watched(session, display):
            async for stored, result in _judged_rows(session, names):
                session.advance(stored.row.benchmark)
                outcomes[stored.row.benchmark].append(result)
    except BaseExceptionGroup as errors:
        raise next(leaves(errors)) from errors
    return outcomes


def _is_card(registry: Registry, name: str) -> bool:
    return isinstance(registry.benchmarks[name].card, BenchmarkCard)


async def _judged_rows(session: Session, names: set[str]) -> AsyncIterator[tuple[Stored, Kept]]:
    async def one(stored: Stored) -> Kept:
        sample, row = sample_of(stored.row), stored.row
        if stored.rollout is None:
            return lost_outcome(sample, row.rollout, row.failed or "error")
        findings, keys = await judged(session, sample, stored.rollout)
        session.note_row(msgspec.structs.replace(row, verdicts={**row.verdicts, **keys}))
        return outcome(sample, row.rollout, stored.rollout, findings)

    def rows() -> Iterator[Stored]:
        for stored in stored_rows(session.journal):
            if stored.row.benchmark in names:
                yield stored

    async for stored, result in session.map(rows(), one):
        if isinstance(result, Exception):
            raise result
        yield stored, result


def _scores(session: Session, old: Scorecard, outcomes: dict[str, list[Kept]]) -> Iterator[Score]:
    """Make the scores of the new judges, under the protocol of the scores that are there."""
    for name, kept in outcomes.items():
        for warning in oddities(name, kept):
            session.warn(warning)
        own = (s for s in old.scores if s.benchmark == name and s.fingerprint in old.protocols)
        known = next(own, None)
        if known is None:
            session.warn(f"{name}: not judged again, since the run has no score of it")
            continue
        fields = {k: v for k, v in old.protocols[known.fingerprint].items() if k != "schema"}
        like = msgspec.convert(fields, Protocol)

        def protocol(seat: Seat, like: Protocol = like) -> Protocol:
            return msgspec.structs.replace(
                like,
                judge=session.identity_of(seat.label),
                text=seat.sees or session.spec.text,
            )

        yield from scores_of(
            session.registry.benchmarks[name].card,
            kept,
            session.seats.values(),
            session.registry,
            protocol,
            session.declare,
            session.outcomes,
        )


def _merged(old: Scorecard, made: list[Score], session: Session) -> Scorecard:
    """Put new scores among the old ones, as a run with all judges has them; average anew."""
    spec, registry = session.spec, session.registry
    new = {(s.benchmark, s.group, s.metric, s.judge): s for s in made}
    scores = [
        new.pop((s.benchmark, s.group, s.metric, s.judge), s)
        for s in old.scores
        if s.group != "average"
    ]

    def place(score: Score) -> tuple[int, int]:
        card = registry.benchmarks[score.benchmark].card
        metrics = metric_names(card, registry) if isinstance(card, BenchmarkCard) else []
        known = score.metric in metrics
        # Within a metric, judges stay in the order in which the run got them.
        return spec.benchmarks.index(score.benchmark), metrics.index(score.metric) if known else 0

    scores = sorted([*scores, *new.values()], key=place)
    declared = {p: protocol.canonical() for p, protocol in session.protocols.items()}
    protocols = {**old.protocols, **declared}
    used = {s.fingerprint for s in scores} & set(protocols)
    missing = {*old.failed, *old.skipped}
    return msgspec.structs.replace(
        old,
        scores=[*scores, *averages(spec.suites, registry, scores, missing)],
        protocols={p: protocols[p] for p in sorted(used)},
    )
