"""Plans of scripted models: what is counted, what is looked at, and what cannot be known."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.sessions import finish, registry
from tseval import forecast
from tseval.cards import ProbeCard
from tseval.errors import ConfigError, DataError
from tseval.forecast import plan
from tseval.hookspecs import hookimpl
from tseval.pace import Range
from tseval.pilot import Watch
from tseval.pilot_log import Log
from tseval.planning import Plan
from tseval.plugins import load_registry
from tseval.report.judges import markdown_page
from tseval.report.plan import amount, clock, plan_page
from tseval.requests import Capabilities, ModelSpec
from tseval.runner import run
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.testing import TAGS_VIEW, ScriptedBackend, thinking
from tseval.types import BenchmarkSize, Sampling, Thinking

QUICK = ("quick_harmful", "quick_benign")


class Quiet:
    """A display that keeps remarks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Session) -> None: ...

    def remark(self, message: str) -> None:
        self.remarks.append(message)


def spec(name: str = "thinking", **more: Any) -> RunSpec:
    more.setdefault("benchmarks", QUICK)
    more.setdefault("thinking", Thinking(budget=400))
    return RunSpec(model=ModelSpec(backend="scripted", name=name), **more)


def planned(wanted: RunSpec, tmp_path: Path, seconds: float = 60, **more: Any) -> Plan:
    more.setdefault("out", tmp_path / "none")
    return finish(plan(wanted, registry(), Quiet(), **more), seconds)


def made(wanted: RunSpec, folder: Path, seconds: float = 60) -> dict[str, Any]:
    """Run it, and return what the first leg counted."""
    finish(run(wanted, registry(), Quiet(), out=folder), seconds)
    leg: dict[str, Any] = json.loads((folder / "run.json").read_text())["legs"][0]
    return leg


def test_a_pilot_tells_the_tokens_of_the_run(tmp_path: Path) -> None:
    wanted = spec(rollouts=4)
    found = planned(wanted, tmp_path, pilot=8)
    took = made(wanted, tmp_path / "run")["counts"]["tokens"]
    assert found.tokens is not None
    assert found.tokens.low <= took <= found.tokens.high
    assert found.tokens.value == pytest.approx(took, rel=0.25)
    assert (found.prompts, found.rollouts) == (48, 192)
    assert [(each.looked_at, each.source) for each in found.benchmarks] == [(8, "pilot")] * 2
    assert found.pilot_seconds is not None
    assert not list((tmp_path).glob("none*"))


def test_a_pilot_of_every_row_knows_the_tokens(tmp_path: Path) -> None:
    wanted = spec()
    found = planned(wanted, tmp_path, pilot=24)
    took = made(wanted, tmp_path / "run")["counts"]["tokens"]
    assert found.tokens is not None
    assert (found.tokens.low, found.tokens.value, found.tokens.high) == (took, took, took)


def test_the_time_of_a_slow_model_is_told_from_a_pilot(tmp_path: Path) -> None:
    slow = lambda: ScriptedBackend(  # noqa: E731
        thinking, view=TAGS_VIEW, delay=0.4, max_outstanding=8
    )
    wanted = spec(rollouts=2)
    found = planned(wanted, tmp_path, pilot=8, backend=slow())
    finish(run(wanted, registry(), Quiet(), out=tmp_path / "run", backend=slow()))
    took = json.loads((tmp_path / "run" / "run.json").read_text())["legs"][0]["seconds"]
    # 96 rollouts, 8 at once, 0.4 s each: 4.8 s, and whatever else the machine is doing.
    assert found.seconds is not None
    assert found.seconds.value is not None
    assert 0.1 < found.seconds.value / took < 10
    assert found.pace is not None
    assert found.pace.concurrent == found.pace.wanted == 8


def test_without_a_model_tokens_are_bounded_by_the_limits(tmp_path: Path) -> None:
    found = planned(spec(rollouts=2), tmp_path, pilot=0)
    each = found.benchmarks[0]
    assert each.tokens is not None
    # 24 prompts, twice, 400 of the trace and 256 of the card's answer.
    assert (each.tokens.value, each.tokens.low, each.tokens.high) == (None, 0, 48 * 656)
    assert (each.source, each.looked_at, each.seconds) == ("limits", 0, None)
    assert found.seconds is None
    assert any("tokens are bounds" in note for note in found.notes)
    assert any("time is not known" in note for note in found.notes)


def test_thinking_that_is_off_has_no_budget(tmp_path: Path) -> None:
    found = planned(spec(thinking=Thinking(mode="off")), tmp_path, pilot=0)
    assert found.benchmarks[0].tokens is not None
    assert found.benchmarks[0].tokens.high == 24 * 256


