"""What reading, scoring, comparing and reporting a run costs, up to a million verdicts.

Two runs of each size are made by the engine itself, on a script that answers at once: three
benchmarks, 4 rollouts a prompt, a trace and an answer of about 1,700 characters together with
their token ids, three judges, some answers empty and some verdicts unreadable. What making them
takes is stated apart. Every command then runs in a process of its own.

    python bench/million_verdicts.py                              10,000 and 100,000
    python bench/million_verdicts.py --verdicts 10000 1000000     other sizes
    python bench/million_verdicts.py --keep DIR                   make runs once, and measure again
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tseval.cards import BenchmarkCard, Columns, Source
from tseval.hookspecs import hookimpl
from tseval.journal import Journal
from tseval.loaded import load_run
from tseval.plugins import Registry, load_registry
from tseval.prompt_benchmark import PromptBenchmark
from tseval.requests import Completion, CompletionRequest, ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.scripts import TAGS_VIEW, Call
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Message, Verdict

SIZES = (10_000, 100_000)
ROLLOUTS = 4
JUDGES = ("words", "guard", "grader")
TSEVAL = Path(sys.executable).parent / "tseval"
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")
# Token ids are places in this list, as those of a model with a vocabulary of words.
VOCABULARY = (
    "<think>\n",
    "\n</think>\n\n",
    "I'm sorry, but I can't help with that.",
    "Sure, here is what you asked for.",
    *(f" {a}{b}{c}" for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES),
)
WORDS = range(4, len(VOCABULARY))
POLICY = """alpha = 0.05
[[metric]]
metric = "asr_nonrefusal"
judge = "words"
margin = 0.03
[[metric]]
metric = "asr_harmful"
margin = 0.03
[[metric]]
metric = "orr"
judge = "words"
margin = 0.03
"""


class Writer(ScriptedBackend):
    """A model that writes words without meaning, a trace and an answer, and refuses some prompts.

    Args:
        name: Its name; with the seed of a request it decides what is written.
        refuses: Share of answers that refuse.
    """

    def __init__(self, name: str, refuses: float) -> None:
        super().__init__(nothing, name=name, view=TAGS_VIEW)
        self._refuses = refuses

    def prompt_tokens(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> int | None:
        """See ``Backend``: about a token for five characters."""
        return sum(len(message.content) // 5 for message in messages)

    def decode(self, ids: tuple[int, ...]) -> str:
        """See ``Backend``."""
        return "".join(map(VOCABULARY.__getitem__, ids))

    async def complete(self, request: CompletionRequest) -> Completion:
        """See ``Backend``; nothing is waited for."""
        self.calls += 1
        rng = random.Random(f"{self.spec.name} {request.seed}")
        trace = rng.choices(WORDS, k=rng.randint(60, 340))
        kind = rng.random()
        answer = []
        if kind > 0.01:
            begun = 2 if kind < self._refuses else 3
            answer = [begun, *rng.choices(WORDS, k=rng.randint(5, 195))]
        ids = (0, *trace, 1, *answer)
        return Completion(text=self.decode(ids), ids=ids, prompt_tokens=60, tokens=len(ids))


def nothing(call: Call) -> str:
    """Stand in for the script that a scripted backend is given."""
    return ""


class Coin:
    """A judge that gives one label by chance, in a few words, and cannot be read now and then."""

    def __init__(self, name: str, label: Any, share: float) -> None:
        self.card = JudgeCard(name=name, version="1", labels=(label,), asked=())
        self._share = share

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        """See ``Judge``."""
        rng = random.Random(f"{self.card.name} {case.text[:200]}")
        said = rng.random()
        if said > 0.99:
            return Verdict(reason="unparsed", raw="As an impartial reader I find this hard to say")
        yes = said < self._share
        label: dict[str, Any] = {self.card.labels[0]: yes}
        if self.card.labels[0] == "refusal":
            label["degree"] = ("full" if said < self._share / 2 else "partial") if yes else "none"
        raw = f"{'yes' if yes else 'no'}\nprobability {said:.6f}"
        return Verdict(raw=raw, details={"probability": f"{said:.6f}"}, **label)


class Words:
    """A judge that takes an answer which begins with regret for a refusal."""

    card = JudgeCard(name="words", version="1", labels=("refusal",), asked=())

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        """See ``Judge``."""
        refusal = case.text.startswith("I'm sorry")
        return Verdict(refusal=refusal, degree="full" if refusal else "none", raw="its beginning")


class Made:
    """A plugin with the benchmarks and the judges."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.cards = [_card(name, size) for name, size in sizes.items()]

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        for card in self.cards:
            register(PromptBenchmark(card))

    @hookimpl
    def register_judges(self, register: Any) -> None:
        register(Words())
        register(Coin("guard", "harmful", 0.2))
        register(Coin("grader", "refusal", 0.35))


