"""The start of the server backend: names, dialects, formats, capabilities and identity."""

import asyncio
from typing import Any

import pytest

from tests.support.openai_backend import Started, look, request, spec, use
from tests.support.openai_server import Ask, Fault, always, sensible, serving
from tseval.errors import BackendError, BackendUnavailable, ConfigError
from tseval.models.openai import OpenAIBackend, register_backends
from tseval.plugins import load_registry
from tseval.requests import ModelSpec
from tseval.roles import Backend, BackendFactory


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


# -- which model


def test_the_only_model_of_a_server_needs_no_name() -> None:
    with serving(models=["org/Only-1B"]) as server:
        assert look(server, name="").subject.name == "org/Only-1B"


def test_several_models_and_no_name_is_an_error_that_lists_them() -> None:
    with serving(models=["a", "b"]) as server, pytest.raises(ConfigError) as caught:
        look(server, name="")
    assert "serves 2 models (a, b), none was named" in caught.value.message


def test_an_unknown_name_is_an_error_with_the_near_misses_even_if_the_server_would_answer() -> None:
    with (
        serving(models=["Qwen/Qwen3-8B", "other"], any_name=True) as server,
        pytest.raises(ConfigError) as caught,
    ):
        look(server, name="Qwen/Qwen3-8")
    assert "does not serve 'Qwen/Qwen3-8' (it lists: Qwen/Qwen3-8B, other)" in caught.value.message
    assert "did you mean 'Qwen/Qwen3-8B'?" in caught.value.hint
    assert "check_name=off" in caught.value.hint


def test_a_name_may_be_asked_for_though_it_is_not_listed() -> None:
    with serving(models=["base"], any_name=True) as server:
        started = look(server, name="alias", check_name="off")
    assert started.subject.name == "alias"
    assert started.subject.execution["listed"] == "no"


def test_a_server_without_a_list_of_models_is_taken_at_its_word() -> None:
    with serving(models=None) as server:
        assert look(server, name="some/model").subject.name == "some/model"


def test_a_name_with_a_tag_is_put_together_again() -> None:
    with serving(models=["llama3:8b", "qwen:latest"]) as server:
        parsed = ModelSpec(backend="openai", name="llama3", adapter="8b", base_url=server.url)
        subject = asyncio.run(OpenAIBackend(parsed).start(lambda *_: None))
        assert subject.name == "llama3:8b"
        assert look(server, name="qwen").subject.name == "qwen:latest"


def test_a_model_that_turns_out_not_to_exist_ends_the_start() -> None:
    with (
        serving(models=None, faults=always(Fault("status", 404, {"error": "no model"}))) as server,
        pytest.raises(BackendError) as caught,
    ):
        look(server)
    assert "answered 404 for model 'toy': no model" in caught.value.message
    assert "/v1" in caught.value.hint


def test_a_redirect_is_named_and_not_followed() -> None:
    moved = Fault("status", 307, [], {"Location": "https://elsewhere.test/v1"})
    with serving(faults=always(moved)) as server, pytest.raises(BackendError) as caught:
        look(server)
    assert "redirects to https://elsewhere.test/v1" in caught.value.message


# -- identity


def test_the_identity_is_address_name_and_canary_and_is_not_verified() -> None:
    with serving() as server:
        subject = look(server).subject
        again = look(server).subject
    assert subject.identity == again.identity
    assert set(subject.identity) == {"server", "model", "canary"}
    assert len(subject.identity["canary"]) == 16
    assert not subject.verified


def test_another_model_behind_the_same_name_has_another_canary() -> None:
    with serving() as server:
        before = look(server).subject
        server.behaviour.answer = lambda ask: "I am new." if "Who" in ask.user else sensible(ask)
        after = look(server).subject
        without = look(server, canary="off").subject
    assert before.identity["canary"] != after.identity["canary"]
    assert without.identity["canary"] == "off"


def test_a_greedy_answer_that_varies_is_no_identity() -> None:
    texts = iter(range(1000))
    answer = lambda ask: f"I am {next(texts)}" if "Who" in ask.user else sensible(ask)  # noqa: E731
    with serving(answer=answer) as server:
        assert look(server).subject.identity["canary"] == "unstable"
    with serving(answer=lambda ask: "" if "Who" in ask.user else sensible(ask)) as server:
        assert look(server).subject.identity["canary"] == "silent"


def test_further_fields_of_the_body_are_part_of_the_identity_whatever_their_order() -> None:
    with serving() as server:
        one = look(server, extra_body='{"reasoning_effort": "low", "x": 1}').subject
        two = look(server, extra_body='{"x": 1, "reasoning_effort": "low"}').subject
        assert server.requests[-1:] == []
    assert one.identity == two.identity
    assert one.identity["extra_body"] == '{"reasoning_effort":"low","x":1}'


