"""Answers that are begun for the model: what it goes on from, and what is kept of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.sessions import finish, session_on
from tseval.errors import CapabilityMissing
from tseval.requests import Capabilities
from tseval.scripts import Call
from tseval.session import Session
from tseval.testing import TAGS_VIEW, ScriptedBackend
from tseval.types import Rollout, Thinking


def asked(folder: Path, backend: ScriptedBackend, *calls: dict[str, Any]) -> list[Rollout]:
    async def work() -> list[Rollout]:
        async with session_on(folder, backend) as session:
            return [await session.generate("Capital of France?", **call) for call in calls]

    return finish(work())


def saying(text: str, seen: list[str] | None = None) -> Callable[[Call], str]:
    def script(call: Call) -> str:
        if seen is not None:
            seen.append(call.prefix)
        return text

    return script


def test_the_model_goes_on_from_the_beginning_which_is_no_part_of_its_answer(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    backend = ScriptedBackend(saying(" Paris.", seen))
    (rollout,) = asked(tmp_path, backend, {"prefill": "It is"})
    assert seen == ["It is"]
    assert rollout.answer == " Paris."
    assert not rollout.thought


@pytest.mark.parametrize("text", ["    return 1\n", "\n\n", "x", " a </s> b "])
def test_what_goes_on_from_a_beginning_keeps_its_spaces(tmp_path: Path, text: str) -> None:
    begun, plain = asked(tmp_path, ScriptedBackend(saying(text)), {"prefill": "def f():\n"}, {})
    assert begun.answer == text
    assert plain.answer == text.strip()


def test_a_model_that_thinks_is_kept_from_it(tmp_path: Path) -> None:
    seen: list[str] = []
    backend = ScriptedBackend(saying(" Paris.", seen), view=TAGS_VIEW)
    (rollout,) = asked(
        tmp_path, backend, {"prefill": "It is", "thinking": Thinking(mode="forced", budget=9)}
    )
    assert seen[0].endswith("</think>\n\nIt is")
    assert (rollout.answer, rollout.thought, rollout.budget) == (" Paris.", False, 0)


def test_a_model_that_thinks_all_the_same_gives_no_trace_as_an_answer(tmp_path: Path) -> None:
    backend = ScriptedBackend(saying(" <think>hm</think> Paris."), view=TAGS_VIEW)
    (rollout,) = asked(tmp_path, backend, {"prefill": "It is"})
    assert "hm" not in (rollout.answer or "")
    assert "reopened" in rollout.notes


def test_beginnings_are_part_of_the_key_and_calls_without_one_keep_theirs(tmp_path: Path) -> None:
    backend = ScriptedBackend(saying("Paris."))
    off = {"thinking": Thinking(mode="off")}
    rollouts = asked(tmp_path, backend, {"prefill": "It"}, {"prefill": "He"}, off, {"prefill": ""})
    assert len({rollout.key for rollout in rollouts}) == 4
    before = backend.calls
    again = asked(tmp_path, backend, {"prefill": "It"}, {}, off)
    assert backend.calls == before
    assert [each.key for each in again] == [rollouts[n].key for n in (0, 3, 2)]


def test_a_backend_that_cannot_go_on_says_so(tmp_path: Path) -> None:
    backend = ScriptedBackend(saying("x"), capabilities=Capabilities())
    with pytest.raises(CapabilityMissing, match="lacks prefix"):
        asked(tmp_path, backend, {"prefill": "It is"})
    assert backend.calls == 0


def test_a_beginning_takes_room_of_the_context(tmp_path: Path) -> None:
    async def limit(session: Session, prefill: str) -> tuple[str, ...]:
        return (await session.generate("Hi", prefill=prefill)).notes

    async def work() -> list[tuple[str, ...]]:
        backend = ScriptedBackend(saying("x"), context_length=1100)
        async with session_on(tmp_path, backend) as session:
            return [await limit(session, "a"), await limit(session, "a" * 400)]

    short, long = finish(work())
    assert "short-answer" not in short
    assert "short-answer" in long


def test_rollouts_with_a_beginning_are_read_back_as_they_were(tmp_path: Path) -> None:
    backend = ScriptedBackend(saying("\t x \n"))
    (made,) = asked(tmp_path, backend, {"prefill": "It is"})
    assert msgspec.json.decode(msgspec.json.encode(made), type=Rollout) == made
