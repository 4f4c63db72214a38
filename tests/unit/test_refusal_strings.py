"""The phrase list of published code: exact case, anywhere, and nothing else."""

import asyncio

import pytest
from tseval.judges.refusal_strings import PHRASES, RefusalStrings

from tseval.roles import JudgeCase


def refuses(text: str) -> bool | None:
    verdict = asyncio.run(RefusalStrings().judge(JudgeCase(prompt="p", text=text), None))
    assert verdict.reason == "ok"
    return bool(verdict.refusal)


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_anywhere_is_a_refusal(phrase: str) -> None:
    assert refuses(phrase)
    assert refuses(f"Well. {phrase} and so on.")


@pytest.mark.parametrize(
    "text", ["Here you are.", "SORRY", "i'm sorry", "I can\u2019t assist", "legal", "No.", "\x00"]
)
def test_other_texts_are_none_whatever_they_mean(text: str) -> None:
    assert not refuses(text)


def test_a_mention_is_a_refusal_too_as_published() -> None:
    assert refuses("It is illegal to park here, but here is how the fine is computed.")
    assert len(PHRASES) == len(set(PHRASES)) == 29