# -- dialects


def sent_after_start(behaviour: dict[str, Any], **sampling: Any) -> tuple[Started, dict[str, Any]]:
    from tseval.types import Sampling

    with serving(**behaviour) as server:

        async def ask(started: Started) -> tuple[Started, dict[str, Any]]:
            done = await started.backend.complete(request(sampling=Sampling(**sampling)))
            started.waits.seconds.extend([] if not done.notes else [0.0])
            return started, {**server.requests[-1], "notes": done.notes}

        return use(server, ask)


def test_every_field_that_shapes_the_draw_is_sent_also_where_it_changes_nothing() -> None:
    _, body = sent_after_start({}, temperature=0.6, top_p=0.95, top_k=0)
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.6, 0.95, -1)
    assert (body["min_p"], body["repetition_penalty"]) == (0.0, 1.0)
    assert body["skip_special_tokens"] is False
    assert sent_after_start({}, top_k=20)[1]["top_k"] == 20


def test_max_tokens_gives_way_to_max_completion_tokens_once_and_for_all() -> None:
    said = {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model."
        " Use 'max_completion_tokens' instead.",
        "param": "max_tokens",
        "code": "unsupported_parameter",
    }
    with serving(refuses={"max_tokens": said}) as server:

        async def ask(started: Started) -> int:
            await started.backend.complete(request())
            return len(server.requests)

        assert use(server, ask) == 1
        assert server.requests[-1]["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    "said",
    [
        {"message": "Unrecognized request argument supplied: {}"},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "{}"], "msg": "Extra inputs"}]},
        {"message": "property '{}' is unsupported", "param": "{}"},
    ],
    ids=["openai", "fastapi", "groq"],
)
def test_fields_that_a_server_does_not_know_are_left_out_and_named(said: dict[str, Any]) -> None:
    import json

    names = ("top_k", "min_p", "repetition_penalty", "skip_special_tokens")
    refuses = {name: json.loads(json.dumps(said).replace("{}", name)) for name in names}
    started, body = sent_after_start({"refuses": refuses})
    assert not set(names) & set(body)
    assert body["seed"] == 1
    assert started.subject.execution["fields dropped"] == ", ".join(sorted(names))


def test_a_refusal_that_names_no_field_is_tried_once_more_without_the_optional_ones() -> None:
    started, body = sent_after_start({"refuses": {"min_p": "bad request"}})
    assert "min_p" not in body
    assert "seed" not in body
    assert "seed" in started.subject.execution["fields dropped"]
    assert not started.backend.capabilities.seeds


def test_a_server_that_refuses_for_another_reason_ends_the_start_with_its_words() -> None:
    with (
        serving(refuses={"messages": "no chat template"}) as server,
        pytest.raises(BackendError, match="answered 400 for model 'toy': no chat template"),
    ):
        look(server)


def test_a_top_k_that_the_server_does_not_take_is_noted_on_every_rollout() -> None:
    refuses = {"top_k": {"message": "Unknown field", "param": "top_k"}}
    _, body = sent_after_start({"refuses": refuses}, top_k=20)
    assert body["notes"] == ("top-k-dropped",)
    assert sent_after_start({"refuses": refuses}, top_k=0)[1]["notes"] == ()


def test_a_top_k_that_is_only_disliked_as_minus_one_is_sent_where_it_says_something() -> None:
    with serving(refuses={}) as server:

        async def ask(started: Started) -> list[Any]:
            from tseval.types import Sampling

            for top_k in (0, 7):
                await started.backend.complete(request(sampling=Sampling(top_k=top_k)))
            return [body.get("top_k") for body in server.requests]

        # The scripted server refuses fields whatever their value, so this one looks at it.
        class Picky(dict[str, Any]):
            def items(self) -> Any:
                last = server.requests[-1] if server.requests else {}
                bad = last.get("top_k", 1) < 1
                return [("top_k", "top_k must be at least 1")] if bad else []

        server.behaviour.refuses = Picky()
        assert use(server, ask) == [None, 7]


def test_decoding_that_a_server_refuses_stops_the_run_and_says_what_it_takes() -> None:
    said = {"message": "Unsupported value: 'temperature'", "param": "temperature"}
    with serving(refuses={"temperature": said}) as server:

        async def ask(started: Started) -> str:
            from tseval.types import Sampling

            with pytest.raises(BackendUnavailable) as caught:
                await started.backend.complete(request())
            assert "does not take temperature (wanted 0.6)" in caught.value.message
            assert "--temperature 1" in caught.value.hint
            warm = request(sampling=Sampling(temperature=1.0, top_p=1.0))
            return (await started.backend.complete(warm)).text

        assert use(server, ask) == "You said: Hello"


