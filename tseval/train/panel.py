"""The panel: the same prompts asked before, during and after a training, in two halves.

The final half of a benchmark are the rows that ``tseval run --limit N`` takes; the selection half
are those that follow, without any that nearly equals a final prompt of any benchmark. Looks and the
choice of a checkpoint read the selection half alone, so that the figures on the final half are not
those of a lucky draw.
"""

import copy
from collections.abc import Mapping, Sequence
from math import fsum
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from tseval.card_benchmark import CardBenchmark
from tseval.data import Rows, cluster_of, content_hash, load_rows
from tseval.errors import ConfigError
from tseval.judging import seat_judges
from tseval.metrics import ASR_HARMFUL, ASR_NONREFUSAL, ORR, PASS_AT_1, outcome_of
from tseval.plugins import Registry, Table
from tseval.probes.groups import near_duplicates
from tseval.protocol import preset
from tseval.roles import MetricSpec
from tseval.spec import RunSpec
from tseval.types import Thinking

from .apart import asked_texts
from .looks import AxisName
from .records import Recipe

if TYPE_CHECKING:
    from tseval.requests import ModelSpec
    from tseval.runfolder import RunFolder
    from tseval.session import Session
    from tseval.types import Sample

# Fewer prompts in a half would decide nothing.
LEAST_PROMPTS = 2
# The selection half is looked for among so many times its size of rows, the final half included.
_SEARCHED = 5
# Verdicts on answers that say nothing: a model that is broken so is not safe.
_BROKEN = ("empty", "degenerate")
BROKEN = "empty_or_degenerate"


class Halves(NamedTuple):
    """The two halves of all benchmarks of a panel.

    Attributes:
        selection, final: Rows by benchmark.
        set_aside: Prompts that the selection half would have had, were they not near-duplicates
            of final ones.
    """

    selection: dict[str, Rows]
    final: dict[str, Rows]
    set_aside: int

    @property
    def prompts(self) -> list[str]:
        """Every prompt that is asked, and the clusters that they are variants of."""
        halves = (*self.selection.values(), *self.final.values())
        return asked_texts(sample for rows in halves for sample in rows.samples)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Prompts for selection and for the final figures, by benchmark."""
        return {
            name: (len(self.selection[name].samples) if self.selection else 0, len(final.samples))
            for name, final in self.final.items()
        }


def benchmarks_of(recipe: Recipe, registry: Registry) -> dict[str, CardBenchmark]:
    """Find the benchmarks of a recipe's panel.

    Raises:
        UnknownName: There is no such suite or benchmark.
        ConfigError: One that no card describes: its rows cannot be halved.
    """
    names: list[str] = []
    for name in recipe.panel.suites:
        names += registry.suites[name].benchmarks if name in registry.suites else [name]
    found: dict[str, CardBenchmark] = {}
    for name in names:
        benchmark = registry.benchmarks[name]
        if not isinstance(benchmark, CardBenchmark):
            raise ConfigError(
                f"--eval-suite {name}: a panel takes benchmarks of prompts and of questions, and"
                " this one has a run of its own",
                hint="tseval run measures it before and after the training",
            )
        found[name] = benchmark
    return found


def halves_of(recipe: Recipe, benchmarks: Mapping[str, CardBenchmark]) -> Halves:
    """Read the rows of a panel and put them into halves.

    A panel that looks at no checkpoint chooses none: all of its prompts are final.

    Args:
        recipe: Says how many prompts a half has at most, and where local mirrors are.
        benchmarks: Of the panel.

    Raises:
        ConfigError: A benchmark has too few prompts for two halves.
        DataError: Rows cannot be read.
    """
    panel = recipe.panel
    whole = {name: load_rows(each.card, panel.data_dirs) for name, each in benchmarks.items()}
    halves = 2 if panel.steps else 1
    sizes = {name: min(panel.prompts, rows.n_total // halves) for name, rows in whole.items()}
    for name, size in sizes.items():
        if size < LEAST_PROMPTS:
            raise _too_few(name, f"{whole[name].n_total} prompts are too few")
    final = {
        name: structs.replace(rows, samples=rows.samples[: sizes[name]], limit=sizes[name])
        for name, rows in whole.items()
    }
    if not panel.steps:
        return Halves({}, final, 0)
    # Of a large benchmark no more than what surely holds enough: likeness is found by chains, and
    # among all rows of some these link most of them.
    ends = {name: _SEARCHED * size for name, size in sizes.items()}
    rest = {name: rows.samples[sizes[name] : ends[name]] for name, rows in whole.items()}
    taken = [sample for rows in final.values() for sample in rows.samples]
    alike = _alike(taken, [sample for samples in rest.values() for sample in samples])
    selection: dict[str, Rows] = {}
    set_aside = 0
    for name, samples in rest.items():
        chosen = [sample for sample in samples if sample.prompt not in alike][: sizes[name]]
        if len(chosen) < LEAST_PROMPTS:
            raise _too_few(name, f"{len(chosen)} prompts are unlike those of the final half")
        set_aside += samples.index(chosen[-1]) + 1 - len(chosen)
        # A hash of its own: no other run measures these rows under the benchmark's name.
        rows = structs.replace(whole[name], samples=tuple(chosen), warnings=())
        selection[name] = structs.replace(
            rows, content_hash=content_hash(chosen), limit=len(chosen)
        )
    return Halves(selection, final, set_aside)


def _too_few(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"--eval-suite {name}: {what}",
        hint="give fewer --eval-prompts, or leave it out: tseval run measures it before and after",
    )


def _alike(taken: "Sequence[Sample]", rest: "Sequence[Sample]") -> set[str]:
    """Say which prompts of the rest belong to a group with a taken one."""
    samples = [*taken, *rest]
    groups = near_duplicates(
        [sample.prompt for sample in samples], keys=[cluster_of(sample) for sample in samples]
    ).tolist()
    near = set(groups[: len(taken)])
    return {
        sample.prompt for sample, group in zip(rest, groups[len(taken) :], strict=True)
        if group in near
    }  # fmt: skip


def halved(benchmark: CardBenchmark, rows: Rows) -> CardBenchmark:
    """Make the same benchmark with some of its rows."""

    async def chosen(session: "Session") -> Rows:
        for warning in rows.warnings:
            session.warn(warning)
        session.expect(benchmark.card.name, len(rows.samples) * session.spec.rollouts)
        return rows

    half = copy.copy(benchmark)
    half.rows = chosen  # type: ignore[method-assign]
    return half


class PanelRegistry(Registry):
    """A registry in which the benchmarks of a panel have half of their rows.

    Args:
        base: Everything that is registered.
        benchmarks: The panel's.
        rows: Of the half.
    """

    def __init__(
        self, base: Registry, benchmarks: Mapping[str, CardBenchmark], rows: Mapping[str, Rows]
    ) -> None:
        super().__init__(base.manager, {each.plugin: each for each in base.plugins()})
        table: Table[CardBenchmark] = Table("benchmark")
        for name, benchmark in benchmarks.items():
            table.add(name, halved(benchmark, rows[name]), base.benchmarks.origin(name))
        self._tables["benchmarks"] = table


def panel_spec(recipe: Recipe, model: "ModelSpec", names: Sequence[str]) -> RunSpec:
    """Say how a panel measures: by the default protocol, with the recipe's thinking and judges."""
    panel, default = recipe.panel, preset("default")
    tokens = panel.answer_tokens
    sampling = default.sampling
    if tokens is not None:
        sampling = structs.replace(sampling, answer_tokens=tokens)
    mode, budget = recipe.thinking.mode, recipe.thinking.budget
    return RunSpec(
        model=model,
        benchmarks=tuple(names),
        judges=panel.judges,
        judge_options=recipe.judge_options,
        sampling=sampling,
        answer_tokens_fixed=tokens is not None,
        thinking=Thinking(mode=mode, budget=budget),
        seed=recipe.seed,
    )


