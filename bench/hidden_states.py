"""Hidden states at a few positions and layers beside a bare forward pass of the same batch.

Both sides run the model's decoder on the same token ids, without its head and without a cache; one
of them also takes hidden states at some positions and means over a span, at some layers, and
brings them to the CPU. The sides take turns; medians are compared.

Aim: at most 1.15 times the time of the bare pass.

    python bench/hidden_states.py [--model FOLDER] [--rows 8] [--tokens 256] [--rounds 15]
"""

import argparse
import statistics
import time
from collections.abc import Callable

from tseval.models.demo import demo_model
from tseval.models.hf.load import load, resolve
from tseval.models.hf.options import read_options
from tseval.models.hf.passes import Reading, count_layers, pad_right, read
from tseval.requests import ModelSpec


def main() -> None:
    """Time both sides in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="model folder; default: the demo model")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    import torch

    named = (
        resolve(ModelSpec(backend="hf", name=given.model))
        if given.model
        else demo_model(lambda *_: None)
    )
    loaded = load(named, read_options("hf", {}), lambda *_: None)
    model, pad_id = loaded.model, loaded.text.pad_id
    text = loaded.text.piece("Bread goes stale because its starch takes up water again. " * 100)
    layers = sorted({1, count_layers(model) // 2, count_layers(model)})
    size = given.tokens
    rows = [
        Reading(text[n : n + size], [0, size // 2, size - 1], layers, [(size // 4, size // 2)])
        for n in range(given.rows)
    ]

    def bare() -> object:
        ids = pad_right([row.ids for row in rows], pad_id, model.device)
        found = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        # What runs on a GPU has run once a number of it is here.
        return float(found[0, 0, 0])

    sides: dict[str, Callable[[], object]] = {
        "bare pass": bare,
        "with states": lambda: read(model, rows, pad_id),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for number in range(given.rounds + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                if number:
                    taken[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    facts = loaded.subject.execution
    print(f"{given.rows} rows of {size} tokens, {len(layers)} layers, 3 positions and 1 span;")
    print(f"{facts['dtype']} on {facts['device']}, medians of {given.rounds}")
    for name, each in seconds.items():
        print(f"{name:12}{1000 * each:9.1f} ms{each / seconds['bare pass']:8.3f}")
    pairs = zip(taken["with states"], taken["bare pass"], strict=True)
    ratios = sorted(one / other for one, other in pairs)
    print(f"ratio of neighbours: median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
