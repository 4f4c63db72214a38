"""A training's panel at work: runs before, at looks and after, and the checkpoint that is kept."""

import asyncio
import contextlib
import shutil
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import structs

from tseval.before_after import score_changes
from tseval.errors import ConfigError, JournalError, StatisticsError, TrainingError, TsevalError
from tseval.requests import ModelSpec
from tseval.runfolder import RunFolder
from tseval.runner import FAIL_SHARE, run

from .job import TrainFolder
from .looks import (
    RULE_TEXT,
    AxisName,
    Hits,
    LookRecord,
    PanelRecord,
    Rate,
    choose,
    planned_looks,
    rate,
    rise,
    rise_at,
    share_of_alpha,
    stop_reason,
)
from .panel import BROKEN, PanelRegistry, axes_of, benchmarks_of, halves_of, hits_of, panel_spec

if TYPE_CHECKING:
    from tseval.data import Rows
    from tseval.legs import Display
    from tseval.plugins import Registry
    from tseval.session import Session
    from tseval.types import Estimate

    from .records import Fitted

T = TypeVar("T")

# A panel runs on transformers: it measures weights that no other engine has loaded.
_BACKEND = "hf"
_WEIGHTS = ("adapter_model.safetensors", "adapter_config.json")


class PanelRuns:
    """The panel of a training; made before its model is loaded.

    Args:
        folder: The training; its record's ``panel`` is kept up to date, and saved.
        registry: Everything that is registered.
        display: Shows progress.

    Raises:
        ConfigError: A benchmark, a judge, the number of prompts or the level does not fit.
        DataError: Rows cannot be read.
    """

    def __init__(self, folder: TrainFolder, registry: "Registry", display: "Display") -> None:
        self._folder = folder
        self._registry = registry
        self._display = display
        self._recipe = folder.record.recipe
        _require_level(self._recipe.panel.alpha)
        self._benchmarks = benchmarks_of(self._recipe, registry)
        self.halves = halves_of(self._recipe, self._benchmarks)
        self._axes = axes_of(self._recipe, registry)
        self._base: dict[AxisName, dict[str, float | None]] = {}
        panel = self._recipe.panel
        if folder.record.panel is None:
            folder.record.panel = PanelRecord(
                sizes=self.halves.sizes,
                set_aside=self.halves.set_aside,
                rule=RULE_TEXT[panel.rule] if panel.steps else "",
            )

    @property
    def record(self) -> PanelRecord:
        """What was found so far."""
        assert self._folder.record.panel is not None
        return self._folder.record.panel

    def before(self, steps: int) -> None:
        """Measure the base model.

        Args:
            steps: Optimiser steps that the training will take at the most.

        Raises:
            TrainingError: A benchmark cannot be measured.
        """
        panel = self._recipe.panel
        if panel.steps:
            made = self._measure(self._base_model(), "selection", "selection-base")
            self._base = hits_of(made, self._axes, self._benchmarks)
            self._update(planned=planned_looks(steps, panel.steps))
            self._keep(self._look_of(0, made, self._base, None))
        self._measure(self._base_model(), "final", "final-before")

    def look(self, step: int, adapter: Path) -> str:
        """Look at a checkpoint; a ``tseval.train.job.Look``.

        A look that fails is noted and stops nothing: the training's work is worth more. It is taken
        again on the next occasion, at the latest before the choice.
        """
        name = f"selection-{step:06d}-{_digest(adapter)[:8]}"
        looks = self.record.looks
        known = next((look for look in looks if look.run == name and look.rates), None)
        if known is None:
            # What an earlier process saw later belongs to another course of the training.
            kept = tuple(look for look in self.record.looks if look.step < step)
            self._update(looks=kept)
            _copy(adapter, self._weights(step))
            known = self._seen(step, name, self._weights(step))
            self._keep(known)
        if known.note:
            self._display.remark(f"step {step}: {known.note}")
        if known.rates:
            self._display.remark(f"step {step}: {_shown(known)}")
        return known.stop

    def _seen(self, step: int, name: str, weights: Path) -> LookRecord:
        with _unmoved_draws():
            try:
                made = self._measure(self._adapted(weights), "selection", name)
            except TsevalError as error:
                return LookRecord(step=step, run=name, note=f"no look: {error.message}")
        hits = hits_of(made, self._axes, self._benchmarks)
        every = self._recipe.panel.steps
        assert every is not None
        number = -(-step // every)
        alpha = share_of_alpha(number, self.record.planned, self._recipe.panel.alpha)
        return self._look_of(step, made, hits, alpha)

    def choose(self, fitted: "Fitted") -> "Fitted":
        """Choose the checkpoint that is kept, and put it into the adapter's folder."""
        if not self._recipe.panel.steps:
            return fitted
        if all(look.step != fitted.step for look in self.record.looks):
            self.look(fitted.step, fitted.adapter)
        for failed in self.record.looks:
            if not failed.rates and self._weights(failed.step).is_dir():
                self._keep(self._seen(failed.step, failed.run, self._weights(failed.step)))
        looks = [look for look in self.record.looks if look.step > 0]
        step, why = choose(looks, self._recipe.panel.rule, self._recipe.panel.margin)
        self._update(chosen=step, why=why)
        self._display.remark(f"kept: the adapter of step {step} ({why})")
        if step == fitted.step:
            return fitted
        _copy(self._weights(step), fitted.adapter)
        return structs.replace(fitted, step=step)

    def after(self, adapter: Path) -> None:
        """Measure the result on the final prompts, and compare it with the base model.

        Raises:
            TrainingError: A benchmark cannot be measured.
        """
        before = RunFolder.load(self._folder.panel / "final-before")
        name = f"final-after-{_digest(adapter)[:8]}"
        after = self._measure(self._adapted(adapter), "final", name)
        found = score_changes(before, after)
        lost = tuple(self._lost(before, after))
        self._update(final=found.changes, notes=found.notes, lost=lost)
        shutil.rmtree(self._folder.panel / "adapters", ignore_errors=True)

    # -- measuring

    def _measure(self, model: ModelSpec, half: str, name: str) -> RunFolder:
        """Run a half of the panel, unless that has been done."""
        path = self._folder.panel / name
        spec = panel_spec(self._recipe, model, tuple(self._benchmarks))
        if (path / "run.json").exists():
            found = RunFolder.load(path)
            if found.manifest.status == "complete" and found.manifest.spec_hash == spec.hash:
                return found
        rows: dict[str, Rows] = getattr(self.halves, half)
        registry = PanelRegistry(self._registry, self._benchmarks, rows)
        shown = _PanelDisplay(self._display, f"panel: {name}")
        outcome = _finished(run(spec, registry, shown, out=path))
        lacking = {**outcome.scorecard.failed, **outcome.scorecard.skipped}
        if lacking:
            which, why = next(iter(lacking.items()))
            raise TrainingError(
                f"the panel could not be measured: {which}: {why}",
                hint="the same command goes on from here; or leave it out of --eval-suite",
            )
        return outcome.folder

    def _base_model(self) -> ModelSpec:
        model = self._recipe.model
        if model.backend in ("demo", _BACKEND):
            return model
        return structs.replace(model, backend=_BACKEND, options=self._options())

    def _adapted(self, adapter: Path) -> ModelSpec:
        return ModelSpec(backend=_BACKEND, name=str(adapter), options=self._options())

    def _options(self) -> dict[str, str]:
        """The model's options, without those that only its own engine knows."""
        known = self._registry.backends[_BACKEND].options
        return {k: v for k, v in self._recipe.model.options.items() if k in known or k == "format"}

    def _weights(self, step: int) -> Path:
        return self._folder.panel / "adapters" / f"step-{step}"

    # -- recording

    def _look_of(
        self, step: int, made: RunFolder, hits: Mapping[AxisName, Hits], alpha: float | None
    ) -> LookRecord:
        base: dict[AxisName, Hits] = dict(self._base) if step else {}
        rises: dict[str, Estimate] = {}
        note, tested = "", None
        for name in base:
            with contextlib.suppress(StatisticsError):
                rises[name] = rise(base[name], hits.get(name, {}))
        if "orr" in rises and alpha:
            tested = rise_at(base["orr"], hits["orr"], alpha)
        elif step and self._recipe.panel.alpha:
            note = (
                "over-refusal is not tested: "
                + ("no benign prompt has an outcome" if "orr" not in rises else "no alpha is left")
            )  # fmt: skip
        stop = stop_reason(tested, self._recipe.panel.margin) if tested is not None else ""
        return LookRecord(
            step=step,
            rates=self._rates(hits),
            rises=rises,
            tested=tested,
            stop=stop,
            run=made.path.name,
            note=note,
        )

    def _rates(self, hits: Mapping[AxisName, Hits]) -> dict[str, Rate]:
        found = {
            str(name): rate(axis.metric.name, axis.judge, hits[name])
            for name, axis in self._axes.items()
            if name in hits
        }
        if "broken" in hits:
            found["broken"] = rate(BROKEN, ", ".join(self._recipe.panel.judges), hits["broken"])
        return found

    def _keep(self, look: LookRecord) -> None:
        others = [each for each in self.record.looks if each.step != look.step]
        self._update(looks=tuple(sorted([*others, look], key=lambda each: each.step)))

    def _update(self, **fields: Any) -> None:
        self._folder.record.panel = structs.replace(self.record, **fields)
        self._folder.save()

    def _lost(self, *folders: RunFolder) -> Iterator[str]:
        for folder in folders:
            for score in folder.scorecard().scores:
                lost = sum(score.excluded.values())
                if not score.member and lost > FAIL_SHARE * (score.n + lost):
                    yield (
                        f"{folder.path.name}: {score.benchmark} {score.metric} has lost {lost} of"
                        f" {score.n + lost} rollouts"
                    )


class _PanelDisplay:
    """Shows a panel's run as one phase: the session of the training is not this one."""

    def __init__(self, display: "Display", phrase: str) -> None:
        self._display = display
        self._phrase = phrase

    def phase(self, phrase: str, share: float | None) -> None:
        """See ``Display``."""
        self._display.phase(f"{self._phrase}: {phrase}", share)

    def tick(self, session: "Session") -> None:
        """See ``Display``."""
        expected = session.expected.total()
        self._display.phase(self._phrase, session.done.total() / expected if expected else None)

    def remark(self, message: str) -> None:
        """See ``Display``."""
        self._display.remark(f"{self._phrase}: {message}")


def _require_level(alpha: float) -> None:
    """Raise ConfigError for a level at which a one-sided test has no interval to stop by."""
    if not 0 <= alpha < 0.5:
        raise ConfigError(
            f"--alpha {alpha:g} is no level to stop at: 0 or more, and less than 0.5",
            hint="0.05 is usual; 0 never stops",
        )


def _shown(look: LookRecord) -> str:
    """Say a look's rates in a line."""
    named = ((name, each.estimate) for name, each in look.rates.items())
    return ", ".join(
        f"{name} {100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        for name, found in named
        if found is not None
    )


def _digest(adapter: Path) -> str:
    """Hash an adapter's weights, which tell a checkpoint from another's of the same step."""
    try:
        return sha256((adapter / _WEIGHTS[0]).read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"cannot read the adapter in {adapter}: {error}") from error


def _copy(adapter: Path, to: Path) -> None:
    """Copy an adapter's weights; raises JournalError where they cannot be."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        for file in _WEIGHTS:
            shutil.copyfile(adapter / file, to / file)
    except OSError as error:
        raise JournalError(
            f"cannot copy the adapter to {to}: {error.strerror or error}",
            hint="free space, then run the same command again: it resumes",
        ) from error


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where the caller's thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@contextlib.contextmanager
def _unmoved_draws() -> Iterator[None]:
    """Leave torch's random numbers where they were: a training with looks is the one without."""
    import torch

    cuda: Any = torch.cuda
    devices = list(range(cuda.device_count())) if cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield
