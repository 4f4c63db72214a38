"""Sessions on scripted backends, made by hand, with a watchdog."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from tseval.arrays import ArrayStore
from tseval.formats import choose_format
from tseval.journal import Journal
from tseval.judging import Seat
from tseval.plugins import Registry, load_registry
from tseval.protocol import fingerprint
from tseval.requests import ModelSpec
from tseval.roles import Backend, Judge, JudgeCard, JudgeCase, JudgeModel, Question
from tseval.rollouts import Model
from tseval.scheduler import Scheduler
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Message, Verdict

T = TypeVar("T")

SPEC = RunSpec(model=ModelSpec(backend="scripted"), benchmarks=())


@cache
def registry() -> Registry:
    """The built-in plugins, loaded once."""
    return load_registry()


def finish(work: Awaitable[T], seconds: float = 300) -> T:
    """Run to the end; a deadlock fails the test instead of hanging it, however slow the machine."""

    async def watched() -> T:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(watched())


class AskingJudge:
    """A judge that asks its model whether a text refuses; without a model it looks for 'sorry'."""

    def __init__(self, name: str = "asking", **identity: str) -> None:
        self.card = JudgeCard(name=name, version="1", labels=("refusal",), identity=identity)
        self.cases: list[JudgeCase] = []

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        self.cases.append(case)
        said = case.text
        if model is not None:
            asked = Message(role="user", content=f"{self.card.name}: {case.prompt}: {case.text}")
            said = (await model.reply(Question(messages=(asked,)), tokens=64)).answer or ""
        return Verdict(refusal="sorry" in said, raw=said)


async def model(name: str, backend: Backend, *, system_prompt: str = "") -> Model:
    """Start a backend and put a model around it, as the runner does."""
    subject = await backend.start(lambda phrase, share: None)
    return Model(
        name=name,
        backend=backend,
        subject=subject,
        format=choose_format(registry().formats.values(), backend.template(), ""),
        complete=backend.complete,
        identity=fingerprint([subject.identity, system_prompt]),
        system_prompt=system_prompt,
    )


@contextlib.asynccontextmanager
async def session_on(
    folder: Path,
    target: Backend | None = None,
    judges: dict[str, tuple[Judge, Backend | None]] | None = None,
    *,
    bound: int | None = None,
    spec: RunSpec = SPEC,
    **more: Any,
) -> AsyncIterator[Session]:
    """Open a session in a folder; the models of judges may share the target's device.

    Args:
        folder: The run's folder; opened again, it resumes.
        target: The model under test.
        judges: Judges by specification, each with its model's backend, or None.
        bound: Requests at once a model.
        spec: What is run.
        more: For the scheduler.
    """
    target = target or ScriptedBackend()
    scheduler = Scheduler(bound, **more)
    models: dict[str, Model] = {}
    seats: dict[str, Seat] = {}
    for name, (judge, backend) in (judges or {}).items():
        role = f"judge {name}" if backend is not None else ""
        seats[name] = Seat(label=name, judge=judge, role=role)
        if backend is not None:
            models[role] = await model(role, backend)
            shared = set(backend.devices) & set(target.devices) - {"cpu"}
            scheduler.add(role, backend, resident=not shared)
            if shared:
                await backend.close()
    models["target"] = await model("target", target, system_prompt=spec.system_prompt)
    scheduler.add("target", target, resident=True)
    journal = Journal.open(folder / "journal")
    session = Session(
        spec=spec,
        journal=journal,
        registry=registry(),
        models=models,
        judges=seats,
        scheduler=scheduler,
        arrays=ArrayStore(folder / "arrays", gather_seconds=0.01),
    )
    try:
        yield session
    finally:
        await session.close()
        journal.close()
