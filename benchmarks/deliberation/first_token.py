"""``first_token``: can the refusal that comes be read before the model has thought at all?

Hidden states are read where the prompt ends (state A), behind an opener (A') and at the first
token of the trace (B), which already holds one sampled token. Linear probes of them predict
whether the answer refuses; controls say what of that needs no hidden state.

Source: arXiv 2606.25013, first-token probe; its probe P1 for harmful and benign prompts apart, its
P2 ('bestpipe') for both together.
Differs: States A and B are told apart. Folds keep near-duplicate prompts together, intervals are
DeLong's over such groups with score-type limits, and the controls and the null of permuted labels
are new. Fewer than ten of a class give no number (there: five). Traces of under three tokens
stay. The paper's own variants are computed beside it.
"""

import asyncio
from typing import NamedTuple

import tseval
import tseval.probes as probes

from . import _states
from ._places import size_of

_POOLS = ("harmful", "benign")
_PROBES = {"harmful": probes.P1, "benign": probes.P1, "pooled": probes.P2}
_METRICS = ("refusal_auroc", "refusal_bacc")
_CLASSES = ("refusals", "compliances")
_HEADLINES = ("A", "B")
# What a state is predicted from is said in every group: 'harmful · state A'.
_GROUP = "{pool} · state {state}"


class _Read(NamedTuple):
    """What is kept of one prompt.

    Attributes:
        refusal: Its label; None where there is none.
        reason: Why not.
        states: float [layers, width] by state.
        token: Text of the token at state B.
        lost: Why there is no state B.
    """

    refusal: bool | None
    reason: str
    states: dict
    token: str
    lost: str


class FirstToken:
    """The probe; see the module's docstring."""

    card = tseval.ProbeCard(
        name="first_token",
        title="First token",
        summary="whether the refusal that comes can be read before any thinking",
        metrics=_METRICS,
        needs=("prefix", "token_ids", "hidden_states"),
        note="state B already holds one sampled token; what comes before any thinking is state A",
    )

    def size(self, spec: tseval.RunSpec) -> tseval.BenchmarkSize:
        """See ``tseval.roles.Sized``."""
        return size_of(spec)

    async def run(self, session: tseval.Session) -> list[tseval.Score]:
        """See ``tseval.roles.Benchmark``."""
        probing = await probes.begin(session, self.card)
        probing.require_trace()
        samples = probing.pool.samples
        probing.expect(len(samples))
        read: dict[str, _Read] = {}
        async for sample, result in session.map(samples, lambda each: _one(probing, each)):
            probing.advance()
            if isinstance(result, tseval.TsevalError):
                result = _Read(None, _states.reason(result), {}, "", "")
            read[sample.id] = result
        # In the pool's order: nothing may depend on which prompt came back first.
        rows = [read[sample.id] for sample in samples]
        found = await asyncio.to_thread(_Analysis(probing, rows).measurement)
        return probing.publish(found)


async def _one(probing: probes.Probing, sample: tseval.Sample) -> _Read:
    """Sample, read and label one prompt; the judge comes last, so that models swap once."""
    session = probing.session
    rollout = await probing.trace(sample)
    places, states = await probes.read_states(
        session, sample.prompt, rollout, probing.thinking, layers=probes.layers_named()
    )
    label = await probing.label(sample, rollout)
    token = ""
    if places.token is not None:
        token = session.target.backend.decode(rollout.trace_ids[places.token : places.token + 1])
    kept = {state: _states.compact(values) for state, values in states.items()}
    return _Read(label.refusal, label.reason, kept, token, places.lost)


