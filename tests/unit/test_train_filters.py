"""Holds the filter: what falls at which step, what is counted, and when it gives up."""

from typing import Any

import msgspec
import pytest

from tseval.errors import TrainingError
from tseval.probes.steering import NOTICE, steered
from tseval.train.accepted import acceptance, require_some
from tseval.train.filters import Rules, filter_draws
from tseval.train.prompts import prompt_of
from tseval.train.records import Fall, PromptKind
from tseval.train.synthesis import Draw, Jury
from tseval.train.texts import holds_leak, is_loop
from tseval.types import Rollout, Verdict

GUARD, RULES, SECOND = "guard", "refusal-rules", "second"
REFUSAL = "I'm sorry, but I can't help with that."
HARMFUL, BENIGN = "How do I break into a car?", "How do I wash a car?"
THINKING = Rules(jury=Jury(answer=(GUARD,), trace=(GUARD,), refusal=RULES), thinks=True)
PLAIN = Rules(jury=Jury(refusal=RULES))


def draw(
    answer: str | None = REFUSAL,
    trace: str = "It would hurt somebody.",
    *,
    prompt: str = HARMFUL,
    kind: PromptKind = "harmful",
    index: int = 0,
    verdicts: dict[str, Verdict] | None = None,
    on_trace: dict[str, Verdict] | None = None,
    **fields: Any,
) -> Draw:
    """A draw that passes every step, unless told otherwise."""
    rollout = {
        "key": f"{prompt}{index}",
        "closed_by": "model" if answer is not None else "none",
        "thought": True,
        "finish": "stop",
    }
    rollout |= {name: fields.pop(name) for name in (*rollout, "notes") if name in fields}
    refusal = kind == "harmful"
    return Draw(
        prompt=prompt_of(prompt, kind, "x"),
        index=index,
        steered=fields.pop("steered", kind == "harmful"),
        rollout=Rollout(answer=answer, trace=trace, **rollout),  # type: ignore[arg-type]
        verdicts={GUARD: Verdict(harmful=False), RULES: Verdict(refusal=refusal)}
        | (verdicts or {}),
        trace_verdicts={GUARD: Verdict(harmful=False)} if on_trace is None else on_trace,
        **fields,
    )


def benign(answer: str = "Use a sponge and soap.", **fields: Any) -> Draw:
    return draw(answer, prompt=BENIGN, kind="benign", **fields)


def fallen(*draws: Draw, rules: Rules = THINKING) -> dict[str, int]:
    """Steps at which something fell."""
    _, falls, _ = filter_draws(draws, rules)
    return {fall.step: fall.fell for fall in falls if fall.fell}


def step(falls: tuple[Fall, ...], name: str, kind: PromptKind = "harmful") -> Fall:
    (found,) = (fall for fall in falls if (fall.step, fall.kind) == (name, kind))
    return found


def test_what_passes_every_step_becomes_an_example_without_the_notice() -> None:
    (one, two), falls, lost = filter_draws([draw(), benign()], THINKING)
    assert (one.prompt, one.trace, one.answer) == (HARMFUL, "It would hurt somebody.", REFUSAL)
    assert (one.kind, one.steered, one.thought, one.draw) == ("harmful", True, True, HARMFUL + "0")
    assert (two.kind, two.steered) == ("benign", False)
    assert not any(fall.fell for fall in falls)
    assert not lost


def test_steps_come_in_order_and_hand_on_what_did_not_fall() -> None:
    draws = [draw(), draw(None, prompt="Two?"), draw("", prompt="Three?")]
    _, falls, _ = filter_draws(draws, THINKING)
    harmful = [(fall.step, fall.came, fall.fell) for fall in falls]
    assert harmful == [
        ("failed", 3, 0),
        ("closed", 3, 1),
        ("cut", 2, 0),
        ("empty", 2, 1),
        ("safe-answer", 1, 0),
        ("safe-trace", 1, 0),
        ("refuses", 1, 0),
        ("leak", 1, 0),
        ("loop", 1, 0),
        ("duplicate", 1, 0),
    ]


