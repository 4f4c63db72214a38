"""How long a run still takes, from the tokens of the rollouts so far.

The first rollouts to finish are the shortest. Their mean alone would promise too much, and so
rollouts under way count with the tokens that they have so far: tokens of all, over those that are
finished, is the likeliest mean length of rollouts that were not cut short by being looked at (of
exponential lengths, exactly; of lengths that vary less it is too long at first).
What is left is these tokens at the speed of late (20 seconds, or a quarter of the run where that is
longer, so that a halt on a busy machine does not look like the end), and behind them the tail, in
which the longest rollouts keep fewer and fewer others company.
"""

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from tseval.cards import ProbeCard

if TYPE_CHECKING:
    from tseval.session import Session

# Speed is that of so many seconds, or of this share of all that have passed; before so many
# rollouts are finished nothing is said.
_WINDOW_SECONDS = 20.0
_WINDOW_SHARE = 0.25
_LEAST_FINISHED = 4


class State(NamedTuple):
    """How far a run is, at one time.

    Attributes:
        seconds: On any clock.
        expected, done: Steps of all benchmarks.
        made: Rollouts that this process generated; judging may lag behind.
        lost: Rollouts that failed.
        found: Rollouts from the journal, or shared with another benchmark.
        tokens: New tokens of the rollouts made.
        under_way: New tokens of the rollouts that are not finished.
        at_once: Most rollouts that are under way at once; 0 where steps are no rollouts.
        limit: Most new tokens of one rollout; 0 if unknown.
    """

    seconds: float
    expected: int
    done: int
    made: int
    lost: int
    found: int
    tokens: int
    under_way: int
    at_once: int
    limit: int = 0


def state_of(session: "Session", seconds: float) -> State:
    """Look how far a session is."""
    counts = session.counts
    try:
        target = session.target
    except KeyError:  # rollouts that are there are judged: no model is under test
        at_once, limit = 0, 0
    else:
        at_once, limit = target.backend.max_outstanding, _limit(session)
    if probes_of(session):
        # Their steps are prompts, cuts and replays, whose tokens say nothing of what is left.
        at_once = 0
    return State(
        seconds=seconds,
        expected=session.expected.total(),
        done=session.done.total(),
        made=counts["generation.made"],
        lost=counts["generation.failed"],
        found=counts["generation.found"] + counts["generation.shared"],
        tokens=counts["tokens"],
        under_way=session.tokens_under_way,
        at_once=at_once,
        limit=limit,
    )


def probes_of(session: "Session") -> list[str]:
    """Name the benchmarks under way whose steps are not rollouts."""
    found = []
    for name in session.expected:
        with contextlib.suppress(LookupError):  # steps of something that is no benchmark
            if isinstance(session.registry.benchmarks[name].card, ProbeCard):
                found.append(name)
    return found


def _limit(session: "Session") -> int:
    """Say how long the longest rollout of the run's cards may be; 0 where a card does not say."""
    spec = session.spec
    trace = 0
    if spec.thinking.mode == "forced" or session.target.format.name != "none":
        trace = 0 if spec.thinking.mode == "off" else spec.thinking.budget
    if spec.answer_tokens_fixed:
        return trace + spec.sampling.answer_tokens
    cards = [session.registry.benchmarks[name].card for name in session.expected]
    answers: list[int] = [getattr(card, "answer_tokens", 0) for card in cards]
    return trace + max(answers) if answers and all(answers) else 0


class Eta:
    """Estimates the time left; give it every state there is."""

    def __init__(self) -> None:
        self._seen: deque[State] = deque()
        # Seconds that rollouts were under way, all together: so far, and up to each state.
        self._busy = 0.0
        self._before: deque[float] = deque()
        self._began: float | None = None

    def left(self, now: State) -> float | None:
        """Return the seconds left; None while too little is known."""
        steps = now.expected - now.done
        making = _making(now)
        if self._seen:
            passed = now.seconds - self._seen[-1].seconds
            self._busy += passed * min(_making(self._seen[-1]), now.at_once)
        self._seen.append(now)
        self._before.append(self._busy)
        if self._began is None:
            self._began = now.seconds
        window = max(_WINDOW_SECONDS, _WINDOW_SHARE * (now.seconds - self._began))
        while len(self._seen) > 2 and self._seen[1].seconds <= now.seconds - window:
            self._seen.popleft()
            self._before.popleft()
        if steps <= 0:
            return None
        if now.made < _LEAST_FINISHED and making:
            return None
        if not making or not now.tokens:
            return self._by_steps(now, steps)
        return self._by_tokens(now, making)

    def _by_steps(self, now: State, steps: int) -> float | None:
        """Estimate by the steps that were finished lately, where no tokens are left to be made."""
        first = self._seen[0]
        done, seconds = now.done - first.done, now.seconds - first.seconds
        return steps * seconds / done if done > 0 and seconds > 0 else None

    def _by_tokens(self, now: State, making: int) -> float | None:
        first = self._seen[0]
        tokens = now.tokens + now.under_way - first.tokens - first.under_way
        busy = self._busy - self._before[0]
        if tokens <= 0 or busy <= 0:
            return None
        mean = (now.tokens + now.under_way) / now.made
        last = min(making, now.at_once)
        had = now.under_way / last
        # How much further a rollout goes that has so much already. Where lengths are alike, what
        # is missing of the mean; the longer the tail, the more: this lies between.
        further = max(mean - had / 2, had / 2)
        room = max(now.limit - had, 0.0) if now.limit else math.inf
        further = min(further, room)
        longest = min(further * (1 + math.log(last)), room)
        # In the tail, the longest one counts where each is as fast as among many; where the
        # machine is busy with few, the tokens of all. Most machines are in between.
        tail = (further + longest) / 2
        return ((making - last) * mean / last + tail) / (tokens / busy)


def _making(state: State) -> int:
    """Count rollouts to be made; those that wait for their verdict need no more tokens."""
    if not state.at_once:
        return 0
    ready = max(0, state.made + state.lost + state.found - state.done)
    return max(0, state.expected - state.done - ready)


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
