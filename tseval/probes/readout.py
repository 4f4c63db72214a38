"""What can be read from hidden states: one probe, its null, its controls, in records.

The two probes of first states share this: ``first_token`` asks for the refusal that comes,
``latent_harm`` for the harm that is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from tseval.errors import StatisticsError
from tseval.measurements import Number
from tseval.types import Estimate

from .controls import Null, category_scores, length_scores, permutation_null, text_scores
from .linear import LinearProbe, grouped_folds, held_out, out_of_fold, prepare, stratified_folds
from .ranking import (
    auroc,
    auroc_difference,
    auroc_value,
    balanced_accuracy,
    balanced_accuracy_value,
    out_of_fold_decisions,
    paper_bootstrap,
)
from .resampling import seeded_generator
from .setup import undefined

if TYPE_CHECKING:
    from .ranking import Groups, Labels, Scores

Cell = str | int | float | None
CONTROL_COLUMNS = (
    *("group", "control", "AUROC", "low", "high"),
    *("probe minus control", "low", "high", "n"),
)


class Cases(Struct, frozen=True, kw_only=True):
    """The prompts that a figure rests on.

    Attributes:
        labels: bool [n], the class in question.
        classes: Names of the class and of the other, in the plural: 'refusals', 'compliances'.
        groups: int [n], near-duplicates share a number.
        folds: int [n]; None where there cannot be any (``faulty`` says why).
        texts: Prompts.
        sources: The benchmark that each comes from.
        tokens: Text of the first token of each trace, '' where there is none.
        faulty: Why nothing can be computed, or ''.
    """

    labels: "Labels"
    classes: tuple[str, str]
    groups: "Groups"
    folds: NDArray[np.int64] | None
    texts: tuple[str, ...]
    sources: tuple[str, ...]
    tokens: tuple[str, ...]
    faulty: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Members of both classes."""
        ours = int(self.labels.sum())
        return {self.classes[0]: ours, self.classes[1]: len(self.labels) - ours}

    def kept(self, chosen: "Labels") -> "Cases":
        """Keep some of the prompts, each in the fold that it has."""
        places = np.flatnonzero(chosen)
        labels = self.labels[places]
        folds = None if self.folds is None else self.folds[places]
        few = replace(
            self,
            labels=labels,
            groups=self.groups[places],
            folds=folds,
            texts=tuple(self.texts[place] for place in places),
            sources=tuple(self.sources[place] for place in places),
            tokens=tuple(self.tokens[place] for place in places),
        )
        faulty = undefined(few.counts) or self.faulty
        if folds is not None and not faulty:
            trained = (labels[folds != fold] for fold in np.unique(folds))
            if any(each.all() or not each.any() for each in trained):
                faulty = "undefined: a fold would train on one class only"
        return replace(few, faulty=faulty)


class Readout(Struct, frozen=True, kw_only=True):
    """What one probe reads from one state at one layer.

    Attributes:
        scores: float [n], out of fold.
        auroc, accuracy: With intervals; the accuracy is balanced, its thresholds out of fold.
        null: None unless asked for.
    """

    scores: "Scores"
    auroc: Estimate
    accuracy: Estimate
    null: Null | None = None


def make_cases(
    labels: Sequence[bool],
    classes: tuple[str, str],
    *,
    groups: "Groups",
    texts: Sequence[str],
    sources: Sequence[str],
    tokens: Sequence[str],
    seed: int,
) -> Cases:
    """Deal prompts into folds, or say why that cannot be done."""
    known = np.asarray(labels, dtype=bool)
    folds, faulty = None, ""
    try:
        folds = grouped_folds(known, groups, seed=seed)
    except StatisticsError as error:
        faulty = f"undefined: {error.message}"
    made = Cases(
        labels=known,
        classes=classes,
        groups=groups,
        folds=folds,
        texts=tuple(texts),
        sources=tuple(sources),
        tokens=tuple(tokens),
    )
    return replace(made, faulty=undefined(made.counts) or faulty)


def read_out(
    states: NDArray[np.float32],
    cases: Cases,
    probe: LinearProbe,
    *,
    draws: int = 0,
    seed: int = 0,
    label: str = "",
) -> Readout:
    """Cross-validate a probe.

    Args:
        states: float [n, d].
        cases: The prompts; not faulty.
        probe: The recipe.
        draws: Permutations of the null; 0: no null.
        seed: Run seed.
        label: What it is for: null draws of one label are the same everywhere.
    """
    folds = _folds(cases)
    prepared = prepare(states, folds, probe)
    scores = out_of_fold(prepared, cases.labels, probe)
    null = None
    if draws:
        null = permutation_null(
            prepared,
            cases.labels,
            probe,
            folds=folds,
            groups=cases.groups,
            scores=scores,
            draws=draws,
            rng=seeded_generator(seed, "permutations", label),
        )
    return judged_scores(scores, cases, null)


def judged_scores(scores: "Scores", cases: Cases, null: Null | None = None) -> Readout:
    """Say how well given out-of-fold scores tell the classes apart."""
    decided = out_of_fold_decisions(cases.labels, scores, _folds(cases))
    return Readout(
        scores=scores,
        auroc=auroc(cases.labels, scores, cases.groups),
        accuracy=balanced_accuracy(cases.labels, decided, cases.groups),
        null=null,
    )


