"""Run a run's probes again under further judges; what was generated is found in the journal."""

from collections.abc import Iterator
from typing import NamedTuple

from tseval.cards import ProbeCard
from tseval.errors import TsevalError
from tseval.judging import Seat
from tseval.legs import Display, Work, watched
from tseval.mapping import leaves
from tseval.measurements import Measurement
from tseval.plugins import Registry
from tseval.roles import Backend
from tseval.session import Session
from tseval.stance_judging import StanceSeat, stances_of
from tseval.types import Score


class Probes(NamedTuple):
    """The probes of a run, and what they need.

    Attributes:
        names: Their benchmarks.
        stances: Seats of the stance judges.
        lacking: Why the model under test cannot be had, or ''.
    """

    names: list[str]
    stances: dict[str, StanceSeat]
    lacking: str = ""


class ProbedAgain(NamedTuple):
    """What came of it.

    Attributes:
        scores, measurements: Of all judges.
        left: What could not be measured, with the reason.
    """

    scores: list[Score]
    measurements: list[Measurement]
    left: dict[str, str]


async def start_for_probes(
    work: Work, registry: Registry, seats: dict[str, Seat], backend: Backend | None = None
) -> Probes:
    """Start what the probes of a run need beside its judges; nothing where it has none.

    Args:
        work: The leg; judges are started already.
        registry: Everything that is registered.
        seats: The judges to be heard.
        backend: Use this model instead of building the one that the run names.
    """
    manifest, models = work.folder.manifest, work.models
    cards = ((name, registry.benchmarks[name].card) for name in manifest.spec.benchmarks)
    names = [name for name, card in cards if isinstance(card, ProbeCard)]
    if not names or not any(_labelling(seats)):
        return Probes([], {})
    stances = stances_of(manifest.spec, registry, seats)
    subject = manifest.subject
    try:
        await models.start_judges(stances)
        await models.start_target(manifest.spec, manifest, backend)
    except TsevalError as error:
        # It may be another model by now: what the run was made with stays on record.
        manifest.subject = subject
        return Probes(names, stances, str(error))
    work.leg.execution |= models.target.subject.execution
    return Probes(names, stances)


async def probe_again(session: Session, probes: Probes, display: Display) -> ProbedAgain:
    """Run probes once for each judge that labels refusals.

    Args:
        session: With the target, and the judges to be heard.
        probes: Which.
        display: Shows progress.
    """
    done = ProbedAgain([], [], {name: probes.lacking for name in probes.names if probes.lacking})
    if probes.lacking:
        return done
    seats = session.seats
    try:
        async with watched(session, display):
            for label in _labelling(seats):
                # Probes take the first judge that labels refusals.
                session.seats = {label: seats[label], **seats}
                for name in probes.names:
                    await _probe(session, name, label, done)
    except BaseExceptionGroup as errors:
        raise next(leaves(errors)) from errors
    finally:
        session.seats = seats
    return done


async def _probe(session: Session, name: str, label: str, done: ProbedAgain) -> None:
    try:
        done.scores.extend(await session.registry.benchmarks[name].run(session))
    except TsevalError as error:
        done.left[f"{name} by {label}"] = str(error)
        return
    if name in session.measurements:
        done.measurements.append(session.measurements.pop(name))


def _labelling(seats: dict[str, Seat]) -> Iterator[str]:
    for label, seat in seats.items():
        if "refusal" in seat.judge.card.labels and seat.shown:
            yield label
