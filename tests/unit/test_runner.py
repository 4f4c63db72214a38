"""The runner: what ends a benchmark, what ends a run, and what a run leaves to be resumed."""

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.sessions import AskingJudge, finish
from tseval.cards import BenchmarkCard, Columns, Source, Suite
from tseval.errors import (
    BackendUnavailable,
    CapabilityMissing,
    ConfigError,
    DataError,
    JournalError,
    RequestFailed,
    UnknownName,
)
from tseval.hookspecs import hookimpl
from tseval.measurements import Measurement
from tseval.plugins import Registry, load_registry
from tseval.prompt_benchmark import PromptBenchmark
from tseval.requests import Capabilities, CompletionRequest, ModelSpec, Report, Subject
from tseval.roles import BackendFactory
from tseval.runfolder import Manifest, RunFolder, choose_folder
from tseval.runner import Outcome, lost_shares, mendable, run
from tseval.scheduler import Scheduler
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.stats import wilson
from tseval.testing import TAGS_VIEW, Call, ScriptedBackend, mixed, thinking
from tseval.types import Rollout, Sampling, Score, Thinking

QUICK = ("quick_harmful", "quick_benign")


def spec(**more: Any) -> RunSpec:
    more.setdefault("benchmarks", QUICK)
    return RunSpec(model=ModelSpec(backend="scripted"), **more)


class Shown:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.ticks = 0

    def phase(self, phrase: str, share: float | None) -> None:
        self.remarks.append(phrase)

    def tick(self, session: Session) -> None:
        self.ticks += 1

    def remark(self, message: str) -> None:
        self.remarks.append(message)


class Bench:
    """A benchmark in code."""

    def __init__(self, name: str, work: Callable[[Session], Any]) -> None:
        self.card = BenchmarkCard(
            name=name,
            title=name,
            kind="benign",
            summary=name,
            metrics=("orr",),
            source=Source(package="none", file="none.jsonl"),
            local=(),
            expected_rows=1,
            licence="none",
            paper="none",
        )
        self._work = work

    async def run(self, session: Session) -> list[Score]:
        await self._work(session)
        return [
            Score(
                benchmark=self.card.name,
                metric="orr",
                judge="refusal-rules",
                estimate=wilson(1, 2),
                n=2,
                bounds=(0.5, 0.5),
            )
        ]


class Plugin:
    """Everything that a test adds, and what the life-cycle hooks were told."""

    def __init__(self, *benchmarks: Bench, judges: tuple[Any, ...] = (), **backends: Any) -> None:
        self.benchmarks, self.judges, self.backends = benchmarks, judges, backends
        self.told: list[str] = []
        self.suites: tuple[Suite, ...] = ()

    @hookimpl
    def register_suites(self, register: Any) -> None:
        for suite in self.suites:
            register(suite)

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        for benchmark in self.benchmarks:
            register(benchmark)

    @hookimpl
    def register_judges(self, register: Any) -> None:
        for judge in self.judges:
            register(judge)

    @hookimpl
    def register_backends(self, register: Any) -> None:
        for name, backend in self.backends.items():
            register(
                BackendFactory(
                    name=name,
                    summary=name,
                    capabilities=Capabilities(),
                    create=lambda spec, backend=backend: backend,
                    needs_model=False,
                )
            )

    @hookimpl
    def run_started(self, run: str, manifest: dict[str, Any]) -> None:
        self.told.append(f"started {manifest['status']}")

    @hookimpl
    def rollout_journalled(self, run: str, rollout: Rollout) -> None:
        self.told.append("rollout")

    @hookimpl
    def run_finished(self, run: str, scores: list[Score]) -> None:
        self.told.append(f"finished {len(scores)}")


@pytest.fixture(scope="module")
def plain() -> Registry:
    return load_registry()


def go(
    out: Path, registry: Registry, what: RunSpec | None = None, **more: Any
) -> tuple[Outcome, Shown]:
    shown = Shown()
    return finish(run(what or spec(), registry, shown, out=out, **more), 60), shown


def scores_of(out: Path) -> bytes:
    return (out / "scores.json").read_bytes()


def manifest_of(out: Path) -> Manifest:
    return RunFolder.load(out).manifest


