"""Linear probes of hidden states, cross-validated: out-of-fold scores of two published recipes.

What does not depend on labels (scaling, rotation, principal components) is prepared once for a
set of folds, so that a null of permuted labels repeats only what does.

Letters: n prompts, d width of a state, r width after preparation; folds are numbered from 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tseval.errors import StatisticsError

if TYPE_CHECKING:
    from .ranking import Groups, Labels, Scores

FOLDS = 5
# Dimensions that hardly vary are left alone instead of being blown up to variance 1.
LEAST_SD = 1e-6
_MOST_STEPS = 3000
# Newton's method is exact in a few steps, each cubic in the width.
_NEWTON_WIDTH = 120
# Training prompts and dimensions together, below which one thread is best.
_SMALL_FIT = 3000


class LinearProbe(Struct, frozen=True, kw_only=True):
    """A recipe: standardise, perhaps reduce, then logistic regression with an L2 penalty.

    Attributes:
        name: 'P1', 'P2'.
        c: Inverse strength of the penalty: the mean loss over n training prompts is
            cross-entropy + |w|^2 / (2 c n), the bias free. scikit-learn minimises
            |w|^2 / 2 + C * (sum of cross-entropies), which is the same times c n: its C is this c.
        components: Principal components kept, at most what the training prompts have; None: all
            dimensions.
        balanced: Whether both classes weigh the same.
        summary: One line.
    """

    name: str
    c: float
    components: int | None = None
    balanced: bool = False
    summary: str = ""


P1 = LinearProbe(name="P1", c=1.0, summary="all dimensions, C = 1")
P2 = LinearProbe(
    name="P2",
    c=0.03,
    components=100,
    balanced=True,
    summary="100 principal components, C = 0.03, classes balanced",
)


class Fold(NamedTuple):
    """One split, prepared: what a probe is fitted on, and what it is tried on.

    Attributes:
        train, test: Places of the prompts.
        train_features, test_features: float [train, r], [test, r].
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_features: Any
    test_features: Any


