"""Examples as token ids: prompts as evaluated, traces kept, labels on what the model writes."""

from typing import Any

import pytest

from tests.support import templates
from tests.support.tiny_models import byte_tokenizer
from tseval.formats import BUILTIN_FAMILIES, choose_format, opening
from tseval.models.hf.text import Text
from tseval.models.hf.words import Words
from tseval.requests import ModelSpec
from tseval.thinking import parse, parse_answer
from tseval.train.records import Example
from tseval.train.template import Script, write_rows
from tseval.types import Message, ThinkingMode

END = 257
# Family: template, thinking mode, and what the model writes for one example.
FAMILIES: dict[str, tuple[str, ThinkingMode, str]] = {
    "tags": (templates.HYBRID, "default", "<think>\nWeigh it.\n</think>\n\nNo."),
    "tags, forced": (templates.HYBRID, "forced", "Weigh it.\n</think>\n\nNo."),
    "template-tags": (templates.OPENED, "default", "Weigh it.\n</think>\n\nNo."),
    "harmony": (
        templates.HARMONY,
        "default",
        "<|channel|>analysis<|message|>Weigh it."
        "<|end|><|start|>assistant<|channel|>final<|message|>No.",
    ),
    "none, forced": (templates.PLAIN, "forced", "Weigh it.\n</think>\n\nNo."),
    "none": (templates.PLAIN, "default", "<think>\nWeigh it.\n</think>\n\nNo."),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def text_of(template: str) -> Text:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return Text(tokenizer)


def script(template: str, mode: ThinkingMode = "default") -> Script:
    text = text_of(template)
    return Script(text, choose_format(BUILTIN_FAMILIES, text.view()), mode, frozenset({END}))


def example(**fields: Any) -> Example:
    given = {"prompt": "How?", "kind": "harmful", "trace": "Weigh it.", "answer": "No."}
    return Example(**{"id": "1", "thought": True, **given, **fields})


@each_family
def test_the_prompt_is_what_the_backend_is_given_in_an_evaluation(family: str) -> None:
    template, mode, _ = FAMILIES[family]
    written = script(template, mode)
    row = written.row(example())
    assert row is not None
    backend = Words(ModelSpec(backend="hf"))
    backend._text = written.text
    fmt = choose_format(BUILTIN_FAMILIES, backend.template())
    start = opening(fmt, mode)
    asked = backend.prompt_ids((Message(role="user", content="How?"),), start.template_kwargs)
    assert asked is not None
    assert row.ids[: row.prompt] == asked + (backend.text_ids(start.prefill) or ())


@each_family
def test_the_completion_is_written_as_the_family_writes_it(family: str) -> None:
    template, mode, expected = FAMILIES[family]
    written = script(template, mode)
    row = written.row(example())
    assert row is not None
    assert written.text.decode(row.ids[row.prompt : -1]) == expected
    assert row.ids[-1] == END


@each_family
def test_only_what_the_model_writes_has_labels(family: str) -> None:
    template, mode, _ = FAMILIES[family]
    row = script(template, mode).row(example())
    assert row is not None
    assert row.labels == [-100] * row.prompt + list(row.ids[row.prompt :])
    assert row.prompt > len("How?")


@each_family
def test_a_completion_reads_back_as_the_trace_and_answer_it_was_made_of(family: str) -> None:
    template, mode, _ = FAMILIES[family]
    written = script(template, mode)
    made = written.completion(example(trace="One.\n\nTwo.", answer="A.\nB."))
    assert made is not None
    read = parse(written.opening.format, made, opened=written.opening.opened)
    assert (read.trace, read.answer) == ("One.\n\nTwo.", "A.\nB.")


def test_the_template_alone_would_drop_the_trace_that_is_kept() -> None:
    text = text_of(templates.HYBRID)
    turns = [
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "<think>\nWeigh it.\n</think>\n\nNo."},
    ]
    assert "Weigh" not in text.tokenizer.apply_chat_template(turns, tokenize=False)
    row = script(templates.HYBRID).row(example())
    assert row is not None
    assert "Weigh" in text.decode(row.ids)


def test_an_answer_without_a_trace_stands_alone_where_the_model_may_skip_it() -> None:
    plain = example(trace="", thought=False)
    assert script(templates.PLAIN).completion(plain) == "No."
    assert script(templates.HYBRID).completion(plain) == "No."
    assert script(templates.HARMONY).completion(plain) == "<|channel|>final<|message|>No."