def journalled(out: Path) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in sorted((out / "journal").glob("*.jsonl")))
    return [json.loads(line) for line in lines.splitlines()]


# -- a run and what it leaves


def test_a_run_leaves_its_manifest_its_journal_and_its_scores(
    tmp_path: Path, plain: Registry
) -> None:
    out = tmp_path / "run"
    outcome, shown = go(out, plain, backend=ScriptedBackend(thinking))
    assert outcome.exit_code == 0
    assert shown.remarks[0] == f"new run in {out}"
    manifest = manifest_of(out)
    assert manifest.status == "complete"
    assert manifest.spec == spec()
    assert manifest.subject is not None
    [leg] = manifest.legs
    assert leg.counts["generation.made"] == 48
    assert leg.counts["verdict.made"] == 48
    assert leg.execution == {"engine": "scripted"}
    assert manifest.versions["tseval"]
    assert Counter(record["kind"] for record in journalled(out)) == {
        "generation": 48,
        "verdict": 48,
        "row": 48,
    }
    card = RunFolder.load(out).scorecard()
    assert [score.n for score in card.scores] == [24, 24, 24]
    assert {score.fingerprint for score in card.scores} == set(card.protocols)


def test_the_journal_alone_says_which_rollout_and_verdict_belong_to_which_prompt(
    tmp_path: Path, plain: Registry
) -> None:
    out = tmp_path / "run"
    go(out, plain, backend=ScriptedBackend())
    by_key = {record["key"]: record for record in journalled(out)}
    rows = [record["data"] for record in journalled(out) if record["kind"] == "row"]
    assert len({(row["benchmark"], row["sample"], row["rollout"]) for row in rows}) == 48
    for row in rows:
        assert row["prompt"]
        assert by_key[row["generation"]]["kind"] == "generation"
        assert by_key[row["verdicts"]["refusal-rules"]]["kind"] == "verdict"


@pytest.mark.parametrize("options", [{"max_outstanding": 1}, {"max_outstanding": 64}])
def test_scores_do_not_depend_on_the_order_in_which_samples_finish(
    tmp_path: Path, plain: Registry, options: dict[str, Any]
) -> None:
    class Shuffled(ScriptedBackend):
        async def _turn(self, request: Any) -> None:
            await asyncio.sleep(request.seed % 7 / 2000)
            await super()._turn(request)

    what = spec(rollouts=3)
    go(tmp_path / "a", plain, what, backend=ScriptedBackend(thinking))
    go(tmp_path / "b", plain, what, backend=Shuffled(thinking, **options))
    assert scores_of(tmp_path / "a") == scores_of(tmp_path / "b")


def test_a_complete_run_that_is_run_again_asks_nothing_and_changes_nothing(
    tmp_path: Path, plain: Registry
) -> None:
    out = tmp_path / "run"
    go(out, plain, backend=ScriptedBackend())
    scores, records = scores_of(out), journalled(out)
    backend = ScriptedBackend()
    _, shown = go(out, plain, backend=backend)
    assert shown.remarks[0] == f"resuming {out} (complete)"
    assert backend.calls == 0
    assert scores_of(out) == scores
    assert journalled(out) == records
    assert [leg.counts.get("generation.made", 0) for leg in manifest_of(out).legs] == [48, 0]


def test_benchmarks_that_ask_the_same_pay_once(tmp_path: Path, plain: Registry) -> None:
    twin = PromptBenchmark(
        msgspec.structs.replace(plain.benchmarks["quick_benign"].card, name="twin")
    )
    registry = load_registry(extra=[Plugin(twin)])  # type: ignore[arg-type]
    backend = ScriptedBackend()
    outcome, _ = go(
        tmp_path / "run", registry, spec(benchmarks=("quick_benign", "twin")), backend=backend
    )
    first, second = outcome.scorecard.scores
    assert backend.calls == 24
    assert first.estimate == second.estimate
    assert first.fingerprint != second.fingerprint