def grouped_folds(
    labels: "Labels", groups: "Groups", *, folds: int = FOLDS, seed: int = 0
) -> NDArray[np.int64]:
    """Deal prompts into folds: groups stay whole, classes as even as that allows.

    Args:
        labels: bool [n].
        groups: int [n].
        folds: How many.
        seed: Of the shuffle.

    Returns:
        int [n], the fold that each prompt is held out in.

    Raises:
        StatisticsError: A fold would train on one class only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    _check_folds(labels, groups, folds)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    return _numbered(split.split(labels, labels, groups), labels)


def stratified_folds(labels: "Labels", *, folds: int = FOLDS, seed: int = 42) -> NDArray[np.int64]:
    """Deal prompts into folds as arXiv 2606.25013 does: near-duplicates may be parted.

    Raises:
        StatisticsError: A fold would train on one class only.
    """
    from sklearn.model_selection import StratifiedKFold

    _check_folds(labels, np.arange(len(labels)), folds)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return _numbered(split.split(labels, labels), labels)


def prepare(states: NDArray[Any], folds: NDArray[np.int64], probe: LinearProbe) -> list[Fold]:
    """Do the part of the cross-validation that knows no labels.

    Each fold is standardised by its training prompts. Without principal components the training
    states are rotated onto the directions that they span: a logistic regression with an L2
    penalty has its weights there, and rotation keeps their length, so nothing changes but the
    width, which falls from d to at most the number of training prompts.

    Args:
        states: float [n, d].
        folds: int [n].
        probe: The recipe.
    """
    # Float32 would do for the states, not for products of thousands of dimensions.
    return [
        _prepared(np.asarray(states, dtype=np.float64), train, test, probe)
        for train, test in _splits(folds)
    ]


def prepare_split(
    states: NDArray[Any], train: NDArray[np.int64], test: NDArray[np.int64], probe: LinearProbe
) -> Fold:
    """Prepare a single split, such as one benchmark held out."""
    return _prepared(np.asarray(states, dtype=np.float64), train, test, probe)


def fit_scores(fold: Fold, labels: "Labels", probe: LinearProbe) -> "Scores":
    """Fit a probe on the training prompts of a split; return its logits for the others.

    States that are all the same (the embedding of a chat template's last token) give 0 for all.
    """
    if not fold.train_features.shape[1]:
        return np.zeros(len(fold.test))
    from sklearn.linear_model import LogisticRegression

    narrow = fold.train_features.shape[1] <= _NEWTON_WIDTH
    sparse = not isinstance(fold.train_features, np.ndarray)
    model = LogisticRegression(
        C=probe.c,
        class_weight="balanced" if probe.balanced else None,
        solver="newton-cholesky" if narrow and not sparse else "lbfgs",
        max_iter=_MOST_STEPS,
        tol=1e-5,
    )
    # Where fits are small and many, threads wait for each other (measured: 6 times slower).
    small = sum(fold.train_features.shape) < _SMALL_FIT
    with _threads().limit(limits=1, user_api="blas") if small else nullcontext():
        model.fit(fold.train_features, labels[fold.train])
    found: Scores = model.decision_function(fold.test_features)
    return found


def out_of_fold(prepared: Sequence[Fold], labels: "Labels", probe: LinearProbe) -> "Scores":
    """Score each prompt by the probe of the fold that holds it out.

    Args:
        prepared: The folds.
        labels: bool [n].
        probe: The recipe that they were prepared for.

    Returns:
        float [n], logits.
    """
    scores = np.empty(len(labels))
    for fold in prepared:
        scores[fold.test] = fit_scores(fold, labels, probe)
    return scores


def held_out(
    states: NDArray[Any],
    labels: "Labels",
    tests: Sequence[NDArray[np.int64]],
    probe: LinearProbe,
    groups: "Groups",
) -> list["Scores | None"]:
    """Score chosen prompts by a probe of all others that are no near-duplicates of them.

    Args:
        states: float [n, d].
        labels: bool [n].
        tests: Places of the prompts held out, one split each.
        probe: The recipe.
        groups: int [n].

    Returns:
        Logits [test] for each split; None where what is left to train on has fewer than two
        prompts of a class.
    """
    found: list[Scores | None] = []
    for test in tests:
        train = np.flatnonzero(~np.isin(groups, groups[test]))
        classes = labels[train]
        if min(int(classes.sum()), int((~classes).sum())) < 2:
            found.append(None)
        else:
            found.append(fit_scores(prepare_split(states, train, test, probe), labels, probe))
    return found


@cache
def _threads() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    # Made once: it looks through all loaded libraries.
    return ThreadpoolController()


def _splits(folds: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for fold in np.unique(folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def _check_folds(labels: "Labels", groups: "Groups", folds: int) -> None:
    for name, chosen in (("one class", labels), ("the other", ~labels)):
        many = len(np.unique(groups[chosen]))
        if many < folds:
            raise StatisticsError(
                f"{folds} folds need {folds} independent prompts of each class, {name} has {many}"
            )


def _numbered(splits: Iterator[Any], labels: "Labels") -> NDArray[np.int64]:
    folds = np.empty(len(labels), dtype=np.int64)
    for number, (_, test) in enumerate(splits):
        folds[test] = number
    for train, _ in _splits(folds):
        if not 0 < labels[train].sum() < len(train):
            raise StatisticsError("a fold would train on one class only: groups are too large")
    return folds


def _prepared(
    states: NDArray[np.float64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    probe: LinearProbe,
) -> Fold:
    known = states[train]
    mean, sd = known.mean(axis=0), known.std(axis=0)
    if not (sd > LEAST_SD).any():
        return Fold(train, test, known[:, :0], states[test][:, :0])
    sd[sd <= LEAST_SD] = 1.0
    known, other = (known - mean) / sd, (states[test] - mean) / sd
    if probe.components is None:
        return Fold(train, test, *_rotated(known, other))
    from sklearn.decomposition import PCA

    kept = min(probe.components, len(train) - 1, states.shape[1])
    pca = PCA(kept, random_state=0).fit(known)
    return Fold(train, test, pca.transform(known), pca.transform(other))


def _rotated(
    known: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Express states in the directions that the known ones span."""
    if known.shape[0] >= known.shape[1]:
        return known, other
    values, vectors = np.linalg.eigh(known @ known.T)
    # Standardising took one dimension away at least; what is left of it is rounding.
    kept = values > values[-1] * 1e-10
    root = np.sqrt(values[kept])
    turned = vectors[:, kept]
    return turned * root, other @ (known.T @ (turned / root))
