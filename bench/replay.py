"""Replays of a thinking trace: what sharing the prefix saves against recomputing it, as ratios.

One trace of 1,000 tokens is cut at 6 places, and each cut is closed and continued 8 times. The
naive way is ``generate`` of transformers on a batch of the 8 continuations, for one cut after the
other. The hf backend gets the same requests, once cut by cut (so in the same batches of 8) and
once all at once, as a session asks; it starts each time with nothing kept. The sides take turns,
and medians are compared. No side stops at an end of turn, so all draw the same number of tokens.

Aims: at least 20 times fewer tokens of prompts computed, and with continuations of 4 tokens at
least 3 times less time. With 128 tokens drawing them takes most of the time; no aim.

    python bench/replay.py [--model FOLDER] [--rounds 3] [--long-rounds 1]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tseval.models.demo import demo_folder
from tseval.models.hf import HfBackend
from tseval.requests import CompletionRequest, ModelSpec, Piece
from tseval.thinking import Limits
from tseval.types import Message, Sampling

TRACE, CUTS, REPLAYS = 1000, 6, 8
QUESTION = (Message(role="user", content="How do I keep bread fresh for a week?"),)
OPENER, CLOSER = "<think>\n", "\n</think>\n\n"
THOUGHT = (
    "Let me think about step {}. Bread goes stale because its starch takes up water again, and"
    " mould needs moisture and warmth; so a dry and cool place helps, but a fridge does not. "
)


class Replay:
    """The requests of one trace, and both ways to answer them."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.backend = HfBackend(ModelSpec(backend="hf", name=str(folder)))
        self.loop.run_until_complete(self.backend.start(lambda *_: None))
        loaded = self.backend._need()
        # Both sides draw every token that they are asked for.
        self.backend._loaded = loaded._replace(stop_ids=frozenset())
        self.model, self.text = loaded.model, loaded.text
        trace = self.text.piece("".join(THOUGHT.format(n) for n in range(TRACE)))[:TRACE]
        self.cuts: list[tuple[Piece, ...]] = [
            (OPENER, tuple(trace[: TRACE * n // CUTS]), CLOSER) for n in range(1, CUTS + 1)
        ]
        self.asked = REPLAYS * sum(len(self.ids(cut)) for cut in self.cuts)

    def ids(self, cut: tuple[Piece, ...]) -> list[int]:
        """Token ids of prompt, trace up to the cut, and closer."""
        return self.text.prompt(QUESTION, {}, cut)

    def naive(self, tokens: int) -> int:
        """Recompute every prefix; returns the prompt tokens that the model read."""
        import torch

        for number, cut in enumerate(self.cuts):
            ids = torch.tensor([self.ids(cut)] * REPLAYS, device=self.model.device)
            torch.manual_seed(number)
            with torch.inference_mode():
                self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=tokens,
                    pad_token_id=self.text.pad_id,
                )
        return self.asked

    def shared(self, tokens: int, *, at_once: bool) -> int:
        """Let the backend do it; returns the prompt tokens that the model read."""

        async def replay(cuts: list[tuple[Piece, ...]]) -> None:
            requests = [
                CompletionRequest(
                    messages=QUESTION,
                    prefix=cut,
                    limits=Limits(thinking=0, answer=tokens),
                    sampling=Sampling(temperature=1.0, top_p=1.0),
                    seed=seed,
                )
                for cut in cuts
                for seed in range(REPLAYS)
            ]
            done = await asyncio.gather(*map(self.backend.complete, requests))
            assert all(each.tokens == tokens for each in done)

        worker = self.backend._at_work()
        worker._engine.prefixes.clear()
        before = self.backend.prefill
        for cuts in [self.cuts] if at_once else [[cut] for cut in self.cuts]:
            self.loop.run_until_complete(replay(cuts))
        after = self.backend.prefill
        assert after.asked - before.asked == self.asked
        return after.computed - before.computed


def main() -> None:
    """Time all ways in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--model", type=Path, help="model folder; default: the demo model")
    parser.add_argument("--rounds", type=int, default=3, help="with continuations of 4 tokens")
    parser.add_argument("--long-rounds", type=int, default=1, help="with 128 tokens")
    given = parser.parse_args()
    replay = Replay(given.model or demo_folder(lambda *_: None))
    sides: dict[str, Callable[[int], int]] = {
        "recomputed, cut by cut": replay.naive,
        "shared, cut by cut": lambda tokens: replay.shared(tokens, at_once=False),
        "shared, all at once": lambda tokens: replay.shared(tokens, at_once=True),
    }
    for side in sides.values():
        side(1)
    execution = replay.backend._need().subject.execution
    print(f"{CUTS} cuts x {REPLAYS} continuations of {TRACE} tokens; {execution['dtype']}")
    print(f"{'':24}{'tokens':>8}{'prompt tokens':>15}{'fewer':>8}{'seconds':>9}{'faster':>8}")
    for tokens, rounds in ((4, given.rounds), (128, given.long_rounds)):
        taken: dict[str, list[float]] = {name: [] for name in sides}
        read = dict.fromkeys(sides, 0)
        for _ in range(rounds):
            for name, side in sides.items():
                started = time.perf_counter()
                read[name] = side(tokens)
                taken[name].append(time.perf_counter() - started)
        if not rounds:
            continue
        first = next(iter(sides))
        naive = statistics.median(taken[first])
        for name, times in taken.items():
            seconds = statistics.median(times)
            fewer, faster = read[first] / read[name], naive / seconds
            print(
                f"{name:24}{tokens:8}{read[name]:15,}{fewer:8.1f}{seconds:9.2f}{faster:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
