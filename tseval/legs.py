"""One process's work on a run: the journal held, models started and freed, the leg written down."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Protocol

from .errors import JournalError
from .journal import Journal
from .loading import Models
from .plugins import Registry
from .runfolder import Leg, RunFolder, versions
from .session import Session

_TICK_SECONDS = 0.25


class Display(Protocol):
    """What shows progress: told of phases, ticks and remarks; never asked anything."""

    def phase(self, phrase: str, share: float | None) -> None:
        """Say what is being done, and how far it is in [0, 1], if known."""
        ...

    def tick(self, session: Session) -> None:
        """Show how far the session is; called four times a second."""
        ...

    def remark(self, message: str) -> None:
        """Say something that stays."""
        ...


class Work:
    """What a leg has at hand.

    Attributes:
        folder: The run.
        journal: Its journal, held for writing.
        models: Starts models; they are closed with the leg.
        leg: What is written down of it.
        session: The session, once there is one; it is closed with the leg.
    """

    def __init__(self, folder: RunFolder, journal: Journal, models: Models) -> None:
        self.folder = folder
        self.journal = journal
        self.models = models
        self.session: Session | None = None
        self.leg = Leg(
            started=datetime.now(tz=UTC).isoformat(timespec="seconds"),
            repaired=dict(journal.repaired),
        )


@contextlib.asynccontextmanager
async def open_leg(
    folder: RunFolder, registry: Registry, display: Display, *, generates: bool = True
) -> AsyncIterator[Work]:
    """Begin a leg of a run, and end it properly however it ends.

    Args:
        folder: The run.
        registry: Everything that is registered.
        display: Shows progress.
        generates: Whether the model under test is asked. Otherwise the manifest keeps the versions
            that the rollouts were made with, and the leg has its own.

    Raises:
        JournalError: Another process works on the run, or its folder cannot be written.
    """
    journal = Journal.open(folder.journal)
    work = Work(folder, journal, Models(registry, display.phase))
    manifest, leg, started = folder.manifest, work.leg, time.monotonic()
    manifest.legs.append(leg)
    loaded = [f"{o.plugin} ({o.distribution} {o.version})" for o in registry.origins()]
    if generates:
        manifest.versions, manifest.plugins = versions(), loaded
    else:
        leg.execution = versions()
        manifest.plugins = list(dict.fromkeys([*manifest.plugins, *loaded]))
    try:
        folder.save()
        yield work
    finally:
        leg.seconds = round(time.monotonic() - started, 3)
        leg.swaps = work.models.scheduler.swaps
        leg.swap_seconds = round(work.models.scheduler.swap_seconds, 3)
        try:
            if work.session is not None:
                leg.counts = dict(sorted(work.session.counts.items()))
                await work.session.close()
            await work.models.close()
        finally:
            # While the lock is held: another process may be waiting to resume this run.
            with contextlib.suppress(JournalError):
                folder.save()
            journal.close()


@contextlib.asynccontextmanager
async def watched(session: Session, display: Display) -> AsyncIterator[None]:
    """Show progress, and force the journal to disk, while the body runs."""

    async def watch() -> None:
        while True:
            display.tick(session)
            with contextlib.suppress(JournalError):  # the next record says so, to who can act
                session.journal.sync()
            await asyncio.sleep(_TICK_SECONDS)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        display.tick(session)
