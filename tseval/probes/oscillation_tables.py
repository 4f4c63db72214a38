"""The tables of the oscillation probe: cells, rejections, every cut, what the tests could show."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tseval.measurements import Grid
from tseval.stats_compare import newcombe_difference

from .cuts import (
    ALPHA,
    Family,
    Floats,
    ReplayedCut,
    detectable_move,
    is_locked,
    smallest_significant_move,
)
from .stances import StanceTrace

Mask = NDArray[np.bool_]


def cells_table(
    cuts: Sequence[ReplayedCut], locked: Mask, significant: Mask, null_significant: Mask
) -> Grid:
    """Count locked by significant, of the cuts and of their shams.

    Args:
        cuts: The cuts.
        locked: Whether the answer is locked before each, bool [cuts].
        significant: Whether it moves at each.
        null_significant: Whether it moves at the sham of each.
    """
    shammed = np.array([cut.null is not None for cut in cuts], dtype=bool)
    null_locked = np.zeros(len(cuts), dtype=bool)
    null_locked[shammed] = [is_locked(cut.null.pre) for cut in cuts if cut.null]
    everything = np.ones(len(cuts), dtype=bool)
    rows = []
    for name, there, before, moved in (
        ("transitions", everything, locked, significant),
        ("shams", shammed, null_locked, null_significant),
    ):
        for wanted in (True, False):
            row = there & (before == wanted)
            still, moving = int((row & ~moved).sum()), int((row & moved).sum())
            rows.append((name, "locked" if wanted else "open", still, moving))
    return Grid(
        name="cells",
        title="Cuts by whether the answer is locked before them and moves at them",
        columns=("cuts of", "before", "not significant", "significant"),
        rows=tuple(rows),
    )


def rejections_table(real: Family, null: Family) -> Grid:
    """Give the share of tests that reject, for transitions and for shams."""

    def share(p: Floats) -> float | None:
        return float((p <= ALPHA).mean()) if p.size else None

    return Grid(
        name="rejections",
        title=f"Share of tests with p at most {ALPHA}",
        columns=("cuts of", "tests", "unadjusted", "Holm", "Benjamini-Hochberg"),
        rows=tuple(
            (name, len(family.p), share(family.p), share(family.holm), share(family.bh))
            for name, family in (("transitions", real), ("shams", null))
        ),
    )


def cuts_table(
    traces: Sequence[StanceTrace], cuts: Sequence[ReplayedCut], family: Family, locked: Mask
) -> Grid:
    """List every cut with its effect; the interval of the difference is Newcombe's."""
    rows = []
    for k, cut in enumerate(cuts):
        (a, n), (b, m) = cut.real.pre, cut.real.post
        moved = newcombe_difference(b, m, a, n)
        trace, change = traces[cut.trace], cut.change
        rows.append(
            (
                *(trace.prompt, trace.rollout, "harmful" if trace.harmful else "benign"),
                *(change.before, change.after, change.pre, change.post),
                *(a, n, b, m, moved.value, moved.low, moved.high),
                *(float(family.p[k]), float(family.holm[k]), float(family.bh[k])),
                "yes" if locked[k] else "no",
                "yes" if cut.real.stopped else "no",
                cut.null.post.rate - cut.null.pre.rate if cut.null else None,
            )
        )
    return Grid(
        name="cuts",
        title="Every replayed transition",
        columns=(
            *("prompt", "rollout", "class", "stance before", "stance after"),
            *("chunks before", "chunks after", "complied before", "replays before"),
            *("complied after", "replays after", "risk difference", "low", "high"),
            *("p", "p (Holm)", "p (BH)", "locked before", "stopped", "sham difference"),
        ),
        rows=tuple(rows),
    )


def power_table(tests: int, replays: int) -> Grid:
    """Say what the tests could have shown, alone and in a family of so many."""
    return Grid(
        name="power",
        title="What a cut from a rate of one half could show",
        columns=("replays a point", "tests", "smallest significant move", "found at 80% power"),
        rows=tuple(
            (replays, m, smallest_significant_move(replays, m), detectable_move(replays, m))
            for m in dict.fromkeys((1, max(tests, 1)))
        ),
    )
