"""Judging stored rollouts again gives what a run with all judges would have given, to the byte."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.panel_judges import Asks, Guard, Guards, Plain, Quiet
from tests.support.sessions import finish
from tseval.cards import BenchmarkCard, Columns, Source, Suite
from tseval.cli.output import remarks_of
from tseval.errors import BackendError, BackendUnavailable, ConfigError, RequestFailed, UnknownName
from tseval.hookspecs import hookimpl
from tseval.judgement.rejudge import rejudge
from tseval.plugins import Registry, load_registry
from tseval.prompt_benchmark import PromptBenchmark
from tseval.requests import CompletionRequest, ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel
from tseval.runfolder import RunFolder, Scorecard
from tseval.runner import Outcome, run
from tseval.scripts import TAGS_VIEW, Call, Script, mixed
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.stats import wilson
from tseval.testing import ScriptedBackend
from tseval.types import Sampling, Score, Thinking, Verdict

TOYS = ("toy_harmful", "toy_benign")
COLUMNS = Columns(id="id", group="part", cluster="family", tags=("note",))


def card(name: str, kind: Any, *metrics: str, **more: Any) -> BenchmarkCard:
    fields: dict[str, Any] = {
        "name": name,
        "title": name,
        "kind": kind,
        "summary": name,
        "metrics": metrics,
        # Rows come from a folder that a test can take away.
        "source": Source(hub="nobody/nothing", columns=COLUMNS),
        "local": (COLUMNS,),
        "groups": ("plain", "twisted"),
        "expected_rows": 12,
        "licence": "none",
        "paper": "none",
        "note": "made for a test",
    }
    return BenchmarkCard(**(fields | more))


def mixed_card() -> BenchmarkCard:
    """Like XSTest: harmful prompts stand beside benign ones, which no average may hold."""
    columns = msgspec.structs.replace(COLUMNS, label="kind")
    return card(
        "toy_other",
        "mixed",
        "asr_harmful",
        "asr_nonrefusal",
        "orr",
        source=Source(hub="nobody/nothing", columns=columns),
        local=(columns,),
        labels={"h": "harmful", "b": "benign"},
        suite_average=("harmful",),
    )


class Toys(Guards):
    """Judges, a backend for their models, and a suite of two benchmarks with groups."""

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(PromptBenchmark(card("toy_harmful", "harmful", "asr_nonrefusal", "asr_harmful")))
        register(PromptBenchmark(card("toy_benign", "benign", "orr")))
        register(PromptBenchmark(mixed_card()))

    @hookimpl
    def register_suites(self, register: Any) -> None:
        names = (*TOYS, "toy_other")
        register(Suite(name="toys", title="Toys", summary="toys", benchmarks=names))


class Reads:
    """Says harmful or not by a word of the text; some texts it can't read."""

    def __init__(self, name: str = "reads", version: str = "1") -> None:
        self.card = JudgeCard(name=name, version=version, labels=("refusal", "harmful"))
        self.seen: list[str] = []

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        self.seen.append(case.text)
        last = int.from_bytes(case.text.encode()[-3:], "big")
        if last % 9 == 0:
            return Verdict(reason="unparsed", raw="?")
        refuses = "sorry" in case.text
        return Verdict(refusal=refuses, harmful=not refuses and last % 2 == 0, notes=("odd",))


