"""The whole probe on scripted models whose answers with and without thinking are known."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from tests.support.deciders import REFUSED, first_token_decider, refuses
from tests.support.probe_runs import ProbeRun, halve_journal, run_probe, scale
from tests.support.sessions import registry
from tseval.errors import CapabilityMissing, ConfigError, RequestFailed
from tseval.formats import TemplateView
from tseval.probes.setup import Label
from tseval.requests import CompletionRequest, ModelSpec
from tseval.roles import Sized, Vetting
from tseval.scripts import CHAT_VIEW, TAGS_VIEW, Call
from tseval.spec import RunSpec
from tseval.types import Sampling, Thinking

SPEC_MODEL = ModelSpec(backend="scripted")
CLASS, ROLLOUTS = 24, 4
SIZE = {
    "harmful": CLASS,
    "benign": CLASS,
    "flip_rollouts": ROLLOUTS,
    "bootstraps": 100,
    "permutations": 99,
}
ANSWER = "Here is a short answer to your question."
NO_THINKING = "<think>\n\n</think>\n\n"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    scale(monkeypatch, **SIZE)


def run(folder: Path, script: Any, **more: Any) -> ProbeRun:
    return run_probe("think_flip", folder, script, **more)


def refuses_at_once(prompt: str) -> bool:
    return sha256(f"at once\0{prompt}".encode()).digest()[0] < 128


def flipper(call: Call) -> str:
    """Answers by one rule where its trace is empty, and by another where it thinks."""
    if call.prefix == NO_THINKING:
        return REFUSED if refuses_at_once(call.prompt) else ANSWER
    answer = REFUSED if refuses(call.prompt) else ANSWER
    return f"<think>\nI have thought about it.\n</think>\n\n{answer}"


def coin(call: Call) -> str:
    """Answers by chance, with and without a trace."""
    answer = REFUSED if call.share("coin") < 0.5 else ANSWER
    return answer if call.prefix == NO_THINKING else f"<think>\nHm.\n</think>\n\n{answer}"


def test_flips_are_those_of_the_two_rules(tmp_path: Path) -> None:
    asked: set[str] = set()

    def watched(call: Call) -> str:
        asked.add(call.prompt)
        return flipper(call)

    made = run(tmp_path, watched)
    assert made.calls == 2 * ROLLOUTS * 2 * CLASS
    assert len(asked) == 2 * CLASS
    counts = [made.number("flips_better", pool).counts for pool in ("harmful", "benign")]
    both = {name: sum(each[name] for each in counts) for name in ("RR", "RC", "CR", "CC")}
    labels = [(refuses_at_once(prompt), refuses(prompt)) for prompt in asked]
    assert both == {
        "RR": labels.count((True, True)),
        "RC": labels.count((True, False)),
        "CR": labels.count((False, True)),
        "CC": labels.count((False, False)),
    }
    for pool, (up, down) in (("harmful", ("CR", "RC")), ("benign", ("RC", "CR"))):
        better, worse = made.number("flips_better", pool), made.number("flips_worse", pool)
        table = better.counts
        for number, name in ((better, up), (worse, down)):
            assert number.estimate is not None
            assert number.estimate.value == pytest.approx(table[name] / CLASS)
        n = table["RC"] + table["CR"]
        assert better.p_value == pytest.approx(binomtest(table["RC"], n, 0.5).pvalue)
        change = made.number("refusal_change", pool)
        assert change.estimate is not None
        assert change.estimate.value == pytest.approx((table["CR"] - table["RC"]) / CLASS)
        over = made.number("flips_over_chance", pool)
        assert over.estimate is not None
        assert over.null is not None
        # Nothing of it is chance: rollouts of one prompt are all alike in each mode.
        assert over.null.value == 0.0
        assert over.estimate.value == pytest.approx(n / CLASS)
    assert made.found.excluded == {}
    assert any(NO_THINKING.encode("unicode_escape").decode() in note for note in made.found.notes)
    headlines = {(score.metric, score.group) for score in made.scores}
    assert ("flips_over_chance", "benign") in headlines


def test_a_model_that_decides_by_its_prompt_flips_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, **SIZE | {"flip_rollouts": 2, "harmful": 48, "benign": 48})
    made = run(tmp_path, first_token_decider)
    for pool in ("harmful", "benign"):
        for metric in ("flips_better", "flips_worse", "lenient_better", "lenient_worse"):
            number = made.number(metric, pool)
            assert number.estimate is not None
            assert number.estimate.value == 0.0
            assert number.p_value == 1.0


def test_coins_change_nearly_every_prompt_and_no_more_than_chance_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale(monkeypatch, **SIZE | {"flip_rollouts": 8})
    made = run(tmp_path, coin)
    changed, beyond = [], []
    for pool in ("harmful", "benign"):
        paper = made.number("lenient_unchanged", pool, "paper").estimate
        half = made.number("lenient_unchanged", pool)
        assert paper is not None
        assert half.estimate is not None
        assert half.null is not None
        changed.append(1 - paper.value)
        beyond.append(half.null.value - half.estimate.value)
    # Two binomials of eight coins are equal in one of five prompts.
    assert sum(changed) / 2 > 0.65
    assert abs(sum(beyond) / 2) < 0.12


def test_thinking_that_was_switched_off_in_vain_is_counted_and_left_out(tmp_path: Path) -> None:
    reopened: list[str] = []

    def again(call: Call) -> str:
        if call.prefix == NO_THINKING and call.seed % 4 == 0:
            reopened.append(call.prompt)
            return f"<think>\nStill, let me see.\n</think>\n\n{REFUSED}"
        return flipper(call)

    made = run(tmp_path, again)
    assert made.found.excluded == {"no thinking: reopened": len(reopened)}
    share = made.number("reopened_share", "all")
    made_without = ROLLOUTS * 2 * CLASS
    assert share.estimate is not None
    assert share.estimate.value == pytest.approx(len(reopened) / made_without)
    assert share.n == made_without
    told = f"{len(reopened)} of {made_without} rollouts thought although thinking was switched off"
    assert any(told in warning for warning in made.warnings)
    # What they answered is not what the model answers without thinking.
    paired = {"harmful": made.number("flips_better", "harmful").counts}
    assert (
        sum(paired["harmful"].values())
        + sum(made.number("flips_better", "harmful").excluded.values())
        == CLASS
    )


def test_rollouts_whose_judge_failed_were_made_and_count_among_those_that_may_think(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> Label:
        return Label(None, "error")

    monkeypatch.setattr("tseval.probes.setup.Probing.label", failing)
    made = run(tmp_path, flipper)
    every = ROLLOUTS * 2 * CLASS
    assert made.found.excluded == {
        "no thinking: judge error": every,
        "thinking: judge error": every,
    }
    assert made.number("reopened_share", "all").n == every


def test_the_familys_own_switch_is_used(tmp_path: Path) -> None:
    view = TemplateView(
        rendered=TAGS_VIEW.rendered,
        rendered_off=f"{TAGS_VIEW.rendered}{NO_THINKING}",
        template=TAGS_VIEW.template,
        single_tokens=TAGS_VIEW.single_tokens,
    )
    off: list[bool] = []

    def switched(call: Call) -> str:
        off.append(call.thinking_off)
        if call.thinking_off:
            return REFUSED if refuses_at_once(call.prompt) else ANSWER
        return flipper(call)

    made = run(tmp_path, switched, backend={"view": view})
    assert sum(off) == len(off) / 2
    assert "thinking was switched off by the chat template (enable_thinking=False)" in (
        made.found.notes
    )
    assert made.number("reopened_share", "all").counts == {"reopened": 0}


def test_models_without_a_format_are_compared_under_forced_thinking(tmp_path: Path) -> None:
    def plain(call: Call) -> str:
        if call.prefix.startswith("<think>"):
            return "So be it.\n</think>\n\n" + (REFUSED if refuses(call.prompt) else ANSWER)
        return REFUSED if refuses_at_once(call.prompt) else ANSWER

    made = run(tmp_path, plain, backend={"view": CHAT_VIEW}, thinking=Thinking(mode="forced"))
    table = made.number("flips_better", "harmful").counts
    assert sum(table.values()) == CLASS
    assert table["RC"] + table["CR"] > 0
    with pytest.raises(CapabilityMissing, match="no thinking trace"):
        run(tmp_path / "default", plain, backend={"view": CHAT_VIEW})


def test_rollouts_that_do_not_think_or_do_not_answer_are_counted_by_mode(tmp_path: Path) -> None:
    def fickle(call: Call) -> str:
        if call.prefix == NO_THINKING:
            return "" if call.seed % 2 else ANSWER
        return ANSWER if call.seed % 2 else flipper(call)

    made = run(tmp_path, fickle)
    assert set(made.found.excluded) == {"no thinking: empty", "thinking: no-trace"}
    total = sum(made.found.excluded.values())
    assert total == pytest.approx(ROLLOUTS * 2 * CLASS, abs=50)


def test_failed_rollouts_are_tried_again_on_resume(tmp_path: Path) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.seed % 6 == 0:
            raise RequestFailed("no", kind="engine")

    made = run(tmp_path, flipper, backend={"fail": fail})
    lost = made.found.excluded
    assert set(lost) == {"no thinking: error", "thinking: error"}
    assert (
        made.number("reopened_share", "all").n == ROLLOUTS * 2 * CLASS - lost["no thinking: error"]
    )
    healed = run(tmp_path, flipper)
    assert healed.calls == sum(lost.values())
    assert healed.found.excluded == {}


def test_a_run_that_was_killed_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", coin)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    left = halve_journal(tmp_path / "killed")
    assert 0 < left < whole.calls
    resumed = run(tmp_path / "killed", coin)
    assert resumed.calls == whole.calls - left
    assert resumed.found == whole.found
    again = run(tmp_path / "killed", coin)
    assert again.calls == 0
    assert again.found == whole.found
    assert again.scores == whole.scores


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sampling": Sampling(temperature=0)}, "temperature 0 makes them all the same"),
        ({"thinking": Thinking(mode="off")}, "--thinking off leaves only one"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(more: dict[str, Any], message: str) -> None:
    probe = registry().benchmarks["think_flip"]
    assert isinstance(probe, Vetting)
    probe.vet(RunSpec(model=SPEC_MODEL, benchmarks=()))
    with pytest.raises(ConfigError, match=message):
        probe.vet(RunSpec(model=SPEC_MODEL, benchmarks=(), **more))


def test_its_size_is_what_it_asks() -> None:
    probe = registry().benchmarks["think_flip"]
    assert isinstance(probe, Sized)
    size = probe.size(RunSpec(model=SPEC_MODEL, benchmarks=(), scale="test", limit=10))
    assert (size.prompts, size.generations, size.judged) == (20, 160, 160)
    assert size.independent == {"harmful": 10, "benign": 10}


def test_many_rollouts_of_a_few_prompts_make_no_number(tmp_path: Path) -> None:
    found = run(tmp_path, coin, limit=8).found
    over_prompts = [number for number in found.numbers if number.group == "harmful"]
    assert len(over_prompts) > 5
    assert [number.metric for number in over_prompts if number.estimate is not None] == []
    (change,) = (n for n in over_prompts if n.metric == "refusal_change")
    assert change.undefined == "undefined: 8 prompts"