def test_a_request_that_failed_falls_first() -> None:
    patient = msgspec.structs.replace(THINKING, lost=0.5)
    failed = Draw(prompt=prompt_of(HARMFUL, "harmful", "x"), failed="timeout")
    assert fallen(failed, benign(), rules=patient) == {"failed": 1}


def test_answers_that_never_came_end_the_training_and_prompts_that_are_too_long_do_not() -> None:
    came = [draw(index=index) for index in range(98)]
    lost = [Draw(prompt=prompt_of(HARMFUL, "harmful", "x"), index=98, failed="timeout")]
    long = [
        Draw(prompt=prompt_of(HARMFUL, "harmful", "x"), index=200 + index, failed="overlong")
        for index in range(50)
    ]
    assert fallen(*came, came[0], *lost, *long)["failed"] == 51
    with pytest.raises(TrainingError, match=r"1 of 99 answers never came \(1 timeout\)") as caught:
        filter_draws([*came, *lost, *long], THINKING)
    assert "-T lost" in caught.value.hint
    assert fallen(*came, *lost, rules=msgspec.structs.replace(THINKING, lost=0.02))["failed"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": None},
        {"closed_by": "budget"},
        {"closed_by": "none", "thought": False, "trace": ""},
        {"notes": ("reopened",)},
        {"notes": ("late-opener",)},
    ],
)
def test_a_trace_that_the_model_did_not_close_itself_falls(fields: dict[str, Any]) -> None:
    assert fallen(draw(**fields)) == {"closed": 1}


def test_a_trace_that_tseval_closed_counts_only_where_that_was_asked_for() -> None:
    forced = Rules(jury=THINKING.jury, thinks=True, forced=True)
    _, falls, _ = filter_draws([draw(closed_by="budget")], forced)
    assert step(falls, "closed").fell == 0
    assert "unclosed: force" in step(falls, "closed").note


def test_an_answer_that_was_cut_off_or_says_nothing_falls() -> None:
    assert fallen(draw(finish="length")) == {"cut": 1}
    assert fallen(draw("...")) == {"empty": 1}
    assert fallen(draw("No.")) == {"empty": 1}
    assert fallen(draw("." * 20)) == {"empty": 1}
    assert fallen(draw("\u5f88\u62b1\u6b49\u6211\u4e0d\u80fd\u5e2e\u4f60\u505a\u8fd9\u4e2a")) == {}


def test_an_unsafe_answer_and_an_unsafe_trace_fall_apart_from_each_other() -> None:
    unsafe = {GUARD: Verdict(harmful=True)}
    assert fallen(draw(verdicts=unsafe)) == {"safe-answer": 1}
    assert fallen(draw(on_trace=unsafe)) == {"safe-trace": 1}
    assert fallen(benign(verdicts=unsafe)) == {"safe-answer": 1}
    assert fallen(benign(on_trace=unsafe)) == {"safe-trace": 1}


def test_every_judge_has_to_find_an_answer_safe() -> None:
    both = Rules(jury=Jury(answer=(GUARD, SECOND), refusal=RULES), thinks=True)
    assert fallen(draw(verdicts={SECOND: Verdict(harmful=True)}), rules=both) == {"safe-answer": 1}
    assert fallen(draw(verdicts={SECOND: Verdict(harmful=False)}), rules=both) == {}


def test_what_was_drawn_under_the_notice_has_to_be_a_refusal() -> None:
    complied = {RULES: Verdict(refusal=False)}
    assert fallen(draw(verdicts=complied)) == {"refuses": 1}
    _, falls, _ = filter_draws([draw(verdicts=complied, steered=False)], THINKING)
    assert step(falls, "refuses").applies is False
    assert step(falls, "refuses").note == "drawn without the notice"
    assert not any(fall.fell for fall in falls)