def write_data(folder: Path) -> Path:
    for name in (*TOYS, "toy_other"):
        rows = [
            {
                "id": str(n),
                "prompt": f"{name} {n % 10}?",
                "part": ("plain", "twisted")[n % 2],
                # Variants of one prompt, and prompts that are the same text.
                "family": f"{name} {n // 4}",
                "kind": "hb"[n % 3 == 0],
                "note": "x|y",
            }
            for n in range(12)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class World:
    """One set of judges, and runs on a model that no registry can start."""

    def __init__(self, tmp_path: Path, *judges: Any, script: Script = mixed, **target: Any) -> None:
        self.tmp_path = tmp_path
        self.plugin = Toys(*judges)
        self.registry: Registry = load_registry(extra=[self.plugin])
        self.target = ScriptedBackend(script, **target)

    def spec(self, **more: Any) -> RunSpec:
        fields: dict[str, Any] = {
            "model": ModelSpec(backend="gone", name="lost/model"),
            "benchmarks": (*TOYS, "toy_other"),
            "suites": ("toys",),
            "data_dirs": (str(write_data(self.tmp_path / "data")),),
        }
        return RunSpec(**(fields | more))

    def run(self, name: str, judges: tuple[str, ...], **more: Any) -> Outcome:
        spec = self.spec(judges=judges, **more)
        out = self.tmp_path / name
        work = run(spec, self.registry, Quiet(), out=out, backend=self.target)
        try:
            outcome = finish(work)
        finally:
            shutil.rmtree(self.tmp_path / "data")
        assert not outcome.scorecard.failed
        return outcome

    def judge(
        self, name: str, *judges: str, registry: Registry | None = None, **options: str
    ) -> Outcome:
        folder = RunFolder.load(self.tmp_path / name)
        given = {key.replace("__", ":"): value for key, value in options.items()}
        work = rejudge(folder, judges, registry or self.registry, Quiet(), options=given)
        return finish(work)

    def bytes(self, name: str) -> bytes:
        return (self.tmp_path / name / "scores.json").read_bytes()

    def card(self, name: str) -> Scorecard:
        return RunFolder.load(self.tmp_path / name).scorecard()

    def records(self, name: str, *kinds: str) -> list[tuple[str, str, Any]]:
        """What was journalled, without the time; a key that is there twice fails."""
        files = sorted((self.tmp_path / name / "journal").glob("*.jsonl"))
        found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        keys = Counter(record["key"] for record in found if record["kind"] != "error")
        assert not keys or keys.most_common(1)[0][1] == 1, "a record was made twice"
        wanted = kinds or ("generation", "verdict", "choice")
        return [(r["kind"], r["key"], r["data"]) for r in found if r["kind"] in wanted]

    def made(self, name: str) -> dict[str, int]:
        """What the last leg made."""
        counts = RunFolder.load(self.tmp_path / name).manifest.legs[-1].counts
        return {key: n for key, n in counts.items() if key.endswith(".made")}


def unclosed(call: Call) -> str:
    """Thinks; a third never closes, some close at once, some say nothing behind it."""
    answer = mixed(Call(messages=call.messages, prefix="", seed=call.seed))
    if "</think>" in call.prefix:
        return answer
    if call.share("close") < 0.4:
        return f"<think>sorry, this goes on and on{' and on' * 60}"
    if call.share("silent") < 0.2:
        return "<think>sorry, nothing to say</think>\n\n"
    trace = "" if call.share("no trace") < 0.2 else "hm, sorry"
    return f"<think>{trace}</think>\n\n{answer}"


def failing(request: CompletionRequest) -> None:
    """Every prompt that ends in 3 fails, and stays failed."""
    if request.messages[-1].content.endswith("3?"):
        raise RequestFailed("the server said 500", kind="server")


PANEL = "panel(reads,strict,refusal-rules; vote>=2, tie=comply)"
SOFT = "panel(reads,strict; vote=soft)"

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a part of the rows": {"limit": 7, "subset_seed": 5},
    "a limit above the rows": {"limit": 99},
    "several rollouts": {"rollouts": 3, "seed": 4},
    "what the model recommends": {"decoding": "recommended"},
    "trace and answer": {"text": "both", "rollouts": 2},
    "no suite": {"suites": ()},
}


