"""Measurements as probes would hand them in, small and made up."""

from typing import Any

from tseval.measurements import Curve, Grid, Measurement, MeasureSpec, Number
from tseval.types import Estimate

AUROC = MeasureSpec(name="refusal_auroc", title="Refusal AUROC", summary="ranks refusals")
SETTLED = MeasureSpec(name="settled", title="Settled", unit="share", higher_is_better=False)


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, method="made up")


def number(**more: Any) -> Number:
    fields: dict[str, Any] = {
        "metric": "refusal_auroc",
        "group": "harmful · state A",
        "estimate": estimate(0.8734, 0.7, 0.95),
        "n": 60,
        "n_prompts": 60,
        "counts": {"refusals": 20, "compliances": 40},
        "excluded": {"unclosed": 3},
        "null": estimate(0.5, 0.38, 0.62),
        "p_value": 0.0004,
        "test": "permuted labels",
        "headline": True,
    }
    return Number(**(fields | more))


def curve(**more: Any) -> Curve:
    fields: dict[str, Any] = {
        "name": "auroc",
        "group": "harmful",
        "title": "AUROC along the trace",
        "x_title": "position in the trace (%)",
        "y_title": "AUROC",
        "x": (0.0, 25.0, 50.0, 75.0, 100.0),
        "y": (0.9, 0.7, None, 0.6, 0.8),
        "low": (0.8, 0.6, None, 0.5, 0.7),
        "high": (0.95, 0.8, None, 0.7, 0.9),
        "null_low": (0.4, 0.4, 0.4, 0.4, 0.4),
        "null_high": (0.6, 0.6, 0.6, 0.6, 0.6),
        "counts": (60, 59, 9, 57, 56),
    }
    return Curve(**(fields | more))


def grid(**more: Any) -> Grid:
    fields: dict[str, Any] = {
        "name": "transitions",
        "title": "From without to with thinking",
        "columns": ("without", "refuse", "comply", "share"),
        "rows": (("refuse", 8, 2, 0.8), ("comply", 1, None, 0.0123)),
    }
    return Grid(**(fields | more))


def measurement(**more: Any) -> Measurement:
    fields: dict[str, Any] = {
        "probe": "first_token",
        "title": "First token",
        "judge": "refusal-rules",
        "settings": {"scale": "smoke", "layers": [-1], "penalty": 0.03},
        "numbers": (
            number(),
            number(estimate=None, undefined="undefined: 4 refusals", null=None, p_value=None),
            number(
                metric="settled", group="25%", estimate=estimate(0.8, 0.7, 0.9), variant="paper"
            ),
        ),
        "curves": (curve(), curve(group="benign"), curve(variant="paper", null_low=(), low=())),
        "grids": (grid(),),
        "excluded": {"degenerate": 2},
        "notes": ("read with care",),
        "measures": (AUROC, SETTLED),
    }
    return Measurement(**(fields | more))
