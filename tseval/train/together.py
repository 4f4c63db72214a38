"""Several processes that train one model together, as `accelerate launch` starts them."""

import os
from typing import Any

# The others wait for the first one's looks, for which torch's half hour can be too short.
PATIENCE = 24 * 3600


def rank_of_process() -> int:
    """Number of this process among those that train together; 0 is the first, or the only one."""
    return int(os.environ.get("RANK") or 0)


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def add_up(model: Any, more: list[Any], processes: int) -> None:
    """Add gradients and sums over all processes; each has divided by the labels of them all."""
    if processes == 1:
        return
    import torch

    slopes = [p for p in model.parameters() if p.requires_grad]
    for parameter in slopes:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    together = [*(p.grad for p in slopes), *more]
    flat: Any = torch.cat([each.flatten().float() for each in together])
    torch.distributed.all_reduce(flat)
    for each, part in zip(together, flat.split([t.numel() for t in together]), strict=True):
        each.copy_(part.view_as(each))


def agree(said: str, processes: int) -> str:
    """Let every process know what the first one decided; arguments of a trainer connect them."""
    if processes == 1:
        return said
    import torch

    box = [said]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
