"""From a prompt to a rollout: budgets to the token, closing by force, and what a judge is shown."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support import templates
from tests.support.families import ANALYSIS, ANSWER, EACH_ROW, FAMILIES, FINAL, TRACE
from tseval import scripts
from tseval.errors import RowSkipped
from tseval.formats import ThinkingFormat, opening
from tseval.requests import Capabilities, Completion, CompletionRequest
from tseval.rollouts import Continuation, Model, Plan, continue_trace, roll_out
from tseval.scoring import text_to_judge
from tseval.testing import Call, ScriptedBackend, decode, encode
from tseval.types import Message, Rollout, Sampling, Thinking

TAGS, OPENED, HARMONY, NONE = (
    FAMILIES[name].format for name in ("tags", "template-tags", "harmony", "none")
)
BEHIND = "Then this."


class Played:
    """One rollout and what was asked of the backend for it."""

    def __init__(self) -> None:
        self.requests: list[CompletionRequest] = []
        self.calls: list[Call] = []
        self.rollout = Rollout(key="")

    @property
    def prefixes(self) -> list[str]:
        return [call.prefix for call in self.calls]


def play(
    fmt: ThinkingFormat,
    script: Callable[[Call], str] | list[str],
    thinking: Thinking | None = None,
    *,
    answer_tokens: int = 400,
    how: Continuation | None = None,
    complete: Callable[[CompletionRequest], Completion] | None = None,
    system_prompt: str = "",
    **backend_options: Any,
) -> Played:
    """Make one rollout, or one continuation, with the texts of a script in turn."""
    played = Played()
    texts = iter(script) if isinstance(script, list) else None

    def write(call: Call) -> str:
        played.calls.append(call)
        return script(call) if texts is None else next(texts)

    backend = ScriptedBackend(write, **backend_options)

    async def asked(request: CompletionRequest) -> Completion:
        played.requests.append(request)
        return complete(request) if complete else await backend.complete(request)

    async def run() -> Rollout:
        model = Model(
            name="target",
            backend=backend,
            subject=await backend.start(lambda phrase, share: None),
            format=fmt,
            complete=asked,
            identity="x",
            system_prompt=system_prompt,
        )
        plan = Plan(
            key="00" * 16,
            seed=5,
            messages=model.conversation((Message(role="user", content="x" * 92),)),
            sampling=Sampling(answer_tokens=answer_tokens),
            thinking=thinking or Thinking(budget=1000),
        )
        return await (roll_out(model, plan) if how is None else continue_trace(model, plan, how))

    played.rollout = asyncio.run(run())
    return played


# -- the four rows that every peer gets wrong


def judged(rollout: Rollout, unclosed: str) -> tuple[str, str]:
    return text_to_judge(rollout, "answer", unclosed)


@pytest.mark.parametrize("unclosed", ["force", "exclude", "empty", "judge-trace"])
@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("tokenise", ["one token", "many tokens", "merged tokens"])
@pytest.mark.parametrize(("family", "name"), EACH_ROW)
def test_no_trace_is_judged_as_an_answer_in_any_family(
    family: str,
    name: str,
    unclosed: str,
    finish: str,
    tokenise: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marks = {
        "one token": scripts.MARKS,
        "many tokens": (),
        "merged tokens": ("<think>\n", "\n</think>\n\n", "</think>", *scripts.MARKS[-5:]),
    }
    monkeypatch.setattr(scripts, "MARKS", marks[tokenise])
    each = FAMILIES[family]
    row = each.rows[name]
    length = len(encode(row.text))
    first, budget, answer_tokens = row.text, 1000, 400
    if finish == "length":
        # The last token written is the last one granted.
        budget = length
        behind = row.text.split(FINAL if family == "harmony" else "</think>")[-1]
        if tokenise == "merged tokens":
            behind = behind.lstrip("\n")
        answer_tokens = len(encode(behind)) if row.closed_by == "model" else length
        if not opening(each.format, each.mode).format.thinks or "opener-missing" in row.notes:
            answer_tokens = length
        first = row.text + ("" if "opener-missing" in row.notes else "x" * 500)
    thinking = Thinking(mode=each.mode, budget=budget, unclosed=unclosed)
    played = play(
        each.format, [first, BEHIND + "y" * 500], thinking, answer_tokens=max(answer_tokens, 10)
    )
    rollout = played.rollout

    assert rollout.trace == row.trace
    assert set(row.notes) <= set(rollout.notes)
    closable = row.answer is None and unclosed == "force"
    if closable and family != "none":
        assert rollout.closed_by == "budget"
        assert rollout.trace_finish == finish
        assert rollout.answer is not None
        assert rollout.answer.startswith(BEHIND)
        assert set(rollout.answer.removeprefix(BEHIND)) <= {"y"}
        assert judged(rollout, unclosed) == (rollout.answer, "")
        assert len(played.requests) == 2
        return
    assert (rollout.answer, rollout.closed_by) == (row.answer, row.closed_by)
    assert len(played.requests) == 1
    assert ("cannot-force" in rollout.notes) is closable
    if "opener-missing" not in row.notes:
        assert rollout.finish == finish
    if row.answer is not None:
        assert judged(rollout, unclosed) == (row.answer, "")
    else:
        shown = {"judge-trace": (row.trace, ""), "empty": ("", "")}
        assert judged(rollout, unclosed) == shown.get(unclosed, ("", "unclosed"))


@pytest.mark.parametrize(
    ("rollout", "text", "unclosed", "shown"),
    [
        (Rollout(key="", answer="A"), "answer", "force", ("A", "")),
        (Rollout(key="", answer="A"), "both", "force", ("A", "")),
        (Rollout(key="", answer="A"), "trace", "force", ("", "no-trace")),
        (Rollout(key="", trace="T", answer="A", thought=True), "answer", "force", ("A", "")),
        (Rollout(key="", trace="T", answer="A", thought=True), "both", "force", ("T\n\nA", "")),
        (Rollout(key="", trace="T", answer="A", thought=True), "trace", "force", ("T", "")),
        (Rollout(key="", trace="T", thought=True), "trace", "exclude", ("T", "")),
        (Rollout(key="", trace="T", thought=True), "both", "exclude", ("", "unclosed")),
        (Rollout(key="", trace="T", thought=True), "answer", "force", ("", "")),
        (
            Rollout(key="", trace="T", thought=True, notes=("cannot-force",)),
            "answer",
            "force",
            ("", "unclosed"),
        ),
        (Rollout(key="", trace="T", thought=True), "both", "empty", ("", "")),
        (Rollout(key="", trace="T", thought=True), "both", "judge-trace", ("T", "")),
        # An empty think block is no trace that could be refused, or complied, in.
        (Rollout(key="", answer="A", thought=True), "trace", "force", ("", "no-trace")),
        (Rollout(key="", answer="", trace="T", thought=True), "answer", "judge-trace", ("", "")),
    ],
)
def test_a_judge_is_shown_the_text_that_the_protocol_names(
    rollout: Rollout, text: str, unclosed: str, shown: tuple[str, str]
) -> None:
    assert text_to_judge(rollout, text, unclosed) == shown


# -- budgets


@pytest.mark.parametrize("budget", [1, 7, 64, 300])
@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "forced"])
def test_the_budget_is_kept_to_the_token_and_the_closer_follows(name: str, budget: int) -> None:
    each = FAMILIES[name]
    start = opening(each.format, each.mode)
    opener = "" if start.opened else start.format.opener_mark
    budget += len(encode(opener)) + (start.format.headless == "trace")
    played = play(
        each.format, [opener + "t" * 500, BEHIND], Thinking(mode=each.mode, budget=budget)
    )
    first, second = played.requests
    assert first.limits.thinking == budget
    written = second.prefix[-2]
    assert isinstance(written, tuple)
    assert len(written) == budget
    assert second.prefix == tuple(p for p in (start.prefill, written, start.format.closer) if p)
    rollout = played.rollout
    assert (rollout.trace_tokens, rollout.budget) == (budget - len(encode(opener)), budget)
    assert rollout.trace == "t" * (budget - len(encode(opener)))
    assert rollout.trace_ids == encode(rollout.trace)
    assert (rollout.answer, rollout.answer_ids) == (BEHIND, encode(BEHIND))
    assert (rollout.closed_by, rollout.trace_finish, rollout.finish) == ("budget", "length", "stop")


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "forced"])
def test_a_model_that_stops_inside_its_trace_is_closed_too(name: str) -> None:
    each = FAMILIES[name]
    start = opening(each.format, each.mode)
    text = ("" if start.opened else start.format.opener_mark) + TRACE
    rollout = play(each.format, [text, BEHIND], Thinking(mode=each.mode)).rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == (TRACE, BEHIND, "budget")
    assert (rollout.trace_finish, rollout.finish) == ("stop", "stop")


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "forced"])
@pytest.mark.parametrize("spare", [0, 1, 500, 5000])
def test_the_effective_budget_is_what_the_context_leaves(name: str, spare: int) -> None:
    each = FAMILIES[name]
    start = opening(each.format, each.mode)
    fixed = 100 + len(encode(start.prefill)) + len(encode(start.format.closer)) + 50
    thinking = Thinking(mode=each.mode, budget=2000)
    text = ("" if start.opened else start.format.opener_mark) + "t" * 6000
    played = play(
        each.format,
        [text, "a" * 500],
        thinking,
        answer_tokens=50,
        context_length=fixed + 256 + spare,
    )
    wanted = min(2000, 256 + spare)
    assert played.rollout.budget == played.requests[0].limits.thinking == wanted
    assert len(played.requests[1].prefix[-2]) == wanted
    # Prompt, prefill, trace, closer and answer fill the context and no more.
    took = 100 + sum(
        len(p if isinstance(p, tuple) else encode(p)) for p in played.requests[1].prefix
    )
    assert took + played.rollout.answer_tokens == fixed + wanted <= fixed + 256 + spare


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "forced"])
def test_a_row_is_skipped_below_256_tokens_for_the_trace(name: str) -> None:
    each = FAMILIES[name]
    start = opening(each.format, each.mode)
    fixed = 100 + len(encode(start.prefill)) + len(encode(start.format.closer)) + 50
    thinking = Thinking(mode=each.mode, budget=2000)
    with pytest.raises(RowSkipped) as error:
        play(each.format, ["x"], thinking, answer_tokens=50, context_length=fixed + 255)
    assert error.value.message == (
        f"the prompt takes 100 of {fixed + 255} tokens and leaves fewer than 256"
    )


def test_a_budget_below_256_needs_room_for_itself_only() -> None:
    fixed = 100 + len(encode(OPENED.closer)) + 50
    options: dict[str, Any] = {"answer_tokens": 50, "thinking": Thinking(budget=30)}
    played = play(OPENED, ["t" * 40, BEHIND], context_length=fixed + 30, **options)
    assert played.rollout.budget == 30
    with pytest.raises(RowSkipped):
        play(OPENED, ["x"], context_length=fixed + 29, **options)


@pytest.mark.parametrize("mode", ["default", "off"])
@pytest.mark.parametrize(
    ("answer_tokens", "room", "granted"),
    [(400, 500, 400), (400, 300, 300), (400, 256, 256), (400, 255, None), (9, 9, 9), (9, 8, None)],
)
def test_an_answer_without_a_trace_is_cut_to_the_context_and_skipped_below_256(
    mode: str, answer_tokens: int, room: int, granted: int | None
) -> None:
    fmt, prefill = (NONE, "") if mode == "default" else (OPENED, OPENED.off_prefill)
    options: dict[str, Any] = {
        "answer_tokens": answer_tokens,
        "context_length": 100 + len(encode(prefill)) + room,
    }
    if granted is None:
        with pytest.raises(RowSkipped):
            play(fmt, ["a" * 900], Thinking(mode=mode), **options)
        return
    rollout = play(fmt, ["a" * 900], Thinking(mode=mode), **options).rollout
    assert (rollout.answer, rollout.finish, rollout.budget) == ("a" * granted, "length", 0)
    assert rollout.answer_tokens == granted


def test_a_backend_that_cannot_count_gets_the_limits_as_they_are() -> None:
    class Uncounted(ScriptedBackend):
        def prompt_tokens(self, messages, template_kwargs):
            return None

    backend = Uncounted(lambda call: "t" * 5000, context_length=300)

    async def run() -> Rollout:
        model = Model(
            name="target",
            backend=backend,
            subject=await backend.start(lambda phrase, share: None),
            format=OPENED,
            complete=backend.complete,
            identity="x",
        )
        plan = Plan(
            key="00" * 16,
            seed=5,
            messages=(Message(role="user", content="x"),),
            sampling=Sampling(answer_tokens=40),
            thinking=Thinking(budget=700, unclosed="exclude"),
        )
        return await roll_out(model, plan)

    assert asyncio.run(run()).budget == 700


# -- behind our closer


@pytest.mark.parametrize(
    ("name", "second", "answer", "reopened"),
    [
        ("tags", "<think>more</think>A", "A", True),
        ("tags", "more</think>A", "A", True),
        ("tags", "<think>more", None, True),
        ("template-tags", "more</think>A", "A", True),
        ("forced", "<think>more</think>A", "A", True),
        ("harmony", f"{ANALYSIS}more<|end|><|start|>assistant{FINAL}A<|return|>", "A", True),
        ("harmony", "A<|end|>", "A", False),
        ("harmony", "A<|return|>", "A", False),
        ("tags", "", "", False),
        ("harmony", "", "", False),
    ],
)
def test_thinking_on_behind_the_closer_is_no_answer(
    name: str, second: str, answer: str | None, reopened: bool
) -> None:
    each = FAMILIES[name]
    start = opening(each.format, each.mode)
    text = ("" if start.opened else start.format.opener_mark) + "t" * 600
    rollout = play(each.format, [text, second], Thinking(mode=each.mode, budget=500)).rollout
    assert (rollout.answer, rollout.closed_by) == (answer, "budget")
    assert ("reopened" in rollout.notes) is reopened
    assert set(rollout.trace) == {"t"}
    if answer is None:
        # The model's doing: it was asked for the answer. Empty, then, and in the denominator.
        assert judged(rollout, "force") == ("", "")


@pytest.mark.parametrize("second", ["a" * 999, "<think>" + "m" * 999, "m</think>" + "a" * 999])
def test_what_follows_the_closer_never_exceeds_the_answer_s_limit(second: str) -> None:
    played = play(
        OPENED, ["t" * 600, second], Thinking(budget=500), answer_tokens=60, context_length=1000
    )
    assert played.rollout.finish == "length"
    assert played.requests[1].limits.total == 60


def test_the_second_draw_is_independent_of_the_first_and_reproducible() -> None:
    first, second = play(OPENED, ["t" * 600, BEHIND], Thinking(budget=500)).requests
    assert first.seed == 5
    assert second.seed not in (0, 5)
    assert play(OPENED, ["t" * 600, BEHIND], Thinking(budget=500)).requests[1].seed == second.seed
    assert 0 <= second.seed < 2**63


# -- thinking off


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (templates.HYBRID, ""),
        (templates.OPENED_HYBRID, ""),
        (templates.OPENED, "\n</think>\n\n"),
        (templates.LITERAL, "<think>\n\n</think>\n\n"),
        (templates.HARMONY, FINAL),
        (templates.PLAIN, ""),
    ],
    ids=["Qwen3", "opened hybrid", "R1", "Phi-4", "gpt-oss", "SmolLM2"],
)
@pytest.mark.parametrize("ending", ["", "x" * 900])
def test_with_thinking_off_all_of_it_is_the_answer(template: str, prefix: str, ending: str) -> None:
    played = play(templates.chosen(template), [ANSWER + ending], Thinking(mode="off"))
    (call,) = played.calls
    assert call.prefix == prefix
    assert call.thinking_off is ("enable_thinking" in template)
    rollout = played.rollout
    assert rollout.answer == (ANSWER + ending)[:400]
    assert (rollout.trace, rollout.thought, rollout.closed_by) == ("", False, "none")
    assert rollout.finish == ("length" if ending else "stop")
    assert rollout.budget == 0
    assert rollout.notes == ()


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        (TAGS, f"<think>{TRACE}</think>{ANSWER}"),
        (OPENED, f"<think>{TRACE}</think>{ANSWER}"),
        (OPENED, f"{TRACE}</think>{ANSWER}"),
        (HARMONY, f"{ANALYSIS}{TRACE}<|end|><|start|>assistant{FINAL}{ANSWER}<|return|>"),
    ],
)
def test_a_model_that_thinks_though_it_is_off_is_not_judged_by_its_trace(
    fmt: ThinkingFormat, text: str
) -> None:
    rollout = play(fmt, [text], Thinking(mode="off")).rollout
    assert rollout.answer == ANSWER
    assert "reopened" in rollout.notes
    served = Completion(text=ANSWER, trace_text=TRACE)
    rollout = play(fmt, [], Thinking(mode="off"), complete=lambda _: served).rollout
    assert (rollout.trace, rollout.answer, rollout.notes) == (TRACE, ANSWER, ("reopened",))


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony"])
def test_a_trace_that_is_opened_though_thinking_is_off_is_closed_at_the_answer_s_limit(
    name: str,
) -> None:
    fmt = FAMILIES[name].format
    played = play(fmt, [fmt.opener_mark + "t" * 99, BEHIND], Thinking(mode="off"), answer_tokens=60)
    assert played.requests[0].limits.total == 60
    rollout = played.rollout
    assert (rollout.answer, rollout.closed_by) == (BEHIND, "budget")
    assert set(rollout.trace) == {"t"}


# -- forced thinking


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (templates.HYBRID, "<think>\n"),
        (templates.OPENED, ""),
        (templates.LITERAL, "<think>\n"),
        (templates.HARMONY, ANALYSIS),
        (templates.PLAIN, "<think>\n"),
    ],
    ids=["Qwen3", "R1", "Phi-4", "gpt-oss", "SmolLM2"],
)
def test_forced_thinking_runs_on_any_model(template: str, prefix: str) -> None:
    fmt = templates.chosen(template)
    closer = opening(fmt, "forced").format.closer
    played = play(fmt, ["t" * 99, BEHIND], Thinking(mode="forced", budget=50))
    assert played.prefixes == [prefix, prefix + "t" * 50 + closer]
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == ("t" * 50, BEHIND, "budget")
    mark = opening(fmt, "forced").format.answer_mark
    played = play(fmt, [f"{TRACE}{mark}{ANSWER}"], Thinking(mode="forced", budget=500))
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == (TRACE, ANSWER, "model")


# -- backends that can't continue, servers that take the trace out


def test_a_backend_that_cannot_continue_leaves_the_row_out_and_says_so() -> None:
    played = play(
        OPENED, ["t" * 600], Thinking(budget=500), capabilities=Capabilities(token_ids=True)
    )
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == ("t" * 500, None, "none")
    assert rollout.notes == ("cannot-force",)
    assert judged(rollout, "force") == ("", "unclosed")


@pytest.mark.parametrize(
    ("trace_text", "text", "finish", "trace", "answer", "closed_by"),
    [
        (f"\n{TRACE}\n", f"\n{ANSWER}", "stop", TRACE, ANSWER, "model"),
        (TRACE, ANSWER, "length", TRACE, ANSWER, "model"),
        # No content at the length limit: the trace never closed. At the end of the turn: empty.
        (TRACE, "", "length", TRACE, None, "none"),
        (TRACE, " \n", "length", TRACE, None, "none"),
        (TRACE, "", "stop", TRACE, "", "model"),
        # A model that did not think.
        ("", ANSWER, "stop", "", ANSWER, "none"),
        ("", "", "length", "", None, "none"),
        # A parser that left marks behind.
        ("", f"<think>{TRACE}</think>{ANSWER}", "stop", TRACE, ANSWER, "model"),
        ("", f"<think>{TRACE}", "length", TRACE, None, "none"),
        (TRACE, f"<think>more</think>{ANSWER}", "stop", TRACE, ANSWER, "model"),
        (TRACE, f"more</think>{ANSWER}", "stop", TRACE, ANSWER, "model"),
    ],
)
@pytest.mark.parametrize("fmt", [TAGS, OPENED, NONE])
def test_a_server_s_own_split_is_taken_but_not_blindly(
    fmt: ThinkingFormat,
    trace_text: str,
    text: str,
    finish: str,
    trace: str,
    answer: str | None,
    closed_by: str,
) -> None:
    done = Completion(text=text, finish=finish, trace_text=trace_text, tokens=9, notes=("n",))
    played = play(fmt, [], complete=lambda request: done)
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == (trace, answer, closed_by)
    assert rollout.thought is bool(trace)
    assert (rollout.trace_ids, rollout.answer_ids) == (None, None)
    assert len(played.requests) == 1
    assert "n" in rollout.notes
    if answer is None:
        assert "cannot-force" in rollout.notes
        assert judged(rollout, "force") == ("", "unclosed")


def test_lengths_that_a_server_does_not_tell_are_unknown_not_zero() -> None:
    thought = play(
        TAGS, [], complete=lambda _: Completion(text=ANSWER, trace_text=TRACE, tokens=30)
    ).rollout
    assert (thought.trace_tokens, thought.answer_tokens, thought.prompt_tokens) == (None,) * 3
    plain = play(NONE, [], complete=lambda _: Completion(text=ANSWER, tokens=30)).rollout
    assert (plain.trace_tokens, plain.answer_tokens) == (0, 30)
    silent = play(NONE, [], complete=lambda _: Completion(text=ANSWER)).rollout
    assert silent.answer_tokens is None


def test_text_is_the_prefix_where_a_backend_gives_no_ids() -> None:
    played = play(
        OPENED,
        [],
        complete=lambda request: Completion(text="A" if request.prefix else TRACE),
    )
    assert played.requests[1].prefix == (TRACE, OPENED.closer)
    assert (played.rollout.trace, played.rollout.answer) == (TRACE, "A")


# -- continuing a recorded trace


@pytest.mark.parametrize("name", ["tags", "template-tags", "harmony", "none"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_prefix_of_a_trace_is_closed_and_answered(name: str, as_text: bool) -> None:
    fmt = FAMILIES[name].format
    mode = "default" if fmt.thinks else "forced"
    start = opening(fmt, mode)
    piece = TRACE if as_text else encode(TRACE)
    played = play(fmt, [BEHIND], how=Continuation(prefix=(piece,)), answer_tokens=100)
    opener = "" if name == "template-tags" else start.prefill or start.format.opener_mark
    assert played.prefixes == [opener + TRACE + start.format.closer]
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == ("", BEHIND, "cut")
    assert (rollout.thought, rollout.trace_ids, rollout.budget) == (True, (), 0)


@pytest.mark.parametrize(
    ("answer", "room"), [(50, 50), (50, 49), (400, 400), (400, 256), (400, 255)]
)
def test_an_answer_behind_a_cut_that_the_context_would_cut_short_is_skipped_or_noted(
    answer: int, room: int
) -> None:
    before = 100 + len(encode(f"<think>{TRACE}{TAGS.closer}"))
    how = Continuation(prefix=(TRACE,))
    more = {"answer_tokens": answer, "context_length": before + room}
    if room < min(answer, 256):
        with pytest.raises(RowSkipped, match=f"takes {before} of {before + room} tokens"):
            play(TAGS, ["A"], how=how, **more)
        return
    made = play(TAGS, ["A"], how=how, **more).rollout
    assert (made.answer, made.notes) == ("A", () if room == answer else ("short-answer",))


def test_a_second_trace_behind_a_cut_is_neither_trace_nor_answer() -> None:
    played = play(TAGS, ["<think>more</think>A"], how=Continuation(prefix=(TRACE,)))
    assert (played.rollout.trace, played.rollout.answer) == ("", "A")
    assert played.rollout.notes == ("reopened",)


def test_a_trace_is_continued_until_the_model_closes_it() -> None:
    how = Continuation(prefix=(encode(TRACE),), close=False, think_tokens=50)
    played = play(TAGS, [f" More.</think>{ANSWER}"], how=how)
    assert played.prefixes == [f"<think>{TRACE}"]
    rollout = played.rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == ("More.", ANSWER, "model")
    rollout = play(TAGS, ["t" * 99], how=how).rollout
    assert (rollout.trace, rollout.answer, rollout.closed_by) == ("t" * 50, None, "none")


@pytest.mark.parametrize("fmt", [TAGS, HARMONY])
def test_a_banned_closer_ends_the_rollout_without_an_answer(fmt: ThinkingFormat) -> None:
    how = Continuation(prefix=(TRACE,), close=False, think_tokens=50, ban_closer=True)
    played = play(fmt, [f" More.{fmt.answer_mark}{ANSWER}"], how=how)
    (request,) = played.requests
    assert request.banned == (fmt.answer_mark, *fmt.end_marks)
    assert (request.opened, request.limits.total) == (True, 50)
    assert (played.rollout.trace, played.rollout.answer) == ("More.", None)


# -- what else a rollout carries


def test_a_system_prompt_stands_before_the_conversation() -> None:
    played = play(NONE, [ANSWER], system_prompt="Be brief.")
    assert [m.role for m in played.requests[0].messages] == ["system", "user"]
    assert played.requests[0].messages[0].content == "Be brief."
    assert [m.role for m in play(NONE, [ANSWER]).requests[0].messages] == ["user"]


def test_a_rollout_survives_the_journal() -> None:
    rollout = play(TAGS, ["<think>" + "t" * 600, BEHIND], Thinking(budget=500)).rollout
    assert msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout) == rollout
    assert decode(rollout.trace_ids or ()) == rollout.trace
