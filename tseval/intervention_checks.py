"""What every intervention must do, checked on scripted models; see ``tseval.testing``.

The models write numbered words that depend on the row seed, ``t07.3fa`` in the trace and
``a07.3fa`` in the answer, so whatever else stands in a rollout was injected.
"""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from .errors import RequestFailed
from .formats import BUILTIN_FAMILIES, NO_FORMAT, TemplateView, ThinkingFormat, opening
from .requests import CompletionRequest
from .roles import Backend
from .rollouts import Continuation, Model, Plan, continue_trace, roll_out
from .scripts import Call, Script, encode
from .types import Message, Rollout, Sampling, Thinking, ThinkingMode
from .wrapping import Inner, Intervention

Fail = Callable[[CompletionRequest], None]
Make = Callable[[Script, Fail | None], Backend]

_WORD = re.compile(r"[ta]\d\d\.[0-9a-f]{3} ")
_ANSWER = re.compile(r"(a\d\d\.[0-9a-f]{3}\s*)+")
# Words of a trace that the model closes; one that it doesn't is longer than any budget here.
_WORDS, _ENDLESS, _ANSWERED = 30, 60, 4
_BUDGETS = (450, 90, 5)
_SAMPLING = Sampling(temperature=1.0, top_p=1.0, answer_tokens=200)
# Calls to the model of which each has to be able to fail.
_FAILURES = 4


class Case(Struct, frozen=True, kw_only=True):
    """One model under one policy.

    Attributes:
        fmt, mode: Its format, and how it is made to think.
        closes: Whether it ever closes its trace.
        budget: Of the trace.
    """

    fmt: ThinkingFormat
    mode: ThinkingMode
    closes: bool
    budget: int

    def __str__(self) -> str:
        kind = "closes" if self.closes else "never closes"
        return f"{self.fmt.name}, {self.mode}, {kind}, budget {self.budget}"


def cases() -> Iterator[Case]:
    """Every family in the modes in which it thinks, with models that close and that do not."""
    view = TemplateView(rendered="", rendered_off="")
    for family in BUILTIN_FAMILIES:
        fmt = family.make(view)
        for mode in ("default", "forced") if fmt.thinks else ("forced",):
            for closes in (True, False):
                for budget in _BUDGETS:
                    yield Case(fmt=fmt, mode=mode, closes=closes, budget=budget)


def script_of(case: Case) -> Script:
    """A model of that family: thinks, closes perhaps, answers."""
    start = opening(case.fmt, case.mode)
    fmt = start.format

    def write(call: Call) -> str:
        spelt = call.prefix
        if call.thinking_off or fmt.answer_mark in spelt:
            return _words("a", spelt.rpartition(fmt.answer_mark)[2], _ANSWERED, call)
        size = _WORDS if case.closes else _ENDLESS
        opened = start.opened or fmt.opener_mark in spelt
        text = "" if opened else f"{fmt.opener_mark}\n"
        text += _words("t", spelt, size, call)
        return f"{text}{fmt.closer}{_words('a', '', _ANSWERED, call)}" if case.closes else text

    return write


def _words(letter: str, spelt: str, size: int, call: Call) -> str:
    """The words that are still to come behind those that stand there."""
    done = len([word for word in _WORD.findall(spelt) if word[0] == letter])
    drawn = (f"{int(call.share(number, call.prefix) * 4096):03x}" for number in range(done, size))
    return "".join(f"{letter}{n:02}.{word} " for n, word in enumerate(drawn, done))


async def check_on_families(intervention: Intervention, make: Make) -> None:
    """Check an intervention on models of every family.

    Args:
        intervention: The intervention.
        make: Makes a scripted backend from a script and a function that may raise.

    Raises:
        AssertionError: With a sentence, and the case that it failed on.
    """
    identity = intervention.identity
    assert identity, "identity has to hold the version and the constants"
    assert all(isinstance(each, str) for pair in identity.items() for each in pair)
    assert identity == intervention.identity, "identity must not change"
    for case in cases():
        await _Check(intervention, make, case).all()