def test_hooks_are_told_of_the_run_and_of_each_new_rollout(tmp_path: Path) -> None:
    plugin = Plugin()
    registry = load_registry(extra=[plugin])
    go(tmp_path / "run", registry, backend=ScriptedBackend())
    assert plugin.told == ["started running", *["rollout"] * 48, "finished 3"]
    plugin.told.clear()
    go(tmp_path / "run", registry, backend=ScriptedBackend())
    assert plugin.told == ["started running", "finished 3"]


# -- what ends a benchmark


async def _bug(session: Session) -> None:
    raise KeyError("column")


async def _no_data(session: Session) -> None:
    raise DataError("no rows", hint="get some")


async def _nothing(session: Session) -> None:
    pass


async def _group_of_bugs(session: Session) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_bug(session))


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (_bug, "KeyError: 'column'"),
        (_no_data, "no rows\nhint: get some"),
        (_group_of_bugs, "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)"),
    ],
)
def test_what_a_benchmark_raises_ends_that_benchmark_only(
    tmp_path: Path, work: Any, reason: str
) -> None:
    out = tmp_path / "run"
    registry = load_registry(extra=[Plugin(Bench("broken", work))])
    what = spec(benchmarks=("quick_benign", "broken"))
    outcome, shown = go(out, registry, what, backend=ScriptedBackend())
    assert outcome.exit_code == 1
    assert outcome.scorecard.failed == {"broken": reason}
    assert [score.benchmark for score in outcome.scorecard.scores] == ["quick_benign"]
    assert manifest_of(out).status == "incomplete"
    assert f"broken: {reason}" in shown.remarks
    traced = any("test_runner.py" in remark for remark in shown.remarks)
    assert traced is (work is not _no_data)


def test_a_suite_is_not_averaged_over_what_is_left_of_it(tmp_path: Path) -> None:
    what = spec(benchmarks=("quick_benign", "other", "broken"), suites=("mine",))

    def averages(out: str, *broken: Bench) -> list[str]:
        plugin = Plugin(Bench("other", _nothing), *broken)
        plugin.suites = (Suite(name="mine", title="Mine", summary="", benchmarks=what.benchmarks),)
        outcome, _ = go(
            tmp_path / out, load_registry(extra=[plugin]), what, backend=ScriptedBackend()
        )
        return [score.metric for score in outcome.scorecard.scores if score.group == "average"]

    assert averages("broken", Bench("broken", _no_data)) == []
    assert averages("whole", Bench("broken", _nothing)) == ["orr"]


def test_a_benchmark_that_the_backend_cannot_run_is_skipped_with_the_reason(
    tmp_path: Path,
) -> None:
    async def needs(session: Session) -> None:
        session.require("hidden_states", "logprobs")

    registry = load_registry(extra=[Plugin(Bench("probe", needs))])
    backend = ScriptedBackend(capabilities=Capabilities())
    outcome, _ = go(
        tmp_path / "run", registry, spec(benchmarks=("quick_benign", "probe")), backend=backend
    )
    assert outcome.exit_code == CapabilityMissing.exit_code == 5
    (why,) = outcome.scorecard.skipped.values()
    assert why.startswith("backend 'scripted' lacks hidden_states, logprobs\nhint: ")
    assert [score.n for score in outcome.scorecard.scores] == [24]


# -- what ends a run


class Dying(ScriptedBackend):
    """Gone for good after some requests."""

    def __init__(self, after: int, error: Exception | None = None) -> None:
        super().__init__(thinking, max_outstanding=4)
        self.after, self.error = after, error or BackendUnavailable("the server is gone")

    async def _turn(self, request: Any) -> None:
        await super()._turn(request)
        if self.calls > self.after:
            raise self.error


def test_a_backend_that_is_gone_ends_the_run_which_resumes(tmp_path: Path, plain: Registry) -> None:
    out = tmp_path / "run"
    with pytest.raises(BackendUnavailable, match="the server is gone"):
        go(out, plain, backend=Dying(20))
    manifest = manifest_of(out)
    assert manifest.status == "failed"
    assert not (out / "scores.json").exists()
    made = Counter(record["kind"] for record in journalled(out))["generation"]
    assert 20 - 4 < made <= 20  # all but what was in flight
    backend = ScriptedBackend(thinking)
    go(out, plain, backend=backend)
    assert backend.calls == 48 - made
    go(tmp_path / "whole", plain, backend=ScriptedBackend(thinking))
    assert scores_of(out) == scores_of(tmp_path / "whole")