def test_an_earlier_run_of_the_same_model_is_taken_instead_of_a_pilot(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    took = made(spec(limit=16), runs / "old")["counts"]["tokens"]
    found = planned(spec(seed=5), tmp_path, out=runs)
    assert (found.earlier_run, found.pilot_seconds) == (str(runs / "old"), None)
    assert [each.source for each in found.benchmarks] == ["earlier run"] * 2
    assert found.tokens is not None
    assert found.tokens.low < took * 24 / 16 < found.tokens.high
    assert found.pace is not None
    assert found.pace.source == "earlier run"


def test_an_earlier_run_that_lacks_a_benchmark_is_taken_only_if_it_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made(spec(benchmarks=("quick_harmful",)), runs / "old")
    assert planned(spec(), tmp_path, out=runs, pilot=None).earlier_run == ""
    found = planned(spec(), tmp_path, earlier=runs / "old")
    harmful, benign = found.benchmarks
    assert (harmful.source, harmful.looked_at) == ("earlier run", 24)
    # Nothing benign was looked at: nobody knows how long answers to it are.
    assert (benign.source, benign.looked_at) == ("limits", 0)
    assert found.tokens is not None
    assert found.tokens.value is None


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    made(spec("mixed"), tmp_path / "old")
    with pytest.raises(ConfigError, match="name: mixed there, thinking here"):
        planned(spec(), tmp_path, earlier=tmp_path / "old")


def test_the_speed_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    made(spec(), tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "run.json").read_text())
    manifest["versions"]["platform"] = "CP/M"
    (tmp_path / "old" / "run.json").write_text(json.dumps(manifest))
    found = planned(spec(), tmp_path, earlier=tmp_path / "old")
    assert found.pace is None
    assert found.seconds is None
    assert "the earlier run was made on another machine: its speed says nothing here" in found.notes
    assert found.benchmarks[0].source == "earlier run"


def test_a_larger_limit_leaves_room_for_what_was_cut_off(tmp_path: Path) -> None:
    short = spec(
        thinking=Thinking(mode="off"), sampling=Sampling(answer_tokens=5), answer_tokens_fixed=True
    )
    made(short, tmp_path / "old")
    found = planned(spec(thinking=Thinking(mode="off")), tmp_path, earlier=tmp_path / "old")
    each = found.benchmarks[0]
    assert each.tokens is not None
    assert each.tokens.low <= 24 * 5
    assert each.tokens.high == 24 * 256


def test_members_of_a_panel_are_counted_and_the_panel_is_not(tmp_path: Path) -> None:
    panel = "panel(refusal-rules,refusal-strings; vote>=2)"
    names = sorted(registry().judges)
    if "refusal-strings" not in names:
        panel = "panel/ri2026"
    found = planned(spec(judges=(panel,), rollouts=3), tmp_path, pilot=0)
    assert panel not in [each.judge for each in found.judges]
    assert all(each.panels == (panel,) for each in found.judges)
    assert [each.calls for each in found.judges] == [48 * 3] * len(found.judges)
    assert len(found.judges) >= 2


def test_a_checker_of_answers_counts_as_a_judge(tmp_path: Path, mirror: Path) -> None:
    wanted = spec(benchmarks=("gsm8k",), limit=20, rollouts=2, data_dirs=(str(mirror),))
    (each,) = planned(wanted, tmp_path, pilot=0).benchmarks
    assert [(one.judge, one.calls) for one in each.judges] == [("math", 40)]
    assert [(one.on, one.prompts) for one in each.resolution] == [("question", 20)]


def test_what_can_be_told_apart_is_said_by_class_and_by_independent_prompts(
    tmp_path: Path, mirror: Path
) -> None:
    wanted = spec(benchmarks=("xstest", "harmbench_thinksafe"), data_dirs=(str(mirror),))
    xstest, harmbench = planned(wanted, tmp_path, pilot=0).benchmarks
    assert [(one.on, one.prompts) for one in xstest.resolution] == [
        ("benign", 250),
        ("harmful", 200),
    ]
    # Its 602 rows are 301 prompts, each asked in two ways or given twice.
    (found,) = harmbench.resolution
    assert harmbench.prompts == 602
    assert found.prompts == 301
    assert found.paired_worst is not None
    assert found.paired_typical is not None
    assert found.paired_typical < found.paired_worst < 0.12


