"""How fast rollouts are made, and how long so many tokens take.

Time is tokens over a speed, and what passes before the first token and behind the last full batch.
"""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

# Speeds of one machine differ between two runs of the same thing by so much, as a fraction.
SPEED_SPREAD = 0.15


class Range(Struct, frozen=True, kw_only=True):
    """A number that is not known yet.

    Attributes:
        value: What is expected; None where only the bounds are known.
        low, high: Between these it should be.
    """

    value: float | None
    low: float
    high: float

    def scaled(self, factor: float) -> "Range":
        """Multiply by a factor that is known."""
        value = None if self.value is None else factor * self.value
        return Range(value=value, low=factor * self.low, high=factor * self.high)


class Pace(Struct, frozen=True, kw_only=True):
    """How fast rollouts are made, judging included.

    Attributes:
        tokens_per_second: New tokens; value, and a range for the run.
        fixed_seconds: What does not grow with the run: loading, swaps, the last rows' tail.
        source: 'pilot' or 'earlier run'.
        concurrent: Rollouts that were under way at once when it was measured.
        wanted: Rollouts that will be under way at once in the run.
        tail_seconds: What the last rollouts may take at most beyond that, where a pilot was cut
            before its own had ended.
    """

    tokens_per_second: Range
    fixed_seconds: float
    source: Literal["pilot", "earlier run"]
    concurrent: int
    wanted: int
    tail_seconds: float = 0.0


class Moment(Struct, frozen=True, kw_only=True):
    """How far a pilot was at a time.

    Attributes:
        seconds: Since its first request.
        tokens: New tokens so far, those of unfinished rollouts included.
        finished: Rollouts that are finished.
    """

    seconds: float
    tokens: int
    finished: int


def faster(speed: float, gain: float) -> float:
    """Guess the speed with ``gain`` times as many rollouts under way: by its cube root.

    The demo on two cores, 16 rollouts and then 200: 2.3 times as fast, 12.5 at the most.
    """
    return float(speed * gain ** (1 / 3))


def pilot_pace(
    moments: Sequence[Moment], made: int, loading: float, swapping: float, wanted: int
) -> Pace | None:
    """Say how fast a run will be, from how a pilot went.

    The speed is taken while at least half of the pilot's rollouts were under way; what passed
    behind that, beyond what its tokens would have taken at that speed, is a tail that every run
    has once. A run that keeps more rollouts under way than the pilot had may be faster by as much
    as their ratio, or not at all, and nobody can know without trying: the range says so, and the
    value is what ``faster`` makes of the ratio.

    Args:
        moments: In order of time, from first request to last verdict.
        made: Rollouts that the pilot made.
        loading: Seconds from start to the first request.
        swapping: Seconds that models took to change places; not known to grow with the run.
        wanted: Rollouts that the run will keep under way.

    Returns:
        None if the pilot made no token, or took no time that could be measured.
    """
    if not moments or not made:
        return None
    last = moments[-1]
    working = last.seconds - swapping
    if last.tokens <= 0 or working <= 0:
        return None
    whole = last.tokens / working
    half = next(moment for moment in moments if moment.finished >= made / 2 or moment is last)
    busy = half.tokens / half.seconds if half.seconds > 0 and not swapping else whole
    speed = max(busy, whole)
    gain = max(1.0, wanted / made)
    return Pace(
        tokens_per_second=Range(
            value=faster(speed, gain),
            low=whole * (1 - SPEED_SPREAD),
            high=speed * gain * (1 + SPEED_SPREAD),
        ),
        fixed_seconds=loading + swapping + working - last.tokens / speed,
        source="pilot",
        concurrent=min(made, wanted),
        wanted=wanted,
    )


def duration(tokens: Range, pace: Pace) -> Range:
    """Say how long so many tokens take, without what does not grow with them.

    Errors of tokens and of speed are independent: their relative sizes add as squares.
    """
    speed = pace.tokens_per_second
    assert speed.value is not None
    if tokens.value is None or tokens.value == 0:
        return Range(value=None, low=tokens.low / speed.high, high=tokens.high / speed.low)
    value = tokens.value / speed.value
    fewer, more = 1 - tokens.low / tokens.value, tokens.high / tokens.value - 1
    faster, slower = 1 - speed.value / speed.high, speed.value / speed.low - 1
    return Range(
        value=value,
        low=value * max(0.0, 1 - math.hypot(fewer, faster)),
        high=value * (1 + math.hypot(more, slower)),
    )
