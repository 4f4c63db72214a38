"""Judge the stored rollouts of a run by further judges, without generating anything."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

import msgspec

from .cards import BenchmarkCard
from .errors import ConfigError
from .judging import Seat, seat_judges
from .legs import Display, open_leg, watched
from .mapping import leaves
from .plugins import Registry
from .prompt_benchmark import judged
from .protocol import Protocol
from .readback import Stored, stored_rows
from .runfolder import RunFolder, Scorecard
from .runner import Outcome, lost_share
from .scoring import Outcome as Kept
from .scoring import averages, lost_outcome, oddities, outcome, sample_of, scores_of
from .session import Session
from .types import Score


async def rejudge(
    folder: RunFolder,
    judges: tuple[str, ...],
    registry: Registry,
    display: Display,
    *,
    options: dict[str, str] | None = None,
) -> Outcome:
    """Judge a run's rollouts by further judges, and add their scores to its scorecard.

    Every verdict is journalled as it arrives: the same call goes on where it was stopped. Scores
    of the judges that the run has already are left as they are.

    Args:
        folder: The run; it has scores.
        judges: Specifications of the judges.
        registry: Everything that is registered.
        display: Shows progress.
        options: Backend options of the judges' models.

    Raises:
        ConfigError: The run has no scores yet, or none of its rollouts were judged.
        TsevalError: What kept the judges from starting, or ended the work.
    """
    old = folder.scorecard()
    spec = folder.manifest.spec
    seats = seat_judges(judges, registry, options)
    manifest = folder.manifest
    async with open_leg(folder, registry, display) as work:
        manifest.judges += [text for text in judges if text not in (*spec.judges, *manifest.judges)]
        manifest.judge_options |= options or {}
        await work.models.start_judges(seats)
        session = work.session = Session(
            spec=spec,
            journal=work.journal,
            registry=registry,
            models=work.models.started,
            judges=seats,
            scheduler=work.models.scheduler,
        )
        outcomes = await _judge_all(session, registry, display)
        if not outcomes:
            raise ConfigError(
                f"{folder.path} has no rollouts that were judged one by one",
                hint="judge a run of benchmarks that ask prompts (tseval ls benchmarks)",
            )
        made = list(_scores(session, old, outcomes))
        scorecard = _merged(old, made, session, registry)
        folder.save_scores(scorecard)
        manifest.warnings += [w for w in session.warnings if w not in manifest.warnings]
    return Outcome(folder=folder, scorecard=scorecard, lost_share=lost_share(made, registry))


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
            return lost_outcome(sample, row.failed or "error")
        findings, keys = await judged(session, sample, stored.rollout)
        session.note_row(msgspec.structs.replace(row, verdicts={**row.verdicts, **keys}))
        return outcome(sample, stored.rollout, findings)

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
        known = next((s for s in old.scores if s.benchmark == name and s.fingerprint), None)
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
        )


def _merged(old: Scorecard, made: list[Score], session: Session, registry: Registry) -> Scorecard:
    """Put new scores behind the old ones of their benchmark; averages are made anew."""
    again = {(s.benchmark, s.group, s.metric, s.judge) for s in made}
    kept = [
        s
        for s in old.scores
        if s.group != "average" and (s.benchmark, s.group, s.metric, s.judge) not in again
    ]
    spec = session.spec
    scores = sorted([*kept, *made], key=lambda s: spec.benchmarks.index(s.benchmark))
    declared = {p: protocol.canonical() for p, protocol in session.protocols.items()}
    missing = {*old.failed, *old.skipped}
    return msgspec.structs.replace(
        old,
        scores=[*scores, *averages(spec.suites, registry, scores, missing)],
        protocols=dict(sorted({**old.protocols, **declared}.items())),
    )
