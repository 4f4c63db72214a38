"""Which transitions the oscillation probe replays, with what shams; and the replays themselves."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import tseval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tseval.probes import Pair, Probing, ReplayedCut, Sham, StanceTrace, Tally, Transition

# Prefixes that are kept at hand; replays of one point follow each other.
_PREFIXES = 256
# Traces that a sham is sought in, where a transition's own has none.
_DONORS = 20
_REAL, _SHAM = "", "sham-"


class PlannedCut(NamedTuple):
    """A transition that will be replayed.

    Attributes:
        trace: Place of its trace.
        change: The transition.
        name: Names it whatever else is replayed, so that a larger run finds its replays again.
        donor: Place of the trace that its sham stands in; -1 without one.
        sham: The sham, or None.
    """

    trace: int
    change: Transition
    name: str
    donor: int
    sham: Sham | None

    def points(self) -> dict[str, tuple[int, int]]:
        """Trace and chunks of each point, by side."""
        found = {"pre": (self.trace, self.change.pre), "post": (self.trace, self.change.post)}
        if self.sham is not None:
            found[f"{_SHAM}pre"] = (self.donor, self.sham.pre)
            found[f"{_SHAM}post"] = (self.donor, self.sham.post)
        return found


def plan_cuts(
    samples: Sequence[tseval.Sample], traces: Sequence[StanceTrace], most: int, seed: int
) -> list[PlannedCut]:
    """Choose transitions spread over prompts, and find each a sham.

    Args:
        samples: The prompts.
        traces: Their traces, in a fixed order.
        most: Transitions at most.
        seed: Run seed.
    """
    from tseval.probes import choose_cuts, seeded_generator, transitions

    changes = [(place, t) for place, trace in enumerate(traces) for t in transitions(trace.labels)]
    rng = seeded_generator(seed, "oscillation cuts")
    chosen = choose_cuts([traces[place].prompt for place, _ in changes], most, rng)
    taken: dict[int, set[tuple[int, int]]] = {}
    cuts = []
    for place, change in (changes[k] for k in chosen):
        trace = traces[place]
        name = f"{samples[trace.prompt].id} {trace.rollout} {change.pre}-{change.post}"
        others = seeded_generator(seed, "oscillation sham", name).permutation(len(traces))
        donors = [place, *(int(other) for other in others[:_DONORS])]
        donor, sham = _sham(traces, place, change, donors, taken)
        cuts.append(PlannedCut(place, change, name, donor, sham))
    return cuts


def _sham(
    traces: Sequence[StanceTrace],
    place: int,
    change: Transition,
    donors: list[int],
    taken: dict[int, set[tuple[int, int]]],
) -> tuple[int, Sham | None]:
    """Find a sham in the trace itself, or else in another one of the same class."""
    from tseval.probes import sham_for

    own = traces[place]
    length = own.ends[change.post - 1] - own.ends[change.pre - 1]
    for donor in donors:
        trace, used = traces[donor], taken.setdefault(donor, set())
        if trace.harmful is not own.harmful:
            continue
        away = None if donor == place else length
        sham = sham_for(change, trace.labels, trace.ends, length=away, taken=frozenset(used))
        if sham is not None:
            used.add((sham.pre, sham.post))
            return donor, sham
    return -1, None


class Replays:
    """The replays of planned cuts.

    Args:
        probing: The probe at work.
        samples: The prompts.
        traces: Their traces.
        cuts: The cuts.

    Attributes:
        planned: Number of cuts.
        few: Cuts with labels for fewer than half of the replays of a point, which are left out.
        lost: Replays without a label, by reason.
    """

    def __init__(
        self,
        probing: Probing,
        samples: Sequence[tseval.Sample],
        traces: Sequence[StanceTrace],
        cuts: Sequence[PlannedCut],
    ) -> None:
        self._probing, self._session = probing, probing.session
        self._samples, self._traces, self._cuts = samples, traces, cuts
        self._counts: dict[tuple[int, str], Counter[str]] = {
            (k, side): Counter() for k, cut in enumerate(cuts) for side in cut.points()
        }
        self._prefixes: OrderedDict[tuple[int, int], tuple[int, ...]] = OrderedDict()
        self.planned = len(cuts)
        self.few = 0
        self.lost: Counter[str] = Counter()

    async def made(self) -> list[ReplayedCut]:
        """Replay every point, in two rounds; return the cuts that have labels enough.

        Pairs of points that are locked on one side after the first round are stopped there. How
        many replays a pair gets depends on nothing else, so nothing is tested early.
        """
        from tseval.probes import ReplayedCut, first_round, futile

        replays = self._probing.sizes.replays
        first = first_round(replays)
        await self._round(list(self._counts), range(first))
        stopped = {
            (k, kind)
            for k, side in self._counts
            for kind in [side.removesuffix("pre")]
            if side.endswith("pre")
            and first < replays
            and futile(self._tally(k, side), self._tally(k, f"{kind}post"))
        }
        going = [
            (k, side)
            for k, side in self._counts
            if (k, _SHAM if side.startswith(_SHAM) else _REAL) not in stopped
        ]
        await self._round(going, range(first, replays))
        found = []
        for k, cut in enumerate(self._cuts):
            real, null = (
                self._pair(
                    k, kind, first if (k, kind) in stopped else replays, (k, kind) in stopped
                )
                for kind in (_REAL, _SHAM)
            )
            if real is None:
                self.few += 1
                continue
            found.append(
                ReplayedCut(
                    trace=cut.trace,
                    change=cut.change,
                    real=real,
                    sham=cut.sham,
                    donor=cut.donor,
                    null=null,
                )
            )
        return found

    def _tally(self, k: int, side: str) -> Tally:
        from tseval.probes import Tally

        counts = self._counts[k, side]
        return Tally(counts["compliance"], counts["compliance"] + counts["refusal"])

    def _pair(self, k: int, kind: str, planned: int, stopped: bool) -> Pair | None:
        """Put two points together; None where there are none, or too few labels at one."""
        from tseval.probes import Pair

        if (k, f"{kind}pre") not in self._counts:
            return None
        pre, post = self._tally(k, f"{kind}pre"), self._tally(k, f"{kind}post")
        if 2 * min(pre.n, post.n) < planned:
            return None
        return Pair(pre=pre, post=post, stopped=stopped)

    async def _round(self, points: list[tuple[int, str]], replays: range) -> None:
        self._probing.expect(len(points) * len(replays))
        # Counted, not listed: ten thousand cuts have four million replays.
        work = ((k, side, replay) for k, side in points for replay in replays)
        async for (k, side, _), result in self._session.map(work, lambda item: self._one(*item)):
            self._probing.advance()
            label = result if isinstance(result, str) else "error"
            self._counts[k, side][label] += 1
            if label not in ("refusal", "compliance"):
                self.lost[f"replay: {label}"] += 1

    async def _one(self, k: int, side: str, replay: int) -> str:
        """Close a trace at a point, have it answered, and say what the answer is."""
        cut = self._cuts[k]
        place, chunks = cut.points()[side]
        sample = self._samples[self._traces[place].prompt]
        prefix = await self._prefix(place, chunks)
        rollout = await self._session.extend(
            sample.prompt,
            tseval.Continuation(prefix=(prefix,)),
            rollout=replay,
            stream=f"oscillation {cut.name} {side}",
            sampling=self._probing.sampling,
            thinking=self._probing.thinking,
        )
        if "reopened" in rollout.notes:
            # It thought on behind the closer: this is no answer behind the prefix.
            return "reopened"
        label = await self._probing.label(sample, rollout)
        if label.refusal is None:
            return label.reason
        return "refusal" if label.refusal else "compliance"

    async def _prefix(self, place: int, chunks: int) -> tuple[int, ...]:
        """Token ids of a trace up to the end of its first chunks."""
        from tseval.probes import token_end

        if (place, chunks) not in self._prefixes:
            trace = self._traces[place]
            sampled = await self._probing.trace(self._samples[trace.prompt], trace.rollout)
            ids, decode = sampled.trace_ids or (), self._session.target.backend.decode
            count = token_end(decode, ids, decode(ids), trace.ends[chunks - 1])
            self._prefixes[place, chunks] = ids[:count]
            while len(self._prefixes) > _PREFIXES:
                self._prefixes.popitem(last=False)
        return self._prefixes[place, chunks]
