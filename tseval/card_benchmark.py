"""What all benchmarks that a card describes share: rows, rollouts asked for, notes, protocol."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any, TypeVar

import msgspec

from .cards import BenchmarkCard
from .data import Rows, load_rows
from .errors import RowSkipped, TsevalError
from .protocol import Protocol
from .readback import Row
from .scoring import Outcome, lost_outcome
from .session import Session
from .types import Sample, Sampling

T = TypeVar("T")


class CardBenchmark:
    """The part of a benchmark that does not depend on how answers are judged.

    Args:
        card: The benchmark.
    """

    def __init__(self, card: BenchmarkCard) -> None:
        self.card = card

    async def rows(self, session: Session) -> Rows:
        """Read the rows, and say how many rollouts they will take."""
        spec = session.spec
        rows = await asyncio.to_thread(
            load_rows, self.card, spec.data_dirs, limit=spec.limit, subset_seed=spec.subset_seed
        )
        for warning in rows.warnings:
            session.warn(warning)
        session.expect(self.card.name, len(rows.samples) * spec.rollouts)
        return rows

    async def each(
        self,
        session: Session,
        rows: Rows,
        one: Callable[[Sample, int], Awaitable[T]],
        lost: Callable[[Sample, Outcome], T],
    ) -> list[T]:
        """Make every rollout of every row.

        Args:
            session: The session.
            rows: What is asked.
            one: Makes and judges a rollout.
            lost: Keeps one that failed, which is noted here.

        Returns:
            One result a rollout, in the order in which they finished.

        Raises:
            TsevalError: Not every rollout came back: a bug of the engine.
        """
        rollouts = session.spec.rollouts
        found: list[T] = []
        async for (sample, index), result in session.map(
            product(rows.samples, range(rollouts)), lambda item: one(*item)
        ):
            session.advance(self.card.name)
            if isinstance(result, TsevalError):
                result = lost(sample, self._failed(session, sample, index, result))
            found.append(result)
        if len(found) != len(rows.samples) * rollouts:
            raise TsevalError(
                f"{len(found)} of {len(rows.samples) * rollouts} rollouts came back",
                hint="a bug of the engine: rates over the others would be wrong",
            )
        return found

    def note(
        self, session: Session, sample: Sample, index: int, generation: str, keys: dict[str, str]
    ) -> None:
        """Journal which rollout and verdicts belong to a sample."""
        session.note_row(self._row(sample, index, generation=generation, verdicts=keys))

    def sampling(self, session: Session) -> Sampling:
        """Decoding: the run's, with the card's length of answers unless that was given."""
        sampling = session.sampling
        if session.spec.answer_tokens_fixed:
            return sampling
        return msgspec.structs.replace(sampling, answer_tokens=self.card.answer_tokens)

    def protocol(self, session: Session, rows: Rows, **fields: Any) -> Protocol:
        """Say how numbers are made; ``fields`` are those that depend on judge and metric."""
        run = session.spec
        return Protocol(
            benchmark=self.card.name,
            benchmark_version=self.card.version,
            content_hash=rows.content_hash,
            limit=rows.limit if rows.partial else None,
            subset_seed=rows.subset_seed,
            thinking=run.thinking,
            decoding=run.decoding,
            sampling=self.sampling(session),
            rollouts=run.rollouts,
            **fields,
        )

    def _failed(self, session: Session, sample: Sample, index: int, error: TsevalError) -> Outcome:
        lost = "overlong" if isinstance(error, RowSkipped) else "error"
        # Written down too, since whoever reads the run back has to count it. A resume tries it
        # again, and what it notes then stands above this.
        session.note_row(self._row(sample, index, failed=lost))
        return lost_outcome(sample, index, lost, error.message)

    def _row(self, sample: Sample, index: int, **fields: Any) -> Row:
        return Row(
            benchmark=self.card.name,
            sample=sample.id,
            rollout=index,
            prompt=sample.prompt,
            group=sample.group,
            tags=sample.tags,
            harmful=sample.harmful,
            **fields,
        )
