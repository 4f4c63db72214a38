"""For plugin authors: a scripted backend, and the checks that every plugin of a kind must pass.

The scripted backend is a real backend with a vocabulary of bytes. Whatever the engine does to a
model (budgets, force-closing, prefixes, kills, swaps) it does to a script, in microseconds.
"""

import asyncio
import importlib
import math
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .errors import BackendError, ConfigError, RequestFailed, UnknownName
from .formats import TemplateView
from .hookspecs import Register, hookimpl
from .intervention_checks import check_on_families
from .requests import (
    Capabilities,
    ChoiceRequest,
    Completion,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    Piece,
    Report,
    ScoringRequest,
    Subject,
    places_of,
    spans_of,
)
from .roles import BackendFactory, Judge, JudgeCase, JudgeModel
from .scripts import CHAT_VIEW, TAGS_VIEW, Call, Script, decode, encode, mixed, thinking
from .thinking import TraceState
from .types import ChoiceScores, LogLikelihood, Message, Verdict
from .wrapping import Intervention

if TYPE_CHECKING:
    import numpy as np

States = Callable[[tuple[int, ...], float], "np.ndarray"]
Entropy = Callable[[Call, int], float]


class ScriptedBackend:
    """A backend that follows a script.

    Args:
        script: Text that follows the prefix.
        name: Name of the model.
        view: What it shows of its chat template.
        capabilities: What it can do; all of it by default.
        context_length: In tokens, which are bytes; what is longer fails as 'overlong'.
        devices: Devices it occupies; two scripted models on one take turns.
        delay: Seconds a request takes.
        fail: Called before each request; may raise.
        max_outstanding: As in the contract.
        states: Hidden state at a position, from the token ids up to it and the layer as it was
            asked for; default: pseudo-random numbers that depend on both.
        entropy: Entropy at a token, from the call and the token's place in what is written;
            default: pseudo-random numbers in [0, 1).

    Attributes:
        calls: Requests so far, of every kind.
        starts: How often it was started.
        running, most_running: Requests under way now, and at the most.
    """

    def __init__(
        self,
        script: Script = mixed,
        *,
        name: str = "scripted",
        view: TemplateView = CHAT_VIEW,
        capabilities: Capabilities | None = None,
        context_length: int | None = None,
        devices: tuple[str, ...] = (),
        delay: float = 0.0,
        fail: Callable[[CompletionRequest], None] | None = None,
        max_outstanding: int = 64,
        states: States | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.spec = ModelSpec(backend="scripted", name=name)
        self.capabilities = capabilities or _EVERYTHING
        self.context_length = context_length
        self.max_outstanding = max_outstanding
        self.devices = devices
        self.calls = self.starts = self.running = self.most_running = 0
        self._script = script
        self._view = view
        self._delay = delay
        self._fail = fail
        self._states = states or _random_states
        self._entropy = entropy or (lambda call, place: call.share("entropy", call.prefix, place))
        self._loaded = False

    @property
    def tokens_under_way(self) -> int:
        """See ``Backend``; a script writes in one go."""
        return 0

    async def start(self, report: Report) -> Subject:
        """See ``Backend``."""
        self._loaded = True
        self.starts += 1
        name = f"scripted/{self.spec.name}"
        script = f"{self._script.__module__}:{self._script.__qualname__}"
        return Subject(
            name=name,
            identity={"script": script, "name": self.spec.name},
            recommended={"temperature": 1.0},
            execution={"engine": "scripted"},
        )

    async def close(self) -> None:
        """See ``Backend``."""
        self._loaded = False

    def template(self) -> TemplateView:
        """See ``Backend``."""
        return self._view

    def prompt_tokens(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> int | None:
        """See ``Backend``."""
        return len(self.prompt_ids(messages, template_kwargs))

    def prompt_ids(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> tuple[int, ...]:
        """Bytes of each turn between a head and a tail, eight bytes together."""
        turns = (f"[{m.role[:1]}]{m.content}[/{m.role[:1]}]\n" for m in messages)
        return tuple("".join(turns).encode())

    def text_tokens(self, text: str) -> int | None:
        """See ``Backend``."""
        return len(encode(text))

    def text_ids(self, text: str) -> tuple[int, ...]:
        """See ``Backend``."""
        return encode(text)

    def decode(self, ids: tuple[int, ...]) -> str:
        """See ``Backend``."""
        return decode(ids)

    async def complete(self, request: CompletionRequest) -> Completion:
        """See ``Backend``."""
        await self._turn(request)
        call = _call(request, request.prefix, request.seed)
        length = self._length(call, 1)
        text = self._script(call)
        for mark in request.banned:
            text = text.split(mark)[0]
        state = TraceState(request.format, request.limits, decode, opened=request.opened)
        ids: list[int] = []
        finish: Any = "stop"
        for token in encode(text):
            ids.append(token)
            if state.feed(token):
                finish = "length"
                break
        return Completion(
            text=decode(ids),
            ids=tuple(ids),
            finish=finish,
            prompt_tokens=length,
            tokens=len(ids),
            entropies=tuple(self._entropy(call, place) for place in range(len(ids)))
            if request.entropy_top
            else None,
        )

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        """Minus one nat a token; greedy where the script would write it."""
        await self._turn(request)
        text = _joined((request.continuation,))
        written = self._script(_call(request, request.context))
        tokens = len(encode(text))
        return LogLikelihood(total=-float(tokens), greedy=written.startswith(text), tokens=tokens)

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        """Give 0.9 to the choice that the script's reply begins with; the others share the rest.

        Where it begins with none, all share alike.
        """
        await self._turn(request)
        call = _call(request, request.prefix)
        self._length(call, 0)
        firsts = [encode(choice)[:1] for choice in request.choices]
        if not all(firsts) or len(set(firsts)) < len(firsts):
            raise RequestFailed(
                f"two of the choices {', '.join(map(repr, request.choices))} begin with the same"
                " byte, or one with none",
                kind="malformed",
            )
        reply = self._script(call)
        chosen = [choice for choice in request.choices if reply.startswith(choice)]
        rest = 0.1 if chosen else 1.0
        share = math.log(rest / max(len(firsts) - len(chosen), 1))
        return ChoiceScores(
            logprobs={c: math.log(0.9) if c in chosen else share for c in request.choices}
        )

    async def hidden_states(self, request: HiddenStatesRequest) -> "np.ndarray":
        """Sixteen pseudo-random numbers that depend on everything up to the position."""
        import numpy as np

        await self._turn(request)
        prompt = self.prompt_ids(request.messages, request.template_kwargs)
        ids = prompt + encode(_joined(request.prefix))

        def states(position: int) -> "np.ndarray":
            upto = ids[: position + 1]
            return np.asarray([self._states(upto, layer) for layer in request.layers])

        size = len(ids)
        rows = [states(place) for place in places_of(request.positions, size, "position")]
        rows += [
            np.mean([states(place) for place in range(start, stop)], axis=0)
            for start, stop in spans_of(request.spans, size)
        ]
        return np.asarray(rows, dtype=np.float32)

    def _length(self, call: Call, new: int) -> int:
        """Length of a whole input, that with so many ``new`` tokens has to fit the context."""
        length = (self.prompt_tokens(call.messages, {}) or 0) + len(encode(call.raw + call.prefix))
        if self.context_length is not None and length + new > self.context_length:
            raise RequestFailed(
                f"the input has {length} tokens, the context {self.context_length}", kind="overlong"
            )
        return length

    async def _turn(self, request: Any) -> None:
        if not self._loaded:
            raise BackendError("the scripted backend was used before it was started")
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self._delay)
            if self._fail is not None:
                self._fail(request)
        finally:
            self.running -= 1


def _call(
    request: CompletionRequest | ScoringRequest | ChoiceRequest,
    pieces: tuple[Piece, ...],
    seed: int = 0,
) -> Call:
    begun = pieces if request.messages else pieces[1:]
    return Call(
        messages=request.messages,
        prefix=_joined(begun),
        seed=seed,
        thinking_off=request.template_kwargs.get("enable_thinking") is False,
        raw=_joined(pieces[: len(pieces) - len(begun)]),
    )


def _random_states(upto: tuple[int, ...], layer: float) -> "np.ndarray":
    import numpy as np

    digest = sha256(f"{upto}{layer}".encode()).digest()
    return np.frombuffer(digest, np.uint16) / 65536 - 0.5


def _joined(pieces: tuple[Piece, ...]) -> str:
    return "".join(p if isinstance(p, str) else decode(p) for p in pieces)


_EVERYTHING = Capabilities(
    chat=True,
    prefix=True,
    token_ids=True,
    raw=True,
    logprobs=True,
    choices=True,
    hidden_states=True,
    seeds=True,
    entropies=True,
)
_SCRIPTS: dict[str, tuple[Script, TemplateView]] = {
    "mixed": (mixed, CHAT_VIEW),
    "thinking": (thinking, TAGS_VIEW),
}


def _from_spec(spec: ModelSpec) -> ScriptedBackend:
    options = dict(spec.options)
    options.pop("format", None)
    script, view = _script(spec.name or "mixed", options.pop("script", ""))
    delay = options.pop("delay", "0")
    share = options.pop("fail_share", "0")
    if options:
        raise UnknownName("option", next(iter(options)), _OPTIONS, hint="-M takes these")
    try:
        seconds, failing = float(delay), float(share)
    except ValueError:
        raise ConfigError(
            f"-M delay and fail_share take numbers, got {delay!r}, {share!r}"
        ) from None

    def fail(request: CompletionRequest) -> None:
        digest = sha256(f"{request.seed}".encode()).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 < failing:
            raise RequestFailed("scripted failure", kind="engine")

    return ScriptedBackend(
        script, name=spec.name or "mixed", view=view, delay=seconds, fail=fail if failing else None
    )


def _script(name: str, path: str) -> tuple[Script, TemplateView]:
    if not path:
        if name not in _SCRIPTS:
            raise UnknownName("script", name, _SCRIPTS, hint="or pass -M script=module:function")
        return _SCRIPTS[name]
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function), TAGS_VIEW
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load script {path!r}: {error}") from error


_OPTIONS = {
    "script": "module:function that writes the completions",
    "delay": "seconds a request takes",
    "fail_share": "share of requests that fail",
    "format": "thinking format",
}


@hookimpl
def register_backends(register: Register) -> None:
    """Register ``scripted/mixed`` and ``scripted/thinking``."""
    register(
        BackendFactory(
            name="scripted",
            summary="a script instead of a model, for tests and plugin authors",
            capabilities=_EVERYTHING,
            create=_from_spec,
            options=_OPTIONS,
            needs_model=False,
        )
    )


# Texts that a judge must survive: empty, blank, huge, other scripts, control and hostile ones.
AWKWARD_TEXTS: tuple[str, ...] = (
    "",
    " \n\t",
    "a" * 200_000,
    "ответ на вопрос, 回答, الجواب",
    "\x00\x1b[31m\u202e\ud7ff\ufeff",
    "<think>never closed",
    "```\n" * 500,
    "</script><script>alert(1)</script>",
)


async def check_judge(judge: Judge, model: JudgeModel | None = None) -> None:
    """Check a judge against its contract, on texts that no judge likes.

    Args:
        judge: The judge.
        model: A model for it to ask, where it asks one; what it says must not depend on chance.

    Raises:
        AssertionError: With a sentence that says which part of the contract is broken.
    """
    assert judge.card.labels, f"judge {judge.card.name!r} says nothing"
    for text in AWKWARD_TEXTS:
        case = JudgeCase(prompt="x", text=text)
        verdict = await judge.judge(case, model)
        again = await judge.judge(case, model)
        assert isinstance(verdict, Verdict), "a judge returns a Verdict"
        assert verdict == again, f"judge {judge.card.name!r} is not a function of its case"
        if verdict.reason != "ok":
            assert verdict.refusal is None, f"reason {verdict.reason!r} comes with no label"
            assert verdict.harmful is None, f"reason {verdict.reason!r} comes with no label"
        for label in ("refusal", "harmful"):
            if label not in judge.card.labels:
                assert getattr(verdict, label) is None, f"a label that the card lacks: {label}"


async def check_intervention(intervention: Intervention) -> None:
    """Check an intervention against its contract, on scripted models of every family.

    Raises:
        AssertionError: With a sentence that says which part of the contract is broken, and the
            family, model and budget that it broke on.
    """
    await check_on_families(intervention, lambda script, fail: ScriptedBackend(script, fail=fail))