def test_a_backend_that_is_gone_is_found_in_the_group_of_a_benchmark(tmp_path: Path) -> None:
    async def groups(session: Session) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.generate("x"))

    registry = load_registry(extra=[Plugin(Bench("groups", groups))])
    with pytest.raises(BackendUnavailable, match="the server is gone"):
        go(tmp_path / "run", registry, spec(benchmarks=("groups",)), backend=Dying(0))


def test_a_model_that_does_not_load_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, plain: Registry
) -> None:
    class Unloadable(ScriptedBackend):
        async def start(self, report: Report) -> Subject:
            raise BackendUnavailable("no such file")

    out = tmp_path / "run"
    with pytest.raises(BackendUnavailable, match="no such file"):
        go(out, plain, backend=Unloadable())
    assert manifest_of(out).status == "failed"
    go(out, plain, backend=ScriptedBackend())
    assert manifest_of(out).status == "complete"


def test_cancelling_a_run_leaves_it_interrupted_and_resumable(
    tmp_path: Path, plain: Registry
) -> None:
    out = tmp_path / "run"

    async def interrupted() -> None:
        backend = ScriptedBackend(thinking, delay=0.1, max_outstanding=4)
        task = asyncio.create_task(run(spec(), plain, Shown(), out=out, backend=backend))
        while backend.calls < 8:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.running == 0
        assert len(asyncio.all_tasks()) == 1

    finish(interrupted())
    assert manifest_of(out).status == "interrupted"
    go(out, plain, backend=ScriptedBackend(thinking))
    go(tmp_path / "whole", plain, backend=ScriptedBackend(thinking))
    assert scores_of(out) == scores_of(tmp_path / "whole")


def test_a_full_disk_ends_the_run_and_loses_nothing(
    tmp_path: Path, plain: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tseval.journal import Journal

    out, written = tmp_path / "run", Counter[str]()
    write = Journal._write

    def until_full(self: Journal, line: bytes) -> int:
        written["lines"] += 1
        if written["lines"] > 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, line)

    with monkeypatch.context() as full:
        full.setattr(Journal, "_write", until_full)
        with pytest.raises(JournalError, match="No space left on device"):
            go(out, plain, backend=ScriptedBackend(thinking))
    assert manifest_of(out).status == "failed"
    assert len(journalled(out)) == 50
    go(out, plain, backend=ScriptedBackend(thinking))
    go(tmp_path / "whole", plain, backend=ScriptedBackend(thinking))
    assert scores_of(out) == scores_of(tmp_path / "whole")


def test_a_run_that_another_process_is_writing_is_left_alone(
    tmp_path: Path, plain: Registry
) -> None:
    from tseval.journal import Journal

    out = tmp_path / "run"
    go(out, plain, backend=ScriptedBackend())
    before = (out / "run.json").read_bytes()
    holder = Journal.open(out / "journal")
    with pytest.raises(JournalError, match="another process is writing"):
        go(out, plain, backend=ScriptedBackend())
    holder.close()
    assert (out / "run.json").read_bytes() == before


# -- failures of single requests


class Flaky(ScriptedBackend):
    """Fails for some seeds, as long as it is told to."""

    def __init__(self, share: float) -> None:
        def fail(request: CompletionRequest) -> None:
            if request.seed % 1000 < 1000 * share:
                raise RequestFailed("server said 500", kind="server")

        super().__init__(thinking, fail=fail)


@pytest.mark.parametrize(("share", "exit_code"), [(0.02, 0), (0.3, 5)])
def test_failed_requests_are_counted_and_retried_by_the_same_command(
    tmp_path: Path, plain: Registry, share: float, exit_code: int
) -> None:
    out, what = tmp_path / "run", spec(rollouts=4)
    outcome, _ = go(out, plain, what, backend=Flaky(share))
    lost = sum(s.excluded.get("error", 0) for s in outcome.scorecard.scores if s.metric != "orr")
    assert lost > 0
    for score in outcome.scorecard.scores:
        assert score.n + sum(score.excluded.values()) == 96
    assert outcome.exit_code == exit_code
    # Whatever the exit code: the same command, without --out even, takes it up again.
    assert manifest_of(out).status == "incomplete"
    backend = ScriptedBackend(thinking)
    go(out, plain, what, backend=backend)
    assert 0 < backend.calls < 192
    assert manifest_of(out).status == "complete"
    go(tmp_path / "whole", plain, what, backend=ScriptedBackend(thinking))
    assert scores_of(out) == scores_of(tmp_path / "whole")


