"""At which tokens of a trace states are read: 100 single ones, or 100 slices."""

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tseval.errors import RequestFailed
from tseval.types import Message, Rollout, Thinking

from .reading import replay_prefix

if TYPE_CHECKING:
    from tseval.rollouts import Model

TRACE_PLACES = 100


class TracePlaces(NamedTuple):
    """What is read of a trace.

    Attributes:
        tokens: Tokens, counted from the trace's first, each once.
        hopping: For each place, the number of its token in ``tokens``.
        slices: First token of each slice, and that behind it; none where single tokens do.
    """

    tokens: tuple[int, ...]
    hopping: tuple[int, ...]
    slices: tuple[tuple[int, int], ...]

    def laid_out(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put what was read in order: hopping, then pooling.

        Args:
            found: float [tokens + slices, ...].

        Returns:
            float [2 * places, ...].
        """
        single = found[list(self.hopping)]
        return np.concatenate([single, found[len(self.tokens) :] if self.slices else single])


def trace_places(length: int, places: int = TRACE_PLACES) -> TracePlaces:
    """Choose places of a trace.

    Hopping reads token floor(k (length - 1) / (places - 1)) at place k, so that tokens repeat in
    short traces; pooling averages the slices between floor(k length / places), and does as
    hopping where there are no more tokens than places.

    Args:
        length: Tokens of the trace, 1 or more.
        places: How many.

    Source: arXiv 2606.25013, published code.
    """
    every = tuple(k * (length - 1) // (places - 1) for k in range(places))
    tokens = tuple(sorted(set(every)))
    number = {token: n for n, token in enumerate(tokens)}
    edges = [k * length // places for k in range(places + 1)]
    slices = tuple(pairwise(edges)) if length > places else ()
    return TracePlaces(tokens, tuple(number[token] for token in every), slices)


def trace_spans(
    model: "Model", prompt: str, rollout: Rollout, thinking: Thinking, plan: TracePlaces
) -> tuple[tuple[int, int], ...]:
    """Give a plan's slices as spans of the whole sequence, as hidden states are asked for.

    Args:
        model: The model that wrote the trace.
        prompt: What it was asked.
        rollout: The rollout.
        thinking: The policy that it was made under.
        plan: Of its trace.

    Raises:
        RequestFailed: The backend does not know where the trace begins.
    """
    if not plan.slices:
        return ()
    backend = model.backend
    asked = model.conversation((Message(role="user", content=prompt),))
    lengths = [backend.prompt_tokens(asked, {})]
    for piece in replay_prefix(model, rollout, thinking, 0):
        lengths.append(backend.text_tokens(piece) if isinstance(piece, str) else len(piece))
    if None in lengths:
        raise RequestFailed("the backend does not say how long a prompt is", kind="malformed")
    begin = sum(length or 0 for length in lengths)
    return tuple((begin + first, begin + stop) for first, stop in plan.slices)
