"""The folder of a run: which one to use, what its manifest says, and its scorecard."""

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from .errors import ConfigError, JournalError
from .files import read_json
from .measurements import Measurement
from .outcomes import OUTCOMES_SCHEMA, OutcomeBook, Outcomes
from .protocol import canonical_json, differing
from .requests import Subject
from .spec import RunSpec
from .types import Score

MANIFEST_SCHEMA = 1
SCORES_SCHEMA = 1
DEFAULT_ROOT = Path("runs")
# Libraries whose versions a number may depend on.
_LIBRARIES = (
    *("tseval", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "vllm"),
    "lm-eval",
)

_ANEW = "remove it, and run the same `tseval run` command again: it is made anew"
# Ten years: no process worked on a run for longer, and no date is beyond what a calendar has.
_LONGEST = 10 * 366 * 86400.0

Status = Literal["running", "interrupted", "failed", "incomplete", "complete"]


class Leg(Struct, kw_only=True):
    """One process that worked on the run: a first start, or a resume.

    Attributes:
        started, seconds: When (ISO, UTC) and for how long.
        execution: Engine, dtype, device, versions.
        counts: What was made and found.
        swaps, swap_seconds: Changes of the model on a shared device.
        repaired: What the journal had to repair when it was opened.
    """

    started: str
    seconds: float = 0.0
    execution: dict[str, str] = {}
    counts: dict[str, int] = {}
    swaps: int = 0
    swap_seconds: float = 0.0
    repaired: dict[str, int] = {}


class Manifest(Struct, kw_only=True):
    """``run.json``: everything about a run but its scores.

    Attributes:
        status: 'running' also marks a process that was killed.
        spec, spec_hash: What is measured.
        subject: Identity of what is measured; None until the model has been loaded.
        versions: Of tseval, Python and the libraries that numbers depend on.
        plugins: Name, distribution and version of plugins that do not ship with tseval.
        legs: One entry a process.
        failed, skipped: Benchmarks that failed or were skipped, with the reason.
        warnings: Remarks that belong beside the scores.
        judges: Judges that ``tseval judge`` added to those of the specification.
        judge_options: Backend options of their models.
        schema: Of this file.
    """

    spec: RunSpec
    spec_hash: str
    status: Status = "running"
    subject: Subject | None = None
    versions: dict[str, str] = {}
    plugins: list[str] = []
    legs: list[Leg] = []
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    warnings: list[str] = []
    judges: list[str] = []
    judge_options: dict[str, str] = {}
    schema: int = MANIFEST_SCHEMA


class Scorecard(Struct, frozen=True, kw_only=True):
    """``scores.json``: what tables, comparisons, gates and boards read.

    Holds nothing that differs between two runs of the same thing: no times, no paths.

    Attributes:
        subject: Identity of what was measured.
        system_prompt_hash: Of the subject's system prompt, or ''.
        preset: Protocol preset as shown.
        seed: Run seed.
        scores: In table order.
        protocols: By fingerprint, as plain values.
        failed, skipped: Benchmarks without scores, with the reason.
        schema: Of this file.
    """

    subject: Subject
    preset: str
    seed: int
    scores: list[Score]
    protocols: dict[str, dict[str, Any]]
    system_prompt_hash: str = ""
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    schema: int = SCORES_SCHEMA

    def is_probed(self, score: Score) -> bool:
        """Say whether a score is a probe's: its rollouts are not kept as rows of a benchmark."""
        return bool(self.protocols.get(score.fingerprint, {}).get("settings"))


def _require_schema(file: Path, found: int, ours: int) -> None:
    """Raise ConfigError for a file of a newer tseval."""
    if found > ours:
        raise ConfigError(
            f"{file} has schema {found}, this tseval reads {ours}", hint="upgrade tseval"
        )


def _check_times(file: Path, leg: Leg) -> None:
    """Raise ConfigError for a leg that says no time."""
    if not 0 <= leg.seconds <= _LONGEST:
        raise ConfigError(
            f"{file}: a leg took {leg.seconds:g} seconds, which cannot be",
            hint="put the file back as tseval wrote it",
        )
    try:
        began = datetime.fromisoformat(leg.started)
        (began + timedelta(seconds=leg.seconds)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{file}: a leg was started at {leg.started!r}, which is no time",
            hint="put the file back as tseval wrote it",
        ) from None