def test_data_that_is_gated_or_missing_is_named_with_the_page_to_ask(tmp_path: Path) -> None:
    wanted = spec(benchmarks=("wildjailbreak", "quick_benign"), limit=10)
    found = planned(wanted, tmp_path, pilot=4)
    gated, there = found.benchmarks
    assert gated.gated
    assert gated.page == "https://huggingface.co/datasets/allenai/wildjailbreak"
    assert "wildjailbreak" in gated.missing
    assert (gated.prompts, there.missing, found.complete) == (10, "", False)
    # The pilot looked at what is there, and totals are of that alone.
    assert there.source == "pilot"
    assert found.tokens == there.tokens
    text = markdown_page(plan_page(found))
    assert "ask for access at https://huggingface.co/datasets/allenai/wildjailbreak" in text


class Coded:
    """A benchmark in code; ``Sized`` also says how much it will ask."""

    def __init__(self, name: str) -> None:
        card = registry().benchmarks["quick_harmful"].card
        self.card = msgspec.structs.replace(card, name=name)

    async def run(self, session: Session) -> list[Any]:
        raise AssertionError("a plan runs no benchmark of its own accord")


class Sized(Coded):
    def size(self, spec: RunSpec) -> BenchmarkSize:
        return BenchmarkSize(
            prompts=7,
            independent={"harmful": 6},
            generations=7 * spec.rollouts,
            continuations=21,
            judged=28,
            hidden_states=14,
            loglikelihoods=35,
            answer_tokens=10,
            trace_tokens=50,
        )


class Stanced(Sized):
    def __init__(self, name: str) -> None:
        self.card = ProbeCard(
            name=name, title="T", summary="s", metrics=("oscillation_rate",), stances=True
        )


class Lacking(Coded):
    def size(self, spec: RunSpec) -> BenchmarkSize:
        raise DataError("no rows anywhere", hint="look elsewhere")


class Demanding(Coded):
    async def run(self, session: Session) -> list[Any]:
        session.require("logprobs")
        raise AssertionError("the backend has none")


class InCode:
    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(Coded("coded"))
        register(Sized("sized"))
        register(Lacking("lacking"))
        register(Stanced("stanced"))
        register(Demanding("demanding"))


def in_code(tmp_path: Path, *names: str) -> Plan:
    both = load_registry(extra=[InCode()])
    wanted = spec(benchmarks=names, rollouts=3)
    return finish(plan(wanted, both, Quiet(), out=tmp_path / "none", pilot=0))


def test_a_benchmark_in_code_is_known_only_if_it_says_its_size(tmp_path: Path) -> None:
    found = in_code(tmp_path, "coded", "sized")
    unknown, known = found.benchmarks
    assert (unknown.prompts, unknown.rollouts, unknown.tokens) == (None, None, None)
    assert "coded: how much it asks is known only when it runs" in found.notes
    assert (known.prompts, known.rollouts) == (7, 21)
    # A total that leaves something out would be taken for one that does not.
    assert (found.tokens, found.disk_bytes) == (None, None)


def test_what_a_benchmark_in_code_asks_beside_rollouts_is_told_apart(tmp_path: Path) -> None:
    found = in_code(tmp_path, "sized", "quick_benign")
    known, other = found.benchmarks
    assert known.others == {"continued": 21, "scored": 35, "read": 14}
    assert [(one.judge, one.calls) for one in known.judges] == [("refusal-rules", 28)]
    assert [(one.on, one.prompts) for one in known.resolution] == [("harmful", 6)]
    # 21 rollouts and 21 continued traces, of at most 50 and 10 tokens each.
    assert known.tokens == Range(value=None, low=0.0, high=42 * 60)
    # Nobody knows how wide the states of a model are that was not looked at.
    assert known.disk_bytes is None
    assert other.others == {}
    text = markdown_page(plan_page(found))
    assert "other calls" in text
    assert "21 continued, 35 scored, 14 read" in text


def test_stance_judges_are_counted_by_the_traces_that_they_label(tmp_path: Path) -> None:
    plugins = load_registry(extra=[InCode()])
    asked = "stance-rubric@scripted/thinking"
    wanted = spec(
        benchmarks=("stanced",), stance_judges=(asked, f"stance-panel({asked},stance-rules)")
    )
    found = finish(plan(wanted, plugins, Quiet(), out=tmp_path / "none", pilot=0), 60)
    calls = {one.judge: (one.calls, one.model) for one in found.judges}
    assert calls.pop("refusal-rules") == (28, "")
    # Each trace once, and a panel by its members.
    assert sorted(calls.values()) == [(7, ""), (7, "scripted/thinking")]


def test_several_probes_are_said_to_share_rollouts(tmp_path: Path) -> None:
    both = planned(spec(benchmarks=("first_token", "valley"), scale="smoke"), tmp_path, pilot=0)
    assert both.rollouts == 240
    assert both.notes[-1].startswith("probes share rollouts")
    alone = planned(spec(benchmarks=("valley", *QUICK), scale="smoke"), tmp_path, pilot=0)
    assert not any("share rollouts" in note for note in alone.notes)