def test_rows_without_room_are_counted_apart_and_written_down(
    tmp_path: Path, plain: Registry
) -> None:
    out = tmp_path / "run"
    outcome, _ = go(
        out,
        plain,
        spec(benchmarks=("quick_benign",)),
        backend=ScriptedBackend(context_length=256 + 8 + 85),
    )
    [score] = outcome.scorecard.scores
    assert score.excluded["overlong"] > 0
    assert score.n + score.excluded["overlong"] == 24
    rows = [record["data"] for record in journalled(out) if record["kind"] == "row"]
    assert sum(row["failed"] == "overlong" for row in rows) == score.excluded["overlong"]


def test_the_share_of_lost_verdicts_counts_every_row_once(tmp_path: Path, plain: Registry) -> None:
    columns = Columns(id="id", group="group")
    card = msgspec.structs.replace(
        plain.benchmarks["harmbench"].card,
        name="parts",
        local=(columns,),
        source=Source(hub="none/none", columns=columns),
        expected_rows=7,
        content_hash="",
    )
    groups = ["standard"] * 6 + ["contextual"]
    rows = [{"prompt": f"p {n}", "id": str(n), "group": group} for n, group in enumerate(groups)]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    registry = load_registry(extra=[Plugin(PromptBenchmark(card))])  # type: ignore[arg-type]

    def fail(request: CompletionRequest) -> None:
        if request.messages[-1].content == "p 6":
            raise RequestFailed("no")

    what = spec(benchmarks=("parts", "quick_benign"), data_dirs=(str(tmp_path),))
    outcome, _ = go(tmp_path / "run", registry, what, backend=ScriptedBackend(fail=fail))
    shown = [(score.metric, score.group) for score in outcome.scorecard.scores]
    assert ("asr_nonrefusal", "contextual") in shown
    assert ("asr_nonrefusal_substantive", "") in shown
    # Of the benchmark that lost the most: neither its parts nor other readings of its rows count
    # apart, and the benchmark beside it, which lost none, hides nothing.
    assert outcome.lost_share == pytest.approx(1 / 7)


def test_a_benchmark_without_a_single_verdict_is_no_success(
    tmp_path: Path, plain: Registry
) -> None:
    what = spec(text="trace")  # of a model that writes none
    outcome, _ = go(tmp_path / "run", plain, what, backend=ScriptedBackend())
    assert all(score.estimate is None for score in outcome.scorecard.scores)
    assert outcome.exit_code == 5


def test_cut_answers_and_open_traces_are_counted_and_failures_say_why(
    tmp_path: Path, plain: Registry
) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.seed % 4 == 0:
            raise RequestFailed("the lights went out")

    cut = spec(sampling=Sampling(answer_tokens=5), answer_tokens_fixed=True)
    outcome, _ = go(tmp_path / "cut", plain, cut, backend=ScriptedBackend(fail=fail))
    for score in outcome.scorecard.scores:
        assert score.truncated_share == pytest.approx(score.n / 24)
        assert score.unclosed_share == 0
    assert any(
        "of them: the lights went out" in warning for warning in outcome.folder.manifest.warnings
    )

    unclosed = spec(thinking=Thinking(budget=3, unclosed="judge-trace"))
    rambling = ScriptedBackend(thinking, view=TAGS_VIEW)
    outcome, _ = go(tmp_path / "open", plain, unclosed, backend=rambling)
    assert {score.unclosed_share for score in outcome.scorecard.scores} == {1.0}


def test_a_budget_that_the_context_cuts_is_noted(tmp_path: Path, plain: Registry) -> None:
    short = ScriptedBackend(thinking, view=TAGS_VIEW, context_length=3000)
    outcome, _ = go(tmp_path / "run", plain, backend=short)
    assert any("short-budget in 24 of 24" in w for w in outcome.folder.manifest.warnings)


