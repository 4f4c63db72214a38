"""Separability along an axis: less what chance gives, with bands, and how deep its valley is.

Whatever is drawn (subsamples, permuted labels, prompts drawn again) is drawn once for a panel of
prompts and used at every place, so that neighbouring places keep what they have in common and
figures over several places have honest intervals.

Letters: n prompts, of which m are in the smaller class; T places; S subsamples, Q permutations,
B bootstrap draws.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tseval.errors import StatisticsError
from tseval.types import Estimate

from .controls import permuted
from .linear import Fold, grouped_folds
from .resampling import seeded_generator
from .separability import (
    MEASURES,
    discriminant_scores,
    held_out_logits,
    mahalanobis_of,
    measures_as_published,
    norm_fishers,
    score_measures,
    span_features,
)

if TYPE_CHECKING:
    from .ranking import Groups, Labels

Floats = NDArray[np.float64]
# Draws of the larger class, of the smaller one's size, that are averaged over ...
SUBSAMPLES = 5
# ... and as many for measures that fit a probe to each.
FITTED_SUBSAMPLES = 3
# The null of those comes from this many permutations, at places that are these shares of the way.
FITTED_PERMUTATIONS = 40
FITTED_NULL_AT = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Many prompts make each permutation dear, and their null narrow.
_MANY_PROMPTS, _MOST_PERMUTATIONS = 1500, 200
# Numbers in a place's states from which products of matrices are worth several threads.
_LARGE = 1_000_000
_SQUARED = ("norm_fisher", "logit_fisher", "bhattacharyya")
# The ends of an axis, and its middle, as shares of it.
EDGE = 0.05
MIDDLE = (0.2, 0.8)


class Separation(NamedTuple):
    """One measure along an axis.

    Attributes:
        raw: float [T], averaged over equal-sized subsamples.
        null: float [Q, T], the same with permuted labels; or [Q, 1], a null for all places.
        draws: float [B, T], of prompts drawn again.
        squared: Whether it is a squared distance between means, so that noise enters it squared.
    """

    raw: Floats
    null: Floats
    draws: Floats
    squared: bool = True

    @property
    def corrected(self) -> Floats:
        """What is left of each value once the null's mean is taken off: about 0 by chance."""
        left: Floats = self.raw - self.null.mean(axis=0)
        return left

    @property
    def noise(self) -> Floats:
        """How the value would differ from its mean with other prompts, [B, T].

        Draws lie too high and scatter too much where a distance is squared: to |g + e + f|^2, with
        g the true difference of means, e the error in it and f that of a draw, e adds 4 |e f|
        that no other prompts would. Its variance is twice that of the null, |e|^2, and is taken
        off; at least the null's is left.
        """
        left: Floats = self.draws - self.draws.mean(axis=0)
        if not self.squared:
            return left
        drawn, chance = left.var(axis=0), self.null.var(axis=0)
        kept = np.minimum(np.maximum(drawn - 2 * chance, chance), drawn)
        left *= np.sqrt(kept / np.where(drawn > 0, drawn, 1.0))
        return left

    def band(self) -> tuple[Floats, Floats]:
        """Give the limits of the pointwise 95% band around the corrected values."""
        low, high = np.quantile(self.noise, (0.025, 0.975), axis=0)
        return self.corrected + np.minimum(low, 0), self.corrected + np.maximum(high, 0)

    def null_band(self) -> tuple[Floats, Floats]:
        """Give the limits of the central 95% of the corrected null at each place."""
        limits = np.quantile(self.null - self.null.mean(axis=0), (0.025, 0.975), axis=0)
        low, high = (np.broadcast_to(each, self.raw.shape) for each in limits)
        return low, high


class Finding(NamedTuple):
    """A figure over several places, with its interval, its null, and how rare it is there."""

    estimate: Estimate
    null: Estimate
    p_value: float


