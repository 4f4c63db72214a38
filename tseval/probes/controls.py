"""What a probe of hidden states has to beat: permuted labels, and what needs no hidden state.

Every control goes through the same folds as the probe, and its figures have the same intervals.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tseval.types import Estimate

from .linear import P1, Fold, LinearProbe, fit_scores, out_of_fold, prepare
from .ranking import auroc_value, balanced_accuracy_value, out_of_fold_decisions

if TYPE_CHECKING:
    from .ranking import Groups, Labels, Scores

# Fits repeat in a null, and their cost grows with the square of the prompts and more.
_MOST_DRAWS, _MANY_PROMPTS = 200, 1500
_RARE = 2


class Null(NamedTuple):
    """What a probe finds where labels say nothing.

    Attributes:
        auroc, balanced_accuracy: Mean over permutations, and the central 95% of them.
        auroc_p, balanced_accuracy_p: Share of permutations, the labels as they are counted among
            them, that find as much as the labels as they are.
        draws: Permutations.
    """

    auroc: Estimate
    auroc_p: float
    balanced_accuracy: Estimate
    balanced_accuracy_p: float
    draws: int


def permuted(
    labels: "Labels",
    folds: NDArray[np.int64],
    groups: "Groups",
    rng: np.random.Generator,
) -> "Labels":
    """Permute labels as the design allows: within each fold, whole groups of equal size.

    So every fold keeps the classes that it was stratified to have, near-duplicates keep what
    they have in common, and under the null all these arrangements are equally likely.

    Args:
        labels: bool [n].
        folds: int [n].
        groups: int [n]; a group lies within one fold.
        rng: The draws.
    """
    found = labels.copy()
    blocks: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    for members in np.split(order, borders):
        blocks.setdefault((int(folds[members[0]]), len(members)), []).append(members)
    for alike in blocks.values():
        places = np.stack(alike)
        found[places] = labels[places[rng.permutation(len(places))]]
    return found


def permutation_null(
    prepared: Sequence[Fold],
    labels: "Labels",
    probe: LinearProbe,
    *,
    folds: NDArray[np.int64],
    groups: "Groups",
    scores: "Scores",
    draws: int,
    rng: np.random.Generator,
) -> Null:
    """Repeat a cross-validation with permuted labels.

    The folds stay, and with them scaling, rotation and principal components, which no label
    entered; permuting within folds is what makes that valid (see :func:`permuted`). Everything
    that labels enter is done anew: the fits, the scores, the thresholds.

    Args:
        prepared: The folds (see ``tseval.probes.linear.prepare``).
        labels: bool [n].
        probe: The recipe.
        folds: int [n].
        groups: int [n].
        scores: float [n], out of fold, under the labels as they are.
        draws: Permutations; above 1500 prompts at most 200.
        rng: The draws (``seeded_generator``).
    """
    draws = min(draws, _MOST_DRAWS) if len(labels) > _MANY_PROMPTS else draws
    ranks, accuracies = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        shuffled = permuted(labels, folds, groups, rng)
        found = out_of_fold(prepared, shuffled, probe)
        ranks[draw] = auroc_value(shuffled, found)
        decided = out_of_fold_decisions(shuffled, found, folds)
        accuracies[draw] = balanced_accuracy_value(shuffled, decided)
    decided = out_of_fold_decisions(labels, scores, folds)
    seen = balanced_accuracy_value(labels, decided)
    return Null(
        auroc=null_of(ranks),
        auroc_p=_share(ranks, auroc_value(labels, scores)),
        balanced_accuracy=null_of(accuracies),
        balanced_accuracy_p=_share(accuracies, seen),
        draws=draws,
    )


def null_of(values: NDArray[np.float64], method: str = "permutation") -> Estimate:
    """Summarise the draws of a null: their mean and central 95%."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high), method=method)


def text_scores(texts: Sequence[str], labels: "Labels", folds: NDArray[np.int64]) -> "Scores":
    """Score prompts out of fold by their words alone.

    TF-IDF of words and pairs of words that occur in two training prompts at least, then logistic
    regression with C = 1, the vocabulary each fold's own.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = np.empty(len(labels))
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        words = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, min_df=_RARE, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            known = words.fit_transform([texts[int(place)] for place in train])
        except ValueError:  # no word occurs twice: nothing to go by
            found[test] = 0.0
            continue
        other = words.transform([texts[int(place)] for place in test])
        found[test] = fit_scores(Fold(train, test, known, other), labels, P1)
    return found


def length_scores(texts: Sequence[str], labels: "Labels", folds: NDArray[np.int64]) -> "Scores":
    """Score prompts out of fold by their length: logarithms of characters and of words."""
    sizes = np.asarray([[len(text), len(text.split())] for text in texts], dtype=np.float64)
    return out_of_fold(prepare(np.log1p(sizes), folds, P1), labels, P1)


def category_scores(values: Sequence[str], labels: "Labels", folds: NDArray[np.int64]) -> "Scores":
    """Score prompts out of fold by a category: the benchmark, the first token.

    One column a category that occurs twice at least; what a fold has not seen in training has
    the score of none.
    """
    _, places, counts = np.unique(
        np.asarray(values, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero(counts >= _RARE)
    columns = (places[:, None] == kept[None, :]).astype(np.float64)
    found = np.zeros(len(labels))
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if columns.shape[1]:
            found[test] = fit_scores(Fold(train, test, columns[train], columns[test]), labels, P1)
    return found


def _share(null: NDArray[np.float64], seen: float) -> float:
    return float((1 + (null >= seen - 1e-12).sum()) / (1 + len(null)))
