"""A training from beginning to end: gather, measure, fit, choose, measure again, write down.

Each stage leaves what it made in the training's folder, and is passed over where that is there: run
the same command again and it goes on where it died.
"""

import asyncio
import contextlib
import shutil
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from math import ceil
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from tseval.errors import ConfigError, TrainingError, TsevalError
from tseval.legs import watched
from tseval.runfolder import RunFolder
from tseval.runner import open_session

from .job import Job, TrainFolder
from .pages import is_uncounted
from .panel_runs import PanelRuns
from .records import Fit, Fitted, Gathered, Recipe, TrainRecord
from .spending import charge, count_drawn, panel_compute, spent
from .together import rank_of_process

if TYPE_CHECKING:
    from tseval.legs import Display
    from tseval.plugins import Registry
    from tseval.roles import Backend, Trainer, TrainerCard

FEWEST_SEEDS = 3
# Processes beside the first wait for the data that it gathers.
_POLL_SECONDS = 2.0


def train(
    recipe: Recipe,
    registry: "Registry",
    display: "Display",
    *,
    out: Path,
    fresh: bool = False,
    merge: bool = False,
    command: str = "",
    backend: "Backend | None" = None,
) -> TrainFolder:
    """Train a model by a recipe, going on with what is there.

    Args:
        recipe: What is wanted.
        registry: Everything that is registered.
        display: Shows progress.
        out: Folder of the training.
        fresh: Start anew.
        merge: Write merged weights beside the adapter.
        command: The command line, for the record.
        backend: Draws the answers, instead of the backend that ``recipe.model`` names.

    Returns:
        The folder, complete.

    Raises:
        TsevalError: What kept the training from starting, or ended it; the record says so, and
            nothing that was made is lost.
    """
    trainer: Trainer = registry.trainers[recipe.method]
    _check(recipe, trainer, registry, display)
    if rank_of_process() > 0:
        return _fit_beside(recipe, trainer, registry, display, out)
    _forget_blank(out, recipe)
    folder = TrainFolder.choose(out, recipe, fresh=fresh)
    record = folder.record
    record.command = record.command or command
    record.unread = trainer.card.unread
    _take_up(folder, recipe, display)
    with _status_kept(folder), _unwarned():
        panel = PanelRuns(folder, registry, display) if recipe.panel.suites else None
        evaluated = panel.halves.prompts if panel is not None else ()
        job = Job(folder, registry, display, evaluated=evaluated)
        gathered = _gathered(trainer, job, backend)
        _fit(trainer, job, gathered, panel)
        _write(folder, display, merge=merge)
    return folder


def _check(recipe: Recipe, trainer: "Trainer", registry: "Registry", display: "Display") -> None:
    """Say what is wrong with a recipe before a model is loaded, or an answer drawn.

    Raises:
        ConfigError: An option, a judge or a rule is.
        BackendError: There are no weights under the model's name.
        TrainingError: A library is missing.
    """
    from tseval.judging import seat_judges

    from .looks import RULES
    from .weights import INSTALL, base_of

    for library in ("peft", "trl"):
        if find_spec(library) is None:
            raise TrainingError(f"training needs the package '{library}'", hint=INSTALL)

    card = trainer.card
    unknown = sorted(set(recipe.options) - set(card.options))
    if unknown and recipe.select == "all":
        raise ConfigError(
            f"{card.name} has no option -T {unknown[0]}",
            hint=f"it takes {', '.join(sorted(card.options)) or 'none'}: tseval ls trainers",
        )
    if "teacher" in card.takes and not {"harmful", "benign"} & set(card.takes):
        if not recipe.teacher:
            raise ConfigError(
                f"{card.name} learns from a teacher's answers, and none are given",
                hint="--teacher FILE names a JSON Lines file of prompts and answers",
            )
    elif recipe.teacher and "teacher" not in card.takes:
        raise ConfigError(f"{card.name} takes no --teacher", hint="the trainer sft does")
    if recipe.panel.rule not in RULES:
        raise ConfigError(
            f"--keep is {recipe.panel.rule!r}", hint=f"expected one of {', '.join(RULES)}"
        )
    _check_unread(recipe, card)
    for judges in (recipe.judges if card.judges else (), recipe.panel.judges):
        seat_judges(judges, registry, recipe.judge_options)
    base_of(recipe.model, display.phase)


