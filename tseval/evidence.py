"""How long a model's rollouts are and how fast they come, as seen in an earlier run."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import ConfigError
from .journal import Journal
from .pace import SPEED_SPREAD, Pace, Range, faster
from .planning import Length, Limits, Source, call_seconds, length_under
from .readback import Row, stored_rows
from .runfolder import DEFAULT_ROOT, Leg, RunFolder, versions
from .spec import RunSpec
from .workload import CLASSES, Workload

Lengths = dict[str, dict[str, list[Length]]]
# What the session calls the kinds of ``BenchmarkPlan.others``.
COUNTED = {"continued": "extension", "scored": "loglikelihood", "read": "hidden"}


class Evidence(NamedTuple):
    """What was seen of a model.

    Attributes:
        source: Where.
        lengths: By benchmark and prompt.
        classes: The same by class of prompts, over all benchmarks.
        thinks: Whether a trace was seen.
        pace: How fast it was, if that is known and holds here.
        calls: Seconds of one call that makes no rollout, by kind as in ``BenchmarkPlan.others``.
        fixed_seconds: What passes whatever the size, where no token says how fast it goes.
        token_bytes: Of journal and arrays, a new token; None if unknown.
        seconds: What looking took, for a pilot.
        folder: Of the earlier run.
        skipped: Benchmarks that could not be asked there, with what the backend lacks.
        context: Tokens that prompt and rollout share; None if unknown.
        notes: What has to be said.
    """

    source: Source
    lengths: Lengths
    classes: Lengths
    thinks: bool
    pace: Pace | None
    token_bytes: float | None
    calls: Mapping[str, Range] = MappingProxyType({})
    fixed_seconds: float = 0.0
    seconds: float | None = None
    folder: str = ""
    skipped: Mapping[str, str] = MappingProxyType({})
    context: int | None = None
    notes: tuple[str, ...] = ()


def calls_of(
    counts: dict[str, int], works: list[Workload], limit: int | None, wanted: int
) -> dict[str, Range]:
    """Say what calls take that make no rollout, from what a leg counted.

    Args:
        counts: Of the leg.
        works: What is planned.
        limit: Rows of each that the leg looked at, at most.
        wanted: Requests that are worth having under way.
    """
    found = {}
    for kind, counted in COUNTED.items():
        prompts = [work.prompts or 0 for work in works if kind in work.others]
        seen = sum(min(each, limit or each) for each in prompts)
        # As many rows as the session keeps under way.
        window = 2 * wanted
        seconds = call_seconds(
            counts.get(f"{counted}.made", 0),
            counts.get(f"{counted}.milliseconds", 0),
            min(seen, window),
            min(sum(prompts), window),
        )
        if seconds is not None:
            found[kind] = seconds
    return found


def earlier_run(
    spec: RunSpec, out: Path | None, named: Path | None, works: list[Workload], wanted: int
) -> Evidence | None:
    """Read an earlier run of the same model: one that was named, or the newest of all these."""
    if named is not None:
        folder = RunFolder.load(named)
        other = _another_model(folder.manifest.spec, spec)
        if other:
            raise ConfigError(
                f"{named} is a run of another model or thinks otherwise ({other})",
                hint="leave out --from: a pilot then looks at a few rollouts of this one",
            )
        return _read(folder, spec, works, wanted)
    there = {work.name for work in works if not work.missing}
    for folder in _runs(out):
        asked = set(folder.manifest.spec.benchmarks)
        if there and there <= asked and not _another_model(folder.manifest.spec, spec):
            found = _read(folder, spec, works, wanted)
            if there <= set(found.lengths):
                return found
    return None


def _runs(out: Path | None) -> Iterator[RunFolder]:
    """Yield the runs in a folder, newest first."""
    root = out if out is not None else DEFAULT_ROOT
    files = [*root.glob("run.json"), *root.glob("*/run.json")]
    for file in sorted(files, key=lambda each: each.stat().st_mtime, reverse=True):
        try:
            yield RunFolder.load(file.parent)
        except ConfigError:
            continue


def _another_model(theirs: RunSpec, ours: RunSpec) -> str:
    """Name what makes another run's lengths say nothing about this one's, or ''."""

    def facts(spec: RunSpec) -> dict[str, Any]:
        model = {key: getattr(spec.model, key) for key in ("backend", "name", "revision")}
        model |= {"adapter": spec.model.adapter, "base_url": spec.model.base_url}
        return {**model, "intervention": spec.intervention, "thinking": spec.thinking.mode}

    left, right = facts(theirs), facts(ours)
    return "; ".join(
        f"{key}: {left[key] or 'none'} there, {right[key] or 'none'} here"
        for key in left
        if left[key] != right[key]
    )


def _read(folder: RunFolder, spec: RunSpec, works: list[Workload], wanted: int) -> Evidence:
    lengths, classes, thinks = lengths_of(folder, spec, works)
    manifest = folder.manifest
    tokens = sum(leg.counts.get("tokens", 0) for leg in manifest.legs)
    size = size_of(folder)
    notes = []
    pace = None
    if manifest.versions.get("platform") != versions()["platform"]:
        notes.append("the earlier run was made on another machine: its speed says nothing here")
    else:
        pace = _pace(folder, wanted)
        if manifest.spec.model.options != spec.model.options:
            notes.append("the earlier run had other backend options: the speed may differ")
        if manifest.spec.judges != spec.judges:
            notes.append("the earlier run had other judges: its speed has their time in it")
    if manifest.spec.system_prompt != spec.system_prompt:
        notes.append("the earlier run had another system prompt: lengths may differ")
    return Evidence(
        source="earlier run",
        lengths=lengths,
        classes=classes,
        thinks=thinks,
        pace=pace,
        token_bytes=size / tokens if tokens else None,
        calls=_calls_there(folder, works, wanted),
        folder=str(folder.path),
        notes=tuple(notes),
    )


def _pace(folder: RunFolder, wanted: int) -> Pace | None:
    """Take the speed of the leg that made the most tokens."""
    legs = [leg for leg in folder.manifest.legs if leg.counts.get("tokens") and leg.seconds > 0]
    if not legs:
        return None
    leg = max(legs, key=lambda each: each.counts["tokens"])
    tokens, made = leg.counts["tokens"], max(1, leg.counts.get("generation.made", 1))
    working = _working(folder, leg)
    speed, whole = tokens / working, tokens / leg.seconds
    gain = max(1.0, wanted / made)
    return Pace(
        tokens_per_second=Range(
            value=faster(speed, gain),
            low=whole * (1 - SPEED_SPREAD),
            high=speed * gain * (1 + SPEED_SPREAD),
        ),
        fixed_seconds=leg.seconds - working,
        source="earlier run",
        concurrent=min(made, wanted),
        wanted=wanted,
    )


def _calls_there(folder: RunFolder, works: list[Workload], wanted: int) -> dict[str, Range]:
    """Take what calls take from the leg that made the most of each kind."""
    manifest = folder.manifest
    if manifest.versions.get("platform") != versions()["platform"]:
        return {}
    found: dict[str, Range] = {}
    for kind, counted in COUNTED.items():
        leg = max(manifest.legs, key=lambda leg: leg.counts.get(f"{counted}.made", 0), default=None)
        if leg is not None:
            calls = calls_of(leg.counts, works, manifest.spec.limit, wanted)
            found |= {kind: calls[kind]} if kind in calls else {}
    return found


def _working(folder: RunFolder, leg: Leg) -> float:
    """Say how long a leg worked on rollouts: the first was begun a mean latency before its end."""
    began = datetime.fromisoformat(leg.started).timestamp()
    journal = Journal.open(folder.journal, write=False)
    try:
        times = [r.at for r in journal.rows() if began <= r.at <= began + leg.seconds + 1]
    finally:
        journal.close()
    if not times:
        return leg.seconds
    counts = leg.counts
    latency = counts.get("generation.milliseconds", 0) / 1000 / counts.get("generation.made", 1)
    before = min(latency, max(0.0, min(times) - began))
    # The start is noted to the second, so a short leg may seem longer than it was.
    return min(leg.seconds, max(max(times) - min(times) + before, 1e-3))


def size_of(folder: RunFolder) -> int:
    """Bytes of a run's journal and arrays; its other files do not grow with it."""
    parts = (folder.journal, folder.path / "arrays")
    return sum(f.stat().st_size for part in parts for f in part.rglob("*") if f.is_file())


