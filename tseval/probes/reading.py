"""Where hidden states are read: before thinking, behind the opener, at the first thought.

A sequence is the rendered prompt, an opener, and the trace:

    ... <header> | <think> | Okay , ...
               A        A'  B

*State A* is the last token before any opener, with nothing decoded. *State A'* is the last token
before the trace: the opener's last, whoever wrote it (the template, tseval, or the model). *State
B* is the first token that the model draws of the trace and whose text is not blank: it holds one
sampled token. (What an intervention wrote before it is read with it, and is not it.) One pass over
prompt, opener and trace gives all three.

Positions are counted from the end, since that needs no look at the rendered prompt, but where the
chat template wrote the opener itself.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from tseval.formats import ThinkingFormat, opening, replay_prefill
from tseval.requests import Piece
from tseval.rollouts import Model
from tseval.types import Message, Rollout, Thinking

if TYPE_CHECKING:
    import numpy as np

    from tseval.session import Session

# Depths that are read, by name, as shares of the layers; the first is the embedding.
LAYERS: dict[str, float] = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "3/4": 0.75, "last": -1}
STATES = ("A", "A'", "B")
# Remarks of the parser on traces that no opener of the family stands before ...
_UNOPENED = frozenset({"opener-missing", "headless"})
# ... and on those that something else stands before, which the rollout does not keep.
# What the rollouts of an intervention say of themselves (``tseval.rollouts``).
_INJECTED = "injected-at:"
_UNKNOWN_START = frozenset({"late-opener"})


class Places(Struct, frozen=True, kw_only=True):
    """Where a rollout's states are.

    Attributes:
        prefix: Pieces behind the rendered prompt, up to state B.
        positions: Position of each state there is, counted from the end of prompt and prefix.
        token: Index in the trace's ids of state B; None where there is none.
        lost: Why there is no state B: 'no-trace' (none was opened, or nothing stands in it),
            'odd-start' (it was opened behind other text); '' with one.
    """

    prefix: tuple[Piece, ...] = ()
    positions: dict[str, int]
    token: int | None = None
    lost: str = ""


def layers_named(names: tuple[str, ...] = tuple(LAYERS)) -> tuple[int | float, ...]:
    """Return layers as ``Session.hidden_states`` takes them: shares of the depth, and -1."""
    return tuple(LAYERS[name] for name in names)


def replay_prefix(
    model: Model, rollout: Rollout, thinking: Thinking, tokens: int | None = None
) -> tuple[Piece, ...]:
    """Return what stands between the rendered prompt and a place in a recorded trace.

    Args:
        model: The model that wrote it.
        rollout: The rollout, with token ids.
        thinking: The policy that it was made under.
        tokens: Tokens of the trace; None: all of them.

    Returns:
        The opener, unless the prompt holds it or the model left it out, and the trace's ids.
    """
    trace = rollout.trace_ids or ()
    opener = _opener(model.format, rollout, thinking)
    ids = tuple(trace if tokens is None else trace[:tokens])
    return tuple(piece for piece in (opener, ids) if piece)


def state_places(
    model: Model, messages: tuple[Message, ...], rollout: Rollout, thinking: Thinking
) -> Places:
    """Find the states of a rollout.

    Args:
        model: The model that wrote it.
        messages: What it was asked, system prompt included (``Model.conversation``).
        rollout: The rollout, with token ids.
        thinking: The policy that it was made under.
    """
    opener = _opener(model.format, rollout, thinking)
    place = _first_thought(model, rollout)
    lost = "no-trace" if place is None else ""
    if _UNKNOWN_START & set(rollout.notes):
        place, lost = None, "odd-start"
    tail = _opener_tail(model, messages, thinking)
    if place is None:
        # The prompt alone, and the opener if it is there whatever the model does.
        fixed = opening(model.format, thinking.mode)
        opener = fixed.prefill if fixed.opened else ""
        behind = _length(model, opener)
        positions = {"A": -1 - behind - tail}
        if behind or tail:
            positions["A'"] = -1
        return Places(prefix=(opener,) if opener else (), positions=positions, lost=lost)
    written = place + 1
    behind = _length(model, opener)
    positions = {"A": -1 - written - behind - tail, "B": -1}
    if behind or tail:
        positions["A'"] = -1 - written
    prefix = replay_prefix(model, rollout, thinking, written)
    return Places(prefix=prefix, positions=positions, token=place)


def prompt_state(
    model: Model, messages: tuple[Message, ...], thinking: Thinking
) -> tuple[tuple[Piece, ...], int]:
    """Find state A of a prompt that nothing was sampled for: an empty prefix, and its position."""
    return (), -1 - _opener_tail(model, messages, thinking)


async def read_states(
    session: "Session",
    prompt: str,
    rollout: Rollout,
    thinking: Thinking,
    *,
    layers: tuple[int | float, ...] = (-1,),
) -> tuple[Places, Mapping[str, "np.ndarray"]]:
    """Read the states of a rollout in one pass.

    Args:
        session: The session; its target wrote the rollout.
        prompt: What was asked.
        rollout: The rollout, with token ids.
        thinking: The policy that it was made under.
        layers: See ``Session.hidden_states``.

    Returns:
        The places, and for each state there is float32 [layers, width].

    Raises:
        As ``Session.hidden_states``.
    """
    model = session.target
    asked = model.conversation((Message(role="user", content=prompt),))
    places = state_places(model, asked, rollout, thinking)
    found = await session.hidden_states(
        prompt,
        positions=tuple(places.positions.values()),
        layers=layers,
        prefix=places.prefix,
    )
    return places, dict(zip(places.positions, found, strict=True))


def _opener(fmt: ThinkingFormat, rollout: Rollout, thinking: Thinking) -> str:
    """Text between the rendered prompt and the first token of the trace."""
    if not opening(fmt, thinking.mode).opened and _UNOPENED & set(rollout.notes):
        return ""
    return replay_prefill(fmt, thinking.mode)


def _first_thought(model: Model, rollout: Rollout) -> int | None:
    """Index of the first token that the model drew of a trace and that is more than blank."""
    ids = rollout.trace_ids or ()
    if not rollout.thought or not rollout.trace:
        return None
    # What an intervention wrote at the start is the same behind every prompt.
    start = next((stop for first, stop in _injected(rollout) if first == 0), 0)
    # A character may take several tokens, the first of which decode to nothing sensible: they
    # are no blank space either way.
    drawn = range(start, len(ids))
    return next((n for n in drawn if model.backend.decode(ids[start : n + 1]).strip()), None)


def _injected(rollout: Rollout) -> list[tuple[int, int]]:
    """Ranges [start, stop) of the trace's ids that an intervention wrote."""
    (told,) = [note for note in rollout.notes if note.startswith(_INJECTED)] or [""]
    ranges = filter(None, told.removeprefix(_INJECTED).split(","))
    return [(int(start), int(stop)) for start, _, stop in (each.partition("-") for each in ranges)]


def _length(model: Model, text: str) -> int:
    return (model.backend.text_tokens(text) or 0) if text else 0


def _opener_tail(model: Model, messages: tuple[Message, ...], thinking: Thinking) -> int:
    """Count the tokens of the opener that the chat template wrote at the end of the prompt.

    A token that holds more than the opener (some vocabularies merge the bracket before it) counts
    with the opener.
    """
    start = opening(model.format, thinking.mode)
    mark = start.format.opener_mark
    if start.format.opened_by != "template" or not mark:
        return 0
    backend = model.backend
    ids = backend.prompt_ids(messages, start.template_kwargs)
    if ids is None:
        rendered = backend.template().rendered
        return _length(model, rendered[rendered.rindex(mark) :])
    for tail in range(1, len(ids) + 1):
        if mark in backend.decode(ids[len(ids) - tail :]):
            return tail
    return 0
