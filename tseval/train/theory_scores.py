"""Probabilities of answers for the theory: completions written back as tokens, and scored.

An answer's probability is that of the very tokens that were drawn, its end included. Backends take
the token that ended a draw away: where a model has several, that of its chat template stands for it
under either law. Tokens are not always all there (marks that a tokenizer merges with their
surroundings, servers that report text alone): then the family's own writing is scored, and the
answer counts as rewritten.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tseval.errors import RequestFailed, RowSkipped
from tseval.formats import FORCED_TAGS, opening
from tseval.requests import Piece
from tseval.roles import Backend
from tseval.rollouts import Model
from tseval.types import LogLikelihood, Message, Rollout, ThinkingMode

from .records import Example
from .theory_draws import TASK, Drawn, Key, Scored, asked_as

if TYPE_CHECKING:
    from tseval.session import Session

# Parsers' remarks behind which tokens stand that belong to neither trace nor answer.
_INTERRUPTED = {"late-opener", "reopened", "trailing", "headless", "unexpected-trace"}
# The context kept a draw from its full length: it comes from another law.
_CUT_SHORT = {"short-budget", "short-answer"}


class Written(NamedTuple):
    """A completion to be scored: its tokens or text, and whether they are the very ones drawn."""

    piece: Piece
    exact: bool


class Writer:
    """Writes completions back as the tokens that a model wrote, or would have written.

    Args:
        model: The model that scores them.
        mode: How it is asked to think.
        ended: Whether the end of the turn is scored where it is known.
    """

    def __init__(self, model: Model, mode: ThinkingMode, *, ended: bool = True) -> None:
        self.mode = mode
        self.start = opening(model.format, mode)
        self.end = end_of_turn(model.backend) if ended else None
        self._backend = model.backend
        fmt = self.start.format
        marks = (fmt.opener_mark, fmt.answer_mark) if fmt.thinks else ()
        self._apart = all(_stands_apart(model.backend, mark) for mark in marks)

    def rollout(self, rollout: Rollout) -> Written:
        """Write what was drawn; without its end where nobody knows how turns end."""
        ended = (self.end or ()) if rollout.finish == "stop" else ()
        ids = self._ids(rollout)
        if ids is None:
            text = self.text(rollout.trace, rollout.answer or "", rollout.thought)
            known = self._backend.text_ids(text)
            return Written(text if known is None else (*known, *ended), exact=False)
        doubtful = bool((_INTERRUPTED | _CUT_SHORT) & set(rollout.notes))
        marked = rollout.thought and not self.start.closed
        return Written((*ids, *ended), exact=not doubtful and (self._apart or not marked))

    def example(self, example: Example) -> Written:
        """Write an example as the model would have, its end included."""
        text = self.text(example.trace, example.answer, example.thought)
        ids = self._backend.text_ids(text)
        return Written(text if ids is None else (*ids, *(self.end or ())), exact=False)

    def text(self, trace: str, answer: str, thought: bool) -> str:
        """Write a trace and an answer with the family's own marks and blank space."""
        start = self.start
        fmt = start.format if start.format.thinks else FORCED_TAGS
        if start.closed:
            return answer
        if start.opened:
            rendered = start.prefill or self._backend.template().rendered
            return f"{'' if rendered.endswith(chr(10)) else chr(10)}{trace}{fmt.closer}{answer}"
        if thought or trace:
            return f"{fmt.opener or fmt.opener_mark}{trace}{fmt.closer}{answer}"
        return start.format.off_prefill + answer if fmt.headless == "trace" else answer

    def _ids(self, rollout: Rollout) -> tuple[int, ...] | None:
        """Put a rollout's tokens together again; None where they are not all known, or not ours."""
        backend, trace, answer = self._backend, rollout.trace_ids, rollout.answer_ids
        if answer is None or (rollout.thought and trace is None):
            return None
        # Tokens of another model are ours only if they say the same here.
        if backend.decode(answer).strip() != (rollout.answer or "").strip():
            return None
        if not rollout.thought or self.start.closed:
            return answer
        fmt = self.start.format
        if not fmt.thinks:
            return None
        opened = self.start.opened or "opener-missing" in rollout.notes
        head = () if opened else backend.text_ids(fmt.opener_mark)
        mark = backend.text_ids(fmt.answer_mark) if rollout.closed_by == "model" else ()
        if head is None or mark is None:
            return None
        return (*head, *(trace or ()), *mark, *answer)


