"""Writes an example as the token ids that the model itself would have read and written."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct, structs

from tseval.errors import RequestFailed
from tseval.formats import FORCED_TAGS, Opening, ThinkingFormat, opening
from tseval.models.hf.text import Text
from tseval.thinking import parse, parse_answer
from tseval.types import Message, ThinkingMode

from .records import Example

IGNORED = -100


class Row(Struct, frozen=True, kw_only=True):
    """One example as numbers.

    Attributes:
        example: Its id.
        ids: Prompt and completion, the end-of-turn token included.
        prompt: How many of them are the prompt; none of those has a label.
        benign: Which pool it came from.
        weight: In the loss, 1 on average over the labelled tokens of its pool.
    """

    example: str
    ids: tuple[int, ...]
    prompt: int
    benign: bool = False
    weight: float = 1.0

    @property
    def labels(self) -> list[int]:
        """What each position is, -100 for those of the prompt; not shifted."""
        return [IGNORED] * self.prompt + list(self.ids[self.prompt :])


class Rows(NamedTuple):
    """Rows to train on, and how many examples gave none, by reason."""

    rows: list[Row]
    dropped: dict[str, int]


class Script:
    """How one model's conversations are written.

    The prompt is rendered just as for an evaluation in the same thinking mode. The completion is
    put behind it token by token and never goes through the chat template: many templates drop
    the trace of an assistant's turn.

    Args:
        text: The model's tokenizer.
        fmt: Its thinking format.
        mode: How the examples' answers are asked for.
        stop_ids: Tokens that end a turn when the model generates.
    """

    def __init__(
        self, text: Text, fmt: ThinkingFormat, mode: ThinkingMode, stop_ids: frozenset[int]
    ) -> None:
        self.text = text
        self.opening: Opening = opening(fmt, mode)
        self.stop_ids = stop_ids
        self.end_id = self._end_id()

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, up to where the model begins to write.

        Raises:
            CapabilityMissing: The model has no chat template.
            RequestFailed: The template refuses the prompt.
        """
        start = self.opening
        asked = (Message(role="user", content=prompt),)
        pieces = (start.prefill,) if start.prefill else ()
        return self.text.prompt(asked, start.template_kwargs, pieces)

    def completion(self, example: Example) -> str | None:
        """Text of a completion, marks included, or None where the format cannot say it.

        That is so where the trace or the answer holds a mark: read again, they would be others.
        Blank space around either is the format's, not theirs.
        """
        start, trace, answer = self.opening, example.trace.strip(), example.answer.strip()
        fmt = start.format if start.format.thinks else FORCED_TAGS
        if start.closed:
            if trace:
                return None
            written, read = answer, parse_answer(start.format, answer)
        elif start.opened:
            # The prompt has opened the trace, so it must be closed, be it empty.
            written = self._break() + trace + fmt.closer + answer
            read = parse(fmt, written, opened=True)
        elif example.thought or trace:
            written = (fmt.opener or fmt.opener_mark) + trace + fmt.closer + answer
            read = parse(fmt, written)
        elif start.format.headless == "trace":
            written = start.format.off_prefill + answer
            read = parse(start.format, written)
        else:
            written, read = answer, parse(start.format, answer)
        return written if (read.trace, read.answer) == (trace, answer) else None

    def row(self, example: Example) -> Row | None:
        """Write an example; None where the format cannot say it.

        Raises:
            CapabilityMissing: The model has no chat template.
            RequestFailed: The template refuses the prompt.
        """
        written = self.completion(example)
        if written is None:
            return None
        ids = self.text.piece(written)
        if self.stop_ids.intersection(ids):
            return None  # an end-of-turn mark within: the model would have stopped there
        prompt = self.prompt_ids(example.prompt)
        return Row(
            example=example.id,
            ids=(*prompt, *ids, self.end_id),
            prompt=len(prompt),
            benign=example.kind == "benign",
            weight=example.weight,
        )

    def _break(self) -> str:
        """What the model writes first behind an opener that the prompt holds: a line break.

        Nothing, where the prompt already ends with one.
        """
        if self.opening.prefill:
            return "" if self.opening.prefill.endswith("\n") else "\n"
        asked = (Message(role="user", content="Hello."),)
        rendered = self.text.render(asked, self.opening.template_kwargs)
        return "" if rendered.endswith("\n") else "\n"

    def _end_id(self) -> int:
        """The token that ends the assistant's turn in the template, if generation stops at it.

        Else the tokenizer's own end of text: a model must never learn to run past its turn.
        """
        mark = "7f3a"
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": mark}]
        tokenizer = self.text.tokenizer
        if self.text.template:
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            tail = rendered.rpartition(mark)[2]
            for token in self.text.piece(tail) if tail else ():
                if token in self.stop_ids:
                    return token
        if isinstance(tokenizer.eos_token_id, int):
            return int(tokenizer.eos_token_id)
        return min(self.stop_ids) if self.stop_ids else 0


def write_rows(examples: Iterable[Example], script: Script, max_tokens: int) -> Rows:
    """Write examples as rows.

    Longer rows are dropped and counted, never cut: half an answer teaches to stop anywhere.

    Args:
        examples: In order.
        script: How the model writes.
        max_tokens: Longest row.

    Raises:
        CapabilityMissing: The model has no chat template.
    """
    rows: list[Row] = []
    dropped: dict[str, int] = {}

    def drop(reason: str) -> None:
        dropped[reason] = dropped.get(reason, 0) + 1

    for example in examples:
        try:
            row = script.row(example)
        except RequestFailed:
            drop("the chat template refuses the prompt")
            continue
        if row is None:
            drop("its text holds marks of the thinking format or the end of a turn")
        elif len(row.ids) > max_tokens:
            drop(f"longer than {max_tokens} tokens")
        elif row.weight == 0:
            drop("weight 0")
        else:
            rows.append(row)
    return Rows(_evened(rows), dropped)


def _evened(rows: Sequence[Row]) -> list[Row]:
    """Scale weights to a mean of one over the labelled tokens of each pool.

    The loss is a sum over tokens, so this changes neither the step size nor the balance of refusals
    and answers, whichever rows were dropped and however long those of much weight are.
    """
    means = {}
    for benign in (False, True):
        pool = [(row.weight, len(row.ids) - row.prompt) for row in rows if row.benign is benign]
        if pool:
            tokens = sum(count for _, count in pool)
            means[benign] = sum(weight * count for weight, count in pool) / tokens
    return [structs.replace(row, weight=row.weight / means[row.benign]) for row in rows]
