"""ReasoningBenchmark: ask questions that have a right answer, check the answers, count.

The answer is judged and never the thinking trace. A rollout whose trace never closed or whose
answer was cut off is wrong, and counted apart: it is the doing of the model. Only failures of the
machine leave the denominator.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import msgspec

from .answer_scores import Checked, by_prompt, in_parts, judged, ks, over_prompts, passes
from .card_benchmark import CardBenchmark
from .cards import AnswerSpec, BenchmarkCard
from .checkers import identify_checker, parts_of, require_libraries
from .data import Rows
from .errors import ConfigError, RequestFailed, TsevalError
from .metrics import MAJ_AT_K, PASS_AT_1, PASS_AT_K, score
from .protocol import JudgeIdentity
from .roles import MetricSpec
from .scoring import oddities, outcome
from .session import CHECK_SECONDS, Session
from .types import Rollout, Sample, Score, Verdict


class ReasoningBenchmark(CardBenchmark):
    """Ask each question of a card, have the answers checked, count.

    Args:
        card: The benchmark; its kind is 'reasoning'.
    """

    def __init__(self, card: BenchmarkCard) -> None:
        if card.answer is None:
            raise ConfigError(f"benchmark '{card.name}' does not say how answers are checked")
        super().__init__(card)
        self._answer: AnswerSpec = card.answer

    async def run(self, session: Session) -> list[Score]:
        """Measure; see ``tseval.roles.Benchmark``."""
        rows = await self.rows(session)
        identity = identify_checker(self._answer.checker)
        references = [sample.reference for sample in rows.samples]
        await asyncio.to_thread(require_libraries, self._answer.checker, references)
        parts = await asyncio.to_thread(parts_of, self._answer.checker, references)
        sizes = dict(zip((sample.id for sample in rows.samples), parts, strict=True))
        checked = await self.each(
            session,
            rows,
            lambda sample, index: self._one(session, identity, sizes, sample, index),
            lambda sample, lost: Checked(sample.id, lost, lost.lost, None, None, sample.reference),
        )
        for warning in oddities(self.card.name, [each.outcome for each in checked]):
            session.warn(warning)
        majorities, unknown = await self._majorities(session, identity, checked)
        found = self._scores(session, rows, identity, checked, majorities, unknown, sizes)
        return list(found)

    async def _one(
        self,
        session: Session,
        identity: JudgeIdentity,
        sizes: dict[str, dict[str, int]],
        sample: Sample,
        index: int,
    ) -> Checked:
        """Make and check one rollout."""
        rollout = await session.generate(
            sample.prompt, rollout=index, sampling=self.sampling(session)
        )
        key, name, verdict = await self._check(session, identity, sample, rollout)
        self.note(session, sample, index, rollout.key, {identity.name: key})
        kept = outcome(sample, index, rollout, {})
        if verdict.reason == "error":
            return Checked(
                sample.id, kept._replace(failure=verdict.raw), "error", None, None, sample.reference
            )
        found = verdict.raw if verdict.details.get("extracted") == "yes" else None
        parts = _parts(verdict, sizes[sample.id])
        return Checked(sample.id, kept, name, verdict.correct, found, sample.reference, parts)

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
        sizes: dict[str, dict[str, int]],
    ) -> Iterator[Score]:
        rollouts = session.spec.rollouts
        base = self._base(session, rows, identity, PASS_AT_1, PASS_AT_1.name)
        single = score(PASS_AT_1, (judged(each) for each in checked), base)
        session.outcomes.keep(single, (judged(each) for each in checked))
        yield single
        for name in next(iter(sizes.values()), {}):
            base = self._base(session, rows, identity, PASS_AT_1, name)
            of = {prompt: parts[name] for prompt, parts in sizes.items()}
            yield in_parts(base, single, checked, of, name)
        if rollouts < 2:
            return
        clusters = {each.prompt: each.outcome.cluster for each in checked}
        for k in ks(rollouts):
            base = self._base(session, rows, identity, PASS_AT_K, f"pass_at_{k}")
            values, limits = passes(checked, k)
            found = over_prompts(base, single, clusters, values, limits)
            session.outcomes.keep(found, by_prompt(checked, values))
            yield found
        base = self._base(session, rows, identity, MAJ_AT_K, f"maj_at_{rollouts}")
        limits = {name: (value, value) for name, value in majorities.items()}
        found = over_prompts(base, single, clusters, majorities, limits, unknown)
        session.outcomes.keep(found, by_prompt(checked, majorities))
        yield found

    def _base(
        self, session: Session, rows: Rows, identity: JudgeIdentity, metric: MetricSpec, name: str
    ) -> Score:
        protocol = self.protocol(
            session,
            rows,
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


def _parts(verdict: Verdict, sizes: dict[str, int]) -> dict[str, int]:
    """Read what a checker counted in parts; a rollout that it did not look at has none."""
    if "fate" in verdict.details:
        return {}
    found = {}
    for name, size in sizes.items():
        right, _, of = verdict.details.get(name, "").partition("/")
        if of != str(size):
            raise RequestFailed(f"the checker counted no {name} of {size}", kind="malformed")
        found[name] = int(right)
    return found


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


def _version(identity: JudgeIdentity) -> str:
    return msgspec.json.encode(identity, order="sorted").decode()
