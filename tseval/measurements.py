"""What a probe found: numbers with their denominators and nulls, curves, and tables.

A score is one number for scorecards, comparisons and gates. A measurement is the whole of what a
probe found, for reports and plots; its headline numbers become scores.
"""

from typing import Any, Literal

from msgspec import Struct

from .types import Estimate, Unit


class MeasureSpec(Struct, frozen=True, kw_only=True):
    """A quantity that a probe measures; ``register_metrics`` takes it beside ``MetricSpec``.

    Attributes:
        name: 'refusal_auroc', 'settled' ...
        title: Column heading.
        unit: 'share' (a fraction, printed as a percentage) or 'number'.
        higher_is_better: Direction; None where neither end is better (a description).
        version: Changes whenever a value could.
        summary: One line, with the formula's source.
        on: What it is about; always 'probe', which keeps it apart from rates over verdicts.
        companions: None; here so that all metrics can be asked.
    """

    name: str
    title: str
    unit: Unit = "number"
    higher_is_better: bool | None = None
    version: str = "1"
    summary: str = ""
    on: Literal["probe"] = "probe"
    companions: tuple[str, ...] = ()


class ByPrompt(Struct, frozen=True, kw_only=True):
    """What a share comes to on each prompt: what two runs are paired by.

    Attributes:
        rows: Names of the prompts by ``row_hash``, 12 hex digits each, one behind the other.
        clusters: Of each prompt; equal ones are not independent.
        means: Share of each prompt's answers that count.
        answers: How many answers these are of, at least 1.
    """

    rows: str
    clusters: tuple[int, ...]
    means: tuple[float, ...]
    answers: tuple[int, ...]


class Number(Struct, frozen=True, kw_only=True):
    """One quantity with its interval, denominators and null.

    Attributes:
        metric: Name of its ``MeasureSpec``.
        group: What it is about: 'harmful · state A', 'benign · 20%' ...
        estimate: Value and interval; None if undefined.
        undefined: Why there is no estimate ('undefined: 4 refusals'), or ''.
        n: Traces, rollouts or cuts in the denominator.
        n_prompts: Prompts that they come from.
        counts: What the denominator consists of: 'refusals', 'compliances', 'locked' ...
        excluded: What left it, by reason.
        null: What the same computation gives where nothing is there (permuted labels, sham
            cuts, split halves): its mean and central interval; None where there is no null.
        p_value: Against that null or by the named test; None if not tested.
        test: Name of the test, or ''.
        variant: '' for tseval's definition; else whose: 'paper'.
        headline: Whether it becomes a score of the scorecard.
        note: What a reader has to know beside it.
        by_prompt: What it comes to on each prompt; None where that is not kept.
        power: What a number of this size could have shown, as a sentence; or ''.
    """

    metric: str
    group: str = ""
    estimate: Estimate | None = None
    undefined: str = ""
    n: int = 0
    n_prompts: int = 0
    counts: dict[str, int] = {}
    excluded: dict[str, int] = {}
    null: Estimate | None = None
    p_value: float | None = None
    test: str = ""
    variant: str = ""
    headline: bool = False
    note: str = ""
    by_prompt: ByPrompt | None = None
    power: str = ""


class Curve(Struct, frozen=True, kw_only=True):
    """Values along an axis; all sequences have the length of ``x``.

    Attributes:
        name: Within its measurement, unique together with ``group``.
        group: What it is about; curves of one name are drawn in one plot.
        title: Heading of that plot.
        x_title, y_title: Axes, with units.
        x, y: Points; None where undefined.
        low, high: Pointwise 95% band; empty if there is none.
        null_low, null_high: Pointwise central 95% of the null; empty if there is none.
        counts: Denominators, one a point; empty if they are the same along the curve.
        variant: '' for tseval's definition; else whose: 'paper'.
    """

    name: str
    group: str = ""
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    null_low: tuple[float | None, ...] = ()
    null_high: tuple[float | None, ...] = ()
    counts: tuple[int, ...] = ()
    variant: str = ""


class Grid(Struct, frozen=True, kw_only=True):
    """A table of a measurement: a transition table, a table of controls.

    Attributes:
        name: Within its measurement.
        title: Heading.
        columns: Headings of the columns.
        rows: Cells; numbers unrounded.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


class Measurement(Struct, frozen=True, kw_only=True):
    """Everything that one probe found in one run.

    Attributes:
        probe: Name of the benchmark.
        title: Heading.
        judge: Label of the judge whose verdicts it rests on, or ''.
        settings: Sizes and constants that it was made with, as they entered the protocol.
        numbers, curves, grids: What was found.
        excluded: Prompts or traces that it could not use, by reason.
        verdicts: How many verdicts it asked for, by what came: 'ok', 'empty', 'degenerate', or
            'unparsed', 'undecided', 'error' where the judge gave none.
        notes: What a reader has to know.
        measures: What the metrics of its numbers are; a report needs no plugin to print them.
    """

    probe: str
    title: str
    judge: str = ""
    settings: dict[str, Any] = {}
    numbers: tuple[Number, ...] = ()
    curves: tuple[Curve, ...] = ()
    grids: tuple[Grid, ...] = ()
    excluded: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    measures: tuple[MeasureSpec, ...] = ()