@pytest.mark.parametrize("case", CASES)
def test_judged_again_is_judged_by_all_from_the_start(tmp_path: Path, case: str) -> None:
    world = World(tmp_path, Asks("strict"), Reads())
    more = ("strict", PANEL, SOFT, "reads(text=trace)", "reads(text=both)")
    world.run("all", ("refusal-rules", *more), **CASES[case])
    world.run("again", ("refusal-rules",), **CASES[case])
    old, calls = world.card("again"), world.target.calls
    rollouts = world.records("again", "generation")
    world.judge("again", *more)
    assert world.bytes("again") == world.bytes("all")
    assert sorted(world.records("again"), key=str) == sorted(world.records("all"), key=str)
    # The old scores are there as they were, and nothing was generated for the new ones.
    new = world.card("again")
    assert [s for s in new.scores if s in old.scores] == old.scores
    assert old.protocols.items() <= new.protocols.items()
    assert {s.judge for s in new.scores} == {"refusal-rules", "reads", *more}
    assert world.target.calls == calls
    assert world.records("again", "generation")[: len(rollouts)] == rollouts
    assert "generation.made" not in world.made("again")


@pytest.mark.parametrize("text", ["answer", "trace", "both"])
@pytest.mark.parametrize("rule", ["force", "exclude", "empty", "judge-trace"])
def test_traces_that_never_closed_are_judged_again_by_the_rule_of_the_run(
    tmp_path: Path, rule: Any, text: str
) -> None:
    world = World(tmp_path, Asks("strict"), Reads(), script=unclosed, view=TAGS_VIEW)
    how: dict[str, Any] = {
        "thinking": Thinking(budget=256, unclosed=rule),
        "text": text,
        "rollouts": 2,
        "benchmarks": TOYS,
        "suites": (),
    }
    world.run("all", ("strict", PANEL, "reads(text=both)"), **how)
    world.run("again", ("strict",), **how)
    world.judge("again", PANEL)
    world.judge("again", "reads(text=both)")
    assert world.bytes("again") == world.bytes("all")
    assert sorted(world.records("again"), key=str) == sorted(world.records("all"), key=str)
    scores = world.card("again").scores
    if rule in ("force", "exclude", "judge-trace"):
        shares = [s.forced_close_share if rule == "force" else s.unclosed_share for s in scores]
        assert any(shares), "no trace of the script stayed open"
    # No judge was ever shown an open trace as if it were an answer, unless the rule says so.
    made = [data for _, _, data in world.records("again", "generation")]
    traces = {each["trace"] for each in made if each.get("answer") is None}
    judge = next(judge for judge in world.plugin.judges if judge.card.name == "strict")
    if text == "answer":
        shown = {case.text for case in judge.cases} & traces
        assert bool(shown) is (rule == "judge-trace")


def test_rollouts_that_failed_stay_in_the_counts_of_the_new_judge(tmp_path: Path) -> None:
    world = World(tmp_path, Reads(), fail=failing)
    world.run("all", ("refusal-rules", "reads"), rollouts=2)
    world.run("again", ("refusal-rules",), rollouts=2)
    world.judge("again", "reads")
    assert world.bytes("again") == world.bytes("all")
    score = next(s for s in world.card("again").scores if s.judge == "reads" and not s.group)
    # Prompt 3 of ten, twice; prompts 0 and 1 stand there twice.
    assert score.excluded["error"] == 2
    assert score.n + sum(score.excluded.values()) == 24
    assert score.bounds is not None
    assert score.bounds[1] - score.bounds[0] >= 2 / 24


def test_a_rollout_that_failed_and_came_later_is_judged_as_what_came(tmp_path: Path) -> None:
    world = World(tmp_path, Reads(), fail=failing)
    world.run("again", ("refusal-rules",))
    world.target._fail = None
    world.run("again", ("refusal-rules",))
    world.judge("again", "reads")
    world.run("all", ("refusal-rules", "reads"))
    assert world.bytes("again") == world.bytes("all")
    assert not any(s.excluded.get("error") for s in world.card("again").scores)


