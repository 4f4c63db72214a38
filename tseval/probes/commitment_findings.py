"""What continuations of cut traces show: numbers, curves and tables of ``prefix_commitment``."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from tseval.measurements import Curve, Grid, Number
from tseval.types import Estimate

from .commitment import (
    COMMITTED,
    Floats,
    commitment_cut,
    greatest_variance,
    plug_in_variance,
    settled_share,
)
from .commitment_rates import prefix_rates
from .continuations import Cell, Continuations, CutPool, cells, curve, gap
from .resampling import Resampled, bootstrap_estimate, resample_means

_TITLES = {
    "settled": "Agreement of answers behind a prefix and the trace",
    "prefix_variance": "Variance of the outcome behind a prefix",
}


class CommitmentFindings(NamedTuple):
    """Parts of a measurement."""

    numbers: tuple[Number, ...]
    curves: tuple[Curve, ...]
    grids: tuple[Grid, ...]


def commitment_results(done: Continuations, *, draws: int, seed: int) -> CommitmentFindings:
    """Compute everything that ``prefix_commitment`` publishes.

    Args:
        done: The counts; at least one trace.
        draws: Of the bootstrap over prompts.
        seed: Run seed.
    """
    masks = {"harmful": done.harmful, "benign": ~done.harmful}
    whole = CutPool("all", np.ones_like(done.harmful), done, draws, seed)
    pools = [CutPool(name, mask, done, draws, seed) for name, mask in masks.items() if mask.any()]
    numbers: list[Number] = []
    curves: list[Curve] = []
    for pool in (whole, *pools):
        numbers += _settled(pool)
        curves.append(_settled_curve(pool))
    numbers += _variances(whole)
    curves += [_variance_curve(pool) for pool in (whole, *pools)]
    papers, drawn = _paper_variances(whole, pools)
    numbers += papers
    curves.append(drawn)
    for pool in pools:
        for found, lines in prefix_rates(pool):
            numbers += found
            curves.append(lines)
    controls, grids = _controls(whole)
    return CommitmentFindings((*numbers, *controls), tuple(curves), (_table(whole), *grids))


def _settled(pool: CutPool) -> Iterator[Number]:
    """How far the outcome is settled at each cut, and from where on it is."""
    cuts, found = pool.done.cuts, pool.found
    first = next(cut for cut in cuts if cut > 0)
    floor = pool.floor(range(len(cuts)))
    for column, cut in enumerate(cuts):
        yield pool.number(
            "settled",
            f"{cut}%" if cut != 100 else "100% (ceiling)",
            bootstrap_estimate(found, column),
            null=pool.estimate(floor, column),
            headline=pool.name == "all" and cut in (first, 100),
            **pool.size(column, (cut, 100)),
        )
    yield _committed(pool, floor)
    early = [column for column, cut in enumerate(cuts) if 0 < cut < 100]
    if 0 in cuts:
        yield from (_share(pool, column) for column in early)


def _committed(pool: CutPool, floor: Resampled) -> Number:
    """From where on the outcome is settled, beyond what agrees by chance."""
    cuts, found = pool.done.cuts, pool.found
    top = cuts.index(100)
    early = [column for column, cut in enumerate(cuts) if cut < 100]
    below = [cuts[column] for column in early]
    # A draw in which whole traces settle nothing has no such cut.
    top_draws = np.where(found.draws[:, top] > floor.draws[:, top], found.draws[:, top], np.nan)
    place = found.derived(
        commitment_cut(below, found.values[early], floor.values[early], found.values[top]),
        commitment_cut(below, found.draws[:, early], floor.draws[:, early], top_draws),
        int(found.prompts[top]),
    )
    room = bootstrap_estimate(
        found.derived(
            found.values[top] - floor.values[top],
            found.draws[:, top] - floor.draws[:, top],
            int(found.prompts[top]),
        ),
        span=(-1.0, 1.0),
    )
    shown = None
    if room is not None and room.low > 0:
        shown = bootstrap_estimate(place, span=None)
    return pool.number(
        "commitment_cut",
        "",
        _no_surer_than_settled(shown, pool, floor.values) if shown is not None else None,
        why="undefined: that the ceiling is above chance is not shown",
        headline=pool.name == "all",
        note=f"first cut from which settled has gone {COMMITTED:.0%} of the way from chance to its"
        " ceiling, and stays there",
        **pool.size(top, (*below, 100)),
    )


def _no_surer_than_settled(shown: Estimate, pool: CutPool, floor: Floats) -> Estimate:
    """Widen the interval of a place to what the intervals of ``settled`` leave open.

    Where all prompts of a small class agree, so do all draws of the bootstrap: the place would be
    certain while the values that it rests on are not.
    """
    cuts, found = pool.done.cuts, pool.found
    top = cuts.index(100)
    ceiling = bootstrap_estimate(found, top)
    limits = [bootstrap_estimate(found, column) for column in range(top)]
    low, high = 0, 0
    for column, limit in enumerate(limits):
        if ceiling is None or limit is None:
            return msgspec.structs.replace(shown, low=0.0, high=1.0)
        chance = float(floor[column])
        if chance < ceiling.low and limit.high < _level(chance, ceiling.low):
            low = column + 1
        if chance >= ceiling.value or limit.low < _level(chance, ceiling.value):
            high = column + 1
    return msgspec.structs.replace(
        shown, low=min(shown.low, cuts[low] / 100), high=max(shown.high, cuts[high] / 100)
    )


def _level(floor: float, ceiling: float) -> float:
    return floor + COMMITTED * (ceiling - floor)


def _share(pool: CutPool, column: int) -> Number:
    """How much of the way from the value at 0% to the ceiling is gone at a cut."""
    cuts, found = pool.done.cuts, pool.found
    top, bottom = cuts.index(100), cuts.index(0)
    parts = (column, bottom, top)
    share = found.derived(
        settled_share(*(found.values[part] for part in parts)),
        settled_share(*(found.draws[:, part] for part in parts)),
        int(found.prompts[column]),
    )
    # A ratio to a difference that may be zero has no interval.
    room = gap(found, top, bottom)
    defined = room is not None and room.low > 0
    return pool.number(
        "settled_share",
        f"{cuts[column]}%",
        bootstrap_estimate(share, span=None) if defined else None,
        why="undefined: the ceiling is not above the value at 0%",
        **pool.size(column, (0, cuts[column], 100)),
    )


def _settled_curve(pool: CutPool) -> Curve:
    cuts = pool.done.cuts
    shown = [pool.estimate(pool.found, column) for column in range(len(cuts))]
    counts = (~np.isnan(pool.values[:, : len(cuts)])).sum(axis=0)
    more = {"title": _TITLES["settled"], "y_title": "settled"}
    return curve(shown, cuts, counts, name="settled", group=pool.name, **more)


def _table(pool: CutPool) -> Grid:
    """Settled at each cut, what chance gives, and how far it stays below its ceiling."""
    found, cuts = pool.found, pool.done.cuts
    top = cuts.index(100)
    floor = pool.floor(range(len(cuts)))
    rows = tuple(
        (
            *(cut, int(n)),
            *cells(pool.estimate(found, column)),
            *cells(pool.estimate(floor, column))[:1],
            *cells(pool.gap(found, top, column)),
        )
        for column, (cut, n) in enumerate(
            zip(cuts, (~np.isnan(pool.values)).sum(axis=0), strict=False)
        )
    )
    columns = ("cut %", "traces", "settled", "low", "high", "by chance")
    return Grid(
        name="settled",
        title=_headed(pool, "Settled against its ceiling (the value at 100%), all prompts"),
        columns=(*columns, "below ceiling", "low", "high"),
        rows=rows,
    )


def _headed(pool: CutPool, title: str) -> str:
    """Say in a table's heading why its cells are empty."""
    return f"{title}; {pool.undefined}" if pool.undefined else title


