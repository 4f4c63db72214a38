"""One recipe trained under several seeds: what a claim about a method needs."""

from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from tseval.report import values
from tseval.report.judges import Page, Section
from tseval.types import Estimate, Unit

from .flow import FEWEST_SEEDS, train
from .job import TrainFolder
from .records import Recipe

if TYPE_CHECKING:
    from tseval.legs import Display
    from tseval.plugins import Registry


class SeedLine(Struct, frozen=True, kw_only=True):
    """How one number of the final prompts changed, under each seed.

    Attributes:
        title: Benchmark and metric.
        unit, higher_is_better: As on the change.
        changes: After less before by seed; None where undefined.
        mean: Over seeds, with Student's interval for the spread between them; None for fewer than
            two, or where one is undefined. The prompts are the same under all: their own chance is
            in each training's interval, not in this one.
    """

    title: str
    unit: Unit
    higher_is_better: bool | None
    changes: dict[int, float | None]
    mean: Estimate | None


def train_seeds(
    recipe: Recipe,
    seeds: int,
    registry: "Registry",
    display: "Display",
    *,
    out: Path,
    **more: Any,
) -> list[TrainFolder]:
    """Train a recipe under so many seeds, one after the other, and go on with what is there.

    Args:
        recipe: Its seeds are the first ones; draws, order and adapter begin anew under each.
        seeds: How many.
        registry: Everything that is registered.
        display: Shows progress.
        out: Holds a training's folder for each, ``seed-0`` and so on.
        more: As for :func:`tseval.train.flow.train`, which raises what this does.
    """
    folders = []
    for number in range(recipe.seed, recipe.seed + seeds):
        display.remark(f"seed {number}: {number - recipe.seed + 1} of {seeds}")
        fit = structs.replace(recipe.fit, seed=number)
        one = structs.replace(recipe, seed=number, fit=fit)
        folders.append(train(one, registry, display, out=out / f"seed-{number}", **more))
    return folders


def across(folders: Sequence[TrainFolder]) -> list[SeedLine]:
    """Put the changes on the final prompts side by side; empty where none were measured."""
    found: dict[str, SeedLine] = {}
    for folder in folders:
        panel = folder.record.panel
        for change in panel.final if panel is not None else ():
            line = found.get(change.title) or SeedLine(
                title=change.title,
                unit=change.unit,
                higher_is_better=change.higher_is_better,
                changes={each.record.recipe.seed: None for each in folders},
                mean=None,
            )
            value = change.difference.value if change.difference is not None else None
            changes = {**line.changes, folder.record.recipe.seed: value}
            found[change.title] = structs.replace(line, changes=changes)
    return [
        structs.replace(line, mean=_mean(list(line.changes.values()))) for line in found.values()
    ]


def _mean(found: Sequence[float | None], level: float = 0.95) -> Estimate | None:
    known = [value for value in found if value is not None]
    n = len(known)
    if n < 2 or n < len(found):
        return None
    from scipy.special import stdtrit

    mean = fsum(known) / n
    spread = fsum((value - mean) ** 2 for value in known) / (n - 1)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * (spread / n) ** 0.5
    return Estimate(
        value=mean, low=mean - half, high=mean + half, level=level, method="student over seeds"
    )


def seeds_page(folders: Sequence[TrainFolder]) -> Page:
    """Lay out what the seeds agree on."""
    lines = across(folders)
    seeds = [folder.record.recipe.seed for folder in folders]
    headings = ("after less before", *(f"seed {seed}" for seed in seeds), "mean", "95% CI")
    rows = [
        (
            f"{line.title} {values.arrow(line.higher_is_better)}",
            *(_shown(line.changes[seed], line.unit) for seed in seeds),
            values.difference(line.mean, line.unit),
            values.interval(line.mean, line.unit),
        )
        for line in lines
    ]
    section = Section("", headings, list(rows), frozenset(headings[1:]))
    notes = ["intervals are for the spread between seeds, on the same prompts"]
    if len(seeds) < FEWEST_SEEDS:
        notes.append(f"{len(seeds)} seeds: a claim about the method needs {FEWEST_SEEDS} or more")
    if not lines:
        notes = ["nothing was measured: --eval-suite names what to measure before and after"]
    return Page(f"{len(seeds)} seeds", [section] if lines else [], notes)


def _shown(value: float | None, unit: Unit) -> str:
    if value is None:
        return "-"
    return values.difference(Estimate(value=value, low=value, high=value), unit)