def lengths_of(
    folder: RunFolder, spec: RunSpec, works: list[Workload]
) -> tuple[Lengths, Lengths, bool]:
    """Read how long a run's rollouts are under this run's limits: by benchmark, and by class."""
    theirs = folder.manifest.spec
    limits = {work.name: work.limits for work in works}
    by_name: Lengths = defaultdict(lambda: defaultdict(list))
    by_class: Lengths = defaultdict(lambda: defaultdict(list))
    thinks = False
    if not folder.journal.is_dir():
        return by_name, by_class, thinks
    journal = Journal.open(folder.journal, write=False)
    try:
        for stored in stored_rows(journal):
            row, rollout = stored.row, stored.rollout
            if rollout is None:
                continue
            own = _own_limits(theirs, limits.get(row.benchmark), rollout.answer_tokens)
            length = length_under(rollout, own, limits.get(row.benchmark, own))
            if length is None:
                continue
            thinks = thinks or rollout.thought
            by_name[row.benchmark][row.sample].append(length)
            by_class[CLASSES[row.harmful]][_place(row)].append(length)
    finally:
        journal.close()
    return by_name, by_class, thinks


def _place(row: Row) -> str:
    return f"{row.benchmark}\0{row.sample}"


def _own_limits(theirs: RunSpec, card: Limits | None, answer: int | None) -> Limits:
    """Give the limits that a rollout was made under."""
    if theirs.answer_tokens_fixed:
        own = theirs.sampling.answer_tokens
    else:
        own = card.answer if card is not None else answer or 0
    return Limits(trace=theirs.thinking.budget, answer=own)
