"""How fast the engine itself is, and what a prompt costs in memory.

The scripted backend answers at once, so everything that is measured is tseval's own: rows, keys,
queue, journal, judge and counts.

    python bench/scale_scripted.py                      both tables
    python bench/scale_scripted.py --data-dir DIR       where the mirror of the benchmarks is
    python bench/scale_scripted.py --prompts 20000 ...  other sizes of the synthetic benchmark
    python bench/scale_scripted.py --worker 5000        one measurement, as JSON
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tseval.cards import BenchmarkCard, Columns, Source
from tseval.hookspecs import hookimpl
from tseval.plugins import Registry, load_registry
from tseval.prompt_benchmark import PromptBenchmark
from tseval.requests import ModelSpec
from tseval.runner import Outcome, run
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import Script, ScriptedBackend, mixed, thinking

MIRROR = Path(__file__).parent.parent.parent / "shared" / "data"
SIZES = (20_000, 100_000)


class Quiet:
    """A display that shows nothing."""

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Session) -> None: ...

    def remark(self, message: str) -> None: ...


class Synthetic:
    """A plugin with one benchmark of as many prompts as a file holds."""

    def __init__(self, count: int) -> None:
        columns = Columns(id="id")
        self.card = BenchmarkCard(
            name="synthetic",
            title="Synthetic",
            kind="benign",
            summary="numbered questions",
            metrics=("orr",),
            source=Source(hub="none/none", columns=columns),
            local=(columns,),
            expected_rows=count,
            licence="none",
            paper="none",
        )

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(PromptBenchmark(self.card))


def rss() -> int:
    """Resident memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most resident memory while something runs, and how much that was above the start."""

    def __enter__(self) -> "Peak":
        self.start = self.most = rss()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, rss())


def measure(spec: RunSpec, registry: Registry, folder: Path, script: Script) -> dict[str, float]:
    """Run a specification on the scripted backend, once anew and once from its journal."""
    found: dict[str, float] = {}
    for name in ("seconds", "resume_seconds"):
        started = time.perf_counter()
        backend = ScriptedBackend(script)
        with Peak() as peak:
            outcome = asyncio.run(run(spec, registry, Quiet(), out=folder, backend=backend))
        found[name] = time.perf_counter() - started
        if name == "seconds":
            found |= {"added_bytes": peak.most - peak.start, "rollouts": _rollouts(outcome)}
        elif backend.calls:
            raise SystemExit(f"{backend.calls} rollouts were made again")
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["journal_bytes"] = sum(p.stat().st_size for p in (folder / "journal").glob("*.jsonl"))
    return found


def _rollouts(outcome: Outcome) -> int:
    if outcome.scorecard.failed:
        raise SystemExit(f"failed: {outcome.scorecard.failed}")
    return outcome.folder.manifest.legs[-1].counts["generation.made"]


def synthetic(count: int) -> dict[str, float]:
    """Measure a benchmark of numbered questions of about 100 characters, answered without ado."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "synthetic.jsonl").open("w") as file:
            for number in range(count):
                text = f"Question {number:06d}: what would a careful person say about matter "
                file.write(
                    json.dumps({"id": f"q-{number}", "prompt": text + f"{number * 7919:030d}"})
                )
                file.write("\n")
        spec = RunSpec(
            model=ModelSpec(backend="scripted"),
            benchmarks=("synthetic",),
            data_dirs=(str(folder),),
        )
        return measure(spec, load_registry(extra=[Synthetic(count)]), folder / "run", mixed)


def mirror(folder: Path) -> dict[str, float]:
    """Measure every benchmark whose rows a mirror holds, on a script that thinks."""
    registry = load_registry()
    names = {path.stem for path in folder.rglob("*.*")}
    spec = RunSpec(
        model=ModelSpec(backend="scripted"),
        benchmarks=tuple(name for name in registry.benchmarks if name in names),
        data_dirs=(str(folder),),
    )
    with tempfile.TemporaryDirectory() as name:
        return measure(spec, registry, Path(name) / "run", thinking)


def in_a_process(*arguments: str) -> dict[str, float]:
    """Measure in a process of its own, so that memory is not another measurement's."""
    command = [sys.executable, __file__, *arguments]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return found


def row(name: str, found: dict[str, float]) -> str:
    """One line of the table."""
    each = found["rollouts"]
    return (
        f"{name:<20} {each:8.0f} {found['seconds']:8.1f} {each / found['seconds']:8.0f}"
        f" {found['resume_seconds']:8.1f} {found['peak_bytes'] / 2**20:9.0f}"
        f" {found['added_bytes'] / 2**20:9.0f} {found['journal_bytes'] / 2**20:9.0f}"
    )


def main() -> None:
    """Print one row a measurement, and what a prompt costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("TSEVAL_TEST_DATA", MIRROR))
    parser.add_argument("--prompts", type=int, nargs=2, default=SIZES)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mirror-worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(synthetic(given.worker)))
        return
    if given.mirror_worker:
        print(json.dumps(mirror(given.mirror_worker)))
        return
    print(
        f"{'prompts':<20} {'rollouts':>8} {'seconds':>8} {'a second':>8} {'resumed':>8}"
        f" {'peak MiB':>9} {'added MiB':>9} {'disk MiB':>9}"
    )
    folder = Path(given.data_dir)
    if folder.is_dir():
        print(row("the whole mirror", in_a_process("--mirror-worker", str(folder))), flush=True)
    else:
        print(f"{'the whole mirror':<20} no mirror at {folder}: pass --data-dir")
    sizes = {}
    for count in given.prompts:
        sizes[count] = in_a_process("--worker", str(count))
        print(row(f"synthetic {count:,}", sizes[count]), flush=True)
    few, many = sizes
    added = sizes[many]["added_bytes"] - sizes[few]["added_bytes"]
    print(f"\na further prompt adds {added / (many - few):.0f} bytes of memory at the peak")


if __name__ == "__main__":
    main()
