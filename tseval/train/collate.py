"""Puts the rows of an optimiser step into micro-batches without wasting tokens on padding.

Legend: B = rows of a micro-batch, T = tokens of its longest, L = labelled positions of it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from .template import IGNORED

# 'packed': rows stand one behind the other, positions start anew, attention stays within a row.
# 'padded': rows of similar length, filled up on the right.
Layout = Literal["packed", "padded"]


def plan(
    lengths: Sequence[int], layout: Layout, *, most_rows: int | None, most_tokens: int
) -> list[list[int]]:
    """Say which rows of a step share a forward pass.

    Rows are taken from the longest to the shortest, so padding is little. A row that is longer
    than ``most_tokens`` gets a pass of its own.

    Args:
        lengths: Tokens of each row.
        layout: How rows stand in a micro-batch.
        most_rows: Rows a pass, or None: as many as ``most_tokens`` allows.
        most_tokens: Tokens a pass, padding included, where ``most_rows`` is None.

    Returns:
        Indices into ``lengths``, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        batch = batches[-1] if batches else []
        if most_rows is not None:
            fits = len(batch) < most_rows
        elif layout == "packed":
            fits = sum(lengths[other] for other in batch) + lengths[row] <= most_tokens
        else:
            fits = bool(batch) and (len(batch) + 1) * lengths[batch[0]] <= most_tokens
        if batch and fits:
            batch.append(row)
        else:
            batches.append([row])
    return batches


class Collator:
    """Turns the rows of an optimiser step into micro-batches of tensors.

    Args:
        layout: How rows stand in a micro-batch.
        most_rows: Rows a micro-batch, or None.
        most_tokens: Tokens a micro-batch, where ``most_rows`` is None.
        pad_id: What fills up rows; never labelled, never seen by a labelled position.
        apart: Benign rows get micro-batches of their own, so that a base model that is asked
            about them reads nothing else.
        share: Which process of how many this is; each takes rows of all lengths.

    Attributes:
        most_tokens: As given, or less since memory ran out.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        most_rows: int | None,
        most_tokens: int,
        pad_id: int,
        apart: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.layout = layout
        self.most_tokens = most_tokens
        self._most_rows = most_rows
        self._pad_id = pad_id
        self._apart = apart
        self._share = share
        self._last: Sequence[dict[str, Any]] = ()

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate a step.

        Args:
            rows: Each with ``input_ids``, ``labels`` (not shifted, -100 where there is none),
                ``weight`` and ``benign``.

        Returns:
            ``micro``: this process's micro-batches, see :meth:`micro_batch`; ``lengths``: tokens
            of each row of the step, whichever process it falls to; ``benign_lengths``: of its
            benign rows; ``labelled``: labelled positions of them all, which the step's loss is
            divided by.
        """
        self._last = rows
        rank, processes = self._share
        own = sorted(rows, key=lambda row: -len(row["input_ids"]))[rank::processes]
        groups = [own]
        if self._apart:
            groups = [[row for row in own if row["benign"] is kind] for kind in (False, True)]
        made: list[dict[str, Any]] = []
        for group in groups:
            batches = plan(
                [len(row["input_ids"]) for row in group],
                self.layout,
                most_rows=self._most_rows,
                most_tokens=self.most_tokens,
            )
            made += [self.micro_batch([group[index] for index in batch]) for batch in batches]
        benign = [len(row["input_ids"]) for row in rows if row["benign"]]
        labelled = sum(label != IGNORED for row in rows for label in row["labels"][1:])
        lengths = [len(row["input_ids"]) for row in rows]
        return {
            "micro": made,
            "lengths": lengths,
            "benign_lengths": benign,
            "labelled": labelled,
        }

    def is_long(self, tokens: int) -> bool:
        """Whether a pass is too long for its activations to be kept.

        Who names a number of rows decides for themselves, until memory runs out.
        """
        return self._most_rows is None and tokens > self.most_tokens

    def again(self) -> dict[str, Any] | None:
        """Collate the last step once more, into passes of half the tokens.

        Later steps keep to the new limit. None where each row already has a pass of its own and
        is longer than ``most_tokens``: there is no smaller pass.
        """
        made = self(self._last)["micro"]
        longest = max(batch["input_ids"].numel() for batch in made)
        alone = all(batch["lengths"].numel() == 1 for batch in made)
        if alone and self.is_long(longest):
            return None
        self._most_rows = None
        self.most_tokens = max(min(self.most_tokens, longest) // 2, 1)
        return self(self._last)

    def micro_batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make the tensors of one forward pass.

        Returns:
            ``input_ids``: int64, packed [1, sum of lengths], padded [B, T];
            ``labels``: int64, same shape, -100 on prompts and padding, not shifted;
            ``position_ids``: int64, same shape, from 0 in each row;
            ``places``: int64 [L], flat positions whose next token has a label;
            ``targets``: int64 [L], those labels;
            ``weights``: float32 [L], weight of the row of each;
            ``benign``: bool [L], whether that row is benign;
            ``lengths``: int64 [B], tokens of each row.
        """
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        width = max(lengths)
        padded = self.layout == "padded"
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        weights: list[float] = []
        benign: list[bool] = []
        for row, length in zip(rows, lengths, strict=True):
            first = len(ids)
            filling = width - length if padded else 0
            ids += [*row["input_ids"], *[self._pad_id] * filling]
            labels += [*row["labels"], *[IGNORED] * filling]
            positions += range(length + filling)
            # Of the row's own labels, so that the last token of one never predicts the next row.
            scored = [at for at in range(1, length) if row["labels"][at] != IGNORED]
            places += [first + at - 1 for at in scored]
            weights += [row["weight"]] * len(scored)
            benign += [row["benign"]] * len(scored)
        shape = (len(rows), width) if padded else (1, len(ids))
        flat = torch.tensor(labels)
        found = torch.tensor(places, dtype=torch.long)
        return {
            "input_ids": torch.tensor(ids).view(shape),
            "labels": flat.view(shape),
            "position_ids": torch.tensor(positions).view(shape),
            "places": found,
            "targets": flat[found + 1],
            "weights": torch.tensor(weights, dtype=torch.float32),
            "benign": torch.tensor(benign, dtype=torch.bool),
            "lengths": torch.tensor(lengths),
        }
