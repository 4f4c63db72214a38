"""ReasoningBenchmark: ask questions that have a right answer, check the answers, count.

The answer is judged and never the thinking trace. A rollout whose trace never closed or whose
answer was cut off is wrong, and counted apart: it is the doing of the model. Only failures of the
machine leave the denominator.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from math import fsum
from typing import NamedTuple

import msgspec

from .cards import AnswerSpec, BenchmarkCard
from .checkers import identify_checker, require_libraries
from .data import Rows, load_rows
from .errors import ConfigError, RequestFailed, RowSkipped, TsevalError
from .metrics import MAJ_AT_K, PASS_AT_1, PASS_AT_K, Judged, score
from .protocol import JudgeIdentity, Protocol
from .readback import Row
from .roles import MetricSpec
from .scoring import Outcome, lost_outcome, oddities, outcome
from .session import CHECK_SECONDS, Session
from .types import Estimate, Rollout, Sample, Sampling, Score, Verdict


class Checked(NamedTuple):
    """What is kept of one rollout: small, and without any text but the answer itself.

    Attributes:
        prompt: Id of its sample.
        outcome: What a score counts.
        name: 'correct', 'wrong', 'no-answer', 'truncated', 'unclosed'; or why it was lost.
        correct: None if it left the denominator.
        extracted: The answer that was found in its text, or None.
        reference: The right answer.
    """

    prompt: str
    outcome: Outcome
    name: str
    correct: bool | None
    extracted: str | None
    reference: str


class ReasoningBenchmark:
    """Ask each question of a card, have the answers checked, count.

    Args:
        card: The benchmark; its kind is 'reasoning'.
    """

    def __init__(self, card: BenchmarkCard) -> None:
        if card.answer is None:
            raise ConfigError(f"benchmark '{card.name}' does not say how answers are checked")
        self.card = card
        self._answer: AnswerSpec = card.answer

    async def run(self, session: Session) -> list[Score]:
        """Measure; see ``tseval.roles.Benchmark``."""
        spec = session.spec
        rows = await asyncio.to_thread(
            load_rows, self.card, spec.data_dirs, limit=spec.limit, subset_seed=spec.subset_seed
        )
        for warning in rows.warnings:
            session.warn(warning)
        identity = identify_checker(self._answer.checker)
        references = [sample.reference for sample in rows.samples]
        await asyncio.to_thread(require_libraries, self._answer.checker, references)
        session.expect(self.card.name, len(rows.samples) * spec.rollouts)
        work = product(rows.samples, range(spec.rollouts))
        checked: list[Checked] = []
        async for (sample, index), result in session.map(
            work, lambda item: self._one(session, identity, *item)
        ):
            session.advance(self.card.name)
            if isinstance(result, TsevalError):
                result = self._failed(session, sample, index, result)
            checked.append(result)
        for warning in oddities(self.card.name, [each.outcome for each in checked]):
            session.warn(warning)
        majorities, unknown = await self._majorities(session, identity, checked)
        return list(self._scores(session, rows, identity, checked, majorities, unknown))

    async def _one(
        self, session: Session, identity: JudgeIdentity, sample: Sample, index: int
    ) -> Checked:
        """Make and check one rollout."""
        rollout = await session.generate(
            sample.prompt, rollout=index, sampling=self._sampling(session)
        )
        key, name, verdict = await self._check(session, identity, sample, rollout)
        session.note_row(self._row(sample, index, rollout.key, {identity.name: key}))
        kept = outcome(sample, rollout, {})
        if verdict.reason == "error":
            return Checked(
                sample.id, kept._replace(failure=verdict.raw), "error", None, None, sample.reference
            )
        found = verdict.raw if verdict.details.get("extracted") == "yes" else None
        return Checked(sample.id, kept, name, verdict.correct, found, sample.reference)

    async def _check(
        self, session: Session, identity: JudgeIdentity, sample: Sample, rollout: Rollout
    ) -> tuple[str, str, Verdict]:
        """Check an answer: the verdict's key, the outcome's name and the verdict."""
        fate = _fate(rollout)
        answer = rollout.answer if not fate and rollout.answer is not None else ""
        key, verdict = await session.grade(
            self._answer.checker, identity, sample.reference, answer, fate=fate
        )
        if fate:
            return key, fate, verdict
        if verdict.correct:
            return key, "correct", verdict
        return key, "wrong" if verdict.details.get("extracted") == "yes" else "no-answer", verdict

    def _failed(self, session: Session, sample: Sample, index: int, error: TsevalError) -> Checked:
        lost = "overlong" if isinstance(error, RowSkipped) else "error"
        if lost == "overlong":
            # An error row is not written down: it is tried again on resume.
            session.note_row(self._row(sample, index, "", {}, failed=lost))
        kept = lost_outcome(sample, lost, error.message)
        return Checked(sample.id, kept, lost, None, None, sample.reference)

    def _row(
        self, sample: Sample, index: int, generation: str, keys: dict[str, str], failed: str = ""
    ) -> Row:
        return Row(
            benchmark=self.card.name,
            sample=sample.id,
            rollout=index,
            prompt=sample.prompt,
            group=sample.group,
            tags=sample.tags,
            generation=generation,
            verdicts=keys,
            failed=failed,
        )

    def _sampling(self, session: Session) -> Sampling:
        sampling = session.sampling
        if session.spec.answer_tokens_fixed:
            return sampling
        return msgspec.structs.replace(sampling, answer_tokens=self.card.answer_tokens)

    async def _majorities(
        self, session: Session, identity: JudgeIdentity, checked: list[Checked]
    ) -> tuple[dict[str, float], int]:
        """Find each prompt's expected majority, and for how many the checker failed.

        Prompts that lost a rollout are left out.
        """
        from .stats import majority

        rollouts = session.spec.rollouts
        if rollouts < 2:
            return {}, 0
        prompts: dict[str, list[Checked]] = defaultdict(list)
        for each in checked:
            if each.correct is not None:
                prompts[each.prompt].append(each)

        async def one(name: str) -> tuple[str, float]:
            found = prompts[name]
            # In an order that does not depend on which rollout finished first.
            found.sort(key=lambda each: (each.extracted or "", bool(each.correct)))
            answers = [each.extracted if each.name in _VOTING else None for each in found]
            classes = await session.check(
                f"{self._answer.checker}:classes",
                answers,
                found[0].reference,
                version=_version(identity),
                seconds=CHECK_SECONDS,
            )
            numbers = _numbers(self._answer.checker, classes, answers)
            return name, majority(numbers, [bool(each.correct) for each in found])

        whole = sorted(name for name, found in prompts.items() if len(found) == rollouts)
        votes: dict[str, float] = {}
        unknown = 0
        async for _, result in session.map(whole, one):
            if isinstance(result, TsevalError):
                session.warn(f"{self.card.name}: no majority of a prompt: {result.message}")
                unknown += 1
                continue
            votes[result[0]] = result[1]
        return votes, unknown

    # -- scores

    def _scores(
        self,
        session: Session,
        rows: Rows,
        identity: JudgeIdentity,
        checked: list[Checked],
        majorities: dict[str, float],
        unknown: int,
    ) -> Iterator[Score]:
        rollouts = session.spec.rollouts
        single = score(
            PASS_AT_1,
            (_judged(each) for each in checked),
            self._base(session, rows, identity, PASS_AT_1, PASS_AT_1.name),
        )
        yield single
        if rollouts < 2:
            return
        clusters = {each.prompt: each.outcome.cluster for each in checked}
        for k in _ks(rollouts):
            base = self._base(session, rows, identity, PASS_AT_K, f"pass_at_{k}")
            values, limits = _passes(checked, k)
            yield _over_prompts(base, single, clusters, values, limits)
        base = self._base(session, rows, identity, MAJ_AT_K, f"maj_at_{rollouts}")
        limits = {name: (value, value) for name, value in majorities.items()}
        yield _over_prompts(base, single, clusters, majorities, limits, unknown)

    def _base(
        self, session: Session, rows: Rows, identity: JudgeIdentity, metric: MetricSpec, name: str
    ) -> Score:
        run = session.spec
        protocol = Protocol(
            benchmark=self.card.name,
            benchmark_version=self.card.version,
            content_hash=rows.content_hash,
            limit=rows.limit if rows.partial else None,
            subset_seed=rows.subset_seed,
            thinking=run.thinking,
            decoding=run.decoding,
            sampling=self._sampling(session),
            rollouts=run.rollouts,
            judge=identity,
            text="answer",
            metric=name,
            metric_version=metric.version,
        )
        return Score(
            benchmark=self.card.name,
            metric=name,
            judge=identity.name,
            fingerprint=session.declare(protocol),
            partial=rows.partial,
            higher_is_better=True,
        )


_VOTING = ("correct", "wrong")


def _fate(rollout: Rollout) -> str:
    """Say why an answer is wrong without being looked at, or ''."""
    if rollout.answer is None:
        return "unclosed"
    return "truncated" if rollout.finish == "length" else ""


def _judged(each: Checked) -> Judged:
    kept = each.outcome
    return Judged(
        cluster=kept.cluster,
        outcome=each.name,
        hit=each.correct,
        forced=kept.forced,
        truncated=kept.truncated,
        unclosed=kept.unclosed,
    )


def _ks(rollouts: int) -> list[int]:
    """Powers of two up to the number of rollouts, and that number."""
    powers = [2**power for power in range(1, rollouts.bit_length()) if 2**power < rollouts]
    return [*powers, rollouts]


def _numbers(checker: str, classes: object, answers: list[str | None]) -> list[int]:
    """Read what a checker's ``classes`` returned."""
    try:
        numbers = msgspec.convert(classes, list[int])
    except msgspec.ValidationError as error:
        raise RequestFailed(f"{checker}:classes: {error}", kind="malformed") from error
    if [number < 0 for number in numbers] != [answer is None for answer in answers]:
        raise RequestFailed(
            f"{checker}:classes: expected a number from 0 for each answer, and -1 where there is"
            " none",
            kind="malformed",
        )
    return numbers