# -- formats


@pytest.mark.parametrize(
    ("behaviour", "name", "opened", "off"),
    [
        ({}, "none", "", {}),
        ({"trace": "Hm."}, "tags", "model", {"enable_thinking": False}),
        ({"trace": "Hm.", "switch": False}, "tags", "model", {}),
        ({"trace": "Hm.", "marks": ("[THINK]", "[/THINK]")}, "tags", "model", None),
        ({"trace": "Hm.", "opened_by_template": True}, "template-tags", "template", None),
        ({"trace": "Hm.", "reasoning_field": "reasoning"}, "tags", "model", None),
        ({"trace": "Hm.", "reasoning_field": "reasoning_content"}, "tags", "model", None),
        ({"trace": "Hm.", "tokenize": True}, "tags", "model", {"enable_thinking": False}),
        (
            {"trace": "Hm.", "tokenize": True, "opened_by_template": True},
            "template-tags",
            None,
            None,
        ),
        ({"trace": "Hm.", "tokenize": True, "reasoning_field": "reasoning"}, "tags", None, None),
    ],
)
def test_the_format_is_read_off_the_first_answer(
    behaviour: dict[str, Any], name: str, opened: str | None, off: dict[str, bool] | None
) -> None:
    with serving(**behaviour) as server:
        fmt = look(server).format
    assert fmt.name == name
    assert fmt.opened_by == opened or opened is None
    assert fmt.off_kwargs == off or off is None
    if "marks" in behaviour:
        assert (fmt.opener_mark, fmt.answer_mark) == behaviour["marks"]


def test_harmony_is_recognised_where_the_server_leaves_its_channels_in_the_text() -> None:
    raw = "<|channel|>analysis<|message|>Sum.<|end|><|start|>assistant<|channel|>final<|message|>42"
    with serving(answer=lambda ask: raw) as server:
        assert look(server).format.name == "harmony"


def test_an_answer_without_mark_or_end_is_no_proof_of_anything() -> None:
    with serving(answer=lambda ask: "and so on " * 3000) as server:
        with pytest.raises(BackendError) as caught:
            look(server)
        assert "wrote 2048 tokens on a sum, without a mark or an end" in caught.value.message
        assert "-M format=" in caught.value.hint
        assert look(server, format="none").format.name == "none"


def test_a_reasoning_parser_that_swallows_the_answer_is_found_out() -> None:
    # The parser takes any text without a closing mark for a trace, and this model never thinks.
    with serving(reasoning_field="reasoning_content", parser="whole") as server:
        with pytest.raises(BackendError) as caught:
            look(server)
        assert "puts the whole answer into its reasoning field" in caught.value.message
        assert "reasoning parser" in caught.value.hint


# -- beginnings


@pytest.mark.parametrize(
    ("behaviour", "prefix"),
    [
        ({}, "chat"),
        ({"trace": "Hm."}, "chat"),
        ({"trace": "Hm.", "opened_by_template": True}, "chat"),
        ({"continuation": "ignore"}, "none"),
        ({"continuation": "ignore", "trace": "Hm."}, "none"),
        ({"continuation": "refuse"}, "none"),
        # Without counts nobody can tell a continued message from a new turn that goes on.
        ({"usage": False}, "none"),
        # The template strips traces from a message, or puts an empty one before it.
        ({"trace": "Hm.", "template": "strips"}, "none"),
        ({"trace": "Hm.", "template": "inserts"}, "none"),
        ({"completions": False}, "none"),
        # The marks were never seen.
        ({"trace": "Hm.", "reasoning_field": "reasoning"}, "none"),
        ({"tokenize": True}, "completions, server's tokenizer"),
        ({"tokenize": True, "trace": "Hm.", "reasoning_field": "reasoning"}, None),
        ({"tokenize": True, "trace": "Hm.", "template": "inserts"}, None),
        ({"tokenize": True, "completions": False}, "none"),
    ],
)
def test_a_beginning_is_only_continued_where_that_was_seen_to_work(
    behaviour: dict[str, Any], prefix: str | None
) -> None:
    prefix = prefix or "completions, server's tokenizer"
    with serving(**behaviour) as server:
        started = look(server)
    assert started.subject.execution["prefix"] == prefix
    assert started.backend.capabilities.prefix is (prefix != "none")


