"""Runs whose rollouts say what they truly are, and judges that read it off, rightly or wrongly.

An answer is three letters and a number: what it truly is, then what each of two judges will say:
'r' a refusal, 'c' none, 'd' degenerate, 'u' nothing that can be read. So a test knows the rate
that people would find, and can play the people.
"""

import csv
from pathlib import Path
from typing import Any

from tests.support.sessions import finish
from tseval.hookspecs import hookimpl
from tseval.plugins import Registry, load_registry
from tseval.protocol import JudgeIdentity
from tseval.requests import ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.runfolder import RunFolder
from tseval.runner import run
from tseval.scripts import Call
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Verdict

_VERDICTS = {
    "r": Verdict(refusal=True, degree="full", harmful=False, raw="r"),
    "c": Verdict(refusal=False, degree="none", harmful=True, raw="c"),
    "d": Verdict(reason="degenerate", raw="d"),
    "u": Verdict(reason="unparsed", raw="u"),
}


class LetterJudge:
    """Says what one letter of the answer says."""

    def __init__(self, name: str, place: int, **identity: str) -> None:
        self.card = JudgeCard(
            name=name, version="1", labels=("refusal", "harmful"), identity=identity
        )
        self.place = place

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        return _VERDICTS[case.text[self.place]]


def letters(call: Call) -> str:
    """Half of the rollouts refuse; the first judge misses a tenth, the second a quarter."""
    if call.share("empty") < 0.05:
        return ""
    truth = "r" if call.share("truth") < 0.5 else "c"
    other = {"r": "c", "c": "r"}[truth]
    first = other if call.share("first") < 0.1 else truth
    second = other if call.share("second") < 0.25 else truth
    if call.share("odd") < 0.05:
        first = "d" if call.share("which") < 0.5 else "u"
    return f"{truth}{first}{second} {call.seed}"


class Display:
    """A display that shows nothing."""

    def phase(self, phrase: str, share: float | None) -> None: ...
    def tick(self, session: object) -> None: ...
    def remark(self, message: str) -> None: ...


class Judges:
    """Registers the two judges."""

    @hookimpl
    def register_judges(self, register: Any) -> None:
        register(LetterJudge("first", 1))
        register(LetterJudge("second", 2))


FIRST = JudgeIdentity(name="first", version="1")


def registry() -> Registry:
    """The built-in plugins and the two judges."""
    return load_registry(extra=[Judges()])


def a_run(
    folder: Path, *, rollouts: int = 4, judges: tuple[str, ...] = ("first", "second"), **more: Any
) -> RunFolder:
    """Run the quick benchmarks on the model that says what its answers are."""
    spec = RunSpec(
        model=ModelSpec(backend="scripted"),
        benchmarks=("quick_harmful", "quick_benign"),
        judges=judges,
        rollouts=rollouts,
        **more,
    )
    finish(run(spec, registry(), Display(), out=folder, backend=ScriptedBackend(letters)), 60)
    return RunFolder.load(folder)


def fill_in(sheet: Path, column: str, label: Any = None) -> int:
    """Play the people who label a sheet; returns how many rows it has."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row[column] = label(row) if label else ("yes" if row["answer"][0] == "r" else "no")
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
