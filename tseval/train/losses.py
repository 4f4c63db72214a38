"""Losses over labelled positions, in chunks, and the forward passes that they rest on.

Legend: T = tokens of a micro-batch, L = labelled positions of it, D = width, V = vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

# Positions whose logits are in memory at once: [_CHUNK, V] in float32, a few times over.
_CHUNK = 256
_TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
_LOW_TOLERANCE = 0.05
_ATTENTION = "tseval-rows"


class Head(NamedTuple):
    """What makes logits of the decoder's hidden states.

    Attributes:
        module: Linear layer [D, V], or None where the states are the logits already.
        scale: Factor of the logits.
        cap: Where logits are bent into (-cap, cap) by a hyperbolic tangent, or None.
    """

    module: Any
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Any) -> Any:
        """Logits [L, V] of hidden states [L, D], in float32 or better."""
        logits = hidden if self.module is None else self.module(hidden)
        logits = (logits if logits.element_size() > 4 else logits.float()) * self.scale
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap


def head_of(causal: Any) -> Head:
    """Read a causal model's head from its modules and configuration.

    Architectures call the factor of their logits by several names; :meth:`Passes.check` holds
    the result against the model's own logits.
    """
    config = causal.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        factor = getattr(config, name, None)
        scale *= 1.0 if factor is None else factor
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        scale /= divisor
    return Head(
        causal.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None)
    )


class Passes:
    """Runs micro-batches through a student, and through the base model that it adapts.

    Args:
        student: A ``PeftModel`` whose adapter leaves the head alone.

    Attributes:
        head: Makes logits of what :meth:`hidden` gives.
        whole: The model's own logits are taken, since its head is of an unknown kind.
    """

    def __init__(self, student: Any) -> None:
        self.student = student
        self.causal = student.get_base_model()
        self.head = head_of(self.causal)
        self.whole = False
        self._lengths: list[int] | None = None
        self._own_attention = ""
        self._recomputes = False

    def hidden(self, batch: dict[str, Any]) -> Any:
        """States of the positions that have a label, [L, D] ([L, V] where ``whole``).

        Args:
            batch: A micro-batch; packed ones need :meth:`pack` to have said that they can be.
        """
        rows = batch["input_ids"].shape[0]
        packed = rows == 1 and batch["lengths"].numel() > 1
        inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
        if packed:
            inputs["position_ids"] = batch["position_ids"]
            self._lengths = batch["lengths"].tolist()
        else:
            self._lengths = None
        # Padding stands on the right, where nothing labelled can see it: no mask is needed.
        if self.whole:
            states = self.causal(**inputs).logits
        else:
            states = self.causal.base_model(**inputs).last_hidden_state
        return states.flatten(0, 1)[batch["places"]]

    @contextmanager
    def base(self) -> Iterator[None]:
        """Within it the model is the base: adapters off, dropout off, no gradients."""
        import torch

        training = self.student.training
        self.student.eval()
        try:
            with torch.no_grad(), self.student.disable_adapter():
                yield
        finally:
            self.student.train(training)

    def recompute(self, *, wanted: bool) -> None:
        """Keep one state a layer and make the others anew in the backward pass, or keep all.

        For a micro-batch that is too long for its activations to be kept.
        """
        if not self.causal.supports_gradient_checkpointing or wanted == self._recomputes:
            return
        # transformers 5.23 renamed both and warns of the old names.
        new = (
            "activation" if hasattr(self.causal, "activation_checkpointing_enable") else "gradient"
        )
        if wanted:
            getattr(self.causal, f"{new}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.causal, f"{new}_checkpointing_disable")()
        self._recomputes = wanted

    def pack(self, longest: int) -> bool:
        """Let attention stay within each row of a packed micro-batch, if the model can.

        Flash attention does so by itself. Models that use torch's attention are given one that
        takes the rows of a pack one by one: exact, without a mask, and no work between rows.

        Args:
            longest: Tokens of the longest row; attention windows must not be shorter.

        Returns:
            Whether packed micro-batches give what single rows do; they were compared.
        """
        import torch

        config = self.causal.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        window = getattr(config, "sliding_window", None)
        if not kinds <= {"full_attention", "sliding_attention"}:
            return False
        if (window is not None and window < longest) or getattr(
            config, "attention_chunk_size", None
        ):
            return False
        self.unpack()
        packed, padded = self._probe()
        with torch.no_grad(), _resting(self.student):
            theirs = self.head(self.hidden(padded))
        own = self.causal.config._attn_implementation
        if own == "sdpa":
            self._register()
            self.causal.set_attn_implementation(_ATTENTION)
            self._own_attention = own
        elif "flash" not in str(own):
            return False
        try:
            with torch.no_grad(), _resting(self.student):
                found = self.head(self.hidden(packed))
        except (ValueError, TypeError, RuntimeError):
            found = None  # an attention of another kind: with caps, sinks, or a bias
        if found is not None and _near(found, theirs, self.student.dtype):
            return True
        self.unpack()
        return False

    def unpack(self) -> None:
        """Give the model its own attention back."""
        if self._own_attention:
            self.causal.set_attn_implementation(self._own_attention)
            self._own_attention = ""

    def check(self) -> None:
        """Hold the head against the model's own logits; where they differ, take those."""
        import torch

        batch, _ = self._probe()
        with torch.no_grad(), _resting(self.student):
            ours = self.head(self.hidden(batch))
            self.whole = True
            theirs = Head(None)(self.hidden(batch))
        self.whole = not _near(ours, theirs, self.student.dtype)
        if self.whole:
            self.head = Head(None)

    def _probe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Two short rows of arbitrary tokens: packed, and padded."""
        import torch

        from .collate import Collator

        vocabulary = self.causal.get_input_embeddings().weight.shape[0]
        rows = [
            {
                "input_ids": [(7 * at + 11 * length) % vocabulary for at in range(length)],
                "labels": [1] * length,
                "weight": 1.0,
                "benign": False,
            }
            for length in (9, 5)
        ]
        device = self.causal.get_input_embeddings().weight.device
        made = []
        for layout in ("packed", "padded"):
            collate = Collator(layout, most_rows=None, most_tokens=0, pad_id=0)
            batch = collate.micro_batch(rows)
            made.append(
                {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            )
        return made[0], made[1]

    def _register(self) -> None:
        from importlib import import_module

        import torch
        from transformers import AttentionInterface

        module_of: Any = import_module("transformers.integrations.sdpa_attention")
        sdpa = module_of.sdpa_attention_forward

        def attend(
            module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **more: Any
        ) -> Any:
            """Attend within each row; states are [1, heads, T, width]."""
            lengths = self._lengths
            if lengths is None:
                return sdpa(module, query, key, value, None, **more)
            rows = zip(*(each.split(lengths, 2) for each in (query, key, value)), strict=True)
            return torch.cat([sdpa(module, *row, None, **more)[0] for row in rows], dim=1), None

        AttentionInterface.register(_ATTENTION, attend)


@contextmanager
def _resting(model: Any) -> Iterator[None]:
    """Switch dropout off."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _near(ours: Any, theirs: Any, dtype: Any) -> bool:
    tolerance = _TOLERANCE.get(str(dtype).removeprefix("torch."), _LOW_TOLERANCE)
    return bool((ours - theirs).norm() <= tolerance * theirs.norm())


