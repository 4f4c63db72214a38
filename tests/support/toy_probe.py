"""A probe small enough for tests of what stands around probes: it counts refusals."""

from typing import Any

from tests.support.measured import curve, estimate
from tseval.cards import ProbeCard
from tseval.errors import TsevalError
from tseval.hookspecs import hookimpl
from tseval.measurements import Measurement, MeasureSpec, Number
from tseval.probes import begin, undefined
from tseval.types import BenchmarkSize, Score


class ToyProbe:
    """Counts refusals among the traces of its prompts, by class."""

    card = ProbeCard(
        name="toy_probe", title="Toy", summary="counts refusals", metrics=("toy_refusals",)
    )

    async def run(self, session: Any) -> list[Score]:
        probing = await begin(session, self.card)
        probing.expect(len(probing.pool.samples))

        async def one(sample: Any) -> Any:
            return await probing.label(sample, await probing.trace(sample))

        said: dict[bool, list[bool]] = {True: [], False: []}
        excluded: dict[str, int] = {}
        async for sample, label in session.map(probing.pool.samples, one):
            probing.advance()
            if isinstance(label, TsevalError) or label.refusal is None:
                reason = "error" if isinstance(label, TsevalError) else label.reason
                excluded[reason] = excluded.get(reason, 0) + 1
            else:
                said[bool(sample.harmful)].append(label.refusal)
        numbers = [self._number(group, said[group == "harmful"]) for group in ("harmful", "benign")]
        found = Measurement(
            probe="toy_probe",
            title="Toy",
            settings={"kind": "toy"},
            numbers=tuple(numbers),
            curves=(curve(),),
            excluded=excluded,
        )
        return probing.publish(found)

    def size(self, spec: Any) -> BenchmarkSize:
        limit = spec.limit or 60
        return BenchmarkSize(prompts=2 * limit, generations=2 * limit, judged=2 * limit)

    def _number(self, group: str, said: list[bool]) -> Number:
        counts = {"refusals": sum(said), "compliances": len(said) - sum(said)}
        why = undefined({"rollouts": len(said)}, 5)
        share = sum(said) / max(len(said), 1)
        return Number(
            metric="toy_refusals",
            group=group,
            estimate=None if why else estimate(share, 0.0, 1.0),
            undefined=why,
            n=len(said),
            n_prompts=len(said),
            counts=counts,
            headline=True,
        )


class Toy:
    """A plugin with the probe and its measure."""

    @hookimpl
    def register_benchmarks(self, register: Any) -> None:
        register(ToyProbe())

    @hookimpl
    def register_metrics(self, register: Any) -> None:
        register(MeasureSpec(name="toy_refusals", title="Refusals", unit="share"))
