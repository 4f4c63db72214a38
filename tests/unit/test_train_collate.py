"""Micro-batches: every row once, within their limits, labels on nothing but completions."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tseval.train.collate import Collator, Layout, plan

LAYOUTS: tuple[Layout, ...] = ("packed", "padded")
PAD = 99


def row(prompt: int, completion: int, *, start: int = 0, **fields: Any) -> dict[str, Any]:
    ids = list(range(start, start + prompt + completion))
    labels = [-100] * prompt + ids[prompt:]
    return {"input_ids": ids, "labels": labels, "weight": 1.0, "benign": False, **fields}


def collator(layout: Layout, **more: Any) -> Collator:
    return Collator(layout, **{"most_rows": None, "most_tokens": 64, "pad_id": PAD, **more})


@settings(deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    layout=st.sampled_from(LAYOUTS),
    most=st.integers(1, 80),
)
def test_a_plan_has_each_row_once_and_keeps_to_its_tokens(
    lengths: list[int], layout: Layout, most: int
) -> None:
    batches = plan(lengths, layout, most_rows=None, most_tokens=most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        used = sum(sizes) if layout == "packed" else len(sizes) * max(sizes)
        assert used <= most or len(batch) == 1


def test_rows_of_similar_length_share_a_padded_pass() -> None:
    batches = plan([3, 30, 4, 29], "padded", most_rows=None, most_tokens=60)
    assert batches == [[1, 3], [2, 0]]


def test_a_number_of_rows_overrides_the_tokens() -> None:
    assert plan([9, 9, 9], "padded", most_rows=2, most_tokens=1) == [[0, 1], [2]]


def test_a_packed_batch_has_no_padding_and_its_rows_begin_at_position_0() -> None:
    batch = collator("packed")([row(2, 3), row(1, 2, start=50)])["micro"][0]
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4, 50, 51, 52]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 2, 3, 4, -100, 51, 52]]
    # The last token of the first row predicts nothing, least of all the second row's first.
    assert batch["places"].tolist() == [1, 2, 3, 5, 6]
    assert batch["targets"].tolist() == [2, 3, 4, 51, 52]


def test_padding_stands_on_the_right_and_has_no_label() -> None:
    batch = collator("padded")([row(1, 2, start=50), row(2, 3)])["micro"][0]
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4], [50, 51, 52, PAD, PAD]]
    assert batch["labels"].tolist() == [[-100, -100, 2, 3, 4], [-100, 51, 52, -100, -100]]
    assert batch["places"].tolist() == [1, 2, 3, 5, 6]
    assert batch["targets"].tolist() == [2, 3, 4, 51, 52]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("apart", [False, True])
def test_what_is_predicted_stands_one_place_before_its_label(layout: Layout, apart: bool) -> None:
    rows = [row(n, 5 - n, start=10 * n, benign=n % 2 == 0, weight=float(n)) for n in range(1, 5)]
    for batch in collator(layout, apart=apart, most_tokens=12)(rows)["micro"]:
        ids, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
        assert labels[batch["places"] + 1].tolist() == batch["targets"].tolist()
        assert (ids[batch["places"]] + 1).tolist() == batch["targets"].tolist()
        # Every row of ten ids has its own number, weight and kind.
        numbers = (batch["targets"] // 10).tolist()
        assert batch["weights"].tolist() == numbers
        assert batch["benign"].tolist() == [n % 2 == 0 for n in numbers]
        if apart:
            assert len(set(batch["benign"].tolist())) == 1


def test_a_label_on_the_first_token_of_a_row_predicts_nothing() -> None:
    batch = collator("packed")([row(0, 3), row(0, 2, start=50)])["micro"][0]
    assert batch["targets"].tolist() == [1, 2, 51]


def test_a_step_counts_the_labels_of_all_its_rows_whichever_process_has_them() -> None:
    rows = [row(2, n) for n in (5, 1, 3)]
    shares = [collator("packed", share=(rank, 2))(rows) for rank in range(2)]
    assert [share["labelled"] for share in shares] == [9, 9]
    assert [share["lengths"] for share in shares] == [[7, 3, 5]] * 2
    own = [sum(batch["targets"].numel() for batch in share["micro"]) for share in shares]
    assert own == [6, 3]


def test_a_process_may_have_no_row_of_a_step() -> None:
    assert collator("packed", share=(1, 2))([row(1, 1)])["micro"] == []


def test_smaller_passes_are_halved_until_each_row_is_alone_and_long() -> None:
    rows = [row(1, 7), row(1, 5)]
    made = collator("packed", most_rows=2, most_tokens=64)
    made(rows)
    assert not made.is_long(1000)  # who names a number of rows decides for themselves
    limits = []
    while (step := made.again()) is not None:
        limits.append((made.most_tokens, [b["lengths"].tolist() for b in step["micro"]]))
    assert limits == [(7, [[8], [6]])]
    assert made.is_long(8)
    assert not made.is_long(7)