def cross_entropy(hidden: Any, head: Head, targets: Any, weights: Any, chunk: int = _CHUNK) -> Any:
    """Sum of weighted cross-entropies, in nats.

    Args:
        hidden: States [L, D] of the positions before the targets.
        head: Makes their logits, ``chunk`` positions at a time.
        targets: int64 [L].
        weights: float32 [L].
        chunk: Positions at a time.
    """
    from torch.nn.functional import cross_entropy

    def score(states: Any, part: slice) -> Any:
        losses = cross_entropy(head(states), targets[part], reduction="none")
        return (losses * weights[part]).sum()

    return _chunked()(hidden, score, chunk)


def forward_kl(hidden: Any, base_hidden: Any, head: Head, weights: Any, chunk: int = _CHUNK) -> Any:
    """Sum of weighted divergences KL(base || student) over the whole vocabulary, in nats.

    Args:
        hidden: The student's states [L, D].
        base_hidden: The base model's, of the same positions.
        head: Makes logits of both.
        weights: float32 [L].
        chunk: Positions at a time.

    Source: arXiv 2601.23143, the option to hold benign rows to the base model (forward KL, weight
        1, temperature 1).
    Differs: labels of prompts stay masked, and the sum is divided by the labelled tokens of the
        whole optimiser step, so that gradients don't depend on micro-batches.
    """

    def score(states: Any, part: slice) -> Any:
        import torch

        with torch.no_grad():
            base = head(base_hidden[part]).log_softmax(-1)
        gaps = base.exp() * (base - head(states).log_softmax(-1))
        return (gaps.sum(-1) * weights[part]).sum()

    return _chunked()(hidden, score, chunk)


