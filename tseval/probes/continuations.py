"""What became of answers that were drawn behind many points of many traces, as counts."""

from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tseval.measurements import ByPrompt, Curve, Number
from tseval.prompt_pairs import by_prompt
from tseval.types import Estimate

from .commitment import Floats, chance_agreement, prefix_agreement, prefix_variance
from .resampling import Resampled, bootstrap_estimate, resample_means, seeded_generator
from .setup import undefined

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
Control = Literal["", "again", "other prompt", "shuffled"]
Cell = str | int | float | None


class Point(Struct, frozen=True, kw_only=True):
    """A place in every trace behind which answers are drawn.

    Attributes:
        cut: In percent of the trace; above 100 the trace was extended.
        control: What stands before it: '' the trace; 'again' the trace, in a second series of
            draws; 'other prompt' so many tokens of another prompt's trace; 'shuffled' the trace's
            own sentences in another order.
    """

    cut: int
    control: Control = ""

    @property
    def name(self) -> str:
        """For streams and tables."""
        return f"{self.cut}% {self.control}".strip()


class Continuations(NamedTuple):
    """What became of the answers behind T traces at P points.

    Attributes:
        points: The points; 100% and '100% again' are among them.
        refusals, compliances: Answers with that label, int [T, P].
        blanks: Empty and degenerate ones, int [T, P].
        lost: The others by reason, for each pool (harmful or not) and point.
        harmful: bool [T].
        clusters: int [T], of the prompts.
        answers: Drawn at each point.
        rows: Name of each trace's prompt, by ``row_hash``; empty where runs are not to be paired.
    """

    points: tuple[Point, ...]
    refusals: Counts
    compliances: Counts
    blanks: Counts
    lost: Mapping[tuple[bool, int], Mapping[str, int]]
    harmful: Mask
    clusters: Counts
    answers: int
    rows: tuple[str, ...] = ()

    @property
    def labelled(self) -> Counts:
        """Answers with a label, int [T, P]."""
        return self.refusals + self.compliances

    @property
    def cuts(self) -> tuple[int, ...]:
        """Cuts of the traces themselves, ascending."""
        return tuple(point.cut for point in self.points if not point.control)

    def at(self, cut: int, control: Control = "") -> int:
        """Place of a point."""
        return self.points.index(Point(cut=cut, control=control))

    def places(self, cut: int) -> list[int]:
        """Places of all series of draws behind the trace itself at a cut."""
        return [self.at(cut), self.at(cut, "again")] if cut == 100 else [self.at(cut)]

    def lost_at(self, places: Sequence[int], mask: Mask) -> dict[str, int]:
        """Answers without a label or a blank, by reason, of the pools that a mask covers."""
        found: dict[str, int] = {}
        for pool in {bool(each) for each in self.harmful[mask]}:
            for place in places:
                for reason, count in self.lost.get((pool, place), {}).items():
                    found[reason] = found.get(reason, 0) + count
        return dict(sorted(found.items()))


