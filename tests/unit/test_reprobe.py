"""Probes under further judges: what was generated is found, each judge keeps its own numbers."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.panel_judges import Plain, Quiet, registry_with
from tests.support.sessions import finish
from tests.support.toy_probe import Toy
from tseval.errors import BackendError, ConfigError
from tseval.judgement.agreement import agreements
from tseval.judgement.correction import corrected
from tseval.judgement.rejudge import rejudge
from tseval.plugins import Registry, load_registry
from tseval.requests import ModelSpec
from tseval.runfolder import RunFolder
from tseval.runner import Outcome, run
from tseval.scripts import mixed
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Verdict

STRICT = Plain("strict", Verdict(refusal=True, raw="always"))
HARM = Plain("harm", Verdict(harmful=True, raw="always"), labels=("harmful",))


class Broken(ScriptedBackend):
    async def start(self, report: Any) -> Any:
        raise BackendError("no weights there", hint="look again")


def the_registry() -> Registry:
    _, judges = registry_with(Plain("plain"), STRICT, HARM)
    return load_registry(extra=[judges, Toy()])


def made(
    folder: Path, *benchmarks: str, judges: tuple[str, ...] = ("plain",), limit: int = 8
) -> Outcome:
    spec = RunSpec(
        model=ModelSpec(backend="scripted", name="mixed"),
        benchmarks=benchmarks or ("toy_probe",),
        judges=judges,
        scale="smoke",
        limit=limit,
    )
    backend = ScriptedBackend(mixed)
    return finish(run(spec, the_registry(), Quiet(), out=folder, backend=backend), 60)


def again(folder: Path, *judges: str, backend: Any = None) -> Outcome:
    backend = backend or ScriptedBackend(mixed)
    work = rejudge(RunFolder.load(folder), judges, the_registry(), Quiet(), backend=backend)
    return finish(work, 60)


def refusals(outcome: Outcome) -> dict[tuple[str, str], float]:
    return {
        (s.judge, s.group): s.estimate.value
        for s in outcome.scorecard.scores
        if s.benchmark == "toy_probe" and s.estimate is not None
    }


def test_a_probe_is_run_again_under_each_new_judge_without_generating(tmp_path: Path) -> None:
    first = made(tmp_path / "run")
    assert first.exit_code == 0
    second = again(tmp_path / "run", "strict", "refusal-rules")
    assert second.exit_code == 0
    counts = RunFolder.load(tmp_path / "run").manifest.legs[-1].counts
    assert counts.get("generation.made", 0) == 0
    assert counts["generation.found"] == 32
    assert counts["verdict.made"] == 32
    found = refusals(second)
    assert {judge for judge, _ in found} == {"plain", "strict", "refusal-rules"}
    assert found["strict", "harmful"] == found["strict", "benign"] == 1.0
    # The first judge's numbers are those of the run.
    assert {k: v for k, v in found.items() if k[0] == "plain"} == refusals(first)
    measurements = RunFolder.load(tmp_path / "run").measurements()
    assert {(m.probe, m.judge) for m in measurements} == {
        ("toy_probe", judge) for judge in ("plain", "strict", "refusal-rules")
    }
    fingerprints = {s.fingerprint for s in second.scorecard.scores}
    assert fingerprints == set(second.scorecard.protocols)
    assert len(fingerprints) == 6


def test_an_undefined_number_of_a_probe_is_a_finding_and_no_failure(tmp_path: Path) -> None:
    outcome = made(tmp_path / "run", limit=3)
    assert [s.undefined for s in outcome.scorecard.scores] == ["undefined: 3 rollouts"] * 2
    assert outcome.exit_code == 0
    assert RunFolder.load(tmp_path / "run").manifest.status == "complete"
    second = again(tmp_path / "run", "strict")
    assert (second.exit_code, second.undefined) == (0, [])


def test_a_resume_keeps_what_later_judges_made_of_a_probe(tmp_path: Path) -> None:
    made(tmp_path / "run")
    second = again(tmp_path / "run", "strict")
    resumed = made(tmp_path / "run")
    assert refusals(resumed) == refusals(second)
    assert sorted(resumed.scorecard.protocols) == sorted(second.scorecard.protocols)
    kept = RunFolder.load(tmp_path / "run").scorecard()
    assert {s.fingerprint for s in kept.scores} == set(kept.protocols)


def test_without_its_model_a_run_of_probes_alone_is_not_judged_and_says_why(
    tmp_path: Path,
) -> None:
    made(tmp_path / "run")
    before = (tmp_path / "run" / "scores.json").read_bytes()
    with pytest.raises(ConfigError, match="cannot be run again: no weights there") as caught:
        again(tmp_path / "run", "strict", backend=Broken(mixed))
    assert "where the run's model can be had" in caught.value.hint
    assert (tmp_path / "run" / "scores.json").read_bytes() == before
    subject = RunFolder.load(tmp_path / "run").manifest.subject
    assert subject is not None


def test_without_its_model_the_prompts_are_judged_and_the_probes_are_named(tmp_path: Path) -> None:
    made(tmp_path / "run", "toy_probe", "quick_benign")
    outcome = again(tmp_path / "run", "strict", backend=Broken(mixed))
    assert list(outcome.left) == ["toy_probe"]
    assert "no weights there" in outcome.left["toy_probe"]
    assert outcome.exit_code == 5
    judges = {s.judge for s in outcome.scorecard.scores if s.benchmark == "quick_benign"}
    assert judges == {"plain", "strict"}
    assert {judge for judge, _ in refusals(outcome)} == {"plain"}


def test_another_model_under_the_name_is_refused_and_the_record_stays(tmp_path: Path) -> None:
    made(tmp_path / "run")
    subject = RunFolder.load(tmp_path / "run").manifest.subject
    other = ScriptedBackend(mixed, name="another")
    with pytest.raises(ConfigError, match="the model has changed since this run began"):
        again(tmp_path / "run", "strict", backend=other)
    assert RunFolder.load(tmp_path / "run").manifest.subject == subject


def test_a_judge_that_labels_no_refusals_starts_no_model(tmp_path: Path) -> None:
    made(tmp_path / "run", "toy_probe", "quick_harmful")
    outcome = again(tmp_path / "run", "harm", backend=Broken(mixed))
    assert (outcome.exit_code, outcome.left) == (0, {})
    made(tmp_path / "probe")
    with pytest.raises(ConfigError, match="no probe whose labels these judges could give"):
        again(tmp_path / "probe", "harm", backend=Broken(mixed))


def test_agreement_and_corrections_leave_probes_alone(tmp_path: Path) -> None:
    made(tmp_path / "run", "toy_probe", "quick_benign", judges=("plain", "refusal-rules"))
    folder = RunFolder.load(tmp_path / "run")
    assert agreements(folder).rollouts == 8
    found = corrected(folder, the_registry().metrics)
    assert "toy_probe" not in {score.benchmark for score in found.scores}
