"""What a backend that has the model's tokenizer says of texts; the same for every engine."""

from typing import Any

from tseval.errors import BackendUnavailable
from tseval.formats import TemplateView
from tseval.requests import ModelSpec, Piece
from tseval.types import Message

from .text import Text


class Words:
    """The part of a backend that reads and writes texts and token ids (``tseval.roles.Backend``).

    The tokenizer outlives the model: benchmarks read texts while other models run.

    Args:
        spec: Name and options.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._text: Text | None = None

    def template(self) -> TemplateView:
        """Show the chat template."""
        return self._words().view()

    def prompt_tokens(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> int | None:
        """Length of the rendered prompt in tokens; without messages, of what starts a text."""
        return len(self._words().prompt(messages, template_kwargs))

    def prompt_ids(
        self, messages: tuple[Message, ...], template_kwargs: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """Token ids of the rendered prompt; without messages, of what starts a text."""
        return tuple(self._words().prompt(messages, template_kwargs))

    def text_tokens(self, text: str) -> int | None:
        """Length of a text tokenised on its own."""
        return len(self._words().piece(text))

    def text_ids(self, text: str) -> tuple[int, ...] | None:
        """Token ids of a text tokenised on its own."""
        return tuple(self._words().piece(text))

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of token ids, special tokens kept."""
        return self._words().decode(ids)

    def _input(
        self,
        messages: tuple[Message, ...],
        template_kwargs: dict[str, Any],
        pieces: tuple[Piece, ...],
    ) -> list[int]:
        text = self._words()
        # The first token needs something before it: what starts a text, or else what ends one.
        return text.prompt(messages, template_kwargs, pieces) or text.beginning()

    def _words(self) -> Text:
        if self._text is None:
            raise BackendUnavailable(f"'{self.spec.name or self.spec.backend}' is not loaded")
        return self._text
