"""Plan a run: count its rows, look at a pilot or an earlier run, and put the figures together."""

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from .cards import ProbeCard
from .errors import DataError
from .evidence import Evidence, earlier_run
from .judging import seat_judges
from .legs import Display
from .pace import Range, duration, faster
from .pilot import PILOT_SECONDS, run_pilot
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
from .requests import Capabilities
from .roles import Backend, BackendFactory
from .runfolder import DEFAULT_ROOT
from .spec import RunSpec
from .stance_judging import stances_of
from .workload import OTHERS, Workload, all_calls, on_backend, skipped, unreadable, workload

_SHARED = (
    "probes share rollouts, and each is planned as if it ran alone: together they take less, not"
    " more"
)
# A benchmark's in a pilot; the second where looking at many at once takes no longer.
PILOT_ROWS, MOST_PILOT_ROWS = 8, 64
# Of the journal, where nothing was measured: a rollout with its rows and verdicts, and a token.
_ROLLOUT_BYTES, _TOKEN_BYTES = 1500, 12
# Of the journal, a call that makes no rollout, where there is nothing to read from a run.
_CALL_BYTES = 300
# Bytes a token differ between texts by so much, as a fraction.
_BYTES_SPREAD = 0.1


async def plan(
    spec: RunSpec,
    registry: Registry,
    display: Display,
    *,
    out: Path | None = None,
    pilot: int | None = None,
    pilot_seconds: float = PILOT_SECONDS,
    earlier: Path | None = None,
    backend: Backend | None = None,
    unread: Mapping[str, tuple[DataError, ...]] = MappingProxyType({}),
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
        pilot_seconds: When a pilot is cut, from its first request on; 0: when it has ended.
        earlier: An earlier run's folder, to take lengths and speed from.
        backend: For the pilot, instead of the one that ``spec.model`` names.
        unread: Benchmarks whose data cannot be read, where the caller knows: a probe takes its
            prompts from others, of which its ``size`` knows the number only.

    Raises:
        ConfigError: The specification is wrong, or ``earlier`` is a run of another model.
        TsevalError: The pilot could not be run.
    """
    seats = seat_judges(spec.judges, registry, spec.judge_options)
    stances = stances_of(spec, registry, seats)
    waiting = backend or registry.backends[spec.model.backend].create(spec.model)
    names = [registry.benchmarks[name] for name in spec.benchmarks]
    works = await asyncio.gather(
        *(asyncio.to_thread(workload, each, spec, seats, stances) for each in names)
    )
    works = [unreadable(w, unread[w.name]) if w.name in unread else w for w in works]
    have = _most(spec, registry, backend)
    works = [on_backend(*each, spec.model.backend, have) for each in zip(names, works, strict=True)]
    rollouts = sum(work.rollouts or 0 for work in works)
    found = None
    if earlier is not None or pilot is None:
        found = earlier_run(spec, out, earlier, works, min(rollouts, waiting.max_outstanding))
    there = tuple(work.name for work in works if not work.missing)
    if found is None and pilot != 0 and there:
        rows = pilot or _pilot_rows(waiting, rollouts, len(there))
        found = await run_pilot(spec, registry, display, works, there, rows, waiting, pilot_seconds)
    if found is not None and found.skipped:
        # What a server can do is known only once it is reached.
        whys = {name: why.splitlines()[0] for name, why in found.skipped.items()}
        works = [skipped(w, whys[w.name]) if w.name in whys else w for w in works]
    made = _together(spec, works, found, out)
    if sum(isinstance(each.card, ProbeCard) for each in names) > 1:
        made = msgspec.structs.replace(made, notes=(*made.notes, _SHARED))
    return made


def _most(spec: RunSpec, registry: Registry, backend: Backend | None) -> Capabilities:
    """Say the most that a backend can do; what it shows no states of, its reader may."""
    if backend is not None:
        return backend.capabilities
    factory: BackendFactory = registry.backends[spec.model.backend]
    if factory.reader is None:
        return factory.capabilities
    return msgspec.structs.replace(factory.capabilities, hidden_states=True)


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
    parts = [_part(work, spec, found) for work in works]
    plans = tuple(part.plan for part in parts)
    pace = found.pace if found is not None else None
    runnable = [part for part in parts if not part.plan.missing]
    whole = [part.plan for part in runnable]
    return Plan(
        benchmarks=plans,
        prompts=sum(each.prompts or 0 for each in plans),
        rollouts=sum(each.rollouts or 0 for each in plans),
        tokens=_sum([(each.source, each.tokens) for each in whole]),
        seconds=_seconds(runnable, found, fixed=True),
        disk_bytes=_sum([(each.source, each.disk_bytes) for each in whole]),
        disk_free_bytes=_free(out),
        judges=all_calls(each.judges for each in plans),
        pace=pace,
        pilot_seconds=found.seconds if found is not None else None,
        earlier_run=found.folder if found is not None else "",
        notes=(*notes, *_notes(spec, plans, found)),
    )


class _Part(NamedTuple):
    """A benchmark's plan, and what its time is computed from.

    Attributes:
        plan: The plan.
        rolled: New tokens of its rollouts; None if unknown.
        continued: New tokens of traces that it continues.
    """

    plan: BenchmarkPlan
    rolled: Range | None
    continued: Range | None = None


def _seconds(parts: list[_Part], found: Evidence | None, *, fixed: bool) -> Range | None:
    """Say how long parts of a run take together; None where something of them is not known."""
    rolled = _sum([(part.plan.source, part.rolled) for part in parts])
    if rolled is None or found is None:
        return None
    spent: list[Range] = []
    if rolled.high > 0:
        if found.pace is None:
            return None
        spent.append(duration(rolled, found.pace))
    for kind in OTHERS:
        count = sum(part.plan.others.get(kind, 0) for part in parts)
        known = found.calls.get(kind)
        if count and known is not None:
            spent.append(known.scaled(count))
        elif count and kind == "continued" and found.pace is not None:
            spent += [duration(p.continued, found.pace) for p in parts if p.continued is not None]
        elif count:
            return None
    if fixed:
        pace = found.pace
        seconds = found.fixed_seconds if pace is None else pace.fixed_seconds
        tail = 0.0 if pace is None else pace.tail_seconds
        spent.append(Range(value=None if tail else seconds, low=seconds, high=seconds + tail))
    return added(spent)


def _sum(parts: list[tuple[Source, Range | None]]) -> Range | None:
    """Add up; what was taken from one and the same sample depends on one and the same chance."""
    known = [(source, part) for source, part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    own = [part for source, part in known if source != "other benchmarks"]
    return added(own, [part for source, part in known if source == "other benchmarks"])


def _part(work: Workload, spec: RunSpec, found: Evidence | None) -> _Part:
    """Estimate one benchmark's part."""
    lengths, source = _seen(work, found) if work.rollouts else ([], "limits")
    rolled = _rolled(work, spec, found, lengths, source)
    continued = None
    if work.others.get("continued"):
        continued = bounded(work.others["continued"], work.limits.total)
    tokens = rolled if rolled is None or continued is None else added([rolled, continued])
    seen = [each for group in lengths for each in group]
    ended = [each for each in seen if not each.cut]
    made = BenchmarkPlan(
        benchmark=work.name,
        prompts=work.prompts,
        rollouts=work.rollouts,
        others=dict(work.others),
        tokens=tokens,
        truncated_share=sum(x.truncated for x in ended) / len(ended) if ended else None,
        looked_at=len(seen),
        unfinished=len(seen) - len(ended),
        source=source,
        disk_bytes=_disk(work, tokens, found),
        judges=work.judges,
        resolution=tuple(resolution(on, n) for on, n in work.classes.items() if n),
        missing=work.missing,
        gated=work.gated,
        skipped=work.skipped,
        page=work.page,
        warnings=work.warnings,
    )
    part = _Part(made, rolled, continued)
    seconds = _seconds([part], found, fixed=False)
    return part._replace(plan=msgspec.structs.replace(made, seconds=seconds))


def _rolled(
    work: Workload,
    spec: RunSpec,
    found: Evidence | None,
    lengths: list[list[Length]],
    source: Source,
) -> Range | None:
    """Estimate the new tokens of a benchmark's rollouts."""
    if not work.rollouts:
        return None if work.rollouts is None else Range(value=0.0, low=0.0, high=0.0)
    limit = work.limits.total
    if found is not None and found.classes and not found.thinks and spec.thinking.mode != "forced":
        limit = work.limits.answer
    if found is not None and found.context is not None:
        limit = min(limit, found.context)
    tokens = bounded(work.rollouts, limit)
    if lengths:
        anew = 0 if source == "pilot" else work.prompts or work.rollouts
        tokens = total_tokens(lengths, work.rollouts, limit, anew=anew)
    if source == "other benchmarks":
        tokens = guessed(tokens, work.rollouts * limit)
    return tokens


def _disk(work: Workload, tokens: Range | None, found: Evidence | None) -> Range | None:
    """Estimate a benchmark's share of the journal."""
    if tokens is None or work.rollouts is None:
        return None
    if work.rollouts and found is not None and found.token_bytes is not None:
        disk = tokens.scaled(found.token_bytes)
        low, high = (1 - _BYTES_SPREAD) * disk.low, (1 + _BYTES_SPREAD) * disk.high
        return Range(value=disk.value, low=low, high=high)
    if work.others.get("read"):
        # Nobody knows how wide a model is that was not looked at.
        return None
    base = work.rollouts * _ROLLOUT_BYTES + sum(work.others.values()) * _CALL_BYTES
    disk = tokens.scaled(_TOKEN_BYTES)
    return Range(value=None, low=disk.low + base, high=disk.high + base)


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
            Length(
                low=min(x.low, limit),
                high=limit if x.truncated or x.cut else min(x.high, limit),
                cut=x.cut,
            )
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
    if any(each.others for each in plans):
        yield (
            "what is scored, read or continued takes between a half and twice what was seen, or"
            " less with more of it under way"
        )
    if missing:
        yield (
            f"{', '.join(missing)}: counts, if any, are those of cards, and not in the totals of"
            " tokens, time and disk; such a benchmark fails or is skipped, the others run all"
            " the same"
        )
    pace = found.pace if found is not None else None
    if pace is None and (found is None or not found.calls):
        yield "time is not known without a pilot, or an earlier run on this machine"
    elif pace is not None and pace.concurrent < pace.wanted:
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
