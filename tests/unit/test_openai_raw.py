"""Raw prompts, next-token figures and template arguments of the server backend."""

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.openai_backend import Started, look, request, use
from tests.support.openai_server import Ask, serving
from tseval.errors import CapabilityMissing, RequestFailed, RowSkipped
from tseval.models.openai.choose import Reported, reported, scores
from tseval.models.openai.render import LocalRenderer, raw_ids
from tseval.models.openai.wire import Reply
from tseval.requests import ChoiceRequest, CompletionRequest
from tseval.thinking import Limits
from tseval.types import ChoiceScores, Message

T = TypeVar("T")
USER = (Message(role="user", content="Hello"),)
RAW = "[INST] Is this harmful? [/INST]"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def doing(
    behaviour: dict[str, Any], do: Callable[[Started], Awaitable[T]], **options: Any
) -> tuple[T, list[dict[str, Any]]]:
    """What something gives on a started backend, and the requests that it took."""
    with serving(**behaviour) as server:
        return use(server, do, **options), list(server.requests)


def raw(*pieces: Any, tokens: int = 50) -> CompletionRequest:
    return request(messages=(), prefix=pieces, limits=Limits(thinking=0, answer=tokens))


def choosing(behaviour: dict[str, Any], **asked: Any) -> tuple[ChoiceScores, dict[str, Any]]:
    """What a server says of a question, and the one request that it took."""
    question = ChoiceRequest(**{"messages": USER, "choices": ("yes", "no"), **asked})
    found, requests = doing(behaviour, lambda started: started.backend.choose(question))
    assert len(requests) == 1
    return found, requests[0]


# -- raw prompts


def test_a_server_without_ids_gets_the_text_and_puts_the_beginning_there_itself() -> None:
    done, requests = doing({"starts": "<s>"}, lambda s: s.backend.complete(raw("[INST] ", "Hi")))
    assert requests[-1]["route"] == "/v1/completions"
    assert requests[-1]["prompt"] == "[INST] Hi"
    assert done.text == "You said: <s>[INST] Hi"
    assert done.notes == ()


@pytest.mark.parametrize("text", [RAW, f"<s>{RAW}"], ids=["bare", "spelt-out"])
def test_a_server_that_takes_ids_gets_the_beginning_once(text: str) -> None:
    with serving(tokenize=True, starts="<s>") as server:
        done = use(server, lambda started: started.backend.complete(raw(text)))
        sent = server.requests[-1]["prompt"]
        assert server.text(sent) == f"<s>{RAW}"
    assert done.prompt_tokens == len(sent)
    assert done.text == f"You said: <s>{RAW}"


def test_a_vocabulary_without_a_beginning_gets_none() -> None:
    with serving(tokenize=True) as server:
        use(server, lambda started: started.backend.complete(raw(RAW)))
        assert server.text(server.requests[-1]["prompt"]) == RAW


@pytest.mark.parametrize(
    "behaviour",
    [{"templates_text": True}, {"completions": False}, {"usage": False}],
    ids=["in-template", "no-route", "no-counts"],
)
def test_a_server_that_was_not_seen_to_take_raw_prompts_gets_none(
    behaviour: dict[str, Any],
) -> None:
    async def ask(started: Started) -> None:
        assert not started.backend.capabilities.raw
        with pytest.raises(CapabilityMissing, match="takes no raw prompts"):
            await started.backend.complete(raw(RAW))

    assert doing(behaviour, ask)[1] == []


def test_a_local_tokenizer_counts_and_puts_the_beginning_before_raw_prompts() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    toy = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="</s>"))
    toy.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    toy.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=toy, bos_token="<s>", eos_token="</s>")
    renderer = LocalRenderer(fast)

    async def ids(*pieces: Any) -> list[int]:
        return await raw_ids(renderer, pieces)

    import asyncio

    assert asyncio.run(ids("a b")) == [0, 2, 3]
    assert asyncio.run(ids("<s> a", (3,))) == [0, 2, 3]
    assert renderer.count_start() + renderer.count("a b") == 3