def test_the_column_of_other_calls_is_there_only_where_there_are_some(tmp_path: Path) -> None:
    assert "other calls" not in markdown_page(plan_page(in_code(tmp_path, "quick_benign")))


def test_what_a_benchmark_in_code_lacks_is_said(tmp_path: Path) -> None:
    found = in_code(tmp_path, "lacking")
    (each,) = found.benchmarks
    assert (each.missing, each.page, each.prompts) == ("no rows anywhere", "look elsewhere", None)
    assert not found.complete
    assert "no rows anywhere" in markdown_page(plan_page(found))


def test_probes_whose_prompts_cannot_be_read_are_missing(tmp_path: Path) -> None:
    both = load_registry(extra=[InCode()])
    faults = (DataError("no file a", hint="put it there"), DataError("b is gated", hint="ask"))
    found = finish(
        plan(
            spec(benchmarks=("stanced", "quick_benign")),
            both,
            Quiet(),
            out=tmp_path / "none",
            pilot=0,
            unread={"stanced": faults},
        )
    )
    probe, other = found.benchmarks
    assert (probe.missing, probe.page) == ("no file a; b is gated", "put it there; ask")
    assert (other.missing, found.complete) == ("", False)
    assert found.tokens == other.tokens


def test_what_the_backend_cannot_do_is_said_and_left_out_of_the_totals(tmp_path: Path) -> None:
    plain = ScriptedBackend(thinking, view=TAGS_VIEW, capabilities=Capabilities(prefix=True))
    plugins = load_registry(extra=[InCode()])
    wanted = spec(benchmarks=("quick_benign", "sized"))
    found = finish(plan(wanted, plugins, Quiet(), pilot=0, backend=plain, out=tmp_path / "none"))
    able, lacking = found.benchmarks
    assert (able.missing, able.skipped) == ("", False)
    assert lacking.skipped
    assert lacking.missing == (
        "backend 'scripted' lacks hidden_states, logprobs: the benchmark is skipped"
    )
    assert not found.complete
    # 24 rollouts, of 400 and 256 tokens at most: those of the benchmark that runs.
    assert found.tokens is not None
    assert found.tokens.high == 24 * 656
    page = markdown_page(plan_page(found))
    assert re.search(r"\| sized +\| backend +\|", page)
    assert "run it on another backend, for example hf" in page


def test_what_a_pilot_had_to_skip_is_said_as_missing(tmp_path: Path) -> None:
    class Fickle(ScriptedBackend):
        """Finds out what it can do when it is started."""

        async def start(self, report: Any) -> Any:
            self.capabilities = Capabilities()
            return await super().start(report)

    plugins = load_registry(extra=[InCode()])
    wanted = spec(benchmarks=("quick_benign", "demanding"))
    backend = Fickle(thinking, view=TAGS_VIEW)
    found = finish(plan(wanted, plugins, Quiet(), pilot=4, backend=backend, out=tmp_path / "none"))
    able, lacking = found.benchmarks
    assert (able.missing, able.looked_at, able.skipped) == ("", 4, False)
    assert lacking.skipped
    assert lacking.missing == "backend 'scripted' lacks logprobs"
    assert lacking.page == "run it on another backend, for example hf"


def test_a_pilot_is_larger_where_many_rollouts_take_no_longer(tmp_path: Path) -> None:
    server, cpu = ScriptedBackend(max_outstanding=40), ScriptedBackend(devices=("cpu",))
    assert forecast._pilot_rows(server, 1000, 2) == 20
    assert forecast._pilot_rows(server, 1000, 1) == 40
    assert forecast._pilot_rows(server, 1000, 9) == 8
    assert forecast._pilot_rows(cpu, 1000, 1) == 8
    assert forecast._pilot_rows(ScriptedBackend(max_outstanding=999), 10_000, 1) == 64


def test_a_watch_passes_on_what_it_is_told() -> None:
    shown = Quiet()
    watch = Watch(shown, Log(), 0)
    watch.remark("hello")
    assert shown.remarks == ["hello"]


def test_ranges_are_written_with_their_units() -> None:
    assert amount(Range(value=1500, low=900, high=2_000_000)) == "1.5 k [900, 2 M]"
    assert amount(Range(value=None, low=0, high=5e9), "B") == "0 to 5 GB"
    assert clock(Range(value=61, low=1, high=3700)) == "1:01 [0:01, 1:01:40]"
    assert (amount(None), clock(None)) == ("unknown", "unknown")
