"""Rows that join, leave, move and start again get the tokens they would get alone.

On tiny random models of several architectures, in float32, against plain ``generate``.
"""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.support.tiny_models import byte_tokenizer, tiny_model
from tseval.models.hf.batches import BatchLimits, admit
from tseval.models.hf.cache import layers_that_fit
from tseval.models.hf.engine import Engine
from tseval.models.hf.passes import Choosing, Reading, Scoring, choose, count_layers, read, score
from tseval.models.hf.rows import Row
from tseval.models.hf.text import Text
from tseval.requests import CompletionRequest
from tseval.thinking import Limits
from tseval.types import Sampling

KINDS = ["llama", "qwen3", "gpt2", "sliding", "stateful"]
LIMITS = BatchLimits(tokens=4000, rows=8, step_tokens=100, pass_tokens=300, pass_cost=20)
STOP = frozenset({257})
GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=1.0, top_p=0.9)
PROMPTS = [
    [(7 * n + 3 * m) % 250 for m in range(length)]
    for n, length in enumerate((3, 40, 17, 1, 90, 25, 4, 33, 60, 12, 5, 71))
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Waking a second thread takes longer than these models do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(byte_tokenizer())


def row(text: Text, number: int, *, tokens: int = 20, sampling: Sampling = GREEDY) -> Row:
    request = CompletionRequest(
        messages=(), limits=Limits(thinking=0, answer=tokens), sampling=sampling, seed=number
    )
    return Row(PROMPTS[number], request, text, STOP, 400)


def alone(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """What plain ``generate`` says, greedily."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=257,
            pad_token_id=257,
        )
    new = out[0, len(prompt) :].tolist()
    return new[: new.index(257)] if 257 in new else new


def finish(
    engine: Engine,
    rows: list[Row],
    limits: BatchLimits = LIMITS,
    pause: Callable[[int, int], bool] = lambda steps, done: done > 0,
) -> None:
    """Run rows to their end, as the worker does."""
    waiting = list(rows)
    with torch.inference_mode():
        while waiting or engine.rows:
            chosen = admit(engine.lengths, [each.length for each in waiting], limits)
            engine.add([waiting[n] for n in chosen], limits, lambda: False)
            waiting = [each for n, each in enumerate(waiting) if n not in chosen]
            engine.drop_done()
            engine.run(pause)
            engine.drop_done()
            waiting = engine.drop_surplus(limits) + waiting


def engine_of(model: torch.nn.Module) -> Engine:
    return Engine(model, layers_that_fit(model), 257)


def test_each_row_gets_the_tokens_of_plain_generate(model: torch.nn.Module, text: Text) -> None:
    rows = [row(text, n, tokens=4 + 5 * (n % 4)) for n in range(len(PROMPTS))]
    finish(engine_of(model), rows)
    for n, each in enumerate(rows):
        assert each.new == alone(model, PROMPTS[n], 4 + 5 * (n % 4)), f"row {n}"
        assert each.done


def test_draws_do_not_depend_on_the_company(model: torch.nn.Module, text: Text) -> None:
    together = [row(text, n, sampling=WARM) for n in range(8)]
    finish(engine_of(model), together)
    single = [row(text, n, sampling=WARM) for n in range(8)]
    for each in reversed(single):
        finish(engine_of(model), [each])
    assert [each.new for each in together] == [each.new for each in single]
    assert len({tuple(each.new) for each in single}) == 8


def test_a_pause_after_every_token_changes_nothing(model: torch.nn.Module, text: Text) -> None:
    rows = [row(text, n, sampling=WARM) for n in range(4)]
    finish(engine_of(model), rows, pause=lambda steps, done: True)
    whole = [row(text, n, sampling=WARM) for n in range(4)]
    finish(engine_of(model), whole, pause=lambda steps, done: False)
    assert [each.new for each in rows] == [each.new for each in whole]


def test_rows_that_outgrow_the_budget_start_again_from_what_they_have(text: Text) -> None:
    model = tiny_model("llama")
    tight = BatchLimits(tokens=330, rows=8, step_tokens=10**6, pass_tokens=300, pass_cost=20)
    rows = [row(text, n, tokens=120) for n in (0, 2, 3)]
    put_back = []
    engine = engine_of(model)
    dropped = engine.drop_surplus
    engine.drop_surplus = lambda limits: put_back.append(dropped(limits)) or put_back[-1]
    finish(engine, rows, tight, pause=lambda steps, done: done > 0 or steps == 10)
    assert any(put_back)
    for each, n in zip(rows, (0, 2, 3), strict=True):
        assert each.new == alone(model, PROMPTS[n], 120)


def test_buffers_are_remade_when_they_are_full_and_stay_small(text: Text) -> None:
    model = tiny_model("llama")
    engine = engine_of(model)
    rows = [row(text, n, tokens=330) for n in (0, 3)]
    finish(engine, rows)
    assert [each.new for each in rows] == [alone(model, PROMPTS[n], 330) for n in (0, 3)]
    later = [row(text, n, tokens=4) for n in (3, 6)]
    finish(engine, later)
    assert [each.new for each in later] == [alone(model, PROMPTS[n], 4) for n in (3, 6)]
    assert engine._store.room < 300


def test_what_former_rows_left_in_the_buffers_is_of_no_account(text: Text) -> None:
    model = tiny_model("llama")
    engine = engine_of(model)
    finish(engine, [row(text, n) for n in (4, 8, 1)])
    with torch.inference_mode():
        for pair in engine._store._pairs:
            for buffer in pair:
                buffer.fill_(float("nan"))
    rows = [row(text, n) for n in (0, 5, 2)]
    finish(engine, rows)
    assert [each.new for each in rows] == [alone(model, PROMPTS[n], 20) for n in (0, 5, 2)]


def test_a_cancelled_row_leaves_and_the_others_go_on(text: Text) -> None:
    model = tiny_model("llama")
    rows = [row(text, n, tokens=30) for n in (0, 1, 2)]

    def pause(steps: int, done: int) -> bool:
        rows[1].cancelled = rows[1].cancelled or steps == 5
        return done > 0

    finish(engine_of(model), rows, pause=pause)
    assert len(rows[1].new) < 30
    assert [rows[n].new for n in (0, 2)] == [alone(model, PROMPTS[n], 30) for n in (0, 2)]


def test_models_without_a_key_value_cache_run_alone() -> None:
    assert layers_that_fit(tiny_model("stateful")) is None
    assert layers_that_fit(tiny_model("sliding")) == 3


def test_scores_are_those_of_the_full_logits(model: torch.nn.Module) -> None:
    rows = [Scoring(PROMPTS[n], scored) for n, scored in ((1, 5), (4, 89), (2, 1), (0, 2))]
    with torch.inference_mode():
        found = score(model, rows, 257)
        for each, result in zip(rows, found, strict=True):
            shares = model(input_ids=torch.tensor([each.ids])).logits[0].log_softmax(dim=-1)
            places = range(len(each.ids) - each.scored, len(each.ids))
            total = sum(float(shares[place - 1, each.ids[place]]) for place in places)
            assert result.total == pytest.approx(total, rel=1e-4)
            assert result.tokens == each.scored
            assert not result.greedy
        best = alone(model, PROMPTS[5], 1)
        assert score(model, [Scoring(PROMPTS[5] + best, 1)], 257)[0].greedy


def test_choices_have_the_shares_of_the_full_logits(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [frozenset({7}), frozenset({40, 200, 3}), frozenset({299})]
    rows = [Choosing(PROMPTS[n], choices[: 2 + n % 2]) for n in (1, 4, 2, 0, 4)]
    with torch.inference_mode():
        found = choose(model, rows, 257)
        monkeypatch.setattr("tseval.models.hf.passes._LOGITS", 300)
        in_parts = choose(model, rows, 257)
        for each, result, alone in zip(rows, found, in_parts, strict=True):
            shares = model(input_ids=torch.tensor([each.ids])).logits[0, -1].log_softmax(dim=-1)
            wanted = [max(float(shares[t]) for t in tokens) for tokens in each.choices]
            assert result == pytest.approx(wanted, abs=1e-4)
            assert alone == pytest.approx(wanted, abs=1e-4)
    assert len({tuple(result) for result in found}) == 4


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "sliding"])
def test_hidden_states_are_those_of_the_full_output(kind: str) -> None:
    # Mamba's own output leaves out the embedding, so there is nothing to compare with.
    model = tiny_model(kind)
    layers = list(range(count_layers(model) + 1))
    assert len(layers) == 4
    rows = [
        Reading(PROMPTS[1], [0, 39, 7], layers),
        Reading(PROMPTS[2], [16], [3, 0]),
        Reading(PROMPTS[0], [2, 2], [1]),
    ]
    with torch.inference_mode():
        found = read(model, rows, 257)
        for each, states in zip(rows, found, strict=True):
            ids = torch.tensor([each.ids])
            full = model(input_ids=ids, output_hidden_states=True).hidden_states
            wanted = torch.stack([full[n][0, each.positions] for n in each.layers], dim=1)
            torch.testing.assert_close(torch.from_numpy(states), wanted, rtol=1e-4, atol=1e-5)
