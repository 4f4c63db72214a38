"""Backend ``openai/...``: any server that speaks OpenAI's protocol.

Plain requests go to the chat route. Where the server's prompts can be rendered as token ids (by
``-M tokenizer`` or by the server itself), models that think and beginnings that have to be
continued go to the completions route with those ids: trace and answer come back as the model
wrote them, so budget and force-close work as on every other backend. Else a beginning is
continued by the chat route, if the server was seen to do that, or not at all. Raw prompts go to
the completions route: as ids where they can be had, else as text, before which the server itself
puts the beginning-of-text token.

What a provider's content filter stops or withholds fails with the kind 'refused': it is counted
under that word, never as a refusal of the model's and never as an empty answer.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tseval.errors import (
    BackendError,
    BackendUnavailable,
    CapabilityMissing,
    ConfigError,
    RequestFailed,
    RowSkipped,
)
from tseval.formats import TemplateView
from tseval.hookspecs import Register, hookimpl
from tseval.requests import (
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
)
from tseval.roles import BackendFactory
from tseval.types import ChoiceScores, LogLikelihood, Message

from . import probe
from .address import Address, parse_address
from .choose import NEXT, ask_chat, ask_text, reported, scores
from .http import Json, Rejected, Server, Sleep
from .options import DESCRIPTIONS, api_key, read_options
from .read import behind_trace, bound_limits, completion_of_chat, completion_of_text
from .render import LocalRenderer, piece_ids, raw_ids
from .start import Found, explore
from .wire import Draw, cannot_start, fail, room_left

if TYPE_CHECKING:
    import numpy as np

_SEED_BITS = 0x7FFFFFFF
# Fewer tokens than this are no room for an answer, and tokens that the closer may take.
_LEAST_ROOM = 256
_CLOSER_ROOM = 64


class OpenAIBackend:
    """One model on one server; see ``tseval.roles.Backend`` for the contract.

    Args:
        spec: Name, base URL (or OPENAI_BASE_URL) and options.
        sleep: Waits between attempts; tests pass one that does not.

    Raises:
        ConfigError: The address, an option or the key's variable is wrong.
    """

    def __init__(self, spec: ModelSpec, *, sleep: Sleep = asyncio.sleep) -> None:
        self.spec = spec
        self._options = read_options(spec.options)
        self._address = _address(spec)
        self._key = api_key(spec.options)
        self._sleep = sleep
        self.capabilities = Capabilities(prefix=False, seeds=False)
        self.context_length = self._options.context_length
        self.max_outstanding = self._options.concurrency
        self.devices: tuple[str, ...] = ()
        self._server: Server | None = None
        self._found: Found | None = None

    # -- life

    @property
    def tokens_under_way(self) -> int:
        """Not known: answers are not streamed."""
        return 0

    async def start(self, report: Report) -> Subject:
        """Reach the server, find out what it can do, and identify the model."""
        await self.close()
        url = self._address.url
        self._server = Server(
            self._address,
            self._key,
            concurrency=self._options.concurrency,
            timeout_seconds=self._options.timeout_seconds,
            max_retries=self._options.max_retries,
            sleep=self._sleep,
        )
        try:
            found = await explore(self._server, self._wanted, self._options, report)
        except Rejected as rejected:
            raise cannot_start(rejected, url, self._wanted) from None
        except BackendUnavailable:
            raise
        except RequestFailed as error:
            raise BackendError(
                error.message,
                hint=f"see whether the server runs and --base-url is right: curl {url}/models",
            ) from None
        self._found = found
        self.capabilities = found.capabilities
        self.context_length = found.context_length
        return found.subject

    async def close(self) -> None:
        """Close the connections."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    @property
    def _wanted(self) -> str:
        # On a server 'llama3:8b' is a name; the model string took its end for an adapter.
        revision = f"@{self.spec.revision}" if self.spec.revision else ""
        adapter = f":{self.spec.adapter}" if self.spec.adapter else ""
        return self.spec.name + revision + adapter

    # -- what the session asks

    def template(self) -> TemplateView:
        """Show what the answers, or the renderer, said about the chat template."""
        return self._known().view

    def prompt_tokens(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> int | None:
        """Length of the rendered prompt, or of what starts a text; None without a tokenizer."""
        found = self._known()
        if not isinstance(found.renderer, LocalRenderer):
            return None
        if not messages:
            return found.renderer.count_start()
        kwargs = found.wire.template_kwargs(template_kwargs)
        return found.renderer.count_prompt(_plain(messages), kwargs)

    def prompt_ids(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """Not known: the server renders and tokenises."""
        return None

    def text_tokens(self, text: str) -> int | None:
        """Length of a text; None without a local tokenizer."""
        renderer = self._known().renderer
        return renderer.count(text) if isinstance(renderer, LocalRenderer) else None

    def text_ids(self, text: str) -> tuple[int, ...] | None:
        """None: the server takes and gives text."""
        return None

    def decode(self, ids: tuple[int, ...]) -> str:
        """Never called: the server takes and gives text."""
        raise CapabilityMissing("a server gives no token ids")

    async def complete(self, request: CompletionRequest) -> Completion:
        """Generate one completion."""
        wanted = _most_tokens(request)
        tokens = min(wanted, (self.context_length or wanted + 2) - 1)
        # Servers look at the context in two steps: first without, then with the prompt's length.
        for _ in range(3):
            try:
                done = await self._complete(request, _draw(request, tokens))
            except Rejected as rejected:
                tokens = self._fewer(request, tokens, rejected)
            else:
                if tokens < wanted and done.finish == "length":
                    done = replace(done, notes=(*done.notes, "less-room"))
                return done
        raise RequestFailed("the server refuses every length of answer", kind="server")

    def _fewer(self, request: CompletionRequest, asked: int, rejected: Rejected) -> int:
        """Say how many tokens to ask for instead, or raise what the refusal means."""
        room = room_left(rejected, asked)
        if room is None:
            fail(rejected)
        if room.context and not request.messages and room.tokens < min(_LEAST_ROOM, asked):
            raise _overlong(rejected)
        tokens = room.tokens
        may_think = request.format.thinks and request.limits.thinking > 0
        if room.context and may_think and not behind_trace(request) and self.capabilities.prefix:
            # Room for the closer and the answer, should the trace fill all that is left.
            tokens -= request.limits.answer + _CLOSER_ROOM
        if tokens < min(_LEAST_ROOM, asked) or tokens >= asked:
            raise RowSkipped(f"no room in the context: {rejected.message}")
        return tokens

    async def _complete(self, request: CompletionRequest, draw: Draw) -> Completion:
        found = self._known()
        plain = bool(request.messages) and not (request.prefix or request.format.thinks)
        prompt = None if plain else await self._prompt(*_input(request))
        if prompt is not None:
            done = completion_of_text(request, await found.wire.complete(prompt, draw))
        else:
            messages, fields = self._conversation(request, _beginning(request))
            reply = await found.wire.chat(messages, draw, **fields)
            done = completion_of_chat(request, reply, separates=found.separates)
        return await bound_limits(request, done, found.renderer)

    async def _prompt(
        self,
        messages: tuple[Message, ...],
        template_kwargs: dict[str, Any],
        pieces: tuple[Piece, ...],
    ) -> list[int] | str | None:
        """Prompt for the completions route; None where the chat route has to make it."""
        renderer, wire = self._known().renderer, self._known().wire
        if not messages:
            if not self.capabilities.raw:
                raise CapabilityMissing(f"{self._address.url} takes no raw prompts")
            if renderer is None:
                return "".join(map(_text, pieces))
            return await raw_ids(renderer, pieces)
        if renderer is None:
            return None
        kwargs = wire.template_kwargs(template_kwargs)
        ids = await renderer.prompt_ids(_plain(messages), kwargs)
        for piece in pieces:
            ids += await piece_ids(renderer, piece)
        return ids

    def _conversation(
        self, request: CompletionRequest | ChoiceRequest, begun: str
    ) -> tuple[list[Json], Json]:
        """Messages and fields that ask the chat route to go on from a beginning."""
        messages = _plain(request.messages)
        fields: Json = {}
        if request.prefix:
            if not self.capabilities.prefix:
                raise CapabilityMissing(
                    f"{self._address.url} cannot continue a given beginning",
                    hint="-M tokenizer=PATH of the served model makes it possible",
                )
            asked = probe.continued(begun)
            messages.append(asked["message"])
            fields |= asked["fields"]
        kwargs = self._known().wire.template_kwargs(request.template_kwargs)
        if kwargs:
            fields["chat_template_kwargs"] = kwargs
        return messages, fields

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        """Read the figures that the server reports of the one token that it writes.

        Raises:
            RequestFailed: The question does not fit (kind 'overlong'), the choices cannot be told
                apart by one token ('malformed'), or the server failed.
        """
        found = self._known()
        if not self.capabilities.choices:
            raise CapabilityMissing(f"{self._address.url} does not say how probable tokens are")
        try:
            prompt = await self._prompt(*_input(request))
            if prompt is not None:
                reply = await ask_text(found.wire, prompt, found.tops.text)
            else:
                begun = "".join(map(_text, request.prefix))
                messages, fields = self._conversation(request, begun)
                reply = await ask_chat(found.wire, messages, found.tops.chat, **fields)
        except Rejected as rejected:
            room = room_left(rejected, NEXT.max_tokens)
            if room is not None and room.context:
                raise _overlong(rejected) from None
            fail(rejected)
        return scores(request.choices, reported(reply))

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        """Score a continuation by the log-probabilities of an echoed prompt."""
        wire, renderer = self._known().wire, self._known().renderer
        if renderer is None or not self.capabilities.logprobs:
            raise CapabilityMissing(f"{self._address.url} gives no log-probabilities of prompts")
        ids = await self._prompt(request.messages, request.template_kwargs, request.context)
        assert isinstance(ids, list), "with a renderer every prompt is token ids"
        scored = await piece_ids(renderer, request.continuation)
        if not ids or not scored:
            raise RequestFailed("nothing to score, or nothing before it", kind="engine")
        try:
            rows = await probe.score(wire, ids + scored)
        except Rejected as rejected:
            fail(rejected)
        if rows is None:
            raise RequestFailed("the answer has no log-probabilities", kind="malformed")
        rows = rows[-len(scored) :]
        return LogLikelihood(
            total=sum(value for value, _ in rows),
            greedy=all(best for _, best in rows),
            tokens=len(scored),
        )

    async def hidden_states(self, request: HiddenStatesRequest) -> "np.ndarray":
        """Never called: servers show none."""
        raise CapabilityMissing("a server shows no hidden states")

    def _known(self) -> Found:
        if self._found is None or self._server is None:
            raise BackendUnavailable("the server backend is not started")
        return self._found


def _address(spec: ModelSpec) -> Address:
    if not spec.base_url:
        return parse_address(os.environ.get("OPENAI_BASE_URL", ""))
    address = parse_address(spec.base_url)
    if address.user or address.password:
        # What is passed as a flag ends up in the record of the run.
        raise ConfigError(
            f"the server address {address.url!r} must not hold credentials",
            hint="secrets come from the environment only: set OPENAI_BASE_URL to that address",
        )
    return address


def _draw(request: CompletionRequest, tokens: int) -> Draw:
    return Draw(
        max_tokens=tokens,
        temperature=request.sampling.temperature,
        top_p=request.sampling.top_p,
        top_k=request.sampling.top_k,
        seed=request.seed & _SEED_BITS,
        banned=request.banned,
    )


def _most_tokens(request: CompletionRequest) -> int:
    """Most new tokens: trace and answer, or behind a closed trace the answer alone."""
    return max(1, request.limits.answer if behind_trace(request) else request.limits.total)


def _beginning(request: CompletionRequest) -> str:
    """Text of a prefix as the content of an assistant message."""
    text = "".join(_text(piece) for piece in request.prefix)
    fmt = request.format
    switch = fmt.off_kwargs
    off = bool(switch) and all(request.template_kwargs.get(n) == v for n, v in switch.items())
    if fmt.opened_by == "template" and not off:
        # The opener belongs to the generation header, which a continued message does not get.
        text = f"{fmt.opener_mark}\n{text}"
    return text


def _plain(messages: tuple[Message, ...]) -> list[Json]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _text(piece: Piece) -> str:
    if isinstance(piece, str):
        return piece
    raise CapabilityMissing("the chat route takes text, not token ids")


def _input(
    request: CompletionRequest | ChoiceRequest,
) -> tuple[tuple[Message, ...], dict[str, Any], tuple[Piece, ...]]:
    return request.messages, request.template_kwargs, request.prefix


def _overlong(rejected: Rejected) -> RequestFailed:
    return RequestFailed(f"no room in the context: {rejected.message}", kind="overlong")


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend."""
    register(
        BackendFactory(
            name="openai",
            summary="any OpenAI-compatible server (--base-url or OPENAI_BASE_URL)",
            capabilities=Capabilities(
                prefix=True, raw=True, logprobs=True, choices=True, seeds=True
            ),
            create=OpenAIBackend,
            options=DESCRIPTIONS,
            needs_model=False,
        )
    )
