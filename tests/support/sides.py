"""Runs as comparisons read them, made from outcomes."""

from collections.abc import Mapping, Sequence

from tseval.compare import Side
from tseval.metrics import Judged, score
from tseval.outcomes import OutcomeBook, Outcomes, row_hash
from tseval.plugins import load_registry
from tseval.protocol import Protocol
from tseval.requests import Subject
from tseval.runfolder import Scorecard
from tseval.types import Score

Hits = Sequence[float | None]


def side(
    label: str, rows: Mapping[tuple[str, str], Hits], *, rollouts: int = 1, **protocol: object
) -> Side:
    """Make a run from outcomes by benchmark and metric; prompt n has ``rollouts`` in a row."""
    book, scores, protocols = OutcomeBook(), [], {}
    for (benchmark, metric), hits in rows.items():
        made = Protocol(
            benchmark=benchmark,
            benchmark_version="1",
            content_hash="c",
            metric=metric,
            metric_version="1",
            rollouts=rollouts,
            **protocol,
        )
        protocols[made.fingerprint] = made.canonical()
        judged = [
            Judged(
                cluster=f"{benchmark}-{n // rollouts}",
                outcome="error" if hit is None else "full",
                hit=hit,
                row=row_hash(benchmark, f"{n // rollouts}"),
                rollout=n % rollouts,
            )
            for n, hit in enumerate(hits)
        ]
        base = Score(
            benchmark=benchmark, metric=metric, judge="rules", fingerprint=made.fingerprint
        )
        found = score(load_registry().metrics[metric], judged, base)
        book.keep(found, judged)
        scores.append(found)
    card = Scorecard(
        subject=Subject(name=label, identity={}),
        preset="default",
        seed=0,
        scores=scores,
        protocols=protocols,
    )
    return Side(label, card, book.packed(scores, Outcomes()))
