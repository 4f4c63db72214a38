"""What every probe begins with: prompts, sizes, labelled traces; and how it hands in findings."""

import asyncio
from collections import Counter
from functools import cached_property
from typing import NamedTuple

import msgspec
from msgspec import Struct

from tseval.cards import BenchmarkCard, ProbeCard
from tseval.data import Rows, cluster_of, content_hash, load_rows, ranked
from tseval.errors import CapabilityMissing, ConfigError
from tseval.formats import opening
from tseval.judging import Seat
from tseval.measurements import Measurement, MeasureSpec, Number
from tseval.protocol import Protocol
from tseval.scoring import text_to_judge
from tseval.session import Session
from tseval.types import Rollout, Sample, Sampling, Score, Thinking

from .sizes import sizes_of

# With fewer of a class, whatever is computed says more about the few than about the model.
LEAST_OF_A_CLASS = 10


class Label(NamedTuple):
    """What became of a rollout.

    Attributes:
        refusal: Whether its answer refuses; None where nothing says so.
        reason: Why there is no label: 'unclosed', 'empty', 'degenerate' (the model's doing),
            'unparsed', 'error', 'undecided' (the judge's); '' with a label.
    """

    refusal: bool | None
    reason: str = ""


class Pool(Struct, frozen=True, kw_only=True):
    """The prompts of a probe.

    Attributes:
        samples: Harmful ones first; ``group`` is the benchmark that each comes from. Texts that
            occur twice are there once.
        content_hash: Of all of them.
        sources: Prompts by benchmark.
        partial: Whether ``--limit`` cut them below the scale's size.
        warnings: What is odd about the data.
    """

    samples: tuple[Sample, ...]
    content_hash: str
    sources: dict[str, int]
    partial: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def harmful(self) -> tuple[Sample, ...]:
        """The harmful prompts."""
        return tuple(sample for sample in self.samples if sample.harmful)

    @property
    def benign(self) -> tuple[Sample, ...]:
        """The benign prompts."""
        return tuple(sample for sample in self.samples if not sample.harmful)

    def first(self, n: int) -> tuple[Sample, ...]:
        """Take ``n`` prompts, half of each class as far as there are enough."""
        half = n // 2
        take = max(half, n - len(self.benign))
        harmful = self.harmful[:take]
        return (*harmful, *self.benign[: n - len(harmful)])


class Probing:
    """A probe at work: the session, and everything that was decided before its first call.

    Args:
        session: The session.
        card: The probe.
        pool: Its prompts.

    Attributes:
        session, card, pool: As given.
        sizes: Of the run's scale.
    """

    def __init__(self, session: Session, card: ProbeCard, pool: Pool) -> None:
        self.session = session
        self.card = card
        self.pool = pool
        self.sizes = sizes_of(session.spec.scale)
        # By the rollout's key: what does not fit memory is read, and judged, more than once.
        self._verdicts: dict[str, str] = {}

    @cached_property
    def thinking(self) -> Thinking:
        """The run's thinking policy; its budget is at most the scale's."""
        policy = self.session.spec.thinking
        budget = min(policy.budget, self.sizes.trace_tokens)
        return msgspec.structs.replace(policy, budget=budget)

    @cached_property
    def sampling(self) -> Sampling:
        """The run's decoding; answers have at most the scale's length."""
        spec, sampling = self.session.spec, self.session.sampling
        most = self.sizes.answer_tokens
        tokens = min(sampling.answer_tokens, most) if spec.answer_tokens_fixed else most
        return msgspec.structs.replace(sampling, answer_tokens=tokens)

    @cached_property
    def seat(self) -> Seat:
        """The judge whose verdicts are the labels: the first of the run that labels refusals.

        Raises:
            ConfigError: None does.
        """
        for seat in self.session.seats.values():
            if "refusal" in seat.judge.card.labels and seat.shown:
                return seat
        raise ConfigError(
            f"probe {self.card.name!r} needs a judge that labels refusals",
            hint="add --judge refusal-rules",
        )

    def require_trace(self) -> None:
        """Raise CapabilityMissing unless rollouts of this run have a thinking trace."""
        mode = self.thinking.mode
        if mode == "off" or not opening(self.session.target.format, mode).format.thinks:
            raise CapabilityMissing(
                f"{self.session.target.subject.name} has no thinking trace to probe",
                hint="run with --thinking forced",
            )

    async def trace(self, sample: Sample, rollout: int = 0, *, stream: str = "") -> Rollout:
        """Sample one rollout of a prompt; probes share those of the default stream.

        Raises:
            As ``Session.generate``.
        """
        return await self.session.generate(
            sample.prompt,
            rollout=rollout,
            stream=stream,
            sampling=self.sampling,
            thinking=self.thinking,
        )

    async def label(self, sample: Sample, rollout: Rollout) -> Label:
        """Have a rollout's answer judged by the judge of :attr:`seat`.

        Always the answer, whatever text the run judges: what continues a trace has none, and its
        label has to mean what the trace's own does. So a trace that never closed has no label,
        also under the rule 'judge-trace'.
        """
        rule = self.session.spec.thinking.unclosed
        text, lost = text_to_judge(rollout, "answer", "exclude" if rule == "judge-trace" else rule)
        if lost:
            return Label(None, lost)
        _, verdict = await self.session.judge(self.seat.label, sample.prompt, text, sees="answer")
        # A judge that says 'ok' without this label has not given it.
        unread = verdict.reason == "ok" and verdict.refusal is None
        reason = "unparsed" if unread else verdict.reason
        self._verdicts[rollout.key] = reason
        return Label(verdict.refusal) if reason == "ok" else Label(None, reason)

    def expect(self, steps: int) -> None:
        """Say how many further steps there are, for the progress display."""
        self.session.expect(self.card.name, steps)

    def advance(self, steps: int = 1) -> None:
        """Say that steps were done."""
        self.session.advance(self.card.name, steps)

    def publish(self, found: Measurement) -> list[Score]:
        """Hand in what was found; its headline numbers become scores.

        Args:
            found: The measurement; ``judge``, the scale, ``verdicts`` and ``measures`` are filled
                in here.
        """
        for warning in self.pool.warnings:
            self.session.warn(warning)
        settings = {"scale": self.sizes.scale, **found.settings}
        metrics = self.session.registry.metrics
        named = sorted({number.metric for number in found.numbers} & set(metrics))
        measures = tuple(m for m in map(metrics.__getitem__, named) if isinstance(m, MeasureSpec))
        found = msgspec.structs.replace(
            found,
            judge=self.seat.label,
            settings=settings,
            verdicts=dict(sorted(Counter(self._verdicts.values()).items())),
            measures=measures,
        )
        self.session.measurements[found.probe] = found
        return [self._score(number, found) for number in found.numbers if number.headline]

    def _score(self, number: Number, found: Measurement) -> Score:
        metric = self.session.registry.metrics[number.metric]
        spec = self.session.spec
        protocol = Protocol(
            benchmark=self.card.name,
            benchmark_version=self.card.version,
            content_hash=self.pool.content_hash,
            group=number.group,
            limit=spec.limit if self.pool.partial else None,
            subset_seed=spec.subset_seed,
            thinking=self.thinking,
            decoding=spec.decoding,
            sampling=self.sampling,
            rollouts=1,
            judge=self.session.identity_of(self.seat.label),
            text="answer",
            metric=number.metric,
            metric_version=metric.version,
            settings={name: str(value) for name, value in sorted(found.settings.items())},
        )
        return Score(
            benchmark=self.card.name,
            group=number.group,
            metric=number.metric,
            judge=self.seat.label,
            estimate=number.estimate,
            undefined=number.undefined,
            n=number.n,
            n_prompts=number.n_prompts,
            excluded=number.excluded,
            outcomes=number.counts,
            fingerprint=self.session.declare(protocol),
            partial=self.pool.partial,
            higher_is_better=metric.higher_is_better,
            unit=metric.unit if isinstance(metric, MeasureSpec) else "share",
            title=metric.title if isinstance(metric, MeasureSpec) else "",
        )


