"""How much fits into a batch, from the model's size and the memory that is free."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from .batches import BatchLimits
from .options import HfOptions

# What a step costs beside attention, as bytes that attention could have read in that time: of the
# weights this share (products read them faster than attention reads keys), and a constant for
# all that does not depend on the model's size. Measured on two cores with the demo model, where a
# step of 16 rows of 300 tokens takes 28 ms for products, 25 ms for the rest, 20 ms for attention.
_WEIGHT_SHARE = 0.6
_STEP_BYTES = {"cpu": 140e6, "cuda": 40e9}
# Share of the free memory that keys and values may take; the rest is for activations and others.
_MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.6}
_MOST_TOKENS = {"cpu": 1 << 16, "cuda": 1 << 22}
# Of that memory, the share of beginnings that are kept for prompts to come; and the most of them.
_PREFIX_SHARE = 0.25
_MOST_PREFIX_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 19}
_MOST_ROWS = {"cpu": 128, "cuda": 256}
_PASS_TOKENS = {"cpu": 2048, "cuda": 8192}
# A pass over prompts takes as long as a step of decoding, and then so long per token.
_PASS_COST = {"cpu": 100, "cuda": 1000}


class Memory(NamedTuple):
    """What keys and values may take.

    Attributes:
        limits: Of a batch.
        prefix_bytes: For beginnings that prompts share.
        token_bytes: What a token takes.
    """

    limits: BatchLimits
    prefix_bytes: int
    token_bytes: int


def share_out(model: Any, device: str, options: HfOptions, *, shares: bool) -> Memory:
    """Share out the memory between a batch of this model and what it keeps of prompts.

    Args:
        model: The loaded model.
        device: 'cpu', 'cuda:0' ...
        options: ``batch_tokens`` and ``prefix_cache`` replace what we would take,
            ``deterministic`` allows one row.
        shares: Whether the model's prompts can share what they begin with.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    token_bytes = _token_bytes(model)
    memory = int(_MEMORY_SHARE[kind] * free_bytes(device))
    kept = options.prefix_bytes if shares else 0
    if kept is None:
        kept = min(int(_PREFIX_SHARE * memory), _MOST_PREFIX_TOKENS[kind] * token_bytes)
    # Whatever is asked for, a batch needs some.
    left = max(memory - kept, memory // 4)
    tokens = options.batch_tokens or min(_MOST_TOKENS[kind], left // token_bytes)
    return Memory(_limits(model, kind, options, tokens), kept, token_bytes)


def _limits(model: Any, kind: str, options: HfOptions, tokens: int) -> BatchLimits:
    token_bytes = _token_bytes(model)
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    return BatchLimits(
        tokens=max(tokens, 1),
        rows=1 if options.deterministic else _MOST_ROWS[kind],
        step_tokens=int((_WEIGHT_SHARE * weight_bytes + _STEP_BYTES[kind]) / token_bytes),
        pass_tokens=min(_PASS_TOKENS[kind], tokens),
        pass_cost=_PASS_COST[kind],
    )


def default_outstanding(device: str, options: HfOptions) -> int:
    """Requests that are worth having waiting at once: several batches, to sort by length."""
    if options.max_outstanding:
        return options.max_outstanding
    if options.deterministic:
        return 16
    return 1024 if device.startswith("cuda") else 256


def _token_bytes(model: Any) -> int:
    """Bytes of keys and values per token of context."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    size: int = model.dtype.itemsize
    return int(2 * config.num_hidden_layers * shared * width * size)


def free_bytes(device: str) -> int:
    """Memory that is free on a device."""
    if device.startswith("cuda"):
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