class CutPool:
    """The traces of one pool of prompts, and what a bootstrap over these prompts gives.

    Args:
        name: 'all', 'harmful' or 'benign'.
        mask: bool [T].
        done: The counts.
        draws: Of the bootstrap.
        seed: Run seed.

    Attributes:
        name, mask, done, draws: As given.
        rng: Of this pool.
        values: float [traces, 4 * cuts]: at each cut the agreement with the answers at 100%; then
            the variance; then the share of refusals; then that at 100%, of traces that have both.
        found: Their means, resampled.
        undefined: Why nothing is said of agreement and variance: fewer than ten of a class; or ''.
    """

    def __init__(self, name: str, mask: Mask, done: Continuations, draws: int, seed: int) -> None:
        self.name, self.mask, self.done, self.draws = name, mask, done, draws
        self.rng = seeded_generator(seed, "prefix_commitment", name)
        ends = done.places(100)
        self._final = (
            done.refusals[mask][:, ends].sum(axis=1),
            done.labelled[mask][:, ends].sum(axis=1),
        )
        places = [done.at(cut) for cut in done.cuts]
        columns = [self.agreement(place) for place in places]
        columns += [prefix_variance(done.refusals[mask, p], done.labelled[mask, p]) for p in places]
        shares = [self._shares(place) for place in places]
        columns += [pair[0] for pair in shares] + [pair[1] for pair in shares]
        self.values = np.stack(columns, axis=1)
        self.found = resample_means(self.values, self.clusters, draws=draws, rng=self.rng)
        self.undefined = undefined(self.classes)

    @property
    def clusters(self) -> Counts:
        """Clusters of the pool's traces."""
        return self.done.clusters[self.mask]

    def by_prompt(self, hits: Counts, answers: Counts) -> ByPrompt | None:
        """Keep a share of answers by prompt; int [traces of the pool] both."""
        rows = [row for row, mine in zip(self.done.rows, self.mask, strict=False) if mine]
        return by_prompt(rows, self.clusters, hits, answers)

    def variance_column(self, cut: int) -> int:
        """Column of the variance at a cut; that of the agreement is the cut's own place."""
        return len(self.done.cuts) + self.done.cuts.index(cut)

    def floor(self, columns: Sequence[int]) -> Resampled:
        """Agreement by chance at cuts, given by their places; as many quantities."""
        own, end = ([part * len(self.done.cuts) + column for column in columns] for part in (2, 3))
        found = self.found
        return found.derived(
            chance_agreement(found.values[own], found.values[end]),
            chance_agreement(found.draws[:, own], found.draws[:, end]),
            int(found.prompts[own].min()),
        )

    def agreement(self, place: int) -> Floats:
        """Agreement of each trace's answers at a point with those at 100%; [traces].

        Both series at 100% serve; for one of them, the other does.
        """
        done, mask = self.done, self.mask
        others = self._others(place)
        return prefix_agreement(done.refusals[mask, place], done.labelled[mask, place], *others)

    def _others(self, place: int) -> tuple[Counts, Counts]:
        """Refusals and labels at 100% that serve a point."""
        done, mask = self.done, self.mask
        if done.points[place] != Point(cut=100):
            return self._final
        again = done.at(100, "again")
        return done.refusals[mask, again], done.labelled[mask, again]

    def _shares(self, place: int) -> tuple[Floats, Floats]:
        """Share of refusals at a point and at 100%, of the traces that have labels at both."""
        refusals, labelled = (
            self.done.refusals[self.mask, place],
            self.done.labelled[self.mask, place],
        )
        others, others_labelled = self._others(place)
        both = (labelled > 0) & (others_labelled > 0)
        pairs = ((refusals, labelled), (others, others_labelled))
        one, two = (np.where(both, k / np.maximum(n, 1), np.nan) for k, n in pairs)
        return one, two

    def estimate(
        self, found: Resampled, column: int = 0, span: tuple[float, float] | None = (0.0, 1.0)
    ) -> Estimate | None:
        """Estimate a quantity of this pool; None with fewer than ten of a class."""
        return None if self.undefined else bootstrap_estimate(found, column, span=span)

    def gap(self, found: Resampled, one: int, other: int) -> Estimate | None:
        """Estimate one share minus another; None with fewer than ten of a class."""
        return None if self.undefined else gap(found, one, other)

    @property
    def classes(self) -> dict[str, int]:
        """Traces by outcome at 100%; one that goes either way counts to each by its share."""
        known = self._final[1] > 0
        share = self._final[0][known] / self._final[1][known]
        return {
            "refusals": floor(float(share.sum()) + 1e-9),
            "compliances": floor(float((1 - share).sum()) + 1e-9),
        }

    def number(
        self,
        metric: str,
        group: str,
        found: Estimate | None,
        *,
        why: str = "undefined: too few traces with labels",
        **more: object,
    ) -> Number:
        """Make a number over traces.

        Args:
            metric: Its name.
            group: What it is about, behind the pool's name.
            found: The estimate; None if there is none, with ``why``. With fewer than ten of a
                class there is none either.
            why: See ``found``.
            more: Further fields of the number.
        """
        reason = self.undefined or ("" if found is not None else why)
        return Number(
            metric=metric,
            group=f"{self.name} · {group}" if group else self.name,
            estimate=None if reason else found,
            undefined=reason,
            counts=self.classes,
            **more,  # type: ignore[arg-type]
        )

    def size(self, column: int, cuts: Sequence[int]) -> dict[str, Any]:
        """Denominators of a column, and what is lost at some cuts."""
        places = sorted({place for cut in cuts for place in self.done.places(cut)})
        return {
            "n": int((~np.isnan(self.values[:, column])).sum()),
            "n_prompts": int(self.found.prompts[column]),
            "excluded": self.done.lost_at(places, self.mask),
        }


def curve(
    shown: Sequence[Estimate | None], cuts: Sequence[int], counts: Iterable[int], **more: str
) -> Curve:
    """Draw estimates against the cut, with their bands.

    Args:
        shown: One a cut.
        cuts: In percent.
        counts: Denominators.
        more: Further fields of the curve.
    """
    return Curve(
        x_title="part of the trace (%)",
        x=tuple(float(cut) for cut in cuts),
        y=tuple(None if each is None else each.value for each in shown),
        low=tuple(None if each is None else each.low for each in shown),
        high=tuple(None if each is None else each.high for each in shown),
        counts=tuple(int(n) for n in counts),
        **more,  # type: ignore[arg-type]
    )


def cells(*found: Estimate | None) -> tuple[Cell, ...]:
    """Give estimates as cells of a table: value, low, high of each."""
    return tuple(
        cell
        for each in found
        for cell in ((None,) * 3 if each is None else (each.value, each.low, each.high))
    )


def gap(found: Resampled, one: int, other: int) -> Estimate | None:
    """Estimate one share minus another."""
    return bootstrap_estimate(found.difference(one, other), span=(-1.0, 1.0))
