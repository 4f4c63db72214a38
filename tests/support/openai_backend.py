"""The server backend on a scripted server, with waits that are recorded and not waited."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.support.openai_server import OpenAIServer
from tseval.formats import BUILTIN_FAMILIES, ThinkingFormat, choose_format, opening
from tseval.models.openai import OpenAIBackend
from tseval.requests import CompletionRequest, ModelSpec, Subject
from tseval.thinking import Limits
from tseval.types import Message, Sampling

T = TypeVar("T")


@dataclass
class Waits:
    """Takes the place of asyncio.sleep; remembers the seconds."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Started:
    """A started backend with what its start returned."""

    backend: OpenAIBackend
    subject: Subject
    format: ThinkingFormat
    waits: Waits


def spec(server: OpenAIServer, name: str = "toy", **options: Any) -> ModelSpec:
    """A model on a scripted server."""
    said = {key: str(value) for key, value in options.items()}
    return ModelSpec(backend="openai", name=name, base_url=server.url, options=said)


def use(
    server: OpenAIServer, do: Callable[[Started], Awaitable[T]], name: str = "toy", **options: Any
) -> T:
    """Start a backend, forget what the start asked for, do something with it, and close it."""

    async def run() -> T:
        waits = Waits()
        backend = OpenAIBackend(spec(server, name, **options), sleep=waits)
        try:
            subject = await backend.start(lambda phrase, share: None)
            fmt = choose_format(
                BUILTIN_FAMILIES, backend.template(), backend.spec.options.get("format", "")
            )
            server.forget()
            waits.seconds.clear()
            return await do(Started(backend, subject, fmt, waits))
        finally:
            await backend.close()

    return asyncio.run(run())


def look(server: OpenAIServer, name: str = "toy", **options: Any) -> Started:
    """Start a backend and close it again."""

    async def nothing(started: Started) -> Started:
        return started

    return use(server, nothing, name, **options)


def request(
    text: str = "Hello", fmt: ThinkingFormat | None = None, **changes: Any
) -> CompletionRequest:
    """A request as the session makes it, in thinking mode 'default' unless changed."""
    start = opening(fmt or ThinkingFormat(name="none"), changes.pop("mode", "default"))
    values: dict[str, Any] = {
        "messages": (Message(role="user", content=text),),
        "template_kwargs": start.template_kwargs,
        "prefix": (start.prefill,) if start.prefill else (),
        "format": start.format,
        "opened": start.opened,
        "limits": Limits(thinking=100 if start.format.thinks else 0, answer=50),
        "sampling": Sampling(),
        "seed": 1,
    }
    return CompletionRequest(**values | changes)