class Axis(NamedTuple):
    """Which outcomes make an axis of the panel; a checker of answers has no name here."""

    metric: MetricSpec
    judge: str = ""


def axes_of(recipe: Recipe, registry: Registry) -> dict[AxisName, Axis]:
    """Say what the panel's axes are.

    The attack success rate is that of the first judge that says what is harmful, or else the rate
    of answers that are no refusal; over-refusal is that of the first judge that says what refuses.
    """
    seats = seat_judges(recipe.panel.judges, registry, recipe.judge_options)
    shown = [(label, seat) for label, seat in seats.items() if seat.shown]
    said = {
        word: next((label for label, seat in shown if word in seat.judge.card.labels), "")
        for word in ("harmful", "refusal")
    }
    found: dict[AxisName, Axis] = {}
    if said["harmful"] or said["refusal"]:
        metric = ASR_HARMFUL if said["harmful"] else ASR_NONREFUSAL
        found["asr"] = Axis(metric, said["harmful"] or said["refusal"])
    if said["refusal"]:
        found["orr"] = Axis(ORR, said["refusal"])
    found["accuracy"] = Axis(PASS_AT_1)
    return found


def hits_of(
    folder: "RunFolder",
    axes: Mapping[AxisName, Axis],
    benchmarks: Mapping[str, CardBenchmark],
) -> dict[AxisName, dict[str, float | None]]:
    """Read a run's outcomes by prompt, for each axis that it has prompts of.

    Several rows about one prompt count as one, with their mean. An answer is broken where any judge
    finds it empty or degenerate: one that only knows harm calls it harmless. Prompts that a
    benchmark keeps out of its suites' averages, such as the unsafe ones of XSTest, count for
    nothing here.

    Args:
        folder: The run.
        axes: What is read.
        benchmarks: Of the panel.

    Returns:
        Outcomes by cluster of prompts; None where every row of one was lost.

    Raises:
        JournalError: The journal cannot be read.
    """
    from tseval.judgement.rows import read_rows

    kinds: dict[bool | None, AxisName] = {True: "asr", False: "orr", None: "accuracy"}
    found: dict[AxisName, dict[str, list[float]]] = {}
    for row in read_rows(folder):
        name = kinds[row.harmful]
        axis = axes.get(name)
        card = benchmarks[row.benchmark].card
        if axis is None or (row.harmful is not None and not card.averages(harmful=row.harmful)):
            continue
        hits = found.setdefault(name, {}).setdefault(row.cluster, [])
        # A question has one verdict: its checker's.
        judge = axis.judge or next(iter(row.verdicts), "")
        verdict = row.verdicts.get(judge)
        hit = None if verdict is None else outcome_of(axis.metric, verdict)[1]
        if hit is not None:
            hits.append(float(hit))
            if name != "accuracy":
                broken = found.setdefault("broken", {}).setdefault(row.cluster, [])
                said = (each.reason for each in row.verdicts.values() if each is not None)
                broken.append(float(any(reason in _BROKEN for reason in said)))
    return {
        name: {c: fsum(each) / len(each) if each else None for c, each in hits.items()}
        for name, hits in found.items()
    }
