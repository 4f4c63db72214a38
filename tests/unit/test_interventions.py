"""Interventions: what each writes and where, what is drawn again, and what counts as an error."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from tests.support import templates
from tests.support.families import FAMILIES
from tests.support.sessions import finish, registry
from tseval import scripts
from tseval.errors import CapabilityMissing, ConfigError, RequestFailed, UnknownName
from tseval.formats import ThinkingFormat, opening
from tseval.interventions import (
    LessThink,
    MoreThink,
    SafePath,
    SafeRemind,
    SelfReflection,
    ZeroThink,
)
from tseval.interventions._writing import seed_of
from tseval.probes import replay_prefix
from tseval.requests import Capabilities, Completion, CompletionRequest, ModelSpec, Subject
from tseval.rollouts import Continuation, Model, Plan, continue_trace, roll_out
from tseval.runner import Outcome, run
from tseval.spec import RunSpec
from tseval.testing import Call, ScriptedBackend, check_intervention, decode, encode
from tseval.thinking import Limits
from tseval.types import Message, Rollout, Sampling, Thinking
from tseval.wrapping import Inner, Intervention, check_fits, parse_intervention

BUILT_IN = (SafePath(), ZeroThink(), LessThink(), MoreThink(), SafeRemind(), SelfReflection())
TAGS, OPENED, HARMONY, NONE = (
    FAMILIES[name].format for name in ("tags", "template-tags", "harmony", "none")
)
THINKING_FORMATS = [TAGS, OPENED, HARMONY]
QUESTION = SelfReflection().question
PRIMER, REMINDER, WORDS = SafePath().primer, SafeRemind().reminder, MoreThink().words
CONVERSATION = (
    Message(role="system", content="Write <think> {thought} </think> {solution}."),
    Message(role="user", content="Tell me about </think> tags."),
)


class Played:
    """One rollout, and what was asked of the model for it."""

    def __init__(self) -> None:
        self.requests: list[CompletionRequest] = []
        self.written: list[str] = []
        self.rollout = Rollout(key="")

    @property
    def prefixes(self) -> list[str]:
        pieces = (request.prefix for request in self.requests)
        return ["".join(p if isinstance(p, str) else decode(p) for p in each) for each in pieces]


def play(
    intervention: Intervention,
    fmt: ThinkingFormat,
    script: Callable[[Call], str] | list[str],
    *,
    mode: str = "default",
    budget: int = 1000,
    answer_tokens: int = 60,
    unclosed: str = "force",
    how: Continuation | None = None,
    seed: int = 5,
    kind: type[ScriptedBackend] = ScriptedBackend,
    **options: Any,
) -> Played:
    """Make one rollout under an intervention, with the texts of a script in turn."""
    played = Played()
    texts = iter(script) if isinstance(script, list) else None

    def write(call: Call) -> str:
        played.written.append(script(call) if texts is None else next(texts))
        return played.written[-1]

    class Listening(kind):
        async def complete(self, request: CompletionRequest) -> Completion:
            played.requests.append(request)
            return await super().complete(request)

    backend = Listening(write, **options)

    async def complete(request: CompletionRequest) -> Completion:
        return await intervention.complete(request, Inner(backend))

    async def work() -> Rollout:
        model = Model(
            name="target",
            backend=backend,
            subject=await backend.start(lambda phrase, share: None),
            format=fmt,
            complete=complete,
            identity="x",
        )
        plan = Plan(
            key="00" * 16,
            seed=seed,
            messages=CONVERSATION,
            sampling=Sampling(temperature=1.0, answer_tokens=answer_tokens),
            thinking=Thinking(mode=mode, budget=budget, unclosed=unclosed),
        )
        return await (roll_out(model, plan) if how is None else continue_trace(model, plan, how))

    played.rollout = asyncio.run(work())
    return played


def injected(rollout: Rollout) -> list[str]:
    """The texts that the notes say were injected into the trace."""
    told = [note for note in rollout.notes if note.startswith("injected-at:")]
    spans = told[0].partition(":")[2].split(",") if told else []
    ids = rollout.trace_ids or ()
    return [decode(ids[slice(*map(int, span.split("-")))]) for span in spans]


# -- the contract


@pytest.mark.parametrize("intervention", BUILT_IN, ids=lambda each: each.name)
def test_each_intervention_keeps_the_contract_with_models_of_every_family(
    intervention: Intervention,
) -> None:
    asyncio.run(check_intervention(intervention))


class Bad(SafePath, frozen=True, kw_only=True):
    """Breaks the contract in one way."""

    fault: str = ""
    calls: ClassVar[list[int]] = []

    async def complete(self, request: CompletionRequest, inner: Inner) -> Completion:
        replace = msgspec.structs.replace
        if self.fault == "begins twice" and request.part == "trace":
            request = replace(request, part="start")
        if self.fault == "answers too" and request.part == "answer":
            return await inner(replace(request, prefix=(*request.prefix, "Be safe. ")))
        if self.fault == "over budget" and request.part == "start":
            limits = Limits(thinking=request.limits.thinking + 40, answer=request.limits.answer)
            return await super().complete(replace(request, limits=limits), inner)
        if self.fault == "forgets the seed":
            request = replace(request, seed=0)
        if self.fault == "by chance":
            self.calls.append(1)
            request = replace(request, seed=len(self.calls))
        try:
            done = await super().complete(request, inner)
        except RequestFailed:
            if self.fault == "swallows errors":
                return Completion(text="", ids=())
            raise
        if self.fault == "leaks" and request.part == "start" and done.finish == "stop":
            more = encode("I checked that this is safe.")
            return replace(done, text=done.text + decode(more), ids=(*(done.ids or ()), *more))
        return done


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("begins twice", "a recorded trace was begun a second time"),
        ("answers too", "something was done where there is no trace"),
        ("over budget", "tokens of a trace"),
        ("forgets the seed", "another seed gives the same draws"),
        ("by chance", "equal seeds give unequal draws"),
        ("swallows errors", "a failure of call 1 was swallowed"),
        ("leaks", "the answer holds more than the model's"),
    ],
)
def test_the_contract_check_finds_what_breaks_it(fault: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        asyncio.run(check_intervention(Bad(fault=fault)))
    assert fault


# -- what is written at the beginning


@pytest.mark.parametrize(
    ("fmt", "mode"),
    [(fmt, mode) for fmt in THINKING_FORMATS for mode in ("default", "forced")]
    + [(NONE, "forced")],
    ids=lambda each: getattr(each, "name", each),
)
def test_safepath_begins_the_trace_with_its_sentence(fmt: ThinkingFormat, mode: str) -> None:
    closer = fmt.closer or "\n</think>\n\n"
    played = play(SafePath(), fmt, [f"So far so good.{closer}Fine."], mode=mode)
    made = played.rollout
    assert made.trace == f"{PRIMER}\nSo far so good."
    assert (made.answer, made.closed_by, made.thought) == ("Fine.", "model", True)
    assert injected(made)[-1].strip() == PRIMER
    assert decode(made.trace_ids or ()).strip().startswith(PRIMER)
    # One opener, of the family; never a think tag in a harmony channel.
    assert played.prefixes[0].count(fmt.opener_mark or "<think>") == (fmt is not OPENED)
    assert ("<think>" in played.prefixes[0]) == (fmt not in (OPENED, HARMONY))


@pytest.mark.parametrize("fmt", THINKING_FORMATS, ids=lambda fmt: fmt.name)
def test_zerothink_and_lessthink_close_the_trace_and_leave_the_answer_to_the_model(
    fmt: ThinkingFormat,
) -> None:
    for intervention, trace in ((ZeroThink(), ""), (LessThink(), LessThink().thought)):
        played = play(intervention, fmt, ["Fine."])
        made = played.rollout
        assert (made.trace, made.answer, made.closed_by) == (trace, "Fine.", "cut")
        assert "injected:1" in made.notes
        assert made.thought
        assert len(played.requests) == 1
        assert played.prefixes[0].endswith(f"{trace}{fmt.closer}")


@pytest.mark.parametrize("intervention", BUILT_IN, ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("fmt", "mode"),
    [(TAGS, "default"), (TAGS, "forced"), (OPENED, "default"), (HARMONY, "default"),
     (NONE, "forced")],
)  # fmt: skip
def test_a_replayed_trace_holds_what_the_model_had_before_it(
    fmt: ThinkingFormat, mode: str, intervention: Intervention
) -> None:
    """What hidden states are read on, and traces cut from: prompt, opener, trace as it was."""
    asked = opening(fmt, mode).format
    played = play(intervention, fmt, _thinker(asked, 60, mode), mode=mode, budget=200)
    made = played.rollout
    thinking = Thinking(mode=mode, budget=200)
    replayed = "".join(
        piece if isinstance(piece, str) else decode(piece)
        for piece in replay_prefix(_model(fmt), made, thinking)
    )
    last = played.prefixes[-1] + played.written[-1]
    assert last.startswith(replayed)
    assert all(text in replayed for text in injected(made))
    assert made.prompt_tokens == sum(len(f"[u]{m.content}[/u]\n") for m in CONVERSATION) + (
        len(encode(opening(fmt, mode).prefill))
    )


def _model(fmt: ThinkingFormat) -> Model:
    backend = ScriptedBackend()
    return Model(
        name="target",
        backend=backend,
        subject=Subject(name="x", identity={}),
        format=fmt,
        complete=backend.complete,
        identity="x",
    )


# 128: full where a chunk of saferemind ends.
@pytest.mark.parametrize("room", [128, 130])
def test_a_full_context_ends_a_continued_trace_as_it_does_without_intervention(room: int) -> None:
    how = Continuation(prefix=(encode("y" * 50),), close=False, think_tokens=400)

    class Small(ScriptedBackend):
        """As hf: stops where the context is full."""

        async def complete(self, request: CompletionRequest) -> Completion:
            size = sum(len(encode(p) if isinstance(p, str) else p) for p in request.prefix)
            left = room - (size - 50)
            if left < 1:
                raise RequestFailed("no room", kind="overlong")
            thinking = min(request.limits.thinking, left)
            limits = msgspec.structs.replace(request.limits, thinking=thinking, answer=0)
            return await super().complete(msgspec.structs.replace(request, limits=limits))

    for each in (SafeRemind(), MoreThink()):
        played = play(
            each,
            OPENED,
            lambda call: "x" * 900,
            how=how,
            kind=Small,
            entropy=lambda call, n: 1.0,
        )
        assert played.rollout.trace_tokens == room


def test_a_budget_that_is_too_small_for_what_is_injected_is_kept_all_the_same() -> None:
    made = play(SafePath(), OPENED, ["Fine."], budget=9).rollout
    assert made.trace_tokens == 9
    assert (made.closed_by, made.answer) == ("budget", "Fine.")
    assert made.notes == ("injected:1", "injected-at:0-9")


def test_injected_tokens_count_towards_the_budget() -> None:
    played = play(SafePath(), OPENED, ["x" * 500, "Fine."], budget=100)
    assert played.requests[0].limits.thinking == 100 - len(encode(f"{PRIMER}\n"))
    assert (played.rollout.trace_tokens, played.rollout.closed_by) == (100, "budget")


def test_a_server_without_token_ids_can_be_begun_for_as_text() -> None:
    class Server(ScriptedBackend):
        async def complete(self, request: CompletionRequest) -> Completion:
            seen.append(request)
            return msgspec.structs.replace(await super().complete(request), ids=None)

    seen: list[CompletionRequest] = []
    backend = Server(lambda call: "Hm.</think>Fine.", capabilities=Capabilities(prefix=True))
    asked = CompletionRequest(
        messages=CONVERSATION,
        format=OPENED,
        opened=True,
        limits=Limits(thinking=100, answer=50),
        sampling=Sampling(),
    )

    async def work() -> Completion:
        await backend.start(lambda phrase, share: None)
        return await SafePath().complete(asked, Inner(backend))

    made = asyncio.run(work())
    assert made.text == f"{PRIMER}\nHm.</think>Fine."
    assert made.ids is None
    assert seen[0].limits.thinking == 100 - len(f"{PRIMER}\n")
    assert made.tokens == len(f"{PRIMER}\nHm.") + 1 + len("Fine.")


# -- the defects of the published wrappers


@pytest.mark.parametrize("intervention", BUILT_IN, ids=lambda each: each.name)
def test_a_system_message_with_both_tags_leaves_the_users_request_whole(
    intervention: Intervention,
) -> None:
    """Phi-4-reasoning: cutting the prompt at its first tag deletes what the user asked."""
    fmt = templates.chosen(templates.LITERAL)
    played = play(intervention, fmt, _thinker(fmt, 60), budget=300)
    assert played.requests
    assert all(request.messages == CONVERSATION for request in played.requests)
    assert played.rollout.answer == "Here it is."


@pytest.mark.parametrize("intervention", BUILT_IN, ids=lambda each: each.name)
def test_in_harmony_no_think_tag_is_written_and_nothing_reaches_the_answer(
    intervention: Intervention,
) -> None:
    # Every token of the answer would be a trigger, and every chunk is found harmful.
    played = play(
        intervention, HARMONY, _thinker(HARMONY, 60), budget=300, entropy=lambda call, n: -n * n
    )
    assert not any("<think>" in prefix for prefix in played.prefixes)
    assert played.rollout.answer == "Here it is."
    for text in (REMINDER, PRIMER, WORDS, QUESTION):
        assert text.strip() not in (played.rollout.answer or "")


def _thinker(fmt: ThinkingFormat, size: int, mode: str = "default") -> Callable[[Call], str]:
    """Thinks some words, then answers; finds everything that it is asked about harmful."""
    opened = opening(fmt, mode).opened or fmt.opened_by == "tseval"

    def write(call: Call) -> str:
        if call.prefix.endswith(QUESTION):
            return " Yes."
        if fmt.answer_mark in call.prefix:
            return "Here it is.".removeprefix(call.prefix.rpartition(fmt.closer)[2])
        opener = "" if fmt.opener_mark in call.prefix or opened else f"{fmt.opener_mark}\n"
        left = max(size - call.prefix.count("word"), 0)
        return opener + "word " * left + f"{fmt.closer}Here it is."

    return write


def test_psr_draws_a_dropped_chunk_with_another_seed() -> None:
    def write(call: Call) -> str:
        if call.prefix.endswith(QUESTION):
            return " yes, it is" if len(replies.append(1) or replies) == 1 else "No"
        return f"{call.seed:064d} " * 20

    replies: list[int] = []
    played = play(SelfReflection(), OPENED, write, budget=96, unclosed="exclude")
    draws = [r for r, prefix in zip(played.requests, played.prefixes, strict=True)
             if not prefix.endswith(QUESTION)]  # fmt: skip
    seeds = [request.seed for request in draws]
    assert seeds[:2] == [5, seed_of(5, 1)]
    assert len(set(seeds)) == len(seeds) == 4
    # What was dropped is gone; what was drawn in its place is there.
    assert draws[0].prefix == draws[1].prefix
    assert played.rollout.trace == "".join(f"{seed:064d}"[:32] for seed in seeds[1:])
    assert played.rollout.notes == ("psr-reflections:4", "psr-harmful:1")


@pytest.mark.parametrize(
    ("reply", "note"),
    [
        (" No.", "psr-reflections:4"),
        ("**no**", "psr-reflections:4"),
        ("Yes, it is", "psr-harmful:4"),
        ("I can't say", "psr-unparsed:4"),
        ("Nothing", "psr-unparsed:4"),
        ("", "psr-unparsed:4"),
        ("Not sure, no", "psr-unparsed:4"),
    ],
)
def test_psr_reads_a_reply_as_yes_no_or_neither(reply: str, note: str) -> None:
    def write(call: Call) -> str:
        return reply if call.prefix.endswith(QUESTION) else "x" * 500

    played = play(SelfReflection(), OPENED, write, budget=200)
    assert note in played.rollout.notes
    asked = [r for r, p in zip(played.requests, played.prefixes, strict=True)
             if p.endswith(QUESTION)]  # fmt: skip
    assert len(asked) == 4
    assert {request.limits for request in asked} == {Limits(thinking=0, answer=8)}
    assert {request.sampling.temperature for request in asked} == {0.0}
    # Only a plain 'no' lets a chunk pass.
    kept = [len(request.prefix[-2]) for request in asked if len(request.prefix) > 1]
    assert kept == ([32, 64, 96, 128] if note.endswith("reflections:4") else [32] * 4)
    assert played.rollout.trace_tokens == 200
    assert QUESTION.strip() not in played.rollout.trace


def test_psr_fails_where_a_reflection_fails() -> None:
    def fail(request: CompletionRequest) -> None:
        if request.limits.answer == 8:
            raise RequestFailed("the server is down", kind="server")

    with pytest.raises(RequestFailed, match="the server is down"):
        play(SelfReflection(), OPENED, ["x" * 500] * 9, budget=200, fail=fail)


def asked(played: Played) -> list[str]:
    """What stood before each question."""
    return [p.removesuffix(QUESTION) for p in played.prefixes if p.endswith(QUESTION)]


@pytest.mark.parametrize("fmt", [TAGS, OPENED], ids=["tags", "template-tags"])
def test_psr_asks_about_a_trace_shorter_than_a_chunk_and_never_about_its_answer(
    fmt: ThinkingFormat,
) -> None:
    opener = "" if fmt is OPENED else "<think>"
    short = f"{opener}Short.\n</think>\n\n" + "answer " * 5
    played = play(SelfReflection(), fmt, lambda call: "No" if QUESTION in call.prefix else short)
    assert asked(played) == [f"{played.prefixes[0]}{opener}Short.\n"]
    assert played.rollout.notes == ("psr-reflections:1",)
    assert (played.rollout.trace.strip(), played.rollout.answer) == ("Short.", short[-35:].strip())


def test_psr_drops_a_harmful_short_trace_with_its_closer_and_its_answer() -> None:
    texts = ["Evil.</think>\n\nbad answer", " yes", "Good.</think>\n\ngood answer", " No"]
    played = play(SelfReflection(), OPENED, texts)
    start = played.prefixes[0]
    assert played.prefixes == [start, f"{start}Evil.{QUESTION}", start, f"{start}Good.{QUESTION}"]
    assert (played.rollout.trace.strip(), played.rollout.answer) == ("Good.", "good answer")
    assert played.rollout.notes == ("psr-reflections:2", "psr-harmful:1")


def test_psr_asks_about_the_chunk_in_which_a_longer_trace_closes() -> None:
    def write(call: Call) -> str:
        if call.prefix.endswith(QUESTION):
            return "No"
        return "x" * 32 if "x" not in call.prefix else "the end</think>\n\nanswer"

    played = play(SelfReflection(), OPENED, write)
    assert [text.removeprefix(played.prefixes[0]) for text in asked(played)] == [
        "x" * 32,
        "x" * 32 + "the end",
    ]
    assert played.rollout.answer == "answer"


@pytest.mark.parametrize("text", ["</think>\n\nanswer", "\n\n</think>\n\nanswer"])
def test_psr_asks_nothing_about_an_empty_trace(text: str) -> None:
    played = play(SelfReflection(), OPENED, [text])
    assert len(played.requests) == 1
    assert (played.rollout.notes, played.rollout.answer) == ((), "answer")


def test_psr_has_reflected_on_a_recorded_trace_already() -> None:
    how = Continuation(prefix=(encode("y" * 70),), close=False, think_tokens=300)
    played = play(SelfReflection(), OPENED, lambda call: "No" if call.prefix.endswith(QUESTION)
                  else "x" * 500, how=how)  # fmt: skip
    assert sum(prefix.endswith(QUESTION) for prefix in played.prefixes) == 2


# -- saferemind


def planted(drops: set[int], deep: int = -1) -> Callable[[Call, int], float]:
    """Entropies 1 and 2 in turn (mean 1.5, sd 0.5), 0.73 at some places of the trace, 0 at one.

    The bar is 1.5 - 1.5 * 0.5 = 0.75; with the deviation of a sample it would be 0.709.
    """

    def entropy(call: Call, place: int) -> float:
        at = call.prefix.count("x") + place
        return 0.0 if at == deep else 0.73 if at in drops else 1.0 + at % 2

    return entropy


def remind(drops: set[int], *, budget: int = 400, deep: int = -1) -> Played:
    return play(
        SafeRemind(), OPENED, lambda call: "x" * 900, budget=budget, unclosed="exclude",
        entropy=planted(drops, deep),
    )  # fmt: skip


def places(made: Rollout) -> list[int]:
    """How many tokens the model had drawn before each reminder."""
    return [len(part) for part in decode(made.trace_ids or ()).split(REMINDER)[:-1]]


def test_saferemind_writes_behind_the_token_where_the_entropy_dropped() -> None:
    made = remind({30}).rollout
    # The trigger is the 31st token; it stays.
    assert places(made) == [31]
    assert injected(made) == [REMINDER]
    assert made.trace_tokens == 400
    assert made.notes == ("injected:1", f"injected-at:31-{31 + len(REMINDER)}")


@pytest.mark.parametrize(("drop", "found"), [(9, []), (10, [11]), (63, [64]), (64, [65])])
def test_saferemind_needs_ten_tokens_before_a_drop_and_looks_across_chunks(
    drop: int, found: list[int]
) -> None:
    assert places(remind({drop}).rollout) == found


def test_saferemind_is_not_moved_by_a_value_at_the_bar() -> None:
    played = play(
        SafeRemind(), OPENED, lambda call: "x" * 900, budget=200, unclosed="exclude",
        entropy=lambda call, n: 0.75 if call.prefix.count("x") + n == 30 else 1.0 + n % 2,
    )  # fmt: skip
    assert REMINDER not in played.rollout.trace


@pytest.mark.parametrize(("deep", "found"), [(31, [31]), (40, [31]), (41, [31, 11])])
def test_saferemind_rests_for_ten_tokens(deep: int, found: list[int]) -> None:
    # Tokens 31 to 40 are the ten behind the trigger.
    assert places(remind({30}, deep=deep).rollout) == found


def test_saferemind_stops_after_three_reminders() -> None:
    made = remind({30, 60, 90, 120}, budget=500).rollout
    assert places(made) == [31, 30, 30]
    assert "injected:3" in made.notes


def test_saferemind_draws_every_chunk_with_a_seed_of_its_own() -> None:
    played = remind({30}, budget=300)
    seeds = [request.seed for request in played.requests]
    assert len(seeds) > 3
    assert seeds[0] == 5
    assert len(set(seeds)) == len(seeds)
    assert {request.entropy_top for request in played.requests} == {20}
    # After the last reminder nothing is watched any more.
    played = remind({30, 60, 90}, budget=500)
    assert [request.entropy_top for request in played.requests][-1] == 0


def test_saferemind_counts_the_reminders_of_a_recorded_trace() -> None:
    before = encode(f"y{REMINDER}y{REMINDER}y")
    how = Continuation(prefix=(before,), close=False, think_tokens=400)
    played = play(
        SafeRemind(), OPENED, lambda call: "x" * 900, how=how, entropy=planted({30, 60, 90})
    )
    assert places(played.rollout) == [31]


@pytest.mark.parametrize("tokenise", ["one token", "many tokens"])
def test_saferemind_never_breaks_a_mark_in_two(
    tokenise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tokenise == "many tokens":
        monkeypatch.setattr(scripts, "MARKS", ())
    for fmt in (OPENED, HARMONY):
        opener = "" if fmt is OPENED else fmt.opener_mark
        text = f"{opener}{'x' * 40}{fmt.closer}Here it is, all of it."
        begins = len(encode(text.partition(fmt.closer.strip())[0]))

        # The closer and the answer are certain.
        def entropy(call: Call, n: int, begins: int = begins) -> float:
            return 0.0 if n >= begins else 1.0 + n % 2

        def write(call: Call, text: str = text) -> str:
            return text.removeprefix(call.prefix) if text.startswith(call.prefix) else "?"

        made = play(SafeRemind(), fmt, write, entropy=entropy).rollout
        assert (made.trace, made.answer) == ("x" * 40, "Here it is, all of it.")
        assert made.closed_by == "model"


# -- morethink


@pytest.mark.parametrize("fmt", THINKING_FORMATS, ids=lambda fmt: fmt.name)
def test_morethink_replaces_closers_and_then_lets_one_stand(fmt: ThinkingFormat) -> None:
    opener = "" if fmt is OPENED else f"{fmt.opener_mark}\n"
    texts = [f"{opener}One.{fmt.closer}No.", f" Two.{fmt.closer}No.", f" Three.{fmt.closer}Yes."]
    played = play(MoreThink(times=2), fmt, texts)
    made = played.rollout
    parts = [" ".join(part.split()) for part in made.trace.split(WORDS.strip())]
    assert parts == ["One.", "Two.", "Three."]
    assert (made.answer, made.closed_by) == ("Yes.", "model")
    assert injected(made) == [WORDS, WORDS]
    assert "injected:2" in made.notes
    assert len({request.seed for request in played.requests}) == 3


def test_morethink_lets_a_trace_close_that_is_long_enough() -> None:
    texts = ["x" * 40 + "\n</think>\n\nNo.", "y" * 40 + "\n</think>\n\nNo.", "Yes."]
    made = play(MoreThink(tokens=60), OPENED, texts).rollout
    assert made.trace == "x" * 40 + "\n" + WORDS + "y" * 40
    assert (made.answer, made.closed_by) == ("Yes.", "model")


def test_morethink_stays_within_the_budget_and_leaves_the_closing_to_it() -> None:
    played = play(MoreThink(), OPENED, lambda call: "Yes." if call.prefix.endswith("\n\n") else
                  "x" * 20 + "\n</think>\n\nNo.", budget=100)  # fmt: skip
    made = played.rollout
    assert (made.trace_tokens, made.closed_by, made.answer) == (100, "budget", "Yes.")


# -- continuing without a closer


def test_a_banned_closer_stays_out_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "MARKS", ())

    def write(call: Call) -> str:
        # A model that writes its closer letter by letter, whatever has been taken back.
        whole = "x" * 61 + "</think>" + "z" * 200
        return whole.removeprefix(call.prefix) if whole.startswith(call.prefix) else "z" * 200

    how = Continuation(prefix=(), close=False, think_tokens=100, ban_closer=True)
    made = play(SafeRemind(), OPENED, write, how=how).rollout
    assert "</think>" not in decode(made.trace_ids or ())
    assert made.answer is None


# -- names, options, identity


def test_options_change_constants_and_the_identity() -> None:
    known = registry().interventions
    plain = parse_intervention("saferemind", known)
    other = parse_intervention("saferemind( times=1, reminder='Wait, is it safe?' )", known)
    assert isinstance(other, SafeRemind)
    assert (other.times, other.reminder, other.sds) == (1, "Wait, is it safe?", 1.5)
    assert plain.identity["version"] == other.identity["version"] == "1"
    changed = {name for name in plain.identity if plain.identity[name] != other.identity[name]}
    assert changed == {"times", "reminder"}
    assert "safe" not in other.identity["reminder"]
    assert parse_intervention("psr(chunk=16)", known).identity["chunk"] == "16"
    assert parse_intervention("saferemind()", known) == plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("safepth", "unknown intervention 'safepth'"),
        ("psr(chnk=3)", "unknown option 'chnk' (known: chunk, question, reply, times)"),
        ("psr(chunk=0)", "intervention 'psr': Expected `int` >= 1"),
        ("psr(chunk=many)", "intervention 'psr': Expected `int`"),
        ("safepath(primer=' ')", "intervention 'safepath': Expected `str` matching regex"),
        ("psr(chunk)", "cannot read the options of --intervention 'psr(chunk)' from 'chunk' on"),
        ("psr(chunk=1,chunk=2)", "cannot read the options"),
        ("psr(chunk=1", "--intervention 'psr(chunk=1' is no name with options"),
    ],
)
def test_a_wrong_name_or_option_is_said_with_what_there_is(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_intervention(text, registry().interventions)
    assert error.value.message.startswith(said)
    assert error.value.exit_code == 2
    assert error.value.hint


def test_an_intervention_without_options_takes_none() -> None:
    class Plain:
        name, identity = "plain", ClassVar[dict]

    with pytest.raises(ConfigError, match="'plain' takes no options"):
        parse_intervention("plain(x=1)", {"plain": Plain()})
    with pytest.raises(UnknownName, match="did you mean 'nearly'"):
        parse_intervention("near", {"nearly": Plain()})


def test_what_cannot_work_is_refused_with_the_reason() -> None:
    blind = ScriptedBackend(capabilities=Capabilities(prefix=True, token_ids=True))
    with pytest.raises(CapabilityMissing) as error:
        check_fits(SafeRemind(), blind, OPENED, "default")
    assert error.value.message == (
        "intervention 'saferemind' needs entropies, which backend 'scripted' lacks"
    )
    with pytest.raises(ConfigError, match="but the model has no thinking format"):
        check_fits(SafePath(), ScriptedBackend(), NONE, "default")
    with pytest.raises(ConfigError, match="but thinking is off"):
        check_fits(SafePath(), ScriptedBackend(), OPENED, "off")
    check_fits(SafePath(), ScriptedBackend(), NONE, "forced")


# -- whole runs


def measure(folder: Path, intervention: str, backend: ScriptedBackend) -> Outcome:
    class Quiet:
        def remark(self, text: str) -> None: ...
        def __getattr__(self, name: str) -> Any:
            return lambda *arguments, **more: None

    spec = RunSpec(
        model=ModelSpec(backend="scripted", name="thinking"),
        benchmarks=("quick_harmful",),
        limit=6,
        intervention=intervention,
        thinking=Thinking(budget=200),
        sampling=Sampling(temperature=1.0, answer_tokens=80),
    )
    return finish(run(spec, registry(), Quiet(), out=folder, backend=backend))


@pytest.mark.parametrize("name", [each.name for each in BUILT_IN])
def test_a_run_under_an_intervention_resumes_without_a_call_to_the_model(
    name: str, tmp_path: Path
) -> None:
    def backend() -> ScriptedBackend:
        return ScriptedBackend(scripts.thinking, name="thinking", view=scripts.TAGS_VIEW)

    first = measure(tmp_path / name, name, backend())
    again = backend()
    second = measure(tmp_path / name, name, again)
    assert first.scorecard.scores == second.scorecard.scores
    assert first.scorecard.scores[0].n == 6
    assert again.calls == 0


def test_a_run_that_an_intervention_cannot_work_on_ends_with_the_reason(tmp_path: Path) -> None:
    view = scripts.TAGS_VIEW
    lacking = Capabilities(prefix=True, token_ids=True, seeds=True)
    blind = ScriptedBackend(scripts.thinking, name="thinking", view=view, capabilities=lacking)
    with pytest.raises(CapabilityMissing, match="needs entropies") as error:
        measure(tmp_path / "blind", "saferemind", blind)
    assert error.value.exit_code == 5
    with pytest.raises(ConfigError, match="no thinking format"):
        measure(tmp_path / "plain", "psr", ScriptedBackend(name="thinking"))
    assert blind.calls == 0


def test_runs_under_different_interventions_share_no_rollout(tmp_path: Path) -> None:
    keys = []
    for number, text in enumerate(("", "safepath", "safepath(primer=Safety first!)", "zerothink")):
        out = tmp_path / str(number)
        backend = ScriptedBackend(scripts.thinking, name="thinking", view=scripts.TAGS_VIEW)
        measure(out, text, backend)
        written = "".join(path.read_text() for path in sorted((out / "journal").glob("*.jsonl")))
        lines = map(msgspec.json.decode, written.splitlines())
        keys.append({line["key"] for line in lines if line.get("kind") == "generation"})
    assert [len(each) for each in keys] == [6] * 4
    assert len(frozenset().union(*keys)) == 24