def test_a_trace_that_the_prompt_opens_is_closed_even_if_there_is_none() -> None:
    written = script(templates.OPENED).completion(example(trace="", thought=False))
    assert written == "\n</think>\n\nNo."


def test_an_empty_trace_that_was_thought_keeps_its_marks() -> None:
    written = script(templates.HYBRID).completion(example(trace=""))
    assert written == "<think>\n\n</think>\n\nNo."


def test_with_thinking_off_the_prompt_holds_the_empty_trace_and_the_answer_is_all() -> None:
    written = script(templates.HYBRID, "off")
    row = written.row(example(trace="", thought=False))
    assert row is not None
    assert written.text.decode(row.ids[: row.prompt]).endswith("<think>\n\n</think>\n\n")
    assert written.text.decode(row.ids[row.prompt : -1]) == "No."
    assert written.row(example()) is None
    assert parse_answer(written.opening.format, "No.").answer == "No."


@pytest.mark.parametrize("field", ["trace", "answer"])
def test_text_with_marks_or_an_end_of_turn_is_dropped_and_counted(field: str) -> None:
    examples = [example(**{field: "a </think> b"}), example(**{field: "a <|im_end|> b"}), example()]
    rows, dropped = write_rows(examples, script(templates.HYBRID), 1000)
    assert len(rows) == 1
    assert dropped == {"its text holds marks of the thinking format or the end of a turn": 2}


def test_longer_rows_are_dropped_and_counted_never_cut() -> None:
    written = script(templates.PLAIN)
    fits = written.row(example())
    assert fits is not None
    rows, dropped = write_rows([example(), example(answer="No!!")], written, len(fits.ids))
    assert [row.ids for row in rows] == [fits.ids]
    assert dropped == {f"longer than {len(fits.ids)} tokens": 1}


def test_a_prompt_that_the_template_refuses_is_counted() -> None:
    refusing = templates.PLAIN + (
        "{% if 'bad' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    )
    rows, dropped = write_rows([example(prompt="bad"), example()], script(refusing), 1000)
    assert len(rows) == 1
    assert dropped == {"the chat template refuses the prompt": 1}


def test_weights_are_relative_to_their_mean_and_none_leaves_the_row_out() -> None:
    examples = [example(weight=1.0), example(weight=3.0), example(weight=0.0)]
    rows, dropped = write_rows(examples, script(templates.PLAIN), 1000)
    assert [row.weight for row in rows] == [0.5, 1.5]
    assert dropped == {"weight 0": 1}


def test_weights_average_one_over_tokens_however_long_the_weighty_rows_are() -> None:
    short, long = example(weight=1.0), example(weight=5.0, answer="No. " * 40)
    rows, _ = write_rows([short, long], script(templates.PLAIN), 1000)
    tokens = [len(row.ids) - row.prompt for row in rows]
    assert tokens[1] > 5 * tokens[0]
    weighed = sum(row.weight * count for row, count in zip(rows, tokens, strict=True))
    assert weighed == pytest.approx(sum(tokens))
    assert rows[1].weight == pytest.approx(5 * rows[0].weight)


def test_a_row_that_is_dropped_leaves_each_pool_its_mean_weight() -> None:
    long = example(weight=1.5, answer="No." * 500)
    benign = [example(kind="benign", weight=weight) for weight in (0.5, 1.5)]
    rows, dropped = write_rows([example(weight=0.5), long, *benign], script(templates.PLAIN), 1000)
    assert dropped == {"longer than 1000 tokens": 1}
    # One refusal is left: it weighs what the answers weigh on average.
    assert [(row.benign, row.weight) for row in rows] == [(False, 1.0), (True, 0.5), (True, 1.5)]


def test_the_end_is_the_token_at_which_generation_stops_and_the_turn_ends() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = templates.PLAIN
    tokenizer.eos_token = "<|im_start|>"  # fine-tunes often name another token than their turn's
    text = Text(tokenizer)
    fmt = choose_format(BUILTIN_FAMILIES, text.view())
    assert Script(text, fmt, "default", frozenset({256, 257})).end_id == 257
    # Where nothing of the turn's end stops generation, the end of text does.
    assert Script(text, fmt, "default", frozenset({256})).end_id == 256