def _card(name: str, size: int) -> BenchmarkCard:
    mixed = name == "both"
    columns = Columns(id="id", label="label" if mixed else "", group="group" if mixed else "")
    return BenchmarkCard(
        name=name,
        title=name.title(),
        kind="mixed" if mixed else "harmful" if name == "attacks" else "benign",
        summary="prompts made up for timings",
        metrics=("asr_nonrefusal", "asr_harmful", "orr")
        if mixed
        else ("asr_nonrefusal", "asr_harmful")
        if name == "attacks"
        else ("orr",),
        source=Source(hub="none/none", columns=columns),
        local=(columns,),
        labels={"bad": "harmful", "good": "benign"} if mixed else {},
        groups=("plain", "story") if mixed else (),
        expected_rows=size,
        licence="none",
        paper="none",
    )


class Quiet:
    """A display that shows nothing."""

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Session) -> None: ...

    def remark(self, message: str) -> None: ...


def sizes_of(verdicts: int) -> dict[str, int]:
    """Prompts of each benchmark, for about so many verdicts."""
    prompts = math.ceil(verdicts / ROLLOUTS / len(JUDGES))
    attacks, harmless = prompts * 2 // 5, prompts * 3 // 10
    return {"attacks": attacks, "harmless": harmless, "both": prompts - attacks - harmless}


def engine(folder: Path, verdicts: int, name: str) -> tuple[RunSpec, Registry, Writer]:
    """What a run of that size is made with."""
    sizes = sizes_of(verdicts)
    spec = RunSpec(
        model=ModelSpec(backend="scripted", name=name),
        benchmarks=tuple(sizes),
        judges=JUDGES,
        rollouts=ROLLOUTS,
        data_dirs=(str(folder / "data"),),
    )
    writer = Writer(name, 0.4 if name == "before" else 0.42)
    return spec, load_registry(extra=[Made(sizes)]), writer


def write_prompts(folder: Path, verdicts: int) -> None:
    """Write the prompts of the benchmarks, of 60 to 400 characters each."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    for name, size in sizes_of(verdicts).items():
        with (folder / f"{name}.jsonl").open("w") as file:
            for number in range(size):
                words = rng.choices(VOCABULARY[4:], k=rng.randint(7, 54))
                row = {"id": f"{name}-{number}", "prompt": f"Matter {number}:{''.join(words)}"}
                if name == "both":
                    row["label"] = "bad" if number % 2 else "good"
                    row["group"] = "story" if number % 3 else "plain"
                file.write(json.dumps(row) + "\n")


def make(folder: Path, verdicts: int, name: str) -> None:
    """Make one run; what is there already is kept, and then only scored."""
    spec, registry, writer = engine(folder, verdicts, name)
    asyncio.run(run(spec, registry, Quiet(), out=folder / name, backend=writer))


def load(folder: Path) -> None:
    """Open a run and its journal, and read everything beside it."""
    found = RunFolder.load(folder)
    found.scorecard(), found.outcomes()
    Journal.open(found.journal, write=False).close()


def read(folder: Path) -> None:
    """Read every verdict of a run."""
    for _ in load_run(folder).verdicts():
        pass


def score(folder: Path, verdicts: int) -> None:
    """Make scores.json anew from the journal, by the command that made the run."""
    spec, registry, writer = engine(folder, verdicts, "before")
    path = folder / "before" / "scores.json"
    known = path.read_bytes()
    path.unlink()
    asyncio.run(run(spec, registry, Quiet(), out=folder / "before", backend=writer))
    if writer.calls or path.read_bytes() != known:
        raise SystemExit(f"{writer.calls} rollouts were made again, or a score has changed")


class Cost(NamedTuple):
    """What a process took: wall and CPU seconds, and its most resident memory in bytes."""

    wall: float
    cpu: float
    memory: float


def cost(command: list[str | Path]) -> Cost:
    """Run a command in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        # A gate that says no has done its work.
        if process.returncode not in (0, 3):
            said.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))}: {said.read().decode()}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def commands(folder: Path, verdicts: int) -> dict[str, list[str | Path]]:
    """What is measured, by name."""
    before, after = folder / "before", folder / "after"
    own: list[str | Path] = [sys.executable, __file__, "--folder", folder, "--worker"]
    gate = ("--baseline", before, "--candidate", after, "--policy", folder / "gate.toml")
    return {
        "load": [*own, "load", "--verdicts", str(verdicts)],
        "every verdict": [*own, "read", "--verdicts", str(verdicts)],
        "score": [*own, "score", "--verdicts", str(verdicts)],
        "compare": [TSEVAL, "compare", before, after],
        "compare --flips 5": [TSEVAL, "compare", before, after, "--flips", "5"],
        "gate": [TSEVAL, "gate", *gate],
        "report": [TSEVAL, "report", before],
        "show": [TSEVAL, "show", before],
    }


