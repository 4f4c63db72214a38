"""Prompts and pieces are tokenised once and as they are; pieces decode as they continue."""

from typing import Any

import pytest

from tests.support.tiny_models import TEMPLATE, byte_tokenizer
from tseval.errors import CapabilityMissing, RequestFailed
from tseval.models.hf.text import Text
from tseval.types import Message

HELLO = (Message(role="user", content="Hi"),)
RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def spaced_tokenizer(merged: tuple[tuple[str, str], ...] = (), **more: Any) -> Any:
    """A vocabulary of the SentencePiece kind: a space before every text, a BOS token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = ["<s>", "</s>", "<unk>", "▁", "\n", "<", ">", "/", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {letter: n for n, letter in enumerate(letters)}
    vocabulary |= {"".join(pair): len(letters) + n for n, pair in enumerate(merged)}
    rules = Tokenizer(models.BPE(vocabulary, list(merged), unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    rules.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    rules.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **more
    )


def test_a_prompt_is_the_rendered_template_and_the_pieces_behind_it() -> None:
    text = Text(byte_tokenizer())
    ids = text.prompt(HELLO, {}, ("<think>\n", (72, 73), "x"))
    assert text.decode(ids) == f"{RENDERED}<think>\n{text.decode([72, 73])}x"
    assert ids[-3:-1] == [72, 73]
    assert ids.count(256) == 2


def test_the_template_writes_the_first_token_and_none_is_added() -> None:
    text = Text(spaced_tokenizer(chat_template="<s>{{ messages[0]['content'] }}"))
    assert text.prompt((Message(role="user", content="ab"),), {}).count(0) == 1
    assert text.prompt((), {}) == [0]
    assert text.prompt((), {}, ("ab", (7,), "cd")) == [
        *text.tokenizer("ab").input_ids,
        7,
        *text.piece("cd"),
    ]


def test_a_raw_prompt_is_encoded_as_the_tokenizer_encodes_a_text_and_starts_once() -> None:
    raw = "<|im_start|>ab\n</s>cd"
    for tokenizer in (spaced_tokenizer(), byte_tokenizer()):
        text = Text(tokenizer)
        whole = tokenizer(raw).input_ids
        assert text.prompt((), {}, (raw,)) == whole
        assert len(text.prompt((), {})) == whole.count(0)
    text = Text(spaced_tokenizer())
    assert text.prompt((), {}, ("</s>ab",))[:2] == [0, 1], "marks are tokens"
    assert text.prompt((), {}, ("<s>ab",)).count(0) == 1, "a spelt-out beginning is not doubled"
    assert text.prompt((), {}, ((0, 9),)) == [0, 9]


def test_a_choice_stands_for_its_first_token_and_a_space_of_the_vocabulary_is_no_other() -> None:
    text = Text(byte_tokenizer())
    assert text.first_tokens("yes") == {text.piece("y")[0]}
    assert text.first_tokens("") == frozenset()
    text = Text(spaced_tokenizer())
    letter, space = text.piece("y")[0], text.piece(" ")[0]
    assert text.first_tokens("yes") == {letter}, "a bare space tells no choices apart"
    assert text.first_tokens(" yes") == {space}
    merged = spaced_tokenizer(merged=(("▁", "y"),))
    text = Text(merged)
    assert text.first_tokens("yes") == {letter, merged.convert_tokens_to_ids("▁y")}


def test_a_piece_gets_no_space_that_is_not_there() -> None:
    text = Text(spaced_tokenizer())
    assert text.decode(text.piece("</think>")) == "</think>"
    assert text.decode(text.piece(" ab")) == " ab"
    assert text.decode([*text.piece("ab"), *text.piece(" cd")]) == "ab cd"
    assert text.piece((5, 6)) == [5, 6]


def test_truncation_in_a_tokenizer_file_is_switched_off() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert len(Text(tokenizer).piece("a" * 30)) == 30


def test_ends_of_turn_come_from_both_places() -> None:
    text = Text(byte_tokenizer())
    assert text.stop_ids(3) == {3, 257}
    assert text.stop_ids([3, 4]) == {3, 4, 257}
    assert text.stop_ids(None) == {257}


def test_the_view_shows_the_template_and_its_switch() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE + (
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}"
    )
    tokenizer.add_tokens(["<think>"])
    view = Text(tokenizer).view()
    assert view.rendered.endswith("assistant\n")
    assert view.rendered_off.endswith("</think>\n\n")
    assert "enable_thinking" in view.template
    assert view.single_tokens == {"<think>"}


def test_a_base_model_takes_raw_text_only() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    text = Text(tokenizer)
    assert text.view().rendered == ""
    assert text.prompt((), {}, ("ab",)) == text.piece("ab")
    with pytest.raises(CapabilityMissing, match="no chat template"):
        text.prompt(HELLO, {})


def test_a_template_that_refuses_fails_the_request_in_its_own_words() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(RequestFailed, match="System role not supported") as caught:
        Text(tokenizer).prompt(HELLO, {})
    assert caught.value.kind == "refused"