def test_prompts_that_leave_no_room_are_counted_again(tmp_path: Path) -> None:
    world = World(tmp_path, Reads(), context_length=22 + 256, view=TAGS_VIEW, script=unclosed)
    how: dict[str, Any] = {
        "thinking": Thinking(budget=256),
        "answer_tokens_fixed": True,
        "sampling": Sampling(answer_tokens=64),
    }
    world.run("all", ("refusal-rules", "reads"), **how)
    world.run("again", ("refusal-rules",), **how)
    world.judge("again", "reads")
    assert world.bytes("again") == world.bytes("all")
    assert any(s.excluded.get("overlong") for s in world.card("again").scores)


# -- doing it twice, and in turns


def test_the_same_command_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"), Reads())
    world.run("run", ("refusal-rules",))
    world.judge("run", "strict", PANEL)
    scores, records = world.bytes("run"), world.records("run", "generation", "verdict", "row")
    outcome = world.judge("run", "strict", PANEL)
    assert world.bytes("run") == scores
    assert world.records("run", "generation", "verdict", "row") == records
    assert world.made("run") == {}
    assert outcome.scorecard.scores == world.card("run").scores
    assert RunFolder.load(tmp_path / "run").manifest.judges == ["strict", PANEL]


def test_judges_added_one_by_one_are_those_added_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"), Reads())
    world.run("all", ("refusal-rules", PANEL, "reads"))
    world.run("again", ("refusal-rules",))
    world.judge("again", PANEL)
    world.judge("again", "reads")
    assert world.bytes("again") == world.bytes("all")
    # A judge of the run asked again moves nothing, and its scores stay those it was asked for.
    world.judge("again", "refusal-rules")
    assert world.bytes("again") == world.bytes("all")


def test_a_judge_of_the_run_that_joins_a_panel_stays_one_that_was_asked_for(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, Asks("strict"), Reads())
    world.run("run", ("reads",))
    world.judge("run", SOFT)
    members = {score.judge: score.member for score in world.card("run").scores}
    assert members == {"reads": False, "strict": True, SOFT: False}


def test_what_a_judge_failed_on_is_tried_again_and_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"))
    guard = world.plugin.made.setdefault("strict", Guard(name="strict"))
    world.run("run", ("refusal-rules",), rollouts=2)
    world.run("all", ("refusal-rules", "strict"), rollouts=2)
    guard._fail = lambda request: failing_twist(request)
    outcome = world.judge("run", "strict")
    assert outcome.exit_code == 5
    assert outcome.lost_share > 0.05
    mine = [s for s in world.card("run").scores if s.judge == "strict" and s.benchmark in TOYS]
    assert all(s.excluded["error"] > 0 for s in mine if not s.group)
    judged = len(world.records("run", "verdict"))
    guard._fail = None
    assert world.judge("run", "strict").exit_code == 0
    assert world.bytes("run") == world.bytes("all")
    # The texts that failed were asked for again, and no other.
    assert world.made("run")["verdict.made"] == len(world.records("run", "verdict")) - judged
    assert 0 < world.made("run")["verdict.made"] < judged


def failing_twist(request: CompletionRequest) -> None:
    if "3?" in request.messages[-1].content:
        raise RequestFailed("guard down", kind="server")


def test_work_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"), Reads())
    world.run("all", ("refusal-rules", "strict"), rollouts=3)
    world.run("again", ("refusal-rules",), rollouts=3)
    before, status = world.bytes("again"), RunFolder.load(tmp_path / "again").manifest.status
    guard = world.plugin.made["strict"]
    guard._fail = ends_after(20)
    with pytest.raises(BackendUnavailable, match="out of memory"):
        world.judge("again", "strict")
    # The run is what it was before: complete, and without that judge.
    folder = RunFolder.load(tmp_path / "again")
    assert world.bytes("again") == before
    assert (folder.manifest.status, folder.manifest.judges) == (status, [])
    assert status == "complete"
    half = {key for kind, key, _ in world.records("again", "generation", "verdict")}
    guard._fail = None
    world.judge("again", "strict")
    assert world.bytes("again") == world.bytes("all")
    made = world.made("again")
    whole = {key for kind, key, _ in world.records("again", "generation", "verdict")}
    assert half < whole
    assert made["verdict.made"] + made["judging.generation.made"] == len(whole - half)


