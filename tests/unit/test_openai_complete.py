"""Completions of the server backend: traces, beginnings, limits, filters and log-probabilities."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.openai_backend import Started, look, request, use
from tests.support.openai_server import Ask, Fault, always, first, sensible, serving
from tseval.errors import BackendError, CapabilityMissing, ConfigError, RequestFailed, RowSkipped
from tseval.requests import Completion, CompletionRequest, HiddenStatesRequest, ScoringRequest
from tseval.rollouts import Model, Plan, roll_out
from tseval.thinking import Limits
from tseval.types import Message, Rollout, Sampling, Thinking

USER = (Message(role="user", content="Hello"),)
TRACE = "First this. Then that."
# Ways in which a server can show a model that thinks; the session must not see a difference.
INLINE = {"trace": TRACE}
OPENED = {"trace": TRACE, "opened_by_template": True}
FIELD = {"trace": TRACE, "reasoning_field": "reasoning_content"}
NEW_FIELD = {"trace": TRACE, "reasoning_field": "reasoning"}
RAW = {"trace": TRACE, "tokenize": True, "reasoning_field": "reasoning"}
RAW_OPENED = {"trace": TRACE, "tokenize": True, "opened_by_template": True}
EVERY_WAY = [INLINE, OPENED, FIELD, NEW_FIELD, RAW, RAW_OPENED]
WAY_IDS = ["inline", "opened", "field", "new-field", "raw", "raw-opened"]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def asking(
    behaviour: dict[str, Any],
    make: Callable[[Started], CompletionRequest],
    options: dict[str, Any] | None = None,
    later: dict[str, Any] | None = None,
) -> tuple[Completion, list[dict[str, Any]]]:
    """One completion and the requests that it took; ``later`` sets in behind the start."""
    with serving(**behaviour) as server:

        async def ask(started: Started) -> tuple[Completion, list[dict[str, Any]]]:
            for name, value in (later or {}).items():
                setattr(server.behaviour, name, value)
            return await started.backend.complete(make(started)), list(server.requests)

        return use(server, ask, **(options or {}))


def rolling(
    behaviour: dict[str, Any], thinking: Thinking, answer_tokens: int = 50, **later: Any
) -> Rollout:
    """One rollout as the session makes it."""
    with serving(**behaviour) as server:

        async def roll(started: Started) -> Rollout:
            for name, value in later.items():
                setattr(server.behaviour, name, value)
            backend = started.backend
            model = Model(
                name="target",
                backend=backend,
                subject=started.subject,
                format=started.format,
                complete=backend.complete,
                identity="",
            )
            sampling = Sampling(answer_tokens=answer_tokens)
            plan = Plan(key="k", seed=5, messages=USER, sampling=sampling, thinking=thinking)
            return await roll_out(model, plan)

        return use(server, roll)


# -- a whole rollout


@pytest.mark.parametrize("behaviour", EVERY_WAY, ids=WAY_IDS)
def test_trace_and_answer_are_told_apart_however_the_server_shows_them(
    behaviour: dict[str, Any],
) -> None:
    rollout = rolling(behaviour, Thinking(budget=100))
    assert (rollout.trace, rollout.answer) == (TRACE, "You said: Hello")
    assert (rollout.closed_by, rollout.finish) == ("model", "stop")


@pytest.mark.parametrize("behaviour", [*EVERY_WAY, {}], ids=[*WAY_IDS, "no-trace"])
def test_thinking_switched_off_leaves_the_answer_alone(behaviour: dict[str, Any]) -> None:
    rollout = rolling(behaviour, Thinking(mode="off"))
    assert (rollout.trace, rollout.answer) == ("", "You said: Hello")
    assert not rollout.thought


@pytest.mark.parametrize("behaviour", [INLINE, OPENED, RAW, RAW_OPENED])
def test_a_trace_over_its_budget_is_closed_and_the_answer_asked_for(
    behaviour: dict[str, Any],
) -> None:
    long = "on and on " * 200
    rollout = rolling(behaviour, Thinking(budget=40), answer_tokens=20, trace=long)
    assert rollout.closed_by == "budget"
    assert rollout.answer == "You said: Hello"
    assert rollout.trace.startswith("on and on")
    assert (rollout.trace_finish, rollout.finish) == ("length", "stop")
    if "tokenize" in behaviour:
        # With a tokenizer the budget holds to the token: opener, blank, then words and blanks.
        assert len(re.findall(r"\w+|\s+", rollout.trace)) in (37, 38, 39, 40)


@pytest.mark.parametrize("behaviour", EVERY_WAY, ids=WAY_IDS)
def test_a_trace_that_was_cut_off_is_never_taken_for_an_answer(behaviour: dict[str, Any]) -> None:
    long = {"trace": "on and on " * 200}
    rollout = rolling(behaviour, Thinking(budget=40, unclosed="exclude"), 20, **long)
    assert rollout.answer is None
    assert rollout.thought
    assert rollout.trace.startswith("on and on")
    assert rollout.closed_by == "none"


def test_a_parser_that_leaves_a_cut_off_trace_in_the_answer_is_seen_through() -> None:
    # Some parsers move a trace only if they find its end; this one was opened by the template.
    behaviour = {**FIELD, "opened_by_template": True, "parser": "none"}
    rollout = rolling(behaviour, Thinking(budget=40), 20, trace="on and on " * 200)
    assert rollout.answer is None
    assert rollout.trace.startswith("on and on")
    assert "trace-in-answer-field" in rollout.notes


def test_without_a_way_to_continue_the_rollout_says_that_it_could_not_be_closed() -> None:
    rollout = rolling(FIELD, Thinking(budget=40), 20, trace="on and on " * 200)
    assert rollout.answer is None
    assert "cannot-force" in rollout.notes


@pytest.mark.parametrize("behaviour", [{}, {"tokenize": True}])
def test_thinking_can_be_forced_on_a_model_without_a_format(behaviour: dict[str, Any]) -> None:
    rollout = rolling(behaviour, Thinking(mode="forced", budget=100))
    assert (rollout.trace, rollout.answer) == ("Well.", "You said: Hello")
    assert rollout.closed_by == "model"


@pytest.mark.parametrize("field", ["", "reasoning"])
def test_a_model_that_thinks_only_now_and_then_is_still_told_apart(field: str) -> None:
    def moody(ask: Ask) -> str:
        return "<think>\nA greeting.\n</think>\n\nHi." if "Hello" in ask.user else sensible(ask)

    behaviour = {"answer": moody, "reasoning_field": field, "parser": "none"}
    rollout = rolling(behaviour, Thinking())
    assert (rollout.trace, rollout.answer) == ("A greeting.", "Hi.")
    assert "unexpected-trace" in rollout.notes


def test_an_answer_that_the_parser_took_for_a_trace_is_still_the_answer() -> None:
    # With thinking off there is no closing mark, so the parser takes all of it.
    rollout = rolling(FIELD, Thinking(mode="off"))
    assert rollout.answer == "You said: Hello"
    assert "answer-in-trace-field" in rollout.notes


# -- one completion


def test_null_content_is_an_empty_answer() -> None:
    done, _ = asking({}, lambda _: request(), later={"faults": always(Fault("null"))})
    assert (done.text, done.trace_text, done.finish) == ("", None, "stop")


def test_what_the_providers_filter_withholds_is_a_failure_of_its_own_kind() -> None:
    with pytest.raises(RequestFailed, match=r"withheld the answer \(content_filter\)") as caught:
        asking({}, lambda _: request(), later={"faults": always(Fault("filtered"))})
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "The response was filtered", "code": "content_filter"}),
        (400, {"message": "blocked by our content management policy"}),
        (403, {"message": "requires moderation and your input was flagged"}),
    ],
)
def test_a_prompt_that_the_providers_filter_stops_is_one_too(
    status: int, error: dict[str, str]
) -> None:
    fault = Fault("status", status, {"error": error})
    with pytest.raises(RequestFailed, match="content filter stopped the prompt") as caught:
        asking({}, lambda _: request(), later={"faults": always(fault)})
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    ("choice", "text", "trace", "finish"),
    [
        ({"message": {"content": "A", "refusal": None}}, "A", None, "stop"),
        ({"message": {"content": None, "refusal": "I can't."}}, "I can't.", None, "stop"),
        ({"message": {"content": [{"type": "text", "text": "A"}, "B"]}}, "AB", None, "stop"),
        (
            {
                "message": {
                    "content": [
                        {"type": "thinking", "thinking": [{"type": "text", "text": "T"}]},
                        {"type": "text", "text": "A"},
                    ]
                }
            },
            *("A", "T", "stop"),
        ),
        (
            {"message": {"content": "A", "reasoning_content": "T", "reasoning": "U"}},
            "A",
            "T",
            "stop",
        ),
        ({"message": {"content": "A", "reasoning_content": None}}, "A", None, "stop"),
        ({"message": {"content": "A"}, "finish_reason": "MAX_TOKENS"}, "A", None, "length"),
        ({"message": {"content": "A"}, "finish_reason": "eos"}, "A", None, "stop"),
        ({"message": {"content": "A"}, "finish_reason": None}, "A", None, "stop"),
    ],
)
def test_every_shape_of_answer_is_read(
    choice: dict[str, Any], text: str, trace: str | None, finish: str
) -> None:
    body = {"choices": [{"finish_reason": "stop", **choice}], "usage": {"completion_tokens": 3}}
    fault = always(Fault("status", 200, body))
    done, _ = asking({}, lambda _: request(), later={"faults": fault})
    assert (done.text, done.trace_text, done.finish) == (text, trace, finish)


def test_an_answer_that_says_not_why_it_ended_was_cut_if_it_took_all_that_it_was_granted() -> None:
    for tokens, finish in ((49, "stop"), (50, "length")):
        choice = {"message": {"content": "A"}, "finish_reason": None}
        body = {"choices": [choice], "usage": {"completion_tokens": tokens}}
        fault = always(Fault("status", 200, body))
        assert asking({}, lambda _: request(), later={"faults": fault})[0].finish == finish


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "has no choices"),
        ({"choices": []}, "has no choices"),
        ({"choices": [{"finish_reason": "stop"}]}, "has no message"),
        ({"choices": [{"message": {"content": "A"}, "finish_reason": "abort"}]}, "'abort'"),
        ({"choices": [{"message": {"content": "A"}, "finish_reason": None}]}, "None"),
    ],
)
def test_what_is_no_answer_fails_as_malformed(body: dict[str, Any], words: str) -> None:
    fault = always(Fault("status", 200, body))
    with pytest.raises(RequestFailed, match=words) as caught:
        asking({}, lambda _: request(), later={"faults": fault})
    assert caught.value.kind == "malformed"


def test_seeds_have_31_bits_and_differ_as_the_row_seeds_do() -> None:
    def seed(value: int) -> int:
        _, requests = asking({}, lambda _: request(seed=value))
        return int(requests[-1]["seed"])

    big = 2**63 - 1
    assert seed(big) == 2**31 - 1
    assert seed(7) == 7
    assert len({seed(i * 0x9E3779B97F4A7C15 % 2**63) for i in range(4)}) == 4


def test_token_counts_come_from_the_server_and_are_zero_where_it_gives_none() -> None:
    done, _ = asking({}, lambda _: request())
    # <|user|> Hello <|end|> <|assistant|>, and 'You', ' ', 'said', ':', ' ', 'Hello'.
    assert (done.prompt_tokens, done.tokens) == (4, 6)
    done, _ = asking({"usage": False}, lambda _: request())
    assert (done.prompt_tokens, done.tokens) == (0, 0)


def test_template_arguments_travel_and_join_those_of_the_options() -> None:
    _, requests = asking(
        {"trace": TRACE},
        lambda s: request(fmt=s.format, mode="off"),
        {"extra_body": '{"chat_template_kwargs": {"style": "short"}, "priority": 3}'},
    )
    assert requests[-1]["chat_template_kwargs"] == {"style": "short", "enable_thinking": False}
    assert requests[-1]["priority"] == 3


# -- beginnings


@pytest.mark.parametrize(
    ("behaviour", "route"),
    [({}, "/v1/chat/completions"), ({"tokenize": True}, "/v1/completions")],
)
def test_a_beginning_is_continued_and_noted_as_text(behaviour: dict[str, Any], route: str) -> None:
    done, requests = asking(behaviour, lambda _: request(prefix=("You said: ",)))
    assert done.text == "Hello"
    assert done.notes == ("text-prefix",)
    assert [r["route"] for r in requests] == [route]
    if not behaviour:
        assert requests[-1]["continue_final_message"] is True
        assert requests[-1]["add_generation_prompt"] is False
        assert requests[-1]["messages"][-1] == {"role": "assistant", "content": "You said: "}


def test_what_tseval_itself_wrote_into_a_beginning_is_no_remark() -> None:
    done, _ = asking(RAW, lambda s: request(fmt=s.format, mode="forced"))
    assert done.notes == ()


def test_a_beginning_behind_a_template_that_opens_the_trace_gets_its_opener_back() -> None:
    def make(started: Started) -> CompletionRequest:
        closer = started.format.closer
        return request(fmt=started.format, prefix=("Short.", closer), opened=False)

    done, requests = asking(OPENED, make)
    assert requests[-1]["messages"][-1]["content"] == "<think>\nShort.\n</think>\n\n"
    assert done.text == "You said: Hello"


def test_without_a_way_to_continue_a_beginning_is_refused_not_ignored() -> None:
    with pytest.raises(CapabilityMissing, match="cannot continue a given beginning"):
        asking({"continuation": "ignore"}, lambda _: request(prefix=("You",)))


def test_what_stands_on_both_sides_of_a_swallowed_mark_is_one_text_again() -> None:
    def make(started: Started) -> CompletionRequest:
        return request(mode="forced", fmt=started.format)

    behaviour = {"reasoning_field": "reasoning", "parser": "none"}
    done, _ = asking(behaviour, make)
    assert done.text == "Well.\n</think>You said: Hello"
    assert done.trace_text is None


def test_behind_a_closed_trace_only_the_answer_has_room() -> None:
    def make(started: Started) -> CompletionRequest:
        limits = Limits(thinking=50, answer=50)
        return request(fmt=started.format, prefix=("x", "</think>"), opened=False, limits=limits)

    assert asking(INLINE, make)[1][-1]["max_tokens"] == 50


def test_banned_strings_are_banned_or_end_the_text() -> None:
    def make(started: Started) -> CompletionRequest:
        return request(
            fmt=started.format,
            mode="forced",
            banned=("</think>",),
            limits=Limits(thinking=30, answer=0),
        )

    done, requests = asking(RAW, make)
    assert requests[-1]["bad_words"] == ["</think>"]
    assert "</think>" not in done.text
    refuses = {"bad_words": {"message": "unknown field", "param": "bad_words"}}
    done, _ = asking(RAW, make, later={"refuses": refuses})
    assert done.text.strip() == TRACE
    assert (done.finish, done.notes[-1]) == ("stop", "leaked")


# -- limits


def test_an_answer_longer_than_its_limit_is_cut_there_although_the_sum_would_allow_it() -> None:
    later = {"answer": lambda ask: "word " * 80 if "Hello" in ask.user else sensible(ask)}
    limits = Limits(thinking=100, answer=20)
    done, _ = asking(RAW, lambda s: request(fmt=s.format, limits=limits), later=later)
    # The blank lines behind the mark are a token of the answer, then words and blanks.
    assert done.text.endswith("</think>\n\n" + ("word " * 10).rstrip())
    assert (done.finish, done.tokens) == ("length", 13 + 20)
    assert done.notes == ("cut-to-limit",)


def test_a_trace_longer_than_its_budget_is_cut_although_it_closed_within_the_sum() -> None:
    limits = Limits(thinking=30, answer=60)
    done, _ = asking(
        RAW, lambda s: request(fmt=s.format, limits=limits), later={"trace": "on " * 30}
    )
    assert "</think>" not in done.text
    assert (done.finish, done.notes) == ("length", ("cut-to-limit",))


def test_where_nobody_counts_a_long_completion_is_noted_as_bounded_by_the_sum_only() -> None:
    long = {"trace": "on " * 40}
    done, requests = asking(INLINE, lambda s: request(fmt=s.format), later=long)
    assert requests[-1]["max_tokens"] == 150
    assert done.notes == ("joint-limit",)
    done, _ = asking(INLINE, lambda s: request(fmt=s.format))
    assert done.notes == ()


@pytest.mark.parametrize("tell", [True, False])
def test_a_completion_that_does_not_fit_gets_the_room_that_is_left(tell: bool) -> None:
    later = {"answer": lambda ask: "word " * 400 if "Hello" in ask.user else sensible(ask)}
    limits = Limits(thinking=0, answer=5000)
    done, requests = asking(
        {"context_length": 600, "tell_context": tell}, lambda _: request(limits=limits), later=later
    )
    assert requests[-1]["max_tokens"] == 600 - 4
    assert done.notes == ("less-room",)
    assert (done.finish, done.tokens) == ("length", 596)


def test_an_answer_that_ends_by_itself_lost_no_room() -> None:
    limits = Limits(thinking=0, answer=5000)
    done, _ = asking({"context_length": 600}, lambda _: request(limits=limits))
    assert done.notes == ()


def test_a_shortened_trace_leaves_room_for_closer_and_answer() -> None:
    limits = Limits(thinking=5000, answer=100)
    _, requests = asking(
        {**INLINE, "context_length": 2200}, lambda s: request(fmt=s.format, limits=limits)
    )
    assert requests[-1]["max_tokens"] == 2200 - 4 - 100 - 64


def test_a_prompt_that_leaves_no_room_is_skipped() -> None:
    limits = Limits(thinking=0, answer=1000)
    with pytest.raises(RowSkipped, match="no room in the context"):
        asking({"context_length": 600}, lambda _: request("word " * 250, limits=limits))


def test_a_cap_on_new_tokens_is_obeyed() -> None:
    limits = Limits(thinking=0, answer=1000)
    _, requests = asking({"output_limit": 500}, lambda _: request(limits=limits))
    assert requests[-1]["max_tokens"] == 500


# -- log-probabilities, and what a server cannot do


def test_a_continuation_is_scored_by_its_own_tokens_only() -> None:
    with serving(tokenize=True, logprobs=True) as server:

        async def score(started: Started) -> tuple[Any, list[int]]:
            scored = await started.backend.loglikelihood(
                ScoringRequest(messages=USER, context=("The sky",), continuation=" is blue")
            )
            return scored, server.ids(" is blue")

        scored, ids = use(server, score)
    # The scripted server gives -0.5 * (id % 3); -0.25 is the best of every position.
    values = [-0.5 * (i % 3) for i in ids]
    assert scored.total == pytest.approx(sum(values))
    assert scored.tokens == len(ids) == 4
    assert scored.greedy is all(value >= -0.25 for value in values)


def test_what_a_server_cannot_do_is_said() -> None:
    with serving() as server:

        async def ask(started: Started) -> None:
            backend = started.backend
            with pytest.raises(CapabilityMissing, match="no log-probabilities"):
                await backend.loglikelihood(ScoringRequest(messages=USER, continuation="x"))
            with pytest.raises(CapabilityMissing, match="no hidden states"):
                await backend.hidden_states(HiddenStatesRequest(messages=USER, positions=(-1,)))
            with pytest.raises(CapabilityMissing, match="no token ids"):
                backend.decode((1,))
            with pytest.raises(CapabilityMissing, match="text, not token ids"):
                await backend.complete(request(prefix=((1, 2),)))
            assert backend.prompt_tokens(USER, {}) is None
            assert backend.text_tokens("x") is None

        use(server, ask)


# -- a local tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A tokenizer that cuts and renders as the scripted server does, and its vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.support.openai_server import TOKEN

    text = (
        "<|user|>Hello<|end|><|assistant|>You said: What is 17 + 25? Reply with the number only."
        " 42 <think>\n</think>\n\nFirst this. Then that. The sky is blue."
    )
    pieces = sorted(set(TOKEN.findall(text)) | {"\n", "\n\n", "?"})
    toy = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="?"))
    toy.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN.pattern), "isolated")
    toy.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=toy)
    fast.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder, pieces


def test_a_local_tokenizer_counts_renders_and_continues(tokenizer: tuple[Path, list[str]]) -> None:
    folder, pieces = tokenizer
    with serving(**INLINE, vocabulary=pieces) as server:

        async def ask(started: Started) -> Completion:
            backend = started.backend
            assert started.subject.execution["prefix"] == "completions, local tokenizer"
            assert started.format.name == "tags"
            assert started.format.off_kwargs == {"enable_thinking": False}
            assert backend.prompt_tokens(USER, {}) == 4
            assert backend.prompt_tokens(USER, {"enable_thinking": False}) == 8
            assert backend.text_tokens("The sky") == 3
            closed = ("<think>\nFirst", started.format.closer)
            return await backend.complete(request(fmt=started.format, prefix=closed))

        assert use(server, ask, tokenizer=folder).text == "You said: Hello"
        assert isinstance(server.requests[-1]["prompt"], list)


def test_a_tokenizer_of_another_model_is_found_out(tokenizer: tuple[Path, list[str]]) -> None:
    folder, pieces = tokenizer
    with serving(vocabulary=pieces) as server:
        server.behaviour.system = "Be kind."
        with pytest.raises(BackendError, match="renders another prompt than the server"):
            look(server, tokenizer=folder)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with serving() as server, pytest.raises(ConfigError) as caught:
        look(server, tokenizer=tmp_path)
    assert f"no tokenizer at '{tmp_path}'" in caught.value.message


# -- many at once


def test_answers_do_not_depend_on_order_or_company() -> None:
    def echo(ask: Ask) -> str:
        return f"{ask.user} {ask.body.get('seed')}" if "prompt" in ask.user else sensible(ask)

    with serving(answer=echo, faults=first(0, Fault("null"))) as server:

        async def ask(started: Started) -> tuple[list[str], list[str]]:
            requests = [request(f"prompt {i}", seed=i) for i in range(40)]
            alone = [(await started.backend.complete(r)).text for r in requests]
            # Fewer drops than a request has attempts, whichever request meets them all.
            drops = iter([Fault("dropped"), None] * 5)
            server.behaviour.faults = lambda n: next(drops, None)
            calls = [started.backend.complete(r) for r in reversed(requests)]
            together = [done.text for done in await asyncio.gather(*calls)]
            return alone, together[::-1]

        alone, together = use(server, ask, concurrency=8)
    assert alone == together == [f"prompt {i} {i}" for i in range(40)]
