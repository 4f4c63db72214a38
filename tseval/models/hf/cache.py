"""Key-value buffers that rows enter and leave without the others being copied.

transformers' dynamic cache appends by concatenation: every step copies all keys and values of
all rows once more, which on a CPU costs about twice what attention itself reads (measured: at 48
rows of 300 tokens a third of a step). Here each layer owns a buffer with room to grow; a step
writes one position. Rows are right-aligned, so one window of positions serves all of them.

Legend: buffers are [S slots, H heads, R room, D width]; row n of the batch sits in slot n, in the
last positions of the window [low, high).
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

# Positions allocated beyond the window: the next reallocation is this many steps away.
ROOM_AHEAD = 256


class SlotStore:
    """The buffers of all layers, made when the first keys and values arrive.

    Args:
        layers: Number of layers.

    Attributes:
        low, high: Window that holds the cached tokens of every row.
        slots, room: Size of the buffers.
    """

    def __init__(self, layers: int) -> None:
        self._pairs: list[Pair | None] = [None] * layers
        self.low = 0
        self.high = 0
        self.slots = 0
        self.room = 0

    def reserve(self, slots: int, before: int, ahead: int, rows: int) -> None:
        """Make room for ``slots`` rows, ``before`` positions up to high and ``ahead`` behind it.

        Moves the window of the first ``rows`` slots if the buffers have to be made anew.
        """
        enough = slots <= self.slots and max(before, self.high if rows else 0) + ahead <= self.room
        if not rows and enough and self.slots * self.room <= 4 * slots * (before + ROOM_AHEAD):
            self.low = self.high = before
            return
        if rows and enough and before <= self.high:
            return
        kept = self.high - self.low if rows else 0
        high = max(before, kept)
        # A few slots more than asked for: else each row that joins would move all others.
        self.slots, self.room = -(-slots // 8) * 8 if slots > 1 else 1, high + ahead + ROOM_AHEAD
        for index, pair in enumerate(self._pairs):
            # One layer at a time: the old buffer goes before the next one is copied.
            self._pairs[index] = None
            if pair is not None and rows:
                window = (slice(self.low, self.high), slice(high - kept, high))
                self._pairs[index] = _moved(pair, (self.slots, self.room), rows, window)
        self.low, self.high = high - kept, high

    def clear(self, first: int, last: int, width: int) -> None:
        """Zero what former rows left in slots [first, last), but for the last ``width`` positions.

        It is masked, but 0 x NaN would still be NaN.
        """
        for pair in self._pairs:
            for buffer in pair or ():
                buffer[first:last, :, : self.high - width] = 0

    def move(self, source: int, target: int) -> None:
        """Copy a row's window into another slot."""
        for pair in self._pairs:
            for buffer in pair or ():
                buffer[target, :, self.low : self.high] = buffer[source, :, self.low : self.high]

    def buffers(self, layer: int, key: "torch.Tensor", value: "torch.Tensor") -> "Pair":
        """Give the buffers of a layer, made like the first keys and values it gets."""
        pair = self._pairs[layer]
        if pair is None:
            # Zeros, not empty memory: see ``clear``.
            pair = (
                key.new_zeros(self.slots, key.shape[1], self.room, key.shape[3]),
                value.new_zeros(self.slots, value.shape[1], self.room, value.shape[3]),
            )
            self._pairs[layer] = pair
        return pair

    def view(self, first: int, last: int, width: int) -> Any:
        """Show slots [first, last) to the model as a cache of the ``width`` tokens before high."""
        return self._cache(first, last, self.high - width, self.high)

    def prompt_view(self, first: int, last: int, width: int, fresh: int) -> Any:
        """Show slots [first, last) as a cache that ``fresh`` tokens will fill up to high.

        Of the ``width`` tokens before high the others are there: see ``put``.
        """
        return self._cache(first, last, self.high - width, self.high - fresh)

    def take(self, slot: int, start: int, stop: int) -> "list[Pair | None]":
        """Copy the positions [start, stop) of a slot.

        Returns:
            [H, T, D] for each layer; None for layers that look into another's.
        """
        part = (slot, slice(None), slice(start, stop))
        return [
            None if pair is None else (_copied(pair[0][part]), _copied(pair[1][part]))
            for pair in self._pairs
        ]

    def put(self, slots: slice, start: int, pairs: "list[Pair | None]", tokens: int) -> None:
        """Copy the first ``tokens`` tokens of pairs [H, T, D] into slots, from ``start`` on."""
        for layer, pair in enumerate(pairs):
            if pair is None:
                continue
            buffers = self.buffers(layer, pair[0][None], pair[1][None])
            for buffer, states in zip(buffers, pair, strict=True):
                buffer[slots, :, start : start + tokens] = states[:, :tokens]

    def _cache(self, first: int, last: int, start: int, end: int) -> Any:
        from transformers.cache_utils import Cache

        layer = _layer_type()
        span = (first, last, start, end)
        return Cache(layers=[layer(self, index, span) for index in range(len(self._pairs))])


def _copied(states: "torch.Tensor") -> "torch.Tensor":
    import torch

    return states.clone(memory_format=torch.contiguous_format)


def _moved(pair: "Pair", size: tuple[int, int], rows: int, window: tuple[slice, slice]) -> "Pair":
    moved = []
    for old in pair:
        new = old.new_zeros(size[0], old.shape[1], size[1], old.shape[3])
        new[:rows, :, window[1]] = old[:rows, :, window[0]]
        moved.append(new)
    return (moved[0], moved[1])


@cache
def _layer_type() -> type:
    """Make the layer class, once transformers is loaded."""
    from transformers.cache_utils import DynamicLayer

    class SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
        """One layer of a view: writes behind its window and returns all of it."""

        def __init__(self, store: SlotStore, index: int, span: tuple[int, int, int, int]) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._store = store
            self._index = index
            self._rows = slice(span[0], span[1])
            self._start, self._end = span[2], span[3]
            # Set by transformers' own layers at the first update; masks are built before it.
            self.is_initialized = True

        def update(
            self, key_states: "torch.Tensor", value_states: "torch.Tensor", *_: Any, **__: Any
        ) -> "Pair":
            buffers = self._store.buffers(self._index, key_states, value_states)
            begin, self._end = self._end, self._end + key_states.shape[2]
            for buffer, states in zip(buffers, (key_states, value_states), strict=True):
                buffer[self._rows, :, begin : self._end] = states
            keys, values = (b[self._rows, :, self._start : self._end] for b in buffers)
            return keys, values

        def get_seq_length(self, *_: Any) -> int:
            return self._end - self._start

    return SlotLayer


def layers_that_fit(model: Any) -> int | None:
    """Count the layers that cache keys and values; None where a layer keeps another state.

    Sliding-window layers are cached whole here (the mask keeps the window); recurrent states
    cannot be padded, moved or merged, so such models run one row at a time.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return None
    try:
        layers = DynamicCache(config=model.config).layers
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    if not layers or any(type(layer) not in plain for layer in layers):
        return None
    return len(layers)