def test_a_raw_prompt_that_does_not_fit_is_too_long_and_a_conversation_is_skipped() -> None:
    async def ask(started: Started) -> None:
        for work in (
            started.backend.complete(raw("word " * 3000)),
            started.backend.choose(ChoiceRequest(prefix=("word " * 3000,), choices=("a", "b"))),
            started.backend.choose(
                ChoiceRequest(
                    messages=(Message(role="user", content="word " * 3000),), choices=("a", "b")
                )
            ),
        ):
            with pytest.raises(RequestFailed, match="no room in the context") as caught:
                await work
            assert caught.value.kind == "overlong"
        with pytest.raises(RowSkipped):
            await started.backend.complete(request("word " * 3000))
        # What is left is still enough for as short an answer as this.
        done = await started.backend.complete(raw("word " * 2000, tokens=20))
        assert done.text

    doing({"context_length": 4096, "tokenize": True, "top_logprobs": 20}, ask)


# -- choices


@pytest.mark.parametrize("most", [20, 5])
def test_as_many_tokens_are_asked_for_as_the_server_reports(most: int) -> None:
    shares = {f"w{n}": 0.5 / (n + 2) for n in range(22)}
    shares["yes"] = 0.4
    behaviour = {"top_logprobs": most, "shares": lambda ask: shares}
    found, sent = choosing(behaviour)
    assert (sent["route"], sent["logprobs"]) == ("/v1/chat/completions", True)
    assert (sent["top_logprobs"], sent["max_tokens"], sent["temperature"]) == (most, 1, 1.0)
    assert found.logprobs == {"yes": pytest.approx(math.log(0.4))}
    assert found.floor == pytest.approx(math.log(0.5 / most))
    found, sent = choosing(behaviour, messages=(), prefix=(RAW,))
    assert (sent["route"], sent["logprobs"], sent["prompt"]) == ("/v1/completions", most, RAW)
    assert found.floor == pytest.approx(math.log(0.5 / most))


def test_both_choices_reported_leave_no_floor() -> None:
    found, _ = choosing({"top_logprobs": 20, "shares": lambda ask: {"no": 0.7, "yes": 0.2}})
    assert found == ChoiceScores(
        logprobs={"yes": pytest.approx(math.log(0.2)), "no": pytest.approx(math.log(0.7))}
    )


def test_where_ids_can_be_had_a_question_is_put_by_them() -> None:
    behaviour = {"top_logprobs": 20, "tokenize": True, "starts": "<s>"}
    _, sent = choosing(behaviour, prefix=("Well, ",))
    assert sent["route"] == "/v1/completions"
    assert isinstance(sent["prompt"], list)


def test_the_chat_route_goes_on_from_a_beginning_before_the_choice() -> None:
    _, sent = choosing({"top_logprobs": 20}, prefix=("Well, ",))
    assert sent["continue_final_message"] is True
    assert sent["messages"][-1] == {"role": "assistant", "content": "Well, "}


@pytest.mark.parametrize(
    ("behaviour", "can"),
    [
        ({}, False),
        ({"top_logprobs": 1}, False),
        ({"top_logprobs": 5}, True),
        ({"top_logprobs": 20, "completions": False}, True),
        ({"top_logprobs": 20, "refuses": {"top_logprobs": "no such thing"}}, False),
        ({"top_logprobs": 20, "refuses": {"top_logprobs": "no"}, "tokenize": True}, True),
        ({"top_logprobs": 20, "shares": lambda ask: {"yes": 1.0}}, False),
    ],
    ids=["none", "one", "five", "chat-only", "text-only", "by-ids", "one-hot"],
)
def test_choices_are_offered_where_every_way_to_ask_reports_tokens(
    behaviour: dict[str, Any], can: bool
) -> None:
    with serving(**behaviour) as server:
        started = look(server)
    assert started.backend.capabilities.choices is can
    assert "(chat)" in started.subject.execution["next-token figures"]


def test_a_server_that_reports_no_tokens_is_not_asked() -> None:
    async def ask(started: Started) -> None:
        with pytest.raises(CapabilityMissing, match="how probable"):
            await started.backend.choose(ChoiceRequest(messages=USER, choices=("a", "b")))

    assert doing({}, ask)[1] == []


def test_a_server_that_stops_reporting_fails_the_question() -> None:
    with serving(top_logprobs=20) as server:

        async def ask(started: Started) -> None:
            server.behaviour.top_logprobs = 0
            with pytest.raises(RequestFailed, match="no log-probabilities") as caught:
                await started.backend.choose(ChoiceRequest(messages=USER, choices=("a", "b")))
            assert caught.value.kind == "malformed"

        use(server, ask)


def logs(**shares: float) -> Reported:
    return Reported({token: math.log(share) for token, share in shares.items()}, math.log(0.001))


def values(found: ChoiceScores) -> dict[str, float]:
    return {choice: round(math.exp(value), 6) for choice, value in found.logprobs.items()}


