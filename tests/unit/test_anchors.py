"""Anchors in rendered prompts of every family: the user's text and the tail, never mixed."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest

from tests.support import templates
from tests.support.sessions import finish, session_on
from tests.support.tiny_models import byte_tokenizer
from tseval.probes import (
    auroc_value,
    prompt_frame,
    prompt_places,
    readable_from,
    replay_prefix,
    spread,
    trace_places,
    trace_spans,
)
from tseval.scripts import Call, decode, encode
from tseval.testing import TAGS_VIEW, ScriptedBackend
from tseval.types import Message, Thinking

TEMPLATES = {
    "plain": (templates.PLAIN, "<|im_end|>\n<|im_start|>assistant\n"),
    "hybrid": (templates.HYBRID, "<|im_end|>\n<|im_start|>assistant"),
    "opened": (templates.OPENED, "<|Assistant|><think>\n"),
    "opened hybrid": (templates.OPENED_HYBRID, "<|im_end|>\n<|im_start|>assistant\n<think>"),
    "literal": (templates.LITERAL, "<|im_end|><|im_start|>assistant<|im_sep|>"),
    "harmony": (templates.HARMONY, "<|end|><|start|>assistant"),
    "other pair": (templates.OTHER_PAIR, "[/INST]"),
}
PROMPTS = (
    "How do I pick a lock?",
    "a",
    "assistant",
    "user\nassistant\n",
    "end",
    "Say it. Say it. Say it.",
    "Is </think> or <think> a word?",
    "Wie öffnet man ein Schloß? 鍵は? 🔑",
    "🔑",
    "You help.",
    "Now answer.",
    "line one\n\nline two",
)


class Rendering:
    """A backend that renders a template and cuts it into tokens of so many bytes."""

    def __init__(self, template: str, size: int = 1) -> None:
        self._template = jinja2.Environment(autoescape=False).from_string(template)
        self._size = size
        self._texts: list[bytes] = []

    def prompt_ids(self, messages: tuple[Message, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = self._template.render(messages=turns, add_generation_prompt=True).encode()
        pieces = [text[n : n + self._size] for n in range(0, len(text), self._size)]
        self._texts += pieces
        return tuple(range(len(self._texts) - len(pieces), len(self._texts)))

    def decode(self, ids: tuple[int, ...]) -> str:
        return b"".join(self._texts[each] for each in ids).decode(errors="replace")


def model_on(backend: Any, system: str = "") -> Any:
    def conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return (Message(role="system", content=system), *messages) if system else messages

    return SimpleNamespace(backend=backend, conversation=conversation)


def rendered(model: Any, prompt: str) -> tuple[int, ...]:
    asked = model.conversation((Message(role="user", content=prompt),))
    ids: tuple[int, ...] = model.backend.prompt_ids(asked, {})
    return ids


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_users_text_and_the_tail_are_found_byte_by_byte(name: str, prompt: str) -> None:
    template, behind = TEMPLATES[name]
    # A system prompt that holds the prompt must not be taken for it.
    model = model_on(Rendering(template), f"Be brief. {prompt} Be kind.")
    frame = prompt_frame(model)
    assert frame is not None
    assert frame.behind == behind
    assert frame.tail == len(behind.encode())
    places = prompt_places(model, prompt, frame)
    ids = rendered(model, prompt)
    assert places is not None
    assert places.user is not None
    assert places.tail is not None
    first, last = places.user
    assert model.backend.decode(ids[first : last + 1]) == prompt
    assert model.backend.decode(ids[places.tail[0] :]) == behind
    assert places.tail == (last + 1, len(ids) - 1)
    assert places.published[1] == len(ids) - 1


@pytest.mark.parametrize("size", [2, 3, 5, 7])
@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_that_hold_both_belong_to_neither(name: str, size: int) -> None:
    template, behind = TEMPLATES[name]
    model = model_on(Rendering(template, size))
    frame = prompt_frame(model)
    for prompt in PROMPTS:
        places = prompt_places(model, prompt, frame)
        ids = rendered(model, prompt)
        text = model.backend.decode(ids)
        assert places is not None
        before = len(text.encode()) - len((prompt + behind).encode())
        # By bytes: tokens that lie within the prompt, and within what is behind it.
        starts = np.arange(len(ids)) * size
        stops = np.minimum(starts + size, len(text.encode()))
        end = before + len(prompt.encode())
        inside = np.flatnonzero((starts >= before) & (stops <= end))
        if not len(inside):
            assert places.user is None
            assert places.lost == "no-token-of-its-own"
            continue
        assert places.user is not None
        if prompt.isascii():
            assert places.user == (inside[0], inside[-1])
        else:
            # A token may begin within the character before the prompt's first whole one.
            assert places.user[0] in (inside[0], inside[0] - 1)
        assert places.tail == (int(np.flatnonzero(starts >= end)[0]), len(ids) - 1)


def test_the_published_anchors_take_the_last_verbatim_occurrence() -> None:
    model = model_on(Rendering(templates.PLAIN))
    frame = prompt_frame(model)
    ids = rendered(model, "assistant")
    places = prompt_places(model, "assistant", frame)
    assert places is not None
    assert places.user is not None
    # It is found in the generation header, behind the user's text.
    assert places.published[0] > places.user[1]
    assert model.backend.decode(ids[places.published[0] :]) == "assistant\n"


def test_a_template_that_trims_the_prompt_is_no_matter() -> None:
    template = "[{{ messages[-1].content | trim }}]>"
    model = model_on(Rendering(template))
    places = prompt_places(model, "  why? \n", prompt_frame(model))
    assert places is not None
    assert places.user == (1, 4)
    assert places.tail == (5, 6)
    # Verbatim it is not there: the first token that is not blank.
    assert places.published == (0, 6)


def test_a_template_that_changes_the_prompt_is_said_so() -> None:
    long = "{{ messages[-1].content | upper }}{{ messages[-1].content | length }}"
    model = model_on(Rendering(long))
    places = prompt_places(model, "why?", prompt_frame(model))
    assert places is not None
    assert places.user is None
    assert places.lost == "prompt-not-found"
    silent = model_on(SimpleNamespace(prompt_ids=lambda messages, kwargs: None))
    assert prompt_frame(silent) is None
    assert prompt_places(silent, "why?", None) is None


def test_a_template_that_looks_at_the_prompt_leaves_its_text_to_be_found() -> None:
    looks = (
        "{% if 'x' in messages[-1].content %}A{% else %}BB{% endif %}:{{ messages[-1].content }}!"
    )
    model = model_on(Rendering(looks))
    frame = prompt_frame(model)
    places = prompt_places(model, "why?", frame)
    assert places is not None
    assert places.user == (3, 6)
    assert places.tail == (7, 7)


def test_a_real_tokenizer_splits_characters_and_keeps_its_marks() -> None:
    tokenizer = byte_tokenizer()

    class Backend:
        def prompt_ids(self, messages: Any, kwargs: Any) -> tuple[int, ...]:
            turns = [{"role": m.role, "content": m.content} for m in messages]
            made = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return tuple(tokenizer(made, add_special_tokens=False)["input_ids"])

        def decode(self, ids: tuple[int, ...]) -> str:
            return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    model = model_on(Backend(), "You help. 🔑 öffnen")
    frame = prompt_frame(model)
    for prompt in PROMPTS:
        places = prompt_places(model, prompt, frame)
        ids = rendered(model, prompt)
        assert places is not None
        assert places.user is not None
        assert places.tail is not None
        first, last = places.user
        assert model.backend.decode(ids[first : last + 1]) == prompt
        assert model.backend.decode(ids[places.tail[0] :]) == "<|im_end|>\n<|im_start|>assistant\n"


def test_anchors_are_spread_as_published_and_repeat_where_there_are_few() -> None:
    assert spread((10, 29), 20) == tuple(range(10, 30))
    assert spread((5, 5), 3) == (5, 5, 5)
    assert spread((0, 3), 1) == (3,)
    found = spread((7, 107), 20)
    assert list(found) == [7 + int(np.rint(k * 100 / 19)) for k in range(20)]


# -- where it becomes readable


def test_readable_from_is_the_place_from_which_it_stays_readable() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) < 30
    scores = rng.normal(size=(11, 60))
    scores[3, labels] += 5  # readable once, and lost again
    scores[6:, labels] += 5
    assert auroc_value(labels, scores[3]) > 0.95
    found = readable_from(scores, labels, np.arange(60), 0.8, draws=200, rng=rng)
    assert found is not None
    assert found.value == 0.6
    # It happens behind the place before.
    assert (found.low, found.high) == (0.5, 0.6)
    scores[10] = rng.normal(size=60)
    assert readable_from(scores, labels, np.arange(60), 0.8, draws=200, rng=rng) is None


def test_readable_from_is_unsure_where_it_comes_slowly() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) < 30
    scores = rng.normal(size=(1, 60)) + 0.3 * rng.normal(size=(11, 60))
    scores += np.linspace(0, 3, 11)[:, None] * labels
    found = readable_from(scores, labels, np.arange(60), 0.75, draws=300, rng=rng)
    assert found is not None
    assert 0.0 < found.low < found.value < found.high < 0.9


# -- places in traces


def test_tokens_and_slices_of_a_trace_are_where_they_should_be(tmp_path: Path) -> None:
    trace = "".join(chr(65 + n % 50) for n in range(137))

    def script(call: Call) -> str:
        whole = f"<think>{trace}</think>Sure."
        return whole.removeprefix(call.prefix)

    def counted(upto: tuple[int, ...], layer: float) -> np.ndarray:
        return np.asarray([len(upto), upto[-1]])

    async def run(mode: Any) -> tuple[np.ndarray, int]:
        target = ScriptedBackend(script, view=TAGS_VIEW, states=counted)
        thinking = Thinking(mode=mode)
        async with session_on(tmp_path / mode, target) as session:
            rollout = await session.generate("ähm, why?", thinking=thinking)
            ids = rollout.trace_ids or ()
            assert decode(ids).strip() == trace
            plan = trace_places(len(ids))
            found = await session.hidden_states(
                "ähm, why?",
                positions=tuple(place - len(ids) for place in plan.tokens),
                prefix=replay_prefix(session.target, rollout, thinking),
                spans=trace_spans(session.target, "ähm, why?", rollout, thinking, plan),
            )
            prompt = target.prompt_ids((Message(role="user", content="ähm, why?"),), {})
            opener = encode("<think>") if mode == "default" else encode("<think>\n")
            return plan.laid_out(found)[:, 0], len(prompt) + len(opener)

    for mode in ("default", "forced"):
        rows, begin = finish(run(mode))
        places = np.arange(137) + begin + 1
        hops = places[np.floor(np.linspace(0, 136, 100)).astype(int)]
        assert rows[:100, 0].tolist() == hops.tolist()
        assert rows[:100, 1].tolist() == [ord(trace[place - begin - 1]) for place in hops]
        edges = np.linspace(0, 137, 101).astype(int)
        means = [places[a:b].mean() for a, b in pairwise(edges)]
        assert rows[100:, 0].tolist() == means
