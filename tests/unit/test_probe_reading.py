"""States A, A' and B are the tokens that they should be, in every family of formats."""

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from tests.support import sessions, templates
from tests.support.tiny_models import byte_tokenizer, tiny_model
from tseval.errors import RequestFailed
from tseval.formats import choose_format
from tseval.models.hf import HfBackend
from tseval.probes import layers_named, prompt_state, replay_prefix, state_places
from tseval.requests import HiddenStatesRequest, ModelSpec, places_of
from tseval.rollouts import Model
from tseval.types import Message, Rollout, Thinking, ThinkingMode

TURN = (Message(role="user", content="Hi </think> <think> there"),)
TRACE = "\n\nLet me see."
ANALYSIS = "<|channel|>analysis<|message|>"


class Expected(NamedTuple):
    """A family, and how its traces are opened: by what, and whether the prompt ends with it."""

    template: str
    mode: ThinkingMode
    opener: str
    in_prompt: bool = False

    def before(self, rendered: str) -> str:
        """The prompt up to any opener."""
        assert rendered.endswith(self.opener) is self.in_prompt
        return rendered.removesuffix(self.opener)


FAMILIES = {
    "tags": Expected(templates.HYBRID, "default", "<think>"),
    "tags, forced": Expected(templates.HYBRID, "forced", "<think>\n"),
    "template-tags": Expected(templates.OPENED, "default", "<think>\n", True),
    "template-tags, forced": Expected(templates.OPENED, "forced", "<think>\n", True),
    "hybrid": Expected(templates.OPENED_HYBRID, "default", "<think>", True),
    "literal": Expected(templates.LITERAL, "default", "<think>"),
    "harmony": Expected(templates.HARMONY, "default", ANALYSIS),
    "harmony, forced": Expected(templates.HARMONY, "forced", ANALYSIS),
    "none, forced": Expected(templates.PLAIN, "forced", "<think>\n"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model; its chat template is written by each test."""
    made = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(made)
    return made


def backend_for(folder: Path, template: str) -> HfBackend:
    tokenizer = byte_tokenizer()
    # Templates are for one token a mark; here marks are spelt, which changes no place.
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return HfBackend(
        ModelSpec(backend="hf", name=str(folder), options={"device": "cpu", "dtype": "float32"})
    )


def rollout(trace: str, *notes: str, thought: bool = True) -> Rollout:
    return Rollout(
        key="0",
        trace=trace.strip(),
        answer="Yes.",
        trace_ids=tuple(byte_tokenizer().encode(trace, add_special_tokens=False)),
        thought=thought,
        notes=notes,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_the_tokens_they_should_be(folder: Path, name: str) -> None:
    expected = FAMILIES[name]

    async def scene() -> None:
        backend = backend_for(folder, expected.template)
        model = await sessions.model("target", backend)
        thinking = Thinking(mode=expected.mode)
        made = rollout(TRACE)
        places = state_places(model, TURN, made, thinking)
        assert list(sorted(places.positions)) == ["A", "A'", "B"]
        assert places.token == 2
        ids = list(backend.prompt_ids(TURN, {}))
        for piece in places.prefix:
            spelt = piece if isinstance(piece, tuple) else backend._words().piece(piece)
            ids += spelt
        before = expected.before(backend.decode(backend.prompt_ids(TURN, {})))
        whole = {
            "A": before,
            "A'": before + expected.opener,
            "B": before + expected.opener + "\n\nL",
        }
        found = {
            state: backend.decode(tuple(ids[: len(ids) + place + 1]))
            for state, place in places.positions.items()
        }
        assert found == whole
        # A prompt that nothing was sampled for has the same state A.
        prefix, place = prompt_state(model, TURN, thinking)
        assert len(ids) + places.positions["A"] == len(backend.prompt_ids(TURN, {})) + place
        assert prefix == ()
        # And what one pass reads there is what a pass over no more than that reads.
        one = await backend.hidden_states(
            HiddenStatesRequest(
                messages=TURN,
                prefix=places.prefix,
                positions=tuple(places.positions.values()),
                layers=layers_named(),
            )
        )
        alone = await backend.hidden_states(
            HiddenStatesRequest(messages=TURN, positions=(place,), layers=(0, 1, 2, 2, -1))
        )
        np.testing.assert_allclose(one[0], alone[0], rtol=1e-3, atol=1e-4)
        await backend.close()
        # A judge may be loaded instead of the model: texts are still read.
        assert state_places(model, TURN, made, thinking) == places

    sessions.finish(scene(), 60)


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "none, forced"])
@pytest.mark.parametrize("blank", ["", "\n \n"])
def test_without_a_thought_there_is_no_state_b(folder: Path, name: str, blank: str) -> None:
    expected = FAMILIES[name]

    async def scene() -> None:
        backend = backend_for(folder, expected.template)
        model = await sessions.model("target", backend)
        made = rollout(blank, thought=bool(blank))
        places = state_places(model, TURN, made, Thinking(mode=expected.mode))
        assert (places.token, places.lost) == (None, "no-trace")
        # An opener that is there anyway has a last token; one that the model left out has none.
        opened = name in ("template-tags", "none, forced")
        before = expected.before(backend.decode(backend.prompt_ids(TURN, {})))
        assert list(places.positions) == (["A", "A'"] if opened else ["A"])
        ids = list(backend.prompt_ids(TURN, {}))
        for piece in places.prefix:
            ids += backend._words().piece(piece)
        assert backend.decode(tuple(ids[: len(ids) + places.positions["A"] + 1])) == before
        await backend.close()

    sessions.finish(scene(), 60)


def fake(template: str, pieces: list[str], *, ids: bool = True) -> Model:
    """A model whose prompt is tokenised as told; other texts have a token a character."""
    view = templates.view(template)
    tokens = tuple(range(len(pieces)))

    def decode(chosen: tuple[int, ...]) -> str:
        return "".join(pieces[n] for n in chosen)

    backend = SimpleNamespace(
        prompt_ids=lambda messages, kwargs: tokens if ids else None,
        text_tokens=len,
        decode=decode,
        template=lambda: view,
    )
    return Model(
        name="target",
        backend=backend,
        subject=None,
        format=choose_format(sessions.registry().formats.values(), view, ""),
        complete=None,
        identity="0",
    )


@pytest.mark.parametrize(
    ("pieces", "tail"),
    [
        (["<|Assistant|>", "<think>", "\n"], 2),
        (["<|Assistant|>", "<think>\n"], 1),
        # The bracket before the opener belongs to it where it is the same token.
        (["<|Assistant|", "><", "think", ">", "\n"], 4),
        (["<think>", "<|Assistant|>", "<", "think", ">\n"], 3),
    ],
)
def test_an_opener_of_the_template_is_measured_in_the_prompts_own_tokens(
    pieces: list[str], tail: int
) -> None:
    assert prompt_state(fake(templates.OPENED, pieces), TURN, Thinking()) == ((), -1 - tail)


def test_without_ids_the_templates_opener_is_measured_as_text() -> None:
    found = prompt_state(fake(templates.OPENED, [], ids=False), TURN, Thinking())
    assert found == ((), -1 - len("<think>\n"))


def test_a_trace_that_no_opener_stands_before_is_replayed_without_one() -> None:
    model = fake(templates.HYBRID, ["a", "b"])
    ids = (0, 1)
    made = Rollout(key="0", trace="ab", trace_ids=ids, thought=True, notes=("opener-missing",))
    places = state_places(model, TURN, made, Thinking())
    assert places.prefix == ((0,),)
    assert places.positions == {"A": -2, "B": -1}
    opened = Rollout(key="0", trace="ab", trace_ids=ids, thought=True)
    assert replay_prefix(model, opened, Thinking()) == ("<think>", ids)
    assert replay_prefix(model, opened, Thinking(), 1) == ("<think>", (0,))
    assert replay_prefix(model, opened, Thinking(), 0) == ("<think>",)


def test_state_b_is_drawn_by_the_model_and_not_written_by_an_intervention() -> None:
    model = fake(templates.HYBRID, ["Safety", " first.", " ", "Hm"])
    made = Rollout(
        key="0",
        trace="Safety first. Hm",
        trace_ids=(0, 1, 2, 3),
        thought=True,
        notes=("injected:1", "injected-at:0-2"),
    )
    places = state_places(model, TURN, made, Thinking())
    assert places.token == 3
    assert places.prefix == ("<think>", (0, 1, 2, 3))
    later = msgspec.structs.replace(made, notes=("injected-at:2-3",))
    assert state_places(model, TURN, later, Thinking()).token == 0
    whole = msgspec.structs.replace(made, notes=("injected-at:0-4",))
    assert state_places(model, TURN, whole, Thinking()).lost == "no-trace"


def test_a_trace_opened_behind_other_text_has_no_state_b() -> None:
    model = fake(templates.HYBRID, ["a", "b"])
    made = Rollout(key="0", trace="a", trace_ids=(0,), thought=True, notes=("late-opener",))
    places = state_places(model, TURN, made, Thinking())
    assert (places.positions, places.lost) == ({"A": -1}, "odd-start")


def test_layers_are_named_by_their_depth() -> None:
    assert layers_named(("1/2", "last")) == (0.5, -1)


def test_a_share_of_the_depth_is_the_layer_nearest_to_it() -> None:
    # 30 layers and the embedding: a quarter of 30 is 7.5, which rounds to the even one.
    assert places_of((0.0, 0.25, 0.5, 0.75, 1.0, -1, 1), 31, "layer") == [0, 8, 15, 22, 30, 30, 1]
    for wrong in (-0.5, 1.1, 31, -32):
        with pytest.raises(RequestFailed, match=f"there is no layer {wrong} among 31"):
            places_of((wrong,), 31, "layer")
