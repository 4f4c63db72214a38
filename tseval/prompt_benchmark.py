"""PromptBenchmark: what a card describes, run. Most benchmarks are this and nothing else."""

import asyncio
from functools import partial
from itertools import product

import msgspec

from .cards import BenchmarkCard, Catalogue, read_catalogue
from .data import Rows, load_rows
from .errors import PluginError, RowSkipped, TsevalError
from .hookspecs import Register
from .judging import Seat
from .protocol import Protocol
from .readback import Row
from .reasoning import ReasoningBenchmark
from .scoring import Finding, Outcome, lost_outcome, oddities, outcome, scores_of, text_to_judge
from .session import Session
from .types import Rollout, Sample, Sampling, Score


class PromptBenchmark:
    """Ask each prompt of a card, have the answers judged, count.

    Args:
        card: The benchmark.
    """

    def __init__(self, card: BenchmarkCard) -> None:
        self.card = card

    async def run(self, session: Session) -> list[Score]:
        """Measure; see ``tseval.roles.Benchmark``."""
        spec = session.spec
        rows = await asyncio.to_thread(
            load_rows, self.card, spec.data_dirs, limit=spec.limit, subset_seed=spec.subset_seed
        )
        for warning in rows.warnings:
            session.warn(warning)
        session.expect(self.card.name, len(rows.samples) * spec.rollouts)
        work = product(rows.samples, range(spec.rollouts))
        outcomes: list[Outcome] = []
        async for (sample, index), result in session.map(
            work, lambda item: self._one(session, *item)
        ):
            session.advance(self.card.name)
            if isinstance(result, TsevalError):
                result = self._failed(session, sample, index, result)
            outcomes.append(result)
        if len(outcomes) != len(rows.samples) * spec.rollouts:
            raise TsevalError(
                f"{len(outcomes)} of {len(rows.samples) * spec.rollouts} rollouts came back",
                hint="a bug of the engine: rates over the others would be wrong",
            )
        for warning in oddities(self.card.name, outcomes):
            session.warn(warning)
        protocol = partial(self._protocol, session, rows)
        return list(
            scores_of(
                self.card,
                outcomes,
                session.seats.values(),
                session.registry,
                protocol,
                session.declare,
            )
        )

    async def _one(self, session: Session, sample: Sample, index: int) -> Outcome:
        """Make and judge one rollout."""
        rollout = await session.generate(
            sample.prompt, rollout=index, sampling=self._sampling(session)
        )
        findings, keys = await judged(session, sample, rollout)
        session.note_row(self._row(sample, index, generation=rollout.key, verdicts=keys))
        return outcome(sample, rollout, findings)

    def _failed(self, session: Session, sample: Sample, index: int, error: TsevalError) -> Outcome:
        lost = "overlong" if isinstance(error, RowSkipped) else "error"
        # Written down too, since whoever reads the run back has to count it. A resume tries it
        # again, and what it notes then stands above this.
        session.note_row(self._row(sample, index, lost=lost))
        return lost_outcome(sample, lost, error.message)

    def _row(
        self,
        sample: Sample,
        index: int,
        *,
        generation: str = "",
        verdicts: dict[str, str] | None = None,
        lost: str = "",
    ) -> Row:
        return Row(
            benchmark=self.card.name,
            sample=sample.id,
            rollout=index,
            prompt=sample.prompt,
            group=sample.group,
            tags=sample.tags,
            harmful=sample.harmful,
            generation=generation,
            verdicts=verdicts or {},
            failed=lost,
        )

    def _sampling(self, session: Session) -> Sampling:
        sampling = session.sampling
        if session.spec.answer_tokens_fixed:
            return sampling
        return msgspec.structs.replace(sampling, answer_tokens=self.card.answer_tokens)

    def _protocol(self, session: Session, rows: Rows, seat: Seat) -> Protocol:
        """Say how a judge's numbers are made, but for metric and group."""
        run = session.spec
        return Protocol(
            benchmark=self.card.name,
            benchmark_version=self.card.version,
            content_hash=rows.content_hash,
            limit=rows.limit if rows.partial else None,
            subset_seed=rows.subset_seed,
            thinking=run.thinking,
            decoding=run.decoding,
            sampling=self._sampling(session),
            rollouts=run.rollouts,
            judge=session.identity_of(seat.label),
            text=seat.sees or run.text,
            metric="",
            metric_version="",
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
