"""A completion in the writing: tokens that the model draws, and tokens that are injected.

It follows the trace as a backend does (``tseval.thinking.TraceState``), over all draws, so that
budgets hold whoever wrote a token.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from msgspec import structs

from tseval.errors import RequestFailed
from tseval.formats import NO_FORMAT, ThinkingFormat
from tseval.requests import Completion, CompletionRequest, Piece
from tseval.thinking import Limits, Parsed, TraceState, split_ids
from tseval.wrapping import Inner

# Tokens looked at to see whether a mark is half written; marks are shorter.
_TAIL = 32


class Writing:
    """One completion in the writing.

    Args:
        request: What was asked for; its limits hold for the whole.
        inner: The model.

    Attributes:
        ids: Token ids so far.
        over: Whether it is complete: the model ended its turn, or a limit is reached.
        thought: Whether a trace was ever opened.
    """

    def __init__(self, request: CompletionRequest, inner: Inner) -> None:
        self.request = request
        self.ids: list[int] = []
        self.over = False
        self.thought = request.opened
        self._inner = inner
        self._state = self._fresh_state()
        self._finish = "length"
        self._draws = 0
        self._asked = Limits(thinking=0, answer=0)
        self._injected: list[tuple[int, int]] = []
        self._cut = False
        self._prompt_tokens = 0
        self._notes: tuple[str, ...] = ()

    @property
    def thinking(self) -> bool:
        """Whether the last token stands inside the trace."""
        return self._state.thinking

    @property
    def closed(self) -> bool:
        """Whether the trace was opened and closed again."""
        return self.thought and not self.thinking

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What stands between the rendered prompt and the next token."""
        return (*self.request.prefix, tuple(self.ids)) if self.ids else self.request.prefix

    def said(self, text: str) -> int:
        """Count how often a text stands in the recorded trace that this one continues."""
        if self.request.part != "trace":
            return 0
        parts = (p if isinstance(p, str) else self._inner.decode(p) for p in self.request.prefix)
        return "".join(parts).count(text.strip())

    def thought_before(self) -> int:
        """Count the tokens of the recorded trace that this one continues, its opener included."""
        if self.request.part != "trace":
            return 0
        pieces = self.request.prefix
        return sum(len(self._encode(p) if isinstance(p, str) else p) for p in pieces)

    async def draw(
        self, thinking: int | None = None, *, answer: bool = True, top: int = 0
    ) -> Completion:
        """Have the model go on; nothing is taken over yet.

        Args:
            thinking: Most tokens of the trace; None: what is left of the budget.
            answer: Whether it goes on behind the closer; only a trace that is open can do without.
            top: Tokens that entropies are taken over.
        """
        state, limits = self._state, self.request.limits
        seed, self._draws = seed_of(self.request.seed, self._draws), self._draws + 1
        left = limits.thinking - state.trace_tokens if not self.closed else 0
        answers = limits.answer - (state.answer_tokens if self.closed else 0)
        inside = state.thinking
        self._asked = Limits(
            thinking=left if thinking is None else min(thinking, left),
            answer=answers if answer or not inside else 0,
        )
        done = await self._ask(
            structs.replace(
                self.request,
                prefix=self.pieces,
                opened=inside,
                limits=self._asked,
                seed=seed,
                entropy_top=top,
            )
        )
        if done.ids is None or done.trace_text is not None:
            raise RequestFailed(
                "an intervention needs the tokens of a trace, and the backend gave none",
                kind="malformed",
            )
        if not self._prompt_tokens and done.prompt_tokens:
            self._prompt_tokens = done.prompt_tokens - len(self.ids)
        self._notes = tuple(dict.fromkeys((*self._notes, *done.notes)))
        return done

    async def _ask(self, request: CompletionRequest) -> Completion:
        """Have the model go on; where earlier draws filled the context, nothing more comes."""
        try:
            return await self._inner(request)
        except RequestFailed as error:
            if error.kind != "overlong" or self._draws < 2:
                raise
        return Completion(text="", ids=(), finish="length")

    def take(self, done: Completion, stop: Callable[[int], bool] | None = None) -> bool:
        """Take over what was drawn.

        Args:
            done: What :meth:`draw` returned.
            stop: Asked behind each token, with its index, whether to leave the rest; only while
                no limit is reached.

        Returns:
            Whether ``stop`` said so.
        """
        ids = done.ids or ()
        start = len(self.ids)
        for place, token in enumerate(ids):
            self._feed(token)
            if self.over:
                return False
            if stop is not None and stop(place):
                return True
        if done.finish == "stop":
            self.over, self._finish = True, "stop"
        elif not self._goes_on(len(ids)):
            self.over = True
        elif self.request.banned and self.thinking:
            # A backend sees a banned mark only where it is written in one go.
            keep = len(self.ids)
            while keep > start + 1 and self.in_mark(keep):
                keep -= 1
            self.back(keep)
        return False

    def _goes_on(self, drawn: int) -> bool:
        """Whether a draw that ended at a limit, but none of the whole, leaves more to draw.

        Otherwise the context is full.
        """
        if self.closed and not self._asked.answer:
            return True
        # Also where a closer stands across two draws: the backend saw none and drew it all.
        return (self.thinking or self.closed) and drawn == self._asked.thinking > 0

    def inject(self, text: str) -> None:
        """Write a text into the trace, as far as the budget goes."""
        self._write(text, whole=False)

    def open(self) -> None:
        """Open the trace, unless it is open already."""
        if not self.request.opened:
            fmt = self.request.format
            # Half an opener is none, however small the budget.
            self._write(fmt.opener or fmt.opener_mark, whole=True)

    def close(self) -> None:
        """Close the trace; the answer is all that follows, even where the budget is used up."""
        start = len(self.ids)
        self.ids += self._encode(self.request.format.closer)
        self._note(start)
        limits = Limits(thinking=0, answer=self.request.limits.answer)
        self._state = TraceState(NO_FORMAT, limits, self._decode)
        self.thought = self._cut = True
        self.over = limits.answer < 1

    def back(self, length: int) -> None:
        """Take back all tokens but the first so many."""
        if length == len(self.ids):
            return
        ids, self.ids = self.ids[:length], []
        self._injected = [span for span in self._injected if span[1] <= length]
        self._state, self.thought = self._fresh_state(), self.request.opened
        self.over, self._finish = False, "length"
        for token in ids:
            self._feed(token)

    def trace_end(self) -> int:
        """Count the tokens that stand before the closer, with which a message may end first."""
        fmt, text = self.request.format, self._decode(self.ids)
        # Closers that were replaced are gone, so the first one is the one.
        kept = text[: text.index(fmt.answer_mark)]
        while noise := [each for each in fmt.noise if kept.endswith(each)]:
            kept = kept[: -max(map(len, noise))]
        span = Parsed(answer=None, trace_span=(0, len(kept)))
        return len(split_ids(self.ids, self._decode, span)[0])

    def in_mark(self, length: int | None = None) -> bool:
        """Whether a mark, or a character, is half written."""
        tail = self.ids[:length][-_TAIL:]
        return _in_mark(self.request.format, self._decode(tail))

    def completion(self, *notes: str) -> Completion:
        """What it has become, with remarks."""
        found = [f"injected:{len(self._injected)}"] if self._injected else []
        return Completion(
            text=self._decode(self.ids),
            ids=tuple(self.ids),
            finish="stop" if self._finish == "stop" else "length",
            prompt_tokens=self._prompt_tokens,
            tokens=len(self.ids),
            notes=(*self._notes, *found, *notes),
            injected=tuple(self._injected),
            closed_by="cut" if self._cut else "",
        )

    def _write(self, text: str, *, whole: bool) -> None:
        start = len(self.ids)
        for token in self._encode(text):
            if self.over and not whole:
                break
            self._feed(token)
        self._note(start)

    def _note(self, start: int) -> None:
        """Note that everything from ``start`` on was injected; what adjoins is one range."""
        if self._injected and self._injected[-1][1] == start:
            start = self._injected.pop()[0]
        if len(self.ids) > start:
            self._injected.append((start, len(self.ids)))

    def _feed(self, token: int) -> None:
        self.ids.append(token)
        self.over = self._state.feed(token)
        self.thought |= self._state.thinking

    def _fresh_state(self) -> TraceState:
        request = self.request
        return TraceState(request.format, request.limits, self._decode, opened=request.opened)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._inner.decode(tuple(ids))

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._inner.encode(text)
        if ids is None:
            raise RequestFailed("the backend gives no token ids of a text", kind="malformed")
        return ids


def _in_mark(fmt: ThinkingFormat, text: str) -> bool:
    if text.endswith("\ufffd"):
        return True
    marks = (fmt.answer_mark, fmt.opener_mark, *fmt.noise)
    return any(text.endswith(mark[:length]) for mark in marks for length in range(1, len(mark) + 1))


def seed_of(seed: int, draw: int) -> int:
    """Row seed of a draw: the request's for the first, then one of its own for each.

    Draws depend on row seed and position alone, and positions count from 0 in every draw: with
    the same seed each chunk would repeat the random numbers of the first.
    """
    if not draw:
        return seed
    digest = sha256(f"{seed}\0draw\0{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
