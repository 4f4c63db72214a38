"""Worker processes: their time, their end, their protocol, and what they leave behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.sessions import finish
from tseval.errors import RequestFailed
from tseval.workers import Workers

# The functions that the workers are asked for; a file of its own, since workers import by name.
FUNCTIONS = """
import os, subprocess, sys, time

def add(a, b): return a + b
def echo(value): return value
def process(): return os.getpid()
def path(): return sys.path
def fail(): raise ValueError("by \\ud800 design")
def crash(): os.kill(os.getpid(), 9)
def leave(): sys.exit(0)
def hang(): time.sleep(3600)
def sleep(seconds): time.sleep(seconds); return os.getpid()
def nothing(): return None
def strange(): return object()
def half(): return "\\ud800"
def noisy():
    print('{"value": "forged"}', flush=True)
    os.write(1, b'{"value": "forged"}\\n')
    subprocess.run([sys.executable, "-c", "print('{}')"], check=True)
    sys.stderr.write("x" * 200_000)
    return "said"
def asks():
    return [sys.stdin.read(), os.read(0, 10).decode()]
def holds_the_interpreter():
    import re
    re.match(r"(a+)+$", "a" * 64 + "b")
def starts_another(file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with open(file, "w") as written:
        written.write(str(child.pid))
    time.sleep(3600)
def alarmed():
    import signal
    signal.signal(signal.SIGALRM, lambda number, frame: (_ for _ in ()).throw(TimeoutError("rang")))
    signal.alarm(1)
    time.sleep(30)
"""
F = "worker_functions"
# Of calls that end by themselves: generous, for machines that are busy.
LIMIT = 120


@pytest.fixture(autouse=True)
def _functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{F}.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed, but not yet waited for by whoever inherited it.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until(condition: Callable[[], bool], seconds: float = LIMIT) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def use(work: Callable[[Workers], Any], count: int = 1) -> Any:
    async def main() -> Any:
        workers = Workers(count)
        try:
            return await work(workers)
        finally:
            await workers.close()

    return finish(main())


def call(name: str, *arguments: Any, seconds: float = LIMIT) -> Any:
    return use(lambda workers: workers.call(f"{F}:{name}", arguments, seconds=seconds))


def test_a_call_returns_what_the_function_returned() -> None:
    assert call("add", 2, 3) == 5
    assert call("nothing") is None


@pytest.mark.parametrize(
    "value",
    [
        "ответ 回答 الجواب \U0001f9ee \x00\r\n\u2028",
        "x" * 5_000_000,
        [None, True, -1, 0.1, {"a": [[]]}],
        {"line\nfeed": "\n" * 10_000},
    ],
)
def test_plain_values_come_back_as_they_went(value: Any) -> None:
    assert call("echo", value) == value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fail", r"ValueError: by \\ud800 design"),
        ("strange", "TypeError"),
        ("half", "UnicodeEncodeError"),
        ("absent", "AttributeError"),
        ("crash", "died"),
        ("leave", "died"),
    ],
)
def test_what_goes_wrong_harms_one_call_only(name: str, said: str) -> None:
    async def work(workers: Workers) -> None:
        for _ in range(2):
            with pytest.raises(RequestFailed, match=said):
                await workers.call(f"{F}:{name}", (), seconds=LIMIT)
            assert await workers.call(f"{F}:add", (1, 1), seconds=LIMIT) == 2

    use(work)


def test_an_unknown_module_is_a_failed_call() -> None:
    with pytest.raises(RequestFailed, match="ModuleNotFoundError"):
        use(lambda workers: workers.call("no_such_module:check", (), seconds=LIMIT))


def test_an_exception_keeps_the_process_and_a_crash_replaces_it() -> None:
    async def work(workers: Workers) -> list[int]:
        found = [await workers.call(f"{F}:process", (), seconds=LIMIT)]
        for name in ("fail", "crash"):
            with pytest.raises(RequestFailed):
                await workers.call(f"{F}:{name}", (), seconds=LIMIT)
            found.append(await workers.call(f"{F}:process", (), seconds=LIMIT))
        return found

    first, second, third = use(work)
    assert first == second != third


@pytest.mark.parametrize("name", ["hang", "holds_the_interpreter"])
def test_a_time_limit_ends_the_one_call_and_its_process(name: str) -> None:
    async def work(workers: Workers) -> None:
        pid = await workers.call(f"{F}:process", (), seconds=LIMIT)
        started = time.monotonic()
        slow = asyncio.create_task(workers.call(f"{F}:{name}", (), seconds=0.5))
        await asyncio.sleep(0.1)
        assert await workers.call(f"{F}:add", (1, 2), seconds=LIMIT) == 3
        with pytest.raises(RequestFailed, match="ran longer than") as caught:
            await slow
        assert caught.value.kind == "timeout"
        assert time.monotonic() - started < LIMIT
        assert not is_alive(pid)
        assert await workers.call(f"{F}:add", (1, 2), seconds=LIMIT) == 3

    use(work, 2)


def test_what_a_function_prints_or_reads_is_no_part_of_the_protocol() -> None:
    async def work(workers: Workers) -> None:
        assert await workers.call(f"{F}:noisy", (), seconds=LIMIT) == "said"
        assert await workers.call(f"{F}:asks", (), seconds=LIMIT) == ["", ""]
        assert await workers.call(f"{F}:add", (1, 2), seconds=LIMIT) == 3

    use(work)


def test_a_function_may_use_signals() -> None:
    with pytest.raises(RequestFailed, match="TimeoutError: rang"):
        call("alarmed")


def test_the_working_folder_is_not_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit('the wrong json')")
    (folder / "msgspec.py").write_text("raise SystemExit('the wrong msgspec')")
    monkeypatch.chdir(folder)
    found = call("path")
    assert "" not in found
    assert str(folder) not in found


def test_a_cancelled_call_leaves_no_process_and_no_answer_for_the_next(tmp_path: Path) -> None:
    async def work(workers: Workers) -> None:
        pid = await workers.call(f"{F}:process", (), seconds=LIMIT)
        task = asyncio.create_task(workers.call(f"{F}:sleep", (20,), seconds=LIMIT))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_alive(pid)
        assert await workers.call(f"{F}:echo", ("mine",), seconds=LIMIT) == "mine"

    use(work)


@pytest.mark.parametrize("how", ["overrun", "cancel", "close"])
def test_what_a_function_started_ends_with_it(tmp_path: Path, how: str) -> None:
    file = tmp_path / "pid"

    async def main() -> None:
        workers = Workers(1)
        limit = 4 if how == "overrun" else LIMIT
        work = workers.call(f"{F}:starts_another", (str(file),), seconds=limit)
        task = asyncio.create_task(work)
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.02)
        if how == "cancel":
            task.cancel()
        elif how == "close":
            await workers.close()
        with pytest.raises((RequestFailed, asyncio.CancelledError)):
            await task
        await workers.close()

    finish(main())
    assert wait_until(lambda: not is_alive(int(file.read_text())))


def test_closing_ends_idle_and_busy_workers() -> None:
    async def main() -> list[int]:
        workers = Workers(3)
        pids = await asyncio.gather(
            *(workers.call(f"{F}:sleep", (0.3,), seconds=LIMIT) for _ in range(3))
        )
        busy = asyncio.create_task(workers.call(f"{F}:hang", (), seconds=60))
        await asyncio.sleep(0.3)
        await workers.close()
        with pytest.raises(RequestFailed, match="died"):
            await busy
        return pids

    pids = finish(main())
    assert len(set(pids)) == 3
    assert not any(map(is_alive, pids))


def test_two_hundred_calls_at_once_get_each_its_own_answer() -> None:
    async def work(workers: Workers) -> tuple[list[Any], set[int]]:
        async def one(number: int) -> Any:
            if number % 50 == 7:
                with pytest.raises(RequestFailed):
                    await workers.call(f"{F}:crash", (), seconds=LIMIT)
                return number
            return await workers.call(f"{F}:add", (number, 0), seconds=LIMIT)

        answers = await asyncio.gather(*map(one, range(200)))
        pids = await asyncio.gather(
            *(workers.call(f"{F}:process", (), seconds=LIMIT) for _ in range(20))
        )
        return answers, set(pids)

    answers, pids = use(work, 3)
    assert answers == list(range(200))
    assert len(pids) <= 3


PARENT = """
import asyncio, sys
from tseval.workers import Workers

async def main():
    workers = Workers(2)
    idle = await workers.call("worker_functions:process", (), seconds=120)
    other = asyncio.create_task(workers.call("worker_functions:sleep", (0.3,), seconds=120))
    busy = await workers.call("worker_functions:process", (), seconds=120)
    idle = await other
    task = asyncio.create_task(workers.call(sys.argv[1], (), seconds=2))
    await asyncio.sleep(0.5)
    print(idle, busy, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["hang", "holds_the_interpreter"])
def test_a_killed_parent_leaves_no_orphan(name: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{F}:{name}"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert len(pids) == 2
    # The idle one at once; the busy one when its call has overrun, though nobody is left to see.
    assert wait_until(lambda: sum(map(is_alive, pids)) <= 1)
    assert wait_until(lambda: not any(map(is_alive, pids)))
