"""``prefix_commitment``: how far a prefix of a thinking trace settles what the answer will be.

Traces are cut at parts of their length, closed there, and answered several times. If answers
behind the first fifth are those behind the whole trace, the rest of it did not deliberate.

Source: arXiv 2606.25013, nested branching.
Differs: Cuts are made on the stored token ids. Variances are unbiased, all intervals are over
prompts, and the outcome is compared with what a second series of draws behind the whole trace
gives. At 0% the trace is closed at once, as at every other cut; the paper takes rollouts without
thinking there, which ``think_flip`` measures. Above 100% there is one extension, cut at several
places as the trace is, instead of one for each. Controls were added, and traces that loop left out.
"""

import asyncio

import tseval
import tseval.probes as probes

from ._branching import CONTROLS, Branching, control_cuts


class PrefixCommitment:
    """The probe; see the module's docstring."""

    card = tseval.ProbeCard(
        name="prefix_commitment",
        title="Prefix commitment",
        summary="how far a prefix of the thinking trace settles the answer",
        version="2",
        metrics=("settled", "commitment_cut"),
        needs=("prefix", "token_ids"),
        note="0% closes the trace at once; that is not the same as thinking switched off",
    )

    def vet(self, spec: tseval.RunSpec) -> None:
        """See ``tseval.roles.Vetting``."""
        if spec.decoding == "fixed" and spec.sampling.temperature == 0:
            raise tseval.ConfigError(
                "prefix_commitment draws several answers behind one prefix,"
                " and temperature 0 makes them all the same",
                hint="give a --temperature above 0",
            )

    def size(self, spec: tseval.RunSpec) -> tseval.BenchmarkSize:
        """See ``tseval.roles.Sized``."""
        sizes = probes.sizes_of(spec.scale)
        harmful, benign = (min(n, spec.limit or n) for n in (sizes.harmful, sizes.benign))
        prompts = min(sizes.commitment_prompts, harmful + benign)
        take = min(max(prompts // 2, prompts - benign), harmful)
        traces = prompts * sizes.commitment_traces
        cuts = sizes.commitment_cuts
        points = traces * (len(cuts) + 1) + prompts * len(CONTROLS) * len(control_cuts(cuts))
        answers = points * sizes.commitment_answers
        return tseval.BenchmarkSize(
            prompts=prompts,
            independent={"harmful": take, "benign": prompts - take},
            generations=traces,
            continuations=answers + traces * (max(cuts) > 100),
            judged=answers,
            answer_tokens=sizes.answer_tokens,
            trace_tokens=sizes.trace_tokens,
        )

    async def run(self, session: tseval.Session) -> list[tseval.Score]:
        """See ``tseval.roles.Benchmark``."""
        probing = await probes.begin(session, self.card)
        probing.require_trace()
        sizes = probing.sizes
        work = Branching(probing, probing.pool.first(sizes.commitment_prompts))
        await work.survey()
        found = None
        if work.traces:
            done = await work.continuations()
            found = await asyncio.to_thread(
                probes.commitment_results, done, draws=sizes.bootstraps, seed=session.spec.seed
            )
        return probing.publish(_measurement(work, sizes, found))


def _measurement(
    work: Branching, sizes: probes.Sizes, found: probes.CommitmentFindings | None
) -> tseval.Measurement:
    """Put together what is published."""
    excluded = dict(sorted(work.excluded.items()))
    if found is None:
        nothing = tseval.Number(
            metric="commitment_cut",
            group="all",
            undefined="undefined: no trace can be cut",
            excluded=excluded,
            headline=True,
        )
        found = probes.CommitmentFindings((nothing,), (), ())
    notes = [
        "at 0% the trace is closed at once, by the same closer as at every cut;"
        " rollouts with thinking switched off are in think_flip"
    ]
    if work.forced:
        notes.append(
            f"the budget closed {work.forced} of {len(work.traces)} traces:"
            " their 100% is where it ended"
        )
    return tseval.Measurement(
        probe=PrefixCommitment.card.name,
        title=PrefixCommitment.card.title,
        settings={
            "prompts": sizes.commitment_prompts,
            "traces": sizes.commitment_traces,
            "answers": sizes.commitment_answers,
            "cuts": list(sizes.commitment_cuts),
            "control_cuts": list(control_cuts(sizes.commitment_cuts)),
            "committed": probes.COMMITTED,
            "bootstraps": sizes.bootstraps,
        },
        numbers=found.numbers,
        curves=found.curves,
        grids=found.grids,
        excluded=excluded,
        notes=tuple(notes),
    )


_MEASURES = (
    tseval.MeasureSpec(
        name="settled",
        title="settled",
        unit="share",
        summary="chance that an answer behind a prefix is that behind the whole trace",
    ),
    tseval.MeasureSpec(
        name="commitment_cut",
        title="committed at",
        unit="share",
        version="2",
        summary="first cut from which settled stays 95% of the way from chance to its ceiling",
    ),
    tseval.MeasureSpec(
        name="settled_share",
        title="settled by thinking",
        unit="share",
        summary="how much of the way from settled at 0% to its ceiling is gone at a cut",
    ),
    tseval.MeasureSpec(
        name="settled_over_control",
        title="settled over control",
        unit="share",
        summary="settled behind a trace's own prefix minus that behind a control in its place",
    ),
    tseval.MeasureSpec(
        name="prefix_variance",
        title="variance behind a prefix",
        summary="4q(1 - q) of refusals behind a prefix, unbiased; 1 for a coin",
    ),
    *(
        tseval.MeasureSpec(
            name=f"prefix_{name}{change}",
            title=f"{title}{' change' if change else ' at a cut'}",
            unit="share",
            higher_is_better=False,
            summary=f"{summary}{', between two cuts' if change else ' behind a prefix'}",
        )
        for name, title, summary in (
            ("asr_nonrefusal", "ASR (not refused)", "answers that are no refusal, empty included"),
            (
                "asr_nonrefusal_substantive",
                "ASR (not refused, substantive)",
                "the same, but empty and degenerate answers are no success",
            ),
            ("orr", "ORR", "answers to benign prompts that are refusals"),
        )
        for change in ("", "_change")
    ),
)


@tseval.hookimpl
def register_benchmarks(register):
    """Register the probe."""
    register(PrefixCommitment())


@tseval.hookimpl
def register_metrics(register):
    """Register what it measures."""
    for measure in _MEASURES:
        register(measure)
