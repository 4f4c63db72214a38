"""Boards and entries made from outcomes, without a run."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from tests.support.sides import Hits
from tseval.leaderboard.entry import signed
from tseval.leaderboard.recompute import RATES
from tseval.leaderboard.records import Board, Column, Entry
from tseval.metrics import Judged, score
from tseval.outcomes import OutcomeBook, Outcomes, row_hash
from tseval.protocol import JudgeIdentity, Protocol, canonical_json
from tseval.types import Score

ASR, ORR, PASS1 = "asr_nonrefusal", "orr", "pass_at_1"
RULES = JudgeIdentity(name="rules", version="1")
# What a miss and a hit are called.
OUTCOMES = {
    ASR: ("full", "none"),
    ORR: ("none", "full"),
    PASS1: ("wrong", "correct"),
    "asr_harmful": ("unharmful", "harmful"),
}
FILES = dict.fromkeys(("run.json", "scores.json", "outcomes.json"), "0" * 64)


def column(key: str, metric: str = ASR, **more: Any) -> Column:
    """A column of the benchmark that is called like it."""
    if "mean_of" not in more:
        more = {"benchmark": key, "metric": metric, **more}
    more.setdefault("better", "higher" if metric == PASS1 else "lower")
    return Column(key=key, title=key.upper(), **more)


def board(*columns: Column, **more: Any) -> Board:
    """A board that ranks by its first column."""
    first = columns[0].key
    more = {"rank_by": (first,), "axes": (first, columns[-1].key)} | more
    return Board(name="board", title="A board", columns=columns, **more)


def entry(
    label: str, rows: Mapping[tuple[str, str], Hits], *, rollouts: int = 1, **protocol: Any
) -> Entry:
    """An entry as a run would give it; prompt n has ``rollouts`` outcomes in a row."""
    protocol = {"judge": RULES, "rollouts": rollouts} | protocol
    book, scores, protocols = OutcomeBook(), [], {}
    for (benchmark, name), each in rows.items():
        metric = RATES[name]
        made = Protocol(
            benchmark=benchmark,
            benchmark_version="1",
            content_hash="c",
            metric=name,
            metric_version="1",
            **protocol,
        )
        protocols[made.fingerprint] = msgspec.json.decode(canonical_json(made.canonical()))
        base = Score(
            benchmark=benchmark,
            metric=name,
            judge="rules",
            fingerprint=made.fingerprint,
            partial=made.limit is not None,
        )
        judged = [
            Judged(
                cluster=f"{benchmark}-{n // rollouts}",
                outcome="error" if hit is None else OUTCOMES[name][hit >= 0.5],
                hit=hit if hit is None or 0 < hit < 1 else int(hit),
                row=row_hash(benchmark, f"{n // rollouts}"),
                rollout=n % rollouts,
            )
            for n, hit in enumerate(each)
        ]
        scores.append(score(metric, judged, base))
        book.keep(scores[-1], judged)
    return signed(
        Entry(
            model=label,
            label=label,
            identity={"model": label},
            tseval_version="0",
            date="2026-01-31",
            scores=tuple(scores),
            protocols=protocols,
            outcomes=book.packed(scores, Outcomes()),
            # No two runs have the same files.
            files=FILES | {"run.json": sha256(f"{label} {scores}".encode()).hexdigest()},
        )
    )


def hits(n: int, of: int) -> list[float | None]:
    """The first n of some prompts."""
    return [1.0] * n + [0.0] * (of - n)


def ranks(rows: Sequence[Any]) -> dict[str, int | None]:
    """Ranks by label."""
    return {row.label: row.rank for row in rows}