def _variances(pool: CutPool) -> Iterator[Number]:
    span = (0.0, greatest_variance(pool.done.answers))
    for cut in pool.done.cuts:
        column = pool.variance_column(cut)
        shown = pool.estimate(pool.found, column, span)
        yield pool.number("prefix_variance", f"{cut}%", shown, **pool.size(column, (cut,)))


def _variance_curve(pool: CutPool) -> Curve:
    cuts = pool.done.cuts
    columns = [pool.variance_column(cut) for cut in cuts]
    span = (0.0, greatest_variance(pool.done.answers))
    shown = [pool.estimate(pool.found, column, span) for column in columns]
    counts = (~np.isnan(pool.values[:, columns])).sum(axis=0)
    more = {"title": _TITLES["prefix_variance"], "y_title": "4q(1 - q)"}
    return curve(shown, cuts, counts, name="prefix_variance", group=pool.name, **more)


def _paper_variances(whole: CutPool, pools: list[CutPool]) -> tuple[list[Number], Curve]:
    """The variance as the paper has it: plug-in, complete cells only, mean of the pools."""
    done, cuts = whole.done, whole.done.cuts
    places = [done.at(cut) for cut in cuts]
    found: list[Resampled] = []
    complete = np.zeros(len(cuts), dtype=np.int64)
    for pool in pools:
        k, n = (counts[pool.mask][:, places] for counts in (done.refusals, done.labelled))
        plain = np.where(n == done.answers, plug_in_variance(k, n), np.nan)
        found.append(resample_means(plain, pool.clusters, draws=pool.draws, rng=pool.rng))
        complete += (~np.isnan(plain)).sum(axis=0)
    mean = Resampled(
        np.mean([each.values for each in found], axis=0),
        np.mean([each.draws for each in found], axis=0),
        np.sum([each.prompts for each in found], axis=0),
    )
    shown = [whole.estimate(mean, column) for column in range(len(cuts))]
    coin = (done.answers - 1) / done.answers
    numbers = [
        whole.number(
            "prefix_variance",
            f"{cut}%",
            shown[column],
            n=int(complete[column]),
            n_prompts=int(mean.prompts[column]),
            variant="paper",
            note=f"plug-in, mean of the pools, complete cells only; a coin gives {coin:.3f}",
        )
        for column, cut in enumerate(cuts)
    ]
    more = {"title": _TITLES["prefix_variance"], "y_title": "4q(1 - q)", "variant": "paper"}
    group = "mean of the pools"
    return numbers, curve(shown, cuts, complete, name="prefix_variance", group=group, **more)