class _Analysis:
    """Everything that is computed from the states; no call to a model."""

    def __init__(self, probing: probes.Probing, rows: list[_Read]) -> None:
        self._probing = probing
        self._rows = rows
        self._samples = probing.pool.samples
        self._groups = probes.prompt_clusters(self._samples)
        self._seed = probing.session.spec.seed
        self._draws = probing.sizes.permutations
        self._numbers: list[tseval.Number] = []
        self._curves: list[tseval.Curve] = []
        self._controls: list[tuple] = []
        self._unseen: list[tuple] = []

    def measurement(self) -> tseval.Measurement:
        """Compute and put together what is published."""
        for pool in (*_POOLS, "pooled"):
            self._pool(pool)
        lost = (row.reason for row in self._rows)
        return tseval.Measurement(
            probe=FirstToken.card.name,
            title=FirstToken.card.title,
            settings={
                "layers": list(_states.LAYERS),
                "folds": probes.FOLDS,
                "probes": {pool: probe.name for pool, probe in _PROBES.items()},
                "permutations": self._draws,
                "least_shared": probes.LEAST_SHARED,
            },
            numbers=tuple(self._numbers),
            curves=tuple(self._curves),
            grids=(_states.control_grid(self._controls), _unseen_grid(self._unseen)),
            excluded=dict(sorted(_states.excluded_of(lost).items())),
            notes=(FirstToken.card.note,),
        )

    def _pool(self, pool: str) -> None:
        import numpy as np

        mine = [
            n
            for n, (sample, row) in enumerate(zip(self._samples, self._rows, strict=True))
            if pool == "pooled" or sample.harmful is (pool == "harmful")
        ]
        labelled = [n for n in mine if self._rows[n].refusal is not None]
        lost = _states.excluded_of(self._rows[n].reason for n in mine)
        cases = probes.make_cases(
            [bool(self._rows[n].refusal) for n in labelled],
            _CLASSES,
            groups=self._groups[labelled],
            texts=[self._samples[n].prompt for n in labelled],
            sources=[self._samples[n].group for n in labelled],
            tokens=[self._rows[n].token for n in labelled],
            seed=self._seed,
        )
        harmful = np.asarray([self._samples[n].harmful for n in labelled], dtype=bool)
        for state in probes.STATES:
            has = np.asarray([state in self._rows[n].states for n in labelled], dtype=bool)
            if state == "A'" and not has.any():
                continue
            chosen = [n for n, there in zip(labelled, has, strict=True) if there]
            gone = lost + _states.excluded_of(
                self._rows[n].lost for n, there in zip(labelled, has, strict=True) if not there
            )
            self._state(pool, state, cases.kept(has), chosen, harmful[has], gone)

    def _state(self, pool, state, cases, chosen, harmful, excluded) -> None:
        """Read one state of one pool at every layer."""
        group, probe = _GROUP.format(pool=pool, state=state), _PROBES[pool]
        headline = state in _HEADLINES
        found = [None] * len(_states.LAYERS)
        if not cases.faulty:
            for layer in range(len(found)):
                null = self._draws if headline and layer == _states.LAST else 0
                found[layer] = probes.read_out(
                    self._layer(chosen, state, layer),
                    cases,
                    probe,
                    draws=null,
                    seed=self._seed,
                    label=group,
                )
        last = found[_states.LAST]
        note = f"probe {probe.name}, last layer"
        for build, metric in zip(
            (_states.auroc_number, _states.accuracy_number), _METRICS, strict=True
        ):
            self._numbers.append(
                build(metric, group, cases, last, excluded=excluded, headline=headline, note=note)
            )
        self._curves.append(
            _states.layer_curve(
                "refusal_auroc", group, "Refusal read from first states", found, len(chosen)
            )
        )
        if last is not None:
            self._beside(pool, state, cases, chosen, harmful, excluded, last)

    def _beside(self, pool, state, cases, chosen, harmful, excluded, last) -> None:
        """Compute what stands beside a defined figure: parts, controls, the paper's variants."""
        group, probe = _GROUP.format(pool=pool, state=state), _PROBES[pool]
        states = self._layer(chosen, state, _states.LAST)
        parts = {pool: harmful | True}
        if pool == "pooled":
            parts |= {"harmful": harmful, "benign": ~harmful}
            for name in _POOLS:
                self._part(name, state, cases.kept(parts[name]), last.scores[parts[name]], excluded)
        published = probes.paper_numbers(
            states, cases, probe, parts, bootstrap_mean=pool == "pooled"
        )
        for name, estimates in published.items():
            title = _GROUP.format(pool=name, state=state)
            title = title if name == pool else f"{title} · {probe.name}"
            own = cases.kept(parts[name])
            self._numbers += _states.paper_pair(_METRICS, title, own, estimates, excluded)
        if state not in _HEADLINES:
            return
        rows, gain = probes.compare_controls(
            *(group, cases, last, probes.control_scores(cases), "refusal_auroc_gain"),
            # Before the first token was sampled it is no control but an outcome.
            aside=() if state == "B" else ("first token",),
        )
        self._controls += rows
        self._numbers.append(gain)
        if pool != "pooled":
            self._unseen += _unseen_rows(group, states, cases, probe)

    def _part(self, pool, state, cases, scores, excluded) -> None:
        """Put down what the pooled probe says of one kind of prompts."""
        group = f"{_GROUP.format(pool=pool, state=state)} · {probes.P2.name}"
        found = None if cases.faulty else probes.judged_scores(scores, cases)
        note = f"probe {probes.P2.name}, fitted on harmful and benign prompts together"
        for build, metric in zip(
            (_states.auroc_number, _states.accuracy_number), _METRICS, strict=True
        ):
            self._numbers.append(build(metric, group, cases, found, excluded=excluded, note=note))

    def _layer(self, chosen, state, layer):
        import numpy as np

        return np.stack([self._rows[n].states[state][layer] for n in chosen]).astype(np.float32)


def _unseen_rows(group, states, cases, probe):
    """Hold out one benchmark at a time."""
    import numpy as np

    sources = np.asarray(cases.sources)
    names = sorted(set(cases.sources))
    if len(names) < 2:
        return [(group, "", None, None, None, len(sources), 0, "undefined: one benchmark only")]
    tests = {name: np.flatnonzero(sources == name) for name in names}
    rows = []
    for name, (scores, faulty) in probes.held_out_scores(states, cases, probe, tests).items():
        places = tests[name]
        refusals = int(cases.labels[places].sum())
        figures = (None, None, None)
        if scores is not None:
            found = probes.auroc(cases.labels[places], scores, cases.groups[places])
            figures = (found.value, found.low, found.high)
        rows.append((group, name, *figures, len(places), refusals, faulty))
    return rows


def _unseen_grid(rows):
    return tseval.Grid(
        name="unseen",
        title="Each benchmark read by a probe of the others",
        columns=("group", "held out", "AUROC", "low", "high", "n", "refusals", "why not"),
        rows=tuple(rows),
    )


_MEASURES = (
    tseval.MeasureSpec(
        name="refusal_auroc",
        title="refusal AUROC",
        summary="chance that a linear probe of a first state ranks a refusal above a compliance",
    ),
    tseval.MeasureSpec(
        name="refusal_bacc",
        title="refusal balanced accuracy",
        unit="share",
        summary="mean of the hit rates on refusals and compliances, thresholds out of fold",
    ),
    tseval.MeasureSpec(
        name="refusal_auroc_gain",
        title="refusal AUROC over control",
        summary="AUROC of the probe minus that of the best control on the same prompts",
    ),
)


@tseval.hookimpl
def register_benchmarks(register):
    """Register the probe."""
    register(FirstToken())


@tseval.hookimpl
def register_metrics(register):
    """Register what it measures."""
    for measure in _MEASURES:
        register(measure)