def test_a_token_stands_for_the_one_choice_that_begins_with_it() -> None:
    found = logs(safe=0.3, uns=0.5, u=0.01, Safe=0.1, unsafely=0.02)
    assert values(scores(("safe", "unsafe"), found)) == {"safe": 0.3, "unsafe": 0.5}


def test_one_space_before_a_token_or_a_choice_does_not_count() -> None:
    marked = Reported({"Ġyes": math.log(0.5), "▁no": math.log(0.2), " ": math.log(0.2)}, -9.0)
    assert values(scores(("yes", "no"), marked)) == {"yes": 0.5, "no": 0.2}
    assert values(scores((" yes", " no"), marked)) == {" yes": 0.5, " no": 0.2}
    double = Reported({"  yes": math.log(0.9)}, -9.0)
    assert scores(("yes", "no"), double) == ChoiceScores(logprobs={}, floor=-9.0)


def test_of_several_tokens_for_a_choice_the_most_probable_one_counts() -> None:
    found = Reported({"yes": math.log(0.3), " yes": math.log(0.4), "y": math.log(0.1)}, -9.0)
    assert values(scores(("yes", "no"), found)) == {"yes": 0.4}


def test_a_token_that_begins_two_choices_stands_for_neither() -> None:
    assert values(scores(("safe", "sage"), logs(safe=0.5, sa=0.1, sage=0.2))) == {
        "safe": 0.5,
        "sage": 0.2,
    }
    with pytest.raises(RequestFailed, match="'safe', 'sage' may begin with the same token"):
        scores(("safe", "sage"), logs(safe=0.1, sa=0.8))


@pytest.mark.parametrize("choices", [("1", "10"), ("yes", "yes, please"), ("a", " a"), ("", "b")])
def test_choices_that_one_token_cannot_tell_apart_fail(choices: tuple[str, ...]) -> None:
    with pytest.raises(RequestFailed) as caught:
        scores(choices, logs(**{"1": 0.5, "yes": 0.2}))
    assert caught.value.kind == "malformed"


def chat_figures(drawn: str, rows: list[tuple[Any, Any]]) -> Reply:
    tops = [{"token": token, "logprob": value} for token, value in rows]
    return Reply(
        text=drawn, choice={"logprobs": {"content": [{"token": drawn, "top_logprobs": tops}]}}
    )


def text_figures(drawn: str, rows: list[tuple[Any, Any]]) -> Reply:
    return Reply(text=drawn, choice={"logprobs": {"tokens": [drawn], "top_logprobs": [dict(rows)]}})


@pytest.mark.parametrize("figures", [chat_figures, text_figures])
def test_the_floor_is_not_that_of_a_token_that_was_drawn_out_of_turn(
    figures: Callable[[str, list[tuple[Any, Any]]], Reply],
) -> None:
    rows = [("odd", -8.0), ("yes", -0.2), ("no", -2.0)]
    assert reported(figures("odd", rows)).floor == -2.0
    assert reported(figures("yes", rows)).floor == -8.0
    assert reported(figures("odd", rows)).logprobs["odd"] == pytest.approx(-8.0)


def test_tokens_that_are_spelt_alike_have_their_sum() -> None:
    found = reported(chat_figures("a", [("a", math.log(0.5)), ("a", math.log(0.25)), ("b", -3.0)]))
    assert found.logprobs["a"] == pytest.approx(math.log(0.75))


def test_no_probability_is_a_finite_figure() -> None:
    found = reported(chat_figures("a", [("a", 0.0), ("b", -math.inf), ("c", -9999.0)]))
    assert found == Reported({"a": 0.0, "b": -9999.0, "c": -9999.0}, -9999.0)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"logprobs": None},
        {"logprobs": {"content": []}},
        {"logprobs": {"content": [{"token": "a", "top_logprobs": None}]}},
        {"logprobs": {"content": [{"token": "a", "top_logprobs": [{"token": "a"}]}]}},
        {"logprobs": {"top_logprobs": [{"a": "high"}]}},
        {"logprobs": {"top_logprobs": [{"a": 0.7}]}},
        {"logprobs": {"top_logprobs": [{"a": math.nan}]}},
        {"logprobs": {"top_logprobs": [None]}},
        {"logprobs": [0.1]},
    ],
)
def test_figures_that_cannot_be_read_are_none(choice: dict[str, Any]) -> None:
    with pytest.raises(RequestFailed) as caught:
        reported(Reply(text="a", choice=choice))
    assert caught.value.kind == "malformed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("content", "top_logprobs", "tokens", "token", "logprob", "yes")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(table=JSON)
