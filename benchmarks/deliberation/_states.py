"""What the two probes of first states gather and publish alike."""

from collections import Counter

import tseval
import tseval.probes as probes

LAYERS = tuple(probes.LAYERS)
DEPTHS = tuple(max(share, 0.0) if name != "last" else 1.0 for name, share in probes.LAYERS.items())
LAST = LAYERS.index("last")


def compact(values):
    """Halve what is held of a state, where that loses nothing: so it lay on disk."""
    import numpy as np

    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else values


def reason(error):
    """Say why a prompt could not be used, in one word."""
    return "overlong" if isinstance(error, tseval.RowSkipped) else "error"


def auroc_number(metric, group, cases, found, *, excluded, headline=False, variant="", note=""):
    """Put an AUROC down as a number, or why there is none.

    Args:
        metric: Name of its measure.
        group: What it is about.
        cases: The prompts that it rests on.
        found: What was read; None where nothing can be.
        excluded: What left the denominator.
        headline: Whether it becomes a score.
        variant: Whose definition.
        note: What a reader has to know.
    """
    return _number(
        metric,
        group,
        cases,
        None if found is None else found.auroc,
        (found.null.auroc, found.null.auroc_p) if found is not None and found.null else None,
        excluded=excluded,
        headline=headline,
        variant=variant,
        note=note,
    )


def accuracy_number(metric, group, cases, found, *, excluded, headline=False, note=""):
    """Put a balanced accuracy down; arguments as for :func:`auroc_number`."""
    null = None
    if found is not None and found.null:
        null = (found.null.balanced_accuracy, found.null.balanced_accuracy_p)
    estimate = None if found is None else found.accuracy
    return _number(
        metric,
        group,
        cases,
        estimate,
        null,
        excluded=excluded,
        headline=headline,
        variant="",
        note=note,
    )


def paper_pair(metrics, group, cases, estimates, excluded):
    """Put AUROC and balanced accuracy of the paper's variant down."""
    return [
        _number(
            metric,
            group,
            cases,
            None if estimates is None else estimates[place],
            None,
            excluded=excluded,
            headline=False,
            variant="paper",
            note="near-duplicates may stand on both sides of a fold",
        )
        for place, metric in enumerate(metrics)
    ]


def _number(metric, group, cases, estimate, null, *, excluded, headline, variant, note):
    n = len(cases.labels)
    undefined = "" if estimate is not None else cases.faulty or probes.undefined(cases.counts)
    return tseval.Number(
        metric=metric,
        group=group,
        estimate=estimate,
        undefined=undefined,
        n=n,
        n_prompts=n,
        counts=cases.counts,
        excluded=dict(sorted(excluded.items())),
        null=null[0] if null else None,
        p_value=null[1] if null else None,
        test="permuted labels" if null else "",
        variant=variant,
        headline=headline,
        note=note,
    )


def layer_curve(name, group, title, found, counts):
    """Draw AUROC against depth.

    Args:
        name: Of the curve.
        group: What it is about.
        title: Of the plot.
        found: What was read at each layer; None where nothing can be.
        counts: Prompts.
    """
    estimates = [None if each is None else each.auroc for each in found]
    return tseval.Curve(
        name=name,
        group=group,
        title=title,
        x_title="depth (0 is the embedding, 1 the last layer)",
        y_title="AUROC",
        x=DEPTHS,
        y=tuple(each and each.value for each in estimates),
        low=tuple(each and each.low for each in estimates),
        high=tuple(each and each.high for each in estimates),
        counts=(counts,) * len(DEPTHS),
    )


def control_grid(rows):
    """Put the controls of all groups into one table."""
    return tseval.Grid(
        name="controls",
        title="Controls: what needs no hidden state, through the same folds",
        columns=probes.CONTROL_COLUMNS,
        rows=tuple(rows),
    )


def excluded_of(reasons):
    """Count reasons, without the empty one."""
    return Counter(each for each in reasons if each)