def _controls(pool: CutPool) -> tuple[list[Number], tuple[Grid, ...]]:
    """Compare prefixes with what was put in their place, on the same traces."""
    numbers: list[Number] = []
    rows: list[tuple[Cell, ...]] = []
    done = pool.done
    for place, point in enumerate(done.points):
        if point.control not in ("other prompt", "shuffled"):
            continue
        control = pool.agreement(place)
        own = np.where(np.isnan(control), np.nan, pool.agreement(done.at(point.cut)))
        values = np.stack([own, np.where(np.isnan(own), np.nan, control)], axis=1)
        found = resample_means(values, pool.clusters, draws=pool.draws, rng=pool.rng)
        n = int((~np.isnan(own)).sum())
        own_shown, null = pool.estimate(found, 0), pool.estimate(found, 1)
        difference = pool.gap(found, 0, 1)
        rows.append((*(point.control, point.cut, n), *cells(own_shown, null, difference)))
        numbers.append(
            pool.number(
                "settled_over_control",
                f"{point.cut}% · {point.control}",
                difference,
                null=null,
                n=n,
                n_prompts=int(found.prompts[0]),
                excluded=done.lost_at([place, *done.places(point.cut)], pool.mask),
                note="settled behind the trace's own prefix minus that behind the control;"
                " the null is the latter",
            )
        )
    columns = ("control", "cut %", "traces", "own", "low", "high", "control", "low", "high")
    grid = Grid(
        name="controls",
        title=_headed(
            pool, "Settled behind a trace's own prefix and behind a control of the same length"
        ),
        columns=(*columns, "difference", "low", "high"),
        rows=tuple(rows),
    )
    return numbers, (grid,) if rows else ()