class _Fitting(NamedTuple):
    """Prompts of two equal classes, and the folds that a probe of them is tried on."""

    places: NDArray[np.int64]
    labels: "Labels"
    folds: NDArray[np.int64]


class SeparabilityPanel:
    """Prompts of one kind, whose classes are compared at one place after another.

    Args:
        labels: bool [n], refusals.
        groups: int [n], near-duplicates: they are permuted and drawn as one.
        places: T.
        permutations, draws: Q and B.
        seed: Of all that is drawn ...
        name: ... for this panel.
        fitted: Whether the measures that fit a probe are wanted; norm-Fisher fits none.
        published: Whether the paper's own variants are wanted as well.

    Attributes:
        lost: Why there are no measures that fit a probe, or ''.

    Raises:
        StatisticsError: A class is empty.
    """

    def __init__(
        self,
        labels: "Labels",
        groups: "Groups",
        places: int,
        *,
        permutations: int,
        draws: int,
        seed: int,
        name: str,
        fitted: bool = True,
        published: bool = True,
    ) -> None:
        if not 0 < labels.sum() < len(labels):
            raise StatisticsError(f"panel {name!r} has prompts of one class only")
        if len(labels) > _MANY_PROMPTS:
            permutations = min(permutations, _MOST_PERMUTATIONS)
        self.labels, self.groups, self.places = labels, groups, places
        self.lost = ""
        self._seed, self._name, self._permutations = seed, name, permutations
        self._draws = _drawn_again(labels, groups, draws, self._rng("draws"))
        self._published = published
        self._found: dict[str, list[Any]] = {name: [None] * places for name in MEASURES}
        self._fitted_null: dict[str, list[float]] = {}
        self._as_published: dict[str, list[Any]] = {name: [None] * places for name in MEASURES}
        self._fits: tuple[list[_Fitting], list[list[_Fitting]]] = ([], [])
        if fitted:
            try:
                self._fits = self._fittings()
            except StatisticsError as error:
                self.lost = str(error)
        self._nulls_at = {round(share * (places - 1)) for share in FITTED_NULL_AT}

    def measure(self, place: int, states: NDArray[Any]) -> None:
        """Compare the classes at one place.

        Args:
            place: Which, from 0.
            states: float [n, d].
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # Products and fits are small and many: threads would wait for each other.
        small = states.size < _LARGE
        with threadpool_limits(1 if small else None, user_api="blas"):
            values = norm_fishers(states, *self._weights).reshape(-1, self._subsamples)
            drawn = norm_fishers(states, *(w / w.sum(axis=1, keepdims=True) for w in self._draws))
        every = values.mean(axis=1)
        self._found["norm_fisher"][place] = (every[0], every[1:], drawn)
        with threadpool_limits(1, user_api="blas"):
            if self._published and self._five_each:
                for name, value in measures_as_published(states, self.labels).items():
                    self._as_published[name][place] = value
            if self._fits[0]:
                self._measure_fitted(place, span_features(states), states.shape[1])

    def found(self) -> dict[str, Separation]:
        """Return every measure, once every place has been measured."""
        raw, null, drawn = zip(*self._found["norm_fisher"], strict=True)
        found = {
            "norm_fisher": Separation(
                np.asarray(raw), np.stack(null, axis=1), np.stack(drawn, axis=1)
            )
        }
        for name, draws in self._fitted_null.items():
            raw, drawn = zip(*self._found[name], strict=True)
            found[name] = Separation(
                np.asarray(raw),
                np.asarray(draws)[:, None],
                np.stack(drawn, axis=1),
                name in _SQUARED,
            )
        return found

    def as_published(self) -> dict[str, list[float]]:
        """Return the paper's variants along the axis; none where a class has under five prompts."""
        return {n: v for n, v in self._as_published.items() if all(each is not None for each in v)}

    @property
    def _five_each(self) -> bool:
        return 5 <= int(self.labels.sum()) <= len(self.labels) - 5

    @cached_property
    def _subsamples(self) -> int:
        return 1 if 2 * self.labels.sum() == len(self.labels) else SUBSAMPLES

    @cached_property
    def _weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights of the classes, [(1 + Q) S, n]: labels as they are, then permuted."""
        rng = self._rng("permutations")
        alike = np.zeros(len(self.labels), dtype=np.int64)
        rows = []
        for draw in range(1 + self._permutations):
            labels = permuted(self.labels, alike, self.groups, rng) if draw else self.labels
            rows += [_equal_classes(labels, rng) for _ in range(self._subsamples)]
        picked = np.stack(rows).astype(np.float32)
        weights = picked / picked.sum(axis=2, keepdims=True)
        return weights[:, 0], weights[:, 1]

    def _fittings(self) -> tuple[list[_Fitting], list[list[_Fitting]]]:
        """Choose the subsamples that probes are fitted to, for labels as they are and permuted."""
        rng = self._rng("fits")
        alike = np.zeros(len(self.labels), dtype=np.int64)
        seen = self._equal_fits(self.labels, rng)
        permutations: list[list[_Fitting]] = []
        while len(permutations) < min(FITTED_PERMUTATIONS, self._permutations):
            permutations.append(
                self._equal_fits(permuted(self.labels, alike, self.groups, rng), rng)
            )
        return seen, permutations

    def _equal_fits(self, labels: "Labels", rng: np.random.Generator) -> list[_Fitting]:
        found = []
        for _ in range(min(self._subsamples, FITTED_SUBSAMPLES)):
            places = np.flatnonzero(_equal_classes(labels, rng).any(axis=0))
            classes, groups = labels[places], self.groups[places]
            folds = grouped_folds(classes, groups, seed=int(rng.integers(2**32)))
            found.append(_Fitting(places, classes, folds))
        return found

    def _measure_fitted(self, place: int, features: Floats, width: int) -> None:
        seen, permutations = self._fits
        every = [_fit(features, fit, width, self._draws) for fit in seen]
        for name in every[0]:
            values = np.mean([found[name] for found in every], axis=0)
            self._found[name][place] = (values[0], values[1:])
        if place not in self._nulls_at:
            return
        for fits in permutations:
            every = [_fit(features, fit, width, None) for fit in fits]
            for name in every[0]:
                value = float(np.mean([found[name][0] for found in every]))
                self._fitted_null.setdefault(name, []).append(value)

    def _rng(self, what: str) -> np.random.Generator:
        return seeded_generator(self._seed, "separability", self._name, what)


def _fit(
    features: Floats, fit: _Fitting, width: int, draws: tuple[Floats, Floats] | None
) -> dict[str, Floats]:
    """Measures of held-out scores: of the prompts as they are, then of each draw."""
    one, zero = fit.labels[None].astype(float), (~fit.labels)[None].astype(float)
    if draws is not None:
        one, zero = (
            np.concatenate([as_is, drawn[:, fit.places] * as_is])
            for as_is, drawn in ((one, draws[0]), (zero, draws[1]))
        )
    known = features[fit.places]
    prepared = []
    for fold in np.unique(fit.folds):
        train, test = np.flatnonzero(fit.folds != fold), np.flatnonzero(fit.folds == fold)
        prepared.append(Fold(train, test, known[train], known[test]))
    logits = held_out_logits(prepared, fit.labels)
    projected = discriminant_scores(prepared, fit.labels, width)
    return {
        **score_measures(logits, one, zero),
        "mahalanobis": mahalanobis_of(projected, one, zero),
    }


def valley_depth(curve: Separation) -> Finding:
    """Say how far separability falls between the ends of a trace, beyond what noise makes it.

    The depth is the mean over the first and last 5% of places, minus the least value between 20%
    and 80%. The least of many noisy values is low by itself, so what the same noise does to a
    curve that is level is taken off, and is the null: the bootstrap's deviations, which are as
    large as the signal makes them and as alike at neighbouring places as the states are. Permuted
    labels have the noise of no signal, less than a level curve well above 0 has (simulated: they
    call 7 to 40% of level curves a valley at p < 0.05); permuted places have noise that neighbours
    do not share. Where the valley is broad this takes off somewhat too much.

    Args:
        curve: One measure along the trace.

    Returns:
        The depth: 0 for a level curve; below 0 where separability is higher in the middle.
    """
    noise = curve.noise
    level = _depth(noise)
    value, moved = _depth(curve.corrected[None])[0], _depth(curve.corrected + noise)
    low, high = np.quantile(moved - moved.mean(), (0.025, 0.975))
    chance = np.quantile(level - level.mean(), (0.025, 0.975))
    value_left = float(value - level.mean())
    return Finding(
        estimate=Estimate(
            value=value_left,
            low=value_left + min(float(low), 0.0),
            high=value_left + max(float(high), 0.0),
            method="bootstrap over prompts",
        ),
        null=Estimate(value=0.0, low=float(chance[0]), high=float(chance[1]), method="level curve"),
        p_value=_rarity(level, float(value)),
    )


def stretch_mean(curve: Separation, stretch: tuple[float, float]) -> Finding:
    """Average a corrected curve over a stretch of its axis, against its permuted labels.

    Args:
        curve: One measure, with a null at each place.
        stretch: First and last share of the axis.
    """
    part = _stretch(len(curve.raw), stretch)
    null = (curve.null - curve.null.mean(axis=0))[:, part].mean(axis=1)
    value = float(curve.corrected[part].mean())
    low, high = np.quantile(curve.noise[:, part].mean(axis=1), (0.025, 0.975))
    chance = np.quantile(null, (0.025, 0.975))
    return Finding(
        estimate=Estimate(
            value=value,
            low=value + min(float(low), 0.0),
            high=value + max(float(high), 0.0),
            method="bootstrap over prompts",
        ),
        null=Estimate(value=0.0, low=float(chance[0]), high=float(chance[1]), method="permutation"),
        p_value=_rarity(null, value),
    )


def _depth(curves: Floats) -> Floats:
    """Depth of each curve, [R, T] to [R]."""
    size = curves.shape[1]
    edges = np.r_[_stretch(size, (0.0, EDGE)), _stretch(size, (1 - EDGE, 1.0))]
    found: Floats = curves[:, edges].mean(axis=1) - curves[:, _stretch(size, MIDDLE)].min(axis=1)
    return found


def _stretch(size: int, shares: tuple[float, float]) -> NDArray[np.int64]:
    """Places of a stretch of an axis, that of 100 places has 5 in the first 5%."""
    at = (np.arange(size) + 0.5) / size
    found: NDArray[np.int64] = np.flatnonzero((at > shares[0]) & (at < shares[1]))
    return found


def _equal_classes(labels: "Labels", rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose as many of the larger class as the smaller has: bool [2, n], class 1 first."""
    chosen = np.stack([labels, ~labels])
    size = int(chosen.sum(axis=1).min())
    for each in chosen:
        members = np.flatnonzero(each)
        if len(members) > size:
            each[rng.choice(members, len(members) - size, replace=False)] = False
    return chosen


def _drawn_again(
    labels: "Labels", groups: "Groups", draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw groups of prompts with replacement: how often each prompt counts, [B, n] a class."""
    _, place = np.unique(groups, return_inverse=True)
    size = int(place.max()) + 1
    times = rng.multinomial(size, np.full(size, 1 / size), size=draws)[:, place].astype(float)
    one, zero = times * labels, times * ~labels
    both = (one.sum(axis=1) > 1) & (zero.sum(axis=1) > 1)
    return one[both], zero[both]


def _rarity(null: Floats, seen: float) -> float:
    return float((1 + (null >= seen - 1e-12).sum()) / (1 + len(null)))
