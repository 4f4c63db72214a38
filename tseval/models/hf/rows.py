"""One completion in the making: what a row of a batch knows about itself."""

from tseval.requests import Completion, CompletionRequest
from tseval.thinking import TraceState

from .text import Text

# The longest string that is ever banned takes fewer tokens.
_TAIL_TOKENS = 24


class Row:
    """A row of a batch, from its prompt to its completion.

    Made on the event loop, then only the worker touches it, but for ``cancelled``.

    Args:
        prompt: Token ids of the whole input.
        request: What was asked for.
        text: Decodes.
        stop_ids: Tokens that end a turn.
        room: Most new tokens that the context has room for.

    Attributes:
        new: Token ids so far, without the end-of-turn token.
        done: Whether the completion is complete (or no longer wanted).
        cancelled: Whether nobody waits for it any more.
        entropies: Entropy at each token of ``new``, where the request asks for them.
        room: As above.
    """

    __slots__ = (
        "_state",
        "_stop_ids",
        "_text",
        "banned",
        "cancelled",
        "done",
        "entropies",
        "entropy_top",
        "finish",
        "new",
        "prompt",
        "room",
        "sampling",
        "seed",
    )

    def __init__(
        self,
        prompt: list[int],
        request: CompletionRequest,
        text: Text,
        stop_ids: frozenset[int],
        room: int,
    ) -> None:
        self.prompt = prompt
        self.sampling = request.sampling
        self.seed = request.seed
        self.banned = request.banned
        self.entropy_top = request.entropy_top
        self.entropies: list[float] = []
        self.new: list[int] = []
        self.done = False
        self.cancelled = False
        self.finish = ""
        self._text = text
        self._stop_ids = stop_ids
        self.room = room
        self._state = TraceState(request.format, request.limits, text.decode, opened=request.opened)

    @property
    def position(self) -> int:
        """Number of tokens drawn so far."""
        return len(self.new)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompt) + len(self.new)

    @property
    def ids(self) -> list[int]:
        """Prompt and completion so far: what a row that was put aside starts from again."""
        return self.prompt + self.new

    def take(self, token: int) -> None:
        """Take the token that was drawn, unless the row is done."""
        if self.done:
            return
        if token in self._stop_ids:
            self._end("stop")
            return
        self.new.append(token)
        if self._state.feed(token) or len(self.new) >= self.room:
            self._end("length")

    def note_entropy(self, value: float) -> None:
        """Take the entropy of what the next token is drawn from, unless the row is done."""
        if not self.done:
            # A token that was drawn, and lost with its batch, is drawn again.
            self.entropies[self.position :] = [value]

    def completes_banned(self, token: int) -> bool:
        """Whether a token would complete a banned string."""
        tail = self.new[-_TAIL_TOKENS:]
        text = self._text.decode([*tail, token])
        return any(text.count(ban) > self._text.decode(tail).count(ban) for ban in self.banned)

    def completion(self) -> Completion:
        """What the backend answers."""
        return Completion(
            text=self._text.decode(self.new),
            ids=tuple(self.new),
            finish="stop" if self.finish == "stop" else "length",
            prompt_tokens=len(self.prompt),
            tokens=len(self.new),
            # The last may be that of the end of the turn.
            entropies=tuple(self.entropies[: len(self.new)]) if self.entropy_top else None,
        )

    def _end(self, finish: str) -> None:
        self.finish = finish
        self.done = True
