"""Gathers what ``prefix_commitment`` counts: traces, their prefixes, and answers behind these."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tseval
import tseval.probes as probes

# Points of a trace that controls are made for: the cut nearest to its middle, and its end.
_MIDDLE = 50
CONTROLS = ("other prompt", "shuffled")
_Ids = tuple[int, ...]


class _Trace(NamedTuple):
    """One trace of the survey, without its tokens: they are read again when they are needed."""

    sample: int
    rollout: int
    length: int


class _Cell(NamedTuple):
    """Outcomes of the answers behind one point of one trace."""

    place: int
    outcomes: "Counter[str]"


class Branching:
    """One run of the probe: traces are surveyed, then each is cut and answered.

    Args:
        probing: The probe at work.
        samples: Prompts that traces are cut of.

    Attributes:
        traces: Those that can be cut, once surveyed, in a fixed order.
        excluded: The others by reason.
        forced: Of ``traces``, those that the budget closed.
    """

    def __init__(self, probing: probes.Probing, samples: Sequence[tseval.Sample]) -> None:
        self._probing = probing
        self._session = probing.session
        self._samples = samples
        self._clusters = probes.prompt_clusters(samples)
        self._sizes = probing.sizes
        self._cuts = probing.sizes.commitment_cuts
        self._points = tuple(_points(self._cuts))
        self._donors: dict[tuple[_Trace, int], _Trace] = {}
        self._controlled: set[_Trace] = set()
        self.traces: list[_Trace] = []
        self.excluded: Counter[str] = Counter()
        self.forced = 0

    async def survey(self) -> None:
        """Sample the traces, and find those that can be cut."""
        items = [
            (place, rollout)
            for place in range(len(self._samples))
            for rollout in range(self._sizes.commitment_traces)
        ]
        self._probing.expect(len(items))

        async def look(item: tuple[int, int]) -> tuple[int, str, bool]:
            rollout = await self._probing.trace(self._samples[item[0]], item[1])
            ids = self._trim(rollout)
            fault = probes.prefix_fault(rollout, ids, self._cuts)
            return len(ids), fault, rollout.closed_by == "budget"

        async for item, found in self._session.map(items, look):
            self._probing.advance()
            if isinstance(found, tseval.TsevalError):
                self.excluded["error"] += 1
                continue
            length, fault, forced = found
            if fault:
                self.excluded[fault] += 1
            else:
                self.traces.append(_Trace(*item, length))
                self.forced += forced
        self.traces.sort()
        self._choose_donors()

    def _choose_donors(self) -> None:
        """Choose whose traces stand in for those of the first trace of each prompt."""
        rng = probes.seeded_generator(self._session.spec.seed, "prefix_commitment", "donors")
        order = [self.traces[place] for place in rng.permutation(len(self.traces))]
        first = {trace.sample: trace for trace in reversed(self.traces)}
        self._controlled = set(first.values())
        for trace in first.values():
            start = int(rng.integers(len(order)))
            for cut in control_cuts(self._cuts):
                needed = probes.tokens_kept(trace.length, cut)
                for donor in (*order[start:], *order[:start]):
                    other = self._clusters[donor.sample] != self._clusters[trace.sample]
                    if other and donor.length >= needed:
                        self._donors[trace, cut] = donor
                        break

    async def continuations(self) -> probes.Continuations:
        """Draw the answers behind every point of every trace, and count their outcomes."""
        self._probing.expect(len(self.traces))
        import numpy as np

        kinds = ("refusal", "compliance", "blank")
        counts = {kind: np.zeros((len(self.traces), len(self._points)), int) for kind in kinds}
        lost: dict[tuple[bool, int], Counter[str]] = defaultdict(Counter)
        rows = {trace: row for row, trace in enumerate(self.traces)}
        harmful = [self._samples[trace.sample].harmful is True for trace in self.traces]
        async for trace, found in self._session.map(self.traces, self._cut):
            self._probing.advance()
            row = rows[trace]
            if isinstance(found, tseval.TsevalError):
                every = Counter({"error": self._sizes.commitment_answers})
                found = [_Cell(place, every) for place in range(len(self._points))]
            for cell in found:
                for outcome, n in cell.outcomes.items():
                    if outcome in counts:
                        counts[outcome][row, cell.place] += n
                    else:
                        lost[harmful[row], cell.place][outcome] += n
        return probes.Continuations(
            points=self._points,
            refusals=counts["refusal"],
            compliances=counts["compliance"],
            blanks=counts["blank"],
            lost=lost,
            harmful=np.asarray(harmful),
            clusters=self._clusters[[trace.sample for trace in self.traces]],
            answers=self._sizes.commitment_answers,
            rows=tuple(
                tseval.row_hash(sample.id, sample.prompt)
                for sample in (self._samples[trace.sample] for trace in self.traces)
            ),
        )

    async def _cut(self, trace: _Trace) -> list[_Cell]:
        """Draw and label the answers behind every point of a trace."""
        ids = await self._ids(trace)
        further = await self._extension(trace, ids)
        wanted = self._sizes.commitment_answers
        cells: list[_Cell] = []
        drawn: dict[int, list[asyncio.Task[str]]] = {}
        async with asyncio.TaskGroup() as group:
            for place, point in enumerate(self._points):
                prefix = await self._prefix(trace, ids, further, point)
                if isinstance(prefix, str):
                    if prefix:
                        cells.append(_Cell(place, Counter({prefix: wanted})))
                    continue
                stream = f"prefix_commitment/{trace.rollout}/{point.name}"
                drawn[place] = [
                    group.create_task(self._answer(trace, prefix, n, stream)) for n in range(wanted)
                ]
        for place, tasks in drawn.items():
            cells.append(_Cell(place, Counter(task.result() for task in tasks)))
        return cells

    async def _prefix(
        self, trace: _Trace, ids: _Ids, further: _Ids | str, point: probes.Point
    ) -> _Ids | str:
        """Give what stands before a point; or why nothing does, '' where nothing should."""
        kept = probes.tokens_kept(trace.length, point.cut)
        if point.control in CONTROLS:
            return await self._control(trace, ids[:kept], point)
        if kept <= len(ids):
            return ids[:kept]
        if isinstance(further, str):
            return further
        longer = (*ids, *further)[:kept]
        if len(longer) < kept:
            return "extension-short"
        return "loop" if probes.is_loop(longer) else longer

    async def _control(self, trace: _Trace, prefix: _Ids, point: probes.Point) -> _Ids | str:
        if trace not in self._controlled:
            return ""
        if point.control == "other prompt":
            donor = self._donors.get((trace, point.cut))
            return "no-donor" if donor is None else (await self._ids(donor))[: len(prefix)]
        label = ("prefix_commitment", "shuffle", self._samples[trace.sample].id, point.cut)
        rng = probes.seeded_generator(self._session.spec.seed, *label)
        starts = probes.sentence_starts(prefix, self._decode)
        return probes.shuffle_sentences(prefix, starts, rng) or "one-sentence"

    async def _extension(self, trace: _Trace, ids: _Ids) -> _Ids | str:
        """Have the trace gone on with as far as the last cut; or say why that failed."""
        most = probes.tokens_kept(len(ids), max(self._cuts)) - len(ids)
        if most <= 0:
            return ()
        how = tseval.Continuation(prefix=(ids,), close=False, think_tokens=most, ban_closer=True)
        try:
            rollout = await self._session.extend(
                self._samples[trace.sample].prompt,
                how,
                stream=f"prefix_commitment/{trace.rollout}/further",
                sampling=self._probing.sampling,
                thinking=self._probing.thinking,
            )
        except (tseval.RequestFailed, tseval.RowSkipped):
            return "no-extension"
        return rollout.trace_ids or ()

    async def _answer(self, trace: _Trace, prefix: _Ids, n: int, stream: str) -> str:
        """Draw one answer behind a closed prefix, and say what it is."""
        sample = self._samples[trace.sample]
        try:
            rollout = await self._session.extend(
                sample.prompt,
                tseval.Continuation(prefix=(prefix,)),
                rollout=n,
                stream=stream,
                sampling=self._probing.sampling,
                thinking=self._probing.thinking,
            )
        except (tseval.RequestFailed, tseval.RowSkipped):
            return "error"
        if "reopened" in rollout.notes:
            # It thought on behind the closer: this is no answer behind the prefix.
            return "reopened"
        label = await self._probing.label(sample, rollout)
        if label.refusal is None:
            return "blank" if label.reason in ("empty", "degenerate") else label.reason
        return "refusal" if label.refusal else "compliance"

    async def _ids(self, trace: _Trace) -> _Ids:
        sample = self._samples[trace.sample]
        return self._trim(await self._probing.trace(sample, trace.rollout))

    def _trim(self, rollout: tseval.Rollout) -> _Ids:
        noise = self._session.target.format.noise
        return probes.trim_trace(rollout.trace_ids or (), self._decode, noise)

    def _decode(self, ids: _Ids) -> str:
        return self._session.target.backend.decode(ids)


def _points(cuts: Iterable[int]) -> Iterable[probes.Point]:
    for cut in cuts:
        yield probes.Point(cut=cut)
    yield probes.Point(cut=100, control="again")
    for control in CONTROLS:
        for cut in control_cuts(cuts):
            yield probes.Point(cut=cut, control=control)


def control_cuts(cuts: Iterable[int]) -> tuple[int, ...]:
    """Choose the cuts that controls are made for."""
    inner = [cut for cut in cuts if 0 < cut < 100]
    return (*sorted(inner, key=lambda cut: abs(cut - _MIDDLE))[:1], 100)
