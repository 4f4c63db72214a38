"""Processes of our own for code that must not run in ours: answer checkers, foreign scorers.

Such code may hang in C, need signals in a main thread, change global state, or crash. A worker is a
Python process that imports functions by name and calls them with plain values, one call at a
time; one that overruns its time is killed, with all that it started, and the next call starts
another. A worker whose parent is gone ends by itself, at the latest when its call has overrun.
"""

import asyncio
import contextlib
import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from .errors import RequestFailed, TsevalError

# Longest line in bytes that a worker may answer with.
_LIMIT = 2**30
_START_SECONDS = 120.0
# A worker ends itself so long after its time is up: by then its parent is gone.
_GRACE_SECONDS = 5.0


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
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the working folder may hold anything
                "-m",
                "tseval.workers",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LIMIT,
                # A group of its own: what it started is killed with it, and Ctrl-C is ours.
                start_new_session=True,
            )
        except OSError as error:
            raise RequestFailed(f"cannot start a worker: {error}", kind="engine") from error

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
                line = msgspec.json.encode({**question, "seconds": limit})
                process.stdin.write(line + b"\n")
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
    # The group may outlive its leader; of a leader that is a zombie, macOS forbids it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def serve() -> None:
    """Answer questions on standard input until it ends; the other end is :class:`Workers`."""
    # Whatever a library prints must not look like an answer, nor what it reads be a question.
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    for line in questions:
        question = msgspec.json.decode(line)
        # For when nobody is left to kill it; a thread in C, which a busy interpreter can't stop.
        faulthandler.dump_traceback_later(question["seconds"] + _GRACE_SECONDS, exit=True)
        answers.write(_answer(question) + b"\n")
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def _answer(question: dict[str, Any]) -> bytes:
    try:
        if "import" in question:
            importlib.import_module(question["import"])
            return msgspec.json.encode({"value": None})
        module, _, name = question["call"].partition(":")
        value = getattr(importlib.import_module(module), name)(*question["arguments"])
        return msgspec.json.encode({"value": value})
    except TsevalError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    # A message may hold what no encoder takes.
    return msgspec.json.encode({"error": said.encode(errors="backslashreplace").decode()})


if __name__ == "__main__":
    serve()
