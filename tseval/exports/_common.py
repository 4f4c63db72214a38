"""What exporters share: which runs they take, whose they are, and files whole or absent."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tseval.errors import ConfigError, TsevalError
from tseval.loaded import Run, load_run

if TYPE_CHECKING:
    from tseval.cards import Source
    from tseval.plugins import Registry
    from tseval.types import Score

# Names of files and folders on every system; anything else becomes an underscore.
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 80


class Times(NamedTuple):
    """When a run was made.

    Attributes:
        started: Start of its first leg.
        ended: End of its last.
    """

    started: datetime
    ended: datetime


def finished_run(path: Path) -> Run:
    """Open a run whose numbers are final; for what is published of it.

    Raises:
        ConfigError: The folder holds no run, the run is not finished, or has no scores.
    """
    run = load_run(path)
    if run.status not in ("complete", "incomplete"):
        raise ConfigError(
            f"{path} is not finished (status: {run.status}): what it says may still change",
            hint="run the same `tseval run` command again: it resumes",
        )
    if not run.scores:
        raise ConfigError(
            f"{path} has no scores", hint="tseval show says which benchmarks failed, and why"
        )
    return run


def times_of(run: Run) -> Times:
    """Say when a run was started and when it ended; the epoch where it does not say."""
    legs = run.manifest.legs
    if not legs:
        return Times(datetime.fromtimestamp(0, tz=UTC), datetime.fromtimestamp(0, tz=UTC))
    ended = _instant(legs[-1].started) + timedelta(seconds=legs[-1].seconds)
    return Times(_instant(legs[0].started), ended)


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def version_of(run: Run) -> str:
    """Return the version of the tseval that measured, which may not be the one that exports."""
    return run.manifest.versions.get("tseval", "unknown")


def remarks_of(run: Run) -> list[str]:
    """Say what a reader of any number of the run has to know, one sentence each."""
    found = []
    if run.status != "complete":
        found.append(f"the run is {run.status}: benchmarks or rows of it failed")
    if any(score.partial for score in run.scores):
        found.append("numbers marked 'partial' are of a subset of the benchmark's rows")
    if not run.subject.verified:
        found.append("the model's identity rests on the server's word (unverified)")
    found += [f"{name} failed" for name in run.scorecard.failed]
    found += [f"{name} was skipped" for name in run.scorecard.skipped]
    return found


def plain_name(text: str) -> str:
    """Make a text the name of a file or a folder: never empty, hidden, or a way out of it."""
    return _ODD.sub("_", text)[:_LONGEST].strip("._") or "unnamed"


def source_of(run: Run, score: "Score", registry: "Registry | None") -> "Source | None":
    """Find the hub dataset that a number was measured on.

    Args:
        run: The run.
        score: The number.
        registry: Where cards of benchmarks are.

    Returns:
        None unless the rows that were read are the ones that the benchmark's card promises: a
        local file may have held any.
    """
    read = run.protocol_of(score).get("content_hash")
    if registry is None or score.benchmark not in registry.benchmarks:
        return None
    card = getattr(registry.benchmarks[score.benchmark], "card", None)
    source: Source | None = getattr(card, "source", None)
    if source is None or not source.hub or not read:
        return None
    return source if getattr(card, "content_hash", "") == read else None


def known_registry() -> "Registry | None":
    """Load the plugins; None where one of them is broken, for no number depends on it here."""
    from tseval.plugins import load_registry

    with contextlib.suppress(TsevalError):
        return load_registry()
    return None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write to; it becomes the file if nothing fails, and is removed if it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays: some writers go by it.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