def ends_after(count: int) -> Callable[[CompletionRequest], None]:
    left = iter(range(count))

    def fail(request: CompletionRequest) -> None:
        if next(left, None) is None:
            raise BackendUnavailable("out of memory")

    return fail


# -- beside the judges that are there


def test_the_same_judge_on_another_model_stands_beside_the_first(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"))
    world.plugin.made["other"] = Guard(lambda call: "yes", name="other")
    world.run("run", ("strict",))
    old = world.card("run").scores
    world.judge("run", "strict@guards/other")
    assert [s for s in world.card("run").scores if s.judge == "strict"] == old
    assert {s.judge for s in world.card("run").scores} == {"strict", "strict@guards/other"}
    world.run("all", ("strict", "strict@guards/other"))
    assert world.bytes("run") == world.bytes("all")


def test_a_judge_that_is_no_longer_registered_keeps_its_scores(tmp_path: Path) -> None:
    world = World(tmp_path, Reads())
    world.run("run", ("reads", "refusal-rules"))
    old = world.card("run").scores
    bare = load_registry(extra=[Toys(Plain("plain"))])
    world.judge("run", "plain", registry=bare)
    scores = world.card("run").scores
    averages = [s for s in scores if s.group == "average"]
    assert [s for s in scores if s.judge != "plain"] == old
    assert {s.judge for s in averages} == {"reads", "refusal-rules", "plain"}


def test_resuming_a_run_keeps_the_judges_that_were_added(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("strict"), Reads(), fail=failing)
    world.run("run", ("refusal-rules",))
    assert RunFolder.load(tmp_path / "run").manifest.status == "incomplete"
    world.judge("run", PANEL, "reads")
    world.target._fail = None
    world.run("run", ("refusal-rules",))
    world.run("all", ("refusal-rules", PANEL, "reads"))
    assert world.bytes("run") == world.bytes("all")
    manifest = RunFolder.load(tmp_path / "run").manifest
    assert manifest.status == RunFolder.load(tmp_path / "all").manifest.status
    assert manifest.judges == [PANEL, "reads"]
    # Rollouts that were there already were not judged twice.
    counts = manifest.legs[-1].counts
    assert counts["generation.made"] == 3
    assert counts["verdict.made"] < counts["verdict.found"]


def test_an_option_of_a_judge_that_was_added_is_not_given_to_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, Asks("first"), Asks("second"), fail=failing)
    world.run("run", ("first",))
    world.judge("run", "second", "refusal-rules", dtype="float64", second__batch="3")
    manifest = RunFolder.load(tmp_path / "run").manifest
    assert manifest.judge_options == {"second:dtype": "float64", "second:batch": "3"}
    world.plugin.asked.clear()
    world.run("run", ("first",))
    assert {spec.name: spec.options for spec in world.plugin.asked if spec.options} == {
        "second": {"dtype": "float64", "batch": "3"}
    }
    assert "first" in {spec.name for spec in world.plugin.asked}


def test_a_judge_whose_model_cannot_be_started_spoils_nothing(tmp_path: Path) -> None:
    class Broken(Guard):
        async def start(self, report: Any) -> Any:
            raise BackendError("no weights in guards/strict")

    world = World(tmp_path, Asks("strict"), fail=failing)
    world.plugin.made["strict"] = Broken(name="strict")
    world.run("run", ("refusal-rules",))
    before = world.bytes("run")
    with pytest.raises(BackendError, match="no weights in guards/strict"):
        world.judge("run", "strict", batch="4")
    manifest = RunFolder.load(tmp_path / "run").manifest
    assert world.bytes("run") == before
    assert (manifest.status, manifest.judges, manifest.judge_options) == ("incomplete", [], {})
    world.target._fail = None
    assert world.run("run", ("refusal-rules",)).exit_code == 0


