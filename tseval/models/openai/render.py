"""Token ids of prompts and texts, for the completions route: from a local tokenizer or the server.

A prompt is sent as ids, never as text: a server would put a second beginning-of-text token before
a rendered text, and each piece of a prefix has to be tokenised on its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from tseval.errors import ConfigError, RequestFailed
from tseval.formats import TemplateView, known_marks
from tseval.requests import Piece

from .http import Json, Rejected, Server

_CHANNEL, _ASSISTANT = "<|channel|>", "<|start|>assistant"
GREETING: list[Json] = [{"role": "user", "content": "Hello"}]


class Renderer(Protocol):
    """Renders conversations and tokenises as the server does.

    Attributes:
        name: What the record of the run calls it.
    """

    name: str

    async def prompt_ids(self, messages: list[Json], template_kwargs: Json) -> list[int]:
        """Ids of a conversation with the generation header behind it."""
        ...

    async def text_ids(self, text: str) -> list[int]:
        """Ids of a text on its own, without special tokens around it."""
        ...

    async def start_ids(self) -> list[int]:
        """Ids that stand before every text: the beginning-of-text token, if there is one."""
        ...

    async def text_of(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens kept."""
        ...

    async def view(self, template_kwargs: Json) -> TemplateView:
        """Show the chat template as it renders with these arguments."""
        ...


async def piece_ids(renderer: Renderer, piece: Piece) -> list[int]:
    """Ids of a piece: of a text, or as they are."""
    return await renderer.text_ids(piece) if isinstance(piece, str) else list(piece)


async def raw_ids(renderer: Renderer, pieces: Sequence[Piece]) -> list[int]:
    """Ids of pieces that are the whole prompt, behind the beginning-of-text token."""
    ids = [token for piece in pieces for token in await piece_ids(renderer, piece)]
    start = await renderer.start_ids()
    # Published prompts often spell that token out; it stands there once.
    return ids if start and ids[: len(start)] == start else start + ids


class LocalRenderer:
    """A tokenizer on this machine (``-M tokenizer=PATH``)."""

    name = "local tokenizer"

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    async def load(cls, path: str) -> "LocalRenderer":
        """Load a tokenizer from a folder or the hub; raise ConfigError if it can't be used."""
        from transformers import AutoTokenizer

        try:
            tokenizer = await asyncio.to_thread(AutoTokenizer.from_pretrained, path)
        except (OSError, ValueError, ImportError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"no tokenizer at {path!r}: {first}",
                hint="-M tokenizer takes a folder with tokenizer files or a hub id",
            ) from None
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"the tokenizer at {path!r} has no chat template",
                hint="pass the tokenizer of the model that is served",
            )
        return cls(tokenizer)

    def count_prompt(self, messages: list[Json], template_kwargs: Json) -> int:
        """Length of a rendered conversation in tokens."""
        return len(self._render(messages, template_kwargs))

    def count_start(self) -> int:
        """Number of tokens before every text."""
        return len(self._start())

    def count(self, text: str) -> int:
        """Length of a text on its own in tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    async def prompt_ids(self, messages: list[Json], template_kwargs: Json) -> list[int]:
        """See :class:`Renderer`."""
        return self._render(messages, template_kwargs)

    async def text_ids(self, text: str) -> list[int]:
        """See :class:`Renderer`."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def start_ids(self) -> list[int]:
        """See :class:`Renderer`."""
        return self._start()

    async def text_of(self, ids: Sequence[int]) -> str:
        """See :class:`Renderer`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    async def view(self, template_kwargs: Json) -> TemplateView:
        """See :class:`Renderer`."""

        def rendered(**kwargs: bool) -> str:
            return str(
                self._tokenizer.apply_chat_template(
                    GREETING,
                    add_generation_prompt=True,
                    tokenize=False,
                    **{**template_kwargs, **kwargs},
                )
            )

        return TemplateView(
            rendered=rendered(),
            rendered_off=rendered(enable_thinking=False),
            template=str(self._tokenizer.chat_template),
            single_tokens=frozenset(mark for mark in known_marks() if self.count(mark) == 1),
        )

    def _start(self) -> list[int]:
        ids = list(self._tokenizer.encode("", add_special_tokens=True))
        return ids[:1] if ids[:1] == [self._tokenizer.bos_token_id] else []

    def _render(self, messages: list[Json], template_kwargs: Json) -> list[int]:
        from jinja2 import TemplateError

        try:
            ids = self._tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **template_kwargs,
            )
        except TemplateError as error:
            raise RequestFailed(
                f"the chat template refuses the conversation: {error}", kind="engine"
            ) from None
        return list(ids)


class ServerRenderer:
    """The server's own tokenizer (vLLM's ``/tokenize`` and ``/detokenize``)."""

    name = "server's tokenizer"

    def __init__(self, server: Server, model: str) -> None:
        self._server = server
        self._model = model
        self._view: TemplateView | None = None
        self._start: list[int] | None = None

    async def prompt_ids(self, messages: list[Json], template_kwargs: Json) -> list[int]:
        """See :class:`Renderer`."""
        return await self._tokenize(
            messages=messages, add_generation_prompt=True, chat_template_kwargs=template_kwargs
        )

    async def text_ids(self, text: str) -> list[int]:
        """See :class:`Renderer`."""
        return await self._tokenize(prompt=text, add_special_tokens=False)

    async def start_ids(self) -> list[int]:
        """See :class:`Renderer`."""
        if self._start is None:
            bare = await self.text_ids("a")
            whole = await self._tokenize(prompt="a", add_special_tokens=True)
            # What a tokenizer puts behind a text (an end of it) is no part of a prompt.
            at = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
            self._start = whole[:at]
        return self._start

    async def text_of(self, ids: Sequence[int]) -> str:
        """See :class:`Renderer`."""
        content = await self._ask("/detokenize", {"tokens": list(ids)})
        text = content.get("prompt")
        if not isinstance(text, str):
            raise RequestFailed("the answer of /detokenize has no prompt", kind="malformed")
        return text

    async def view(self, template_kwargs: Json) -> TemplateView:
        """See :class:`Renderer`. The template's source stays unseen, its output does not."""
        if self._view is None:
            self._view = await self._look(template_kwargs)
        return self._view

    async def _look(self, kwargs: Json) -> TemplateView:
        rendered = await self.text_of(await self.prompt_ids(GREETING, kwargs))
        off_kwargs = {**kwargs, "enable_thinking": False}
        off = await self.text_of(await self.prompt_ids(GREETING, off_kwargs))
        single = [m for m in (*known_marks(), _CHANNEL) if len(await self.text_ids(m)) == 1]
        harmony = _CHANNEL in single and rendered.endswith(_ASSISTANT)
        return TemplateView(
            rendered=rendered,
            rendered_off=off,
            # Marks that the template writes show in what it renders.
            template=rendered + off + (_CHANNEL if harmony else ""),
            single_tokens=frozenset(single) - {_CHANNEL},
        )

    async def _tokenize(self, **body: Any) -> list[int]:
        content = await self._ask("/tokenize", body)
        ids = content.get("tokens")
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
            raise RequestFailed("the answer of /tokenize has no token ids", kind="malformed")
        return ids

    async def _ask(self, path: str, body: Json) -> Json:
        try:
            return await self._server.post(path, {"model": self._model, **body}, at_root=True)
        except Rejected as rejected:
            raise RequestFailed(
                f"{path} answered {rejected.status}: {rejected.message}", kind="server"
            ) from None
