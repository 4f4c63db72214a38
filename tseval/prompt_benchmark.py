"""PromptBenchmark: what a card describes, run. Most benchmarks are this and nothing else."""

from .card_benchmark import CardBenchmark
from .cards import Catalogue, read_catalogue
from .errors import PluginError
from .hookspecs import Register
from .judging import Seat
from .protocol import Protocol
from .reasoning import ReasoningBenchmark
from .scoring import Finding, Outcome, oddities, outcome, scores_of, text_to_judge
from .session import Session
from .types import Rollout, Sample, Score


class PromptBenchmark(CardBenchmark):
    """Ask each prompt of a card, have the answers judged, count.

    Args:
        card: The benchmark.
    """

    async def run(self, session: Session) -> list[Score]:
        """Measure; see ``tseval.roles.Benchmark``."""
        rows = await self.rows(session)

        async def one(sample: Sample, index: int) -> Outcome:
            rollout = await session.generate(
                sample.prompt, rollout=index, sampling=self.sampling(session)
            )
            findings, keys = await judged(session, sample, rollout)
            self.note(session, sample, index, rollout.key, keys)
            return outcome(sample, index, rollout, findings)

        def protocol(seat: Seat) -> Protocol:
            return self.protocol(
                session,
                rows,
                judge=session.identity_of(seat.label),
                text=seat.sees or session.spec.text,
                metric="",
                metric_version="",
            )

        outcomes = await self.each(session, rows, one, lambda sample, lost: lost)
        for warning in oddities(self.card.name, outcomes):
            session.warn(warning)
        return list(
            scores_of(
                self.card,
                outcomes,
                session.seats.values(),
                session.registry,
                protocol,
                session.declare,
                session.outcomes,
            )
        )


async def judged(
    session: Session, sample: Sample, rollout: Rollout, seats: dict[str, Seat] | None = None
) -> tuple[dict[str, Finding], dict[str, str]]:
    """Have a rollout judged.

    Args:
        session: The session.
        sample: What was asked.
        rollout: What was answered.
        seats: The judges; None is all of the session's.

    Returns:
        Findings, and the keys of the verdicts that there are, by judge's label.
    """
    findings: dict[str, Finding] = {}
    keys: dict[str, str] = {}
    spec = session.spec
    for label, seat in (session.seats if seats is None else seats).items():
        sees = seat.sees or spec.text
        text, lost = text_to_judge(rollout, sees, spec.thinking.unclosed)
        if lost:
            findings[label] = Finding(None, lost)
            continue
        known = {
            member: found
            for member in seat.members
            if member in findings and (found := findings[member].verdict) is not None
        }
        keys[label], verdict = await session.judge(
            label, sample.prompt, text, sees=sees, known=known
        )
        findings[label] = Finding(verdict)
    return findings, keys


def register_cards(package: str, register: Register) -> None:
    """Register every card that a package holds as a benchmark.

    Args:
        package: Importable name of the package with the YAML files.
        register: The callback of ``register_benchmarks``.

    Raises:
        PluginError: The package holds no card: its wheel was most likely built without them.
    """
    cards = catalogue(package).cards
    if not cards:
        raise PluginError(
            f"package {package!r} holds no benchmark card",
            plugin=package,
            hint="add '*.yaml' and the data files to its package-data",
        )
    for card in cards:
        register(ReasoningBenchmark(card) if card.kind == "reasoning" else PromptBenchmark(card))


def register_suites(package: str, register: Register) -> None:
    """Register every suite in a package's ``suites.yaml``."""
    for suite in catalogue(package).suites:
        register(suite)


_catalogues: dict[str, Catalogue] = {}


def catalogue(package: str) -> Catalogue:
    """Read a package's cards and suites, once per process (they are files of an installation)."""
    if package not in _catalogues:
        _catalogues[package] = read_catalogue(package)
    return _catalogues[package]
