"""Tokens per second of a tseval run on vLLM against bare ``LLM.chat`` on the same prompts.

Both sides load the same folder with the same arguments in one process and take turns; other work
on the machine hits both. Ours is a whole run: rows, keys, queue, rendering, journal, the judge
refusal-rules, scores. Theirs is one call with all prompts. Loading is not timed, and prefix caches
are emptied before each turn. Counted are the tokens of the answers, without ends of turns.

    .venv-vllm/bin/python bench/vllm_overhead.py [--prompts 96] [--tokens 128] [--rounds 5]
"""

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tseval.models.demo import demo_folder
from tseval.models.vllm import VllmBackend
from tseval.plugins import Registry, load_registry
from tseval.requests import ModelSpec
from tseval.runner import run
from tseval.session import Session
from tseval.spec import RunSpec
from tseval.types import Sampling

MIRROR = Path(__file__).parent.parent.parent / "shared" / "data"
BENCHMARK = "or_bench"


class Quiet:
    """A display that shows nothing."""

    def phase(self, phrase: str, share: float | None) -> None: ...

    def tick(self, session: Session) -> None: ...

    def remark(self, message: str) -> None: ...


class Kept(VllmBackend):
    """A backend that outlives its runs, and shows what it was asked."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.asked: dict[str, list[dict[str, str]]] = {}
        self.tokens = 0

    async def close(self) -> None: ...

    async def complete(self, request: Any) -> Any:
        turns = [{"role": each.role, "content": each.content} for each in request.messages]
        self.asked[str(turns)] = turns
        done = await super().complete(request)
        self.tokens += done.tokens
        return done

    async def end(self) -> None:
        await super().close()


class Ours:
    """A whole run of tseval on a backend that stays loaded."""

    def __init__(self, registry: Registry, spec: RunSpec) -> None:
        self.registry = registry
        self.spec = spec
        self.loop = asyncio.new_event_loop()
        self.backend = Kept(spec.model)
        self.loop.run_until_complete(self.backend.start(lambda phrase, share: None))
        self.engine = self.backend._need().engine

    def turn(self) -> tuple[int, float]:
        """Tokens of the answers, and seconds."""
        self.loop.run_until_complete(self.engine.reset_prefix_cache())
        self.backend.tokens = 0
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            outcome = self.loop.run_until_complete(
                run(self.spec, self.registry, Quiet(), out=Path(folder), backend=self.backend)
            )
            seconds = time.perf_counter() - started
        if outcome.scorecard.failed:
            raise SystemExit(f"failed: {outcome.scorecard.failed}")
        return self.backend.tokens, seconds

    def end(self) -> None:
        self.loop.run_until_complete(self.backend.end())


class Theirs:
    """One call of ``LLM.chat`` with all prompts."""

    def __init__(self, folder: Path, arguments: dict[str, Any], tokens: int) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(model=str(folder), generation_config="vllm", **arguments)
        self.params = SamplingParams(temperature=0.0, max_tokens=tokens)

    def turn(self, conversations: list[list[dict[str, str]]]) -> tuple[int, float]:
        """Tokens of the answers, and seconds."""
        self.llm.reset_prefix_cache()
        started = time.perf_counter()
        done = self.llm.chat(conversations, self.params, use_tqdm=False)
        seconds = time.perf_counter() - started
        made = [each.outputs[0] for each in done]
        return sum(len(each.token_ids) - (each.finish_reason == "stop") for each in made), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if find_spec("vllm") is None:
        print("vLLM is not installed here: make test-vllm sets up .venv-vllm, which has it")
        return
    logging.disable(logging.WARNING)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")

    folder = demo_folder(lambda phrase, share: print(phrase))
    mirror = os.environ.get("TSEVAL_TEST_DATA", str(MIRROR))
    spec = RunSpec(
        model=ModelSpec(backend="vllm", name=str(folder)),
        benchmarks=(BENCHMARK,),
        sampling=Sampling(temperature=0.0, top_p=1.0, answer_tokens=given.tokens),
        answer_tokens_fixed=True,
        limit=given.prompts,
        data_dirs=(mirror,),
    )
    ours = Ours(load_registry(), spec)
    found = ours.engine.vllm_config
    shared = {
        "enforce_eager": found.model_config.enforce_eager,
        "enable_prefix_caching": found.cache_config.enable_prefix_caching,
        "enable_chunked_prefill": found.scheduler_config.enable_chunked_prefill,
        "max_num_batched_tokens": found.scheduler_config.max_num_batched_tokens,
        "max_num_seqs": found.scheduler_config.max_num_seqs,
    }
    print(f"{BENCHMARK}, answers of at most {given.tokens} tokens, greedy; {shared}")
    ours.turn()
    conversations = list(ours.backend.asked.values())
    theirs = Theirs(folder, shared, given.tokens)
    theirs.turn(conversations)

    ratios, spent = [], {"tseval": 0.0, "LLM.chat": 0.0}
    for turn in range(given.rounds):
        # Who goes first changes, so that neither side always runs on the warmer machine.
        sides = {"tseval": ours.turn, "LLM.chat": lambda: theirs.turn(conversations)}
        order = list(sides) if turn % 2 else list(reversed(sides))
        speeds = {}
        for name in order:
            tokens, seconds = sides[name]()
            speeds[name] = tokens / seconds
            spent[name] += seconds / tokens
            print(
                f"  {turn + 1}. {name:9} {speeds[name]:7.1f} tokens/s, {tokens} tokens", flush=True
            )
        ratios.append(speeds["tseval"] / speeds["LLM.chat"])
    print(f"\n{len(conversations)} prompts; tseval run / LLM.chat, tokens per second:")
    print(f"over all rounds {spent['LLM.chat'] / spent['tseval']:.3f}; by round: ", end="")
    print(f"median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    ours.end()


if __name__ == "__main__":
    main()