def _passes(
    checked: list[Checked], k: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Give pass@k of each prompt that has k rollouts left.

    Returns:
        The values; and for every prompt what they were if all lost rollouts were wrong, and right.
    """
    from .stats import pass_at_k

    sizes: Counter[str] = Counter()
    right: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for each in checked:
        if each.correct is None:
            lost[each.prompt] += 1
        else:
            sizes[each.prompt] += 1
            right[each.prompt] += each.correct
    values = {name: pass_at_k(n, right[name], k) for name, n in sizes.items() if n >= k}
    limits = {}
    for name in sizes | lost:
        n, c, more = sizes[name], right[name], lost[name]
        limits[name] = pass_at_k(n + more, c, k), pass_at_k(n + more, c + more, k)
    return values, limits


def _over_prompts(
    base: Score,
    single: Score,
    clusters: dict[str, str],
    values: dict[str, float],
    limits: dict[str, tuple[float, float]],
    unknown: int = 0,
) -> Score:
    """Average a value over prompts; those without one left the denominator.

    Args:
        base: The score to fill in.
        single: The score of the same rollouts one by one.
        clusters: Of each prompt.
        values: Of the prompts that have one.
        limits: Between which it lies, by prompt; of others, anywhere.
        unknown: Prompts that have none since the checker failed.
    """
    from .stats import clustered_mean

    totals: dict[str, float] = defaultdict(float)
    sizes: Counter[str] = Counter()
    for prompt in sorted(values):
        totals[clusters[prompt]] += values[prompt]
        sizes[clusters[prompt]] += 1
    lost = {"error": unknown, "prompts": len(clusters) - len(values) - unknown}
    extremes = [limits.get(name, (0.0, 1.0)) for name in clusters]
    names = sorted(sizes)
    estimate: Estimate | None = None
    if names:
        estimate = clustered_mean([totals[c] for c in names], [sizes[c] for c in names])
    return msgspec.structs.replace(
        base,
        estimate=estimate,
        undefined="" if estimate else "no prompt has all of its rollouts",
        n=len(values),
        n_prompts=len(values),
        excluded={why: count for why, count in lost.items() if count},
        bounds=_means(extremes) if extremes else None,
        forced_close_share=single.forced_close_share,
        truncated_share=single.truncated_share,
        unclosed_share=single.unclosed_share,
    )


def _means(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*pairs, strict=True)
    return fsum(lows) / len(pairs), fsum(highs) / len(pairs)


def _version(identity: JudgeIdentity) -> str:
    return msgspec.json.encode(identity, order="sorted").decode()
