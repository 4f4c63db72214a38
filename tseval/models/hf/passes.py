"""Single forward passes: log-likelihoods of continuations or next tokens, and hidden states.

Rows are padded on the right and no mask is passed: a causal model never looks there, and the fast
attention kernels take no mask. Runs in the worker thread.

Legend: B rows, T tokens, P positions, L layers, D width, V size of the vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.errors import BackendError
from tseval.types import LogLikelihood

if TYPE_CHECKING:
    import numpy as np
    import torch

# Most logits held at once, in numbers: 512 MiB of float32.
_LOGITS = 1 << 27
# What no probability at all is written as.
_LEAST = -9999.0


class Scoring(NamedTuple):
    """A continuation to be scored: token ids of the input, of which the last ``scored`` count."""

    ids: list[int]
    scored: int


class Choosing(NamedTuple):
    """A question for the next token: token ids of the input, and the tokens of each choice."""

    ids: list[int]
    choices: list[frozenset[int]]


class Reading(NamedTuple):
    """Hidden states to be read: token ids; positions, layers and ranges as indices from 0."""

    ids: list[int]
    positions: list[int]
    layers: list[int]
    spans: Sequence[tuple[int, int]] = ()


def pad_right(rows: Sequence[list[int]], pad_id: int, device: Any) -> "torch.Tensor":
    """Stack token ids of unequal length, int64 [B, T]."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device)


def score(model: Any, rows: Sequence[Scoring], pad_id: int) -> list[LogLikelihood]:
    """Score continuations in one pass.

    Only logits of positions that some row needs are computed, a chunk of them at a time where
    they would be many.

    Args:
        model: A causal language model of transformers.
        rows: Inputs; at least one token precedes each continuation.
        pad_id: Id that fills the right.
    """
    import torch

    ids = pad_right([row.ids for row in rows], pad_id, model.device)
    starts = [len(row.ids) - row.scored - 1 for row in rows]
    first, last = min(starts), max(len(row.ids) for row in rows) - 1
    vocabulary = model.get_output_embeddings().weight.shape[0]
    results = []
    if (last - first) * len(rows) * vocabulary > _LOGITS and len(rows) > 1:
        half = len(rows) // 2
        return score(model, rows[:half], pad_id) + score(model, rows[half:], pad_id)
    logits = _logits(model, ids, torch.arange(first, last, device=ids.device))
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        own = logits[n, start - first : len(row.ids) - 1 - first].float()
        targets = ids[n, start + 1 : len(row.ids)]
        chosen = own.log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
        results.append(
            LogLikelihood(
                total=float(chosen.double().sum()),
                greedy=bool((own.argmax(dim=-1) == targets).all()),
                tokens=row.scored,
            )
        )
    return results


def choose(model: Any, rows: Sequence[Choosing], pad_id: int) -> list[list[float]]:
    """Give the log-probability of each choice as the next token, in one pass.

    Args:
        model: A causal language model of transformers.
        rows: Inputs of one token at least; of a choice's tokens the most probable one counts.
        pad_id: Id that fills the right.

    Returns:
        For each row, natural log-probabilities of its choices, from a softmax in float32 over
        the whole vocabulary.
    """
    import torch

    places = sorted({len(row.ids) - 1 for row in rows})
    vocabulary = model.get_output_embeddings().weight.shape[0]
    if len(places) * len(rows) * vocabulary > _LOGITS and len(rows) > 1:
        half = len(rows) // 2
        return choose(model, rows[:half], pad_id) + choose(model, rows[half:], pad_id)
    ids = pad_right([row.ids for row in rows], pad_id, model.device)
    logits = _logits(model, ids, torch.tensor(places, device=ids.device))
    found = []
    for n, row in enumerate(rows):
        shares = logits[n, places.index(len(row.ids) - 1)].float().log_softmax(dim=-1)
        best = [float(shares[sorted(tokens)].max()) for tokens in row.choices]
        # A model may rule a token out altogether, but a journal has no infinity.
        found.append([max(value, _LEAST) for value in best])
    return found


def _logits(model: Any, ids: "torch.Tensor", places: "torch.Tensor") -> "torch.Tensor":
    """Logits [B, len(places), V] at some positions."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits
        return kept
    every: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return every[:, places]


def read(model: Any, rows: Sequence[Reading], pad_id: int) -> "list[np.ndarray]":
    """Read hidden states in one pass; only what was asked for leaves the device.

    The LM head does not run. Layer 0 is what the first block reads (the embedding, scaled where
    the model scales it), layer n what block n + 1 reads, the last one stands behind the final
    norm: what ``output_hidden_states=True`` gives.

    Args:
        model: A causal language model of transformers.
        rows: Inputs, positions, layers and spans.
        pad_id: Id that fills the right.

    Returns:
        float32 [P, L, D] for each row; means over spans stand behind the positions.
    """
    import torch

    ids = pad_right([row.ids for row in rows], pad_id, model.device)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    blocks = _blocks(decoder)
    wanted = sorted({layer for row in rows for layer in row.layers})
    found: dict[int, list[torch.Tensor]] = {}
    # Made once: every transfer to a device waits for what runs there.
    places = [torch.tensor(row.positions, dtype=torch.int64, device=ids.device) for row in rows]

    def gather(layer: int, states: "torch.Tensor") -> None:
        found[layer] = [
            torch.stack(
                [
                    *states[n, places[n]].float(),
                    *(states[n, start:stop].float().mean(dim=0) for start, stop in row.spans),
                ]
            )
            for n, row in enumerate(rows)
        ]

    hooks = [
        blocks[layer].register_forward_pre_hook(
            lambda _, args, kwargs, layer=layer: gather(
                layer, args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
        for layer in wanted
        if layer < len(blocks)
    ]
    try:
        output = decoder(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(blocks) in wanted:
        gather(len(blocks), output.last_hidden_state)
    return [
        torch.stack([found[layer][n] for layer in row.layers], dim=1).cpu().numpy()
        for n, row in enumerate(rows)
    ]


def count_layers(model: Any) -> int:
    """Number of blocks; hidden states are numbered from 0 to this."""
    return len(_blocks(model.get_decoder() if hasattr(model, "get_decoder") else model.base_model))


def _blocks(decoder: Any) -> Any:
    """The list of a decoder's blocks, by whatever name.

    Raises:
        BackendError: There is none.
    """
    from torch.nn import ModuleList

    lists = [child for child in decoder.children() if isinstance(child, ModuleList)]
    if not lists:
        raise BackendError(
            f"'{type(decoder).__name__}' shows no list of blocks to read hidden states from"
        )
    return max(lists, key=len)
