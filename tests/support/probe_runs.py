"""Whole probes on scripted models, at sizes of a test's own, and journals that are cut in half."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support.sessions import SPEC, finish, registry, session_on
from tseval.journal import Journal
from tseval.measurements import Measurement, Number
from tseval.probes.sizes import SIZES
from tseval.protocol import canonical_json
from tseval.scripts import Script
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, ScriptedBackend
from tseval.types import Score

SCALE = "test"


class ProbeRun(NamedTuple):
    """What a probe returned and found, and how often the model was asked."""

    scores: list[Score]
    found: Measurement
    calls: int
    warnings: list[str]

    def number(self, metric: str, group: str, variant: str = "") -> Number:
        """The one number of that name."""
        (one,) = (
            number
            for number in self.found.numbers
            if (number.metric, number.group, number.variant) == (metric, group, variant)
        )
        return one


def scale(monkeypatch: pytest.MonkeyPatch, **sizes: Any) -> None:
    """Make a scale 'test': that of smoke, with whole scripted traces and sizes of one's own."""
    values = {"scale": SCALE, "trace_tokens": 4000, **sizes}
    monkeypatch.setitem(SIZES, SCALE, msgspec.structs.replace(SIZES["smoke"], **values))


def run_probe(
    name: str, folder: Path, script: Script, *, backend: dict[str, Any] | None = None, **spec: Any
) -> ProbeRun:
    """Run a probe at scale 'test', judged by the rules that tseval ships.

    Args:
        name: The probe.
        folder: Of the run; a second run in it resumes.
        script: The model under test.
        backend: For the scripted backend.
        spec: Fields of the run's specification.
    """
    judge = registry().judges["refusal-rules"]
    target = ScriptedBackend(script, **{"view": TAGS_VIEW, **(backend or {})})
    wanted: RunSpec = msgspec.structs.replace(SPEC, scale=SCALE, **spec)

    async def run() -> ProbeRun:
        seats: dict[str, Any] = {"refusal-rules": (judge, None)}
        async with session_on(folder, target, seats, spec=wanted) as session:
            scores = await registry().benchmarks[name].run(session)
            found = session.measurements[name]
            # What is found has to be plain: it goes into the run's files and comes back.
            assert msgspec.json.decode(canonical_json(found), type=Measurement) == found
            return ProbeRun(scores, found, target.calls, session.warnings)

    return finish(run(), 120)


def halve_journal(folder: Path) -> int:
    """Cut a run's journal behind half of its records, in the middle of a line, as a kill does.

    Returns:
        Completions of the model that are left.
    """
    (segment,) = sorted((folder / "journal").glob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    kept = lines[: len(lines) // 2]
    segment.write_bytes(b"".join(kept) + lines[len(kept)][:20])
    for other in (folder / "journal").iterdir():
        if other != segment and other.suffix != ".lock":
            other.unlink()
    return completions(folder)


def completions(folder: Path) -> int:
    """Generations and extensions that a run's journal holds."""
    journal = Journal.open(folder / "journal")
    try:
        return journal.counts["generation"] + journal.counts["extension"]
    finally:
        journal.close()