def _check_unread(recipe: Recipe, card: "TrainerCard") -> None:
    """Raise ConfigError where a recipe sets what its trainer would pass over in silence."""
    plain = Recipe(method=recipe.method, model=recipe.model)
    for field in card.unread:
        read = attrgetter(field)
        if read(recipe) != read(plain):
            flag = field.rpartition(".")[2].replace("_", "-")
            raise ConfigError(
                f"{card.name} does not read --{flag}",
                hint=f"leave it out; the method's own options: {', '.join(card.options) or 'none'}",
            )


def _take_up(folder: TrainFolder, recipe: Recipe, display: "Display") -> None:
    """Go on by the recipe that is given now, with the model that the training began with.

    What is no part of a recipe's hash may differ: where local data lie, how much fits into memory.

    Raises:
        ConfigError: Another model stands under the same name.
    """
    from .weights import identity_of, require_same

    record = folder.record
    if record.gathered is not None:
        require_same(record.subject, identity_of(recipe.model, display.phase))
    if record.fitted is not None:
        # What it was fitted with is history.
        recipe = structs.replace(recipe, fit=record.recipe.fit)
    record.recipe, record.recipe_hash = recipe, recipe.hash


def _forget_blank(out: Path, recipe: Recipe) -> None:
    """Remove a training of another recipe that never got as far as a first answer.

    It is somebody's typo: the folder is theirs to use again.
    """
    if not (out / "train.json").exists():
        return
    record = TrainFolder.load(out).record
    if record.recipe.hash == recipe.hash or record.gathered is not None:
        return
    drawn = out / "synthesis"
    if not (drawn / "run.json").exists() or RunFolder.load(drawn).is_blank:
        shutil.rmtree(drawn, ignore_errors=True)
        (out / "train.json").unlink()


@contextlib.contextmanager
def _status_kept(folder: TrainFolder) -> Iterator[None]:
    """Write down how a training ended, whatever ended it."""
    record = folder.record
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        record.status = "interrupted"
        raise
    except BaseException:
        record.status = "failed"
        raise
    else:
        record.status = "complete"
    finally:
        # A full disk is what ended it, perhaps: that error is the one to show.
        with contextlib.suppress(TsevalError):
            folder.save()


# -- stages


def _gathered(trainer: "Trainer", job: Job, backend: "Backend | None") -> Gathered:
    """Make what is trained on, or read it where it has been made."""
    folder, record = job.folder, job.folder.record
    if record.gathered is not None and (folder.data / "train.jsonl").exists():
        examples = folder.read_examples()
        job.display.remark(f"found {len(examples)} examples in {folder.data}")
        return structs.replace(record.gathered, examples=examples)
    record.status = "gathering"
    folder.save()
    gathered = asyncio.run(_gather(trainer, job, backend))
    folder.write_examples(gathered.examples)
    record.gathered = structs.replace(gathered, examples=())
    folder.save()
    job.display.remark(f"{len(gathered.examples)} examples to train on")
    return gathered


async def _gather(trainer: "Trainer", job: Job, backend: "Backend | None") -> Gathered:
    from .cost import Meter
    from .synthesis import synthesis_spec

    recipe, record = job.recipe, job.folder.record
    spec = synthesis_spec(recipe, job.registry)
    if not trainer.card.judges:
        spec = structs.replace(spec, judges=())
    meter = Meter("gather", spent(job.folder, "gather"))
    try:
        opened = open_session(
            spec, job.registry, job.display, out=job.folder.synthesis, backend=backend
        )
        async with opened as (session, run):
            record.subject = session.target.subject
            try:
                async with watched(session, job.display):
                    found = await trainer.gather(session, job)
            finally:
                count_drawn(meter, recipe, dict(session.counts))
            run.manifest.warnings = list(session.warnings)
            return structs.replace(
                found, notes=tuple(dict.fromkeys((*found.notes, *session.warnings)))
            )
    finally:
        charge(job.folder, meter.read())


