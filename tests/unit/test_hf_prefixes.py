"""What prompts share is read once, and changes nothing: the tree, the plan, and tiny models."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import byte_tokenizer, save_tiny, tiny_model
from tseval.errors import ConfigError
from tseval.models.hf import HfBackend
from tseval.models.hf.batches import BatchLimits, admit
from tseval.models.hf.cache import layers_that_fit
from tseval.models.hf.engine import Engine, Prefill
from tseval.models.hf.limits import share_out
from tseval.models.hf.options import OPTIONS, read_options
from tseval.models.hf.prefixes import PrefixTree, may_share, read_first, shared_length
from tseval.models.hf.rows import Row
from tseval.models.hf.text import Text
from tseval.requests import CompletionRequest, ModelSpec
from tseval.thinking import Limits
from tseval.types import Message, Sampling

KINDS = ["llama", "qwen3", "gpt2", "sliding"]
LIMITS = BatchLimits(tokens=20_000, rows=64, step_tokens=10**6, pass_tokens=2000, pass_cost=20)
GREEDY = Sampling(temperature=0.0, top_p=1.0)
WARM = Sampling(temperature=1.0, top_p=0.9)
TRACE = [(11 * n + n * n // 7) % 250 for n in range(160)]
CLOSER = [251, 252, 253]
CUTS = [TRACE[:length] + CLOSER for length in (40, 90, 135, 160)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Waking a second thread takes longer than these models do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(byte_tokenizer())


def states(ids: list[int], layers: int = 2) -> Callable[[int, int], list[tuple]]:
    """Keys and values that say which token they belong to, and how many came before it."""

    def read(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        values = torch.tensor([1000.0 * n + ids[n] for n in range(start, stop)])
        pair = values[None, :, None].expand(1, -1, 4)
        return [*((pair + layer, -pair - layer) for layer in range(layers)), None]

    return read


# Two layers of keys and values of four numbers each.
TOKEN_BYTES = 2 * 2 * 4 * 4


def tree(tokens: int) -> PrefixTree:
    return PrefixTree(tokens * TOKEN_BYTES, TOKEN_BYTES)


def found(kept: PrefixTree, ids: list[int]) -> int:
    """Tokens that are kept of a text, each checked to be its own."""
    path = kept.find(ids, len(ids))
    at = 0
    for node, tokens in path:
        *pairs, absent = node.pairs
        assert absent is None, "a layer that looks into another's"
        for layer, (keys, values) in enumerate(pairs):
            wanted = torch.tensor([1000.0 * n + ids[n] + layer for n in range(at, at + tokens)])
            assert keys.shape[1] == len(node.ids)
            torch.testing.assert_close(keys[0, :tokens, 0], wanted)
            torch.testing.assert_close(values[0, :tokens, 3], -wanted)
        at += tokens
    return at


def test_a_text_finds_the_longest_beginning_that_any_other_left() -> None:
    kept = tree(10_000)
    texts = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2], [7, 8], [1, 2, 3, 4, 6, 6]]
    for ids in texts:
        kept.keep(ids, states(ids))
    assert [found(kept, ids) for ids in texts] == [5, 4, 2, 2, 6]
    assert found(kept, [1, 2, 3, 4, 5, 6]) == 5
    assert found(kept, [1, 2, 4]) == 2
    assert found(kept, [2, 3]) == 0
    assert sum(s.tokens for s in kept.find([1, 2, 3, 4, 5], 3)) == 3
    # 1 2 3 4 5, then 9, 7 8, and 6 6: what is shared is held once.
    assert kept.size_bytes == (5 + 1 + 2 + 2) * TOKEN_BYTES


def test_a_text_that_is_kept_already_is_not_copied_again() -> None:
    kept = tree(100)
    kept.keep([1, 2, 3], states([1, 2, 3]))

    def never(start: int, stop: int) -> list[tuple]:
        raise AssertionError("copied")

    kept.keep([1, 2, 3], never)
    kept.keep([1, 2], never)
    assert kept.size_bytes == 3 * TOKEN_BYTES


def test_what_was_not_asked_for_longest_goes_first_and_shared_beginnings_last() -> None:
    kept = tree(10)
    for ids in ([1, 2, 3, 4], [1, 2, 5, 6], [7, 8]):
        kept.keep(ids, states(ids))
    assert found(kept, [1, 2, 3, 4]) == 4
    kept.keep([9] * 4, states([9] * 4))
    texts = ([1, 2, 3, 4], [1, 2, 5, 6], [7, 8], [9] * 4)
    # 5 6 had to go: 7 8 came later, 1 2 3 4 was asked for later.
    assert [found(kept, ids) for ids in texts] == [4, 2, 2, 4]
    assert kept.size_bytes == 10 * TOKEN_BYTES


def test_a_text_that_is_larger_than_the_whole_tree_is_not_kept() -> None:
    kept = tree(4)
    kept.keep([1, 2], states([1, 2]))
    kept.keep([3] * 5, states([3] * 5))
    assert (found(kept, [3] * 5), found(kept, [1, 2])) == (0, 2)
    # Its own beginning is not thrown out to make room for its end.
    kept.keep([1, 2, 4, 5, 6], states([1, 2, 4, 5, 6]))
    assert found(kept, [1, 2, 4, 5, 6]) == 2
    nothing = tree(0)
    nothing.keep([1], states([1]))
    assert found(nothing, [1]) == 0


def test_less_is_kept_after_memory_ran_out() -> None:
    kept = tree(8)
    kept.keep([1] * 6, states([1] * 6))
    kept.halve()
    assert (kept.size_bytes, found(kept, [1] * 6)) == (0, 0)
    kept.keep([1] * 6, states([1] * 6))
    kept.keep([2] * 4, states([2] * 4))
    assert (found(kept, [1] * 6), found(kept, [2] * 4)) == (0, 4)


def test_random_texts_always_find_their_own_tokens_within_the_size() -> None:
    dice = random.Random(5)
    kept = tree(120)
    for _ in range(600):
        ids = [dice.randrange(3) for _ in range(dice.randrange(1, 30))]
        if dice.random() < 0.5:
            kept.keep(ids, states(ids))
            assert found(kept, ids) == len(ids)
        else:
            found(kept, ids)
        assert kept.size_bytes <= 120 * TOKEN_BYTES
        nodes = list(kept._used)
        assert kept.size_bytes == sum(len(node.ids) for node in nodes) * TOKEN_BYTES
        for place, node in enumerate(nodes):
            assert node.parent is kept._root or nodes.index(node.parent) > place, "leaves go first"


def test_lengths_in_common_are_counted_to_the_first_difference() -> None:
    assert shared_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_length([1, 2], [1, 2, 3]) == 2
    assert shared_length([], [1]) == 0


def test_of_nested_cuts_the_longest_is_read_first() -> None:
    assert read_first(CUTS, [0] * 4, pass_cost=20) == [3]
    # The others then have all but the closer, and nothing to wait for.
    assert read_first(CUTS[:3], [40, 90, 135], pass_cost=20) == [0, 1, 2]


def test_equal_texts_wait_for_one_of_them() -> None:
    assert len(read_first([TRACE] * 5 + [[7] * 50], [0] * 6, pass_cost=20)) == 2
    # All but the last token is kept: nothing is gained by waiting for it.
    assert read_first([TRACE] * 5, [159] * 5, pass_cost=20) == [0, 1, 2, 3, 4]


def test_nobody_waits_for_less_than_a_pass_costs() -> None:
    assert read_first(CUTS, [0] * 4, pass_cost=1000) == [0, 1, 2, 3]
    short = [TRACE[:20] + [n] * 30 for n in range(9)]
    assert read_first(short, [0] * 9, pass_cost=20) == list(range(9))


def row(
    text: Text, ids: list[int], *, tokens: int = 12, seed: int = 0, sampling: Sampling = GREEDY
):
    request = CompletionRequest(
        messages=(), limits=Limits(thinking=0, answer=tokens), sampling=sampling, seed=seed
    )
    return Row(ids, request, text, frozenset({257}), 300)


def engine_of(model: torch.nn.Module, megabytes: int = 64) -> Engine:
    tokens = 3 * 2 * 4 * 8 * 4
    return Engine(model, layers_that_fit(model), 257, PrefixTree(megabytes << 20, tokens))


def finish(
    engine: Engine,
    rows: list[Row],
    limits: BatchLimits = LIMITS,
    pause: Callable[[int, int], bool] = lambda steps, done: done > 0,
) -> list[list[int]]:
    """Run rows to their end, as the worker does; returns their tokens."""
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
    return [each.new for each in rows]


def alone(model: torch.nn.Module, text: Text, ids: list[int], **more) -> list[int]:
    return finish(engine_of(model, 0), [row(text, ids, **more)])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_of_nested_cuts_are_those_that_each_gets_alone(kind: str, text: Text) -> None:
    model = tiny_model(kind)
    engine = engine_of(model)
    greedy = finish(engine, [row(text, ids, tokens=4 + n) for n, ids in enumerate(CUTS)])
    assert greedy == [alone(model, text, ids, tokens=4 + n) for n, ids in enumerate(CUTS)]
    asked = sum(map(len, CUTS))
    assert engine.prefill.asked == asked
    assert engine.prefill.computed < len(CUTS[-1]) + 3 * 60 < asked
    warm = [(ids, seed) for ids in CUTS for seed in range(3)]
    rows = [row(text, ids, seed=seed, sampling=WARM) for ids, seed in warm]
    together = finish(engine, rows)
    wanted = [alone(model, text, ids, seed=seed, sampling=WARM) for ids, seed in warm]
    assert together == wanted
    assert len({tuple(new) for new in together}) > 6
    # All of it was kept from the first time, but for the last token of each.
    assert engine.prefill.computed - 12 <= len(CUTS[-1]) + 3 * 60


@pytest.mark.parametrize("kind", KINDS)
def test_logits_behind_a_shared_beginning_are_those_of_the_whole_text(
    kind: str, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(kind)
    seen: dict[int, torch.Tensor] = {}

    class Watching:
        def __init__(self, rows: list[Row]) -> None:
            self.rows, self.needed = rows, True

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for n, each in enumerate(self.rows):
                seen.setdefault(len(each.prompt), scores[n].clone())
            return scores

    monkeypatch.setattr("tseval.models.hf.engine.SeededProcessor", Watching)
    engine = engine_of(model)
    finish(engine, [row(text, ids, tokens=2) for ids in CUTS])
    assert engine.prefill.computed < engine.prefill.asked / 2
    with torch.inference_mode():
        for ids in CUTS:
            wanted = model(input_ids=torch.tensor([ids])).logits[0, -1]
            torch.testing.assert_close(seen[len(ids)], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stop", [False, True])
def test_a_finished_row_leaves_its_trace_for_what_continues_it(stop: bool, text: Text) -> None:
    model = tiny_model("llama")
    engine = engine_of(model)
    prompts = [TRACE[:50], TRACE[60:130]]
    traces = [alone(model, text, ids, tokens=60) for ids in prompts]
    rows = [row(text, ids, tokens=40 + 20 * n) for n, ids in enumerate(prompts)]
    if stop:
        # The first row ends its turn at its 21st token, while the other goes on.
        rows[0]._stop_ids = frozenset({traces[0][20]})
        assert traces[0][20] not in traces[0][:20]
    ends = [20 if stop else 40, 60]
    # One segment to the end of the longest: the short row is long done when it is put away.
    with torch.inference_mode():
        engine.add(rows, LIMITS, lambda: False)
        engine.run(lambda steps, done: False)
        engine.drop_done()
    assert [each.new for each in rows] == [t[:n] for t, n in zip(traces, ends, strict=True)]
    before = engine.prefill
    longer = [[*ids, *each.new, *CLOSER] for ids, each in zip(prompts, rows, strict=True)]
    answers = finish(engine, [row(text, ids) for ids in longer])
    assert answers == [alone(model, text, ids) for ids in longer]
    # The closers, and the last token where nobody had read it yet.
    assert engine.prefill.computed - before.computed <= 2 * (len(CLOSER) + 1)


def test_rows_that_make_room_are_not_read_again(text: Text) -> None:
    model = tiny_model("llama")
    tight = BatchLimits(tokens=330, rows=8, step_tokens=10**6, pass_tokens=300, pass_cost=20)
    prompts = [TRACE[:40], TRACE[50:92], TRACE[100:145]]
    engine = engine_of(model)
    rows = [row(text, ids, tokens=90) for ids in prompts]
    found = finish(engine, rows, tight, lambda steps, done: done > 0 or steps == 10)
    assert found == [alone(model, text, ids, tokens=90) for ids in prompts]
    restarted = engine.prefill.asked - sum(map(len, prompts))
    assert restarted > 0
    assert engine.prefill.computed < sum(map(len, prompts)) + restarted / 4


def test_a_small_tree_costs_nothing_but_the_sharing(text: Text) -> None:
    model = tiny_model("llama")
    one_cut = 3 * 2 * 2 * 8 * 4 * 100
    engine = Engine(model, 3, 257, PrefixTree(one_cut, 3 * 2 * 2 * 8 * 4))
    rows = [row(text, ids) for ids in CUTS * 2]
    assert finish(engine, rows) == [alone(model, text, ids) for ids in CUTS] * 2
    assert engine.prefixes.size_bytes <= one_cut


def test_nothing_is_shared_where_it_is_switched_off(text: Text) -> None:
    engine = engine_of(tiny_model("llama"), 0)
    finish(engine, [row(text, ids) for ids in CUTS])
    asked = sum(map(len, CUTS))
    assert engine.prefill == Prefill(asked, asked)


def test_models_that_run_row_by_row_count_what_they_read(text: Text) -> None:
    engine = engine_of(tiny_model("stateful"))
    finish(engine, [row(text, ids, tokens=2) for ids in CUTS])
    asked = sum(map(len, CUTS))
    assert engine.prefill == Prefill(asked, asked)


def test_a_failure_forgets_what_was_kept(text: Text) -> None:
    engine = engine_of(tiny_model("llama"))
    finish(engine, [row(text, TRACE)])
    assert engine.prefixes.size_bytes
    engine.reset()
    assert not engine.prefixes.size_bytes


def test_angles_that_change_with_the_length_are_not_shared() -> None:
    model = tiny_model("llama")
    assert may_share(model)
    model.config.rope_parameters = {"rope_type": "longrope", "rope_theta": 10000.0}
    assert not may_share(model)
    model.config.rope_parameters = {"full_attention": {"rope_type": "dynamic"}}
    assert not may_share(model)


def test_sizes_are_read_with_units_and_other_words_refused() -> None:
    sizes = {"0": 0, "4096": 4096, "1.5GB": 1_500_000_000, "512 MiB": 512 << 20, "2k": 2000}
    for given, wanted in sizes.items():
        assert read_options("hf", {"prefix_cache": given}).prefix_bytes == wanted
    assert read_options("hf", {}).prefix_bytes is None
    for wrong in ("much", "-1", "3TB", "MB"):
        with pytest.raises(ConfigError, match=f"prefix_cache={wrong} is no size"):
            read_options("hf", {"prefix_cache": wrong})


def test_equal_bytes_and_a_prefix_cache_exclude_each_other() -> None:
    assert "none, as with deterministic=true" in OPTIONS["prefix_cache"]
    assert read_options("hf", {"deterministic": "true"}).prefix_bytes == 0
    read_options("hf", {"deterministic": "true", "prefix_cache": "0"})
    with pytest.raises(ConfigError, match="keeps no prefixes, got -M prefix_cache=1GB"):
        read_options("hf", {"deterministic": "true", "prefix_cache": "1GB"})


def test_what_is_kept_of_prompts_is_taken_from_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    token = 3 * 2 * 2 * 8 * 4
    monkeypatch.setattr("tseval.models.hf.limits.free_bytes", lambda device: 40_000 * token)

    def share(shares: bool = True, **given: str):
        return share_out(model, "cpu", read_options("hf", given), shares=shares)

    # A quarter of the free memory is for keys and values; of that, a quarter for prefixes.
    assert share().token_bytes == token
    assert (share().prefix_bytes, share().limits.tokens) == (2500 * token, 7500)
    assert (share(prefix_cache="0").prefix_bytes, share(prefix_cache="0").limits.tokens) == (
        *(0, 10_000),
    )
    large = share(prefix_cache=str(9000 * token))
    assert (large.prefix_bytes, large.limits.tokens) == (9000 * token, 2500)
    assert share(shares=False).prefix_bytes == 0
    assert share(shares=False).limits.tokens == 10_000


def test_replays_on_a_backend_are_the_same_shared_or_not_and_say_what_they_read(
    tmp_path: Path,
) -> None:
    folder = str(save_tiny("llama", tmp_path / "tiny"))
    options = ({"dtype": "float32"}, {"dtype": "float32", "prefix_cache": "0"})
    shared, single, exact = (
        asyncio.run(replay(ModelSpec(backend="hf", name=folder, options=each)))
        for each in (*options, {"deterministic": "true"})
    )
    assert shared[0] == single[0] == exact[0]
    assert len(set(shared[0])) > 6
    for _, counts in (single, exact):
        assert counts.computed == counts.asked
    assert shared[1].computed < shared[1].asked / 8


async def replay(spec: ModelSpec) -> tuple[list[str], Prefill]:
    """Replay every cut three times, and once more, while one request is given up."""

    def asked(cut: list[int], seed: int) -> CompletionRequest:
        return CompletionRequest(
            messages=(Message(role="user", content="Name a colour, and then another one."),),
            prefix=(tuple(cut),),
            limits=Limits(thinking=0, answer=4),
            sampling=WARM,
            seed=seed,
        )

    requests = [asked(cut, seed) for cut in CUTS for seed in range(3)]
    backend = HfBackend(spec)
    await backend.start(lambda phrase, share: None)
    doomed = asyncio.create_task(backend.complete(asked(CUTS[3], 99)))
    running = asyncio.gather(*map(backend.complete, requests))
    await asyncio.sleep(0.02)
    doomed.cancel()
    texts = [done.text for done in await running]
    again = [done.text for done in await asyncio.gather(*map(backend.complete, requests))]
    assert again == texts
    counts = backend.prefill
    await backend.close()
    assert backend.prefill == Prefill()
    return texts, counts