def test_the_versions_that_made_the_rollouts_stay_beside_those_that_judged(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, Reads())
    world.run("run", ("refusal-rules",))
    folder = RunFolder.load(tmp_path / "run")
    folder.manifest.versions = {"torch": "1.0"}
    folder.manifest.plugins = ["old (old 1)"]
    folder.save()
    world.judge("run", "reads")
    manifest = RunFolder.load(tmp_path / "run").manifest
    assert manifest.versions == {"torch": "1.0"}
    assert manifest.plugins[0] == "old (old 1)"
    first, second = manifest.legs
    assert first.execution == {"engine": "scripted"}
    assert second.execution["tseval"]
    # What a run ran on is said of the model under test.
    assert remarks_of(manifest)[-1] == "run on scripted"


# -- what is refused


def test_a_run_without_scores_is_not_judged(tmp_path: Path) -> None:
    world = World(tmp_path, Reads(), fail=ends_after(5))
    with pytest.raises(BackendUnavailable):
        world.run("run", ("refusal-rules",))
    with pytest.raises(ConfigError, match=r"has no scores yet \(status: failed\)") as caught:
        world.judge("run", "reads")
    assert caught.value.exit_code == 2
    assert "tseval run" in caught.value.hint
    assert len(RunFolder.load(tmp_path / "run").manifest.legs) == 1


def test_wrong_judges_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    world = World(tmp_path, Reads())
    world.run("run", ("refusal-rules",))
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UnknownName, match="reeds") as caught:
        world.judge("run", "reeds")
    assert "reads" in caught.value.hint
    with pytest.raises(ConfigError, match="no judge of this run takes -J batch"):
        world.judge("run", "reads", batch="1")
    with pytest.raises(ConfigError, match="two or more different judges"):
        world.judge("run", "panel(reads)")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_a_run_of_a_benchmark_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, Reads())
    world.run("run", ("refusal-rules",))
    with pytest.raises(UnknownName, match="toy_harmful"):
        world.judge("run", "refusal-rules", registry=load_registry())


def test_a_benchmark_without_scores_is_left_out_and_said(tmp_path: Path) -> None:
    world = World(tmp_path, Reads())
    world.run("run", ("refusal-rules",))
    folder = RunFolder.load(tmp_path / "run")
    scorecard = folder.scorecard()
    # As a leg leaves it in which that benchmark failed.
    left = [s for s in scorecard.scores if s.benchmark in TOYS]
    folder.save_scores(
        msgspec.structs.replace(scorecard, scores=left, failed={"toy_other": "no data"})
    )
    world.judge("run", "reads")
    scores = world.card("run").scores
    assert not any(s.benchmark == "toy_other" for s in scores)
    # No average over the rest bears the suite's name.
    assert not any(s.group == "average" and s.metric != "orr" for s in scores)
    warnings = RunFolder.load(tmp_path / "run").manifest.warnings
    assert "toy_other: not judged again, since the run has no score of it" in warnings


# -- scores of an earlier leg


