"""How judges are named, seated, identified, and asked."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from tests.support.panel_judges import EVERYTHING, Asks, Guard, Plain, measure, registry_with
from tests.support.sessions import SPEC, finish, model, session_on
from tseval.asking import way_of
from tseval.cli import app as app_module
from tseval.cli import run as run_module
from tseval.errors import CapabilityMissing, ConfigError, RequestFailed, UnknownName
from tseval.judging import JudgeSpec, Seat, identify, parse_judge, seat_judges
from tseval.panels import Panel, VoteRule
from tseval.protocol import JudgeIdentity
from tseval.requests import Capabilities, ChoiceRequest, CompletionRequest, ModelSpec
from tseval.roles import JudgeCard, JudgeCase, JudgeModel, Question
from tseval.scripts import TAGS_VIEW, Call, thinking
from tseval.spec import RunSpec
from tseval.types import ChoiceScores, Message, Verdict

# -- what a judge is called


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", {"name": "a"}),
        (" a ", {"name": "a"}),
        ("a@hf", {"name": "a", "where": "hf"}),
        ("a@hf/org/x@rev:ad", {"name": "a", "where": "hf/org/x@rev:ad"}),
        ("a(k=v)", {"name": "a", "options": {"k": "v"}}),
        ("a( k = v , l=)@vllm", {"name": "a", "options": {"k": "v", "l": ""}, "where": "vllm"}),
        ("a(k=(x,y;z)@w)@hf/m", {"name": "a", "options": {"k": "(x,y;z)@w"}, "where": "hf/m"}),
        ("a(k=b=c)", {"name": "a", "options": {"k": "b=c"}}),
        ("a(text=both)", {"name": "a", "sees": "both"}),
        (
            "a(k=v,text=trace)@hf",
            {"name": "a", "options": {"k": "v"}, "sees": "trace", "where": "hf"},
        ),
        ("a@openai/m:http://h:8/v1", {"name": "a", "where": "openai/m:http://h:8/v1"}),
        ("panel/x@vllm", {"name": "panel/x", "where": "vllm"}),
    ],
)
def test_a_judge_is_read(text: str, expected: dict[str, Any]) -> None:
    assert parse_judge(text) == JudgeSpec(text=text.strip(), **expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the judge ''"),
        ("@hf", "cannot read the judge '@hf'"),
        ("(k=v)", "cannot read the judge"),
        ("a@", "cannot read the judge 'a@'"),
        ("a(k=v", "the judge 'a(k=v' has a bracket that is not closed"),
        ("a(k=v)b", "cannot read the judge"),
        ("a(k)", "'k' is no new option=value"),
        ("a(=v)", "'=v' is no new option=value"),
        ("a(k=v,k=w)", "'k=w' is no new option=value"),
        ("a(text=prompt)", "text is 'prompt'"),
        ("a(text=)", "text is ''"),
    ],
)
def test_a_judge_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_judge(text)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


# -- who sits where

ABC = (
    Asks("a"),
    Asks("b"),
    Asks("c", labels=("refusal", "harmful")),
    Asks("h", labels=("harmful",)),
)
PLAIN = (Plain("rules"), Plain("other"))
PANELS = (
    Panel("panel/ab", ("a", "b"), VoteRule(least=2, tie="no")),
    Panel("panel/abc", ("a", "b(strict=1)", "c@guards/own"), VoteRule(least=2)),
)


@pytest.fixture(scope="module")
def registry() -> Any:
    return registry_with(*ABC, *PLAIN, *PANELS)[0]


def places(seats: dict[str, Seat]) -> dict[str, str]:
    return {
        label: f"{seat.spec.backend}/{seat.spec.name}" if seat.spec else ""
        for label, seat in seats.items()
    }


def test_a_judge_runs_its_default_model_unless_told_otherwise(registry) -> None:
    assert places(seat_judges(("a", "rules"), registry)) == {"a": "guards/a", "rules": ""}
    assert places(seat_judges(("a@guards/x",), registry)) == {"a": "guards/x"}
    # A backend alone runs the judge's own model there.
    assert places(seat_judges(("a@sentries",), registry)) == {"a": "sentries/a"}


def test_a_server_is_named_with_the_model_it_serves_or_with_the_judges_own(registry) -> None:
    [seat] = seat_judges(("a@openai/m/n:http://h:8/v1",), registry).values()
    assert seat.spec == ModelSpec(backend="openai", name="m/n", base_url="http://h:8/v1")
    [seat] = seat_judges(("a@openai:https://h/v1",), registry).values()
    assert seat.spec == ModelSpec(backend="openai", name="a", base_url="https://h/v1")


def test_a_server_is_not_asked_for_the_hubs_revision() -> None:
    pinned = Asks("pinned", "hf/org/guard@0123abcd")
    table = registry_with(pinned)[0]
    [there] = seat_judges(("pinned@openai:http://h/v1",), table).values()
    assert there.spec == ModelSpec(backend="openai", name="org/guard", base_url="http://h/v1")
    [here] = seat_judges(("pinned",), table).values()
    assert here.spec == ModelSpec(backend="hf", name="org/guard", revision="0123abcd")
    [moved] = seat_judges(("pinned@vllm",), table).values()
    assert moved.spec == ModelSpec(backend="vllm", name="org/guard", revision="0123abcd")


def test_a_judge_asked_for_twice_is_seated_once(registry) -> None:
    assert list(seat_judges(("a", "a"), registry)) == ["a"]
    assert list(seat_judges(("a", "a@guards/a"), registry)) == ["a"]
    twice = seat_judges(("b(strict=1,lax=2)", "b(lax=2,strict=1)"), registry)
    assert list(twice) == ["b(lax=2,strict=1)"]


def test_one_judge_on_two_models_is_told_apart_by_its_full_name(registry) -> None:
    seats = seat_judges(("a@guards/x", "a@guards/y"), registry)
    assert places(seats) == {"a@guards/x": "guards/x", "a@guards/y": "guards/y"}
    assert len({seat.role for seat in seats.values()}) == 2
    assert all(seat.label == label for label, seat in seats.items())
    seats = seat_judges(("a", "a@guards/y", "a@guards/a"), registry)
    assert places(seats) == {"a": "guards/a", "a@guards/y": "guards/y"}


def test_one_judge_on_two_servers_is_told_apart_too(registry) -> None:
    texts = ("a@openai/m:http://x/v1", "a@openai/m:http://y/v1")
    assert list(seat_judges(texts, registry)) == list(texts)


def test_a_judge_with_and_without_an_option_is_two(registry) -> None:
    assert list(seat_judges(("a", "a(strict=1)", "a(text=trace)"), registry)) == [
        "a",
        "a(strict=1)",
        "a(text=trace)",
    ]


def test_judges_with_one_model_share_it(registry) -> None:
    seats = seat_judges(("a@guards/x", "b@guards/x", "a(strict=1)@guards/x", "c"), registry)
    assert {seat.role for label, seat in seats.items() if label != "c"} == {"judge a"}
    assert seats["c"].role == "judge c"


def test_the_members_of_a_panel_sit_before_it_and_are_not_shown(registry) -> None:
    seats = seat_judges(("panel(b(strict=1)@guards/x, rules; vote>=2)",), registry)
    label = "panel(b(strict=1)@guards/x, rules; vote>=2)"
    assert list(seats) == ["b(strict=1)", "rules", label]
    assert [seat.shown for seat in seats.values()] == [False, False, True]
    assert seats[label].members == ("b(strict=1)", "rules")
    assert seats[label].spec is None


@pytest.mark.parametrize("texts", [("panel/ab", "b"), ("b", "panel/ab")])
def test_a_judge_that_is_asked_for_and_a_member_too_is_shown(registry, texts) -> None:
    seats = seat_judges(texts, registry)
    assert {label: seat.shown for label, seat in seats.items()} == {
        "a": False,
        "b": True,
        "panel/ab": True,
    }


def test_two_panels_share_their_members(registry) -> None:
    seats = seat_judges(("panel/ab", "panel(b,a,c; vote=soft)"), registry)
    assert list(seats) == ["a", "b", "panel/ab", "c", "panel(b,a,c; vote=soft)"]
    assert seats["panel(b,a,c; vote=soft)"].members == ("b", "a", "c")


def test_a_panels_place_is_its_members_unless_they_have_their_own(registry) -> None:
    seats = seat_judges(("panel/abc@sentries",), registry)
    assert places(seats) == {
        "a": "sentries/a",
        "b(strict=1)": "sentries/b",
        "c": "guards/own",
        "panel/abc": "",
    }


def test_a_panel_in_two_places_is_two_panels_of_two_times_its_members(registry) -> None:
    seats = seat_judges(("panel/ab", "panel/ab@sentries"), registry)
    assert set(seats) == {"a", "b", "a@sentries", "b@sentries", "panel/ab", "panel/ab@sentries"}
    assert seats["panel/ab"].members == ("a", "b")
    assert seats["panel/ab@sentries"].members == ("a@sentries", "b@sentries")


def test_a_panels_text_is_its_members(registry) -> None:
    seats = seat_judges(("panel/ab(text=trace)", "a"), registry)
    assert {label: seat.sees for label, seat in seats.items()} == {
        "a(text=trace)": "trace",
        "b(text=trace)": "trace",
        "panel/ab(text=trace)": "trace",
        "a": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("panel(a)", "two or more different judges"),
        ("panel(a,a)", "two or more different judges"),
        ("panel(a,a@guards/a)", "'a' is a member twice"),
        ("panel(a, b, a@guards/a; vote>=2)", "'a' is a member twice"),
        ("panel(a,a@guards/a,a@guards/y; vote>=2)", "'a' is a member twice"),
        ("panel(b(strict=1,lax=2),b(lax=2,strict=1))", "is a member twice"),
        ("panel(a(text=trace),b)", "'a(text=trace)' has a text of its own"),
        ("panel(panel/ab(text=both),c)", "'panel/ab(text=both)' has a text of its own"),
        ("panel(a,h)", "no label in common"),
        ("panel(a,b; vote>=1)", "vote>=1 of 2 is no majority"),
        ("panel/ab(vote=soft)", "panel 'panel/ab' takes no options but text=answer|trace|both"),
        ("rules(strict=1)", "judge 'rules' takes no options but text=answer|trace|both"),
        ("a(sharp=1)", "no option 'sharp'"),
        ("rules@guards", "names no model, and has none of its own"),
        ("a@guards/", "backend 'guards' needs a model"),
        ("a@nowhere", "'nowhere' is neither a path"),
    ],
)
def test_what_cannot_be_seated_is_refused_with_the_reason(registry, text, message) -> None:
    with pytest.raises(ConfigError) as caught:
        seat_judges((text,), registry)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (("a", "h"), "panel/bad votes about 'refusal', of which 'h' says nothing"),
        (("a", "a@guards/a"), "panel/bad: 'a' is a member twice"),
        (("a", "b(text=both)"), "panel/bad: 'b(text=both)' has a text of its own"),
    ],
)
def test_a_registered_panel_is_checked_like_one_that_is_written_out(members, message) -> None:
    table, _ = registry_with(*ABC, Panel("panel/bad", members, VoteRule(least=2, missing="no")))
    with pytest.raises(ConfigError) as caught:
        seat_judges(("panel/bad",), table)
    assert caught.value.message.startswith(message)


def test_one_judge_on_two_models_may_vote_twice(registry) -> None:
    text = "panel(a@guards/x,a@guards/y; vote>=2)"
    assert seat_judges((text,), registry)[text].members == ("a@guards/x", "a@guards/y")


@pytest.mark.parametrize("text", ["wildgaurd", "panel(a,nobody)", "panel/ac"])
def test_an_unknown_judge_is_said_by_its_name(registry, text: str) -> None:
    with pytest.raises(UnknownName, match="unknown judge"):
        seat_judges((text,), registry)


# -- options of their models


def options(registry: Any, judges: tuple[str, ...], given: dict[str, str]) -> dict[str, Any]:
    seats = seat_judges(judges, registry, given)
    return {label: seat.spec.options for label, seat in seats.items() if seat.spec}


def test_an_option_for_all_judges_and_one_for_one(registry) -> None:
    given = {"dtype": "bf16", "b:dtype": "fp32", "b:batch": "2"}
    expected = {"a": {"dtype": "bf16"}, "b": {"dtype": "fp32", "batch": "2"}}
    assert options(registry, ("a", "b"), given) == expected
    # Whatever the order in which they were given.
    assert options(registry, ("a", "b"), dict(reversed(given.items()))) == expected
    assert options(registry, ("panel/ab",), given) == expected


def test_judges_whose_models_differ_in_an_option_do_not_share_them(registry) -> None:
    judges = ("a@guards/x", "b@guards/x")
    alike = seat_judges(judges, registry, {"dtype": "bf16"})
    assert alike["a"].role == alike["b"].role
    apart = seat_judges(judges, registry, {"b:dtype": "bf16"})
    assert apart["a"].role != apart["b"].role


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c:dtype": "bf16"}, "no judge of this run takes -J c:dtype"),
        ({"guards:dtype": "bf16"}, "no judge of this run takes -J guards:dtype"),
        ({"api_key": "sk-123"}, "would be written to run.json"),
        ({"a:access_token": "123"}, "would be written to run.json"),
    ],
)
def test_an_option_that_no_judge_takes_or_that_is_a_secret_is_refused(registry, given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        seat_judges(("a", "rules"), registry, given)
    assert "sk-123" not in str(caught.value)


def test_an_option_without_a_judge_with_a_model_is_refused(registry) -> None:
    with pytest.raises(ConfigError, match="no judge of this run takes -J dtype"):
        seat_judges(("rules",), registry, {"dtype": "bf16"})


@pytest.mark.parametrize("where", ["openai", "openai/m"])
def test_a_password_in_a_judges_address_is_refused_before_it_is_written(registry, where) -> None:
    with pytest.raises(ConfigError) as caught:
        seat_judges((f"a@{where}:http://me:secret@h/v1",), registry)
    assert "would be written to run.json" in caught.value.message
    assert "secret" not in str(caught.value)


# -- what a verdict depends on


def identity(text: str, registry: Any, label: str = "", **changed: Any) -> JudgeIdentity:
    """Identity of a judge, with its models started; ``changed`` are arguments of the models."""

    async def made() -> JudgeIdentity:
        seats = seat_judges((text,), registry)
        models = {}
        for seat in seats.values():
            if seat.spec is not None and seat.role not in models:
                models[seat.role] = await model(seat.role, Guard(name=seat.spec.name, **changed))
        found: dict[str, JudgeIdentity] = {}
        for name, seat in seats.items():
            found[name] = identify(seat, models, [found[member] for member in seat.members])
        return found[label or list(found)[-1]]

    return finish(made())


def raw_only(**more: bool) -> Capabilities:
    return msgspec.structs.replace(EVERYTHING, chat=False, **more)


BASE = "panel(a,b,c; vote>=2, tie=comply)"


@pytest.mark.parametrize(
    "text",
    [
        "panel(a,b; vote>=2, tie=comply)",
        "panel(a,b,h; vote>=2, label=harmful)".replace("a,b,h", "c,h"),
        "panel(a,rules,c; vote>=2, tie=comply)",
        "panel(a,b@guards/other,c; vote>=2, tie=comply)",
        "panel(a,b(strict=1),c; vote>=2, tie=comply)",
        "panel(a,b,c; vote>=3, tie=comply)",
        "panel(a,b,c; vote>=2, tie=refuse)",
        "panel(a,b,c; vote>=2)",
        "panel(a,b,c; vote=soft)",
        "panel(a,b,c; vote>=2, tie=comply, missing=no)",
        "panel(panel(a,b; vote>=2),c; vote>=2, tie=comply)",
    ],
)
def test_a_panel_with_another_member_model_or_rule_is_another(registry, text: str) -> None:
    assert identity(text, registry) != identity(BASE, registry)


@pytest.mark.parametrize(
    "text",
    [
        "panel( a, b, c ;vote>=2,tie=comply)",
        "panel(c,a,b; tie=comply, vote>=2, label=refusal, missing=none)",
        "panel(a,b@guards/b,c; vote=majority, tie=comply)",
        # Where the model runs, as long as it is the same model.
        "panel(a,b@sentries,c; vote>=2, tie=comply)",
    ],
)
def test_a_panel_that_is_only_written_otherwise_is_the_same(registry, text: str) -> None:
    assert identity(text, registry) == identity(BASE, registry)


def test_both_models_of_a_judge_with_two_votes_are_identified(registry) -> None:
    first = identity("panel(a@guards/x,a@guards/y,b; vote>=2)", registry)
    assert identity("panel(a@guards/y,a@guards/x,b; vote>=2)", registry) == first
    for text in ("a@guards/x,a@guards/z", "a@guards/z,a@guards/y", "a@guards/y,a@guards/z"):
        assert identity(f"panel({text},b; vote>=2)", registry) != first


def test_a_panel_of_panels_is_identified_by_what_they_are(registry) -> None:
    whole = identity("panel(panel(a,b; vote>=2),panel(b,c; vote>=2),c)", registry)
    assert identity("panel(panel(b,c; vote>=2),c,panel(a,b; vote>=2))", registry) == whole
    assert identity("panel(panel(a,b; vote>=2),panel(a,c; vote>=2),c)", registry) != whole
    assert identity("panel(panel(a,b; vote=soft),panel(b,c; vote>=2),c)", registry) != whole
    assert "panel/ab" in str(identity("panel(panel/ab,c)", registry).identity)


def test_a_judge_is_another_on_another_model_and_in_another_way_of_asking_or_reading() -> None:
    both = Asks("both", asked=("raw", "chat"), choices=True)
    table = registry_with(both)[0]
    reference = identity("both", table)
    assert reference.identity["asked"] == "raw"
    assert reference.identity["read"] == "probabilities"
    chat = msgspec.structs.replace(EVERYTHING, raw=False)
    no_choices = msgspec.structs.replace(EVERYTHING, choices=False)
    others = [
        identity("both@guards/x", table),
        identity("both(strict=1)", table),
        identity("both", table, capabilities=chat),
        identity("both", table, capabilities=no_choices),
        identity("both", table, script=thinking),
    ]
    assert others[2].identity["asked"] == "chat"
    assert others[3].identity["read"] == "text"
    every = [reference, *others]
    assert len({msgspec.json.encode(each) for each in every}) == len(every)
    assert identity("both", table, context_length=9, delay=0.001) == reference


def test_a_judge_that_does_not_read_probabilities_is_the_same_where_there_are_none(registry):
    without = msgspec.structs.replace(EVERYTHING, choices=False)
    assert identity("a", registry, capabilities=without) == identity("a", registry)


# -- the way of asking


@pytest.mark.parametrize(
    ("asked", "raw", "chat", "way"),
    [
        (("raw", "chat"), True, True, "raw"),
        (("chat", "raw"), True, True, "chat"),
        (("raw", "chat"), False, True, "chat"),
        (("chat", "raw"), True, False, "raw"),
        (("raw",), True, False, "raw"),
    ],
)
def test_a_model_is_asked_in_the_best_way_that_its_backend_can(asked, raw, chat, way) -> None:
    card = JudgeCard(name="j", version="1", labels=("refusal",), asked=asked)
    assert way_of(card, Guard(capabilities=Capabilities(raw=raw, chat=chat))) == way


def test_a_judge_that_cannot_ask_ends_the_run_before_anything_is_generated(tmp_path: Path) -> None:
    mute = Guard(capabilities=Capabilities(raw=False, chat=True), name="raw")
    table, _ = registry_with(Asks("raw", asked=("raw",)), raw=mute)
    target = Guard(name="target")
    with pytest.raises(
        CapabilityMissing, match="judge 'raw' asks its model by raw, which"
    ) as caught:
        measure(tmp_path / "run", table, "raw", backend=target)
    assert caught.value.exit_code == 5
    assert (target.calls, target.starts, mute.calls) == (0, 0, 0)
    status = json.loads((tmp_path / "run" / "run.json").read_bytes())["status"]
    assert status == "failed"


# -- asking

Work = Callable[[JudgeCase, JudgeModel], Awaitable[Verdict]]


class Curious:
    """A judge that does with its model what a test wants."""

    def __init__(self, work: Work, *asked: Any, choices: bool = True) -> None:
        self.card = JudgeCard(
            name="curious",
            version="1",
            labels=("refusal",),
            asked=asked or ("raw", "chat"),
            choices=choices,
        )
        self._work = work

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        assert model is not None
        return await self._work(case, model)


def judged(folder: Path, *cases: str, seed: int = 0, **judges: tuple[Work | Curious, Guard]) -> Any:
    """Have prompts judged by judges in one session; verdicts by judge."""

    async def work() -> dict[str, list[Verdict]]:
        made = {
            name: (each if isinstance(each, Curious) else Curious(each), guard)
            for name, (each, guard) in judges.items()
        }
        spec = msgspec.structs.replace(SPEC, seed=seed)
        async with session_on(folder, judges=made, spec=spec) as session:
            return {
                name: [(await session.judge(name, case, "text"))[1] for case in cases]
                for name in judges
            }

    return finish(work())


ASKED = Question(messages=(Message(role="user", content="sorry?"),))


async def greedy(case: JudgeCase, model: JudgeModel) -> Verdict:
    return Verdict(refusal=True, raw=(await model.reply(ASKED, tokens=64)).answer or "")


async def sampled(case: JudgeCase, model: JudgeModel) -> Verdict:
    reply = await model.reply(ASKED, tokens=64, temperature=1.0)
    return Verdict(refusal=True, raw=reply.answer or "")


def seeded(call: Call) -> str:
    return f"seed {call.seed}"


def test_a_reply_is_made_once_for_all_judges_of_a_model_and_all_resumes(tmp_path: Path) -> None:
    guard = Guard()
    found = judged(tmp_path, "p", "q", one=(greedy, guard), two=(Curious(greedy), guard))
    assert [verdict.raw for each in found.values() for verdict in each] == ["yes"] * 4
    assert len(guard.requests) == 1
    judged(tmp_path, "r", one=(greedy, guard))
    assert len(guard.requests) == 1


def test_two_judges_that_ask_one_model_the_same_at_once_make_one_request(tmp_path: Path) -> None:
    guard = Guard(delay=0.01)

    async def work() -> list[Verdict]:
        judges = {name: (Curious(greedy), guard) for name in ("one", "two")}
        async with session_on(tmp_path, judges=judges) as session:
            made = await asyncio.gather(*(session.judge(n, n, "text") for n in judges))
            assert session.counts["judging.generation.shared"] == 1
            return [verdict for _, verdict in made]

    assert [verdict.raw for verdict in finish(work())] == ["yes", "yes"]
    assert len(guard.requests) == 1


def test_another_model_replies_for_itself(tmp_path: Path) -> None:
    one, two = Guard(name="one"), Guard(name="two")
    judged(tmp_path, "p", one=(greedy, one), two=(greedy, two))
    assert (len(one.requests), len(two.requests)) == (1, 1)


def test_a_greedy_reply_does_not_depend_on_the_run_seed_and_a_sampled_one_does(
    tmp_path: Path,
) -> None:
    guard = Guard(seeded)
    [first] = judged(tmp_path, "p", one=(greedy, guard), seed=1)["one"]
    [again] = judged(tmp_path, "q", one=(greedy, guard), seed=2)["one"]
    assert first.raw == again.raw
    assert len(guard.requests) == 1
    [first] = judged(tmp_path, "r", one=(sampled, guard), seed=1)["one"]
    [again] = judged(tmp_path, "s", one=(sampled, guard), seed=1)["one"]
    [other] = judged(tmp_path, "t", one=(sampled, guard), seed=2)["one"]
    assert first.raw == again.raw != other.raw
    assert len(guard.requests) == 3
    [sampling] = {request.sampling.temperature for request in guard.requests[1:]}
    assert (guard.requests[0].sampling.temperature, sampling) == (0.0, 1.0)


def test_a_greedy_reply_draws_alike_in_another_folder(tmp_path: Path) -> None:
    guard = Guard(seeded)
    raws = {
        judged(tmp_path / str(seed), "p", one=(greedy, guard), seed=seed)["one"][0].raw
        for seed in (1, 2)
    }
    assert len(raws) == 1


def test_repeated_verdicts_of_a_sampling_judge_draw_anew(tmp_path: Path) -> None:
    async def work() -> list[str]:
        judges = {"one": (Curious(sampled), Guard(seeded))}
        async with session_on(tmp_path, judges=judges) as session:
            made = [await session.judge("one", "p", "text", sample=n) for n in (0, 1, 0)]
            return [verdict.raw for _, verdict in made]

    first, second, again = finish(work())
    assert first == again != second


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 65},
        {"temperature": 0.5},
        {"think": 7},
        {"question": Question(messages=(Message(role="user", content="sorry!"),))},
        {"question": Question(raw="sorry?")},
        {"question": Question(messages=ASKED.messages, template_kwargs={"x": 1})},
    ],
)
def test_a_question_that_differs_in_anything_is_another(tmp_path: Path, changes) -> None:
    guard = Guard()

    async def other(case: JudgeCase, model: JudgeModel) -> Verdict:
        arguments = {"question": ASKED, "tokens": 64, **changes}
        await model.reply(arguments.pop("question"), **arguments)
        return Verdict(refusal=True)

    judged(tmp_path, "p", one=(greedy, guard))
    judged(tmp_path, "q", one=(other, guard))
    assert len(guard.requests) == 2


def test_a_raw_question_reaches_the_backend_as_a_prefix_without_messages(tmp_path: Path) -> None:
    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        assert model.asked == "raw"
        reply = await model.reply(Question(raw="<s>is it sorry?"), tokens=5)
        scores = await model.choose(Question(raw="<s>sorry?"), ("yes", "no"))
        assert reply.answer == "yes"
        assert scores.logprobs["yes"] > scores.logprobs["no"]
        return Verdict(refusal=True)

    guard = Guard(view=TAGS_VIEW)  # a thinking model's format is not opened in a raw prompt
    [verdict] = judged(tmp_path, "p", one=(work, guard))["one"]
    assert verdict.reason == "ok"
    reply, choice = guard.requests
    assert isinstance(reply, CompletionRequest)
    assert (reply.messages, reply.prefix, reply.opened) == ((), ("<s>is it sorry?",), False)
    assert (reply.limits.thinking, reply.limits.answer) == (0, 5)
    assert isinstance(choice, ChoiceRequest)
    assert (choice.messages, choice.prefix) == ((), ("<s>sorry?",))


def test_a_chat_question_reaches_the_backend_as_messages(tmp_path: Path) -> None:
    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        assert model.asked == "chat"
        question = msgspec.structs.replace(ASKED, template_kwargs={"criterion": "x"})
        await model.reply(question, tokens=5)
        await model.choose(question, ("yes", "no"))
        return Verdict(refusal=True)

    guard = Guard()
    [verdict] = judged(tmp_path, "p", one=(Curious(work, "chat"), guard))["one"]
    assert verdict.reason == "ok"
    for request in guard.requests:
        assert request.messages == ASKED.messages
        assert request.prefix == ()
        assert request.template_kwargs["criterion"] == "x"


def test_choices_are_made_once_and_asked_anew_where_they_differ(tmp_path: Path) -> None:
    guard = Guard()

    def choosing(*choices: str) -> Work:
        async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
            scores = await model.choose(ASKED, choices)
            return Verdict(refusal=True, raw=max(scores.logprobs, key=scores.logprobs.__getitem__))

        return work

    first = judged(tmp_path, "p", one=(choosing("yes", "no"), guard))
    again = judged(tmp_path, "q", one=(choosing("yes", "no"), guard))
    assert first == again == {"one": [Verdict(refusal=True, raw="yes")]}
    assert len(guard.requests) == 1
    judged(tmp_path, "r", one=(choosing("yes", "maybe"), guard))
    assert len(guard.requests) == 2


class Odd(Guard):
    """A guard whose next token has odd probabilities."""

    scores = ChoiceScores(logprobs={})

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        self.requests.append(request)
        return self.scores


def test_an_impossible_choice_is_read_back_as_it_was_given(tmp_path: Path) -> None:
    guard, seen = Odd(), []
    guard.scores = ChoiceScores(logprobs={"yes": 0.0, "no": -math.inf}, floor=-math.inf)

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        seen.append(await model.choose(ASKED, ("yes", "no")))
        return Verdict(refusal=True)

    for prompt in "pq":
        judged(tmp_path, prompt, one=(work, guard))
    assert seen[0] == seen[1]
    assert len(guard.requests) == 1
    assert seen[0].logprobs["yes"] == 0.0
    assert seen[0].floor is not None
    assert math.exp(seen[0].logprobs["no"]) == math.exp(seen[0].floor) == 0.0


@pytest.mark.parametrize("field", ["logprobs", "floor"])
def test_a_probability_that_is_no_number_is_a_failed_request(tmp_path: Path, field: str) -> None:
    guard = Odd()
    guard.scores = ChoiceScores(logprobs={"yes": 0.0, "no": -1.0}, floor=-2.0)
    changed = {"logprobs": {"yes": 0.0, "no": math.nan}, "floor": math.nan}
    guard.scores = msgspec.structs.replace(guard.scores, **{field: changed[field]})

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        await model.choose(ASKED, ("yes", "no"))
        return Verdict(refusal=True)

    for _ in range(2):
        [verdict] = judged(tmp_path, "p", one=(work, guard))["one"]
        assert (verdict.reason, verdict.refusal) == ("error", None)
        assert verdict.raw == "the model's probabilities are no numbers"
    assert len(guard.requests) == 2


def test_a_judge_is_told_what_its_backend_has(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        seen.append((model.asked, model.choices, model.context_length))
        return Verdict(refusal=True)

    few = msgspec.structs.replace(EVERYTHING, raw=False, choices=False)
    judged(tmp_path / "1", "p", one=(work, Guard(context_length=77)))
    judged(tmp_path / "2", "p", one=(work, Guard(capabilities=few)))
    assert seen == [("raw", True, 77), ("chat", False, None)]


class Counting(Guard):
    """A guard with a beginning-of-text token."""

    def prompt_tokens(self, messages: Any, template_kwargs: Any) -> int | None:
        return super().prompt_tokens(messages, template_kwargs) if messages else 1


class Countless(Guard):
    """A guard that cannot count, and takes nothing."""

    def prompt_tokens(self, messages: Any, template_kwargs: Any) -> int | None:
        return None

    def _length(self, call: Call, new: int) -> int:
        raise RequestFailed("too long", kind="overlong")


def test_a_question_is_as_long_as_its_text_and_the_token_before_it(tmp_path: Path) -> None:
    seen: list[int | None] = []

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        seen.append(model.tokens(Question(raw="sorry?")))
        seen.append(model.tokens(ASKED))
        return Verdict(refusal=True)

    judged(tmp_path / "1", "p", one=(work, Counting()))
    judged(tmp_path / "2", "p", one=(work, Countless()))
    assert seen == [1 + 6, 6 + 8, None, None]


@pytest.mark.parametrize("guard", [Counting, Countless])
@pytest.mark.parametrize(
    "question",
    [Question(raw="long " * 30), Question(messages=(Message(role="user", content="long " * 30),))],
)
def test_an_overlong_question_fails_alike_whether_or_not_it_was_counted_before(
    tmp_path: Path, guard: type[Guard], question: Question
) -> None:
    kinds: list[str] = []

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        for ask in (model.reply(question, tokens=8), model.choose(question, ("yes", "no"))):
            with pytest.raises(RequestFailed) as caught:
                await ask
            kinds.append(caught.value.kind)
        return Verdict(reason="unparsed")

    judged(tmp_path, "p", one=(work, guard(context_length=100)))
    assert kinds == ["overlong", "overlong"]


def test_an_overlong_question_that_a_judge_does_not_mend_is_an_error_of_the_judge(
    tmp_path: Path,
) -> None:
    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        await model.reply(Question(raw="long " * 30), tokens=8)
        return Verdict(refusal=True)

    [verdict] = judged(tmp_path, "p", one=(work, Guard(context_length=100)))["one"]
    assert (verdict.reason, verdict.refusal) == ("error", None)


def test_a_judge_that_thinks_has_its_trace_apart_and_no_answer_where_it_never_closed(
    tmp_path: Path,
) -> None:
    def ponders(call: Call) -> str:
        return "<think>\n" + "hm " * 50 + "</think>\n\nyes"

    replies: list[tuple[str | None, bool]] = []

    async def work(case: JudgeCase, model: JudgeModel) -> Verdict:
        for think in (400, 20):
            reply = await model.reply(ASKED, tokens=8, think=think)
            replies.append((reply.answer, bool(reply.trace)))
        return Verdict(refusal=True)

    [verdict] = judged(tmp_path, "p", one=(work, Guard(ponders, view=TAGS_VIEW)))["one"]
    assert verdict.reason == "ok"
    assert replies == [("yes", True), (None, True)]


def test_what_a_judge_asked_before_it_failed_is_not_asked_again(tmp_path: Path) -> None:
    guard = Guard()

    async def two_steps(case: JudgeCase, model: JudgeModel) -> Verdict:
        await model.reply(Question(raw="first"), tokens=8)
        guard.down = fails
        await model.reply(Question(raw="second"), tokens=8)
        return Verdict(refusal=True)

    fails = True
    [verdict] = judged(tmp_path, "p", one=(two_steps, guard))["one"]
    assert (verdict.reason, verdict.raw) == ("error", "guard down")
    guard.down = fails = False
    [verdict] = judged(tmp_path, "p", one=(two_steps, guard))["one"]
    assert verdict.reason == "ok"
    assert [request.prefix for request in guard.requests] == [("first",), ("second",), ("second",)]


# -- models of judges in a run


def test_what_judges_ask_counts_apart_from_what_is_measured(tmp_path: Path) -> None:
    table, plugin = registry_with(Asks("a"))
    outcome = measure(tmp_path / "run", table, "a")
    [leg] = outcome.folder.manifest.legs
    assert (leg.counts["generation.made"], leg.counts["judging.generation.made"]) == (48, 48)
    assert leg.counts["verdict.made"] == len(plugin.made["a"].requests) == 48
    kinds = [request.sampling.temperature for request in plugin.made["a"].requests]
    assert set(kinds) == {0.0}
    # The tokens of judges are no part of the target's.
    alone = measure(tmp_path / "alone", registry_with(Plain("rule"))[0], "rule")
    assert leg.counts["tokens"] == alone.folder.manifest.legs[0].counts["tokens"]


def test_judges_that_share_a_device_with_the_target_take_turns_and_say_the_same(
    tmp_path: Path,
) -> None:
    panel = "panel(a,b; vote>=2)"
    apart = measure(tmp_path / "apart", registry_with(Asks("a"), Asks("b"))[0], panel)
    guards = {name: Guard(name=name, devices=("gpu",)) for name in "ab"}
    table, _ = registry_with(Asks("a"), Asks("b"), **guards)
    target = {"devices": ("gpu",)}
    shared = measure(tmp_path / "shared", table, panel, target=target)
    assert shared.folder.manifest.legs[0].swaps >= 2
    assert shared.scorecard == apart.scorecard


def test_a_model_that_two_judges_share_is_started_once(tmp_path: Path) -> None:
    table, plugin = registry_with(Asks("a"), Asks("b"))
    measure(tmp_path / "run", table, "a@guards/x", "b@guards/x")
    assert plugin.made["x"].starts == 1


def test_a_judges_options_reach_its_model(tmp_path: Path) -> None:
    table, plugin = registry_with(Asks("a"), Asks("b"))
    measure(tmp_path / "run", table, "a", "b", judge_options={"dtype": "bf16", "b:dtype": "fp32"})
    assert {(spec.name, spec.options["dtype"]) for spec in plugin.asked} == {
        ("a", "bf16"),
        ("b", "fp32"),
    }


# -- the command


def command(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(app_module.app, ["run", *arguments], env=env)


@pytest.fixture
def specified(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSpec]:
    """Give the specification that a command line means, without running it."""
    seen: list[RunSpec] = []

    def execute(spec: RunSpec, *more: Any) -> int:
        seen.append(spec)
        return 0

    monkeypatch.setattr(run_module, "_execute", execute)

    def specify(*arguments: str, **more: Any) -> RunSpec:
        result = command(*arguments, **more)
        assert result.exit_code == 0, result.output
        return seen[-1]

    return specify


MIXED = (
    "panel(granite-guardian-3.3(criterion=refusal)@vllm,wildguard@openai/w:http://h:1/v1;"
    " vote>=2, tie=comply)"
)


@pytest.mark.parametrize("env", [False, True])
def test_judges_with_commas_and_semicolons_reach_the_specification(specified, env) -> None:
    text = f"refusal-rules,{MIXED}"
    spec = specified(env={"TSEVAL_JUDGE": text}) if env else specified("--judge", text)
    assert spec.judges == ("refusal-rules", MIXED)
    assert spec.preset == "default+judge"


def test_options_of_judges_reach_the_specification_and_are_no_part_of_its_hash(specified) -> None:
    spec = specified("-j", "wildguard", "-J", "dtype=bf16,wildguard:device=cpu", "-J", "threads=2")
    assert spec.judge_options == {"dtype": "bf16", "wildguard:device": "cpu", "threads": "2"}
    assert specified("-j", "wildguard").hash == spec.hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-j", "wildguard", "-J", "api_key=sk-123"), "would be written to run.json"),
        (
            (
                "-j",
                "wildguard@openai:http://me:sk-123@h/v1",
            ),
            "would be written to run.json",
        ),
        (("-J", "dtype=bf16"), "no judge of this run takes -J dtype"),
        (
            ("-j", "wildguard", "-J", "llama:dtype=bf16"),
            "no judge of this run takes -J llama:dtype",
        ),
        (("-j", "panel(wildguard,refusal-rules; vote>=1)"), "vote>=1 of 2 is no majority"),
        (("-j", "panel(wildguard)"), "two or more different judges"),
        (("-j", "wildguard(text=prompt)"), "text is 'prompt'"),
        (("-j", "refusal-rules(strict=1)"), "takes no options"),
        (("-j", "wildgard"), "unknown judge 'wildgard'"),
        (("-j", "wildguard@hf/"), "backend 'hf' needs a model"),
    ],
)
def test_a_broken_judge_ends_the_command_in_words_before_a_folder_is_made(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = command(*arguments, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert message in lines[0]
    assert len(lines) <= 2
    assert "sk-123" not in result.output
    assert not (tmp_path / "run").exists()