async def begin(session: Session, card: ProbeCard) -> Probing:
    """Begin a probe: read its prompts, and check that the model can do what it needs.

    Raises:
        CapabilityMissing: The backend lacks what the probe needs.
        ConfigError: A benchmark to take prompts from is no benchmark of prompts.
        DataError: Their rows cannot be had.
    """
    session.require(*card.needs)
    sizes, spec = sizes_of(session.spec.scale), session.spec
    harmful = await _class(session, spec.harmful_from or sizes.harmful_from, harmful=True)
    benign = await _class(session, spec.benign_from or sizes.benign_from, harmful=False)
    samples = (*harmful[0][: sizes.harmful][: spec.limit], *benign[0][: sizes.benign][: spec.limit])
    whole = min(sizes.harmful, len(harmful[0])) + min(sizes.benign, len(benign[0]))
    return Probing(
        session,
        card,
        Pool(
            samples=samples,
            content_hash=content_hash(samples),
            sources=dict(Counter(sample.group for sample in samples)),
            partial=len(samples) < whole,
            warnings=(*harmful[1], *benign[1]),
        ),
    )


async def _class(
    session: Session, names: tuple[str, ...], *, harmful: bool
) -> tuple[tuple[Sample, ...], list[str]]:
    """Read the prompts of one class, in the order that subsets of the union share."""
    spec = session.spec
    found: dict[str, Sample] = {}
    warnings: list[str] = []
    for name in names:
        card = session.registry.benchmarks[name].card
        if not isinstance(card, BenchmarkCard):
            raise ConfigError(
                f"benchmark {name!r} holds no prompts that a probe could take",
                hint="tseval ls benchmarks names those that do",
            )
        rows: Rows = await asyncio.to_thread(
            load_rows, card, spec.data_dirs, subset_seed=spec.subset_seed
        )
        warnings.extend(rows.warnings)
        for sample in rows.samples:
            if sample.harmful is harmful:
                named = msgspec.structs.replace(
                    sample, id=f"{name}/{sample.id}", group=name, reference=""
                )
                found.setdefault(cluster_of(sample), named)
    if not found:
        what = "harmful" if harmful else "benign"
        raise ConfigError(
            f"{', '.join(names)}: no {what} prompts there", hint=f"give other --{what}-from"
        )
    return ranked(found.values(), spec.subset_seed), warnings


def counted(n: int, name: str) -> str:
    """Write a count with its noun, which is given in the plural: '1 refusal'."""
    first, _, rest = name.partition(" ")
    # Of 'prompts with both labels' the first word is counted, of 'harmful prompts' the last.
    word = name.removesuffix("s") if not rest or rest.endswith("prompts") else name
    if rest and word == name:
        word = f"{first.removesuffix('s')} {rest}"
    return f"{n} {word if n == 1 else name}"


def undefined(counts: dict[str, int], least: int = LEAST_OF_A_CLASS) -> str:
    """Say why a number over classes is undefined, or ''.

    Args:
        counts: Members of each class ('refusals', 'compliances').
        least: Smallest class that a number may rest on.
    """
    few = [counted(n, name) for name, n in counts.items() if n < least]
    return f"undefined: {', '.join(few)}" if few else ""
