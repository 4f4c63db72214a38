"""The curves of ``prefill_decision``: over the user's text, the template's tail, the paper's grid.

A suffix says which: '' is the user's text, '_tail' the template's tail.
"""

import tseval
import tseval.probes as probes

_READ = (("auroc", "AUROC", "auroc"), ("bacc", "balanced accuracy", "accuracy"))
_FISHER = ("norm_fisher", probes.MEASURES["norm_fisher"])
_WHERE = {"": "over the user's prompt", "_tail": "over the template's tail"}
_X_TITLE = {"": "place in the user's text (%)", "_tail": "token of the template's tail"}


def read(kind, suffix, found, size, chance):
    """Draw what a probe reads.

    Args:
        kind: 'harmful' or 'benign'.
        suffix: Of the segment.
        found: A ``Readout`` for each anchor, or None.
        size: Prompts.
        chance: Limits of the AUROC by chance, or None.
    """
    for name, title, attribute in _READ:
        values = [each and getattr(each, attribute) for each in found]
        band = chance if name == "auroc" and any(found) else None
        yield tseval.Curve(
            name=name + suffix,
            group=kind,
            title=f"{title} {_WHERE[suffix]}",
            x_title=_X_TITLE[suffix],
            y_title=title,
            x=_axis(suffix, len(values)),
            y=tuple(each and each.value for each in values),
            low=tuple(each and each.low for each in values),
            high=tuple(each and each.high for each in values),
            null_low=(band[0],) * len(values) if band else (),
            null_high=(band[1],) * len(values) if band else (),
            counts=(size,) * len(values),
        )


def fisher(kind, suffix, found, part, size):
    """Draw corrected norm-Fisher at the anchors of a segment (``part``); arguments as above."""
    (low, high), (null_low, null_high) = found.band(), found.null_band()
    name, title = _FISHER
    values = plain(found.corrected[part])
    return tseval.Curve(
        name=name + suffix,
        group=kind,
        title=f"{title} {_WHERE[suffix]}",
        x_title=_X_TITLE[suffix],
        y_title=f"{title}, less chance",
        x=_axis(suffix, len(values)),
        y=values,
        low=plain(low[part]),
        high=plain(high[part]),
        null_low=plain(null_low[part]),
        null_high=plain(null_high[part]),
        counts=(size,) * len(values),
    )


def published(kind, found, counts):
    """Draw the paper's variants on its own grid.

    Args:
        kind: 'harmful' or 'benign'.
        found: For each anchor AUROC, balanced accuracy and norm-Fisher, or None.
        counts: Prompts at each.
    """
    for column, (name, title) in enumerate((*((n, t) for n, t, _ in _READ), _FISHER)):
        values = [each and each[column] for each in found]
        yield tseval.Curve(
            name=f"{name}_published",
            group=kind,
            title=f"{title} on the paper's grid",
            x_title="anchor (19: end of the rendered prompt, 20: first thinking token)",
            y_title=title,
            x=tuple(float(k) for k in range(len(values))),
            y=plain(getattr(each, "value", each) for each in values),
            counts=counts,
            variant="paper",
        )


def plain(values):
    """Numbers of a curve; where one is none, None."""
    return tuple(None if value is None or value != value else float(value) for value in values)


def _axis(suffix, size):
    if suffix:
        return tuple(float(k + 1) for k in range(size))
    return tuple(100 * k / (size - 1) for k in range(size))
