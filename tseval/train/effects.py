"""From replayed turns of traces to effects, weights, and what is said of them.

Letters: c of n replays comply before a turn and after it; e in [0, 1] is the effect of a trace,
the mean rise over its turns less the standard error of that, or 0 where that is less.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from msgspec import Struct, structs

from tseval.stances import COMPLYING, REFUSING

from .records import Example, PromptKind

# The side of the right answer: to refuse a harmful prompt, and to answer a benign one.
RIGHT: dict[PromptKind, int] = {"harmful": REFUSING, "benign": COMPLYING}


class Rise(NamedTuple):
    """Rise of the rate of right answers at one turn, in [-1, 1], and its variance."""

    value: float
    variance: float


class Effect(Struct, frozen=True, kw_only=True):
    """What became of a trace.

    Attributes:
        id: Of its example.
        kind: Which pool.
        cuts: Turns to the right side that were replayed and have labels enough.
        rise: Mean rise over the cuts, in [-1, 1]; 0 without cuts.
        error: Its standard error.
        effect: e; 0 without cuts.
        weight: In the loss, 1 on average over the pool.
        note: Why there are no cuts, or ''.
    """

    id: str
    kind: PromptKind
    cuts: int = 0
    rise: float = 0.0
    error: float = 0.0
    effect: float = 0.0
    weight: float = 1.0
    note: str = ""


def shrunk_rise(before: tuple[int, int], after: tuple[int, int], side: int) -> Rise:
    """Rise of the rate of answers on a side, each rate shrunk by Jeffreys' prior.

    Args:
        before: Compliances, and answers with a label.
        after: Likewise, behind the turn.
        side: -1 to refuse, 1 to comply.
    """
    sizes = [n + 1 for _, n in (before, after)]
    rates = [(comply + 0.5) / (n + 1) for comply, n in (before, after)]
    variance = sum(rate * (1 - rate) / n for rate, n in zip(rates, sizes, strict=True))
    return Rise((rates[1] - rates[0]) * side, variance)


def effect_of(rises: Sequence[Rise]) -> tuple[float, float, float]:
    """Mean rise over a trace's turns, its standard error, and e.

    Replays are few, and where nothing moves half of all mean rises are above 0 by chance: e is what
    is left of one when its standard error is taken off. That keeps some bias: of two points of 16
    replays at a rate of one half, e is 0.014 on average, not the 0.066 of rises above 0 alone.

    Args:
        rises: Of one or more turns, taken as independent.
    """
    mean = sum(rise.value for rise in rises) / len(rises)
    error = sqrt(sum(rise.variance for rise in rises)) / len(rises)
    return mean, error, max(0.0, mean - error)


def weights_of(effects: Sequence[float], strength: float) -> tuple[float, ...]:
    """Weights of the traces of one pool: 1 + strength * e, over their mean."""
    raw = [1.0 + strength * effect for effect in effects]
    mean = sum(raw) / len(raw) if raw else 1.0
    return tuple(each / mean for each in raw)


def effects_of(
    examples: Sequence[Example],
    rises: Mapping[int, Sequence[Rise]],
    notes: Mapping[int, str],
    strength: float,
) -> list[Effect]:
    """Turn rises into effects and weights.

    Args:
        examples: In order.
        rises: Of the replayed turns that have labels enough, by the example's place.
        notes: Why an example has no turns to replay, likewise.
        strength: See :func:`weights_of`.
    """
    found = []
    for place, example in enumerate(examples):
        mine = rises.get(place, ())
        rise, error, effect = effect_of(mine) if mine else (0.0, 0.0, 0.0)
        found.append(
            Effect(
                id=example.id,
                kind=example.kind,
                cuts=len(mine),
                rise=rise,
                error=error,
                effect=effect,
                note="" if mine else notes.get(place, "too few labels"),
            )
        )
    for kind in RIGHT:
        places = [place for place, each in enumerate(found) if each.kind == kind]
        weights = weights_of([found[place].effect for place in places], strength)
        for place, weight in zip(places, weights, strict=True):
            found[place] = structs.replace(found[place], weight=weight)
    return found


def summary(effects: Sequence[Effect], replays: int) -> list[str]:
    """Say what there was to weigh, by pool."""
    said = []
    for kind in RIGHT:
        pool = [effect for effect in effects if effect.kind == kind]
        if not pool:
            continue
        moved = [effect.rise for effect in pool if effect.cuts]
        mean = f", mean rise {sum(moved) / len(moved):.2f}" if moved else ""
        weights = [effect.weight for effect in pool]
        worth = sum(weights) ** 2 / sum(weight**2 for weight in weights)
        said.append(
            f"{kind}: {len(moved)} of {len(pool)} traces have turns that were replayed"
            f" ({replays} answers a side){mean}; weights {min(weights):.2f} to"
            f" {max(weights):.2f}, worth {worth:.0f} equal ones"
        )
    return said
