"""Chunks of a trace, and the tokens at which they end: worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tseval.probes import chunked, token_end
from tseval.scripts import decode, encode


def sentence(length: int, letter: str = "a") -> str:
    return letter * (length - 1) + "."


def test_sentences_are_packed_up_to_two_hundred_characters() -> None:
    # 100 + 1 + 99 = 200 fits; the next one would make 222.
    text = f"{sentence(100)} {sentence(99, 'b')} {sentence(21, 'c')}"
    first, second = chunked(text)
    assert (first.start, first.end, len(first.text)) == (0, 200, 200)
    assert (second.start, second.end, second.text) == (201, 222, sentence(21, "c"))


def test_one_character_more_begins_a_new_chunk() -> None:
    text = f"{sentence(100)} {sentence(100, 'b')}"
    assert [(c.start, c.end) for c in chunked(text)] == [(0, 100), (101, 201)]


def test_a_longer_sentence_stands_alone() -> None:
    text = f"{sentence(30)} {sentence(300, 'b')} {sentence(30, 'c')}"
    assert [len(c.text) for c in chunked(text)] == [30, 300, 30]


def test_chunks_of_twenty_characters_are_dropped_and_twenty_one_are_kept() -> None:
    long = sentence(200, "b")
    assert [c.text for c in chunked(f"{sentence(20)} {long}")] == [long]
    assert [c.text for c in chunked(f"{sentence(21)} {long}")] == [sentence(21), long]


def test_breaks_stand_behind_marks_and_whitespace_only() -> None:
    # No break in 3.14 or 'e.g.,'; newlines count as the single space that joins them.
    text = "Pi is 3.14 (e.g., here)!\n\n  Is it so?   It is what it is, more or less."
    (chunk,) = chunked(text)
    assert chunk.text == "Pi is 3.14 (e.g., here)! Is it so? It is what it is, more or less."
    assert text[chunk.start : chunk.end] == text


def test_length_is_that_of_the_joined_sentences_not_of_their_whitespace() -> None:
    text = f"{sentence(100)}{' ' * 50}{sentence(99, 'b')}"
    (chunk,) = chunked(text)
    assert len(chunk.text) == 200
    assert chunk.end == len(text)


def test_whitespace_before_the_first_sentence_belongs_to_no_chunk() -> None:
    (chunk,) = chunked("\n\n  This is the only sentence here. \n")
    assert (chunk.start, chunk.end) == (4, 35)


@pytest.mark.parametrize("text", ["", " \n ", "Short one.", "...", "a. b. c."])
def test_a_trace_that_is_too_short_has_no_chunks(text: str) -> None:
    assert chunked(text) == ()


@given(st.text(st.sampled_from("ab.!? \n\u00e9\u4e2d\U0001f600"), max_size=400))
def test_chunks_are_in_order_and_say_what_stands_at_their_place(text: str) -> None:
    behind = 0
    for chunk in chunked(text, longest=20, shortest=3):
        assert behind <= chunk.start < chunk.end <= len(text)
        assert " ".join(chunk.text.split()) == " ".join(text[chunk.start : chunk.end].split())
        behind = chunk.end


def test_a_cut_never_splits_a_character_of_several_tokens() -> None:
    text = "\u00e9\U0001f600!"  # 2 + 4 + 1 bytes, a token each
    ids = encode(text)
    assert len(ids) == 7
    assert [token_end(decode, ids, text, end) for end in range(4)] == [0, 2, 6, 7]


@given(st.text(max_size=60), st.data())
def test_the_prefix_is_the_shortest_that_says_the_text(text: str, data: st.DataObject) -> None:
    text = text.encode(errors="replace").decode()
    ids = encode(text)
    end = data.draw(st.integers(0, len(text)))
    count = token_end(decode, ids, text, end)
    assert decode(ids[:count]).startswith(text[:end])
    assert count == 0 or not decode(ids[: count - 1]).startswith(text[:end])


def test_tokens_that_straddle_the_end_are_kept_whole() -> None:
    words = ["It is", " so. ", "Then", " not."]
    text = "".join(words)

    def write(ids: tuple[int, ...]) -> str:
        return "".join(words[i] for i in ids)

    assert token_end(write, range(4), text, len("It is so.")) == 2


def test_a_text_that_is_not_that_of_the_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="not that of the token ids"):
        token_end(decode, encode("abc"), "abd", 3)
