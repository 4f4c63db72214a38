"""Weighing traces: on scripted models of which one decides in its trace and one only narrates."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.deciders import REFUSED, first_token_decider, late_flipper
from tests.support.panel_judges import Quiet
from tests.support.sessions import SPEC, finish, registry, session_on
from tseval.errors import CapabilityMissing, ConfigError, RequestFailed, TrainingError
from tseval.requests import Capabilities, CompletionRequest, ModelSpec
from tseval.scripts import TAGS_VIEW, Call
from tseval.testing import ScriptedBackend
from tseval.train.deliberative import read_settings, weigh
from tseval.train.effects import Rise, effect_of, shrunk_rise, weights_of
from tseval.train.job import Job, TrainFolder
from tseval.train.records import Example, Gathered, Recipe, TrainRecord
from tseval.types import Sampling, Thinking


def either(call: Call) -> str:
    """Decide late for prompts that begin with 'late', at once for the others."""
    return (late_flipper if call.prompt.startswith("late") else first_token_decider)(call)


def job_in(folder: Path, **options: str) -> Job:
    recipe = Recipe(
        method="thinksafe",
        model=ModelSpec(backend="scripted"),
        thinking=Thinking(budget=4096),
        sampling=Sampling(answer_tokens=256),
        select="deliberative",
        options=options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    record = TrainRecord(recipe=recipe, recipe_hash=recipe.hash)
    return Job(TrainFolder(folder, record), registry(), Quiet())


async def accepted(session: Any, prompts: dict[str, str]) -> list[Example]:
    """Draw one right answer to each prompt: a refusal of a harmful one, an answer to others."""
    found = []
    for prompt, kind in prompts.items():
        for rollout in range(16):
            drawn = await session.generate(prompt, rollout=rollout, thinking=Thinking(budget=4096))
            if (drawn.answer == REFUSED) is (kind == "harmful"):
                found.append(
                    Example(
                        id=prompt,
                        prompt=prompt,
                        kind=kind,  # type: ignore[arg-type]
                        trace=drawn.trace,
                        answer=drawn.answer,
                        thought=True,
                        draw=drawn.key,
                    )
                )
                break
    return found


# Of the prompts that are decided at once, those whose decision is the right one.
PROMPTS = {
    **{f"late {n}": "harmful" for n in range(4)},
    **{f"at once {n}": "harmful" for n in range(12)},
    **{f"late benign {n}": "benign" for n in range(3)},
    **{f"at once benign {n}": "benign" for n in range(8)},
}


async def weighed(folder: Path, backend: ScriptedBackend, **options: str) -> dict[str, Any]:
    job = job_in(folder / "train", **options)
    async with session_on(folder / "run", backend, spec=SPEC) as session:
        examples = await accepted(session, PROMPTS)
        made = session.counts["extension.made"]
        result = await weigh(session, job, Gathered(examples=tuple(examples), tokens=7))
        return {
            "before": examples,
            "after": list(result.examples),
            "gathered": result,
            "job": job,
            "made": session.counts["extension.made"] - made,
            "counts": dict(session.counts),
        }


def test_traces_that_move_the_answer_weigh_more_than_those_that_narrate(tmp_path: Path) -> None:
    backend = ScriptedBackend(either, view=TAGS_VIEW)
    found = finish(weighed(tmp_path, backend, replays="24"), 120)
    by_kind: dict[str, list[Example]] = {"harmful": [], "benign": []}
    for example in found["after"]:
        by_kind[example.kind].append(example)
    for examples in by_kind.values():
        late = [each.weight for each in examples if each.id.startswith("late")]
        narrated = [each.weight for each in examples if not each.id.startswith("late")]
        assert late
        assert narrated
        assert min(late) > 1.8 * max(narrated)
        assert sum(each.weight for each in examples) / len(examples) == pytest.approx(1.0)


def test_nothing_but_the_weight_of_an_example_changes_and_the_order_stays(tmp_path: Path) -> None:
    found = finish(weighed(tmp_path, ScriptedBackend(either, view=TAGS_VIEW), replays="4"), 120)
    plain = [msgspec.structs.replace(each, weight=1.0) for each in found["after"]]
    assert plain == found["before"]


def test_a_second_run_finds_every_replay_and_the_same_weights(tmp_path: Path) -> None:
    backend = ScriptedBackend(either, view=TAGS_VIEW)
    first = finish(weighed(tmp_path, backend, replays="4"), 120)
    again = finish(weighed(tmp_path, backend, replays="4"), 120)
    assert first["made"] > 0
    assert again["made"] == 0
    assert again["after"] == first["after"]


def test_effects_are_written_down_with_the_reason_where_there_are_none(tmp_path: Path) -> None:
    found = finish(weighed(tmp_path, ScriptedBackend(either, view=TAGS_VIEW), replays="4"), 120)
    job = found["job"]
    rows = msgspec.json.decode((job.folder.data / "deliberation.json").read_bytes())["traces"]
    assert [row["id"] for row in rows] == [each.id for each in found["before"]]
    assert all((row["cuts"] > 0) != bool(row["note"]) for row in rows)
    notes = found["gathered"].notes
    assert [note.split(":")[1] for note in notes] == [" harmful", " benign"]
    assert "traces have turns that were replayed (4 answers a side)" in notes[0]


def test_tokens_of_replays_are_counted_with_those_of_the_draws(tmp_path: Path) -> None:
    found = finish(weighed(tmp_path, ScriptedBackend(either, view=TAGS_VIEW), replays="4"), 120)
    # Tokens are bytes; the shortest answer is a refusal.
    assert found["gathered"].tokens >= 7 + found["made"] * len(REFUSED)
    assert found["counts"]["replay.tokens"] == found["gathered"].tokens - 7
    # Behind a prompt and half a trace at the least.
    assert found["counts"]["replay.prompt_tokens"] > found["made"] * 180


def test_what_an_earlier_process_replayed_is_not_paid_for_again(tmp_path: Path) -> None:
    backend = ScriptedBackend(either, view=TAGS_VIEW)
    finish(weighed(tmp_path, backend, replays="4"), 120)
    again = finish(weighed(tmp_path, backend, replays="4"), 120)
    assert again["counts"]["replay.tokens"] == 0


def test_examples_without_a_trace_keep_their_weight_and_that_is_said(tmp_path: Path) -> None:
    plain = [Example(id="a", prompt="p", kind="harmful", trace="", answer="no", thought=False)]

    async def body() -> Any:
        job = job_in(tmp_path / "train")
        async with session_on(tmp_path / "run", ScriptedBackend()) as session:
            return await weigh(session, job, Gathered(examples=tuple(plain)))

    result = finish(body())
    assert result.examples == tuple(plain)
    assert result.notes == ("select deliberative: no trace to weigh: all weights are 1",)


def test_a_backend_that_continues_no_trace_is_refused(tmp_path: Path) -> None:
    one = [Example(id="a", prompt="p", kind="harmful", trace="t", answer="no", thought=True)]

    async def body() -> None:
        backend = ScriptedBackend(either, view=TAGS_VIEW, capabilities=Capabilities())
        async with session_on(tmp_path / "run", backend) as session:
            await weigh(session, job_in(tmp_path / "train"), Gathered(examples=tuple(one)))

    with pytest.raises(CapabilityMissing, match="prefix, token_ids"):
        finish(body())


def test_replays_that_mostly_fail_end_the_weighing_instead_of_weighing_nothing(
    tmp_path: Path,
) -> None:
    def fail(request: CompletionRequest) -> None:
        if request.part == "answer":
            raise RequestFailed("engine down")

    with pytest.raises(TrainingError, match=r"replays have no label \(\d+ error\)"):
        finish(weighed(tmp_path, ScriptedBackend(either, view=TAGS_VIEW, fail=fail)), 120)


def test_the_rise_counts_to_the_side_of_the_right_answer() -> None:
    # 8 of 16 comply before, none of 16 after: 8.5/17 - 0.5/17.
    assert shrunk_rise((8, 16), (0, 16), -1).value == pytest.approx(8 / 17)
    assert shrunk_rise((8, 16), (0, 16), 1).value == pytest.approx(-8 / 17)
    # 1/2 * 1/2 / 17 + 1/34 * 33/34 / 17.
    assert shrunk_rise((8, 16), (0, 16), 1).variance == pytest.approx((1 / 4 + 33 / 1156) / 17)


def test_an_effect_is_the_mean_rise_less_its_standard_error() -> None:
    # The mean of 0.6 and 0.2, and half the root of 0.0225 + 0.0175.
    found = effect_of([Rise(0.6, 0.0225), Rise(0.2, 0.0175)])
    assert found == pytest.approx((0.4, 0.1, 0.3))
    assert effect_of([Rise(0.1, 0.04)]) == pytest.approx((0.1, 0.2, 0.0))
    assert effect_of([Rise(-0.5, 0.01)])[2] == 0.0


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.05])
def test_traces_that_move_nothing_have_an_effect_near_nothing(rate: float) -> None:
    from math import comb

    n = 16
    chance = [comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
    mean = sum(
        chance[before] * chance[after] * effect_of([shrunk_rise((before, n), (after, n), 1)])[2]
        for before in range(n + 1)
        for after in range(n + 1)
    )
    # A narrating trace weighs at most 1.06 times one without a turn, and not 1.26 times.
    assert 4 * mean < 0.06


def test_weights_have_mean_one_and_grow_with_the_effect() -> None:
    # 1, 3 and 5 over their mean of 3.
    assert weights_of([0.0, 0.5, 1.0], 4.0) == pytest.approx((1 / 3, 1.0, 5 / 3))
    assert weights_of([], 4.0) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replays": "many"}, "deliberative"),
        ({"replays": "1"}, "1 replays"),
        ({"cuts": "0"}, "0 cuts"),
        ({"strength": "-1"}, "strength of -1"),
    ],
)
def test_options_that_cannot_be_meant_are_named(
    options: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings(job_in(tmp_path, **options).recipe)


def test_the_cost_of_gathering_has_the_replays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tseval.train import spending
    from tseval.train.cost import Meter, Shape

    shape = Shape(parameters=10, adapter=0, layers=1, width=1, vocabulary=1)
    monkeypatch.setattr(spending, "shape_by_recipe", lambda recipe: shape)
    counts = {"generation.made": 1, "tokens": 30, "prompt_tokens": 10}
    replays = {"extension.made": 3, "replay.tokens": 20, "replay.prompt_tokens": 100}
    meter = Meter("gather")
    recipe = Recipe(method="m", model=ModelSpec(backend="hf"))
    spending.count_drawn(meter, recipe, {**counts, **replays})
    found = meter.read()
    assert found.tokens == 50
    # 160 tokens in four rows of 40: 2 P n + 2 K D n^2 each, and 2 D V for each new token.
    assert found.flops == 4 * (2 * 10 * 40 + 2 * 40**2) + 2 * 50