class RunFolder:
    """A run's folder.

    Attributes:
        path: The folder.
        manifest: What ``run.json`` says; :meth:`save` writes it.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def load(cls, path: Path) -> "RunFolder":
        """Read a run's folder; raise ConfigError if it is none."""
        file = path / "run.json"
        try:
            manifest = read_json(file, Manifest)
        except FileNotFoundError:
            raise ConfigError(
                f"no run in {path} (it has no run.json)", hint="pass a folder that tseval run made"
            ) from None
        _require_schema(file, manifest.schema, MANIFEST_SCHEMA)
        for leg in manifest.legs:
            _check_times(file, leg)
        return cls(path, manifest)

    @property
    def journal(self) -> Path:
        """Folder of the journal."""
        return self.path / "journal"

    @property
    def is_blank(self) -> bool:
        """Whether the journal holds nothing."""
        return not any(segment.stat().st_size for segment in self.journal.glob("*.jsonl"))

    def scorecard(self) -> Scorecard:
        """Read ``scores.json``.

        Raises:
            ConfigError: The run has none yet, or it is broken, or of a newer tseval.
        """
        file = self.path / "scores.json"
        try:
            found = read_json(file, Scorecard)
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} has no scores yet (status: {self.manifest.status})",
                hint="run the same `tseval run` command again: it resumes",
            ) from None
        _require_schema(file, found.schema, SCORES_SCHEMA)
        return found

    def measurements(self) -> list[Measurement]:
        """Read ``measurements.json``: what probes found; empty for a run without probes.

        Raises:
            ConfigError: The file is broken.
        """
        file = self.path / "measurements.json"
        try:
            return read_json(file, list[Measurement], _ANEW)
        except FileNotFoundError:
            return []

    def save(self) -> None:
        """Write ``run.json``."""
        write_whole(self.path / "run.json", msgspec.json.encode(self.manifest))

    def save_scores(self, scorecard: Scorecard) -> None:
        """Write ``scores.json`` with sorted keys, so that equal runs give equal bytes."""
        write_whole(self.path / "scores.json", canonical_json(scorecard))

    def save_measurements(self, found: Iterable[Measurement]) -> None:
        """Put what probes found among what they found before, by probe and judge."""
        new = {(each.probe, each.judge): each for each in found}
        if not new:
            return
        every = {(each.probe, each.judge): each for each in self.measurements()} | new
        order = self.manifest.spec.benchmarks
        listed = sorted(every.values(), key=lambda each: order.index(each.probe))
        write_whole(self.path / "measurements.json", canonical_json(listed))

    def outcomes(self) -> Outcomes:
        """Read ``outcomes.json``: what each row came to; empty where a run has none.

        Raises:
            ConfigError: The file is broken, or of a newer tseval.
        """
        file = self.path / "outcomes.json"
        try:
            found = read_json(file, Outcomes, _ANEW)
        except FileNotFoundError:
            return Outcomes()
        _require_schema(file, found.schema, OUTCOMES_SCHEMA)
        try:
            found.check()
        except ConfigError as error:
            raise ConfigError(
                f"{file} is damaged: {error.message}",
                hint=_ANEW,
            ) from error
        return found

    def save_outcomes(self, book: OutcomeBook, scorecard: Scorecard) -> None:
        """Write what each row came to, for the scores of a scorecard that are means over rows."""
        packed = book.packed(scorecard.scores, self.outcomes())
        if packed.series or (self.path / "outcomes.json").exists():
            write_whole(self.path / "outcomes.json", canonical_json(packed), indent=-1)


def write_whole(path: Path, data: bytes, *, indent: int = 1) -> None:
    """Write a JSON file whole or not at all; raises JournalError."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(data, indent=indent) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise JournalError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free space, then run the same command again: it resumes",
        ) from error


def choose_folder(spec: RunSpec, out: Path | None, *, fresh: bool) -> tuple[RunFolder, str]:
    """Choose the folder of a run: one to resume, or a new one.

    ``out`` may be a run's own folder (new, or of the same specification) or a folder of runs;
    without it runs go to ``runs/``. In a folder of runs, the newest incomplete run of the same
    specification is resumed.

    Args:
        spec: What is to be run.
        out: ``--out``, or None.
        fresh: Start anew even where a run could be resumed.

    Returns:
        The folder, and what was decided, in words.

    Raises:
        ConfigError: ``out`` holds a run of another specification; names the fields.
    """
    if out is not None and (out / "run.json").exists():
        found = RunFolder.load(out)
        if fresh:
            raise ConfigError(
                f"{out} holds a run already", hint="give --fresh another --out, or none"
            )
        if found.manifest.spec_hash != spec.hash and found.is_blank:
            # Somebody's typo: it never got as far as a first answer.
            return RunFolder(out, Manifest(spec=spec, spec_hash=spec.hash)), f"new run in {out}"
        _require_same(found, spec)
        return found, f"resuming {out} ({found.manifest.status})"
    root = out if out is not None else DEFAULT_ROOT
    if not fresh:
        for candidate in _newest_first(root):
            manifest = candidate.manifest
            if manifest.spec_hash == spec.hash and manifest.status != "complete":
                return candidate, f"resuming {candidate.path} ({manifest.status})"
    holds_runs = any(root.glob("*/run.json")) if root.is_dir() else False
    if out is not None and not holds_runs:
        path = out
        # A process that was killed at its very start leaves no more than these.
        begun = {"journal", "run.tmp"}
        if path.is_dir() and any(item.name not in begun for item in path.iterdir()):
            raise ConfigError(
                f"{path} is not empty and holds no run", hint="give --out a new folder"
            )
    else:
        path = root / _name(spec)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror or error}") from error
    return RunFolder(path, Manifest(spec=spec, spec_hash=spec.hash)), f"new run in {path}"


def _newest_first(root: Path) -> list[RunFolder]:
    files = sorted(root.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    found = []
    for file in files:
        try:
            found.append(RunFolder.load(file.parent))
        except ConfigError:
            continue  # another tool's folder, or a newer schema: not ours to resume
    return found


def _require_same(found: RunFolder, spec: RunSpec) -> None:
    theirs, ours = found.manifest.spec.comparable(), spec.comparable()
    fields = differing(theirs, ours)
    if fields:
        shown = "; ".join(
            f"{field}: {_short(theirs, field)} there, {_short(ours, field)} here"
            for field in fields
        )
        raise ConfigError(
            f"{found.path} holds a run of another specification ({shown})",
            hint="give another --out, or the flags of that run",
        )


def _short(values: Any, field: str) -> str:
    """Show the value of a dotted field, cut to a readable length."""
    for name in field.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    text = canonical_json(values).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _name(spec: RunSpec) -> str:
    stamp = datetime.now(tz=UTC).strftime("%Y%m%dT%H%M%S")
    model = Path(spec.model.name).name if spec.model.name else spec.model.backend
    what = "+".join(spec.suites) or "+".join(spec.benchmarks)
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{model}-{what}")[:80].strip("-")
    return f"{stamp}-{plain}-{time.time_ns() % 46656:03x}"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a number may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
