"""How far apart two classes of hidden states lie at one place: five measures and their formulas.

Letters: n prompts, d width; R reweightings of the prompts (subsamples, permutations, bootstrap
draws), each a row of weights for either class, so that one matrix product serves them all. Class
1 are refusals. m1, m0 are means of scores, s1, s0 their sample variances, s = (s1 + s0) / 2.

Measures of states compare all dimensions; measures of scores compare what a probe made of them
for prompts that it was not fitted on.

Source: arXiv 2606.25013, refusal valley; formulas as its published code has them.
Differs: Bhattacharyya's distance has its first term once, and Mahalanobis' is between held-out
    states and within-class covariance; the paper's own are under variant 'paper'.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tseval.errors import StatisticsError

from .linear import LEAST_SD, P1, Fold, out_of_fold, prepare, stratified_folds

if TYPE_CHECKING:
    from .ranking import Labels, Scores

Floats = NDArray[np.float64]
# What is plotted, in the order of reports.
MEASURES = {
    "norm_fisher": "norm-Fisher",
    "logit_fisher": "logit-Fisher",
    "cohens_d": "Cohen's d",
    "bhattacharyya": "Bhattacharyya distance",
    "mahalanobis": "Mahalanobis distance",
}
# Numbers of one kind that are held at once: as many as stay in a processor's cache.
_AT_ONCE = 32_768
# Newton's method solves systems of the features' width; beyond it, descent is faster.
_NEWTON_WIDTH = 150
_NEWTON_STEPS = 50


def norm_fisher(states: NDArray[Any], labels: "Labels") -> float:
    """Return squared distance of class means over mean squared distances to them, in sample.

    Every dimension is standardised over all prompts (population sd; left alone below 1e-6). With
    nothing to be found it is about (1/n1 + 1/n0) / 2, not 0.

    Args:
        states: float [n, d].
        labels: bool [n].

    Raises:
        StatisticsError: A class is empty.

    Source: arXiv 2606.25013, the measure that its figure shows.
    """
    _check(labels)
    one, zero = (each[None] / each.sum() for each in (labels, ~labels))
    return float(norm_fishers(states, one, zero, share=float(labels.mean()))[0])


def norm_fishers(
    states: NDArray[Any], one: NDArray[Any], zero: NDArray[Any], *, share: float = 0.5
) -> Floats:
    """Compute :func:`norm_fisher` for many reweightings at once.

    Args:
        states: float [n, d].
        one: float [R, n], weights of class 1, each row with sum 1.
        zero: Likewise of class 0.
        share: Weight of class 1 in the variance that dimensions are standardised by; a half
            where the classes are drawn to equal size.

    Returns:
        float [R]; NaN where the classes are points apart from each other.
    """
    # Standardising twice changes nothing, and keeps float32 exact enough for second moments.
    sd = np.asarray(states, dtype=np.float64).std(axis=0)
    sd[sd <= LEAST_SD] = 1.0
    scaled = ((states - states.mean(axis=0, dtype=np.float64)) / sd).astype(np.float32)
    squares, raw = scaled**2, (sd**2).astype(np.float32)
    found = np.empty(len(one))
    step = max(64, _AT_ONCE // scaled.shape[1])
    for start in range(0, len(one), step):
        rows = slice(start, start + step)
        (mean1, spread1), (mean0, spread0) = (
            _spread(np.asarray(each[rows], dtype=np.float32), scaled, squares)
            for each in (one, zero)
        )
        between = np.square(mean1 - mean0)
        total = share * spread1 + (1 - share) * spread0 + share * (1 - share) * between
        total[total * raw <= LEAST_SD**2] = np.inf
        flat = np.isinf(total)
        spread1 += spread0
        top, bottom = (between / total).sum(axis=1), (spread1 / total).sum(axis=1)
        if flat.any():  # dimensions that hardly vary among those that are drawn stay as they are
            top += np.where(flat, between * raw, 0).sum(axis=1)
            bottom += np.where(flat, spread1 * raw, 0).sum(axis=1)
        found[rows] = _over(top, bottom)
    return found


def score_measures(
    scores: "Scores", one: NDArray[Any], zero: NDArray[Any], *, doubled: bool = False
) -> dict[str, Floats]:
    """Compare the scores of two classes, for many reweightings at once.

    Logit-Fisher is (m1 - m0)^2 / (s1 + s0), Cohen's d (m1 - m0) / sqrt(s), Bhattacharyya's
    distance (m1 - m0)^2 / (8 s) + ln(s / sqrt(s1 s0)) / 2 (of two normal distributions, s being
    their mean variance). Where a variance is 0, all are 0.

    Args:
        scores: float [n].
        one: float [R, n], how often each prompt counts in class 1.
        zero: Likewise in class 0.
        doubled: Give Bhattacharyya's first term twice its weight, as the paper's code does.

    Returns:
        float [R] for each measure.
    """
    (m1, s1), (m0, s0) = _moments(scores, one), _moments(scores, zero)
    gap, mean = m1 - m0, (s1 + s0) / 2
    usable = (s1 > 0) & (s0 > 0)
    s1, s0, mean = (np.where(usable, each, 1.0) for each in (s1, s0, mean))
    first = gap**2 / mean / 8 * (2 if doubled else 1)
    found = {
        "logit_fisher": gap**2 / (s1 + s0),
        "cohens_d": gap / np.sqrt(mean),
        "bhattacharyya": first + np.log(mean / np.sqrt(s1 * s0)) / 2,
    }
    return {name: np.where(usable, values, 0.0) for name, values in found.items()}


def mahalanobis_of(scores: "Scores", one: NDArray[Any], zero: NDArray[Any]) -> Floats:
    """Turn held-out discriminant scores into a Mahalanobis distance, with the square's sign.

    Args:
        scores: float [n], from :func:`discriminant_scores`.
        one: As for :func:`score_measures`.
        zero: Likewise.

    Returns:
        float [R]; the squared distance is unbiased and so negative about as often as positive
        where there is nothing to be found. Its root keeps the sign.
    """
    square = _moments(scores, one)[0] - _moments(scores, zero)[0]
    found: Floats = np.sign(square) * np.sqrt(np.abs(square))
    return found


def span_features(states: NDArray[Any]) -> Floats:
    """Standardise states over all prompts, and express them in the directions that they span.

    No label enters, so folds and permutations share the result.

    Args:
        states: float [n, d].

    Returns:
        float [n, r], r at most n - 1; distances and angles are those of the standardised states.
    """
    values = np.asarray(states, dtype=np.float64)
    sd = values.std(axis=0)
    sd[sd <= LEAST_SD] = 1.0
    values = (values - values.mean(axis=0)) / sd
    if len(values) > values.shape[1]:
        spanned: Floats = values
        return spanned
    powers, vectors = np.linalg.eigh(values @ values.T)
    kept = powers > max(float(powers[-1]), 1e-300) * 1e-10
    found: Floats = vectors[:, kept] * np.sqrt(powers[kept])
    return found


def held_out_logits(prepared: Sequence[Fold], labels: "Labels") -> "Scores":
    """Score each prompt by probe P1 of the folds that it is not in, as ``linear.out_of_fold``.

    Newton's method on few dimensions: many small fits, without the overhead of each.

    Args:
        prepared: The folds.
        labels: bool [n].

    Returns:
        float [n], logits.
    """
    if prepared[0].train_features.shape[1] > _NEWTON_WIDTH:
        return out_of_fold(prepared, labels, P1)
    found = np.empty(len(labels))
    for fold in prepared:
        weights, bias = _newton(fold.train_features, labels[fold.train].astype(float), P1.c)
        found[fold.test] = fold.test_features @ weights + bias
    return found


def discriminant_scores(prepared: Sequence[Fold], labels: "Labels", width: int) -> "Scores":
    """Project each prompt on the discriminant direction of the prompts that it is not among.

    The direction is S^-1 (mean1 - mean0), the origin halfway between the means; S is the
    within-class covariance, shrunk towards a multiple of the identity as Ledoit and Wolf do. The
    mean score of class 1 minus that of class 0 is then the cross-validated squared Mahalanobis
    distance: its two factors have independent errors, so that it has no bias upwards.

    Args:
        prepared: Folds, of features that are no fewer than the states span.
        labels: bool [n].
        width: d, dimensions before they were rotated.

    Returns:
        float [n].

    Source: Ledoit and Wolf (2004); Walther et al. (2016), NeuroImage 137:188, for the distance.
    """
    found = np.empty(len(labels))
    for fold in prepared:
        known, classes = fold.train_features, labels[fold.train]
        means = [known[classes].mean(axis=0), known[~classes].mean(axis=0)]
        rest = known - np.where(classes[:, None], *means)
        towards, level = ledoit_wolf(rest, width)
        direction = _solve(rest, (1 - towards) / len(rest), towards * level, means[0] - means[1])
        found[fold.test] = (fold.test_features - (means[0] + means[1]) / 2) @ direction
    return found


def ledoit_wolf(rest: NDArray[Any], width: int) -> tuple[float, float]:
    """Return the share of shrinkage in [0, 1] and the variance that covariance is shrunk to.

    Args:
        rest: float [n, r], residuals in directions that span them.
        width: Dimensions that there are; the others have no variance.
    """
    n = len(rest)
    norms = (rest**2).sum(axis=1)
    level = float(norms.sum() / n / width)
    narrow = rest @ rest.T if n < rest.shape[1] else rest.T @ rest
    squared = float((narrow**2).sum()) / n**2
    noise = (float((norms**2).sum()) / n - squared) / n
    distance = squared - width * level**2
    if distance <= 0:
        return 1.0, level or 1.0
    # With fewer prompts than dimensions S is singular without some shrinkage.
    return min(max(noise / distance, 1e-3), 1.0), level or 1.0


def mahalanobis_as_published(
    states: NDArray[Any], labels: "Labels", folds: NDArray[np.int64]
) -> float:
    """Return sqrt(g' (S + I)^-1 g), averaged over the training parts of a cross-validation.

    g is the difference of class means and S the covariance about the grand mean, both of the same
    prompts: nothing is held out, and S contains g, so that it saturates.

    Args:
        states: float [n, d].
        labels: bool [n].
        folds: int [n].

    Source: arXiv 2606.25013, published code.
    """
    states = np.asarray(states, dtype=np.float64)
    found = []
    for fold in np.unique(folds):
        known, classes = states[folds != fold], labels[folds != fold]
        _check(classes)
        gap = known[classes].mean(axis=0) - known[~classes].mean(axis=0)
        rest = known - known.mean(axis=0)
        found.append(np.sqrt(gap @ _solve(rest, 1 / len(rest), 1.0, gap)))
    return float(np.mean(found))


def measures_as_published(states: NDArray[Any], labels: "Labels") -> dict[str, float]:
    """Compute all five as arXiv 2606.25013 does: no null, unequal classes, near-duplicates parted.

    Args:
        states: float [n, d].
        labels: bool [n].

    Raises:
        StatisticsError: A class has fewer than five prompts.
    """
    folds = stratified_folds(labels)
    scores = held_out_logits(prepare(states, folds, P1), labels)
    of_scores = score_measures(scores, labels[None], ~labels[None], doubled=True)
    return {
        "norm_fisher": norm_fisher(states, labels),
        **{name: float(values[0]) for name, values in of_scores.items()},
        "mahalanobis": mahalanobis_as_published(states, labels, folds),
    }


def _spread(
    weights: NDArray[Any], values: NDArray[Any], squares: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weighted means and variances of each dimension."""
    mean, spread = weights @ values, weights @ squares
    spread -= np.square(mean)
    np.maximum(spread, 0, out=spread)
    return mean, spread


def _newton(features: NDArray[Any], classes: Floats, c: float) -> tuple[Floats, float]:
    """Minimise |w|^2 / 2 + c * (sum of cross-entropies), the bias free."""
    n, r = features.shape
    known = np.column_stack([features, np.ones(n)])
    ridge = np.r_[np.full(r, 1 / c), 1e-12]
    at, loss = np.zeros(r + 1), np.inf
    step = np.zeros(r + 1)
    for _ in range(_NEWTON_STEPS):
        scores = known @ (at + step)
        reached = float(
            ridge[:r] @ (at + step)[:r] ** 2 / 2
            + (np.logaddexp(0, scores) - classes * scores).sum()
        )
        if reached > loss + 1e-12:  # too far: the loss is convex, so half of it is nearer
            step /= 2
            continue
        at, done, loss = at + step, loss - reached < 1e-10 * n, reached
        if done:
            break
        share = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
        slope = known.T @ (share - classes) + np.r_[at[:r] * ridge[:r], 0.0]
        curvature = (known * (share * (1 - share))[:, None]).T @ known
        curvature[np.diag_indices(r + 1)] += ridge
        step = -np.linalg.solve(curvature, slope)
    return at[:r], float(at[r])


def _moments(scores: "Scores", counts: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean and sample variance of scores that count so often each."""
    counts = np.asarray(counts, dtype=np.float64)
    size = counts.sum(axis=1)
    # About the common mean, so that far-off scores lose no digits in squares.
    middle = scores.mean()
    moved = scores - middle
    mean = counts @ moved / size
    spread = np.maximum(counts @ moved**2 / size - mean**2, 0.0)
    # What is left of equal scores is rounding.
    spread[spread <= 1e-13 * max(float((moved**2).max()), 1e-300)] = 0.0
    return mean + middle, spread * size / np.maximum(size - 1, 1)


def _solve(rest: NDArray[Any], times: float, ridge: float, right: NDArray[Any]) -> Floats:
    """Solve (times R'R + ridge I) x = right, in whichever of the two sizes is smaller."""
    n, r = rest.shape
    found: Floats
    if n >= r:
        found = np.linalg.solve(times * (rest.T @ rest) + ridge * np.eye(r), right)
        return found
    inner = np.linalg.solve(ridge / times * np.eye(n) + rest @ rest.T, rest @ right)
    found = (right - rest.T @ inner) / ridge
    return found


def _over(between: NDArray[Any], within: NDArray[Any]) -> Floats:
    found = np.where(between > 0, np.nan, 0.0)
    # Less than float32 can tell from nothing.
    np.divide(between, within, out=found, where=within > 1e-6 * between)
    return found


def _check(labels: "Labels") -> None:
    if not 0 < labels.sum() < len(labels):
        raise StatisticsError(
            f"two classes are needed, got {int(labels.sum())} of {len(labels)} prompts in one"
        )