def control_scores(cases: Cases) -> dict[str, "Scores"]:
    """Score the prompts by what needs no hidden state, through the same folds.

    Returns:
        Out-of-fold scores by control: 'prompt words', 'prompt length', 'benchmark' (where there
        is more than one), 'first token'.
    """
    labels, folds = cases.labels, _folds(cases)
    found = {
        "prompt words": text_scores(cases.texts, labels, folds),
        "prompt length": length_scores(cases.texts, labels, folds),
    }
    if len(set(cases.sources)) > 1:
        found["benchmark"] = category_scores(cases.sources, labels, folds)
    if any(cases.tokens):
        found["first token"] = category_scores(cases.tokens, labels, folds)
    return found


def compare_controls(
    group: str,
    cases: Cases,
    probe: Readout,
    controls: Mapping[str, "Scores"],
    metric: str,
    *,
    aside: Sequence[str] = (),
) -> tuple[list[tuple[Cell, ...]], Number]:
    """Hold a probe against controls on the same prompts.

    Args:
        group: What it is about.
        cases: The prompts.
        probe: What the probe reads.
        controls: Out-of-fold scores by name.
        metric: Name of the difference's ``MeasureSpec``.
        aside: Controls that are shown and never the best: those that the label follows from, and
            those that come after the state.

    Returns:
        Rows under :data:`CONTROL_COLUMNS`, and the probe minus the best control as a number. The
        best is chosen by the same prompts, which favours it: the difference is too small, if
        anything.
    """
    rows: list[tuple[Cell, ...]] = []
    best: tuple[float, str, Estimate] | None = None
    for name, scores in controls.items():
        alone = auroc(cases.labels, scores, cases.groups)
        more = auroc_difference(cases.labels, probe.scores, scores, cases.groups)
        rows.append(
            (
                *(group, name, alone.value, alone.low, alone.high),
                *(more.value, more.low, more.high, len(scores)),
            )
        )
        if name not in aside and (best is None or alone.value > best[0]):
            best = (alone.value, name, more)
    n = len(cases.labels)
    gain = Number(metric=metric, group=group, n=n, n_prompts=n, counts=cases.counts)
    if best is None:
        return rows, replace(gain, undefined="undefined: no control")
    return rows, replace(gain, estimate=best[2], note=f"best control: {best[1]}")


def held_out_scores(
    states: NDArray[np.float32],
    cases: Cases,
    probe: LinearProbe,
    tests: Mapping[str, NDArray[np.int64]],
) -> dict[str, tuple["Scores | None", str]]:
    """Score benchmarks by a probe that has seen none of them, and no near-duplicate.

    Args:
        states: float [n, d].
        cases: The prompts.
        probe: The recipe.
        tests: Places of the prompts of each benchmark, or pair of benchmarks, held out.

    Returns:
        For each: logits, or None and why there are none.
    """
    named = list(tests)
    found = held_out(states, cases.labels, [tests[name] for name in named], probe, cases.groups)
    result: dict[str, tuple[Scores | None, str]] = {}
    for name, scores in zip(named, found, strict=True):
        ours = int(cases.labels[tests[name]].sum())
        others = len(tests[name]) - ours
        faulty = undefined({cases.classes[0]: ours, cases.classes[1]: others})
        if scores is None and not faulty:
            faulty = "undefined: nothing of a class is left to train on"
        result[name] = (None if faulty else scores, faulty)
    return result


def paper_numbers(
    states: NDArray[np.float32],
    cases: Cases,
    probe: LinearProbe,
    parts: Mapping[str, "Labels"],
    *,
    bootstrap_mean: bool,
) -> dict[str, tuple[Estimate, Estimate] | None]:
    """Compute AUROC and balanced accuracy as arXiv 2606.25013 does.

    Folds by class only (seed 42), so that near-duplicates may be parted, and 500 bootstraps.

    Args:
        states: float [n, d].
        cases: The prompts.
        probe: The recipe.
        parts: For each figure, which of the prompts it is about; the probe is fitted on all.
        bootstrap_mean: Whether plain bootstraps are drawn and their mean reported (the published
            table), or class-stratified ones for the interval only.

    Returns:
        By part; None where it has fewer than ten of a class.
    """
    folds = stratified_folds(cases.labels)
    scores = out_of_fold(prepare(states, folds, probe), cases.labels, probe)
    found: dict[str, tuple[Estimate, Estimate] | None] = {}
    for name, part in parts.items():
        labels, own = cases.labels[part], scores[part]
        few = undefined({"": int(labels.sum()), "others": int((~labels).sum())})
        found[name] = None if few else _as_published(labels, own, folds[part], bootstrap_mean)
    return found


def _as_published(
    labels: "Labels", scores: "Scores", folds: NDArray[np.int64], mean: bool
) -> tuple[Estimate, Estimate]:
    decided = out_of_fold_decisions(labels, scores, folds)
    return (
        paper_bootstrap(
            labels,
            lambda drawn: auroc_value(labels[drawn], scores[drawn]),
            stratified=not mean,
            value=None if mean else auroc_value(labels, scores),
        ),
        paper_bootstrap(
            labels,
            lambda drawn: balanced_accuracy_value(labels[drawn], decided[drawn]),
            stratified=not mean,
            value=None if mean else balanced_accuracy_value(labels, decided),
        ),
    )


def _folds(cases: Cases) -> NDArray[np.int64]:
    if cases.faulty or cases.folds is None:
        raise StatisticsError(cases.faulty or "undefined: there are no folds")
    return cases.folds
