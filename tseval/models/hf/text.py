"""Text to token ids and back, for one tokenizer of transformers."""

from collections.abc import Sequence
from typing import Any

from tseval.errors import CapabilityMissing, RequestFailed
from tseval.formats import TemplateView, known_marks
from tseval.requests import Piece
from tseval.types import Message


class Text:
    """Renders, encodes and decodes; safe to use from the event loop and the worker at once.

    Args:
        tokenizer: A tokenizer of transformers. Truncation and padding that its file may carry
            are switched off.

    Attributes:
        template: Source of the chat template, '' for a base model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default", "")
        self.template: str = template or ""
        # SentencePiece vocabularies put a space before a text and drop it again in decoding, so
        # a piece that continues a text is encoded and decoded behind something that stays.
        letter = self._encode("a")
        self._anchor = [] if self._decode([*letter, *letter]) == "aa" else self._encode("\n")
        self._anchor_text = self._decode(self._anchor) if self._anchor else ""

    def render(self, messages: Sequence[Message], template_kwargs: dict[str, Any]) -> str:
        """Render a conversation with the chat template and the generation header behind it.

        Args:
            messages: The conversation; '' is returned for none.
            template_kwargs: Arguments for the template.

        Raises:
            CapabilityMissing: The model has no chat template.
            RequestFailed: The template refuses the conversation (kind 'refused').
        """
        from jinja2 import TemplateError

        if not messages:
            return ""
        if not self.template:
            raise CapabilityMissing(
                "the model has no chat template, so it takes raw text only",
                hint="take the instruction-tuned checkpoint",
            )
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **template_kwargs
            )
        except TemplateError as error:
            raise RequestFailed(
                f"the chat template refuses the conversation: {error}", kind="refused"
            ) from None
        return rendered

    def prompt(
        self,
        messages: Sequence[Message],
        template_kwargs: dict[str, Any],
        pieces: Sequence[Piece] = (),
    ) -> list[int]:
        """Token ids of a rendered conversation and of the pieces behind it.

        The template writes the beginning-of-text token itself, so none is added. Without messages
        the pieces are the whole prompt: it starts with what the tokenizer puts before every text,
        if anything, and as the tokenizer starts every text (SentencePiece: with a space).
        """
        if messages:
            ids = self._encode(self.render(messages, template_kwargs))
        else:
            ids, pieces = self._start(pieces)
        for piece in pieces:
            ids.extend(self.piece(piece))
        return ids

    def _start(self, pieces: Sequence[Piece]) -> tuple[list[int], Sequence[Piece]]:
        """Token ids of the first piece of a raw prompt, and the pieces behind it."""
        prefix = self._prefix()
        if not pieces:
            return prefix, ()
        first = self._encode(pieces[0]) if isinstance(pieces[0], str) else list(pieces[0])
        # Published prompts often spell the beginning-of-text token out; it stands there once.
        return first if first[:1] == prefix else prefix + first, pieces[1:]

    def piece(self, piece: Piece) -> list[int]:
        """Token ids of a text tokenised on its own; ids stay as they are."""
        if not isinstance(piece, str):
            return list(piece)
        if not self._anchor:
            return self._encode(piece)
        ids = self._encode(self._anchor_text + piece)
        length = len(self._anchor)
        return ids[length:] if ids[:length] == self._anchor else self._encode(piece)

    def first_tokens(self, choice: str) -> frozenset[int]:
        """Tokens that an answer can begin with; the most probable one stands for it.

        That is the first token of the text on its own. SentencePiece vocabularies have two, with
        and without the space that they put before a text: which of them a model writes depends
        on what stands before the answer.
        """
        firsts = {self.piece(choice)[0]} if choice else set()
        if self._anchor and not choice[:1].isspace():
            firsts |= set(self._encode(choice)[:1])
            firsts -= set(self._encode(" ")[:1]) | set(self.piece(" ")[:1])
        return frozenset(firsts)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids that continue something, special tokens kept."""
        if not self._anchor:
            return self._decode(ids)
        return self._decode([*self._anchor, *ids])[len(self._anchor_text) :]

    def view(self) -> TemplateView:
        """Show the chat template (see ``Backend.template``)."""
        turn = (Message(role="user", content="Hello."),)
        marks = frozenset(mark for mark in known_marks() if self._is_token(mark))
        if not self.template:
            return TemplateView(rendered="", rendered_off="", single_tokens=marks)
        return TemplateView(
            rendered=self.render(turn, {}),
            rendered_off=self.render(turn, {"enable_thinking": False}),
            template=self.template,
            single_tokens=marks,
        )

    def stop_ids(self, configured: object) -> frozenset[int]:
        """Tokens that end a turn: those of the generation config and the tokenizer's own.

        Fine-tunes often name only one of the two rightly; neither ever stands inside an answer.
        """
        ids = configured if isinstance(configured, list | tuple) else [configured]
        found = {int(each) for each in ids if isinstance(each, int)}
        if isinstance(self.tokenizer.eos_token_id, int):
            found.add(self.tokenizer.eos_token_id)
        return frozenset(found)

    @property
    def pad_id(self) -> int:
        """Id that fills the left of a batch; masked, so any will do."""
        for each in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(each, int):
                return each
        return 0

    def beginning(self) -> list[int]:
        """What a text starts with where nothing else does: one token at least."""
        for each in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(each, int):
                return [each]
        return [0]

    def _prefix(self) -> list[int]:
        """What the tokenizer puts before every text (and nothing that it puts behind it)."""
        ids = [int(each) for each in self.tokenizer.encode("", add_special_tokens=True)]
        return ids[:1] if ids[:1] == [self.tokenizer.bos_token_id] else []

    def _is_token(self, mark: str) -> bool:
        ids = self._encode(mark)
        return len(ids) == 1 and ids[0] != getattr(self.tokenizer, "unk_token_id", None)

    def _encode(self, text: str) -> list[int]:
        if self._fast is not None:
            fast: list[int] = self._fast.encode(text, add_special_tokens=False).ids
            return fast
        slow: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return slow

    def _decode(self, ids: Sequence[int]) -> str:
        if self._fast is not None:
            fast: str = self._fast.decode(list(ids), skip_special_tokens=False)
            return fast
        slow: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return slow
