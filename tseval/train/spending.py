"""What the drawing of answers costs a training, in gathering and in its panel."""

from typing import TYPE_CHECKING

from tseval.errors import TsevalError
from tseval.runfolder import RunFolder

from .cost import Shape, reading_flops
from .output import shape_by_recipe

if TYPE_CHECKING:
    from .cost import Meter
    from .job import TrainFolder
    from .records import Compute, Recipe


def spent(folder: "TrainFolder", phase: str) -> "Compute | None":
    """Give what a phase has cost in earlier processes."""
    return next((each for each in folder.record.compute if each.phase == phase), None)


def charge(folder: "TrainFolder", compute: "Compute") -> None:
    """Put what a phase has cost into the record, in place of what it had cost before."""
    others = [each for each in folder.record.compute if each.phase != compute.phase]
    folder.record.compute = [*others, compute]


def count_drawn(meter: "Meter", recipe: "Recipe", counts: dict[str, int]) -> None:
    """Count what was drawn in this process, all rows as if they were of equal length.

    What a process drew that was killed outright is not in it. Prompts count in full, also where
    rows shared them; what judges' models did is not counted.
    """
    # Replayed traces, where examples are weighed.
    rows = counts.get("generation.made", 0) + counts.get("extension.made", 0)
    new = counts.get("tokens", 0) + counts.get("replay.tokens", 0)
    read = new + counts.get("prompt_tokens", 0) + counts.get("replay.prompt_tokens", 0)
    if not rows:
        meter.add(tokens=new, flops=0.0)
        return
    shape, why = _shape(recipe)
    if shape is None:
        meter.add_uncounted(tokens=new, why=why)
    else:
        flops = reading_flops(shape, [round(read / rows)] * rows, new)
        meter.add(tokens=new, flops=flops)


def panel_compute(folder: "TrainFolder", recipe: "Recipe") -> "Compute":
    """Add up what the panel's runs have cost, those of earlier processes included."""
    from .records import Compute

    legs = [
        leg
        for run in sorted(folder.panel.glob("*/run.json"))
        for leg in RunFolder.load(run.parent).manifest.legs
    ]
    rows, new, prompts = (
        sum(leg.counts.get(name, 0) for leg in legs)
        for name in ("generation.made", "tokens", "prompt_tokens")
    )
    flops: float | None = 0.0
    why = ""
    if rows:
        shape, why = _shape(recipe)
        lengths = [round((new + prompts) / rows)] * rows
        flops = None if shape is None else reading_flops(shape, lengths, new)
    seconds = sum(leg.seconds for leg in legs)
    return Compute(phase="panel", seconds=seconds, tokens=new, flops=flops, uncounted=why)


def _shape(recipe: "Recipe") -> tuple[Shape | None, str]:
    """Read the base model's sizes, or say why not: no reason to lose what was drawn."""
    try:
        return shape_by_recipe(recipe), ""
    except TsevalError as error:
        return None, str(error).splitlines()[0]