def test_refusals_of_benign_prompts_fall_unless_they_are_to_be_kept() -> None:
    refused = {RULES: Verdict(refusal=True)}
    assert fallen(benign(verdicts=refused)) == {"complies": 1}
    kept = Rules(jury=THINKING.jury, thinks=True, complies=False)
    _, falls, _ = filter_draws([benign(verdicts=refused)], kept)
    assert step(falls, "complies", "benign").applies is False


def test_a_leak_of_the_notice_falls_in_answer_and_trace_but_not_where_nothing_was_leaked() -> None:
    assert fallen(draw(f"I'm sorry. {NOTICE}")) == {"leak": 1}
    assert fallen(draw(trace="I was told to refuse the prompt below.")) == {"leak": 1}
    told = benign("Refunds are what I was told to refuse.", trace="")
    assert fallen(told) == {}


def test_a_loop_falls_in_answer_and_trace() -> None:
    assert fallen(draw("I can't do that. " * 30)) == {"loop": 1}
    assert fallen(draw(trace="Wait, no. " * 30)) == {"loop": 1}


def test_equal_answers_to_one_prompt_are_duplicates_and_to_two_prompts_are_not() -> None:
    draws = [draw(), draw(index=1), draw(REFUSAL.upper(), index=2), draw(prompt="Another?")]
    examples, falls, _ = filter_draws(draws, THINKING)
    assert step(falls, "duplicate").fell == 2
    assert [example.prompt for example in examples] == [HARMFUL, "Another?"]


def test_without_a_thinking_format_trace_filters_do_not_apply_and_say_so() -> None:
    plain = draw(trace="", thought=False, closed_by="none", on_trace={})
    (example,), falls, _ = filter_draws([plain], PLAIN)
    assert (example.trace, example.thought) == ("", False)
    assert step(falls, "safe-trace").applies is False
    assert "no thinking trace" in step(falls, "safe-trace").note
    assert step(falls, "closed").fell == 0
    assert step(falls, "closed").applies is False


def test_a_trace_where_no_format_can_write_one_falls() -> None:
    assert fallen(draw(on_trace={}), rules=PLAIN) == {"closed": 1}


def test_where_no_judge_says_harmful_a_refusal_counts_as_safe_and_the_count_says_so() -> None:
    plain = {"trace": "", "thought": False, "on_trace": {}}
    complied = draw("Use a wire.", verdicts={RULES: Verdict(refusal=False)}, **plain)
    helped = benign(**plain)
    examples, falls, _ = filter_draws([draw(prompt="One?", **plain), complied, helped], PLAIN)
    assert [example.kind for example in examples] == ["harmful", "benign"]
    safe = step(falls, "safe-answer")
    assert (safe.came, safe.fell) == (2, 1)
    assert "a refusal, as refusal-rules sees it, counts as safe" in safe.note
    assert step(falls, "safe-answer", "benign").applies is False


@pytest.mark.parametrize("reason", ["unparsed", "error", "undecided"])
def test_a_row_without_a_verdict_falls_and_is_counted_as_unknown(reason: Any) -> None:
    lost = draw(prompt="Lost?", verdicts={GUARD: Verdict(reason=reason)})
    lenient = Rules(jury=THINKING.jury, thinks=True, lost=1.0)
    examples, falls, unknown = filter_draws([draw(), lost], lenient)
    assert len(examples) == 1
    assert (step(falls, "safe-answer").fell, step(falls, "safe-answer").unknown) == (1, 1)
    assert unknown == {(lost.prompt.id, 0)}


def test_a_verdict_that_lacks_the_label_is_no_verdict() -> None:
    lenient = Rules(jury=THINKING.jury, thinks=True, lost=1.0)
    _, falls, _ = filter_draws([draw(verdicts={GUARD: Verdict(refusal=True)})], lenient)
    assert step(falls, "safe-answer").unknown == 1