def _fit(trainer: "Trainer", job: Job, gathered: Gathered, panel: PanelRuns | None) -> None:
    """Fit an adapter, with the panel before, during and after, unless that is done."""
    folder, record, recipe = job.folder, job.folder.record, job.recipe
    record.status = "fitting"
    folder.save()
    if panel is not None:
        panel.before(_steps(len(gathered.examples), recipe.fit))
        if recipe.panel.steps:
            job.look, job.look_steps = panel.look, recipe.panel.steps
    fitted = _fitted(record)
    if fitted is None:
        fitted = trainer.fit(gathered, job)
        charge(folder, fitted.compute)
        if panel is not None:
            fitted = panel.choose(fitted)
        record.fitted = fitted
        folder.save()
    if panel is not None:
        panel.after(fitted.adapter)
        charge(folder, panel_compute(folder, recipe))


def _fitted(record: TrainRecord) -> Fitted | None:
    """Give what was fitted, if its adapter is still there."""
    fitted = record.fitted
    there = fitted is not None and (fitted.adapter / "adapter_config.json").exists()
    return fitted if there else None


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """Keep what libraries say to their own authors out of the progress of a training."""
    with warnings.catch_warnings():
        for library in ("transformers", "peft", "trl", "accelerate", "torch"):
            for kind in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=kind, module=library)
        yield


def _steps(examples: int, fit: Fit) -> int:
    """Optimiser steps at the most: examples may still be dropped as too long."""
    steps = ceil(fit.epochs * ceil(examples / fit.batch))
    return max(1, steps if fit.max_steps is None else min(steps, fit.max_steps))


def _write(folder: TrainFolder, display: "Display", *, merge: bool) -> None:
    """Write what goes with the adapter."""
    from .output import write_merged, write_texts

    record = folder.record
    record.warnings = _warnings(folder)
    if merge:
        display.phase("merging the adapter into its base", None)
        write_merged(folder)
    write_texts(folder)


def _warnings(folder: TrainFolder) -> list[str]:
    """Say what belongs beside the results of every training, and beside those of this one."""
    record = folder.record
    found = [
        f"one training with one seed ({record.recipe.fit.seed}): a claim about the method needs"
        f" {FEWEST_SEEDS} or more"
    ]
    if record.fitted is not None and record.fitted.stopped:
        found.append(f"stopped early: {record.fitted.stopped}")
    if record.fitted is not None and record.fitted.dropped:
        lost = ", ".join(f"{why} {n}" for why, n in record.fitted.dropped.items())
        found.append(f"examples that could not be trained on: {lost}")
    found += [
        f"{each.phase}: operations are not counted"
        + (f" ({each.uncounted})" if each.uncounted else "")
        for each in record.compute
        if is_uncounted(each)
    ]
    found += record.fitted.notes if record.fitted is not None else ()
    if record.gathered is not None:
        found += record.gathered.notes
    if record.panel is not None:
        found += [f"step {look.step}: {look.note}" for look in record.panel.looks if look.note]
    return list(dict.fromkeys(found))


# -- several processes


def _fit_beside(
    recipe: Recipe, trainer: "Trainer", registry: "Registry", display: "Display", out: Path
) -> TrainFolder:
    """Take part in a fit whose data the first process gathers.

    Where that one fails, whoever launched both ends this one too.
    """
    while True:
        with contextlib.suppress(ConfigError):
            folder = TrainFolder.load(out)
            status = folder.record.status
            if folder.record.recipe.hash == recipe.hash and status in ("fitting", "complete"):
                if _fitted(folder.record) is not None:
                    # The first process passes over a fit that is done: it waits for nobody.
                    return folder
                if status == "fitting" and folder.record.gathered is not None:
                    break
        time.sleep(_POLL_SECONDS)
    gathered = structs.replace(folder.record.gathered, examples=folder.read_examples())
    folder.record.recipe = recipe
    job = Job(folder, registry, display)
    if recipe.panel.suites and recipe.panel.steps:
        # The first process looks. This one stops where that does, and so has to save with it.
        job.look, job.look_steps = _look_elsewhere, recipe.panel.steps
    trainer.fit(gathered, job)
    return folder


def _look_elsewhere(step: int, adapter: Path) -> str:
    """Stand for a look that another process takes."""
    return ""