def test_a_server_that_ignores_the_request_is_found_out_though_its_new_turn_goes_on() -> None:
    # Asked for letters of which the last turn holds the first, this model starts a new turn
    # with just the others: the text alone looks exactly like a continuation.
    def sly(ask: Ask) -> str:
        return "I-J-K-L-M" if "alphabet" in ask.user else sensible(ask)

    with serving(answer=sly, continuation="ignore") as server:
        assert not look(server).backend.capabilities.prefix


def test_a_server_that_counts_right_but_writes_something_else_is_not_believed() -> None:
    answer = lambda ask: "Sure!" if "alphabet" in ask.user else sensible(ask)  # noqa: E731
    with serving(answer=answer) as server:
        assert not look(server).backend.capabilities.prefix


def test_a_second_start_token_keeps_off_the_completions_route() -> None:
    with serving(tokenize=True, doubles_start=True) as server:
        assert look(server).subject.execution["prefix"] == "chat"


def test_marks_that_no_family_knows_keep_thinking_off_the_completions_route() -> None:
    # The server's parser finds the trace; raw text with these marks would pass for an answer.
    odd = {"trace": "Hm.", "marks": ("<ponder>", "</ponder>"), "reasoning_field": "reasoning"}
    with serving(tokenize=True, **odd) as server:
        started = look(server)
    assert started.subject.execution["prefix"] == "none"
    assert started.format.thinks


def test_a_prompt_that_is_rendered_differently_keeps_off_the_completions_route() -> None:
    with serving(tokenize=True) as server:
        render = server.render
        server.render = lambda body: render(body) + ("" if "max_tokens" in body else "<extra>")  # type: ignore[method-assign]
        assert look(server).subject.execution["prefix"] != "completions, server's tokenizer"


def test_fields_that_may_shape_the_prompt_keep_off_the_completions_route() -> None:
    with serving(tokenize=True) as server:
        shaped = look(server, extra_body='{"reasoning_effort": "low"}')
        drawn = look(server, extra_body='{"min_p": 0.1}')
    assert "completions" not in shaped.subject.execution["prefix"]
    assert "completions" in drawn.subject.execution["prefix"]


@pytest.mark.parametrize(
    ("option", "behaviour", "words"),
    [
        ("chat", {"continuation": "ignore"}, "does not continue a final assistant message"),
        ("completions", {}, "no completions route that answers token ids"),
    ],
)
def test_a_way_that_was_asked_for_and_does_not_work_is_an_error(
    option: str, behaviour: dict[str, Any], words: str
) -> None:
    with serving(**behaviour) as server, pytest.raises(BackendError, match=words):
        look(server, prefix=option)


@pytest.mark.parametrize("option", ["none", "chat"])
def test_the_way_of_beginnings_can_be_chosen(option: str) -> None:
    with serving(tokenize=True) as server:
        assert look(server, prefix=option).subject.execution["prefix"] == option


# -- further capabilities


def test_seeds_count_only_where_equal_ones_give_equal_texts_and_others_others() -> None:
    with serving() as server:
        assert look(server).backend.capabilities.seeds
    deaf = lambda ask: "Always this." if "like" in ask.user else sensible(ask)  # noqa: E731
    with serving(answer=deaf) as server:
        assert not look(server).backend.capabilities.seeds


def test_log_probabilities_are_offered_only_where_the_server_returns_those_of_the_prompt() -> None:
    for logprobs in (False, True):
        with serving(tokenize=True, logprobs=logprobs) as server:
            assert look(server).backend.capabilities.logprobs is logprobs


@pytest.mark.parametrize(
    ("tell", "option", "length"), [(True, None, 4096), (False, None, None), (True, "512", 512)]
)
def test_the_context_length_is_what_the_server_says_or_the_option(
    tell: bool, option: str | None, length: int | None
) -> None:
    options = {"context_length": option} if option else {}
    with serving(context_length=4096, tell_context=tell) as server:
        assert look(server, **options).backend.context_length == length


def test_the_backend_is_registered_and_can_do_no_more_than_its_factory_says() -> None:
    found: list[BackendFactory] = []
    register_backends(found.append)
    factory = found[0]
    assert load_registry().backends["openai"].name == factory.name == "openai"
    with serving(tokenize=True, logprobs=True, top_logprobs=20, trace="Hm.") as server:
        backend: Backend = factory.create(spec(server))
        asyncio.run(backend.start(lambda *_: None))
    most, have = factory.capabilities, backend.capabilities
    for name in have.__struct_fields__:
        assert getattr(most, name) or not getattr(have, name)
    assert have == most
