"""What a session talks to: prompts in, completions out, by transformers.

One worker thread runs torch; requests wait in a pool that it forms batches from (see ``batches``
for the rule, ``engine`` for how rows join and leave, ``prefixes`` for what their prompts share).
Draws depend on row seed and position alone (``tseval.models._sampling``); in low precision,
rounding may still differ between batches. ``-M deterministic=true`` runs float32, one row at a time
and without sharing: equal bytes, always.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tseval.errors import BackendUnavailable, RequestFailed
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
    places_of,
    spans_of,
)
from tseval.roles import BackendFactory
from tseval.types import ChoiceScores, LogLikelihood

from .cache import layers_that_fit
from .engine import Engine, Prefill
from .limits import default_outstanding, share_out
from .load import Loaded, Named, load, resolve
from .options import OPTIONS, likely_device, read_options
from .passes import Choosing, Reading, Scoring, count_layers
from .prefixes import PrefixTree, may_share
from .rows import Row
from .words import Words
from .worker import Worker

if TYPE_CHECKING:
    import numpy as np

CAPABILITIES = Capabilities(
    prefix=True,
    token_ids=True,
    raw=True,
    logprobs=True,
    choices=True,
    hidden_states=True,
    seeds=True,
    entropies=True,
)
_ENDLESS = 1 << 30


class HfBackend(Words):
    """One model of transformers; see ``tseval.roles.Backend`` for the contract.

    Args:
        spec: Name and options.
        prepare: Finds the files to load, in the worker thread; default: by the spec's name.

    Raises:
        ConfigError: An option is unknown or has no such value.
    """

    def __init__(
        self, spec: ModelSpec, *, prepare: Callable[[Report], Named] | None = None
    ) -> None:
        super().__init__(spec)
        self._options = read_options(spec.backend, spec.options)
        self._prepare = prepare or (lambda report: resolve(spec))
        self.capabilities = CAPABILITIES
        self.context_length: int | None = None
        device = likely_device(self._options.device)
        self.devices: tuple[str, ...] = (device,)
        self.max_outstanding = default_outstanding(device, self._options)
        self._loaded: Loaded | None = None
        self._worker: Worker | None = None
        self._executor: ThreadPoolExecutor | None = None

    @property
    def tokens_under_way(self) -> int:
        """New tokens of the rows in the batch."""
        return 0 if self._worker is None else self._worker.tokens_under_way

    @property
    def prefill(self) -> Prefill:
        """Tokens of prompts so far, and those of them that the model read."""
        return Prefill() if self._worker is None else self._worker.prefill

    async def start(self, report: Report) -> Subject:
        """Load the model into memory; does nothing if it is there.

        Raises:
            BackendError: It cannot be found, loaded, or held.
        """
        if self._loaded is not None:
            return self._loaded.subject
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, thread_name_prefix="tseval-torch")

        def told(phrase: str, share: float | None) -> None:
            loop.call_soon_threadsafe(report, phrase, share)

        try:
            loaded, worker = await loop.run_in_executor(executor, self._load, told, executor)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._loaded, self._worker, self._executor = loaded, worker, executor
        self._text = loaded.text
        self.capabilities = replace(CAPABILITIES, chat=bool(loaded.text.template))
        self.context_length = loaded.context_length
        self.devices = (loaded.device,)
        return loaded.subject

    async def close(self) -> None:
        """Stop within a token and free the memory; what still waits fails."""
        worker, executor = self._worker, self._executor
        self._loaded = self._worker = self._executor = None
        if worker is None or executor is None:
            return
        worker.stop()
        # Behind whatever runs in the one thread; then nothing of the model is in use.
        await asyncio.get_running_loop().run_in_executor(executor, worker.abandon)
        executor.shutdown(wait=False)
        del worker
        _free_memory()

    async def complete(self, request: CompletionRequest) -> Completion:
        """Generate one completion.

        Raises:
            RequestFailed: The prompt leaves no room in the context (kind 'overlong'), the chat
                template refuses it ('refused'), or the engine failed ('engine').
        """
        loaded = self._need()
        prompt = self._input(request.messages, request.template_kwargs, request.prefix)
        room = self._room(prompt)
        if request.limits.total <= 0:
            return Completion(text="", ids=(), finish="length", prompt_tokens=len(prompt))
        row = Row(prompt, request, loaded.text, loaded.stop_ids, room)
        done: Completion = await self._at_work().complete(row)
        return done

    async def loglikelihood(self, request: ScoringRequest) -> LogLikelihood:
        """Score a continuation; raises as :meth:`complete` does."""
        ids = self._input(request.messages, request.template_kwargs, request.context)
        scored = self._piece(request.continuation)
        if not scored:
            return LogLikelihood(total=0.0, greedy=True, tokens=0)
        self._room([*ids, *scored[1:]])
        found: LogLikelihood = await self._at_work().score(Scoring(ids + scored, len(scored)))
        return found

    async def choose(self, request: ChoiceRequest) -> ChoiceScores:
        """Say how probable each choice is as the next token.

        Raises:
            RequestFailed: Choices begin with the same token or with none (kind 'malformed');
                else as :meth:`complete` does.
        """
        ids = self._input(request.messages, request.template_kwargs, request.prefix)
        self._room(ids[1:])
        firsts = [self._need().text.first_tokens(choice) for choice in request.choices]
        if not all(firsts) or sum(map(len, firsts)) > len(frozenset().union(*firsts)):
            raise RequestFailed(
                f"two of the choices {', '.join(map(repr, request.choices))} begin with the same"
                " token, or one with none",
                kind="malformed",
            )
        found = await self._at_work().choose(Choosing(ids, firsts))
        return ChoiceScores(logprobs=dict(zip(request.choices, found, strict=True)))

    async def hidden_states(self, request: HiddenStatesRequest) -> "np.ndarray":
        """Read hidden states, float32 [positions + spans, layers, width].

        Raises:
            RequestFailed: A position, span or layer does not exist (kind 'malformed'); else as
                :meth:`complete` does.
        """
        loaded = self._need()
        ids = self._input(request.messages, request.template_kwargs, request.prefix)
        self._room(ids[1:])
        work = Reading(
            ids,
            places_of(request.positions, len(ids), "position"),
            places_of(request.layers, count_layers(loaded.model) + 1, "layer"),
            spans_of(request.spans, len(ids)),
        )
        found: np.ndarray = await self._at_work().read(work)
        return found

    def _load(self, report: Report, executor: ThreadPoolExecutor) -> tuple[Loaded, Worker]:
        loaded = load(self._prepare(report), self._options, report)
        model, pad_id = loaded.model, loaded.text.pad_id
        layers = layers_that_fit(model)
        shares = layers is not None and may_share(model)
        memory = share_out(model, loaded.device, self._options, shares=shares)
        prefixes = PrefixTree(memory.prefix_bytes, memory.token_bytes)
        engine = Engine(model, layers, pad_id, prefixes)
        return loaded, Worker(engine, model, pad_id, memory.limits, executor)

    def _need(self) -> Loaded:
        if self._loaded is None:
            raise BackendUnavailable(f"'{self.spec.name or self.spec.backend}' is not loaded")
        return self._loaded

    def _at_work(self) -> Worker:
        self._need()
        assert self._worker is not None
        return self._worker

    def _piece(self, piece: Piece) -> list[int]:
        return self._need().text.piece(piece)

    def _room(self, ids: list[int]) -> int:
        """Tokens that the context has left behind an input.

        Raises:
            RequestFailed: None (kind 'overlong').
        """
        if self.context_length is None:
            return _ENDLESS
        room = self.context_length - len(ids)
        if room < 1:
            raise RequestFailed(
                f"the input has {len(ids)} tokens, the context {self.context_length}",
                kind="overlong",
            )
        return room


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend."""
    register(
        BackendFactory(
            name="hf",
            summary="transformers: a path, hub id (@revision), LoRA adapter folder or GGUF file",
            capabilities=CAPABILITIES,
            create=HfBackend,
            options=OPTIONS,
        )
    )