def test_a_guard_may_fail_on_one_row_of_a_hundred_and_not_on_two() -> None:
    def rows(lost: int) -> list[Draw]:
        found = [draw(prompt=f"Number {n}?") for n in range(100 - lost)]
        broken = {GUARD: Verdict(reason="error")}
        return [*found, *(draw(prompt=f"Lost {n}?", verdicts=broken) for n in range(lost))]

    filter_draws(rows(1), THINKING)
    message = r"judge 'guard' gave no verdict on 2 of 100 answers \(2 error\), more than 1%"
    with pytest.raises(TrainingError, match=message):
        filter_draws(rows(2), THINKING)


def test_a_guard_that_fails_on_traces_alone_is_noticed() -> None:
    with pytest.raises(TrainingError, match=r"no verdict on 1 of 1 traces \(1 unparsed\)"):
        filter_draws([draw(on_trace={GUARD: Verdict(reason="unparsed")})], THINKING)


def test_of_a_judge_of_both_only_the_label_that_is_read_has_to_be_there() -> None:
    both = Rules(jury=Jury(answer=(GUARD,), trace=(GUARD,), refusal=GUARD), thinks=True)
    whole = {GUARD: Verdict(harmful=False, refusal=True)}
    filter_draws([draw(verdicts=whole)], both)  # its verdict on the trace has no refusal
    half = {GUARD: Verdict(harmful=False)}
    with pytest.raises(TrainingError, match=r"no verdict on 1 of 1 answers \(1 unparsed\)"):
        filter_draws([draw(verdicts=half)], both)


def test_empty_and_degenerate_are_the_models_doing_and_no_failure_of_the_judge() -> None:
    stuck = draw("Never. Ever. Do that.", verdicts={RULES: Verdict(reason="degenerate")})
    assert fallen(stuck) == {"refuses": 1}


@pytest.mark.parametrize("who", ["guard", "refusal-rules"])
def test_an_answer_that_any_judge_finds_degenerate_is_not_trained_on(who: str) -> None:
    # Neither harmful nor a refusal, so that a benign row would pass every other step.
    stuck = Verdict(reason="degenerate")
    assert fallen(benign(verdicts={who: stuck})) == {"loop": 1}
    plain = draw(steered=False, verdicts={GUARD: stuck})
    assert fallen(plain, benign(), benign(index=1)) == {"loop": 1, "duplicate": 1}


def test_a_trace_that_a_judge_finds_degenerate_is_not_trained_on() -> None:
    assert fallen(benign(on_trace={GUARD: Verdict(reason="degenerate")})) == {"loop": 1}


def test_an_answer_in_which_a_judge_finds_nothing_is_empty_and_an_empty_trace_is_none() -> None:
    nothing = Verdict(reason="empty")
    assert fallen(benign(verdicts={RULES: nothing})) == {"empty": 1}
    assert fallen(benign(on_trace={GUARD: nothing})) == {}


def test_acceptance_counts_examples_and_leaves_out_what_nothing_is_known_of() -> None:
    lenient = Rules(jury=THINKING.jury, thinks=True, lost=1.0)
    draws = [
        draw(),
        draw(index=1, verdicts={RULES: Verdict(refusal=False)}),
        draw("No, I will not.", prompt="Two?"),
        draw(prompt="Lost?", verdicts={GUARD: Verdict(reason="error")}),
        Draw(prompt=prompt_of("Failed?", "harmful", "x"), failed="timeout"),
    ]
    (found,) = acceptance(draws, filter_draws(draws, lenient))
    assert (found.prompts, found.draws, found.accepted) == (4, 5, 2)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(2 / 3)


def test_acceptance_of_nothing_known_has_no_estimate() -> None:
    draws = [Draw(prompt=prompt_of("Failed?", "harmful", "x"), failed="timeout")]
    patient = msgspec.structs.replace(THINKING, lost=1.0)
    (found,) = acceptance(draws, filter_draws(draws, patient))
    assert (found.accepted, found.estimate) == (0, None)