class _Check:
    """The checks on one case."""

    def __init__(self, intervention: Intervention, make: Make, case: Case) -> None:
        self._intervention = intervention
        self._make = make
        self._case = case
        self._said = f"intervention {intervention.name!r} ({case})"

    async def all(self) -> None:
        made = await self._rollout()
        self._check_rollout(made)
        assert made == await self._rollout(), f"{self._said}: equal seeds give unequal draws"
        other = await self._rollout(seed=6)
        drawn = (made.trace, made.answer) != (other.trace, other.answer)
        assert drawn, f"{self._said}: another seed gives the same draws"
        await self._check_off()
        await self._check_replay(made)
        await self._check_failures()

    def _check_rollout(self, made: Rollout) -> None:
        said, case = self._said, self._case
        assert made.answer is not None, f"{said}: no answer"
        assert _ANSWER.fullmatch(made.answer), f"{said}: the answer holds more than the model's"
        trace = made.trace_ids or ()
        # A closer may begin with the end of a message, which counts as a trace and not for budgets.
        closer = opening(case.fmt, case.mode).format.closer
        spare = len(encode(closer)) if made.closed_by == "cut" else 0
        assert len(trace) <= case.budget + spare, f"{said}: {len(trace)} tokens of a trace"
        assert made.thought, f"{said}: there is no trace"
        fair = {"model", "cut", "budget"} if case.closes else {"cut", "budget"}
        assert made.closed_by in fair, f"{said}: closed by {made.closed_by!r}"
        if made.closed_by == "model":
            assert f"t{_WORDS - 1:02}" in made.trace, f"{said}: not the model closed the trace"
        for start, stop in spans_of_notes(made):
            assert 0 <= start < stop <= len(trace), f"{said}: a range outside of the trace"

    async def _check_off(self) -> None:
        """Without a trace to work on, nothing is done."""
        if not self._case.fmt.thinks:
            plain = await self._rollout(mode="default", wrapped=False)
            with_it = await self._rollout(mode="default")
        else:
            plain = await self._rollout(mode="off", wrapped=False)
            with_it = await self._rollout(mode="off")
        assert plain == with_it, f"{self._said}: something was done where there is no trace"

    async def _check_replay(self, made: Rollout) -> None:
        """A recorded trace is closed as it is, and continued without a second beginning."""
        ids = made.trace_ids or ()
        plan = self._plan(self._case.mode, 5)
        for length in (len(ids), len(ids) // 2):
            how = Continuation(prefix=(ids[:length],))
            closed = await self._continued(plan, how)
            assert closed == await self._continued(plan, how, wrapped=False), (
                f"{self._said}: something was done to a trace that tseval closes"
            )
        how = Continuation(prefix=(ids[: len(ids) // 2],), close=False, think_tokens=90)
        more = await self._continued(plan, how)
        begun = [stop for start, stop in spans_of_notes(made) if start == 0]
        again = begun and (more.trace_ids or ())[: begun[0]] == ids[: begun[0]]
        assert not again, f"{self._said}: a recorded trace was begun a second time"
        assert len(more.trace_ids or ()) <= how.think_tokens, f"{self._said}: more was thought"
        if more.answer:
            assert _ANSWER.fullmatch(more.answer), f"{self._said}: injected behind the closer"

    async def _check_failures(self) -> None:
        """What fails is an error, whichever call it is."""
        for failing in range(1, _FAILURES + 1) if self._case.budget == _BUDGETS[1] else ():
            calls = 0

            def fail(request: CompletionRequest, failing: int = failing) -> None:
                nonlocal calls
                calls += 1
                if calls == failing:
                    raise RequestFailed("down")

            try:
                await self._rollout(fail=fail)
            except RequestFailed:
                continue
            assert calls < failing, f"{self._said}: a failure of call {failing} was swallowed"

    async def _rollout(
        self,
        *,
        seed: int = 5,
        mode: ThinkingMode | None = None,
        wrapped: bool = True,
        fail: Fail | None = None,
    ) -> Rollout:
        model = await self._model(wrapped=wrapped, fail=fail)
        return await roll_out(model, self._plan(mode or self._case.mode, seed))

    async def _continued(self, plan: Plan, how: Continuation, *, wrapped: bool = True) -> Rollout:
        return await continue_trace(await self._model(wrapped=wrapped), plan, how)

    def _plan(self, mode: ThinkingMode, seed: int) -> Plan:
        return Plan(
            key="00" * 16,
            seed=seed,
            messages=(Message(role="user", content="Is </think> a word? t00.000 a00.000"),),
            sampling=_SAMPLING,
            thinking=Thinking(mode=mode, budget=self._case.budget),
        )

    async def _model(self, *, wrapped: bool, fail: Fail | None = None) -> Model:
        case = self._case
        backend = self._make(script_of(case), fail)
        subject = await backend.start(lambda phrase, share: None)
        inner = Inner(backend)

        async def complete(request: CompletionRequest):  # type: ignore[no-untyped-def]
            return await self._intervention.complete(request, inner)

        return Model(
            name="target",
            backend=backend,
            subject=subject,
            format=case.fmt if case.fmt.thinks else NO_FORMAT,
            complete=complete if wrapped else backend.complete,
            identity="x",
        )


def spans_of_notes(made: Rollout) -> list[tuple[int, int]]:
    """Ranges of a rollout's trace ids that were injected, from its notes."""
    (told,) = [note for note in made.notes if note.startswith("injected-at:")] or [""]
    ranges = (each.split("-") for each in told.partition(":")[2].split(",") if each)
    return [(int(start), int(stop)) for start, stop in ranges]
