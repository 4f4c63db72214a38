"""Plan a run: count its rows, look at a pilot or an earlier run, and put the figures together."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

from .evidence import Evidence, earlier_run, run_pilot
from .judging import seat_judges
from .legs import Display
from .pace import Range, duration, faster
from .planning import (
    BenchmarkPlan,
    Length,
    Plan,
    Source,
    added,
    bounded,
    guessed,
    resolution,
    total_tokens,
)
from .plugins import Registry
from .roles import Backend
from .runfolder import DEFAULT_ROOT
from .spec import RunSpec
from .workload import Workload, all_calls, workload

# A benchmark's in a pilot; the second where looking at many at once takes no longer.
PILOT_ROWS, MOST_PILOT_ROWS = 8, 64
# Of the journal, where nothing was measured: a rollout with its rows and verdicts, and a token.
_ROLLOUT_BYTES, _TOKEN_BYTES = 1500, 12
# Bytes a token differ between texts by so much, as a fraction.
_BYTES_SPREAD = 0.1


async def plan(
    spec: RunSpec,
    registry: Registry,
    display: Display,
    *,
    out: Path | None = None,
    pilot: int | None = None,
    earlier: Path | None = None,
    backend: Backend | None = None,
) -> Plan:
    """Say what a run will take, without running it.

    Args:
        spec: What would be run.
        registry: Everything that is registered.
        display: Shows the pilot's progress.
        out: Where the run would be written, and earlier runs are looked for.
        pilot: Rows a benchmark of a pilot; 0 runs no model. None looks for an earlier run of the
            same model first, and runs a pilot if there is none: of ``PILOT_ROWS`` on a CPU, and of
            up to ``MOST_PILOT_ROWS`` elsewhere, to keep as many rollouts under way as the run will.
        earlier: An earlier run's folder, to take lengths and speed from.
        backend: For the pilot, instead of the one that ``spec.model`` names.

    Raises:
        ConfigError: The specification is wrong, or ``earlier`` is a run of another model.
        TsevalError: The pilot could not be run.
    """
    seats = seat_judges(spec.judges, registry, spec.judge_options)
    waiting = backend or registry.backends[spec.model.backend].create(spec.model)
    names = [registry.benchmarks[name] for name in spec.benchmarks]
    works = await asyncio.gather(
        *(asyncio.to_thread(workload, each, spec, seats) for each in names)
    )
    rollouts = sum(work.rollouts or 0 for work in works)
    found = None
    if earlier is not None or pilot is None:
        found = earlier_run(spec, out, earlier, works, min(rollouts, waiting.max_outstanding))
    there = tuple(work.name for work in works if not work.missing)
    if found is None and pilot != 0 and there:
        rows = pilot or _pilot_rows(waiting, rollouts, len(there))
        found = await run_pilot(spec, registry, display, works, there, rows, backend)
    return _together(spec, works, found, out)


def _pilot_rows(backend: Backend, rollouts: int, benchmarks: int) -> int:
    """Choose the rows of a pilot such that its speed is the run's, where that costs no time."""
    if "cpu" in backend.devices:
        return PILOT_ROWS
    at_once = min(rollouts, backend.max_outstanding)
    return min(max(PILOT_ROWS, -(-at_once // benchmarks)), MOST_PILOT_ROWS)


def _together(
    spec: RunSpec, works: list[Workload], found: Evidence | None, out: Path | None
) -> Plan:
    notes = list(found.notes) if found is not None else []
    plans = tuple(_benchmark(work, spec, found) for work in works)
    pace = found.pace if found is not None else None
    runnable = [each for each in plans if not each.missing]
    tokens = _sum([(each.source, each.tokens) for each in runnable])
    seconds = None
    if tokens is not None and pace is not None:
        part = duration(tokens, pace)
        value = None if part.value is None else part.value + pace.fixed_seconds
        fixed = pace.fixed_seconds
        seconds = Range(value=value, low=part.low + fixed, high=part.high + fixed)
    return Plan(
        benchmarks=plans,
        prompts=sum(each.prompts or 0 for each in plans),
        rollouts=sum(each.rollouts or 0 for each in plans),
        tokens=tokens,
        seconds=seconds,
        disk_bytes=_sum([(each.source, each.disk_bytes) for each in runnable]),
        disk_free_bytes=_free(out),
        judges=all_calls(each.judges for each in plans),
        pace=pace,
        pilot_seconds=found.seconds if found is not None else None,
        earlier_run=found.folder if found is not None else "",
        notes=(*notes, *_notes(spec, plans, found)),
    )


def _sum(parts: list[tuple[Source, Range | None]]) -> Range | None:
    """Add up; what was taken from one and the same sample depends on one and the same chance."""
    known = [(source, part) for source, part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    own = [part for source, part in known if source != "other benchmarks"]
    return added(own, [part for source, part in known if source == "other benchmarks"])


def _benchmark(work: Workload, spec: RunSpec, found: Evidence | None) -> BenchmarkPlan:
    """Estimate one benchmark's part."""
    lengths, source = _seen(work, found)
    limit = work.limits.total
    if found is not None and found.classes and not found.thinks and spec.thinking.mode != "forced":
        limit = work.limits.answer
    tokens = seconds = disk = None
    if work.rollouts is not None:
        tokens = bounded(work.rollouts, limit)
        if lengths:
            anew = 0 if source == "pilot" else work.prompts or work.rollouts
            tokens = total_tokens(lengths, work.rollouts, limit, anew=anew)
        if source == "other benchmarks":
            tokens = guessed(tokens, work.rollouts * limit)
        if found is not None and found.pace is not None:
            seconds = duration(tokens, found.pace)
        if found is not None and found.token_bytes is not None:
            disk = tokens.scaled(found.token_bytes)
            low, high = (1 - _BYTES_SPREAD) * disk.low, (1 + _BYTES_SPREAD) * disk.high
            disk = Range(value=disk.value, low=low, high=high)
        else:
            base = work.rollouts * _ROLLOUT_BYTES
            disk = tokens.scaled(_TOKEN_BYTES)
            disk = Range(value=None, low=disk.low + base, high=disk.high + base)
    seen = [each for group in lengths for each in group]
    return BenchmarkPlan(
        benchmark=work.name,
        prompts=work.prompts,
        rollouts=work.rollouts,
        tokens=tokens,
        truncated_share=sum(x.truncated for x in seen) / len(seen) if seen else None,
        looked_at=len(seen),
        source=source,
        seconds=seconds,
        disk_bytes=disk,
        judges=work.judges,
        resolution=tuple(resolution(on, n) for on, n in work.classes.items() if n),
        missing=work.missing,
        gated=work.gated,
        page=work.page,
        warnings=work.warnings,
    )


def _seen(work: Workload, found: Evidence | None) -> tuple[list[list[Length]], Source]:
    """Choose the rollouts that say most about a benchmark's: its own, or those of its classes."""
    if found is None:
        return [], "limits"
    own = found.lengths.get(work.name)
    if own:
        return list(own.values()), found.source
    like = [g for on in work.classes or found.classes for g in found.classes.get(on, {}).values()]
    limit = work.limits.total
    clipped = [
        [
            # What was cut off there may go on here, as far as this benchmark's limit.
            Length(low=min(x.low, limit), high=limit if x.truncated else min(x.high, limit))
            for x in group
        ]
        for group in like
    ]
    return clipped, "other benchmarks" if clipped else "limits"


def _notes(
    spec: RunSpec, plans: tuple[BenchmarkPlan, ...], found: Evidence | None
) -> Iterator[str]:
    if found is None or not found.classes:
        yield "tokens are bounds: the limits of trace and answer, since no rollout was looked at"
    guesses = [x.benchmark for x in plans if x.source == "other benchmarks" and not x.missing]
    if guesses:
        yield (
            f"{', '.join(guesses)}: lengths are those of other benchmarks' prompts of that kind,"
            " which may be half or twice as long"
        )
    for each in plans:
        if each.prompts is None and not each.missing:
            yield f"{each.benchmark}: how much it asks is known only when it runs"
    missing = [each.benchmark for each in plans if each.missing]
    if missing:
        yield (
            f"{', '.join(missing)}: counts are their cards', and not in the totals of tokens,"
            " time and disk; without its data a benchmark fails, the others run all the same"
        )
    pace = found.pace if found is not None else None
    if pace is None:
        yield "time is not known without a pilot, or an earlier run on this machine"
    elif pace.concurrent < pace.wanted:
        gain = pace.wanted / pace.concurrent
        yield (
            f"speed was measured with {pace.concurrent} rollouts at once; the run keeps up to"
            f" {pace.wanted} waiting, and is taken to be {faster(1, gain):.1f} times as fast,"
            f" {gain:.1f} at the most: --pilot N measures with more"
        )
    if spec.rollouts > 1:
        yield "differences are counted by prompts: more rollouts of one prompt help, but less"


def _free(out: Path | None) -> int | None:
    """Find the free space where the run would be written."""
    place = (out if out is not None else DEFAULT_ROOT).absolute()
    while not place.exists():
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None
