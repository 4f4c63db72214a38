"""Continuous batching on ``generate``: rows join and leave a batch at the borders of segments.

A segment is one call of ``generate`` that our stopping criterion ends when it pays: rows are
done, others wait, or somebody interrupts. A row enters by a segment of one token over its prompt
(alone or with rows of alike length), then decodes with all others. What it has cached stays where
it is; see ``SlotStore``. What its prompt shares with others, of now or of before, is copied and
not read again; see ``PrefixTree``.

Everything here runs in the worker thread.

Legend: B rows; a row of length n has n - 1 tokens cached and one *pending*: drawn, not yet read.
Of a prompt some tokens are *kept* (in the tree), the others *fresh*.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from tseval.models._sampling import SeededProcessor

from .batches import BatchLimits, passes, surplus
from .cache import SlotStore
from .entropies import EntropyProcessor
from .prefixes import LEAST_SHARED, PrefixTree, Stretch, read_first
from .rows import Row

if TYPE_CHECKING:
    import torch

# Asked after each token: how many steps the segment has run, and how many of its rows are done.
Pause = Callable[[int, int], bool]
# Rows that share a beginning wait for the row that reads it; nested beginnings for several.
_WAITS = 4


class Prefill(NamedTuple):
    """Tokens of prompts, padding left out.

    Attributes:
        asked: Tokens of all prompts.
        computed: Those that the model read; the others were shared.
    """

    asked: int = 0
    computed: int = 0


class _Prompt(NamedTuple):
    """A row that is about to be read, and its token ids."""

    row: Row
    ids: list[int]


class Engine:
    """Runs the rows of one model.

    Args:
        model: A causal language model of transformers.
        layers: Layers that cache keys and values; None runs rows one at a time, with the cache
            that the model makes for itself.
        pad_id: Id that fills the left of a batch.
        prefixes: Keeps what prompts begin with; default: nothing is kept.

    Attributes:
        rows: The rows that run; row n sits in slot n.
        prefixes: As given.
        prefill: What was read of prompts so far.
    """

    def __init__(
        self, model: Any, layers: int | None, pad_id: int, prefixes: PrefixTree | None = None
    ) -> None:
        self._model = model
        self._layers = layers
        self._pad_id = pad_id
        self._store = SlotStore(layers or 0)
        self.rows: list[Row] = []
        self.prefixes = prefixes or PrefixTree(0, 1)
        self.prefill = Prefill()

    @property
    def lengths(self) -> list[int]:
        """Lengths of the rows that run."""
        return [row.length for row in self.rows]

    @property
    def is_roomy(self) -> bool:
        """Whether memory is held that a row alone would not need: beginnings, or others' slots."""
        return self.prefixes.size_bytes > 0 or self._store.slots > 1

    def add(self, rows: Sequence[Row], limits: BatchLimits, stop: Callable[[], bool]) -> None:
        """Read the prompts of new rows and draw their first tokens.

        Rows that have to run alone are run to their end, unless ``stop`` says so before.
        """
        if self._layers is None:
            for row in rows:
                self._solo(row, stop)
            self.rows.extend(rows)
            return
        waiting = [_Prompt(row, row.ids) for row in rows]
        widest = max((row.length for row in rows), default=0)
        slots = len(self.rows) + len(rows)
        for waits in range(_WAITS + 1):
            waiting = self._read_some(waiting, limits, (slots, widest), is_last=waits == _WAITS)

    def run(self, pause: Pause) -> None:
        """Decode until every row is done or ``pause`` says so."""
        count, store = len(self.rows), self._store
        if not count or all(row.done for row in self.rows):
            return
        width = max(self.lengths) - 1
        store.low = store.high - width
        store.reserve(count, width, 1, count)
        # Only the pending token is read; ids of cached positions are never looked at.
        ids = self._full(count, width + 1, self._pad_id)
        ids[:, -1] = self._tensor([row.ids[-1] for row in self.rows])
        mask = self._mask(self.lengths, width + 1)
        steps, cached = store.room - store.high, [length - 1 for length in self.lengths]
        watch = self._generate(
            self.rows, ids, mask, steps, pause, cache=store.view(0, count, width)
        )
        store.high += watch.steps
        for n, row in enumerate(self.rows):
            if row.done and not row.cancelled and n in watch.ended:
                # What follows the end of a row was drawn for the others' sake.
                read = min(row.length, cached[n] + watch.ended[n])
                self._keep_prefix(n, row.ids[:read], store.high - watch.steps + watch.ended[n])

    def drop_done(self) -> list[Row]:
        """Remove and return rows that are done or no longer wanted."""
        gone = [row for row in self.rows if row.done or row.cancelled]
        self._keep([n for n, row in enumerate(self.rows) if not (row.done or row.cancelled)])
        return gone

    def drop_surplus(self, limits: BatchLimits) -> list[Row]:
        """Remove and return rows that no longer fit; they start again from what they have."""
        leaving = surplus(self.lengths, limits)
        for n in range(len(self.rows) - leaving, len(self.rows)):
            self._keep_prefix(n, self.rows[n].ids[:-1], self._store.high)
        gone = self.rows[len(self.rows) - leaving :]
        self._keep(list(range(len(self.rows) - leaving)))
        return gone

    def reset(self) -> list[Row]:
        """Free the buffers; return the rows that were running."""
        gone, self.rows = self.rows, []
        self._store = SlotStore(self._layers or 0)
        self.prefixes.clear()
        return gone

    def _keep(self, slots: list[int]) -> None:
        """Keep these slots, in rising order; rows behind the new end move into the gaps."""
        gaps = [n for n in range(len(slots)) if n not in set(slots)]
        movers = [n for n in slots if n >= len(slots)]
        for gap, mover in zip(gaps, movers, strict=True):
            self._store.move(mover, gap)
            self.rows[gap] = self.rows[mover]
        del self.rows[len(slots) :]

    def _read_some(
        self,
        waiting: list[_Prompt],
        limits: BatchLimits,
        size: tuple[int, int],
        *,
        is_last: bool,
    ) -> list[_Prompt]:
        """Read prompts, but for those that will share what these leave; return the others."""
        kept = [_tokens(self._kept(prompt.ids)) for prompt in waiting]
        now = list(range(len(waiting)))
        if self.prefixes.capacity and not is_last:
            now = read_first([prompt.ids for prompt in waiting], kept, limits.pass_cost)
        for group in passes([len(waiting[n].ids) - kept[n] for n in now], limits):
            # Equal prompts stand together: what is kept of them is copied at once.
            self._read(sorted((waiting[now[n]] for n in group), key=lambda p: p.ids), size)
        return [waiting[n] for n in range(len(waiting)) if n not in set(now)]

    def _kept(self, ids: list[int]) -> list[Stretch]:
        """What is kept of a prompt, but for its last token: the model says what follows it."""
        path = self.prefixes.find(ids, len(ids) - 1)
        return path if _tokens(path) >= LEAST_SHARED else []

    def _read(self, group: list[_Prompt], size: tuple[int, int]) -> None:
        """Read the prompts of a group in one pass, as far as they are not kept.

        Args:
            group: The prompts.
            size: Rows in the end, and the longest prompt of those that join.
        """
        store, first = self._store, len(self.rows)
        last, lengths = first + len(group), [len(prompt.ids) for prompt in group]
        width, paths = max(lengths), [self._kept(prompt.ids) for prompt in group]
        # One window for all: who has more kept than others reads some of it again.
        fresh = max(n - _tokens(path) for n, path in zip(lengths, paths, strict=True))
        store.reserve(max(size[0], last), max(size[1], width), 1, first)
        store.clear(first, last, fresh)
        self._share(first, list(zip(lengths, paths, strict=True)), fresh)
        ids = self._full(len(group), width, self._pad_id)
        for n, prompt in enumerate(group):
            ids[n, width - lengths[n] :] = self._tensor(prompt.ids)
        self._generate(
            [prompt.row for prompt in group],
            ids,
            self._mask(lengths, width),
            1,
            lambda steps, done: True,
            cache=store.prompt_view(first, last, width, fresh),
        )
        store.low = min(store.low, store.high - width)
        self.rows.extend(prompt.row for prompt in group)
        self._count(sum(lengths), sum(min(length, fresh) for length in lengths))
        for n, prompt in enumerate(group):
            self._keep_prefix(first + n, prompt.ids, store.high)

    def _share(self, first: int, rows: list[tuple[int, list[Stretch]]], fresh: int) -> None:
        """Copy what is kept into slots, from ``first`` on, but for the last ``fresh`` tokens."""
        slot = first
        for (length, path), same in groupby(rows):
            slots = slice(slot, slot + len(list(same)))
            slot = slots.stop
            at, end = self._store.high - length, self._store.high - fresh
            for node, tokens in path:
                self._store.put(slots, at, node.pairs, max(min(tokens, end - at), 0))
                at += tokens

    def _keep_prefix(self, slot: int, ids: list[int], end: int) -> None:
        """Keep tokens that stand in a slot before the position ``end``."""
        if self._layers is None or not self.prefixes.capacity:
            return
        begin = end - len(ids)
        self.prefixes.keep(
            ids, lambda start, stop: self._store.take(slot, begin + start, begin + stop)
        )

    def _count(self, asked: int, computed: int) -> None:
        self.prefill = Prefill(self.prefill.asked + asked, self.prefill.computed + computed)

    def _solo(self, row: Row, stop: Callable[[], bool]) -> None:
        ids = self._tensor(row.ids)[None]
        mask = self._mask([row.length], row.length)
        self._count(row.length, row.length)
        self._generate([row], ids, mask, row.room, lambda steps, done: stop())

    def _generate(
        self,
        rows: list[Row],
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        steps: int,
        pause: Pause,
        cache: Any = None,
    ) -> "_Watch":
        """Run ``generate``; return what was seen: the tokens that each row took."""
        transformers: Any = import_module("transformers")
        watch = _Watch(rows, pause)
        processors: list[Any] = [EntropyProcessor(rows), SeededProcessor(rows)]
        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            **({} if cache is None else {"past_key_values": cache}),
            generation_config=transformers.GenerationConfig(
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=steps,
                pad_token_id=self._pad_id,
            ),
            logits_processor=[each for each in processors if each.needed],
            stopping_criteria=[watch],
        )
        return watch

    def _full(self, rows: int, width: int, value: int) -> "torch.Tensor":
        import torch

        return torch.full((rows, width), value, dtype=torch.int64, device=self._model.device)

    def _tensor(self, values: list[int]) -> "torch.Tensor":
        import torch

        return torch.tensor(values, dtype=torch.int64, device=self._model.device)

    def _mask(self, lengths: Sequence[int], width: int) -> "torch.Tensor":
        """Attention mask of right-aligned rows, int64 [B, width]."""
        import torch

        places = torch.arange(width, device=self._model.device)
        return (places[None] >= width - self._tensor(list(lengths))[:, None]).long()


def _tokens(path: list[Stretch]) -> int:
    return sum(stretch.tokens for stretch in path)


class _Watch:
    """A stopping criterion: hands each row its token and ends the segment when it pays.

    Attributes:
        steps: Tokens that each row was handed.
        ended: Rows that became done, and the steps they had taken then.
    """

    def __init__(self, rows: list[Row], pause: Pause) -> None:
        self._rows = rows
        self._pause = pause
        self._stopped = False
        self.steps = 0
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: "torch.Tensor", scores: Any, **_: Any) -> "torch.Tensor":
        import torch

        if not self._stopped:
            self.steps += 1
            for n, (row, token) in enumerate(
                zip(self._rows, input_ids[:, -1].tolist(), strict=True)
            ):
                row.take(token)
                if row.done:
                    self.ended.setdefault(n, self.steps)
            done = sum(row.done or row.cancelled for row in self._rows)
            self._stopped = done == len(self._rows) or self._pause(self.steps, done)
        return torch.full(
            (len(self._rows),), self._stopped, dtype=torch.bool, device=input_ids.device
        )
