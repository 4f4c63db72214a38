"""Processes of our own for code that must not run in ours: answer checkers, foreign scorers.

Such code may hang in C, need signals in a main thread, change global state, or crash. A worker is a
Python process that imports functions by name and calls them with plain values, one call at a
time; one that overruns its time is killed, and the next call starts another.
"""

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from .errors import RequestFailed, TsevalError

# Longest line in bytes that a worker may answer with.
_LIMIT = 2**30
_START_SECONDS = 120.0


class Workers:
    """A few worker processes, started when they are first needed.

    Args:
        count: Most processes; None is the number of cores, at most 4.
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count or min(4, os.cpu_count() or 1)
        self._slots = asyncio.Semaphore(self._count)
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()

    async def call(self, function: str, arguments: Sequence[Any], *, seconds: float) -> Any:
        """Call a function in a worker.

        Args:
            function: 'package.module:name'.
            arguments: Plain values (what JSON holds).
            seconds: Time after which the worker is killed; its start is not part of it.

        Returns:
            What the function returned, as plain values.

        Raises:
            RequestFailed: It raised (the message says what), ran out of time, or its process
                died. Other calls are not affected.
        """
        async with self._slots:
            process = await self._take()
            self._busy.add(process)
            try:
                answer = await self._ask(process, function, arguments, seconds)
            except BaseException:
                # Also when cancelled: what it would still answer must not meet the next question.
                await _kill(process)
                raise
            finally:
                self._busy.discard(process)
            self._idle.append(process)
        if "error" in answer:
            raise RequestFailed(f"{function}: {answer['error']}", kind="engine")
        return answer["value"]

    async def close(self) -> None:
        """End every process."""
        processes, self._idle = [*self._idle, *self._busy], []
        await asyncio.gather(*(_kill(process) for process in processes))

    async def _take(self) -> asyncio.subprocess.Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working folder may hold anything
            "-m",
            "tseval.workers",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LIMIT,
        )

    async def _ask(
        self,
        process: asyncio.subprocess.Process,
        function: str,
        arguments: Sequence[Any],
        seconds: float,
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        module = function.partition(":")[0]
        try:
            for question, limit in (
                ({"import": module}, _START_SECONDS),
                ({"call": function, "arguments": list(arguments)}, seconds),
            ):
                process.stdin.write(msgspec.json.encode(question) + b"\n")
                await process.stdin.drain()
                async with asyncio.timeout(limit):
                    line = await process.stdout.readline()
                if not line:
                    raise ConnectionError
                answer: dict[str, Any] = msgspec.json.decode(line)
                if "error" in answer:
                    break
        except TimeoutError:
            raise RequestFailed(
                f"{function} ran longer than {limit:.0f} s and was stopped", kind="timeout"
            ) from None
        except ConnectionError:
            raise RequestFailed(f"the process of {function} died", kind="engine") from None
        return answer


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def serve() -> None:
    """Answer questions on standard input until it ends; the other end is :class:`Workers`."""
    # Whatever a library prints must not look like an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(_answer(msgspec.json.decode(line))) + b"\n")
        answers.flush()


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        if "import" in question:
            importlib.import_module(question["import"])
            return {"value": None}
        module, _, name = question["call"].partition(":")
        value = getattr(importlib.import_module(module), name)(*question["arguments"])
        return {"value": msgspec.to_builtins(value)}
    except TsevalError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    serve()
