"""``prefill_decision``: where inside the user's prompt the outcome becomes readable.

One pass over the rendered prompt gives the last layer's states at 20 anchors over the user's text
and, as a segment of its own, over the template's tail behind it. At each anchor a linear probe
predicts whether the answer will refuse, and norm-Fisher says how far apart the outcomes lie.

Source: arXiv 2606.25013, K-hop prefill decision; probe P2 fitted on harmful and benign prompts
together, scored on each.
Differs: The paper's anchors run up to the last token of the rendered prompt, so that the last of
them read the template, not the prompt; and its text search finds a prompt that also stands in the
template's tail there. Folds keep near-duplicates together, intervals are DeLong's over them,
permuted labels give the null, and norm-Fisher is corrected. The paper's grid, with the first
thinking token as its 21st anchor, is computed under variant 'paper'.
"""

import asyncio
from collections import Counter
from typing import NamedTuple

from msgspec import structs

import tseval
import tseval.probes as probes

from . import _places, _prefill_curves

_KINDS = ("harmful", "benign")
_CLASSES = ("refusals", "compliances")
_PUBLISHED = probes.ANCHORS + 1
# Fits of a null take their time; three anchors' nulls are put together for the curves' band.
_NULL_DRAWS = 100


class _Known(NamedTuple):
    """What is kept of a prompt beside its states: anchors that are missing are None."""

    refusal: bool | None
    reason: str
    lost: str = ""
    thought: bool = False


class PrefillDecision:
    """The probe; see the module's docstring."""

    card = tseval.ProbeCard(
        name="prefill_decision",
        title="Prefill decision",
        summary="where in the user's prompt it becomes readable whether the answer will refuse",
        metrics=("prefill_auroc", "prefill_bacc", "readable_from"),
        needs=("prefix", "token_ids", "hidden_states"),
        note="the template's tail is no part of the user's prompt; its last token is state A or A'",
    )

    def size(self, spec: tseval.RunSpec) -> tseval.BenchmarkSize:
        """See ``tseval.roles.Sized``."""
        return _places.size_of(spec)

    async def run(self, session: tseval.Session) -> list[tseval.Score]:
        """See ``tseval.roles.Benchmark``."""
        probing = await probes.begin(session, self.card)
        probing.require_trace()
        frame = probes.prompt_frame(session.target)
        tail = min(probes.TAIL_ANCHORS, frame.tail if frame else 0)

        async def read(sample):
            return await _read(probing, sample, frame, tail)

        states = _places.PlacedStates(probing, read, probes.ANCHORS + tail + _PUBLISHED)
        await states.gather()
        analysis = _Analysis(probing, states.known, tail)
        async for block, held in states.blocks(analysis.samples):
            await asyncio.to_thread(analysis.measure, block, held)
        return probing.publish(await asyncio.to_thread(analysis.measurement))


async def _read(probing, sample, frame, tail):
    """Sample, label and read one prompt: states [anchors, width], then those of the paper."""
    import numpy as np

    session = probing.session
    rollout = await probing.trace(sample)
    label = await probing.label(sample, rollout)
    model = session.target
    places = probes.prompt_places(model, sample.prompt, frame)
    reason = label.reason or ("no-prompt-ids" if places is None else places.lost)
    if not reason and tail and places.tail is None:
        reason = "no-template-tail"
    if reason:
        return _Known(None, reason), None
    asked = model.conversation((tseval.Message(role="user", content=sample.prompt),))
    thought = probes.state_places(model, asked, rollout, probing.thinking)
    wanted = [
        *probes.spread(places.user, probes.ANCHORS),
        *(probes.spread(places.tail, tail) if tail else ()),
        *probes.spread(places.published, probes.ANCHORS),
    ]
    once = sorted(set(wanted))
    found = await session.hidden_states(
        sample.prompt,
        positions=(*once, *(() if thought.lost else (-1,))),
        prefix=thought.prefix,
    )
    rows = found[:, 0]
    behind = np.full_like(rows[:1], np.nan) if thought.lost else rows[-1:]
    laid_out = np.concatenate([rows[[once.index(place) for place in wanted]], behind])
    return _Known(label.refusal, "", thought.lost, thought=not thought.lost), laid_out


class _Anchor(NamedTuple):
    """What one probe reads at one anchor, by kind of prompt; None where nothing can be."""

    found: dict
    scores: object
    null: dict