async def score(
    session: "Session", writer: Writer, prompt: str, written: Written
) -> LogLikelihood | None:
    """Score a completion behind a prompt; None where the model cannot.

    Args:
        session: On the model that scores.
        writer: Of that model.
        prompt: What it is asked.
        written: The completion.
    """
    prefill = writer.start.prefill
    off = writer.mode == "off"
    try:
        return await session.loglikelihood(
            prompt,
            written.piece,
            context=(prefill,) if prefill and not off else (),
            answers=off,
        )
    except (RequestFailed, RowSkipped):
        return None


async def score_drawn(
    session: "Session", writer: Writer, drawn: Iterable[Drawn], notice: str | None
) -> dict[Key, Scored]:
    """Score draws that were accepted, by prompt and number.

    Args:
        session: On the model that scores; not always the one that drew.
        writer: Of that model.
        drawn: Draws, of which those that were not accepted are passed over.
        notice: What the answers stand behind, with the prompt; None: the prompt alone.
    """
    wanted = [each for each in drawn if each.accepted]
    session.expect(TASK, len(wanted))

    async def one(each: Drawn) -> Scored:
        assert each.rollout is not None
        written = writer.rollout(each.rollout)
        return _scored(
            await score(session, writer, asked_as(each.prompt.text, notice), written), written
        )

    found: dict[Key, Scored] = {}
    async for each, result in session.map(wanted, one):
        session.advance(TASK)
        lost = Scored(logprob=None)
        found[each.prompt.id, each.index] = result if isinstance(result, Scored) else lost
    return found


async def score_examples(
    session: "Session", writer: Writer, examples: Sequence[Example]
) -> dict[str, Scored]:
    """Score finished answers behind their plain prompts, by the id of the example."""
    session.expect(TASK, len(examples))

    async def one(example: Example) -> Scored:
        written = writer.example(example)
        return _scored(await score(session, writer, example.prompt, written), written)

    found: dict[str, Scored] = {}
    async for example, result in session.map(examples, one):
        session.advance(TASK)
        found[example.id] = result if isinstance(result, Scored) else Scored(logprob=None)
    return found


def _scored(found: LogLikelihood | None, written: Written) -> Scored:
    if found is None or not found.tokens:
        return Scored(logprob=None)
    return Scored(logprob=found.total, tokens=found.tokens, exact=written.exact)


def end_of_turn(backend: Backend) -> tuple[int, ...] | None:
    """Find the token that ends the assistant's turn in the chat template; None if none shows.

    It has to look like a mark: the line break that may follow instead ends no turn.
    """
    word = "yes"
    turns = (Message(role="user", content="Hello."), Message(role="assistant", content=word))
    try:
        whole = backend.prompt_ids(turns, {})
    except RequestFailed:
        return None
    if whole is None:
        return None
    text = ""
    for place in reversed(range(len(whole))):
        text = backend.decode(whole[place:])
        if text.lstrip().startswith(word):
            start = place + len(backend.text_ids(word) or ())
            end = whole[start : start + 1]
            shown = backend.decode(end).strip()
            is_mark = shown[:1] in ("<", "[") and shown[-1:] in (">", "]") and len(shown) > 2
            return end if is_mark else None
    return None


def _stands_apart(backend: Backend, mark: str) -> bool:
    """Whether a mark's tokens are the same whatever stands around it."""
    if not mark:
        return True
    own = backend.text_ids(mark)
    for side in ("x", "\n", " "):
        around, whole = backend.text_ids(side), backend.text_ids(f"{side}{mark}{side}")
        if own is None or around is None or whole != (*around, *own, *around):
            return False
    return True
