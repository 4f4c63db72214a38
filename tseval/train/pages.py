"""A training as tables and plots: for a terminal, its cards, and its web page."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tseval.report import values
from tseval.report.html import Part
from tseval.report.judges import Page, Section
from tseval.report.plots import COLOURS, Plot, Series
from tseval.types import Estimate

from .looks import LookRecord

if TYPE_CHECKING:
    from tseval.before_after import Change

    from .records import Acceptance, Compute, Fall, StepLog, TrainRecord

_AXES = {
    "asr": "attack success",
    "orr": "over-refusal",
    "broken": "empty or degenerate",
    "accuracy": "accuracy",
}
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def name_of(record: "TrainRecord") -> str:
    """Name the base model."""
    if record.subject is not None:
        return record.subject.name
    return record.recipe.model.name or record.recipe.model.backend


def parts_of(record: "TrainRecord") -> list[Part]:
    """Lay a training out, in the order of a page."""
    found = [Part("training", summary_page(record), lead=_lead(record))]
    if record.panel is not None and record.panel.final:
        found.append(Part("before-and-after", final_page(record)))
    if record.panel is not None and record.panel.looks:
        found.append(Part("path", path_page(record), path_plots(record.panel.looks)))
    if record.gathered is not None:
        found.append(Part("data", data_page(record)))
    if record.fitted is not None and record.fitted.log:
        found.append(Part("fit", Page("Fit", [_compute(record)], []), [loss(record.fitted.log)]))
    return found


def _lead(record: "TrainRecord") -> str:
    if record.fitted is None:
        return f"This training is not complete (status: {record.status})."
    return (
        f"{name_of(record)}, trained by {record.recipe.method}: the adapter of step"
        f" {record.fitted.step}."
    )


def summary_page(record: "TrainRecord") -> Page:
    """Say what was trained, how, and what it cost."""
    recipe, fit, adapter = record.recipe, record.recipe.fit, record.recipe.adapter
    facts = {
        "method": recipe.method,
        "base model": name_of(record),
        "judges": ", ".join(recipe.judges),
        "selection of examples": "" if recipe.select == "all" else recipe.select,
        "draws": _draws(record),
        "adapter": f"LoRA, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout"
        f" {adapter.dropout:g}, on {adapter.targets}",
        "fit": f"rate {fit.learning_rate:g}, cosine, warm-up {fit.warmup:g}, {fit.batch} examples a"
        f" step, {fit.epochs:g} epochs{_capped(fit.max_steps)}, seed {fit.seed}",
        "forward KL on benign rows": f"{fit.kl:g}" if fit.kl else "",
        "options": ", ".join(f"{k}={v}" for k, v in sorted(recipe.options.items())),
        "recipe": record.recipe_hash,
        "command": record.command,
        "tseval": record.versions.get("tseval", ""),
    }
    rows: list[Sequence[str]] = [(name, text) for name, text in facts.items() if text]
    return Page("Training", [Section("", ("", ""), rows)], list(record.warnings))


def _draws(record: "TrainRecord") -> str:
    """Say how answers were drawn before the fit; '' where none were."""
    recipe, sampling = record.recipe, record.recipe.sampling
    if recipe.teacher or "sampling.temperature" in record.unread:
        return ""
    each = "" if "draws" in record.unread else f"{recipe.draws} a harmful prompt, "
    return (
        f"{each}1 a benign prompt, temperature {sampling.temperature:g}, top-p"
        f" {sampling.top_p:g}, top-k {sampling.top_k}, seed {recipe.seed}"
    )


def _capped(steps: int | None) -> str:
    return "" if steps is None else f", {steps} steps at the most"


def final_page(record: "TrainRecord") -> Page:
    """Lay out before and after on the final prompts."""
    assert record.panel is not None
    headings = (
        "benchmark, metric",
        "before",
        "after",
        "n",
        "difference",
        "95% CI",
        "by",
        "reading",
    )
    rows = [
        (
            f"{change.title} {values.arrow(change.higher_is_better)}",
            _rate(change.before),
            _rate(change.after),
            f"{change.n_before} → {change.n_after}",
            values.difference(change.difference, change.unit),
            values.interval(change.difference, change.unit),
            change.difference.method if change.difference is not None else "",
            change.reading or change.undefined,
        )
        for change in record.panel.final
        if not _is_second_reading(change, record.panel.final)
    ]
    right = frozenset({"before", "after", "n", "difference", "95% CI"})
    notes = ["none of these prompts, nor a near-duplicate of one, was trained on or chose anything"]
    return Page(
        "Before and after, on the final prompts",
        [Section("", headings, list(rows), right)],
        [*notes, *record.panel.notes, *record.panel.lost],
    )


def _is_second_reading(change: "Change", all_: "Sequence[Change]") -> bool:
    """Say whether a row repeats another: answers that say nothing, of which there were none."""
    main = change.key.removesuffix("_substantive")
    return main != change.key and any(
        (other.key, other.before, other.after) == (main, change.before, change.after)
        for other in all_
    )


def path_page(record: "TrainRecord") -> Page:
    """Lay out the looks: what each checkpoint does on the selection prompts."""
    panel = record.panel
    assert panel is not None
    names = [name for name in _AXES if any(name in look.rates for look in panel.looks)]
    headings = ("step", *(_AXES[name] for name in names), "over-refusal against base", "")
    rows = [
        (
            str(look.step),
            *(_of(look, name) for name in names),
            _rise(look),
            "kept" if look.step == panel.chosen else look.stop or look.note,
        )
        for look in panel.looks
    ]
    settings = record.recipe.panel
    notes = [
        f"rule: {panel.rule}",
        *filter(None, [f"kept: step {panel.chosen} ({panel.why})" if panel.why else ""]),
        f"alpha {settings.alpha:g}, one-sided, is divided by {panel.planned} planned looks; the"
        f" training stops where over-refusal has risen by more than"
        f" {100 * settings.margin:g} percentage points at that level",
        *_which(panel.looks),
    ]
    if panel.set_aside:
        notes.append(f"{panel.set_aside} prompts were set aside as near-duplicates of final ones")
    return Page("Path, on the selection prompts",
                [Section("", headings, list(rows), frozenset(headings[:-1]))], notes)  # fmt: skip


def _which(looks: Sequence[LookRecord]) -> Iterator[str]:
    for name, rate in looks[0].rates.items():
        by = f", {rate.judge}" if rate.judge else ""
        lost = f", {rate.lost} without an outcome" if rate.lost else ""
        yield f"{_AXES[name]}: {rate.metric}{by}, {rate.n} prompts{lost}"


def _of(look: LookRecord, name: str) -> str:
    rate = look.rates.get(name)
    return "-" if rate is None else _rate(rate.estimate)


def _rise(look: LookRecord) -> str:
    found = look.rises.get("orr")
    return "" if found is None else f"{values.difference(found)} {values.interval(found)}"


def _rate(estimate: Estimate | None) -> str:
    return (
        f"{values.value(estimate.value if estimate else None)} {values.interval(estimate)}".strip()
    )


def data_page(record: "TrainRecord") -> Page:
    """Lay out what was gathered: prompts, every step of the filter, acceptance."""
    found = record.gathered
    assert found is not None
    sections = [*_falls(found.falls), *_acceptance(found.acceptance)]
    used = ", ".join(f"{n} {kind}" for kind, n in found.prompts.items()) or "none"
    notes = [f"prompts used: {used}"]
    # A teacher's file has a row for each answer.
    left = "rows" if record.recipe.teacher else "prompts"
    notes += [f"{left} not used: {n}: {why}" for why, n in found.dropped.items() if n]
    return Page("Data", sections, [*notes, *found.notes])


def _falls(falls: "Sequence[Fall]") -> Iterator[Section]:
    rows: list[Sequence[str]] = [
        (
            each.kind,
            each.step,
            str(each.came) if each.applies else "-",
            str(each.fell) if each.applies else "does not apply",
            str(each.unknown or ""),
            each.note,
        )
        for each in falls
    ]
    if rows:
        headings = ("prompts", "step", "came", "fell", "without a verdict", "note")
        right = frozenset({"came", "fell", "without a verdict"})
        yield Section("Filter", headings, rows, right)


def _acceptance(found: "Sequence[Acceptance]") -> Iterator[Section]:
    rows: list[Sequence[str]] = [
        (each.kind, str(each.prompts), str(each.draws), str(each.accepted), _rate(each.estimate))
        for each in found
    ]
    if rows:
        headings = ("prompts", "number", "draws", "accepted", "share")
        yield Section("Acceptance", headings, rows, frozenset(headings[1:]))


def _compute(record: "TrainRecord") -> Section:
    rows: list[Sequence[str]] = [_cost(each) for each in record.compute]
    headings = ("phase", "time", "tokens", "operations", "energy", "peak memory")
    return Section("Cost", headings, rows, frozenset(headings[1:]))


def _cost(each: "Compute") -> Sequence[str]:
    joules, held = each.joules, each.peak_bytes
    return (
        each.phase,
        f"{each.seconds:.0f} s",
        f"{each.tokens:,}",
        "not counted" if is_uncounted(each) else f"{_short(each.flops or 0.0)}FLOP",
        f"{joules / 3600:.2f} Wh" if joules is not None else "not readable",
        f"{held / 2**30:.2f} GiB" if held is not None else "",
    )


def is_uncounted(each: "Compute") -> bool:
    """Say whether a phase's operations are unknown.

    Earlier versions wrote 0 then, which no phase has that drew tokens.
    """
    return each.flops is None or (each.tokens > 0 and each.flops == 0)


def _short(number: float) -> str:
    for size, letter in _UNITS:
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:.0f} "


# -- plots


def path_plots(looks: Sequence[LookRecord]) -> list[Plot]:
    """Draw each axis over the steps, and the attack success rate over the over-refusal rate."""
    names = [name for name in _AXES if any(name in look.rates for look in looks)]
    if not names:
        return []
    lines = []
    for place, name in enumerate(names):
        points = [
            (float(look.step), look.rates[name].estimate if name in look.rates else None)
            for look in looks
        ]
        lines.append(_line(_AXES[name], points, COLOURS[place]))
    found = [Plot("path", "Rates along the training", "optimiser step", "rate", tuple(lines))]
    if {"asr", "orr"} <= set(names):
        found += _plane(looks)
    return found


def _plane(looks: Sequence[LookRecord]) -> Iterator[Plot]:
    ends = [
        (orr.value, asr)
        for look in looks
        if {"asr", "orr"} <= set(look.rates)
        and (orr := look.rates["orr"].estimate) is not None
        and (asr := look.rates["asr"].estimate) is not None
    ]
    if ends:
        # Without bands: those of a path that turns back would lie across each other.
        line = _line("checkpoints, in their order", ends, COLOURS[0])._replace(low=(), high=())
        title = "Attack success against over-refusal"
        yield Plot("plane", title, "over-refusal rate", "attack success rate", (line,))


def _line(label: str, points: Sequence[tuple[float, Estimate | None]], colour: str) -> Series:
    return Series(
        label=label,
        x=tuple(x for x, _ in points),
        y=tuple(e.value if e else None for _, e in points),
        low=tuple(e.low if e else None for _, e in points),
        high=tuple(e.high if e else None for _, e in points),
        colour=colour,
    )


def loss(log: Sequence["StepLog"]) -> Plot:
    """Draw the loss."""
    series = Series("loss", tuple(float(each.step) for each in log), tuple(e.loss for e in log))
    return Plot("loss", "Loss", "optimiser step", "nats a labelled token", (series,))
