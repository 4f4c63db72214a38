"""Backend ``vllm/...``: vLLM's asynchronous engine, for a folder, a hub id or a LoRA adapter.

One engine serves the whole run. The session's requests reach it one by one; it forms batches that
rows join and leave at every token, and keeps what prompts have in common in its prefix cache.
Files, identity, rendering and the ends of turns are those of the hf backend, so the same model has
the same identity on both.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tseval.errors import BackendUnavailable, CapabilityMissing, RequestFailed
from tseval.hookspecs import Register, hookimpl
from tseval.models.hf.options import likely_device
from tseval.models.hf.rows import Row
from tseval.models.hf.words import Words
from tseval.requests import (
    Capabilities,
    ChoiceRequest,
    Completion,
    CompletionRequest,
    HiddenStatesRequest,
    ModelSpec,
    Report,
    ScoringRequest,
    Subject,
)
from tseval.roles import BackendFactory
from tseval.types import ChoiceScores, LogLikelihood

from ._vllm_load import Loaded, asks_for, devices, find, load
from ._vllm_options import OPTIONS, read_options
from ._vllm_requests import Requests

if TYPE_CHECKING:
    import numpy as np

CAPABILITIES = Capabilities(
    prefix=True, token_ids=True, raw=True, logprobs=True, choices=True, seeds=True
)
_BATCH = 256
_MOST_OUTSTANDING = 2048
_UNSEEDED = "unseeded"
# Names that vLLM alone knows.
_DTYPES = {"half": "float16", "float": "float32"}


class VllmBackend(Words):
    """One model on vLLM; see ``tseval.roles.Backend`` for the contract.

    Args:
        spec: Name and options.

    Raises:
        ConfigError: An option is not the user's to set, or has no such value. Arguments of the
            engine are checked as it starts.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._options = read_options(spec.options)
        self.capabilities = CAPABILITIES
        self.context_length: int | None = None
        is_cpu = likely_device("auto") == "cpu"
        self.devices: tuple[str, ...] = devices(asks_for(self._options.engine), is_cpu=is_cpu)
        self.max_outstanding = self._outstanding(_BATCH)
        self._loaded: Loaded | None = None
        self._asleep: Loaded | None = None
        self._requests: Requests | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def tokens_under_way(self) -> int:
        """New tokens of the completions that the engine works at."""
        return 0 if self._requests is None else self._requests.tokens_under_way

    async def start(self, report: Report) -> Subject:
        """Start the engine, or wake it; does nothing if it runs.

        Raises:
            ConfigError: vLLM knows no such argument.
            BackendError: vLLM is missing, or the model cannot be found or loaded.
        """
        if self._loaded is not None:
            if not self._loaded.engine.errored:
                return self._loaded.subject
            await self.close()
        loaded = await self._wake() or await self._load(report)
        self._loop = asyncio.get_running_loop()
        self._requests = Requests(
            loaded.engine, loaded.text, loaded.stop_ids, loaded.adapter, seeds=loaded.seeds
        )
        self._loaded, self._text = loaded, loaded.text
        self.capabilities = replace(
            CAPABILITIES, chat=bool(loaded.text.template), seeds=loaded.seeds
        )
        self.context_length = loaded.context_length
        self.devices = loaded.devices
        self.max_outstanding = self._outstanding(loaded.batch)
        return loaded.subject

    async def close(self) -> None:
        """Free the device: the engine ends, or sleeps under ``-M sleep=on``.

        What still waits fails. A second call ends an engine that sleeps.
        """
        loaded, requests, asleep = self._loaded, self._requests, self._asleep
        self._loaded = self._requests = self._asleep = None
        if asleep is not None:
            await _shut_down(asleep.engine)
        if loaded is not None and requests is not None:
            if not loaded.engine.errored:
                await requests.abandon()
                if self._options.sleep:
                    await loaded.engine.sleep(level=1)
                    self._asleep = loaded
                    return
            await _shut_down(loaded.engine)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Generate one completion.

        Raises:
            RequestFailed: The prompt leaves no room in the context (kind 'overlong'), the chat
                template refuses it ('refused'), or the engine failed ('engine').
            BackendUnavailable: The engine is dead.
        """
        loaded, requests = self._need(), self._at_work()
        prompt = self._input(request.messages, request.template_kwargs, request.prefix)
        room = self._room(prompt)
        if request.limits.total <= 0:
            return Completion(text="", ids=(), finish="length", prompt_tokens=len(prompt))
        row = Row(prompt, request, loaded.text, loaded.stop_ids, room)
        await requests.complete(row, request.limits, thinks=request.format.thinks)
        done = row.completion()
        if loaded.seeds or request.sampling.temperature <= 0:
            return done
        return replace(done, notes=(*done.notes, _UNSEEDED))

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        """Score a continuation; raises as :meth:`complete` does."""
        requests = self._at_work()
        ids = self._input(request.messages, request.template_kwargs, request.context)
        scored = self._need().text.piece(request.continuation)
        if not scored:
            return LogLikelihood(total=0.0, greedy=True, tokens=0)
        self._room([*ids, *scored])
        return await requests.score(ids + scored, len(scored))

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        """Say how probable each choice is as the next token.

        Raises:
            RequestFailed: Choices begin with the same token or with none (kind 'malformed');
                else as :meth:`complete` does.
        """
        loaded, requests = self._need(), self._at_work()
        ids = self._input(request.messages, request.template_kwargs, request.prefix)
        self._room(ids)
        firsts = [loaded.text.first_tokens(choice) for choice in request.choices]
        wanted = sorted(frozenset().union(*firsts))
        if not all(firsts) or sum(map(len, firsts)) > len(wanted):
            raise RequestFailed(
                f"two of the choices {', '.join(map(repr, request.choices))} begin with the same"
                " token, or one with none",
                kind="malformed",
            )
        known, floor = await requests.next_tokens(ids, wanted)
        logprobs = {
            choice: max(known[token] for token in first if token in known)
            for choice, first in zip(request.choices, firsts, strict=True)
            if first & known.keys()
        }
        return ChoiceScores(
            logprobs=logprobs, floor=None if len(logprobs) == len(firsts) else floor
        )

    async def hidden_states(self, request: HiddenStatesRequest) -> "np.ndarray":
        """Never called: the engine keeps its hidden states to itself."""
        raise CapabilityMissing("vLLM shows no hidden states", hint="take the hf backend")

    def _outstanding(self, batch: int) -> int:
        return self._options.max_outstanding or min(2 * batch, _MOST_OUTSTANDING)

    async def _load(self, report: Report) -> Loaded:
        """Find the files and start the engine, in a thread: that takes many seconds."""
        loop = asyncio.get_running_loop()

        def told(phrase: str, share: float | None) -> None:
            loop.call_soon_threadsafe(report, phrase, share)

        executor = ThreadPoolExecutor(1, thread_name_prefix="tseval-vllm")
        try:
            return await loop.run_in_executor(
                executor, lambda: load(find(self.spec, told), self._options, told)
            )
        finally:
            executor.shutdown(wait=False)

    async def _wake(self) -> Loaded | None:
        """Wake the engine that sleeps; None if there is none."""
        asleep, self._asleep = self._asleep, None
        if asleep is None:
            return None
        if asleep.engine.errored or self._loop is not asyncio.get_running_loop():
            await _shut_down(asleep.engine)
            return None
        await asleep.engine.wake_up()
        return asleep

    def _need(self) -> Loaded:
        if self._loaded is None:
            raise BackendUnavailable(f"'{self.spec.name}' is not loaded")
        return self._loaded

    def _at_work(self) -> Requests:
        self._need()
        assert self._requests is not None
        return self._requests

    def _room(self, ids: list[int]) -> int:
        """Tokens that the context has left behind an input.

        Raises:
            RequestFailed: None (kind 'overlong'); the engine draws one token at least.
        """
        context = self._need().context_length
        if len(ids) >= context:
            raise RequestFailed(
                f"the input has {len(ids)} tokens, the context {context}", kind="overlong"
            )
        return context - len(ids)


async def _shut_down(engine: Any) -> None:
    """End an engine; its processes are waited for, which must not hold up the loop."""
    if engine.output_handler is not None:
        # It would take the end of the engine for its death, and say so at length.
        engine.output_handler.cancel()
    await asyncio.to_thread(engine.shutdown)
    # When it is collected it ends once more; that may be as the interpreter ends, without modules.
    engine.shutdown = _nothing


def _nothing() -> None:
    """Do nothing."""


def _reader(spec: ModelSpec) -> ModelSpec:
    """Name the same model for transformers, which shows hidden states."""
    kept = ("dtype", "format", "trust_remote_code")
    options = {name: spec.options[name] for name in kept if name in spec.options}
    if "dtype" in options:
        options["dtype"] = _DTYPES.get(options["dtype"], options["dtype"])
    if spec.name == "demo" and not (spec.revision or spec.adapter):
        return ModelSpec(backend="demo", options=options)
    return replace(spec, backend="hf", options=options)


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend."""
    register(
        BackendFactory(
            name="vllm",
            summary="vLLM: a path, hub id (@revision), base:adapter, LoRA adapter folder, or demo",
            capabilities=CAPABILITIES,
            create=VllmBackend,
            options=OPTIONS,
            reader=_reader,
        )
    )
