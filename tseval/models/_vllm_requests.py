"""Requests to vLLM's engine, and what its answers and errors mean.

Limits of trace and answer, the end of a turn and banned strings are watched here, token by token,
with the same objects as in the hf backend; the engine only draws.
"""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from tseval.errors import BackendUnavailable, RequestFailed
from tseval.models.hf.rows import Row
from tseval.models.hf.text import Text
from tseval.thinking import Limits
from tseval.types import LogLikelihood, Sampling

# Added to the logit of a token that must not be drawn.
_NEVER = -1e9
# Log-probabilities that are asked for where the engine cannot be asked for given tokens.
_TOP = 20
_SEED_BITS = (1 << 63) - 1
# How often, and how far apart, requests are told to end before the engine is shut down.
_PATIENCE = 100
_PAUSE_SECONDS = 0.01
_UNLOADED = "the model was unloaded before it answered"


class Requests:
    """Sends requests to one engine.

    Args:
        engine: ``AsyncLLM``, or what behaves like it.
        text: Encodes banned strings.
        stop_ids: Tokens that end a turn.
        adapter: ``LoRARequest`` for every request, or None.
        seeds: Whether requests carry their seeds.
    """

    def __init__(
        self, engine: Any, text: Text, stop_ids: frozenset[int], adapter: Any, *, seeds: bool
    ) -> None:
        self._engine = engine
        self._text = text
        self._stop_ids = stop_ids
        self._adapter = adapter
        self._seeds = seeds
        self._numbers = itertools.count()
        self._waiting: set[str] = set()
        self._rows: set[Row] = set()

    @property
    def tokens_under_way(self) -> int:
        """New tokens of the completions that are not done."""
        return sum(row.position for row in self._rows)

    async def complete(self, row: Row, limits: Limits, *, thinks: bool) -> None:
        """Draw until a row is done.

        A token that completes a banned string is refused and drawn again, without it. Behind it
        the completion goes on as a new request: what was drawn so far is in the prefix cache.

        Args:
            row: The row; keeps its own limits.
            limits: The same limits; say how many tokens to ask for.
            thinks: Whether the format has a trace.

        Raises:
            RequestFailed: The engine refuses the request, or is shut down.
            BackendUnavailable: The engine is dead.
        """
        never = self._never(row.banned)
        refused: set[int] = set()
        most = min(row.room, max(limits.total if thinks else limits.answer, 1))
        self._rows.add(row)
        try:
            for attempt in itertools.count():
                # Behind a refused token just one is asked for: the others may follow it again.
                before = row.position
                tokens = 1 if refused else most - before
                params = sampling_fields(
                    row.sampling,
                    tokens=tokens,
                    stop_ids=self._stop_ids,
                    never=never | refused,
                    seed=attempt_seed(row.seed, attempt) if self._seeds else None,
                )
                found = await self._draw(row, params)
                if row.done:
                    return
                if row.position > before:
                    refused.clear()
                elif found is None or found in refused:
                    raise RequestFailed(f"the engine gives no token but {found or 'none'} here")
                if found is not None:
                    refused.add(found)
        finally:
            self._rows.discard(row)

    async def score(self, ids: list[int], scored: int) -> LogLikelihood:
        """Score the last tokens of an input; raises as :meth:`complete` does."""
        # The engine must draw a token, so the input has to leave room for one.
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        last = await self._last(ids, params)
        rows = (last.prompt_logprobs or [])[-scored:]
        if len(rows) < scored:
            raise RequestFailed("the engine gave no log-probabilities", kind="malformed")
        found = [row[token] for row, token in zip(rows, ids[-scored:], strict=True)]
        return LogLikelihood(
            total=sum(each.logprob for each in found),
            greedy=all(each.rank == 1 for each in found),
            tokens=scored,
        )

    async def next_tokens(
        self, ids: list[int], wanted: Sequence[int]
    ) -> tuple[dict[int, float], float | None]:
        """Give log-probabilities of given tokens as the next one.

        Returns:
            Natural log-probability by token, and what those that are missing cannot exceed
            (None if none are); raises as :meth:`complete` does.
        """
        exact = takes("logprob_token_ids")
        asked = {"logprob_token_ids": list(wanted)} if exact else {"logprobs": _TOP}
        params = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, **asked}
        last = await self._last(ids, params)
        rows = last.outputs[0].logprobs
        if not rows:
            raise RequestFailed("the engine gave no log-probabilities", kind="malformed")
        found = {token: float(each.logprob) for token, each in rows[0].items()}
        known = {token: found[token] for token in wanted if token in found}
        return known, None if len(known) == len(wanted) else min(found.values())

    async def abandon(self) -> None:
        """Make every request that waits fail, before the engine is shut down."""
        for _ in range(_PATIENCE):
            if not self._waiting:
                return
            # Again, for those that the engine had not been handed yet.
            await self._engine.abort(list(self._waiting))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _never(self, banned: Sequence[str]) -> frozenset[int]:
        """Tokens that spell a banned string by themselves."""
        pieces = map(self._text.piece, banned)
        return frozenset(ids[0] for ids in pieces if len(ids) == 1)

    async def _draw(self, row: Row, params: dict[str, Any]) -> int | None:
        """Feed what the engine draws to a row, until it is done or a token has to be refused.

        Returns:
            The refused token; None if all that was asked for was drawn.
        """
        async with aclosing(self._stream(row.ids, params)) as stream:
            async for output in stream:
                for token in output.outputs[0].token_ids:
                    if row.banned and row.completes_banned(token):
                        return int(token)
                    row.take(int(token))
                    if row.done:
                        return None
        return None

    async def _last(self, ids: list[int], params: dict[str, Any]) -> Any:
        last = None
        async with aclosing(self._stream(ids, params, final=True)) as stream:
            async for output in stream:
                last = output
        if last is None:
            raise RequestFailed("the engine gave no answer", kind="malformed")
        return last

    async def _stream(
        self, ids: list[int], params: dict[str, Any], *, final: bool = False
    ) -> AsyncGenerator[Any, None]:
        """Send one request; yields the engine's outputs, each with the tokens that are new."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind as Kind

        name = f"tseval-{next(self._numbers)}"
        self._waiting.add(name)
        try:
            with _understood():
                kind = Kind.FINAL_ONLY if final else Kind.DELTA
                stream = self._engine.generate(
                    {"prompt_token_ids": ids},
                    SamplingParams(**params, output_kind=kind),
                    name,
                    lora_request=self._adapter,
                )
                async with aclosing(stream):
                    async for output in stream:
                        reason = output.outputs[0].finish_reason if output.outputs else ""
                        if reason == "abort":
                            raise RequestFailed(_UNLOADED)
                        if reason == "error":
                            raise RequestFailed("the engine failed in this request")
                        yield output
        finally:
            self._waiting.discard(name)


def sampling_fields(
    sampling: Sampling,
    *,
    tokens: int,
    stop_ids: frozenset[int],
    never: frozenset[int] | set[int],
    seed: int | None,
) -> dict[str, Any]:
    """Fields of ``SamplingParams`` for a completion.

    Args:
        sampling: How tokens are drawn.
        tokens: Most new tokens.
        stop_ids: Tokens that end a turn.
        never: Tokens that must not be drawn.
        seed: Row seed; None where the engine takes none. Greedy rows need none.
    """
    greedy = sampling.temperature <= 0
    return {
        "max_tokens": tokens,
        "temperature": max(sampling.temperature, 0.0),
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": None if greedy or seed is None else seed & _SEED_BITS,
        # The engine knows one end of turn, the row knows all of them.
        "ignore_eos": True,
        "stop_token_ids": sorted(stop_ids),
        "logit_bias": dict.fromkeys(sorted(never), _NEVER) or None,
        "detokenize": False,
    }


def attempt_seed(seed: int, attempt: int) -> int:
    """Seed of a completion's next request, so that it does not repeat the draws of the first."""
    if not attempt:
        return seed
    digest = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & _SEED_BITS


def takes(field: str) -> bool:
    """Whether this version's ``SamplingParams`` has a field."""
    from vllm import SamplingParams

    fields: Mapping[str, Any] | tuple[str, ...] = SamplingParams.__struct_fields__
    return field in fields


@contextmanager
def _understood() -> Iterator[None]:
    """Turn the engine's exceptions into what they mean for a run.

    Raises:
        BackendUnavailable: The engine is dead.
        RequestFailed: This request failed, and no other.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except (RequestFailed, BackendUnavailable, asyncio.CancelledError, GeneratorExit):
        raise
    except EngineDeadError as error:
        raise BackendUnavailable(
            "vLLM's engine died", hint="its own words stand above; the same command resumes the run"
        ) from error
    except Exception as error:
        # The classes of its other errors changed with each version; all are about one request.
        said = " ".join(str(error.__cause__ or error).split())[:300]
        kind = "overlong" if "maximum model length" in said or "max_model_len" in said else "engine"
        raise RequestFailed(f"vLLM: {type(error).__name__}: {said}", kind=kind) from error