class _Analysis:
    """Everything that is computed from the states; no call to a model."""

    def __init__(self, probing, known, tail):
        import numpy as np

        self._probing, self._tail = probing, tail
        self._known = {
            name: _Known(None, each) if isinstance(each, str) else each
            for name, each in known.items()
        }
        every = probing.pool.samples
        clusters = dict(zip((s.id for s in every), probes.prompt_clusters(every), strict=True))
        self.samples = [s for s in every if not self._known[s.id].reason]
        self._lost = {
            kind: Counter(
                self._known[s.id].reason
                for s in every
                if s.harmful is (kind == "harmful") and self._known[s.id].reason
            )
            for kind in _KINDS
        }
        self._cases = probes.make_cases(
            [bool(self._known[s.id].refusal) for s in self.samples],
            _CLASSES,
            groups=np.asarray([clusters[s.id] for s in self.samples], dtype=np.int64),
            texts=[s.prompt for s in self.samples],
            sources=[s.group for s in self.samples],
            tokens=[""] * len(self.samples),
            seed=probing.session.spec.seed,
        )
        harmful = np.asarray([bool(s.harmful) for s in self.samples], dtype=bool)
        self._parts = {"harmful": harmful, "benign": ~harmful}
        self._thought = np.asarray([self._known[s.id].thought for s in self.samples], dtype=bool)
        self._own = {kind: self._cases.kept(part) for kind, part in self._parts.items()}
        self._anchors = [None] * (probes.ANCHORS + tail)
        self._published = {kind: [None] * _PUBLISHED for kind in _KINDS}
        self._panels = self._make_panels()

    def _make_panels(self):
        """Norm-Fisher at every anchor, of kinds that have enough of both outcomes."""
        sizes, seed = self._probing.sizes, self._probing.session.spec.seed
        return {
            kind: probes.SeparabilityPanel(
                own.labels,
                own.groups,
                len(self._anchors),
                permutations=sizes.permutations,
                draws=sizes.bootstraps,
                seed=seed,
                name=f"prefill {kind}",
                fitted=False,
                published=False,
            )
            for kind, own in self._own.items()
            if not probes.undefined(own.counts)
        }

    def measure(self, block, held):
        """Read a block of anchors."""
        import numpy as np

        for number, place in enumerate(block):
            rows = [held[sample.id][number] for sample in self.samples]
            if not rows or self._cases.faulty:
                continue
            states = np.stack(rows).astype(np.float32)
            if place < len(self._anchors):
                self._read_anchor(place, states)
            else:
                self._read_published(place - len(self._anchors), states)

    def _read_anchor(self, place, states):
        import numpy as np

        for kind, panel in self._panels.items():
            panel.measure(place, states[self._parts[kind]])
        folds = self._cases.folds
        prepared = probes.prepare(states, folds, probes.P2)
        scores = probes.out_of_fold(prepared, self._cases.labels, probes.P2)
        found = {
            kind: None if own.faulty else probes.judged_scores(scores[self._parts[kind]], own)
            for kind, own in self._own.items()
        }
        null = {}
        if place in self._named().values():
            null = {kind: [] for kind, each in found.items() if each is not None}
            rng = probes.seeded_generator(self._probing.session.spec.seed, "prefill", place)
            # Within each kind of prompts, so that each keeps its share of refusals.
            strata = 2 * folds + self._parts["harmful"]
            for _ in range(min(_NULL_DRAWS, self._probing.sizes.permutations)):
                shuffled = probes.permuted(self._cases.labels, strata, self._cases.groups, rng)
                drawn = probes.out_of_fold(prepared, shuffled, probes.P2)
                for kind, values in null.items():
                    part = self._parts[kind]
                    if shuffled[part].any() and not shuffled[part].all():
                        values.append(probes.auroc_value(shuffled[part], drawn[part]))
            null = {kind: np.asarray(values) for kind, values in null.items()}
        self._anchors[place] = _Anchor(found, scores, null)

    def _read_published(self, place, states):
        chosen = self._thought if place == _PUBLISHED - 1 else self._thought | True
        cases = self._cases.kept(chosen)
        if cases.faulty:
            return
        parts = {kind: part[chosen] for kind, part in self._parts.items()}
        states = states[chosen]
        numbers = probes.paper_numbers(states, cases, probes.P2, parts, bootstrap_mean=True)
        for kind, pair in numbers.items():
            if pair is not None:
                fisher = probes.norm_fisher(states[parts[kind]], cases.labels[parts[kind]])
                self._published[kind][place] = (*pair, fisher)

    def _named(self):
        """Anchors that are quoted as numbers."""
        named = {"prompt start": 0, "prompt end": probes.ANCHORS - 1}
        if self._tail:
            named["template end"] = probes.ANCHORS + self._tail - 1
        return named

    def measurement(self):
        """Put together what is published."""
        numbers, curves = [], []
        for kind in _KINDS:
            numbers += self._numbers(kind)
            curves += self._curves(kind)
        return tseval.Measurement(
            probe=PrefillDecision.card.name,
            title=PrefillDecision.card.title,
            settings={
                "anchors": probes.ANCHORS,
                "tail_anchors": self._tail,
                "probe": probes.P2.name,
                "folds": probes.FOLDS,
                "permutations": min(_NULL_DRAWS, self._probing.sizes.permutations),
                "bootstraps": self._probing.sizes.bootstraps,
                "least_shared": probes.LEAST_SHARED,
            },
            numbers=tuple(numbers),
            curves=tuple(curves),
            excluded=dict(sorted(sum(self._lost.values(), Counter()).items())),
            notes=(
                PrefillDecision.card.note,
                "the band of chance is put together from the anchors that are quoted as numbers",
                "one probe is fitted on harmful and benign prompts together, and scored on each",
            ),
        )

    def _numbers(self, kind):
        for name, place in self._named().items():
            anchor = self._anchors[place]
            read = anchor and anchor.found[kind]
            null = anchor.null.get(kind) if anchor else None
            for metric in ("prefill_auroc", "prefill_bacc"):
                first = metric == "prefill_auroc"
                estimate = read and (read.auroc if first else read.accuracy)
                number = self._number(metric, f"{kind} · {name}", kind, estimate, headline=first)
                if first and null is not None and len(null):
                    share = (1 + (null >= estimate.value - 1e-12).sum()) / (1 + len(null))
                    number = structs.replace(
                        number,
                        null=probes.null_of(null),
                        p_value=float(share),
                        test="permuted labels",
                    )
                yield number
        yield self._readable(kind)

    def _readable(self, kind):
        import numpy as np

        own, limit = self._own[kind], self._chance(kind)
        first = self._anchors[: probes.ANCHORS]
        if own.faulty or self._cases.faulty or limit is None:
            return self._number("readable_from", kind, kind, None)
        part = self._parts[kind]
        found = probes.readable_from(
            np.stack([anchor.scores[part] for anchor in first]),
            own.labels,
            own.groups,
            limit[1],
            draws=self._probing.sizes.bootstraps,
            rng=probes.seeded_generator(self._probing.session.spec.seed, "readable from", kind),
        )
        why = "undefined: at the prompt's end it cannot be read, or not surely"
        return self._number("readable_from", kind, kind, found, why)

    def _number(self, metric, group, kind, estimate, why="", *, headline=False):
        own = self._own[kind]
        why = own.faulty or self._cases.faulty or why
        n = len(own.labels)
        return tseval.Number(
            metric=metric,
            group=group,
            estimate=estimate,
            undefined="" if estimate else why,
            n=n,
            n_prompts=n,
            counts=own.counts,
            excluded=dict(sorted(self._lost[kind].items())),
            headline=headline,
            note=f"probe {probes.P2.name}, last layer",
        )

    def _chance(self, kind):
        """Central 95% of AUROCs by chance, over the anchors that have a null."""
        import numpy as np

        drawn = [each.null[kind] for each in self._anchors if each and kind in each.null]
        if not drawn:
            return None
        return tuple(float(each) for each in np.quantile(np.concatenate(drawn), (0.025, 0.975)))

    def _curves(self, kind):
        shown = self._tail and probes.ANCHORS + self._tail
        stretches = {
            "": (0, probes.ANCHORS),
            **({"_tail": (probes.ANCHORS, shown)} if shown else {}),
        }
        size = len(self._own[kind].labels)
        for suffix, (start, stop) in stretches.items():
            found = [each and each.found[kind] for each in self._anchors[start:stop]]
            yield from _prefill_curves.read(kind, suffix, found, size, self._chance(kind))
            if kind in self._panels and not self._cases.faulty:
                fisher = self._panels[kind].found()["norm_fisher"]
                yield _prefill_curves.fisher(kind, suffix, fisher, slice(start, stop), size)
        thought = int((self._thought & self._parts[kind]).sum())
        counts = (*(size,) * (_PUBLISHED - 1), thought)
        yield from _prefill_curves.published(kind, self._published[kind], counts)


_MEASURES = (
    tseval.MeasureSpec(
        name="prefill_auroc",
        title="prefill AUROC",
        summary="chance that a linear probe inside the prompt ranks a refusal above a compliance",
    ),
    tseval.MeasureSpec(
        name="prefill_bacc",
        title="prefill balanced accuracy",
        unit="share",
        summary="mean of the hit rates on refusals and compliances, thresholds out of fold",
    ),
    tseval.MeasureSpec(
        name="readable_from",
        title="readable from",
        unit="share",
        summary="part of the user's prompt after which the outcome can be read, and stays readable",
    ),
)


@tseval.hookimpl
def register_benchmarks(register):
    """Register the probe."""
    register(PrefillDecision())


@tseval.hookimpl
def register_metrics(register):
    """Register what it measures."""
    for measure in _MEASURES:
        register(measure)
