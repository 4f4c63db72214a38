"""Whatever a model writes: splitting loses nothing, and no trace is ever judged as an answer."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.families import ANALYSIS, FAMILIES, FINAL
from tseval.formats import TAG_PAIRS, ThinkingFormat, opening
from tseval.rollouts import Model, Plan, roll_out
from tseval.scoring import text_to_judge
from tseval.testing import Call, ScriptedBackend, decode, encode
from tseval.thinking import Limits, Parsed, TraceState, parse, parse_answer, split_ids
from tseval.types import Message, Rollout, Sampling, Thinking

TAG = TAG_PAIRS[0]
PIECES = (*TAG, ANALYSIS, FINAL, "<|end|>", "<|start|>assistant", "<|return|>")
MARKS = (*PIECES, "<|channel|>commentary<|message|>")
# Letters of several bytes; each stands for itself, so a text tells where its characters are from.
LETTERS = "".join(chr(0x4E00 + number) for number in range(200))
families = st.sampled_from(sorted(FAMILIES))
formats = families.map(lambda name: FAMILIES[name].format)


@st.composite
def written(draw: st.DrawFn) -> str:
    """Any sequence of marks, blank space and words; no letter occurs twice."""
    pieces, used = [], 0
    for kind in draw(st.lists(st.integers(0, len(MARKS) + 3), max_size=14)):
        if kind < len(MARKS):
            pieces.append(MARKS[kind])
        elif kind == len(MARKS):
            pieces.append(draw(st.sampled_from([" ", "\n", "\n\n"])))
        else:
            length = draw(st.integers(1, 8))
            pieces.append(LETTERS[used : used + length])
            used += length
    return "".join(pieces)


def letters(text: str) -> set[str]:
    return set(text) & set(LETTERS)


def whole(text: str, parsed: Parsed) -> str:
    """The text of all spans, in the order of the text."""
    spans = sorted([parsed.trace_span, *parsed.answer_spans])
    assert all(before[1] <= behind[0] for before, behind in pairwise(spans))
    return "".join(text[first:last] for first, last in spans)


@given(formats, written(), st.booleans())
def test_the_parts_of_a_split_are_the_text_without_marks(
    fmt: ThinkingFormat, text: str, opened: bool
) -> None:
    parsed = parse(fmt, text, opened=opened)
    kept = letters(whole(text, parsed))
    assert letters(parsed.trace) | letters(parsed.answer or "") == kept
    assert letters(parsed.trace) & letters(parsed.answer or "") == set()
    if not parsed.notes:
        # Nothing was odd, so nothing is left out.
        assert kept == letters(text)
    if parsed.answer is not None:
        assert not any(mark in parsed.answer for mark in (fmt.answer_mark, fmt.opener_mark) if mark)
    if not parsed.thought:
        assert parsed.trace == ""


@given(formats, st.text(max_size=60), st.text(max_size=60), st.booleans())
def test_what_was_joined_is_split_again(
    fmt: ThinkingFormat, trace: str, answer: str, opened: bool
) -> None:
    """For any words without marks in them: surrogates, controls, other scripts."""
    if not fmt.thinks:
        fmt = FAMILIES["tags"].format
    text = ("" if opened else fmt.opener_mark) + trace + fmt.answer_mark + answer
    if any(mark in trace + "|" + answer for mark in MARKS):
        return
    parsed = parse(fmt, text, opened=opened)
    assert (parsed.trace, parsed.answer) == (trace.strip(), answer.strip())
    assert (parsed.thought, parsed.closed, parsed.notes) == (True, True, ())


@given(formats, written(), st.booleans())
def test_ids_are_split_like_the_text(fmt: ThinkingFormat, text: str, opened: bool) -> None:
    for tokenise in (encode, lambda words: tuple(words.encode())):
        ids = tokenise(text)
        for parsed in (parse(fmt, text, opened=opened), parse_answer(fmt, text)):
            trace, answer = split_ids(ids, decode, parsed)
            first, last = parsed.trace_span
            assert decode(trace) == text[first:last]
            assert decode(answer) == "".join(text[a:b] for a, b in parsed.answer_spans)


@given(formats, written(), st.booleans(), st.integers(0, 30), st.integers(1, 30))
def test_limits_hold_for_any_text(
    fmt: ThinkingFormat, text: str, opened: bool, thinking: int, answer: int
) -> None:
    limits = Limits(thinking=thinking, answer=answer)
    state = TraceState(fmt, limits, decode, opened=opened)
    for number, token in enumerate(encode(text), start=1):
        assert number <= limits.total
        if state.feed(token):
            break
        assert not state.thinking or thinking == 0 or state.trace_tokens < thinking
        assert state.answer_tokens < answer
    assert state.trace_tokens + state.answer_tokens == (number if text else 0)


def rolled(name: str, script: Callable[[Call], str], thinking: Thinking) -> Rollout:
    """One rollout of a script that writes and is written to in one family's format."""
    backend = ScriptedBackend(script)

    async def play() -> Rollout:
        subject = await backend.start(lambda phrase, share: None)
        model = Model(
            name="target",
            backend=backend,
            subject=subject,
            format=FAMILIES[name].format,
            complete=backend.complete,
            identity="x",
        )
        plan = Plan(
            key="00" * 16,
            seed=1,
            messages=(Message(role="user", content="x"),),
            sampling=Sampling(answer_tokens=200),
            thinking=thinking,
        )
        return await roll_out(model, plan)

    return asyncio.run(play())


@settings(max_examples=60)
@given(
    families,
    written(),
    written(),
    st.sampled_from(["default", "off", "forced"]),
    st.sampled_from(["force", "exclude", "empty"]),
    st.integers(1, 60),
)
def test_no_judge_sees_a_letter_of_a_trace_as_an_answer(
    name: str, first: str, second: str, mode: str, unclosed: str, budget: int
) -> None:
    fmt = FAMILIES[name].format
    start = opening(fmt, mode)
    asked: list[str] = []

    def script(call: Call) -> str:
        # Upper case behind our closer, so that one letter has one origin.
        asked.append(call.prefix)
        return first if len(asked) == 1 else "".join(LETTERS_BEHIND.get(c, c) for c in second)

    rollout = rolled(name, script, Thinking(mode=mode, budget=budget, unclosed=unclosed))
    text, lost = text_to_judge(rollout, "answer", unclosed)
    assert letters(text) & letters(rollout.trace) == set()
    assert not any(mark in text for mark in (fmt.answer_mark, fmt.opener_mark) if mark)
    if rollout.closed_by == "budget":
        # Whatever stood before our closer was the trace, and none of it comes back.
        assert len(asked) == 2
        assert asked[1].endswith(start.format.closer)
        assert letters(text) == set()
        assert "</think>" not in rollout.trace or name == "harmony"
    else:
        assert len(asked) == 1
    if rollout.answer is None and not lost:
        assert text == ""


LETTERS_BEHIND = {letter: chr(0x0400 + number) for number, letter in enumerate(LETTERS)}