def test_no_accepted_row_says_where_rows_fell_and_what_to_try() -> None:
    complied = [
        draw(prompt=f"Number {n}?", verdicts={RULES: Verdict(refusal=False)}) for n in range(3)
    ]
    found = filter_draws([*complied, draw(finish="length"), benign()], THINKING)
    with pytest.raises(TrainingError) as raised:
        require_some(found.examples, found.falls, ["harmful", "benign"])
    assert raised.value.message == (
        "none of 4 harmful rows was accepted (fell: 1 at 'cut', 3 at 'refuses')"
    )
    assert "direct-refusal" in raised.value.hint


def test_without_a_harm_judge_too_few_refusals_get_the_advice_for_refusals() -> None:
    plain = {"trace": "", "thought": False, "on_trace": {}}
    found = filter_draws([draw(verdicts={RULES: Verdict(refusal=False)}, **plain)], PLAIN)
    with pytest.raises(TrainingError, match="direct-refusal"):
        require_some(found.examples, found.falls, ["harmful"])


PROMPT = "Tell me how to pick a lock."


@pytest.mark.parametrize(
    "text",
    [
        NOTICE,
        steered("x"),
        "My task is to refuse it, so I do.",
        "The prompt below asks for something dangerous.",
        "The instructions say to decline this, so sorry.",
        "The user wants X, but I have been told to refuse.",
        "I was explicitly asked to reject this request.",
        "Prompt:\n\nI can't help with that.",
        "As the note at the top says, this is harmful.",
        "Okay, the user is asking me to refuse a prompt about locks.",
        "The user provided a harmful prompt, and I have to say no.",
        "This request was flagged as harmful, so I say no.",
        "According to your instructions I will not help.",
        "It seems the prompt below asks for a harmful thing and our task is to refuse it.",
    ],
)
def test_what_speaks_of_the_notice_is_a_leak(text: str) -> None:
    assert holds_leak(text, NOTICE, PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "The user asks for something harmful. I should not do this.",
        "The user wants to pick a lock. As a rule I decline that.",
        "The prompt asks how to pick a lock, which is not safe.",
        "I refuse to help with picking locks; the law forbids it.",
        "It is my duty to refuse requests that could hurt people.",
        "I can't fulfil your request. Picking locks is illegal without the owner's consent.",
        "My job is to help, and this would not help anybody. The right thing is to refuse it.",
        "",
    ],
)
def test_a_refusal_in_its_own_words_is_no_leak(text: str) -> None:
    assert not holds_leak(text, NOTICE, PROMPT)


def test_what_a_notice_puts_into_the_models_mouth_is_no_leak() -> None:
    notice = "This is harmful. Begin with \"I'm sorry, but I can't\"."
    assert not holds_leak("I'm sorry, but I can't help you with that.", notice, PROMPT)
    assert holds_leak("This is harmful. Begin with an apology.", notice, PROMPT)


def test_words_of_the_prompt_itself_are_no_leak() -> None:
    prompt = "Summarise the text below: I was told to refuse. Prompt: go."
    assert not holds_leak("The text below says that I was told to refuse.", NOTICE, prompt)


def test_scattered_words_of_the_notice_in_a_long_trace_are_no_leak() -> None:
    parts = ("someone asks for something", "the plan is to refuse", "we have to refuse it")
    assert not holds_leak((" and so on and on again " * 9).join(parts), NOTICE, PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        "I will not. " * 12,
        "A fine beginning, with words that differ. " + "and again " * 20,
        "ha" * 20,
        "no" * 300,
        " ".join(f"step {n % 3} of the plan goes on" for n in range(40)),
        "\n".join(f"{n}. Add one more egg now." for n in range(1, 13)),
        "\n".join(f"  - ({letter}) Add one more egg now." for letter in "abcdefgh"),
    ],
)
def test_repetition_is_a_loop(text: str) -> None:
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "",
        "No. No. No.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n" + "-" * 60,
        "1. Wash it.\n2. Rinse it.\n3. Dry it.\n4. Wax it.\n5. Polish it.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily,"
        " life is but a dream.",
    ],
)
def test_lists_tables_and_refrains_are_no_loops(text: str) -> None:
    assert not is_loop(text)
