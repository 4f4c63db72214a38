"""Losses and gradients equal a plain computation, whatever the micro-batches and chunks."""

from typing import Any

import pytest

from tests.support.tiny_models import tiny_model
from tseval.train import losses
from tseval.train.collate import Collator, Layout
from tseval.train.losses import Head, Passes, cross_entropy, forward_kl, head_of, micro_loss
from tseval.train.records import Adapter
from tseval.train.weights import with_adapter

LENGTHS = (12, 5, 9, 7)
KINDS = ("llama", "qwen3", "gpt2", "sliding")


def student(kind: str, *, dtype: str = "float64") -> Any:
    """A tiny model whose adapter is not at its beginning, where it changes nothing."""
    import torch

    made = with_adapter(tiny_model(kind), Adapter(rank=4, dropout=0.0), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return made.to(getattr(torch, dtype)).eval()


def rows() -> list[dict[str, Any]]:
    return [
        {
            "input_ids": [(17 * number + 5 * at) % 250 for at in range(length)],
            "labels": [-100] * 3 + [(17 * number + 5 * at) % 250 for at in range(3, length)],
            "weight": 1.0 + number,
            "benign": number % 2 == 1,
        }
        for number, length in enumerate(LENGTHS)
    ]


def plain(model: Any, kl: float) -> Any:
    """The loss of a step as one would write it down: row by row, all logits, one division."""
    import torch

    total, labelled = torch.zeros((), dtype=torch.float64), 0
    for row in rows():
        ids = torch.tensor([row["input_ids"]])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        with torch.no_grad(), model.disable_adapter():
            base = model(input_ids=ids).logits[0].log_softmax(-1)
        for at, label in enumerate(row["labels"]):
            if label == -100:
                continue
            labelled += 1
            loss = -logs[at - 1, label]
            if kl and row["benign"]:
                loss = kl * (base[at - 1].exp() * (base[at - 1] - logs[at - 1])).sum()
            total = total + row["weight"] * loss
    return total / labelled


def slopes(model: Any) -> dict[str, Any]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def ours(passes: Passes, layout: Layout, kl: float, **limits: Any) -> Any:
    collator = Collator(
        layout, **{"most_rows": None, "most_tokens": 20, "pad_id": 3, "apart": kl > 0, **limits}
    )
    step = collator(rows())
    total = 0.0
    for batch in step["micro"]:
        loss = micro_loss(passes, batch, kl).total / step["labelled"]
        loss.backward()
        total += float(loss.detach())
    return total


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("kl", [0.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_a_plain_computation(kind: str, kl: float) -> None:
    model = student(kind)
    expected = plain(model, kl)
    expected.backward()
    theirs = slopes(model)
    assert all("lora" in name for name in theirs)
    assert all(slope.abs().max() > 0 for slope in theirs.values())
    passes = Passes(model)
    passes.check()
    assert not passes.whole
    # The sliding window of eight tokens is shorter than a row, so that model cannot be packed.
    assert passes.pack(max(LENGTHS)) is (kind != "sliding")
    layouts: tuple[Layout, ...] = ("padded",) if kind == "sliding" else ("packed", "padded")
    for layout in layouts:
        if layout == "padded":
            passes.unpack()
        assert ours(passes, layout, kl) == pytest.approx(float(expected), rel=1e-5)
        assert_same(slopes(model), theirs)


@pytest.mark.parametrize("kl", [0.0, 1.0])
def test_one_micro_batch_of_all_rows_equals_one_a_row(kl: float) -> None:
    model = student("llama")
    passes = Passes(model)
    assert passes.pack(max(LENGTHS))
    whole = ours(passes, "packed", kl, most_rows=8)
    expected = slopes(model)
    assert ours(passes, "packed", kl, most_rows=1) == pytest.approx(whole, rel=1e-6)
    assert_same(slopes(model), expected)


def test_activations_made_anew_change_no_gradient() -> None:
    model = student("llama")
    passes = Passes(model)
    assert passes.pack(max(LENGTHS))
    model.train()  # the tiny model has no dropout; only in training is anything made anew
    ours(passes, "packed", 0.5)
    expected = slopes(model)
    passes.recompute(wanted=True)
    ours(passes, "packed", 0.5)
    assert_same(slopes(model), expected)


def test_the_base_is_exactly_the_model_without_an_adapter() -> None:
    import torch

    model = student("llama", dtype="float32")
    batch = Collator("padded", most_rows=8, most_tokens=0, pad_id=3)(rows())["micro"][0]
    passes = Passes(model)
    model.train()
    with passes.base():
        found = passes.hidden(batch)
    assert model.training
    bare = tiny_model("llama")
    with torch.no_grad():
        expected = bare.base_model(input_ids=batch["input_ids"]).last_hidden_state
    assert torch.equal(found, expected.flatten(0, 1)[batch["places"]])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_change_neither_sums_nor_gradients(chunk: int) -> None:
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 11, bias=False)
    head = Head(layer, scale=0.5, cap=3.0)
    states, base = torch.randn(7, 6), torch.randn(7, 6)
    targets, weights = torch.randint(0, 11, (7,)), torch.rand(7)

    def logits(hidden: Any) -> Any:
        return 3.0 * torch.tanh(0.5 * hidden @ layer.weight.T / 3.0)

    def sums(hidden: Any) -> tuple[Any, Any]:
        logs, before = logits(hidden).log_softmax(-1), logits(base).log_softmax(-1)
        first = -(weights * logs[torch.arange(7), targets]).sum()
        return first, (weights * (before.exp() * (before - logs)).sum(-1)).sum()

    for number in range(2):
        one, other = (states.clone().requires_grad_() for _ in range(2))
        expected = sums(one)[number]
        found = (
            cross_entropy(other, head, targets, weights, chunk)
            if number == 0
            else forward_kl(other, base, head, weights, chunk)
        )
        torch.testing.assert_close(found, expected)
        (2 * expected).backward()
        (2 * found).backward()
        torch.testing.assert_close(other.grad, one.grad)


def test_the_divergence_of_a_model_from_itself_is_zero() -> None:
    import torch

    head = Head(torch.nn.Linear(4, 9))
    states = torch.randn(3, 4)
    assert float(forward_kl(states, states, head, torch.ones(3))) == pytest.approx(0, abs=1e-6)


def test_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[int] = []

    class Watched(torch.nn.Linear):
        def forward(self, states: Any) -> Any:
            seen.append(states.shape[0])
            return super().forward(states)

    monkeypatch.setattr(losses, "_CHUNK", 4)
    states = torch.randn(10, 4, requires_grad=True)
    total = cross_entropy(states, Head(Watched(4, 9)), torch.zeros(10).long(), torch.ones(10), 4)
    total.backward()
    assert seen == [4, 4, 2]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("GraniteConfig", {"logits_scaling": 8.0}),
        ("CohereConfig", {"logit_scale": 0.25}),
        ("Gemma2Config", {"final_logit_softcapping": 2.0, "head_dim": 8}),
    ],
)
def test_heads_that_scale_or_bend_logits_are_understood(name: str, more: dict[str, Any]) -> None:
    import torch
    import transformers

    sizes = dict(tiny_model("llama").config.to_dict())
    kept = ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size")
    kept += ("num_attention_heads", "num_key_value_heads", "pad_token_id", "eos_token_id")
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{key: sizes[key] for key in kept}, **more)
    config.initializer_range = 0.5
    model = with_adapter(
        transformers.AutoModelForCausalLM.from_config(config).eval(), Adapter(rank=2), 0
    )
    head = head_of(model.get_base_model())
    assert (head.scale, head.cap) != (1.0, None)
    passes = Passes(model)
    passes.check()
    assert not passes.whole


def test_a_head_of_an_unknown_kind_is_noticed_and_the_models_own_logits_are_taken() -> None:
    model = student("llama")
    causal = model.get_base_model()
    expected_of = causal.forward

    def odd(*args: Any, **more: Any) -> Any:
        out = expected_of(*args, **more)
        out.logits = out.logits * 3 + 1
        return out

    causal.forward = odd
    expected = plain(model, 0.0)
    expected.backward()
    theirs = slopes(model)
    passes = Passes(model)
    passes.check()
    assert passes.whole
    assert ours(passes, "padded", 0.0) == pytest.approx(float(expected), rel=1e-5)
    assert_same(slopes(model), theirs)


def test_a_model_that_mixes_packed_rows_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def mixing(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        return sdpa_attention_forward(module, query, key, value, None, **more)

    passes = Passes(student("llama"))
    monkeypatch.setattr(
        passes, "_register", lambda: AttentionInterface.register(losses._ATTENTION, mixing)
    )
    assert passes.pack(4) is False
    assert passes.causal.config._attn_implementation == "sdpa"