# -- models of judges


def always(text: str) -> Callable[[Call], str]:
    def script(call: Call) -> str:
        return text

    script.__qualname__ = f"always_{text}"
    return script


def test_judges_with_models_on_the_subjects_device_take_turns_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that stalls for seconds looks like a device that nobody uses.
    monkeypatch.setitem(Scheduler.__init__.__kwdefaults__, "patience_seconds", 600.0)
    target = ScriptedBackend(mixed, name="t", devices=("cuda:0",), max_outstanding=4)
    first = ScriptedBackend(always("sorry"), name="g1", devices=("cuda:0",))
    second = ScriptedBackend(always("fine"), name="g2", devices=("cuda:0",))
    plugin = Plugin(judges=(AskingJudge(),), g1=first, g2=second)
    out, what = tmp_path / "run", spec(judges=("asking@g1", "asking@g2", "refusal-rules"))
    outcome, shown = go(out, load_registry(extra=[plugin]), what, backend=target)
    rates = {
        (score.metric, score.judge): score.estimate.value
        for score in outcome.scorecard.scores
        if score.estimate is not None
    }
    assert rates["orr", "asking@g1"] == 1
    assert rates["orr", "asking@g2"] == 0
    assert rates["asr_nonrefusal", "asking@g1"] == 0
    assert rates["asr_nonrefusal", "asking@g2"] == 1
    assert 0 < rates["orr", "refusal-rules"] < 1
    assert target.calls == 48
    assert manifest_of(out).legs[0].swaps == 2
    assert [backend.starts for backend in (target, first, second)] == [1, 2, 2]
    assert any(remark.startswith("swapped in judge asking@g1") for remark in shown.remarks)

    # Judged again by others, nothing is generated again.
    target.calls = first.calls = second.calls = 0
    go(out, load_registry(extra=[plugin]), what, backend=target)
    assert target.calls == first.calls == second.calls == 0


def test_a_judges_model_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for name in ("g1", "g2"):
        backend = ScriptedBackend(always("fine"), name=name)
        registry = load_registry(extra=[Plugin(judges=(AskingJudge(),), guard=backend)])
        outcome, _ = go(
            tmp_path / name,
            registry,
            spec(benchmarks=("quick_benign",), judges=("asking@guard",)),
            backend=ScriptedBackend(),
        )
        prints |= {score.fingerprint for score in outcome.scorecard.scores}
    assert len(prints) == 2


def test_an_unknown_judge_is_said_before_a_model_is_loaded(tmp_path: Path, plain: Registry) -> None:
    backend = ScriptedBackend()
    with pytest.raises(UnknownName, match="unknown judge 'refusal-rule'"):
        go(tmp_path / "run", plain, spec(judges=("refusal-rule",)), backend=backend)
    assert backend.starts == 0
    assert not (tmp_path / "run").exists()


# -- resuming what is no longer the same


def test_a_model_that_has_changed_since_is_refused(tmp_path: Path, plain: Registry) -> None:
    out = tmp_path / "run"
    go(out, plain, backend=ScriptedBackend(mixed, name="a"))
    scores, records = scores_of(out), journalled(out)
    with pytest.raises(ConfigError) as refused:
        go(out, plain, backend=ScriptedBackend(mixed, name="b"))
    assert refused.value.message == "the model has changed since this run began (name)"
    assert refused.value.hint == "start another run with --fresh"
    assert scores_of(out) == scores
    assert journalled(out) == records


def test_a_run_resumes_in_the_precision_that_it_began_with(tmp_path: Path) -> None:
    made: list[ModelSpec] = []

    class Precise(ScriptedBackend):
        async def start(self, report: Report) -> Subject:
            made.append(self.spec)
            subject = await super().start(report)
            dtype = self.spec.options.get("dtype", "bfloat16")
            return msgspec.structs.replace(subject, execution={"dtype": dtype})

    class Making:
        @hookimpl
        def register_backends(self, register: Any) -> None:
            def create(spec: ModelSpec) -> ScriptedBackend:
                backend = Precise()
                backend.spec = spec
                return backend

            register(
                BackendFactory(
                    name="precise", summary="x", capabilities=Capabilities(), create=create
                )
            )

    registry = load_registry(extra=[Making()])
    model = ModelSpec(backend="precise", name="x", options={"dtype": "float32"})
    what = RunSpec(model=model, benchmarks=("quick_benign",))
    go(tmp_path / "run", registry, what)
    go(
        tmp_path / "run",
        registry,
        msgspec.structs.replace(what, model=ModelSpec(backend="precise", name="x")),
    )
    assert [spec.options.get("dtype") for spec in made] == ["float32", "float32"]