@cache
def _chunked() -> Callable[[Any, Callable[[Any, slice], Any], int], Any]:
    """A sum over chunks of positions whose logits are never in memory together.

    Each chunk's gradient is taken at once, in the forward pass, and only that of the states is
    kept: [L, D]. The head is frozen, so nothing else needs one, and no logits are made twice.
    """
    import torch

    class Chunked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, score: Callable[[Any, slice], Any], chunk: int) -> Any:
            exact = hidden.dtype if hidden.element_size() > 4 else torch.float32
            total = torch.zeros((), dtype=exact, device=hidden.device)
            needed = ctx.needs_input_grad[0]
            slopes = torch.zeros_like(hidden) if needed else None
            for start in range(0, hidden.shape[0], chunk):
                part = slice(start, start + chunk)
                with torch.set_grad_enabled(needed):
                    states = hidden[part].detach().requires_grad_(needed)
                    loss = score(states, part)
                if slopes is not None:
                    slopes[part] = torch.autograd.grad(loss, states)[0]
                total += loss.detach()
            ctx.slopes = slopes
            return total

        @staticmethod
        def backward(ctx: Any, *slope: Any) -> tuple[Any, None, None]:
            return ctx.slopes * slope[0].to(ctx.slopes.dtype), None, None

    chunked: Callable[[Any, Callable[[Any, slice], Any], int], Any] = Chunked.apply
    return chunked


class StepLoss(NamedTuple):
    """Sums of a micro-batch: to differentiate, and to log (in nats, not normalised)."""

    total: Any
    cross_entropy: Any
    divergence: Any


def micro_loss(passes: Passes, batch: dict[str, Any], kl: float) -> StepLoss:
    """Sum the losses of a micro-batch over its labelled positions.

    Args:
        passes: The student.
        batch: As ``Collator.micro_batch`` makes it.
        kl: Weight of the divergence from the base model, which replaces cross-entropy on benign
            rows; 0: cross-entropy on all.
    """
    import torch

    benign = batch["benign"] if kl else torch.zeros_like(batch["benign"])
    none = torch.zeros((), device=batch["input_ids"].device)
    kept = None
    if bool(benign.any()):
        with passes.base():
            kept = passes.hidden(batch)[benign]
    hidden = passes.hidden(batch)
    rest = ~benign
    entropy = none
    if bool(rest.any()):
        entropy = cross_entropy(
            hidden[rest], passes.head, batch["targets"][rest], batch["weights"][rest]
        )
    divergence = none
    if kept is not None:
        divergence = forward_kl(hidden[benign], kept, passes.head, batch["weights"][benign])
    return StepLoss(entropy + kl * divergence, entropy.detach(), divergence.detach())
