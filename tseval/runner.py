"""Run benchmarks concurrently in one session, and write the run."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from .arrays import ArrayStore
from .errors import CapabilityMissing, ConfigError, TsevalError
from .judging import seat_judges
from .legs import Display, Work, open_leg, watched
from .mapping import ENDS_THE_RUN, leaves
from .measurements import Measurement
from .plugins import Registry
from .roles import Backend, Benchmark
from .runfolder import Manifest, RunFolder, Scorecard, choose_folder
from .scoring import averages
from .session import Session
from .spec import RunSpec
from .stance_judging import stances_of
from .types import Rollout, Score

# Shares of verdicts without a label above which a run warns, and above which it is incomplete.
WARN_SHARE = 0.01
FAIL_SHARE = 0.05


class Outcome(Struct, kw_only=True):
    """How a run ended.

    Attributes:
        folder: Its folder.
        scorecard: Its scores.
        lost_share: Share of verdicts that are unparsed or errors, in the benchmark where it is
            largest.
        failed_share: Share of errors alone, there: what another try may mend.
        new: The scores that were made now, where the scorecard has older ones too; None: all.
        left: What was to be measured again and could not be, with the reason.
    """

    folder: RunFolder
    scorecard: Scorecard
    lost_share: float
    failed_share: float = 0.0
    new: list[Score] | None = None
    left: dict[str, str] = {}

    @property
    def exit_code(self) -> int:
        """0 fine; 1 a benchmark failed; 5 something is missing.

        Missing are benchmarks that were skipped, scores without a value, and verdicts where more
        than 5% of a benchmark's are unparsed or failed. Where there are ``new`` scores beside older
        ones, what is missing of the older ones does not count; nor do members of panels ever,
        whose panel decides, and numbers of probes: that a model refused too little for one to be
        defined is a finding.
        """
        if self.scorecard.failed:
            return 1
        skipped = self.scorecard.skipped if self.new is None else {}
        missing = skipped or self.left or self.undefined
        return 5 if missing or self.lost_share > FAIL_SHARE else 0

    @property
    def undefined(self) -> list[Score]:
        """Scores without a value that count for the exit code."""
        scores = self.scorecard.scores if self.new is None else self.new
        probed = self.scorecard.is_probed
        return [s for s in scores if s.estimate is None and not s.member and not probed(s)]


async def run(
    spec: RunSpec,
    registry: Registry,
    display: Display,
    *,
    out: Path | None = None,
    fresh: bool = False,
    backend: Backend | None = None,
    on_folder: Callable[[RunFolder], None] | None = None,
) -> Outcome:
    """Run a specification to its end, resuming what is there.

    Args:
        spec: What to run.
        registry: Everything that is registered.
        display: Shows progress.
        out: A run's folder or a folder of runs (see ``choose_folder``).
        fresh: Start anew.
        backend: Use this backend instead of building the one that ``spec.model`` names.
        on_folder: Told of the run's folder as soon as it is known.

    Raises:
        TsevalError: What kept the run from starting, or ended it; the manifest says so, and
            nothing that was computed is lost.
    """
    benchmarks = [registry.benchmarks[name] for name in spec.benchmarks]
    opened = open_session(
        spec, registry, display, out=out, fresh=fresh, backend=backend, on_folder=on_folder
    )
    async with opened as (session, folder):
        return await _measure(session, benchmarks, folder, display)


@contextlib.asynccontextmanager
async def open_session(
    spec: RunSpec,
    registry: Registry,
    display: Display,
    *,
    out: Path | None = None,
    fresh: bool = False,
    backend: Backend | None = None,
    on_folder: Callable[[RunFolder], None] | None = None,
) -> AsyncIterator[tuple[Session, RunFolder]]:
    """Open a run's folder, start its models, and yield a session on them.

    The manifest says how it ended: the body may set its status, and one that sets none leaves a
    complete run. Progress is not watched: see ``tseval.legs.watched``.

    Arguments are those of :func:`run`; the benchmarks of ``spec`` are names only here, and need
    not be registered.

    Yields:
        The session, and the run's folder.

    Raises:
        TsevalError: As :func:`run`.
    """
    # An unknown name is said before a model is loaded.
    stances_of(spec, registry, seat_judges(spec.judges, registry, spec.judge_options))
    for data in spec.data_dirs:
        if not Path(data).is_dir():
            raise ConfigError(f"--data-dir {data} is no folder", hint="pass existing folders")
    if backend is None:
        # Building is cheap and reads the options: a typo is said before a folder is made for it.
        registry.backends[spec.model.backend].create(spec.model)
    folder, decision = choose_folder(spec, out, fresh=fresh)
    display.remark(decision)
    if on_folder is not None:
        on_folder(folder)
    manifest = folder.manifest
    async with open_leg(folder, registry, display) as work:
        manifest.status, manifest.failed, manifest.skipped = "running", {}, {}
        try:
            work.session = await _start(spec, registry, work, backend)
            for remark in work.models.remarks:
                display.remark(remark)
            yield work.session, folder
        except (asyncio.CancelledError, KeyboardInterrupt):
            manifest.status = "interrupted"
            raise
        except BaseException:
            manifest.status = "failed"
            raise
        if manifest.status == "running":
            manifest.status = "complete"


async def _start(spec: RunSpec, registry: Registry, work: Work, backend: Backend | None) -> Session:
    """Start every model, and a session on them."""
    folder, models, manifest = work.folder, work.models, work.folder.manifest
    folder.save()
    judges = (*spec.judges, *(text for text in manifest.judges if text not in spec.judges))
    seats = seat_judges(judges, registry, {**manifest.judge_options, **spec.judge_options})
    stances = stances_of(spec, registry, seats)
    for seated in (seats, stances):
        await models.start_judges(seated)
    await models.start_target(spec, manifest, backend)
    work.leg.execution = models.execution
    folder.save()
    hook = registry.manager.hook
    hook.run_started(run=str(folder.path), manifest=msgspec.to_builtins(manifest))

    def on_rollout(rollout: Rollout) -> None:
        hook.rollout_journalled(run=str(folder.path), rollout=rollout)

    return Session(
        spec=spec,
        journal=work.journal,
        registry=registry,
        models=models.started,
        judges=seats,
        stances=stances,
        scheduler=models.scheduler,
        arrays=ArrayStore(folder.path / "arrays"),
        on_rollout=on_rollout,
    )


async def _measure(
    session: Session, benchmarks: list[Benchmark], folder: RunFolder, display: Display
) -> Outcome:
    """Run the benchmarks and write their scores."""
    manifest, registry = folder.manifest, session.registry
    scores = await _run_all(session, benchmarks, manifest, display)
    scorecard = _kept(_scorecard(session, manifest, scores), folder, session)
    folder.save_measurements(session.measurements.values())
    folder.save_outcomes(session.outcomes, scorecard)
    folder.save_scores(scorecard)
    manifest.warnings = list(session.warnings)
    measured = session.measurements.values()
    lost, failed = lost_shares(scores, registry, measured)
    outcome = Outcome(folder=folder, scorecard=scorecard, lost_share=lost, failed_share=failed)
    # With failures that another try might mend, the same command resumes and tries again.
    again = mendable(scores, measured)
    manifest.status = "incomplete" if outcome.exit_code or again else "complete"
    registry.manager.hook.run_finished(run=str(folder.path), scores=scores)
    return outcome


def mendable(scores: Iterable[Score], found: Iterable[Measurement]) -> bool:
    """Whether something failed that another try might mend.

    Scores of probes count prompts or traces, and what they lose of these; which of the answers
    behind them failed ('replay: error', 'judge error'), and how many verdicts, stands with the
    measurement.
    """
    measured = list(found)
    lost = (reason for each in measured for reason, n in each.excluded.items() if n)
    return (
        any(score.excluded.get("error") for score in scores)
        or any(reason.endswith("error") for reason in lost)
        or any(each.verdicts.get("error") for each in measured)
    )


def _kept(scorecard: Scorecard, folder: RunFolder, session: Session) -> Scorecard:
    """Keep what an earlier leg scored and this one did not.

    That is benchmarks that failed in this leg, and probes under judges that came later: a run
    measures its probes under the first of its judges.
    """
    if not (folder.path / "scores.json").exists():
        return scorecard
    old = folder.scorecard()
    lost = {*scorecard.failed, *scorecard.skipped}
    again = {(score.benchmark, score.judge) for score in scorecard.scores}
    later = [
        score
        for score in old.scores
        if old.is_probed(score)
        and score.benchmark not in lost
        and (score.benchmark, score.judge) not in again
    ]
    failed = [s for s in old.scores if s.benchmark in lost and s.group != "average"]
    kept = [*failed, *later]
    if not kept:
        return scorecard
    for name in sorted({score.benchmark for score in failed}):
        session.warn(f"{name}: scores of an earlier leg, since it could not be finished in this")
    order = session.spec.benchmarks
    scores = [s for s in scorecard.scores if s.group != "average"]
    average = [s for s in scorecard.scores if s.group == "average"]
    # A benchmark of somebody else's may declare none.
    theirs = {s.fingerprint for s in kept} & set(old.protocols)
    protocols = {p: old.protocols[p] for p in theirs}
    return msgspec.structs.replace(
        scorecard,
        scores=[*sorted([*scores, *kept], key=lambda s: order.index(s.benchmark)), *average],
        protocols=dict(sorted({**scorecard.protocols, **protocols}.items())),
    )


async def _run_all(
    session: Session,
    benchmarks: list[Benchmark],
    manifest: Manifest,
    display: Display,
) -> list[Score]:
    """Run all benchmarks at once; one that fails loses only itself."""

    async def one(benchmark: Benchmark) -> list[Score]:
        name = benchmark.card.name
        try:
            return await benchmark.run(session)
        except CapabilityMissing as error:
            # With what to do about it: this is all that a user learns of a benchmark left out.
            manifest.skipped[name] = str(error)
        except Exception as error:
            for leaf in leaves(error):
                if isinstance(leaf, ENDS_THE_RUN):
                    raise leaf from None
            manifest.failed[name] = _reason(error, display)
        session.outcomes.forget(name)
        display.remark(f"{name}: {manifest.failed.get(name) or manifest.skipped[name]}")
        return []

    try:
        async with watched(session, display), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(benchmark)) for benchmark in benchmarks]
    except BaseExceptionGroup as errors:
        raise next(leaves(errors)) from errors
    return [score for task in tasks for score in task.result()]


def _reason(error: Exception, display: Display) -> str:
    """Say why a benchmark ended; a bug in it is shown with its traceback."""
    if isinstance(error, TsevalError):
        return str(error)
    for line in "".join(traceback.format_exception(error)).splitlines():
        display.remark(line)
    return f"{type(error).__name__}: {error}"


def _scorecard(session: Session, manifest: Manifest, scores: list[Score]) -> Scorecard:
    spec, registry, target = session.spec, session.registry, session.target
    ordered = sorted(scores, key=lambda s: spec.benchmarks.index(s.benchmark))
    prompt = spec.system_prompt
    return Scorecard(
        subject=msgspec.structs.replace(target.subject, execution={}),
        preset=spec.preset,
        seed=spec.seed,
        scores=[
            *ordered,
            *averages(spec.suites, registry, ordered, {*manifest.failed, *manifest.skipped}),
        ],
        protocols={p: session.protocols[p].canonical() for p in sorted(session.protocols)},
        system_prompt_hash=sha256(prompt.encode()).hexdigest()[:12] if prompt else "",
        failed=manifest.failed,
        skipped=manifest.skipped,
    )


def lost_shares(
    scores: Iterable[Score], registry: Registry, probed: Iterable[Measurement] = ()
) -> tuple[float, float]:
    """Share of verdicts that are missing, of the benchmark and judge that lost the most.

    Not the share over all of them: a large benchmark would hide a small one that failed whole.
    Members of panels are left out: what they lost matters where the panel can't decide without it,
    and there the panel's own score has lost it. Scores of probes count prompts or traces and not
    verdicts, so of a probe the verdicts that it asked for count.

    Args:
        scores: Of all benchmarks.
        registry: Knows their metrics.
        probed: What probes found.

    Returns:
        The share that is unparsed or failed, and the share that failed, of the same rows.
    """
    metrics = registry.metrics
    wholes: dict[tuple[str, str, str], Score] = {}
    # Parts of a benchmark and further readings of the same rows are smaller, or the same.
    for s in sorted(scores, key=lambda s: s.n + sum(s.excluded.values())):
        on = metrics[s.metric].on if s.metric in metrics else s.metric
        if s.group != "average" and not s.member and on != "probe":
            wholes[s.benchmark, on, s.judge] = s
    counted = [(s.excluded, s.n + sum(s.excluded.values())) for s in wholes.values()]
    counted += [(each.verdicts, sum(each.verdicts.values())) for each in probed]
    shares = [
        ((lost.get("unparsed", 0) + failed) / rows, failed / rows)
        for lost, rows in counted
        if rows
        for failed in [lost.get("error", 0)]
    ]
    return max(shares, default=(0.0, 0.0))