# -- which folder


def begun(path: Path, what: RunSpec, status: Any, age: int = 0) -> Path:
    (path / "journal").mkdir(parents=True)
    (path / "journal" / "00000.jsonl").write_text("{}\n")
    RunFolder(path, Manifest(spec=what, spec_hash=what.hash, status=status)).save()
    when = 1_700_000_000 - age
    os.utime(path / "run.json", (when, when))
    return path


def test_the_newest_incomplete_run_of_the_same_specification_is_resumed(tmp_path: Path) -> None:
    begun(tmp_path / "old", spec(), "running", age=100)
    begun(tmp_path / "done", spec(), "complete")
    begun(tmp_path / "other", spec(seed=1), "running")
    newer = begun(tmp_path / "newer", spec(), "interrupted", age=50)
    found, said = choose_folder(spec(), tmp_path, fresh=False)
    assert found.path == newer
    assert said == f"resuming {newer} (interrupted)"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_new_run_is_begun_where_none_can_be_resumed_or_none_shall(
    tmp_path: Path, fresh: bool
) -> None:
    begun(tmp_path / "a", spec(), "running" if fresh else "complete")
    begun(tmp_path / "b", spec(seed=1), "running")
    found, said = choose_folder(spec(), tmp_path, fresh=fresh)
    assert found.path.parent == tmp_path
    assert found.path.name not in ("a", "b")
    assert said == f"new run in {found.path}"


def test_without_a_folder_runs_go_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, _ = choose_folder(spec(suites=("quick",)), None, fresh=False)
    assert found.path.parent == Path("runs")
    assert "scripted-quick" in found.path.name
    found.save()
    again, said = choose_folder(spec(suites=("quick",)), None, fresh=False)
    assert again.path == found.path
    assert said == f"resuming {found.path} (running)"
    other, _ = choose_folder(spec(suites=("quick",)), None, fresh=True)
    assert other.path != found.path


def test_a_folder_given_by_name_is_the_run_itself(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    found, said = choose_folder(spec(), out, fresh=False)
    assert (found.path, said) == (out, f"new run in {out}")
    found.save()
    for status in ("running", "complete"):
        found.manifest.status = status  # type: ignore[assignment]
        found.save()
        again, said = choose_folder(spec(), out, fresh=False)
        assert (again.path, said) == (out, f"resuming {out} ({status})")


def test_a_folder_in_which_nothing_was_recorded_is_taken_over(tmp_path: Path) -> None:
    out = begun(tmp_path / "run", spec(seed=1), "failed")
    (out / "journal" / "00000.jsonl").write_text("")
    folder, said = choose_folder(spec(seed=2), out, fresh=False)
    assert folder.manifest.spec.seed == 2
    assert "new run" in said


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"seed": 5}, "seed: 0 there, 5 here"),
        ({"limit": 3}, "limit: null there, 3 here"),
        ({"sampling": Sampling(temperature=1)}, "sampling.temperature: 0.6 there, 1 here"),
        ({"seed": 5, "rollouts": 2}, "rollouts: 1 there, 2 here; seed: 0 there, 5 here"),
    ],
)
def test_a_folder_that_holds_another_specification_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], shown: str
) -> None:
    out = begun(tmp_path / "run", spec(), "running")
    with pytest.raises(ConfigError) as refused:
        choose_folder(spec(**changes), out, fresh=False)
    assert refused.value.exit_code == 2
    assert refused.value.message.startswith(f"{out} holds a run of another specification (")
    assert shown in refused.value.message
    assert refused.value.hint == "give another --out, or the flags of that run"


