"""Tokens per second of the hf backend against lm-eval's own hf model, side by side, as ratios.

Both sides load the same folder in one process and complete the same prompts greedily behind the
same chat template. The sides take turns, and medians are compared, since other work on the
machine hits both. Counted are the tokens of the texts that come back, so neither padding nor what
follows the end of a turn.

    python bench/hf_vs_lm_eval.py [--model FOLDER] [--prompts 48] [--tokens 192] [--rounds 3]
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tseval.models.demo import demo_folder
from tseval.models.hf import HfBackend
from tseval.requests import CompletionRequest, ModelSpec
from tseval.thinking import Limits
from tseval.types import Message, Sampling

ROOT = Path(__file__).parent.parent
FIXED = (4, 8, 16, 32, 48)


def prompts(count: int) -> list[str]:
    """HarmBench prompts of the mirror, ranked by hash: standard, contextual and copyright mixed."""
    mirror = Path(os.environ.get("TSEVAL_TEST_DATA", ROOT.parent / "shared" / "data"))
    lines = (mirror / "prompts" / "harmbench.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    return [_whole(row) for row in rows[:count]]


def _whole(row: dict[str, str]) -> str:
    context = row.get("context") or ""
    return row["prompt"] if context in row["prompt"] else f"{context}\n\n---\n\n{row['prompt']}"


class Ours:
    """The backend, asked for everything at once, as a session does."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.backend = HfBackend(ModelSpec(backend="hf", name=str(folder)))
        self.subject = self.loop.run_until_complete(self.backend.start(lambda *_: None))
        self.tokens = tokens

    def run(self, texts: list[str]) -> list[str]:
        async def ask(text: str) -> str:
            done = await self.backend.complete(
                CompletionRequest(
                    messages=(Message(role="user", content=text),),
                    limits=Limits(thinking=0, answer=self.tokens),
                    sampling=Sampling(temperature=0.0, top_p=1.0),
                )
            )
            return done.text

        async def all_of_them() -> list[str]:
            return list(await asyncio.gather(*map(ask, texts)))

        return self.loop.run_until_complete(all_of_them())


class Theirs:
    """lm-eval's own transformers model; its batch size can be changed between runs."""

    def __init__(self, folder: Path, tokens: int) -> None:
        import torch
        from lm_eval.models.huggingface import HFLM

        # Everything else at its default; without a device it asks for CUDA and fails.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = HFLM(pretrained=str(folder), device=device)
        self.tokens = tokens

    @property
    def dtype(self) -> str:
        return str(self.model.model.dtype).removeprefix("torch.")

    def run(self, texts: list[str], batch: int) -> list[str]:
        from lm_eval.api.instance import Instance

        self.model.batch_size_per_gpu = batch
        wanted = {"until": [], "max_gen_toks": self.tokens, "do_sample": False}
        requests = [
            Instance(
                request_type="generate_until",
                doc={},
                arguments=(
                    self.model.apply_chat_template([{"role": "user", "content": text}]),
                    dict(wanted),
                ),
                idx=number,
            )
            for number, text in enumerate(texts)
        ]
        return self.model.generate_until(requests, disable_tqdm=True)


def measure(run: Callable[[], list[str]], count: Callable[[str], int]) -> tuple[float, int]:
    """Tokens per second of one run, and how many tokens it made."""
    started = time.perf_counter()
    texts = run()
    seconds = time.perf_counter() - started
    tokens = sum(map(count, texts))
    return tokens / seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder; default: the demo model")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--default-rounds", type=int, default=1, help="of the slow batch of one")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(FIXED))
    given = parser.parse_args()
    logging.disable(logging.WARNING)

    folder = given.model or demo_folder(lambda phrase, share: print(phrase))
    texts = prompts(given.prompts)
    ours = Ours(folder, given.tokens)
    theirs = Theirs(folder, given.tokens)
    tokenizer: Any = theirs.model.tokenizer

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    print(f"{len(texts)} prompts, {min(map(count, texts))} to {max(map(count, texts))} tokens long")
    print(f"answers of at most {given.tokens} tokens, greedy; theirs loads as {theirs.dtype}")
    print(f"ours: {ours.subject.execution}")
    ours.run(texts[:2])
    theirs.run(texts[:2], 2)

    # Their default may pick another dtype than ours; then the sizes are measured in ours too.
    speeds: dict[str, list[float]] = {"tseval": []}
    for turn in range(given.rounds):
        sides: list[tuple[str, Callable[[], list[str]]]] = [("tseval", lambda: ours.run(texts))]
        sides += [
            (f"lm-eval, batch {size}", lambda size=size: theirs.run(texts, size))
            for size in given.sizes
        ]
        if turn < given.default_rounds:
            sides.append(("lm-eval, default (batch 1)", lambda: theirs.run(texts, 1)))
        for name, run in sides:
            speed, tokens = measure(run, count)
            speeds.setdefault(name, []).append(speed)
            print(f"  {turn + 1}. {name:28} {speed:8.1f} tokens/s, {tokens} tokens", flush=True)

    medians = {name: statistics.median(each) for name, each in speeds.items()}
    mine = medians.pop("tseval")
    print(f"\n{'':30} {'tokens/s':>8}  {'tseval is':>9}")
    print(f"{'tseval':30} {mine:8.1f}")
    for name, speed in medians.items():
        print(f"{name:30} {speed:8.1f}  {mine / speed:8.2f}x")
    best = max((name for name in medians if "default" not in name), key=lambda n: medians[n])
    print(f"\nbest fixed size: {best}: {mine / medians[best]:.2f}x")


if __name__ == "__main__":
    main()
