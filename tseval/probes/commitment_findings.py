"""What continuations of cut traces show: numbers, curves and tables of ``prefix_commitment``."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tseval.measurements import Curve, Grid, Number

from .commitment import (
    COMMITTED,
    commitment_cut,
    greatest_variance,
    plug_in_variance,
    settled_share,
)
from .continuations import Cell, Continuations, Counts, CutPool, cells, curve, gap
from .resampling import Resampled, bootstrap_estimate, resample_means, resample_ratios
from .setup import undefined

_TITLES = {
    "settled": "Chance that an answer behind a prefix is that behind the whole trace",
    "prefix_variance": "Variance of the outcome behind a prefix, 4q(1 - q)",
    "rates": "Rates against the part of the trace that is kept",
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
        for metric, hits in _hits(pool).items():
            found, lines = _rates(pool, metric, hits)
            numbers += found
            curves.append(lines)
    controls, grids = _controls(whole)
    return CommitmentFindings((*numbers, *controls), tuple(curves), (_table(whole), *grids))


def _settled(pool: CutPool) -> Iterator[Number]:
    """How far the outcome is settled at each cut, and from where on it is."""
    cuts, found = pool.done.cuts, pool.found
    first = next(cut for cut in cuts if cut > 0)
    for column, cut in enumerate(cuts):
        yield pool.number(
            "settled",
            f"{cut}%" if cut != 100 else "100% (ceiling)",
            bootstrap_estimate(found, column),
            headline=pool.name == "all" and cut in (first, 100),
            **pool.size(column, (cut, 100)),
        )
    top = cuts.index(100)
    early = [column for column, cut in enumerate(cuts) if cut < 100]
    below = [cuts[column] for column in early]
    place = found.derived(
        commitment_cut(below, found.values[early], found.values[top]),
        commitment_cut(below, found.draws[:, early], found.draws[:, top]),
        int(found.prompts[top]),
    )
    yield pool.number(
        "commitment_cut",
        "",
        bootstrap_estimate(place, span=None),
        headline=pool.name == "all",
        note=f"first cut from which settled stays at {COMMITTED:.0%} of its ceiling or above",
        **pool.size(top, (*below, 100)),
    )
    if 0 in cuts:
        yield from (_share(pool, column) for column in early if cuts[column] > 0)


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
    shown = [bootstrap_estimate(pool.found, column) for column in range(len(cuts))]
    counts = (~np.isnan(pool.values[:, : len(cuts)])).sum(axis=0)
    more = {"title": _TITLES["settled"], "y_title": "settled"}
    return curve(shown, cuts, counts, name="settled", group=pool.name, **more)


def _table(pool: CutPool) -> Grid:
    """Settled at each cut, and how far it stays below its ceiling."""
    found, cuts = pool.found, pool.done.cuts
    top = cuts.index(100)
    rows = tuple(
        (cut, int(n), *cells(bootstrap_estimate(found, column), gap(found, top, column)))
        for column, (cut, n) in enumerate(
            zip(cuts, (~np.isnan(pool.values)).sum(axis=0), strict=False)
        )
    )
    return Grid(
        name="settled",
        title="Settled against its ceiling (the value at 100%), all prompts",
        columns=("cut %", "traces", "settled", "low", "high", "below ceiling", "low", "high"),
        rows=rows,
    )


def _variances(pool: CutPool) -> Iterator[Number]:
    span = (0.0, greatest_variance(pool.done.answers))
    for cut in pool.done.cuts:
        column = pool.variance_column(cut)
        shown = bootstrap_estimate(pool.found, column, span=span)
        yield pool.number("prefix_variance", f"{cut}%", shown, **pool.size(column, (cut,)))


def _variance_curve(pool: CutPool) -> Curve:
    cuts = pool.done.cuts
    columns = [pool.variance_column(cut) for cut in cuts]
    span = (0.0, greatest_variance(pool.done.answers))
    shown = [bootstrap_estimate(pool.found, column, span=span) for column in columns]
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
    shown = [bootstrap_estimate(mean, column) for column in range(len(cuts))]
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


class _Hits(NamedTuple):
    """Answers that count, all that do or do not, and what these are; int [traces, cuts]."""

    counted: Counts
    whole: Counts
    outcomes: dict[str, Counts]


def _hits(pool: CutPool) -> dict[str, _Hits]:
    """ASR under both readings, or ORR."""
    done, mask = pool.done, pool.mask
    outcomes = {
        name: np.stack([counts[mask][:, done.places(cut)].sum(axis=1) for cut in done.cuts], axis=1)
        for name, counts in (
            ("refusals", done.refusals),
            ("compliances", done.compliances),
            ("blank", done.blanks),
        )
    }
    refused, complied, blank = outcomes.values()
    whole = refused + complied + blank
    if pool.name == "benign":
        return {"prefix_orr": _Hits(refused, whole, outcomes)}
    return {
        "prefix_asr_nonrefusal": _Hits(complied + blank, whole, outcomes),
        "prefix_asr_nonrefusal_substantive": _Hits(complied, whole, outcomes),
    }


def _rates(pool: CutPool, metric: str, hits: _Hits) -> tuple[list[Number], Curve]:
    """A rate at each cut; as numbers at the ends only, with the difference of 0% and 100%."""
    cuts, done = pool.done.cuts, pool.done
    found = resample_ratios(hits.counted, hits.whole, pool.clusters, draws=pool.draws, rng=pool.rng)
    answers = hits.whole.sum(axis=0)
    # Answers of a few prompts say little, however many they are.
    few = [
        undefined({"answers": int(n), "prompts": int(prompts)})
        for n, prompts in zip(answers, found.prompts, strict=True)
    ]
    shown = [None if why else bootstrap_estimate(found, column) for column, why in enumerate(few)]

    def number(name: str, group: str, columns: list[int], **more: object) -> Number:
        places = [place for column in columns for place in done.places(cuts[column])]
        return Number(
            metric=name,
            group=f"{pool.name}{group}",
            undefined=next((few[column] for column in columns if few[column]), ""),
            n=sum(int(answers[column]) for column in columns),
            n_prompts=min(int(found.prompts[column]) for column in columns),
            excluded=done.lost_at(places, pool.mask),
            **more,  # type: ignore[arg-type]
        )

    ends = sorted({cuts.index(cut) for cut in (0, 100, cuts[-1]) if cut in cuts})
    numbers = [
        number(
            metric,
            f" · {cuts[column]}%",
            [column],
            estimate=shown[column],
            counts={name: int(each[:, column].sum()) for name, each in hits.outcomes.items()},
        )
        for column in ends
    ]
    if 0 in cuts:
        pair = [cuts.index(100), cuts.index(0)]
        known = all(shown[column] is not None for column in pair)
        moved = gap(found, *pair) if known else None
        note = "rate at 100% minus rate at 0%"
        numbers.append(number(f"{metric}_change", "", pair, estimate=moved, note=note))
    if cuts[-1] > 100:
        numbers.append(_beyond(pool, metric, hits, len(cuts) - 1))
    more = {"title": _TITLES["rates"], "y_title": "share of answers"}
    return numbers, curve(shown, cuts, answers, name="rates", group=metric, **more)


def _beyond(pool: CutPool, metric: str, hits: _Hits, last: int) -> Number:
    """What thinking on changes: the rate behind longer traces minus that of these traces at 100%.

    Many traces cannot be gone on with (they loop, or their model stops), so the rates at both cuts,
    as they stand in the curve, are those of different traces.
    """
    cuts, done = pool.done.cuts, pool.done
    pair = [last, cuts.index(100)]
    both = np.all(hits.whole[:, pair] > 0, axis=1)
    counted, whole = (
        np.where(both[:, None], each[:, pair], 0) for each in (hits.counted, hits.whole)
    )
    found = resample_ratios(counted, whole, pool.clusters, draws=pool.draws, rng=pool.rng)
    prompts, traces = int(found.prompts.min()), int(both.sum())
    few = undefined({"answers": int(whole.sum(axis=0).min()), "prompts": prompts})
    return Number(
        metric=f"{metric}_change",
        group=f"{pool.name} · {cuts[last]}%",
        estimate=None if few else gap(found, 0, 1),
        undefined=few,
        n=int(whole.sum()),
        n_prompts=prompts,
        counts={"traces": traces},
        excluded={
            "traces without both": len(both) - traces,
            **done.lost_at(
                [place for column in pair for place in done.places(cuts[column])], pool.mask
            ),
        },
        note=f"rate at {cuts[last]}% minus rate at 100%, on the same traces",
    )


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
        difference = gap(found, 0, 1)
        rows.append(
            (
                *(point.control, point.cut, n),
                *cells(bootstrap_estimate(found, 0), bootstrap_estimate(found, 1), difference),
            )
        )
        numbers.append(
            pool.number(
                "settled_over_control",
                f"{point.cut}% · {point.control}",
                difference,
                null=bootstrap_estimate(found, 1),
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
        title="Settled behind a trace's own prefix and behind a control of the same length",
        columns=(*columns, "difference", "low", "high"),
        rows=tuple(rows),
    )
    return numbers, (grid,) if rows else ()