def test_how_a_model_is_run_may_differ_between_two_legs_but_not_its_format(tmp_path: Path) -> None:
    def on(**options: str) -> RunSpec:
        model = ModelSpec(backend="scripted", options=options)
        return RunSpec(model=model, benchmarks=QUICK)

    out = begun(tmp_path / "run", on(delay="1", format="tags"), "running")
    choose_folder(on(delay="2", format="tags"), out, fresh=False)
    with pytest.raises(ConfigError, match=r"model\.options\.format: "):
        choose_folder(on(delay="1"), out, fresh=False)


def test_fresh_never_touches_a_run(tmp_path: Path) -> None:
    out = begun(tmp_path / "run", spec(), "complete")
    with pytest.raises(ConfigError, match="holds a run already") as refused:
        choose_folder(spec(), out, fresh=True)
    assert refused.value.hint == "give --fresh another --out, or none"


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        choose_folder(spec(), tmp_path, fresh=False)


@pytest.mark.parametrize("left", [[], ["journal"], ["journal", "run.tmp"]])
def test_what_a_process_left_that_was_killed_at_its_start_is_no_obstacle(
    tmp_path: Path, plain: Registry, left: list[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        if name == "journal":
            (out / name).mkdir()
            (out / name / "lock").touch()
        else:
            (out / name).write_text('{"half": ')
    outcome, _ = go(out, plain, backend=ScriptedBackend())
    assert outcome.exit_code == 0


def test_folders_that_are_no_runs_or_newer_ones_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "run.json").write_text('{"what": "is this"}')
    newer = begun(tmp_path / "newer", spec(), "running")
    text = (newer / "run.json").read_text()
    (newer / "run.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    mine = begun(tmp_path / "mine", spec(), "running", age=1000)
    assert choose_folder(spec(), tmp_path, fresh=False)[0].path == mine
    with pytest.raises(ConfigError, match="has schema 2, this tseval reads 1"):
        choose_folder(spec(), newer, fresh=False)


def test_the_scorecard_of_an_unfinished_run_says_what_to_do(tmp_path: Path) -> None:
    out = begun(tmp_path / "run", spec(), "interrupted")
    with pytest.raises(ConfigError) as refused:
        RunFolder.load(out).scorecard()
    assert refused.value.message == f"{out} has no scores yet (status: interrupted)"
    assert refused.value.hint == "run the same `tseval run` command again: it resumes"


@pytest.mark.parametrize(
    ("excluded", "again"),
    [
        ({}, False),
        ({"thinking: empty": 3, "replay: unparsed": 1}, False),
        ({"thinking: judge error": 1}, True),
        ({"replay: error": 2}, True),
        ({"replay: error": 0}, False),
    ],
)
def test_answers_that_failed_inside_a_probe_leave_a_run_to_be_resumed(
    excluded: dict[str, int], again: bool
) -> None:
    found = Measurement(probe="think_flip", title="", excluded=excluded)
    assert mendable([], [found]) is again


@pytest.mark.parametrize(
    ("verdicts", "again"), [({"ok": 9, "unparsed": 1}, False), ({"error": 1}, True)]
)
def test_a_verdict_of_a_probe_that_failed_leaves_a_run_to_be_resumed(
    verdicts: dict[str, int], again: bool
) -> None:
    found = Measurement(probe="valley", title="", verdicts=verdicts)
    assert mendable([], [found]) is again


def test_what_a_probe_lost_is_counted_in_verdicts_and_not_in_prompts() -> None:
    registry = load_registry()
    # 5 of 960 answers: of the 80 traces that the score counts they would seem 6 in a hundred.
    few = Score(benchmark="prefix_commitment", metric="settled", n=80, excluded={"error": 5})
    found = Measurement(
        probe="prefix_commitment", title="", verdicts={"ok": 955, "error": 2, "unparsed": 3}
    )
    assert lost_shares([few], registry, [found]) == (5 / 960, 2 / 960)
    # And a judge that says nothing of a third of them is not hidden by prompts that have a label.
    many = msgspec.structs.replace(found, verdicts={"ok": 640, "unparsed": 320})
    assert lost_shares([few], registry, [many]) == (pytest.approx(1 / 3), 0)