def test_whatever_a_server_reports_the_figures_are_sound_or_the_request_fails(table: Any) -> None:
    try:
        found = scores(("yes", "no"), reported(Reply(text="", choice={"logprobs": table})))
    except RequestFailed as error:
        if error.kind != "malformed":
            raise
        return
    assert found.logprobs.keys() <= {"yes", "no"}
    assert all(-9999.0 <= value <= 0.0 for value in found.logprobs.values())
    assert (found.floor is None) == (len(found.logprobs) == 2)
    assert found.floor is None or -9999.0 <= found.floor <= 0.0


@given(
    shares=st.dictionaries(
        st.text("yesno ▁", max_size=4), st.floats(1e-9, 0.05), min_size=1, max_size=12
    )
)
def test_no_choice_is_given_more_than_its_own_tokens_have(shares: dict[str, float]) -> None:
    figures = [(token, math.log(share)) for token, share in shares.items()]
    for form in (chat_figures, text_figures):
        found = scores(("yes", "no"), reported(form("", figures)))
        for choice, value in found.logprobs.items():
            beginnings = [choice[:n] for n in range(1, len(choice) + 1)]
            own = [shares.get(space + b, 0.0) for space in ("", " ", "▁") for b in beginnings]
            assert math.exp(value) == pytest.approx(max(own))


# -- template arguments

CONFIG = {"guardian_config": {"risk_name": "harm", "criteria": ["a", 1]}}
UNKNOWN = "Unrecognized request argument supplied: {}"


def sent_with(
    kwargs: dict[str, Any], refused: tuple[str, ...] = (), **behaviour: Any
) -> list[dict[str, Any]]:
    """Requests for two completions with template arguments."""

    async def ask(started: Started) -> None:
        for _ in range(2):
            await started.backend.complete(request(template_kwargs=kwargs))

    refuses = {name: UNKNOWN.format(name) for name in refused}
    return doing({"refuses": refuses, **behaviour}, ask)[1]


def test_template_arguments_of_any_kind_reach_the_template() -> None:
    for body in sent_with(CONFIG):
        assert body["chat_template_kwargs"] == CONFIG
        assert "reasoning_effort" not in body


def test_the_effort_is_said_in_both_ways_where_both_are_taken() -> None:
    for body in sent_with({"reasoning_effort": "low", **CONFIG}):
        assert body["reasoning_effort"] == "low"
        assert body["chat_template_kwargs"] == {"reasoning_effort": "low", **CONFIG}


@pytest.mark.parametrize(
    ("refused", "kept"),
    [("reasoning_effort", "chat_template_kwargs"), ("chat_template_kwargs", "reasoning_effort")],
)
def test_the_effort_is_said_in_the_one_way_that_a_server_takes(refused: str, kept: str) -> None:
    first, again, second = sent_with({"reasoning_effort": "low"}, (refused,))
    assert {refused, kept} <= first.keys()
    for body in (again, second):
        assert kept in body
        assert refused not in body


@pytest.mark.parametrize(
    ("kwargs", "refused"),
    [
        ({"reasoning_effort": "low"}, ("reasoning_effort", "chat_template_kwargs")),
        ({"reasoning_effort": "low", **CONFIG}, ("chat_template_kwargs",)),
        (CONFIG, ("chat_template_kwargs",)),
    ],
    ids=["both", "more-than-effort", "no-effort"],
)
def test_an_argument_that_a_server_does_not_take_is_never_left_out_in_silence(
    kwargs: dict[str, Any], refused: tuple[str, ...]
) -> None:
    with pytest.raises(RequestFailed, match="Unrecognized request argument"):
        sent_with(kwargs, refused)


def test_another_argument_than_the_switch_leaves_a_trace_that_the_template_opened() -> None:
    def answer(ask: Ask) -> str:
        return "42" if "17" in ask.user else "-".join("ABCDEFGHIJ")

    async def ask(started: Started) -> None:
        start = request(fmt=started.format)
        await started.backend.complete(
            request(
                fmt=started.format,
                prefix=("First this",),
                opened=True,
                format=start.format,
                template_kwargs={"reasoning_effort": "low"},
            )
        )

    behaviour = {"trace": "First this.", "opened_by_template": True, "answer": answer}
    body = doing(behaviour, ask, prefix="chat")[1][-1]
    assert body["messages"][-1]["content"].startswith("<think>\nFirst this")
