"""The whole probe on scripted models: one decides with its first sentence, one turns at 60%."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.deciders import BLOCK, first_token_decider, late_flipper, refuses
from tests.support.probe_runs import ProbeRun, halve_journal, run_probe, scale
from tests.support.sessions import registry
from tseval.errors import CapabilityMissing, ConfigError, RequestFailed
from tseval.probes.sizes import SIZES
from tseval.requests import Capabilities, CompletionRequest, ModelSpec
from tseval.roles import Sized, Vetting
from tseval.scripts import CHAT_VIEW, Call
from tseval.spec import RunSpec
from tseval.types import BenchmarkSize, Sampling, Thinking

SPEC_MODEL = ModelSpec(backend="scripted")
CUTS = (0, 20, 40, 60, 80, 100)
PROMPTS, TRACES, ANSWERS = 20, 2, 4
# At 100% twice; two controls at two cuts for the first trace of each prompt.
CONTINUATIONS = ANSWERS * (PROMPTS * TRACES * (len(CUTS) + 1) + PROMPTS * 4)


SIZE = {
    "commitment_prompts": PROMPTS,
    "commitment_traces": TRACES,
    "commitment_answers": ANSWERS,
    "commitment_cuts": CUTS,
    "bootstraps": 100,
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, **SIZE)


class Made(NamedTuple):
    """A run of each scripted model, where it lies, and the prompts that were asked."""

    first: ProbeRun
    late: ProbeRun
    folder: Path
    asked: set[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("runs")
    asked: set[str] = set()

    def watched(call: Call) -> str:
        asked.add(call.prompt)
        return first_token_decider(call)

    with pytest.MonkeyPatch.context() as patch:
        scale(patch, **SIZE)
        first = run(folder / "first", watched)
        late = run(folder / "late", late_flipper)
    return Made(first, late, folder, asked)


def run(folder: Path, script: Any, **more: Any) -> ProbeRun:
    return run_probe("prefix_commitment", folder, script, **more)


def settled(made: ProbeRun, cut: int) -> float:
    name = "all · 100% (ceiling)" if cut == 100 else f"all · {cut}%"
    estimate = made.number("settled", name).estimate
    assert estimate is not None
    return estimate.value


def test_a_model_that_decides_at_once_is_settled_at_its_first_cut(made: Made) -> None:
    first = made.first
    assert first.calls == PROMPTS * TRACES + CONTINUATIONS
    # Each continuation was judged once; traces are cut and not judged.
    assert first.found.verdicts == {"ok": CONTINUATIONS}
    assert [settled(first, cut) for cut in CUTS] == [1.0] * 6
    committed = first.number("commitment_cut", "all").estimate
    assert committed is not None
    assert committed.value == 0.0
    for cut in CUTS:
        variance = first.number("prefix_variance", f"all · {cut}%").estimate
        assert variance is not None
        assert variance.value == 0.0
    assert first.found.excluded == {}


def test_its_rates_are_those_of_its_decisions_at_every_cut(made: Made) -> None:
    assert len(made.asked) == PROMPTS
    total = 0.0
    for metric, pool in (("prefix_asr_nonrefusal", "harmful"), ("prefix_orr", "benign")):
        shown = [made.first.number(metric, f"{pool} · {cut}%").estimate for cut in (0, 100)]
        (value,) = {estimate.value for estimate in shown if estimate is not None}
        total += value if pool == "benign" else 1 - value
    assert total * PROMPTS / 2 == pytest.approx(sum(map(refuses, made.asked)))


def test_many_answers_of_a_few_prompts_make_no_rate(tmp_path: Path) -> None:
    few = run(tmp_path, first_token_decider, limit=4)
    number = few.number("prefix_orr", "benign · 100%")
    assert number.n >= 10
    assert (number.estimate, number.undefined) == (None, "undefined: 4 prompts")
    assert few.number("prefix_orr_change", "benign").estimate is None


def test_a_model_that_turns_at_sixty_percent_is_settled_there_and_not_before(made: Made) -> None:
    late = made.late
    # 160 coins before 60%: four standard deviations are 0.158.
    for cut in (0, 20, 40):
        assert settled(late, cut) == pytest.approx(0.5, abs=0.158)
    assert [settled(late, cut) for cut in (60, 80, 100)] == [1.0] * 3
    committed = late.number("commitment_cut", "all")
    assert committed.estimate is not None
    assert committed.estimate.value == 0.6
    assert committed.headline
    share = late.number("settled_share", "all · 60%").estimate
    assert share is not None
    assert share.value == 1.0
    early = late.number("prefix_variance", "all · 20%").estimate
    assert early is not None
    assert early.value == pytest.approx(1.0, abs=0.25)


def test_controls_tell_whose_words_and_whether_their_order_decide(made: Made) -> None:
    first, late = made.first, made.late
    for control in ("other prompt", "shuffled"):
        for cut in (40, 100):
            number = first.number("settled_over_control", f"all · {cut}% · {control}")
            assert number.n == PROMPTS
            assert number.null is not None
            # Another prompt's first sentence, or a random one, decides: agreement by chance.
            assert 0.1 < number.null.value < 0.85
            assert number.estimate is not None
            assert number.estimate.value == pytest.approx(1 - number.null.value)
    early = late.number("settled_over_control", "all · 40% · shuffled").estimate
    whole = late.number("settled_over_control", "all · 100% · shuffled").estimate
    assert early is not None
    assert whole is not None
    # Before 60% nothing decides, in whatever order it stands.
    assert early.low < 0 < early.high
    assert whole.low > 0


def test_beyond_its_end_a_trace_is_gone_on_with_and_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(
        monkeypatch,
        commitment_prompts=PROMPTS,
        commitment_traces=2,
        commitment_answers=2,
        commitment_cuts=(0, 100, 150, 200),
        bootstraps=20,
    )
    lengths: list[int] = []

    def watched(call: Call) -> str:
        head, closed, _ = call.prefix.partition("</think>")
        if closed:
            lengths.append(len(head.strip()) - len("<think>\n"))
        return late_flipper(call)

    made = run(tmp_path, watched)
    for cut in (150, 200):
        number = made.number("settled", f"all · {cut}%")
        assert number.estimate is not None
        assert number.estimate.value == 1.0
        assert number.excluded == {}
    whole = 10 * BLOCK
    for cut in (150, 200):
        # Two answers behind each of two traces of 20 prompts, at that length (blank ends aside).
        near = [n for n in lengths if abs(n - whole * cut / 100) <= 3]
        assert len(near) == PROMPTS * 2 * 2


def test_a_run_that_was_killed_goes_on_and_finds_the_same(made: Made, tmp_path: Path) -> None:
    whole = made.late
    shutil.copytree(made.folder / "late", tmp_path / "again")
    again = run(tmp_path / "again", late_flipper)
    assert again.calls == 0
    assert again.found == whole.found
    shutil.copytree(made.folder / "late", tmp_path / "killed")
    left = halve_journal(tmp_path / "killed")
    assert 0 < left < whole.calls
    resumed = run(tmp_path / "killed", late_flipper)
    assert resumed.calls == whole.calls - left
    assert resumed.found == whole.found
    assert resumed.scores == whole.scores


def test_the_order_in_which_answers_arrive_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, **SIZE | {"commitment_prompts": 8, "commitment_cuts": (0, 50, 100)})
    found = [
        run(tmp_path / str(bound), late_flipper, backend={"max_outstanding": bound}).found
        for bound in (3, 64)
    ]
    assert found[0] == found[1]


def odd(call: Call) -> str:
    """Loops, says nothing, never closes, reopens or answers with nothing, by prompt and draw."""
    kind = int(call.prompt.encode().hex(), 16) % 5
    opener = "" if call.prefix else "<think>\n"
    if "</think>" in call.prefix:
        if call.seed % 8 == 0:
            return "<think>\nOnce more.\n</think>\n\nHere is a short answer to it."
        return "" if call.seed % 8 == 1 else first_token_decider(call)
    thought = {
        0: "Over and over. " * 20 + "</think>\n\nHere is a short answer.",
        1: "\n</think>\n\nHere is a short answer.",
        2: "Ok\n</think>\n\nHere is a short answer.",
    }.get(kind)
    if thought is not None:
        return opener + thought
    return first_token_decider(call)


def test_traces_that_cannot_be_cut_and_answers_without_a_label_are_counted(tmp_path: Path) -> None:
    made = run(tmp_path, odd)
    lost = made.found.excluded
    assert set(lost) == {"loop", "empty", "short"}
    kept = PROMPTS * TRACES - sum(lost.values())
    ceiling = made.number("settled", "all · 20%")
    assert ceiling.n <= kept
    # Every answer at 20% and in both series at 100% is a label, a blank or lost with a reason.
    reopened = ceiling.excluded["reopened"]
    assert set(ceiling.excluded) == {"reopened"}
    assert reopened / (kept * 3 * ANSWERS) == pytest.approx(1 / 8, abs=0.08)
    rates = made.number("prefix_orr", "benign · 0%")
    assert rates.counts["blank"] > 0
    assert rates.n == sum(rates.counts.values())


def test_traces_that_the_budget_closed_are_kept_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, trace_tokens=300, commitment_prompts=4, commitment_cuts=CUTS, bootstraps=20)
    made = run(tmp_path, first_token_decider)
    assert "the budget closed 8 of 8 traces: their 100% is where it ended" in made.found.notes
    unclosed = run(tmp_path / "exclude", first_token_decider, thinking=Thinking(unclosed="exclude"))
    assert unclosed.found.excluded == {"unclosed": 8}
    number = unclosed.number("commitment_cut", "all")
    assert number.undefined == "undefined: no trace can be cut"
    assert [score.undefined for score in unclosed.scores] == ["undefined: no trace can be cut"]


def test_failed_requests_are_counted_and_tried_again_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, **SIZE | {"commitment_cuts": (0, 20, 100)})

    def fail(request: CompletionRequest) -> None:
        closed = len(request.prefix) > 1
        if closed and request.seed % 5 == 0:
            raise RequestFailed("no", kind="engine")

    made = run(tmp_path, first_token_decider, backend={"fail": fail})
    number = made.number("settled", "all · 20%")
    assert number.excluded["error"] > 0
    assert number.estimate is not None
    assert number.estimate.value == 1.0
    healed = run(tmp_path, first_token_decider)
    assert 0 < healed.calls < made.calls / 3
    assert healed.number("settled", "all · 20%").excluded == {}


def test_models_without_a_trace_are_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CapabilityMissing, match="no thinking trace") as raised:
        run(tmp_path, first_token_decider, backend={"view": CHAT_VIEW})
    assert raised.value.hint == "run with --thinking forced"
    lacking = Capabilities(chat=True, prefix=True)
    with pytest.raises(CapabilityMissing, match="lacks token_ids"):
        run(tmp_path / "ids", first_token_decider, backend={"capabilities": lacking})


def test_forced_thinking_serves_models_without_a_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, **SIZE | {"commitment_cuts": (40, 60, 100)})
    made = run(
        tmp_path,
        late_flipper,
        backend={"view": CHAT_VIEW},
        thinking=Thinking(mode="forced"),
    )
    assert settled(made, 60) == 1.0
    assert settled(made, 40) < 0.7


def test_temperature_zero_is_refused_before_a_model_is_loaded() -> None:
    probe = registry().benchmarks["prefix_commitment"]
    assert isinstance(probe, Vetting)
    model = RunSpec(model=SPEC_MODEL, benchmarks=())
    probe.vet(model)
    with pytest.raises(ConfigError, match="temperature 0 makes them all the same"):
        probe.vet(RunSpec(model=SPEC_MODEL, benchmarks=(), sampling=Sampling(temperature=0)))


def test_its_size_is_what_it_asks(tmp_path: Path) -> None:
    probe = registry().benchmarks["prefix_commitment"]
    assert isinstance(probe, Sized)
    size = probe.size(RunSpec(model=SPEC_MODEL, benchmarks=(), scale="test"))
    assert size == BenchmarkSize(
        prompts=PROMPTS,
        independent={"harmful": 10, "benign": 10},
        generations=PROMPTS * TRACES,
        continuations=CONTINUATIONS,
        judged=CONTINUATIONS,
        answer_tokens=SIZES["test"].answer_tokens,
        trace_tokens=4000,
    )
    limited = probe.size(RunSpec(model=SPEC_MODEL, benchmarks=(), scale="test", limit=5))
    assert (limited.prompts, limited.independent) == (10, {"harmful": 5, "benign": 5})