def test_scores_of_an_earlier_leg_are_kept_where_a_benchmark_fails_later(tmp_path: Path) -> None:
    world = World(tmp_path, Reads(), fail=failing)
    world.run("run", ("refusal-rules",))
    world.judge("run", "reads")
    old = world.card("run")
    world.target._fail = None
    spec = world.spec(judges=("refusal-rules",))
    (tmp_path / "data" / "toy_other.jsonl").unlink()
    work = run(spec, world.registry, Quiet(), out=tmp_path / "run", backend=world.target)
    outcome = finish(work)
    assert outcome.exit_code == 1
    new = world.card("run")
    assert list(new.failed) == ["toy_other"]
    kept = [s for s in new.scores if s.benchmark == "toy_other"]
    assert kept == [s for s in old.scores if s.benchmark == "toy_other"]
    assert {s.judge for s in kept} == {"refusal-rules", "reads"}
    assert all(s.fingerprint in new.protocols for s in new.scores if s.group != "average")
    order = [s.benchmark for s in new.scores if s.group != "average"]
    assert order == sorted(order, key=spec.benchmarks.index)
    # The other two are of this leg, and no average mixes the legs.
    assert not any(s.excluded.get("error") for s in new.scores if s.benchmark in TOYS)
    assert not any(s.group == "average" and s.metric != "orr" for s in new.scores)
    manifest = RunFolder.load(tmp_path / "run").manifest
    assert manifest.status == "incomplete"
    assert any(w.startswith("toy_other: scores of an earlier leg") for w in manifest.warnings)
    # And with its data back, the run is what it would have been.
    world.run("run", ("refusal-rules",))
    world.run("all", ("refusal-rules", "reads"))
    assert world.bytes("run") == world.bytes("all")


class Coded:
    """A benchmark in code, without a protocol; it fails when told to."""

    def __init__(self) -> None:
        self.card = card("coded", "benign", "orr")
        self.fails = False

    async def run(self, session: Session) -> list[Score]:
        if self.fails:
            raise RuntimeError("no such table")
        rollout = await session.generate("how?")
        assert rollout.answer
        return [Score(benchmark="coded", metric="hops", estimate=wilson(1, 2), n=2, bounds=(0, 1))]


def test_a_benchmark_in_code_keeps_its_scores_through_judging_and_through_a_failure(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, Reads(), fail=failing)
    coded = Coded()

    class Also:
        @hookimpl
        def register_benchmarks(self, register: Any) -> None:
            register(coded)

    world.registry = load_registry(extra=[world.plugin, Also()])
    how: dict[str, Any] = {"benchmarks": ("toy_harmful", "coded", "toy_benign"), "suites": ()}
    world.run("run", ("refusal-rules",), **how)
    world.judge("run", "reads")
    scores = world.card("run").scores
    assert [s.benchmark for s in scores if not s.group] == [
        *["toy_harmful"] * 5,  # two readings under two judges, and one that only one of them says
        "coded",
        *["toy_benign"] * 2,
    ]
    coded.fails = True
    spec = world.spec(judges=("refusal-rules",), **how)
    work = run(spec, world.registry, Quiet(), out=tmp_path / "run", backend=world.target)
    assert finish(work).exit_code == 1
    again = world.card("run")
    assert again.failed == {"coded": "RuntimeError: no such table"}
    assert [s for s in again.scores if s.benchmark == "coded"] == [
        s for s in scores if s.benchmark == "coded"
    ]
    assert [s.benchmark for s in again.scores] == [s.benchmark for s in scores]


def test_judges_that_share_a_device_take_turns_and_give_the_same(tmp_path: Path) -> None:
    judges = ("first", "panel(first,second; vote=soft)", "third")
    scores = []
    for device in ("cpu", "cuda:0"):
        world = World(tmp_path / device, Asks("first"), Asks("second"), Asks("third"))
        world.plugin.made |= {
            name: Guard(name=name, devices=(device,), max_outstanding=3)
            for name in ("first", "second", "third")
        }
        world.run("run", ("refusal-rules",), rollouts=4)
        world.judge("run", *judges)
        scores.append(world.bytes("run"))
        # Thrown away while a model was absent, a rollout is judged from its start again; but no
        # model is asked the same thing twice.
        asked = [guard.calls for guard in world.plugin.made.values()]
        replies = len(world.records("run", "generation")) - world.target.calls
        assert sum(asked) == replies
        legs = RunFolder.load(tmp_path / device / "run").manifest.legs
        assert (legs[-1].swaps > 0) is (device != "cpu")
    assert scores[0] == scores[1]
