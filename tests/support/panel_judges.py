"""Judges that ask scripted guards, and a plugin that registers both: for panels in real runs."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.sessions import finish
from tseval.errors import ConfigError, RequestFailed
from tseval.hookspecs import hookimpl
from tseval.plugins import Registry, load_registry
from tseval.requests import Capabilities, ChoiceRequest, Completion, CompletionRequest, ModelSpec
from tseval.roles import BackendFactory, JudgeCard, JudgeCase, JudgeModel, Question
from tseval.runner import Outcome, run
from tseval.scripts import Call, Script, mixed
from tseval.spec import RunSpec
from tseval.testing import ScriptedBackend
from tseval.types import Message, Verdict

EVERYTHING = Capabilities(prefix=True, token_ids=True, raw=True, choices=True, seeds=True)


def sorry(call: Call) -> str:
    """Say 'yes' to a refusal."""
    return "yes" if "sorry" in (call.raw or call.messages[-1].content) else "no"


class Guard(ScriptedBackend):
    """A scripted model that keeps what it was asked, and can be down."""

    def __init__(self, script: Script = sorry, *, name: str = "guard", **more: Any) -> None:
        more.setdefault("capabilities", EVERYTHING)
        super().__init__(script, name=name, **more)
        self.requests: list[CompletionRequest | ChoiceRequest] = []
        self.down = False

    async def complete(self, request: CompletionRequest) -> Completion:
        self.requests.append(request)
        if self.down:
            raise RequestFailed("guard down", kind="server")
        return await super().complete(request)

    async def choose(self, request: ChoiceRequest) -> Any:
        self.requests.append(request)
        return await super().choose(request)


class Asks:
    """A judge that takes a 'yes' or 'no' from its model, and keeps the cases that it saw."""

    def __init__(self, name: str, model: str | None = None, **card: Any) -> None:
        card.setdefault("labels", ("refusal",))
        named = f"guards/{name}" if model is None else model
        self.card = JudgeCard(name=name, version="1", model=named, **card)
        self.cases: list[JudgeCase] = []

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        self.cases.append(case)
        assert model is not None
        text = f"{case.prompt}|{case.text}"
        question = Question(raw=text)
        if model.asked == "chat":
            question = Question(messages=(Message(role="user", content=text),))
        said = (await model.reply(question, tokens=8)).answer
        if said not in ("yes", "no"):
            return Verdict(reason="unparsed", raw=said or "")
        side = said == "yes"
        refusal = side if "refusal" in self.card.labels else None
        harmful = side if "harmful" in self.card.labels else None
        return Verdict(refusal=refusal, harmful=harmful, raw=said)

    def configured(self, options: dict[str, str]) -> "Asks":
        unknown = set(options) - {"strict", "lax"}
        if unknown:
            raise ConfigError(f"no option {unknown.pop()!r}", hint="strict, lax")
        card = {"labels": self.card.labels, "identity": options, "asked": self.card.asked}
        return Asks(self.card.name, self.card.model, **card)


class Plain:
    """A judge without a model; says what it is told to, and keeps the cases that it saw."""

    def __init__(self, name: str, verdict: Verdict | None = None, **card: Any) -> None:
        card.setdefault("labels", ("refusal",))
        self.card = JudgeCard(name=name, version="1", **card)
        self.cases: list[JudgeCase] = []
        self._verdict = verdict

    async def judge(self, case: JudgeCase, model: JudgeModel | None) -> Verdict:
        self.cases.append(case)
        await asyncio.sleep(0)
        return self._verdict or Verdict(refusal="sorry" in case.text, raw="rule")


class Guards:
    """A plugin with judges, and a backend 'guards' whose models are made when they are named.

    Attributes:
        made: Models by name.
        asked: What was created, with place and options.
    """

    def __init__(self, *judges: Any, made: dict[str, Guard] | None = None) -> None:
        self.judges = judges
        self.made = made or {}
        self.asked: list[ModelSpec] = []

    def create(self, spec: ModelSpec) -> Guard:
        self.asked.append(spec)
        return self.made.setdefault(spec.name, Guard(name=spec.name))

    @hookimpl
    def register_judges(self, register: Any) -> None:
        for judge in self.judges:
            register(judge)

    @hookimpl
    def register_backends(self, register: Any) -> None:
        for name in ("guards", "sentries"):
            register(
                BackendFactory(name=name, summary=name, capabilities=EVERYTHING, create=self.create)
            )


def registry_with(*judges: Any, **made: Guard) -> tuple[Registry, Guards]:
    """Load the plugins and these judges; models in ``made`` are used instead of default ones."""
    plugin = Guards(*judges, made=made)
    return load_registry(extra=[plugin]), plugin


class Quiet:
    """A display that shows nothing."""

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Any) -> None: ...

    def remark(self, message: str) -> None: ...


def measure(
    out: Path, registry: Registry, *judges: str, script: Script = mixed, **more: Any
) -> Outcome:
    """Run the quick suite on a scripted target."""
    backend = more.pop("backend", None) or ScriptedBackend(script, **more.pop("target", {}))
    fields: dict[str, Any] = {"benchmarks": ("quick_harmful", "quick_benign"), **more}
    spec = RunSpec(model=ModelSpec(backend="scripted"), judges=judges, **fields)
    return finish(run(spec, registry, Quiet(), out=out, backend=backend), 60)
