"""Reports how uncertain the model is at each token, for the rows that ask.

Legend: B rows of a batch, V size of the vocabulary, K most probable tokens looked at.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Watched(Protocol):
    """What one row of a batch has to say for itself.

    Attributes:
        entropy_top: K; 0 where it asks for nothing.
    """

    entropy_top: int

    def note_entropy(self, value: float) -> None:
        """Take the entropy of what the next token is drawn from."""
        ...


class EntropyProcessor:
    """A logits processor that changes nothing and tells rows their entropies.

    It has to run before any that changes the logits.

    Args:
        rows: One per row of the batch, in its order.
    """

    def __init__(self, rows: Sequence[Watched]) -> None:
        self._rows = rows
        self._watched = [n for n, row in enumerate(rows) if row.entropy_top]

    @property
    def needed(self) -> bool:
        """Whether any row asks."""
        return bool(self._watched)

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Look at ``scores``, float32 [B, V], and return them as they are."""
        for top in sorted({self._rows[n].entropy_top for n in self._watched}):
            asking = [n for n in self._watched if self._rows[n].entropy_top == top]
            found = top_entropy(scores[asking], top).tolist()
            for n, value in zip(asking, found, strict=True):
                self._rows[n].note_entropy(value)
        return scores


def top_entropy(logits: "torch.Tensor", top: int) -> "torch.Tensor":
    """Entropy over the most probable tokens, in nats.

    The probabilities are those of the whole softmax, at temperature 1, and are not scaled up to
    one again: what an engine that reports the log-probabilities of its top tokens lets one compute.

    Args:
        logits: float32 [B, V].
        top: K.

    Returns:
        float32 [B], 0 or more and less than the entropy over all V.
    """
    values = logits.topk(min(top, logits.shape[1]), dim=1).values
    shares = values - logits.logsumexp(dim=1, keepdim=True)
    # A token that is ruled out has probability 0, and 0 ln 0 is 0.
    return -(shares.exp() * shares.clamp(min=-1e30)).sum(dim=1)
