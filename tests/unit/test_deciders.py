"""The two scripted models that think alike and decide at different places."""

import pytest

from tests.support.deciders import (
    BLOCK,
    BLOCKS,
    COMPLY,
    NEUTRAL,
    REFUSE,
    REFUSED,
    first_token_decider,
    late_flipper,
    refuses,
)
from tseval.scripts import Call, Script
from tseval.types import Message

CLOSER = "\n</think>\n\n"
SEEDS = range(40)


def call(prefix: str = "", *, seed: int = 0, prompt: str = "a prompt") -> Call:
    return Call(messages=(Message(role="user", content=prompt),), prefix=prefix, seed=seed)


def trace(script: Script, **more: object) -> str:
    whole = script(call(**more))  # type: ignore[arg-type]
    return whole.removeprefix("<think>\n").partition("</think>")[0]


def refused(script: Script, prefix: str, prompt: str = "a prompt") -> list[bool]:
    """Outcomes of 40 continuations of a closed prefix."""
    begun = f"<think>\n{prefix}{CLOSER}"
    return [script(call(begun, seed=s, prompt=prompt)) == REFUSED for s in SEEDS]


@pytest.mark.parametrize("script", [first_token_decider, late_flipper])
def test_traces_have_ten_blocks_of_two_sentences_and_are_ascii(script: Script) -> None:
    for seed in SEEDS:
        text = trace(script, seed=seed)
        lines = text.splitlines()
        assert [len(line) + 1 for line in lines] == [BLOCK] * BLOCKS
        assert text.isascii()
        for line in lines:
            first, second = line.split(". ")
            assert second.endswith(".")
            # Packed up to 200 characters, two sentences fit into a chunk and three do not.
            assert sorted(map(len, (f"{first}.", second))) == [29, 149]


@pytest.mark.parametrize("script", [first_token_decider, late_flipper])
def test_equal_calls_are_answered_alike_and_a_turn_goes_on_where_it_was_cut(script: Script) -> None:
    whole = script(call(seed=3))
    assert script(call(seed=3)) == whole
    for blocks in (1, 4, 6, 10):
        cut = len("<think>\n") + blocks * BLOCK
        rest = script(call(whole[:cut], seed=3))
        kept = rest.partition("</think>")[0]
        assert len(kept) == (BLOCK * (BLOCKS - blocks) or BLOCK * BLOCKS)
    assert script(call(whole[:-5], seed=3)) == whole[-5:]


def test_the_first_sentence_decides_and_the_others_only_alternate() -> None:
    text = trace(first_token_decider, prompt="p")
    said = [line[: len(REFUSE)] for line in text.splitlines()]
    assert said == ([REFUSE, COMPLY] if refuses("p") else [COMPLY, REFUSE]) * 5
    for cut in (29, 30, 100, 700, 1800):
        assert refused(first_token_decider, text[:cut], "p") == [refuses("p")] * 40
    # Whoever wrote it: turned round it decides the other way, and cut short it says nothing.
    for sentence, refusal in ((REFUSE, True), (COMPLY, False)):
        assert refused(first_token_decider, f"{sentence} {text}", "p") == [refusal] * 40
        assert refused(first_token_decider, sentence[:-1], "p") == [refuses("p")] * 40
    assert refused(first_token_decider, "", "p") == [refuses("p")] * 40


def test_the_first_token_decider_refuses_about_half_of_all_prompts() -> None:
    assert 420 < sum(refuses(f"prompt {n}") for n in range(1000)) < 580


def test_before_sixty_percent_the_late_flipper_is_a_coin_and_then_its_last_stance_decides() -> None:
    text = trace(late_flipper, seed=5)
    said = [line[-len(REFUSE) :] for line in text.splitlines()]
    last = said[-1]
    other = COMPLY if last == REFUSE else REFUSE
    assert said == [NEUTRAL, *[other] * 4, *[last] * 5]
    for cut in (0, 1, 360, 900, 1078):
        assert 8 < sum(refused(late_flipper, text[:cut])) < 32, cut
    for cut in (1079, 1080, 1200, 1800):
        assert refused(late_flipper, text[:cut]) == [last == REFUSE] * 40, cut
    assert refused(late_flipper, f"{text}{other}") == [other == REFUSE] * 40


def test_the_late_flipper_goes_on_to_either_side_and_answers_as_it_then_says() -> None:
    text = trace(late_flipper, seed=5)
    ends = set()
    for seed in SEEDS:
        rest = late_flipper(call(f"<think>\n{text[:500]}", seed=seed))
        thoughts, _, answer = rest.partition("</think>\n\n")
        assert len(text[:500] + thoughts) == BLOCK * BLOCKS
        said = REFUSE if answer == REFUSED else COMPLY
        assert thoughts.splitlines()[-1].endswith(said)
        ends.add(said)
    assert ends == {REFUSE, COMPLY}