def prepared(folder: Path, verdicts: int) -> list[Cost]:
    """Make what is not there yet; what that took."""
    if not (folder / "data").is_dir():
        write_prompts(folder / "data", verdicts)
    (folder / "gate.toml").write_text(POLICY)
    own: list[str | Path] = [sys.executable, __file__, "--folder", folder, "--worker"]
    return [
        cost([*own, name, "--verdicts", str(verdicts)])
        for name in ("before", "after")
        if not (folder / name / "scores.json").exists()
    ]


def measure(root: Path, verdicts: int, only: list[str]) -> dict[str, Cost]:
    """Measure runs of one size, and print a row a command."""
    folder = root / str(verdicts)
    made = prepared(folder, verdicts)
    disk = sum(path.stat().st_size for path in (folder / "before").rglob("*.*"))
    print(f"\n{verdicts:,} verdicts, {disk / 2**20:,.0f} MiB a run", end="")
    print("".join(f"; made in {each.wall:.0f} s ({each.cpu:.0f} s of CPU)" for each in made))
    print(f"{'':<20} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} {'bytes a verdict':>16}")
    found = {}
    for name, command in commands(folder, verdicts).items():
        if only and name not in only:
            continue
        found[name] = each = cost(command)
        print(
            f"{name:<20} {each.wall:8.2f} {each.cpu:8.2f} {each.memory / 2**20:9.0f}"
            f" {each.memory / verdicts:16.0f}",
            flush=True,
        )
    return found


def growth(found: dict[int, dict[str, Cost]]) -> None:
    """Print by which power of the verdicts each command grows, from the fewest to the most."""
    few, many = min(found), max(found)
    print(f"\ngrowth from {few:,} to {many:,}: cost ~ verdicts ** x")
    print(f"{'':<20} {'wall':>8} {'CPU':>8} {'memory':>9} {'bytes a further verdict':>24}")
    for name, most in found[many].items():
        least = found[few][name]
        powers = [math.log(b / a) / math.log(many / few) for a, b in zip(least, most, strict=True)]
        each = (most.memory - least.memory) / (many - few)
        print(f"{name:<20} {powers[0]:8.2f} {powers[1]:8.2f} {powers[2]:9.2f} {each:24.0f}")


def main() -> None:
    """Print a table for each size, and how the costs grow."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verdicts", type=int, nargs="+", default=SIZES)
    parser.add_argument("--keep", type=Path, help="where runs are kept, and found again")
    parser.add_argument("--only", nargs="+", default=[], help="measure these commands")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker == "load":
        load(given.folder / "before")
    elif given.worker == "read":
        read(given.folder / "before")
    elif given.worker == "score":
        score(given.folder, given.verdicts[0])
    elif given.worker:
        make(given.folder, given.verdicts[0], given.worker)
    else:
        with tempfile.TemporaryDirectory() as name:
            root = given.keep or Path(name)
            found = {size: measure(root, size, given.only) for size in given.verdicts}
        if len(found) > 1:
            growth(found)


if __name__ == "__main__":
    main()
